//! The agent of a node: watches shards, admits them to movers, and keeps an account of those that run.
//! What happens to one shard is elsewhere.

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use dm_service::{Readiness, since_boot};
use futures::stream::{BoxStream, SelectAll, StreamExt, select_all};
use kube::Api;
use kube::runtime::WatchStreamExt;
use kube::runtime::utils::Backoff;
use kube::runtime::watcher::{self, Event};
use longshore::api::data_movement_shard::NODE_LABEL;
use longshore::api::{DataMovementShard, Defined};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::{Id, JoinError, JoinSet};
use tokio::time::{Interval, MissedTickBehavior, interval, sleep, timeout};

use crate::admission::Admission;
use crate::lease::Held;
use crate::mounts::Mounts;
use crate::shard::{BEFORE_THE_LEASE, Conduct, Left, Life, Worker, is_free};

/// The pauses of a watch that fails: an API server that is back is noticed soon.
const WATCH_PAUSES: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(2));

/// The pause before a shard is tried again that could not be tried.
const LATER: Duration = Duration::from_secs(1);

/// How often numbers are taken, mounts are heeded and readiness is decided, if nothing else happens.
const LOOK: Duration = Duration::from_millis(500);

/// How long movers that were asked to end may take, with the writes about them.
const ENDS_WITHIN: Duration = Duration::from_secs(10);

type Watched = (usize, Result<Event<DataMovementShard>, watcher::Error>);

/// What the agent is given.
pub(crate) struct Settings {
    pub(crate) node: String,
    /// Namespaces of shards; all when empty.
    pub(crate) namespaces: Vec<String>,
    /// Movers at the same time.
    pub(crate) movers: usize,
    /// How long running movers may go on after the end was asked for.
    pub(crate) drain: Duration,
}

/// A shard that this worker has to do with.
struct Running {
    /// The namespace and the name of the object.
    name: String,
    seen: watch::Sender<Option<DataMovementShard>>,
    /// Which watch it came from.
    watch: usize,
}

/// The agent.
pub(crate) struct Agent {
    settings: Settings,
    worker: Arc<Worker>,
    mounts: Mounts,
    readiness: Readiness,
    held: watch::Receiver<Held>,
    conduct: watch::Sender<Conduct>,
    slots: Arc<Semaphore>,
    waiting: Admission<(usize, DataMovementShard)>,
    /// Free shards whose filesystems this node has not, or not yet.
    elsewhere: HashMap<String, DataMovementShard>,
    /// Which watch a shard of these two came from, by uid.
    origins: HashMap<String, usize>,
    running: HashMap<String, Running>,
    lives: JoinSet<Left>,
    /// The uids of their shards.
    tasks: HashMap<Id, String>,
    /// What each watch has listed since it began anew; none when its list is complete.
    listing: Vec<Option<HashSet<String>>>,
    listed: Vec<bool>,
    later: (mpsc::UnboundedSender<Watching>, mpsc::UnboundedReceiver<Watching>),
    /// When what waits for a filesystem is looked at, however much else happens.
    look: Interval,
    stopping: bool,
}

/// A shard to look at again.
type Watching = (usize, DataMovementShard);

