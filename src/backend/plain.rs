//! Plain system calls: the reference behaviour of every copy, and the fallback of every other
//! mechanism. One buffer per worker, no work in flight.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::Ordering::Relaxed;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::uio::{pread, pwrite};

use super::read_ahead::ReadAhead;
use super::striped;
use super::{Backend, Finished, LargeFile, Mechanism, Moved, Read, SMALL_MAX_BYTES, SmallFile};
use crate::error::{AtStep, FailureKind, Step, StepError};
use crate::lanes::{self, Lane};
use crate::sys::buffer::Buffer;

/// Unit of buffered reading and writing: it stays in the second-level cache between the read and the
/// write, which 1 MiB does not where that cache is 1 MiB (benches/README.md).
const BUFFERED_UNIT: usize = 256 << 10;

/// Unit of reading a file of unknown size; most are shorter than a page.
const STREAM_UNIT: usize = 64 << 10;

/// Plain reads and writes through one buffer.
#[derive(Debug)]
pub(crate) struct Plain {
    pub(super) buffer: Buffer,
    /// Made when the first O_DIRECT file comes.
    direct: Option<Buffer>,
    direct_unit: usize,
}

impl Plain {
    /// A mover with a 1 MiB buffer, and `direct_unit` bytes more once O_DIRECT is used.
    ///
    /// # Errors
    /// The errno of mapping the buffer.
    pub(crate) fn new(direct_unit: usize) -> Result<Self, Errno> {
        // One byte more than the largest small file shows that a file has grown.
        let length = usize::try_from(SMALL_MAX_BYTES).map_err(|_| Errno::EINVAL)? + 1;
        Ok(Self { buffer: Buffer::new(length)?, direct: None, direct_unit })
    }

    /// Moves a small file now. Its bytes have been taken from the limit by the caller, who may have
    /// tried something else before.
    pub(super) fn copy_small<T>(&mut self, file: &mut SmallFile<T>) -> Result<Read, StepError> {
        let (filled, read) = read_whole(file.source.as_fd(), &mut self.buffer, file.size, 0)?;
        file.see(&self.buffer[..filled]);
        write_all(file.destination.as_fd(), &self.buffer[..filled], 0)?;
        Ok(read)
    }

    fn large_buffered(
        &mut self,
        file: &LargeFile,
        progress: &dyn Fn(std::ops::Range<u64>),
        goes: &dyn Fn() -> bool,
    ) -> Result<Mechanism, StepError> {
        let mut ahead = ReadAhead::default();
        while !goes()
            && let Some(chunk) = next_chunk(file)?
        {
            ahead.begin(file, &chunk);
            in_pieces(file, chunk, progress, |piece| self.copy_piece(file, piece))?;
        }
        Ok(Mechanism::ReadWrite)
    }

    /// Moves one piece of a file through the page cache.
    pub(super) fn copy_piece(
        &mut self,
        file: &LargeFile,
        piece: std::ops::Range<u64>,
    ) -> Result<(), StepError> {
        let (source, destination) = (file.source.as_fd(), file.destination.as_fd());
        let mut offset = piece.start;
        while offset < piece.end {
            let unit = to_usize((piece.end - offset).min(lanes::piece(BUFFERED_UNIT as u64)));
            lanes::take_bytes(unit as u64);
            let part = &mut self.buffer[..unit];
            let read = read_some(source, part, offset).at(Step::Read)?;
            lanes::give_back((unit - read) as u64);
            if read == 0 {
                return Err(shrunk());
            }
            file.see(offset, &part[..read]);
            if !(file.zeros_are_holes && part[..read].iter().all(|byte| *byte == 0)) {
                write_all(destination, &part[..read], offset)?;
            }
            offset += read as u64;
        }
        Ok(())
    }

