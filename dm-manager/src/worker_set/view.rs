//! What the controller of the workers knows: copies of objects, kept up to date by watches. It asks
//! for nothing twice and writes nothing.

use std::collections::BTreeMap;
use std::hash::Hash;
use std::sync::Arc;
use std::time::Duration;

use futures::{FutureExt, StreamExt, future::BoxFuture};
use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{ConfigMap, Event, PersistentVolume, PersistentVolumeClaim, Pod};
use kube::runtime::reflector::{self, Store};
use kube::runtime::utils::Backoff;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Resource, ResourceExt};
use longshore::api::data_movement_shard::MOUNTS_ANNOTATION;
use longshore::api::{LustreFileSystem, NnfDataMovementManager, data_movement_manager, mount_list};
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::sync::Notify;

use super::daemon_set::{self, WORKER_LABEL};
use super::live::Reports;
use crate::context::Context;
use crate::lustre_file_system::volumes::MADE_FOR;

/// The copies.
pub(crate) struct View {
    namespace: String,
    manager: Store<NnfDataMovementManager>,
    file_systems: Option<Store<LustreFileSystem>>,
    daemon_sets: Store<DaemonSet>,
    pods: Store<Pod>,
    claims: Store<PersistentVolumeClaim>,
    warnings: Store<Event>,
    leases: Store<Lease>,
    mount_lists: Store<ConfigMap>,
    made: Option<(Store<PersistentVolume>, Store<PersistentVolumeClaim>)>,
}

/// What keeps the copies up to date, as long as it is polled.
pub(crate) type Watches = Vec<BoxFuture<'static, ()>>;

impl View {
    /// Starts to watch; `wake` is notified of every change. None where there is no manager object to
    /// watch for.
    pub(crate) fn new(
        context: &Context,
        makes_volumes: bool,
        wake: &Arc<Notify>,
    ) -> Option<(Self, Watches)> {
        let mut watches = Watches::new();
        let client = || context.client.clone();
        let namespace = context.namespace.as_str();
        let named = |name: &str| dm_service::watching().fields(&format!("metadata.name={name}"));
        let version = context.versions.manager.clone()?;
        let manager = Api::namespaced_with(client(), namespace, &version);
        let config = named(data_movement_manager::NAME);
        let manager = watch(manager, config, version, wake, &mut watches);
        let file_systems = context.versions.lustre_file_system.clone().map(|version| {
            let all = Api::all_with(client(), &version);
            watch(all, dm_service::watching(), version, wake, &mut watches)
        });
        let workers = dm_service::watching().labels(&format!("{WORKER_LABEL}=true"));
        let warnings = dm_service::watching().fields("type=Warning,involvedObject.kind=Pod");
        let made = dm_service::watching().labels(MADE_FOR[0]);
        let made = makes_volumes.then(|| {
            let volumes = watch(Api::all(client()), made.clone(), (), wake, &mut watches);
            (volumes, watch(Api::all(client()), made, (), wake, &mut watches))
        });
        let (sets, all) = (named(daemon_set::NAME), dm_service::watching());
        let view = Self {
            namespace: namespace.to_owned(),
            manager,
            file_systems,
            daemon_sets: watch(Api::namespaced(client(), namespace), sets, (), wake, &mut watches),
            pods: watch(Api::namespaced(client(), namespace), workers, (), wake, &mut watches),
            claims: watch(
                Api::namespaced(client(), namespace),
                all.clone(),
                (),
                wake,
                &mut watches,
            ),
            warnings: watch(Api::namespaced(client(), namespace), warnings, (), wake, &mut watches),
            leases: watch_leases(Api::namespaced(client(), namespace), wake, &mut watches),
            mount_lists: watch(
                Api::namespaced(client(), namespace),
                named(mount_list::NAME),
                (),
                wake,
                &mut watches,
            ),
            made,
        };
        Some((view, watches))
    }

    /// Waits until everything was listed once.
    pub(crate) async fn complete(&self) {
        // A store that is dropped has nobody left to wait for it.
        drop(self.manager.wait_until_ready().await);
        if let Some(store) = &self.file_systems {
            drop(store.wait_until_ready().await);
        }
        drop(self.daemon_sets.wait_until_ready().await);
        drop(self.pods.wait_until_ready().await);
        drop(self.claims.wait_until_ready().await);
        drop(self.warnings.wait_until_ready().await);
        drop(self.leases.wait_until_ready().await);
        drop(self.mount_lists.wait_until_ready().await);
        if let Some((volumes, claims)) = &self.made {
            drop(volumes.wait_until_ready().await);
            drop(claims.wait_until_ready().await);
        }
    }

    /// The manager object, unless it is being deleted.
    pub(crate) fn manager(&self) -> Option<Arc<NnfDataMovementManager>> {
        let all = self.manager.state();
        all.into_iter().find(|one| one.metadata.deletion_timestamp.is_none())
    }

    /// All filesystems.
    pub(crate) fn file_systems(&self) -> Vec<LustreFileSystem> {
        let all = self.file_systems.as_ref().map(Store::state).unwrap_or_default();
        all.iter().map(|one| one.as_ref().clone()).collect()
    }

    /// The workers' DaemonSet.
    pub(crate) fn daemon_set(&self) -> Option<Arc<DaemonSet>> {
        self.daemon_sets.state().pop()
    }

    /// The pods of workers.
    pub(crate) fn pods(&self) -> Vec<Arc<Pod>> {
        self.pods.state()
    }

    /// The volumes and claims that were made here, when that is asked for.
    #[expect(clippy::type_complexity, reason = "two lists")]
    pub(crate) fn volumes(
        &self,
    ) -> Option<(Vec<Arc<PersistentVolume>>, Vec<Arc<PersistentVolumeClaim>>)> {
        self.made.as_ref().map(|(volumes, claims)| (volumes.state(), claims.state()))
    }

