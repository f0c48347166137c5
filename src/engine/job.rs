//! What all workers of one copy share: the request, the counters, the failures, the stop flag.
//! It does no work of its own.

use std::collections::{HashMap, HashSet};
use std::ffi::CString;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::{FileStat, Mode};

use super::Control;
use super::attributes::Attributes;
use super::check::{Checks, Part};
use super::dir::Dir;
use super::failures::{FailedList, Failures};
use super::filesystem::Filesystem;
use super::inode::Inode;
use super::large::LargeCopy;
use super::links::LinkTable;
use super::parked::Parked;
use super::sites::Sites;
use super::sizing::Sizing;
use super::tally::Tally;
use crate::backend::pair::Pair;
use crate::backend::piece_buffers::PieceBuffers;
use crate::backend::servers::Servers;
use crate::checksum::Algorithm;
use crate::error::{FailureKind, Step, StepError};
use crate::journal::Journal;
use crate::options::CopyOptions;
use crate::plan::Plan;
use crate::selection::Node;

/// Memory for pieces of striped files that are read or wait to be written.
const PIECE_BUFFERS_BYTES: usize = 64 << 20;

/// One piece of work.
#[derive(Debug)]
pub(crate) enum Task {
    /// A source of the plan, by index.
    Root(usize),
    /// A directory to be made and read.
    Enter(Enter),
    /// More entries of a directory, from this position on.
    Read(Arc<Dir>, i64),
    /// Entries that are no directories (or of unknown type).
    Slice(Arc<Dir>, Names),
    /// Chunks of a large file that others are copying too.
    Help(Arc<LargeCopy>),
    /// Published files to be read back, or read for their digests.
    Check(Vec<Part>),
}

impl Task {
    /// Whether the walk is not over while this waits.
    pub(crate) fn is_walk(&self) -> bool {
        matches!(self, Self::Root(_) | Self::Enter(_) | Self::Read(..))
    }
}

/// A directory to be made and read.
#[derive(Debug)]
pub(crate) struct Enter {
    pub(crate) parent: Arc<Dir>,
    pub(crate) source_name: CString,
    pub(crate) name: CString,
    pub(crate) selection: Option<Arc<Node>>,
}

/// Names with their types, packed: a directory of ten million entries passes through these.
#[derive(Debug, Default)]
pub(crate) struct Names {
    /// For each name its `d_type`, the bytes, and a NUL.
    packed: Vec<u8>,
    count: usize,
}

impl Names {
    /// Adds a name.
    pub(crate) fn push(&mut self, kind: u8, name: &std::ffi::CStr) {
        self.packed.push(kind);
        self.packed.extend_from_slice(name.to_bytes_with_nul());
        self.count += 1;
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.count
    }

    /// The names, with their types.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u8, &std::ffi::CStr)> {
        let mut rest = self.packed.as_slice();
        std::iter::from_fn(move || {
            let (kind, names) = rest.split_first()?;
            let name = std::ffi::CStr::from_bytes_until_nul(names).ok()?;
            rest = &names[name.to_bytes_with_nul().len()..];
            Some((*kind, name))
        })
    }
}

