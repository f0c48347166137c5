//! The process of a program: its runtime, the signals that end it, and its name.

use anyhow::Context;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Runs a program to its end.
///
/// # Errors
///
/// Those of the program, or when there are no threads for it.
pub fn block_on(program: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    // Two threads: the work is to wait for others, and memory counts.
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.context("failed to start the runtime")?.block_on(program)
}

/// The signals that end a program in order. Those that come before they are waited for count too.
#[derive(Debug)]
pub struct Ends {
    terminated: Signal,
    interrupted: Signal,
}

impl Ends {
    /// Listens from now on.
    ///
    /// # Errors
    ///
    /// When the system refuses.
    pub fn listen() -> anyhow::Result<Self> {
        let listen =
            |kind, name| signal(kind).with_context(|| format!("failed to listen for {name}"));
        Ok(Self {
            terminated: listen(SignalKind::terminate(), "SIGTERM")?,
            interrupted: listen(SignalKind::interrupt(), "SIGINT")?,
        })
    }

    /// Returns when the program is to end.
    pub async fn asked(&mut self) {
        tokio::select! {
            _ = self.terminated.recv() => tracing::info!("ending on SIGTERM"),
            _ = self.interrupted.recv() => tracing::info!("ending on SIGINT"),
        }
    }
}

/// The name of this machine, in a pod that of the pod; `otherwise` where it has none.
pub fn host_name(otherwise: &str) -> String {
    let name = nix::unistd::gethostname().map(|name| name.to_string_lossy().into_owned());
    name.unwrap_or_else(|_| otherwise.to_owned())
}
