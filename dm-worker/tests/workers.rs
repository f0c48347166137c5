//! Workers against each other, and their own ends: exactly one copies, and what one leaves the next one
//! finishes without starting over.
#![allow(clippy::unwrap_used)] // tests

mod support;

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use longshore::api::data_movement_shard::{DataMovementShardStatus, MOUNTS_ANNOTATION, ShardState};
use nix::mount::{MsFlags, mount, umount};
use nix::sys::signal::Signal;
use support::{Cluster, assert_same, cluster, gone_within, is, outcome, runs};

/// Creates a copy of 300 files that takes about five seconds; returns both of its ends.
async fn slow_tree(cluster: &Cluster, name: &str, node: Option<&str>) -> (PathBuf, PathBuf) {
    tree(cluster, name, node, 300).await
}

/// As [`slow_tree`], with so many files.
async fn tree(
    cluster: &Cluster,
    name: &str,
    node: Option<&str>,
    files: usize,
) -> (PathBuf, PathBuf) {
    let from = cluster.place.tree(&format!("{name}.in"), files);
    let to = cluster.place.directory(&format!("{name}.out"));
    let mut shard = cluster.shard(name, node, &from, &to);
    shard.spec.options = Some(vec!["--ops-limit=60".to_owned()]);
    cluster.create(&shard).await;
    let copy = to.join(format!("{name}.in"));
    (from, copy)
}

async fn far(cluster: &Cluster, name: &str) {
    cluster.copied(name, 101).await;
}

#[tokio::test]
async fn of_several_workers_exactly_one_copies_each_shard() {
    const SHARDS: usize = 40;
    let Some(cluster) = cluster("race").await else { return };
    let mut workers = Vec::new();
    for node in ["n1", "n2", "n3"] {
        workers.push(cluster.start_worker(node, &[]));
    }
    for worker in &workers {
        worker.ready().await;
    }
    let from = cluster.place.tree("in", 3);
    let to = cluster.place.directory("out");
    for number in 0..SHARDS {
        let name = format!("s{number}");
        cluster.create(&cluster.shard(&name, None, &from, &to.join(&name))).await;
    }
    let mut did = std::collections::BTreeMap::new();
    for number in 0..SHARDS {
        let name = format!("s{number}");
        let status = cluster.finished(&name).await;
        assert_eq!((outcome(&status).as_str(), status.attempts), ("Success", Some(1)), "{name}");
        *did.entry(status.worker.unwrap()).or_insert(0) += 1;
        assert_same(&from, &to.join(&name).join("in"));
    }
    let won: f64 =
        workers.iter().map(|w| w.metric("longshore_worker_claims_total{result=\"won\"}")).sum();
    #[allow(clippy::cast_precision_loss)] // forty
    let expected = SHARDS as f64;
    assert!((won - expected).abs() < 0.1, "{won} claims for {SHARDS} shards: {did:?}");
    let files: f64 = workers.iter().map(|w| w.metric("longshore_worker_copied_files_total")).sum();
    assert!((files - 3.0 * expected).abs() < 0.1, "{files} files copied");
    assert!(did.len() > 1, "one worker did everything: {did:?}");
    for worker in &workers {
        worker.end().await;
        assert!(worker.movers().is_empty());
    }
    assert_eq!(cluster.leases().await, 0);
}

