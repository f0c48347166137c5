//! Data movements from the request to the bytes: the real manager, the real worker and its movers, on a
//! real API server. It needs root, as copies run as their user.
#![allow(clippy::unwrap_used, clippy::print_stderr, unreachable_pub)] // tests

mod support;

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::time::{Duration, Instant};

use longshore::api::NnfDataMovement;
use longshore::api::data_movement::Outcome;
use longshore::api::resource_error::Severity;
use serde_json::json;
use support::rabbit::{COPY, Rabbit, outcome};
use support::real_worker::{Place, RealWorker, USER, movers_of, runs, same, signal};

/// Slow enough to be caught, whatever the machine.
const SLOW: &str = "longshore copy --bandwidth-limit 1M $SRC $DEST";

/// A movement from one path to another.
fn between(rabbit: &Rabbit, name: &str, profile: &str, from: &str, to: &str) -> NnfDataMovement {
    let mut movement = rabbit.movement(name, profile);
    movement.spec.source.as_mut().unwrap().path = Some(from.to_owned());
    movement.spec.destination.as_mut().unwrap().path = Some(to.to_owned());
    movement
}

#[tokio::test]
async fn a_tree_is_copied_as_its_user() {
    let Some(place) = Place::new("tree") else { return };
    let Some(rabbit) = Rabbit::new("tree").await else { return };
    let _manager = rabbit.manager();
    let _worker = RealWorker::start(&rabbit, &place, &[]);
    place.directory("in");
    place.directory("in/below");
    place.file("in/one", 5);
    place.file("in/below/two", 3_000_000);
    place.directory("out");
    rabbit.profile("copy", json!({"command": COPY, "storeStdout": true})).await;
    let (from, to) = (place.text("in/"), place.text("out/new"));
    rabbit.create(&between(&rabbit, "copy", "copy", &from, &to)).await;
    let status = rabbit.finished("copy").await;
    assert_eq!(outcome(&status), Some(Outcome::Success), "{status:?}");
    assert!(same(&place.path("in"), &place.path("out/new")));
    assert_eq!(fs::metadata(place.path("out/new/below/two")).unwrap().uid(), USER);
    let command = status.command_status.unwrap();
    assert_eq!((command.progress, command.files), (Some(100), Some(2)));
    assert_eq!(command.data.as_deref(), Some("2.861 MiB (3000005 bytes)"));
    assert!(!status.message.unwrap().is_empty(), "the summary is stored on request");
    assert!(status.start_time <= status.end_time);
    rabbit.delete("copy").await;
    rabbit.gone("copy").await;
}

