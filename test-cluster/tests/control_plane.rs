//! The control plane does what the tests that use it rely on: real answers, real rights, real
//! controllers, an API server that goes away and comes back, and nothing left behind.
#![allow(clippy::unwrap_used, clippy::print_stderr, unreachable_pub)] // tests

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::{ConfigMap, Node, Pod};
use kube::api::{DeleteParams, ListParams, ObjectMeta, PostParams};
use kube::{Api, Config};
use serde_json::json;
use test_cluster::{ControlPlane, eventually};

/// Long enough for a machine that is busy with other tests.
const LIMIT: Duration = Duration::from_secs(60);

fn config_map(name: &str) -> ConfigMap {
    ConfigMap {
        metadata: ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() },
        data: Some(BTreeMap::from([("key".to_owned(), "value".to_owned())])),
        ..ConfigMap::default()
    }
}

#[tokio::test]
async fn tests_do_not_see_each_others_namespaces() {
    let Some(plane) = ControlPlane::shared() else { return };
    let (one, other) =
        (plane.namespace("one").await.unwrap(), plane.namespace("one").await.unwrap());
    assert_ne!(one, other);
    let mine: Api<ConfigMap> = Api::namespaced(plane.client(), &one);
    mine.create(&PostParams::default(), &config_map("mine")).await.unwrap();
    assert_eq!(mine.get("mine").await.unwrap().data.unwrap()["key"], "value");
    let others: Api<ConfigMap> = Api::namespaced(plane.client(), &other);
    assert!(others.get_opt("mine").await.unwrap().is_none());
}

#[tokio::test]
async fn rights_are_checked() {
    let Some(plane) = ControlPlane::shared() else { return };
    let namespace = plane.namespace("rights").await.unwrap();
    let nobody = plane.client_as("nobody", &["system:authenticated"]);
    let config_maps: Api<ConfigMap> = Api::namespaced(nobody, &namespace);
    let refused = config_maps.list(&ListParams::default()).await.unwrap_err();
    assert!(matches!(&refused, kube::Error::Api(status) if status.code == 403), "{refused}");
}

#[tokio::test]
async fn a_service_account_has_a_token_that_works() {
    let Some(plane) = ControlPlane::shared() else { return };
    let namespace = plane.namespace("tokens").await.unwrap();
    let token = plane.service_account_token(&namespace, "agent").await.unwrap();
    let file = plane.directory().join("agent.kubeconfig");
    plane.write_kubeconfig(&file, &token).unwrap();
    let kubeconfig = kube::config::Kubeconfig::read_from(&file).unwrap();
    let config = Config::from_custom_kubeconfig(kubeconfig, &Default::default()).await.unwrap();
    let client = kube::Client::try_from(config).unwrap();
    client.apiserver_version().await.unwrap();
    // It is known, and has no rights yet: refused (403), not unknown (401).
    let config_maps: Api<ConfigMap> = Api::namespaced(client, &namespace);
    let refused = config_maps.list(&ListParams::default()).await.unwrap_err().to_string();
    assert!(refused.contains(&format!("system:serviceaccount:{namespace}:agent")), "{refused}");
}

