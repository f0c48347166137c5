//! How far shards are, as the Leases of their workers say it. It writes nothing.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use k8s_openapi::api::coordination::v1::Lease;
use kube::ResourceExt;
use longshore::api::DataMovementShard;
use longshore::api::shard_progress::{PROGRESS_ANNOTATION, Reports, ShardProgress};

/// What each Lease said last of each shard. Both are named by a namespace, a slash, and a name.
#[derive(Default)]
pub(crate) struct Progress(Mutex<HashMap<Said, ShardProgress>>);

#[derive(Clone, PartialEq, Eq, Hash)]
struct Said {
    lease: String,
    shard: String,
}

impl Progress {
    fn lock(&self) -> MutexGuard<'_, HashMap<Said, ShardProgress>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads a Lease. Returns namespace and name of the shards of which it says something new.
    pub(crate) fn heed(&self, lease: &Lease) -> Vec<(String, String)> {
        let Some(text) = lease.annotations().get(PROGRESS_ANNOTATION) else { return Vec::new() };
        let reports: Reports = match serde_json::from_str(text) {
            Ok(reports) => reports,
            Err(error) => {
                tracing::warn!(lease = lease.name_any(), %error, "strange words about progress");
                return Vec::new();
            }
        };
        let lease = full_name(lease);
        let mut known = self.lock();
        let mut news = Vec::new();
        for (shard, progress) in reports {
            let Some((namespace, name)) = shard.split_once('/') else { continue };
            let place = (namespace.to_owned(), name.to_owned());
            let said = Said { lease: lease.clone(), shard };
            if known.get(&said) != Some(&progress) {
                known.insert(said, progress);
                news.push(place);
            }
        }
        news
    }

    /// How far a shard is that is being worked on: what the Lease of the worker that has it said of this
    /// very attempt.
    pub(crate) fn of(&self, shard: &DataMovementShard) -> Option<ShardProgress> {
        let status = shard.status.as_ref()?;
        let said = Said { lease: status.lease.clone()?, shard: full_name(shard) };
        let progress = self.lock().get(&said).cloned()?;
        let same = Some(&progress.uid) == shard.metadata.uid.as_ref()
            && Some(progress.attempt) == status.attempts;
        same.then_some(progress)
    }

    /// Forgets shards that are not there any more.
    pub(crate) fn retain(&self, is_there: impl Fn(&str, &str) -> bool) {
        self.lock().retain(|said, _| {
            said.shard.split_once('/').is_some_and(|(namespace, name)| is_there(namespace, name))
        });
    }
}

fn full_name(object: &impl ResourceExt) -> String {
    format!("{}/{}", object.namespace().unwrap_or_default(), object.name_any())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn lease(text: &str) -> Lease {
        serde_json::from_value(json!({"metadata": {
            "name": "longshore-worker-rabbit-1", "namespace": "nnf-dm-system",
            "annotations": {PROGRESS_ANNOTATION: text},
        }}))
        .unwrap()
    }

    fn shard(uid: &str, attempts: i32, lease: &str) -> DataMovementShard {
        serde_json::from_value(json!({
            "apiVersion": "longshore.dev/v1alpha1", "kind": "DataMovementShard",
            "metadata": {"name": "copy", "namespace": "rabbit-1", "uid": uid},
            "spec": {},
            "status": {"state": "Running", "attempts": attempts, "lease": lease},
        }))
        .unwrap()
    }

    #[test]
    fn only_the_worker_that_has_it_speaks_of_an_attempt() {
        const LEASE: &str = "nnf-dm-system/longshore-worker-rabbit-1";
        let progress = Progress::default();
        let text = json!({"rabbit-1/copy": {
            "uid": "1", "attempt": 2, "time": "2026-11-21T00:00:02.500000Z", "percent": 3,
            "counters": {"bytes": 30},
        }});
        let said = lease(&text.to_string());
        assert_eq!(progress.heed(&said), [("rabbit-1".to_owned(), "copy".to_owned())]);
        assert!(progress.heed(&said).is_empty(), "a renewal is no news");
        assert_eq!(progress.of(&shard("1", 2, LEASE)).unwrap().counters.bytes, 30);
        assert_eq!(progress.of(&shard("2", 2, LEASE)), None, "another one of that name");
        assert_eq!(progress.of(&shard("1", 3, LEASE)), None, "another attempt");
        assert_eq!(progress.of(&shard("1", 2, "nnf-dm-system/other")), None, "another worker");
        for strange in ["", "{}", "[1]", r#"{"copy": {}}"#] {
            assert!(progress.heed(&lease(strange)).is_empty(), "{strange}");
        }
        progress.retain(|namespace, name| (namespace, name) != ("rabbit-1", "copy"));
        assert_eq!(progress.of(&shard("1", 2, LEASE)), None);
    }
}
