//! The played nodes do what a kubelet and a machine do: pods of a DaemonSet run as processes with their
//! volumes, rights and addresses, tell whether they are ready, end in order or by force, and nodes
//! fail in every way that a test asks for.
#![allow(clippy::unwrap_used, clippy::print_stderr, unreachable_pub)] // tests

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::{
    Event, PersistentVolume, PersistentVolumeClaim, Pod, ServiceAccount,
};
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::{Api, Client, ResourceExt};
use serde_json::{Value, json};
use test_cluster::{ControlPlane, Link, NodeSettings, Nodes, eventually};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const PORT: u16 = 8080;

/// A namespace with nodes of its own, and a DaemonSet on them.
struct Scene {
    plane: &'static ControlPlane,
    nodes: Nodes,
    namespace: String,
    client: Client,
}

impl Scene {
    async fn new(about: &str, names: &[&str]) -> Option<Self> {
        let plane = ControlPlane::shared()?;
        let images = [("resident".to_owned(), PathBuf::from(env!("CARGO_BIN_EXE_resident")))];
        let settings = NodeSettings { images: images.into(), claims: BTreeMap::new() };
        let nodes = plane.nodes(settings).unwrap()?;
        let namespace = plane.namespace(about).await.unwrap();
        let scene = Self { plane, nodes, namespace, client: plane.client() };
        for name in names {
            let labels = [("test", scene.namespace.as_str())];
            scene.nodes.add(plane, &scene.node_name(name), &labels, &[]).await.unwrap();
        }
        // Pods are refused until the namespace's service account is there.
        let accounts: Api<ServiceAccount> = Api::namespaced(plane.client(), &scene.namespace);
        eventually("a service account", async || accounts.get_opt("default").await.unwrap()).await;
        Some(scene)
    }

    fn node_name(&self, name: &str) -> String {
        format!("{}-{name}", self.namespace)
    }

    fn node(&self, name: &str) -> std::sync::Arc<test_cluster::Node> {
        self.nodes.node(&self.node_name(name))
    }

    fn pods(&self) -> Api<Pod> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// Makes the DaemonSet, with fields of its pods and of its container.
    async fn daemon_set(&self, of_pod: Value, of_container: Value) {
        let labels = json!({"test": self.namespace});
        let mut container = json!({
            "name": "one",
            "image": "resident",
            "command": ["/resident"],
            "args": [format!("$(POD_IP):{PORT}")],
            "env": [
                {"name": "POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
                {"name": "NODE", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}},
                {"name": "READY", "value": "/mnt/nnf/ready"},
            ],
            "readinessProbe": {"httpGet": {"path": "/readyz", "port": PORT}},
            "volumeMounts": [
                {"name": "nnf", "mountPath": "/mnt/nnf", "mountPropagation": "HostToContainer"},
            ],
        });
        merge(&mut container, of_container);
        let mut pod = json!({
            "nodeSelector": labels,
            "terminationGracePeriodSeconds": 1,
            "containers": [container],
            "volumes": [
                {"name": "nnf", "hostPath": {"path": "/mnt/nnf", "type": "DirectoryOrCreate"}},
            ],
        });
        merge(&mut pod, of_pod);
        let daemon_set: DaemonSet = serde_json::from_value(json!({
            "metadata": {"name": "daemon"},
            "spec": {
                "selector": {"matchLabels": labels},
                "template": {"metadata": {"labels": labels}, "spec": pod},
            },
        }))
        .unwrap();
        let daemon_sets: Api<DaemonSet> = Api::namespaced(self.client.clone(), &self.namespace);
        daemon_sets.create(&PostParams::default(), &daemon_set).await.unwrap();
    }

    /// The pod on a node, when there is one that fits.
    async fn pod(&self, node: &str, what: &str, fits: impl Fn(&Pod) -> bool) -> Pod {
        let node = self.node_name(node);
        let found = eventually(what, async || {
            let pods = self.pods().list(&ListParams::default()).await.unwrap().items;
            let here = |pod: &Pod| pod.spec.as_ref().unwrap().node_name.as_ref() == Some(&node);
            pods.into_iter().find(|pod| here(pod) && fits(pod))
        });
        found.await
    }

    async fn running(&self, node: &str) -> (Pod, u32) {
        let pod = self.pod(node, "a running pod", runs).await;
        let pid = self.node(node).process_of(&self.namespace, &pod.name_any(), "one").unwrap();
        (pod, pid)
    }
}

fn merge(into: &mut Value, fields: Value) {
    for (name, value) in fields.as_object().unwrap() {
        match &mut into[name] {
            Value::Array(values) => values.extend(value.as_array().unwrap().clone()),
            other => *other = value.clone(),
        }
    }
}

