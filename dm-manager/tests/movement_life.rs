//! The life of data movements against a real API server, by the real manager; the worker is played. One
//! test for each row of section 12 of the reference of the stack that was here before, and for what was
//! observed of it (`docs/conformance.md` says which is which).
#![allow(clippy::unwrap_used, clippy::print_stderr, unreachable_pub)] // tests

mod support;

use std::time::Duration;

use k8s_openapi::api::core::v1::ObjectReference;
use kube::ResourceExt;
use kube::api::{DeleteParams, Patch, PatchParams};
use longshore::api::data_movement::{NnfDataMovementStatus, Outcome, State, UserConfig};
use longshore::api::resource_error::Severity;
use serde_json::json;
use support::rabbit::{COPY, Rabbit, is_held, outcome, state, until};
use support::worker::{Worker, counters};

/// Writes of the status of movements that the manager has had answered.
const STATUS_WRITES: &str = "longshore_api_requests_total{outcome=\"done\",resource=\"nnfdatamovements\",verb=\"patch_status\"}";

#[tokio::test]
async fn a_command_that_copies_nothing_succeeds() {
    let Some(rabbit) = Rabbit::new("true").await else { return };
    let (manager, worker) = (rabbit.manager(), Worker::new(&rabbit).await);
    rabbit.profile("nothing", json!({"command": "true"})).await;
    rabbit.create(&rabbit.movement("copy", "nothing")).await;
    let shard = worker.claim("copy").await;
    assert_eq!(shard.spec.dry_run, Some(true));
    assert!(is_held(&rabbit.running("copy").await));
    worker.finish("copy", "Success", 0, json!({})).await;
    let status = rabbit.finished("copy").await;
    assert_eq!(outcome(&status), Some(Outcome::Success));
    assert!(status.start_time <= status.end_time);
    let command = status.command_status.unwrap();
    assert_eq!(command.progress, None, "nothing was said of progress");
    assert!(command.elapsed_time.is_some());
    assert_eq!((status.message, status.error, status.restarts), (None, None, None));
    assert!(is_held(&rabbit.movements.get("copy").await.unwrap()), "until it is deleted");
    rabbit.delete("copy").await;
    rabbit.gone("copy").await;
    let numbers = manager.get("/metrics").1;
    assert!(!numbers.contains("outcome=\"not_found\""), "requests about what is gone: {numbers}");
}

#[tokio::test]
async fn a_copy_that_fails_says_what_was_said() {
    let Some(rabbit) = Rabbit::new("fails").await else { return };
    let (_manager, worker) = (rabbit.manager(), Worker::new(&rabbit).await);
    rabbit.copy("copy").await;
    worker.claim("copy").await;
    let end = json!({"message": "exit status 3: no space left on device", "error": {
        "debugMessage": "exit status 3", "severity": "Fatal", "type": "Internal",
        "userMessage": "data movement operation failed: no space left on device",
    }});
    worker.finish("copy", "Failed", 3, end).await;
    let status = rabbit.finished("copy").await;
    assert_eq!(outcome(&status), Some(Outcome::Failed));
    assert_eq!(status.message.as_deref(), Some("exit status 3: no space left on device"));
    let error = serde_json::to_value(status.error).unwrap();
    let expected = json!({
        "debugMessage": "exit status 3", "severity": "Fatal", "type": "Internal",
        "userMessage": "data movement operation failed: no space left on device",
    });
    assert_eq!(error, expected);
    let note = rabbit.event("Failed").await;
    assert!(note.contains("no space left"), "{note}");
}

#[tokio::test]
async fn a_missing_profile_is_invalid() {
    let Some(rabbit) = Rabbit::new("profile").await else { return };
    let manager = rabbit.manager();
    rabbit.create(&rabbit.movement("missing", "nope")).await;
    let mut wrong = rabbit.movement("wrong", "nope");
    wrong.spec.profile_reference = Some(rabbit.reference("NnfStorageProfile", "nope"));
    rabbit.create(&wrong).await;
    let mut none = rabbit.movement("none", "nope");
    none.spec.profile_reference = Some(ObjectReference::default());
    rabbit.create(&none).await;
    let prefix = "internal error: could not get profile for data movement: ";
    for (name, message) in [
        ("missing", "NnfDataMovementProfile.nnf.cray.hpe.com \"nope\" not found"),
        ("wrong", "invalid NnfDataMovementProfile kind NnfStorageProfile"),
        ("none", "invalid NnfDataMovementProfile kind "),
    ] {
        let status = rabbit.finished(name).await;
        assert_eq!(outcome(&status), Some(Outcome::Invalid));
        assert_eq!(status.message, Some(format!("{prefix}{message}")));
        assert_eq!(status.error.unwrap().severity, Severity::Major);
        assert!(status.end_time.is_some(), "its end is known, unlike before");
        rabbit.delete(name).await;
        rabbit.gone(name).await;
    }
    // One status each, and none at deletion.
    manager.counts(STATUS_WRITES, 3).await;
}

