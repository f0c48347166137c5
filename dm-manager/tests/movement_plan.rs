//! What the shard of a data movement is told, and what is refused before there is one: against a real API
//! server, by the real manager. The rules themselves are tested where they are.
#![allow(clippy::unwrap_used, clippy::print_stderr, unreachable_pub)] // tests

mod support;

use kube::ResourceExt;
use longshore::api::data_movement::{Outcome, UserConfig};
use longshore::api::resource_error::Severity;
use serde_json::json;
use support::rabbit::{COPY, Rabbit, outcome};
use support::worker::Worker;

#[tokio::test]
async fn the_worker_is_told_everything_and_no_shell_is_run() {
    let Some(rabbit) = Rabbit::new("told").await else { return };
    let _manager = rabbit.manager();
    rabbit.profile("copy", json!({"command": COPY})).await;
    let mut movement = rabbit.movement("dcp-test-1-0", "copy");
    let path = &mut movement.spec.source.as_mut().unwrap().path;
    *path = Some("/lus/a b/$DEST;id>/tmp/x;`id`/in/".to_owned());
    movement.spec.user_config = Some(UserConfig {
        dcp_options: Some("--xattrs none".to_owned()),
        mpirun_options: Some("--map-by node".to_owned()),
        ..UserConfig::default()
    });
    rabbit.create(&movement).await;
    let shard = rabbit.shard("dcp-test-1-0").await;
    let spec = shard.spec.clone();
    assert_eq!(spec.source, "/lus/a b/$DEST;id>/tmp/x;`id`/in/", "a path is not a program");
    assert_eq!(spec.node.as_ref(), Some(&rabbit.node));
    assert_eq!(shard.labels()["longshore.dev/node"], rabbit.node);
    assert_eq!(shard.labels()["longshore.dev/movement"], "dcp-test-1-0");
    assert_eq!((spec.user_id, spec.group_id), (1001, 1001));
    assert_eq!(spec.options.unwrap(), ["--preserve=mode,xattr", "--xattrs=none", "--threads=8"]);
    assert_eq!(spec.progress_interval_seconds, Some(5), "the default of the profile");
    let preparation = spec.preparation.unwrap();
    assert!(preparation.create_destination_directory && preparation.index_mount.is_none());
    let owner = &shard.owner_references()[0];
    assert_eq!((owner.kind.as_str(), owner.name.as_str()), ("NnfDataMovement", "dcp-test-1-0"));
    assert_eq!(rabbit.event("OptionsIgnored").await, "options without meaning here: --map-by node");
}

#[tokio::test]
async fn copies_from_an_allocation_have_an_index_mount() {
    let Some(rabbit) = Rabbit::new("index").await else { return };
    let _manager = rabbit.manager();
    rabbit.profile("copy", json!({"command": COPY})).await;
    rabbit.profile("bare", json!({"command": COPY, "createDestDir": false})).await;
    rabbit.storage("xfs", "xfs").await;
    rabbit.storage("lustre", "lustre").await;
    for (name, storage, profile, expected) in [
        ("from-xfs", "xfs", "copy", Some(Some(rabbit.node.clone()))),
        ("from-lustre", "lustre", "copy", Some(None)),
        ("bare", "xfs", "bare", None),
    ] {
        let mut movement = rabbit.movement(name, profile);
        movement.spec.source.as_mut().unwrap().storage_reference =
            Some(rabbit.reference("NnfStorage", storage));
        rabbit.create(&movement).await;
        let preparation = rabbit.shard(name).await.spec.preparation;
        let prefix = preparation.map(|all| all.index_mount.map(|mount| mount.prefix));
        assert_eq!(prefix, expected, "{name}");
    }
}

#[tokio::test]
async fn what_the_worker_finds_impossible_is_invalid() {
    let Some(rabbit) = Rabbit::new("stat").await else { return };
    let (_manager, worker) = (rabbit.manager(), Worker::new(&rabbit).await);
    rabbit.copy("copy").await;
    worker.claim("copy").await;
    let problem = "could not determine source type: /lus/in: No such file or directory";
    let error = json!({"debugMessage": problem, "severity": "Fatal", "type": "Internal"});
    worker.finish("copy", "Invalid", 2, json!({"error": error})).await;
    let status = rabbit.finished("copy").await;
    assert_eq!(outcome(&status), Some(Outcome::Invalid));
    assert_eq!(status.message, Some(format!("internal error: {problem}")));
    let error = status.error.unwrap();
    assert_eq!((error.severity, error.user_message), (Severity::Fatal.into(), None));
}