#[tokio::test]
async fn a_killed_worker_leaves_no_mover_and_its_successor_goes_on() {
    let Some(cluster) = cluster("crash").await else { return };
    let worker = cluster.worker("n1", &[]).await;
    let (from, to) = slow_tree(&cluster, "crashed", Some("n1")).await;
    far(&cluster, "crashed").await;
    let mover = worker.mover().await;
    worker.kill().await;
    // Nobody tells it: it notices.
    gone_within(mover, Duration::from_secs(3)).await;
    let status = cluster.status("crashed").await;
    assert!(is(&status, ShardState::Running), "nobody is there to say otherwise");
    assert_eq!(status.counters, None, "how far it was is on the Lease");
    let attempts = async || {
        let said = cluster.reports().await.into_values();
        said.map(|said| said.attempt).collect::<Vec<_>>()
    };
    assert_eq!(attempts().await, [1], "the last word stays");

    let worker = cluster.worker("n1", &[]).await;
    assert!(!attempts().await.contains(&1), "a new worker says nothing of what was before it");
    let status = cluster.finished("crashed").await;
    assert_eq!((outcome(&status).as_str(), status.attempts), ("Success", Some(2)), "{status:#?}");
    assert!(status.counters.unwrap().resumed_files > 50, "it started over");
    assert_same(&from, &to);

    // One whose mover cannot notice: the kernel ends it (stopped, in a group without a parent), and if
    // it did not, the next worker would, before it is ready.
    let (from, to) = slow_tree(&cluster, "frozen", Some("n1")).await;
    far(&cluster, "frozen").await;
    let mover = worker.mover().await;
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(mover), Signal::SIGSTOP).unwrap();
    worker.kill().await;
    let worker = cluster.worker("n1", &[]).await;
    assert!(!runs(mover), "two movers of one shard");
    assert_eq!(outcome(&cluster.finished("frozen").await), "Success");
    assert_same(&from, &to);
    worker.end().await;
    assert_eq!(fs::read_dir(&worker.run_dir).unwrap().count(), 1, "only the lock is left");
    assert_eq!(cluster.leases().await, 0);
}

/// A pod that was lost with its node comes back as another one.
#[tokio::test]
async fn a_worker_in_another_pod_goes_on_with_what_the_one_before_it_had() {
    let Some(cluster) = cluster("other-pod").await else { return };
    let worker = cluster.worker("n1", &["--lease-seconds", "4"]).await;
    let (from, to) = slow_tree(&cluster, "left", Some("n1")).await;
    far(&cluster, "left").await;
    worker.kill().await;
    let worker = cluster.start_worker_in("another-pod", "n1", &["--lease-seconds", "4"]);
    let status = cluster.finished("left").await;
    assert_eq!((outcome(&status).as_str(), status.attempts), ("Success", Some(2)), "{status:#?}");
    assert_eq!(status.worker.as_deref(), Some("another-pod"));
    assert_same(&from, &to);
    worker.end().await;
    assert_eq!(cluster.leases().await, 0);
}

#[tokio::test]
async fn a_frozen_worker_copies_nothing_after_its_lease() {
    let Some(cluster) = cluster("fenced").await else { return };
    let worker = cluster.worker("n1", &["--lease-seconds", "5"]).await;
    let (from, to) = tree(&cluster, "fenced", None, 600).await;
    far(&cluster, "fenced").await;
    let mover = worker.mover().await;
    // All of the node is frozen: what goes on later must not write even for a moment.
    worker.signal(Signal::SIGSTOP);
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(mover), Signal::SIGSTOP).unwrap();
    let frozen = Instant::now();
    // Its movers end before the Lease runs out.
    gone_within(mover, Duration::from_secs(5)).await;
    assert!(frozen.elapsed() < Duration::from_secs(5));
    // The shard is put back, as the manager does when the Lease has run out, and another worker has it.
    let renewed = cluster.lease("n1").await.unwrap().spec.unwrap().renew_time.unwrap().0;
    while jiff::Timestamp::now() < renewed + jiff::SignedDuration::from_secs(6) {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let released = serde_json::json!({"status": {"state": null, "worker": null, "lease": null}});
    let how = kube::api::PatchParams::default();
    let patch = kube::api::Patch::Merge(released);
    cluster.shards().patch_status("fenced", &how, &patch).await.unwrap();
    let other = cluster.worker("n2", &[]).await;
    cluster.until("fenced", "taken", |status| status.attempts == Some(2)).await;
    worker.signal(Signal::SIGCONT);
    let status = cluster.finished("fenced").await;
    assert_eq!(outcome(&status), "Success", "{status:#?}");
    assert_eq!(status.worker.as_deref(), Some("pod-of-n2"), "the fenced worker wrote");
    assert!(status.counters.unwrap().resumed_files > 50, "it started over");
    assert_same(&from, &to);
    // It is of use again.
    worker.ready().await;
    assert!((worker.metric("longshore_worker_lease_losses_total") - 1.0).abs() < 0.1);
    let (from, to) = slow_tree(&cluster, "later", Some("n1")).await;
    assert_eq!(outcome(&cluster.finished("later").await), "Success");
    assert_same(&from, &to);
    worker.end().await;
    other.end().await;
}

