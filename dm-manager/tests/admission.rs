//! What is refused before it is stored, as a client sees it: the real API server asks the real manager, by the
//! manifests that are deployed. And whatever happens to the manager, nobody is kept from working.
#![allow(clippy::unwrap_used, clippy::print_stderr, unreachable_pub)] // tests

mod support;

use std::time::{Duration, Instant};

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{DeleteParams, Patch, PatchParams};
use kube::{Api, ResourceExt};
use longshore::api::data_movement::Outcome;
use longshore::api::{
    Defined, LustreFileSystem, NnfDataMovement, NnfDataMovementManager, NnfDataMovementProfile,
    data_movement_manager as manager_object,
};
use serde_json::{Value, json};
use support::admission::{
    Seen, Service, apply, ask_at, configuration, create, eventually, manifests, merge, unregister,
};
use support::manager::Manager;
use support::rabbit::{COPY, PATIENCE, Rabbit, outcome};
use test_cluster::{ControlPlane, Settings};
use tokio::sync::{Mutex, MutexGuard};

/// The API server asks about every object of the cluster, so one test has it at a time.
static ALONE: Mutex<()> = Mutex::const_new(());

/// How long the API server waits for an answer, as the manifest says, and some time for itself.
const BOUND: Duration = Duration::from_secs(5);

const NAME: &str = "longshore-admission";

/// A rabbit whose manager the API server asks.
struct Scene {
    rabbit: Rabbit,
    service: Service,
    _alone: Option<MutexGuard<'static, ()>>,
}

impl Scene {
    async fn new(about: &str) -> Option<Self> {
        let alone = ALONE.lock().await;
        let rabbit = Rabbit::new(about).await?;
        Some(Self::of(rabbit, Some(alone)).await)
    }

    async fn of(rabbit: Rabbit, alone: Option<MutexGuard<'static, ()>>) -> Self {
        let scene = Self { rabbit, service: Service::new().await, _alone: alone };
        scene.register(|_| {}).await;
        scene
    }

    /// Applies the manifests, with a change to the configuration.
    async fn register(&self, change: impl Fn(&mut Value)) {
        for mut object in manifests() {
            if object["kind"] == "ValidatingWebhookConfiguration" {
                ask_at(&mut object, self.service.address);
                change(&mut object);
            } else {
                object["metadata"]["namespace"] = json!(self.rabbit.namespace);
            }
            apply(&self.rabbit.client, &object).await;
        }
    }

    /// Starts a replica.
    fn start(&self, identity: &str, arguments: &[&str]) -> Manager {
        let listen = ["--admission-listen", "127.0.0.1:0"];
        let manager = self.rabbit.manager_with(identity, &[&listen, arguments].concat());
        self.service.add(manager.admission());
        manager
    }

    /// Starts the only replica, and waits until it is asked.
    async fn manager(&self) -> Manager {
        let manager = self.start("manager-0", &[]);
        self.wait_until_asked().await;
        manager
    }

    async fn wait_until_asked(&self) {
        eventually("the manager to be asked", PATIENCE, async || self.is_asked().await).await;
    }

    /// Whether an impossible profile is refused.
    async fn is_asked(&self) -> bool {
        self.profile("probe", json!({"command": "sleep 5"}), true).await.refusal().is_some()
    }

    async fn profile(&self, name: &str, data: Value, dry: bool) -> Seen {
        let object = json!({"metadata": {"name": name}, "data": data});
        let (client, namespace) = (&self.rabbit.client, &self.rabbit.namespace);
        create::<NnfDataMovementProfile>(client, namespace, "v1alpha11", object, dry).await
    }

    async fn movement(&self, namespace: &str, object: Value, dry: bool) -> Seen {
        create::<NnfDataMovement>(&self.rabbit.client, namespace, "v1alpha11", object, dry).await
    }

    async fn file_system(&self, object: Value, dry: bool) -> Seen {
        let (client, namespace) = (&self.rabbit.client, &self.rabbit.namespace);
        create::<LustreFileSystem>(client, namespace, "v1beta1", object, dry).await
    }

    /// Takes away what other tests would see.
    async fn end(self) {
        unregister(&self.rabbit.client).await;
        let version = LustreFileSystem::DEFINITION.storage_version();
        let all: Api<LustreFileSystem> =
            Api::namespaced_with(self.rabbit.client.clone(), &self.rabbit.namespace, &version);
        for one in all.list(&Default::default()).await.unwrap() {
            let free = Patch::Merge(json!({"metadata": {"finalizers": null}}));
            drop(all.patch(&one.name_any(), &PatchParams::default(), &free).await);
            drop(all.delete(&one.name_any(), &DeleteParams::default()).await);
        }
    }
}