impl Agent {
    pub(crate) fn new(
        settings: Settings,
        worker: Arc<Worker>,
        mounts: Mounts,
        readiness: Readiness,
        held: watch::Receiver<Held>,
    ) -> Self {
        let mut look = interval(LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self {
            slots: Arc::new(Semaphore::new(settings.movers)),
            settings,
            worker,
            mounts,
            readiness,
            held,
            conduct: watch::channel(Conduct::GoOn).0,
            waiting: Admission::default(),
            elsewhere: HashMap::new(),
            origins: HashMap::new(),
            running: HashMap::new(),
            lives: JoinSet::new(),
            tasks: HashMap::new(),
            listing: Vec::new(),
            listed: Vec::new(),
            later: mpsc::unbounded_channel(),
            look,
            stopping: false,
        }
    }

    /// Works until `end` returns; then lets movers finish for a while, and has the rest put back.
    pub(crate) async fn run(mut self, end: impl Future<Output = ()>) {
        tokio::pin!(end);
        // What an earlier process of this worker had is put back when it is seen, which needs the Lease.
        tokio::select! {
            _ = self.held.wait_for(Option::is_some) => {}
            () = &mut end => return,
        }
        let mut watches = self.watches();
        loop {
            tokio::select! {
                () = self.step(&mut watches) => {}
                () = &mut end => break,
            }
        }
        self.stopping = true;
        self.readiness.set(false);
        tracing::info!(movers = self.lives.len(), "ending: nothing more is claimed");
        let drain = self.settings.drain;
        if timeout(drain, self.until_idle(&mut watches)).await.is_err() {
            tracing::info!(movers = self.lives.len(), "putting back what still runs");
            self.conduct.send_replace(Conduct::PutBack);
            if timeout(ENDS_WITHIN, self.until_idle(&mut watches)).await.is_err() {
                tracing::error!(shards = self.lives.len(), "not all shards could be put back");
            }
        }
        self.lives.shutdown().await;
    }

    async fn until_idle(&mut self, watches: &mut SelectAll<BoxStream<'static, Watched>>) {
        while !self.lives.is_empty() {
            self.step(watches).await;
        }
    }

    /// Waits for one thing to happen, and does what follows from it.
    async fn step(&mut self, watches: &mut SelectAll<BoxStream<'static, Watched>>) {
        tokio::select! {
            Some((watch, event)) = watches.next() => self.heed(watch, event),
            Some(ended) = self.lives.join_next_with_id() => self.ended(ended),
            Some((watch, shard)) = self.later.1.recv() => self.look_again(watch, shard),
            Ok(()) = self.held.changed() => {}
            _ = self.look.tick() => self.reconsider(),
        }
        self.admit();
        let lease = self.held.borrow_and_update().is_some();
        self.readiness.set(!self.stopping && lease && self.listed.iter().all(|listed| *listed));
        let movers = self.settings.movers - self.slots.available_permits();
        self.worker.metrics.now(movers, self.waiting.len(), self.mounts.missing());
    }

    fn watches(&mut self) -> SelectAll<BoxStream<'static, Watched>> {
        let version = DataMovementShard::DEFINITION.storage_version();
        let client = &self.worker.client;
        let scopes: Vec<Api<DataMovementShard>> = match self.settings.namespaces.as_slice() {
            [] => vec![Api::all_with(client.clone(), &version)],
            some => some
                .iter()
                .map(|namespace| Api::namespaced_with(client.clone(), namespace, &version))
                .collect(),
        };
        let selectors = [format!("{NODE_LABEL}={}", self.settings.node), format!("!{NODE_LABEL}")];
        let mut watches = Vec::new();
        for scope in scopes {
            for selector in &selectors {
                let number = watches.len();
                let config = dm_service::watching().labels(selector);
                let events = watcher::watcher(scope.clone(), config).backoff(Pauses::default());
                watches.push(events.map(move |event| (number, event)).boxed());
            }
        }
        self.listing = vec![None; watches.len()];
        self.listed = vec![false; watches.len()];
        select_all(watches)
    }

    fn heed(&mut self, watch: usize, event: Result<Event<DataMovementShard>, watcher::Error>) {
        match event {
            Ok(Event::Apply(shard)) => self.see(watch, shard),
            Ok(Event::Delete(shard)) => self.forget(&uid(&shard)),
            Ok(Event::Init) => self.listing[watch] = Some(HashSet::new()),
            Ok(Event::InitApply(shard)) => {
                if let Some(listed) = &mut self.listing[watch] {
                    listed.insert(uid(&shard));
                }
                self.see(watch, shard);
            }
            Ok(Event::InitDone) => {
                let listed = self.listing[watch].take().unwrap_or_default();
                self.listed[watch] = true;
                let running = self.running.iter().map(|(uid, running)| (uid, running.watch));
                let waiting = self.origins.iter().map(|(uid, watch)| (uid, *watch));
                let gone: Vec<String> = running
                    .chain(waiting)
                    .filter(|(uid, origin)| *origin == watch && !listed.contains(*uid))
                    .map(|(uid, _)| uid.clone())
                    .collect();
                gone.iter().for_each(|uid| self.forget(uid));
            }
            Err(error) => tracing::warn!(%error, "a watch failed"),
        }
    }

    /// Looks at a shard as it is now.
    fn see(&mut self, watch: usize, shard: DataMovementShard) {
        let uid = uid(&shard);
        if let Some(running) = self.running.get(&uid) {
            running.seen.send_replace(Some(shard));
            return;
        }
        if is_free(&shard) {
            self.origins.insert(uid.clone(), watch);
            if !self.is_for_this_node(&shard) && shard.spec.node.is_some() {
                // The storage of its job may have been mounted just before it was made.
                self.mounts.look();
            }
            if self.is_for_this_node(&shard) {
                self.elsewhere.remove(&uid);
                self.waiting.insert(&uid, shard.spec.user_id, (watch, shard));
            } else {
                self.waiting.remove(&uid);
                self.set_aside(shard);
            }
            return;
        }
        self.forget(&uid);
        if !self.worker.own.has_lease(shard.status.as_ref()) {
            return;
        }
        // Of an earlier process of this worker or an earlier pod of this node, whose movers are dead, or
        // claimed without that its answer came back.
        if self.held.borrow().is_some() {
            self.start(watch, shard, |life| Box::pin(life.put_back()));
        } else {
            self.look_later(watch, shard);
        }
    }

