//! From a mover's end to the words of the shard's status. Pure.

use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::time::Duration;

use longshore::api::ResourceError;
use longshore::api::data_movement::Outcome;
use longshore::api::resource_error::{ErrorType, Severity};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use super::tally::Tally;
use crate::api::Identity;
use crate::time::now;

/// As much of a text is kept: the schema's bound, in bytes, which are at least as many as characters.
const LONGEST_TEXT_BYTES: usize = 32_768;

/// The schema's bound of a destination. Half a path is none, so a longer one is left out: it can only be one
/// with control characters in it, which take several each in words.
const LONGEST_DESTINATION_BYTES: usize = 8192;

/// Why the worker ended a mover.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reason {
    /// The shard is to be cancelled.
    Cancel,
    /// The shard is deleted.
    Deleted,
    /// Somebody else has the shard.
    Lost,
    /// The worker ends, or lost its Lease.
    Release,
    /// Nothing moved for this long.
    Stall(Duration),
}

/// How a mover ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum End {
    Exited(ExitStatus),
    /// It was killed and is still there; in words, why.
    Stays(String),
}

/// What the mover said.
#[derive(Clone, Debug, Default)]
pub(super) struct Said {
    /// Why it refused.
    pub(super) refused: Option<String>,
    /// How it went.
    pub(super) summary: Option<String>,
    /// What it wrote to standard error.
    pub(super) errors: String,
    /// Whether the source goes inside the destination, until that is heeded.
    pub(super) placed: Option<bool>,
    /// That it waits for another run of the same copy, or does not any more, until that is heeded.
    pub(super) others: Option<Option<String>>,
    /// In words, that it does.
    pub(super) held_up: Option<String>,
    /// What it waits for to be noted.
    pub(super) waits: Option<bool>,
}

/// What becomes of the shard.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Verdict {
    /// It is over.
    Over(Result),
    /// It is put back for another attempt, by whoever comes.
    Release,
    /// The mover ended by accident; in words, how. It is started again.
    Again(String),
    /// There is nobody to be told.
    Nothing,
}

/// The end of a shard.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Result {
    pub(super) outcome: Outcome,
    pub(super) exit_code: Option<i32>,
    pub(super) message: String,
    pub(super) error: Option<ResourceError>,
}

/// What the end of a mover means.
pub(super) fn judge(end: &End, asked: Option<Reason>, said: &Said) -> Verdict {
    let status = match end {
        End::Exited(status) => status,
        End::Stays(why) => return stays(why, asked),
    };
    // What it had finished before it was asked to end is finished. Who copied everything says so too: a
    // code alone may be that of somebody who never began.
    let silent = status.code() == Some(0) && said.summary.is_none();
    if let Some(code @ 0..=3) = status.code()
        && !silent
    {
        return match asked {
            Some(Reason::Lost | Reason::Deleted) => Verdict::Nothing,
            _ => Verdict::Over(finished(code, said)),
        };
    }
    match asked {
        Some(Reason::Cancel) => Verdict::Over(cancelled(exit_code(*status))),
        Some(Reason::Deleted | Reason::Lost) => Verdict::Nothing,
        Some(Reason::Release) => Verdict::Release,
        Some(Reason::Stall(still)) => {
            let why = said.held_up.iter().map(|why| format!(": it {why}"));
            let text = stalled(still) + &why.collect::<String>();
            Verdict::Over(failed(exit_code(*status), &text))
        }
        None => Verdict::Again(accident(*status, &said.errors)),
    }
}

/// What becomes of a shard that has to end before its next mover is started.
pub(super) fn unstarted(reason: Reason) -> Verdict {
    match reason {
        Reason::Cancel => Verdict::Over(cancelled(None)),
        Reason::Deleted | Reason::Lost => Verdict::Nothing,
        Reason::Release => Verdict::Release,
        Reason::Stall(still) => Verdict::Over(failed(None, &stalled(still))),
    }
}

/// The end of a shard that was cancelled.
pub(super) fn cancelled(exit_code: Option<i32>) -> Result {
    Result { outcome: Outcome::Cancelled, exit_code, message: String::new(), error: None }
}

/// The end of a shard that was cancelled, and in words why its mover stays, if it does.
pub(super) fn cancelled_and(stays: Option<&str>) -> Result {
    let Some(why) = stays else { return cancelled(None) };
    Result { message: why.to_owned(), error: Some(error(why, None)), ..cancelled(None) }
}