fn runs(pod: &Pod) -> bool {
    let status = pod.status.as_ref().unwrap();
    let containers = status.container_statuses.iter().flatten();
    containers.flat_map(|one| &one.state).any(|state| state.running.is_some())
}

fn ready(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().unwrap().conditions.iter().flatten();
    conditions.into_iter().any(|one| one.type_ == "Ready" && one.status == "True")
}

fn restarts(pod: &Pod) -> i32 {
    let statuses = pod.status.as_ref().unwrap().container_statuses.iter().flatten();
    statuses.map(|one| one.restart_count).sum()
}

/// Whether a process has not ended. A zombie has; only its parent has not asked yet.
fn lives(pid: u32) -> bool {
    let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else { return false };
    !stat.rsplit(')').next().unwrap_or("").trim_start().starts_with('Z')
}

async fn get(pod: &Pod, path: &str) -> String {
    let address = pod.status.as_ref().unwrap().pod_ip.clone().unwrap();
    eventually("an answer over HTTP", async || {
        let mut stream = tokio::net::TcpStream::connect(format!("{address}:{PORT}")).await.ok()?;
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.ok()?;
        Some(answer.split_once("\r\n\r\n")?.1.to_owned())
    })
    .await
}

#[tokio::test]
async fn pods_run_on_every_node_and_tell_whether_they_are_ready() {
    let Some(scene) = Scene::new("ready", &["a", "b"]).await else { return };
    scene.daemon_set(json!({}), json!({})).await;
    let (one, _) = scene.running("a").await;
    let (other, _) = scene.running("b").await;
    assert_ne!(one.status.unwrap().pod_ip, other.status.unwrap().pod_ip);
    // The file that makes it ready is one of the node, not one of this machine.
    fs::write(scene.node("a").path("/mnt/nnf/ready"), "").unwrap();
    scene.pod("a", "a pod that is ready", ready).await;
    let daemon_sets: Api<DaemonSet> = Api::namespaced(scene.client.clone(), &scene.namespace);
    eventually("the DaemonSet to count one", async || {
        let status = daemon_sets.get("daemon").await.unwrap().status?;
        (status.number_ready == 1 && status.desired_number_scheduled == 2).then_some(())
    })
    .await;
    assert!(!ready(&scene.pod("b", "the other pod", |_| true).await));
    fs::remove_file(scene.node("a").path("/mnt/nnf/ready")).unwrap();
    scene.pod("a", "a pod that is not ready any more", |pod| !ready(pod)).await;
}

#[tokio::test]
async fn a_pod_has_its_environment_token_and_capabilities_and_no_others() {
    let Some(scene) = Scene::new("identity", &["a"]).await else { return };
    let context = json!({"capabilities": {"drop": ["NET_RAW"], "add": ["SYS_PTRACE"]}});
    scene.daemon_set(json!({}), json!({"securityContext": context})).await;
    let (pod, pid) = scene.running("a").await;
    let whoami = get(&pod, "/whoami").await;
    assert_eq!(whoami, format!("system:serviceaccount:{}:default", scene.namespace));
    let environment = fs::read_to_string(format!("/proc/{pid}/environ")).unwrap();
    assert!(environment.contains(&format!("NODE={}", scene.node_name("a"))), "{environment}");
    assert!(!environment.contains("CARGO"), "{environment}");
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:\t")).unwrap();
    let effective = u64::from_str_radix(effective, 16).unwrap();
    let has = |capability: u32| effective >> capability & 1 == 1;
    let [chown, net_raw, sys_ptrace, sys_admin] = [0, 13, 19, 21].map(has);
    assert!(chown && !net_raw && sys_ptrace && !sys_admin, "{effective:x}");
    // What it changes on its root is lost, and seen by nobody.
    fs::write(format!("/proc/{pid}/root/of-a-pod"), "").unwrap();
    assert!(!PathBuf::from("/of-a-pod").exists());
}

#[tokio::test]
async fn mounts_of_the_node_reach_the_pods_that_follow_them_and_no_others() {
    let Some(scene) = Scene::new("mounts", &["a"]).await else { return };
    let deaf = json!({"name": "nnf", "mountPath": "/deaf"});
    scene.daemon_set(json!({}), json!({"volumeMounts": [deaf]})).await;
    let (_, pid) = scene.running("a").await;
    let storage = tempfile::tempdir().unwrap();
    fs::write(storage.path().join("content"), "x").unwrap();
    scene.node("a").mount(storage.path(), "/mnt/nnf/job-0").unwrap();
    let inside = |path: &str| PathBuf::from(format!("/proc/{pid}/root{path}"));
    assert_eq!(fs::read_to_string(inside("/mnt/nnf/job-0/content")).unwrap(), "x");
    assert!(inside("/deaf/job-0").exists() && !inside("/deaf/job-0/content").exists());
    fs::write(inside("/mnt/nnf/job-0/result"), "y").unwrap();
    scene.node("a").unmount("/mnt/nnf/job-0").unwrap();
    assert!(!inside("/mnt/nnf/job-0/content").exists());
    assert_eq!(fs::read_to_string(storage.path().join("result")).unwrap(), "y");
}

