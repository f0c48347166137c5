//! Adds entries to a journal: one writer for each worker, with a block of its own, so that workers do
//! not meet. An entry is stored in shared memory, which outlives the process; where a filesystem has
//! no such memory it is written with a plain call.

use std::cell::RefCell;
use std::fs::File;
use std::ops::Range;
use std::os::fd::BorrowedFd;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::Ordering::{Acquire, Relaxed};

use nix::errno::Errno;
use nix::sys::stat::FileStat;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::index::Key;
use super::load::Begun;
use super::record::{Kind, RECORD_BYTES, Record, is_trusted, print, range_key};
use super::{BLOCK_BYTES, Journal, Made, SLOTS, lock};
use crate::sys::{self, SharedMemory};

/// Adds entries, on one thread.
#[derive(Debug)]
pub(crate) struct Writer {
    journal: Arc<Journal>,
    block: RefCell<Option<Block>>,
}

/// A block that is being filled, or waits for somebody who goes on with it.
#[derive(Debug)]
pub(super) struct Block {
    number: u64,
    /// The next free slot.
    next: usize,
    /// Nothing yet, or entries are written with plain calls.
    memory: Option<SharedMemory>,
}

impl Block {
    /// One that an earlier run left with room from a slot on.
    pub(super) fn left(&(number, next): &(u64, usize)) -> Self {
        Self { number, next, memory: None }
    }

    /// Where it begins in the file, in bytes: behind the header, which has as much room.
    pub(super) fn start(number: u64) -> u64 {
        (number + 1) * BLOCK_BYTES
    }
}

/// A temporary file of which the journal knows which ranges are written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Temporary {
    /// The file's key.
    key: Key,
    /// The key of its ranges.
    pub(super) ranges: Key,
    epoch: u32,
    mark: u64,
    /// What an earlier run has written: sorted, apart.
    pub(crate) written: Vec<Range<u64>>,
}

impl Writer {
    /// A writer for one worker.
    pub(crate) fn new(journal: &Arc<Journal>) -> Self {
        Self { journal: Arc::clone(journal), block: RefCell::new(None) }
    }

    /// The journal.
    pub(crate) fn journal(&self) -> &Journal {
        &self.journal
    }

    /// Notes that an item is complete, under a print of its source; `regular` says that it is a file with content of its
    /// own. A source whose next change might not show is not noted.
    ///
    /// # Errors
    /// The errno of making room for the entry.
    pub(crate) fn finished(
        &self,
        key: Key,
        stat: &FileStat,
        print: u64,
        regular: bool,
    ) -> Result<(), Errno> {
        if !is_trusted(stat) {
            return Ok(());
        }
        let bytes = if regular { stat.st_size.cast_unsigned() } else { 0 };
        let kind = if regular { Kind::File } else { Kind::Other };
        self.append(kind, key, print, bytes)
    }

    /// Notes that a further name of an inode is linked; `source` is the print of the name that was
    /// copied.
    ///
    /// # Errors
    /// The errno of making room for the entry.
    pub(crate) fn linked(&self, key: Key, source: u64) -> Result<(), Errno> {
        self.append(Kind::Other, key, source, 0)
    }

    /// Notes that a large file has a temporary one, whose name has this number. `None` when its ranges
    /// could not be relied upon.
    ///
    /// # Errors
    /// The errno of looking at the file, or of making room for the entries.
    pub(crate) fn begun(
        &self,
        (key, directory): (Key, Key),
        stat: &FileStat,
        file: BorrowedFd<'_>,
        number: u64,
    ) -> Result<Option<Temporary>, Errno> {
        if !is_trusted(stat) {
            return Ok(None);
        }
        self.journal.make()?;
        let count = self.journal.marks.fetch_add(1, Relaxed);
        let mark = u64::from(count) << 32 | u64::from(identity(file)?);
        let epoch = self.journal.epoch.load(Acquire);
        self.append(Kind::Named, directory, number, mark)?;
        self.append_in(epoch, Kind::Begun, key, print(stat), mark)?;
        let ranges = range_key(key, epoch, mark);
        Ok(Some(Temporary { key, ranges, epoch, mark, written: Vec::new() }))
    }

    /// Notes that a file is about to be made under the temporary name with this number, so that it is
    /// found again when nobody makes it a second time (another name of its inode is met first, it is
    /// gone from the source).
    ///
    /// # Errors
    /// The errno of making room for the entry.
    pub(crate) fn named(&self, directory: Key, number: u64) -> Result<(), Errno> {
        self.append(Kind::Named, directory, number, 0)
    }

    /// The temporary file that an earlier run left, provided that `file` is that one.
    ///
    /// # Errors
    /// The errno of looking at the file.
    pub(crate) fn again(
        &self,
        key: Key,
        begun: &Begun,
        file: BorrowedFd<'_>,
    ) -> Result<Option<Temporary>, Errno> {
        let Begun { epoch, mark, ref ranges, .. } = *begun;
        let same = u64::from(identity(file)?) == mark & u64::from(u32::MAX);
        let written = ranges.clone();
        let ranges = range_key(key, epoch, mark);
        Ok(same.then_some(Temporary { key, ranges, epoch, mark, written }))
    }

