//! Reads what the device has and not what memory remembers: with O_DIRECT, or else after the file's
//! pages have been dropped. It compares nothing.

use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::thread::sleep;
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, PosixFadviseAdvice, fcntl, openat, posix_fadvise};
use nix::sys::stat::{FileStat, Mode, fstat};
use nix::sys::statfs::{TMPFS_MAGIC, fstatfs};
use nix::unistd::fsync;

use super::plain::read_some;
use crate::checksum::{Algorithm, CELL_BYTES, Digest, Hasher};
use crate::error::{AtStep, Step, StepError};
use crate::lustre::hsm::refuse_released;
use crate::sys;
use crate::sys::buffer::Buffer;
use crate::sys::ring::{Ring, Slot};

/// Slots for files up to this size: most small files fit, and 32 of them are 2 MiB.
const SMALL_SLOT_BYTES: usize = 64 << 10;
/// Reads of small files handed to the kernel at once.
const BATCH: usize = 16;
/// Small files in flight per worker.
const SMALL_SLOTS: usize = 32;
/// Memory for whole cells, of all workers together.
const CELL_BUFFERS_BYTES: usize = 16 << 20;
/// Most cells in flight per worker.
const CELL_SLOTS: usize = 8;
/// How long a file waits for pages that somebody else has in hand, in milliseconds: 31 in all.
const PAGE_PAUSES_MS: [u64; 5] = [1, 2, 4, 8, 16];

/// How a file is read back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum How {
    /// With O_DIRECT.
    Direct,
    /// Through the page cache, from which its pages were dropped before.
    Dropped,
    /// From memory: its filesystem is memory, or its pages would not go.
    Memory,
}

/// A file that is open for being read back.
#[derive(Debug, Clone)]
pub(crate) struct OpenBack {
    pub(crate) file: Arc<OwnedFd>,
    pub(crate) stat: FileStat,
    pub(crate) how: How,
    /// Alignment of offsets and lengths in bytes; 1 without O_DIRECT.
    block: usize,
}

impl OpenBack {
    /// Opens a file. What was written into it must have been flushed, or dropping its pages is of
    /// no use.
    ///
    /// # Errors
    /// Step `ReadBack`.
    pub(crate) fn open(dir: BorrowedFd<'_>, name: &CStr) -> Result<Self, StepError> {
        let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
        let file = match openat(dir, name, flags | OFlag::O_NOATIME, Mode::empty()) {
            // Only owners may leave the access time alone.
            Err(Errno::EPERM) => openat(dir, name, flags, Mode::empty()),
            other => other,
        };
        Self::of(file.at(Step::ReadBack)?)
    }

    /// Takes a file that is open for reading.
    ///
    /// # Errors
    /// Step `ReadBack`.
    pub(crate) fn of(file: OwnedFd) -> Result<Self, StepError> {
        let stat = fstat(&file).at(Step::ReadBack)?;
        refuse_released(&file, &stat, Step::ReadBack)?;
        let (how, block) = match direct_block(&file) {
            Some(block) => (How::Direct, block),
            None => {
                let size_bytes = stat.st_size.cast_unsigned();
                let gone = pages_go(&file, size_bytes, sleep).at(Step::ReadBack)?;
                (if gone { How::Dropped } else { How::Memory }, 1)
            }
        };
        Ok(Self { file: Arc::new(file), stat, how, block })
    }

    /// Drops the pages that reading or writing has brought in since.
    pub(crate) fn drop_pages(&self) {
        if self.how != How::Direct {
            drop_pages(&self.file);
        }
    }

    /// Reads `length` bytes at `offset`, or up to the end of the file, with plain calls. The buffer is
    /// aligned as [`Buffer`] is, the offset a multiple of the block.
    pub(crate) fn read(
        &self,
        buffer: &mut [u8],
        offset: u64,
        length: usize,
    ) -> Result<usize, Errno> {
        read_plainly(self.file.as_fd(), buffer, offset, length, self.block)
    }

    /// The unit in which a part of a cell can be read.
    pub(crate) fn unit(&self) -> usize {
        self.block.max(4096)
    }
}

