//! Workers that mount in place: the list of what they are to have, and what they say they have, each on
//! its Lease. Which filesystems may be on the list is decided in `lustre_file_system`; nothing is let go
//! here.

use std::borrow::Borrow;
use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Context as _;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use kube::api::{ObjectMeta, PostParams};
use kube::{Api, Resource, ResourceExt};
use longshore::api::NnfDataMovementManager;
use longshore::api::data_movement_shard::{MOUNTS_ANNOTATION, worker_lease};
use longshore::api::mount_list::{KEY, MountList, NAME, SEEN_ANNOTATION, WantedMount};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::daemon_set::{has_claim, is_live};
use super::rollout::{Failures, NAMED, has_started, node_of, short};
use super::step::Keeper;
use super::view::View;
use super::{Mounts, daemon_set};
use crate::lustre_file_system::{FileSystem, Judgement};

/// What the workers say, each of its own node.
pub(crate) struct Reports<L> {
    leases: BTreeMap<String, L>,
    /// The version of the list that they should have seen.
    list: u64,
}

/// What one says.
pub(crate) struct Report {
    seen: u64,
    mounts: Value,
    /// Changes with every sign of life.
    version: Option<String>,
}

impl<L: Borrow<Lease>> Reports<L> {
    /// From Leases, and the list as it is.
    pub(crate) fn new(leases: impl IntoIterator<Item = L>, list: Option<&ConfigMap>) -> Self {
        let named = leases.into_iter().map(|lease| (lease.borrow().name_any(), lease)).collect();
        let list = list.and_then(|list| list.metadata.resource_version.as_deref());
        Self { leases: named, list: number(list) }
    }

    /// Of a pod. None when it has not taken its Lease yet, before which it mounts nothing.
    pub(crate) fn of(&self, pod: &Pod) -> Option<Report> {
        let lease = self.leases.get(&worker_lease(&node_of(pod)))?.borrow();
        let holder = lease.spec.as_ref()?.holder_identity.as_deref()?;
        (holder.rsplit_once('_')?.0 == pod.name_any()).then(|| {
            let annotations = lease.annotations();
            let mounts = annotations.get(MOUNTS_ANNOTATION);
            let mounts = mounts.and_then(|text| serde_json::from_str(text).ok());
            Report {
                seen: number(annotations.get(SEEN_ANNOTATION).map(String::as_str)),
                mounts: mounts.unwrap_or_default(),
                version: lease.metadata.resource_version.clone(),
            }
        })
    }

    /// Whether a pod that mounts in place may have a filesystem that is not on the list any more. Once it
    /// has seen such a list, it mounts it no more.
    pub(crate) fn may_have(&self, pod: &Pod, one: &FileSystem) -> bool {
        match self.of(pod) {
            Some(report) => report.seen < self.list || report.holds(&one.mount_root),
            None => runs(pod),
        }
    }
}

impl Report {
    /// Whether a filesystem is mounted.
    pub(crate) fn has(&self, mount_root: &str) -> bool {
        self.mounts[mount_root]["mounted"] == Value::Bool(true)
    }

    /// Whether it is, or may be in a moment.
    fn holds(&self, mount_root: &str) -> bool {
        self.has(mount_root) || self.mounts[mount_root]["pending"] == Value::Bool(true)
    }

    /// Why it is not as it should be.
    pub(crate) fn reason(&self, mount_root: &str) -> Option<String> {
        self.mounts[mount_root]["reason"].as_str().map(str::to_owned)
    }
}

fn number(version: Option<&str>) -> u64 {
    version.and_then(|version| version.parse().ok()).unwrap_or_default()
}

/// Whether a container of a pod runs, as far as its kubelet says.
fn runs(pod: &Pod) -> bool {
    let statuses = pod.status.as_ref().and_then(|status| status.container_statuses.as_ref());
    let running = |state: &k8s_openapi::api::core::v1::ContainerState| state.running.is_some();
    statuses.into_iter().flatten().any(|one| one.state.as_ref().is_some_and(running))
}

/// What is said about a filesystem that workers are to mount in place, in the shape of a condition. None
/// when nothing new is known.
pub(crate) fn condition(one: &FileSystem, view: &View, failures: &Failures) -> Option<Value> {
    if let Some(failed) = super::rollout::failed(failures.get(&one.name)) {
        return Some(failed);
    }
    let say = |status: &str, reason: &str, message: String| {
        Some(json!({"type": "Mounted", "status": status, "reason": reason, "message": message}))
    };
    let (pods, reports, desired) = (view.pods(), view.reports(), desired(view));
    let lacks = |pod: &Pod| match is_live(pod.spec.as_ref()) {
        true => reports.of(pod).is_some_and(|report| !report.has(&one.mount_root)),
        false => !has_claim(pod.spec.as_ref(), &one.claim),
    };
    if desired == 0 || pods.iter().any(|pod| lacks(pod)) {
        return say("False", "Mounting", "not all workers have it yet".to_owned());
    }
    // While workers are replaced for another reason, what was said last still holds.
    let all = pods.len() >= desired && pods.iter().all(|pod| has(pod, one, view));
    all.then(|| say("True", "Mounted", format!("on all {desired} nodes with workers"))).flatten()
}

