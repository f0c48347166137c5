//! A rabbit for tests of data movements: a node with its namespace, a manager that looks after it, and
//! the objects that a movement names. The worker on it is played by the test ([`super::worker`]).

use std::path::Path;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::{Namespace, Node, ObjectReference};
use k8s_openapi::api::events::v1::Event;
use kube::api::{
    ApiResource, DeleteParams, DynamicObject, GroupVersionKind, ListParams, ObjectMeta, Patch,
    PatchParams, PostParams,
};
use kube::{Api, Client, ResourceExt};
use longshore::api::data_movement::{Endpoint, FINALIZER, NnfDataMovementStatus, Outcome, State};
use longshore::api::{
    DataMovementShard, Defined, NnfDataMovement, NnfDataMovementProfile, NnfStorage,
};
use serde_json::{Value, json};
use test_cluster::ControlPlane;

use super::manager::{self, Manager};
use super::printed;

/// Whatever is waited for comes within this, or the test fails.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// The default command of a profile.
pub const COPY: &str = "ulimit -n 2048 && mpirun --allow-run-as-root --hostfile $HOSTFILE dcp --progress 1 \
                        --uid $UID --gid $GID $SRC $DEST";

/// A node with its namespace, and the namespace of its manager.
pub struct Rabbit {
    pub client: Client,
    /// The name of the node and of its namespace.
    pub node: String,
    /// The namespace of manager and workers.
    pub namespace: String,
    pub kubeconfig: std::path::PathBuf,
    pub movements: Api<NnfDataMovement>,
    pub shards: Api<DataMovementShard>,
}

impl Rabbit {
    /// One of its own on the shared control plane.
    pub async fn new(about: &str) -> Option<Self> {
        Some(Self::on(ControlPlane::shared()?, about).await)
    }

    /// One of its own on a given control plane.
    pub async fn on(plane: &ControlPlane, about: &str) -> Self {
        let (_, namespace) = plane.scene(&printed(&["--all"]), about).await;
        let rabbit = Self::of_node(plane, &namespace, format!("rabbit-{namespace}")).await;
        rabbit.join().await;
        rabbit
    }

    /// The one of a node, which is made elsewhere, and of the manager in a namespace.
    pub async fn of_node(plane: &ControlPlane, namespace: &str, node: String) -> Self {
        let client = plane.client();
        let metadata = ObjectMeta { name: Some(node.clone()), ..ObjectMeta::default() };
        let object = Namespace { metadata, ..Namespace::default() };
        let namespaces = Api::<Namespace>::all(client.clone());
        namespaces.create(&PostParams::default(), &object).await.unwrap();
        Self {
            movements: Api::namespaced_with(
                client.clone(),
                &node,
                &NnfDataMovement::DEFINITION.storage_version(),
            ),
            shards: Api::namespaced_with(
                client.clone(),
                &node,
                &DataMovementShard::DEFINITION.storage_version(),
            ),
            client,
            node,
            namespace: namespace.to_owned(),
            kubeconfig: plane.kubeconfig(),
        }
    }

    /// Makes the node.
    pub async fn join(&self) {
        let metadata = ObjectMeta {
            name: Some(self.node.clone()),
            labels: Some([("test".to_owned(), self.namespace.clone())].into()),
            ..ObjectMeta::default()
        };
        let node = Node { metadata, ..Node::default() };
        let nodes = Api::<Node>::all(self.client.clone());
        nodes.create(&PostParams::default(), &node).await.unwrap();
    }

    /// Deletes the node.
    pub async fn leave(&self) {
        let nodes = Api::<Node>::all(self.client.clone());
        drop(nodes.delete(&self.node, &DeleteParams::default()).await.unwrap());
    }

