//! Data movements while everything around them fails, with the real manager, the real worker and its movers
//! on a real API server. Each ends `Finished` with a true status, what is at a destination is exact where
//! that is `Success`, and nothing is left of it: no process, Lease, note, shard or finalizer.
#![allow(clippy::unwrap_used, clippy::print_stderr, unreachable_pub)] // tests

mod support;

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use futures::future::{join_all, select};
use k8s_openapi::api::coordination::v1::Lease;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams};
use kube::{Api, ResourceExt};
use longshore::api::data_movement::{NnfDataMovementStatus, Outcome, UserConfig};
use serde_json::json;
use support::manager::Manager;
use support::rabbit::{COPY, Rabbit, is_held, outcome, until};
use support::real_worker::{Place, RealWorker, movers_of, runs, same, signal};
use support::worker::Worker;
use test_cluster::{ControlPlane, Link, Settings, eventually};

/// A rabbit, and a directory that it can reach.
struct Scene {
    rabbit: Rabbit,
    place: Place,
}

impl Scene {
    async fn new(about: &str) -> Option<Self> {
        Self::on(ControlPlane::shared()?, about).await
    }

    async fn on(plane: &ControlPlane, about: &str) -> Option<Self> {
        let place = Place::new(about)?;
        let rabbit = Rabbit::on(plane, about).await;
        place.directory("out");
        // So many operations a second, so that a copy lasts as long as it has files.
        for rate in [20, 60, 1000] {
            let command = format!("longshore copy --ops-limit {rate} $SRC $DEST");
            let data = json!({"command": command, "progressIntervalSeconds": 1});
            rabbit.profile(&format!("at-{rate}"), data).await;
        }
        Some(Self { rabbit, place })
    }

    /// The same for movements between global filesystems, which any worker can do.
    fn central(self) -> Self {
        Self { rabbit: self.rabbit.central(), place: self.place }
    }

    fn source(&self, name: &str) -> PathBuf {
        self.place.path(&format!("{name}.in"))
    }

    fn copy(&self, name: &str) -> PathBuf {
        self.place.path(&format!("out/{name}"))
    }

    /// Creates a movement of a directory with so many files.
    async fn create(&self, name: &str, files: usize, rate: u32) {
        let source = format!("{name}.in");
        if !self.source(name).exists() {
            self.place.directory(&source);
            for file in 0..files {
                self.place.file(&format!("{source}/{file:04}"), 100 + file);
            }
        }
        let mut movement = self.rabbit.movement(name, &format!("at-{rate}"));
        let spec = &mut movement.spec;
        spec.source.as_mut().unwrap().path = Some(self.place.text(&format!("{source}/")));
        let destination = spec.destination.as_mut().unwrap();
        destination.path = Some(self.place.text(&format!("out/{name}")));
        destination.storage_reference = Some(self.rabbit.reference("LustreFileSystem", "other"));
        self.rabbit.create(&movement).await;
    }

    /// Waits until something of a movement is at its destination.
    async fn begun(&self, name: &str) {
        let what = format!("{name} to begin");
        eventually(&what, async || {
            let files = fs::read_dir(self.copy(name)).ok()?;
            (files.count() > 5).then_some(())
        })
        .await;
    }

    /// Waits until a movement has succeeded, and looks at what it has copied.
    async fn succeeded(&self, name: &str) -> NnfDataMovementStatus {
        let status = self.rabbit.finished_whatever_happens(name).await;
        assert_eq!(outcome(&status), Some(Outcome::Success), "{name}: {status:?}");
        assert!(same(&self.source(name), &self.copy(name)), "{name} is not exact");
        assert!(status.start_time <= status.end_time && status.end_time.is_some());
        status
    }

    /// Deletes all movements, ends the workers, and looks whether anything is left.
    async fn nothing_is_left(&self, workers: Vec<RealWorker>) {
        let rabbit = &self.rabbit;
        let all = rabbit.movements.list(&ListParams::default()).await.unwrap();
        join_all(all.iter().map(async |movement| {
            let name = movement.name_any();
            rabbit.delete(&name).await;
            rabbit.gone(&name).await;
        }))
        .await;
        for worker in workers {
            assert_eq!(movers_of(&worker), [0_i32; 0], "movers");
            worker.end();
        }
        eventually("the shards to be collected", async || {
            let shards = rabbit.shards.list(&ListParams::default()).await.unwrap();
            shards.items.is_empty().then_some(())
        })
        .await;
        let leases: Api<Lease> = Api::namespaced(rabbit.client.clone(), &rabbit.namespace);
        let leases = leases.list(&ListParams::default()).await.unwrap();
        let leases: Vec<String> = leases.iter().map(ResourceExt::name_any).collect();
        assert!(leases.iter().all(|name| name == "longshore-manager"), "{leases:?}");
        let temporary = fs::read_dir(self.place.path("out")).unwrap().map(Result::unwrap);
        let mut temporary = temporary
            .filter(|entry| entry.file_name().to_string_lossy().starts_with(".longshore-"));
        assert!(temporary.next().is_none(), "something of a copy that is complete");
    }
}

