//! What is written into a movement's status, made from what its worker said of the shard. It decides
//! neither when that is written nor whether.

use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;
use longshore::api::data_movement::{CommandStatus, NnfDataMovementStatus, Outcome, State};
use longshore::api::data_movement_shard::{Counters, DataMovementShard, DataMovementShardStatus};
use longshore::api::resource_error::{ErrorType, Severity};
use longshore::api::shard_progress::ShardProgress;
use longshore::api::{Open, ResourceError};
use serde_json::{Map, Value};

use super::text;

/// The status of a movement whose shard is being worked on, and is so far as its worker said last. What
/// was said before is left as long as nothing newer is said of the same claim.
pub(crate) fn running(
    before: &NnfDataMovementStatus,
    shard: &DataMovementShardStatus,
    progress: Option<&ShardProgress>,
) -> NnfDataMovementStatus {
    let same = before.start_time.is_some() && before.start_time == shard.start_time;
    let shown = before.command_status.as_ref().filter(|_| same);
    let last = shown.and_then(|shown| shown.last_message_time.as_ref());
    let news = progress.filter(|news| last.is_none_or(|last| last.0 < news.time.0));
    let mut command = match (news, shown) {
        (Some(news), _) => said_so_far(shard, news),
        (None, Some(shown)) => shown.clone(),
        (None, None) => CommandStatus {
            elapsed_time: Some(text::go_duration(Duration::ZERO)),
            ..CommandStatus::default()
        },
    };
    command.command = shard.command.as_deref().map(bounded);
    // What is wrong is worth more than how far it is.
    if let Some(line) = shard.message.as_deref().and_then(|text| text.lines().next()) {
        command.last_message = Some(bounded(line) + "\n");
    }
    NnfDataMovementStatus {
        state: Some(State::Running.into()),
        start_time: shard.start_time.clone(),
        restarts: restarts(before, shard),
        command_status: Some(command),
        // Whatever an attempt before this one said is not so any more.
        ..NnfDataMovementStatus::default()
    }
}

/// The status of a movement whose shard is finished.
pub(crate) fn finished(
    before: &NnfDataMovementStatus,
    shard: &DataMovementShardStatus,
    store_output: bool,
    now: Timestamp,
) -> NnfDataMovementStatus {
    let outcome = match &shard.outcome {
        Some(Open::Known(outcome)) => *outcome,
        // A worker that says nothing, or what this program does not know, has not said that all is well.
        _ => Outcome::Failed,
    };
    let output = shard.message.as_deref().unwrap_or_default();
    let end = shard.end_time.clone().unwrap_or(MicroTime(now));
    let mut status = NnfDataMovementStatus {
        state: Some(State::Finished.into()),
        status: Some(outcome.into()),
        start_time: Some(shard.start_time.clone().unwrap_or_else(|| end.clone())),
        restarts: restarts(before, shard),
        command_status: Some(said_at_the_end(shard, &end)),
        end_time: Some(end),
        ..NnfDataMovementStatus::default()
    };
    match outcome {
        Outcome::Success => {
            status.message = (store_output && !output.is_empty()).then(|| bounded(output));
        }
        Outcome::Failed => {
            let exit = shard.exit_code.map(|code| format!("exit status {code}"));
            let exit = exit.unwrap_or_else(|| "no exit status".to_owned());
            let message = if output.is_empty() { &exit } else { output };
            status.message = Some(bounded(message));
            status.error = Some(valid(shard.error.clone().unwrap_or_else(|| ResourceError {
                user_message: Some(format!("data movement operation failed: {message}")),
                debug_message: exit.clone(),
                ..fatal()
            })));
        }
        Outcome::Invalid => {
            let error = shard.error.clone();
            let error = error
                .unwrap_or_else(|| ResourceError { debug_message: output.to_owned(), ..fatal() });
            return status.with_error(error);
        }
        // There is one only where something is left of the copy.
        Outcome::Cancelled => {
            if let Some(error) = shard.error.clone() {
                status.message = Some(bounded(output));
                status.error = Some(valid(error));
            }
        }
    }
    status
}

