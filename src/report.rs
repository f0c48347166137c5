//! What a copy did, as a value: the JSON report and the final summary are both made from it.
//! It never prints.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Serialize, Serializer};

use crate::checksum::Algorithm;
use crate::error::{FailureKind, Step};
use crate::exit::Outcome;
use crate::lanes::bottleneck::Bottleneck;
use crate::lustre::report::LustreReport;

/// Version of the JSON report's layout; raised when a key changes its meaning.
pub const REPORT_VERSION: u32 = 1;

/// What a copy did.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// [`REPORT_VERSION`].
    pub version: u32,
    /// How it ended.
    pub outcome: Outcome,
    /// The process exit code that belongs to the outcome.
    pub exit_code: u8,
    /// Why it stopped early, in a sentence; absent when it did not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stopped_by: Option<String>,
    /// Options to add to the same command to go on: none with a journal; without one `--update`, and
    /// `-T` when the destination, which is a directory by now, would otherwise take the source inside it.
    pub go_on_with: &'static str,
    /// Whether the same command with other options, or without its journal, would put the copy one level deeper (`-T` does
    /// not).
    #[serde(skip)]
    pub nests: bool,
    /// Whether what was written may be lost or damaged, because the destination could not be flushed or went away: all
    /// of it is to be copied again.
    pub unreliable: bool,
    /// Whether nothing was written because only a plan was asked for.
    pub dry_run: bool,
    /// Wall-clock time in seconds, flush included.
    pub seconds: f64,
    /// Of which the final flush.
    pub sync_seconds: f64,
    /// What was copied.
    pub copied: Copied,
    /// What an earlier run of the same copy had done, when this one went on with it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resumed: Option<Resumed>,
    /// Files left alone because the destination already had them.
    pub files_skipped: u64,
    /// Items left out by `--include`/`--exclude` and `--one-file-system`.
    pub excluded: u64,
    /// Items deleted at the destination.
    pub deleted: u64,
    /// What was read back from the destination; absent without `--verify`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub verify: Option<VerifyReport>,
    /// Bytes of content per second of wall-clock time.
    pub bytes_per_second: f64,
    /// Which mechanism did how much: mechanism word to count of files.
    pub mechanisms: BTreeMap<&'static str, u64>,
    /// How the engine was set up, and which fast paths were not to be had, and why.
    pub setup: Setup,
    /// How many workers there were, and how that was found.
    pub concurrency: Concurrency,
    /// What held the copy up.
    pub bottleneck: Bottleneck,
    /// What concerns Lustre; absent where neither side is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lustre: Option<LustreReport>,
    /// Attributes that could not be kept and are no error by policy: what, and how often.
    pub warnings: BTreeMap<&'static str, u64>,
    /// Failed items by kind.
    pub errors: BTreeMap<&'static str, u64>,
    /// The first failures, at most [`crate::engine::failures::KEPT`] of them; the failed list has all.
    pub failures: Vec<Failure>,
}

/// Counts of what was copied.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Copied {
    /// Regular files with their content.
    pub files: u64,
    /// Directories.
    pub directories: u64,
    /// Symbolic links.
    pub symlinks: u64,
    /// Further names of files already copied.
    pub hard_links: u64,
    /// FIFOs, sockets and devices.
    pub special: u64,
    /// Bytes of content as the inodes say; holes count, hard links do not.
    pub bytes: u64,
    /// Of which read and written (neither holes nor cloned).
    pub bytes_moved: u64,
}

/// What `--verify` read back, found and mended.
#[derive(Debug, Clone, Default, Serialize)]
pub struct VerifyReport {
    /// The checksum.
    pub algorithm: Algorithm,
    /// Files that were read back.
    pub files: u64,
    /// Bytes of them, holes included.
    pub bytes: u64,
    /// Time that workers spent on it, all of them together, in seconds.
    pub worker_seconds: f64,
    /// Files whose source was read once more, because the copy did not see their bytes (clones,
    /// `copy_file_range`).
    pub files_reread: u64,
    /// How the files were read back.
    pub read_back: ReadBack,
    /// Ranges that were wrong on the device.
    pub bad_ranges: u64,
    /// Of which are right now.
    pub repaired_ranges: u64,
    /// Bytes of those.
    pub repaired_bytes: u64,
    /// Ranges that are still wrong; their files are among the failures.
    pub unrepaired_ranges: u64,
    /// The first 1000 ranges that were wrong.
    pub damage: Vec<Damage>,
}

