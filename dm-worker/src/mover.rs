//! The process that carries out one copy, under the job's identity, which it has from its start. It is
//! told what to copy on standard input and says how it goes on standard output. It talks to no API
//! server and starts nothing.
//!
//! It ends by itself when its worker ends (standard input is closed then, however the worker ended) and
//! when the worker's Lease runs out (a frozen worker, or one that cannot reach the API server, no longer
//! puts the end off), because somebody else may start the same copy after that.

mod bounds;
mod leash;
mod placing;
mod preparation;

use std::io::{self, BufRead, Write};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::thread;
use std::time::Duration;

use longshore::display::{Display, summary};
use longshore::engine::{self, Cancel, Control};
use longshore::error::Refusal;
use longshore::exit::Outcome;
use longshore::journal::{self, Prepared};
use longshore::options::CopyRequest;
use longshore::report::Report;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;

use self::leash::Go;
use crate::wire::{self, Assignment, News, Order};

/// How often it is looked whether another run of the same copy has ended.
const AGAIN: Duration = Duration::from_millis(500);

/// Carries out one copy, which is told to it on standard input.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The most memory of its own that it may have, in bytes
    #[arg(long)]
    memory: Option<u64>,

    /// Give up the right to mount, which root has where its worker mounts filesystems
    #[arg(long)]
    give_up_mounting: bool,
}

/// Runs until the copy is over.
pub(crate) fn run(args: &Args) -> ExitCode {
    if let Err(error) = bounds::set(args.memory, args.give_up_mounting) {
        say(&News::Refused { text: format!("failed to bound the mover: {error}") });
        return ExitCode::from(Outcome::Refused.code());
    }
    let Some(copy) = first_order() else {
        // Somebody else has the shard, or the order did not arrive: nothing was done.
        return ExitCode::from(Outcome::Terminated.code());
    };
    let cancel = Cancel::default();
    let started = listen(&cancel).and_then(|()| leash::hold(&cancel, copy.end_by_milliseconds));
    let outcome = match started {
        Ok(go) => carry_out(&copy, &cancel, &go),
        Err(error) => Err(format!("failed to start the mover: {error}")),
    };
    let outcome = outcome.unwrap_or_else(|text| {
        say(&News::Refused { text });
        Outcome::Refused
    });
    ExitCode::from(outcome.code())
}

/// Waits for the copy; none when the worker has changed its mind. SIGTERM ends the wait.
fn first_order() -> Option<Box<Assignment>> {
    let mut line = String::new();
    io::stdin().lock().read_line(&mut line).ok()?;
    match serde_json::from_str(&line).ok()? {
        Order::Begin(copy) => Some(copy),
        Order::EndBy { .. } | Order::Go => None,
    }
}

/// Lets SIGTERM and SIGINT stop the copy in order.
fn listen(cancel: &Cancel) -> io::Result<()> {
    let heard = Arc::new(AtomicBool::new(false));
    for signal in [SIGTERM, SIGINT] {
        flag::register_conditional_shutdown(signal, 128 + signal, Arc::clone(&heard))?;
        flag::register(signal, Arc::clone(&heard))?;
        let number = usize::try_from(signal).unwrap_or(usize::MAX);
        flag::register_usize(signal, Arc::clone(cancel.word()), number)?;
    }
    Ok(())
}

/// Prepares and copies.
///
/// # Errors
/// A sentence about why nothing was copied.
fn carry_out(copy: &Assignment, cancel: &Cancel, go: &Go) -> Result<Outcome, String> {
    let mut request = preparation::prepare(copy)?;
    if copy.dry_run {
        say(&News::Summary { text: String::new() });
        return Ok(Outcome::Complete);
    }
    if placing::place(copy, &mut request, go).is_none() {
        return Ok(Outcome::Terminated); // the worker is gone
    }
    let report = run_alone(&request, cancel, copy.count_ahead).map_err(|refusal| {
        let mut text = refusal.to_string();
        let mut source = std::error::Error::source(&refusal);
        while let Some(error) = source {
            text += &format!(": {error}");
            source = error.source();
        }
        text
    })?;
    let Some(report) = report else {
        return Ok(Outcome::Terminated); // others had it until this one was asked to end
    };
    let mut text = summary::text(&report, None, false);
    for note in &report.setup.notes {
        text += &format!("  note: {note}\n");
    }
    say(&News::Summary { text });
    Ok(report.outcome)
}

/// Copies, when no other process makes the same copy any more: a mover whose worker is lost, or one of
/// another movement. None when it was asked to end before that.
fn run_alone(
    request: &CopyRequest,
    cancel: &Cancel,
    count_ahead: bool,
) -> Result<Option<Report>, Refusal> {
    let mut waits = false;
    loop {
        let result = journal::prepare(request).and_then(|prepared| {
            if waits {
                say(&News::Waits { text: None });
            }
            run_engine(prepared, cancel, count_ahead)
        });
        let journal = match result {
            Err(Refusal::Running { journal }) => journal,
            result => return result.map(Some),
        };
        if cancel.outcome().is_some() {
            return Ok(None);
        }
        if !waits {
            let journal = shown(&journal);
            let text =
                format!("waits until another run of the same copy ends, which has {journal}");
            say(&News::Waits { text: Some(text) });
            waits = true;
        }
        thread::sleep(AGAIN);
    }
}

fn run_engine(prepared: Prepared, cancel: &Cancel, count_ahead: bool) -> Result<Report, Refusal> {
    let Prepared { plan, ticket, notes, .. } = prepared;
    let display = Display::json_to(Box::new(io::stdout()));
    for note in &notes {
        display.message(note);
    }
    let control =
        Control { cancel: cancel.clone(), journal: ticket, count_ahead, ..Control::default() };
    let id = display.add("", Arc::clone(&control.progress));
    let report = engine::run(&plan, &control)?;
    display.finish(id, &report);
    display.close();
    Ok(report)
}

/// Tells the worker. When it does not listen any more the mover is about to end anyway.
fn say(news: &News) {
    let _ = io::stdout().lock().write_all(&wire::line(news)).and_then(|()| io::stdout().flush());
}

/// A path in words.
fn shown(path: &Path) -> String {
    longshore::error::show(path)
}
