//! The definitions and the types against a real API server: it takes what is printed, keeps every field
//! that the types have, fills in the same defaults, and refuses what is invalid.
#![allow(clippy::unwrap_used, clippy::print_stderr, unreachable_pub)] // tests

mod support;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::api::{
    ApiResource, DynamicObject, GroupVersionKind, ListParams, Patch, PatchParams, PostParams,
};
use kube::{Api, Client};
use longshore::api::data_movement::{Endpoint, Outcome, State};
use longshore::api::data_movement_shard::{DataMovementShardSpec, MovementReference, ShardState};
use longshore::api::{
    DWDirectiveRule, DataMovementShard, Defined, LustreFileSystem, NnfDataMovement,
    NnfDataMovementManager, NnfDataMovementProfile, NnfNodeStorage, NnfStorage, Workflow,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use support::{example, printed, schema};
use test_cluster::ControlPlane;

/// A version of a kind, and how to speak of it to the API server.
struct Kind {
    definition: CustomResourceDefinition,
    version: String,
    resource: ApiResource,
    schema: Value,
}

impl Kind {
    fn status_apart(&self) -> bool {
        let mut versions = self.definition.spec.versions.iter();
        let version = versions.find(|version| version.name == self.version).unwrap();
        version.subresources.as_ref().is_some_and(|all| all.status.is_some())
    }

    fn api(&self, client: &Client, namespace: &str) -> Api<DynamicObject> {
        Api::namespaced_with(client.clone(), namespace, &self.resource)
    }

    /// An object with given fields.
    fn object(&self, name: &str, fields: Value) -> Value {
        let mut object = fields;
        object["apiVersion"] = json!(self.resource.api_version);
        object["kind"] = json!(self.resource.kind);
        object["metadata"] = json!({"name": name});
        object
    }

    /// The fields of the kind with every field set.
    fn every_field(&self) -> Value {
        self.with_pods(example::every_field(&self.own_schema()))
    }

    /// The fields of the kind with as few set as there can be.
    fn sparse(&self) -> Value {
        self.with_pods(example::sparse(&self.own_schema()))
    }

    fn with_pods(&self, mut fields: Value) -> Value {
        if self.resource.kind == "NnfDataMovementManager" {
            // The only fields that the schema leaves open.
            fields["spec"]["podSpec"] = json!({
                "terminationGracePeriodSeconds": 30,
                "containers": [{"name": "worker", "image": "none", "args": ["--one"]}],
            });
        }
        fields
    }

    /// The schema without what every object has.
    fn own_schema(&self) -> Value {
        let mut schema = self.schema.clone();
        let properties = schema["properties"].as_object_mut().unwrap();
        properties.retain(|name, _| !["apiVersion", "kind", "metadata"].contains(&name.as_str()));
        schema
    }

    /// What the Rust type makes of an object that it reads and writes.
    fn through_the_type(&self, object: &Value) -> Value {
        fn through<K: Serialize + DeserializeOwned>(object: &Value) -> Value {
            let typed: K = serde_json::from_value(object.clone()).unwrap();
            serde_json::to_value(typed).unwrap()
        }
        match self.resource.kind.as_str() {
            "DataMovementShard" => through::<DataMovementShard>(object),
            "NnfDataMovement" => through::<NnfDataMovement>(object),
            "NnfDataMovementManager" => through::<NnfDataMovementManager>(object),
            "NnfDataMovementProfile" => through::<NnfDataMovementProfile>(object),
            "NnfStorage" => through::<NnfStorage>(object),
            "NnfNodeStorage" => through::<NnfNodeStorage>(object),
            "LustreFileSystem" => through::<LustreFileSystem>(object),
            "Workflow" => through::<Workflow>(object),
            "DWDirectiveRule" => through::<DWDirectiveRule>(object),
            other => panic!("no type for {other}"),
        }
    }
}

/// Every served version of every kind.
fn every_kind() -> Vec<Kind> {
    let mut kinds = Vec::new();
    for definition in printed(&["--all"]) {
        for version in definition.spec.versions.clone() {
            let names = &definition.spec.names;
            let kind = GroupVersionKind::gvk(&definition.spec.group, &version.name, &names.kind);
            kinds.push(Kind {
                schema: schema(&definition, &version.name),
                resource: ApiResource::from_gvk_with_plural(&kind, &names.plural),
                version: version.name,
                definition: definition.clone(),
            });
        }
    }
    assert_eq!(kinds.len(), 17, "eight kinds in two versions, one in one");
    kinds
}

/// The control plane with all definitions, and a namespace.
async fn cluster(about: &str) -> Option<(&'static ControlPlane, Client, String)> {
    let plane = ControlPlane::shared()?;
    let (client, namespace) = plane.scene(&printed(&["--all"]), about).await;
    Some((plane, client, namespace))
}

/// Creates an object with its status, as it can only be done in two steps where the status is apart.
async fn create(
    kind: &Kind,
    api: &Api<DynamicObject>,
    name: &str,
    fields: Value,
) -> kube::Result<Value> {
    let object: DynamicObject = serde_json::from_value(kind.object(name, fields.clone())).unwrap();
    let mut made = api.create(&PostParams::default(), &object).await?;
    if kind.status_apart() && fields["status"].is_object() {
        made.data["status"] = fields["status"].clone();
        made = api.replace_status(name, &PostParams::default(), &made).await?;
    }
    Ok(serde_json::to_value(made).unwrap())
}

/// The fields of the kind alone.
fn own(mut object: Value) -> Value {
    let fields = object.as_object_mut().unwrap();
    fields.retain(|name, _| !["apiVersion", "kind", "metadata"].contains(&name.as_str()));
    object
}

#[tokio::test]
async fn what_is_printed_is_taken_as_it_is() {
    let Some((_, client, _)) = cluster("printed").await else { return };
    let text = support::dm_manager(&["crds", "--all"]);
    let names: Vec<String> = printed(&["--all"])
        .into_iter()
        .map(|definition| definition.metadata.name.unwrap())
        .collect();
    let documents: Vec<&str> =
        text.split("---\n").filter(|document| !document.is_empty()).collect();
    assert_eq!(documents.len(), names.len());
    for (document, name) in documents.iter().zip(&names) {
        // The text itself, read by the API server, as `kubectl apply --server-side` sends it.
        let path = format!("/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{name}");
        let request = http::Request::patch(format!(
            "{path}?fieldManager=printed&force=true&fieldValidation=Strict"
        ))
        .header("content-type", "application/apply-patch+yaml")
        .body(document.as_bytes().to_vec())
        .unwrap();
        let stored: CustomResourceDefinition = client.request(request).await.unwrap();
        let meant: CustomResourceDefinition = serde_saphyr::from_str(document).unwrap();
        assert_eq!(stored.spec.names, meant.spec.names);
        assert_eq!(stored.spec.versions, meant.spec.versions, "{name}: the API server changed it");
    }
}

#[tokio::test]
async fn every_field_comes_back_as_it_was_sent() {
    let Some((_, client, namespace)) = cluster("round-trip").await else { return };
    for kind in every_kind() {
        let api = kind.api(&client, &namespace);
        let what = format!("{}/{}", kind.resource.plural, kind.version);
        let name = format!("whole-{}", kind.version);
        let sent = kind.every_field();
        let made = create(&kind, &api, &name, sent.clone()).await;
        let made = made.unwrap_or_else(|error| panic!("{what}: {error}\n{sent:#}"));
        assert_eq!(own(made), sent, "{what}: something was pruned or changed");
        let got = serde_json::to_value(api.get(&name).await.unwrap()).unwrap();
        assert_eq!(own(got.clone()), sent, "{what}: something was not stored");
        assert_eq!(kind.through_the_type(&got), got, "{what}: the type lacks something");
    }
}

#[tokio::test]
async fn every_version_reads_what_another_one_wrote() {
    let Some((_, client, namespace)) = cluster("versions").await else { return };
    let kinds = every_kind();
    for writer in &kinds {
        let name = format!("from-{}", writer.version);
        create(writer, &writer.api(&client, &namespace), &name, writer.every_field())
            .await
            .unwrap();
        let same = |reader: &&Kind| reader.resource.kind == writer.resource.kind;
        for reader in kinds.iter().filter(same) {
            let got = reader.api(&client, &namespace).get(&name).await.unwrap();
            let got = serde_json::to_value(got).unwrap();
            assert_eq!(got["apiVersion"], reader.resource.api_version);
            assert_eq!(own(got), writer.every_field(), "{} {}", writer.version, reader.version);
        }
    }
}

#[tokio::test]
async fn defaults_are_filled_in() {
    let Some((_, client, namespace)) = cluster("defaults").await else { return };
    for kind in every_kind() {
        let what = format!("{}/{}", kind.resource.plural, kind.version);
        let schema = kind.own_schema();
        let sent = kind.sparse();
        let expected = example::with_defaults(&schema, sent.clone());
        let api = kind.api(&client, &namespace);
        let made = create(&kind, &api, &format!("sparse-{}", kind.version), sent.clone()).await;
        let made = made.unwrap_or_else(|error| panic!("{what}: {error}\n{sent:#}"));
        assert_eq!(own(made.clone()), expected, "{what}");
        // And the type keeps them apart from what was not said.
        assert_eq!(own(kind.through_the_type(&made)), expected, "{what}");
    }
}

#[tokio::test]
async fn what_is_invalid_is_refused() {
    let Some((_, client, namespace)) = cluster("faults").await else { return };
    let try_only = PostParams { dry_run: true, ..PostParams::default() };
    let (mut tried, mut taken) = (0, Vec::new());
    for kind in every_kind() {
        let api = kind.api(&client, &namespace);
        let name = format!("valid-{}", kind.version);
        let valid = kind.every_field();
        create(&kind, &api, &name, valid.clone()).await.unwrap();
        let stored = api.get(&name).await.unwrap();
        for (what, faulty) in example::faults(&kind.own_schema(), &valid) {
            let answer = if kind.status_apart() && what.starts_with("status") {
                let mut object = stored.clone();
                object.data["status"] = faulty["status"].clone();
                if what == "status is missing" {
                    continue; // nobody requires it
                }
                api.replace_status(&name, &try_only, &object).await
            } else {
                let object = kind.object("faulty", faulty);
                match serde_json::from_value::<DynamicObject>(object) {
                    Ok(object) => api.create(&try_only, &object).await,
                    Err(error) => panic!("{what}: {error}"),
                }
            };
            tried += 1;
            match answer {
                Err(kube::Error::Api(refusal)) if [400, 422].contains(&refusal.code) => {}
                Err(error) => panic!("{}/{} {what}: {error}", kind.resource.plural, kind.version),
                Ok(_) => taken.push(format!("{}/{}: {what}", kind.resource.plural, kind.version)),
            }
        }
    }
    assert!(taken.is_empty(), "of {tried} faults the API server took:\n{}", taken.join("\n"));
    assert!(tried > 800, "only {tried} faults were tried");
}

#[tokio::test]
async fn the_columns_are_shown() {
    let Some((_, client, namespace)) = cluster("columns").await else { return };
    for kind in every_kind() {
        let name = format!("shown-{}", kind.version);
        create(&kind, &kind.api(&client, &namespace), &name, kind.every_field()).await.unwrap();
        let path = format!(
            "/apis/{}/namespaces/{namespace}/{}/{name}",
            kind.resource.api_version, kind.resource.plural
        );
        let request = http::Request::get(path)
            .header("accept", "application/json;as=Table;v=v1;g=meta.k8s.io")
            .body(Vec::new())
            .unwrap();
        let table: Value = client.request(request).await.unwrap();
        let headings = table["columnDefinitions"].as_array().unwrap();
        let headings: Vec<&str> =
            headings.iter().map(|column| column["name"].as_str().unwrap()).collect();
        let mut versions = kind.definition.spec.versions.iter();
        let version = versions.find(|version| version.name == kind.version).unwrap();
        let columns = version.additional_printer_columns.iter().flatten();
        let mut expected = vec!["Name"];
        expected.extend(columns.map(|column| column.name.as_str()));
        if expected.len() == 1 {
            expected.push("Age"); // the API server's own choice where nothing is said
        }
        assert_eq!(headings, expected, "{}", kind.resource.plural);
        let cells = table["rows"][0]["cells"].as_array().unwrap();
        for (heading, cell) in headings.iter().zip(cells) {
            assert!(!cell.is_null(), "{} shows nothing in {heading}", kind.resource.plural);
        }
    }
}

/// A movement as it is asked for.
fn movement(name: &str) -> NnfDataMovement {
    let version = NnfDataMovement::DEFINITION.storage_version();
    let mut movement = NnfDataMovement::new(&version, name);
    movement.spec.source =
        Some(Endpoint { path: Some("/lus/a/in/".to_owned()), storage_reference: None });
    movement.spec.user_id = Some(1001);
    movement
}

#[tokio::test]
async fn a_status_is_written_apart_and_only_by_who_has_seen_the_newest() {
    let Some((_, client, namespace)) = cluster("status").await else { return };
    let version = NnfDataMovement::DEFINITION.storage_version();
    let movements: Api<NnfDataMovement> = Api::namespaced_with(client, &namespace, &version);
    let made = movements.create(&PostParams::default(), &movement("copy")).await.unwrap();
    assert_eq!(made.status, None);
    assert_eq!(made.spec.cancel, Some(false), "the default");

    let mut running = made.clone();
    running.spec.user_id = Some(0);
    running.status.get_or_insert_default().state = Some(State::Running.into());
    let running = movements.replace_status("copy", &PostParams::default(), &running).await.unwrap();
    assert_eq!(running.status.as_ref().unwrap().state, Some(State::Running.into()));
    assert_eq!(running.spec.user_id, Some(1001), "writing the status writes nothing else");

    let mut late = made;
    late.status.get_or_insert_default().state = Some(State::Finished.into());
    let refused =
        movements.replace_status("copy", &PostParams::default(), &late).await.unwrap_err();
    assert!(matches!(&refused, kube::Error::Api(status) if status.code == 409), "{refused}");

    let time = MicroTime("2026-11-21T03:48:56.031803Z".parse().unwrap());
    let end =
        json!({"status": {"state": State::Finished, "status": Outcome::Success, "endTime": time}});
    let params = PatchParams::default();
    let ended = movements.patch_status("copy", &params, &Patch::Merge(end)).await.unwrap();
    let status = ended.status.unwrap();
    assert_eq!(status.status, Some(Outcome::Success.into()));
    assert_eq!(status.end_time, Some(time));
}

#[tokio::test]
async fn a_user_id_of_more_than_31_bits_cannot_be_asked_for() {
    let Some((_, client, namespace)) = cluster("ids").await else { return };
    let version = NnfDataMovement::DEFINITION.storage_version();
    let movements: Api<NnfDataMovement> = Api::namespaced_with(client, &namespace, &version);
    let mut asked = movement("copy");
    // nnf-sos has an unsigned field with a signed format, and the API server goes by the format.
    asked.spec.user_id = Some(1 << 31);
    let refused = movements.create(&PostParams::default(), &asked).await.unwrap_err().to_string();
    assert!(refused.contains("must be of type integer with format int32"), "{refused}");
    asked.spec.user_id = Some((1 << 31) - 1);
    movements.create(&PostParams::default(), &asked).await.unwrap();
}

#[tokio::test]
async fn fields_have_owners() {
    let Some((_, client, namespace)) = cluster("apply").await else { return };
    let version = NnfDataMovement::DEFINITION.storage_version();
    let movements: Api<NnfDataMovement> = Api::namespaced_with(client, &namespace, &version);
    let first = PatchParams::apply("first");
    let applied = movements.patch("copy", &first, &Patch::Apply(movement("copy"))).await.unwrap();
    let unchanged = movements.patch("copy", &first, &Patch::Apply(movement("copy"))).await.unwrap();
    assert_eq!(
        applied.metadata.resource_version, unchanged.metadata.resource_version,
        "what changes nothing is no write"
    );
    // Another one may add what is its own, and not change what is somebody else's.
    let mut labelled = movement("copy");
    labelled.spec = Default::default();
    labelled.metadata.labels = Some([("seen".to_owned(), "yes".to_owned())].into());
    let second = PatchParams::apply("second");
    let both = movements.patch("copy", &second, &Patch::Apply(labelled)).await.unwrap();
    assert_eq!(both.spec.user_id, Some(1001));
    let mut other = movement("copy");
    other.spec.user_id = Some(0);
    let refused = movements.patch("copy", &second, &Patch::Apply(other)).await.unwrap_err();
    assert!(matches!(&refused, kube::Error::Api(status) if status.code == 409), "{refused}");
}

#[tokio::test]
async fn whose_files_a_shard_copies_cannot_be_changed() {
    let Some((_, client, namespace)) = cluster("shards").await else { return };
    let version = DataMovementShard::DEFINITION.storage_version();
    let shards: Api<DataMovementShard> = Api::namespaced_with(client, &namespace, &version);
    let mut shard = DataMovementShard::new(&version, "copy-0");
    shard.spec = DataMovementShardSpec {
        movement: MovementReference { name: "copy".to_owned(), uid: "1234".to_owned() },
        user_id: 4_000_000_000,
        group_id: 1001,
        source: "/lus/a/in/".to_owned(),
        destination: "/mnt/nnf/x".to_owned(),
        ..DataMovementShardSpec::default()
    };
    let made = shards.create(&PostParams::default(), &shard).await.unwrap();
    assert_eq!(made.spec.user_id, 4_000_000_000, "a user id has 32 bits");
    for change in [
        json!({"userId": 0}),
        json!({"groupId": 0}),
        json!({"source": "/etc"}),
        json!({"destination": "/etc"}),
        json!({"movement": {"name": "other"}}),
    ] {
        let patch = Patch::Merge(json!({"spec": change}));
        let refused = shards.patch("copy-0", &PatchParams::default(), &patch).await.unwrap_err();
        assert!(refused.to_string().contains("cannot change"), "{change}: {refused}");
    }
    let cancel = Patch::Merge(json!({"spec": {"cancel": true}}));
    shards.patch("copy-0", &PatchParams::default(), &cancel).await.unwrap();

    // Of two workers that have read the same shard one gets it.
    let seen = shards.get("copy-0").await.unwrap();
    let claim = async |worker: &str| {
        let mut claimed = seen.clone();
        let status = claimed.status.get_or_insert_default();
        status.state = Some(ShardState::Running.into());
        status.worker = Some(worker.to_owned());
        shards.replace_status("copy-0", &PostParams::default(), &claimed).await
    };
    let (one, other) = tokio::join!(claim("one"), claim("other"));
    assert!(one.is_ok() != other.is_ok(), "{one:?} {other:?}");
    let listed = shards.list(&ListParams::default()).await.unwrap();
    assert_eq!(listed.items.len(), 1);
}