/// Numbers of files by the way in which they were read back.
#[derive(Debug, Clone, Default, Serialize)]
pub struct ReadBack {
    /// With O_DIRECT.
    pub direct: u64,
    /// Through the page cache, after their pages were dropped from it.
    pub dropped: u64,
    /// From memory: the destination is memory, or its pages would not go.
    pub memory: u64,
}

/// A range of a file that was wrong on the device.
#[derive(Debug, Clone, Serialize)]
pub struct Damage {
    /// The source path.
    #[serde(serialize_with = "path_or_base64")]
    pub path: PathBuf,
    /// First byte.
    pub start: u64,
    /// One behind the last byte.
    pub end: u64,
    /// Whether it is right now.
    pub repaired: bool,
}

/// What an earlier run of the same copy had done, and this one did not do again.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Resumed {
    /// Regular files that were complete.
    pub files: u64,
    /// Symbolic links, hard links and special files that were there.
    pub links: u64,
    /// Bytes that were in place, in complete files and in parts of large ones.
    pub bytes: u64,
    /// Of which in parts of large files that this run finished.
    pub ranges: u64,
}

/// How the engine was set up for this pair of filesystems.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Setup {
    /// `uring`, `threads` or `clone`: what moved the bytes unless a file says otherwise.
    pub backend: &'static str,
    /// The most worker threads that there may be.
    pub threads: usize,
    /// Reads in flight per worker for small files.
    pub depth: usize,
    /// Type of the source filesystem.
    pub source_filesystem: String,
    /// Type of the destination filesystem.
    pub destination_filesystem: String,
    /// Fast paths that were not to be had, each with its reason.
    pub notes: Vec<String>,
}

/// How many workers there were, and how that was found.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Concurrency {
    /// Workers wanted at the end.
    pub workers: usize,
    /// The most that there were at a time.
    pub peak: usize,
    /// Bounds of how many may be inside a lane at once, for lanes that had one at the end.
    pub lanes: BTreeMap<&'static str, usize>,
    /// Changes that were tried.
    pub steps: u32,
    /// What was set and what it came to, over time; at most 500 points at equal distances.
    pub trace: Vec<TracePoint>,
}

/// One point of the trace.
#[derive(Debug, Clone, Serialize)]
pub struct TracePoint {
    /// Since the workers began.
    pub seconds: f64,
    /// Workers wanted from then on.
    pub workers: usize,
    /// Bounds of lanes, as in [`Concurrency`].
    pub lanes: BTreeMap<&'static str, usize>,
    /// Content moved since the point before.
    pub bytes_per_second: f64,
    /// Items begun since the point before.
    pub items_per_second: f64,
}

/// One item that failed.
#[derive(Debug, Clone, Serialize)]
pub struct Failure {
    /// The source path (for a deletion, the destination path).
    #[serde(serialize_with = "path_or_base64")]
    pub path: PathBuf,
    /// What was being done.
    pub step: Step,
    /// What it means.
    pub kind: FailureKind,
    /// The errno's name, when the system gave one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub errno: Option<String>,
    /// The sentence for people.
    pub message: String,
}

/// Serialises a path as a string when it is UTF-8, else as `{"base64": "…"}` of its raw bytes.
///
/// # Errors
/// Those of the serializer.
pub fn path_or_base64<S: Serializer>(
    path: &std::path::Path,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    use base64::Engine as _;
    use serde::ser::SerializeMap;
    use std::os::unix::ffi::OsStrExt;
    if let Some(text) = path.to_str() {
        return serializer.serialize_str(text);
    }
    let raw = base64::engine::general_purpose::STANDARD.encode(path.as_os_str().as_bytes());
    let mut map = serializer.serialize_map(Some(1))?;
    map.serialize_entry("base64", &raw)?;
    map.end()
}
