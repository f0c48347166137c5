//! Moves bytes between open files: the small trait behind which the mechanisms stand, and what they
//! share. It opens, names and finishes nothing.

pub(crate) mod chunk;
pub(crate) mod objects;
pub(crate) mod pair;
pub(crate) mod past_cache;
pub(crate) mod piece_buffers;
pub(crate) mod plain;
pub(crate) mod range;
mod read_ahead;
pub(crate) mod servers;
pub(crate) mod splice;
mod striped;
pub(crate) mod uring;

use std::ops::Range;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64};

use crate::backend::chunk::ChunkSupply;
use crate::backend::objects::ObjectSupply;
use crate::backend::pair::Pair;
use crate::checksum::{Algorithm, Cells, Digest};
use crate::error::StepError;

/// Files up to this size are read whole into one buffer (`io-design`: a second read is saved when
/// the first returns what the inode promised).
pub(crate) const SMALL_MAX_BYTES: u64 = 1 << 20;

/// How the content of one file got to the destination. The words are keys of the report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mechanism {
    /// Nothing to move.
    Empty,
    /// Blocks shared (FICLONE).
    Clone,
    /// `copy_file_range` in the kernel or on the server.
    CopyFileRange,
    /// From page to page in memory, through a pipe.
    Splice,
    /// Plain buffered reads and writes.
    ReadWrite,
    /// Read through the ring because the data was not in memory, written plainly.
    RingRead,
    /// O_DIRECT with plain system calls.
    Direct,
    /// O_DIRECT through the ring.
    RingDirect,
    /// Plain reads and writes, each object of a striped file by one worker at a time.
    Striped,
}

impl Mechanism {
    pub(crate) const ALL: [Self; 9] = [
        Self::Empty,
        Self::Clone,
        Self::CopyFileRange,
        Self::Splice,
        Self::ReadWrite,
        Self::RingRead,
        Self::Direct,
        Self::RingDirect,
        Self::Striped,
    ];

    /// Key of the report; stable.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Empty => "empty",
            Self::Clone => "clone",
            Self::CopyFileRange => "copy-file-range",
            Self::Splice => "splice",
            Self::ReadWrite => "read-write",
            Self::RingRead => "ring-read",
            Self::Direct => "direct",
            Self::RingDirect => "ring-direct",
            Self::Striped => "striped",
        }
    }
}

/// A file of at most [`SMALL_MAX_BYTES`], open on both sides. `owner` is the engine's business.
#[derive(Debug)]
pub(crate) struct SmallFile<T> {
    pub(crate) source: Arc<OwnedFd>,
    pub(crate) destination: OwnedFd,
    pub(crate) size: usize,
    pub(crate) pair: Arc<Pair>,
    /// The checksum to be taken on the way, if any.
    pub(crate) checksum: Option<Algorithm>,
    /// The digest of what was written, when it was asked for and seen.
    pub(crate) digest: Option<Digest>,
    pub(crate) owner: T,
}

impl<T> SmallFile<T> {
    /// Takes note of the content that is about to be written.
    fn see(&mut self, content: &[u8]) {
        self.digest = self.checksum.map(|algorithm| algorithm.digest(content));
    }
}

/// A small file whose content has been moved, or not.
#[derive(Debug)]
pub(crate) struct Finished<T> {
    pub(crate) file: SmallFile<T>,
    pub(crate) result: Result<Moved, StepError>,
}

/// What was moved of a small file.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Moved {
    pub(crate) mechanism: Mechanism,
    /// Bytes read; differs from the size when the source changed meanwhile.
    pub(crate) read: Read,
}

/// How much a read of a whole small file found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Read {
    /// What the inode promised.
    Exact,
    /// Less.
    Shrunk,
    /// More; only what the inode promised was written.
    Grown,
}

/// A large file, open on both sides, that several workers may move chunks of at the same time.
#[derive(Debug)]
pub(crate) struct LargeFile {
    pub(crate) source: Arc<OwnedFd>,
    pub(crate) destination: Arc<OwnedFd>,
    pub(crate) chunks: ChunkSupply,
    /// What is handed out instead of chunks where the destination's objects are known.
    pub(crate) objects: Option<ObjectSupply>,
    /// Servers that have enough to do get this file's objects all the same.
    pub(crate) anyway: AtomicBool,
    /// The source has holes and does not tell where; the destination is one hole, in which zeros need
    /// not be written.
    pub(crate) zeros_are_holes: bool,
    /// Both sides are memory.
    pub(crate) in_memory: bool,
    /// Alignment in bytes that O_DIRECT asks for, when both descriptors are in that mode.
    pub(crate) direct: Option<u64>,
    /// Raised by whoever fails: the others stop after their chunk.
    pub(crate) stop: AtomicBool,
    /// Bytes moved so far.
    pub(crate) moved: AtomicU64,
    /// The digests that are taken on the way, when they are asked for.
    pub(crate) cells: Option<Arc<Cells>>,
}

impl LargeFile {
    /// Whether everything has been handed out (holes at the end may not have been looked up yet).
    pub(crate) fn is_handed_out(&self) -> bool {
        self.objects.as_ref().map_or_else(|| self.chunks.is_empty(), ObjectSupply::is_empty)
    }

    /// Takes note of bytes that are about to be written.
    fn see(&self, offset: u64, bytes: &[u8]) {
        if let Some(cells) = &self.cells {
            cells.feed(offset, bytes);
        }
    }

    /// Takes note of a piece that the kernel moves by itself.
    fn unseen(&self, piece: std::ops::Range<u64>) {
        if let Some(cells) = &self.cells {
            cells.unseen(piece);
        }
    }
}

/// One mechanism on one worker thread. By default it has nothing in flight: whatever it is given, it moves at once.
pub(crate) trait Backend<T> {
    /// Moves a small file now, or puts it in flight. Whatever is finished is added to `done`, which
    /// may be other files than this one.
    fn small(&mut self, file: SmallFile<T>, done: &mut Vec<Finished<T>>);

    /// Small files in flight.
    fn in_flight(&self) -> usize {
        0
    }

    /// Waits until at least one small file in flight is finished.
    fn wait(&mut self, _done: &mut Vec<Finished<T>>) {}

    /// Moves chunks of a large file until the supply is empty, and says by what means. `progress` is
    /// told of each piece once it is written. `goes` is asked between chunks, when nothing is in flight, and ends
    /// this worker's part when it says so; mechanisms that always have something in flight do not ask.
    ///
    /// # Errors
    /// The step that failed; `SourceChanged` when a chunk ended early.
    fn large(
        &mut self,
        file: &LargeFile,
        progress: &dyn Fn(Range<u64>),
        goes: &dyn Fn() -> bool,
    ) -> Result<Mechanism, StepError>;
}
