//! The filesystems that workers are to mount: which LustreFileSystems can be, under which names, and in
//! the words of an administrator why the others cannot. It reads and writes no object.

pub(crate) mod volumes;

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::PodSpec;
use kube::ResourceExt;
use longshore::api::LustreFileSystem;

use crate::verdict::Verdict;

/// What keeps a LustreFileSystem until no worker has it mounted any more; the same as for movements.
pub(crate) const FINALIZER: &str = "dm.cray.hpe.com";

/// The access mode of the workers' volume.
pub(crate) const MODE: &str = "ReadWriteMany";

/// The name of the volume with the storage of jobs.
pub(crate) const JOB_STORAGE: &str = "nnf";

/// Names of volumes that worker pods have, here or under nnf-dm, beside those of filesystems.
const RESERVED: [&str; 5] = [JOB_STORAGE, "ssh-auth", "worker-config", "localtime", "tzdata"];

/// Directories of a container that nothing may be mounted over, or in.
const OF_THE_SYSTEM: [&str; 13] = [
    "/bin", "/boot", "/dev", "/etc", "/lib", "/lib64", "/proc", "/root", "/run", "/sbin", "/sys",
    "/usr", "/var/run",
];

/// A filesystem that workers have, or had, as a volume.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct FileSystem {
    /// The object.
    pub(crate) object: LustreFileSystem,
    /// The name of the object and of the volume.
    pub(crate) name: String,
    /// The claim of the workers.
    pub(crate) claim: String,
    /// Where it is mounted.
    pub(crate) mount_root: String,
}

impl FileSystem {
    /// Of an object, for workers in a namespace.
    fn new(object: &LustreFileSystem, workers: &str) -> Self {
        let name = object.name_any();
        Self {
            claim: volumes::claim_name(&name, workers, MODE),
            mount_root: object.spec.mount_root.trim_end_matches('/').to_owned(),
            object: object.clone(),
            name,
        }
    }

    /// What is mounted, as mount(8) has it.
    pub(crate) fn source(&self) -> String {
        format!("{}:/{}", self.object.spec.mgs_nids, self.object.spec.name)
    }

    /// Whether the object is being deleted.
    pub(crate) fn is_deleted(&self) -> bool {
        self.object.metadata.deletion_timestamp.is_some()
    }

    /// Whether the object is kept for the workers.
    pub(crate) fn is_kept(&self) -> bool {
        self.object.finalizers().iter().any(|finalizer| finalizer == FINALIZER)
    }
}

/// All filesystems: those that can be mounted, by name, and those that cannot, with the reason.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Judgement {
    /// Those that can, also when they are being deleted.
    pub(crate) accepted: Vec<FileSystem>,
    /// Those that cannot.
    pub(crate) refused: Vec<(FileSystem, String)>,
}

/// Judges all filesystems for workers in a namespace. Of two that exclude each other the older one is
/// accepted, also while it is being deleted: it is still mounted.
pub(crate) fn judge(all: &[LustreFileSystem], workers: &str, pods: &Pods) -> Judgement {
    let mut all: Vec<FileSystem> = all.iter().map(|one| FileSystem::new(one, workers)).collect();
    all.sort_by_cached_key(|one| {
        let created = one.object.metadata.creation_timestamp.as_ref().map(|time| time.0);
        (created, one.name.clone(), one.object.namespace())
    });
    let mut judgement = Judgement::default();
    for one in all {
        match fault(&one, &judgement.accepted, pods) {
            Some(reason) => judgement.refused.push((one, reason)),
            None => judgement.accepted.push(one),
        }
    }
    // The order of volumes is a part of what pods are: by name, it only changes when it must.
    judgement.accepted.sort_by(|one, other| one.name.cmp(&other.name));
    judgement
}

/// What is to be said of a filesystem before it is stored, beside the others that are there: why it would
/// not be accepted. Whatever its age, it must not push one out that is accepted already. What only one
/// stands in the way of that is being deleted is a doubt.
pub(crate) fn validate(
    one: &LustreFileSystem,
    others: &[LustreFileSystem],
    workers: &str,
    pods: &Pods,
) -> Verdict {
    let fault_beside = |others: Vec<LustreFileSystem>| {
        let accepted = judge(&others, workers, pods).accepted;
        fault(&FileSystem::new(one, workers), &accepted, pods)
    };
    let mut others: Vec<_> = others.iter().filter(|other| !is_same(other, one)).cloned().collect();
    let Some(reason) = fault_beside(others.clone()) else { return Verdict::default() };
    others.retain(|other| other.metadata.deletion_timestamp.is_none());
    match fault_beside(others) {
        Some(reason) => Verdict { refusals: vec![reason], ..Verdict::default() },
        None => Verdict {
            warnings: vec![format!(
                "{reason}, which is being deleted: until it is gone this one waits"
            )],
            ..Verdict::default()
        },
    }
}

