//! Filesystems and workers while things go wrong around them: a manager that is stopped, controllers that
//! are late, claims that go away under the workers. On a real control plane with played nodes whose pods
//! are real processes with real mounts.
#![allow(clippy::unwrap_used, clippy::print_stderr, unreachable_pub)] // tests
#![allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // numbers of a scrape

mod support;
#[path = "support/workers.rs"]
mod workers;

use std::process::Command;
use std::time::Duration;

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod};
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::{Api, Client, ResourceExt};
use serde_json::{Value, json};
use support::printed;
use workers::{FINALIZER, Manager, Scene, eventually};

fn signal(pid: u32, name: &str) {
    let sent = Command::new("kill").args(["-s", name, &pid.to_string()]).status().unwrap();
    assert!(sent.success());
}

fn claims(client: &Client, namespace: &str) -> Api<PersistentVolumeClaim> {
    Api::namespaced(client.clone(), namespace)
}

fn phase(claim: &PersistentVolumeClaim) -> &str {
    claim.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or_default()
}

/// Waits until a claim is bound that is not one of before.
async fn bound(scene: &Scene, namespace: &str, name: &str, before: Option<&str>) -> String {
    let all = claims(&scene.client, namespace);
    eventually(&format!("the claim {name} to be bound"), async || {
        let claim = all.get_opt(name).await.unwrap()?;
        let uid = claim.uid()?;
        let fits = phase(&claim) == "Bound" && claim.metadata.deletion_timestamp.is_none();
        (fits && Some(uid.as_str()) != before).then_some(uid)
    })
    .await
}

async fn generation(scene: &Scene) -> i64 {
    scene.daemon_set().await.unwrap().metadata.generation.unwrap()
}

/// A leader that is stopped between what it has seen and what it does about it: another one leads, and
/// when it goes on it writes nothing of what was before.
#[tokio::test]
async fn a_leader_that_was_stopped_writes_nothing_when_it_goes_on() {
    let Some(scene) = Scene::new("stopped", &["a"]).await else { return };
    scene.create_manager_object(json!({})).await;
    let first = scene.start_manager("one");
    scene.wait_ready(true).await;
    let _second = scene.start_manager("two");
    let before = generation(&scene).await;
    let name = "brief";
    scene.create_file_system(name).await;
    bound(&scene, &scene.namespace, &scene.claim(name), None).await;
    // It is about to replace the workers, half a second after it has seen that.
    tokio::time::sleep(Duration::from_millis(150)).await;
    signal(first.pid(), "STOP");
    assert_eq!(generation(&scene).await, before, "the machine is too slow for this test");
    scene.delete_file_system(name).await;
    scene.wait_gone(name).await;
    assert!(scene.log("two").contains("let go"), "the other one did it");
    signal(first.pid(), "CONT");
    eventually("it to notice", async || scene.log("one").contains("leading no more").then_some(()))
        .await;
    assert_eq!(generation(&scene).await, before, "the workers were replaced for what is gone");
    scene.wait_ready(true).await;
    let volumes: Api<PersistentVolume> = Api::all(scene.client.clone());
    eventually("its volume to be gone", async || {
        let left = volumes.list(&ListParams::default()).await.unwrap();
        let mut names = left.iter().map(ResourceExt::name_any);
        (!names.any(|left| left.starts_with(&format!("{name}-{}", scene.namespace)))).then_some(())
    })
    .await;
    scene.end().await;
}

/// Starts a manager and has a filesystem, `lus1`, mounted in all workers.
async fn mounted(scene: &Scene) -> Manager {
    scene.create_manager_object(json!({})).await;
    let manager = scene.start_manager("one");
    scene.create_file_system("lus1").await;
    scene.condition("lus1", |condition| condition["reason"] == "Mounted").await;
    scene.wait_ready(true).await;
    manager
}

