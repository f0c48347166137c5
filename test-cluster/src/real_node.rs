//! A real node: kubelet, containerd and runc, with a control plane and a scheduler of its own, in
//! namespaces of its own, where nothing of the machine is changed and nothing stays. It takes root, Go
//! (once) and Debian's runc and CNI plugins. It knows nothing of Longshore.
//!
//! The test is the program itself, started again inside: [`alone`] has it done, and [`RealNode::start`]
//! starts the node there.

mod cgroups;
mod containerd;
mod image;
mod kubelet;
mod machine;
mod residue;
mod roles;
mod servers;

use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Instant;

use anyhow::Context;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::{Client, Config};

pub use roles::alone;

use crate::process::Server;
use crate::programs::Programs;
use crate::{install, programs};
use servers::Servers;

/// The name of the node.
pub const NODE: &str = "rabbit-1";

/// The image that holds the namespaces of pods.
const PAUSE: &str = "localhost/pause:1";

/// A node that is ready for pods, and its control plane.
pub struct RealNode {
    // In the order in which they are dropped.
    kubelet: Mutex<Server>,
    _containerd: Server,
    servers: Servers,
    folder: PathBuf,
    programs: PathBuf,
}

impl RealNode {
    /// Starts it, with the node's labels and with images: names, and the programs that they are of. The
    /// caller is inside, as [`alone`] has it.
    ///
    /// # Errors
    ///
    /// When something cannot be had or does not start; the logs are in the folder.
    pub async fn start(
        folder: &Path,
        labels: &[(&str, &str)],
        images: &[(&str, &Path)],
    ) -> anyhow::Result<Self> {
        let programs = node_programs()?;
        let runtime = containerd::start(folder, &programs)?;
        let servers = Servers::start(folder, &programs)?;
        let pause = std::env::current_exe().context("this program has no path")?;
        let pause = pause.ancestors().map(|folder| folder.join("pause"));
        let pause = pause.into_iter().find(|program| program.is_file());
        let pause = pause.context("the program of the pause image is not built")?;
        let all = images.iter().copied().chain([(PAUSE, pause.as_path())]);
        for (name, program) in all {
            image::import(folder, &programs, name, program)
                .with_context(|| format!("failed to make the image {name}"))?;
        }
        servers.wait_until_ready().await?;
        let kubelet = kubelet::start(folder, &programs, labels)?;
        let node = Self {
            kubelet: Mutex::new(kubelet),
            _containerd: runtime,
            servers,
            folder: folder.to_owned(),
            programs,
        };
        kubelet::wait_until_ready(node.client()).await?;
        Ok(node)
    }

    /// How a client of an administrator connects.
    pub fn config(&self) -> Config {
        self.servers.config()
    }

    /// A client of an administrator.
    ///
    /// # Panics
    ///
    /// Outside a runtime.
    pub fn client(&self) -> Client {
        Client::try_from(self.config()).expect("the configuration is complete")
    }

    /// Installs definitions, and returns when they are served.
    ///
    /// # Errors
    ///
    /// When the API server refuses one.
    pub async fn install(&self, definitions: &[CustomResourceDefinition]) -> anyhow::Result<()> {
        install::install(self.client(), definitions).await
    }

    /// Kills the kubelet and starts another one.
    ///
    /// # Errors
    ///
    /// When that does not start.
    ///
    /// # Panics
    ///
    /// Never, unless another caller has.
    pub fn restart_kubelet(&self) -> anyhow::Result<()> {
        let mut kubelet = self.kubelet.lock().expect("nothing panics while it holds this lock");
        kubelet.kill();
        *kubelet = kubelet::start(&self.folder, &self.programs, &[])?;
        Ok(())
    }
}

/// The folder with the programs of the node and of the control plane.
fn node_programs() -> anyhow::Result<PathBuf> {
    let variable = std::env::var_os(roles::PROGRAMS).context("not inside")?;
    Ok(variable.into())
}

/// Finds or builds all programs, and puts links to them into one folder. In words, why they cannot be had.
fn find_programs(folder: &Path) -> anyhow::Result<Result<(), String>> {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    let own = manifest.join("node-programs/build.sh");
    for script in [programs::script(), own] {
        let started = Instant::now();
        let found = match programs::run(&mut std::process::Command::new(&script))? {
            Programs::In(found) => found,
            Programs::Missing(reason) => return Ok(Err(reason)),
        };
        roles::say(&format!("{} after {:.1?}", found.display(), started.elapsed()));
        let entries = std::fs::read_dir(&found);
        for entry in entries.with_context(|| format!("failed to read {}", found.display()))? {
            let program = entry.context("failed to read a folder of programs")?.path();
            let link = folder.join(program.file_name().unwrap_or_default());
            std::os::unix::fs::symlink(&program, &link).context("failed to make a link")?;
        }
    }
    Ok(Ok(()))
}
