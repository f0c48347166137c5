//! The steps of the test, each on the node as the one before has left it.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};

use kube::api::{
    ApiResource, DeleteParams, DynamicObject, GroupVersionKind, Patch, PatchParams, PostParams,
};
use kube::{Api, ResourceExt};
use longshore::api::data_movement_manager::NAME;
use serde_json::{Value, json};
use test_cluster::eventually;

use crate::cluster::{Cluster, USER};
use crate::processes::{self, kill, movers, workers};

/// So that a copy takes seconds.
const SLOW: &str = "longshore copy --bandwidth-limit 1M $SRC $DEST";

/// As fast as it goes.
const FAST: &str = "longshore copy $SRC $DEST";

/// Our filter: where it is in the repository, and its name below the kubelet's folder of filters.
const FILTER: &str = "longshore-worker.json";

/// Makes a tree of files for the user, none of which is in memory.
fn make_tree(tree: &Path, files: usize, bytes: usize) {
    fs::create_dir(tree).unwrap();
    chown(tree, Some(USER), Some(USER)).unwrap();
    for number in 0..files {
        let path = tree.join(format!("file-{number}"));
        fs::write(&path, vec![u8::try_from(number & 0xff).unwrap(); bytes]).unwrap();
        chown(&path, Some(USER), Some(USER)).unwrap();
        let file = File::open(&path).unwrap();
        file.sync_all().unwrap();
        let unused = nix::fcntl::PosixFadviseAdvice::POSIX_FADV_DONTNEED;
        nix::fcntl::posix_fadvise(&file, 0, 0, unused).unwrap();
    }
}

/// Compares a copy with its source, and that it is the user's.
fn assert_copied(source: &Path, destination: &Path, files: usize) {
    assert_eq!(fs::read_dir(destination).unwrap().count(), files, "{}", destination.display());
    for number in 0..files {
        let name = format!("file-{number}");
        let copy = destination.join(&name);
        assert!(fs::read(source.join(&name)).unwrap() == fs::read(&copy).unwrap(), "{name}");
        let metadata = fs::metadata(&copy).unwrap();
        assert_eq!((metadata.uid(), metadata.gid()), (USER, USER), "{name}");
    }
}

fn assert_success(status: &Value, restarts: Option<i64>) {
    assert_eq!(status["status"], "Success", "{status:#}");
    assert_eq!(status["restarts"].as_i64(), restarts, "{status:#}");
}

pub async fn file_systems_are_mounted(cluster: &Cluster) {
    cluster.create_file_systems(&["home", "work", "old"]).await;
    cluster.mounted(&["home", "work", "old"]).await;
    let worker = &workers()[0];
    for place in ["/lus/home", "/lus/work", "/lus/old", "/mnt/nnf"] {
        assert!(worker.has_mounted(place), "{place}");
    }
}

/// The API server asks the manager by its Service, and trusts the certificate that the manager made.
pub async fn what_cannot_be_done_is_refused(cluster: &Cluster) {
    let kind = GroupVersionKind::gvk("nnf.cray.hpe.com", "v1alpha11", "NnfDataMovementProfile");
    let resource = ApiResource::from_gvk(&kind);
    let profiles: Api<DynamicObject> =
        Api::namespaced_with(cluster.client.clone(), "default", &resource);
    let mut impossible = DynamicObject::new("impossible", &resource);
    impossible.data = json!({"data": {"command": "rm -rf $SRC"}});
    let dry = PostParams { dry_run: true, ..PostParams::default() };
    let refused = eventually("a refusal", async || {
        profiles.create(&dry, &impossible).await.err().map(|error| error.to_string())
    })
    .await;
    assert!(refused.contains("profiles.longshore.dev") && refused.contains("rm"), "{refused}");
}

