//! How far the workers are: whether all have what they should, and which nodes cannot mount what. Only
//! what is known already is looked at.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use serde_json::{Value, json};

use super::daemon_set::{has_claim, is_live};
use super::release::{OVERDUE, left};
use super::view::View;
use crate::lustre_file_system::{FileSystem, MODE, volumes};

/// How many nodes are named in a report; the others are counted.
pub(crate) const NAMED: usize = 8;

/// Whether every pod of a DaemonSet is up to date and available. None at all is not ready: nothing would
/// be copied.
pub(crate) fn is_complete(set: &DaemonSet) -> bool {
    let Some(status) = &set.status else { return false };
    let desired = status.desired_number_scheduled;
    is_observed(set)
        && desired >= 1
        && status.updated_number_scheduled == Some(desired)
        && status.number_available == Some(desired)
}

/// Whether its controller has seen the latest change of a DaemonSet. Until then it may still make pods
/// as they were before.
pub(crate) fn is_observed(set: &DaemonSet) -> bool {
    set.status.as_ref().and_then(|status| status.observed_generation) == set.metadata.generation
}

/// Which nodes cannot mount which filesystem, and why.
pub(crate) type Failures = BTreeMap<String, BTreeMap<String, String>>;

/// The nodes whose pods cannot be started for want of a volume, or which cannot mount or unmount one in
/// place, by the names of the filesystems.
pub(crate) fn failures(view: &View, all: &[FileSystem], workers: &str) -> Failures {
    let (warnings, reports) = (view.mount_warnings(), view.reports());
    let mut failures = Failures::new();
    for pod in view.pods() {
        let Some(node) = pod.spec.as_ref().and_then(|spec| spec.node_name.clone()) else {
            continue;
        };
        if is_live(pod.spec.as_ref()) {
            let Some(report) = reports.of(&pod) else { continue };
            for one in all {
                if let Some(reason) = report.reason(&one.mount_root) {
                    failures.entry(one.name.clone()).or_default().insert(node.clone(), reason);
                }
            }
            continue;
        }
        let warning = pod.metadata.uid.as_ref().and_then(|uid| warnings.get(uid));
        let mounted = |one: &&FileSystem| has_claim(pod.spec.as_ref(), &one.claim);
        for one in all.iter().filter(mounted) {
            let reason = if has_started(&pod) {
                let gone = view.says_unmounted(&node, &one.mount_root);
                gone.then(|| "the worker finds no filesystem there".to_owned())
            } else {
                warning.filter(|text| concerns(text, one, workers)).cloned()
            };
            if let Some(reason) = reason {
                failures.entry(one.name.clone()).or_default().insert(node.clone(), reason);
            }
        }
    }
    failures
}

pub(crate) fn has_started(pod: &Pod) -> bool {
    let status = pod.status.as_ref();
    let containers = status.and_then(|status| status.container_statuses.as_ref());
    containers.into_iter().flatten().any(|one| {
        let waiting = one.state.as_ref().and_then(|state| state.waiting.as_ref());
        waiting.is_none_or(|waiting| waiting.reason.as_deref() != Some("ContainerCreating"))
    })
}

/// Whether a kubelet's warning is about a filesystem: it names the volume of the pod, the claim or the
/// PersistentVolume.
fn concerns(warning: &str, one: &FileSystem, workers: &str) -> bool {
    let volume = volumes::volume_name(&one.name, workers, MODE);
    // The list of all volumes of the pod, behind that of those which are missing, says nothing.
    let warning = warning.split("unattached volumes").next().unwrap_or_default();
    let mut words =
        warning.split(|char: char| !(char.is_alphanumeric() || char == '-' || char == '.'));
    words.any(|word| word == one.name || word == one.claim || word == volume)
}

/// How many nodes cannot start their pod for want of a volume.
pub(crate) fn stuck(failures: &Failures, pods: &[std::sync::Arc<Pod>]) -> i32 {
    let stuck = |pod: &&std::sync::Arc<Pod>| {
        let node = pod.spec.as_ref().and_then(|spec| spec.node_name.as_ref());
        let named = |node| failures.values().any(|nodes| nodes.contains_key(node));
        pod.metadata.deletion_timestamp.is_none() && !has_started(pod) && node.is_some_and(named)
    };
    i32::try_from(pods.iter().filter(stuck).count()).unwrap_or(i32::MAX)
}

