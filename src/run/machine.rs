//! The states in their order. Each step is announced in the journal before it is done, and every
//! step can be repeated, so that the run can be killed between any two instructions.

mod steps;

use std::fs::{self, File};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use nix::fcntl::Flock;

use super::body::OpenFiles;
use super::journal::{Job, Journal, Place, content_mark};
use super::persistent::Instances;
use super::proposal::{Identity, Proposal, Script};
use super::report::{CopyReport, RUN_REPORT_VERSION};
use super::resume::{Beginning, decide};
use super::{Observer, Request, RunError, RunReport, Signals, State, storage};
use crate::directive::resolve::Direction;
use crate::engine::{self, Control};
use crate::error::{Refusal, show};
use crate::journal::{self, Prepared};
use crate::options::CopyRequest;
use crate::report::Report;

/// What does one copy. Tests have their own.
pub type Copier<'a> = &'a (dyn Fn(&CopyRequest, &Control) -> Result<Report, Refusal> + Sync);

/// The engine as a [`Copier`].
///
/// # Errors
/// Those of [`journal::prepare`] and [`engine::run`].
pub fn engine_copier(request: &CopyRequest, control: &Control) -> Result<Report, Refusal> {
    let Prepared { plan, ticket, .. } = journal::prepare(request)?;
    engine::run(&plan, &Control { journal: ticket, ..control.clone() })
}

/// Does a run, or goes on with one.
///
/// # Errors
/// [`RunError`]; with [`RunError::System`] the run can be resumed.
pub fn run(
    request: &Request,
    copier: Copier<'_>,
    observer: &dyn Observer,
    signals: &Signals,
) -> Result<RunReport, RunError> {
    observer.state(State::Proposal);
    let script = Script::read(&request.script)?;
    let content = content_mark(&script.content);
    let place = Place::of(&request.storage, &script.path, &request.args);
    place.refuse_busy()?;
    let allocations = request.allocations.get();
    let seen = place.read()?;
    let begin =
        |uid| Journal::new(uid, &script.path, content.clone(), storage::node_name(), allocations);
    let (journal, discarded) = match decide(request.start, seen.clone(), &content, allocations)? {
        Beginning::Ended(journal) => return Ok(ended(&journal)),
        Beginning::Continue(mut journal) => {
            // The body is started, or passed over, after PreRun.
            journal.state = if journal.state == State::Job { State::PreRun } else { journal.state };
            (journal, None)
        }
        Beginning::New => (begin(new_uid()?), None),
        Beginning::Discard(earlier) => (begin(new_uid()?), Some(earlier)),
    };
    // Everything is checked before anything is written, the lock file included.
    let identity = identity(&journal, discarded.as_ref());
    let proposal = Proposal::new(request, &script, &identity, journal.state)?;
    let lock = place.lock()?;
    if place.read()? != seen {
        return Err(RunError::Refused("another run of this script was faster; try again".into()));
    }
    for note in &proposal.notes {
        observer.message(note);
    }
    let machine = Machine {
        request,
        copier,
        observer,
        signals,
        place: &place,
        proposal,
        instances: Instances::of(&request.storage),
        open_files: OpenFiles::now(),
        journal: Mutex::new(journal),
    };
    if let Some(earlier) = discarded {
        machine.discard(&earlier)?;
    }
    machine.go(&lock)
}

fn identity(journal: &Journal, discarded: Option<&Journal>) -> Identity {
    Identity {
        uid: journal.uid.clone(),
        node: journal.node.clone(),
        allocations: journal.allocations,
        discards: discarded.map(|earlier| earlier.uid.clone()),
    }
}

/// A new identity, in the form that the cluster's objects have.
///
/// # Errors
/// [`RunError::System`].
pub(super) fn new_uid() -> Result<String, RunError> {
    let path = Path::new("/proc/sys/kernel/random/uuid");
    let text = fs::read_to_string(path).map_err(RunError::system(path, "get a new identity"))?;
    Ok(text.trim().to_owned())
}

/// The report of a run that had ended before.
fn ended(journal: &Journal) -> RunReport {
    let job_exit_code = job_code(journal);
    RunReport {
        version: RUN_REPORT_VERSION,
        uid: journal.uid.clone(),
        script: journal.script.clone(),
        state: State::Done,
        exit_code: job_exit_code.unwrap_or(0),
        job_exit_code,
        copies: Vec::new(),
        notes: vec![
            "this run had already ended; nothing was left to do. Without --resume it starts again"
                .into(),
        ],
    }
}