fn random_seed() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let seed = now.as_secs() ^ u64::from(now.subsec_nanos());
    eprintln!("seed {seed}");
    seed | 1
}

/// The next number of a sequence.
fn next(random: &mut u64) -> u64 {
    *random ^= *random << 13;
    *random ^= *random >> 7;
    *random ^= *random << 17;
    *random
}

#[tokio::test]
async fn the_api_server_may_be_away_for_half_a_minute() {
    let Some(plane) = ControlPlane::own(Settings::default()) else { return };
    let Some(scene) = Scene::on(&plane, "away").await else { return };
    let (manager, worker) =
        (scene.rabbit.manager(), RealWorker::start(&scene.rabbit, &scene.place, &[]));
    // The first end while it is away, the last after it is back.
    let names = ["first", "second", "last"];
    for (name, files) in names.iter().zip([150, 300, 850]) {
        scene.create(name, files, 20).await;
    }
    for name in names {
        scene.begun(name).await;
    }
    let gone = k8s_openapi::jiff::Timestamp::now();
    let back = Instant::now() + Duration::from_secs(30);
    plane.stop_api_server().unwrap();
    tokio::time::sleep_until(back.into()).await;
    manager.wait_for("leading no more").await;
    assert!(!movers_of(&worker).is_empty(), "all copies ended while it was away");
    plane.start_api_server().unwrap();
    let back = k8s_openapi::jiff::Timestamp::now();
    let (mut before, mut after) = (0, 0);
    for name in names {
        let status = scene.succeeded(name).await;
        assert_eq!(status.restarts, None, "{name} was started once");
        let end = status.end_time.unwrap().0;
        before += usize::from(end > gone && end < back);
        after += usize::from(end > back);
    }
    assert!(before > 0 && after > 0, "{before} ended while it was away, {after} after");
    assert_eq!(manager.get("/healthz").0, 200, "it is the same process");
    scene.nothing_is_left(vec![worker]).await;
}

#[tokio::test]
async fn a_manager_that_is_killed_again_and_again_loses_nothing() {
    let Some(scene) = Scene::new("killed").await else { return };
    let worker = RealWorker::start(&scene.rabbit, &scene.place, &[]);
    let mut random = random_seed();
    let kill = async {
        loop {
            // The same name each time, as a container that is started again in its pod.
            let manager = scene.rabbit.manager();
            manager.wait_for("leading").await;
            tokio::time::sleep(Duration::from_millis(next(&mut random) % 400)).await;
            assert_eq!(manager.end("KILL"), None);
        }
    };
    let work = async {
        let names: Vec<String> = (0..24).map(|index| format!("copy-{index}")).collect();
        for name in &names {
            scene.create(name, 10, 60).await;
        }
        for name in &names {
            assert_eq!(scene.succeeded(name).await.restarts, None, "{name} was started once");
        }
    };
    select(Box::pin(work), Box::pin(kill)).await;
    let _manager = scene.rabbit.manager();
    scene.nothing_is_left(vec![worker]).await;
}