/// The status of a movement that cannot be carried out as it was asked for.
pub(crate) fn invalid(
    before: &NnfDataMovementStatus,
    severity: Severity,
    problem: &str,
    now: Timestamp,
) -> NnfDataMovementStatus {
    let debug_message = problem.to_owned();
    let error = ResourceError { debug_message, severity: severity.into(), ..fatal() };
    ended(before, Outcome::Invalid, now).with_error(error)
}

/// The status of a movement that was stopped before anything was started.
pub(crate) fn cancelled(before: &NnfDataMovementStatus, now: Timestamp) -> NnfDataMovementStatus {
    ended(before, Outcome::Cancelled, now)
}

/// The status of a movement whose worker does not come back.
pub(crate) fn lost(
    before: &NnfDataMovementStatus,
    problem: &str,
    now: Timestamp,
) -> NnfDataMovementStatus {
    let mut status = ended(before, Outcome::Failed, now).with_error(ResourceError {
        user_message: Some(format!("data movement operation failed: {problem}")),
        debug_message: problem.to_owned(),
        ..fatal()
    });
    status.message = Some(problem.to_owned());
    status
}

fn ended(
    before: &NnfDataMovementStatus,
    outcome: Outcome,
    now: Timestamp,
) -> NnfDataMovementStatus {
    NnfDataMovementStatus {
        state: Some(State::Finished.into()),
        status: Some(outcome.into()),
        start_time: before.start_time.clone().or(Some(MicroTime(now))),
        end_time: Some(MicroTime(now)),
        restarts: before.restarts,
        command_status: before.command_status.clone(),
        message: None,
        error: None,
    }
}

/// The same with texts so short that it fits where the full one was refused.
pub(crate) fn shortened(status: &NnfDataMovementStatus) -> NnfDataMovementStatus {
    const SHORT: usize = 512;
    let mut status = status.clone();
    let cut = |text: &mut String| *text = crate::bounded::bounded(text, SHORT);
    status.message.as_mut().map(cut);
    if let Some(error) = &mut status.error {
        error.user_message.as_mut().map(cut);
        cut(&mut error.debug_message);
    }
    if let Some(command) = &mut status.command_status {
        command.command.as_mut().map(cut);
        command.last_message.as_mut().map(cut);
    }
    status
}

/// What has to be sent to clear the status of a shard, so that it can be claimed again.
pub(crate) fn cleared(shard: Option<&DataMovementShard>) -> Value {
    let status = shard.and_then(|shard| shard.status.as_ref());
    let status = status
        .map(|status| serde_json::to_value(status).expect("a status is made of texts and numbers"));
    let fields = status.as_ref().and_then(Value::as_object).into_iter().flatten();
    Value::Object(fields.map(|(name, _)| (name.clone(), Value::Null)).collect())
}

/// What has to be sent to make one status of another, as a JSON merge patch; none when they are the same.
pub(crate) fn changes(
    before: Option<&NnfDataMovementStatus>,
    after: &NnfDataMovementStatus,
) -> Option<Value> {
    let value = |status: &NnfDataMovementStatus| {
        serde_json::to_value(status).expect("a status is made of texts and numbers")
    };
    difference(&before.map_or(Value::Null, value), &value(after))
}

fn difference(before: &Value, after: &Value) -> Option<Value> {
    if before == after {
        return None;
    }
    let (Value::Object(old), Value::Object(new)) = (before, after) else {
        return Some(after.clone());
    };
    let gone =
        old.keys().filter(|key| !new.contains_key(*key)).map(|key| (key.clone(), Value::Null));
    let changed = new.iter().filter_map(|(key, value)| {
        Some((key.clone(), difference(old.get(key).unwrap_or(&Value::Null), value)?))
    });
    Some(Value::Object(gone.chain(changed).collect::<Map<_, _>>()))
}

trait WithError {
    fn with_error(self, error: ResourceError) -> Self;
}

impl WithError for NnfDataMovementStatus {
    /// With an error, and the message that the data workflow services make of one.
    fn with_error(mut self, error: ResourceError) -> Self {
        let error = valid(error);
        let kind = error.error_type.to_string().to_lowercase();
        self.message = Some(bounded(&format!("{kind} error: {}", error.debug_message)));
        self.error = Some(error);
        self
    }
}

