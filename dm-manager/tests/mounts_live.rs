//! Workers that mount global Lustre filesystems in place (`--mounts=live`), beside `mounts.rs`, which has the
//! other strategy: real workers with the rights of `deploy/`, real mounts, real copies, and no pod that is
//! restarted.
#![allow(clippy::unwrap_used, clippy::print_stderr, unreachable_pub)] // tests
#![allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // numbers of a scrape

#[path = "support/live.rs"]
mod live;
mod support;
#[path = "support/workers.rs"]
mod workers;

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use kube::ResourceExt;
use live::{Live, USER};
use serde_json::json;
use support::cluster::refusals;
use support::printed;
use workers::{FINALIZER, eventually};

/// What CAP_SYS_ADMIN is among the capabilities of a process.
const SYS_ADMIN: u64 = 1 << 21;

/// A line of /proc/PID/status, as a number to the base of 16.
fn capabilities(pid: u32, which: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(which)).unwrap();
    u64::from_str_radix(line.trim(), 16).unwrap()
}

/// Row 15 and trap 20 as `live` has them.
#[tokio::test]
async fn ten_copies_run_on_while_filesystems_come_and_go() {
    const COPIES: usize = 10;
    const FILES: usize = 32;
    let (nodes, all) = (["a", "b"], ["home", "work", "old", "one", "other"]);
    let Some(live) = Live::new("ten", &nodes, &all).await else { return };
    let refused = refusals(&live.scene.client).await;
    let _manager = live.start(&[]).await;
    for name in ["home", "work", "old"] {
        live.create(name).await;
    }
    live.mounted(&["home", "work", "old"]).await;
    let before = live.pods().await;
    let generation = live.scene.daemon_set().await.unwrap().metadata.generation;
    let mut copies = Vec::new();
    for number in 0..COPIES {
        // One of them is root's, which must not have the right to mount that its worker has.
        let user = if number == 0 { 0 } else { USER };
        copies.push(live.copy(&format!("copy-{number}"), user, "home", "work", FILES).await);
    }
    eventually("every copy to have copied something", async || {
        copies.iter().all(|copy| copy.files() >= 4).then_some(())
    })
    .await;
    let mut roots = 0;
    for node in nodes {
        let worker = live.worker(node).await;
        assert_ne!(capabilities(worker, "CapEff:") & SYS_ADMIN, 0, "the worker can mount");
        for mover in live.movers(node) {
            roots += usize::from(capabilities(mover, "CapEff:") != 0);
            assert_eq!(capabilities(mover, "CapPrm:") & SYS_ADMIN, 0, "a mover can mount");
        }
    }
    assert_eq!(roots, 1, "the copy of root has other rights");

    tokio::join!(live.create("one"), live.create("other"), live.scene.delete_file_system("old"));
    let file_systems = live.scene.file_systems();
    eventually("the old one to be let go", async || {
        // Mounts first: what is seen after the object was seen could have changed in between.
        let mounted = live.anybody_sees(&nodes, "old").await;
        let object = file_systems.get_opt("old").await.unwrap();
        assert!(
            !mounted || object.as_ref().is_some_and(|one| one.finalizers() == [FINALIZER]),
            "let go while it was mounted"
        );
        object.is_none().then_some(())
    })
    .await;
    live.mounted(&["home", "work", "one", "other"]).await;
    assert!(live.sees(&nodes, "one").await && live.sees(&nodes, "other").await);
    assert!(!live.anybody_sees(&nodes, "old").await);
    assert!(copies.iter().any(|copy| copy.files() < FILES), "it took longer than the copies");
    for copy in &copies {
        let status = live.succeeded(copy).await;
        assert_eq!(status["restarts"].as_i64().unwrap_or(0), 0, "{status:#}");
    }
    assert_eq!(live.pods().await, before, "pods were replaced, or their containers restarted");
    let after = live.scene.daemon_set().await.unwrap();
    assert_eq!(after.metadata.generation, generation, "the workers' description has changed");
    let refused = refusals(&live.scene.client).await - refused;
    assert_eq!(refused, 0.0, "requests that were refused for want of rights");
    live.scene.end().await;
}

