//! Global filesystems: what is refused, and that the controllers do the same.

use kube::api::DeleteParams;
use kube::{Api, ResourceExt};
use longshore::api::{
    Defined, LustreFileSystem, NnfDataMovementManager, data_movement_manager as manager_object,
};
use serde_json::{Value, json};

use crate::support::admission::{create, eventually, merge};
use crate::support::rabbit::PATIENCE;
use crate::{Said, Scene, unasked};

#[tokio::test(flavor = "multi_thread")]
async fn filesystems_are_refused_as_the_controllers_would() {
    let Some(scene) = Scene::new("filesystems").await else { return };
    let rabbit = &scene.rabbit;
    let container = json!({
        "name": "worker", "image": "worker",
        "volumeMounts": [{"name": "logs", "mountPath": "/logs"}],
    });
    let object = json!({
        "metadata": {"name": manager_object::NAME},
        "spec": {
            "selector": {"matchLabels": {"nobody": "has-this"}},
            "podSpec": {
                "containers": [container],
                "volumes": [{"name": "logs", "emptyDir": {}}],
            },
            "updateStrategy": {"type": "RollingUpdate"},
            "hostPath": "/mnt/nnf",
            "mountPath": "/mnt/nnf",
        },
    });
    let (client, namespace) = (&rabbit.client, &rabbit.namespace);
    let made =
        create::<NnfDataMovementManager>(client, namespace, "v1alpha11", object, false).await;
    assert_eq!(made.code, 201, "{made:?}");
    let _manager = scene.manager().await;
    let file_system = |name: &str, root: &str| {
        json!({
            "metadata": {"name": name},
            "spec": {"name": "lus", "mgsNids": "10.1.1.1@tcp", "mountRoot": root},
        })
    };
    // Of two that come in the same second, the controllers take the one whose name is first.
    let early = scene.file_system(file_system("early", "/lus/early"), false).await;
    assert_eq!(early.code, 201, "{early:?}");
    let version = LustreFileSystem::DEFINITION.storage_version();
    let all: Api<LustreFileSystem> = Api::namespaced_with(client.clone(), namespace, &version);
    let long = "l".repeat(64);
    let cases = [
        ("good", "/lus/good/", Said::Nothing),
        (
            "lus.1",
            "/lus/a",
            Said::Refused("cannot be the name of a volume: it must have at most 63"),
        ),
        (long.as_str(), "/lus/a", Said::Refused("cannot be the name of a volume")),
        (
            "nnf",
            "/lus/a",
            Said::Refused("a volume of their own called \"nnf\": create it under another"),
        ),
        ("logs", "/lus/a", Said::Refused("a volume of their own called \"logs\"")),
        ("relative", "lus", Said::Refused("mountRoot \"lus\" is not the path of a directory")),
        ("root", "/", Said::Refused("mountRoot \"/\" is not the path of a directory")),
        ("up", "/lus/../etc", Said::Refused("is not the path of a directory")),
        ("system", "/usr/lus", Said::Refused("its mountRoot /usr/lus would hide /usr")),
        ("taken", "/mnt/nnf/a", Said::Refused("overlaps /mnt/nnf, which the workers have mounted")),
        ("inside", "/lus/early/a", Said::Refused("overlaps /lus/early of the LustreFileSystem")),
    ];
    for (name, root, said) in &cases {
        for version in ["v1alpha1", "v1beta1"] {
            let object = file_system(name, root);
            let seen = create::<LustreFileSystem>(client, namespace, version, object, true).await;
            said.check(&format!("{name} in {version}"), &seen);
        }
    }
    for (name, root, _) in &cases {
        let stored = scene.file_system(unasked(file_system(name, root)), false).await;
        assert_eq!(stored.code, 201, "{name}: {stored:?}");
    }
    for (name, _, said) in &cases {
        let mut condition = Value::Null;
        eventually(&format!("the condition of {name}"), PATIENCE, async || {
            let object = all.get(name).await.unwrap();
            let text = object.annotations().get("longshore.dev/condition");
            condition = text.map_or(Value::Null, |text| serde_json::from_str(text).unwrap());
            !condition.is_null()
        })
        .await;
        match said {
            Said::Refused(text) => {
                assert_eq!(condition["reason"], "Refused", "{name}: {condition}");
                assert!(condition["message"].as_str().unwrap().contains(text), "{condition}");
            }
            _ => assert_eq!(condition["reason"], "ClaimNotBound", "{name}: {condition}"),
        }
    }
    // One that is going is in the way only for a while. It must not be one of the others that comes next.
    drop(all.delete("inside", &DeleteParams::default()).await.unwrap());
    let hold = json!({"metadata": {"finalizers": ["test.longshore.dev/held"]}});
    assert_eq!(merge::<LustreFileSystem>(client, namespace, "early", &hold).await.code, 200);
    drop(all.delete("early", &DeleteParams::default()).await.unwrap());
    let seen = scene.file_system(file_system("next", "/lus/early"), true).await;
    Said::Warned("which is being deleted: until it is gone this one waits").check("next", &seen);
    scene.end().await;
}
