//! Which of the filesystems that this node is to have are mounted, as the kernel's table says, be they
//! volumes of the pod or mounted by this worker (`live`). It asks no filesystem, for one that hangs would
//! not answer, and mounts nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use longshore::api::data_movement_shard::MOUNTS_ANNOTATION;
use longshore::api::mount_list::SEEN_ANNOTATION;
use longshore::mounts;
use serde::Serialize;
use tokio::sync::watch;
use tokio::time::sleep;

use crate::live::{Board, Stay};

/// How often the table is read.
const LOOK: Duration = Duration::from_secs(1);

/// What is known of one mount point.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct State {
    mounted: bool,
    /// The type of the filesystem.
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    kind: Option<String>,
    /// This worker mounts or unmounts it at this moment.
    #[serde(skip_serializing_if = "is_false")]
    pending: bool,
    /// Why it is not as it should be.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
fn is_false(word: &bool) -> bool {
    !word
}

type Table = BTreeMap<String, State>;

/// What the kernel's table says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Seen {
    table: Table,
    /// All mount points but the root.
    mounted: BTreeSet<PathBuf>,
    /// The version of the list that filesystems of this worker's own are from.
    version: Option<String>,
}

/// The mount points of this node. Clones see the same.
#[derive(Clone, Debug)]
pub(crate) struct Mounts {
    points: Arc<[PathBuf]>,
    /// Where storage of jobs is mounted: a volume itself, so that being below it says nothing.
    storage: Arc<Path>,
    /// Storage of this node's jobs may be plain directories there.
    plain: bool,
    /// What this worker mounts itself, when it does.
    live: Option<Board>,
    seen: watch::Sender<Seen>,
}

impl Mounts {
    /// Looks at these mount points, at what is mounted below `storage`, and at what this worker mounts.
    pub(crate) fn new(points: Vec<PathBuf>, storage: PathBuf, live: Option<Board>) -> Self {
        let (seen, _) = watch::channel(read(&points, live.as_ref()));
        Self { points: points.into(), storage: storage.into(), plain: false, live, seen }
    }

    /// The same, where storage of this node's jobs may be plain directories.
    pub(crate) fn with_plain_storage(self, plain: bool) -> Self {
        Self { plain, ..self }
    }

    /// Looks again and again.
    pub(crate) async fn keep(self) {
        let mut board = self.live.as_ref().map(Board::subscribe);
        loop {
            tokio::select! {
                () = sleep(LOOK) => {}
                () = changed(&mut board) => {}
            }
            self.look();
        }
    }

    /// Looks once, now.
    pub(crate) fn look(&self) {
        self.seen.send_if_modified(|seen| {
            // In here: who looks at the same time is not overtaken by what was before.
            let now = read(&self.points, self.live.as_ref());
            let changed = *seen != now;
            if changed {
                tracing::info!(mounts = ?now, "mounts changed");
                *seen = now;
            }
            changed
        });
    }

    /// Returns when the state of one has changed after this call.
    pub(crate) async fn changed(&self) {
        // The sender is in self.
        let _ = self.seen.subscribe().changed().await;
    }

    /// All of them, as annotations of the Lease.
    pub(crate) fn annotations(&self) -> BTreeMap<String, String> {
        let seen = self.seen.borrow();
        let table = serde_json::to_string(&seen.table).expect("names and words are JSON");
        let mut all = BTreeMap::from([(MOUNTS_ANNOTATION.to_owned(), table)]);
        if self.live.is_some() {
            // Also when it is none: an earlier worker's is over.
            let version = seen.version.clone().unwrap_or_default();
            all.insert(SEEN_ANNOTATION.to_owned(), version);
        }
        all
    }

    /// How many are not mounted.
    pub(crate) fn missing(&self) -> usize {
        self.seen.borrow().table.values().filter(|state| !state.mounted).count()
    }

    /// Whether a path is on a filesystem that this node is to have and has. Without any to have, every
    /// path is. Storage of a job is there only where it is mounted itself.
    pub(crate) fn have(&self, path: &Path) -> bool {
        if let Some(open) = self.live.as_ref().and_then(|board| board.is_open(path)) {
            return open;
        }
        let Seen { table, mounted, .. } = &*self.seen.borrow();
        let everything = table.is_empty() && self.live.is_none();
        if !everything && path.starts_with(&self.storage) {
            return self.is_storage_of_a_job(path, mounted);
        }
        let above = table.iter().filter(|(point, _)| path.starts_with(point));
        let nearest = above.max_by_key(|(point, _)| point.len());
        everything || nearest.is_some_and(|(_, state)| state.mounted)
    }

    /// Whether a path of a shard of this node can be used. Volumes are there before this worker is; what
    /// it mounts itself may not be there yet, or any more, and then the path is one of the container's.
    /// Storage of a job is there as long as it is mounted: the directory that it was mounted on stays, and
    /// an empty source is copied with success.
    pub(crate) fn is_usable(&self, path: &Path) -> bool {
        if let Some(open) = self.live.as_ref().and_then(|board| board.is_open(path)) {
            return open;
        }
        let mounted = &self.seen.borrow().mounted;
        if path.starts_with(&self.storage) {
            return self.plain || self.is_storage_of_a_job(path, mounted);
        }
        self.live.is_none() || mounted.iter().any(|point| path.starts_with(point))
    }

    /// Whether something is mounted between the directory of all jobs' storage and a path below it.
    fn is_storage_of_a_job(&self, path: &Path, mounted: &BTreeSet<PathBuf>) -> bool {
        let jobs = |point: &&PathBuf| {
            point.starts_with(&self.storage) && point.as_path() != &*self.storage
        };
        mounted.iter().filter(jobs).any(|point| path.starts_with(point))
    }