fn fatal() -> ResourceError {
    ResourceError {
        user_message: None,
        debug_message: String::new(),
        error_type: ErrorType::Internal.into(),
        severity: Severity::Fatal.into(),
    }
}

/// An error as the API server takes it: with known words, and texts that are not too long.
fn valid(mut error: ResourceError) -> ResourceError {
    error.error_type = error.error_type.known().copied().unwrap_or(ErrorType::Internal).into();
    error.severity = error.severity.known().copied().unwrap_or(Severity::Fatal).into();
    error.debug_message = bounded(&error.debug_message);
    error.user_message = error.user_message.as_deref().map(bounded);
    error
}

fn bounded(text: &str) -> String {
    crate::bounded::bounded(text, text::LONGEST)
}

/// How often the movement was started again: once more for each start that was not known.
fn restarts(before: &NnfDataMovementStatus, shard: &DataMovementShardStatus) -> Option<i64> {
    let counted = before.restarts.unwrap_or(0);
    let again = before.start_time.is_some()
        && shard.start_time.is_some()
        && before.start_time != shard.start_time;
    let claims_after_the_first = i64::from(shard.attempts.unwrap_or(1)) - 1;
    let restarts = (counted + i64::from(again)).max(claims_after_the_first);
    (restarts > 0).then_some(restarts)
}

/// How far it is.
fn said_so_far(shard: &DataMovementShardStatus, news: &ShardProgress) -> CommandStatus {
    let elapsed = elapsed(shard, &news.time);
    let counters = &news.counters;
    let (bytes, total) = (unsigned(counters.bytes), unsigned(counters.total_bytes));
    CommandStatus {
        elapsed_time: Some(text::go_duration(elapsed)),
        progress: news.percent,
        last_message: Some(text::progress(bytes, total, news.percent, elapsed)),
        last_message_time: Some(news.time.clone()),
        ..CommandStatus::default()
    }
}

/// What was done.
fn said_at_the_end(shard: &DataMovementShardStatus, end: &MicroTime) -> CommandStatus {
    let elapsed = elapsed(shard, end);
    let mut status = CommandStatus {
        command: shard.command.as_deref().map(bounded),
        elapsed_time: Some(text::go_duration(elapsed)),
        ..CommandStatus::default()
    };
    let Some(counters) = &shard.counters else { return status };
    let (bytes, total) = (unsigned(counters.bytes), unsigned(counters.total_bytes));
    status.progress = shard.percent;
    status.last_message = Some(text::progress(bytes, total, shard.percent, elapsed));
    status.last_message_time = Some(end.clone());
    summarise(&mut status, counters, elapsed);
    status
}

fn elapsed(shard: &DataMovementShardStatus, until: &MicroTime) -> Duration {
    shard.start_time.as_ref().map_or(Duration::ZERO, |start| between(start, until))
}

/// What dcp says at the end.
fn summarise(status: &mut CommandStatus, counters: &Counters, elapsed: Duration) {
    let number = |count: i64| Some(i32::try_from(count).unwrap_or(i32::MAX));
    let bytes = unsigned(counters.bytes);
    status.seconds = Some(text::seconds(elapsed));
    let all = counters.files.saturating_add(counters.directories).saturating_add(counters.links);
    status.items = number(all);
    status.directories = number(counters.directories);
    status.files = number(counters.files);
    status.links = number(counters.links);
    status.data = Some(text::data(bytes));
    status.rate = Some(text::rate(bytes, elapsed));
}

fn unsigned(count: i64) -> u64 {
    u64::try_from(count).unwrap_or(0)
}