/// An object that nobody is asked about.
fn unasked(mut object: Value) -> Value {
    object["metadata"]["labels"]["longshore.dev/admission"] = json!("off");
    object
}

/// What is said of an object before it is stored.
#[derive(Clone, Copy, Debug)]
enum Said {
    Nothing,
    Warned(&'static str),
    Refused(&'static str),
}

/// What the controllers do when it is there.
#[derive(Clone, Copy, Debug)]
enum Then {
    Begun,
    Invalid,
    Cancelled,
    Left,
}

impl Said {
    fn check(self, about: &str, seen: &Seen) {
        match self {
            Self::Nothing => {
                assert_eq!((seen.code, &seen.warnings), (201, &vec![]), "{about}: {seen:?}");
            }
            Self::Warned(text) => {
                assert_eq!(seen.code, 201, "{about}: {seen:?}");
                assert!(seen.warnings.iter().any(|one| one.contains(text)), "{about}: {seen:?}");
            }
            Self::Refused(text) => {
                let refusal = seen.refusal().unwrap_or_else(|| panic!("{about}: {seen:?}"));
                assert!(refusal.contains(text), "{about}: {refusal}");
            }
        }
    }
}

/// Every example of a movement is shown to the API server, in both versions, and then stored without anybody
/// being asked, so that the controllers see it: they say the same.
#[tokio::test(flavor = "multi_thread")]
async fn movements_are_refused_as_the_controllers_would() {
    let Some(scene) = Scene::new("movements").await else { return };
    let manager = scene.manager().await;
    let rabbit = &scene.rabbit;
    let node = rabbit.node.as_str();
    let central = rabbit.namespace.as_str();
    rabbit.profile("copy", json!({"command": COPY})).await;
    let shell = json!({
        "metadata": {"name": "shell", "labels": {"longshore.dev/admission": "off"}},
        "data": {"command": "sleep 8; echo after"},
    });
    let stored =
        create::<NnfDataMovementProfile>(&rabbit.client, central, "v1alpha11", shell, false).await;
    assert_eq!(stored.code, 201, "{stored:?}");
    rabbit.storage("xfs", "xfs").await;

    let movement = |name: &str, profile: &str, fields: Value| {
        let mut object = serde_json::to_value(rabbit.movement(name, profile)).unwrap();
        json_patch(&mut object["spec"], &fields);
        object
    };
    let user = |fields: Value| json!({"userConfig": fields});
    let storage = |kind: &str, name: &str| {
        let reference = json!({"kind": kind, "name": name, "namespace": central});
        json!({"destination": {"storageReference": reference}})
    };
    let source = |path: &str| json!({"source": {"path": path}});
    let long = format!("/{}", "x".repeat(5000));
    let cases = [
        (node, movement("good", "copy", json!({})), Said::Nothing, Then::Begun),
        (
            node,
            movement("relative", "copy", source("lus/in")),
            Said::Refused("the source path 'lus/in' is not an absolute path"),
            Then::Invalid,
        ),
        (
            node,
            movement("nowhere", "copy", json!({"destination": null})),
            Said::Refused("the destination path '' is not an absolute path"),
            Then::Invalid,
        ),
        (
            node,
            movement("long", "copy", source(&long)),
            Said::Refused("could not make a shard of the data movement: the source path has 5001"),
            Then::Invalid,
        ),
        (
            node,
            movement("other", "copy", json!({"profileReference": {"kind": "Other"}})),
            Said::Refused(
                "could not get profile for data movement: invalid NnfDataMovementProfile kind Other",
            ),
            Then::Invalid,
        ),
        (
            node,
            movement("input", "copy", user(json!({"dcpOptions": "--input list"}))),
            Said::Refused(
                "could not create data movement command: userConfig.dcpOptions: `--input` is an option of dcp \
                 that Longshore does not have: leave it out",
            ),
            Then::Invalid,
        ),
        (
            node,
            movement("id", "copy", user(json!({"mpirunOptions": "-x A && id"}))),
            Said::Refused("userConfig.mpirunOptions: `&&` cannot be part of an option"),
            Then::Invalid,
        ),
        (
            node,
            movement("mapped", "copy", user(json!({"mpirunOptions": "--map-by node"}))),
            Said::Warned("options without meaning here: --map-by node"),
            Then::Begun,
        ),
        // It may come; where it does not, the movement ends.
        (
            node,
            movement("early", "later", json!({})),
            Said::Warned("NnfDataMovementProfile.nnf.cray.hpe.com \"later\" not found"),
            Then::Invalid,
        ),
        (
            node,
            movement("shell", "shell", json!({})),
            Said::Refused("could not create data movement command: `;` cannot be run"),
            Then::Invalid,
        ),
        (node, movement("dry", "shell", user(json!({"dryrun": true}))), Said::Nothing, Then::Begun),
        (
            node,
            movement("cancelled", "shell", json!({"cancel": true})),
            Said::Nothing,
            Then::Cancelled,
        ),
        (node, movement("nnf-copy-offload-1", "shell", json!({})), Said::Nothing, Then::Left),
        ("default", movement("foreign", "shell", json!({})), Said::Nothing, Then::Left),
        (
            central,
            movement("nodes", "copy", storage("Other", "x")),
            Said::Refused(
                "could not get storage nodes for data movement: Neither source or destination is of NNF \
                 Storage type",
            ),
            Then::Invalid,
        ),
        (
            central,
            movement("local", "copy", storage("NnfStorage", "xfs")),
            Said::Refused(
                "could not get storage nodes for data movement: Unsupported storage type xfs",
            ),
            Then::Invalid,
        ),
        (
            central,
            movement("unmade", "copy", storage("NnfStorage", "unmade")),
            Said::Warned("NnfStorage.nnf.cray.hpe.com \"unmade\" not found"),
            Then::Invalid,
        ),
    ];
    for (namespace, object, said, then) in cases {
        let name = object["metadata"]["name"].as_str().unwrap().to_owned();
        let mut texts = Vec::new();
        for version in ["v1alpha10", "v1alpha11"] {
            let seen =
                create::<NnfDataMovement>(&rabbit.client, namespace, version, object.clone(), true);
            let seen = seen.await;
            said.check(&format!("{name} in {version}"), &seen);
            texts.extend(seen.refusal().map(str::to_owned));
        }
        let stored = scene.movement(namespace, unasked(object), false).await;
        assert_eq!((stored.code, &stored.warnings), (201, &vec![]), "{name}: {stored:?}");
        let movements: Api<NnfDataMovement> = Api::namespaced_with(
            rabbit.client.clone(),
            namespace,
            &NnfDataMovement::DEFINITION.storage_version(),
        );
        match then {
            Then::Begun => assert_eq!(rabbit.shard(&name).await.name_any(), name),
            Then::Left => assert!(movements.get(&name).await.unwrap().status.is_none(), "{name}"),
            Then::Invalid | Then::Cancelled => {
                let ended = |movement: &NnfDataMovement| support::rabbit::state(movement).is_some();
                let ended = support::rabbit::until(&movements, &name, ended).await;
                let status = ended.status.unwrap();
                let wanted = match then {
                    Then::Invalid => Outcome::Invalid,
                    _ => Outcome::Cancelled,
                };
                assert_eq!(outcome(&status), Some(wanted), "{name}");
                // The controllers name the first reason, the webhook all.
                let message = status.message.unwrap_or_default();
                let reason = message.strip_prefix("internal error: ").unwrap_or(&message);
                for text in texts {
                    assert!(text.starts_with(reason), "{name}: {text} and {message}");
                }
            }
        }
    }

    // The name that the API server makes is there when it asks.
    let mut generated = movement("", "copy", source("lus/in"));
    for (beginning, said) in [
        ("nnf-copy-offload-node-", Said::Nothing),
        ("nnf-dm-node-", Said::Refused("the source path 'lus/in'")),
    ] {
        generated["metadata"] = json!({"generateName": beginning});
        said.check(beginning, &scene.movement(node, generated.clone(), true).await);
    }
    let mut both = movement("both", "copy", source("lus/in"));
    both["spec"]["userConfig"] = json!({"dcpOptions": "-L"});
    let seen = scene.movement(node, both, true).await;
    for text in ["`-L` is an option of dcp", "; the source path 'lus/in'"] {
        Said::Refused(text).check("both", &seen);
    }
    for outcome in ["allowed", "warned", "refused"] {
        let metric = format!(
            "longshore_admission_requests_total{{kind=\"NnfDataMovement\",outcome=\"{outcome}\"}}"
        );
        assert!(manager.metric(&metric) >= 4.0, "{outcome}");
    }
    scene.end().await;
}

/// Sets fields in an object, as a merge patch does.
fn json_patch(object: &mut Value, fields: &Value) {
    let Some(fields) = fields.as_object() else {
        *object = fields.clone();
        return;
    };
    for (name, value) in fields {
        json_patch(&mut object[name.as_str()], value);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn profiles_are_refused_as_their_movements_would() {
    let Some(scene) = Scene::new("profiles").await else { return };
    let _manager = scene.manager().await;
    let rabbit = &scene.rabbit;
    let ours = "longshore copy --verify $SRC $DEST";
    let left_out = "options without meaning here: ulimit -n 2048, --allow-run-as-root, --hostfile \
                    $HOSTFILE, --progress 1";
    for (name, data, said) in [
        ("default", json!({"command": COPY}), Said::Warned(left_out)),
        ("pinned", json!({"command": COPY, "pinned": true}), Said::Nothing),
        ("ours", json!({"command": ours}), Said::Nothing),
        ("nothing", json!({"command": "true"}), Said::Nothing),
        ("sleep", json!({"command": "sleep 5"}), Said::Refused("`sleep` cannot be run: Longshore")),
        (
            "kept",
            json!({"command": "sleep 5", "pinned": true}),
            Said::Refused("the profile's command has to be `mpirun [OPTIONS] dcp"),
        ),
        ("shell", json!({"command": "true; id"}), Said::Refused("`;` cannot be run")),
        (
            "frob",
            json!({"command": "longshore copy --frob $SRC $DEST"}),
            Said::Refused("options of the copy: unexpected argument '--frob' found"),
        ),
        (
            "link",
            json!({"command": COPY.replace("dcp ", "dcp -L ")}),
            Said::Refused("`-L` is an option of dcp that Longshore does not have: leave it out"),
        ),
        (
            "slots",
            json!({"command": ours, "slots": 9, "maxSlots": 4}),
            Said::Warned("slots (9) is more than maxSlots (4), which counts"),
        ),
    ] {
        for version in ["v1alpha10", "v1alpha11"] {
            let object = json!({"metadata": {"name": name}, "data": data});
            let (client, namespace) = (&rabbit.client, &rabbit.namespace);
            let seen = create::<NnfDataMovementProfile>(client, namespace, version, object, true);
            said.check(&format!("{name} in {version}"), &seen.await);
        }
        let object = unasked(json!({"metadata": {"name": name}, "data": data}));
        let (client, namespace) = (&rabbit.client, &rabbit.namespace);
        let stored =
            create::<NnfDataMovementProfile>(client, namespace, "v1alpha11", object, false).await;
        assert_eq!(stored.code, 201, "{name}: {stored:?}");
        let movement = serde_json::to_value(rabbit.movement(name, name)).unwrap();
        scene.movement(&rabbit.node, unasked(movement), false).await;
        match said {
            Said::Refused(text) => {
                let status = rabbit.finished(name).await;
                assert_eq!(outcome(&status), Some(Outcome::Invalid), "{name}");
                assert!(status.message.unwrap().contains(text), "{name}");
            }
            _ => assert_eq!(rabbit.shard(name).await.name_any(), name),
        }
    }
    // What is good may be made bad no more than be made.
    let (client, namespace) = (&rabbit.client, &rabbit.namespace);
    let bad = json!({"data": {"command": "sleep 5"}});
    let seen = merge::<NnfDataMovementProfile>(client, namespace, "ours", &bad).await;
    assert_eq!(seen.refusal(), None, "nobody is asked about one with the label: {seen:?}");
    assert_eq!(scene.profile("plain", json!({"command": ours}), false).await.code, 201);
    let seen = merge::<NnfDataMovementProfile>(client, namespace, "plain", &bad).await;
    Said::Refused("`sleep` cannot be run").check("an update", &seen);
    scene.end().await;
}

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
    let old = scene.file_system(file_system("old", "/lus/old"), false).await;
    assert_eq!(old.code, 201, "{old:?}");
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
        ("inside", "/lus/old/a", Said::Refused("overlaps /lus/old of the LustreFileSystem")),
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
    assert_eq!(merge::<LustreFileSystem>(client, namespace, "old", &hold).await.code, 200);
    drop(all.delete("old", &DeleteParams::default()).await.unwrap());
    let seen = scene.file_system(file_system("next", "/lus/old"), true).await;
    Said::Warned("which is being deleted: until it is gone this one waits").check("next", &seen);
    scene.end().await;
}

/// nnf-sos would try again for ever, and the author of the job would never be told why.
#[tokio::test(flavor = "multi_thread")]
async fn movements_of_workflows_are_stored_and_end_with_the_reason() {
    let Some(scene) = Scene::new("workflows").await else { return };
    let manager = scene.manager().await;
    let rabbit = &scene.rabbit;
    rabbit.profile("copy", json!({"command": COPY})).await;
    for (name, label, value) in [
        ("in", "dm.cray.hpe.com/initiator", "copy_in"),
        ("out", "dm.cray.hpe.com/initiator", "copy_out"),
        ("staged", "nnf.cray.hpe.com/teardown_state", "DataIn"),
    ] {
        let mut movement = rabbit.movement(name, "copy");
        movement.spec.source = None;
        movement.metadata.labels = Some([(label.to_owned(), value.to_owned())].into());
        rabbit.create(&movement).await;
        let status = rabbit.finished(name).await;
        assert_eq!(outcome(&status), Some(Outcome::Invalid), "{name}");
        assert!(status.message.unwrap().contains("the source path '' is not an absolute path"));
    }
    // What a compute node asks for is answered at once.
    let mut movement = rabbit.movement("compute", "copy");
    movement.spec.source = None;
    movement.metadata.labels = Some(
        [
            ("dm.cray.hpe.com/initiator".to_owned(), "compute-1".to_owned()),
            ("nnf.cray.hpe.com/teardown_state".to_owned(), "PostRun".to_owned()),
        ]
        .into(),
    );
    let object = serde_json::to_value(movement).unwrap();
    let seen = scene.movement(&rabbit.node, object, false).await;
    Said::Refused("the source path '' is not an absolute path").check("compute", &seen);
    let metric = "longshore_admission_requests_total{kind=\"NnfDataMovement\",outcome=\"refused\"}";
    assert_eq!(manager.metric(metric), 1.0, "only that one was asked about");
    scene.end().await;
}

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

#[tokio::test(flavor = "multi_thread")]
async fn two_replicas_agree_on_an_authority_and_one_is_enough() {
    let Some(scene) = Scene::new("replicas").await else { return };
    let replicas = ["one", "other"].map(|name| scene.start(name, &[]));
    scene.wait_until_asked().await;
    // Both of them: connections go to one after the other.
    for _ in 0..4 {
        assert!(scene.is_asked().await);
    }
    let told = bundles(&scene).await;
    assert!(told.iter().all(|bundle| *bundle == told[0] && !bundle.is_empty()), "{told:?}");
    let stored = authorities(&scene).await;
    assert_eq!(stored.as_array().unwrap().len(), 1, "one authority for both");
    let configured = configuration(&scene.rabbit.client).await;
    // Applying the manifests again changes nothing of it.
    scene.register(|_| {}).await;
    assert_eq!(configuration(&scene.rabbit.client).await["webhooks"], configured["webhooks"]);
    let [one, other] = replicas;
    one.end("KILL");
    scene.wait_until_asked().await;
    assert!(other.metric("longshore_admission_requests_total{kind=\"NnfDataMovementProfile\",outcome=\"refused\"}") > 0.5);
    assert_eq!(bundles(&scene).await, told, "nothing had to be made anew");
    scene.end().await;
}

/// What the API server is told to trust, by each webhook.
async fn bundles(scene: &Scene) -> Vec<String> {
    let configuration = configuration(&scene.rabbit.client).await;
    let webhooks = configuration["webhooks"].as_array().unwrap().iter().map(|webhook| {
        let bundle = webhook["clientConfig"]["caBundle"].clone();
        let bundle: Option<ByteString> = serde_json::from_value(bundle).unwrap();
        String::from_utf8(bundle.map(|bytes| bytes.0).unwrap_or_default()).unwrap()
    });
    webhooks.collect()
}

fn secrets(scene: &Scene) -> Api<Secret> {
    Api::namespaced(scene.rabbit.client.clone(), &scene.rabbit.namespace)
}

async fn authorities(scene: &Scene) -> Value {
    let secret = secrets(scene).get(NAME).await.unwrap();
    serde_json::from_slice(&secret.data.unwrap()["authorities.json"].0).unwrap()
}

async fn set_authorities(scene: &Scene, authorities: &Value) {
    let stored = ByteString(authorities.to_string().into_bytes());
    let patch = Patch::Merge(json!({"data": {"authorities.json": stored}}));
    secrets(scene).patch(NAME, &PatchParams::default(), &patch).await.unwrap();
}

/// The authority is made to look old, so that two replicas make another one and go over to it, and then the
/// old one is taken away. An impossible profile is refused every time meanwhile, by whichever of them.
#[tokio::test(flavor = "multi_thread")]
async fn another_authority_takes_over_and_no_question_is_left_unanswered() {
    let Some(plane) = ControlPlane::own(Settings::default()) else { return };
    let scene = Scene::of(Rabbit::on(&plane, "takes-over").await, None).await;
    let replicas = ["one", "other"].map(|name| scene.start(name, &[]));
    scene.wait_until_asked().await;
    for replica in &replicas {
        replica.wait_for("presents a new certificate").await;
    }
    let mut old = authorities(&scene).await;
    let days = Duration::from_secs(24 * 60 * 60);
    old[0]["made"] = json!(jiff::Timestamp::now() - days * 3400);
    set_authorities(&scene, &old).await;
    let certificates = async || bundles(&scene).await[0].matches("BEGIN CERTIFICATE").count();
    let mut asked = 0;
    let asking = async {
        loop {
            assert!(scene.is_asked().await, "question {asked} was left unanswered");
            asked += 1;
        }
    };
    let taking_over = async {
        let both = "the API server to trust both";
        eventually(both, PATIENCE, async || certificates().await == 2).await;
        for replica in &replicas {
            replica.wait_for("presents a new certificate").await;
        }
        let new = authorities(&scene).await[1].clone();
        set_authorities(&scene, &json!([new])).await;
        let one = "the API server to trust the new one only";
        eventually(one, PATIENCE, async || certificates().await == 1).await;
        assert_eq!(bundles(&scene).await[0], new["certificate"].as_str().unwrap());
        // The API server has heard of it by now.
        tokio::time::sleep(Duration::from_secs(1)).await;
    };
    tokio::select! {
        () = asking => {}
        () = taking_over => {}
    }
    assert!(asked > 50, "{asked} questions");
    for replica in replicas {
        assert!(!replica.rest_of_log().contains("PRIVATE KEY"));
    }
}

/// What cert-manager does: it renews the files, and tells the API server whom to trust.
#[tokio::test(flavor = "multi_thread")]
async fn certificates_that_somebody_else_renews_are_taken_from_a_directory() {
    let Some(scene) = Scene::new("directory").await else { return };
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().to_str().unwrap();
    let manager = scene.start("manager-0", &["--admission-certificates", path]);
    let first = renew(directory.path());
    trust(&scene, &first).await;
    scene.wait_until_asked().await;
    let second = renew(directory.path());
    trust(&scene, &(first + &second)).await;
    manager.wait_for("took a certificate").await;
    manager.wait_for("took a certificate").await;
    trust(&scene, &second).await;
    scene.wait_until_asked().await;
    // What cannot be used is not taken.
    std::fs::write(directory.path().join("tls.crt"), "damaged").unwrap();
    manager.wait_for("no certificate could be taken").await;
    assert!(scene.is_asked().await);
    assert_eq!(secrets(&scene).get(NAME).await.unwrap().data, None, "nothing was written there");
    scene.end().await;
}

/// Writes a new certificate and its key, and returns the certificate of the authority.
fn renew(directory: &std::path::Path) -> String {
    use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
    let mut authority = CertificateParams::default();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(authority, KeyPair::generate().unwrap()).unwrap();
    let mut params = CertificateParams::new(["127.0.0.1".to_owned()]).unwrap();
    params.use_authority_key_identifier_extension = true;
    let key = KeyPair::generate().unwrap();
    let certificate = params.signed_by(&key, &authority).unwrap();
    std::fs::write(directory.join("tls.crt"), certificate.pem()).unwrap();
    std::fs::write(directory.join("tls.key"), key.serialize_pem()).unwrap();
    authority.pem()
}

/// Tells the API server whom to trust.
async fn trust(scene: &Scene, bundle: &str) {
    let bundle = ByteString(bundle.as_bytes().to_vec());
    scene
        .register(|object| {
            for webhook in object["webhooks"].as_array_mut().unwrap() {
                webhook["clientConfig"]["caBundle"] = serde_json::to_value(&bundle).unwrap();
            }
        })
        .await;
}
