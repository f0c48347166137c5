//! Global Lustre filesystems and the workers that mount them, on a real control plane with played nodes
//! whose pods are real processes with real mounts.
#![allow(clippy::unwrap_used, clippy::print_stderr, unreachable_pub)] // tests
#![allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // numbers of a scrape

mod support;
#[path = "support/workers.rs"]
mod workers;

use std::collections::BTreeSet;
use std::time::Duration;

use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use kube::api::{
    ApiResource, DynamicObject, GroupVersionKind, ListParams, Patch, PatchParams, PostParams,
};
use kube::{Api, ResourceExt};
use serde_json::{Value, json};
use support::printed;
use workers::{FINALIZER, Scene, eventually};

fn volumes(set: &DaemonSet) -> Vec<String> {
    let pod = set.spec.as_ref().unwrap().template.spec.as_ref().unwrap();
    pod.volumes.iter().flatten().map(|volume| volume.name.clone()).collect()
}

/// Row 14 of the conformance list, and observation 29.
#[tokio::test]
async fn a_new_filesystem_is_mounted_in_every_container_of_every_worker() {
    let Some(scene) = Scene::new("added", &["a", "b"]).await else { return };
    scene.create_manager_object(json!({})).await;
    let _manager = scene.start_manager("one");
    scene.wait_ready(true).await;
    let before = scene.daemon_set().await.unwrap();
    let writes = (scene.writes("daemonsets").await, scene.writes("lustrefilesystems").await);

    scene.create_file_system("lus1").await;
    scene.wait_ready(false).await;
    let object = scene.file_systems().get("lus1").await.unwrap();
    assert_eq!(object.finalizers(), [FINALIZER]);
    let modes = object.spec.namespaces.unwrap()[&scene.namespace].modes.clone();
    assert_eq!(modes.unwrap(), ["ReadWriteMany"]);
    scene.wait_ready(true).await;

    let after = scene.daemon_set().await.unwrap();
    assert_eq!(volumes(&after), ["lus1", "nnf"]);
    assert_eq!(
        after.metadata.generation.unwrap(),
        before.metadata.generation.unwrap() + 1,
        "one rollout"
    );
    for node in ["a", "b"] {
        let seen = scene.seen(node, "/lus/lus1/name").await;
        assert_eq!(seen, vec![Some("lus1".to_owned()); 2], "both containers of {node}");
    }
    scene.condition("lus1", |condition| condition["reason"] == "Mounted").await;
    assert_eq!(scene.writes("daemonsets").await - writes.0, 1);
    // Adopted, not yet mounted, mounted: three writes, and the one that created it.
    let written = scene.writes("lustrefilesystems").await - writes.1;
    assert!(written <= 4, "{written} writes");
    scene.end().await;
}

/// Row 15, and observation 32.
#[tokio::test]
async fn a_deleted_filesystem_goes_only_after_the_last_unmount() {
    let Some(scene) = Scene::new("deleted", &["a", "b"]).await else { return };
    scene.create_manager_object(json!({})).await;
    let _manager = scene.start_manager("one");
    scene.create_file_system("lus1").await;
    scene.wait_ready(true).await;
    scene.condition("lus1", |condition| condition["reason"] == "Mounted").await;
    scene.delete_file_system("lus1").await;
    let file_systems = scene.file_systems();
    eventually("lus1 to be let go", async || {
        // Mounts first: what is seen after the object was seen could have changed in between.
        let mounted =
            [scene.seen("a", "/lus/lus1/name").await, scene.seen("b", "/lus/lus1/name").await];
        let mounted = mounted.iter().flatten().any(Option::is_some);
        match file_systems.get_opt("lus1").await.unwrap() {
            None => {
                let set = scene.daemon_set().await.unwrap();
                assert_eq!(volumes(&set), ["nnf"]);
                Some(())
            }
            Some(object) => {
                assert!(object.finalizers().contains(&FINALIZER.to_owned()) || !mounted);
                None
            }
        }
    })
    .await;
    for node in ["a", "b"] {
        let seen = scene.seen(node, "/lus/lus1/name").await;
        assert!(seen.iter().all(Option::is_none), "{node} has it still");
    }
    scene.wait_ready(true).await;
    scene.end().await;
}

