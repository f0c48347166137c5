//! What the tests and the bench of many movements do: each makes a control plane of its own, has movements
//! carried out by real programs, checks that everything is exact, and says what it took. None without
//! what it needs, which is recorded as a skip.

use std::time::{Duration, Instant};

use futures::{StreamExt, stream};
use kube::ResourceExt;
use kube::api::ListParams;
use longshore::api::data_movement::Outcome;
use longshore::api::{DataMovementShard, NnfDataMovement};
use serde_json::json;
use test_cluster::{ControlPlane, until, until_within};

use super::fleet::Fleet;
use super::ledger::{Ledger, Written};
use super::manager::value;
use super::rabbit::{COPY, Rabbit, outcome};
use super::real_worker::{Place, RealWorker, same};
use super::scale::{AtOnce, OneByOne, at_once, one_by_one};

/// As long as this the cluster may take to collect what nobody owns.
const COLLECTED_WITHIN: Duration = Duration::from_secs(300);

/// Slow enough to be seen: a MiB each second.
const SLOW: &str = "longshore copy --bandwidth-limit 1M $SRC $DEST";

/// A movement of one file of so many bytes, which is made.
pub fn of_file(
    rabbit: &Rabbit,
    place: &Place,
    name: &str,
    folder: &str,
    bytes: usize,
) -> NnfDataMovement {
    place.file(&format!("in/{folder}{name}"), bytes);
    let mut movement = rabbit.movement(name, "copy");
    let spec = &mut movement.spec;
    spec.source.as_mut().unwrap().path = Some(place.text(&format!("in/{folder}{name}")));
    spec.destination.as_mut().unwrap().path = Some(place.text(&format!("out/{folder}{name}")));
    movement
}

/// Directories for [`of_file`].
pub fn place(about: &str) -> Option<Place> {
    let place = Place::new(about)?;
    place.directory("in");
    place.directory("out");
    Some(place)
}

/// Small copies by one worker, created at once.
pub async fn many_on_one_worker(number: usize) -> Option<AtOnce> {
    let place = place("many")?;
    let plane = ControlPlane::bare()?;
    let rabbit = Rabbit::on(&plane, "real").await;
    let manager = rabbit.manager();
    rabbit.profile("copy", json!({"command": COPY})).await;
    let copy = |index: usize| {
        (&rabbit, of_file(&rabbit, &place, &format!("copy-{index}"), "", 1000 + index))
    };
    let movements: Vec<_> = (0..number).map(copy).collect();
    let worker = RealWorker::start(&rabbit, &place, &[]);
    worker.ready().await;
    let [etcd, api_server] = plane.pids()[..] else { panic!("two servers") };
    let programs = [
        ("etcd", etcd),
        ("API server", api_server),
        ("manager", manager.pid()),
        ("worker", worker.pid().cast_unsigned()),
    ];
    let took = at_once(&manager, &programs, &movements).await;
    assert!(same(&place.path("in"), &place.path("out")));
    Some(took)
}

/// Copies by one worker, each created when the one before is finished.
pub async fn one_after_the_other(number: usize) -> Option<OneByOne> {
    let place = place("one")?;
    let plane = ControlPlane::bare()?;
    let rabbit = Rabbit::on(&plane, "real").await;
    let (_manager, worker) = (rabbit.manager(), RealWorker::start(&rabbit, &place, &[]));
    worker.ready().await;
    rabbit.profile("copy", json!({"command": SLOW})).await;
    let copy = |index| of_file(&rabbit, &place, &format!("copy-{index}"), "", 200_000);
    let took = one_by_one(&rabbit, &(0..number).map(copy).collect::<Vec<_>>()).await;
    assert!(same(&place.path("in"), &place.path("out")));
    Some(took)
}

/// What copies took that reported how far they were.
#[derive(Debug)]
pub struct Reported {
    /// From before the first was created until the last was finished.
    pub lasted: Duration,
    pub written: Written,
    /// Writes to movements and shards beside the six of each copy.
    pub of_reports: u64,
}

