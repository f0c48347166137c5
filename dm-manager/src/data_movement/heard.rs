//! When workers were heard of last: for how long each Lease has been over, by the clock of this machine,
//! for the clocks of others are not trusted. It asks nobody.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use k8s_openapi::api::coordination::v1::Lease;
use kube::ResourceExt;

/// As long as this a Lease holds that has never said so itself: by the workers' default.
const DURATION: Duration = Duration::from_secs(40);

/// What was seen of each Lease, by name.
#[derive(Default)]
pub(crate) struct Heard(Mutex<HashMap<String, Last>>);

struct Last {
    /// None when there was no Lease.
    revision: Option<String>,
    /// Since when it has been so.
    since: Instant,
    /// For how long it holds, or held when it was there: its worker's movers may run for so long, whoever
    /// has deleted it.
    duration: Duration,
}

impl Heard {
    /// For how long a Lease, as it is found now, has been over; none while it holds.
    pub(crate) fn over(&self, name: &str, found: Option<&Lease>, now: Instant) -> Option<Duration> {
        let revision = found.and_then(ResourceExt::resource_version);
        let spec = found.and_then(|lease| lease.spec.as_ref());
        let seconds = spec.and_then(|spec| spec.lease_duration_seconds);
        let seconds = seconds.and_then(|seconds| u64::try_from(seconds).ok());
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let last = all.entry(name.to_owned()).or_insert_with(|| Last {
            revision: revision.clone(),
            since: now,
            duration: DURATION,
        });
        if last.revision != revision {
            (last.revision, last.since) = (revision, now);
        }
        last.duration = seconds.map_or(last.duration, Duration::from_secs);
        now.saturating_duration_since(last.since).checked_sub(last.duration)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn lease(revision: &str, seconds: Option<i32>) -> Lease {
        serde_json::from_value(json!({
            "metadata": {"name": "one", "resourceVersion": revision},
            "spec": {"leaseDurationSeconds": seconds},
        }))
        .unwrap()
    }

    #[test]
    fn a_lease_that_is_deleted_holds_for_as_long_as_it_said() {
        let heard = Heard::default();
        let begin = Instant::now();
        let at = |seconds: u64| begin + Duration::from_secs(seconds);
        let over = |found: Option<&Lease>, second| {
            heard.over("one", found, at(second)).map(|over| over.as_secs())
        };
        let first = lease("1", Some(100));
        assert_eq!((over(Some(&first), 0), over(Some(&first), 99)), (None, None));
        assert_eq!(over(Some(&first), 103), Some(3), "it was not renewed");
        assert_eq!(over(Some(&lease("2", Some(100))), 110), None);
        assert_eq!((over(None, 120), over(None, 219)), (None, None), "its movers may still run");
        assert_eq!(over(None, 221), Some(1));
        assert_eq!(over(Some(&lease("3", Some(5))), 300), None);
        assert_eq!((over(None, 301), over(None, 307)), (None, Some(1)));
        // Of one that was never seen only the default is known.
        let unseen = |second| heard.over("other", None, at(second)).map(|over| over.as_secs());
        assert_eq!((unseen(0), unseen(39), unseen(41)), (None, None, Some(1)));
    }
}
