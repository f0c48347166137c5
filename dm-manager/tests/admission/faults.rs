//! Nobody is kept from working: not by a manager that does not answer, and not by an object that should never
//! have been stored.

use std::time::{Duration, Instant};

use kube::Api;
use kube::api::DeleteParams;
use longshore::api::{Defined, LustreFileSystem, NnfDataMovement, NnfDataMovementProfile};
use serde_json::{Value, json};

use crate::support::admission::{configuration, create, eventually, merge};
use crate::support::rabbit::{COPY, PATIENCE};
use crate::{Scene, unasked};

/// How long the API server waits for an answer, as the manifest says, and some time for itself.
const BOUND: Duration = Duration::from_secs(5);

/// With the conditions of the manifest, and on an API server that does not know such conditions.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_stored_already_can_be_changed_and_can_go() {
    let Some(scene) = Scene::new("stored").await else { return };
    let _manager = scene.manager().await;
    let rabbit = &scene.rabbit;
    let client = &rabbit.client;
    rabbit.profile("copy", json!({"command": COPY})).await;
    for (name, conditions) in [("with", true), ("without", false)] {
        scene
            .register(|object| {
                for webhook in object["webhooks"].as_array_mut().unwrap() {
                    if !conditions {
                        webhook["matchConditions"] = json!([]);
                    }
                }
            })
            .await;
        let kept: Vec<usize> = configuration(client).await["webhooks"]
            .as_array()
            .unwrap()
            .iter()
            .map(|webhook| webhook["matchConditions"].as_array().map_or(0, Vec::len))
            .collect();
        assert_eq!(kept == [0, 0, 0], !conditions, "{kept:?}");
        scene.wait_until_asked().await;

        let hold = json!(["test.longshore.dev/held"]);
        let movement = serde_json::to_value(rabbit.movement(name, "copy")).unwrap();
        let mut movement = unasked(movement);
        movement["spec"]["source"] = json!({"path": "no/path"});
        // Ours to judge, and not begun: only the movement of a node is carried out.
        movement["metadata"]["finalizers"] = hold.clone();
        let profile = unasked(json!({
            "metadata": {"name": name, "finalizers": hold},
            "data": {"command": "sleep 5"},
        }));
        let file_system = unasked(json!({
            "metadata": {"name": name, "finalizers": hold},
            "spec": {"name": "lus", "mgsNids": "10.1.1.1@tcp", "mountRoot": "/etc"},
        }));
        stored_and_gone::<NnfDataMovement>(&scene, &rabbit.node, movement, &[]).await;
        let namespace = rabbit.namespace.as_str();
        let changes = [(json!({"data": {"slots": 5}}), Some("`sleep` cannot be run"))];
        stored_and_gone::<NnfDataMovementProfile>(&scene, namespace, profile, &changes).await;
        let changes = [
            (json!({"spec": {"namespaces": {"default": {"modes": ["ReadWriteMany"]}}}}), None),
            (json!({"spec": {"mountRoot": "/lus/fine"}}), None),
        ];
        stored_and_gone::<LustreFileSystem>(&scene, namespace, file_system, &changes).await;
    }
    scene.end().await;
}

/// Stores an object that nobody is asked about, and then does everything to it about which somebody is.
async fn stored_and_gone<K>(
    scene: &Scene,
    namespace: &str,
    object: Value,
    changes: &[(Value, Option<&str>)],
) where
    K: Defined + kube::Resource<Scope = kube::core::DynamicResourceScope>,
    K: Clone + std::fmt::Debug + serde::de::DeserializeOwned,
{
    let client = &scene.rabbit.client;
    let name = object["metadata"]["name"].as_str().unwrap().to_owned();
    let kind = K::DEFINITION.kind;
    let version = K::DEFINITION.storage_version();
    let stored = create::<K>(client, namespace, version.name(), object, false).await;
    assert_eq!(stored.code, 201, "{kind}: {stored:?}");
    let label = json!({"metadata": {"labels": {"longshore.dev/admission": null}}});
    let note = json!({"metadata": {"annotations": {"note": "changed"}}});
    let touches = [label, note].into_iter().map(|touch| (touch, None));
    for (change, warning) in touches.chain(changes.iter().cloned()) {
        let seen = merge::<K>(client, namespace, &name, &change).await;
        assert_eq!(seen.code, 200, "{kind} {change}: {seen:?}");
        if let Some(text) = warning {
            assert!(seen.warnings.iter().any(|one| one.contains(text)), "{kind}: {seen:?}");
        }
    }
    let api: Api<K> = Api::namespaced_with(client.clone(), namespace, &version);
    drop(api.delete(&name, &DeleteParams::default()).await.unwrap());
    // Whoever else holds it lets go by itself.
    let free = json!({"metadata": {"finalizers": null}});
    let seen = merge::<K>(client, namespace, &name, &free).await;
    assert!(matches!(seen.code, 200 | 404), "{kind}: {seen:?}");
    let gone = format!("{kind} {name} to be gone");
    eventually(&gone, PATIENCE, async || api.get_opt(&name).await.unwrap().is_none()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manager_that_hangs_or_is_down_stops_nobody() {
    let Some(scene) = Scene::new("hangs").await else { return };
    let manager = scene.manager().await;
    let impossible = json!({"command": "sleep 5"});
    manager.signal("STOP");
    let begun = Instant::now();
    let seen = scene.profile("hangs", impossible.clone(), false).await;
    assert_eq!(seen.code, 201, "{seen:?}");
    assert!(begun.elapsed() < BOUND, "{:?}", begun.elapsed());
    // Nobody is asked about what is not judged, so it does not even take time.
    let (client, namespace) = (&scene.rabbit.client, &scene.rabbit.namespace);
    let begun = Instant::now();
    let note = json!({"metadata": {"annotations": {"note": "changed"}, "finalizers": ["a.b.c/d"]}});
    let seen = merge::<NnfDataMovementProfile>(client, namespace, "hangs", &note).await;
    assert_eq!(seen.code, 200, "{seen:?}");
    let free = json!({"metadata": {"finalizers": null}});
    assert_eq!(merge::<NnfDataMovementProfile>(client, namespace, "hangs", &free).await.code, 200);
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    manager.signal("CONT");
    scene.wait_until_asked().await;
    manager.end("KILL");
    let begun = Instant::now();
    let seen = scene.profile("down", impossible, false).await;
    assert_eq!(seen.code, 201, "{seen:?}");
    assert!(begun.elapsed() < BOUND, "{:?}", begun.elapsed());
    scene.end().await;
}