#[tokio::test]
async fn deleted_before_the_start_it_is_cancelled_and_goes() {
    let Some(rabbit) = Rabbit::new("early").await else { return };
    let mut movement = rabbit.movement("copy", "nope");
    movement.metadata.finalizers = Some(vec!["dm.cray.hpe.com".into(), "test.io/watch".into()]);
    rabbit.create(&movement).await;
    rabbit.delete("copy").await;
    let _manager = rabbit.manager();
    let status = rabbit.finished("copy").await;
    assert_eq!(outcome(&status), Some(Outcome::Cancelled));
    assert_eq!(status.start_time, status.end_time);
    rabbit.until("copy", |movement| !is_held(movement)).await;
    let last = Patch::Merge(json!({"metadata": {"finalizers": null}}));
    rabbit.movements.patch("copy", &PatchParams::default(), &last).await.unwrap();
    rabbit.gone("copy").await;
}

#[tokio::test]
async fn a_shard_that_nobody_has_claimed_does_not_hold_up_deletion() {
    let Some(rabbit) = Rabbit::new("unclaimed").await else { return };
    let _manager = rabbit.manager();
    rabbit.copy("copy").await;
    rabbit.shard("copy").await;
    rabbit.delete("copy").await;
    rabbit.gone("copy").await;
    assert!(rabbit.shards.get_opt("copy").await.unwrap().is_none());
}

#[tokio::test]
async fn cancelled_while_it_runs_it_ends_when_the_mover_has() {
    let Some(rabbit) = Rabbit::new("cancel").await else { return };
    let (_manager, worker) = (rabbit.manager(), Worker::new(&rabbit).await);
    rabbit.copy("copy").await;
    worker.claim("copy").await;
    rabbit.running("copy").await;
    rabbit.cancel("copy").await;
    until(&rabbit.shards, "copy", |shard| shard.spec.cancel == Some(true)).await;
    let movement = rabbit.movements.get("copy").await.unwrap();
    assert_eq!(state(&movement), Some(State::Running), "the mover still writes");
    worker.finish("copy", "Cancelled", 143, json!({"message": "cancelled"})).await;
    let status = rabbit.finished("copy").await;
    assert_eq!(outcome(&status), Some(Outcome::Cancelled));
    assert_eq!((status.message, status.error), (None, None));
    assert!(status.end_time.is_some());
}

#[tokio::test]
async fn cancelled_before_the_start_it_ends_too() {
    let Some(rabbit) = Rabbit::new("never").await else { return };
    // One that a program before this one had started, and that nobody knows any more.
    rabbit.copy("unknown").await;
    let running =
        json!({"status": {"state": "Running", "startTime": "2026-11-21T00:00:00.000000Z"}});
    let params = PatchParams::default();
    rabbit.movements.patch_status("unknown", &params, &Patch::Merge(running)).await.unwrap();
    rabbit.cancel("unknown").await;
    let _manager = rabbit.manager();
    assert_eq!(outcome(&rabbit.finished("unknown").await), Some(Outcome::Cancelled));
    let mut movement = rabbit.movement("at-once", "nope");
    movement.spec.cancel = Some(true);
    rabbit.create(&movement).await;
    rabbit.copy("waiting").await;
    rabbit.shard("waiting").await;
    rabbit.cancel("waiting").await;
    for name in ["at-once", "waiting"] {
        let status = rabbit.finished(name).await;
        assert_eq!(outcome(&status), Some(Outcome::Cancelled), "{name}");
        assert_eq!(status.start_time, status.end_time);
        assert!(rabbit.shards.get_opt(name).await.unwrap().is_none(), "nobody starts it");
    }
}