#[tokio::test]
async fn what_no_worker_can_do_is_refused() {
    let Some(rabbit) = Rabbit::new("central").await else { return };
    let rabbit = rabbit.central();
    let _manager = rabbit.manager();
    rabbit.profile("copy", json!({"command": COPY})).await;
    rabbit.profile("shell", json!({"command": "sleep 8; echo after"})).await;
    rabbit.storage("xfs", "xfs").await;
    rabbit.storage("lustre", "lustre").await;
    let nodes = "could not get storage nodes for data movement: ";
    let command = "could not create data movement command: ";
    for (name, kind, storage, profile, expected) in [
        ("lustre", "NnfStorage", "lustre", "copy", Ok(())),
        ("xfs", "NnfStorage", "xfs", "copy", Err(format!("{nodes}Unsupported storage type xfs"))),
        (
            "none",
            "Other",
            "x",
            "copy",
            Err(format!("{nodes}Neither source or destination is of NNF Storage type")),
        ),
        ("missing", "NnfStorage", "nope", "copy", {
            let place = format!("{}/nope", rabbit.namespace);
            let found = "NnfStorage.nnf.cray.hpe.com \"nope\" not found";
            Err(format!("{nodes}could not get NnfStorage: {place}: {found}"))
        }),
        ("shell", "NnfStorage", "lustre", "shell", Err(format!("{command}`;` cannot be run: "))),
    ] {
        let mut movement = rabbit.movement(name, profile);
        movement.spec.destination.as_mut().unwrap().storage_reference =
            Some(rabbit.reference(kind, storage));
        rabbit.create(&movement).await;
        match expected {
            Ok(()) => assert_eq!(rabbit.shard(name).await.spec.node, None, "any worker"),
            Err(expected) => {
                let status = rabbit.finished(name).await;
                assert_eq!(outcome(&status), Some(Outcome::Invalid), "{name}");
                let message = status.message.unwrap();
                assert!(message.starts_with(&format!("internal error: {expected}")), "{message}");
                assert_eq!(status.error.unwrap().severity, Severity::Major);
            }
        }
    }
    assert!(rabbit.event("Invalid").await.contains("could not "));
}

#[tokio::test]
async fn a_dry_run_copies_nothing_whatever_the_profile_says() {
    let Some(rabbit) = Rabbit::new("dry").await else { return };
    let _manager = rabbit.manager();
    rabbit.profile("copy", json!({"command": COPY})).await;
    let mut movement = rabbit.movement("copy", "copy");
    movement.spec.user_config = Some(UserConfig { dryrun: Some(true), ..UserConfig::default() });
    rabbit.create(&movement).await;
    let spec = rabbit.shard("copy").await.spec;
    assert_eq!((spec.dry_run, spec.options), (Some(true), None));
    assert!(spec.preparation.is_some(), "the destination is prepared all the same");
}

#[tokio::test]
async fn a_path_that_fits_into_no_shard_is_invalid() {
    let Some(rabbit) = Rabbit::new("long").await else { return };
    let _manager = rabbit.manager();
    rabbit.profile("copy", json!({"command": COPY})).await;
    let mut long = rabbit.movement("long", "copy");
    long.spec.source.as_mut().unwrap().path = Some(format!("/{}", "x".repeat(5000)));
    rabbit.create(&long).await;
    let mut relative = rabbit.movement("relative", "copy");
    relative.spec.source.as_mut().unwrap().path = Some("lus/in".to_owned());
    rabbit.create(&relative).await;
    for (name, expected) in [
        ("long", "could not make a shard of the data movement"),
        ("relative", "the source path 'lus/in' is not an absolute path"),
    ] {
        let status = rabbit.finished(name).await;
        assert_eq!(outcome(&status), Some(Outcome::Invalid), "{name}");
        assert!(status.message.as_ref().unwrap().contains(expected), "{status:?}");
    }
}