    fn large_direct(
        &mut self,
        file: &LargeFile,
        alignment: u64,
        progress: &dyn Fn(std::ops::Range<u64>),
        goes: &dyn Fn() -> bool,
    ) -> Result<Mechanism, StepError> {
        while !goes()
            && let Some(chunk) = next_chunk(file)?
        {
            let mut offset = chunk.start / alignment * alignment;
            while offset < chunk.end {
                let end = match self.direct_piece(file, offset..chunk.end, alignment) {
                    Ok(end) => end,
                    Err(error) if alignment == 1 && refuses_direct(error) && leave_direct(file) => {
                        self.copy_piece(file, offset..chunk.end)?;
                        account(file, offset..chunk.end, progress);
                        return self.large_buffered(file, progress, goes);
                    }
                    Err(error) => return Err(error),
                };
                account(file, offset.max(chunk.start)..end, progress);
                offset = end;
            }
        }
        Ok(Mechanism::Direct)
    }

    /// Moves the first piece of what is left of a chunk, with O_DIRECT. Returns its end.
    fn direct_piece(
        &mut self,
        file: &LargeFile,
        rest: std::ops::Range<u64>,
        alignment: u64,
    ) -> Result<u64, StepError> {
        let buffer = match &mut self.direct {
            Some(buffer) => buffer,
            none => none.insert(Buffer::new(self.direct_unit).at(Step::Read)?),
        };
        let want = (rest.end - rest.start).next_multiple_of(alignment);
        let want = want.min(lanes::piece(self.direct_unit as u64));
        lanes::take_bytes(want.min(rest.end - rest.start));
        let part = &mut buffer[..to_usize(want)];
        let read = read_direct(file.source.as_fd(), part, rest.start, alignment, rest.end)?;
        let end = (rest.start + read as u64).min(rest.end);
        // The last block is written whole; the size is set when the file is finished.
        let padded = to_usize((read as u64).next_multiple_of(alignment));
        part[read..padded].fill(0);
        write_all(file.destination.as_fd(), &part[..padded], rest.start)?;
        file.see(rest.start, &part[..to_usize(end - rest.start)]);
        Ok(end)
    }
}

impl<T> Backend<T> for Plain {
    fn small(&mut self, mut file: SmallFile<T>, done: &mut Vec<Finished<T>>) {
        lanes::take_bytes(file.size as u64);
        let result =
            self.copy_small(&mut file).map(|read| Moved { mechanism: Mechanism::ReadWrite, read });
        done.push(Finished { file, result });
    }

    fn large(
        &mut self,
        file: &LargeFile,
        progress: &dyn Fn(std::ops::Range<u64>),
        goes: &dyn Fn() -> bool,
    ) -> Result<Mechanism, StepError> {
        if let Some(supply) = &file.objects {
            return striped::move_pieces(file, supply, &mut self.buffer, progress);
        }
        match file.direct {
            Some(alignment) => self.large_direct(file, alignment, progress, goes),
            None => self.large_buffered(file, progress, goes),
        }
    }
}

/// The next chunk, unless somebody else failed.
pub(super) fn next_chunk(file: &LargeFile) -> Result<Option<std::ops::Range<u64>>, StepError> {
    if file.stop.load(Relaxed) {
        return Ok(None);
    }
    file.chunks.next(&file.source).at(Step::Read)
}

/// Moves a chunk piece by piece: under a low limit it takes long, and progress is to be seen meanwhile.
pub(super) fn in_pieces(
    file: &LargeFile,
    chunk: std::ops::Range<u64>,
    progress: &dyn Fn(std::ops::Range<u64>),
    mut move_piece: impl FnMut(std::ops::Range<u64>) -> Result<(), StepError>,
) -> Result<(), StepError> {
    let mut start = chunk.start;
    while start < chunk.end {
        let piece = start..start + lanes::piece(chunk.end - start);
        move_piece(piece.clone())?;
        start = piece.end;
        account(file, piece, progress);
    }
    Ok(())
}

/// Counts a piece that is written.
pub(super) fn account(
    file: &LargeFile,
    piece: std::ops::Range<u64>,
    progress: &dyn Fn(std::ops::Range<u64>),
) {
    file.moved.fetch_add(piece.end - piece.start, Relaxed);
    progress(piece);
}

