//! What is written to movements and shards, counted where it is answered: the API server's own counters
//! say how many writes it has done and refused, and a watch shows how many changes there were. A write that
//! changes nothing is one more of the former than of the latter. It writes nothing itself.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::time::{Duration, Instant};

use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::coordination::v1::Lease;
use kube::api::{ListParams, WatchEvent, WatchParams};
use kube::{Api, Client, Resource, ResourceExt};
use longshore::api::{DataMovementShard, Defined, NnfDataMovement};
use serde::de::DeserializeOwned;
use tokio::sync::watch;
use tokio::task::JoinSet;

/// By resource and verb, and of refused ones by code too: `nnfdatamovements PATCH 409`.
pub type Counts = BTreeMap<String, u64>;

/// Counts from its opening to its closing. The control plane is the test's own, since all that is written
/// to it is counted.
pub struct Ledger {
    client: Client,
    before: (Counts, Counts),
    movements: watch::Receiver<u64>,
    shards: watch::Receiver<u64>,
    leases: watch::Receiver<u64>,
    _watches: JoinSet<()>,
}

/// What was counted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    /// Writes that were done.
    pub done: Counts,
    /// Writes that were refused.
    pub refused: Counts,
    /// Of those that were done, how many changed nothing.
    pub unchanged: u64,
    /// Changes of writes that were done without being answered so: whoever wrote did not wait for longer.
    pub unanswered: u64,
    /// Renewals of workers' Leases.
    pub renewals: u64,
}

impl Written {
    /// How many were done, whatever they were.
    pub fn total(&self) -> u64 {
        self.done.values().sum::<u64>() + self.unanswered
    }
}

impl Ledger {
    /// Begins to count. Leases of workers are those in `namespace`.
    pub async fn open(client: &Client, namespace: &str) -> Self {
        let mut watches = JoinSet::new();
        let version = NnfDataMovement::DEFINITION.storage_version();
        let movements: Api<NnfDataMovement> = Api::all_with(client.clone(), &version);
        let version = DataMovementShard::DEFINITION.storage_version();
        let shards: Api<DataMovementShard> = Api::all_with(client.clone(), &version);
        let leases: Api<Lease> = Api::namespaced(client.clone(), namespace);
        let of_workers = |lease: &Lease| lease.name_any().starts_with("longshore-worker-");
        Self {
            movements: count(&mut watches, movements, |_| true).await,
            shards: count(&mut watches, shards, |_| true).await,
            leases: count(&mut watches, leases, of_workers).await,
            before: answered(client).await,
            client: client.clone(),
            _watches: watches,
        }
    }

    /// What was counted so far. Writes that are still under way may be in it or not.
    pub async fn so_far(&self) -> Written {
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            let (done, refused) = answered(&self.client).await;
            let done = since(&done, &self.before.0);
            let refused = since(&refused, &self.before.1);
            let changes = *self.movements.borrow() + *self.shards.borrow();
            let total: u64 = done.values().sum();
            // The answer may be counted after it was given, and the watch may be late.
            if total == changes || Instant::now() > deadline {
                let unchanged = total.saturating_sub(changes);
                let unanswered = changes.saturating_sub(total);
                let renewals = *self.leases.borrow();
                return Written { done, refused, unchanged, unanswered, renewals };
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// Counts the changes that a watch shows from now on.
async fn count<K>(
    watches: &mut JoinSet<()>,
    api: Api<K>,
    counts: impl Fn(&K) -> bool + Send + 'static,
) -> watch::Receiver<u64>
where
    K: Resource + Clone + Debug + DeserializeOwned + Send + 'static,
{
    let list = api.list(&ListParams::default().limit(1)).await.unwrap();
    let mut version = list.metadata.resource_version.unwrap();
    let (counted, count) = watch::channel(0);
    watches.spawn(async move {
        loop {
            let parameters = WatchParams::default().timeout(250);
            let events = api.watch(&parameters, &version).await.unwrap();
            let mut events = std::pin::pin!(events.into_stream());
            // It ends by and by, and is taken up where it ended.
            while let Some(event) = events.next().await {
                match event.unwrap() {
                    WatchEvent::Added(object)
                    | WatchEvent::Modified(object)
                    | WatchEvent::Deleted(object) => {
                        version = object.resource_version().unwrap();
                        if counts(&object) {
                            counted.send_modify(|count| *count += 1);
                        }
                    }
                    WatchEvent::Bookmark(mark) => version = mark.metadata.resource_version,
                    WatchEvent::Error(error) => panic!("a watch that counts failed: {error:?}"),
                }
            }
        }
    });
    count
}

/// The writes to movements and shards that the API server has answered since it was started: those that
/// were done, and those that were refused.
async fn answered(client: &Client) -> (Counts, Counts) {
    let request = http::Request::get("/metrics").body(Vec::new()).unwrap();
    let text = client.request_text(request).await.unwrap();
    let (mut done, mut refused) = (Counts::new(), Counts::new());
    for line in text.lines().filter(|line| line.starts_with("apiserver_request_total{")) {
        let label = |name: &str| {
            let start = line.find(&format!("{name}=\""))? + name.len() + 2;
            line[start..].split('"').next()
        };
        let resource = label("resource").unwrap_or_default();
        let verb = label("verb").unwrap_or_default();
        let ours = ["nnfdatamovements", "datamovementshards"].contains(&resource);
        let writes = ["POST", "PUT", "PATCH", "APPLY", "DELETE"].contains(&verb);
        if !ours || !writes || label("dry_run").is_some_and(|word| !word.is_empty()) {
            continue;
        }
        let code = label("code").unwrap_or_default();
        let number: f64 = line.rsplit(' ').next().unwrap().parse().unwrap();
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // it counts requests
        let number = number as u64;
        match code.starts_with('2') {
            true => *done.entry(format!("{resource} {verb}")).or_default() += number,
            false => *refused.entry(format!("{resource} {verb} {code}")).or_default() += number,
        }
    }
    (done, refused)
}

fn since(now: &Counts, before: &Counts) -> Counts {
    let more = now
        .iter()
        .map(|(what, count)| (what.clone(), count - before.get(what).copied().unwrap_or_default()));
    more.filter(|(_, count)| *count > 0).collect()
}