fn job_code(journal: &Journal) -> Option<u8> {
    match journal.job {
        Job::Ended { code } => Some(code),
        _ => None,
    }
}

/// How a state ended.
enum Step {
    /// The next state can begin.
    Next,
    /// The run stops here with this exit code and can be resumed.
    Stop(u8, String),
}

struct Machine<'a> {
    request: &'a Request,
    copier: Copier<'a>,
    observer: &'a dyn Observer,
    signals: &'a Signals,
    place: &'a Place,
    proposal: Proposal,
    instances: Instances,
    open_files: OpenFiles,
    journal: Mutex<Journal>,
}

impl Machine<'_> {
    fn go(&self, lock: &Flock<File>) -> Result<RunReport, RunError> {
        let mut copies = Vec::new();
        let first = self.note(|_| {})?.state;
        let states = [
            State::Setup,
            State::DataIn,
            State::PreRun,
            State::Job,
            State::PostRun,
            State::DataOut,
            State::Teardown,
        ];
        for state in states.into_iter().filter(|state| *state >= first) {
            if let Some(outcome) = self.signals.cancel().outcome() {
                let notes = vec![self.stopped(state, "was cancelled")];
                return Ok(self.report(outcome.code(), copies, notes));
            }
            self.enter(state)?;
            let step = match state {
                State::Setup => self.setup()?,
                State::DataIn => self.stage(Direction::CopyIn, &mut copies)?,
                State::Job => self.job(lock)?,
                State::DataOut => self.stage(Direction::CopyOut, &mut copies)?,
                State::Teardown => self.teardown()?,
                // As on the cluster, where computes are mounted and unmounted in these.
                _ => Step::Next,
            };
            if let Step::Stop(code, note) = step {
                return Ok(self.report(code, copies, vec![note]));
            }
        }
        let journal = self.note(|journal| journal.state = State::Done)?;
        Ok(self.report(job_code(&journal).unwrap_or(0), copies, Vec::new()))
    }

    /// Changes the journal durably and returns it.
    fn note(&self, change: impl FnOnce(&mut Journal)) -> Result<Journal, RunError> {
        let mut journal = self.journal.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut journal);
        // Before Setup there is nothing to come back to.
        if journal.state > State::Proposal {
            self.place.write(&journal)?;
        }
        Ok(journal.clone())
    }

    fn uid(&self) -> String {
        self.journal.lock().unwrap_or_else(PoisonError::into_inner).uid.clone()
    }

    fn enter(&self, state: State) -> Result<(), RunError> {
        self.note(|journal| {
            if journal.state != state {
                journal.complete.clear();
            }
            journal.state = state;
        })?;
        self.observer.state(state);
        Ok(())
    }

    /// What a person can do about a run that stopped.
    fn stopped(&self, state: State, how: &str) -> String {
        let kept: Vec<_> =
            self.proposal.volumes.jobs.values().map(|volume| show(&volume.root)).collect();
        let kept = match (state, kept.is_empty()) {
            (State::Setup, _) | (_, true) => String::new(),
            _ => format!(" The job's storage is kept in {}.", kept.join(", ")),
        };
        let ran = matches!(
            self.journal.lock().unwrap_or_else(PoisonError::into_inner).job,
            Job::Ended { .. }
        );
        let again = if ran { " without running the job again" } else { "" };
        format!(
            "{state} {how}.{kept} The same command with --resume goes on there{again}; with \
             --fresh it discards this run and starts from the beginning"
        )
    }

    fn report(&self, exit_code: u8, copies: Vec<CopyReport>, notes: Vec<String>) -> RunReport {
        let journal = self.journal.lock().unwrap_or_else(PoisonError::into_inner).clone();
        RunReport {
            version: RUN_REPORT_VERSION,
            uid: journal.uid.clone(),
            script: journal.script.clone(),
            state: journal.state,
            exit_code,
            job_exit_code: job_code(&journal),
            copies,
            notes,
        }
    }
}

#[cfg(test)]
mod tests;