/// Storage of a job comes to the node while the worker runs, and goes again.
pub async fn storage_of_a_job_comes_and_goes(_cluster: &Cluster) {
    let storage = "/mnt/nnf/job-0";
    fs::create_dir(storage).unwrap();
    let none: Option<&str> = None;
    nix::mount::mount(none, storage, Some("tmpfs"), nix::mount::MsFlags::empty(), none).unwrap();
    let worker = &workers()[0];
    eventually("the worker to have it", async || worker.has_mounted(storage).then_some(())).await;
    nix::mount::umount(storage).unwrap();
    eventually("it to be gone", async || (!worker.has_mounted(storage)).then_some(())).await;
    fs::remove_dir(storage).unwrap();
}

pub async fn a_copy_is_its_users(cluster: &Cluster) {
    let (source, destination) =
        (cluster.data("home").join("own"), cluster.data("work").join("own"));
    make_tree(&source, 16, 128 << 10);
    cluster
        .create_movement("own", "/lus/home/own/", "/lus/work/own", json!({"command": SLOW}))
        .await;
    eventually("some of it to be copied", async || (copied(cluster, "own") > 0).then_some(()))
        .await;
    let mover = movers().pop().unwrap();
    let id = format!("{USER} {USER} {USER} {USER}");
    assert_eq!((mover.says("Uid"), mover.says("Gid")), (id.clone(), id));
    assert_eq!(mover.says("Groups"), "", "supplementary groups");
    for set in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
        assert_eq!(mover.says(set), "0000000000000000", "{set}");
    }
    assert_eq!(mover.says("NoNewPrivs"), "1");
    let worker = &workers()[0];
    assert_eq!(worker.says("Uid"), "0 0 0 0");
    assert_eq!(worker.says("NoNewPrivs"), "1");
    for set in ["CapPrm", "CapEff", "CapBnd"] {
        // Those that the manager asks for: the first eight, and that to make devices.
        assert_eq!(worker.says(set), "00000000080000ff", "{set}");
    }
    // Where memory is short, a mover is ended, and not the worker with all of them.
    assert!(mover.is_ended_before(worker), "{} {}", mover.oom_score_adj(), worker.oom_score_adj());
    assert_success(&cluster.finished("own").await, None);
    assert_copied(&source, &destination, 16);
}

pub async fn what_the_user_may_not_read_fails(cluster: &Cluster) {
    let source = cluster.data("home").join("secrets");
    make_tree(&source, 4, 100);
    fs::set_permissions(source.join("file-2"), fs::Permissions::from_mode(0o600)).unwrap();
    chown(source.join("file-2"), Some(0), Some(0)).unwrap();
    let profile = json!({"command": FAST});
    cluster.create_movement("secrets", "/lus/home/secrets/", "/lus/work/secrets", profile).await;
    let status = cluster.finished("secrets").await;
    assert_eq!(status["status"], "Failed", "{status:#}");
    let message = status["message"].as_str().unwrap();
    assert!(message.contains("file-2") && message.contains("ermission denied"), "{message}");
    let copied = fs::read_dir(cluster.data("work").join("secrets")).unwrap();
    let mut names: Vec<_> = copied.map(|entry| entry.unwrap().file_name()).collect();
    names.retain(|name| name.to_string_lossy().starts_with("file-"));
    names.sort();
    assert_eq!(names, ["file-0", "file-1", "file-3"]);
}

/// Links that lead out of the filesystems reach what is the worker's: nothing may be read or written there.
pub async fn what_is_the_workers_is_out_of_reach(cluster: &Cluster) {
    let secrets = "/var/run/secrets/kubernetes.io/serviceaccount";
    let notes = "/run/longshore";
    symlink(secrets, cluster.data("home").join("out")).unwrap();
    symlink(notes, cluster.data("work").join("out")).unwrap();
    for (name, from, to) in [
        ("read-out", "/lus/home/out/", "/lus/work/read-out"),
        ("write-out", "/lus/home/own/", "/lus/work/out/"),
    ] {
        cluster.create_movement(name, from, to, json!({"command": FAST})).await;
        let status = cluster.finished(name).await;
        assert_ne!(status["status"], "Success", "{status:#}");
    }
    let inside = PathBuf::from(format!("/proc/{}/root", workers()[0].pid));
    let token = fs::read(inside.join(&secrets[1..]).join("token")).unwrap();
    for entry in fs::read_dir(cluster.data("work").join("read-out")).into_iter().flatten() {
        let path = entry.unwrap().path();
        assert!(fs::read(&path).map_or(true, |content| content != token), "{}", path.display());
    }
    for entry in fs::read_dir(inside.join(&notes[1..])).unwrap() {
        let metadata = entry.unwrap().metadata().unwrap();
        assert_eq!(metadata.uid(), 0, "a user's file among the worker's notes");
    }
}

