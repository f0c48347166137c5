//! The node with what is deployed on it, and what the steps ask of it.

use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Pod;
use kube::api::ListParams;
use kube::{Api, Client};
use longshore::api::{Defined, LustreFileSystem, NnfDataMovement, NnfDataMovementManager};
use serde_json::{Value, json};
use test_cluster::eventually;
use test_cluster::real_node::RealNode;

use crate::support::cluster::{Movement, apply, are_mounted};
use crate::support::printed;

/// The namespace of the manager and the workers.
pub const WORKERS: &str = "nnf-dm-system";

/// The user and group of the jobs.
pub const USER: u32 = 1234;

/// A real node.
pub struct Cluster {
    pub node: RealNode,
    pub client: Client,
    /// A directory on disk for each filesystem.
    data: PathBuf,
}

impl Cluster {
    /// Starts the node, which has the images under the names of the manifests.
    pub async fn start(folder: &Path) -> Self {
        let manager = Path::new(env!("CARGO_BIN_EXE_dm-manager"));
        let worker = manager.with_file_name("dm-worker");
        let images = [
            ("docker.io/library/dm-manager:0.1.0", manager),
            ("docker.io/library/dm-worker:0.1.0", worker.as_path()),
        ];
        let labels = [("cray.nnf.node", "true")];
        let node = RealNode::start(folder, &labels, &images).await.unwrap();
        let client = node.client();
        let data = folder.join("data");
        std::fs::create_dir(&data).unwrap();
        Self { node, client, data }
    }

    /// Applies the manifests as they are, and waits until all is ready.
    pub async fn deploy(&self) {
        self.node.install(&printed(&["--all"])).await.unwrap();
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy");
        let mut files: Vec<_> =
            std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
        files.sort();
        for file in files.iter().filter(|file| file.extension().is_some_and(|end| end == "yaml")) {
            if file.ends_with("15-volumes.yaml") {
                continue; // the test makes the volumes, in place of lustre-fs-operator
            }
            for document in std::fs::read_to_string(file).unwrap().split("\n---\n") {
                self.apply(serde_saphyr::from_str(document).unwrap()).await;
            }
        }
        let deployments: Api<Deployment> = Api::namespaced(self.client.clone(), WORKERS);
        eventually("both managers", async || {
            let deployment = deployments.get("longshore-manager").await.unwrap();
            (deployment.status?.ready_replicas? == 2).then_some(())
        })
        .await;
        eventually("the worker", async || self.ready().await.then_some(())).await;
    }

    /// What `kubectl apply --server-side` does.
    pub async fn apply(&self, object: Value) {
        apply(&self.client, object).await;
    }

    /// The manager object.
    pub fn managers(&self) -> Api<NnfDataMovementManager> {
        let version = NnfDataMovementManager::DEFINITION.storage_version();
        Api::namespaced_with(self.client.clone(), WORKERS, &version)
    }

    /// Whether it says that the workers are ready.
    pub async fn ready(&self) -> bool {
        let name = longshore::api::data_movement_manager::NAME;
        self.managers().get(name).await.unwrap().status.is_some_and(|status| status.ready)
    }

    /// The filesystems.
    pub fn file_systems(&self) -> Api<LustreFileSystem> {
        let version = LustreFileSystem::DEFINITION.storage_version();
        Api::namespaced_with(self.client.clone(), "default", &version)
    }

    /// Where the data of a filesystem is.
    pub fn data(&self, file_system: &str) -> PathBuf {
        self.data.join(file_system)
    }

    /// Creates filesystems at `/lus/NAME`: directories of the node stand in for Lustre, under the names
    /// that lustre-fs-operator gives volumes and claims.
    pub async fn create_file_systems(&self, names: &[&str]) {
        for name in names {
            let directory = self.data(name);
            std::fs::create_dir(&directory).unwrap();
            chown(&directory, Some(USER), Some(USER)).unwrap();
            let (volume, claim) = (
                format!("{name}-{WORKERS}-readwritemany-pv"),
                format!("{name}-{WORKERS}-readwritemany-pvc"),
            );
            self.apply(json!({
                "apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": volume},
                "spec": {
                    "accessModes": ["ReadWriteMany"], "capacity": {"storage": "1"},
                    "storageClassName": "",
                    "claimRef": {"namespace": WORKERS, "name": claim},
                    "hostPath": {"path": directory, "type": "Directory"},
                },
            }))
            .await;
            self.apply(json!({
                "apiVersion": "v1", "kind": "PersistentVolumeClaim",
                "metadata": {"name": claim, "namespace": WORKERS},
                "spec": {
                    "accessModes": ["ReadWriteMany"], "storageClassName": "",
                    "volumeName": volume, "resources": {"requests": {"storage": "1"}},
                },
            }))
            .await;
            self.apply(json!({
                "apiVersion": "lus.cray.hpe.com/v1beta1", "kind": "LustreFileSystem",
                "metadata": {"name": name, "namespace": "default"},
                "spec": {
                    "name": "lus", "mgsNids": "10.1.1.1@tcp", "mountRoot": format!("/lus/{name}"),
                },
            }))
            .await;
        }
    }

    /// Waits until filesystems are mounted, and the worker is ready.
    pub async fn mounted(&self, names: &[&str]) {
        eventually("filesystems to be mounted", async || {
            are_mounted(&self.file_systems(), names).await?;
            self.ready().await.then_some(())
        })
        .await;
    }

    /// The worker's pod.
    pub async fn worker(&self) -> Pod {
        eventually("one worker", async || {
            let pods: Api<Pod> = Api::namespaced(self.client.clone(), WORKERS);
            let labels = ListParams::default().labels("dm.cray.hpe.com/worker=true");
            let mut pods = pods.list(&labels).await.unwrap().items;
            pods.retain(|pod| pod.metadata.deletion_timestamp.is_none());
            (pods.len() == 1).then(|| pods.remove(0))
        })
        .await
    }

    /// How often the worker's container was started again.
    pub async fn container_restarts(&self) -> i32 {
        let status = self.worker().await.status.unwrap();
        status.container_statuses.unwrap()[0].restart_count
    }

    /// A movement from one filesystem to another one, by a profile with some fields.
    pub async fn create_movement(&self, name: &str, from: &str, to: &str, mut profile: Value) {
        profile["storeStdout"] = json!(true);
        let (namespace, file_systems, user) = (WORKERS, "default", USER);
        let movement =
            Movement { namespace, file_systems, name, user, source: from, destination: to };
        movement.create(&self.client, profile).await;
    }

    /// Waits until a movement is finished, and returns its status.
    pub async fn finished(&self, movement: &str) -> Value {
        let version = NnfDataMovement::DEFINITION.storage_version();
        let movements: Api<NnfDataMovement> =
            Api::namespaced_with(self.client.clone(), WORKERS, &version);
        eventually(&format!("{movement} to be finished"), async || {
            let object = movements.get(movement).await.unwrap();
            let status = serde_json::to_value(object.status).unwrap();
            (status["state"] == "Finished").then_some(status)
        })
        .await
    }
}
