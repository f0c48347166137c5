//! The kubelet of a played node: notices the pods that are bound to it and keeps a task for each. What
//! happens to one pod is in `pod_life`.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::api::core::v1::Pod;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client, ResourceExt};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::loopback::Addresses;
use crate::mount_namespace::MountNamespace;
use crate::pod_life;
use crate::proxy::Proxy;

/// How long the kubelet waits before it asks again after a failure. A real one waits longer, and tests
/// wait for it.
pub(crate) const AGAIN: Duration = Duration::from_millis(100);

/// A container that runs, or has run and left something.
pub(crate) struct Running {
    /// The pod's namespace and name.
    pub(crate) pod: (String, String),
    /// The container's name in the pod.
    pub(crate) name: String,
    /// Its first process.
    pub(crate) pid: u32,
    /// Where all its processes are.
    pub(crate) inside: Arc<MountNamespace>,
}

/// What a node is made of.
pub(crate) struct Host {
    /// Its name.
    pub(crate) name: String,
    /// The directory that stands for its root.
    pub(crate) root: PathBuf,
    /// Where its pods have what is theirs.
    pub(crate) pods: PathBuf,
    /// Its mounts.
    pub(crate) inside: MountNamespace,
    /// Its way to the API server.
    pub(crate) proxy: Proxy,
    /// The API server, by that way.
    pub(crate) client: Client,
    /// The certificate of the API server's authority.
    pub(crate) authority: String,
    /// The programs that stand for images.
    pub(crate) images: BTreeMap<String, PathBuf>,
    /// What stands for claims here.
    pub(crate) claims: Mutex<BTreeMap<String, Result<PathBuf, String>>>,
    /// Addresses for pods.
    pub(crate) addresses: Arc<Mutex<Addresses>>,
    /// Whether it is switched on.
    pub(crate) on: AtomicBool,
    /// What runs.
    pub(crate) running: Mutex<Vec<Running>>,
}

impl Host {
    /// What runs, or ran last.
    pub(crate) fn running(&self) -> MutexGuard<'_, Vec<Running>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The processes of a pod.
    pub(crate) fn processes_of(&self, pod: &(String, String)) -> Vec<u32> {
        let running = self.running();
        let mine = running.iter().filter(|running| running.pod == *pod);
        mine.flat_map(|running| running.inside.processes()).collect()
    }

    /// What stands for claims.
    pub(crate) fn claims(&self) -> MutexGuard<'_, BTreeMap<String, Result<PathBuf, String>>> {
        self.claims.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An address for a pod.
    pub(crate) fn address(&self) -> anyhow::Result<Ipv4Addr> {
        self.addresses.lock().unwrap_or_else(PoisonError::into_inner).next()
    }

    /// Where a pod has what is its own, such as its logs.
    pub(crate) fn place_of(&self, namespace: &str, pod: &str) -> PathBuf {
        Path::new(&self.pods).join(format!("{namespace}_{pod}"))
    }
}

/// Runs the pods of a node as long as it is polled. When that ends, their tasks end at once, as with a
/// kubelet that is killed.
pub(crate) async fn run(host: Arc<Host>) {
    let mine = watcher::Config::default().fields(&format!("spec.nodeName={}", host.name));
    let all: Api<Pod> = Api::all(host.client.clone());
    let mut events = watcher(all, mine).boxed();
    let mut lives = JoinSet::new();
    let mut known: HashMap<String, watch::Sender<Pod>> = HashMap::new();
    let mut listed = HashSet::new();
    while let Some(event) = events.next().await {
        let pod = match event {
            Ok(Event::Init) => {
                listed.clear();
                continue;
            }
            Ok(Event::InitDone) => {
                // What is not on the list any more is gone; its task sees that nobody speaks to it.
                known.retain(|uid, _| listed.contains(uid));
                continue;
            }
            Ok(Event::Delete(pod)) => {
                known.remove(&pod.uid().unwrap_or_default());
                continue;
            }
            Ok(Event::InitApply(pod)) => {
                listed.insert(pod.uid().unwrap_or_default());
                pod
            }
            Ok(Event::Apply(pod)) => pod,
            Err(_) => {
                tokio::time::sleep(AGAIN).await;
                continue;
            }
        };
        let uid = pod.uid().unwrap_or_default();
        if let Some(life) = known.get(&uid) {
            life.send_replace(pod);
            continue;
        }
        let (news, received) = watch::channel(pod);
        known.insert(uid, news);
        lives.spawn(pod_life::live(Arc::clone(&host), received));
        while lives.try_join_next().is_some() {}
    }
}