/// The shared state of one copy.
#[derive(Debug)]
pub(crate) struct Job<'j> {
    pub(crate) plan: &'j Plan,
    pub(crate) control: &'j Control,
    pub(crate) sizing: &'j Sizing,
    pub(crate) tally: &'j Tally,
    pub(crate) attributes: Attributes<'j>,
    pub(crate) journal: Option<Arc<Journal>>,
    pub(crate) links: LinkTable,
    pub(crate) failures: Failures,
    /// What `--verify` and `--manifest` ask for.
    pub(crate) checks: Option<Checks>,
    /// The Lustre filesystems that were met.
    pub(crate) sites: Sites,
    /// The servers of striped files.
    pub(crate) servers: Servers,
    /// Striped files that wait for servers with room.
    pub(crate) parked: Parked,
    /// For pieces of striped files.
    pub(crate) buffers: Arc<PieceBuffers>,
    /// By the device numbers of source and destination.
    pairs: RwLock<HashMap<(u64, u64), KnownPair>>,
    /// Source and destination directories of the roots; the latter must not be entered as sources.
    roots: RwLock<Vec<(Inode, Inode)>>,
    /// The directories that roots were copied to, by the root's index.
    places: Mutex<Vec<(usize, Inode)>>,
    /// The devices that the directories of the sources lie on.
    source_devices: Mutex<HashSet<u64>>,
    /// For each device that files went to, a descriptor to flush it by, opened before they did; none
    /// where no directory can be read.
    written: Mutex<Vec<(u64, Option<OwnedFd>)>>,
    /// Large files that are being copied.
    pub(crate) large_files: AtomicUsize,
    /// Tasks of the walk that are not done.
    walking: AtomicUsize,
    /// Set when a directory could not be read, so that nothing may be deleted.
    walk_failed: AtomicBool,
    /// An error of flushing was met.
    flush_failed: AtomicBool,
    stop: AtomicBool,
    fatal: Mutex<Option<(PathBuf, StepError)>>,
    /// What the report says besides.
    notes: Mutex<Vec<String>>,
}

/// What is learned about a pair, and what is known beforehand.
pub(crate) type KnownPair = (Arc<Pair>, Filesystems);

/// The two filesystems of a pair.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Filesystems {
    pub(crate) source: Filesystem,
    pub(crate) destination: Filesystem,
}

impl<'j> Job<'j> {
    pub(crate) fn new(
        plan: &'j Plan,
        control: &'j Control,
        sizing: &'j Sizing,
        tally: &'j Tally,
        journal: Option<Arc<Journal>>,
    ) -> Self {
        Self {
            plan,
            control,
            sizing,
            tally,
            attributes: Attributes::new(&plan.options, tally),
            journal,
            links: LinkTable::default(),
            failures: Failures::default(),
            checks: Checks::new(
                plan.options.checksum,
                plan.options.verify && !plan.options.dry_run,
                control.manifest.clone(),
                sizing.threads,
            ),
            sites: Sites::default(),
            servers: Servers::default(),
            parked: Parked::new(sizing.parked),
            buffers: Arc::new(PieceBuffers::new(sizing.piece_bytes, PIECE_BUFFERS_BYTES)),
            pairs: RwLock::default(),
            roots: RwLock::default(),
            places: Mutex::default(),
            source_devices: Mutex::default(),
            written: Mutex::default(),
            large_files: AtomicUsize::new(0),
            walking: AtomicUsize::new(0),
            walk_failed: AtomicBool::new(false),
            flush_failed: AtomicBool::new(false),
            stop: AtomicBool::new(false),
            fatal: Mutex::new(None),
            notes: Mutex::default(),
        }
    }