/// The error of a read that ended before the size that the inode promised.
pub(super) fn shrunk() -> StepError {
    StepError::found(Step::Read, FailureKind::SourceChanged)
}

/// Lengths of parts of a buffer; they came from a `usize`.
pub(super) fn to_usize(bytes: u64) -> usize {
    usize::try_from(bytes).expect("the length of a part of a buffer fits into usize")
}

/// Reads a whole small file into `buffer`, of which `filled` bytes are there already. Tries one byte
/// more than `size`, which shows growth and saves the read that would find the end. Returns the
/// number of bytes to be written, at most `size`.
pub(super) fn read_whole(
    source: BorrowedFd<'_>,
    buffer: &mut [u8],
    size: usize,
    mut filled: usize,
) -> Result<(usize, Read), StepError> {
    let limit = (size + 1).min(buffer.len());
    while filled < size {
        match read_some(source, &mut buffer[filled..limit], filled as u64).at(Step::Read)? {
            0 => return Ok((filled, Read::Shrunk)),
            read => filled += read,
        }
    }
    let read = if filled > size { Read::Grown } else { Read::Exact };
    Ok((size, read))
}

/// Fills `buffer` from `offset` on, or reads up to the end of the file.
pub(crate) fn read_up_to(
    source: BorrowedFd<'_>,
    buffer: &mut [u8],
    offset: u64,
) -> Result<usize, Errno> {
    let mut filled = 0;
    while filled < buffer.len() {
        match read_some(source, &mut buffer[filled..], offset + filled as u64)? {
            0 => break,
            read => filled += read,
        }
    }
    Ok(filled)
}

/// One read, repeated when a signal interrupts it.
pub(super) fn read_some(
    source: BorrowedFd<'_>,
    buffer: &mut [u8],
    offset: u64,
) -> Result<usize, Errno> {
    let offset = i64::try_from(offset).map_err(|_| Errno::EOVERFLOW)?;
    let _pass = lanes::enter_for(Lane::SourceRead, buffer.len());
    loop {
        match pread(source, buffer, offset) {
            Err(Errno::EINTR) => {}
            // A filesystem that takes O_NONBLOCK seriously: the source was opened with it only to be
            // safe from FIFOs.
            Err(Errno::EAGAIN) if blocking_again(source) => {}
            other => return other,
        }
    }
}

/// Takes O_NONBLOCK off; false when it was not on.
fn blocking_again(file: BorrowedFd<'_>) -> bool {
    let Ok(flags) = fcntl(file, FcntlArg::F_GETFL).map(OFlag::from_bits_retain) else {
        return false;
    };
    flags.contains(OFlag::O_NONBLOCK)
        && fcntl(file, FcntlArg::F_SETFL(flags & !OFlag::O_NONBLOCK)).is_ok()
}

/// Whether a server takes no O_DIRECT, although its kernel module has it.
fn refuses_direct(error: StepError) -> bool {
    matches!(error.errno, Some(Errno::EINVAL | Errno::EOPNOTSUPP))
}

/// Takes O_DIRECT off both files, for everybody who moves them; false when that cannot be done.
fn leave_direct(file: &LargeFile) -> bool {
    [&file.source, &file.destination].into_iter().all(|file| {
        let flags = fcntl(file.as_fd(), FcntlArg::F_GETFL).map(OFlag::from_bits_retain);
        let off = |flags: OFlag| fcntl(file.as_fd(), FcntlArg::F_SETFL(flags & !OFlag::O_DIRECT));
        flags.and_then(off).is_ok()
    })
}

