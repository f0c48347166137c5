//! The API server goes away while copies run: they go on, and their end is written when it is back.
#![allow(clippy::unwrap_used)] // tests

mod support;

use std::time::{Duration, Instant};

use support::{assert_same, outcome, own_cluster, runs};

/// How long it is away.
const AWAY: Duration = Duration::from_secs(30);

#[tokio::test]
async fn copies_go_on_while_the_api_server_is_away() {
    let Some(cluster) = own_cluster("away").await else { return };
    let worker = cluster.worker("n1", &[]).await;
    let place = &cluster.place;
    let (short, long) = (place.tree("short", 100), place.tree("long", 900));
    let to = place.directory("out");
    // One ends while it is away, one after it is back.
    for (name, from) in [("short", &short), ("long", &long)] {
        let mut shard = cluster.shard(name, Some("n1"), from, &to);
        shard.spec.options = Some(vec!["--ops-limit=20".to_owned()]);
        cluster.create(&shard).await;
    }
    cluster.running("short").await;
    cluster.copied("long", 0).await;
    worker.until("running both", || worker.movers().len() == 2).await;
    let movers = worker.movers();
    let away = Instant::now();
    cluster.plane.stop_api_server().unwrap();
    worker.until("done with one", || worker.movers().len() == 1).await;
    assert!(away.elapsed() < AWAY, "the machine is too slow for this test");
    while away.elapsed() < AWAY {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(movers.iter().any(|mover| runs(*mover)), "{}", worker.log());
    cluster.plane.start_api_server().unwrap();
    for name in ["short", "long"] {
        let status = cluster.finished(name).await;
        assert_eq!(
            (outcome(&status).as_str(), status.attempts),
            ("Success", Some(1)),
            "{status:#?}"
        );
        assert_same(place.path(name).as_path(), &to.join(name));
    }
    worker.ready().await;
    // It is as before.
    cluster.create(&cluster.shard("after", Some("n1"), &short, &place.directory("after"))).await;
    assert_eq!(outcome(&cluster.finished("after").await), "Success");
    worker.end().await;
    assert_eq!(cluster.leases().await, 0);
}

#[tokio::test]
async fn copies_end_before_the_lease_and_go_on_when_the_api_server_is_back() {
    let Some(cluster) = own_cluster("fenced-away").await else { return };
    let worker = cluster.worker("n1", &["--lease-seconds", "5"]).await;
    let from = cluster.place.tree("in", 300);
    let to = cluster.place.directory("out");
    let mut shard = cluster.shard("long", Some("n1"), &from, &to);
    shard.spec.options = Some(vec!["--ops-limit=40".to_owned()]);
    cluster.create(&shard).await;
    cluster.copied("long", 0).await;
    let mover = worker.mover().await;
    cluster.plane.stop_api_server().unwrap();
    support::gone_within(mover, Duration::from_secs(5)).await;
    worker
        .until("without its Lease", || worker.metric("longshore_worker_lease_losses_total") > 0.5)
        .await;
    assert_eq!(worker.get("/readyz").unwrap().0, 503);
    assert_eq!(worker.get("/healthz").unwrap().0, 200);
    cluster.plane.start_api_server().unwrap();
    let status = cluster.finished("long").await;
    assert_eq!((outcome(&status).as_str(), status.attempts), ("Success", Some(2)), "{status:#?}");
    assert!(status.counters.unwrap().resumed_files > 20, "it started over");
    assert_same(&from, &to.join("in"));
    worker.end().await;
}
