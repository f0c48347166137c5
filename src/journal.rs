//! The journal of a copy: what is finished, noted so that a run which was killed at any moment can be
//! gone on with. `docs/journal.md` has the format and the promises. It knows nothing of the engine and
//! decides nothing about a file: it says what was noted.

mod checkpoint;
mod header;
mod identity;
mod index;
mod load;
mod place;
mod prepare;
pub(crate) mod ranges;
pub(crate) mod record;
mod ticket;
mod writer;

use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Condvar, Mutex, MutexGuard, OnceLock, PoisonError};

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, Flock, fallocate};

use crate::error::Refusal;
use crate::sys::SharedMemory;

pub use prepare::{Prepared, prepare};
pub use ticket::Ticket;

pub(crate) use identity::Identity;
pub(crate) use index::Key;
pub(crate) use load::Begun;
pub(crate) use place::is_journal_name;
pub(crate) use writer::{Temporary, Writer};

use checkpoint::Targets;
use header::Header;
use load::Earlier;
use record::RECORD_BYTES;
use ticket::Fresh;
use writer::Block;

/// Bytes of a block of entries, which one worker fills; the header has as much room. A multiple of
/// every page size, and small enough not to matter for a copy of a few files.
const BLOCK_BYTES: u64 = 64 << 10;
/// Full blocks that stay mapped: those of 700,000 files, and for the 64 copies of a run, which are made in one process,
/// together half of the mappings that it may have (`vm.max_map_count`, 65,530).
const FULL_MAX: usize = 512;
/// Entries of a block.
const SLOTS: usize = 65536 / RECORD_BYTES;

/// An open journal. Dropped without [`Journal::end`], its file stays for the next run.
#[derive(Debug)]
pub struct Journal {
    /// Where it lies; nothing while it is not needed.
    made: OnceLock<Made>,
    /// What it is made with when it is needed after all.
    planned: Mutex<Option<Fresh>>,
    header: Mutex<Header>,
    seed: u64,
    /// The epoch of new entries; changed with the header.
    epoch: AtomicU32,
    /// Counts the temporary files of this run.
    marks: AtomicU32,
    earlier: Earlier,
    /// Blocks that are not full, to be filled first.
    open_blocks: Mutex<Vec<Block>>,
    /// The memory of those that are full; see [`Journal::keep`].
    full: Mutex<Vec<SharedMemory>>,
    next_block: AtomicU64,
    /// Entries are written with plain calls, because mapping is not to be had (or not wanted).
    plain: AtomicBool,
    /// Writing failed: nothing more is noted.
    broken: AtomicBool,
    /// An error of flushing was met: what was written may be lost.
    unreliable: AtomicBool,
    /// Since the last checkpoint an item was made again that had been finished.
    redone: AtomicBool,
    /// Whether this run noted anything that the next one can use.
    worth_keeping: AtomicBool,
    targets: Mutex<Targets>,
    /// Where earlier runs wrote; on other filesystems, too, which this run may not have met yet.
    unvisited: Mutex<Vec<PathBuf>>,
    /// The thread of the checkpoints was started.
    watched: AtomicBool,
    /// Set at the end; the thread of the checkpoints waits for it.
    closed: Mutex<bool>,
    bell: Condvar,
}

/// The file of a journal.
#[derive(Debug)]
pub(super) struct Made {
    file: Held,
    path: PathBuf,
    /// It lies on the destination's filesystem: what is full for it is full for the copy.
    beside: bool,
}

/// How a run ended, as far as its journal is concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// Everything is copied: there is nothing to go on with.
    Complete,
    /// The same command goes on.
    Unfinished,
    /// What was written may be lost: the same command starts over, in the same place.
    Unreliable,
    /// As that, and what was written is lost in all likelihood, however complete it looks.
    Lost,
    /// Nothing was begun.
    Refused,
}

/// An open file, locked where the filesystem has locks.
#[derive(Debug)]
pub(crate) enum Held {
    Locked(Flock<File>),
    Unlocked(File),
}

impl std::ops::Deref for Held {
    type Target = File;

    fn deref(&self) -> &File {
        match self {
            Self::Locked(file) => file,
            Self::Unlocked(file) => file,
        }
    }
}

impl Journal {
    /// Starts this run's part of a journal: its entries get a later epoch than all that are there.
    fn begin(made: Made, header: Header, earlier: Earlier) -> std::io::Result<Self> {
        let journal = Self::of(header, earlier);
        lock(&journal.header).write(&made.file)?;
        let _ = journal.made.set(made); // only set here
        Ok(journal)
    }

    /// A journal that is still to be made: now, or when the first large file is begun. A copy of one file
    /// has nothing to note before: to go on with it is to begin again.
    fn planned(fresh: Fresh, header: Header) -> Self {
        let journal = Self::of(header, Earlier::none());
        *lock(&journal.planned) = Some(fresh);
        journal
    }

    fn of(mut header: Header, earlier: Earlier) -> Self {
        header.epoch = header.epoch.max(earlier.last_epoch).saturating_add(1);
        Self {
            made: OnceLock::new(),
            planned: Mutex::default(),
            seed: header.seed,
            epoch: AtomicU32::new(header.epoch),
            marks: AtomicU32::new(0),
            open_blocks: Mutex::new(earlier.open_blocks.iter().map(Block::left).collect()),
            full: Mutex::default(),
            next_block: AtomicU64::new(earlier.blocks),
            plain: AtomicBool::new(false),
            broken: AtomicBool::new(false),
            unreliable: AtomicBool::new(false),
            redone: AtomicBool::new(false),
            worth_keeping: AtomicBool::new(false),
            targets: Mutex::default(),
            unvisited: Mutex::default(),
            watched: AtomicBool::new(false),
            closed: Mutex::new(false),
            bell: Condvar::new(),
            header: Mutex::new(header),
            earlier,
        }
    }