#[tokio::test]
async fn copies_out_of_an_allocation_are_kept_apart() {
    let Some(place) = Place::new("index") else { return };
    let Some(rabbit) = Rabbit::new("index").await else { return };
    let _manager = rabbit.manager();
    let _worker = RealWorker::start(&rabbit, &place, &[]);
    rabbit.profile("copy", json!({"command": COPY})).await;
    rabbit.storage("xfs", "xfs").await;
    let mount = format!("{}-0", rabbit.node);
    place.directory(&mount);
    place.directory(&format!("{mount}/job"));
    place.file(&format!("{mount}/job/result"), 10);
    place.file(&format!("{mount}/other"), 10);
    let wrong = place.directory("wrong");
    fs::write(wrong.join("file"), "x").unwrap();
    // Source, destination that exists or not, and where the result is to be.
    for (name, from, to, exists, result) in [
        ("file-dir", "job/result", "a", true, "a/INDEX/result"),
        ("file-new", "job/result", "b/new.out", false, "b/INDEX/new.out"),
        ("file-slash", "job/result", "c/newdir/", false, "c/newdir/INDEX/result"),
        ("dir-slash", "job/", "d/newdir", false, "d/newdir/INDEX/result"),
        ("dir", "job", "e/newdir", false, "e/newdir/INDEX/job/result"),
        ("root", "", "f", true, "f/INDEX/other"),
        ("root-slash", "/", "g/", true, "g/INDEX/other"),
    ] {
        place.directory(&to[..1]);
        assert!(!exists || place.path(to).is_dir());
        let mut source = place.text(&mount);
        if !from.is_empty() {
            source = format!("{}/{from}", source).replace("//", "/");
        }
        let mut movement = between(&rabbit, name, "copy", &source, &place.text(to));
        movement.spec.source.as_mut().unwrap().storage_reference =
            Some(rabbit.reference("NnfStorage", "xfs"));
        rabbit.create(&movement).await;
        let status = rabbit.finished(name).await;
        assert_eq!(outcome(&status), Some(Outcome::Success), "{name}: {status:?}");
        let result = place.path(&result.replace("INDEX", &mount));
        assert!(result.is_file(), "{name}: no {}", result.display());
        let after = rabbit.movements.get(name).await.unwrap();
        assert_eq!(after.spec.destination, movement.spec.destination, "what was asked for stays");
    }
    let mut movement = between(&rabbit, "wrong", "copy", &place.text("wrong/"), &place.text("a"));
    movement.spec.source.as_mut().unwrap().storage_reference =
        Some(rabbit.reference("NnfStorage", "xfs"));
    rabbit.create(&movement).await;
    let status = rabbit.finished("wrong").await;
    assert_eq!(outcome(&status), Some(Outcome::Invalid));
    assert_eq!(status.error.unwrap().severity, Severity::Fatal);
    let message = status.message.unwrap();
    assert!(
        message.contains("could not extract index mount directory from source path"),
        "{message}"
    );
}

#[tokio::test]
async fn what_cannot_be_prepared_is_invalid() {
    let Some(place) = Place::new("invalid") else { return };
    let Some(rabbit) = Rabbit::new("invalid").await else { return };
    let _manager = rabbit.manager();
    let _worker = RealWorker::start(&rabbit, &place, &[]);
    rabbit.profile("copy", json!({"command": COPY})).await;
    place.directory("in");
    place.directory("out");
    fs::create_dir(place.path("not-ours")).unwrap();
    let missing = between(&rabbit, "missing", "copy", &place.text("nope"), &place.text("out"));
    let denied =
        between(&rabbit, "denied", "copy", &place.text("in/"), &place.text("not-ours/new"));
    for (movement, expected) in [
        (missing, "internal error: could not determine source type"),
        (denied, "internal error: could not create destination directory"),
    ] {
        let name = movement.metadata.name.clone().unwrap();
        rabbit.create(&movement).await;
        let status = rabbit.finished(&name).await;
        assert_eq!(outcome(&status), Some(Outcome::Invalid), "{status:?}");
        let message = status.message.unwrap();
        assert!(message.starts_with(expected), "{message}");
        assert_eq!(status.error.unwrap().severity, Severity::Fatal);
    }
}

#[tokio::test]
async fn what_could_not_be_read_is_a_failure_and_named() {
    let Some(place) = Place::new("failed") else { return };
    let Some(rabbit) = Rabbit::new("failed").await else { return };
    let _manager = rabbit.manager();
    let _worker = RealWorker::start(&rabbit, &place, &[]);
    rabbit.profile("copy", json!({"command": COPY})).await;
    place.directory("in");
    place.file("in/good", 5);
    let secret = place.path("in/secret");
    fs::write(&secret, "x").unwrap();
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o600)).unwrap();
    place.directory("out");
    let movement = between(&rabbit, "copy", "copy", &place.text("in/"), &place.text("out"));
    rabbit.create(&movement).await;
    let status = rabbit.finished("copy").await;
    assert_eq!(outcome(&status), Some(Outcome::Failed), "{status:?}");
    let message = status.message.unwrap();
    assert!(message.starts_with("exit status 1: ") && message.contains("secret"), "{message}");
    assert_eq!(status.error.unwrap().severity, Severity::Fatal);
    assert!(place.path("out/good").is_file() && !place.path("out/secret").exists());
}