fn between(start: &MicroTime, end: &MicroTime) -> Duration {
    Duration::try_from(end.0.duration_since(start.0)).unwrap_or(Duration::ZERO)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn shard(value: Value) -> DataMovementShardStatus {
        serde_json::from_value(value).unwrap()
    }

    fn json(status: &NnfDataMovementStatus) -> Value {
        serde_json::to_value(status).unwrap()
    }

    const NOW: Timestamp = Timestamp::UNIX_EPOCH;

    #[test]
    fn a_success_without_content_has_no_more_than_before() {
        let shard = shard(json!({
            "state": "Finished", "outcome": "Success", "exitCode": 0, "attempts": 1, "command": "true",
            "startTime": "2026-11-21T03:48:56.015264Z", "endTime": "2026-11-21T03:48:56.031803Z",
            "message": "nothing to copy",
        }));
        let expected = json!({
            "state": "Finished", "status": "Success",
            "startTime": "2026-11-21T03:48:56.015264Z", "endTime": "2026-11-21T03:48:56.031803Z",
            "commandStatus": {"command": "true", "elapsedTime": "16.539ms"},
        });
        let before = NnfDataMovementStatus::default();
        assert_eq!(json(&finished(&before, &shard, false, NOW)), expected);
        let stored = finished(&before, &shard, true, NOW);
        assert_eq!(stored.message.as_deref(), Some("nothing to copy"));
    }

    #[test]
    fn progress_and_summary_are_dcps() {
        let mut value = json!({
            "state": "Running", "attempts": 1, "command": "copy",
            "startTime": "2026-11-21T00:00:00.000000Z",
        });
        let said: ShardProgress = serde_json::from_value(json!({
            "uid": "1", "attempt": 1, "percent": 50, "time": "2026-11-21T00:00:02.500000Z",
            "counters": {"bytes": 5_368_709_120_i64, "totalBytes": 10_737_418_240_i64, "files": 1},
        }))
        .unwrap();
        let before = NnfDataMovementStatus::default();
        let expected = json!({
            "state": "Running", "startTime": "2026-11-21T00:00:00.000000Z",
            "commandStatus": {
                "command": "copy", "elapsedTime": "2.5s", "progress": 50,
                "lastMessage": "Copied 5.000 GiB (50%) in 2.500 secs (2.000 GiB/s) 2 secs left ...\n",
                "lastMessageTime": "2026-11-21T00:00:02.500000Z",
            },
        });
        let while_running = running(&before, &shard(value.clone()), Some(&said));
        assert_eq!(json(&while_running), expected);
        let once_more = running(&while_running, &shard(value.clone()), Some(&said));
        assert_eq!(changes(Some(&while_running), &once_more), None, "a write that changes nothing");
        let later = running(&while_running, &shard(value.clone()), None);
        assert_eq!(later, while_running, "what was said is not taken back");
        let mut older = said.clone();
        older.time.0 -= k8s_openapi::jiff::SignedDuration::from_secs(1);
        older.percent = Some(20);
        let older = running(&while_running, &shard(value.clone()), Some(&older));
        assert_eq!(older, while_running, "nothing goes back");
        let mut wrong = value.clone();
        wrong["message"] = json!("attempt 2 goes on\nand on");
        let wrong = running(&while_running, &shard(wrong), None).command_status.unwrap();
        assert_eq!(wrong.last_message.as_deref(), Some("attempt 2 goes on\n"));
        assert_eq!(wrong.progress, Some(50));
        let mut anew = value.clone();
        anew["startTime"] = json!("2026-11-21T00:01:00.000000Z");
        let anew = running(&while_running, &shard(anew), None).command_status.unwrap();
        assert_eq!(
            (anew.progress, anew.last_message),
            (None, None),
            "another one begins at nothing"
        );

        value["state"] = json!("Finished");
        value["outcome"] = json!("Success");
        value["percent"] = json!(100);
        value["endTime"] = json!("2026-11-21T00:00:05.000000Z");
        value["counters"] = json!({
            "bytes": 10_737_418_240_i64, "totalBytes": 10_737_418_240_i64, "files": 2, "directories": 1,
            "links": 1,
        });
        let end = json(&finished(&while_running, &shard(value), false, NOW));
        let expected = json!({
            "command": "copy", "elapsedTime": "5s", "progress": 100, "seconds": "5.000", "items": 4,
            "directories": 1, "files": 2, "links": 1, "data": "10.000 GiB (10737418240 bytes)",
            "rate": "2.000 GiB/s (10737418240 bytes in 5.000 seconds)",
            "lastMessage": "Copied 10.000 GiB (100%) in 5.000 secs (2.000 GiB/s) done\n",
            "lastMessageTime": "2026-11-21T00:00:05.000000Z",
        });
        assert_eq!(end["commandStatus"], expected);
        assert_eq!(end["message"], Value::Null);
    }

    #[test]
    fn a_failure_says_what_it_says_today() {
        let shard = shard(json!({
            "state": "Finished", "outcome": "Failed", "exitCode": 3,
            "message": "exit status 3: no space left", "error": {
                "debugMessage": "exit status 3", "severity": "Fatal", "type": "Internal",
                "userMessage": "data movement operation failed: no space left",
            },
        }));
        let status = finished(&NnfDataMovementStatus::default(), &shard, false, NOW);
        assert_eq!(status.message.as_deref(), Some("exit status 3: no space left"));
        let expected = json!({
            "debugMessage": "exit status 3", "severity": "Fatal", "type": "Internal",
            "userMessage": "data movement operation failed: no space left",
        });
        assert_eq!(json(&status)["error"], expected);
    }

    #[test]
    fn a_preparation_that_failed_is_invalid_and_not_a_failure() {
        let shard = shard(json!({
            "state": "Finished", "outcome": "Invalid", "exitCode": 2, "error": {
                "debugMessage": "could not determine source type", "severity": "Fatal", "type": "Internal",
            },
        }));
        let status = finished(&NnfDataMovementStatus::default(), &shard, false, NOW);
        assert_eq!(status.status, Some(Outcome::Invalid.into()));
        let message = "internal error: could not determine source type";
        assert_eq!(status.message.as_deref(), Some(message));
        assert_eq!(status.error.unwrap().severity, Severity::Fatal);
        assert!(status.end_time.is_some(), "its end is known");
    }

    #[test]
    fn what_is_not_said_is_no_success() {
        for value in
            [json!({"state": "Finished"}), json!({"state": "Finished", "outcome": "Splendid"})]
        {
            let status = finished(&NnfDataMovementStatus::default(), &shard(value), false, NOW);
            assert_eq!(status.status, Some(Outcome::Failed.into()));
        }
    }

    #[test]
    fn every_start_after_the_first_is_counted() {
        let first = shard(json!({"attempts": 1, "startTime": "2026-11-21T00:00:00Z"}));
        let again = shard(json!({"attempts": 2, "startTime": "2026-11-21T00:00:09Z"}));
        let one = running(&NnfDataMovementStatus::default(), &first, None);
        assert_eq!(one.restarts, None);
        assert_eq!(running(&one, &first, None).restarts, None);
        let two = running(&one, &again, None);
        assert_eq!(two.restarts, Some(1));
        assert_eq!(running(&two, &again, None).restarts, Some(1));
        // Running without a shard: a program before this one had started it.
        let untracked = running(
            &one,
            &shard(json!({"attempts": 1, "startTime": "2026-11-21T00:01:00Z"})),
            None,
        );
        assert_eq!(untracked.restarts, Some(1));
    }

    #[test]
    fn the_status_stays_small_whatever_was_said() {
        let long = "é".repeat(2_000_000);
        for outcome in ["Success", "Failed", "Invalid", "Cancelled"] {
            let shard = shard(json!({
                "outcome": outcome, "message": long, "command": long, "counters": {},
                "error": {"debugMessage": long, "userMessage": long, "type": "User", "severity": "Fatal"},
            }));
            let status = finished(&NnfDataMovementStatus::default(), &shard, true, NOW);
            assert!(json(&status).to_string().len() < 200_000, "{outcome}");
            assert!(json(&shortened(&status)).to_string().len() < 5_000, "{outcome}");
        }
        let problem = invalid(&NnfDataMovementStatus::default(), Severity::Major, &long, NOW);
        assert!(json(&problem).to_string().len() < 200_000);
    }

    #[test]
    fn what_is_gone_is_removed_by_the_patch() {
        let mut before = cancelled(&NnfDataMovementStatus::default(), NOW);
        before.message = Some("old".to_owned());
        let after = running(&before, &shard(json!({"startTime": "2026-11-21T00:00:00Z"})), None);
        let patch = changes(Some(&before), &after).unwrap();
        assert_eq!(patch["message"], Value::Null);
        assert_eq!(patch["endTime"], Value::Null);
        assert!(patch.as_object().unwrap().contains_key("message"));
        assert_eq!(patch["state"], "Running");
    }
}
