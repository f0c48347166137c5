//! What the tests of the worker share: the real binary as a worker of a node, shards on a real API server,
//! and directories that any user can reach.
#![allow(dead_code, unreachable_pub)] // every test binary uses another part
#![allow(clippy::unwrap_used, clippy::print_stderr)] // tests

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use k8s_openapi::api::coordination::v1::Lease;
use kube::api::{ListParams, Patch, PatchParams, PostParams};
use kube::{Api, Client, ResourceExt};
use longshore::api::data_movement_shard::{
    DataMovementShardSpec, DataMovementShardStatus, MOVEMENT_LABEL, MovementReference, NODE_LABEL,
    Preparation, ShardState, worker_lease,
};
use longshore::api::shard_progress::{PROGRESS_ANNOTATION, Reports};
use longshore::api::{DataMovementShard, Defined, definitions};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use test_cluster::{ControlPlane, Way, skip};

/// The job's user and group in most tests.
pub const USER: u32 = 4321;
pub const GROUP: u32 = 4322;

/// How long anything may take on a machine that is busy with other tests.
pub const SOON: Duration = Duration::from_secs(60);

/// A control plane with a namespace for a test.
pub struct Cluster {
    pub plane: &'static ControlPlane,
    pub client: Client,
    pub namespace: String,
    /// What the test leaves on disk.
    pub place: Place,
}

/// The cluster for a test, on the control plane that the tests share.
pub async fn cluster(about: &str) -> Option<Cluster> {
    set_up(ControlPlane::shared()?, about).await
}

/// A cluster with a control plane of its own, which may be stopped.
pub async fn own_cluster(about: &str) -> Option<Cluster> {
    let plane = ControlPlane::bare()?;
    // Until the end of the process, which ends its servers too.
    set_up(Box::leak(Box::new(plane)), about).await
}

async fn set_up(plane: &'static ControlPlane, about: &str) -> Option<Cluster> {
    if !nix::unistd::geteuid().is_root() {
        skip("running copies as other users needs root");
        return None;
    }
    let ours: Vec<_> =
        definitions().into_iter().map(|(_, definition)| definition).take(1).collect();
    let (client, namespace) = plane.scene(&ours, about).await;
    Some(Cluster { plane, client, namespace, place: Place::new(about) })
}

impl Cluster {
    pub fn shards(&self) -> Api<DataMovementShard> {
        let version = DataMovementShard::DEFINITION.storage_version();
        Api::namespaced_with(self.client.clone(), &self.namespace, &version)
    }

    /// A shard of this namespace, for one node or for any.
    pub fn shard(
        &self,
        name: &str,
        node: Option<&str>,
        from: &Path,
        to: &Path,
    ) -> DataMovementShard {
        let version = DataMovementShard::DEFINITION.storage_version();
        let mut shard = DataMovementShard::new(&version, name);
        let labels = shard.metadata.labels.get_or_insert_default();
        labels.insert(MOVEMENT_LABEL.to_owned(), name.to_owned());
        if let Some(node) = node {
            labels.insert(NODE_LABEL.to_owned(), node.to_owned());
        }
        shard.spec = DataMovementShardSpec {
            movement: MovementReference { name: name.to_owned(), uid: "1".to_owned() },
            node: node.map(str::to_owned),
            user_id: USER,
            group_id: GROUP,
            source: text(from),
            destination: text(to),
            preparation: Some(Preparation {
                create_destination_directory: true,
                index_mount: None,
            }),
            progress_interval_seconds: Some(1),
            ..DataMovementShardSpec::default()
        };
        shard
    }

    pub async fn create(&self, shard: &DataMovementShard) {
        self.shards().create(&PostParams::default(), shard).await.unwrap();
    }

    pub async fn get(&self, name: &str) -> DataMovementShard {
        self.shards().get(name).await.unwrap()
    }

    pub async fn status(&self, name: &str) -> DataMovementShardStatus {
        self.get(name).await.status.unwrap_or_default()
    }

    pub async fn cancel(&self, name: &str) {
        let patch = Patch::Merge(json!({"spec": {"cancel": true}}));
        self.shards().patch(name, &PatchParams::default(), &patch).await.unwrap();
    }