/// Row 16.
#[tokio::test]
async fn without_nodes_nothing_is_ready() {
    let Some(scene) = Scene::new("nobody", &[]).await else { return };
    scene.create_manager_object(json!({})).await;
    let _manager = scene.start_manager("one");
    eventually("the DaemonSet to be observed", async || {
        let set = scene.daemon_set().await?;
        (set.status?.observed_generation == set.metadata.generation).then_some(())
    })
    .await;
    scene.wait_ready(false).await;
    scene.add_node("late").await;
    scene.wait_ready(true).await;
    scene.end().await;
}

/// Row 17, and the shape of the pods.
#[tokio::test]
async fn the_daemon_set_is_what_the_manager_object_says() {
    let Some(scene) = Scene::new("shape", &["a"]).await else { return };
    scene.create_manager_object(json!({})).await;
    let _manager = scene.start_manager("one");
    scene.wait_ready(true).await;
    let set = serde_json::to_value(scene.daemon_set().await.unwrap()).unwrap();
    let (spec, pod) = (&set["spec"], &set["spec"]["template"]["spec"]);
    let labels = json!({"test": scene.namespace, "dm.cray.hpe.com/worker": "true"});
    assert_eq!(spec["template"]["metadata"]["labels"], labels);
    assert_eq!(spec["selector"]["matchLabels"], json!({"test": scene.namespace}));
    assert_eq!(pod["nodeSelector"], json!({"test": scene.namespace}));
    let toleration = json!([{
        "key": "cray.nnf.node", "operator": "Equal", "value": "true", "effect": "NoSchedule",
    }]);
    assert_eq!(pod["tolerations"], toleration);
    assert_eq!(spec["updateStrategy"]["rollingUpdate"]["maxUnavailable"], "25%");
    for container in pod["containers"].as_array().unwrap() {
        let mount = json!({
            "name": "nnf", "mountPath": "/mnt/nnf", "mountPropagation": "HostToContainer",
        });
        assert_eq!(container["volumeMounts"], json!([mount]));
    }
    let owner = &set["metadata"]["ownerReferences"][0];
    assert_eq!(
        (&owner["kind"], &owner["controller"]),
        (&json!("NnfDataMovementManager"), &json!(true))
    );
    // Nothing logs in anywhere, so nothing else is made.
    for (kind, plural) in [("Service", "services"), ("Secret", "secrets")] {
        let kind = GroupVersionKind::gvk("", "v1", kind);
        let resource = ApiResource::from_gvk_with_plural(&kind, plural);
        let all = Api::<DynamicObject>::namespaced_with(
            scene.client.clone(),
            &scene.namespace,
            &resource,
        );
        assert_eq!(all.list(&ListParams::default()).await.unwrap().items.len(), 0, "{plural}");
    }
    // A storage that nnf-sos mounts later is seen by workers that run.
    let storage = tempfile::tempdir().unwrap();
    std::fs::write(storage.path().join("content"), "x").unwrap();
    scene.nodes.node(&scene.node_name("a")).mount(storage.path(), "/mnt/nnf/job-0").unwrap();
    let seen = scene.seen("a", "/mnt/nnf/job-0/content").await;
    assert_eq!(seen, vec![Some("x".to_owned()); 2]);

    let strategy = json!({"type": "OnDelete", "rollingUpdate": null});
    scene.patch_manager_object(json!({"spec": {"updateStrategy": strategy}})).await;
    eventually("the strategy to be copied", async || {
        let set = scene.daemon_set().await.unwrap();
        let strategy = set.spec.unwrap().update_strategy.unwrap();
        (strategy.type_.as_deref() == Some("OnDelete")).then_some(())
    })
    .await;
    scene.end().await;
}

