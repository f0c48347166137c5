//! Which of the filesystems that this node is to have are mounted, as the kernel's table says. It asks no
//! filesystem, for one that hangs would not answer, and mounts nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use longshore::mounts;
use serde::Serialize;
use tokio::sync::watch;
use tokio::time::sleep;

/// How often the table is read.
const LOOK: Duration = Duration::from_secs(1);

/// What is known of one mount point.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct State {
    mounted: bool,
    /// The type of the filesystem.
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    kind: Option<String>,
}

type Table = BTreeMap<String, State>;

/// What the kernel's table says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Seen {
    table: Table,
    /// What is mounted below the place of jobs' storage.
    storage: BTreeSet<PathBuf>,
}

/// The mount points of this node. Clones see the same.
#[derive(Clone, Debug)]
pub(crate) struct Mounts {
    points: Arc<[PathBuf]>,
    /// Where storage of jobs is mounted: a volume itself, so that being below it says nothing.
    storage: Arc<Path>,
    seen: watch::Sender<Seen>,
}

impl Mounts {
    /// Looks at these mount points, and at what is mounted below `storage`.
    pub(crate) fn new(points: Vec<PathBuf>, storage: PathBuf) -> Self {
        let (seen, _) = watch::channel(read(&points, &storage));
        Self { points: points.into(), storage: storage.into(), seen }
    }

    /// Looks again and again.
    pub(crate) async fn keep(self) {
        loop {
            sleep(LOOK).await;
            let now = read(&self.points, &self.storage);
            self.seen.send_if_modified(|seen| {
                let changed = *seen != now;
                if changed {
                    tracing::info!(mounts = ?now, "mounts changed");
                    *seen = now;
                }
                changed
            });
        }
    }

    /// Returns when the state of one has changed after this call.
    pub(crate) async fn changed(&self) {
        // The sender is in self.
        let _ = self.seen.subscribe().changed().await;
    }

    /// All of them, as the annotation has it.
    pub(crate) fn text(&self) -> String {
        serde_json::to_string(&self.seen.borrow().table).expect("names and words are JSON")
    }

    /// How many are not mounted.
    pub(crate) fn missing(&self) -> usize {
        self.seen.borrow().table.values().filter(|state| !state.mounted).count()
    }

    /// Whether a path is on a filesystem that this node is to have and has. Without any to have, every
    /// path is. Storage of a job is there only where it is mounted itself.
    pub(crate) fn have(&self, path: &Path) -> bool {
        let Seen { table, storage } = &*self.seen.borrow();
        if !table.is_empty() && path.starts_with(&self.storage) {
            return storage.iter().any(|point| path.starts_with(point));
        }
        let above = table.iter().filter(|(point, _)| path.starts_with(point));
        let nearest = above.max_by_key(|(point, _)| point.len());
        table.is_empty() || nearest.is_some_and(|(_, state)| state.mounted)
    }
}

fn read(points: &[PathBuf], storage: &Path) -> Seen {
    let mountinfo = fs::read("/proc/self/mountinfo").unwrap_or_default();
    let mut mounted: BTreeMap<PathBuf, String> = BTreeMap::new();
    for mount in mounts::all(&mountinfo) {
        mounted.insert(mount.point, mount.filesystem); // the later one is over the earlier
    }
    let state = |point: &PathBuf| {
        let kind = mounted.get(point).cloned();
        (point.display().to_string(), State { mounted: kind.is_some(), kind })
    };
    let table = points.iter().map(state).collect();
    let is_below = |point: &&PathBuf| point.as_path() != storage && point.starts_with(storage);
    Seen { table, storage: mounted.keys().filter(is_below).cloned().collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_on_the_nearest_mount_point() {
        let storage = || PathBuf::from("/no/such");
        let mounts = Mounts::new(vec!["/proc".into(), "/proc/no/such".into()], storage());
        assert!(mounts.have(Path::new("/proc/self")));
        assert!(!mounts.have(Path::new("/proc/no/such/x")));
        assert!(!mounts.have(Path::new("/process")));
        assert_eq!(mounts.missing(), 1);
        let expected =
            r#"{"/proc":{"mounted":true,"type":"proc"},"/proc/no/such":{"mounted":false}}"#;
        assert_eq!(mounts.text(), expected);
        assert!(Mounts::new(Vec::new(), storage()).have(Path::new("/x")));
    }

    #[test]
    fn storage_of_a_job_is_there_where_it_is_mounted_itself() {
        // The root is a mount point, as the volume is that jobs' storage is mounted in.
        let mounts = Mounts::new(vec!["/".into()], "/".into());
        assert!(mounts.have(Path::new("/proc/self")));
        assert!(!mounts.have(Path::new("/storage of another node")));
    }
}