    /// Makes it, if that has been put off.
    ///
    /// # Errors
    /// `EBUSY` when another process makes the same copy; `ENOENT` when there is no place for it, or it
    /// was tried in vain before.
    fn make(&self) -> Result<&Made, Errno> {
        if let Some(made) = self.made.get() {
            return Ok(made);
        }
        let made = self.make_planned().map_err(|_| Errno::EBUSY)?;
        made.ok().and_then(|()| self.made.get()).ok_or(Errno::ENOENT)
    }

    /// As [`Journal::make`]; the inner error says why there is no place for it.
    ///
    /// # Errors
    /// A [`Refusal`] when another process makes the same copy, or when a file that the user named
    /// cannot be made.
    fn make_planned(&self) -> Result<Result<(), String>, Refusal> {
        let mut planned = lock(&self.planned); // held, so that others wait for what comes of it
        let Some(fresh) = planned.take() else { return Ok(Ok(())) };
        let made = fresh.make(&mut lock(&self.header))?;
        Ok(made.map(|made| {
            let _ = self.made.set(made); // there was none
        }))
    }

    /// Where it lies, once it is there.
    #[must_use]
    pub fn path(&self) -> Option<&Path> {
        self.made.get().map(|made| made.path.as_path())
    }

    /// Whether it lies on the destination's filesystem.
    pub(crate) fn is_beside(&self) -> bool {
        self.made.get().is_some_and(|made| made.beside)
    }

    /// Whether an earlier run noted anything that this one can use.
    pub(crate) fn goes_on(&self) -> bool {
        !self.earlier.done.is_empty() || !self.earlier.begun.is_empty()
    }

    /// The print of the source that an earlier run finished under this key.
    pub(crate) fn done(&self, key: Key) -> Option<u64> {
        self.earlier.done.latest(key).map(|(_, print)| print)
    }

    /// What an earlier run began under this key and did not finish.
    pub(crate) fn begun(&self, key: Key) -> Option<&Begun> {
        self.earlier.begun.get(&key)
    }

    /// Numbers in the names of temporary files that earlier runs left in a directory.
    pub(crate) fn left_in(&self, directory: Key) -> &[u64] {
        self.earlier.named.get(&directory).map_or(&[], Vec::as_slice)
    }

    /// Notes which directory the first source is copied to, so that the next run recognises it.
    pub(crate) fn note_root(&self, root: Identity) {
        let mut header = lock(&self.header);
        if header.root != root {
            header.root = root;
            if let Some(made) = self.made.get() {
                // Without it the next run takes whatever directory is there; no reason to stop.
                let _ = header.write(&made.file);
            }
        }
    }

    /// Ends this run's part. Returns whether the file was removed.
    pub(crate) fn end(&self, how: End) -> bool {
        *lock(&self.closed) = true;
        self.bell.notify_all();
        let Some(Made { file, path, .. }) = self.made.get() else { return true };
        let nothing = !self.goes_on() && !self.worth_keeping.load(Relaxed);
        let exact = lock(&self.header).exact;
        let unreliable = self.unreliable.load(Relaxed);
        let how = if how == End::Unfinished && unreliable { End::Lost } else { how };
        let keep = match how {
            End::Complete => false,
            // The place where the copy is going on is worth keeping, too.
            End::Unfinished => !nothing || exact,
            End::Unreliable | End::Lost => {
                let mut header = lock(&self.header);
                header.unreliable |= how == End::Lost;
                file.set_len(BLOCK_BYTES).and_then(|()| header.write(file)).is_ok()
            }
            End::Refused => !nothing,
        };
        if keep {
            return false;
        }
        let removed = place::is_still_at(file, path) && std::fs::remove_file(path).is_ok();
        if removed && (!lock(&self.full).is_empty() || !lock(&self.open_blocks).is_empty()) {
            // Nobody stores any more, and what was stored need not reach any device when it is unmapped.
            let _ = file.set_len(0);
        }
        removed
    }

    /// Keeps the memory of a full block mapped until the end: FUSE writes the whole file back before it unmaps a part
    /// of it, and nobody in the process can map, unmap or fault in anything until its server has answered.
    fn keep(&self, memory: SharedMemory) {
        memory.rest();
        let mut full = lock(&self.full);
        if full.len() < FULL_MAX {
            full.push(memory);
        }
    }

    /// Allocates a block, so that storing into it cannot fail.
    fn allocate(&self, file: &File, block: u64) -> Result<u64, Errno> {
        let start = Block::start(block);
        let offset = i64::try_from(start).map_err(|_| Errno::EFBIG)?;
        let length = i64::try_from(BLOCK_BYTES).map_err(|_| Errno::EFBIG)?;
        match fallocate(file, FallocateFlags::empty(), offset, length) {
            Ok(()) => Ok(start),
            Err(Errno::EOPNOTSUPP | Errno::ENOSYS | Errno::EINVAL) => {
                // Nothing is promised about storing here.
                self.plain.store(true, Relaxed);
                Ok(start)
            }
            Err(errno) => Err(errno),
        }
    }
}

/// A lock whose holder panicked guards nothing that could be half done.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Feeds a part of something to a hash so that no two sequences of parts look the same.
fn feed(hash: &mut xxhash_rust::xxh3::Xxh3, part: &[u8]) {
    hash.update(&(part.len() as u64).to_le_bytes());
    hash.update(part);
}

/// The bytes of a path.
fn raw(path: &Path) -> &[u8] {
    path.as_os_str().as_bytes()
}

#[cfg(test)]
mod tests;