    fn forget(&mut self, uid: &str) {
        self.origins.remove(uid);
        self.waiting.remove(uid);
        self.elsewhere.remove(uid);
        if let Some(running) = self.running.get(uid) {
            running.seen.send_replace(None);
        }
    }

    /// Whether the shard can be done here: it is this node's, or the node has both of its filesystems.
    fn is_for_this_node(&self, shard: &DataMovementShard) -> bool {
        let mut paths = paths(shard).into_iter();
        match &shard.spec.node {
            Some(node) => {
                *node == self.settings.node && paths.all(|path| self.mounts.is_usable(path))
            }
            None => paths.all(|path| self.mounts.have(path)),
        }
    }

    /// Keeps a shard that cannot be done here now. That one of this node has to wait is said once.
    fn set_aside(&mut self, shard: DataMovementShard) {
        let (name, here) = (name(&shard), shard.spec.node.as_ref() == Some(&self.settings.node));
        if self.elsewhere.insert(uid(&shard), shard).is_none() && here {
            tracing::warn!(shard = name, "a copy waits for a filesystem that is not mounted here");
        }
    }

    /// Starts what may be started.
    fn admit(&mut self) {
        while !self.stopping && self.has_time() {
            let Ok(permit) = Arc::clone(&self.slots).try_acquire_owned() else { return };
            let Some((watch, shard)) = self.waiting.next() else { return };
            self.mounts.look();
            let here = self.is_for_this_node(&shard);
            let stay = here.then(|| self.mounts.enter(&paths(&shard))).flatten();
            let Some(stay) = stay else {
                self.set_aside(shard);
                continue;
            };
            self.origins.remove(&uid(&shard));
            let name = name(&shard);
            if self.running.values().any(|running| running.name == name) {
                // One of this name was deleted, and its mover may still write to the same place.
                self.look_later(watch, shard);
                continue;
            }
            self.start(watch, shard, |life| Box::pin(Life { stay, ..life }.carry_out(permit)));
        }
    }

    /// Whether the Lease holds for long enough to begin something.
    fn has_time(&self) -> bool {
        self.held.borrow().is_some_and(|until| since_boot() + BEFORE_THE_LEASE + LATER < until)
    }

    fn start(
        &mut self,
        watch: usize,
        shard: DataMovementShard,
        live: impl FnOnce(Life) -> futures::future::BoxFuture<'static, Left>,
    ) {
        let uid = uid(&shard);
        let (sender, seen) = watch::channel(Some(shard.clone()));
        let running = Running { name: name(&shard), seen: sender, watch };
        self.running.insert(uid.clone(), running);
        let life = live(Life {
            worker: Arc::clone(&self.worker),
            shard,
            seen,
            conduct: self.conduct.subscribe(),
            held: self.held.clone(),
            inside: None,
            stay: None,
        });
        let task = self.lives.spawn(life).id();
        self.tasks.insert(task, uid);
    }

    fn ended(&mut self, ended: Result<(Id, Left), JoinError>) {
        let (task, left) = match ended {
            Ok(ended) => ended,
            Err(error) => {
                // A mistake of ours, with which its mover has ended too. The shard must not stay.
                tracing::error!(%error, "the task of a shard ended early");
                (error.id(), Left::Later)
            }
        };
        let Some(uid) = self.tasks.remove(&task) else { return };
        let Some(running) = self.running.remove(&uid) else { return };
        let Some(shard) = running.seen.borrow().clone() else { return };
        let shown = version(&shard);
        match left {
            // What was shown last may be older than what was written last; the watch brings that.
            Left::Known(last) if shown >= number(&last) => self.see(running.watch, shard),
            Left::Tried(last) if shown > number(&last) => self.see(running.watch, shard),
            Left::Known(_) | Left::Tried(_) => {}
            Left::Later => self.look_later(running.watch, shard),
        }
    }

    fn look_later(&self, watch: usize, shard: DataMovementShard) {
        let later = self.later.0.clone();
        tokio::spawn(async move {
            sleep(LATER).await;
            drop(later.send((watch, shard)));
        });
    }