#[tokio::test]
async fn true_and_dry_runs_prepare_and_copy_nothing() {
    let Some(place) = Place::new("dry") else { return };
    let Some(rabbit) = Rabbit::new("dry").await else { return };
    let _manager = rabbit.manager();
    let _worker = RealWorker::start(&rabbit, &place, &[]);
    rabbit.profile("true", json!({"command": "true"})).await;
    place.directory("in");
    place.file("in/file", 5);
    place.directory("out");
    let movement = between(&rabbit, "copy", "true", &place.text("in/"), &place.text("out/new"));
    rabbit.create(&movement).await;
    let status = rabbit.finished("copy").await;
    assert_eq!(outcome(&status), Some(Outcome::Success), "{status:?}");
    assert!(place.path("out/new").is_dir() && !place.path("out/new/file").exists());
    assert_eq!(status.command_status.unwrap().progress, None);
}

#[tokio::test]
async fn a_copy_is_cancelled_and_deleted_within_two_seconds() {
    let Some(place) = Place::new("cancel") else { return };
    let Some(rabbit) = Rabbit::new("cancel").await else { return };
    let _manager = rabbit.manager();
    let worker = RealWorker::start(&rabbit, &place, &[]);
    rabbit.profile("slow", json!({"command": SLOW, "progressIntervalSeconds": 1})).await;
    place.file("file", 100 << 20);
    place.directory("out");
    for name in ["cancelled", "deleted"] {
        let to = place.text(&format!("out/{name}"));
        rabbit.create(&between(&rabbit, name, "slow", &place.text("file"), &to)).await;
        let seen = rabbit
            .until(name, |movement| {
                let status = movement.status.as_ref();
                let command = status.and_then(|status| status.command_status.as_ref());
                command.and_then(|command| command.progress).is_some_and(|percent| percent > 0)
            })
            .await;
        assert!(seen.status.unwrap().command_status.unwrap().last_message.is_some());
    }
    let within_two_seconds = async |movers: usize| {
        let begin = Instant::now();
        while movers_of(&worker).len() > movers {
            assert!(begin.elapsed() < Duration::from_secs(2), "a mover still writes");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    assert_eq!(movers_of(&worker).len(), 2);
    rabbit.cancel("cancelled").await;
    within_two_seconds(1).await;
    let status = rabbit.finished("cancelled").await;
    assert_eq!((outcome(&status), status.message), (Some(Outcome::Cancelled), None));
    rabbit.delete("deleted").await;
    within_two_seconds(0).await;
    rabbit.gone("deleted").await;

    // The finalizer stays as long as anything writes: here until the mover is killed, a second later.
    let to = place.text("out/stubborn");
    rabbit.create(&between(&rabbit, "stubborn", "slow", &place.text("file"), &to)).await;
    rabbit.running("stubborn").await;
    let [mover] = movers_of(&worker)[..] else { panic!("one mover") };
    signal(mover, "STOP");
    rabbit.delete("stubborn").await;
    while rabbit.movements.get_opt("stubborn").await.unwrap().is_some() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(!runs(mover), "it went while something could still be written");
}

#[tokio::test]
async fn a_worker_that_is_killed_goes_on_where_it_was() {
    let Some(place) = Place::new("killed") else { return };
    let Some(rabbit) = Rabbit::new("killed").await else { return };
    let _manager = rabbit.manager();
    let worker = RealWorker::start(&rabbit, &place, &[]);
    let slow = "longshore copy --bandwidth-limit 10M $SRC $DEST";
    rabbit.profile("slow", json!({"command": slow, "progressIntervalSeconds": 1})).await;
    place.file("file", 40 << 20);
    place.directory("out");
    let movement = between(&rabbit, "copy", "slow", &place.text("file"), &place.text("out/file"));
    rabbit.create(&movement).await;
    rabbit.running("copy").await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    worker.kill();
    let _worker = RealWorker::start(&rabbit, &place, &[]);
    let status = rabbit.finished("copy").await;
    assert_eq!(
        (outcome(&status), status.restarts),
        (Some(Outcome::Success), Some(1)),
        "{status:?}"
    );
    assert!(same(&place.path("file"), &place.path("out/file")));
}
