//! The life of one pod on its node: volumes, containers, probes, restarts, and its end. It says what
//! happens in the pod's status, as a kubelet does, through `pod_status`.

use std::fs;
use std::net::IpAddr;
use std::process::ExitStatus;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::{Context, bail};
use k8s_openapi::api::core::v1::{Container, Pod};
use kube::ResourceExt;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::sync::{mpsc, watch};
use tokio::task::AbortHandle;

use crate::container::{self, Mount, Plan};
use crate::environment::{self, Surroundings};
use crate::kubelet::{AGAIN, Host, Running};
use crate::mount_namespace::MountNamespace;
use crate::pod_status::{ContainerState, Reporter};
use crate::probe::Question;
use crate::volume::Volumes;

/// The longest time between two starts of a container that keeps ending.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

enum News {
    Ended(usize, ExitStatus),
    Ready(usize, bool),
    /// The liveness probe has failed too often.
    Dead(usize),
    StartAgain(usize),
}

/// A container that was started.
struct Started {
    inside: Arc<MountNamespace>,
    pid: Option<Pid>,
    /// What ends with it: its probes.
    companions: Vec<AbortHandle>,
}

struct Life {
    host: Arc<Host>,
    pod: Pod,
    surroundings: Surroundings,
    reporter: Reporter,
    started: Vec<Option<Started>>,
    news: mpsc::UnboundedSender<News>,
}

/// Lives the life of a pod, to its end.
pub(crate) async fn live(host: Arc<Host>, mut pods: watch::Receiver<Pod>) {
    let pod = pods.borrow_and_update().clone();
    let phase = pod.status.as_ref().and_then(|status| status.phase.clone()).unwrap_or_default();
    if phase == "Succeeded" || phase == "Failed" {
        return;
    }
    let Ok(address) = host.address() else { return };
    let surroundings = Surroundings { pod_ip: IpAddr::V4(address), api_server: host.proxy.address };
    let reporter = Reporter::new(host.client.clone(), &pod, surroundings.pod_ip);
    let containers = pod.spec.as_ref().map_or(0, |spec| spec.containers.len());
    let (news, mut received) = mpsc::unbounded_channel();
    let started = (0..containers).map(|_| None).collect();
    let mut life = Life { host, pod, surroundings, reporter, started, news };
    let ended = life.run(&mut pods, &mut received).await;
    life.end(&mut received, ended).await;
}

/// How the life of a pod comes to its end.
enum End {
    /// It is to be deleted.
    Asked,
    /// It is gone already.
    Gone,
}

impl Life {
    async fn run(
        &mut self,
        pods: &mut watch::Receiver<Pod>,
        received: &mut mpsc::UnboundedReceiver<News>,
    ) -> End {
        if let Some(end) = self.start_all(pods).await {
            return end;
        }
        loop {
            tokio::select! {
                end = until_the_end(pods) => return end,
                Some(news) = received.recv() => self.take(news).await,
            }
        }
    }

    /// Starts the containers, as soon as there is all that they need.
    async fn start_all(&mut self, pods: &mut watch::Receiver<Pod>) -> Option<End> {
        loop {
            if pods.borrow_and_update().metadata.deletion_timestamp.is_some() {
                return Some(End::Asked);
            }
            match self.plans().await {
                Ok(plans) => {
                    self.reporter.volumes_are_there();
                    for (index, plan) in plans.into_iter().enumerate() {
                        self.start(index, plan);
                    }
                    return None;
                }
                Err(error) => self.reporter.cannot_start(&format!("{error:#}")).await,
            }
            tokio::select! {
                end = until_the_end(pods) => return Some(end),
                () = tokio::time::sleep(AGAIN) => {}
            }
        }
    }

    /// What the containers are to be.
    async fn plans(&self) -> anyhow::Result<Vec<Plan>> {
        let spec = self.pod.spec.as_ref().context("the pod has no spec")?;
        if spec.init_containers.as_ref().is_some_and(|containers| !containers.is_empty()) {
            bail!("init containers are not played");
        }
        let place = self.place();
        let own = place.join("volumes");
        fs::create_dir_all(&own).context("failed to make a directory")?;
        let claims = self.host.claims().clone();
        let volumes = Volumes {
            client: &self.host.client,
            pod: &self.pod,
            surroundings: &self.surroundings,
            node_root: &self.host.root,
            own: &own,
            claims: &claims,
            authority: &self.host.authority,
        };
        let mut found = std::collections::BTreeMap::new();
        for volume in spec.volumes.iter().flatten() {
            found.insert(volume.name.clone(), volumes.find(volume).await?);
        }
        let mut plans = Vec::new();
        for container in &spec.containers {
            plans.push(self.plan(container, &found)?);
        }
        Ok(plans)
    }

