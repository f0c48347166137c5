//! The plan of a run as text, for `--dry-run`: states, copies, storage, environment. It returns the
//! text and prints nothing.

use std::fmt::Write;
use std::path::Path;

use super::journal::{Place, content_mark};
use super::leg::Leg;
use super::machine::new_uid;
use super::naming::settle;
use super::proposal::{Identity, Proposal, Script};
use super::resume::{Beginning, decide};
use super::{Request, RunError, State, environment, storage};
use crate::directive::resolve::Direction;
use crate::error::show;

/// Checks a run and says what it would do. Nothing is written.
///
/// # Errors
/// Those of a run's Proposal.
pub fn describe(request: &Request) -> Result<String, RunError> {
    let script = Script::read(&request.script)?;
    let place = Place::of(&request.storage, &script.path, &request.args);
    place.refuse_busy()?;
    let allocations = request.allocations.get();
    let content = content_mark(&script.content);
    let begin = |discards| -> Result<_, RunError> {
        let (uid, node) = (new_uid()?, storage::node_name());
        Ok((Identity { uid, node, allocations, discards }, State::Proposal))
    };
    let (identity, first) = match decide(request.start, place.read()?, &content, allocations)? {
        Beginning::Ended(_) => return Ok("this run has ended; nothing is left to do\n".into()),
        Beginning::Continue(journal) => {
            let (uid, node, allocations) = (journal.uid, journal.node, journal.allocations);
            (Identity { uid, node, allocations, discards: None }, journal.state)
        }
        Beginning::New => begin(None)?,
        Beginning::Discard(earlier) => begin(Some(earlier.uid))?,
    };
    let proposal = Proposal::new(request, &script, &identity, first)?;
    let mut text = String::new();
    compose(&mut text, request, &proposal, first).map_err(|_| {
        // Writing to a String cannot fail; the signature of write! says otherwise.
        RunError::Refused("failed to compose the plan".into())
    })?;
    Ok(text)
}

fn compose(
    text: &mut String,
    request: &Request,
    proposal: &Proposal,
    first: State,
) -> std::fmt::Result {
    let Proposal { workflow, volumes, interpreter, .. } = proposal;
    for note in &proposal.notes {
        writeln!(text, "{note}")?;
    }
    if first > State::Proposal {
        writeln!(text, "goes on in {first}; what is before it is done")?;
    }
    writeln!(text, "Setup")?;
    for job in &workflow.jobs {
        if let Some(volume) = volumes.jobs.get(&job.index) {
            for directory in volume.directories() {
                writeln!(text, "  line {}: make {}", job.line, show(&directory))?;
            }
        }
    }
    for create in &workflow.creates {
        writeln!(text, "  line {}: create persistent storage '{}'", create.line, create.name)?;
    }
    writeln!(text, "DataIn")?;
    for leg in proposal.legs_of(Direction::CopyIn) {
        copy(text, leg)?;
    }
    writeln!(text, "PreRun")?;
    for (name, value) in environment::variables(&request.script, workflow, volumes) {
        writeln!(text, "  {name}={}", show(Path::new(&value)))?;
    }
    let command = interpreter.command(&request.script, &request.args);
    let words: Vec<_> = std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(|word| show(Path::new(word)))
        .collect();
    writeln!(text, "Job\n  {}", words.join(" "))?;
    writeln!(text, "PostRun\nDataOut")?;
    for leg in proposal.legs_of(Direction::CopyOut) {
        copy(text, leg)?;
    }
    writeln!(text, "Teardown")?;
    for job in &workflow.jobs {
        if let Some(volume) = volumes.jobs.get(&job.index) {
            writeln!(text, "  remove {}", show(&volume.root))?;
        }
    }
    for destroy in &workflow.destroys {
        writeln!(text, "  line {}: destroy persistent storage '{}'", destroy.line, destroy.name)?;
    }
    Ok(())
}

fn copy(text: &mut String, leg: &Leg) -> std::fmt::Result {
    let command = leg.direction.command();
    // A source that the job has yet to make may be a file or a directory, which decides the name.
    let (source, destination) = match settle(&leg.source, &leg.destination, leg.fan_in.as_deref()) {
        Ok(settled) => (settled.source, settled.destination),
        Err(_) => {
            let inside = match &leg.fan_in {
                Some(index) => leg.destination.join(index),
                None => leg.destination.clone(),
            };
            (leg.source.clone(), inside)
        }
    };
    writeln!(text, "  line {}: {command} {} -> {}", leg.line, show(&source), show(&destination))
}
