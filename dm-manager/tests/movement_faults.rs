//! Data movements while everything around them fails, against a real API server and with real managers:
//! they end, and say what is true.
#![allow(clippy::unwrap_used, clippy::print_stderr, unreachable_pub)] // tests

mod support;

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use futures::future::{join_all, select};
use kube::ResourceExt;
use kube::api::{DeleteParams, Patch, PatchParams};
use longshore::api::data_movement::Outcome;
use serde_json::json;
use support::manager::Manager;
use support::rabbit::{COPY, Rabbit, is_held, outcome, state, until};
use support::worker::Worker;
use test_cluster::ControlPlane;

/// Creates movements and waits until all have succeeded, while a played worker does them.
async fn all_succeed(rabbit: &Rabbit, worker: &Worker, number: usize, run_for: Duration) {
    let work = async {
        let names: Vec<String> = (0..number).map(|index| format!("copy-{index}")).collect();
        for name in &names {
            rabbit.create(&rabbit.movement(name, "copy")).await;
        }
        for name in &names {
            let status = rabbit.finished_whatever_happens(name).await;
            assert_eq!(outcome(&status), Some(Outcome::Success), "{name}: {status:?}");
            assert!(status.restarts.is_none(), "it was started once: {status:?}");
        }
    };
    select(Box::pin(work), Box::pin(worker.serve(run_for))).await;
}

#[tokio::test]
async fn the_api_server_may_be_away_for_half_a_minute() {
    let Some(plane) = ControlPlane::bare() else { return };
    let rabbit = Rabbit::on(&plane, "away").await;
    let (manager, worker) = (rabbit.manager(), Worker::new(&rabbit).await);
    rabbit.profile("copy", json!({"command": COPY})).await;
    // Creation fails while the server is away, so all are created before.
    let names: Vec<String> = (0..20).map(|index| format!("copy-{index}")).collect();
    for name in &names {
        rabbit.create(&rabbit.movement(name, "copy")).await;
    }
    let work = async {
        until(&rabbit.movements, "copy-10", |movement| state(movement).is_some()).await;
        plane.stop_api_server().unwrap();
        let gone = k8s_openapi::jiff::Timestamp::now();
        tokio::time::sleep(Duration::from_secs(30)).await;
        manager.wait_for("leading no more").await;
        plane.start_api_server().unwrap();
        let back = Instant::now();
        let mut over_later = 0;
        for name in &names {
            let status = rabbit.finished_whatever_happens(name).await;
            assert_eq!(outcome(&status), Some(Outcome::Success), "{name}");
            over_later += usize::from(status.end_time.unwrap().0 > gone);
        }
        assert!(over_later > 0, "all were finished before it went");
        eprintln!("all were finished {:?} after the API server was back", back.elapsed());
    };
    select(Box::pin(work), Box::pin(worker.serve(Duration::from_secs(2)))).await;
    assert_eq!(manager.get("/healthz").0, 200, "it is the same process");
}

#[tokio::test]
async fn a_manager_that_is_killed_again_and_again_loses_nothing() {
    let Some(rabbit) = Rabbit::new("killed").await else { return };
    let worker = Worker::new(&rabbit).await;
    rabbit.profile("copy", json!({"command": COPY})).await;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let seed = now.as_secs() ^ u64::from(now.subsec_nanos());
    eprintln!("seed {seed}");
    let kill = async {
        let mut random = seed | 1;
        loop {
            // The same name each time, as a container that is started again in its pod.
            let manager = rabbit.manager();
            manager.wait_for("leading").await;
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            tokio::time::sleep(Duration::from_millis(random % 400)).await;
            assert_eq!(manager.end("KILL"), None);
        }
    };
    let work = async {
        all_succeed(&rabbit, &worker, 60, Duration::from_millis(300)).await;
    };
    select(Box::pin(work), Box::pin(kill)).await;
    let _manager = rabbit.manager();
    let names: Vec<String> = (0..60).map(|index| format!("copy-{index}")).collect();
    join_all(names.iter().map(|name| async {
        rabbit.delete(name).await;
        rabbit.gone(name).await; // no finalizer is left behind
    }))
    .await;
    assert_eq!(worker.running().await, 0);
}

