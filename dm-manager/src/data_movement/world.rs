//! What the controller knows of the cluster without asking: movements, shards, and the objects that
//! movements name. Only where something that is named is not there yet is the API server asked, for a
//! watch may be late. It writes nothing.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use dm_service::Turns;
use futures::future::join_all;
use futures::{Stream, StreamExt};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Node;
use kube::core::PartialObjectMeta;
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{self, watcher};
use kube::{Api, Resource};
use longshore::api::data_movement::NnfDataMovement;
use longshore::api::data_movement_shard::worker_lease;
use longshore::api::{
    DataMovementShard, Defined, NnfDataMovementProfile, NnfNodeStorage, NnfStorage, Version,
};

use tokio::sync::watch;

use super::cache::{Cache, drain};
use super::heard::Heard;
use super::placed::Placed;
use super::plan::{Facts, Site};
use super::progress::Progress;
use super::reference::{self, Lookup, Place};
use crate::context::Context;

/// What fills the caches as long as it is polled.
pub(crate) struct Sources {
    /// The changes of what movements are looked at for.
    pub(crate) movements: Changes<NnfDataMovement>,
    pub(crate) shards: Changes<DataMovementShard>,
    pub(crate) nodes: Changes<PartialObjectMeta<Node>>,
    pub(crate) leases: Changes<Lease>,
    /// The rest.
    pub(crate) others: Watching,
}

type Watching = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Changes of the objects of one kind.
type Changes<K> = Pin<Box<dyn Stream<Item = watcher::Result<K>> + Send>>;

/// All that is known.
pub(crate) struct World {
    context: Context,
    pub(crate) movements: Cache<NnfDataMovement>,
    pub(crate) shards: Cache<DataMovementShard>,
    profiles: Cache<NnfDataMovementProfile>,
    storages: Option<Cache<NnfStorage>>,
    node_storages: Option<Cache<NnfNodeStorage>>,
    leases: Cache<Lease>,
    /// What the Leases say.
    pub(crate) progress: Progress,
    /// Where sources go.
    pub(crate) placed: Placed,
    /// Whose request is next.
    pub(crate) turns: Turns,
    nodes: Cache<PartialObjectMeta<Node>>,
    heard: Heard,
    /// Whether everything that is there has been seen once.
    complete: watch::Sender<bool>,
}

impl World {
    /// The caches, and what fills them.
    pub(crate) fn new(context: &Context) -> (Arc<Self>, Sources) {
        let versions = &context.versions;
        let (movements, movement_changes) = everywhere(context, &versions.movement, |_| {});
        let (shards, shard_changes) = everywhere(context, &versions.shard, |_| {});
        let (profiles, profile_changes) = everywhere(context, &versions.profile, |_| {});
        let storages = versions.storage.as_ref().map(|version| {
            // Of a storage on thousands of nodes only its kind matters.
            everywhere(context, version, |storage: &mut NnfStorage| {
                storage.spec.allocation_sets.clear();
                storage.status = None;
            })
        });
        let node_storages = versions.node_storage.as_ref().map(|version| {
            everywhere(context, version, |storage: &mut NnfNodeStorage| storage.status = None)
        });
        let leases = Api::<Lease>::namespaced(context.client.clone(), &context.namespace);
        let leases = watcher(leases, dm_service::watching()).modify(strip);
        let (leases, lease_changes) = Cache::new((), leases);
        let selected = dm_service::watching().labels(&context.node_selector);
        let nodes = Api::<PartialObjectMeta<Node>>::all(context.client.clone());
        let nodes = watcher(nodes, selected);
        let (nodes, node_changes) = Cache::new((), nodes.modify(strip));

        let mut watches: Vec<Watching> = vec![Box::pin(drain(profile_changes))];
        let storages = storages.map(|(cache, changes)| {
            watches.push(Box::pin(drain(changes)));
            cache
        });
        let node_storages = node_storages.map(|(cache, changes)| {
            watches.push(Box::pin(drain(changes)));
            cache
        });
        let world = Self {
            context: context.clone(),
            movements,
            shards,
            profiles,
            storages,
            node_storages,
            leases,
            progress: Progress::default(),
            placed: Placed::default(),
            turns: Turns::default(),
            nodes,
            heard: Heard::default(),
            complete: watch::Sender::new(false),
        };
        let sources = Sources {
            movements: movement_changes,
            shards: shard_changes,
            nodes: node_changes.boxed(),
            leases: lease_changes.boxed(),
            others: Box::pin(async move { drop(join_all(watches).await) }),
        };
        (Arc::new(world), sources)
    }

    /// Returns when everything that is there has been seen once, and lets those go on that wait for that.
    /// It has to be in the task that fills the caches, and once: a store wakes only one of the tasks that
    /// wait for it.
    pub(crate) async fn fill(&self) {
        self.movements.ready().await;
        self.shards.ready().await;
        self.profiles.ready().await;
        self.leases.ready().await;
        self.nodes.ready().await;
        if let Some(storages) = &self.storages {
            storages.ready().await;
        }
        if let Some(storages) = &self.node_storages {
            storages.ready().await;
        }
        self.complete.send_replace(true);
    }