    fn plan(
        &self,
        container: &Container,
        volumes: &std::collections::BTreeMap<String, std::path::PathBuf>,
    ) -> anyhow::Result<Plan> {
        let environment = environment::of(container, &self.pod, &self.surroundings)?;
        let image = container.image.as_deref().unwrap_or_default();
        let program = self.host.images.get(image);
        let program = program.with_context(|| format!("Failed to pull image \"{image}\""))?;
        // The first word of a command is where the program lies in its image.
        let words = container.command.iter().flatten().skip(1);
        let words = words.chain(container.args.iter().flatten());
        let arguments = words.map(|word| environment::expand(word, &environment)).collect();
        let mut mounts = Vec::new();
        for mount in container.volume_mounts.iter().flatten() {
            let source = volumes.get(&mount.name);
            let source = source.with_context(|| format!("no volume is called {}", mount.name))?;
            mounts.push(Mount {
                source: mount.sub_path.as_ref().map_or(source.clone(), |part| source.join(part)),
                target: mount.mount_path.clone().into(),
                read_only: mount.read_only == Some(true),
                follows: mount.mount_propagation.as_deref() == Some("HostToContainer"),
            });
        }
        let place = self.place().join(format!("root-{}", container.name));
        fs::create_dir_all(&place).context("failed to make a directory")?;
        Ok(Plan {
            program: program.clone(),
            arguments,
            environment,
            working_directory: container.working_dir.clone().unwrap_or("/".to_owned()).into(),
            mounts,
            capabilities: container::capabilities(container.security_context.as_ref()),
            place,
            log: self.place().join(format!("{}.log", container.name)),
        })
    }

    /// Starts a container, or has it tried again later.
    fn start(&mut self, index: usize, plan: Plan) {
        let Some(container) = self.container(index).cloned() else { return };
        let (inside, mut child) = match plan.start(&self.host.inside) {
            Ok(started) => started,
            Err(error) => {
                let state = ContainerState::Waiting("RunContainerError", format!("{error:#}"));
                self.reporter.set(&container.name, state, false);
                self.later(index);
                return;
            }
        };
        let (inside, pid) = (Arc::new(inside), child.id());
        let pod = (self.pod.namespace().unwrap_or_default(), self.pod.name_any());
        let mut running = self.host.running();
        running.retain(|other| (&other.pod, &other.name) != (&pod, &container.name));
        let name = container.name.clone();
        running.push(Running { pod, name, pid, inside: Arc::clone(&inside) });
        if !self.host.on.load(Ordering::SeqCst) {
            signal([pid], Signal::SIGKILL); // the node was switched off in this moment
        }
        drop(running);

        let news = self.news.clone();
        tokio::task::spawn_blocking(move || {
            if let Ok(status) = child.wait() {
                drop(news.send(News::Ended(index, status))); // the life may be over
            }
        });
        let pid = Some(Pid::from_raw(pid.cast_signed()));
        let has_probe = container.readiness_probe.is_some();
        self.reporter.set(&container.name, ContainerState::Running, !has_probe);
        let companions = self.probe(index, &container);
        self.started[index] = Some(Started { inside, pid, companions });
    }

    /// Starts to ask a container its questions.
    fn probe(&self, index: usize, container: &Container) -> Vec<AbortHandle> {
        let mut tasks = Vec::new();
        for (probe, for_life) in
            [(&container.readiness_probe, false), (&container.liveness_probe, true)]
        {
            let Some(probe) = probe else { continue };
            let question = match Question::of(probe, container, self.surroundings.pod_ip) {
                Ok(question) => question,
                Err(error) => {
                    let state = ContainerState::Waiting("InvalidProbe", format!("{error:#}"));
                    self.reporter.set(&container.name, state, false);
                    continue;
                }
            };
            let news = self.news.clone();
            let asking = tokio::spawn(async move {
                let mut bad = 0;
                loop {
                    let good = question.ask().await.is_ok();
                    bad = if good { 0 } else { bad + 1 };
                    let heard = match (good, for_life) {
                        (true, false) => news.send(News::Ready(index, true)),
                        (false, false) if bad >= question.failures => {
                            news.send(News::Ready(index, false))
                        }
                        (false, true) if bad >= question.failures => {
                            bad = 0;
                            news.send(News::Dead(index))
                        }
                        _ => Ok(()),
                    };
                    if heard.is_err() {
                        return;
                    }
                    tokio::time::sleep(question.period).await;
                }
            });
            tasks.push(asking.abort_handle());
        }
        tasks
    }

