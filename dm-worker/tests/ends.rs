//! How copies end before they are done: cancelled, deleted, killed, hung. No mover is left, and the status
//! is true.
#![allow(clippy::unwrap_used)] // tests

mod support;

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use dm_service::since_boot;
use kube::api::DeleteParams;
use longshore::api::DataMovementShard;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;
use support::{Cluster, assert_same, cluster, gone_within, outcome, runs};

/// A copy of one file that takes about ten seconds.
fn slow(cluster: &Cluster, name: &str) -> DataMovementShard {
    let from = cluster.place.file(&format!("{name}.in"), 10 << 20);
    let to = cluster.place.directory(&format!("{name}.out")).join("file");
    let mut shard = cluster.shard(name, Some("n1"), &from, &to);
    shard.spec.options = Some(vec!["--bandwidth-limit=1M".to_owned()]);
    shard
}

fn signal(pid: i32, signal: Signal) {
    kill(Pid::from_raw(pid), signal).unwrap();
}

/// What is at the destination of a slow copy that was not finished: nothing under the file's own name.
fn assert_nothing_half(shard: &DataMovementShard) {
    assert!(!Path::new(&shard.spec.destination).exists(), "half a file under its name");
}

#[tokio::test]
async fn a_cancelled_copy_has_ended_within_two_seconds() {
    let Some(cluster) = cluster("cancel").await else { return };
    let worker = cluster.worker("n1", &[]).await;
    let shard = slow(&cluster, "cancelled");
    cluster.create(&shard).await;
    cluster.copied("cancelled", 0).await;
    let mover = worker.mover().await;
    let asked = Instant::now();
    cluster.cancel("cancelled").await;
    gone_within(mover, Duration::from_secs(2)).await;
    let status = cluster.finished("cancelled").await;
    assert!(asked.elapsed() < Duration::from_secs(2), "after {:?}", asked.elapsed());
    assert_eq!(outcome(&status), "Cancelled");
    assert_eq!((status.message, status.error.is_none()), (None, true));
    assert!(status.end_time.is_some() && status.percent < Some(100));
    assert_nothing_half(&shard);
    assert!(worker.movers().is_empty());

    // The same with a mover that does not listen: it is killed.
    let shard = slow(&cluster, "frozen");
    cluster.create(&shard).await;
    let mover = worker.mover().await;
    cluster.running("frozen").await;
    signal(mover, Signal::SIGSTOP);
    let asked = Instant::now();
    cluster.cancel("frozen").await;
    let status = cluster.finished("frozen").await;
    assert!(asked.elapsed() < Duration::from_secs(2), "after {:?}", asked.elapsed());
    assert_eq!((outcome(&status).as_str(), status.exit_code), ("Cancelled", Some(137)));
    assert!(!runs(mover));

    // One that is cancelled before it was claimed is never begun.
    worker.end().await;
    let shard = slow(&cluster, "early");
    cluster.create(&shard).await;
    cluster.cancel("early").await;
    cluster
        .create(&cluster.shard(
            "after",
            Some("n1"),
            &cluster.place.tree("t", 1),
            &cluster.place.directory("o"),
        ))
        .await;
    let _worker = cluster.worker("n1", &[]).await;
    cluster.finished("after").await;
    assert!(cluster.status("early").await.state.is_none());
    assert_nothing_half(&shard);
}

