//! The real `dm-worker` as the worker of a rabbit's node. It needs root: copies run as other users.

use std::ffi::OsString;
use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use serde_json::Value;
use test_cluster::skip;

use super::manager::get;
use super::rabbit::Rabbit;

/// Whom the movements of [`Rabbit::movement`] are for.
pub const USER: u32 = 1001;

/// A running worker. It is killed when this is dropped.
pub struct RealWorker {
    child: Child,
    run_dir: PathBuf,
    log: PathBuf,
}

impl RealWorker {
    /// Starts that of the rabbit's node, which notes what it does in a directory.
    pub fn start(rabbit: &Rabbit, place: &Place, arguments: &[&str]) -> Self {
        Self::start_by(rabbit, place, &rabbit.node, &rabbit.kubeconfig, arguments)
    }

    /// Starts that of any node, with a kubeconfig of its own.
    pub fn start_by(
        rabbit: &Rabbit,
        place: &Place,
        node: &str,
        kubeconfig: &Path,
        arguments: &[&str],
    ) -> Self {
        let run_dir = place.path(&format!("run-{node}"));
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--"]).arg(dm_worker()).arg("run");
        command.args(["--namespace", &rabbit.namespace, "--node", node]);
        command.args(["--pod", &format!("worker-of-{node}"), "--listen", "127.0.0.1:0"]);
        command.args(["--shards-in", &rabbit.namespace, "--shards-in", &rabbit.node]);
        command.arg("--run-dir").arg(&run_dir).args(arguments);
        command.env("KUBECONFIG", kubeconfig);
        let log = place.path(&format!("{node}.log"));
        let file = fs::File::options().create(true).append(true).open(&log);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(file.unwrap());
        Self { child: command.spawn().unwrap(), run_dir, log }
    }

    /// Where its server listens: what the last one said that wrote to this log.
    fn address(&self) -> Option<SocketAddr> {
        let log = fs::read_to_string(&self.log).unwrap();
        let mut lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let last = lines.rfind(|line| line["message"] == "listening")?;
        last["address"].as_str()?.parse().ok()
    }

    /// Waits until it can claim shards.
    pub async fn ready(&self) {
        while self.address().is_none_or(|address| get(address, "/readyz").0 != 200) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// What Prometheus reads.
    pub fn metrics(&self) -> String {
        get(self.address().unwrap(), "/metrics").1
    }

    pub fn pid(&self) -> i32 {
        self.child.id().cast_signed()
    }

    /// Ends it at once, as a crash would.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Asks it to end: it does so in order, and leaves nothing on its node.
    pub fn end(mut self) {
        signal(self.pid(), "TERM");
        assert!(self.child.wait().unwrap().success(), "an end in order");
        let left: Vec<_> = fs::read_dir(&self.run_dir).unwrap().map(Result::unwrap).collect();
        assert!(left.iter().all(|entry| entry.file_name() == "lock"), "{left:?}");
    }
}

/// Sends a process a signal by its name.
pub fn signal(pid: i32, name: &str) {
    let sent = Command::new("kill").args(["-s", name, &pid.to_string()]).status().unwrap();
    assert!(sent.success());
}

/// Whether a process runs, and has not ended.
pub fn runs(pid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')').is_some_and(|(_, rest)| !rest.trim_start().starts_with(['Z', 'X']))
}

impl Drop for RealWorker {
    fn drop(&mut self) {
        // It may have ended already, and then there is nothing to kill.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// The program, built by cargo as this test was: it belongs to another package.
pub fn dm_worker() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        let folder = Path::new(env!("CARGO_BIN_EXE_dm-manager")).parent().unwrap();
        let mut build = Command::new(env!("CARGO"));
        build.args(["build", "--quiet", "-p", "dm-worker", "--bin", "dm-worker", "--target-dir"]);
        build.arg(folder.parent().unwrap()).current_dir(env!("CARGO_MANIFEST_DIR"));
        if folder.ends_with("release") {
            build.arg("--release");
        }
        // What cargo says to this test of its package is not for other packages: some would be built anew
        // because of it, and with them all that depends on them, here and in the next build.
        let of_this_package = |name: &OsString| {
            let name = name.to_string_lossy();
            ["CARGO_PKG_", "CARGO_MANIFEST_"].iter().any(|prefix| name.starts_with(prefix))
        };
        std::env::vars_os().map(|(name, _)| name).filter(of_this_package).for_each(|name| {
            build.env_remove(name);
        });
        assert!(build.status().unwrap().success(), "dm-worker cannot be built");
        folder.join("dm-worker")
    })
}

/// A directory of a test that every user can reach, removed at the end.
pub struct Place(tempfile::TempDir);

impl Place {
    /// None without root, which is recorded as a skip.
    pub fn new(about: &str) -> Option<Self> {
        let status = fs::read_to_string("/proc/self/status").unwrap();
        let ids = status.lines().find(|line| line.starts_with("Uid:")).unwrap();
        if ids.split_whitespace().nth(2) != Some("0") {
            skip("running copies as other users needs root");
            return None;
        }
        let place = tempfile::Builder::new().prefix(&format!("movement-{about}-")).tempdir();
        let place = place.unwrap();
        fs::set_permissions(place.path(), fs::Permissions::from_mode(0o755)).unwrap();
        Some(Self(place))
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// The same as text.
    pub fn text(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }

    /// A directory of the user.
    pub fn directory(&self, name: &str) -> PathBuf {
        let path = self.path(name);
        fs::create_dir_all(&path).unwrap();
        chown(&path, Some(USER), Some(USER)).unwrap();
        path
    }

    /// A file of the user with so many bytes, none of them zero.
    pub fn file(&self, name: &str, bytes: usize) -> PathBuf {
        let path = self.path(name);
        let content: Vec<u8> = (1..=251).cycle().take(bytes).collect();
        fs::write(&path, content).unwrap();
        chown(&path, Some(USER), Some(USER)).unwrap();
        path
    }
}

/// Whether two trees have the same names and content.
pub fn same(one: &Path, other: &Path) -> bool {
    Command::new("diff").arg("-r").args([one, other]).output().unwrap().status.success()
}

/// The processes that a worker has started and that have not ended.
pub fn movers_of(worker: &RealWorker) -> Vec<i32> {
    // Each thread has the children that it started.
    let threads = fs::read_dir(format!("/proc/{}/task", worker.child.id())).unwrap();
    let children =
        threads.map(|thread| fs::read_to_string(thread.unwrap().path().join("children")));
    let children: Vec<String> = children.map(Result::unwrap_or_default).collect();
    let pids = children.iter().flat_map(|children| children.split_whitespace());
    pids.filter_map(|pid| pid.parse().ok()).collect()
}
