//! The worker of a node, played by the test: it claims shards and says how they went, as the real one
//! does, and copies nothing.

use std::collections::HashSet;
use std::sync::Mutex;
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;
use kube::api::{ObjectMeta, Patch, PatchParams, PostParams};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, ResourceExt};
use longshore::api::DataMovementShard;
use longshore::api::data_movement_shard::{Counters, ShardState};
use longshore::api::shard_progress::{PROGRESS_ANNOTATION, Reports, ShardProgress};
use serde_json::{Value, json};

use super::rabbit::{Rabbit, until};

/// A worker that does what the test tells it.
pub struct Worker {
    shards: Api<DataMovementShard>,
    leases: Api<Lease>,
    lease: String,
    namespace: String,
    pod: String,
    reports: Mutex<Reports>,
}

impl Worker {
    /// The worker of a rabbit. It has a Lease that is good for an hour.
    pub async fn new(rabbit: &Rabbit) -> Self {
        Self::named(rabbit, "worker-0", 3600).await
    }

    /// A worker by the name of its pod, with a Lease of so many seconds.
    pub async fn named(rabbit: &Rabbit, pod: &str, seconds: i32) -> Self {
        let worker = Self {
            shards: rabbit.shards.clone(),
            leases: Api::namespaced(rabbit.client.clone(), &rabbit.namespace),
            lease: format!("longshore-{pod}"),
            namespace: rabbit.namespace.clone(),
            pod: pod.to_owned(),
            reports: Mutex::default(),
        };
        let lease = Lease {
            metadata: ObjectMeta { name: Some(worker.lease.clone()), ..ObjectMeta::default() },
            spec: Some(LeaseSpec {
                holder_identity: Some(pod.to_owned()),
                lease_duration_seconds: Some(seconds),
                renew_time: Some(MicroTime(Timestamp::now())),
                ..LeaseSpec::default()
            }),
        };
        worker.leases.create(&PostParams::default(), &lease).await.unwrap();
        worker
    }

    /// Renews the Lease.
    pub async fn renew(&self) {
        let patch = json!({"spec": {"renewTime": MicroTime(Timestamp::now())}});
        let params = PatchParams::default();
        self.leases.patch(&self.lease, &params, &Patch::Merge(patch)).await.unwrap();
    }

    /// Claims the shard of a movement, as soon as it is there and free.
    pub async fn claim(&self, name: &str) -> DataMovementShard {
        let free = |shard: &DataMovementShard| {
            shard.status.as_ref().is_none_or(|status| status.state.is_none())
        };
        let shard = until(&self.shards, name, free).await;
        self.claim_seen(&shard).await.unwrap()
    }

    /// Claims a shard as it was seen.
    async fn claim_seen(&self, shard: &DataMovementShard) -> kube::Result<DataMovementShard> {
        let attempts = shard.status.as_ref().and_then(|status| status.attempts).unwrap_or(0);
        let status = json!({
            "state": "Running", "worker": self.pod, "attempts": attempts + 1,
            "lease": format!("{}/{}", self.namespace, self.lease),
            "startTime": MicroTime(Timestamp::now()),
            "command": format!("longshore copy {} {}", shard.spec.source, shard.spec.destination),
        });
        let version = shard.resource_version();
        let patch = json!({"metadata": {"resourceVersion": version}, "status": status});
        let params = PatchParams::default();
        self.shards.patch_status(&shard.name_any(), &params, &Patch::Merge(patch)).await
    }

    /// Writes fields of a shard's status.
    pub async fn say(&self, name: &str, status: Value) {
        self.try_to_say(name, status).await.unwrap();
    }

    async fn try_to_say(&self, name: &str, status: Value) -> kube::Result<DataMovementShard> {
        let patch = Patch::Merge(json!({"status": status}));
        self.shards.patch_status(name, &PatchParams::default(), &patch).await
    }

