//! Many rabbits with the real worker on each: nodes that are played, where a DaemonSet runs the program in
//! a pod of its own. Its rights are not those of `deploy/`; that these suffice is shown elsewhere.

use std::path::PathBuf;

use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Pod, ServiceAccount};
use k8s_openapi::api::rbac::v1::ClusterRoleBinding;
use kube::api::{DeleteParams, ListParams, PostParams};
use kube::{Api, Client, ResourceExt};
use serde_json::json;
use test_cluster::{ControlPlane, NodeSettings, Nodes, Settings, until};

use super::manager::{Manager, get};
use super::rabbit::Rabbit;
use super::real_worker::{Place, dm_worker};

/// Long enough for a machine that is busy with other tests.
const PORT: u16 = 8080;
const NAME: &str = "workers";

/// Rabbits, each with a worker.
pub struct Fleet {
    pub rabbits: Vec<Rabbit>,
    pub client: Client,
    namespace: String,
    nodes: Nodes,
    // Dropped last: the nodes speak to it.
    plane: ControlPlane,
}

impl Fleet {
    /// So many rabbits, whose pods see what is in `place`.
    pub async fn new(number: usize, place: &Place) -> Option<Self> {
        let plane = ControlPlane::own(Settings::default())?;
        let images = [("worker".to_owned(), PathBuf::from(dm_worker()))];
        let settings = NodeSettings { images: images.into(), ..NodeSettings::default() };
        let nodes = plane.nodes(settings).unwrap()?;
        plane.install(&super::printed(&["--all"])).await.unwrap();
        let namespace = plane.namespace("fleet").await.unwrap();
        let client = plane.client();
        let root = place.path("");
        let mut rabbits = Vec::new();
        for number in 0..number {
            let name = format!("rabbit-{number}");
            let labels = [("test", namespace.as_str())];
            let node = nodes.add(&plane, &name, &labels, &[]).await.unwrap();
            node.mount(&root, root.to_str().unwrap()).unwrap();
            rabbits.push(Rabbit::of_node(&plane, &namespace, name).await);
        }
        let fleet = Self { rabbits, client, namespace, nodes, plane };
        fleet.grant().await;
        fleet.start_workers(&root).await;
        let leases = async || fleet.leases().await == fleet.rabbits.len();
        until("a Lease of every worker", leases).await;
        Some(fleet)
    }

    /// Lets the workers do what they want.
    async fn grant(&self) {
        let accounts: Api<ServiceAccount> = Api::namespaced(self.client.clone(), &self.namespace);
        until("a service account", async || accounts.get_opt("default").await.unwrap().is_some())
            .await;
        let binding: ClusterRoleBinding = serde_json::from_value(json!({
            "metadata": {"name": self.namespace},
            "roleRef": {
                "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin",
            },
            "subjects": [{
                "kind": "ServiceAccount", "name": "default", "namespace": self.namespace,
            }],
        }))
        .unwrap();
        let bindings: Api<ClusterRoleBinding> = Api::all(self.client.clone());
        bindings.create(&PostParams::default(), &binding).await.unwrap();
    }

    async fn start_workers(&self, root: &std::path::Path) {
        let field = |name: &str, path: &str| json!({"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}});
        let labels = json!({"app": NAME});
        let set: DaemonSet = serde_json::from_value(json!({
            "metadata": {"name": NAME},
            "spec": {
                "selector": {"matchLabels": labels},
                "template": {
                    "metadata": {"labels": labels},
                    "spec": {
                        "nodeSelector": {"test": self.namespace},
                        "containers": [{
                            "name": "worker",
                            "image": "worker",
                            "command": ["/dm-worker", "run"],
                            "args": [format!("--listen=$(POD_IP):{PORT}")],
                            "env": [
                                field("NNF_NODE_NAME", "spec.nodeName"),
                                field("POD_NAME", "metadata.name"),
                                field("POD_IP", "status.podIP"),
                                field("LONGSHORE_NAMESPACE", "metadata.namespace"),
                            ],
                            "volumeMounts": [
                                {"name": "run", "mountPath": "/run/longshore"},
                                {"name": "data", "mountPath": root},
                            ],
                        }],
                        "volumes": [
                            {"name": "run", "emptyDir": {}},
                            {"name": "data", "hostPath": {"path": root}},
                        ],
                    },
                },
            },
        }))
        .unwrap();
        self.daemon_sets().create(&PostParams::default(), &set).await.unwrap();
    }

    fn daemon_sets(&self) -> Api<DaemonSet> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// Starts a manager for all of them.
    pub fn manager(&self) -> Manager {
        self.rabbits[0].manager()
    }

    /// How many workers have a Lease.
    pub async fn leases(&self) -> usize {
        let leases: Api<Lease> = Api::namespaced(self.client.clone(), &self.namespace);
        let leases = leases.list(&ListParams::default()).await.unwrap();
        leases.iter().filter(|lease| lease.name_any().starts_with("longshore-worker-")).count()
    }

    /// The processes on all nodes.
    pub fn processes(&self) -> usize {
        self.nodes.all().iter().map(|node| node.processes().len()).sum()
    }

    /// What the workers' metrics say, as text.
    pub async fn metrics(&self) -> Vec<String> {
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), &self.namespace);
        let pods = pods.list(&ListParams::default()).await.unwrap();
        let address = |pod: &Pod| {
            let ip = pod.status.as_ref()?.pod_ip.clone()?;
            Some(std::net::SocketAddr::new(ip.parse().ok()?, PORT))
        };
        pods.iter().map(|pod| get(address(pod).unwrap(), "/metrics").1).collect()
    }

    /// Ends the workers in order, and waits until they are gone, and their Leases.
    pub async fn end_workers(&self) {
        drop(self.daemon_sets().delete(NAME, &DeleteParams::default()).await.unwrap());
        until("the end of all workers", async || self.leases().await == 0 && self.processes() == 0)
            .await;
    }

    /// The directory with the logs.
    pub fn directory(&self) -> &std::path::Path {
        self.plane.directory()
    }
}