fn is_same(one: &LustreFileSystem, other: &LustreFileSystem) -> bool {
    one.namespace() == other.namespace() && one.name_any() == other.name_any()
}

/// What the pods of workers have by themselves.
#[derive(Clone, Debug, Default)]
pub(crate) struct Pods {
    volumes: BTreeSet<String>,
    mounts: BTreeSet<String>,
}

impl Pods {
    /// Of a pod's description, and the directory of the storage of jobs.
    pub(crate) fn of(spec: &PodSpec, job_storage: &str) -> Self {
        let names = spec.volumes.iter().flatten().map(|volume| volume.name.clone());
        let containers = spec.containers.iter().flat_map(|one| one.volume_mounts.iter().flatten());
        let mounts = containers.map(|mount| mount.mount_path.clone());
        Self { volumes: names.collect(), mounts: mounts.chain([job_storage.to_owned()]).collect() }
    }
}

fn fault(one: &FileSystem, accepted: &[FileSystem], pods: &Pods) -> Option<String> {
    let (name, root) = (&one.name, &one.mount_root);
    if !is_label(name) {
        return Some(format!(
            "its name {name:?} cannot be the name of a volume: it must have at most 63 characters, lower-case letters, digits and dashes only"
        ));
    }
    if RESERVED.contains(&name.as_str()) || pods.volumes.contains(name) {
        return Some(format!(
            "the workers have a volume of their own called {name:?}: create it under another name"
        ));
    }
    if let Some(other) = accepted.iter().find(|other| other.name == *name) {
        let other = other.object.namespace().unwrap_or_default();
        return Some(format!(
            "there is a LustreFileSystem {name:?} in the namespace {other} already: their volumes would have the same names"
        ));
    }
    if !root.starts_with('/') || root.split('/').skip(1).any(|part| ["", ".", ".."].contains(&part))
    {
        let given = &one.object.spec.mount_root;
        return Some(format!(
            "its mountRoot {given:?} is not the path of a directory below the root"
        ));
    }
    if let Some(taken) = OF_THE_SYSTEM.iter().find(|taken| overlap(taken, root)) {
        return Some(format!("its mountRoot {root} would hide {taken} of the workers"));
    }
    if let Some(taken) = pods.mounts.iter().find(|taken| overlap(taken, root)) {
        return Some(format!(
            "its mountRoot {root} overlaps {taken}, which the workers have mounted"
        ));
    }
    let other = accepted.iter().find(|other| overlap(&other.mount_root, root))?;
    let namespace = other.object.namespace().unwrap_or_default();
    Some(format!(
        "its mountRoot {root} overlaps {} of the LustreFileSystem {namespace}/{}",
        other.mount_root, other.name
    ))
}

/// Whether a name is a label as DNS has them.
fn is_label(name: &str) -> bool {
    let all = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    (1..=63).contains(&name.len())
        && name.bytes().all(all)
        && !name.starts_with('-')
        && !name.ends_with('-')
}