#[tokio::test]
async fn a_worker_that_is_asked_to_end_lets_copies_finish_or_puts_them_back() {
    let Some(cluster) = cluster("drain").await else { return };
    let worker = cluster.worker("n1", &["--drain-seconds", "30"]).await;
    let (from, to) = slow_tree(&cluster, "finishes", Some("n1")).await;
    far(&cluster, "finishes").await;
    worker.signal(Signal::SIGTERM);
    worker.until("not ready", || worker.get("/readyz").is_none_or(|(code, _)| code == 503)).await;
    assert!(worker.get("/healthz").is_none_or(|(code, _)| code == 200));
    // What comes now waits for the next worker.
    let (next_from, next_to) = slow_tree(&cluster, "next", Some("n1")).await;
    assert!(worker.ended().await);
    let status = cluster.status("finishes").await;
    assert_eq!((outcome(&status).as_str(), status.attempts), ("Success", Some(1)), "{status:#?}");
    assert_same(&from, &to);
    assert!(cluster.status("next").await.state.is_none());

    let worker = cluster.worker("n1", &["--drain-seconds", "0"]).await;
    far(&cluster, "next").await;
    let mover = worker.mover().await;
    worker.end().await;
    assert!(!runs(mover));
    let status = cluster.status("next").await;
    assert!(status.state.is_none() && status.attempts == Some(1), "{status:#?}");
    assert_eq!(cluster.leases().await, 0, "nobody has to wait for its Lease");
    let worker = cluster.worker("n1", &[]).await;
    let status = cluster.finished("next").await;
    assert_eq!((outcome(&status).as_str(), status.attempts), ("Success", Some(2)), "{status:#?}");
    assert!(status.counters.unwrap().resumed_files > 50, "it started over");
    assert_same(&next_from, &next_to);
    worker.end().await;
}