fn stays(why: &str, asked: Option<Reason>) -> Verdict {
    let text = match asked {
        Some(Reason::Cancel) => return Verdict::Over(cancelled_and(Some(why))),
        Some(Reason::Stall(still)) => format!("{}: {why}", stalled(still)),
        Some(Reason::Deleted | Reason::Lost) => return Verdict::Nothing,
        Some(Reason::Release) => return Verdict::Release,
        None => why.to_owned(),
    };
    Verdict::Over(failed(None, &text))
}

fn stalled(still: Duration) -> String {
    format!("nothing moved for {} s, so it was stopped", still.as_secs())
}

fn finished(code: i32, said: &Said) -> Result {
    let summary = said.summary.clone().unwrap_or_default();
    match code {
        0 => Result {
            outcome: Outcome::Success,
            exit_code: Some(0),
            message: bounded(&summary),
            error: None,
        },
        2 => {
            let text = said.refused.clone().unwrap_or_else(|| said.errors.clone());
            refused(&text)
        }
        code => {
            let status = format!("exit status {code}");
            let user = format!("data movement operation failed: {summary}");
            Result {
                outcome: Outcome::Failed,
                exit_code: Some(code),
                message: bounded(&format!("{status}: {summary}")),
                error: Some(error(&status, Some(&user))),
            }
        }
    }
}

/// The end of a shard that nobody can carry out.
pub(super) fn refused(text: &str) -> Result {
    Result {
        outcome: Outcome::Invalid,
        exit_code: Some(2),
        message: bounded(text),
        error: Some(error(text, None)),
    }
}

/// The end of a shard whose movers do not get to an end of their own.
pub(super) fn failed(exit_code: Option<i32>, text: &str) -> Result {
    let user = format!("data movement operation failed: {text}");
    Result {
        outcome: Outcome::Failed,
        exit_code,
        message: bounded(text),
        error: Some(error(text, Some(&user))),
    }
}

fn error(debug: &str, user: Option<&str>) -> ResourceError {
    ResourceError {
        user_message: user.map(bounded),
        debug_message: bounded(debug),
        error_type: ErrorType::Internal.into(),
        severity: Severity::Fatal.into(),
    }
}

/// As a shell has it: 128 and the signal's number.
fn exit_code(status: ExitStatus) -> Option<i32> {
    status.code().or_else(|| status.signal().map(|signal| 128 + signal))
}

fn accident(status: ExitStatus, errors: &str) -> String {
    let how = match (status.signal(), status.code()) {
        (Some(signal), _) => {
            let name = Signal::try_from(signal).map_or("a signal", Signal::as_str);
            let hint = match name {
                "SIGKILL" => " (was memory short?)",
                "SIGABRT" => " (did it need more memory than it may have?)",
                _ => "",
            };
            format!("the mover was ended by {name}{hint}")
        }
        (None, Some(code)) => format!("the mover ended with exit status {code}"),
        (None, None) => "the mover ended".to_owned(),
    };
    match errors.trim() {
        "" => how,
        errors => format!("{how}: {errors}"),
    }
}

/// The beginning of a text that is too long, and that it is not all.
fn bounded(text: &str) -> String {
    const MORE: &str = "\n...";
    if text.len() <= LONGEST_TEXT_BYTES {
        return text.to_owned();
    }
    let most = LONGEST_TEXT_BYTES - MORE.len();
    let end = (0..=most).rev().find(|at| text.is_char_boundary(*at)).unwrap_or_default();
    format!("{}{MORE}", &text[..end])
}

/// The status that claims a shard for the given attempt; what an earlier one left is taken away.
pub(super) fn claimed(own: &Identity, attempts: i32, command: &str) -> Value {
    json!({
        "state": "Running", "worker": own.worker, "lease": own.lease, "attempts": attempts,
        "startTime": now(), "command": bounded(command),
        "outcome": null, "endTime": null, "exitCode": null, "counters": null, "percent": null,
        "message": null, "error": null, "destination": null,
    })
}

/// The status that puts a shard back. Since when it waits again is what its manager goes by.
pub(super) fn released() -> Value {
    json!({
        "state": null, "worker": null, "lease": null, "startTime": null, "command": null,
        "outcome": null, "endTime": now(), "exitCode": null, "counters": null, "percent": null,
        "message": null, "error": null, "destination": null,
    })
}