/// Drops a file's pages and says whether all of them went. A filesystem that cannot drop pages is found
/// out by those that are left. Kernels before 6.5 cannot say; then the advice is trusted. `pause` waits.
fn pages_go(
    file: &OwnedFd,
    size_bytes: u64,
    mut pause: impl FnMut(Duration),
) -> Result<bool, Errno> {
    let gone = || {
        drop_pages(file);
        sys::cached_pages(file.as_fd(), size_bytes).unwrap_or(0) == 0
    };
    if gone() {
        return Ok(true);
    }
    if fstatfs(file).is_ok_and(|fs| fs.filesystem_type() == TMPFS_MAGIC) {
        return Ok(false);
    }
    // Pages that were still dirty do not go; one more flush is cheap beside a doubt.
    fsync(file)?;
    for pause_ms in PAGE_PAUSES_MS {
        if gone() {
            return Ok(true);
        }
        // Nor do those that somebody has in hand, as the kernel has while it moves them to make room.
        pause(Duration::from_millis(pause_ms));
    }
    Ok(gone())
}

/// Advice that a filesystem may not take; whether it did is seen by what is left.
fn drop_pages(file: &OwnedFd) {
    let _ = posix_fadvise(file, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED);
}

/// Switches a file to O_DIRECT and says how to align; `None` where it does not take it.
fn direct_block(file: &OwnedFd) -> Option<usize> {
    let alignment = sys::direct_alignment(file.as_fd()).ok().flatten()?;
    let block = usize::try_from(alignment.offset.max(alignment.memory)).ok()?;
    if !usize::try_from(CELL_BYTES).ok()?.is_multiple_of(block) {
        return None;
    }
    let flags = OFlag::from_bits_retain(fcntl(file, FcntlArg::F_GETFL).ok()?);
    fcntl(file, FcntlArg::F_SETFL(flags | OFlag::O_DIRECT)).ok()?;
    Some(block)
}

fn read_plainly(
    file: BorrowedFd<'_>,
    buffer: &mut [u8],
    offset: u64,
    length: usize,
    block: usize,
) -> Result<usize, Errno> {
    let padded = length.next_multiple_of(block);
    let mut filled = 0;
    while filled < length {
        // A short read is taken up again at its last full block.
        let from = filled / block * block;
        let end = from + read_some(file, &mut buffer[from..padded], offset + from as u64)?;
        if end <= filled {
            break;
        }
        filled = end;
    }
    Ok(filled.min(length))
}

/// What is called with every piece that has been read: to whom it belongs, and the digest of its bytes.
pub(crate) type Each<'e, T> = dyn FnMut(T, Result<Digest, Errno>) + 'e;

/// Part of a file to be read, at most one cell.
#[derive(Debug)]
struct Piece<T> {
    back: OpenBack,
    offset: u64,
    length: usize,
    tag: T,
}

/// Reads cells of many files, with many in flight where there is a ring, else one by one.
#[derive(Debug)]
pub(crate) struct CellReader<T> {
    algorithm: Algorithm,
    buffer: Buffer,
    /// None, or one for small files and one for whole cells.
    rings: Vec<InFlight<T>>,
}

/// One ring and the piece that each of its slots belongs to.
#[derive(Debug)]
struct InFlight<T> {
    slot_bytes: usize,
    ring: Ring,
    waiting: Vec<Option<Piece<T>>>,
    free: Vec<Slot>,
    broken: bool,
}

impl<T> CellReader<T> {
    /// A reader that reads `unit_bytes` at a time by hand (a whole number of pages); with `ring` it
    /// keeps many reads in flight, within its share of the memory for `workers` of its kind.
    ///
    /// # Errors
    /// The errno of mapping the buffer. A ring that is not to be had is done without.
    pub(crate) fn new(
        algorithm: Algorithm,
        unit_bytes: usize,
        ring: bool,
        workers: usize,
    ) -> Result<Self, Errno> {
        let cell = cell_bytes();
        let slots = (CELL_BUFFERS_BYTES / workers.max(1) / cell).clamp(1, CELL_SLOTS);
        let rings = if ring {
            [(SMALL_SLOTS, SMALL_SLOT_BYTES), (slots, cell)]
                .into_iter()
                .map_while(|(slots, bytes)| InFlight::new(slots, bytes).ok())
                .collect()
        } else {
            Vec::new()
        };
        Ok(Self { algorithm, buffer: Buffer::new(unit_bytes.min(cell))?, rings })
    }

