//! How many writes, how fast and how much memory, against a real API server, with a played worker and with
//! the real one. Times depend on the machine and are printed, not judged, save that nothing hangs.
#![allow(clippy::unwrap_used, clippy::print_stderr, unreachable_pub)] // tests

mod support;

use std::collections::HashMap;
use std::time::{Duration, Instant};

use futures::StreamExt;
use futures::future::{join_all, select};
use kube::ResourceExt;
use kube::api::DeleteParams;
use kube::runtime::{WatchStreamExt, watcher};
use longshore::api::NnfDataMovement;
use longshore::api::data_movement::{Outcome, State};
use serde_json::json;
use support::manager::Manager;
use support::rabbit::{COPY, Rabbit, outcome, state};
use support::real_worker::{Place, RealWorker, same};
use support::worker::Worker;
use test_cluster::ControlPlane;

/// When movements were first seen to run, and to be finished.
type Seen = HashMap<(String, State), Instant>;

/// Watches until so many movements are finished.
async fn watch(rabbit: &Rabbit, number: usize) -> Seen {
    let events = watcher(rabbit.movements.clone(), watcher::Config::default());
    let mut events = std::pin::pin!(events.default_backoff().applied_objects());
    let mut seen = Seen::new();
    while seen.keys().filter(|(_, state)| *state == State::Finished).count() < number {
        let Some(Ok(movement)) = events.next().await else { continue };
        if let Some(state) = state(&movement) {
            seen.entry((movement.name_any(), state)).or_insert_with(Instant::now);
        }
    }
    seen
}