#[tokio::test]
async fn users_take_turns_and_no_more_movers_run_than_may() {
    let Some(cluster) = cluster("fair").await else { return };
    let from = cluster.place.tree("in", 20);
    let to = cluster.place.directory("out");
    // Everybody may write here: the second user has files of its own there.
    fs::set_permissions(&to, std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
    let create = async |name: String, user: u32| {
        let mut shard = cluster.shard(&name, Some("n1"), &from, &to.join(&name));
        shard.spec.user_id = user;
        shard.spec.options = Some(vec!["--ops-limit=40".to_owned()]);
        cluster.create(&shard).await;
    };
    for number in 0..8 {
        create(format!("many-{number}"), support::USER).await;
    }
    create("few-0".to_owned(), support::USER + 1).await;
    let worker = cluster.worker("n1", &["--movers", "2"]).await;
    let mut most = 0;
    let deadline = Instant::now() + support::SOON;
    loop {
        most = most.max(worker.movers().len());
        let all = cluster.shards().list(&kube::api::ListParams::default()).await.unwrap();
        if all.items.iter().all(|s| s.status.as_ref().is_some_and(|s| is(s, ShardState::Finished)))
        {
            let began = |name: &str| {
                let shard = all.items.iter().find(|s| s.metadata.name.as_deref() == Some(name));
                shard.unwrap().status.clone().unwrap().start_time.unwrap()
            };
            let earlier = (0..8).filter(|n| began(&format!("many-{n}")) < began("few-0")).count();
            assert!(earlier <= 2, "{earlier} of the user with many came first");
            break;
        }
        assert!(Instant::now() < deadline);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(most, 2);
    worker.end().await;
}

#[tokio::test]
async fn shards_of_no_node_wait_for_a_worker_with_their_filesystems() {
    let Some(cluster) = cluster("mounts").await else { return };
    let (here, missing) = ("/proc", cluster.place.path("lus"));
    let mounts = format!("{here},{}", missing.display());
    let worker = cluster.worker("n1", &["--mount", &mounts]).await;
    let from = cluster.place.tree("lus/in", 3);
    let to = cluster.place.directory("lus/out");
    cluster.create(&cluster.shard("waits", None, &from, &to)).await;
    // One for this node is not held up by it.
    cluster
        .create(&cluster.shard("pinned", Some("n1"), &from, &cluster.place.directory("o")))
        .await;
    cluster.finished("pinned").await;
    assert!(cluster.status("waits").await.state.is_none(), "without its filesystem");
    let lease = cluster.lease("n1").await.unwrap();
    let report = &lease.metadata.annotations.unwrap()[MOUNTS_ANNOTATION];
    let report: serde_json::Value = serde_json::from_str(report).unwrap();
    assert_eq!(report[here], serde_json::json!({"mounted": true, "type": "proc"}));
    assert_eq!(report[missing.to_str().unwrap()], serde_json::json!({"mounted": false}));
    assert!((worker.metric("longshore_worker_missing_mounts") - 1.0).abs() < 0.1);
    // A worker that needs no mounts does it.
    let other = cluster.worker("n2", &[]).await;
    assert_eq!(cluster.finished("waits").await.worker.as_deref(), Some("pod-of-n2"));
    worker.end().await;
    other.end().await;
}

/// Two movements with the same source and destination: the second one goes on when the first has ended.
#[tokio::test]
async fn the_same_copy_waits_for_the_one_that_runs() {
    let Some(cluster) = cluster("twice").await else { return };
    let worker = cluster.worker("n1", &[]).await;
    let (from, copy) = slow_tree(&cluster, "first", Some("n1")).await;
    cluster.copied("first", 1).await;
    let again = cluster.get("first").await;
    for (name, stays) in [("second", true), ("cancelled", false)] {
        let mut shard = cluster.shard(name, Some("n1"), &from, &from);
        shard.spec = again.spec.clone();
        cluster.create(&shard).await;
        let waits = |status: &DataMovementShardStatus| {
            status.message.as_ref().is_some_and(|text| text.contains("another run"))
        };
        cluster.until(name, "waiting", waits).await;
        if !stays {
            cluster.cancel(name).await;
            assert_eq!(outcome(&cluster.finished(name).await), "Cancelled");
        }
    }
    assert!(!is(&cluster.status("first").await, ShardState::Finished), "too slow to see anything");
    cluster.cancel("first").await;
    let status = cluster.finished("second").await;
    assert_eq!((outcome(&status).as_str(), status.attempts), ("Success", Some(1)), "{status:#?}");
    assert_same(&from, &copy);
    worker.end().await;
}

/// The directory that storage of a job was mounted on stays when that is gone, as after the node was started
/// anew: a copy of it would be a success without anything in it.
#[tokio::test]
async fn shards_of_this_node_wait_for_the_storage_of_their_job() {
    let Some(cluster) = cluster("storage").await else { return };
    let storage = cluster.place.directory("nnf");
    let job = cluster.place.directory("nnf/job-0");
    let storage = ["--job-storage", storage.to_str().unwrap()];
    let worker = cluster.worker("n1", &storage).await;
    let to = cluster.place.directory("out");
    cluster.create(&cluster.shard("waits", Some("n1"), &job, &to)).await;
    worker.until("waiting", || worker.log().contains("a copy waits for a filesystem")).await;
    // Others are not held up by it.
    let tree = cluster.place.tree("in", 3);
    cluster.create(&cluster.shard("other", Some("n1"), &tree, &to)).await;
    cluster.finished("other").await;
    assert!(cluster.status("waits").await.state.is_none(), "without the storage of its job");

    let (none, storage_of_job) = (None::<&str>, cluster.place.directory("behind"));
    cluster.place.tree("behind/results", 3);
    mount(Some(&storage_of_job), &job, none, MsFlags::MS_BIND, none).unwrap();
    let status = cluster.finished("waits").await;
    let same = || assert_same(&tree, &to.join("job-0/results"));
    let copied = std::panic::catch_unwind(same);
    umount(&job).unwrap();
    assert_eq!(outcome(&status), "Success", "{status:#?}");
    copied.unwrap();
    worker.end().await;

    let plain = cluster.worker("n1", &[storage[0], storage[1], "--plain-job-storage"]).await;
    cluster.create(&cluster.shard("plain", Some("n1"), &job, &to)).await;
    assert_eq!(outcome(&cluster.finished("plain").await), "Success");
    plain.end().await;
}
