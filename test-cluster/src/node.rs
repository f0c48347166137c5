//! One node, as a test handles it: its directory, its mounts, its processes, and what can go wrong with
//! it. How it runs pods is in `kubelet`.

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context;
use kube::Client;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::signal::Signal;
use tokio::runtime::Handle;
use tokio::task::JoinHandle;

use crate::ControlPlane;
use crate::kubelet::{self, Host};
use crate::loopback::Addresses;
use crate::mount_namespace::{MountNamespace, NONE};
use crate::pod_life::signal;
use crate::proxy::{Link, Proxy};

/// A played node.
pub struct Node {
    host: Arc<Host>,
    runtime: Handle,
    kubelet: Mutex<Option<JoinHandle<()>>>,
}

impl Node {
    /// Makes one that is switched off.
    pub(crate) async fn start(
        plane: &ControlPlane,
        name: &str,
        directory: &Path,
        images: BTreeMap<String, PathBuf>,
        claims: BTreeMap<String, Result<PathBuf, String>>,
        addresses: Arc<Mutex<Addresses>>,
        runtime: Handle,
    ) -> anyhow::Result<Self> {
        let root = directory.join(name).join("root");
        let pods = directory.join(name).join("pods");
        for folder in [&root, &pods] {
            fs::create_dir_all(folder).context("failed to make a directory for a node")?;
        }
        let inside = MountNamespace::copy_of_callers(false).context("no mount namespace")?;
        let shared = root.clone();
        // What is mounted below the node's root is to be seen by its pods.
        let made = inside.run(move || {
            mount(Some(&shared), &shared, NONE, MsFlags::MS_BIND, NONE)?;
            mount(NONE, &shared, NONE, MsFlags::MS_SHARED, NONE)
        });
        made.context("failed to mount the root of a node")?;

        let mut config = plane.config();
        let target: SocketAddr = plane
            .address()
            .trim_start_matches("https://")
            .parse()
            .context("the API server has no address")?;
        let authority = plane.authority().to_owned();
        let start = async move {
            let proxy = Proxy::start(target).await?;
            config.cluster_url = format!("https://{}", proxy.address).parse()?;
            anyhow::Ok((proxy, Client::try_from(config)?))
        };
        // Both belong to the runtime that they are made on.
        let (proxy, client) = runtime.spawn(start).await??;
        let name = name.to_owned();
        let (claims, running, on) = (Mutex::new(claims), Mutex::default(), AtomicBool::new(false));
        #[rustfmt::skip]
        let host = Host {
            name, root, pods, inside, proxy, client, authority, images, claims, addresses, on, running,
        };
        Ok(Self { host: Arc::new(host), runtime, kubelet: Mutex::default() })
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.host.name
    }

    /// Where a directory or file of the node lies on this machine. What is mounted there is seen by
    /// [`Node::run`] and by pods only.
    pub fn path(&self, of_node: &str) -> PathBuf {
        self.host.root.join(of_node.trim_start_matches('/'))
    }

    /// Does something where the node's mounts are seen, such as reading what a pod wrote to one.
    pub fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        self.host.inside.run(work)
    }

    /// Mounts a directory of this machine on the node, as nnf-sos mounts the storage of a job. Pods see
    /// it when their volume follows the node's mounts.
    ///
    /// # Errors
    ///
    /// When it cannot be mounted.
    pub fn mount(&self, source: impl Into<PathBuf>, at: &str) -> anyhow::Result<()> {
        let (source, target) = (source.into(), self.path(at));
        fs::create_dir_all(&target).context("failed to make a mount point")?;
        let bound = self.run(move || mount(Some(&source), &target, NONE, MsFlags::MS_BIND, NONE));
        bound.with_context(|| format!("failed to mount {at}"))
    }

    /// Unmounts what was mounted there.
    ///
    /// # Errors
    ///
    /// When nothing is mounted, or it is in use.
    pub fn unmount(&self, at: &str) -> anyhow::Result<()> {
        let target = self.path(at);
        let gone = self.run(move || umount2(&target, MntFlags::empty()));
        gone.with_context(|| format!("failed to unmount {at}"))
    }

    /// Says what stands for a claim on this node, from now on.
    pub fn provide(&self, claim: &str, directory: impl Into<PathBuf>) {
        self.host.claims().insert(claim.to_owned(), Ok(directory.into()));
    }

    /// Has the node fail to mount the volume of a claim, with a reason, from now on.
    pub fn refuse(&self, claim: &str, reason: &str) {
        self.host.claims().insert(claim.to_owned(), Err(reason.to_owned()));
    }

    /// Switches the node on: its kubelet takes up the pods that are bound to it.
    pub fn power_on(&self) {
        let mut kubelet = self.kubelet.lock().unwrap_or_else(PoisonError::into_inner);
        if kubelet.is_none() {
            self.host.on.store(true, Ordering::SeqCst);
            *kubelet = Some(self.runtime.spawn(kubelet::run(Arc::clone(&self.host))));
        }
    }

    /// Switches the node off without notice: everything on it ends, nobody is told, and its objects stay
    /// as they are.
    pub fn power_off(&self) {
        let kubelet = self.kubelet.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(kubelet) = &kubelet {
            kubelet.abort();
        }
        // The tasks of pods end with the kubelet's, a moment later; what they start until then they
        // kill themselves.
        self.host.on.store(false, Ordering::SeqCst);
        while kubelet.as_ref().is_some_and(|kubelet| !kubelet.is_finished())
            || !self.processes().is_empty()
        {
            signal(self.processes(), Signal::SIGKILL);
            std::thread::sleep(Duration::from_millis(2));
        }
        self.host.running().clear();
    }

    /// Stops all that runs in pods, as a machine that hangs: nothing ends, nothing goes on.
    pub fn freeze(&self) {
        signal(self.processes(), Signal::SIGSTOP);
    }

    /// Lets it go on.
    pub fn thaw(&self) {
        signal(self.processes(), Signal::SIGCONT);
    }

    /// Sets how its pods and its kubelet reach the API server.
    pub fn link(&self, link: Link) {
        self.host.proxy.set(link);
    }

    /// All processes of its pods.
    pub fn processes(&self) -> Vec<u32> {
        self.host.running().iter().flat_map(|running| running.inside.processes()).collect()
    }

    /// The first process of a pod's container, if it runs or has run.
    pub fn process_of(&self, namespace: &str, pod: &str, container: &str) -> Option<u32> {
        let running = self.host.running();
        let mut all = running.iter();
        let wanted = |one: &&kubelet::Running| {
            (one.pod.0.as_str(), one.pod.1.as_str(), one.name.as_str())
                == (namespace, pod, container)
        };
        all.find(wanted).map(|one| one.pid)
    }

    /// What a container of a pod has written to its output so far.
    pub fn log(&self, namespace: &str, pod: &str, container: &str) -> String {
        let file = self.host.place_of(namespace, pod).join(format!("{container}.log"));
        fs::read(file).map(|text| String::from_utf8_lossy(&text).into_owned()).unwrap_or_default()
    }
}