/// Copies many small files that are not in memory, and returns what the report says.
async fn copy_small_files(cluster: &Cluster, name: &str) -> String {
    let (source, destination) = (cluster.data("home").join(name), cluster.data("work").join(name));
    make_tree(&source, 200, 16 << 10);
    let (from, to) = (format!("/lus/home/{name}/"), format!("/lus/work/{name}"));
    cluster.create_movement(name, &from, &to, json!({"command": FAST})).await;
    let status = cluster.finished(name).await;
    assert_success(&status, None);
    assert_copied(&source, &destination, 200);
    status["message"].as_str().unwrap().to_owned()
}

pub async fn the_default_filter_refuses_io_uring(cluster: &Cluster) {
    assert_eq!(workers()[0].says("Seccomp"), "2", "the worker has a filter");
    let report = copy_small_files(cluster, "default-filter").await;
    assert!(report.contains("read and written (200 files)"), "{report}");
    assert!(report.contains("io_uring: not used"), "{report}");
    // Ours is that of the runtime and three calls more, so it is to follow when the runtime's changes.
    let ours: Value = serde_json::from_str(&fs::read_to_string(filter_file()).unwrap()).unwrap();
    let runtimes = filter_of_worker(cluster).await;
    let ring = ["io_uring_setup", "io_uring_enter", "io_uring_register"];
    let ring = json!({"syscalls": [{"action": "SCMP_ACT_ALLOW", "names": ring}]});
    let mut wanted = rules(&runtimes);
    wanted.extend(rules(&ring));
    let unlike: Vec<_> = rules(&ours).symmetric_difference(&wanted).cloned().collect();
    assert!(unlike.is_empty(), "our filter and the runtime's differ in more: {unlike:#?}");
    assert_eq!(ours["defaultAction"], runtimes["defaultAction"]);
}

/// Each call with what becomes of it, and on which conditions on its arguments.
fn rules(filter: &Value) -> BTreeSet<String> {
    let rules = filter["syscalls"].as_array().unwrap().iter();
    rules
        .flat_map(|rule| {
            let what = [&rule["action"], &rule["errnoRet"], &rule["args"]];
            let names = rule["names"].as_array().unwrap().iter();
            names.map(move |name| format!("{name}: {what:?}"))
        })
        .collect()
}

fn filter_file() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/seccomp").join(FILTER)
}

/// The filter that the runtime has given the worker.
async fn filter_of_worker(cluster: &Cluster) -> Value {
    let status = cluster.worker().await.status.unwrap();
    let id = status.container_statuses.unwrap()[0].container_id.clone().unwrap();
    let id = id.rsplit('/').next().unwrap();
    let folder = Path::new("/run/containerd/io.containerd.runtime.v2.task/k8s.io").join(id);
    let text = fs::read_to_string(folder.join("config.json")).unwrap();
    let configuration: Value = serde_json::from_str(&text).unwrap();
    configuration["linux"]["seccomp"].clone()
}

