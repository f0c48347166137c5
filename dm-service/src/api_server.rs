//! How a program speaks to the API server: nothing is waited for without a limit, because a connection
//! may be dead without anybody saying so, as when something between the two has forgotten it.

use std::time::Duration;

use anyhow::Context;
use kube::Config;
use kube::runtime::watcher;

/// The API server ends a watch after so many seconds, and one that is silent for 5 s longer is begun
/// anew: so old may be at most what a watch shows.
const WATCH_SECONDS: u32 = 25;

/// Nothing comes on a connection for so long only when it is dead.
const SILENCE: Duration = Duration::from_secs(40);

/// A connection that is not there within this time comes from another attempt, or never.
const CONNECTS_WITHIN: Duration = Duration::from_secs(10);

/// The API server as kubectl finds it (`$KUBECONFIG`, `~/.kube/config`) or, in a pod, by the pod's service
/// account.
///
/// # Errors
///
/// When none is configured.
pub async fn api_server() -> anyhow::Result<Config> {
    let mut config = Config::infer().await.context("failed to find the API server")?;
    config.connect_timeout = Some(CONNECTS_WITHIN);
    config.read_timeout = Some(SILENCE);
    // What counts is how long an answer takes, not how long nobody asked.
    config.reset_reader_on_write = true;
    Ok(config)
}

/// How watches are set up.
pub fn watching() -> watcher::Config {
    watcher::Config::default().timeout(WATCH_SECONDS)
}

const _: () = assert!(WATCH_SECONDS as u64 + 5 < SILENCE.as_secs(), "a watch may be silent");
