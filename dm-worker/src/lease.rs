//! The Lease of this node's worker: taken at the start, renewed as long as the worker lives and whenever
//! it has something to say, given back at its end. It says how long movers may run, and ends none.

use std::collections::BTreeMap;
use std::time::Duration;

use dm_service::since_boot;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use kube::api::{DeleteParams, ObjectMeta, PostParams, Preconditions};
use kube::{Api, Client};
use longshore::api::shard_progress::PROGRESS_ANNOTATION;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use crate::metrics::Metrics;
use crate::mounts::Mounts;
use crate::reports::Reports;
use crate::time::now;

/// How often a Lease is renewed before it runs out.
const RENEWALS: u32 = 8;

/// The first pause after a failure, and how many of them fit into a renewal.
const PAUSE: Duration = Duration::from_millis(200);

/// Until when this worker has the Lease, on the clock of [`since_boot`]; none when it has not.
pub(crate) type Held = Option<Duration>;

/// What is to be held.
#[derive(Clone)]
pub(crate) struct Claimant {
    pub(crate) client: Client,
    pub(crate) namespace: String,
    /// The name of the Lease.
    pub(crate) name: String,
    /// The pod. A worker of the same pod that had it before is dead.
    pub(crate) pod: String,
    /// Tells this process from an earlier one of the same pod.
    pub(crate) nonce: String,
    pub(crate) duration: Duration,
    pub(crate) mounts: Mounts,
    pub(crate) reports: Reports,
    pub(crate) metrics: Metrics,
}

/// What another holder's Lease looked like, and since when.
struct Foreign {
    lease: Option<LeaseSpec>,
    since: Duration,
}

impl Claimant {
    fn api(&self) -> Api<Lease> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    fn identity(&self) -> String {
        format!("{}_{}", self.pod, self.nonce)
    }

    /// Takes the Lease and renews it for ever, and says in `held` until when it is held.
    pub(crate) async fn hold(self, held: watch::Sender<Held>) {
        let mut current: Option<Lease> = None;
        let mut foreign = Foreign { lease: None, since: since_boot() };
        loop {
            // Also when it is renewed in a moment, as after this process was stopped: movers have ended.
            held.send_if_modified(|held| {
                let over = held.is_some_and(|until| since_boot() >= until);
                if over {
                    tracing::error!("the Lease ran out");
                    self.metrics.lease_lost();
                    *held = None;
                }
                over
            });
            let began = since_boot();
            let attempt = match current.take() {
                Some(lease) => self.renew(lease).await,
                None => self.take(&mut foreign).await,
            };
            let pause = match attempt {
                Ok(Some(lease)) => {
                    current = Some(lease);
                    held.send_replace(Some(began + self.duration));
                    self.metrics.renewed("done");
                    self.duration / RENEWALS
                }
                Ok(None) => {
                    // Another worker of this node has it.
                    if held.send_replace(None).is_some() {
                        self.metrics.lease_lost();
                    }
                    PAUSE
                }
                Err(error) => {
                    tracing::warn!(error = format!("{error:#}"), "the Lease is not renewed");
                    self.metrics.renewed("failed");
                    PAUSE * 2
                }
            };
            tokio::select! {
                () = sleep(pause) => {}
                // Readers of the manager wait for this.
                () = self.mounts.changed(), if current.is_some() => {}
                () = self.reports.due(), if current.is_some() => {}
            }
        }
    }

    /// Takes it, if it is free.
    async fn take(&self, foreign: &mut Foreign) -> anyhow::Result<Option<Lease>> {
        let limit = self.duration / 2;
        let Some(mut lease) = timeout(limit, self.api().get_opt(&self.name)).await?? else {
            let mut lease = Lease {
                metadata: ObjectMeta { name: Some(self.name.clone()), ..ObjectMeta::default() },
                spec: Some(LeaseSpec::default()),
            };
            self.fill(&mut lease);
            let how = PostParams::default();
            return Ok(Some(timeout(limit, self.api().create(&how, &lease)).await??));
        };
        let spec = lease.spec.clone().unwrap_or_default();
        let holder = spec.holder_identity.clone().unwrap_or_default();
        let own = holder.rsplit_once('_').is_some_and(|(pod, _)| pod == self.pod);
        if foreign.lease.as_ref() != Some(&spec) {
            // Clocks of different machines differ: what counts is for how long it has not changed.
            *foreign = Foreign { lease: Some(spec.clone()), since: since_boot() };
        }
        let seconds = spec.lease_duration_seconds.unwrap_or_default();
        let lasts = Duration::from_secs(u64::try_from(seconds).unwrap_or_default());
        if !own && !holder.is_empty() && since_boot() < foreign.since + lasts {
            return Ok(None);
        }
        if holder != self.identity() {
            tracing::info!(earlier = holder, "taking the Lease");
            let spec = lease.spec.get_or_insert_default();
            spec.lease_transitions = Some(spec.lease_transitions.unwrap_or_default() + 1);
            spec.acquire_time = Some(now());
        }
        self.renew(lease).await
    }

    async fn renew(&self, mut lease: Lease) -> anyhow::Result<Option<Lease>> {
        self.fill(&mut lease);
        let how = PostParams::default();
        let api = self.api();
        let request = api.replace(&self.name, &how, &lease);
        Ok(Some(timeout(self.duration / 2, request).await??))
    }

    fn fill(&self, lease: &mut Lease) {
        let spec = lease.spec.get_or_insert_default();
        spec.holder_identity = Some(self.identity());
        spec.lease_duration_seconds = i32::try_from(self.duration.as_secs()).ok();
        let time = now();
        spec.acquire_time.get_or_insert_with(|| time.clone());
        spec.renew_time = Some(time);
        let annotations = lease.metadata.annotations.get_or_insert_with(BTreeMap::new);
        annotations.extend(self.mounts.annotations());
        match self.reports.text() {
            Some(text) => annotations.insert(PROGRESS_ANNOTATION.to_owned(), text),
            None => annotations.remove(PROGRESS_ANNOTATION),
        };
    }

    /// Gives it back: nobody has to wait until it runs out. Nothing of this worker runs any more.
    pub(crate) async fn give_back(&self) {
        let result: anyhow::Result<()> = async {
            let limit = self.duration / 4;
            let api = self.api();
            let Some(lease) = timeout(limit, api.get_opt(&self.name)).await?? else {
                return Ok(());
            };
            let holder = lease.spec.and_then(|spec| spec.holder_identity);
            if holder.as_deref() != Some(&self.identity()) {
                return Ok(());
            }
            let how = DeleteParams {
                preconditions: Some(Preconditions {
                    resource_version: lease.metadata.resource_version,
                    uid: lease.metadata.uid,
                }),
                ..DeleteParams::default()
            };
            timeout(limit, api.delete(&self.name, &how)).await??;
            Ok(())
        }
        .await;
        if let Err(error) = result {
            tracing::warn!(error = format!("{error:#}"), "the Lease was not given back");
        }
    }
}