/// The status of a shard that is over.
pub(super) fn over(result: &Result, tally: &Tally) -> Value {
    let mut status = json!({
        "state": "Finished", "outcome": result.outcome, "exitCode": result.exit_code,
        "message": (!result.message.is_empty()).then_some(&result.message),
        "error": result.error, "endTime": now(),
    });
    if let Some((command, destination)) = tally.place() {
        status["command"] = json!(bounded(command));
        if destination.len() <= LONGEST_DESTINATION_BYTES {
            status["destination"] = json!(destination);
        }
    }
    if let Some(counters) = tally.counters() {
        status["counters"] = json!(counters);
    }
    if let Some(percent) = tally.percent() {
        status["percent"] = json!(percent);
    }
    status
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exited(code: i32) -> End {
        End::Exited(ExitStatus::from_raw(code << 8))
    }

    fn killed(signal: i32) -> End {
        End::Exited(ExitStatus::from_raw(signal))
    }

    fn outcome(verdict: Verdict) -> (Outcome, Option<i32>, String) {
        let Verdict::Over(result) = verdict else { panic!("{verdict:?}") };
        (result.outcome, result.exit_code, result.message)
    }

    #[test]
    fn codes_are_outcomes() {
        let said = Said {
            refused: Some("no".to_owned()),
            summary: Some("how".to_owned()),
            ..Said::default()
        };
        let own = |code| outcome(judge(&exited(code), None, &said));
        assert_eq!(own(0), (Outcome::Success, Some(0), "how".to_owned()));
        assert_eq!(own(1), (Outcome::Failed, Some(1), "exit status 1: how".to_owned()));
        assert_eq!(own(2), (Outcome::Invalid, Some(2), "no".to_owned()));
        assert_eq!(own(3), (Outcome::Failed, Some(3), "exit status 3: how".to_owned()));
        // An end by accident is no outcome, and neither is one that nobody here asked for.
        for end in [killed(9), exited(101), exited(143), exited(4), exited(130)] {
            assert!(matches!(judge(&end, None, &said), Verdict::Again(_)), "{end:?}");
        }
        // Who never began says nothing.
        let nothing = Said::default();
        assert!(matches!(judge(&exited(0), None, &nothing), Verdict::Again(_)));
        let cancelled = outcome(judge(&exited(0), Some(Reason::Cancel), &nothing));
        assert_eq!(cancelled.0, Outcome::Cancelled);
    }

    #[test]
    fn who_is_asked_to_end_and_has_finished_has_finished() {
        let said = Said { summary: Some(String::new()), ..Said::default() };
        let cancel = Some(Reason::Cancel);
        assert_eq!(outcome(judge(&exited(0), cancel, &said)).0, Outcome::Success);
        assert_eq!(
            outcome(judge(&exited(143), cancel, &said)),
            (Outcome::Cancelled, Some(143), String::new())
        );
        assert_eq!(outcome(judge(&killed(9), cancel, &said)).1, Some(137));
        let release = Some(Reason::Release);
        assert_eq!(judge(&exited(143), release, &said), Verdict::Release);
        assert_eq!(outcome(judge(&exited(1), release, &said)).0, Outcome::Failed);
        assert_eq!(judge(&exited(0), Some(Reason::Lost), &said), Verdict::Nothing);
        let stall = Some(Reason::Stall(Duration::from_secs(7)));
        let (stalled, _, text) = outcome(judge(&killed(9), stall, &said));
        assert!(stalled == Outcome::Failed && text.contains("7 s"), "{text}");
        let waited = Said { held_up: Some("waits".to_owned()), ..Said::default() };
        let (_, _, text) = outcome(judge(&exited(143), stall, &waited));
        assert!(text.ends_with("stopped: it waits"), "{text}");
        let (stays, _, text) = outcome(judge(&End::Stays("in D".to_owned()), stall, &said));
        assert!(stays == Outcome::Failed && text.contains("in D"), "{text}");
    }

    #[test]
    fn a_destination_that_the_schema_refuses_is_left_out() {
        let mut tally = Tally::default();
        for (length, told) in [(LONGEST_DESTINATION_BYTES, true), (24_000, false)] {
            tally.came_to("command".to_owned(), "x".repeat(length));
            let status = over(&cancelled(None), &tally);
            assert_eq!(status.get("destination").is_some(), told, "{length}");
            assert_eq!(status["command"], "command");
        }
    }

    #[test]
    fn texts_are_bounded_at_a_character() {
        let long = "\u{e9}".repeat(LONGEST_TEXT_BYTES);
        let kept = bounded(&long);
        assert!(kept.len() <= LONGEST_TEXT_BYTES && kept.ends_with("\n..."));
    }
}
