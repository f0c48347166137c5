//! Counters of a running copy, and the snapshots that bars, JSON lines and metrics are made from.
//! It never prints and never decides.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use serde::Serialize;

/// Live counters of one copy. Workers add, anybody may take a [`Snapshot`].
#[derive(Debug)]
pub struct Progress {
    started: Instant,
    /// Regular files met by the walk.
    pub files_found: AtomicU64,
    /// Bytes of those files, as their inodes say (holes count, further names of an inode do not).
    pub bytes_found: AtomicU64,
    /// Regular files that are complete at the destination, hard links not counted.
    pub files_done: AtomicU64,
    /// Bytes of content put in place, holes counted as done when their file is.
    pub bytes_done: AtomicU64,
    /// Bytes read back from the destination.
    pub bytes_verified: AtomicU64,
    /// Directories whose contents and attributes are in place.
    pub directories_done: AtomicU64,
    /// Symbolic links, hard links and special files made.
    pub links_done: AtomicU64,
    /// Files left alone because the destination already had them.
    pub files_skipped: AtomicU64,
    /// Bytes of the files left alone.
    pub bytes_skipped: AtomicU64,
    /// Files that an earlier run of the same copy had finished; they are among those done.
    pub files_resumed: AtomicU64,
    /// Bytes that an earlier run had put in place, in finished files and in parts of large ones; they
    /// are among those done.
    pub bytes_resumed: AtomicU64,
    /// Of which in parts of large files.
    pub ranges_resumed: AtomicU64,
    /// Items that failed.
    pub failed: AtomicU64,
    /// Whether the walk has seen everything, so that the totals are final.
    pub walk_done: AtomicBool,
    /// Regular files of all sources, when they were counted ahead of the copy.
    pub total_files: AtomicU64,
    /// Bytes of those files.
    pub total_bytes: AtomicU64,
    /// Whether the two totals are known.
    pub totals_known: AtomicBool,
}

impl Default for Progress {
    fn default() -> Self {
        Self {
            started: Instant::now(),
            files_found: AtomicU64::new(0),
            bytes_found: AtomicU64::new(0),
            files_done: AtomicU64::new(0),
            bytes_done: AtomicU64::new(0),
            bytes_verified: AtomicU64::new(0),
            directories_done: AtomicU64::new(0),
            links_done: AtomicU64::new(0),
            files_skipped: AtomicU64::new(0),
            bytes_skipped: AtomicU64::new(0),
            files_resumed: AtomicU64::new(0),
            bytes_resumed: AtomicU64::new(0),
            ranges_resumed: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            walk_done: AtomicBool::new(false),
            total_files: AtomicU64::new(0),
            total_bytes: AtomicU64::new(0),
            totals_known: AtomicBool::new(false),
        }
    }
}

impl Progress {
    /// The counters as they are now. They are read one by one, so that sums may be off by the items
    /// in flight.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        let totals_known = self.totals_known.load(Relaxed);
        let bytes_found = self.bytes_found.load(Relaxed).max(self.total_bytes.load(Relaxed));
        Snapshot {
            elapsed: self.started.elapsed(),
            files_found: self.files_found.load(Relaxed).max(self.total_files.load(Relaxed)),
            // What is skipped will never be done.
            bytes_found: bytes_found.saturating_sub(self.bytes_skipped.load(Relaxed)),
            files_done: self.files_done.load(Relaxed),
            bytes_done: self.bytes_done.load(Relaxed),
            bytes_verified: self.bytes_verified.load(Relaxed),
            directories_done: self.directories_done.load(Relaxed),
            links_done: self.links_done.load(Relaxed),
            files_skipped: self.files_skipped.load(Relaxed),
            files_resumed: self.files_resumed.load(Relaxed),
            bytes_resumed: self.bytes_resumed.load(Relaxed),
            failed: self.failed.load(Relaxed),
            walk_done: totals_known || self.walk_done.load(Relaxed),
        }
    }
}

/// The counters at one instant; meanings as in [`Progress`].
#[derive(Debug, Clone, Serialize)]
#[allow(missing_docs)] // documented at the counters they are read from
pub struct Snapshot {
    /// Since the copy began.
    #[serde(skip)]
    pub elapsed: Duration,
    pub files_found: u64,
    pub bytes_found: u64,
    pub files_done: u64,
    pub bytes_done: u64,
    pub bytes_verified: u64,
    pub directories_done: u64,
    pub links_done: u64,
    pub files_skipped: u64,
    pub files_resumed: u64,
    pub bytes_resumed: u64,
    pub failed: u64,
    pub walk_done: bool,
}