/// Whether one of two paths is the other one or above it.
fn overlap(one: &str, other: &str) -> bool {
    let parts = |path: &str| -> Vec<String> {
        path.split('/').filter(|part| !part.is_empty()).map(str::to_owned).collect()
    };
    let (one, other) = (parts(one), parts(other));
    one.starts_with(&other) || other.starts_with(&one)
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
    use longshore::api::Version;

    use super::*;

    fn file_system(name: &str, root: &str, second: i64) -> LustreFileSystem {
        let mut object = LustreFileSystem::new(&Version::new("v1beta1"), name);
        object.metadata.namespace = Some("default".to_owned());
        let created = k8s_openapi::jiff::Timestamp::from_second(second).unwrap();
        object.metadata.creation_timestamp = Some(Time(created));
        object.spec.mount_root = root.to_owned();
        object
    }

    fn refusals(all: &[LustreFileSystem]) -> Vec<String> {
        let spec = serde_json::from_value(serde_json::json!({
            "containers": [{"name": "worker", "volumeMounts": [{"name": "logs", "mountPath": "/logs"}]}],
            "volumes": [{"name": "logs", "emptyDir": {}}],
        }));
        let pods = Pods::of(&spec.unwrap(), "/mnt/nnf");
        let judgement = judge(all, "nnf-dm-system", &pods);
        assert_eq!(judgement.accepted.len() + judgement.refused.len(), all.len());
        judgement.refused.into_iter().map(|(one, why)| format!("{}: {why}", one.name)).collect()
    }

    #[test]
    fn what_cannot_be_a_volume_is_refused() {
        for name in ["nnf", "ssh-auth", "worker-config", "localtime", "tzdata", "logs"] {
            let [refusal] = refusals(&[file_system(name, "/lus/a", 0)]).try_into().unwrap();
            assert!(refusal.contains("a volume of their own"), "{refusal}");
        }
        for name in ["Lus1", "lus.1", "-lus", "lus-", &"l".repeat(64)] {
            let [refusal] = refusals(&[file_system(name, "/lus/a", 0)]).try_into().unwrap();
            assert!(refusal.contains("cannot be the name of a volume"), "{refusal}");
        }
        assert!(refusals(&[file_system(&"l".repeat(63), "/lus/a", 0)]).is_empty());
    }

    #[test]
    fn what_cannot_be_a_mount_point_is_refused() {
        for root in ["", "/", "lus", "/lus/../etc", "/lus//a", "/./lus"] {
            let [refusal] = refusals(&[file_system("a", root, 0)]).try_into().unwrap();
            assert!(refusal.contains("is not the path of a directory"), "{root}: {refusal}");
        }
        for root in ["/etc", "/usr/lus", "/var", "/mnt/nnf", "/mnt", "/mnt/nnf/a", "/logs/lus"] {
            let [refusal] = refusals(&[file_system("a", root, 0)]).try_into().unwrap();
            assert!(refusal.contains("would hide") || refusal.contains("overlaps"), "{refusal}");
        }
        for root in ["/lus/a/", "/mnt/nnf2", "/etcetera", "/var/lus"] {
            assert_eq!(refusals(&[file_system("a", root, 0)]), [""; 0], "{root}");
        }
    }

    #[test]
    fn the_older_one_of_two_that_overlap_is_accepted() {
        let all = [file_system("young", "/lus/a/b", 2), file_system("old", "/lus/a", 1)];
        let expected =
            "young: its mountRoot /lus/a/b overlaps /lus/a of the LustreFileSystem default/old";
        assert_eq!(refusals(&all), [expected]);
        // A shared beginning of a name is nothing in common.
        let all = [file_system("one", "/lus/a", 1), file_system("other", "/lus/ab", 1)];
        assert!(refusals(&all).is_empty());
        let mut twin = file_system("one", "/lus/b", 3);
        twin.metadata.namespace = Some("elsewhere".to_owned());
        let [refusal] = refusals(&[all[0].clone(), twin]).try_into().unwrap();
        assert!(refusal.contains("in the namespace default already"), "{refusal}");
    }

    #[test]
    fn the_order_is_by_name_whatever_came_first() {
        let all = [
            file_system("c", "/lus/c", 1),
            file_system("a", "/lus/a", 3),
            file_system("b", "/lus/b", 2),
        ];
        let judgement = judge(&all, "nnf-dm-system", &Pods::default());
        let names: Vec<_> = judgement.accepted.iter().map(|one| one.name.as_str()).collect();
        assert_eq!(names, ["a", "b", "c"]);
        assert_eq!(judgement.accepted[0].claim, "a-nnf-dm-system-readwritemany-pvc");
    }

    #[test]
    fn before_it_is_stored_it_is_judged_as_it_will_be_then() {
        let mut old = file_system("old", "/lus/a", 1);
        let new = file_system("new", "/lus/a/b", 2);
        let judged = |one: &LustreFileSystem, others: &[LustreFileSystem]| {
            validate(one, others, "nnf-dm-system", &Pods::default())
        };
        let reason = "its mountRoot /lus/a/b overlaps /lus/a of the LustreFileSystem default/old";
        assert_eq!(judged(&new, &[old.clone()]).refusals, [reason]);
        assert_eq!(judged(&new, &[]), Verdict::default());
        assert_eq!(judged(&old, &[old.clone()]), Verdict::default(), "not in its own way");
        // Changed into the way of one that is mounted, it would push that one out.
        assert_eq!(judged(&old, &[old.clone(), new.clone()]).refusals.len(), 1);
        old.metadata.deletion_timestamp = old.metadata.creation_timestamp.clone();
        let waits = judged(&new, &[old]);
        assert_eq!(waits.refusals, [""; 0]);
        assert!(waits.warnings[0].starts_with(reason), "{waits:?}");
    }
}