/// What is said about one filesystem, in the shape of a condition. None when nothing new is known.
pub(crate) fn condition(
    one: &FileSystem,
    bound: bool,
    set: Option<&DaemonSet>,
    pods: &[std::sync::Arc<Pod>],
    failures: &Failures,
) -> Option<Value> {
    let say = |holds: bool, reason: &str, message: String| {
        let status = if holds { "True" } else { "False" };
        Some(json!({"type": "Mounted", "status": status, "reason": reason, "message": message}))
    };
    if let Some(failed) = failed(failures.get(&one.name)) {
        return Some(failed);
    }
    if !bound {
        return say(false, "ClaimNotBound", format!("the claim {} is not bound", one.claim));
    }
    let desired = set
        .and_then(|set| set.status.as_ref())
        .map_or(0, |status| usize::try_from(status.desired_number_scheduled).unwrap_or(0));
    if pods.iter().any(|pod| !has_claim(pod.spec.as_ref(), &one.claim)) || desired == 0 {
        return say(false, "Mounting", "not all workers have it yet".to_owned());
    }
    // While workers are replaced for another reason, what was said last still holds.
    let all = pods.len() >= desired && pods.iter().all(|pod| has_started(pod));
    all.then(|| say(true, "Mounted", format!("on all {desired} nodes with workers"))).flatten()
}

/// The condition of a filesystem that some nodes cannot mount; none when there are no such nodes.
pub(crate) fn failed(nodes: Option<&BTreeMap<String, String>>) -> Option<Value> {
    let nodes = nodes?;
    let mut named: Vec<String> =
        nodes.iter().take(NAMED).map(|(node, why)| format!("{node}: {}", short(why))).collect();
    if nodes.len() > NAMED {
        named.push(format!("and {} more", nodes.len() - NAMED));
    }
    let message = named.join("; ");
    Some(json!({
        "type": "Mounted", "status": "False", "reason": "MountFailed", "message": message,
    }))
}

/// The condition of a filesystem that cannot be mounted anywhere.
pub(crate) fn refused(reason: &str) -> Value {
    json!({"type": "Mounted", "status": "False", "reason": "Refused", "message": reason})
}

/// The condition of a filesystem that is being deleted, with the nodes that should not have it any more:
/// those whose pods are overdue, and those that have it mounted in place.
pub(crate) fn unmounting(pods: &[std::sync::Arc<Pod>], claim: &str, live: &[String]) -> Value {
    let still = pods.iter().filter(|pod| has_claim(pod.spec.as_ref(), claim));
    let overdue = still.filter(|pod| left(pod, OVERDUE).is_some_and(|left| left.is_zero()));
    let nodes: Vec<String> = overdue.map(|pod| node_of(pod)).take(NAMED).collect();
    let message = match nodes.is_empty() {
        true if !live.is_empty() => format!("it is still mounted on {}", live.join("; ")),
        true => "waiting until no worker has it any more".to_owned(),
        false => format!("nothing is heard of workers that have it, on {}", nodes.join(", ")),
    };
    json!({"type": "Mounted", "status": "True", "reason": "Unmounting", "message": message})
}

/// The name of a pod's node, or of the pod.
pub(crate) fn node_of(pod: &Pod) -> String {
    let node = pod.spec.as_ref().and_then(|spec| spec.node_name.clone());
    node.unwrap_or_else(|| pod.name_any())
}

pub(crate) fn short(text: &str) -> String {
    text.chars().take(200).collect()
}

#[cfg(test)]
mod tests {
    use longshore::api::{LustreFileSystem, Version};

    use super::*;
    use crate::lustre_file_system::{Pods, judge};

    #[test]
    fn a_warning_is_about_the_volume_that_it_names() {
        let object = |name: &str| {
            let mut object = LustreFileSystem::new(&Version::new("v1beta1"), name);
            object.spec.mount_root = format!("/lus/{name}");
            object
        };
        let all = [object("lus1"), object("lus2")];
        let all = judge(&all, "nnf-dm-system", &Pods::default()).accepted;
        let about = |warning: &str| -> Vec<&str> {
            let named = all.iter().filter(|one| concerns(warning, one, "nnf-dm-system"));
            named.map(|one| one.name.as_str()).collect()
        };
        let volume = "MountVolume.SetUp failed for volume \"lus1-nnf-dm-system-readwritemany-pv\" : rpc error";
        assert_eq!(about(volume), ["lus1"]);
        let list = "Unable to attach or mount volumes: unmounted volumes=[lus2], unattached volumes=[lus1 lus2 nnf]: timed out";
        assert_eq!(about(list), ["lus2"]);
        assert_eq!(
            about("persistentvolumeclaim \"lus1-nnf-dm-system-readwritemany-pvc\" not found"),
            ["lus1"]
        );
        assert_eq!(about("MountVolume.SetUp failed for volume \"nnf\" : no such lus12"), [""; 0]);
    }
}
