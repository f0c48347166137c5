//! Shards and the worker that does them: what is copied, as whom, and what the status says of it.
#![allow(clippy::unwrap_used)] // tests

mod support;

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

use longshore::api::data_movement_shard::{IndexMount, Preparation};
use support::{GROUP, USER, assert_same, cluster, outcome};

#[tokio::test]
async fn a_tree_is_copied_as_the_user_and_the_status_says_so() {
    let Some(cluster) = cluster("copied").await else { return };
    let worker = cluster.worker("n1", &[]).await;
    let (from, to) = (cluster.place.tree("in", 100), cluster.place.directory("out"));
    let mut slash = from.clone();
    slash.push("");
    cluster.create(&cluster.shard("whole", Some("n1"), &slash, &to)).await;
    let status = cluster.finished("whole").await;
    assert_eq!(outcome(&status), "Success", "{status:#?}");
    assert_eq!((status.exit_code, status.attempts, status.percent), (Some(0), Some(1), Some(100)));
    let counters = status.counters.unwrap();
    let bytes: u64 =
        fs::read_dir(&from).unwrap().map(|e| e.unwrap().metadata().unwrap().len()).sum();
    assert_eq!((counters.files, counters.bytes), (100, bytes.try_into().unwrap()));
    assert_eq!(status.worker.as_deref(), Some("pod-of-n1"));
    let lease = format!("{}/longshore-worker-n1", cluster.namespace);
    assert_eq!(status.lease, Some(lease));
    assert!(status.start_time < status.end_time);
    assert_eq!(status.destination.as_deref(), to.to_str());
    assert!(status.error.is_none());
    assert_same(&from, &to);
    for entry in fs::read_dir(&to).unwrap() {
        let entry = entry.unwrap();
        let metadata = entry.metadata().unwrap();
        assert_eq!((metadata.uid(), metadata.gid()), (USER, GROUP), "{entry:?}");
        assert!(!entry.file_name().to_string_lossy().starts_with(".longshore"), "{entry:?}");
    }
    assert!(worker.movers().is_empty(), "notes of movers are left");
    assert!((worker.metric("longshore_worker_copied_files_total") - 100.0).abs() < 0.1);
    #[allow(clippy::cast_precision_loss)] // a few thousand
    let expected = bytes as f64;
    assert!((worker.metric("longshore_worker_copied_bytes_total") - expected).abs() < 0.1);
    worker.end().await;
    assert_eq!(cluster.leases().await, 0, "the Lease is left");
}

#[tokio::test]
async fn what_the_user_may_not_do_is_not_done() {
    let Some(cluster) = cluster("identity").await else { return };
    let _worker = cluster.worker("n1", &[]).await;
    let from = cluster.place.tree("in", 1);
    // Of root, for root.
    let secret = from.join("secret");
    fs::write(&secret, "s").unwrap();
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o600)).unwrap();
    let to = cluster.place.directory("out");
    cluster.create(&cluster.shard("unreadable", Some("n1"), &from, &to)).await;
    let closed = cluster.place.path("closed");
    fs::create_dir(&closed).unwrap();
    cluster.create(&cluster.shard("closed", Some("n1"), &from, &closed.join("new"))).await;

    let status = cluster.finished("unreadable").await;
    assert_eq!((outcome(&status).as_str(), status.exit_code), ("Failed", Some(1)), "{status:#?}");
    let message = status.message.unwrap();
    assert!(message.starts_with("exit status 1: ") && message.contains("secret"), "{message}");
    assert_eq!(status.counters.unwrap().failed, 1);
    assert!(to.join("in/f00000").exists() && !to.join("in/secret").exists());

    let status = cluster.finished("closed").await;
    assert_eq!((outcome(&status).as_str(), status.exit_code), ("Invalid", Some(2)), "{status:#?}");
    let message = status.message.unwrap();
    assert!(message.contains("could not create destination directory"), "{message}");
    assert_eq!(fs::read_dir(&closed).unwrap().count(), 0);
}

#[tokio::test]
async fn destinations_are_prepared_by_the_rules_of_the_cluster() {
    let Some(cluster) = cluster("prepared").await else { return };
    let _worker = cluster.worker("r-1", &[]).await;
    let place = &cluster.place;
    place.directory("nnf/r-1-0");
    let from = place.tree("nnf/r-1-0/dir", 2);
    let to = place.directory("u");
    let index = |prefix: &str| {
        Some(Preparation {
            create_destination_directory: true,
            index_mount: Some(IndexMount { prefix: prefix.to_owned() }),
        })
    };
    let mut shard = cluster.shard("indexed", Some("r-1"), &from, &to.join("new"));
    shard.spec.preparation = index("r-1");
    cluster.create(&shard).await;
    let status = cluster.finished("indexed").await;
    assert_eq!(outcome(&status), "Success", "{status:#?}");
    assert_eq!(status.destination, Some(support::text(&to.join("new/r-1-0"))));
    assert!(status.command.unwrap().ends_with("/new/r-1-0"));
    assert_same(&from, &to.join("new/r-1-0/dir"));

    let mut shard = cluster.shard("other-rabbit", Some("r-1"), &from, &to.join("none"));
    shard.spec.preparation = index("r-2");
    cluster.create(&shard).await;
    let mut shard = cluster.shard("no-source", Some("r-1"), &from.join("nope"), &to.join("none"));
    shard.spec.preparation = index("r-1");
    cluster.create(&shard).await;
    let mut shard = cluster.shard("unknown-option", Some("r-1"), &from, &to.join("none"));
    shard.spec.options = Some(vec!["--frobnicate".to_owned()]);
    cluster.create(&shard).await;
    for (name, text) in [
        ("other-rabbit", "could not extract index mount directory from source path: "),
        ("other-rabbit", "Looking for pattern '(r-2-\\d+)(/|$)'"),
        ("no-source", "could not determine source type: could not stat path ('"),
        ("no-source", "No such file or directory"),
        ("unknown-option", "--frobnicate"),
    ] {
        let status = cluster.finished(name).await;
        assert_eq!(outcome(&status), "Invalid", "{status:#?}");
        let message = status.message.unwrap();
        assert!(message.contains(text), "{name}: {message}");
        assert_eq!(status.error.unwrap().debug_message, message);
    }
    assert!(!to.join("none").exists(), "something was made");

    // A dry run prepares, and copies nothing.
    let mut shard = cluster.shard("dry", Some("r-1"), &from, &to.join("dry"));
    shard.spec.dry_run = Some(true);
    cluster.create(&shard).await;
    assert_eq!(outcome(&cluster.finished("dry").await), "Success");
    assert_eq!(fs::read_dir(to.join("dry")).unwrap().count(), 0);
}