/// How many nodes are to have workers.
fn desired(view: &View) -> usize {
    let set = view.daemon_set();
    let status = set.as_ref().and_then(|set| set.status.as_ref());
    status.map_or(0, |status| usize::try_from(status.desired_number_scheduled).unwrap_or(0))
}

/// Whether a pod has a filesystem, as a volume or mounted in place.
fn has(pod: &Pod, one: &FileSystem, view: &View) -> bool {
    if !is_live(pod.spec.as_ref()) {
        return has_claim(pod.spec.as_ref(), &one.claim) && has_started(pod);
    }
    view.reports().of(pod).is_some_and(|report| report.has(&one.mount_root))
}

/// Whether all workers have what they should: all of what is wanted, and nothing of what is not.
pub(crate) fn is_as_wanted(view: &View, judgement: &Judgement) -> bool {
    let (pods, reports) = (view.pods(), view.reports());
    pods.len() >= desired(view)
        && judgement.accepted.iter().all(|one| match one.is_deleted() {
            true => !pods.iter().any(|pod| reports.may_have(pod, one)),
            false => pods.iter().all(|pod| has(pod, one, view)),
        })
}

/// Which workers still have a filesystem that is being deleted, and why, in words.
pub(crate) fn still_there(view: &View, one: &FileSystem) -> Vec<String> {
    let reports = view.reports();
    let pods = view.pods();
    let live = pods.iter().filter(|pod| is_live(pod.spec.as_ref()));
    let holding = live.filter(|pod| reports.may_have(pod, one));
    let in_words = holding.map(|pod| {
        let reason = reports.of(pod).and_then(|report| report.reason(&one.mount_root));
        let reason = reason.map(|reason| format!(": {}", short(&reason))).unwrap_or_default();
        node_of(pod) + &reason
    });
    in_words.take(NAMED).collect()
}

impl Keeper {
    /// Writes the list of what workers are to mount, when there are workers that read it.
    ///
    /// # Errors
    ///
    /// When the API server refuses.
    pub(super) async fn publish(
        &mut self,
        view: &View,
        manager: &NnfDataMovementManager,
        judgement: &Judgement,
    ) -> anyhow::Result<()> {
        let readers = view.pods().iter().any(|pod| is_live(pod.spec.as_ref()));
        if self.args.mounts != Mounts::Live && !readers {
            return Ok(());
        }
        // Only what is kept until it is unmounted again.
        let wanted = judgement.accepted.iter().filter(|one| !one.is_deleted() && one.is_kept());
        let list = wanted.map(|one| (one.mount_root.clone(), WantedMount { source: one.source() }));
        let list = MountList(list.collect());
        let text = serde_json::to_string(&list).context("failed to write the list of mounts")?;
        let data = BTreeMap::from([(KEY.to_owned(), text)]);
        let known = view.mount_list();
        if known.as_ref().is_some_and(|known| known.data.as_ref() == Some(&data)) {
            return Ok(());
        }
        let version = self.context.versions.manager.clone();
        let version = version.context("the kind of the manager object is unknown")?;
        let map = ConfigMap {
            metadata: ObjectMeta {
                name: Some(NAME.to_owned()),
                owner_references: manager.controller_owner_ref(&version).map(|one| vec![one]),
                resource_version: known.as_ref().and_then(|map| map.resource_version()),
                ..ObjectMeta::default()
            },
            data: Some(data),
            ..ConfigMap::default()
        };
        let api: Api<ConfigMap> =
            Api::namespaced(self.context.client.clone(), &self.context.namespace);
        let how = PostParams::default();
        let answer = match known {
            Some(_) => self.counted("configmaps", "update", api.replace(NAME, &how, &map).await),
            None => self.counted("configmaps", "create", api.create(&how, &map).await),
        };
        let written = answer.context("failed to write the list of mounts")?;
        let points: Vec<&String> = list.0.keys().collect();
        tracing::info!(version = written.resource_version(), ?points, "workers are to mount");
        self.wrote(&written);
        Ok(())
    }