    /// Counts a copy that uses some paths, until what is returned is dropped. None when one of them is on
    /// a filesystem that may not be used.
    pub(crate) fn enter(&self, paths: &[&Path]) -> Option<Option<Stay>> {
        match &self.live {
            Some(board) => board.enter(paths).map(Some),
            None => Some(None),
        }
    }
}

async fn changed(board: &mut Option<watch::Receiver<crate::live::State>>) {
    match board {
        // The sender is in the board.
        Some(board) => drop(board.changed().await),
        None => std::future::pending().await,
    }
}

fn read(points: &[PathBuf], live: Option<&Board>) -> Seen {
    // The board first: what it says is over is in the table then.
    let board = live.map(Board::snapshot).unwrap_or_default();
    let mountinfo = fs::read("/proc/self/mountinfo").unwrap_or_default();
    let mut mounted: BTreeMap<PathBuf, String> = BTreeMap::new();
    for mount in mounts::all(&mountinfo) {
        mounted.insert(mount.point, mount.filesystem); // the later one is over the earlier
    }
    let mut table = Table::new();
    for point in points {
        let kind = mounted.get(point).cloned();
        let state = State { mounted: kind.is_some(), kind, ..State::default() };
        table.insert(point.display().to_string(), state);
    }
    for (point, known) in &board.points {
        let kind = mounted.get(point).cloned();
        let state = State {
            mounted: live.is_some_and(|board| kind.as_deref() == Some(board.kind())),
            kind,
            pending: known.is_pending(),
            reason: known.reason().map(str::to_owned),
        };
        table.insert(point.display().to_string(), state);
    }
    mounted.remove(Path::new("/"));
    Seen { table, mounted: mounted.into_keys().collect(), version: board.version }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of_volumes(points: &[&str], storage: &str) -> Mounts {
        Mounts::new(points.iter().map(PathBuf::from).collect(), storage.into(), None)
    }

    #[test]
    fn a_path_is_on_the_nearest_mount_point() {
        let mounts = of_volumes(&["/proc", "/proc/no/such"], "/no/such");
        assert!(mounts.have(Path::new("/proc/self")));
        assert!(!mounts.have(Path::new("/proc/no/such/x")));
        assert!(!mounts.have(Path::new("/process")));
        assert_eq!(mounts.missing(), 1);
        let expected =
            r#"{"/proc":{"mounted":true,"type":"proc"},"/proc/no/such":{"mounted":false}}"#;
        assert_eq!(mounts.annotations()[MOUNTS_ANNOTATION], expected);
        assert_eq!(mounts.annotations().len(), 1);
        assert!(of_volumes(&[], "/no/such").have(Path::new("/x")));
    }

    #[test]
    fn storage_of_a_job_is_there_where_it_is_mounted_itself() {
        // /proc stands for the volume that storage of jobs is mounted in.
        let mounts = of_volumes(&["/sys", "/proc"], "/proc");
        assert!(mounts.have(Path::new("/sys/kernel")));
        assert!(!mounts.have(Path::new("/proc/storage of another node")));
    }

    #[test]
    fn storage_of_a_job_of_this_node_is_there_where_it_is_mounted_itself() {
        // Something is mounted at /dev/shm or at /proc on every machine.
        let points = ["/dev/shm", "/proc"].map(Path::new);
        let below = |mounts: &Mounts| {
            points.into_iter().any(|point| mounts.is_usable(&point.join("job-0/out")))
        };
        for live in [None, Some(Board::new("lustre".to_owned()))] {
            let mounts = |storage: &str| Mounts::new(Vec::new(), storage.into(), live.clone());
            assert!(below(&mounts("/")), "it is mounted below where all are");
            for storage in ["/proc", "/no/such"] {
                let job = Path::new(storage).join("job-0");
                assert!(!mounts(storage).is_usable(&job), "{storage}: nobody has mounted it");
                assert!(!mounts(storage).is_usable(Path::new(storage)), "{storage} is no job's");
                assert!(mounts(storage).with_plain_storage(true).is_usable(&job), "{storage}");
            }
            assert_eq!(mounts("/no/such").is_usable(Path::new("/etc")), live.is_none());
        }
    }

    #[test]
    fn what_this_worker_mounts_can_be_used_once_it_is_there() {
        let board = Board::new("proc".to_owned());
        let mounts = Mounts::new(Vec::new(), "/mnt/nnf".into(), Some(board.clone()));
        let (there, other) = (Path::new("/proc/self"), Path::new("/no/such"));
        // Nothing is known of /proc yet, but something is mounted there, which a shard of this node may use.
        assert!(!mounts.have(there) && mounts.is_usable(there));
        assert!(!mounts.have(other) && !mounts.is_usable(other), "the container's own");
        assert_eq!(mounts.annotations()[SEEN_ANNOTATION], "");

        board.set("7".to_owned(), BTreeMap::from([("/proc".into(), "m:/a".to_owned())]));
        assert!(!mounts.have(there) && !mounts.is_usable(there));
        assert!(mounts.enter(&[there]).is_none());
        board.open(Path::new("/proc"), "m:/a");
        assert!(mounts.have(there) && mounts.is_usable(there));
        let stay = mounts.enter(&[there]).unwrap();
        assert!(stay.is_some());
        assert_eq!(read(&[], Some(&board)).version.as_deref(), Some("7"));
    }
}
