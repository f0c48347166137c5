//! The kubelet of a real node.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use k8s_openapi::api::core::v1::Node;
use kube::{Api, Client};

use super::machine::ADDRESS;
use super::{NODE, containerd, roles};
use crate::process::Server;

const READY_WITHIN: Duration = Duration::from_secs(60);

/// Starts it; the servers, which run, have written its kubeconfig.
pub(super) fn start(
    folder: &Path,
    programs: &Path,
    labels: &[(&str, &str)],
) -> anyhow::Result<Server> {
    let groups = std::env::var(roles::GROUPS).context("not inside")?;
    let configuration = folder.join("kubelet.yaml");
    fs::write(&configuration, content(&groups, folder))
        .context("failed to write its configuration")?;
    let labels: Vec<String> = labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
    let arguments = [
        format!("--config={}", configuration.display()),
        format!("--kubeconfig={}", folder.join("kubelet.kubeconfig").display()),
        format!("--hostname-override={NODE}"),
        format!("--node-ip={ADDRESS}"),
        "--cert-dir=/var/lib/kubelet/pki".to_owned(),
        format!("--node-labels={}", labels.join(",")),
    ];
    Server::start("kubelet", &programs.join("kubelet"), &arguments, folder.join("kubelet.log"))
}

/// Waits until its node is ready.
pub(super) async fn wait_until_ready(client: Client) -> anyhow::Result<()> {
    let nodes: Api<Node> = Api::all(client);
    let deadline = Instant::now() + READY_WITHIN;
    loop {
        let node = nodes.get_opt(NODE).await.context("failed to read the node")?;
        let conditions = node.and_then(|node| node.status?.conditions).unwrap_or_default();
        let ready = conditions.into_iter().find(|condition| condition.type_ == "Ready");
        if ready.as_ref().is_some_and(|condition| condition.status == "True") {
            return Ok(());
        }
        if Instant::now() > deadline {
            bail!("the node is not ready: {ready:?}");
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn content(groups: &str, folder: &Path) -> String {
    let logs = folder.join("pods");
    let logs = logs.display();
    let socket = containerd::SOCKET;
    format!(
        "apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
failCgroupV1: false
cgroupDriver: cgroupfs
cgroupRoot: /{groups}
kubeletCgroups: /{groups}/kubelet
containerRuntimeEndpoint: unix://{socket}
authentication: {{anonymous: {{enabled: true}}, webhook: {{enabled: false}}}}
authorization: {{mode: AlwaysAllow}}
makeIPTablesUtilChains: false
failSwapOn: false
oomScoreAdj: 0 # lowering it takes CAP_SYS_RESOURCE
podLogsDir: {logs}
volumePluginDir: /var/lib/kubelet/volumeplugins
# An image that it collects cannot be had again.
imageGCHighThresholdPercent: 100
imageGCLowThresholdPercent: 99
# The machine is shared, and full when others fill it.
evictionHard:
  memory.available: 1Mi
  nodefs.available: 0%
  nodefs.inodesFree: 0%
  imagefs.available: 0%
  imagefs.inodesFree: 0%
clusterDNS: [10.96.0.10]
clusterDomain: cluster.local
"
    )
}