#[tokio::test]
async fn of_two_managers_one_leads_and_the_other_takes_over() {
    let Some(scene) = Scene::new("two").await else { return };
    let rabbit = &scene.rabbit;
    let worker = RealWorker::start(rabbit, &scene.place, &[]);
    let leads = |manager: &Manager| manager.metric("longshore_manager_leader") > 0.5;
    let until_leads = async |manager: &Manager, within: Duration| {
        let begin = Instant::now();
        while !leads(manager) {
            assert!(begin.elapsed() < within, "nobody leads after {within:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        begin.elapsed()
    };
    // The writes of a manager that the API server has seen.
    let sent = |manager: &Manager| {
        let text = manager.get("/metrics").1;
        let lines = text.lines().filter(|line| line.starts_with("longshore_api_requests_total{"));
        let writes = lines.filter(|line| {
            !line.contains("held_back")
                && ["verb=\"get\"", "verb=\"list\""].iter().all(|verb| !line.contains(verb))
        });
        writes.map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap()).sum::<f64>()
    };
    let copy = async |name: &str| {
        scene.create(name, 3, 1000).await;
        assert_eq!(scene.succeeded(name).await.restarts, None);
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
    scene.create("meanwhile", 200, 20).await;
    scene.begun("meanwhile").await;
    let before = sent(&second);
    second.signal("STOP");
    let took = until_leads(&third, Duration::from_secs(25)).await;
    eprintln!("taken over {took:?} after SIGSTOP");
    copy("three").await;
    // It hears of a movement that waits for it, of one that has ended, and of one that is new.
    scene.create("four", 200, 20).await;
    scene.begun("four").await;
    second.signal("CONT");
    let begin = Instant::now();
    while leads(&second) {
        assert!(begin.elapsed() < Duration::from_secs(10), "it does not notice that it lost");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let more = sent(&second) - before;
    assert!(more < 1.5, "{more} writes were sent by one that does not lead");
    for name in ["meanwhile", "four"] {
        assert_eq!(scene.succeeded(name).await.restarts, None);
    }
    drop(second);
    scene.nothing_is_left(vec![worker]).await;
}

#[tokio::test]
async fn conflicts_on_every_write_hold_nothing_up() {
    let Some(scene) = Scene::new("conflict").await else { return };
    let rabbit = &scene.rabbit;
    let (manager, worker) = (rabbit.manager(), RealWorker::start(rabbit, &scene.place, &[]));
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
    let work = async {
        for index in 0..4 {
            scene.create(&format!("copy-{index}"), 40, 20).await;
        }
        for index in 0..4 {
            assert_eq!(scene.succeeded(&format!("copy-{index}")).await.restarts, None);
        }
    };
    select(Box::pin(work), Box::pin(disturb)).await;
    let conflicts =
        "longshore_api_requests_total{outcome=\"conflict\",resource=\"nnfdatamovements\",verb=";
    let seen = manager.metric(&format!("{conflicts}\"patch_status\"}}"))
        + manager.metric(&format!("{conflicts}\"patch\"}}"));
    eprintln!("{seen} writes were refused");
    scene.nothing_is_left(vec![worker]).await;
}

#[tokio::test]
async fn objects_may_be_deleted_under_our_hands() {
    let Some(scene) = Scene::new("deleted").await else { return };
    let rabbit = &scene.rabbit;
    let (_manager, worker) = (rabbit.manager(), RealWorker::start(rabbit, &scene.place, &[]));
    scene.create("shard", 200, 60).await;
    scene.begun("shard").await;
    let first = rabbit.shard("shard").await;
    rabbit.shards.delete("shard", &DeleteParams::default()).await.unwrap();
    until(&rabbit.shards, "shard", |shard| shard.uid() != first.uid()).await;
    assert_eq!(scene.succeeded("shard").await.restarts, Some(1));

    // Somebody takes our finalizer away, and the object goes; another one of its name is a new one.
    scene.create("movement", 200, 60).await;
    scene.begun("movement").await;
    let movers = movers_of(&worker);
    let old = rabbit.running("movement").await;
    rabbit.delete("movement").await;
    let nobody = Patch::Merge(json!({"metadata": {"finalizers": null}}));
    rabbit.movements.patch("movement", &PatchParams::default(), &nobody).await.unwrap();
    rabbit.gone("movement").await;
    scene.create("movement", 200, 60).await;
    assert_ne!(old.uid(), rabbit.movements.get("movement").await.unwrap().uid());
    assert_eq!(scene.succeeded("movement").await.restarts, None);
    assert!(movers.iter().all(|mover| !runs(*mover)));
    scene.nothing_is_left(vec![worker]).await;
}

/// A worker that is lost is so soon.
const SHORT: [&str; 2] = ["--lease-seconds", "4"];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_lost_worker_had_goes_to_another_one() {
    let Some(plane) = ControlPlane::shared() else { return };
    let Some(scene) = Scene::new("lost").await else { return };
    let scene = scene.central();
    let (rabbit, place) = (&scene.rabbit, &scene.place);
    let manager = rabbit.manager();
    let way = plane.way().await.unwrap();
    let start = |name: &str| RealWorker::start_by(rabbit, place, name, way.kubeconfig(), &SHORT);
    for how in ["killed", "frozen", "cut-off"] {
        let lost = start("lost");
        scene.create(how, 300, 60).await;
        scene.begun(how).await;
        let [mover] = movers_of(&lost)[..] else { panic!("one mover") };
        let lost = match how {
            "killed" => {
                lost.kill();
                None
            }
            "frozen" => {
                // All of its node is: the mover cannot end itself.
                signal(lost.pid(), "STOP");
                signal(mover, "STOP");
                Some(lost)
            }
            _ => {
                way.set(Link::Silent);
                Some(lost)
            }
        };
        let other = RealWorker::start_by(rabbit, place, "other", &rabbit.kubeconfig, &SHORT);
        until(&rabbit.shards, how, |shard| {
            let worker = shard.status.as_ref().and_then(|status| status.worker.as_deref());
            assert!(worker != Some("worker-of-other") || !runs(mover), "two movers: {how}");
            worker == Some("worker-of-other")
        })
        .await;
        if how == "frozen" {
            signal(lost.as_ref().unwrap().pid(), "CONT");
        }
        let status = scene.succeeded(how).await;
        assert_eq!(status.restarts, Some(1), "{how}");
        way.set(Link::Up);
        // It is of use again, and has nothing left of it.
        if let Some(lost) = lost {
            other.end();
            let later = format!("{how}-later");
            scene.create(&later, 3, 1000).await;
            scene.succeeded(&later).await;
            lost.end();
        } else {
            other.end();
            // That of one that never came back is over, and stays.
            let leases: Api<Lease> = Api::namespaced(rabbit.client.clone(), &rabbit.namespace);
            leases.delete("longshore-worker-lost", &DeleteParams::default()).await.unwrap();
        }
        assert!(same(&scene.source(how), &scene.copy(how)), "{how}: changed after its end");
    }
    manager.counts("longshore_shards_put_back_total", 3).await;
    assert!(rabbit.event("WorkerLost").await.contains("worker-of-lost has lost its Lease"));
    scene.nothing_is_left(Vec::new()).await;
}

#[tokio::test]
async fn a_node_that_never_comes_back_holds_nothing_up_for_ever() {
    let Some(scene) = Scene::new("never-back").await else { return };
    let rabbit = &scene.rabbit;
    let _manager = rabbit.manager_with("manager-0", &["--lost-worker-after", "2"]);
    let lost = RealWorker::start(rabbit, &scene.place, &SHORT);
    for name in ["fails", "deleted"] {
        scene.create(name, 400, 20).await;
        scene.begun(name).await;
    }
    let movers = movers_of(&lost);
    lost.kill();
    rabbit.delete("deleted").await;
    rabbit.gone("deleted").await;
    assert!(movers.iter().all(|mover| !runs(*mover)), "something may still be written");
    let note = rabbit.event("Abandoned").await;
    assert!(note.contains("deleted although worker worker-of-"), "{note}");
    let status = rabbit.finished("fails").await;
    assert_eq!(outcome(&status), Some(Outcome::Failed));
    assert!(status.message.unwrap().contains("has not been heard of for"));
    let leases: Api<Lease> = Api::namespaced(rabbit.client.clone(), &rabbit.namespace);
    let lease = format!("longshore-worker-{}", rabbit.node);
    leases.delete(&lease, &DeleteParams::default()).await.unwrap();
    rabbit.delete("fails").await;
    rabbit.gone("fails").await;
}

/// Connections that are dead without anybody saying so, as when something on the way has forgotten those
/// on which nobody speaks: watches see nothing any more, while everything else works.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn watches_that_are_dead_are_noticed() {
    let Some(plane) = ControlPlane::shared() else { return };
    let Some(scene) = Scene::new("stale").await else { return };
    let (rabbit, place) = (&scene.rabbit, &scene.place);
    let (of_manager, of_worker) = (plane.way().await.unwrap(), plane.way().await.unwrap());
    let manager = rabbit.manager_by(of_manager.kubeconfig(), "manager-0", &[]);
    let options = ["--lease-seconds", "16"];
    let worker =
        RealWorker::start_by(rabbit, place, &rabbit.node, of_worker.kubeconfig(), &options);
    scene.create("before", 3, 1000).await;
    scene.succeeded("before").await;
    // Long enough that everybody only listens.
    tokio::time::sleep(Duration::from_secs(4)).await;
    of_manager.set(Link::Forgetful);
    of_worker.set(Link::Forgetful);
    let begin = Instant::now();
    scene.create("after", 3, 1000).await;
    let status = scene.succeeded("after").await;
    eprintln!("finished {:?} after all watches had died", begin.elapsed());
    assert_eq!(status.restarts, None);
    assert!(begin.elapsed() > Duration::from_secs(1), "no watch was dead");
    assert!(manager.metric("longshore_manager_leader") > 0.5, "it has led all the time");
    scene.nothing_is_left(vec![worker]).await;
}

/// Every connection of manager and worker ends again and again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_end_again_and_again_hold_nothing_up() {
    let Some(plane) = ControlPlane::shared() else { return };
    let Some(scene) = Scene::new("closed").await else { return };
    let (rabbit, place) = (&scene.rabbit, &scene.place);
    let (of_manager, of_worker) = (plane.way().await.unwrap(), plane.way().await.unwrap());
    let _manager = rabbit.manager_by(of_manager.kubeconfig(), "manager-0", &[]);
    let worker = RealWorker::start_by(rabbit, place, &rabbit.node, of_worker.kubeconfig(), &[]);
    let mut random = random_seed();
    let end = async {
        loop {
            for way in [&of_manager, &of_worker] {
                way.set(Link::Refused);
                tokio::time::sleep(Duration::from_millis(next(&mut random) % 100)).await;
                way.set(Link::Up);
            }
            tokio::time::sleep(Duration::from_millis(next(&mut random) % 500)).await;
        }
    };
    let work = async {
        let names: Vec<String> = (0..12).map(|index| format!("copy-{index}")).collect();
        for name in &names {
            scene.create(name, 40, 20).await;
        }
        let mut restarts = 0;
        for name in &names {
            // A claim whose answer never came is made again, and counted.
            restarts += scene.succeeded(name).await.restarts.unwrap_or(0);
        }
        eprintln!("{restarts} claims were repeated");
    };
    select(Box::pin(work), Box::pin(end)).await;
    of_manager.set(Link::Up);
    of_worker.set(Link::Up);
    scene.nothing_is_left(vec![worker]).await;
}

/// A status for which the object has no room, with what a real copy says of many failures.
#[tokio::test]
async fn a_status_that_is_too_large_is_written_short() {
    let Some(scene) = Scene::new("large").await else { return };
    let rabbit = &scene.rabbit;
    let (_manager, worker) = (rabbit.manager(), RealWorker::start(rabbit, &scene.place, &[]));
    scene.place.directory("large.in");
    scene.place.file("large.in/good", 5);
    for index in 0..400 {
        // Those of root, which the user may not read.
        let secret = scene.source("large").join(format!("{index:03}{}", "x".repeat(200)));
        fs::write(&secret, "x").unwrap();
        let nobody = std::os::unix::fs::PermissionsExt::from_mode(0o600);
        fs::set_permissions(&secret, nobody).unwrap();
    }
    rabbit.profile("copy", json!({"command": COPY})).await;
    let mut movement = rabbit.movement("large", "copy");
    let spec = &mut movement.spec;
    spec.source.as_mut().unwrap().path = Some(scene.place.text("large.in/"));
    spec.destination.as_mut().unwrap().path = Some(scene.place.text("out/large"));
    // All that the object may have beside the status is taken.
    let options = Some(format!("--progress 1{}", " ".repeat(1_480_000)));
    spec.user_config = Some(UserConfig { dcp_options: options, ..UserConfig::default() });
    rabbit.create(&movement).await;
    let status = rabbit.finished("large").await;
    assert_eq!(outcome(&status), Some(Outcome::Failed));
    let message = status.message.unwrap();
    assert!(message.starts_with("exit status 1: ") && message.len() <= 32_768, "{message}");
    let copied = fs::read_dir(scene.copy("large")).unwrap().map(Result::unwrap);
    let copied = copied.map(|entry| entry.file_name());
    let copied: Vec<_> =
        copied.filter(|name| !name.to_string_lossy().starts_with(".longshore-")).collect();
    assert_eq!(copied, ["good"]);
    rabbit.delete("large").await;
    rabbit.gone("large").await;
    assert_eq!(movers_of(&worker), [0_i32; 0]);
    worker.end();
}

/// Played, because no real worker is late at a given time.
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
    for _ in 0..3 {
        tokio::time::sleep(Duration::from_secs(3)).await;
        worker.renew().await;
    }
    worker.finish("copy", "Success", 0, json!({})).await;
    let status = rabbit.finished("copy").await;
    assert_eq!((outcome(&status), status.restarts), (Some(Outcome::Success), None));
    assert!(manager.metric("longshore_shards_put_back_total") < 0.5);
    assert!(is_held(&rabbit.movements.get("copy").await.unwrap()));
}