pub async fn our_filter_allows_io_uring(cluster: &Cluster) {
    // What docs/worker.md says.
    fs::copy(filter_file(), Path::new("/var/lib/kubelet/seccomp").join(FILTER)).unwrap();
    let before = cluster.worker().await.name_any();
    let filter = json!({"type": "Localhost", "localhostProfile": FILTER});
    let patch = json!({"spec": {"podSpec": {"securityContext": {"seccompProfile": filter}}}});
    cluster.managers().patch(NAME, &PatchParams::default(), &Patch::Merge(patch)).await.unwrap();
    eventually("a new worker", async || {
        let pods = workers();
        (pods.len() == 1 && cluster.worker().await.name_any() != before && cluster.ready().await)
            .then_some(())
    })
    .await;
    assert_eq!(workers()[0].says("Seccomp"), "2", "the worker has a filter");
    let report = copy_small_files(cluster, "our-filter").await;
    assert!(report.contains("read through io_uring"), "{report}");
    assert!(!report.contains("io_uring: not used"), "{report}");
}

/// Starts a copy of some seconds and waits until some of it is done.
async fn begin_slow_copy(cluster: &Cluster, name: &str) {
    make_tree(&cluster.data("home").join(name), 24, 256 << 10);
    let (from, to) = (format!("/lus/home/{name}/"), format!("/lus/work/{name}"));
    cluster.create_movement(name, &from, &to, json!({"command": SLOW})).await;
    eventually("some files to be copied", async || (copied(cluster, name) >= 4).then_some(()))
        .await;
}

fn copied(cluster: &Cluster, name: &str) -> usize {
    let folder = fs::read_dir(cluster.data("work").join(name)).into_iter().flatten();
    let names = folder.map(|entry| entry.unwrap().file_name());
    names.filter(|name| name.to_string_lossy().starts_with("file-")).count()
}

async fn end_slow_copy(cluster: &Cluster, name: &str, restarts: Option<i64>) {
    let status = cluster.finished(name).await;
    assert_success(&status, restarts);
    assert_copied(&cluster.data("home").join(name), &cluster.data("work").join(name), 24);
}

pub async fn a_killed_mover_is_started_again(cluster: &Cluster) {
    begin_slow_copy(cluster, "mover").await;
    kill(&movers()[0]);
    end_slow_copy(cluster, "mover", Some(1)).await;
    assert_eq!(cluster.container_restarts().await, 0);
}

pub async fn a_killed_container_is_started_again(cluster: &Cluster) {
    begin_slow_copy(cluster, "container").await;
    let worker = &workers()[0];
    kill(worker);
    end_slow_copy(cluster, "container", Some(1)).await;
    assert_eq!(cluster.container_restarts().await, 1);
    assert_ne!(workers()[0].pid, worker.pid);
}

pub async fn a_kubelet_that_is_restarted_stops_nothing(cluster: &Cluster) {
    begin_slow_copy(cluster, "kubelet").await;
    let (worker, restarts) = (workers()[0].pid, cluster.container_restarts().await);
    cluster.node.restart_kubelet().unwrap();
    end_slow_copy(cluster, "kubelet", None).await;
    assert_eq!((workers()[0].pid, cluster.container_restarts().await), (worker, restarts));
}

/// A copy between two others keeps the worker for a while, which has to end before the filesystem is
/// released.
pub async fn a_file_system_is_released_after_its_last_mount(cluster: &Cluster) {
    begin_slow_copy(cluster, "drained").await;
    let before = cluster.worker().await.name_any();
    cluster.file_systems().delete("old", &DeleteParams::default()).await.unwrap();
    let mut seen_mounted_while_deleted = false;
    eventually("the filesystem to be gone", async || {
        // Looked at in this order: what is released is not mounted any more, seen later.
        let gone = cluster.file_systems().get_opt("old").await.unwrap().is_none();
        let mounted =
            processes::find(&["/dm-worker"]).iter().any(|one| one.has_mounted("/lus/old"));
        assert!(!(gone && mounted), "released while it is mounted");
        seen_mounted_while_deleted |= mounted;
        gone.then_some(())
    })
    .await;
    assert!(seen_mounted_while_deleted);
    eventually("the new worker", async || cluster.ready().await.then_some(())).await;
    assert_ne!(cluster.worker().await.name_any(), before);
    let worker = &workers()[0];
    assert!(worker.has_mounted("/lus/home") && worker.has_mounted("/lus/work"));
    end_slow_copy(cluster, "drained", None).await;
}
