//! `longshore verify`: compares a copy with its source, or with a manifest. The copy is read past the
//! page cache. It changes nothing and never prints; what differs is in the [`Comparison`].

mod content;
mod extra;
mod findings;
mod listed;
mod metadata;
mod trees;

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag, openat};
use nix::sys::stat::Mode;
use serde::Serialize;

use crate::engine::Cancel;
use crate::engine::failures::FailedList;
use crate::engine::filesystem::Filesystem;
use crate::engine::sizing;
use crate::error::Refusal;
use crate::exit::Outcome;
use crate::filter::Filter;
use crate::lustre::ready;
use crate::progress::Progress;
use crate::report::{ReadBack, path_or_base64};
use findings::Findings;

/// Version of the JSON report's layout; raised when a key changes its meaning.
pub const VERIFY_VERSION: u32 = 1;

/// Threads per core where the device or server has to be waited for, and most of them: as for a copy.
const THREADS_PER_CORE: usize = 4;
const THREADS_MAX: usize = 32;

/// What is compared.
#[derive(Debug, Clone)]
pub struct Request {
    /// What the copy is compared with.
    pub against: Against,
    /// Mode, owner, times, extended attributes and hard links as well.
    pub metadata: bool,
    /// Worker threads; default from the cores and the filesystems.
    pub threads: Option<NonZeroUsize>,
    /// Which items are compared, by their path below the source.
    pub filter: Arc<Filter>,
}

/// What a copy is compared with.
#[derive(Debug, Clone)]
pub enum Against {
    /// A source, and its copy: no rule of cp, but item against item.
    Source(PathBuf, PathBuf),
    /// A manifest, and the directory that it describes; the one that it names itself without.
    Manifest(PathBuf, Option<PathBuf>),
}

/// How a comparison is stopped, and where it writes as it goes.
#[derive(Debug, Default, Clone)]
pub struct Control {
    /// The way to stop it.
    pub cancel: Cancel,
    /// Where the source path (with a manifest, the copy's) of everything that differs is written,
    /// NUL-terminated; what is extra has no such path and is left out.
    pub failed_list: Option<Arc<FailedList>>,
    /// Live counters: what was met and what was compared; `failed` counts differences.
    pub progress: Arc<Progress>,
    /// Whether the files of a source are counted ahead, for somebody who wants to know how much is
    /// left. A manifest says it itself.
    pub count_ahead: bool,
}

/// What a comparison found.
#[derive(Debug, Clone, Serialize)]
pub struct Comparison {
    /// [`VERIFY_VERSION`].
    pub version: u32,
    /// `complete` when nothing differs, `partial` when something does.
    pub outcome: Outcome,
    /// The process exit code that belongs to the outcome.
    pub exit_code: u8,
    /// Wall-clock time in seconds.
    pub seconds: f64,
    /// Regular files whose content was compared.
    pub files: u64,
    /// Bytes of them, holes included.
    pub bytes: u64,
    /// Other items that were compared.
    pub others: u64,
    /// How the copy was read.
    pub read_back: ReadBack,
    /// With a manifest: whether it says that everything had been copied.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub manifest_complete: Option<bool>,
    /// Differences by kind.
    pub differences: BTreeMap<&'static str, u64>,
    /// The first [`findings::KEPT`] of them.
    pub found: Vec<Difference>,
}

/// One difference.
#[derive(Debug, Clone, Serialize)]
pub struct Difference {
    /// Path below what was compared; `.` is that itself.
    #[serde(serialize_with = "path_or_base64")]
    pub path: PathBuf,
    /// What differs.
    pub kind: Kind,
    /// In words.
    pub message: String,
    /// For `content`: the first ranges of bytes, start and end. Against a manifest, whole chunks.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ranges: Vec<(u64, u64)>,
}

/// What differs. The words are keys of the report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// The copy has no such item.
    Missing,
    /// Only the copy has it.
    Extra,
    /// Another type of item.
    Type,
    /// Another size.
    Size,
    /// Other bytes.
    Content,
    /// A symbolic link that points elsewhere.
    Target,
    /// Another device.
    Device,
    /// Not linked to the same names.
    HardLink,
    /// Other permission bits.
    Mode,
    /// Another owner or group.
    Owner,
    /// Another modification time.
    Time,
    /// Other extended attributes or ACLs.
    Xattr,
    /// It could not be looked at, on either side.
    Unreadable,
}

impl Kind {
    /// Key of the report; stable.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Extra => "extra",
            Self::Type => "type",
            Self::Size => "size",
            Self::Content => "content",
            Self::Target => "target",
            Self::Device => "device",
            Self::HardLink => "hard-link",
            Self::Mode => "mode",
            Self::Owner => "owner",
            Self::Time => "time",
            Self::Xattr => "xattr",
            Self::Unreadable => "unreadable",
        }
    }
}

/// Compares.
///
/// # Errors
/// A [`Refusal`] when one side cannot be opened, or when the manifest is not whole.
pub fn run(request: &Request, control: &Control) -> Result<Comparison, Refusal> {
    let started = Instant::now();
    let ends: Vec<&Path> = match &request.against {
        Against::Source(source, copy) => vec![source, copy],
        Against::Manifest(_, directory) => directory.iter().map(PathBuf::as_path).collect(),
    };
    ready::check(&ends, &[], ready::LIMIT)?;
    sizing::descriptors();
    let findings;
    let mut manifest_complete = None;
    match &request.against {
        Against::Source(source, copy) => {
            findings = Findings::new(source, control);
            trees::compare(request, control, source, copy, &findings)?;
        }
        Against::Manifest(manifest, directory) => {
            let reader = crate::manifest::Reader::open(manifest)?;
            manifest_complete = Some(reader.footer.complete);
            let directory = directory.clone().unwrap_or_else(|| reader.header.root.clone());
            if request.filter.is_empty() {
                let progress = &control.progress;
                progress.total_files.store(reader.footer.files, Relaxed);
                progress.total_bytes.store(reader.footer.bytes, Relaxed);
                progress.totals_known.store(true, Relaxed);
            }
            findings = Findings::new(&directory, control);
            listed::compare(request, control, reader, &directory, &findings)?;
        }
    }
    let outcome = match control.cancel.outcome() {
        Some(outcome) => outcome,
        None if findings.is_same() => Outcome::Complete,
        None => Outcome::Partial,
    };
    let mut comparison = findings.into_comparison(outcome);
    comparison.seconds = started.elapsed().as_secs_f64();
    comparison.manifest_complete = manifest_complete;
    Ok(comparison)
}

/// Opens a directory that the user named.
fn open_named(path: &Path) -> Result<OwnedFd, Refusal> {
    openat(AT_FDCWD, path, OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())
        .map_err(|errno| Refusal::system(path, "open the directory", errno))
}

/// Writes out what is dirty at the copy, or its pages could not be dropped. That it may not be possible
/// (no permission to read) is no reason not to look.
fn flush(copy: &OwnedFd) {
    let _: Result<(), Errno> = nix::unistd::syncfs(copy);
}

/// How many threads compare two filesystems.
fn threads(request: &Request, sides: &[&OwnedFd]) -> usize {
    let cores = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
    let in_memory = |side: &&OwnedFd| Filesystem::of(side).is_ok_and(|fs| fs.in_memory);
    let many = (cores * THREADS_PER_CORE).min(THREADS_MAX).max(cores);
    let default = if sides.iter().all(in_memory) { cores } else { many };
    request.threads.map_or(default, NonZeroUsize::get)
}
