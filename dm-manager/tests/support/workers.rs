//! A cluster with storage nodes, a manager that keeps workers on them, and global filesystems.
#![allow(dead_code)] // every test crate includes all of it and uses its own part

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::{Event, Pod};
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::{Api, Client, ResourceExt};
use longshore::api::data_movement_manager as manager_object;
use longshore::api::{LustreFileSystem, NnfDataMovementManager, Version};
use serde_json::{Value, json};
pub use test_cluster::eventually;
use test_cluster::{ControlPlane, NodeSettings, Nodes};
use tokio::sync::{Mutex, MutexGuard};

/// What keeps filesystems until they are unmounted.
pub const FINALIZER: &str = "dm.cray.hpe.com";

/// Filesystems are seen by every manager of a control plane, so one test has it at a time.
static ALONE: Mutex<()> = Mutex::const_new(());

/// A manager that runs.
pub struct Manager(Child);

impl Manager {
    pub fn pid(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for Manager {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// The scene of a test.
pub struct Scene {
    pub plane: &'static ControlPlane,
    pub nodes: Nodes,
    pub namespace: String,
    pub client: Client,
    /// The filesystems, each a directory with a file that has its name in it.
    pub lustre: tempfile::TempDir,
    pub options: Vec<String>,
    /// With whose rights managers run: an administrator's, unless a test says otherwise.
    pub kubeconfig: PathBuf,
    _alone: MutexGuard<'static, ()>,
}

impl Scene {
    /// Nodes by their names; no manager yet. Nothing runs in the pods of workers.
    pub async fn new(about: &str, nodes: &[&str]) -> Option<Self> {
        let scene = Self::without_nodes(about, Path::new("/bin/sleep")).await?;
        for name in nodes {
            scene.add_node(name).await;
        }
        Some(scene)
    }

    /// No nodes yet, on which a program will stand for the image of the workers.
    pub async fn without_nodes(about: &str, worker: &Path) -> Option<Self> {
        let alone = ALONE.lock().await;
        let plane = ControlPlane::shared()?;
        let settings = NodeSettings {
            images: [("worker".to_owned(), worker.to_owned())].into(),
            claims: BTreeMap::new(),
        };
        let played = plane.nodes(settings).unwrap()?;
        let (client, namespace) = plane.scene(&crate::printed(&["--all"]), about).await;
        // A test that failed has left its own.
        clear(&client).await;
        // What makes it is the service account that the workers have.
        plane.service_account_token(&namespace, "nnf-dm-node-controller").await.unwrap();
        Some(Self {
            plane,
            nodes: played,
            client,
            namespace,
            lustre: tempfile::tempdir().unwrap(),
            options: vec!["--create-volumes-for=hpe".to_owned()],
            kubeconfig: plane.kubeconfig(),
            _alone: alone,
        })
    }

    pub async fn add_node(&self, name: &str) {
        let labels = [("test", self.namespace.as_str())];
        self.nodes.add(self.plane, &self.node_name(name), &labels, &[]).await.unwrap();
    }

    pub fn node_name(&self, name: &str) -> String {
        format!("{}-{name}", self.namespace)
    }

    /// Starts a manager.
    pub fn start_manager(&self, identity: &str) -> Manager {
        self.start_manager_with(identity, &self.options)
    }

    /// Starts a manager with other options.
    pub fn start_manager_with(&self, identity: &str, options: &[String]) -> Manager {
        let log = self.log_of(identity);
        let log = File::options().create(true).append(true).open(log).unwrap();
        // The kernel kills it with the thread of the test, however that ends.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--", env!("CARGO_BIN_EXE_dm-manager")]);
        command.args(["run", "--namespace", &self.namespace, "--identity", identity]);
        command.args(["--listen=127.0.0.1:0", "--log-format=text"]).args(options);
        command.env("KUBECONFIG", &self.kubeconfig);
        command.env("RUST_LOG", "info");
        command.stdout(Stdio::null()).stderr(log);
        Manager(command.spawn().unwrap())
    }

    fn log_of(&self, identity: &str) -> PathBuf {
        self.plane.directory().join(format!("{}-{identity}.log", self.namespace))
    }

    /// What a manager has logged so far.
    pub fn log(&self, identity: &str) -> String {
        std::fs::read_to_string(self.log_of(identity)).unwrap()
    }

    pub fn version(&self) -> Version {
        Version::new("v1alpha11")
    }

    pub fn managers(&self) -> Api<NnfDataMovementManager> {
        Api::namespaced_with(self.client.clone(), &self.namespace, &self.version())
    }

    /// Creates the manager object, with other fields than the usual ones of its spec.
    pub async fn create_manager_object(&self, fields: Value) {
        let mut spec = json!({
            "selector": {"matchLabels": {"test": self.namespace}},
            "podSpec": {
                "terminationGracePeriodSeconds": 1,
                "containers": [
                    {"name": "worker", "image": "worker", "args": ["infinity"]},
                    {"name": "beside", "image": "worker", "args": ["infinity"]},
                ],
            },
            "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": "25%"}},
            "hostPath": "/mnt/nnf",
            "mountPath": "/mnt/nnf",
        });
        for (name, value) in fields.as_object().unwrap() {
            spec[name] = value.clone();
        }
        let object = serde_json::from_value(json!({
            "apiVersion": "nnf.cray.hpe.com/v1alpha11",
            "kind": "NnfDataMovementManager",
            "metadata": {"name": manager_object::NAME},
            "spec": spec,
        }));
        self.managers().create(&PostParams::default(), &object.unwrap()).await.unwrap();
    }

    pub async fn patch_manager_object(&self, patch: Value) {
        let how = PatchParams::default();
        let name = manager_object::NAME;
        self.managers().patch(name, &how, &Patch::Merge(patch)).await.unwrap();
    }

    pub async fn ready(&self) -> Option<bool> {
        let object = self.managers().get_opt(manager_object::NAME).await.unwrap()?;
        object.status.map(|status| status.ready)
    }

    pub async fn wait_ready(&self, wanted: bool) {
        let what = format!("status.ready: {wanted}");
        eventually(&what, async || (self.ready().await == Some(wanted)).then_some(())).await;
    }

    pub fn file_systems(&self) -> Api<LustreFileSystem> {
        Api::namespaced_with(self.client.clone(), &self.namespace, &Version::new("v1beta1"))
    }

    /// Creates a filesystem at `/lus/NAME`, which nodes can mount.
    pub async fn create_file_system(&self, name: &str) -> LustreFileSystem {
        let directory = self.lustre.path().join(name);
        std::fs::create_dir_all(&directory).unwrap();
        std::fs::write(directory.join("name"), name).unwrap();
        self.nodes.provide(&self.claim(name), directory);
        self.create_object(name, json!({"mountRoot": format!("/lus/{name}")})).await
    }

    /// Creates the object of a filesystem with given fields beside the usual ones.
    pub async fn create_object(&self, name: &str, fields: Value) -> LustreFileSystem {
        let mut spec = json!({
            "name": "lus", "mgsNids": "10.1.1.1@tcp", "mountRoot": format!("/lus/{name}"),
        });
        for (name, value) in fields.as_object().unwrap() {
            spec[name] = value.clone();
        }
        let object = serde_json::from_value(json!({
            "apiVersion": "lus.cray.hpe.com/v1beta1",
            "kind": "LustreFileSystem",
            "metadata": {"name": name},
            "spec": spec,
        }));
        self.file_systems().create(&PostParams::default(), &object.unwrap()).await.unwrap()
    }

    pub async fn delete_file_system(&self, name: &str) {
        self.file_systems().delete(name, &DeleteParams::default()).await.unwrap();
    }

    pub async fn wait_gone(&self, name: &str) {
        let what = format!("{name} to be gone");
        eventually(&what, async || {
            self.file_systems().get_opt(name).await.unwrap().is_none().then_some(())
        })
        .await;
    }

    pub fn claim(&self, file_system: &str) -> String {
        format!("{file_system}-{}-readwritemany-pvc", self.namespace)
    }

    /// What the manager says about a filesystem, once `fits` likes it.
    pub async fn condition(&self, name: &str, fits: impl Fn(&Value) -> bool) -> Value {
        let what = format!("the condition of {name}");
        eventually(&what, async || {
            let object = self.file_systems().get(name).await.unwrap();
            let text = object.annotations().get("longshore.dev/condition")?.clone();
            let condition = serde_json::from_str(&text).unwrap();
            fits(&condition).then_some(condition)
        })
        .await
    }

    pub async fn daemon_set(&self) -> Option<DaemonSet> {
        let sets: Api<DaemonSet> = Api::namespaced(self.client.clone(), &self.namespace);
        sets.get_opt("nnf-dm-worker").await.unwrap()
    }

    pub fn pods_api(&self) -> Api<Pod> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    pub async fn pods(&self) -> Vec<Pod> {
        self.pods_api().list(&ListParams::default()).await.unwrap().items
    }

    /// What every container of the pod on a node sees at a path; none when there is no such pod.
    pub async fn seen(&self, node: &str, path: &str) -> Vec<Option<String>> {
        let node = self.nodes.node(&self.node_name(node));
        let mut seen = Vec::new();
        for pod in self.pods().await {
            let spec = pod.spec.as_ref().unwrap();
            if spec.node_name.as_deref() != Some(node.name()) {
                continue;
            }
            for container in &spec.containers {
                let pid = node.process_of(&self.namespace, &pod.name_any(), &container.name);
                seen.push(pid.and_then(|pid| {
                    std::fs::read_to_string(format!("/proc/{pid}/root{path}")).ok()
                }));
            }
        }
        seen
    }

    /// The Events with a reason, as texts.
    pub async fn events(&self, reason: &str) -> Vec<String> {
        let events: Api<Event> = Api::namespaced(self.client.clone(), &self.namespace);
        let all = events.list(&ListParams::default()).await.unwrap().items;
        let with = all.into_iter().filter(|event| event.reason.as_deref() == Some(reason));
        with.filter_map(|event| event.message).collect()
    }

    /// The writes that the API server has answered so far, by kind of object.
    pub async fn writes(&self, resource: &str) -> u64 {
        let request = http::Request::get("/metrics").body(Vec::new()).unwrap();
        let text = self.client.request_text(request).await.unwrap();
        let lines = text.lines().filter(|line| {
            line.starts_with("apiserver_request_total{")
                && line.contains(&format!("resource=\"{resource}\""))
                && line.contains("subresource=\"\"")
                && line.contains("dry_run=\"\"")
                && ["PATCH", "PUT", "APPLY", "POST"]
                    .iter()
                    .any(|verb| line.contains(&format!("verb=\"{verb}\"")))
        });
        lines.map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap() as u64).sum()
    }

    /// Takes away what other tests would see.
    pub async fn end(self) {
        clear(&self.client).await;
    }
}

/// Takes away all filesystems, of whatever test: managers see those of all namespaces.
async fn clear(client: &Client) {
    let version = Version::new("v1beta1");
    let all = Api::<LustreFileSystem>::all_with(client.clone(), &version);
    for one in all.list(&ListParams::default()).await.unwrap() {
        let namespace = one.namespace().unwrap();
        let there = Api::<LustreFileSystem>::namespaced_with(client.clone(), &namespace, &version);
        let free = Patch::Merge(json!({"metadata": {"finalizers": null}}));
        drop(there.patch(&one.name_any(), &PatchParams::default(), &free).await);
        drop(there.delete(&one.name_any(), &DeleteParams::default()).await);
    }
}
