//! Which of the filesystems that this node is to have are mounted, as the kernel's table says. It asks no
//! filesystem, for one that hangs would not answer, and mounts nothing.

use std::collections::BTreeMap;
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

/// The mount points of this node. Clones see the same.
#[derive(Clone, Debug)]
pub(crate) struct Mounts {
    points: Arc<[PathBuf]>,
    table: watch::Sender<Table>,
}

impl Mounts {
    /// Looks at these mount points.
    pub(crate) fn new(points: Vec<PathBuf>) -> Self {
        let (table, _) = watch::channel(read(&points));
        Self { points: points.into(), table }
    }

    /// Looks again and again.
    pub(crate) async fn keep(self) {
        loop {
            sleep(LOOK).await;
            let now = read(&self.points);
            self.table.send_if_modified(|table| {
                let changed = *table != now;
                if changed {
                    tracing::info!(mounts = ?now, "mounts changed");
                    *table = now;
                }
                changed
            });
        }
    }

    /// Returns when the state of one has changed after this call.
    pub(crate) async fn changed(&self) {
        // The sender is in self.
        let _ = self.table.subscribe().changed().await;
    }

    /// All of them, as the annotation has it.
    pub(crate) fn text(&self) -> String {
        serde_json::to_string(&*self.table.borrow()).expect("names and words are JSON")
    }

    /// How many are not mounted.
    pub(crate) fn missing(&self) -> usize {
        self.table.borrow().values().filter(|state| !state.mounted).count()
    }

    /// Whether a path is on a filesystem that this node is to have and has. Without any to have, every
    /// path is.
    pub(crate) fn have(&self, path: &Path) -> bool {
        let table = self.table.borrow();
        let above = table.iter().filter(|(point, _)| path.starts_with(point));
        let nearest = above.max_by_key(|(point, _)| point.len());
        table.is_empty() || nearest.is_some_and(|(_, state)| state.mounted)
    }
}

fn read(points: &[PathBuf]) -> Table {
    let mountinfo = fs::read("/proc/self/mountinfo").unwrap_or_default();
    let mut mounted: BTreeMap<PathBuf, String> = BTreeMap::new();
    for mount in mounts::all(&mountinfo) {
        mounted.insert(mount.point, mount.filesystem); // the later one is over the earlier
    }
    let state = |point: &PathBuf| {
        let kind = mounted.get(point).cloned();
        (point.display().to_string(), State { mounted: kind.is_some(), kind })
    };
    points.iter().map(state).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_on_the_nearest_mount_point() {
        let mounts = Mounts::new(vec!["/proc".into(), "/proc/no/such".into()]);
        assert!(mounts.have(Path::new("/proc/self")));
        assert!(!mounts.have(Path::new("/proc/no/such/x")));
        assert!(!mounts.have(Path::new("/process")));
        assert_eq!(mounts.missing(), 1);
        let expected =
            r#"{"/proc":{"mounted":true,"type":"proc"},"/proc/no/such":{"mounted":false}}"#;
        assert_eq!(mounts.text(), expected);
        assert!(Mounts::new(Vec::new()).have(Path::new("/x")));
    }
}
