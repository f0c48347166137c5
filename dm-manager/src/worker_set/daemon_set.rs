//! The DaemonSet of the workers, made of the manager object and the filesystems. It writes nothing.

use std::hash::{DefaultHasher, Hash, Hasher};

use k8s_openapi::api::apps::v1::{DaemonSet, DaemonSetUpdateStrategy};
use k8s_openapi::api::core::v1::{Container, PodSpec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::{Resource, ResourceExt};
use longshore::api::{NnfDataMovementManager, Version, mount_list};
use serde_json::{Value, json};

use super::Mounts;
use crate::lustre_file_system::{FileSystem, JOB_STORAGE};

/// Its name, which other programs look for.
pub(crate) const NAME: &str = "nnf-dm-worker";

/// The label of workers' pods.
pub(crate) const WORKER_LABEL: &str = "dm.cray.hpe.com/worker";

/// The annotation with a print of what the DaemonSet was made of.
const MADE_OF: &str = "longshore.dev/made-of";

/// The taint of storage nodes that workers tolerate. Those of a node that is being drained they do not.
const TAINT: (&str, &str) = ("cray.nnf.node", "true");

/// The container that copies.
const COPIES: &str = "worker";

/// The variable by which it knows its mount points.
const MOUNTS: &str = "LONGSHORE_MOUNTS";
/// Where storage of jobs is mounted, for the same.
const STORAGE: &str = "LONGSHORE_JOB_STORAGE";
/// Where it finds what it is to mount itself.
const MOUNTS_FROM: &str = "LONGSHORE_MOUNTS_FROM";

/// What that container may do: become the job's user, stop what runs as such, and for jobs of root what
/// root needs to copy files of others.
const CAPABILITIES: [&str; 9] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "MKNOD",
    "SETGID",
    "SETUID",
];

/// What it needs beside to mount filesystems. Its movers give it up.
const TO_MOUNT: &str = "SYS_ADMIN";

/// The DaemonSet for a manager object, with the volumes of filesystems, or with what workers need to mount
/// them in place, which does not depend on which there are. `more_unavailable` pods may be
/// unavailable during a rollout beyond what the manager object allows.
pub(crate) fn make(
    manager: &NnfDataMovementManager,
    version: &Version,
    how: Mounts,
    file_systems: &[FileSystem],
    service_account: &str,
    more_unavailable: i32,
    desired: i32,
) -> DaemonSet {
    let spec = &manager.spec;
    let selector = spec.selector.match_labels.clone().unwrap_or_default();
    let mut labels = selector.clone();
    labels.insert(WORKER_LABEL.to_owned(), "true".to_owned());
    let mut pod = spec.pod_spec.clone();
    add_volumes(&mut pod, manager, how, file_systems);
    pod.node_selector = Some(selector);
    if pod.service_account_name.is_none() {
        pod.service_account_name = Some(service_account.to_owned());
    }
    let tolerated = json!({
        "key": TAINT.0, "operator": "Equal", "value": TAINT.1, "effect": "NoSchedule",
    });
    let mut made: DaemonSet = serde_json::from_value(json!({
        "metadata": {"name": NAME, "namespace": manager.namespace(), "labels": labels},
        "spec": {
            "selector": spec.selector,
            "template": {
                "metadata": {"labels": labels},
                "spec": {"containers": [], "tolerations": [tolerated]},
            },
        },
    }))
    .expect("these are fields of the kind, with values of their types");
    made.metadata.owner_references = manager.controller_owner_ref(version).map(|one| vec![one]);
    if let Some(spec) = &mut made.spec {
        if let Some(template) = &mut spec.template.spec {
            pod.tolerations = template.tolerations.take();
        }
        spec.template.spec = Some(pod);
        spec.update_strategy =
            Some(strategy(&manager.spec.update_strategy, more_unavailable, desired));
    }
    // What is there has the defaults of the API server in it: this tells what it was made of.
    let mut hasher = DefaultHasher::new();
    serde_json::to_string(&made.spec).unwrap_or_default().hash(&mut hasher);
    let print = format!("{:016x}", hasher.finish());
    made.metadata.annotations = Some([(MADE_OF.to_owned(), print)].into());
    made
}

fn add_volumes(
    pod: &mut PodSpec,
    manager: &NnfDataMovementManager,
    how: Mounts,
    all: &[FileSystem],
) {
    let all = if how == Mounts::Live { &[] } else { all };
    let spec = &manager.spec;
    let volumes = pod.volumes.get_or_insert_default();
    for one in all {
        let claim = json!({"claimName": one.claim});
        volumes.push(typed(json!({"name": one.name, "persistentVolumeClaim": claim})));
    }
    let host_path = json!({"path": spec.host_path, "type": "DirectoryOrCreate"});
    volumes.push(typed(json!({"name": JOB_STORAGE, "hostPath": host_path})));
    let copies = pod.containers.iter().any(|container| container.name == COPIES);
    for (index, container) in pod.containers.iter_mut().enumerate() {
        let mounts = container.volume_mounts.get_or_insert_default();
        for one in all {
            mounts.push(typed(json!({"name": one.name, "mountPath": one.mount_root})));
        }
        mounts.push(typed(json!({
            "name": JOB_STORAGE,
            "mountPath": spec.mount_path,
            // What nnf-sos mounts on the node later is to appear in workers that run.
            "mountPropagation": "HostToContainer",
        })));
        if container.name == COPIES || (!copies && index == 0) {
            restrict(container, how);
            tell(container, &spec.mount_path, how, all);
        }
    }
}