    /// Whether a claim of the workers can be mounted.
    pub(crate) fn is_bound(&self, claim: &str) -> bool {
        let key = reflector::ObjectRef::new(claim).within(&self.namespace);
        self.claims.get(&key).is_some_and(|claim| {
            let phase = claim.status.as_ref().and_then(|status| status.phase.as_deref());
            claim.metadata.deletion_timestamp.is_none() && phase == Some("Bound")
        })
    }

    /// Whether a claim of the workers is being deleted.
    pub(crate) fn is_going(&self, claim: &str) -> bool {
        let key = reflector::ObjectRef::new(claim).within(&self.namespace);
        self.claims.get(&key).is_some_and(|claim| claim.metadata.deletion_timestamp.is_some())
    }

    /// The last warnings about volumes of pods that run nothing yet, by the pod's uid.
    pub(crate) fn mount_warnings(&self) -> BTreeMap<String, String> {
        let mut found = BTreeMap::new();
        let mut all = self.warnings.state();
        all.sort_by_cached_key(|event| event.last_timestamp.as_ref().map(|time| time.0));
        for event in all {
            let reason = event.reason.as_deref().unwrap_or_default();
            if let ("FailedMount" | "FailedAttachVolume", Some(uid)) =
                (reason, &event.involved_object.uid)
            {
                found.insert(uid.clone(), event.message.clone().unwrap_or_default());
            }
        }
        found
    }

    /// The list of what workers mount in place.
    pub(crate) fn mount_list(&self) -> Option<Arc<ConfigMap>> {
        self.mount_lists.state().pop()
    }

    /// What workers say of their mounts.
    pub(crate) fn reports(&self) -> Reports<Arc<Lease>> {
        Reports::new(self.leases.state(), self.mount_list().as_deref())
    }

    /// Whether the worker of a node says that there is no filesystem at a mount point.
    pub(crate) fn says_unmounted(&self, node: &str, mount_root: &str) -> bool {
        let name = longshore::api::data_movement_shard::worker_lease(node);
        let lease = self.leases.get(&reflector::ObjectRef::new(&name).within(&self.namespace));
        let lease = lease.as_ref().map(|lease| lease.annotations());
        let mounts = lease.and_then(|all| all.get(MOUNTS_ANNOTATION));
        let mounts = mounts.and_then(|text| serde_json::from_str::<Value>(text).ok());
        mounts.is_some_and(|mounts| mounts[mount_root]["mounted"] == Value::Bool(false))
    }
}

/// Watches objects of a kind.
fn watch<K>(
    api: Api<K>,
    config: watcher::Config,
    kind: K::DynamicType,
    wake: &Arc<Notify>,
    watches: &mut Watches,
) -> Store<K>
where
    K: Resource + Clone + DeserializeOwned + std::fmt::Debug + Send + Sync + 'static,
    K::DynamicType: Eq + Hash + Clone + Send + Sync,
{
    watch_what_matters(api, config, kind, wake, watches, |_| true)
}

/// Watches the Leases of workers. They are renewed all the time; what matters is what they say of mounts.
fn watch_leases(api: Api<Lease>, wake: &Arc<Notify>, watches: &mut Watches) -> Store<Lease> {
    let mut said = BTreeMap::new();
    let matters = move |event: &watcher::Event<Lease>| {
        let (watcher::Event::Apply(lease) | watcher::Event::InitApply(lease)) = event else {
            return true;
        };
        let annotations = [MOUNTS_ANNOTATION, mount_list::SEEN_ANNOTATION]
            .map(|name| lease.annotations().get(name).cloned());
        let holder = lease.spec.as_ref().and_then(|spec| spec.holder_identity.clone());
        let says = (annotations, holder);
        said.insert(lease.name_any(), says.clone()) != Some(says)
    };
    watch_what_matters(api, dm_service::watching(), (), wake, watches, matters)
}

/// Watches objects of a kind, and wakes when an event matters.
fn watch_what_matters<K>(
    api: Api<K>,
    config: watcher::Config,
    kind: K::DynamicType,
    wake: &Arc<Notify>,
    watches: &mut Watches,
    mut matters: impl FnMut(&watcher::Event<K>) -> bool + Send + 'static,
) -> Store<K>
where
    K: Resource + Clone + DeserializeOwned + std::fmt::Debug + Send + Sync + 'static,
    K::DynamicType: Eq + Hash + Clone + Send + Sync,
{
    let writer = reflector::store::Writer::<K>::new(kind);
    let store = writer.as_reader();
    let wake = Arc::clone(wake);
    let events = watcher(api, config).backoff(Pause::default());
    // Nobody here wants to know who wrote what, and it is the larger part of an object.
    let events = events.modify(|object| object.meta_mut().managed_fields = None).reflect(writer);
    let watch = events.for_each(move |event| {
        let news = match &event {
            Ok(event) => matters(event),
            Err(error) => {
                tracing::warn!(%error, "a watch ended and is started again");
                false
            }
        };
        if news {
            wake.notify_one();
        }
        std::future::ready(())
    });
    watches.push(watch.boxed());
    store
}

/// The pauses between attempts to watch: they stay short, so that what happened while the API server was
/// away is known soon after.
#[derive(Default)]
struct Pause(u32);

impl Iterator for Pause {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        self.0 = (self.0 + 1).min(5);
        Some(Duration::from_millis(100) * 2_u32.pow(self.0 - 1))
    }
}

impl Backoff for Pause {
    fn reset(&mut self) {
        self.0 = 0;
    }
}