    /// Movements and shards are those of the manager's own namespace: Lustre to Lustre.
    pub fn central(mut self) -> Self {
        let version = NnfDataMovement::DEFINITION.storage_version();
        self.movements = Api::namespaced_with(self.client.clone(), &self.namespace, &version);
        let version = DataMovementShard::DEFINITION.storage_version();
        self.shards = Api::namespaced_with(self.client.clone(), &self.namespace, &version);
        self
    }

    /// Starts a manager for it.
    pub fn manager(&self) -> Manager {
        self.manager_with("manager-0", &[])
    }

    /// Starts a manager by a name, with further arguments.
    pub fn manager_with(&self, identity: &str, arguments: &[&str]) -> Manager {
        self.manager_by(&self.kubeconfig, identity, arguments)
    }

    /// The same with a kubeconfig of its own.
    pub fn manager_by(&self, kubeconfig: &Path, identity: &str, arguments: &[&str]) -> Manager {
        Manager::start(&manager::Settings {
            kubeconfig,
            namespace: &self.namespace,
            identity,
            node_selector: &format!("test={}", self.namespace),
            arguments,
        })
    }

    /// Makes a profile with some of its fields; the API server fills in the others.
    pub async fn profile(&self, name: &str, data: Value) {
        self.make::<NnfDataMovementProfile>(name, json!({"data": data})).await;
    }

    /// Makes an NnfStorage of a kind.
    pub async fn storage(&self, name: &str, kind: &str) {
        let spec = json!({"fileSystemType": kind, "userID": 0, "groupID": 0, "allocationSets": []});
        self.make::<NnfStorage>(name, json!({"spec": spec})).await;
    }

    /// Makes an object in the manager's namespace with only the fields given.
    async fn make<K: Defined>(&self, name: &str, mut object: Value) {
        let version = K::DEFINITION.storage_version();
        let definition = K::DEFINITION;
        let kind = GroupVersionKind::gvk(definition.group, version.name(), definition.kind);
        let resource = ApiResource::from_gvk_with_plural(&kind, definition.plural);
        object["apiVersion"] = json!(resource.api_version);
        object["kind"] = json!(resource.kind);
        object["metadata"] = json!({"name": name});
        let object: DynamicObject = serde_json::from_value(object).unwrap();
        let api = Api::namespaced_with(self.client.clone(), &self.namespace, &resource);
        api.create(&PostParams::default(), &object).await.unwrap();
    }

    /// A reference to something in the manager's namespace.
    pub fn reference(&self, kind: &str, name: &str) -> ObjectReference {
        ObjectReference {
            kind: Some(kind.to_owned()),
            name: Some(name.to_owned()),
            namespace: Some(self.namespace.clone()),
            ..ObjectReference::default()
        }
    }

    /// A movement from a global filesystem to one end of the rabbit, by a profile.
    pub fn movement(&self, name: &str, profile: &str) -> NnfDataMovement {
        let version = NnfDataMovement::DEFINITION.storage_version();
        let mut movement = NnfDataMovement::new(&version, name);
        let end = |path: String, reference| {
            Some(Endpoint { path: Some(path), storage_reference: Some(reference) })
        };
        let spec = &mut movement.spec;
        spec.source = end("/lus/in/".to_owned(), self.reference("LustreFileSystem", "lus"));
        let inside = format!("/mnt/nnf/1-0/{}-0/in", self.node);
        spec.destination = end(inside, ObjectReference::default());
        spec.user_id = Some(1001);
        spec.group_id = Some(1001);
        spec.profile_reference = Some(self.reference("NnfDataMovementProfile", profile));
        movement
    }

    /// Creates a movement.
    pub async fn create(&self, movement: &NnfDataMovement) -> NnfDataMovement {
        self.movements.create(&PostParams::default(), movement).await.unwrap()
    }

    /// Creates a movement by a profile with the default command.
    pub async fn copy(&self, name: &str) -> NnfDataMovement {
        self.profile(&format!("{name}-profile"), json!({"command": COPY})).await;
        self.create(&self.movement(name, &format!("{name}-profile"))).await
    }