    /// Looks once more at a shard that could not be tried, unless it was seen in the meantime.
    fn look_again(&mut self, watch: usize, shard: DataMovementShard) {
        let uid = uid(&shard);
        if !self.origins.contains_key(&uid) && !self.running.contains_key(&uid) {
            self.see(watch, shard);
        }
    }

    /// Shards whose filesystems were not here may be done here by now.
    fn reconsider(&mut self) {
        let here = |shard: &&DataMovementShard| self.is_for_this_node(shard);
        let shards: Vec<_> = self.elsewhere.values().filter(here).cloned().collect();
        for shard in shards {
            if let Some(watch) = self.origins.get(&uid(&shard)) {
                self.see(*watch, shard);
            }
        }
    }
}

/// The pauses of a watch that fails, one longer than the other.
#[derive(Debug, Default)]
pub(crate) struct Pauses(Option<Duration>);

impl Iterator for Pauses {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        let (first, longest) = WATCH_PAUSES;
        let pause = self.0.map_or(first, |last| (last * 2).min(longest));
        self.0 = Some(pause);
        Some(pause)
    }
}

impl Backoff for Pauses {
    fn reset(&mut self) {
        self.0 = None;
    }
}

/// Both ends of a shard.
fn paths(shard: &DataMovementShard) -> [&Path; 2] {
    [Path::new(&shard.spec.source), Path::new(&shard.spec.destination)]
}

/// The version of an object; versions of one kind are numbers that grow.
fn version(shard: &DataMovementShard) -> Option<u128> {
    number(shard.metadata.resource_version.as_deref().unwrap_or_default())
}

fn number(version: &str) -> Option<u128> {
    version.parse().ok()
}

fn name(shard: &DataMovementShard) -> String {
    let metadata = &shard.metadata;
    let part = |text: &Option<String>| text.clone().unwrap_or_default();
    format!("{}/{}", part(&metadata.namespace), part(&metadata.name))
}

fn uid(shard: &DataMovementShard) -> String {
    shard.metadata.uid.clone().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::Instant;

    use futures::stream;
    use kube::Client;

    use super::*;
    use crate::api::Identity;
    use crate::leftover::RunDirectory;
    use crate::live::Board;
    use crate::metrics::Metrics;
    use crate::reports::Reports;
    use crate::shard::Limits;

    /// An agent that has no Lease, so that it starts nothing, and no API server.
    fn agent(board: Board, run_dir: &Path) -> Agent {
        let nowhere = kube::Config::new("http://127.0.0.1:1".parse().unwrap());
        let worker = Worker {
            client: Client::try_from(nowhere).unwrap(),
            turns: Arc::default(),
            own: Identity { worker: "pod".to_owned(), lease: "some/lease".to_owned() },
            node: "n1".to_owned(),
            directory: RunDirectory::open(run_dir).unwrap(),
            reports: Reports::default(),
            metrics: Metrics::new().unwrap(),
            limits: Limits {
                memory_bytes: 0,
                stall: LATER,
                give_up: LATER,
                accidents: 1,
                mounts: true,
            },
        };
        let settings = Settings {
            node: "n1".to_owned(),
            namespaces: Vec::new(),
            movers: 1,
            drain: Duration::ZERO,
        };
        let mounts = Mounts::new(Vec::new(), "/mnt/nnf".into(), Some(board));
        let held = watch::channel(None).1;
        Agent::new(settings, Arc::new(worker), mounts, Readiness::default(), held)
    }

    #[tokio::test]
    async fn what_waits_for_a_filesystem_is_looked_at_however_much_else_happens() {
        let place = tempfile::tempdir().unwrap();
        let board = Board::new("proc".to_owned());
        let mut agent = agent(board.clone(), place.path());
        agent.listing = vec![None];
        board.set("1".to_owned(), BTreeMap::from([("/proc".into(), "m:/a".to_owned())]));
        let mut shard =
            DataMovementShard::new(&DataMovementShard::DEFINITION.storage_version(), "copy");
        shard.metadata.uid = Some("1".to_owned());
        (shard.spec.source, shard.spec.destination) = ("/proc/a".to_owned(), "/proc/b".to_owned());
        agent.see(0, shard);
        assert_eq!((agent.elsewhere.len(), agent.waiting.len()), (1, 0));

        board.open(Path::new("/proc"), "m:/a");
        let events = stream::unfold((), |()| async {
            sleep(LOOK / 10).await;
            Some(((0, Ok(Event::Init)), ()))
        });
        let mut watches = select_all([events.boxed()]);
        let begin = Instant::now();
        while agent.waiting.len() == 0 {
            assert!(begin.elapsed() < 10 * LOOK, "it is still elsewhere");
            agent.step(&mut watches).await;
        }
    }
}
