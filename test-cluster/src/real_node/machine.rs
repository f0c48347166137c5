//! What the node sees of the machine: its root, with everything that a node writes to on filesystems of
//! memory, and a network of its own. All of it goes with the namespaces.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, bail};
use nix::mount::{MsFlags, mount};

use crate::mount_namespace::NONE;

/// The node's address.
pub(super) const ADDRESS: &str = "10.80.0.11";

/// The address of the Service of the API server. The API server listens there itself, so that nobody
/// has to translate it.
pub(super) const SERVICE: &str = "10.96.0.1";

/// Where the network of pods is configured.
pub(super) const NETWORKS: &str = "/run/networks";

/// What a node writes to.
const WRITTEN: [&str; 4] = ["/run", "/mnt", "/var/lib", "/var/log"];

/// Settings of the whole machine, with the values that a kubelet wants: it finds them so and leaves them.
pub(super) const SETTINGS: [(&str, &str); 3] =
    [("vm/overcommit_memory", "1"), ("kernel/panic", "10"), ("kernel/panic_on_oops", "1")];

/// Why a program at a path could not be started inside, if so.
pub(super) fn hides(path: &Path) -> Option<String> {
    let hidden = WRITTEN.iter().find(|written| path.starts_with(written))?;
    Some(format!("{} is hidden in a real node, which has a {hidden} of its own", path.display()))
}

/// Makes it, in the namespaces of the calling process.
pub(super) fn make() -> anyhow::Result<()> {
    // Mounts are to pass between the node and its containers.
    mount(NONE, "/", NONE, MsFlags::MS_REC | MsFlags::MS_SHARED, NONE)
        .context("failed to share mounts")?;
    for path in WRITTEN {
        mount(Some("tmpfs"), path, Some("tmpfs"), MsFlags::empty(), Some("mode=755"))
            .with_context(|| format!("failed to mount {path}"))?;
    }
    for folder in [NETWORKS, "/run/settings", "/var/lib/kubelet/seccomp", "/var/lib/containerd"] {
        fs::create_dir_all(folder).with_context(|| format!("failed to make {folder}"))?;
    }
    for (name, value) in SETTINGS {
        let own = format!("/run/settings/{}", name.replace('/', "-"));
        fs::write(&own, format!("{value}\n")).context("failed to write a setting")?;
        cover(&own, &format!("/proc/sys/{name}"))?;
    }
    fs::write("/run/hosts", "127.0.0.1 localhost\n").context("failed to write the hosts")?;
    cover("/run/hosts", "/etc/hosts")?;
    fs::write("/run/resolv.conf", "").context("failed to write the name servers")?;
    cover("/run/resolv.conf", "/etc/resolv.conf")?;
    connect()
}

fn cover(source: &str, target: &str) -> anyhow::Result<()> {
    mount(Some(source), target, NONE, MsFlags::MS_BIND, NONE)
        .with_context(|| format!("failed to cover {target}"))
}

/// The network: the node's address is that of a bridge, since no other kind of device is sure to be there.
fn connect() -> anyhow::Result<()> {
    for line in [
        "link set lo up".to_owned(),
        format!("address add {SERVICE}/32 dev lo"),
        "link add node0 type bridge".to_owned(),
        format!("address add {ADDRESS}/24 dev node0"),
        "link set node0 up".to_owned(),
        "route add default dev node0".to_owned(),
    ] {
        let output = Command::new("ip").args(line.split(' ')).output();
        let output = output.with_context(|| format!("failed to run ip {line}"))?;
        if !output.status.success() {
            bail!("ip {line}: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
    }
    fs::write("/proc/sys/net/ipv4/ip_forward", "1").context("failed to have packets forwarded")?;
    let network = r#"{"cniVersion": "1.0.0", "name": "pods", "plugins": [{
        "type": "bridge", "bridge": "pods0", "isGateway": true, "hairpinMode": true,
        "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.81.0.0/24"}]],
                 "routes": [{"dst": "0.0.0.0/0"}]}}]}"#;
    fs::write(format!("{NETWORKS}/pods.conflist"), network).context("failed to write a network")
}
