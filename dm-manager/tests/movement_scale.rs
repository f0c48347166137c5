//! How many writes, how fast and how much memory, against a real API server; the worker is played, and
//! its movers last no time. Times depend on the machine and are printed, not judged, save that nothing
//! hangs; `benches/README.md` has those of an idle one.
#![allow(clippy::unwrap_used, clippy::print_stderr, unreachable_pub)] // tests

mod support;

use std::collections::HashMap;
use std::time::{Duration, Instant};

use futures::StreamExt;
use futures::future::{Either, join_all, select};
use kube::ResourceExt;
use kube::runtime::{WatchStreamExt, watcher};
use longshore::api::data_movement::{Outcome, State};
use serde_json::json;
use support::rabbit::{COPY, Rabbit, outcome, state};
use support::worker::Worker;
use test_cluster::{ControlPlane, Settings};

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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_hundred_at_once_take_six_writes_each() {
    const NUMBER: usize = 300;
    let Some(plane) = ControlPlane::own(Settings { controllers: false }) else { return };
    let rabbit = Rabbit::on(&plane, "many").await;
    let (manager, worker) = (rabbit.manager(), Worker::new(&rabbit).await);
    rabbit.profile("copy", json!({"command": COPY})).await;
    while manager.get("/readyz").0 != 200 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let before = writes(&rabbit).await;
    let begin = Instant::now();
    let names: Vec<String> = (0..NUMBER).map(|index| format!("copy-{index}")).collect();
    let work = async {
        let create = async {
            let movements: Vec<_> =
                names.iter().map(|name| rabbit.movement(name, "copy")).collect();
            let create = async |movement| {
                let name = rabbit.create(movement).await.name_any();
                (name, Instant::now())
            };
            join_all(movements.iter().map(create)).await
        };
        tokio::join!(watch(&rabbit, NUMBER), create)
    };
    let serve = worker.serve(Duration::ZERO);
    let Either::Left(((seen, created), _)) = select(Box::pin(work), Box::pin(serve)).await else {
        unreachable!("a worker serves until it is dropped")
    };
    let took = begin.elapsed();
    let after = writes(&rabbit).await;
    for name in &names {
        let status = rabbit.finished(name).await;
        assert_eq!(outcome(&status), Some(Outcome::Success), "{name}");
        assert!(status.restarts.is_none() && status.start_time <= status.end_time);
    }
    let mut total = 0.0;
    for (what, count) in &after {
        let count = count - before.get(what).unwrap_or(&0.0);
        eprintln!("{count} {what}");
        assert!(
            count < 0.5 || what.ends_with("200") || what.ends_with("201"),
            "a write was refused"
        );
        total += count;
    }
    #[allow(clippy::cast_precision_loss)]
    let number = NUMBER as f64;
    // The creation of the movement itself is not ours.
    let each = total / number - 1.0;
    let last_created = created.iter().map(|(_, at)| *at).max().unwrap();
    // Where the end was seen first, that it ran was not worth a write any more.
    let waits = created.into_iter().map(|(name, created)| {
        let at = |state| seen.get(&(name.clone(), state));
        let ran = at(State::Running).or(at(State::Finished)).unwrap();
        ran.saturating_duration_since(created)
    });
    let waits: Vec<Duration> = waits.collect();
    eprintln!(
        "{NUMBER} movements: created within {:?}, finished within {took:?}, waited {:?} at most, {:?} in the \
         median; {each:.2} writes each, manager {} MiB at most",
        last_created.duration_since(begin),
        waits.iter().max().unwrap(),
        median(waits.clone()),
        manager.memory_peak() / 1024
    );
    assert!(each <= 6.0, "{each} writes each");
    assert!(manager.memory_peak() < 60 * 1024, "{} KiB", manager.memory_peak());
    assert!(took < Duration::from_secs(60), "{took:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_movement_runs_soon_after_it_is_created() {
    let Some(plane) = ControlPlane::own(Settings { controllers: false }) else { return };
    let rabbit = Rabbit::on(&plane, "one").await;
    let (_manager, worker) = (rabbit.manager(), Worker::new(&rabbit).await);
    rabbit.profile("copy", json!({"command": COPY})).await;
    let work = async {
        let (mut running, mut finished) = (Vec::new(), Vec::new());
        for index in 0..30 {
            let name = format!("copy-{index}");
            let create = async {
                rabbit.create(&rabbit.movement(&name, "copy")).await;
                Instant::now()
            };
            // Those before are finished already, and are seen at once.
            let (seen, created) = tokio::join!(watch(&rabbit, index + 1), create);
            let since = |state| {
                seen.get(&(name.clone(), state)).map(|at| at.saturating_duration_since(created))
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
    };
    select(Box::pin(work), Box::pin(worker.serve(Duration::from_millis(50)))).await;
}

#[tokio::test]
async fn progress_costs_one_write_of_each_object_for_each_report() {
    let Some(plane) = ControlPlane::own(Settings { controllers: false }) else { return };
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