#[tokio::test]
async fn cancelled_after_the_end_it_stays_what_it_was() {
    let Some(rabbit) = Rabbit::new("late").await else { return };
    let (manager, worker) = (rabbit.manager(), Worker::new(&rabbit).await);
    rabbit.copy("copy").await;
    worker.claim("copy").await;
    worker.finish("copy", "Success", 0, json!({})).await;
    rabbit.finished("copy").await;
    let looks = manager.metric("nnfdm_datamovement_reconciles_total");
    rabbit.cancel("copy").await;
    while manager.metric("nnfdm_datamovement_reconciles_total") <= looks {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(outcome(&rabbit.finished("copy").await), Some(Outcome::Success));
}

#[tokio::test]
async fn progress_is_shown_as_it_comes_and_the_summary_at_the_end() {
    let Some(rabbit) = Rabbit::new("progress").await else { return };
    let (manager, worker) = (rabbit.manager(), Worker::new(&rabbit).await);
    rabbit.profile("fast", json!({"command": COPY, "progressIntervalSeconds": 1})).await;
    rabbit.create(&rabbit.movement("copy", "fast")).await;
    let shard = worker.claim("copy").await;
    rabbit.running("copy").await;
    assert_eq!(shard.spec.progress_interval_seconds, Some(1));
    let mut last = None;
    for bytes in [200, 500, 700] {
        worker.progress("copy", bytes).await;
        let percent = i32::try_from(bytes / 10).unwrap();
        let shown = rabbit
            .until("copy", |movement| {
                let command =
                    movement.status.as_ref().and_then(|status| status.command_status.as_ref());
                command.and_then(|command| command.progress) == Some(percent)
            })
            .await;
        let command = shown.status.unwrap().command_status.unwrap();
        let line = command.last_message.unwrap();
        assert_eq!(line.matches('\n').count(), 1, "a single line: {line:?}");
        assert!(line.starts_with("Copied ") && line.ends_with('\n'), "{line:?}");
        assert!(command.last_message_time > last);
        last = command.last_message_time;
        assert_ne!(command.elapsed_time.as_deref(), Some("0s"));
        assert_eq!(command.seconds, None, "the summary comes at the end");
    }
    // It runs, and it reports three times.
    manager.counts(STATUS_WRITES, 4).await;
    let counters = counters(
        &json!({"bytes": 1000, "totalBytes": 1000, "files": 2, "directories": 1, "links": 1}),
    );
    let end = json!({"counters": counters, "percent": 100});
    worker.finish("copy", "Success", 0, end).await;
    let command = rabbit.finished("copy").await.command_status.unwrap();
    assert_eq!(command.progress, Some(100));
    assert_eq!((command.items, command.files), (Some(4), Some(2)));
    assert_eq!((command.directories, command.links), (Some(1), Some(1)));
    assert_eq!(command.data.as_deref(), Some("1000.000 B (1000 bytes)"));
    assert!(command.rate.unwrap().contains("/s (1000 bytes in "));
    // One write at the end.
    manager.counts(STATUS_WRITES, 5).await;
}

#[tokio::test]
async fn without_an_interval_there_is_no_progress() {
    let Some(rabbit) = Rabbit::new("quiet").await else { return };
    let (_manager, worker) = (rabbit.manager(), Worker::new(&rabbit).await);
    rabbit.profile("quiet", json!({"command": COPY, "progressIntervalSeconds": 0})).await;
    rabbit.create(&rabbit.movement("copy", "quiet")).await;
    let shard = worker.claim("copy").await;
    assert_eq!(shard.spec.progress_interval_seconds, Some(0), "the worker reports none");
    let running = rabbit.running("copy").await.status.unwrap().command_status.unwrap();
    assert_eq!((running.progress, running.elapsed_time.as_deref()), (None, Some("0s")));
}

#[tokio::test]
async fn output_is_kept_on_request_only() {
    let Some(rabbit) = Rabbit::new("output").await else { return };
    let (_manager, worker) = (rabbit.manager(), Worker::new(&rabbit).await);
    rabbit.profile("plain", json!({"command": COPY})).await;
    rabbit.profile("stored", json!({"command": COPY, "storeStdout": true})).await;
    let stores = |store| Some(UserConfig { store_stdout: Some(store), ..UserConfig::default() });
    for (name, profile, user, kept) in [
        ("neither", "plain", None, false),
        ("profile", "stored", None, true),
        ("request", "plain", stores(true), true),
        ("not-off", "stored", stores(false), true),
    ] {
        let mut movement = rabbit.movement(name, profile);
        movement.spec.user_config = user;
        rabbit.create(&movement).await;
        worker.claim(name).await;
        worker.finish(name, "Success", 0, json!({"message": "1 file, 5 bytes"})).await;
        let message = rabbit.finished(name).await.message;
        assert_eq!(message.as_deref(), kept.then_some("1 file, 5 bytes"), "{name}");
    }
}

#[tokio::test]
async fn slots_become_threads() {
    let Some(rabbit) = Rabbit::new("slots").await else { return };
    let _manager = rabbit.manager();
    rabbit.profile("eight", json!({"command": COPY, "slots": 8})).await;
    for (name, slots, threads) in
        [("many", Some(17), Some("17")), ("open", Some(0), None), ("as-profile", None, Some("8"))]
    {
        let mut movement = rabbit.movement(name, "eight");
        movement.spec.user_config = Some(UserConfig { slots, ..UserConfig::default() });
        rabbit.create(&movement).await;
        let options = rabbit.shard(name).await.spec.options.unwrap();
        let found = options.iter().find_map(|option| option.strip_prefix("--threads="));
        assert_eq!(found, threads, "{name}");
    }
}

#[tokio::test]
async fn a_huge_output_is_cut_and_the_end_is_written() {
    let Some(rabbit) = Rabbit::new("huge").await else { return };
    let (_manager, worker) = (rabbit.manager(), Worker::new(&rabbit).await);
    // All that the object may have beside the status is taken.
    rabbit.profile("copy", json!({"command": COPY})).await;
    rabbit.create(&rabbit.movement("copy", "copy")).await;
    worker.claim("copy").await;
    // The longest that a shard may hold: the API server counts characters.
    let output = "é".repeat(32_768);
    worker.finish("copy", "Failed", 1, json!({"message": output})).await;
    let status = rabbit.finished("copy").await;
    assert_eq!(outcome(&status), Some(Outcome::Failed));
    for message in [status.message.unwrap(), status.error.unwrap().user_message.unwrap()] {
        assert!(message.len() <= 32_768 && message.ends_with(" bytes"), "{}", message.len());
    }
}

#[tokio::test]
async fn a_status_that_does_not_fit_is_written_short() {
    let Some(rabbit) = Rabbit::new("full").await else { return };
    let (_manager, worker) = (rabbit.manager(), Worker::new(&rabbit).await);
    rabbit.profile("copy", json!({"command": COPY})).await;
    let mut movement = rabbit.movement("copy", "copy");
    let options = Some(format!("--progress 1{}", " ".repeat(1_480_000)));
    movement.spec.user_config = Some(UserConfig { dcp_options: options, ..UserConfig::default() });
    rabbit.create(&movement).await;
    worker.claim("copy").await;
    worker
        .finish(
            "copy",
            "Failed",
            1,
            json!({"message": format!("exit status 1: {}", "x".repeat(32_000))}),
        )
        .await;
    let status = rabbit.finished("copy").await;
    assert_eq!(outcome(&status), Some(Outcome::Failed));
    assert!(status.message.unwrap().starts_with("exit status 1: xxx"));
}

#[tokio::test]
async fn deleted_while_it_runs_it_stays_until_the_mover_has_ended() {
    let Some(rabbit) = Rabbit::new("delete").await else { return };
    let (_manager, worker) = (rabbit.manager(), Worker::new(&rabbit).await);
    rabbit.copy("copy").await;
    worker.claim("copy").await;
    rabbit.running("copy").await;
    rabbit.delete("copy").await;
    until(&rabbit.shards, "copy", |shard| shard.spec.cancel == Some(true)).await;
    let movement = rabbit.movements.get("copy").await.unwrap();
    assert!(is_held(&movement));
    assert_eq!(state(&movement), Some(State::Running), "no end is written: it is made anew");
    worker.finish("copy", "Cancelled", 143, json!({})).await;
    rabbit.gone("copy").await;
    // Its creator makes it again at once, under the same name.
    rabbit.create(&rabbit.movement("copy", "copy-profile")).await;
    let uid = rabbit.movements.get("copy").await.unwrap().uid();
    until(&rabbit.shards, "copy", |shard| Some(&shard.spec.movement.uid) == uid.as_ref()).await;
    worker.claim("copy").await;
    worker.finish("copy", "Success", 0, json!({})).await;
    assert_eq!(outcome(&rabbit.finished("copy").await), Some(Outcome::Success));
}

/// Somebody deletes a shard while its mover writes: what it has made is no reason to go elsewhere.
#[tokio::test]
async fn a_shard_that_is_made_anew_knows_where_the_source_goes() {
    let Some(rabbit) = Rabbit::new("anew").await else { return };
    let (_manager, worker) = (rabbit.manager(), Worker::new(&rabbit).await);
    rabbit.copy("copy").await;
    let first = worker.claim("copy").await;
    assert_eq!(first.spec.inside, None);
    worker.say("copy", json!({"inside": false})).await;
    rabbit.shards.delete("copy", &DeleteParams::default()).await.unwrap();
    let again = until(&rabbit.shards, "copy", |shard| shard.uid() != first.uid()).await;
    assert_eq!(again.spec.inside, Some(false));
    worker.claim("copy").await;
    worker.finish("copy", "Success", 0, json!({})).await;
    assert_eq!(outcome(&rabbit.finished("copy").await), Some(Outcome::Success));
}

#[tokio::test]
async fn a_second_attempt_is_counted_and_clears_what_the_first_said() {
    let Some(rabbit) = Rabbit::new("again").await else { return };
    let (_manager, worker) = (rabbit.manager(), Worker::new(&rabbit).await);
    rabbit.copy("copy").await;
    worker.claim("copy").await;
    let first = rabbit.running("copy").await.status.unwrap();
    worker.progress("copy", 200).await;
    let progress = |status: &NnfDataMovementStatus| {
        let command = status.command_status.clone().unwrap_or_default();
        (command.progress, command.last_message.is_some())
    };
    rabbit
        .until("copy", |movement| {
            movement.status.as_ref().is_some_and(|status| progress(status) == (Some(20), true))
        })
        .await;
    let free = json!({
        "state": null, "startTime": null, "worker": null,
        "counters": null, "percent": null, "progressTime": null,
    });
    worker.say("copy", free).await;
    worker.claim("copy").await;
    let again = rabbit
        .until("copy", |movement| movement.status.as_ref().unwrap().restarts == Some(1))
        .await
        .status
        .unwrap();
    assert!(again.start_time > first.start_time);
    assert_eq!(progress(&again), (None, false), "that was said of the first attempt");
}

#[tokio::test]
async fn what_the_program_before_had_started_is_started_again() {
    let Some(rabbit) = Rabbit::new("takeover").await else { return };
    rabbit.copy("copy").await;
    let running = json!({"status": {
        "state": "Running", "startTime": "2026-11-21T03:48:56.015264Z",
        "commandStatus": {"command": "/bin/bash -c mpirun", "elapsedTime": "0s"},
    }});
    let params = PatchParams::default();
    rabbit.movements.patch_status("copy", &params, &Patch::Merge(running)).await.unwrap();
    let (_manager, worker) = (rabbit.manager(), Worker::new(&rabbit).await);
    worker.claim("copy").await;
    let restarted = rabbit
        .until("copy", |movement| movement.status.as_ref().unwrap().restarts == Some(1))
        .await;
    let status = restarted.status.unwrap();
    assert!(status.command_status.unwrap().command.unwrap().starts_with("longshore copy"));
}

#[tokio::test]
async fn movements_elsewhere_and_of_copy_offload_are_not_touched() {
    let Some(rabbit) = Rabbit::new("foreign").await else { return };
    let elsewhere = Rabbit::new("elsewhere").await.unwrap();
    let manager = rabbit.manager();
    rabbit.profile("copy", json!({"command": COPY})).await;
    let mut foreign = rabbit.movement("copy", "copy");
    foreign.metadata.namespace = Some(elsewhere.node.clone());
    elsewhere.create(&foreign).await;
    let offload = rabbit.movement("nnf-copy-offload-node-x7", "copy");
    rabbit.create(&offload).await;
    // What is created after them is done, so they have been seen.
    rabbit.create(&rabbit.movement("copy", "copy")).await;
    rabbit.shard("copy").await;
    for (api, name) in
        [(&elsewhere.movements, "copy"), (&rabbit.movements, "nnf-copy-offload-node-x7")]
    {
        let movement = api.get(name).await.unwrap();
        assert!(!is_held(&movement) && movement.status.is_none(), "{movement:?}");
    }
    assert!(manager.get("/readyz").0 == 200);
}