    pub(crate) fn options(&self) -> &'j CopyOptions {
        &self.plan.options
    }

    /// The checksum to be taken of what is moved, if any.
    pub(crate) fn checksum(&self) -> Option<Algorithm> {
        self.checks.as_ref().map(Checks::algorithm)
    }

    /// Whether published files are read back.
    pub(crate) fn reads_back(&self) -> bool {
        self.checks.as_ref().is_some_and(Checks::reads_back)
    }

    /// Whether the filesystems of a directory's source and destination tell their holes.
    pub(crate) fn tells_holes(&self, dir: &Dir) -> (bool, bool) {
        let pair = dir.destination_stat.as_ref().and_then(|stat| self.pair(&dir.stat, stat));
        pair.map_or((false, false), |(_, filesystems)| {
            (filesystems.source.tells_holes, filesystems.destination.tells_holes)
        })
    }

    /// Whether workers must drop what they have not begun.
    pub(crate) fn stopped(&self) -> bool {
        self.stop.load(Relaxed) || self.control.cancel.outcome().is_some()
    }

    /// Waits; false when the copy was stopped meanwhile.
    pub(crate) fn waits(&self, time: Duration) -> bool {
        // How often it is looked whether the copy was stopped.
        const NAP: Duration = Duration::from_millis(50);
        let until = Instant::now() + time;
        while !self.stopped()
            && let left = until.saturating_duration_since(Instant::now())
            && !left.is_zero()
        {
            std::thread::sleep(left.min(NAP));
        }
        !self.stopped()
    }

    /// Why the copy stopped, when it was not cancelled.
    pub(crate) fn fatal(&self) -> Option<(PathBuf, StepError)> {
        self.fatal.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Records a failed item. A condition that concerns the whole destination stops the copy.
    pub(crate) fn fail(&self, path: PathBuf, error: StepError) {
        self.note_failure(path, error, self.control.failed_list.as_deref());
    }

    /// Records a failure at the destination that concerns no item of the source, so that it has no
    /// place in a list of what to copy again.
    pub(crate) fn fail_at_destination(&self, path: PathBuf, error: StepError) {
        self.note_failure(path, error, None);
    }

    fn note_failure(&self, path: PathBuf, error: StepError, list: Option<&FailedList>) {
        self.control.progress.failed.fetch_add(1, Relaxed);
        if error.kind.is_fatal() {
            let mut fatal = self.fatal.lock().unwrap_or_else(PoisonError::into_inner);
            fatal.get_or_insert((path.clone(), error));
            self.stop.store(true, Relaxed);
            self.control.lanes.stop();
        }
        self.failures.add(path, error, list);
    }

    /// Adds a sentence to the report.
    pub(crate) fn note(&self, note: String) {
        self.notes.lock().unwrap_or_else(PoisonError::into_inner).push(note);
    }

    /// The sentences for the report.
    pub(crate) fn take_notes(&self) -> Vec<String> {
        std::mem::take(&mut self.notes.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Notes that part of the source was not seen, so that nothing may be deleted for its absence.
    pub(crate) fn walk_failed(&self) {
        self.walk_failed.store(true, Relaxed);
    }

    /// Whether all of the source was seen.
    pub(crate) fn walk_is_complete(&self) -> bool {
        !self.walk_failed.load(Relaxed)
    }

    /// Counts a task of the walk.
    pub(crate) fn walk_begins(&self, tasks: usize) {
        self.walking.fetch_add(tasks, Relaxed);
    }

    /// Counts a task of the walk as done; its follow-ups have been counted.
    pub(crate) fn walk_ends(&self) {
        if self.walking.fetch_sub(1, Relaxed) == 1 {
            self.control.progress.walk_done.store(true, Relaxed);
        }
    }

    /// What is known of the filesystems of two open directories.
    pub(crate) fn pair(&self, source: &FileStat, destination: &FileStat) -> Option<KnownPair> {
        let key = (source.st_dev, destination.st_dev);
        self.pairs.read().unwrap_or_else(PoisonError::into_inner).get(&key).cloned()
    }

    /// Notes a device that directories of a source lie on.
    pub(crate) fn note_source_device(&self, device: u64) {
        let mut devices = self.source_devices.lock().unwrap_or_else(PoisonError::into_inner);
        devices.insert(device);
    }

    /// Whether something of a source lies on this device.
    pub(crate) fn has_source_on(&self, device: u64) -> bool {
        let devices = self.source_devices.lock().unwrap_or_else(PoisonError::into_inner);
        devices.contains(&device)
    }

    /// Adds a pair that was met for the first time.
    pub(crate) fn add_pair(
        &self,
        source: &FileStat,
        destination: &FileStat,
        filesystems: Filesystems,
    ) -> KnownPair {
        let mut pairs = self.pairs.write().unwrap_or_else(PoisonError::into_inner);
        let key = (source.st_dev, destination.st_dev);
        pairs
            .entry(key)
            .or_insert_with(|| (Arc::new(Pair::new(self.sizing.clone)), filesystems))
            .clone()
    }

    /// Notes that files go to the device of a directory.
    pub(crate) fn writes_to(&self, device: u64, directory: impl AsFd) {
        if let Some(journal) = &self.journal {
            journal.writes_to(device, &directory);
        }
        let mut written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        if written.iter().all(|(known, _)| *known != device) {
            // The directory that a root hangs in is open for its path only.
            let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
            written.push((device, openat(directory, c".", flags, Mode::empty()).ok()));
        }
    }

    /// Copies of the descriptors to flush every device by, while the copy goes on.
    pub(crate) fn written_devices(&self) -> Vec<Option<OwnedFd>> {
        let written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        written.iter().map(|(_, fd)| fd.as_ref().and_then(|fd| fd.try_clone().ok())).collect()
    }

    /// Notes that written data may be lost; the kernel tells it once, and not which.
    pub(crate) fn flushing_failed(&self, errno: Errno) {
        self.flush_failed.store(true, Relaxed);
        let destination = self.plan.roots.first().map(|root| root.destination.clone());
        self.fail_at_destination(destination.unwrap_or_default(), StepError::os(Step::Sync, errno));
    }

    /// Whether what was written may be lost, and nobody knows which part, whatever it looks like: it could not be
    /// flushed, or its filesystem went away.
    pub(crate) fn is_unreliable(&self) -> bool {
        let gone = |error: StepError| {
            error.kind == FailureKind::FilesystemGone && error.step.is_at_destination()
        };
        self.flush_failed.load(Relaxed) || self.fatal().is_some_and(|(_, error)| gone(error))
    }

    /// Whether a filesystem went away, or takes no more writes, perhaps after an error.
    pub(crate) fn has_lost_filesystem(&self) -> bool {
        let kind = self.fatal().map(|(_, error)| error.kind);
        matches!(kind, Some(FailureKind::FilesystemGone | FailureKind::ReadOnly))
    }

    /// The descriptors to flush every device by.
    pub(crate) fn take_written(&self) -> Vec<Option<OwnedFd>> {
        let mut written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        written.drain(..).map(|(_, fd)| fd).collect()
    }

    /// Notes the directories of a root.
    pub(crate) fn add_root(&self, source: Inode, destination: Inode) {
        let mut roots = self.roots.write().unwrap_or_else(PoisonError::into_inner);
        roots.push((source, destination));
    }

    /// Notes the directory that the root with an index is copied to.
    pub(crate) fn note_place(&self, index: usize, place: Inode) {
        self.places.lock().unwrap_or_else(PoisonError::into_inner).push((index, place));
    }

    /// The directories that roots were copied to, with the roots' indices.
    pub(crate) fn places(&self) -> Vec<(usize, Inode)> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether a source directory is the destination of a root, so that copying it would not end.
    pub(crate) fn is_destination(&self, inode: Inode) -> bool {
        let roots = self.roots.read().unwrap_or_else(PoisonError::into_inner);
        roots.iter().any(|(_, destination)| *destination == inode)
    }

    /// Whether a directory is the source of a root, so that it must not be deleted.
    pub(crate) fn is_source(&self, inode: Inode) -> bool {
        let roots = self.roots.read().unwrap_or_else(PoisonError::into_inner);
        roots.iter().any(|(source, _)| *source == inode)
    }

    /// Whether one directory was copied to the other as a root.
    pub(crate) fn is_root(&self, source: Inode, destination: Inode) -> bool {
        let roots = self.roots.read().unwrap_or_else(PoisonError::into_inner);
        roots.contains(&(source, destination))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packed_names_come_back_in_order_with_their_types() {
        let mut names = Names::default();
        for (kind, name) in [(8, c"a"), (10, c"-x y"), (0, c"\xff\n")] {
            names.push(kind, name);
        }
        let back: Vec<_> = names.iter().collect();
        assert_eq!(back, [(8, c"a"), (10, c"-x y"), (0, c"\xff\n")]);
        assert_eq!(names.len(), 3);
    }
}