/// Copies by one worker that take so many seconds each, at the same time, and report in an interval.
pub async fn copies_that_report(copies: u64, seconds: u64, interval: u64) -> Option<Reported> {
    let place = place("reports")?;
    let plane = ControlPlane::bare()?;
    let rabbit = Rabbit::on(&plane, "real").await;
    let _manager = rabbit.manager();
    let worker = RealWorker::start(&rabbit, &place, &[]);
    worker.ready().await;
    let profile = json!({"command": SLOW, "progressIntervalSeconds": interval});
    rabbit.profile("copy", profile).await;
    let ledger = Ledger::open(&rabbit.client, &rabbit.namespace).await;
    let began = Instant::now();
    let bytes = seconds << 20;
    for copy in 0..copies {
        let name = format!("copy-{copy}");
        let movement = of_file(&rabbit, &place, &name, "", usize::try_from(bytes).unwrap());
        rabbit.create(&movement).await;
    }
    for copy in 0..copies {
        let status = rabbit.finished(&format!("copy-{copy}")).await;
        assert_eq!(outcome(&status), Some(Outcome::Success), "{status:?}");
        let command = status.command_status.unwrap();
        assert!(command.data.unwrap().ends_with(&format!("({bytes} bytes)")));
        assert_eq!(command.progress, Some(100));
    }
    let lasted = began.elapsed();
    let written = ledger.so_far().await;
    assert!(same(&place.path("in"), &place.path("out")));
    // One write of each is that of its creator.
    let of_reports = written.total().saturating_sub(7 * copies);
    Some(Reported { lasted, written, of_reports })
}

/// Small copies over many nodes with a real worker on each, created at once: all succeed and are exact, and
/// nothing is left of them when they are deleted. With `collected` that is also waited for which the cluster
/// does by itself.
pub async fn over_many_workers(nodes: usize, movements: usize, collected: bool) -> Option<AtOnce> {
    let place = place("fleet")?;
    let fleet = Fleet::new(nodes, &place).await?;
    let manager = fleet.manager();
    let first = &fleet.rabbits[0];
    first.profile("copy", json!({"command": COPY})).await;
    for rabbit in &fleet.rabbits {
        place.directory(&format!("in/{}", rabbit.node));
        place.directory(&format!("out/{}", rabbit.node));
    }
    let copy = |index: usize| {
        let rabbit = &fleet.rabbits[index % nodes];
        let folder = format!("{}/", rabbit.node);
        (rabbit, of_file(rabbit, &place, &format!("copy-{index}"), &folder, 1000 + index))
    };
    let all: Vec<_> = (0..movements).map(copy).collect();
    let took = at_once(&manager, &[], &all).await;
    assert!(same(&place.path("in"), &place.path("out")));

    let said = fleet.metrics().await;
    let sum = |name: &str| said.iter().map(|text| value(text, name, "")).sum::<f64>();
    #[allow(clippy::cast_precision_loss)] // they are few
    let (files, bytes) =
        (movements as f64, (0..movements).map(|index| 1000 + index).sum::<usize>() as f64);
    for (name, expected) in [
        ("longshore_worker_copied_files_total", files),
        ("longshore_worker_copied_bytes_total", bytes),
        ("longshore_worker_claims_total{result=\"won\"}", files),
        ("longshore_worker_finished_shards_total{outcome=\"Success\"}", files),
        ("longshore_worker_movers", 0.0),
        ("longshore_worker_waiting_shards", 0.0),
    ] {
        assert!((sum(name) - expected).abs() < 0.5, "{name}: {} and not {expected}", sum(name));
    }
    until("the end of all movers", async || fleet.processes() == nodes).await;

    let delete = async |(rabbit, movement): &(&Rabbit, NnfDataMovement)| {
        rabbit.delete(&movement.name_any()).await;
    };
    stream::iter(&all).map(delete).buffer_unordered(32).collect::<Vec<_>>().await;
    for rabbit in &fleet.rabbits {
        until("the movements to be gone", async || {
            rabbit.movements.list(&ListParams::default()).await.unwrap().items.is_empty()
        })
        .await;
        // The cluster collects what nobody owns any more. It looks for new kinds twice a minute, and what it
        // has met before it knew the kind of its owner it tries again later each time.
        let shards = async || rabbit.shards.list(&ListParams::default()).await.unwrap().items;
        let goes = |shard: &DataMovementShard| {
            shard.finalizers().is_empty() && shard.owner_references().len() == 1
        };
        assert!(shards().await.iter().all(goes));
        if collected {
            let gone = async || shards().await.is_empty();
            until_within(COLLECTED_WITHIN, "the shards to be gone", gone).await;
        }
    }
    fleet.end_workers().await;
    Some(took)
}