/// A worker that is stopped just when it has given the order cannot say anything after it.
#[test]
fn a_mover_that_hears_of_nothing_but_its_order_has_an_end() {
    let place = tempfile::tempdir().unwrap();
    let (from, to) = (place.path().join("in"), place.path().join("out"));
    fs::write(&from, vec![1; 20 << 20]).unwrap();
    let order = json!({
        "type": "begin", "source": from, "destination": to, "options": ["--bandwidth-limit=1M"],
        "preparation": null, "dry_run": false, "count_ahead": false,
        "end_by_milliseconds": u64::try_from(since_boot().as_millis()).unwrap() + 1000,
    });
    let mut mover = Command::new(env!("CARGO_BIN_EXE_dm-worker"));
    mover.arg("mover").stdin(Stdio::piped()).stdout(Stdio::null());
    let mut mover = mover.spawn().unwrap();
    let mut orders = mover.stdin.take().unwrap();
    writeln!(orders, "{order}").unwrap();
    let begin = Instant::now();
    let status = loop {
        if let Some(status) = mover.try_wait().unwrap() {
            break status;
        }
        if begin.elapsed() > Duration::from_secs(10) {
            mover.kill().unwrap();
            mover.wait().unwrap();
            panic!("it goes on");
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    assert!(!status.success() && !to.exists(), "{status}");
    assert!(begin.elapsed() > Duration::from_millis(500), "it did not begin: {status}");
    drop(orders);
}

#[tokio::test]
async fn a_deleted_shard_leaves_no_mover() {
    let Some(cluster) = cluster("deleted").await else { return };
    let worker = cluster.worker("n1", &[]).await;
    let shard = slow(&cluster, "deleted");
    cluster.create(&shard).await;
    cluster.running("deleted").await;
    let mover = worker.mover().await;
    cluster.shards().delete("deleted", &DeleteParams::default()).await.unwrap();
    gone_within(mover, Duration::from_secs(2)).await;
    worker.until("without notes", || worker.movers().is_empty()).await;
    assert_nothing_half(&shard);
    // Made anew under its name it is another shard.
    let mut again = slow(&cluster, "deleted");
    again.spec.options = None;
    cluster.create(&again).await;
    assert_eq!(outcome(&cluster.finished("deleted").await), "Success");
    worker.end().await;
}

#[tokio::test]
async fn a_killed_mover_is_started_again_and_goes_on_where_it_was() {
    let Some(cluster) = cluster("killed").await else { return };
    let worker = cluster.worker("n1", &["--attempts", "2"]).await;
    let from = cluster.place.tree("in", 300);
    let to = cluster.place.directory("out");
    let mut shard = cluster.shard("killed", Some("n1"), &from, &to);
    shard.spec.options = Some(vec!["--ops-limit=60".to_owned()]);
    cluster.create(&shard).await;
    cluster.copied("killed", 101).await;
    signal(worker.mover().await, Signal::SIGKILL);
    let status =
        cluster.until("killed", "started again", |status| status.attempts == Some(2)).await;
    assert!(status.message.unwrap().contains("SIGKILL"));
    let status = cluster.finished("killed").await;
    assert_eq!(outcome(&status), "Success", "{status:#?}");
    let counters = status.counters.unwrap();
    assert_eq!(counters.files, 300);
    assert!(counters.resumed_files > 50, "it started over: {counters:?}");
    assert_same(&from, &to.join("in"));
    let copied = worker.metric("longshore_worker_copied_files_total");
    assert!(copied < 400.0, "{copied} files were copied of 300");

    // What kills a mover each time ends at the limit.
    let shard = slow(&cluster, "again-and-again");
    cluster.create(&shard).await;
    cluster.running("again-and-again").await;
    let first = worker.mover().await;
    signal(first, Signal::SIGKILL);
    worker.until("with another mover", || worker.movers().iter().any(|pid| *pid != first)).await;
    signal(worker.mover().await, Signal::SIGKILL);
    let status = cluster.finished("again-and-again").await;
    assert_eq!((outcome(&status).as_str(), status.attempts), ("Failed", Some(2)), "{status:#?}");
    assert!(status.error.unwrap().user_message.unwrap().contains("SIGKILL"));
    assert_nothing_half(&shard);
    assert!((worker.metric("longshore_worker_mover_crashes_total") - 3.0).abs() < 0.1);
    worker.end().await;
}

#[tokio::test]
async fn a_mover_is_bounded_and_has_nothing_of_its_worker() {
    let Some(cluster) = cluster("bounds").await else { return };
    let worker = cluster.worker("n1", &["--mover-memory", "512"]).await;
    cluster.create(&slow(&cluster, "bounded")).await;
    cluster.running("bounded").await;
    let mover = worker.mover().await;
    let read = |name: &str| fs::read_to_string(format!("/proc/{mover}/{name}")).unwrap();
    let bytes = (512_u64 << 20).to_string();
    worker
        .until("bounded", || {
            read("limits")
                .lines()
                .any(|line| line.starts_with("Max data size") && line.contains(&bytes))
        })
        .await;
    let status = read("status");
    let line = |name: &str| {
        status.lines().find_map(|line| line.strip_prefix(name)).unwrap().trim().to_owned()
    };
    let four = |id: u32| [id; 4].map(|id| id.to_string()).join("\t");
    assert_eq!(line("Uid:"), four(support::USER));
    assert_eq!(line("Gid:"), four(support::GROUP));
    assert_eq!(line("Groups:"), "", "supplementary groups");
    assert_eq!(line("CapEff:"), "0000000000000000");
    assert_eq!(line("CapPrm:"), "0000000000000000");
    assert_eq!(line("NoNewPrivs:"), "1");
    assert_eq!(read("environ"), "", "environment");
    assert_eq!(fs::read_link(format!("/proc/{mover}/cwd")).unwrap(), Path::new("/"));
    assert_eq!(nix::unistd::getpgid(Some(Pid::from_raw(mover))).unwrap().as_raw(), mover);
    for descriptor in fs::read_dir(format!("/proc/{mover}/fd")).unwrap() {
        let Ok(target) = fs::read_link(descriptor.unwrap().path()) else { continue };
        assert!(!target.to_string_lossy().contains("socket"), "a connection of the worker");
    }
    cluster.cancel("bounded").await;
    cluster.finished("bounded").await;
    worker.end().await;
}

#[tokio::test]
async fn what_does_not_move_is_stopped_with_a_reason() {
    let Some(cluster) = cluster("stall").await else { return };
    let worker = cluster.worker("n1", &["--stall-seconds", "3"]).await;
    let shard = slow(&cluster, "stalled");
    cluster.create(&shard).await;
    cluster.copied("stalled", 0).await;
    let mover = worker.mover().await;
    signal(mover, Signal::SIGSTOP);
    let status = cluster.finished("stalled").await;
    assert_eq!(outcome(&status), "Failed");
    let message = status.message.unwrap();
    assert!(message.contains("nothing moved for 3 s"), "{message}");
    assert!(!runs(mover));
    assert!((worker.metric("longshore_worker_mover_stalls_total") - 1.0).abs() < 0.1);
    worker.end().await;
}

#[tokio::test]
async fn a_copy_on_a_filesystem_that_hangs_is_given_up_with_words() {
    let Some(cluster) = cluster("hung").await else { return };
    if !Path::new("/dev/fuse").exists() {
        return test_cluster::skip("needs /dev/fuse");
    }
    let (at, behind) = (cluster.place.path("lus"), cluster.place.directory("behind"));
    fs::create_dir(&at).unwrap();
    let settings = lustre_emulator::Settings::new(1, &lustre_emulator::OstSettings::default());
    let lustre = lustre_emulator::Emulator::mount(&at, &behind, settings).unwrap();
    let options = ["--stall-seconds", "3", "--give-up-seconds", "3"];
    let worker = cluster.worker("n1", &options).await;
    let from = cluster.place.tree("in", 50);
    for name in ["hangs", "hangs-and-is-cancelled"] {
        let mut shard = cluster.shard(name, Some("n1"), &from, &at.join(name));
        shard.spec.options = Some(vec!["--ops-limit=10".to_owned()]);
        cluster.create(&shard).await;
        cluster.copied(name, 0).await;
        lustre.ost(0).stall();
        let mover = worker.mover().await;
        if name == "hangs" {
            let status = cluster.finished(name).await;
            assert_eq!(outcome(&status), "Failed");
            let message = status.message.unwrap();
            assert!(message.contains("nothing moved for 3 s"), "{message}");
            assert!(message.contains("wait in the kernel (state D)"), "{message}");
        } else {
            cluster.cancel(name).await;
            let status = cluster.finished(name).await;
            assert_eq!(outcome(&status), "Cancelled");
            let message = status.message.unwrap_or_default();
            assert!(message.contains("wait in the kernel (state D)"), "{message}");
        }
        // It ends when the filesystem answers, and then nothing is left of it.
        lustre.ost(0).resume();
        gone_within(mover, support::SOON).await;
        worker.until("without notes", || worker.movers().is_empty()).await;
    }
    worker.end().await;
    lustre.unmount();
}