/// Tells the container that copies what it is to have mounted: it takes no copy between directories that
/// only look like its filesystems.
fn tell(container: &mut Container, job_storage: &str, how: Mounts, all: &[FileSystem]) {
    let environment = container.env.get_or_insert_default();
    let roots = all.iter().map(|one| one.mount_root.as_str());
    let roots: Vec<&str> = [job_storage].into_iter().chain(roots).collect();
    let mut variables = vec![(MOUNTS, roots.join(",")), (STORAGE, job_storage.to_owned())];
    if how == Mounts::Live {
        variables.push((MOUNTS_FROM, mount_list::NAME.to_owned()));
    }
    for (name, value) in variables {
        if environment.iter().all(|variable| variable.name != name) {
            environment.push(typed(json!({"name": name, "value": value})));
        }
    }
}

/// Gives the container that copies what it needs and no more, unless the manager object says what.
fn restrict(container: &mut Container, how: Mounts) {
    if container.security_context.is_some() {
        return;
    }
    let mut context = json!({
        "allowPrivilegeEscalation": false,
        // A worker that mounts makes the mount points itself.
        "readOnlyRootFilesystem": how != Mounts::Live,
        // Said in so many words, since the kubelet makes the token of the service account readable
        // for that user alone then, and for everybody otherwise: movers of all users run in there.
        "runAsUser": 0,
        "capabilities": {"drop": ["ALL"], "add": CAPABILITIES},
    });
    if how == Mounts::Live {
        let mut all = CAPABILITIES.to_vec();
        all.push(TO_MOUNT);
        context["capabilities"]["add"] = json!(all);
        // The profile that runtimes use by default forbids to mount, whatever the capabilities are.
        context["appArmorProfile"] = json!({"type": "Unconfined"});
    }
    container.security_context = Some(typed(context));
}

fn typed<T: serde::de::DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).expect("these are fields of the type, with values of their types")
}

/// The strategy of the manager object, with room for pods that cannot start whatever is done: without
/// it a node that cannot mount something would keep all others from being updated.
fn strategy(wanted: &DaemonSetUpdateStrategy, more: i32, desired: i32) -> DaemonSetUpdateStrategy {
    let mut strategy = wanted.clone();
    if more <= 0 || strategy.type_.as_deref().is_some_and(|name| name != "RollingUpdate") {
        return strategy;
    }
    let rolling = strategy.rolling_update.get_or_insert_default();
    let surges = match &rolling.max_surge {
        None | Some(IntOrString::Int(0)) => false,
        Some(IntOrString::String(text)) => text != "0%",
        Some(IntOrString::Int(_)) => true,
    };
    if !surges {
        let own = resolved(rolling.max_unavailable.as_ref(), desired);
        rolling.max_unavailable = Some(IntOrString::Int(own + more));
    }
    strategy
}

/// How many pods a number or a percentage is; percentages are rounded up, as the controller does.
fn resolved(wanted: Option<&IntOrString>, desired: i32) -> i32 {
    match wanted {
        None => 1,
        Some(IntOrString::Int(number)) => *number,
        Some(IntOrString::String(text)) => {
            let percent: i32 = text.trim_end_matches('%').parse().unwrap_or(0);
            (desired.saturating_mul(percent).saturating_add(99) / 100).max(1)
        }
    }
}

/// What a DaemonSet was made of, as far as it says.
pub(crate) fn print(of: &DaemonSet) -> Option<&str> {
    of.annotations().get(MADE_OF).map(String::as_str)
}

/// A DaemonSet that is there with another content: what others wrote to its metadata stays.
pub(crate) fn merged(live: &DaemonSet, meant: DaemonSet) -> DaemonSet {
    let mut next = live.clone();
    next.spec = meant.spec;
    next.metadata.owner_references = meant.metadata.owner_references;
    next.metadata.managed_fields = None;
    next.labels_mut().extend(meant.metadata.labels.unwrap_or_default());
    next.annotations_mut().extend(meant.metadata.annotations.unwrap_or_default());
    next
}

/// Whether nothing of one would be changed by writing the other one.
pub(crate) fn same(live: &DaemonSet, next: &DaemonSet) -> bool {
    live.spec == next.spec
        && live.metadata.labels == next.metadata.labels
        && live.metadata.annotations == next.metadata.annotations
        && live.metadata.owner_references == next.metadata.owner_references
}

/// Whether pods with this description have the volume of a claim.
pub(crate) fn has_claim(pod: Option<&PodSpec>, claim: &str) -> bool {
    let volumes = pod.and_then(|pod| pod.volumes.as_ref()).into_iter().flatten();
    let mut claims = volumes.filter_map(|volume| volume.persistent_volume_claim.as_ref());
    claims.any(|volume| volume.claim_name == claim)
}

/// Whether the pods of a DaemonSet are to have the volume of a claim.
pub(crate) fn mounts(set: Option<&DaemonSet>, claim: &str) -> bool {
    let spec = set.and_then(|set| set.spec.as_ref());
    has_claim(spec.and_then(|spec| spec.template.spec.as_ref()), claim)
}

/// Whether pods with this description mount filesystems in place.
pub(crate) fn is_live(pod: Option<&PodSpec>) -> bool {
    let containers = pod.into_iter().flat_map(|pod| &pod.containers);
    let mut variables = containers.flat_map(|one| one.env.iter().flatten());
    variables.any(|variable| variable.name == MOUNTS_FROM)
}