/// The writes of movements and shards that the API server has answered, by resource, verb and answer.
async fn writes(rabbit: &Rabbit) -> HashMap<String, f64> {
    let request = http::Request::get("/metrics").body(Vec::new()).unwrap();
    let text = rabbit.client.request_text(request).await.unwrap();
    let mut counted = HashMap::new();
    for line in text.lines().filter(|line| line.starts_with("apiserver_request_total{")) {
        let label = |name: &str| {
            let start = line.find(&format!("{name}=\""))? + name.len() + 2;
            line[start..].split('"').next().map(str::to_owned)
        };
        let resource = label("resource").unwrap_or_default();
        let verb = label("verb").unwrap_or_default();
        let ours = ["nnfdatamovements", "datamovementshards"].contains(&resource.as_str());
        if ours && ["POST", "PUT", "PATCH", "APPLY", "DELETE"].contains(&verb.as_str()) {
            let answer = label("code").unwrap_or_default();
            let value: f64 = line.rsplit(' ').next().unwrap().parse().unwrap();
            *counted.entry(format!("{resource} {verb} {answer}")).or_insert(0.0) += value;
        }
    }
    counted
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

/// Creates movements all at once, waits until all have succeeded, and checks what that took.
async fn at_once(rabbit: &Rabbit, manager: &Manager, movements: &[NnfDataMovement]) {
    while manager.get("/readyz").0 != 200 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let before = writes(rabbit).await;
    let begin = Instant::now();
    let create = async |movement| (rabbit.create(movement).await.name_any(), Instant::now());
    let creations = join_all(movements.iter().map(create));
    let (seen, created) = tokio::join!(watch(rabbit, movements.len()), creations);
    let took = begin.elapsed();
    let after = writes(rabbit).await;
    for movement in movements {
        let status = rabbit.finished(&movement.name_any()).await;
        assert_eq!(outcome(&status), Some(Outcome::Success), "{status:?}");
        assert!(status.restarts.is_none() && status.start_time <= status.end_time);
    }
    let mut total = 0.0;
    for (what, count) in &after {
        let count = count - before.get(what).unwrap_or(&0.0);
        eprintln!("{count} {what}");
        let done = what.ends_with("200") || what.ends_with("201");
        // The shards are the worker's to write, and it may find that it was too late.
        let ours = what.starts_with("nnfdatamovements");
        assert!(count < 0.5 || done || !ours, "a write of the manager was refused: {what}");
        total += if done { count } else { 0.0 };
    }
    // The creation of the movement itself is not ours.
    let each = total / f64::from(u32::try_from(movements.len()).unwrap()) - 1.0;
    let last_created = created.iter().map(|(_, at)| *at).max().unwrap();
    // Where the end was seen first, that it ran was not worth a write any more.
    let waits = created.into_iter().map(|(name, created)| {
        let at = |state| seen.get(&(name.clone(), state));
        let ran = at(State::Running).or(at(State::Finished)).unwrap();
        ran.saturating_duration_since(created)
    });
    let waits: Vec<Duration> = waits.collect();
    eprintln!(
        "{} movements: created within {:?}, finished within {took:?}, waited {:?} at most, {:?} in the \
         median; {each:.2} writes each, manager {} MiB at most",
        movements.len(),
        last_created.duration_since(begin),
        waits.iter().max().unwrap(),
        median(waits.clone()),
        manager.memory_peak() / 1024
    );
    assert!(each <= 6.0, "{each} writes each");
    assert!(manager.memory_peak() < 60 * 1024, "{} KiB", manager.memory_peak());
    assert!(took < Duration::from_secs(120), "{took:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_hundred_at_once_take_six_writes_each() {
    let Some(plane) = ControlPlane::bare() else { return };
    let rabbit = Rabbit::on(&plane, "many").await;
    let (manager, worker) = (rabbit.manager(), Worker::new(&rabbit).await);
    rabbit.profile("copy", json!({"command": COPY})).await;
    let movements: Vec<_> =
        (0..300).map(|index| rabbit.movement(&format!("copy-{index}"), "copy")).collect();
    let work = at_once(&rabbit, &manager, &movements);
    select(Box::pin(work), Box::pin(worker.serve(Duration::ZERO))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_hundred_real_copies_at_once() {
    let Some(place) = Place::new("many") else { return };
    let Some(plane) = ControlPlane::bare() else { return };
    let rabbit = Rabbit::on(&plane, "real").await;
    let manager = rabbit.manager();
    rabbit.profile("copy", json!({"command": COPY})).await;
    place.directory("in");
    place.directory("out");
    let copy = |index: usize| {
        place.file(&format!("in/{index}"), 1000 + index);
        let mut movement = rabbit.movement(&format!("copy-{index}"), "copy");
        let spec = &mut movement.spec;
        spec.source.as_mut().unwrap().path = Some(place.text(&format!("in/{index}")));
        spec.destination.as_mut().unwrap().path = Some(place.text(&format!("out/{index}")));
        movement
    };
    let movements: Vec<_> = (0..300).map(copy).collect();
    let _worker = RealWorker::start(&rabbit, &place, &[]);
    // The first shows that the worker is there.
    rabbit.create(&movements[0]).await;
    rabbit.finished("copy-0").await;
    rabbit.delete("copy-0").await;
    rabbit.gone("copy-0").await;
    rabbit.shards.delete("copy-0", &DeleteParams::default()).await.unwrap();
    at_once(&rabbit, &manager, &movements).await;
    assert!(same(&place.path("in"), &place.path("out")));
}

/// Creates movements one after the other, each when the one before is finished, and says how long it took
/// from the answer to the creation until they were seen to run.
async fn one_by_one(rabbit: &Rabbit, movements: &[NnfDataMovement]) {
    let (mut running, mut finished) = (Vec::new(), Vec::new());
    for (index, movement) in movements.iter().enumerate() {
        let create = async {
            rabbit.create(movement).await;
            Instant::now()
        };
        // Those before are finished already, and are seen at once.
        let (seen, created) = tokio::join!(watch(rabbit, index + 1), create);
        let since = |state| {
            let at = seen.get(&(movement.name_any(), state));
            at.map(|at| at.saturating_duration_since(created))
        };
        running.extend(since(State::Running));
        finished.extend(since(State::Finished));
    }
    eprintln!(
        "created to Running {:?} (median of {}), to Finished {:?}",
        median(running.clone()),
        running.len(),
        median(finished)
    );
    assert!(median(running) < Duration::from_secs(1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_movement_runs_soon_after_it_is_created() {
    let Some(plane) = ControlPlane::bare() else { return };
    let rabbit = Rabbit::on(&plane, "one").await;
    let (_manager, worker) = (rabbit.manager(), Worker::new(&rabbit).await);
    rabbit.profile("copy", json!({"command": COPY})).await;
    let movements: Vec<_> =
        (0..30).map(|index| rabbit.movement(&format!("copy-{index}"), "copy")).collect();
    let work = one_by_one(&rabbit, &movements);
    select(Box::pin(work), Box::pin(worker.serve(Duration::from_millis(50)))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_real_copy_runs_soon_after_it_is_created() {
    let Some(place) = Place::new("one") else { return };
    let Some(plane) = ControlPlane::bare() else { return };
    let rabbit = Rabbit::on(&plane, "real").await;
    let (_manager, _worker) = (rabbit.manager(), RealWorker::start(&rabbit, &place, &[]));
    // Long enough to be seen.
    let command = "longshore copy --bandwidth-limit 1M $SRC $DEST";
    rabbit.profile("copy", json!({"command": command})).await;
    place.file("in", 200_000);
    place.directory("out");
    let copy = |index: usize| {
        let mut movement = rabbit.movement(&format!("copy-{index}"), "copy");
        let spec = &mut movement.spec;
        spec.source.as_mut().unwrap().path = Some(place.text("in"));
        spec.destination.as_mut().unwrap().path = Some(place.text(&format!("out/{index}")));
        movement
    };
    one_by_one(&rabbit, &(0..30).map(copy).collect::<Vec<_>>()).await;
}

#[tokio::test]
async fn progress_costs_one_write_of_each_object_for_each_report() {
    let Some(plane) = ControlPlane::bare() else { return };
    let rabbit = Rabbit::on(&plane, "reports").await;
    let (_manager, worker) = (rabbit.manager(), Worker::new(&rabbit).await);
    rabbit.copy("copy").await;
    worker.claim("copy").await;
    rabbit.running("copy").await;
    let before = writes(&rabbit).await;
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
    let after = writes(&rabbit).await;
    let counted = |what: &str| after.get(what).unwrap_or(&0.0) - before.get(what).unwrap_or(&0.0);
    assert!((counted("nnfdatamovements PATCH 200") - 5.0).abs() < 0.1, "{after:?}");
    assert!((counted("datamovementshards PATCH 200") - 5.0).abs() < 0.1, "{after:?}");
}