#[tokio::test]
async fn a_claim_is_mounted_when_it_is_bound_and_the_node_can() {
    let Some(scene) = Scene::new("claims", &["a", "b"]).await else { return };
    let lustre = tempfile::tempdir().unwrap();
    fs::write(lustre.path().join("content"), "of lustre").unwrap();
    let claim = format!("{}-claim", scene.namespace);
    scene.nodes.provide(&claim, lustre.path());
    scene.node("b").refuse(&claim, "mount.lustre: mount 10.0.0.1@tcp:/lus1 failed: timed out");
    let volume = json!({"name": "lus1", "persistentVolumeClaim": {"claimName": claim}});
    let mount = json!({"name": "lus1", "mountPath": "/lus/lus1"});
    scene.daemon_set(json!({"volumes": [volume]}), json!({"volumeMounts": [mount]})).await;
    let complaint = async |node: &str, text: &str| {
        let name = scene.pod(node, "a pod", |_| true).await.name_any();
        let events: Api<Event> = Api::namespaced(scene.client.clone(), &scene.namespace);
        eventually(text, async || {
            let events = events.list(&ListParams::default()).await.unwrap().items;
            let mut mine =
                events.iter().filter(|event| event.involved_object.name.as_ref() == Some(&name));
            mine.any(|event| event.message.as_ref().unwrap().contains(text)).then_some(())
        })
        .await;
    };
    complaint("a", &format!("persistentvolumeclaim \"{claim}\" not found")).await;

    let volumes: Api<PersistentVolume> = Api::all(scene.client.clone());
    let volume: PersistentVolume = serde_json::from_value(json!({
        "metadata": {"name": claim},
        "spec": {
            "accessModes": ["ReadWriteMany"],
            "capacity": {"storage": "1"},
            "storageClassName": "nnf-lustre-fs",
            "claimRef": {"namespace": scene.namespace, "name": claim},
            "csi": {"driver": "lustre-csi.hpe.com", "volumeHandle": "10.0.0.1@tcp:/lus1"},
        },
    }))
    .unwrap();
    volumes.create(&PostParams::default(), &volume).await.unwrap();
    let claims: Api<PersistentVolumeClaim> =
        Api::namespaced(scene.client.clone(), &scene.namespace);
    let wanted: PersistentVolumeClaim = serde_json::from_value(json!({
        "metadata": {"name": claim},
        "spec": {
            "accessModes": ["ReadWriteMany"],
            "resources": {"requests": {"storage": "1"}},
            "storageClassName": "nnf-lustre-fs",
            "volumeName": claim,
        },
    }))
    .unwrap();
    claims.create(&PostParams::default(), &wanted).await.unwrap();
    let (_, pid) = scene.running("a").await;
    let seen = fs::read_to_string(format!("/proc/{pid}/root/lus/lus1/content")).unwrap();
    assert_eq!(seen, "of lustre");
    complaint("b", "mount.lustre: mount 10.0.0.1@tcp:/lus1 failed").await;
    assert!(!runs(&scene.pod("b", "the pod that cannot mount", |_| true).await));
    scene.node("b").provide(&claim, lustre.path());
    scene.running("b").await;
}

#[tokio::test]
async fn a_pod_ends_in_order_when_it_can_and_by_force_when_it_does_not() {
    let Some(scene) = Scene::new("ends", &["a"]).await else { return };
    let seconds = |seconds: u64| json!({"terminationGracePeriodSeconds": seconds});
    scene.daemon_set(seconds(3), json!({"env": [{"name": "STUBBORN", "value": "1"}]})).await;
    let (pod, pid) = scene.running("a").await;
    get(&pod, "/readyz").await; // it handles signals by now
    let begun = Instant::now();
    scene.pods().delete(&pod.name_any(), &DeleteParams::default()).await.unwrap();
    let uid = pod.uid();
    eventually("the pod to be gone", async || {
        let pods = scene.pods().list(&ListParams::default()).await.unwrap().items;
        pods.iter().all(|pod| pod.uid() != uid).then_some(())
    })
    .await;
    assert!(begun.elapsed() > Duration::from_secs(3), "killed after {:?}", begun.elapsed());
    assert!(!lives(pid));

    let patch = json!({"spec": {"template": {"spec": {
        "terminationGracePeriodSeconds": 600,
        "containers": [{"name": "one", "env": [{"name": "STUBBORN", "$patch": "delete"}]}],
    }}}});
    let daemon_sets: Api<DaemonSet> = Api::namespaced(scene.client.clone(), &scene.namespace);
    let how = PatchParams::default();
    daemon_sets.patch("daemon", &how, &Patch::Strategic(patch)).await.unwrap();
    let patient =
        |pod: &Pod| pod.spec.as_ref().unwrap().termination_grace_period_seconds == Some(600);
    let pod = scene.pod("a", "the new pod", |pod| patient(pod) && runs(pod)).await;
    get(&pod, "/readyz").await;
    let pid = scene.node("a").process_of(&scene.namespace, &pod.name_any(), "one").unwrap();
    scene.pods().delete(&pod.name_any(), &DeleteParams::default()).await.unwrap();
    eventually("it to end by itself", async || (!lives(pid)).then_some(())).await;
    scene.pod("a", "another pod", |other| other.uid() != pod.uid() && runs(other)).await;
}

