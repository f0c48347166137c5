//! containerd, with runc, and what is asked of it directly. It knows nothing of Kubernetes.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use super::{PAUSE, machine};
use crate::process::Server;

/// Where it listens.
pub(super) const SOCKET: &str = "/run/containerd/containerd.sock";

const READY_WITHIN: Duration = Duration::from_secs(60);

/// Starts it and returns when it answers.
pub(super) fn start(folder: &Path, programs: &Path) -> anyhow::Result<Server> {
    let configuration = folder.join("containerd.toml");
    fs::write(&configuration, content()).context("failed to write containerd's configuration")?;
    // Its shim is found on the path.
    let path = std::env::var("PATH").unwrap_or_default();
    let arguments = [
        format!("PATH={}:{path}", programs.display()),
        programs.join("containerd").display().to_string(),
        "--config".to_owned(),
        configuration.display().to_string(),
    ];
    let log = folder.join("containerd.log");
    let mut server = Server::start("containerd", Path::new("/usr/bin/env"), &arguments, log)?;
    let deadline = Instant::now() + READY_WITHIN;
    while ctr(programs, &["version"]).is_err() {
        server.check()?;
        if Instant::now() > deadline {
            bail!("containerd does not answer:\n{}", server.end_of_log());
        }
        sleep(Duration::from_millis(20));
    }
    Ok(server)
}

/// Runs `ctr` on the images and containers of Kubernetes.
pub(super) fn ctr(programs: &Path, arguments: &[&str]) -> anyhow::Result<()> {
    let mut command = Command::new(programs.join("ctr"));
    let output = command.args(["--address", SOCKET, "--namespace", "k8s.io"]).args(arguments);
    let output = output.output().context("failed to run ctr")?;
    if !output.status.success() {
        bail!("ctr {arguments:?}: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

fn content() -> String {
    let networks = machine::NETWORKS;
    format!(
        r#"version = 3
[plugins.'io.containerd.nri.v1.nri']
disable = true
[plugins.'io.containerd.cri.v1.images']
snapshotter = "overlayfs"
[plugins.'io.containerd.cri.v1.images'.pinned_images]
sandbox = "{PAUSE}"
[plugins.'io.containerd.cri.v1.runtime']
restrict_oom_score_adj = true # lowering it takes CAP_SYS_RESOURCE
[plugins.'io.containerd.cri.v1.runtime'.cni]
bin_dirs = ["/usr/lib/cni"]
conf_dir = "{networks}"
[plugins.'io.containerd.cri.v1.runtime'.containerd]
default_runtime_name = "runc"
[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc.options]
BinaryName = "/usr/sbin/runc"
SystemdCgroup = false
"#
    )
}