    /// Room for one unit, for whoever reads by hand. Nothing in flight is in it.
    pub(crate) fn buffer(&mut self) -> &mut [u8] {
        &mut self.buffer
    }

    /// Reads `length` bytes (at most a cell) at `offset`, now or in flight. `each` gets the digest of
    /// what has been read, of this piece or of others; of fewer bytes when the file ended before.
    pub(crate) fn read(
        &mut self,
        back: &OpenBack,
        offset: u64,
        length: usize,
        tag: T,
        each: &mut Each<'_, T>,
    ) {
        let piece = Piece { back: back.clone(), offset, length, tag };
        let padded = length.next_multiple_of(back.block);
        let fits = |ring: &&mut InFlight<T>| !ring.broken && padded <= ring.slot_bytes;
        let piece = match self.rings.iter_mut().find(fits) {
            None => Some(piece),
            Some(ring) => ring.start(self.algorithm, piece, &mut self.buffer, each),
        };
        if let Some(piece) = piece {
            plainly(self.algorithm, piece, &mut self.buffer, each);
        }
    }

    /// Waits for everything in flight.
    pub(crate) fn drain(&mut self, each: &mut Each<'_, T>) {
        for ring in &mut self.rings {
            while !ring.broken && ring.ring.in_flight() > 0 {
                ring.complete(self.algorithm, &mut self.buffer, each);
            }
        }
    }
}

impl<T> InFlight<T> {
    fn new(slots: usize, slot_bytes: usize) -> Result<Self, Errno> {
        Ok(Self {
            slot_bytes,
            ring: Ring::new(vec![slot_bytes; slots])?,
            waiting: (0..slots).map(|_| None).collect(),
            free: (0..slots).collect(),
            broken: false,
        })
    }

    /// Puts a piece in flight, or gives it back.
    fn start(
        &mut self,
        algorithm: Algorithm,
        piece: Piece<T>,
        buffer: &mut Buffer,
        each: &mut Each<'_, T>,
    ) -> Option<Piece<T>> {
        if self.free.is_empty() {
            self.complete(algorithm, buffer, each);
        }
        let Some(slot) = self.free.pop() else { return Some(piece) };
        let padded = piece.length.next_multiple_of(piece.back.block);
        let file = Arc::clone(&piece.back.file);
        if self.broken || self.ring.read(slot, file, piece.offset, padded).is_err() {
            self.free.push(slot);
            return Some(piece);
        }
        self.waiting[slot] = Some(piece);
        // Small reads are handed over together, as in a copy (`uring`); whole cells start at once.
        let batch = if self.slot_bytes > SMALL_SLOT_BYTES { 1 } else { BATCH };
        if self.ring.unsubmitted() >= batch && self.ring.flush().is_err() {
            self.complete(algorithm, buffer, each);
        }
        None
    }

    fn complete(&mut self, algorithm: Algorithm, buffer: &mut Buffer, each: &mut Each<'_, T>) {
        match self.ring.wait() {
            Ok(Some(completion)) => {
                self.free.push(completion.slot);
                let Some(piece) = self.waiting[completion.slot].take() else { return };
                match completion.result {
                    Ok(read) if read >= piece.length => {
                        let bytes = &self.ring.slot(completion.slot)[..piece.length];
                        each(piece.tag, Ok(algorithm.digest(bytes)));
                    }
                    // Short, or not for the ring: read by hand, which also says what is wrong.
                    _ => plainly(algorithm, piece, buffer, each),
                }
            }
            Ok(None) => {}
            Err(_) => {
                // Its buffers stay with it until the end; what it had is read by hand.
                self.broken = true;
                for piece in self.waiting.iter_mut().filter_map(Option::take) {
                    plainly(algorithm, piece, buffer, each);
                }
            }
        }
    }
}