/// Fills `buffer` with O_DIRECT, or reads up to the end of the data that the chunk promises. A short
/// read in the middle is taken up again at the last full block.
fn read_direct(
    source: BorrowedFd<'_>,
    buffer: &mut [u8],
    offset: u64,
    alignment: u64,
    chunk_end: u64,
) -> Result<usize, StepError> {
    let wanted = to_usize((buffer.len() as u64).min(chunk_end - offset));
    let mut filled = 0;
    while filled < wanted {
        let read =
            read_some(source, &mut buffer[filled..], offset + filled as u64).at(Step::Read)?;
        let end = filled + read;
        if end >= wanted {
            return Ok(end);
        }
        let aligned = to_usize(end as u64 / alignment * alignment);
        if aligned <= filled {
            return Err(shrunk());
        }
        filled = aligned;
    }
    Ok(filled)
}

/// Moves what reading gives until it gives no more, for files whose size says nothing. Returns the
/// number of bytes; `see` gets them first.
pub(crate) fn stream(
    source: BorrowedFd<'_>,
    destination: BorrowedFd<'_>,
    mut see: impl FnMut(&[u8]),
) -> Result<u64, StepError> {
    let mut buffer = vec![0; STREAM_UNIT];
    let mut moved = 0;
    loop {
        // No position: not every such file takes one. And no waiting, for some never end.
        let pass = lanes::enter(Lane::SourceRead);
        let read = nix::unistd::read(source, &mut buffer);
        drop(pass);
        match read {
            Ok(0) => return Ok(moved),
            Ok(read) => {
                lanes::take_bytes(read as u64);
                see(&buffer[..read]);
                write_all(destination, &buffer[..read], moved)?;
                moved += read as u64;
            }
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(StepError::os(Step::Read, errno)),
        }
    }
}

/// Writes all of `bytes` at `offset`.
pub(crate) fn write_all(
    destination: BorrowedFd<'_>,
    mut bytes: &[u8],
    offset: u64,
) -> Result<(), StepError> {
    let mut offset = i64::try_from(offset).map_err(|_| Errno::EFBIG).at(Step::Write)?;
    let _pass = lanes::enter_for(Lane::DestinationWrite, bytes.len());
    while !bytes.is_empty() {
        match pwrite(destination, bytes, offset) {
            Ok(0) => return Err(StepError::os(Step::Write, Errno::EIO)),
            Ok(written) => {
                bytes = &bytes[written..];
                offset += i64::try_from(written).map_err(|_| Errno::EFBIG).at(Step::Write)?;
            }
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(StepError::os(Step::Write, errno)),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::unix::fs::{FileExt, MetadataExt};
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, AtomicU64};

    use super::*;
    use crate::backend::chunk::ChunkSupply;

    /// ZFS has told of holes where data had just been written, and the data was lost.
    #[test]
    fn where_holes_are_not_told_all_is_read_and_zeros_stay_holes() {
        let [source, destination] = [(); 2].map(|()| tempfile::tempfile().expect("a file"));
        let size = 16 << 20;
        for file in [&source, &destination] {
            file.set_len(size).expect("extended");
        }
        source.write_all_at(&[7; 5000], 9 << 20).expect("written");
        let keep: [&File; 2] = [&source, &destination];
        let [from, to] = keep.map(|file| Arc::new(file.try_clone().expect("a descriptor").into()));
        let file = LargeFile {
            source: from,
            destination: to,
            chunks: ChunkSupply::new(size, 4 << 20, false, 1),
            objects: None,
            anyway: AtomicBool::new(false),
            zeros_are_holes: true,
            in_memory: false,
            direct: None,
            stop: AtomicBool::new(false),
            moved: AtomicU64::new(0),
            cells: None,
        };
        let mut plain = Plain::new(1 << 20).expect("a buffer");
        plain.large_buffered(&file, &|_| {}, &|| false).expect("copied");
        let mut copied = [0; 5000];
        destination.read_exact_at(&mut copied, 9 << 20).expect("read");
        assert_eq!(copied, [7; 5000]);
        let blocks = destination.metadata().expect("a stat").blocks() * 512;
        assert!(blocks < 4 << 20, "{blocks} bytes allocated");
    }
}
