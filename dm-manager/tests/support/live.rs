//! A cluster whose workers are the real ones and mount filesystems in place. For a Lustre filesystem stands
//! a tmpfs with the source of a Lustre client in the kernel's table, seen by all nodes that can reach it; for
//! mount.lustre stands a program that is called in the same way and shows it at the mount point.
#![allow(dead_code)] // every test crate includes all of it and uses its own part

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};

use k8s_openapi::api::coordination::v1::Lease;
use kube::{Api, ResourceExt};
use longshore::api::data_movement_shard::{MOUNTS_ANNOTATION, worker_lease};
use longshore::api::{Defined, NnfDataMovement};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use serde_json::{Value, json};

use crate::support::cluster::{Movement, apply};
use crate::support::real_worker::dm_worker;
use crate::workers::{Manager, Scene, eventually};

/// The user of the jobs.
pub const USER: u32 = 4711;

/// The helper. What a node can reach is mounted below its `/lustre`; where there is a FIFO, it hangs.
const HELPER: &str = r#"#!/bin/sh
there=/lustre/${1##*/}
if [ -p "$there" ]; then read -r nothing <"$there"; fi
if ! mountpoint -q "$there"; then
    echo "mount.lustre: mount $1 at $2 failed: Input/output error" >&2
    exit 5
fi
exec mount --bind "$there" "$2"
"#;

/// What is mounted for the test. It is gone when this is dropped.
struct Servers(Vec<PathBuf>);

impl Drop for Servers {
    fn drop(&mut self) {
        for point in &self.0 {
            let _gone = umount2(point, MntFlags::MNT_DETACH);
        }
    }
}

/// The scene of a test.
pub struct Live {
    // Dropped before the directory that they are in.
    servers: Servers,
    pub scene: Scene,
}

impl Live {
    /// Nodes by their names, which can reach all `file_systems`, and the rights of `deploy/`; no manager
    /// yet. Everything is mounted in a namespace of this thread, which goes with it.
    pub async fn new(about: &str, nodes: &[&str], file_systems: &[&str]) -> Option<Self> {
        if let Err(error) = unshare(CloneFlags::CLONE_NEWNS) {
            test_cluster::skip(&format!("no mount namespace for filesystems: {error}"));
            return None;
        }
        let none: Option<&str> = None;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
        let mut scene = Scene::without_nodes(about, dm_worker()).await?;
        scene.options = ["--mounts=live", "--worker-service-account=longshore-worker"]
            .map(str::to_owned)
            .into();
        let mut live = Self { servers: Servers(Vec::new()), scene };
        for name in file_systems {
            live.serve(name);
        }
        let helper = live.place("helper").join("mount.tmpfs");
        fs::create_dir(live.place("helper")).unwrap();
        fs::write(&helper, HELPER).unwrap();
        fs::set_permissions(&helper, fs::Permissions::from_mode(0o755)).unwrap();
        live.give_rights().await;
        for node in nodes {
            live.scene.add_node(node).await;
            for name in file_systems {
                live.reach(node, name);
            }
        }
        Some(live)
    }

    /// A directory beside those of the filesystems.
    fn place(&self, name: &str) -> PathBuf {
        self.scene.lustre.path().join(name)
    }

    /// Makes a filesystem.
    fn serve(&mut self, name: &str) {
        let point = self.place(name);
        fs::create_dir(&point).unwrap();
        let source = format!("10.1.1.1@tcp:/{name}");
        let (kind, none): (_, Option<&str>) = (Some("tmpfs"), None);
        mount(Some(source.as_str()), &point, kind, MsFlags::empty(), none).unwrap();
        fs::write(point.join("name"), name).unwrap();
        chown(&point, Some(USER), Some(USER)).unwrap();
        self.servers.0.push(point);
    }

    /// Lets a node reach a filesystem.
    pub fn reach(&self, node: &str, name: &str) {
        let node = self.scene.nodes.node(&self.scene.node_name(node));
        node.mount(self.place(name), &format!("/lustre/{name}")).unwrap();
    }

    /// Lets a node not reach it any more.
    pub fn lose(&self, node: &str, name: &str) {
        let node = self.scene.nodes.node(&self.scene.node_name(node));
        node.unmount(&format!("/lustre/{name}")).unwrap();
    }

    /// A directory of the jobs' user on a filesystem.
    pub fn directory(&self, file_system: &str, name: &str) -> PathBuf {
        let path = self.place(file_system).join(name);
        fs::create_dir_all(&path).unwrap();
        chown(&path, Some(USER), Some(USER)).unwrap();
        path
    }

    /// The rights that `deploy/` gives, in the namespace of this test.
    async fn give_rights(&mut self) {
        let scene = &mut self.scene;
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy");
        for file in ["10-rights.yaml", "15-volumes.yaml"] {
            let text = fs::read_to_string(folder.join(file)).unwrap();
            let text = text.replace("nnf-dm-system", &scene.namespace);
            for document in text.split("\n---\n") {
                apply(&scene.client, serde_saphyr::from_str(document).unwrap()).await;
            }
        }
        let account = (&scene.namespace, "longshore-manager");
        let token = scene.plane.service_account_token(account.0, account.1).await.unwrap();
        let file = scene.plane.directory().join(format!("{}.kubeconfig", scene.namespace));
        scene.plane.write_kubeconfig(&file, &token).unwrap();
        scene.kubeconfig = file;
    }

    /// Creates the manager object with real workers, which get further arguments, and starts a manager.
    pub async fn start(&self, of_workers: &[&str]) -> Manager {
        let field = |name: &str, path: &str| json!({"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}});
        let mut arguments = vec!["run", "--listen=$(POD_IP):8080", "--mount-type=tmpfs"];
        let shards_in = format!("--shards-in={}", self.scene.namespace);
        arguments.push(&shards_in);
        arguments.extend(of_workers);
        let pod = json!({
            "terminationGracePeriodSeconds": 10,
            "containers": [{
                "name": "worker", "image": "worker", "command": ["/dm-worker"], "args": arguments,
                "env": [
                    field("NNF_NODE_NAME", "spec.nodeName"),
                    field("POD_NAME", "metadata.name"),
                    field("POD_IP", "status.podIP"),
                    field("LONGSHORE_NAMESPACE", "metadata.namespace"),
                    {"name": "PATH", "value": "/helper:/usr/sbin:/usr/bin:/sbin:/bin"},
                ],
                "readinessProbe": {"httpGet": {"path": "/readyz", "port": 8080}, "periodSeconds": 1},
                "volumeMounts": [
                    {"name": "run", "mountPath": "/run/longshore"},
                    {"name": "helper", "mountPath": "/helper"},
                    {
                        "name": "lustre", "mountPath": "/lustre",
                        "mountPropagation": "HostToContainer",
                    },
                ],
            }],
            "volumes": [
                {"name": "run", "emptyDir": {}},
                {"name": "helper", "hostPath": {"path": self.place("helper"), "type": "Directory"}},
                {"name": "lustre", "hostPath": {"path": "/lustre", "type": "DirectoryOrCreate"}},
            ],
        });
        self.scene.create_manager_object(json!({"podSpec": pod})).await;
        self.scene.start_manager("one")
    }

    /// Creates the object of a filesystem, at `/lus/NAME`.
    pub async fn create(&self, name: &str) {
        self.scene.create_object(name, json!({"name": name})).await;
    }

    /// Waits until filesystems are mounted on all nodes, and the workers are ready.
    pub async fn mounted(&self, names: &[&str]) {
        for name in names {
            self.scene.condition(name, |condition| condition["reason"] == "Mounted").await;
        }
        self.scene.wait_ready(true).await;
    }

    /// What the worker of a node says of a mount point on its Lease.
    pub async fn says(&self, node: &str, point: &str) -> Option<Value> {
        let leases: Api<Lease> = Api::namespaced(self.scene.client.clone(), &self.scene.namespace);
        let name = worker_lease(&self.scene.node_name(node));
        let lease = leases.get_opt(&name).await.unwrap()?;
        let mounts = lease.annotations().get(MOUNTS_ANNOTATION)?;
        let mounts: Value = serde_json::from_str(mounts).unwrap();
        mounts.get(point).cloned()
    }

    /// Whether each node's worker sees the filesystem in its place.
    pub async fn sees(&self, nodes: &[&str], name: &str) -> bool {
        for node in nodes {
            let seen = self.scene.seen(node, &format!("/lus/{name}/name")).await;
            if seen.is_empty() || seen.iter().any(|seen| seen.as_deref() != Some(name)) {
                return false;
            }
        }
        true
    }

    /// Whether any worker sees it.
    pub async fn anybody_sees(&self, nodes: &[&str], name: &str) -> bool {
        for node in nodes {
            let seen = self.scene.seen(node, &format!("/lus/{name}/name")).await;
            if seen.iter().any(Option::is_some) {
                return true;
            }
        }
        false
    }

    /// The pods of workers, with how often their containers were started again.
    pub async fn pods(&self) -> Vec<(String, i32)> {
        let mut all = Vec::new();
        for pod in self.scene.pods().await {
            let status = pod.status.clone().unwrap_or_default();
            let statuses = status.container_statuses.unwrap_or_default();
            all.push((pod.uid().unwrap(), statuses.iter().map(|one| one.restart_count).sum()));
        }
        all.sort();
        all
    }

    pub fn movements(&self) -> Api<NnfDataMovement> {
        let version = NnfDataMovement::DEFINITION.storage_version();
        Api::namespaced_with(self.scene.client.clone(), &self.scene.namespace, &version)
    }

    /// Starts a copy of so many files of 256 KiB from one filesystem to another at 1 MiB each second.
    pub async fn copy(&self, name: &str, user: u32, from: &str, to: &str, files: usize) -> Copy {
        let source = self.directory(from, name);
        for file in 0..files {
            fs::write(source.join(format!("file-{file}")), vec![7; 256 << 10]).unwrap();
        }
        let profile = json!({
            "command": "longshore copy --bandwidth-limit 1M $SRC $DEST",
            "progressIntervalSeconds": 1,
        });
        let ends = (format!("/lus/{from}/{name}/"), format!("/lus/{to}/{name}/"));
        let namespace = self.scene.namespace.as_str();
        let movement = Movement {
            namespace,
            file_systems: namespace,
            name,
            user,
            source: &ends.0,
            destination: &ends.1,
        };
        movement.create(&self.scene.client, profile).await;
        let destination = self.place(to).join(name);
        Copy { name: name.to_owned(), source, destination }
    }

    pub async fn status(&self, movement: &str) -> Value {
        let object = self.movements().get(movement).await.unwrap();
        serde_json::to_value(object.status).unwrap()
    }

    /// Waits until a copy is over, which it must be in success, and exact.
    pub async fn succeeded(&self, copy: &Copy) -> Value {
        let status = eventually(&format!("{} to be finished", copy.name), async || {
            let status = self.status(&copy.name).await;
            (status["state"] == "Finished").then_some(status)
        })
        .await;
        assert_eq!(status["status"], "Success", "{status:#}");
        assert!(crate::support::real_worker::same(&copy.source, &copy.destination));
        status
    }

    /// The processes of a node's worker that copy.
    pub fn movers(&self, node: &str) -> Vec<u32> {
        let node = self.scene.nodes.node(&self.scene.node_name(node));
        let is_mover = |pid: &u32| {
            let line = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            line.split('\0').nth(1) == Some("mover")
        };
        node.processes().into_iter().filter(is_mover).collect()
    }

    /// The first process of a node's worker.
    pub async fn worker(&self, node: &str) -> u32 {
        let node = self.scene.nodes.node(&self.scene.node_name(node));
        eventually("a worker to run", async || {
            let pods = self.scene.pods().await;
            let mut here = pods
                .iter()
                .filter(|pod| pod.spec.as_ref().unwrap().node_name.as_deref() == Some(node.name()));
            node.process_of(&self.scene.namespace, &here.next()?.name_any(), "worker")
        })
        .await
    }
}

/// A copy that was started.
pub struct Copy {
    pub name: String,
    pub source: PathBuf,
    pub destination: PathBuf,
}

impl Copy {
    /// How many files are complete.
    pub fn files(&self) -> usize {
        let folder = fs::read_dir(&self.destination).into_iter().flatten().flatten();
        folder.filter(|file| file.file_name().to_string_lossy().starts_with("file-")).count()
    }
}
