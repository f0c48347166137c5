//! Filesystems that this worker mounts and unmounts itself, in the mount namespace that it shares with its
//! movers: what is to be mounted is on a list of the manager, a ConfigMap that is watched here. Which
//! filesystems may be on the list is not decided here.
//!
//! ```text
//! list ─► board ─► a task for each mount point ─► a child process that mounts or unmounts
//!           └────► which copies may start, what the Lease says
//! ```

mod board;
mod child;
pub(crate) mod hands;
mod holders;
mod point;

use std::collections::BTreeMap;
use std::path::PathBuf;

use futures::StreamExt;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{Event, watcher};
use kube::{Api, Client};
use longshore::api::mount_list::{KEY, MountList};
use tokio::sync::watch;

pub(crate) use board::{Board, State, Stay};
pub(crate) use point::Manner;

use crate::agent::Pauses;
use crate::lease::Held;

/// Where the list is.
pub(crate) struct Source {
    pub(crate) client: Client,
    pub(crate) namespace: String,
    /// The name of the ConfigMap.
    pub(crate) name: String,
}

/// Keeps mounted what is on the list, for ever.
pub(crate) async fn keep(
    source: Source,
    board: Board,
    manner: Manner,
    mut held: watch::Receiver<Held>,
) {
    // Who has no Lease cannot say what it has mounted, and must have nothing mounted.
    if held.wait_for(Option::is_some).await.is_err() {
        return;
    }
    let api: Api<ConfigMap> = Api::namespaced(source.client, &source.namespace);
    let config = dm_service::watching().fields(&format!("metadata.name={}", source.name));
    let mut events = watcher(api, config).backoff(Pauses::default()).boxed();
    while let Some(event) = events.next().await {
        // A list that was deleted says nothing; it comes back.
        let map = match event {
            Ok(Event::Apply(map) | Event::InitApply(map)) => map,
            Ok(_) => continue,
            Err(error) => {
                tracing::warn!(%error, "the watch of the list of mounts failed");
                continue;
            }
        };
        match read(&map) {
            Ok(list) => {
                let version = map.metadata.resource_version.unwrap_or_default();
                tracing::info!(version, ?list, "what is to be mounted");
                for point in board.set(version, list) {
                    tokio::spawn(point::live(board.clone(), point, manner.clone()));
                }
            }
            Err(error) => {
                tracing::error!(error = format!("{error:#}"), "the list of mounts is unreadable")
            }
        }
    }
}

fn read(map: &ConfigMap) -> anyhow::Result<BTreeMap<PathBuf, String>> {
    let text = map.data.as_ref().and_then(|data| data.get(KEY));
    let text = text.ok_or_else(|| anyhow::anyhow!("it has no {KEY}"))?;
    let list: MountList = serde_json::from_str(text)?;
    Ok(list.0.into_iter().map(|(point, mount)| (point.into(), mount.source)).collect())
}