#[tokio::test]
async fn a_container_that_ends_is_started_again() {
    let Some(scene) = Scene::new("restarts", &["a"]).await else { return };
    scene.daemon_set(json!({}), json!({})).await;
    let (pod, pid) = scene.running("a").await;
    kill(pid);
    let again = scene.pod("a", "a restart", |pod| restarts(pod) == 1 && runs(pod)).await;
    assert_eq!(again.uid(), pod.uid());
    let status = again.status.unwrap().container_statuses.unwrap().remove(0);
    assert_eq!(status.last_state.unwrap().terminated.unwrap().exit_code, 137);
}

fn kill(pid: u32) {
    let pid = nix::unistd::Pid::from_raw(pid.cast_signed());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).unwrap();
}

#[tokio::test]
async fn a_frozen_node_is_not_ready_and_goes_on_when_thawed() {
    let Some(scene) = Scene::new("frozen", &["a"]).await else { return };
    scene.daemon_set(json!({}), json!({})).await;
    let (_, pid) = scene.running("a").await;
    fs::write(scene.node("a").path("/mnt/nnf/ready"), "").unwrap();
    scene.pod("a", "a pod that is ready", ready).await;
    scene.node("a").freeze();
    scene.pod("a", "a pod that does not answer", |pod| !ready(pod)).await;
    assert!(lives(pid));
    scene.node("a").thaw();
    let pod = scene.pod("a", "a pod that is ready again", ready).await;
    assert_eq!(restarts(&pod), 0);
}

#[tokio::test]
async fn a_node_that_is_switched_off_says_nothing_and_comes_back() {
    let Some(scene) = Scene::new("off", &["a"]).await else { return };
    scene.daemon_set(json!({}), json!({})).await;
    let (pod, pid) = scene.running("a").await;
    scene.node("a").power_off();
    assert!(!lives(pid) && scene.node("a").processes().is_empty());
    let after = scene.pod("a", "the pod", |_| true).await;
    assert!(runs(&after) && after.uid() == pod.uid(), "nobody was told");
    scene.node("a").power_on();
    let again = scene.pod("a", "a restart", |pod| restarts(pod) == 1 && runs(pod)).await;
    assert_eq!(again.uid(), pod.uid());
}

#[tokio::test]
async fn a_node_that_is_cut_off_runs_on_without_the_api_server() {
    let Some(scene) = Scene::new("cut", &["a"]).await else { return };
    scene.daemon_set(json!({}), json!({})).await;
    let (pod, pid) = scene.running("a").await;
    assert!(get(&pod, "/whoami").await.starts_with("system:"));
    scene.node("a").link(Link::Refused);
    assert!(!get(&pod, "/whoami").await.starts_with("system:"));
    scene.pods().delete(&pod.name_any(), &DeleteParams::default()).await.unwrap();
    scene.node("a").link(Link::Silent);
    let silent = tokio::time::timeout(Duration::from_secs(2), get(&pod, "/whoami")).await;
    assert!(silent.is_err(), "there is no answer, not even a bad one: {silent:?}");
    // Its kubelet has not heard that the pod is to end.
    assert!(lives(pid));
    let left = scene.pod("a", "the pod", |_| true).await;
    assert!(left.metadata.deletion_timestamp.is_some());
    scene.node("a").link(Link::Up);
    eventually("it to end now", async || (!lives(pid)).then_some(())).await;
    scene.pod("a", "another pod", |other| other.uid() != pod.uid() && runs(other)).await;
}

#[tokio::test]
async fn nothing_is_left_of_nodes_that_are_dropped() {
    let Some(scene) = Scene::new("dropped", &["a", "b"]).await else { return };
    scene.daemon_set(json!({}), json!({})).await;
    let (_, one) = scene.running("a").await;
    let (_, other) = scene.running("b").await;
    let Scene { nodes, plane, .. } = scene;
    nodes.remove(plane, nodes.all()[0].name()).await.unwrap();
    drop(nodes);
    assert!(!lives(one) && !lives(other));
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains("nodes-"), "{mounts}");
}