/// Trap 23: neither an unready worker nor another filesystem that goes keeps one.
#[tokio::test]
async fn an_unready_worker_keeps_no_other_filesystem() {
    let Some(scene) = Scene::new("unready", &["a", "b"]).await else { return };
    scene.create_manager_object(json!({})).await;
    let _manager = scene.start_manager("one");
    for name in ["good", "stays"] {
        scene.create_file_system(name).await;
    }
    scene.wait_ready(true).await;
    let node = scene.nodes.node(&scene.node_name("a"));
    node.refuse(&scene.claim("bad"), "mount.lustre: timed out");
    scene.create_object("bad", json!({})).await;
    scene.condition("bad", |condition| condition["reason"] == "MountFailed").await;
    // Somebody else keeps this one, so that it is being deleted all the time.
    let mine = Patch::Merge(json!({"metadata": {"finalizers": [FINALIZER, "test.io/keep"]}}));
    scene.file_systems().patch("stays", &PatchParams::default(), &mine).await.unwrap();
    scene.delete_file_system("stays").await;
    scene.delete_file_system("good").await;
    scene.wait_gone("good").await;
    assert_eq!(scene.ready().await, Some(false), "a worker cannot start");
    scene.condition("bad", |condition| condition["reason"] == "MountFailed").await;
    eventually("the other one to be let go of", async || {
        let object = scene.file_systems().get("stays").await.unwrap();
        (object.finalizers() == ["test.io/keep"]).then_some(())
    })
    .await;
    scene.end().await;
}

/// Trap 24: what the DaemonSet's controller has not seen is not ready, whatever its status says.
#[tokio::test]
async fn a_status_of_before_is_not_taken_for_ready() {
    let Some(scene) = Scene::new("late", &["a"]).await else { return };
    let _manager = mounted(&scene).await;
    let before = generation(&scene).await;
    let controllers = *scene.plane.pids().last().unwrap();
    signal(controllers, "STOP");
    scene.delete_file_system("lus1").await;
    eventually("the rollout to be begun", async || {
        (generation(&scene).await > before).then_some(())
    })
    .await;
    // The status is that of before: all pods there, all up to date.
    let set = scene.daemon_set().await.unwrap();
    let status = set.status.unwrap();
    assert!(status.observed_generation < set.metadata.generation);
    assert_eq!(status.updated_number_scheduled, Some(status.desired_number_scheduled));
    for _ in 0..15 {
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert_eq!(scene.ready().await, Some(false), "nobody has seen the change");
        let object = scene.file_systems().get("lus1").await.unwrap();
        assert!(object.finalizers().contains(&FINALIZER.to_owned()), "it is mounted still");
    }
    signal(controllers, "CONT");
    scene.wait_gone("lus1").await;
    scene.wait_ready(true).await;
    scene.end().await;
}

