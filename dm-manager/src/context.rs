//! What every controller is given: the client, the versions that the cluster speaks, where this program
//! is, and where to say what happens. It decides nothing.

use anyhow::Context as _;
use kube::{Client, discovery};
use longshore::api::{
    DataMovementShard, Defined, LustreFileSystem, NnfDataMovement, NnfDataMovementManager,
    NnfDataMovementProfile, NnfNodeStorage, NnfStorage, Version,
};

use crate::events::Events;
use crate::metrics::Metrics;

/// What every controller is given. A clone is the same.
#[derive(Clone)]
pub(crate) struct Context {
    /// The API server, without a limit on the rate of requests. Nothing is written through it while this
    /// replica does not lead.
    pub(crate) client: Client,
    /// The versions of the kinds on this cluster.
    pub(crate) versions: Versions,
    /// The namespace of the manager and of the workers.
    pub(crate) namespace: String,
    /// The label, `KEY=VALUE`, of the nodes that have workers.
    pub(crate) node_selector: String,
    /// Kubernetes Events.
    pub(crate) events: Events,
    /// What `/metrics` shows.
    pub(crate) metrics: Metrics,
    /// When work on a node that has gone is given up.
    pub(crate) patience: Patience,
}

/// How long is waited for what may never come.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Patience {
    /// For a worker that is not heard of any more, before its movement is failed or its deletion let through.
    pub(crate) lost_worker: std::time::Duration,
}

/// The version of each kind that is spoken with this cluster. Kinds of programs that a cluster need not
/// have are absent when it has them not.
#[derive(Clone, Debug)]
pub(crate) struct Versions {
    pub(crate) movement: Version,
    pub(crate) shard: Version,
    pub(crate) profile: Version,
    pub(crate) manager: Option<Version>,
    pub(crate) storage: Option<Version>,
    pub(crate) node_storage: Option<Version>,
    pub(crate) lustre_file_system: Option<Version>,
}

impl Versions {
    /// Asks the API server.
    ///
    /// # Errors
    ///
    /// When it does not answer, or lacks a kind that nothing works without.
    pub(crate) async fn discover(client: &Client) -> anyhow::Result<Self> {
        let shard = required::<DataMovementShard>(client)
            .await
            .context("install it with `dm-manager crds | kubectl apply --server-side -f -`")?;
        Ok(Self {
            movement: required::<NnfDataMovement>(client).await?,
            shard,
            profile: required::<NnfDataMovementProfile>(client).await?,
            manager: version::<NnfDataMovementManager>(client).await?,
            storage: version::<NnfStorage>(client).await?,
            node_storage: version::<NnfNodeStorage>(client).await?,
            lustre_file_system: version::<LustreFileSystem>(client).await?,
        })
    }
}

async fn required<K: Defined>(client: &Client) -> anyhow::Result<Version> {
    let found = version::<K>(client).await?;
    let definition = K::DEFINITION;
    found.with_context(|| format!("the cluster has no {} ({})", definition.kind, definition.group))
}

/// The version that the API server prefers, which is the newest and the stored one: every other is
/// converted on its way, by a webhook.
async fn version<K: Defined>(client: &Client) -> anyhow::Result<Option<Version>> {
    let definition = K::DEFINITION;
    let group = match discovery::group(client, definition.group).await {
        Ok(group) => group,
        Err(kube::Error::Discovery(_)) => return Ok(None),
        Err(error) => {
            return Err(error).with_context(|| format!("failed to ask for {}", definition.group));
        }
    };
    let preferred = group.recommended_kind(definition.kind);
    let any = || {
        let mut served = group.resources_by_stability().into_iter();
        served.find(|(resource, _)| resource.kind == definition.kind)
    };
    Ok(preferred.or_else(any).map(|(resource, _)| Version::new(resource.version)))
}