#[tokio::test]
async fn of_two_managers_one_leads_and_the_other_takes_over() {
    let Some(rabbit) = Rabbit::new("two").await else { return };
    let worker = Worker::new(&rabbit).await;
    rabbit.profile("copy", json!({"command": COPY})).await;
    let leads = |manager: &Manager| manager.metric("longshore_manager_leader") > 0.5;
    let until_leads = async |manager: &Manager, within: Duration| {
        let begin = Instant::now();
        while !leads(manager) {
            assert!(begin.elapsed() < within, "nobody leads after {within:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        begin.elapsed()
    };
    let copy = async |name: &str| {
        rabbit.create(&rabbit.movement(name, "copy")).await;
        worker.claim(name).await;
        worker.finish(name, "Success", 0, json!({})).await;
        assert_eq!(outcome(&rabbit.finished(name).await), Some(Outcome::Success));
    };
    let first = rabbit.manager_with("first", &[]);
    until_leads(&first, Duration::from_secs(20)).await;
    let second = rabbit.manager_with("second", &[]);
    while second.get("/readyz").0 != 200 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    copy("one").await;
    assert!(leads(&first) && !leads(&second));
    assert_eq!(first.end("TERM"), Some(0), "an end in order");
    let took = until_leads(&second, Duration::from_secs(8)).await;
    eprintln!("taken over {took:?} after SIGTERM");
    copy("two").await;

    let third = rabbit.manager_with("third", &[]);
    second.signal("STOP");
    let took = until_leads(&third, Duration::from_secs(25)).await;
    eprintln!("taken over {took:?} after SIGSTOP");
    copy("three").await;
    second.signal("CONT");
    let begin = Instant::now();
    while leads(&second) {
        assert!(begin.elapsed() < Duration::from_secs(10), "it does not notice that it lost");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    copy("four").await;
    for name in ["one", "two", "three", "four"] {
        let status = rabbit.finished(name).await;
        assert_eq!((outcome(&status), status.restarts), (Some(Outcome::Success), None));
    }
}

#[tokio::test]
async fn conflicts_on_every_write_hold_nothing_up() {
    let Some(rabbit) = Rabbit::new("conflict").await else { return };
    let (manager, worker) = (rabbit.manager(), Worker::new(&rabbit).await);
    rabbit.profile("copy", json!({"command": COPY})).await;
    let disturb = async {
        for number in 0_u64.. {
            for index in 0..4 {
                let name = format!("copy-{index}");
                let patch =
                    Patch::Merge(json!({"metadata": {"labels": {"n": number.to_string()}}}));
                let params = PatchParams::default();
                // It may not be there yet.
                drop(rabbit.movements.patch(&name, &params, &patch).await);
                drop(rabbit.shards.patch(&name, &params, &patch).await);
            }
        }
    };
    let work = all_succeed(&rabbit, &worker, 4, Duration::from_millis(500));
    select(Box::pin(work), Box::pin(disturb)).await;
    let conflicts =
        "longshore_api_requests_total{outcome=\"conflict\",resource=\"nnfdatamovements\",verb=";
    let seen = manager.metric(&format!("{conflicts}\"patch_status\"}}"))
        + manager.metric(&format!("{conflicts}\"patch\"}}"));
    eprintln!("{seen} writes were refused");
}

#[tokio::test]
async fn objects_may_be_deleted_under_our_hands() {
    let Some(rabbit) = Rabbit::new("deleted").await else { return };
    let (_manager, worker) = (rabbit.manager(), Worker::new(&rabbit).await);
    rabbit.copy("shard").await;
    let first = worker.claim("shard").await;
    rabbit.running("shard").await;
    rabbit.shards.delete("shard", &DeleteParams::default()).await.unwrap();
    until(&rabbit.shards, "shard", |shard| shard.uid() != first.uid()).await;
    worker.claim("shard").await;
    worker.finish("shard", "Success", 0, json!({})).await;
    let status = rabbit.finished("shard").await;
    assert_eq!((outcome(&status), status.restarts), (Some(Outcome::Success), Some(1)));

    // Somebody takes our finalizer away, and the object goes; another one of its name is a new one.
    rabbit.copy("movement").await;
    worker.claim("movement").await;
    let old = rabbit.running("movement").await;
    rabbit.delete("movement").await;
    let nobody = Patch::Merge(json!({"metadata": {"finalizers": null}}));
    rabbit.movements.patch("movement", &PatchParams::default(), &nobody).await.unwrap();
    rabbit.gone("movement").await;
    let new = rabbit.create(&rabbit.movement("movement", "movement-profile")).await;
    assert_ne!(old.uid(), new.uid());
    let uid = new.uid().unwrap();
    until(&rabbit.shards, "movement", |shard| shard.spec.movement.uid == uid).await;
    worker.claim("movement").await;
    worker.finish("movement", "Success", 0, json!({})).await;
    assert_eq!(outcome(&rabbit.finished("movement").await), Some(Outcome::Success));
}

#[tokio::test]
async fn what_a_lost_worker_had_goes_to_another_one() {
    let Some(rabbit) = Rabbit::new("lost").await else { return };
    let rabbit = rabbit.central();
    let manager = rabbit.manager();
    let lost = Worker::named(&rabbit, "worker-lost", 2).await;
    let other = Worker::new(&rabbit).await;
    rabbit.profile("copy", json!({"command": COPY})).await;
    let mut movement = rabbit.movement("copy", "copy");
    movement.spec.destination.as_mut().unwrap().storage_reference =
        Some(rabbit.reference("LustreFileSystem", "other"));
    rabbit.create(&movement).await;
    lost.claim("copy").await;
    let first = rabbit.running("copy").await;
    lost.renew().await;
    other.claim("copy").await;
    other.finish("copy", "Success", 0, json!({})).await;
    let status = rabbit.finished("copy").await;
    assert_eq!((outcome(&status), status.restarts), (Some(Outcome::Success), Some(1)));
    assert!(status.start_time > first.status.unwrap().start_time);
    assert!((manager.metric("longshore_shards_put_back_total") - 1.0).abs() < 0.1);
    assert!(rabbit.event("WorkerLost").await.contains("worker-lost has lost its Lease"));
}

#[tokio::test]
async fn a_node_that_never_comes_back_holds_nothing_up_for_ever() {
    let Some(rabbit) = Rabbit::new("never-back").await else { return };
    let _manager = rabbit.manager_with("manager-0", &["--lost-worker-after", "2"]);
    let lost = Worker::named(&rabbit, "worker-lost", 1).await;
    rabbit.copy("fails").await;
    lost.claim("fails").await;
    rabbit.copy("deleted").await;
    lost.claim("deleted").await;
    rabbit.running("deleted").await;
    rabbit.delete("deleted").await;
    rabbit.gone("deleted").await;
    let note = rabbit.event("Abandoned").await;
    assert!(note.contains("deleted although worker worker-lost"), "{note}");
    let status = rabbit.finished("fails").await;
    assert_eq!(outcome(&status), Some(Outcome::Failed));
    assert!(status.message.unwrap().contains("worker-lost has not been heard of for"));
    rabbit.delete("fails").await;
    rabbit.gone("fails").await;
}

#[tokio::test]
async fn a_worker_that_is_late_but_lives_keeps_its_work() {
    let Some(rabbit) = Rabbit::new("slow").await else { return };
    let rabbit = rabbit.central();
    let manager = rabbit.manager();
    let worker = Worker::named(&rabbit, "worker-slow", 4).await;
    rabbit.profile("copy", json!({"command": COPY})).await;
    let mut movement = rabbit.movement("copy", "copy");
    movement.spec.destination.as_mut().unwrap().storage_reference =
        Some(rabbit.reference("LustreFileSystem", "other"));
    rabbit.create(&movement).await;
    worker.claim("copy").await;
    for _ in 0..5 {
        tokio::time::sleep(Duration::from_secs(3)).await;
        worker.renew().await;
    }
    worker.finish("copy", "Success", 0, json!({})).await;
    let status = rabbit.finished("copy").await;
    assert_eq!((outcome(&status), status.restarts), (Some(Outcome::Success), None));
    assert!(manager.metric("longshore_shards_put_back_total") < 0.5);
    assert!(is_held(&rabbit.movements.get("copy").await.unwrap()));
}