/// Trap 20, and observation 31: many changes at once, one rollout, one order.
#[tokio::test]
async fn filesystems_that_come_and_go_together_lead_to_one_rollout() {
    let Some(scene) = Scene::new("together", &["a", "b"]).await else { return };
    scene.create_manager_object(json!({})).await;
    let _manager = scene.start_manager("one");
    scene.create_file_system("m").await;
    scene.wait_ready(true).await;
    scene.condition("m", |condition| condition["reason"] == "Mounted").await;
    let before = scene.daemon_set().await.unwrap();
    let old: BTreeSet<_> = scene.pods().await.iter().map(|pod| pod.uid().unwrap()).collect();

    tokio::join!(
        scene.create_file_system("z"),
        scene.create_file_system("a"),
        scene.delete_file_system("m"),
    );
    let mut all = old.clone();
    eventually("all of it to be done", async || {
        all.extend(scene.pods().await.iter().map(|pod| pod.uid().unwrap()));
        let gone = scene.file_systems().get_opt("m").await.unwrap().is_none();
        let set = scene.daemon_set().await.unwrap();
        (gone && volumes(&set) == ["a", "z", "nnf"] && scene.ready().await == Some(true))
            .then_some(())
    })
    .await;
    let after = scene.daemon_set().await.unwrap();
    assert_eq!(after.metadata.generation.unwrap(), before.metadata.generation.unwrap() + 1);
    assert_eq!(all.len(), old.len() + 2, "each pod was replaced once");
    scene.condition("a", |condition| condition["reason"] == "Mounted").await;
    scene.condition("z", |condition| condition["reason"] == "Mounted").await;

    // Harmless edits of the objects change nothing, and nothing is written.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let writes = (scene.writes("daemonsets").await, scene.writes("lustrefilesystems").await);
    for round in 0..6 {
        let label = json!({"metadata": {"labels": {"round": round.to_string()}}});
        scene.patch_manager_object(label).await;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let set = scene.daemon_set().await.unwrap();
    assert_eq!(set.metadata.generation, after.metadata.generation);
    assert_eq!(scene.writes("daemonsets").await, writes.0, "a write that changes nothing");
    assert_eq!(scene.writes("lustrefilesystems").await, writes.1, "a write that changes nothing");
    scene.end().await;
}

#[tokio::test]
async fn a_node_that_cannot_mount_is_named_and_stops_nobody_else() {
    let Some(scene) = Scene::new("unmountable", &["a", "b", "c"]).await else { return };
    scene.create_manager_object(json!({})).await;
    let _manager = scene.start_manager("one");
    scene.wait_ready(true).await;
    let node = scene.nodes.node(&scene.node_name("a"));
    scene.create_object("lus1", json!({})).await;
    let directory = scene.lustre.path().join("lus1");
    std::fs::create_dir_all(&directory).unwrap();
    std::fs::write(directory.join("name"), "lus1").unwrap();
    scene.nodes.provide(&scene.claim("lus1"), directory.clone());
    node.refuse(&scene.claim("lus1"), "mount.lustre: 10.1.1.1@tcp:/lus failed: timed out");
    let condition = scene.condition("lus1", |condition| condition["reason"] == "MountFailed").await;
    let message = condition["message"].as_str().unwrap();
    assert!(message.starts_with(&format!("{}: ", node.name())), "{message}");
    assert!(message.contains("mount.lustre: 10.1.1.1@tcp:/lus failed"), "{message}");
    eventually("the others to have it", async || {
        let seen =
            [scene.seen("b", "/lus/lus1/name").await, scene.seen("c", "/lus/lus1/name").await];
        seen.iter().all(|seen| *seen == vec![Some("lus1".to_owned()); 2]).then_some(())
    })
    .await;
    assert_eq!(scene.ready().await, Some(false));
    let events = eventually("an Event", async || {
        let events = scene.events("MountFailed").await;
        (!events.is_empty()).then_some(events)
    })
    .await;
    assert!(events[0].contains(node.name()), "{events:?}");
    // It can now.
    node.provide(&scene.claim("lus1"), directory);
    scene.wait_ready(true).await;
    scene.condition("lus1", |condition| condition["reason"] == "Mounted").await;
    eventually("the strategy to be as it was", async || {
        let set = serde_json::to_value(scene.daemon_set().await.unwrap()).unwrap();
        let most = set["spec"]["updateStrategy"]["rollingUpdate"]["maxUnavailable"].clone();
        (most == "25%").then_some(())
    })
    .await;
    scene.end().await;
}

/// Trap 22, and mount points that overlap.
#[tokio::test]
async fn what_cannot_be_mounted_is_refused_by_name_and_stops_nothing() {
    let Some(scene) = Scene::new("refused", &["a"]).await else { return };
    scene.create_manager_object(json!({})).await;
    let _manager = scene.start_manager("one");
    scene.create_file_system("good").await;
    scene.wait_ready(true).await;
    let generation = scene.daemon_set().await.unwrap().metadata.generation;
    scene.create_object("nnf", json!({"mountRoot": "/lus/x"})).await;
    scene.create_object("overlapping", json!({"mountRoot": "/lus/good/inside"})).await;
    scene.create_object("system", json!({"mountRoot": "/etc"})).await;
    for (name, reason) in [
        ("nnf", "the workers have a volume of their own called \"nnf\""),
        ("overlapping", "overlaps /lus/good of the LustreFileSystem"),
        ("system", "would hide /etc"),
    ] {
        let condition = scene.condition(name, |condition| condition["reason"] == "Refused").await;
        assert!(condition["message"].as_str().unwrap().contains(reason), "{condition}");
        eventually("an Event", async || {
            let events = scene.events("Refused").await;
            events.iter().any(|event| event.contains(reason)).then_some(())
        })
        .await;
        assert!(scene.file_systems().get(name).await.unwrap().finalizers().is_empty());
    }
    let set = scene.daemon_set().await.unwrap();
    assert_eq!(
        (volumes(&set), set.metadata.generation),
        (vec!["good".into(), "nnf".into()], generation)
    );
    assert_eq!(scene.ready().await, Some(true));
    // Nothing keeps them.
    scene.delete_file_system("nnf").await;
    scene.wait_gone("nnf").await;
    // What stood in the way goes, so the other one comes.
    let directory = scene.lustre.path().join("good");
    scene.nodes.provide(&scene.claim("overlapping"), directory);
    scene.delete_file_system("good").await;
    scene.wait_gone("good").await;
    scene.condition("overlapping", |condition| condition["reason"] == "Mounted").await;
    scene.end().await;
}

/// Trap 21: an entry without the mode that the workers need.
#[tokio::test]
async fn an_entry_without_the_mode_gets_it() {
    let Some(scene) = Scene::new("modes", &["a"]).await else { return };
    scene.create_manager_object(json!({})).await;
    let _manager = scene.start_manager("one");
    let modes: Value = json!({scene.namespace.as_str(): {"modes": ["ReadOnlyMany"]}});
    let directory = scene.lustre.path().to_owned();
    scene.nodes.provide(&scene.claim("lus1"), directory);
    scene.create_object("lus1", json!({"namespaces": modes})).await;
    scene.condition("lus1", |condition| condition["reason"] == "Mounted").await;
    let object = scene.file_systems().get("lus1").await.unwrap();
    let modes = object.spec.namespaces.unwrap()[&scene.namespace].modes.clone();
    assert_eq!(modes.unwrap(), ["ReadOnlyMany", "ReadWriteMany"]);
    scene.end().await;
}

#[tokio::test]
async fn a_node_that_never_comes_back_does_not_keep_a_filesystem_for_ever() {
    let Some(mut scene) = Scene::new("lost", &["a", "b"]).await else { return };
    scene.options.push("--lost-worker-after=2".to_owned());
    scene.create_manager_object(json!({})).await;
    let _manager = scene.start_manager("one");
    scene.create_file_system("lus1").await;
    scene.condition("lus1", |condition| condition["reason"] == "Mounted").await;
    let lost = scene.nodes.node(&scene.node_name("b"));
    lost.power_off();
    scene.delete_file_system("lus1").await;
    scene.condition("lus1", |condition| condition["reason"] == "Unmounting").await;
    scene.wait_gone("lus1").await;
    let events = eventually("an Event", async || {
        let events = scene.events("ReleasedWithoutUnmount").await;
        (!events.is_empty()).then_some(events)
    })
    .await;
    assert!(events[0].contains(lost.name()), "{events:?}");
    scene.end().await;
}

/// Observation 33, and the way out when the manager object goes first.
#[tokio::test]
async fn without_the_manager_object_there_are_no_workers_and_nothing_is_kept() {
    let Some(scene) = Scene::new("undeployed", &["a"]).await else { return };
    scene.create_manager_object(json!({})).await;
    let _manager = scene.start_manager("one");
    scene.create_file_system("lus1").await;
    scene.condition("lus1", |condition| condition["reason"] == "Mounted").await;
    let name = longshore::api::data_movement_manager::NAME;
    scene.managers().delete(name, &Default::default()).await.unwrap();
    eventually("the workers to be collected and lus1 to be free", async || {
        let object = scene.file_systems().get("lus1").await.unwrap();
        let seen = scene.seen("a", "/lus/lus1/name").await;
        if object.finalizers().is_empty() {
            assert!(seen.iter().all(Option::is_none), "it is mounted still");
        }
        (object.finalizers().is_empty() && scene.daemon_set().await.is_none()).then_some(())
    })
    .await;
    scene.end().await;
}

/// The volumes of lustre-fs-operator: no worker is touched before they can be mounted.
#[tokio::test]
async fn a_volume_of_the_operator_is_waited_for() {
    let Some(mut scene) = Scene::new("operator", &["a"]).await else { return };
    scene.options.clear();
    scene.create_manager_object(json!({})).await;
    let _manager = scene.start_manager("one");
    scene.wait_ready(true).await;
    let before = scene.daemon_set().await.unwrap();
    scene.create_file_system("lus1").await;
    scene.condition("lus1", |condition| condition["reason"] == "ClaimNotBound").await;
    scene.wait_ready(false).await;
    let (volume, claim) =
        (format!("lus1-{}-readwritemany-pv", scene.namespace), scene.claim("lus1"));
    let volumes_api: Api<PersistentVolume> = Api::all(scene.client.clone());
    let made: PersistentVolume = serde_json::from_value(json!({
        "metadata": {"name": volume},
        "spec": {
            "accessModes": ["ReadWriteMany"], "capacity": {"storage": "1"},
            "storageClassName": "nnf-lustre-fs",
            "claimRef": {"namespace": scene.namespace, "name": claim},
            "csi": {"driver": "lustre-csi.hpe.com", "volumeHandle": "10.1.1.1@tcp:/lus"},
        },
    }))
    .unwrap();
    volumes_api.create(&PostParams::default(), &made).await.unwrap();
    assert_eq!(scene.daemon_set().await.unwrap().metadata.generation, before.metadata.generation);
    let claims: Api<PersistentVolumeClaim> =
        Api::namespaced(scene.client.clone(), &scene.namespace);
    let made: PersistentVolumeClaim = serde_json::from_value(json!({
        "metadata": {"name": claim},
        "spec": {
            "accessModes": ["ReadWriteMany"], "resources": {"requests": {"storage": "1"}},
            "storageClassName": "nnf-lustre-fs", "volumeName": volume,
        },
    }))
    .unwrap();
    claims.create(&PostParams::default(), &made).await.unwrap();
    scene.condition("lus1", |condition| condition["reason"] == "Mounted").await;
    let after = scene.daemon_set().await.unwrap();
    assert_eq!(after.metadata.generation.unwrap(), before.metadata.generation.unwrap() + 1);
    volumes_api.delete(&volume, &Default::default()).await.unwrap();
    scene.end().await;
}

/// A manager that is killed in the middle of a rollout, and another one that takes over.
#[tokio::test]
async fn a_manager_that_is_killed_leaves_a_rollout_that_another_one_ends() {
    let Some(scene) = Scene::new("killed", &["a", "b"]).await else { return };
    scene.create_manager_object(json!({})).await;
    let first = scene.start_manager("one");
    let _second = scene.start_manager("two");
    scene.wait_ready(true).await;
    let before = scene.daemon_set().await.unwrap();
    scene.create_file_system("lus1").await;
    scene.wait_ready(false).await;
    drop(first); // SIGKILL: nothing is given back
    scene.condition("lus1", |condition| condition["reason"] == "Mounted").await;
    scene.wait_ready(true).await;
    let after = scene.daemon_set().await.unwrap();
    assert_eq!(volumes(&after), ["lus1", "nnf"]);
    assert_eq!(after.metadata.generation.unwrap(), before.metadata.generation.unwrap() + 1);
    scene.end().await;
}

/// The API server goes away in the middle of everything, and what was begun is done when it is back.
#[tokio::test]
async fn an_api_server_that_is_away_delays_a_rollout_and_no_more() {
    let Some(scene) = Scene::new("away", &["a", "b"]).await else { return };
    scene.create_manager_object(json!({})).await;
    let _manager = scene.start_manager("one");
    scene.create_file_system("old").await;
    scene.condition("old", |condition| condition["reason"] == "Mounted").await;
    let before = scene.daemon_set().await.unwrap();
    scene.create_file_system("new").await;
    scene.delete_file_system("old").await;
    scene.plane.stop_api_server().unwrap();
    tokio::time::sleep(Duration::from_secs(3)).await;
    scene.plane.start_api_server().unwrap();
    scene.wait_gone("old").await;
    scene.condition("new", |condition| condition["reason"] == "Mounted").await;
    scene.wait_ready(true).await;
    let after = scene.daemon_set().await.unwrap();
    assert_eq!(volumes(&after), ["new", "nnf"]);
    let rollouts = after.metadata.generation.unwrap() - before.metadata.generation.unwrap();
    assert_eq!(rollouts, 1, "watches came back at different times: {}", scene.log("one"));
    scene.end().await;
}

/// Somebody else changes the DaemonSet, and nnf-dm has left one of its own: it becomes what it should be.
#[tokio::test]
async fn a_daemon_set_of_somebody_else_is_taken_over() {
    let Some(scene) = Scene::new("taken", &["a"]).await else { return };
    let labels = json!({"test": scene.namespace});
    let all = json!({"test": scene.namespace, "dm.cray.hpe.com/worker": "true"});
    let left: DaemonSet = serde_json::from_value(json!({
        "metadata": {"name": "nnf-dm-worker", "labels": {"control-plane": "controller-manager"}},
        "spec": {
            "selector": {"matchLabels": labels},
            "template": {
                "metadata": {"labels": all},
                "spec": {
                    "subdomain": "dm",
                    "containers": [
                        {"name": "manager", "image": "worker", "args": ["infinity"]},
                        {"name": "worker", "image": "worker", "args": ["infinity"]},
                    ],
                    "volumes": [{"name": "ssh-auth", "emptyDir": {}}],
                },
            },
        },
    }))
    .unwrap();
    let sets: Api<DaemonSet> = Api::namespaced(scene.client.clone(), &scene.namespace);
    sets.create(&PostParams::default(), &left).await.unwrap();
    scene.create_manager_object(json!({})).await;
    let _manager = scene.start_manager("one");
    scene.wait_ready(true).await;
    let set = scene.daemon_set().await.unwrap();
    assert_eq!(volumes(&set), ["nnf"]);
    let pod = set.spec.unwrap().template.spec.unwrap();
    let names: Vec<_> = pod.containers.iter().map(|one| one.name.as_str()).collect();
    assert_eq!((names, pod.subdomain), (vec!["worker", "beside"], None));
    // What is taken away from it by hand comes back.
    let patch = json!({"spec": {"template": {"spec": {"nodeSelector": {"strange": "label"}}}}});
    sets.patch("nnf-dm-worker", &PatchParams::default(), &Patch::Merge(patch)).await.unwrap();
    eventually("the selector to be as it was", async || {
        let pod = scene.daemon_set().await.unwrap().spec.unwrap().template.spec.unwrap();
        (pod.node_selector.unwrap().len() == 1).then_some(())
    })
    .await;
    scene.end().await;
}