#[tokio::test]
async fn controllers_make_the_pods_of_a_daemon_set_and_collect_what_nobody_owns() {
    let Some(plane) = ControlPlane::shared() else { return };
    let namespace = plane.namespace("daemons").await.unwrap();
    let nodes: Api<Node> = Api::all(plane.client());
    let label = json!({"test": namespace});
    let node: Node =
        serde_json::from_value(json!({"metadata": {"name": "rabbit-1", "labels": label}})).unwrap();
    nodes.create(&PostParams::default(), &node).await.unwrap();
    let daemon_set: DaemonSet = serde_json::from_value(json!({
        "metadata": {"name": "worker"},
        "spec": {
            "selector": {"matchLabels": label},
            "template": {
                "metadata": {"labels": label},
                "spec": {
                    "nodeSelector": label,
                    "tolerations": [{"operator": "Exists"}],
                    "containers": [{"name": "worker", "image": "none"}],
                },
            },
        },
    }))
    .unwrap();
    let daemon_sets: Api<DaemonSet> = Api::namespaced(plane.client(), &namespace);
    daemon_sets.create(&PostParams::default(), &daemon_set).await.unwrap();

    let pods: Api<Pod> = Api::namespaced(plane.client(), &namespace);
    let list = async || pods.list(&ListParams::default()).await.unwrap().items;
    let pod = eventually("the pod of the node", async || list().await.pop()).await;
    let affinity = serde_json::to_string(&pod.spec.unwrap().affinity).unwrap();
    assert!(affinity.contains("rabbit-1"), "{affinity}");

    daemon_sets.delete("worker", &DeleteParams::background()).await.unwrap();
    eventually("the pod to be collected", async || list().await.is_empty().then_some(())).await;
}

#[tokio::test]
async fn the_api_server_goes_away_and_comes_back_with_everything() {
    let Some(plane) = ControlPlane::bare() else { return };
    let namespace = plane.namespace("outage").await.unwrap();
    let config_maps: Api<ConfigMap> = Api::namespaced(plane.client(), &namespace);
    config_maps.create(&PostParams::default(), &config_map("kept")).await.unwrap();

    plane.stop_api_server().unwrap();
    config_maps.get("kept").await.expect_err("nobody is there to answer");
    assert_eq!(plane.pids().len(), 1, "only etcd is left");

    plane.start_api_server().unwrap();
    // The same client, at the same address.
    assert_eq!(config_maps.get("kept").await.unwrap().data.unwrap()["key"], "value");
}

fn runs(pid: u32) -> bool {
    // A zombie has ended; only its parent has not asked yet.
    let Ok(stat) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else { return false };
    !stat.rsplit(')').next().unwrap_or("").trim_start().starts_with('Z')
}

/// The processes whose command line names a directory.
fn processes_of(directory: &Path) -> Vec<u32> {
    let needle = directory.to_str().unwrap().as_bytes().to_vec();
    let all = std::fs::read_dir("/proc").unwrap();
    all.filter_map(|entry| entry.unwrap().file_name().to_str()?.parse().ok())
        .filter(|pid| {
            let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            line.windows(needle.len()).any(|window| window == needle)
        })
        .collect()
}

#[test]
fn nothing_is_left_of_a_control_plane_whose_test_was_killed() {
    if ControlPlane::shared().is_none() {
        return;
    }
    let mut program = Command::new(env!("CARGO_BIN_EXE_control-plane"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut kubeconfig = String::new();
    BufReader::new(program.stdout.take().unwrap()).read_line(&mut kubeconfig).unwrap();
    let directory = Path::new(kubeconfig.trim_end()).parent().unwrap().to_owned();
    let servers = processes_of(&directory);
    assert_eq!(servers.len(), 3, "etcd, kube-apiserver, kube-controller-manager");
    program.kill().unwrap();
    program.wait().unwrap();
    let deadline = Instant::now() + LIMIT;
    while servers.iter().any(|&pid| runs(pid)) {
        assert!(Instant::now() < deadline, "they live on: {servers:?}");
        std::thread::sleep(Duration::from_millis(10));
    }
    // The next one sweeps up what the killed one could not.
    let mut next = Command::new(env!("CARGO_BIN_EXE_control-plane"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut kubeconfig = String::new();
    BufReader::new(next.stdout.take().unwrap()).read_line(&mut kubeconfig).unwrap();
    assert!(!directory.join("etcd").exists(), "{} has data still", directory.display());
    drop(next.stdin.take()); // the end of its input is the end of it
    assert!(next.wait().unwrap().success());
    let place = Path::new(kubeconfig.trim_end()).parent().unwrap();
    assert!(!place.exists(), "{} is still there", place.display());
}