    /// Takes note of which workers give signs of life, while some are waited for.
    pub(super) fn listen(&mut self, view: &View, waiting: bool) {
        let (pods, reports) = (view.pods(), view.reports());
        self.heard
            .retain(|uid, _| waiting && pods.iter().any(|pod| pod.uid().as_ref() == Some(uid)));
        if !waiting {
            return;
        }
        for pod in pods.iter().filter(|pod| is_live(pod.spec.as_ref())) {
            let version = reports.of(pod).and_then(|report| report.version);
            let heard = self.heard.entry(pod.uid().unwrap_or_default());
            let heard = heard.or_insert_with(|| (version.clone(), Instant::now()));
            if heard.0 != version {
                *heard = (version, Instant::now());
            }
        }
        if !self.heard.is_empty() {
            let often = (self.context.patience.lost_worker / 4).max(Duration::from_millis(250));
            self.at(Instant::now() + often);
        }
    }

    /// Whether nothing was heard of a worker for so long that it is lost.
    pub(super) fn is_lost(&self, pod: &Pod) -> bool {
        let heard = pod.uid().and_then(|uid| self.heard.get(&uid));
        heard.is_some_and(|(_, since)| since.elapsed() >= self.context.patience.lost_worker)
    }
}

/// Whether a filesystem is in no description of workers' pods, and on no list that some of them read.
pub(crate) fn is_unlisted(view: &View, one: &FileSystem) -> bool {
    let set = view.daemon_set();
    let list = view.mount_list();
    let text = list.as_ref().and_then(|list| list.data.as_ref()?.get(KEY));
    let list = text.and_then(|text| serde_json::from_str::<MountList>(text).ok());
    let readers = view.pods().iter().any(|pod| is_live(pod.spec.as_ref()));
    let listed = readers && list.is_some_and(|list| list.0.contains_key(&one.mount_root));
    !listed && !daemon_set::mounts(set.as_deref(), &one.claim)
}

#[cfg(test)]
mod tests {
    use longshore::api::{LustreFileSystem, Version};

    use super::*;
    use crate::lustre_file_system::{Pods, judge};

    fn typed<T: serde::de::DeserializeOwned>(value: Value) -> T {
        serde_json::from_value(value).unwrap()
    }

    /// Whether a worker may have `/lus/a` when the list's version is 20.
    fn may_have(running: bool, lease: Option<Value>) -> bool {
        let state = if running { json!({"running": {}}) } else { json!({"waiting": {}}) };
        let status = json!({
            "name": "worker", "image": "", "imageID": "", "ready": false, "restartCount": 0,
            "state": state,
        });
        let pod: Pod = typed(json!({
            "metadata": {"name": "worker-1", "uid": "1"},
            "spec": {"nodeName": "rabbit-1", "containers": []},
            "status": {"containerStatuses": [status]},
        }));
        let mut object = LustreFileSystem::new(&Version::new("v1beta1"), "a");
        object.spec.mount_root = "/lus/a".to_owned();
        let all = judge(&[object], "nnf-dm-system", &Pods::default()).accepted;
        let list: ConfigMap = typed(json!({"metadata": {"resourceVersion": "20"}}));
        let lease: Option<Lease> = lease.map(typed);
        Reports::new(lease, Some(&list)).may_have(&pod, &all[0])
    }

    fn lease(holder: &str, seen: &str, mounts: Value) -> Option<Value> {
        Some(json!({
            "metadata": {
                "name": "longshore-worker-rabbit-1",
                "annotations": {SEEN_ANNOTATION: seen, MOUNTS_ANNOTATION: mounts.to_string()},
            },
            "spec": {"holderIdentity": holder},
        }))
    }

    #[test]
    fn a_filesystem_is_gone_from_a_worker_that_says_so_and_knows_the_list() {
        let (none, mounted) = (json!({}), json!({"/lus/a": {"mounted": true}}));
        assert!(!may_have(true, lease("worker-1_7", "20", none.clone())));
        assert!(!may_have(true, lease("worker-1_7", "21", none.clone())));
        assert!(may_have(true, lease("worker-1_7", "19", none.clone())), "it has not seen it");
        assert!(may_have(true, lease("worker-1_7", "", none.clone())), "it has seen none");
        assert!(may_have(true, lease("worker-1_7", "20", mounted.clone())));
        assert!(may_have(false, lease("worker-1_7", "20", mounted)));
        let pending = json!({"/lus/a": {"mounted": false, "pending": true}});
        assert!(may_have(true, lease("worker-1_7", "20", pending)));
        // One that hangs for too long does not count: no copy ever uses it.
        let hangs = json!({"/lus/a": {"mounted": false, "reason": "it hangs"}});
        assert!(!may_have(true, lease("worker-1_7", "20", hangs)));
        // What another pod of the node said is not about this one.
        assert!(may_have(true, lease("worker-0_7", "20", none.clone())));
        assert!(!may_have(false, lease("worker-0_7", "20", none)));
        assert!(may_have(true, None));
        assert!(!may_have(false, None), "one that does not run has no mounts");
    }
}
