//! Which replica of the manager acts: the one that holds a Lease. It only elects; what keeps the others
//! from writing is in `fence`, and every write of the controllers is conditional as well, for one that is
//! on its way when the Lease runs out.
//!
//! The rules are those of client-go's `leaderelection`: the time of the holder is never compared with the
//! time of this machine, only how long the Lease has stayed the same is measured here.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use dm_service::since_boot;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;
use kube::api::{ObjectMeta, PostParams};
use kube::{Api, Client};
use tokio::time::{sleep, timeout};

/// The name of the Lease.
pub(crate) const LEASE: &str = "longshore-manager";

/// How long others wait for a leader that says nothing.
const DURATION: Duration = Duration::from_secs(10);

/// How long a leader tries to renew before it stops. Shorter than what others wait.
const RENEW_WITHIN: Duration = Duration::from_secs(7);

/// How often a leader renews, and others look.
const PERIOD: Duration = Duration::from_secs(2);

/// Whether this replica leads, by a clock that goes on while this process, or this machine, is stopped:
/// who goes on after that must not act on what it saw before. A clone is the same.
#[derive(Clone, Debug, Default)]
pub(crate) struct Leadership(Arc<Mutex<Option<Duration>>>);

impl Leadership {
    /// Whether it holds now.
    pub(crate) fn holds(&self) -> bool {
        self.until().is_some_and(|until| since_boot() < until)
    }

    /// Sets until when it holds.
    pub(crate) fn set(&self, until: Option<Duration>) {
        *self.until() = until;
    }

    fn until(&self) -> MutexGuard<'_, Option<Duration>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A candidate.
pub(crate) struct Election {
    leases: Api<Lease>,
    identity: String,
    /// The Lease as last seen, and since when it has been so.
    seen: Option<(Lease, Duration)>,
    leadership: Leadership,
}

impl Election {
    /// A candidate by its name, which is that of its pod: a container that is started again in the same
    /// pod goes on at once, for its predecessor is gone.
    pub(crate) fn new(client: Client, namespace: &str, identity: String) -> Self {
        let leases = Api::namespaced(client, namespace);
        Self { leases, identity, seen: None, leadership: Leadership::default() }
    }

    /// Whether this candidate leads, for those who act.
    pub(crate) fn leadership(&self) -> Leadership {
        self.leadership.clone()
    }

    /// Returns when this candidate leads. Calls `spoken` each time the API server has answered.
    pub(crate) async fn acquire(&mut self, spoken: impl Fn()) {
        loop {
            let begun = since_boot();
            match timeout(RENEW_WITHIN, self.attempt()).await {
                Ok(Ok(true)) => return self.extend(begun),
                Ok(Ok(false)) => spoken(),
                Ok(Err(error)) => tracing::warn!(%error, "failed to ask for the Lease"),
                Err(_) => tracing::warn!("no answer when asking for the Lease"),
            }
            sleep(PERIOD).await;
        }
    }

    /// Renews as long as that works, and returns when this candidate leads no more.
    pub(crate) async fn keep(&mut self) {
        let mut renewed = since_boot();
        while since_boot() < renewed + RENEW_WITHIN {
            sleep(PERIOD).await;
            let left = (renewed + RENEW_WITHIN).saturating_sub(since_boot());
            let begun = since_boot();
            match timeout(left, self.attempt()).await {
                Ok(Ok(true)) => {
                    renewed = begun;
                    self.extend(begun);
                }
                Ok(Ok(false)) => break,
                Ok(Err(error)) => tracing::warn!(%error, "failed to renew the Lease"),
                Err(_) => tracing::warn!("no answer when renewing the Lease"),
            }
        }
        self.leadership.set(None);
    }

    /// What was asked for at a time and granted holds for others from a later time on.
    fn extend(&self, begun: Duration) {
        self.leadership.set(Some(begun + RENEW_WITHIN));
    }

    /// Gives the Lease back, so that another one need not wait.
    pub(crate) async fn release(&mut self) {
        self.leadership.set(None);
        let Some((mut lease, _)) = self.seen.take() else { return };
        let spec = lease.spec.get_or_insert_default();
        if spec.holder_identity.as_ref() != Some(&self.identity) {
            return;
        }
        spec.holder_identity = None;
        spec.lease_duration_seconds = Some(1);
        let released = timeout(PERIOD, self.replace(&lease)).await;
        tracing::info!(released = matches!(released, Ok(Ok(_))), "gave the Lease back");
    }

    /// Takes or renews the Lease if it is free or already held by this one. Whether it is held now.
    async fn attempt(&mut self) -> kube::Result<bool> {
        let current = match &self.seen {
            // What this one has written is still so, unless the write is refused.
            Some((lease, _)) if self.holds(lease) => lease.clone(),
            _ => match self.leases.get_opt(LEASE).await? {
                Some(lease) => lease,
                None => return self.create().await,
            },
        };
        self.observe(&current);
        if !self.holds(&current) && !self.is_free(&current) {
            return Ok(false);
        }
        match self.replace(&self.renewed(current)).await {
            Ok(lease) => {
                self.seen = Some((lease, since_boot()));
                Ok(true)
            }
            Err(kube::Error::Api(refused)) if matches!(refused.code, 404 | 409) => {
                self.seen = None;
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    async fn create(&mut self) -> kube::Result<bool> {
        let metadata = ObjectMeta { name: Some(LEASE.to_owned()), ..ObjectMeta::default() };
        let lease = self.renewed(Lease { metadata, spec: None });
        match self.leases.create(&PostParams::default(), &lease).await {
            Ok(lease) => {
                self.seen = Some((lease, since_boot()));
                Ok(true)
            }
            Err(kube::Error::Api(refused)) if refused.code == 409 => Ok(false),
            Err(error) => Err(error),
        }
    }

    async fn replace(&self, lease: &Lease) -> kube::Result<Lease> {
        self.leases.replace(LEASE, &PostParams::default(), lease).await
    }

    fn holds(&self, lease: &Lease) -> bool {
        holder(lease) == Some(&self.identity)
    }

    /// Remembers since when the Lease has been as it is.
    fn observe(&mut self, lease: &Lease) {
        let version = &lease.metadata.resource_version;
        let same =
            self.seen.as_ref().is_some_and(|(seen, _)| seen.metadata.resource_version == *version);
        if !same {
            self.seen = Some((lease.clone(), since_boot()));
        }
    }

    fn is_free(&self, lease: &Lease) -> bool {
        if holder(lease).is_none_or(str::is_empty) {
            return true;
        }
        let seconds = lease.spec.as_ref().and_then(|spec| spec.lease_duration_seconds);
        let duration = seconds.and_then(|seconds| u64::try_from(seconds).ok());
        let duration = duration.map_or(DURATION, Duration::from_secs);
        self.seen.as_ref().is_some_and(|(_, since)| since_boot() > *since + duration)
    }

    fn renewed(&self, mut lease: Lease) -> Lease {
        let now = MicroTime(Timestamp::now());
        let spec: &mut LeaseSpec = lease.spec.get_or_insert_default();
        if spec.holder_identity.as_ref() != Some(&self.identity) {
            spec.holder_identity = Some(self.identity.clone());
            spec.acquire_time = Some(now.clone());
            spec.lease_transitions = Some(spec.lease_transitions.unwrap_or(0).saturating_add(1));
        }
        spec.lease_duration_seconds = i32::try_from(DURATION.as_secs()).ok();
        spec.renew_time = Some(now);
        lease
    }
}

fn holder(lease: &Lease) -> Option<&str> {
    lease.spec.as_ref().and_then(|spec| spec.holder_identity.as_deref())
}
