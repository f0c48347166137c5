//! Movements and profiles: what is refused, what is only warned about, and that the controllers do the same.

use kube::{Api, ResourceExt};
use longshore::api::data_movement::Outcome;
use longshore::api::{Defined, NnfDataMovement, NnfDataMovementProfile};
use serde_json::{Value, json};

use crate::support::admission::{create, merge};
use crate::support::rabbit::{self, COPY, outcome};
use crate::{Said, Scene, unasked};

/// What the controllers do when it is there.
#[derive(Clone, Copy, Debug)]
enum Then {
    Begun,
    Invalid,
    Cancelled,
    Left,
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
                let ended = |movement: &NnfDataMovement| rabbit::state(movement).is_some();
                let ended = rabbit::until(&movements, &name, ended).await;
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