    /// Notes that bytes of a temporary file are written.
    ///
    /// # Errors
    /// The errno of making room for the entry.
    pub(crate) fn written(&self, file: &Temporary, range: Range<u64>) -> Result<(), Errno> {
        self.append(Kind::Range, file.ranges, range.start, range.end)
    }

    /// A temporary file stays for the next run.
    pub(crate) fn kept(&self) {
        self.journal.worth_keeping.store(true, Relaxed);
    }

    /// Notes that a temporary file is about to be removed.
    ///
    /// # Errors
    /// The errno of making room for the entry.
    pub(crate) fn dropped(&self, file: &Temporary) -> Result<(), Errno> {
        self.append(Kind::Dropped, file.key, u64::from(file.epoch), file.mark)
    }

    /// Notes that the temporary file which an earlier run left is about to be removed.
    ///
    /// # Errors
    /// The errno of making room for the entry.
    pub(crate) fn dropped_earlier(&self, key: Key, begun: &Begun) -> Result<(), Errno> {
        self.append(Kind::Dropped, key, u64::from(begun.epoch), begun.mark)
    }

    /// Adds an entry. Its epoch is looked up now, after what it tells of was done: see `checkpoint`.
    fn append(&self, kind: Kind, key: Key, a: u64, b: u64) -> Result<(), Errno> {
        self.append_in(self.journal.epoch.load(Acquire), kind, key, a, b)
    }

    fn append_in(&self, epoch: u32, kind: Kind, key: Key, a: u64, b: u64) -> Result<(), Errno> {
        let journal = &*self.journal;
        let Some(Made { file, .. }) = journal.made.get() else { return Ok(()) };
        if journal.broken.load(Relaxed) {
            return Ok(());
        }
        if matches!(kind, Kind::File | Kind::Other) && !journal.worth_keeping.load(Relaxed) {
            journal.worth_keeping.store(true, Relaxed);
        }
        let mut block = self.block.borrow_mut();
        let result = add(journal, file, &mut block, &Record { kind, epoch, key, a, b });
        // Whoever is the first to fail says so; the others go on without.
        match result {
            Err(errno) if !journal.broken.swap(true, Relaxed) => Err(errno),
            _ => Ok(()),
        }
    }
}

/// Adds an entry to the block, or to the next one when it is full.
fn add(
    journal: &Journal,
    file: &File,
    block: &mut Option<Block>,
    record: &Record,
) -> Result<(), Errno> {
    let bytes = record.encode(journal.seed);
    if let Some(full) = block.take_if(|block| block.next >= SLOTS)
        && let Some(memory) = full.memory
    {
        journal.keep(memory);
    }
    let block = match block {
        Some(block) => block,
        none => none.insert(next_block(journal, file)?),
    };
    let at = block.next * RECORD_BYTES;
    match &mut block.memory {
        Some(memory) => memory.store(at, &bytes)?,
        None => {
            let written = file.write_all_at(&bytes, Block::start(block.number) + at as u64);
            written.map_err(|error| error.raw_os_error().map_or(Errno::EIO, Errno::from_raw))?;
        }
    }
    block.next += 1;
    Ok(())
}

fn next_block(journal: &Journal, file: &File) -> Result<Block, Errno> {
    let open = lock(&journal.open_blocks).pop();
    let new = || Block::left(&(journal.next_block.fetch_add(1, Relaxed), 0));
    let mut block = open.unwrap_or_else(new);
    if block.memory.is_none() {
        let start = journal.allocate(file, block.number)?;
        let length = usize::try_from(BLOCK_BYTES).map_err(|_| Errno::EFBIG)?;
        if !journal.plain.load(Relaxed) {
            block.memory = SharedMemory::map(file, start, length).ok();
        }
    }
    Ok(block)
}

impl Drop for Writer {
    /// What is left of the block is for the next writer.
    fn drop(&mut self) {
        match self.block.get_mut().take() {
            Some(block) if block.next < SLOTS => lock(&self.journal.open_blocks).push(block),
            Some(Block { memory: Some(memory), .. }) => self.journal.keep(memory),
            _ => {}
        }
    }
}

/// Half of what tells a temporary file from any other; see [`sys::birth`].
fn identity(file: BorrowedFd<'_>) -> Result<u32, Errno> {
    let mut bytes = [0; 24];
    for (to, word) in bytes.chunks_exact_mut(8).zip(sys::birth(file)?) {
        to.copy_from_slice(&word.to_le_bytes());
    }
    let hash = xxh3_64_with_seed(&bytes, 0);
    Ok(u32::try_from(hash >> 32).unwrap_or_default())
}