/// Traps 25 and 26, in the namespace of somebody else.
#[tokio::test]
async fn a_claim_that_is_made_anew_is_bound_again() {
    let Some(scene) = Scene::new("anew", &["a"]).await else { return };
    scene.create_manager_object(json!({})).await;
    let _manager = scene.start_manager("one");
    let jobs = scene.plane.namespace("jobs").await.unwrap();
    let entry = json!({"namespaces": {jobs.as_str(): {"modes": ["ReadOnlyMany"]}}});
    scene.nodes.provide(&scene.claim("lus1"), scene.lustre.path());
    scene.create_object("lus1", entry.clone()).await;
    let (claim, volume) =
        (format!("lus1-{jobs}-readonlymany-pvc"), format!("lus1-{jobs}-readonlymany-pv"));
    let first = bound(&scene, &jobs, &claim, None).await;
    let volumes: Api<PersistentVolume> = Api::all(scene.client.clone());
    let made = serde_json::to_value(volumes.get(&volume).await.unwrap()).unwrap();
    assert_eq!(made["spec"]["accessModes"], json!(["ReadWriteMany"]), "whatever was asked for");
    assert_eq!(made["spec"]["persistentVolumeReclaimPolicy"], "Retain");
    assert_eq!(made["metadata"]["ownerReferences"], Value::Null, "it could not have one");

    // Somebody deletes the claim: the volume is Released, and bound again all the same.
    claims(&scene.client, &jobs).delete(&claim, &DeleteParams::default()).await.unwrap();
    let second = bound(&scene, &jobs, &claim, Some(&first)).await;

    // The entry goes while a pod has the claim, and comes back before the claim is gone.
    let pods: Api<Pod> = Api::namespaced(scene.client.clone(), &jobs);
    scene.plane.service_account_token(&jobs, "default").await.unwrap();
    let pod: Pod = serde_json::from_value(json!({
        "metadata": {"name": "user"},
        "spec": {
            "nodeName": "nowhere",
            "containers": [{"name": "user", "image": "user"}],
            "volumes": [{"name": "lus", "persistentVolumeClaim": {"claimName": claim}}],
        },
    }))
    .unwrap();
    pods.create(&PostParams::default(), &pod).await.unwrap();
    let set = async |entry: Value| {
        let patch = Patch::Merge(json!({"spec": {"namespaces": {jobs.as_str(): entry}}}));
        scene.file_systems().patch("lus1", &PatchParams::default(), &patch).await.unwrap();
    };
    set(Value::Null).await;
    eventually("the claim to be going", async || {
        let claim = claims(&scene.client, &jobs).get(&claim).await.unwrap();
        claim.metadata.deletion_timestamp.map(drop)
    })
    .await;
    set(entry["namespaces"][&jobs].clone()).await;
    let state = async || {
        let object = scene.file_systems().get("lus1").await.unwrap();
        let status = serde_json::to_value(object.status).unwrap();
        status["namespaces"][&jobs]["modes"]["ReadOnlyMany"]["state"].clone()
    };
    eventually("what is going to be said to be missing", async || {
        (state().await == "Pending").then_some(())
    })
    .await;
    pods.delete("user", &DeleteParams::default().grace_period(0)).await.unwrap();
    bound(&scene, &jobs, &claim, Some(&second)).await;
    eventually("it to be said", async || (state().await == "Ready").then_some(())).await;
    scene.end().await;
}

/// Trap 26, for the claim that the workers have themselves.
#[tokio::test]
async fn a_claim_of_the_workers_that_is_going_is_given_up_and_mounted_anew() {
    let Some(scene) = Scene::new("going", &["a"]).await else { return };
    let _manager = mounted(&scene).await;
    let before = generation(&scene).await;
    let first = bound(&scene, &scene.namespace, &scene.claim("lus1"), None).await;

    // Somebody takes the entry of the workers out: it comes back, and the claim was never touched.
    let none = json!({"spec": {"namespaces": {scene.namespace.as_str(): null}}});
    let params = PatchParams::default();
    scene.file_systems().patch("lus1", &params, &Patch::Merge(none)).await.unwrap();
    eventually("the entry to be there again", async || {
        let object = scene.file_systems().get("lus1").await.unwrap();
        let namespaces = object.spec.namespaces.unwrap_or_default();
        namespaces.contains_key(&scene.namespace).then_some(())
    })
    .await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let claim = claims(&scene.client, &scene.namespace).get(&scene.claim("lus1")).await.unwrap();
    assert_eq!(claim.uid().as_deref(), Some(first.as_str()));
    assert!(claim.metadata.deletion_timestamp.is_none(), "the workers have it");
    assert_eq!(generation(&scene).await, before);

    // Somebody deletes the claim itself. It is kept by the workers, and no new one could have it.
    let name = scene.claim("lus1");
    let claims = claims(&scene.client, &scene.namespace);
    claims.delete(&name, &DeleteParams::default()).await.unwrap();
    bound(&scene, &scene.namespace, &name, Some(&first)).await;
    eventually("it to be mounted again", async || {
        let seen = scene.seen("a", "/lus/lus1/name").await;
        (generation(&scene).await == before + 2
            && seen == vec![Some("lus1".to_owned()); 2]
            && scene.ready().await == Some(true))
        .then_some(())
    })
    .await;
    scene.end().await;
}