    /// Waits until a movement is as wanted.
    pub async fn until(
        &self,
        name: &str,
        wanted: impl Fn(&NnfDataMovement) -> bool,
    ) -> NnfDataMovement {
        until(&self.movements, name, wanted).await
    }

    /// Waits until a movement runs.
    pub async fn running(&self, name: &str) -> NnfDataMovement {
        self.until(name, |movement| state(movement) == Some(State::Running)).await
    }

    /// Waits until a movement is finished, and returns its status.
    pub async fn finished(&self, name: &str) -> NnfDataMovementStatus {
        let movement = self.until(name, |movement| state(movement) == Some(State::Finished)).await;
        movement.status.unwrap()
    }

    /// The same where the API server may be away, or what it answers may take long.
    pub async fn finished_whatever_happens(&self, name: &str) -> NnfDataMovementStatus {
        let deadline = Instant::now() + 3 * PATIENCE;
        loop {
            let found = self.movements.get_opt(name).await;
            match found {
                Ok(Some(movement)) if state(&movement) == Some(State::Finished) => {
                    return movement.status.unwrap();
                }
                found => assert!(Instant::now() < deadline, "{name} does not end: {found:?}"),
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Waits until its shard is there.
    pub async fn shard(&self, name: &str) -> DataMovementShard {
        until(&self.shards, name, |_| true).await
    }

    /// Sets `spec.cancel`.
    pub async fn cancel(&self, name: &str) {
        let patch = Patch::Merge(json!({"spec": {"cancel": true}}));
        self.movements.patch(name, &PatchParams::default(), &patch).await.unwrap();
    }

    /// Deletes a movement, and does not wait for its end.
    pub async fn delete(&self, name: &str) {
        drop(self.movements.delete(name, &DeleteParams::default()).await.unwrap());
    }

    /// Waits until a movement is gone.
    pub async fn gone(&self, name: &str) {
        let deadline = Instant::now() + PATIENCE;
        while self.movements.get_opt(name).await.unwrap().is_some() {
            assert!(Instant::now() < deadline, "{name} does not go away");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Waits for an Event with a reason, and returns its note.
    pub async fn event(&self, reason: &str) -> String {
        let events: Api<Event> = Api::all(self.client.clone());
        let deadline = Instant::now() + PATIENCE;
        loop {
            let all = events.list(&ListParams::default()).await.unwrap();
            let found = all.into_iter().find(|event| {
                let about = event.regarding.as_ref().and_then(|about| about.namespace.as_ref());
                event.reason.as_deref() == Some(reason)
                    && about.is_some_and(|about| *about == self.node || *about == self.namespace)
            });
            if let Some(event) = found {
                return event.note.unwrap_or_default();
            }
            assert!(Instant::now() < deadline, "no Event {reason}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// Waits until an object is there and as wanted.
pub async fn until<K>(api: &Api<K>, name: &str, wanted: impl Fn(&K) -> bool) -> K
where
    K: Clone + std::fmt::Debug + serde::de::DeserializeOwned,
{
    let deadline = Instant::now() + PATIENCE;
    loop {
        let found = api.get_opt(name).await.unwrap();
        if let Some(found) = found.as_ref().filter(|found| wanted(found)) {
            return found.clone();
        }
        assert!(Instant::now() < deadline, "{name} is not as it should be: {found:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// How far a movement is.
pub fn state(movement: &NnfDataMovement) -> Option<State> {
    movement.status.as_ref()?.state.as_ref()?.known().copied()
}

/// How a movement went.
pub fn outcome(status: &NnfDataMovementStatus) -> Option<Outcome> {
    status.status.as_ref()?.known().copied()
}

/// Whether a movement has our finalizer.
pub fn is_held(movement: &NnfDataMovement) -> bool {
    movement.finalizers().iter().any(|finalizer| finalizer == FINALIZER)
}