    /// Says how far it is: bytes of 1000.
    pub async fn progress(&self, name: &str, bytes: i64) {
        let shard = self.shards.get(name).await.unwrap();
        let progress = ShardProgress {
            uid: shard.uid().unwrap(),
            attempt: shard.status.as_ref().and_then(|status| status.attempts).unwrap(),
            time: MicroTime(Timestamp::now()),
            percent: Some(i32::try_from(bytes / 10).unwrap()),
            counters: Counters { bytes, total_bytes: 1000, files: 1, ..Counters::default() },
        };
        let text = {
            let mut reports = self.reports.lock().unwrap();
            reports.insert(format!("{}/{name}", shard.namespace().unwrap()), progress);
            serde_json::to_string(&*reports).unwrap()
        };
        let patch = json!({
            "metadata": {"annotations": {PROGRESS_ANNOTATION: text}},
            "spec": {"renewTime": MicroTime(Timestamp::now())},
        });
        let params = PatchParams::default();
        self.leases.patch(&self.lease, &params, &Patch::Merge(patch)).await.unwrap();
    }

    /// Says how a shard went, with further fields of the status.
    pub async fn finish(&self, name: &str, outcome: &str, exit_code: i32, more: Value) {
        self.say(name, finished(outcome, exit_code, more)).await;
    }

    /// Does every shard in its namespace until it is dropped: claims it, runs for a while, and succeeds,
    /// or is cancelled when it is told to.
    pub async fn serve(&self, run_for: Duration) {
        let mut tasks = futures::stream::FuturesUnordered::new();
        let mut begun = HashSet::new();
        let config = watcher::Config::default();
        let shards = watcher(self.shards.clone(), config).default_backoff().applied_objects();
        let mut shards = std::pin::pin!(shards);
        loop {
            tokio::select! {
                Some(shard) = shards.next() => {
                    let Ok(shard) = shard else { continue };
                    let free = shard.status.as_ref().is_none_or(|status| status.state.is_none());
                    let attempts = shard.status.as_ref().and_then(|status| status.attempts);
                    if free && begun.insert((shard.uid(), attempts)) {
                        tasks.push(self.run(shard, run_for));
                    }
                }
                Some(()) = tasks.next() => {}
            }
        }
    }

    /// Does one shard. Whatever is refused because it is not so any more is left.
    async fn run(&self, mut shard: DataMovementShard, run_for: Duration) {
        let name = shard.name_any();
        loop {
            match self.claim_seen(&shard).await {
                Ok(_) => break,
                // Somebody else wrote to it: it may be free all the same.
                Err(kube::Error::Api(status)) if status.code == 409 => {
                    let Ok(Some(now)) = self.shards.get_opt(&name).await else { return };
                    if now.status.as_ref().is_some_and(|status| status.state.is_some()) {
                        return;
                    }
                    shard = now;
                }
                Err(kube::Error::Api(_)) => return,
                Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
            }
        }
        let deadline = tokio::time::Instant::now() + run_for;
        let mut outcome = "Success";
        while tokio::time::Instant::now() < deadline {
            let left = deadline - tokio::time::Instant::now();
            tokio::time::sleep(left.min(Duration::from_millis(100))).await;
            if left < Duration::from_millis(100) {
                continue;
            }
            if let Ok(Some(now)) = self.shards.get_opt(&name).await
                && now.spec.cancel == Some(true)
            {
                outcome = "Cancelled";
                break;
            }
        }
        let code = if outcome == "Success" { 0 } else { 143 };
        loop {
            match self.try_to_say(&name, finished(outcome, code, json!({}))).await {
                Ok(_) | Err(kube::Error::Api(_)) => return,
                Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
            }
        }
    }

    /// How many shards are claimed and not finished.
    pub async fn running(&self) -> usize {
        let shards = self.shards.list(&kube::api::ListParams::default()).await.unwrap();
        let running = shards.into_iter().filter(|shard| {
            let state = shard.status.as_ref().and_then(|status| status.state.clone());
            state == Some(ShardState::Running.into())
        });
        running.count()
    }
}

/// Counters with some of their fields, and 0 for the others.
pub fn counters(some: &Value) -> Value {
    let counters: Counters = serde_json::from_value(some.clone()).unwrap();
    serde_json::to_value(counters).unwrap()
}

fn finished(outcome: &str, exit_code: i32, more: Value) -> Value {
    let mut status = json!({
        "state": "Finished", "outcome": outcome, "exitCode": exit_code,
        "endTime": MicroTime(Timestamp::now()),
    });
    for (name, value) in more.as_object().into_iter().flatten() {
        status[name] = value.clone();
    }
    status
}
