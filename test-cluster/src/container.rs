//! One container: a process with a root directory, mounts, an environment and capabilities of its own.
//! There is no image: its root shows what is installed on this machine, and what it changes there is
//! lost. It knows nothing of pods.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::Context;
use nix::mount::{MntFlags, MsFlags, mount, umount2};

use crate::mount_namespace::{MountNamespace, NONE};

/// What the root of every container shows as it is.
const SHOWN: [&str; 3] = ["proc", "sys", "dev"];

/// Where a container sees the node's root while its mounts are made.
const NODE: &str = "/.node";

/// What containers may do that are not told otherwise: the list of containerd and Docker.
const DEFAULT_CAPABILITIES: [&str; 14] = [
    "chown",
    "dac_override",
    "fowner",
    "fsetid",
    "kill",
    "setgid",
    "setuid",
    "setpcap",
    "net_bind_service",
    "net_raw",
    "sys_chroot",
    "mknod",
    "audit_write",
    "setfcap",
];

/// Something that a container sees at a place of its own.
#[derive(Clone, Debug)]
pub(crate) struct Mount {
    /// What: a directory or a file of the node.
    pub(crate) source: PathBuf,
    /// Where.
    pub(crate) target: PathBuf,
    /// Whether it cannot write there.
    pub(crate) read_only: bool,
    /// Whether what the node mounts below it later is seen too (`HostToContainer`).
    pub(crate) follows: bool,
}

/// What a container is to be.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// The program.
    pub(crate) program: PathBuf,
    /// Its arguments.
    pub(crate) arguments: Vec<String>,
    /// All of its environment.
    pub(crate) environment: BTreeMap<String, String>,
    /// Where it starts.
    pub(crate) working_directory: PathBuf,
    /// What it sees.
    pub(crate) mounts: Vec<Mount>,
    /// What it may do; everything when absent.
    pub(crate) capabilities: Option<Vec<String>>,
    /// An empty directory for its root.
    pub(crate) place: PathBuf,
    /// Where its output goes.
    pub(crate) log: PathBuf,
}

impl Plan {
    /// Starts it on a node. The processes in the namespace that is returned are those of the container.
    ///
    /// # Errors
    ///
    /// When something cannot be mounted, or the program not be started.
    pub(crate) fn start(self, node: &MountNamespace) -> anyhow::Result<(MountNamespace, Child)> {
        let inside = node.follower().context("failed to make a mount namespace")?;
        let child = inside.run(move || {
            self.make_root()?;
            self.spawn()
        })?;
        Ok((inside, child))
    }

    /// Makes the root and goes there, with the calling thread.
    fn make_root(&self) -> anyhow::Result<()> {
        let place = &self.place;
        mount(Some("tmpfs"), place, Some("tmpfs"), MsFlags::empty(), NONE)
            .context("failed to mount a tmpfs")?;
        let [upper, work, root] = ["upper", "work", "root"].map(|name| place.join(name));
        for folder in [&upper, &work, &root, &upper.join(NODE.trim_start_matches('/'))] {
            fs::create_dir(folder).context("failed to make a directory of a root")?;
        }
        let layers = format!("lowerdir=/,upperdir={},workdir={}", upper.display(), work.display());
        mount(Some("overlay"), &root, Some("overlay"), MsFlags::empty(), Some(layers.as_str()))
            .context("failed to mount an overlay")?;
        for shown in SHOWN {
            bind(&Path::new("/").join(shown), &root.join(shown))?;
        }
        // Links such as /var/run are to be followed in the new root: from there the mounts are made.
        bind(Path::new("/"), &root.join(NODE.trim_start_matches('/')))?;
        nix::unistd::chroot(&root).context("failed to change the root")?;
        std::env::set_current_dir("/").context("failed to go to the root")?;
        // The overlay shows one filesystem only, and the build directory may be on another one.
        let mut mounts = self.mounts.clone();
        let program = self.program.clone();
        mounts.push(Mount {
            source: program.clone(),
            target: program,
            read_only: true,
            follows: false,
        });
        mounts.sort_by(|one, other| one.target.cmp(&other.target));
        for wanted in mounts {
            wanted.make()?;
        }
        umount2(NODE, MntFlags::MNT_DETACH).context("failed to leave the node's root")?;
        Ok(())
    }

    fn spawn(&self) -> anyhow::Result<Child> {
        let log = File::options().create(true).append(true).open(&self.log);
        let log = log.with_context(|| format!("failed to open {}", self.log.display()))?;
        let mut command = Command::new("/usr/bin/setpriv");
        command.args(["--pdeathsig", "KILL"]);
        if let Some(capabilities) = &self.capabilities {
            let kept: String =
                capabilities.iter().map(|name| format!(",+{}", name.to_lowercase())).collect();
            command.arg(format!("--bounding-set=-all{kept}"));
            command.arg("--inh-caps=-all");
        }
        command.arg("--").arg(&self.program).args(&self.arguments);
        command.env_clear().envs(&self.environment).current_dir(&self.working_directory);
        command.stdin(Stdio::null());
        command.stdout(log.try_clone().context("failed to share the log")?).stderr(log);
        // This thread is the parent: the program is killed when the thread ends.
        command.spawn().with_context(|| format!("failed to start {}", self.program.display()))
    }
}

impl Mount {
    /// Makes it, with the node's root still to be seen below [`NODE`].
    fn make(&self) -> anyhow::Result<()> {
        let about = || format!("failed to mount {}", self.target.display());
        let source = Path::new(NODE).join(self.source.strip_prefix("/").with_context(about)?);
        let target = &self.target;
        if source.is_dir() {
            fs::create_dir_all(target).with_context(about)?;
        } else if !target.exists() {
            let folder = target.parent().with_context(about)?;
            fs::create_dir_all(folder).with_context(about)?;
            File::create(target).with_context(about)?;
        }
        bind(&source, target)?;
        if !self.follows {
            let alone = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
            mount(NONE, target, NONE, alone, NONE).with_context(about)?;
        }
        if self.read_only {
            let flags = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
            mount(NONE, target, NONE, flags, NONE).with_context(about)?;
        }
        Ok(())
    }
}

/// Shows something, with all that is mounted below it, at another place too.
fn bind(source: &Path, target: &Path) -> anyhow::Result<()> {
    mount(Some(source), target, NONE, MsFlags::MS_BIND | MsFlags::MS_REC, NONE)
        .map_err(io::Error::from)
        .with_context(|| format!("failed to bind {} to {}", source.display(), target.display()))
}

/// What a container may do: the defaults with some added and some dropped; everything when privileged.
pub(crate) fn capabilities(
    context: Option<&k8s_openapi::api::core::v1::SecurityContext>,
) -> Option<Vec<String>> {
    if context.is_some_and(|context| context.privileged == Some(true)) {
        return None;
    }
    let changes = context.and_then(|context| context.capabilities.clone()).unwrap_or_default();
    let dropped = changes.drop.unwrap_or_default();
    let all = |names: &[String]| names.iter().any(|name| name == "ALL");
    if changes.add.as_deref().is_some_and(all) {
        return None;
    }
    let mut kept: Vec<String> = DEFAULT_CAPABILITIES.map(str::to_owned).into();
    kept.retain(|name| !all(&dropped) && !dropped.iter().any(|gone| gone.to_lowercase() == *name));
    kept.extend(changes.add.unwrap_or_default().iter().map(|name| name.to_lowercase()));
    Some(kept)
}