    async fn take(&mut self, news: News) {
        match news {
            News::Ended(index, status) => {
                let Some(container) = self.container(index).cloned() else { return };
                self.leave(index);
                self.reporter.ended(&container.name, status);
                self.later(index);
            }
            News::Ready(index, ready) => {
                let Some(name) = self.container(index).map(|one| one.name.clone()) else { return };
                self.reporter.ready(&name, ready);
            }
            News::Dead(index) => {
                if let Some(Some(started)) = self.started.get(index) {
                    signal(started.inside.processes(), Signal::SIGKILL);
                }
            }
            News::StartAgain(index) => match self.plans().await {
                Ok(mut plans) if index < plans.len() => self.start(index, plans.swap_remove(index)),
                _ => self.later(index),
            },
        }
    }

    /// What is left of a container whose first process has ended is killed: that process was the
    /// first one of its process namespace, unless the pod's containers share one.
    fn leave(&mut self, index: usize) {
        let Some(started) = self.started.get_mut(index).and_then(Option::take) else { return };
        started.companions.iter().for_each(AbortHandle::abort);
        let shared = self.pod.spec.as_ref().and_then(|spec| spec.share_process_namespace);
        if shared != Some(true) {
            signal(started.inside.processes(), Signal::SIGKILL);
        }
    }

    /// Has a container started again, after a pause that grows.
    fn later(&self, index: usize) {
        let name = self.container(index).map(|one| one.name.clone()).unwrap_or_default();
        let pause = AGAIN * 2_u32.saturating_pow(self.reporter.restarts(&name).min(10));
        let news = self.news.clone();
        tokio::spawn(async move {
            tokio::time::sleep(pause.min(LONGEST_PAUSE)).await;
            drop(news.send(News::StartAgain(index))); // the life may be over
        });
    }

    /// Ends what runs: asks it to end, and kills it when its time is over.
    async fn end(mut self, received: &mut mpsc::UnboundedReceiver<News>, end: End) {
        let metadata = &self.pod.metadata;
        let seconds = metadata.deletion_grace_period_seconds.or_else(|| {
            self.pod.spec.as_ref().and_then(|spec| spec.termination_grace_period_seconds)
        });
        let patience = match end {
            End::Asked => Duration::from_secs(seconds.unwrap_or(30).unsigned_abs()),
            End::Gone => Duration::ZERO,
        };
        let asked = if patience.is_zero() { Signal::SIGKILL } else { Signal::SIGTERM };
        for started in self.started.iter().flatten() {
            signal(started.pid, asked);
        }
        let over = tokio::time::sleep(patience);
        tokio::pin!(over);
        while self.started.iter().any(Option::is_some) {
            tokio::select! {
                Some(news) = received.recv() => {
                    if let News::Ended(index, _) = news {
                        self.leave(index);
                    }
                }
                () = &mut over => break,
            }
        }
        let me = (self.pod.namespace().unwrap_or_default(), self.pod.name_any());
        loop {
            // The pod is over when nothing of it runs any more.
            let left = self.host.processes_of(&me);
            if left.is_empty() {
                break;
            }
            signal(left, Signal::SIGKILL);
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        self.started.clear();
        self.host.running().retain(|running| running.pod != me);
        if matches!(end, End::Asked) {
            self.reporter.delete().await;
        }
    }

    fn container(&self, index: usize) -> Option<&Container> {
        self.pod.spec.as_ref()?.containers.get(index)
    }

    fn place(&self) -> std::path::PathBuf {
        self.host.place_of(&self.pod.namespace().unwrap_or_default(), &self.pod.name_any())
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        self.companions.iter().for_each(AbortHandle::abort);
    }
}

/// Waits until a pod is to be deleted, or is gone.
async fn until_the_end(pods: &mut watch::Receiver<Pod>) -> End {
    loop {
        if pods.borrow_and_update().metadata.deletion_timestamp.is_some() {
            return End::Asked;
        }
        if pods.changed().await.is_err() {
            return End::Gone;
        }
    }
}

/// Sends a signal to processes. Those that have ended already are nobody's loss.
pub(crate) fn signal<P: TryInto<i32>>(
    to: impl IntoIterator<Item = P>,
    which: impl Into<Option<Signal>> + Copy,
) {
    for pid in to {
        if let Ok(pid) = pid.try_into() {
            let _ended = kill(Pid::from_raw(pid), which);
        }
    }
}