#[tokio::test]
async fn a_node_that_cannot_mount_is_named_and_stops_nobody_else() {
    let nodes = ["a", "b", "c"];
    let Some(live) = Live::new("cannot", &nodes, &["good", "lame", "hung"]).await else { return };
    live.lose("a", "lame");
    // On this node the helper waits for what never comes.
    live.lose("b", "hung");
    let fifo = live.scene.nodes.node(&live.scene.node_name("b")).path("/lustre/hung");
    fs::remove_dir(&fifo).unwrap();
    assert!(Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    let _manager = live.start(&["--mount-seconds=2"]).await;
    for name in ["lame", "hung", "good"] {
        live.create(name).await;
    }
    live.scene.condition("good", |condition| condition["reason"] == "Mounted").await;
    for (name, node, why) in [
        ("lame", "a", "mount.lustre: mount 10.1.1.1@tcp:/lame at /lus/lame failed"),
        ("hung", "b", "it takes longer than 2 s"),
    ] {
        let failed = live.scene.condition(name, |one| one["reason"] == "MountFailed").await;
        let message = failed["message"].as_str().unwrap();
        let node = live.scene.node_name(node);
        assert!(message.starts_with(&format!("{node}: ")) && message.contains(why), "{message}");
        eventually("an Event", async || {
            let events = live.scene.events("MountFailed").await;
            events.iter().any(|event| event.contains(&node) && event.contains(why)).then_some(())
        })
        .await;
    }
    eventually("the others to have them", async || {
        (live.sees(&["b", "c"], "lame").await && live.sees(&["a", "c"], "hung").await).then_some(())
    })
    .await;
    assert_eq!(live.scene.ready().await, Some(false));
    // Copies go on where everything is there.
    let copy = live.copy("beside", USER, "lame", "good", 1).await;
    live.succeeded(&copy).await;
    // One is deleted although it is not mounted everywhere, and the other one can be mounted at last.
    live.scene.delete_file_system("hung").await;
    live.scene.wait_gone("hung").await;
    live.reach("a", "lame");
    live.mounted(&["good", "lame"]).await;
    assert!(live.sees(&nodes, "lame").await);
    live.scene.end().await;
}

#[tokio::test]
async fn a_worker_that_is_killed_mounts_again_and_its_copy_goes_on() {
    let Some(live) = Live::new("crash", &["a"], &["home", "work"]).await else { return };
    let _manager = live.start(&[]).await;
    live.create("home").await;
    live.create("work").await;
    live.mounted(&["home", "work"]).await;
    let before = live.pods().await;
    let copy = live.copy("copy", USER, "home", "work", 16).await;
    eventually("some of it", async || (copy.files() >= 4).then_some(())).await;
    let worker = live.worker("a").await;
    let killed = Command::new("kill").args(["-s", "KILL", &worker.to_string()]).status().unwrap();
    assert!(killed.success());
    let status = live.succeeded(&copy).await;
    let after = live.pods().await;
    assert_eq!((&after[0].0, after[0].1), (&before[0].0, before[0].1 + 1), "{status:#}");
    live.mounted(&["home", "work"]).await;
    assert!(live.sees(&["a"], "work").await);
    // The new one unmounts as the old one would have.
    live.scene.delete_file_system("work").await;
    live.scene.wait_gone("work").await;
    assert!(!live.anybody_sees(&["a"], "work").await);
    live.scene.end().await;
}

#[tokio::test]
async fn copies_on_a_deleted_filesystem_are_put_back_and_whoever_stays_is_named() {
    let Some(live) = Live::new("busy", &["a"], &["home", "work", "next"]).await else { return };
    let _manager = live.start(&["--drain-seconds=1"]).await;
    live.create("home").await;
    live.create("work").await;
    live.mounted(&["home", "work"]).await;
    let copy = live.copy("copy", USER, "home", "work", 60).await;
    eventually("some of it", async || (copy.files() >= 2).then_some(())).await;
    // Somebody looks around there, as with `kubectl exec`, who has no more rights than the worker.
    let worker = live.worker("a").await.to_string();
    let mut guest = Command::new("nsenter");
    guest.args(["--mount", "--root", "--target", &worker, "setpriv", "--inh-caps=-all"]);
    guest.args(["--bounding-set=-all", "sh", "-c", "cd /lus/work && exec sleep 600"]);
    let mut guest = guest.spawn().unwrap();
    let inside = format!("/proc/{}/cwd", guest.id());
    eventually("the guest to be there", async || {
        fs::read_link(&inside).is_ok_and(|path| path.ends_with("lus/work")).then_some(())
    })
    .await;
    live.scene.delete_file_system("work").await;
    let busy = format!("in use by process {} (sleep)", guest.id());
    live.scene
        .condition("work", |condition| {
            let message = condition["message"].as_str().unwrap_or_default();
            condition["reason"] == "Unmounting" && message.contains(&busy)
        })
        .await;
    assert!(live.movers("a").is_empty(), "a copy goes on");
    let count = copy.files();
    assert!((2..60).contains(&count), "{count} files");
    assert_eq!(live.status("copy").await["state"], "Running", "it waits for a worker");
    let says = live.says("a", "/lus/work").await.unwrap();
    assert!(says["mounted"] == true && says["reason"].as_str().unwrap().contains(&busy), "{says}");
    // Another one comes to the same place while it is still there: it has to wait.
    live.scene.create_object("next", json!({"name": "next", "mountRoot": "/lus/work"})).await;
    live.scene.condition("next", |condition| condition["reason"] == "Refused").await;
    guest.kill().unwrap();
    guest.wait().unwrap();
    live.scene.wait_gone("work").await;
    live.scene.condition("next", |condition| condition["reason"] == "Mounted").await;
    eventually("the other one to be there", async || {
        let seen = live.scene.seen("a", "/lus/work/name").await;
        (seen == [Some("next".to_owned())]).then_some(())
    })
    .await;
    live.scene.end().await;
}

#[tokio::test]
async fn a_node_that_never_comes_back_does_not_keep_a_filesystem_for_ever() {
    let Some(mut live) = Live::new("gone", &["a", "b"], &["lus1"]).await else { return };
    live.scene.options.push("--lost-worker-after=2".to_owned());
    let _manager = live.start(&["--lease-seconds=4"]).await;
    live.create("lus1").await;
    live.mounted(&["lus1"]).await;
    let lost = live.scene.nodes.node(&live.scene.node_name("b"));
    lost.power_off();
    let begun = Instant::now();
    live.scene.delete_file_system("lus1").await;
    live.scene.condition("lus1", |condition| condition["reason"] == "Unmounting").await;
    live.scene.wait_gone("lus1").await;
    assert!(begun.elapsed() >= Duration::from_secs(2), "it was not waited for");
    let events = eventually("an Event", async || {
        let events = live.scene.events("ReleasedWithoutUnmount").await;
        (!events.is_empty()).then_some(events)
    })
    .await;
    assert!(events[0].contains(lost.name()), "{events:?}");
    assert!(!events[0].contains(&live.scene.node_name("a")), "{events:?}");
    live.scene.end().await;
}

#[tokio::test]
async fn a_manager_that_is_killed_at_any_moment_changes_nothing() {
    let nodes = ["a", "b"];
    let Some(live) = Live::new("killed", &nodes, &["lus1", "lus2"]).await else { return };
    let seed = std::process::id().wrapping_mul(2_654_435_761);
    eprintln!("seed {seed}");
    let mut manager = live.start(&[]).await;
    live.create("lus1").await;
    live.mounted(&["lus1"]).await;
    let before = live.pods().await;
    for round in 0..3_u32 {
        let (comes, goes) = if round % 2 == 0 { ("lus2", "lus1") } else { ("lus1", "lus2") };
        tokio::join!(live.create(comes), live.scene.delete_file_system(goes));
        let moment = seed.rotate_left(round * 8) % 400;
        tokio::time::sleep(Duration::from_millis(moment.into())).await;
        drop(manager); // SIGKILL: nothing is given back
        manager = live.scene.start_manager("one");
        live.scene.wait_gone(goes).await;
        live.mounted(&[comes]).await;
        assert!(live.sees(&nodes, comes).await, "round {round}, {moment} ms");
        assert!(!live.anybody_sees(&nodes, goes).await, "round {round}, {moment} ms");
    }
    assert_eq!(live.pods().await, before);
    live.scene.end().await;
}

#[tokio::test]
async fn from_rolling_to_live_and_back_is_one_rollout_each_and_loses_no_copy() {
    let (nodes, all) = (["a", "b"], ["home", "work"]);
    let Some(mut live) = Live::new("change", &nodes, &all).await else { return };
    let options = |mounts: &str| -> Vec<String> {
        ["--worker-service-account=longshore-worker", "--create-volumes-for=hpe", mounts]
            .map(str::to_owned)
            .into()
    };
    live.scene.options = options("--mounts=rolling");
    for name in all {
        let directory = live.scene.lustre.path().join(name);
        live.scene.nodes.provide(&live.scene.claim(name), directory);
    }
    let mut manager = live.start(&["--drain-seconds=1"]).await;
    live.create("home").await;
    live.create("work").await;
    live.mounted(&all).await;
    for (round, mounts) in ["--mounts=live", "--mounts=rolling"].into_iter().enumerate() {
        let mut copies = Vec::new();
        for number in 0..4 {
            let name = format!("copy-{round}-{number}");
            copies.push(live.copy(&name, USER, "home", "work", 16).await);
        }
        eventually("every copy to have copied something", async || {
            copies.iter().all(|copy| copy.files() >= 2).then_some(())
        })
        .await;
        let uids = async || -> BTreeSet<String> {
            live.pods().await.into_iter().map(|(uid, _)| uid).collect()
        };
        let before = uids().await;
        let mut ever = before.clone();
        drop(manager);
        manager = live.scene.start_manager_with("one", &options(mounts));
        eventually("all workers to be replaced", async || {
            let pods = uids().await;
            ever.extend(pods.clone());
            let new = pods.len() == 2 && pods.is_disjoint(&before);
            let seen = live.sees(&nodes, "home").await && live.sees(&nodes, "work").await;
            (new && seen).then_some(())
        })
        .await;
        live.mounted(&all).await;
        for copy in &copies {
            live.succeeded(copy).await;
        }
        ever.extend(uids().await);
        assert_eq!(ever.len(), before.len() + 2, "one rollout to {mounts}");
    }
    // The list that nobody reads any more keeps nothing.
    live.scene.delete_file_system("work").await;
    live.scene.wait_gone("work").await;
    live.scene.end().await;
}
