//! How many writes, how fast and how much memory, against a real API server, with a played worker and with
//! the real one. Times depend on the machine and are printed, not judged, save that nothing hangs; the
//! bench `movements` prints them beside the aims.
#![allow(clippy::unwrap_used, clippy::print_stderr, unreachable_pub)] // tests

mod support;

use std::time::Duration;

use futures::future::select;
use futures::{StreamExt, stream};
use kube::api::{Patch, PatchParams};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Resource, ResourceExt};
use longshore::api::data_movement::Outcome;
use serde_json::json;
use support::ledger::Ledger;
use support::manager::value;
use support::rabbit::{COPY, Rabbit, outcome};
use support::real_worker::{RealWorker, same};
use support::scale::{at_once, one_by_one};
use support::scenes;
use support::worker::Worker;
use test_cluster::ControlPlane;
use tokio::sync::watch;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_hundred_at_once_take_six_writes_each() {
    let Some(plane) = ControlPlane::bare() else { return };
    let rabbit = Rabbit::on(&plane, "many").await;
    let (manager, worker) = (rabbit.manager(), Worker::new(&rabbit).await);
    rabbit.profile("copy", json!({"command": COPY})).await;
    let movements: Vec<_> = (0..300)
        .map(|index| (&rabbit, rabbit.movement(&format!("copy-{index}"), "copy")))
        .collect();
    let work = async {
        let took = at_once(&manager, &[], &movements).await;
        eprintln!("{took}");
        took.check(60.0);
        took.check_manager();
    };
    select(Box::pin(work), Box::pin(worker.serve(Duration::ZERO))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_hundred_real_copies_at_once() {
    let Some(took) = scenes::many_on_one_worker(300).await else { return };
    eprintln!("{took}");
    took.check(60.0);
    took.check_manager();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_movement_runs_soon_after_it_is_created() {
    let Some(plane) = ControlPlane::bare() else { return };
    let rabbit = Rabbit::on(&plane, "one").await;
    let (_manager, worker) = (rabbit.manager(), Worker::new(&rabbit).await);
    rabbit.profile("copy", json!({"command": COPY})).await;
    let movements: Vec<_> =
        (0..30).map(|index| rabbit.movement(&format!("copy-{index}"), "copy")).collect();
    let work = async {
        let took = one_by_one(&rabbit, &movements).await;
        eprintln!("{took:?}");
        assert!(took.running < Duration::from_secs(1));
    };
    select(Box::pin(work), Box::pin(worker.serve(Duration::from_millis(50)))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_real_copy_runs_soon_after_it_is_created() {
    let Some(took) = scenes::one_after_the_other(30).await else { return };
    eprintln!("{took:?}");
    assert!(took.running < Duration::from_secs(1));
}

#[tokio::test]
async fn a_report_of_progress_costs_one_write() {
    let Some(plane) = ControlPlane::bare() else { return };
    let rabbit = Rabbit::on(&plane, "reports").await;
    let (_manager, worker) = (rabbit.manager(), Worker::new(&rabbit).await);
    rabbit.copy("copy").await;
    worker.claim("copy").await;
    rabbit.running("copy").await;
    let ledger = Ledger::open(&rabbit.client, &rabbit.namespace).await;
    for bytes in [100, 200, 300, 400, 500] {
        worker.progress("copy", bytes).await;
        let percent = i32::try_from(bytes / 10).unwrap();
        rabbit
            .until("copy", |movement| {
                let status = movement.status.as_ref();
                let command = status.and_then(|status| status.command_status.as_ref());
                command.and_then(|command| command.progress) == Some(percent)
            })
            .await;
    }
    // A renewal without news costs none.
    worker.renew().await;
    let written = ledger.so_far().await;
    assert_eq!(written.done, [("nnfdatamovements PATCH".to_owned(), 5)].into(), "{written:?}");
    assert_eq!((written.unchanged, written.refused.len()), (0, 0), "{written:?}");
}

/// Real copies that report each second: of movements and shards there is not more than one write for each
/// movement and interval beside the six, and the Lease of their worker is renewed once in an interval,
/// however many they are.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn real_copies_that_report_cost_one_write_an_interval() {
    let Some(took) = scenes::copies_that_report(5, 5, 1).await else { return };
    eprintln!("{took:?}");
    let intervals = took.lasted.as_secs() + 1;
    assert!(took.of_reports >= 5, "there were reports: {took:?}");
    assert!(took.of_reports <= 5 * intervals, "{took:?}");
    assert!(took.written.renewals <= intervals + 1, "{took:?}");
    assert_eq!((took.written.unchanged, took.written.refused.len()), (0, 0), "{took:?}");
}

#[tokio::test]
async fn the_ledger_sees_a_write_that_changes_nothing_and_one_that_is_refused() {
    let Some(plane) = ControlPlane::bare() else { return };
    let rabbit = Rabbit::on(&plane, "ledger").await;
    let ledger = Ledger::open(&rabbit.client, &rabbit.namespace).await;
    let movement = rabbit.create(&rabbit.movement("one", "none")).await;
    let params = PatchParams::default();
    let label = Patch::Merge(json!({"metadata": {"labels": {"some": "word"}}}));
    for _ in 0..2 {
        rabbit.movements.patch("one", &params, &label).await.unwrap();
    }
    let stale = Patch::Merge(json!({
        "metadata": {"labels": {"other": "word"}, "resourceVersion": movement.resource_version()},
    }));
    rabbit.movements.patch("one", &params, &stale).await.unwrap_err();
    rabbit.delete("one").await;
    let written = ledger.so_far().await;
    let done = [("DELETE", 1), ("PATCH", 2), ("POST", 1)];
    let done = done.map(|(verb, count)| (format!("nnfdatamovements {verb}"), count));
    assert_eq!(written.done, done.into());
    assert_eq!(written.refused, [("nnfdatamovements PATCH 409".to_owned(), 1)].into());
    assert_eq!(written.unchanged, 1);
}

/// Somebody else changes movements and shards all the time, so that many writes are refused. Each is made
/// again: every end is written, with the numbers of the worker, and none changes nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writes_that_are_refused_are_not_lost() {
    const COPIES: usize = 40;
    let Some(place) = scenes::place("refused") else { return };
    let Some(plane) = ControlPlane::bare() else { return };
    let rabbit = Rabbit::on(&plane, "refused").await;
    let manager = rabbit.manager();
    let worker = RealWorker::start(&rabbit, &place, &[]);
    worker.ready().await;
    rabbit.profile("copy", json!({"command": COPY})).await;
    let ledger = Ledger::open(&rabbit.client, &rabbit.namespace).await;
    let create = async |copy: usize| {
        let name = format!("copy-{copy}");
        rabbit.create(&scenes::of_file(&rabbit, &place, &name, "", 1000 + copy)).await;
    };
    let work = async {
        stream::iter(0..COPIES).map(create).buffer_unordered(COPIES).collect::<Vec<_>>().await;
        for copy in 0..COPIES {
            let status = rabbit.finished(&format!("copy-{copy}")).await;
            assert_eq!(outcome(&status), Some(Outcome::Success), "{status:?}");
            let data = status.command_status.unwrap().data.unwrap();
            assert!(data.ends_with(&format!("({} bytes)", 1000 + copy)), "{data}");
        }
    };
    let (stop, stopped) = watch::channel(());
    let work = async {
        work.await;
        drop(stop);
    };
    tokio::join!(
        work,
        disturb(&rabbit.movements, stopped.clone()),
        disturb(&rabbit.shards, stopped)
    );
    let written = ledger.so_far().await;
    eprintln!("{written:?}");
    assert_eq!(written.unchanged, 0, "{written:?}");
    assert!(same(&place.path("in"), &place.path("out")));
    // All that was refused was refused to those two, who know of it.
    let text = manager.get("/metrics").1;
    let of_manager = value(&text, "longshore_api_requests_total{", "outcome=\"conflict\"");
    let text = worker.metrics();
    let of_worker = value(&text, "longshore_worker_shard_writes_total{", "result=\"conflict\"");
    let refused: u64 = written.refused.values().sum();
    assert!(written.refused.keys().all(|what| what.ends_with("PATCH 409")), "{written:?}");
    assert!(refused > 5, "the disturbance does not disturb: {written:?}");
    #[allow(clippy::cast_precision_loss)] // they are few
    let refused = refused as f64;
    assert!(
        (of_manager + of_worker - refused).abs() < 0.5,
        "{of_manager} + {of_worker}: {refused}"
    );
}

/// Changes objects whenever they have changed, which is when somebody is about to write what follows from
/// that, until it is stopped.
async fn disturb<K>(api: &Api<K>, mut stopped: watch::Receiver<()>)
where
    K: Resource + Clone + std::fmt::Debug + serde::de::DeserializeOwned + Send + 'static,
{
    let objects = watcher(api.clone(), watcher::Config::default()).default_backoff();
    let changed = objects.applied_objects().filter_map(async |object| object.ok());
    // What was begun is ended in order, so that it is counted.
    let stopped = async move { drop(stopped.changed().await) };
    changed
        .take_until(Box::pin(stopped))
        .for_each_concurrent(4, async |object| {
            let round = object.resource_version();
            let patch = Patch::Merge(json!({"metadata": {"annotations": {"round": round}}}));
            api.patch(&object.name_any(), &PatchParams::default(), &patch).await.unwrap();
        })
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn movements_over_many_workers() {
    let full = std::env::var("LONGSHORE_SCALE").is_ok_and(|scale| scale == "full");
    let (nodes, movements, memory_mib) = if full { (20, 1000, 150.0) } else { (6, 150, 60.0) };
    let Some(took) = scenes::over_many_workers(nodes, movements, full).await else { return };
    eprintln!("{nodes} workers: {took}");
    took.check(memory_mib);
}