    /// Waits until the status is as wanted.
    pub async fn until(
        &self,
        name: &str,
        what: &str,
        wanted: impl Fn(&DataMovementShardStatus) -> bool,
    ) -> DataMovementShardStatus {
        let deadline = Instant::now() + SOON;
        loop {
            let status = self.status(name).await;
            if wanted(&status) {
                return status;
            }
            assert!(Instant::now() < deadline, "{name} is not {what} within {SOON:?}: {status:#?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub async fn running(&self, name: &str) -> DataMovementShardStatus {
        self.until(name, "running", |status| is(status, ShardState::Running)).await
    }

    pub async fn finished(&self, name: &str) -> DataMovementShardStatus {
        self.until(name, "finished", |status| is(status, ShardState::Finished)).await
    }

    /// What the Leases say of the shards that run.
    pub async fn reports(&self) -> Reports {
        let leases: Api<Lease> = Api::namespaced(self.client.clone(), &self.namespace);
        let leases = leases.list(&ListParams::default()).await.unwrap();
        let texts = leases.iter().filter_map(|lease| lease.annotations().get(PROGRESS_ANNOTATION));
        texts.flat_map(|text| serde_json::from_str::<Reports>(text).unwrap()).collect()
    }

    /// Waits until the Lease of its worker says that so many files of a shard are done, or for the first
    /// word of it.
    pub async fn copied(&self, name: &str, files: i64) {
        let shard = format!("{}/{name}", self.namespace);
        let deadline = Instant::now() + SOON;
        loop {
            let said = self.reports().await.remove(&shard);
            if said.as_ref().is_some_and(|said| said.counters.files >= files) {
                return;
            }
            assert!(Instant::now() < deadline, "not {files} of {name} within {SOON:?}: {said:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub async fn lease(&self, node: &str) -> Option<Lease> {
        let leases: Api<Lease> = Api::namespaced(self.client.clone(), &self.namespace);
        leases.get_opt(&worker_lease(node)).await.unwrap()
    }

    pub async fn leases(&self) -> usize {
        let leases: Api<Lease> = Api::namespaced(self.client.clone(), &self.namespace);
        leases.list(&ListParams::default()).await.unwrap().items.len()
    }

    /// A worker of a node, ready.
    pub async fn worker(&self, node: &str, options: &[&str]) -> Worker {
        let worker = self.start_worker(node, options);
        worker.ready().await;
        worker
    }

    /// As [`Self::worker`], and not waited for.
    pub fn start_worker(&self, node: &str, options: &[&str]) -> Worker {
        Worker::start(self, node, &format!("pod-of-{node}"), options, &self.plane.kubeconfig())
    }

    /// As [`Self::start_worker`], in another pod.
    pub fn start_worker_in(&self, pod: &str, node: &str, options: &[&str]) -> Worker {
        Worker::start(self, node, pod, options, &self.plane.kubeconfig())
    }

    /// As [`Self::start_worker`], over a way to the API server that can be cut.
    pub fn start_worker_by(&self, node: &str, options: &[&str], way: &Way) -> Worker {
        Worker::start(self, node, &format!("pod-of-{node}"), options, way.kubeconfig())
    }
}

pub fn is(status: &DataMovementShardStatus, state: ShardState) -> bool {
    status.state.as_ref().is_some_and(|known| *known == state)
}

pub fn text(path: &Path) -> String {
    path.to_str().unwrap().to_owned()
}

/// The outcome, as a word.
pub fn outcome(status: &DataMovementShardStatus) -> String {
    status.outcome.as_ref().map(ToString::to_string).unwrap_or_default()
}

/// A directory that every user can reach, removed at the end.
pub struct Place(tempfile::TempDir);

impl Place {
    fn new(about: &str) -> Self {
        let place = tempfile::Builder::new().prefix(&format!("worker-{about}-")).tempdir().unwrap();
        fs::set_permissions(place.path(), fs::Permissions::from_mode(0o755)).unwrap();
        Self(place)
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// A directory of the job's user.
    pub fn directory(&self, name: &str) -> PathBuf {
        let path = self.path(name);
        fs::create_dir_all(&path).unwrap();
        chown(&path, Some(USER), Some(GROUP)).unwrap();
        path
    }

    /// A tree of the job's user with so many small files.
    pub fn tree(&self, name: &str, files: usize) -> PathBuf {
        let path = self.directory(name);
        for number in 0..files {
            let file = path.join(format!("f{number:05}"));
            fs::write(&file, format!("content of {number}")).unwrap();
            chown(&file, Some(USER), Some(GROUP)).unwrap();
        }
        path
    }

    /// A file of the job's user with so many bytes, none of them zero.
    pub fn file(&self, name: &str, bytes: usize) -> PathBuf {
        let path = self.path(name);
        let content: Vec<u8> = (1..=251).cycle().take(bytes).collect();
        fs::write(&path, content).unwrap();
        chown(&path, Some(USER), Some(GROUP)).unwrap();
        path
    }
}

/// A worker's process. It is killed when this is dropped.
pub struct Worker {
    child: Mutex<Child>,
    pid: i32,
    log: PathBuf,
    pub run_dir: PathBuf,
}

impl Worker {
    fn start(
        cluster: &Cluster,
        node: &str,
        pod: &str,
        options: &[&str],
        kubeconfig: &Path,
    ) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let log = cluster.place.path(&format!("{node}-{number}.log"));
        let run_dir = cluster.place.path(&format!("run-{node}"));
        let mut command = Command::new(env!("CARGO_BIN_EXE_dm-worker"));
        command.args(["run", "--node", node, "--namespace", &cluster.namespace]);
        command.args(["--pod", pod, "--shards-in", &cluster.namespace]);
        command.args(["--listen", "127.0.0.1:0", "--run-dir"]).arg(&run_dir);
        command.args(options);
        command.env("KUBECONFIG", kubeconfig).env("RUST_LOG", "info,dm_worker=debug");
        command.stdin(Stdio::null()).stderr(File::create(&log).unwrap());
        let child = command.spawn().unwrap();
        let pid = child.id().cast_signed();
        Self { child: Mutex::new(child), pid, log, run_dir }
    }

    pub fn pid(&self) -> i32 {
        self.pid
    }

    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap()
    }

    fn address(&self) -> Option<String> {
        let log = self.log();
        let lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let mut listening = lines.filter(|line| line["message"] == "listening");
        Some(listening.next()?["address"].as_str()?.to_owned())
    }

    /// The answer of its server: status and body.
    pub fn get(&self, path: &str) -> Option<(u16, String)> {
        let mut stream = TcpStream::connect(self.address()?).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        let (head, body) = answer.split_once("\r\n\r\n")?;
        Some((head.split(' ').nth(1)?.parse().ok()?, body.to_owned()))
    }

    pub async fn ready(&self) {
        self.until("ready", || self.get("/readyz").is_some_and(|(code, _)| code == 200)).await;
    }

    /// The value of a metric, with its labels as printed.
    pub fn metric(&self, name: &str) -> f64 {
        let (_, text) = self.get("/metrics").unwrap();
        let line = text.lines().find(|line| line.starts_with(&format!("{name} ")));
        line.unwrap_or_else(|| panic!("no {name} in\n{text}"))
            .rsplit(' ')
            .next()
            .unwrap()
            .parse()
            .unwrap()
    }

    pub async fn until(&self, what: &str, wanted: impl Fn() -> bool) {
        let deadline = Instant::now() + SOON;
        while !wanted() {
            assert!(Instant::now() < deadline, "not {what} within {SOON:?}:\n{}", self.log());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.pid), signal).unwrap();
    }

    /// Waits for its end; whether it was in order.
    pub async fn ended(&self) -> bool {
        let status = Mutex::new(None);
        self.until("ended", || {
            *status.lock().unwrap() = self.child.lock().unwrap().try_wait().unwrap();
            status.lock().unwrap().is_some()
        })
        .await;
        status.into_inner().unwrap().is_some_and(|status| status.success())
    }

    /// Asks it to end, and waits: it ends in order.
    pub async fn end(&self) {
        self.signal(Signal::SIGTERM);
        assert!(self.ended().await, "{}", self.log());
    }

    /// Kills it, as a crash would.
    pub async fn kill(&self) {
        self.signal(Signal::SIGKILL);
        self.ended().await;
    }

    /// The process ids of its movers, by what it has noted.
    pub fn movers(&self) -> Vec<i32> {
        let Ok(entries) = fs::read_dir(&self.run_dir) else { return Vec::new() };
        let files = entries.map(|entry| entry.unwrap().path());
        let notes = files.filter(|path| path.extension().is_some_and(|name| name == "json"));
        let pid = |path: PathBuf| {
            let note: Value = serde_json::from_slice(&fs::read(path).ok()?).ok()?;
            i32::try_from(note["pid"].as_i64()?).ok()
        };
        notes.filter_map(pid).collect()
    }

    /// The only mover of this worker.
    pub async fn mover(&self) -> i32 {
        self.until("running a mover", || self.movers().len() == 1).await;
        self.movers()[0]
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the worker's log:\n{}", self.log());
        }
        let mut child = self.child.lock().unwrap();
        drop(child.kill());
        drop(child.wait());
    }
}

/// Whether a process runs, and has not ended.
pub fn runs(pid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')').is_some_and(|(_, rest)| !rest.trim_start().starts_with(['Z', 'X']))
}

/// Waits until a process has ended, at most for this long.
pub async fn gone_within(pid: i32, limit: Duration) {
    let started = Instant::now();
    while runs(pid) {
        assert!(started.elapsed() < limit, "process {pid} runs still after {limit:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Whether two files or trees are the same in names, content and owners.
pub fn assert_same(one: &Path, other: &Path) {
    let output = Command::new("diff").arg("-r").args([one, other]).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
}