    /// Returns when everything that is there has been seen once.
    pub(crate) async fn ready(&self) {
        // The sender is dropped with all that could ask.
        drop(self.complete.subscribe().wait_for(|complete| *complete).await);
    }

    /// Where the movements of a namespace are done.
    pub(crate) fn site(&self, namespace: &str) -> Site {
        if namespace == self.context.namespace {
            return Site::Anywhere;
        }
        match self.nodes.get("", namespace) {
            Some(_) => Site::Node(namespace.to_owned()),
            None => Site::Foreign,
        }
    }

    /// The shard of a movement, as the API server has it.
    ///
    /// # Errors
    ///
    /// When it does not say.
    pub(crate) async fn ask_for_shard(
        &self,
        namespace: &str,
        name: &str,
    ) -> kube::Result<Option<Arc<DataMovementShard>>> {
        let version = &self.context.versions.shard;
        let api = Api::namespaced_with(self.context.client.clone(), namespace, version);
        Ok(api.get_opt(name).await?.map(Arc::new))
    }

    /// For how long the Lease of the worker that has claimed a shard, or is the only one that can, has been
    /// over; none while it holds. A watch may be late, so the API server is asked before a Lease is taken
    /// to be over.
    ///
    /// # Errors
    ///
    /// When it does not say.
    pub(crate) async fn silent(&self, shard: &DataMovementShard) -> kube::Result<Option<Duration>> {
        let status = shard.status.as_ref();
        if status.is_some_and(|status| status.outcome.is_some()) {
            return Ok(None);
        }
        let claimed = status.and_then(|status| status.lease.clone());
        let Some(lease) = claimed.or_else(|| shard.spec.node.as_deref().map(worker_lease)) else {
            return Ok(None);
        };
        let name = lease.rsplit('/').next().unwrap_or(&lease);
        let known = self.leases.get(&self.context.namespace, name);
        if self.heard.over(name, known.as_deref(), Instant::now()).is_none() {
            return Ok(None);
        }
        let leases: Api<Lease> =
            Api::namespaced(self.context.client.clone(), &self.context.namespace);
        let asked = leases.get_opt(name).await?;
        Ok(self.heard.over(name, asked.as_ref(), Instant::now()))
    }

    /// What is known of the objects that a movement names. With `certain`, what is not known is asked
    /// for, so that what is said to be missing is.
    ///
    /// # Errors
    ///
    /// When the API server was asked and did not say.
    pub(crate) async fn facts(
        &self,
        movement: &NnfDataMovement,
        certain: bool,
    ) -> kube::Result<Facts> {
        reference::facts(movement, &Known { world: self, certain }).await
    }

    async fn find<K>(
        &self,
        cache: &Cache<K>,
        version: &Version,
        place: &Place,
        certain: bool,
    ) -> kube::Result<Option<Arc<K>>>
    where
        K: Defined + Resource<Scope = kube::core::DynamicResourceScope> + Clone + std::fmt::Debug,
        K: serde::de::DeserializeOwned + Send + Sync + 'static,
    {
        let known = cache.get(&place.namespace, &place.name);
        if known.is_some() || !certain || !place.is_complete() {
            return Ok(known);
        }
        let client = self.context.client.clone();
        let api: Api<K> = Api::namespaced_with(client, &place.namespace, version);
        Ok(api.get_opt(&place.name).await?.map(Arc::new))
    }
}

/// Looks into the caches, and asks for what is not there if that has to be certain.
struct Known<'a> {
    world: &'a World,
    certain: bool,
}

impl Lookup for Known<'_> {
    async fn profile(&self, place: &Place) -> kube::Result<Option<Arc<NnfDataMovementProfile>>> {
        let version = &self.world.context.versions.profile;
        self.world.find(&self.world.profiles, version, place, self.certain).await
    }

    async fn storage(&self, place: &Place) -> kube::Result<Option<Arc<NnfStorage>>> {
        match (&self.world.storages, &self.world.context.versions.storage) {
            (Some(cache), Some(version)) => {
                self.world.find(cache, version, place, self.certain).await
            }
            _ => Ok(None),
        }
    }

    async fn node_storage(&self, place: &Place) -> kube::Result<Option<Arc<NnfNodeStorage>>> {
        match (&self.world.node_storages, &self.world.context.versions.node_storage) {
            (Some(cache), Some(version)) => {
                self.world.find(cache, version, place, self.certain).await
            }
            _ => Ok(None),
        }
    }
}

/// The cache of a kind in all namespaces, without what takes memory and means nothing here.
fn everywhere<K>(
    context: &Context,
    version: &Version,
    trim: impl Fn(&mut K) + Send + Sync + Clone + 'static,
) -> (Cache<K>, Changes<K>)
where
    K: Resource<DynamicType = Version> + Clone + std::fmt::Debug + serde::de::DeserializeOwned,
    K: Send + Sync + 'static,
{
    let api: Api<K> = Api::all_with(context.client.clone(), version);
    let events = watcher(api, dm_service::watching()).modify(move |object| {
        strip(object);
        trim(object);
    });
    let (cache, changes) = Cache::new(version.clone(), events);
    (cache, changes.boxed())
}

/// Takes away who wrote which field, which is half of what an object takes.
fn strip<K: Resource>(object: &mut K) {
    object.meta_mut().managed_fields = None;
}
