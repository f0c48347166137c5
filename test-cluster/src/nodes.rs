//! Nodes without machines: Node objects whose pods run as real processes on this one, each in its own
//! mount namespace with its volumes really mounted, so that tests see what users of a cluster see and
//! can kill, freeze and cut off each node. What a single node can do is in `node`.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::Context;
use k8s_openapi::api::core::v1::{Node as NodeObject, Taint};
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::json;
use tokio::runtime::Runtime;

use crate::loopback::Addresses;
use crate::mount_namespace::MountNamespace;
use crate::node::Node;
use crate::scheduler::{self, Labels};
use crate::{ControlPlane, skip};

/// What the nodes of a test have.
#[derive(Clone, Debug, Default)]
pub struct NodeSettings {
    /// The program that stands for an image, by the image's name. The first word of a container's
    /// `command` is taken for where the program lies in the image.
    pub images: BTreeMap<String, PathBuf>,
    /// What stands for the volume of a claim, by the claim's name: a directory, or a filesystem that is
    /// mounted there before the nodes start. The claim itself must exist and be bound.
    pub claims: BTreeMap<String, PathBuf>,
}

/// The nodes of a test, with the scheduler and the kubelets. Dropped, all their processes are killed and
/// their mounts gone; the objects stay, as long as the control plane does.
pub struct Nodes {
    runtime: Option<Runtime>,
    nodes: Mutex<BTreeMap<String, Arc<Node>>>,
    labels: Labels,
    claims: Mutex<BTreeMap<String, PathBuf>>,
    settings: NodeSettings,
    directory: PathBuf,
    addresses: Arc<Mutex<Addresses>>,
}

impl ControlPlane {
    /// Starts to play nodes; there are none yet. None when this process may not make mount namespaces,
    /// which is recorded as a skip of the calling test.
    ///
    /// # Errors
    ///
    /// When there is no thread, address or directory for them.
    pub fn nodes(&self, settings: NodeSettings) -> anyhow::Result<Option<Nodes>> {
        if let Err(error) = MountNamespace::copy_of_callers(false) {
            skip(&format!("no mount namespaces for nodes: {error}"));
            return Ok(None);
        }
        static NEXT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let number = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let directory = self.directory().join(format!("nodes-{number}"));
        std::fs::create_dir_all(&directory).context("failed to make a directory for nodes")?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .max_blocking_threads(4096) // one waits for each container
            .thread_name("nodes")
            .enable_all()
            .build()
            .context("failed to make a runtime")?;
        let labels = Labels::default();
        {
            let _entered = runtime.enter();
            runtime.spawn(scheduler::run(self.client(), Arc::clone(&labels)));
        }
        Ok(Some(Nodes {
            runtime: Some(runtime),
            nodes: Mutex::default(),
            labels,
            claims: Mutex::new(settings.claims.clone()),
            settings,
            directory,
            addresses: Arc::new(Mutex::new(Addresses::take()?)),
        }))
    }
}

impl Nodes {
    /// Adds a node with labels and taints, ready to take pods.
    ///
    /// # Errors
    ///
    /// When the API server refuses, or the node's namespace cannot be made.
    pub async fn add(
        &self,
        plane: &ControlPlane,
        name: &str,
        labels: &[(&str, &str)],
        taints: &[Taint],
    ) -> anyhow::Result<Arc<Node>> {
        let labels: BTreeMap<String, String> =
            labels.iter().map(|&(key, value)| (key.to_owned(), value.to_owned())).collect();
        let runtime = self.runtime.as_ref().context("the nodes are gone")?.handle().clone();
        let claims = self.claims().clone().into_iter().map(|(name, path)| (name, Ok(path)));
        let node = Node::start(
            plane,
            name,
            &self.directory,
            self.settings.images.clone(),
            claims.collect(),
            Arc::clone(&self.addresses),
            runtime,
        )
        .await?;
        let node = Arc::new(node);
        register(plane.client(), name, &labels, taints).await?;
        self.labels.lock().unwrap_or_else(PoisonError::into_inner).insert(name.to_owned(), labels);
        self.all_nodes().insert(name.to_owned(), Arc::clone(&node));
        node.power_on();
        Ok(node)
    }

    /// Takes a node out of the cluster: its processes are killed, and its object is deleted.
    ///
    /// # Errors
    ///
    /// When the API server refuses.
    pub async fn remove(&self, plane: &ControlPlane, name: &str) -> anyhow::Result<()> {
        self.labels.lock().unwrap_or_else(PoisonError::into_inner).remove(name);
        if let Some(node) = self.all_nodes().remove(name) {
            node.power_off();
        }
        let nodes: Api<NodeObject> = Api::all(plane.client());
        nodes.delete(name, &DeleteParams::default()).await.context("failed to delete a node")?;
        Ok(())
    }

    /// Says what stands for a claim, on all nodes, from now on.
    pub fn provide(&self, claim: &str, directory: impl Into<PathBuf>) {
        let directory = directory.into();
        self.claims().insert(claim.to_owned(), directory.clone());
        for node in self.all_nodes().values() {
            node.provide(claim, directory.clone());
        }
    }

    /// A node by its name.
    ///
    /// # Panics
    ///
    /// When there is none.
    pub fn node(&self, name: &str) -> Arc<Node> {
        let nodes = self.all_nodes();
        Arc::clone(nodes.get(name).unwrap_or_else(|| panic!("there is no node {name}")))
    }

    /// All nodes, by name.
    pub fn all(&self) -> Vec<Arc<Node>> {
        self.all_nodes().values().cloned().collect()
    }

    fn all_nodes(&self) -> MutexGuard<'_, BTreeMap<String, Arc<Node>>> {
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn claims(&self) -> MutexGuard<'_, BTreeMap<String, PathBuf>> {
        self.claims.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Nodes {
    fn drop(&mut self) {
        for node in self.all_nodes().values() {
            node.power_off();
        }
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background(); // the caller may be on another runtime
        }
    }
}

/// Makes the Node object, ready. The API server taints a new node until somebody says that it is.
async fn register(
    client: Client,
    name: &str,
    labels: &BTreeMap<String, String>,
    taints: &[Taint],
) -> anyhow::Result<()> {
    let nodes: Api<NodeObject> = Api::all(client);
    let mut labels = labels.clone();
    labels.insert("kubernetes.io/hostname".to_owned(), name.to_owned());
    let object = serde_json::from_value(json!({"metadata": {"name": name, "labels": labels}}))?;
    nodes.create(&PostParams::default(), &object).await.context("failed to make a node")?;
    let how = PatchParams::default();
    let spec = Patch::Merge(json!({"spec": {"taints": taints}}));
    nodes.patch(name, &how, &spec).await.context("failed to set the taints of a node")?;
    let resources = json!({"pods": "110", "cpu": "64", "memory": "256Gi"});
    let status = Patch::Merge(json!({"status": {
        "capacity": resources,
        "allocatable": resources,
        "addresses": [{"type": "InternalIP", "address": "127.0.0.1"}],
        "conditions": [{"type": "Ready", "status": "True", "reason": "KubeletReady"}],
    }}));
    nodes.patch_status(name, &how, &status).await.context("failed to set a node's status")?;
    Ok(())
}
