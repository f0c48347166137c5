//! What goes over a control socket, one JSON object a line in each direction, and what a request means
//! for the copy. Keys are a contract (`docs/control.md`): added, never renamed.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::lanes::bottleneck::Bottleneck;
use crate::lanes::{Lane, Lanes};
use crate::progress::{Progress, Snapshot};

/// What is asked of a copy.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "kebab-case")]
pub enum Request {
    /// How it is doing.
    Status,
    /// Begin nothing more.
    Pause,
    /// End the pause.
    Continue,
    /// Change limits; those that are absent stay.
    Limit(Change),
}

/// Changes of limits.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Change {
    /// Bytes per second; 0 for no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bandwidth: Option<u64>,
    /// Items per second; 0 for no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operations: Option<u64>,
    /// Most worker threads; at least 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub threads: Option<u64>,
}

/// The answer to any request.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Reply {
    /// Whether the request was understood and done.
    pub ok: bool,
    /// Why not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// How the copy is doing, after the request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<Status>,
}

impl Reply {
    /// A refusal.
    #[must_use]
    pub fn refused(error: impl Into<String>) -> Self {
        Self { ok: false, error: Some(error.into()), status: None }
    }
}

/// How a copy is doing.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Status {
    /// Its process.
    pub pid: u32,
    /// Whether it is paused.
    pub paused: bool,
    /// Seconds since it began.
    pub elapsed_seconds: f64,
    /// Of which it was paused.
    pub paused_seconds: f64,
    /// The counters of `docs/progress-json.md`.
    #[serde(flatten)]
    pub counters: BTreeMap<String, serde_json::Value>,
    /// Bytes per second that it may move; absent without a limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bandwidth_limit: Option<u64>,
    /// Items per second that it may begin; absent without a limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operations_limit: Option<u64>,
    /// Worker threads that are wanted now.
    pub workers: usize,
    /// The most that are allowed.
    pub workers_cap: usize,
    /// Bounds of how many may be inside a lane at once, by lane; lanes without one are absent.
    pub lane_limits: BTreeMap<String, usize>,
    /// What has held it up most so far, as in the report.
    pub bottleneck: String,
}

/// Does what is asked.
#[must_use]
pub fn obey(request: &Request, lanes: &Lanes, progress: &Progress) -> Reply {
    #[allow(clippy::cast_precision_loss)] // exact below 2^53
    let rate = |limit: u64| (limit > 0).then_some(limit as f64);
    match request {
        Request::Status => {}
        Request::Pause => lanes.pause(),
        Request::Continue => lanes.go_on(),
        Request::Limit(change) => {
            if change.threads == Some(0) {
                return Reply::refused("at least one thread is needed");
            }
            if let Some(bandwidth) = change.bandwidth {
                lanes.bandwidth.set(rate(bandwidth));
            }
            if let Some(operations) = change.operations {
                lanes.operations.set(rate(operations));
            }
            if let Some(threads) = change.threads {
                lanes.cap_workers(usize::try_from(threads).unwrap_or(usize::MAX));
            }
        }
    }
    Reply { ok: true, error: None, status: Some(status(lanes, &progress.snapshot())) }
}

fn status(lanes: &Lanes, snapshot: &Snapshot) -> Status {
    let counters = match serde_json::to_value(snapshot) {
        Ok(serde_json::Value::Object(counters)) => counters.into_iter().collect(),
        _ => BTreeMap::new(),
    };
    let paused = lanes.paused_for();
    let working = snapshot.elapsed.saturating_sub(paused).as_secs_f64();
    let bounds = Lane::ALL.map(|lane| Some((lane.word().to_owned(), lanes.bound_of(lane)?)));
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // it was set from a u64
    let whole = |rate: f64| rate as u64;
    Status {
        pid: std::process::id(),
        paused: lanes.is_paused(),
        elapsed_seconds: snapshot.elapsed.as_secs_f64(),
        paused_seconds: paused.as_secs_f64(),
        counters,
        bandwidth_limit: lanes.bandwidth.rate().map(whole),
        operations_limit: lanes.operations.rate().map(whole),
        workers: lanes.workers(),
        workers_cap: lanes.worker_cap(),
        lane_limits: bounds.into_iter().flatten().collect(),
        bottleneck: Bottleneck::of(lanes, working, lanes.workers()).name.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_have_the_documented_form() {
        for (text, request) in [
            (r#"{"command":"status"}"#, Request::Status),
            (r#"{"command":"continue"}"#, Request::Continue),
            (
                r#"{"command":"limit","bandwidth":1048576,"threads":4}"#,
                Request::Limit(Change {
                    bandwidth: Some(1 << 20),
                    operations: None,
                    threads: Some(4),
                }),
            ),
        ] {
            assert_eq!(serde_json::from_str::<Request>(text).expect("a request"), request);
            assert_eq!(serde_json::to_string(&request).expect("text"), text);
        }
        assert!(serde_json::from_str::<Request>(r#"{"command":"stop"}"#).is_err());
    }

    #[test]
    fn limits_that_are_absent_stay_and_zero_takes_them_away() {
        let (lanes, progress) = (Lanes::default(), Progress::default());
        lanes.set_crew(4, 8);
        let change = |bandwidth, operations, threads| {
            let change = Change { bandwidth, operations, threads };
            obey(&Request::Limit(change), &lanes, &progress).status
        };
        let status = change(Some(1000), Some(5), Some(2)).expect("a status");
        assert_eq!((status.bandwidth_limit, status.operations_limit), (Some(1000), Some(5)));
        assert_eq!((status.workers, status.workers_cap), (2, 2));
        let status = change(None, Some(0), Some(100)).expect("a status");
        assert_eq!((status.bandwidth_limit, status.operations_limit), (Some(1000), None));
        assert_eq!((status.workers, status.workers_cap), (2, 8));
        assert!(change(None, None, Some(0)).is_none());
    }
}