/// Reads a piece by hand, one buffer at a time.
fn plainly<T>(algorithm: Algorithm, piece: Piece<T>, buffer: &mut Buffer, each: &mut Each<'_, T>) {
    let mut hasher = Hasher::new(algorithm);
    let mut done = 0;
    while done < piece.length {
        let wanted = (piece.length - done).min(buffer.len());
        match piece.back.read(buffer, piece.offset + done as u64, wanted) {
            Ok(0) => break,
            Ok(read) => {
                hasher.update(&buffer[..read]);
                done += read;
                if read < wanted {
                    break;
                }
            }
            Err(errno) => return each(piece.tag, Err(errno)),
        }
    }
    each(piece.tag, Ok(hasher.finish()));
}

fn cell_bytes() -> usize {
    usize::try_from(CELL_BYTES).expect("a cell fits into memory")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::io::Write;

    use nix::fcntl::{SpliceFFlags, splice};

    use super::*;

    /// A pipe holds on to the pages that were spliced into it, as the kernel does to those that it moves.
    #[test]
    fn pages_in_other_hands_are_waited_for_but_not_for_ever() {
        // On a disk: pages of tmpfs never go, and it may have the directory for temporary files.
        let here = env!("CARGO_MANIFEST_DIR");
        let mut file = tempfile::tempfile_in(here).unwrap();
        file.write_all(&[7; 5000]).unwrap();
        file.sync_all().unwrap();
        let file = OwnedFd::from(file);
        let in_memory = fstatfs(&file).unwrap().filesystem_type() == TMPFS_MAGIC;
        if in_memory || !sys::cached_pages(file.as_fd(), 5000).is_ok_and(|pages| pages > 0) {
            eprintln!("skipped: it cannot be seen here whether pages went");
            return;
        }
        let pipe = nix::unistd::pipe().unwrap();
        let held = splice(&file, Some(&mut 0), &pipe.1, None, 5000, SpliceFFlags::empty()).unwrap();
        assert!(held > 0);
        let mut pauses = 0;
        assert!(!pages_go(&file, 5000, |_| pauses += 1).unwrap());
        assert_eq!(pauses, PAGE_PAUSES_MS.len());
        let (mut pipe, mut pauses) = (Some(pipe), 0);
        let let_go = |_| {
            pauses += 1;
            if pauses == 2 {
                pipe = None;
            }
        };
        assert!(pages_go(&file, 5000, let_go).unwrap());
        assert_eq!(pauses, 2);
    }

    /// The ring and its plain twin must give the same bytes for every length and offset.
    #[test]
    fn every_piece_is_read_once_with_and_without_a_ring() {
        let cell = cell_bytes();
        let content: Vec<u8> =
            (0..3 * cell + 4321).map(|n| u8::try_from(n / 3 % 251).unwrap()).collect();
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(&content).unwrap();
        file.as_file().sync_all().unwrap();
        for (ring, unit) in [(false, cell), (false, 128 << 10), (true, cell)] {
            let back = OpenBack::of(file.reopen().unwrap().into()).unwrap();
            let mut reader = CellReader::new(Algorithm::Xxh3, unit, ring, 2).unwrap();
            let mut found: BTreeMap<(usize, usize), Digest> = BTreeMap::new();
            let mut each = |piece: (usize, usize), digest: Result<Digest, Errno>| {
                assert_eq!(found.insert(piece, digest.unwrap()), None);
            };
            let mut read = |from: usize, length: usize| {
                reader.read(&back, from as u64, length, (from, length), &mut each);
            };
            for round in 0..4 {
                let from = round * cell;
                read(from, cell.min(content.len() - from));
            }
            for block in 1..100 {
                read(block * 8192, 5000);
            }
            // Past the end: fewer bytes, no error.
            read(3 * cell + 4096, 9000);
            reader.drain(&mut each);
            assert_eq!(found.len(), 104);
            for ((from, length), digest) in found {
                let end = (from + length).min(content.len());
                assert_eq!(digest, Algorithm::Xxh3.digest(&content[from..end]), "at {from}");
            }
        }
    }
}
