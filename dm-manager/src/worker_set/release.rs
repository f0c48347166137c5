//! Letting a filesystem go: its object is kept until no worker has it mounted, and a node that never
//! comes back does not keep it for ever. It unmounts nothing; the rollout does, or the workers.

use std::borrow::Borrow;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::Timestamp;
use kube::api::ListParams;
use kube::{Api, ResourceExt};
use serde_json::json;
use tokio::time::Instant;

use super::daemon_set::{WORKER_LABEL, has_claim, is_live};
use super::live::Reports;
use super::step::Keeper;
use super::view::View;
use super::{live, rollout};
use crate::lustre_file_system::{FINALIZER, FileSystem, Judgement};

/// How long after its time a pod still counts as ending in a rollout.
pub(super) const OVERDUE: Duration = Duration::from_secs(10);

impl Keeper {
    /// Lets go of the filesystems that are being deleted, or of `all` when there are to be no workers,
    /// as soon as no worker has them.
    ///
    /// # Errors
    ///
    /// When the API server cannot be asked, or refuses.
    pub(super) async fn release(
        &mut self,
        view: &View,
        judgement: &Judgement,
        all: bool,
    ) -> anyhow::Result<()> {
        let set = view.daemon_set();
        let refused = judgement.refused.iter().map(|(one, _)| one);
        let kept = judgement.accepted.iter().chain(refused).filter(|one| one.is_kept());
        let leaving: Vec<&FileSystem> = kept.filter(|one| all || one.is_deleted()).collect();
        // Of two with one name, the volume is that of the accepted one.
        let taken = |one: &FileSystem| {
            let mut accepted = judgement.accepted.iter();
            accepted.any(|other| other.claim == one.claim && other.object != one.object)
        };
        // Until its controller has seen the change, it may still make pods as they were before.
        let changed = set.as_ref().is_none_or(|set| rollout::is_observed(set));
        self.listen(view, !leaving.is_empty());
        let gone = |one: &&FileSystem| {
            taken(one)
                || (changed
                    && (all || live::is_unlisted(view, one))
                    && self.holders(&view.pods(), &view.reports(), one).is_empty())
        };
        let ready: Vec<&FileSystem> = leaving.iter().copied().filter(gone).collect();
        for one in leaving {
            let pods = view.pods();
            let still = pods.iter().filter(|pod| has_claim(pod.spec.as_ref(), &one.claim));
            if let Some(left) = still.filter_map(|pod| self.waited_for(pod)).min() {
                self.at(Instant::now() + left);
            }
        }
        if ready.is_empty() {
            return Ok(());
        }
        // What is known may be a moment old; what is done now cannot be undone.
        let api: Api<Pod> = Api::namespaced(self.context.client.clone(), &self.context.namespace);
        let workers = ListParams::default().labels(&format!("{WORKER_LABEL}=true"));
        let answer = self.counted("pods", "list", api.list(&workers).await);
        let pods = answer.context("failed to list the workers")?.items;
        let api: Api<Lease> = Api::namespaced(self.context.client.clone(), &self.context.namespace);
        let answer = self.counted("leases", "list", api.list(&ListParams::default()).await);
        let leases = answer.context("failed to list the Leases of workers")?.items;
        let reports = Reports::new(leases, view.mount_list().as_deref());
        for one in ready {
            if taken(one) || self.holders(&pods, &reports, one).is_empty() {
                self.let_go(one, &pods, &reports).await?;
            }
        }
        Ok(())
    }

    /// The nodes whose pods have a filesystem, without those that are given up.
    fn holders<P: Borrow<Pod>, L: Borrow<Lease>>(
        &self,
        pods: &[P],
        reports: &Reports<L>,
        one: &FileSystem,
    ) -> Vec<String> {
        let waits = |pod: &&Pod| {
            self.waited_for(pod).is_none_or(|left| !left.is_zero()) && !self.is_lost(pod)
        };
        let pods = pods.iter().map(Borrow::borrow);
        pods.filter(|pod| holds(pod, reports, one)).filter(waits).map(rollout::node_of).collect()
    }

    /// How many pods should be gone for a while and are not: the nodes are lost, and nothing comes of
    /// waiting for them in a rollout.
    pub(super) fn overdue(&mut self, pods: &[Arc<Pod>]) -> i32 {
        let patience = self.context.patience.lost_worker.min(OVERDUE);
        let mut overdue = 0;
        for left in pods.iter().filter_map(|pod| left(pod, patience)) {
            if left.is_zero() {
                overdue += 1;
            } else {
                self.at(Instant::now() + left);
            }
        }
        overdue
    }

    /// How much longer a pod that should be gone is waited for: then its node is lost.
    fn waited_for(&self, pod: &Pod) -> Option<Duration> {
        left(pod, self.context.patience.lost_worker)
    }

    async fn let_go<L: Borrow<Lease>>(
        &mut self,
        one: &FileSystem,
        pods: &[Pod],
        reports: &Reports<L>,
    ) -> anyhow::Result<()> {
        let lost = pods.iter().filter(|pod| holds(pod, reports, one));
        let lost: Vec<String> = lost.map(rollout::node_of).collect();
        if !lost.is_empty() && one.is_deleted() {
            let note = format!(
                "Let go although it may still be mounted on nodes that are not heard of: {}",
                lost.join(", ")
            );
            tracing::warn!(file_system = one.name, ?lost, "let go without having been unmounted");
            self.warn(&one.object, "ReleasedWithoutUnmount", note);
        }
        if one.is_deleted() && self.args.create_volumes_for.is_some() {
            self.remove_volumes(one).await?;
        }
        let mut finalizers = one.object.finalizers().to_vec();
        finalizers.retain(|finalizer| finalizer != FINALIZER);
        let patch = json!({"metadata": {
            "resourceVersion": one.object.metadata.resource_version,
            "finalizers": finalizers,
        }});
        match self.patch_file_system(&one.object, &patch).await {
            // Letting go of the last finalizer of a deleted object is its end, and nothing is seen of it.
            Ok(written) if one.is_deleted() && written.finalizers().is_empty() => {}
            Ok(written) => self.wrote(&written),
            Err(kube::Error::Api(refusal)) if refusal.code == 404 => {}
            Err(error) => {
                return Err(error).with_context(|| format!("failed to let go of {}", one.name));
            }
        }
        let namespace = one.object.namespace();
        tracing::info!(file_system = one.name, namespace, "let go");
        Ok(())
    }
}

/// Whether a pod has a filesystem: as a volume, or mounted in place.
fn holds<L: Borrow<Lease>>(pod: &Pod, reports: &Reports<L>, one: &FileSystem) -> bool {
    let spec = pod.spec.as_ref();
    has_claim(spec, &one.claim) || (is_live(spec) && reports.may_have(pod, one))
}

/// How long it is until a pod that is to be gone has been there for a time beyond that.
pub(super) fn left(pod: &Pod, by: Duration) -> Option<Duration> {
    // The time of deletion has the pod's time to end in it.
    let due = pod.metadata.deletion_timestamp.as_ref()?.0;
    let late = Timestamp::now().duration_since(due).as_millis();
    let left = i128::try_from(by.as_millis()).unwrap_or(i128::MAX) - late;
    Some(Duration::from_millis(u64::try_from(left.max(0)).unwrap_or(u64::MAX)))
}
