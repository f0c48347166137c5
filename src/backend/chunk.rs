//! Cuts a large file into chunks that idle workers take one by one; holes are left out.
//! It reads no data.

use std::ops::Range;
use std::os::fd::AsFd;
use std::sync::{Mutex, PoisonError};

use nix::errno::Errno;
use nix::sys::stat::FileStat;
use nix::unistd::{Whence, lseek};

/// Hands out the data of one file, each byte once, in pieces that end on multiples of the chunk size.
#[derive(Debug)]
pub(crate) struct ChunkSupply {
    chunk_bytes: u64,
    size_bytes: u64,
    sparse: bool,
    /// Data is widened to multiples of this, so that O_DIRECT can move it and no two pieces share a
    /// block.
    block_bytes: u64,
    /// What is there already: sorted, apart, in whole blocks.
    written: Vec<Range<u64>>,
    position: Mutex<Position>,
}

#[derive(Debug)]
struct Position {
    /// Everything before it has been handed out or is a hole.
    next: u64,
    /// End of the data that `next` lies in.
    data_end: u64,
}

impl ChunkSupply {
    /// The whole of a file, or only its data when it is `sparse`, in multiples of `block_bytes` (which
    /// divides `chunk_bytes`) up to the size.
    pub(crate) fn new(size_bytes: u64, chunk_bytes: u64, sparse: bool, block_bytes: u64) -> Self {
        let data_end = if sparse { 0 } else { size_bytes };
        Self {
            chunk_bytes,
            size_bytes,
            sparse,
            block_bytes,
            written: Vec::new(),
            position: Mutex::new(Position { next: 0, data_end }),
        }
    }

    /// Leaves out what is there already: ranges that are sorted, apart, and of whole blocks (the last
    /// one up to the size).
    pub(crate) fn without(self, written: Vec<Range<u64>>) -> Self {
        Self { written, ..self }
    }

    /// The range at or behind `from` that is there already.
    fn written_from(&self, from: u64) -> Option<&Range<u64>> {
        let index = self.written.partition_point(|range| range.end <= from);
        self.written.get(index)
    }

    /// Whether everything has been handed out (holes at the end may not have been looked up yet).
    pub(crate) fn is_empty(&self) -> bool {
        let position = self.position.lock().unwrap_or_else(PoisonError::into_inner);
        let end = if self.sparse { self.size_bytes } else { position.data_end };
        position.next >= end
    }

    /// How far there is nothing but data, at most `end`; zero where there may be holes.
    pub(crate) fn dense_until(&self, end: u64) -> u64 {
        if self.sparse { 0 } else { end.min(self.size_bytes) }
    }

    /// The next piece; `None` when all have been handed out. Holes are looked up (`SEEK_DATA`) as
    /// they come, so that a file with millions of extents needs no memory.
    pub(crate) fn next(&self, source: impl AsFd) -> Result<Option<Range<u64>>, Errno> {
        let mut position = self.position.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if position.next >= position.data_end {
                if !self.sparse || position.next >= self.size_bytes {
                    return Ok(None);
                }
                match next_data(source.as_fd(), position.next, self.size_bytes)? {
                    Some(data) => {
                        let block = self.block_bytes;
                        position.next = (data.start / block * block).max(position.next);
                        position.data_end = data.end.next_multiple_of(block).min(self.size_bytes);
                    }
                    None => {
                        position.next = self.size_bytes;
                        return Ok(None);
                    }
                }
            }
            let start = position.next;
            let mut end =
                ((start / self.chunk_bytes + 1) * self.chunk_bytes).min(position.data_end);
            match self.written_from(start) {
                Some(written) if written.start <= start => {
                    position.next = written.end.min(self.size_bytes);
                    continue;
                }
                Some(written) => end = end.min(written.start),
                None => {}
            }
            position.next = end;
            return Ok(Some(start..end));
        }
    }
}

/// Tells which ranges of a file are holes, asked for in ascending order.
#[derive(Debug)]
pub(crate) struct Holes {
    /// Whether there can be any, and the filesystem tells them.
    sparse: bool,
    size_bytes: u64,
    /// The data that was found last.
    data: Range<u64>,
}

impl Holes {
    /// For a file with this stat; `told` says that its filesystem can be asked.
    pub(crate) fn of(stat: &FileStat, told: bool) -> Self {
        let sparse = told && stat.st_blocks.saturating_mul(512) < stat.st_size;
        Self { sparse, size_bytes: stat.st_size.cast_unsigned(), data: 0..0 }
    }

    /// Whether nothing but a hole is in `range`.
    pub(crate) fn contain(&mut self, file: impl AsFd, range: &Range<u64>) -> Result<bool, Errno> {
        if !self.sparse {
            return Ok(false);
        }
        if range.start >= self.data.end {
            let none = self.size_bytes..self.size_bytes;
            self.data = next_data(file, range.start, self.size_bytes)?.unwrap_or(none);
        }
        Ok(range.end <= self.data.start)
    }
}

/// The first data at or behind `from`, up to the next hole.
pub(super) fn next_data(
    source: impl AsFd,
    from: u64,
    size: u64,
) -> Result<Option<Range<u64>>, Errno> {
    let seek = |offset: u64, whence| {
        let offset = i64::try_from(offset).map_err(|_| Errno::EOVERFLOW)?;
        lseek(source.as_fd(), offset, whence).map(i64::cast_unsigned)
    };
    let start = match seek(from, Whence::SeekData) {
        Ok(start) => start,
        Err(Errno::ENXIO) => return Ok(None),
        // A filesystem that knows no holes: everything is data.
        Err(Errno::EINVAL | Errno::EOPNOTSUPP) => return Ok(Some(from..size)),
        Err(errno) => return Err(errno),
    };
    let end = match seek(start, Whence::SeekHole) {
        Ok(end) => end.min(size),
        Err(Errno::ENXIO | Errno::EINVAL | Errno::EOPNOTSUPP) => size,
        Err(errno) => return Err(errno),
    };
    Ok((start < end).then_some(start..end))
}

#[cfg(test)]
mod tests {
    use std::io::{Seek, SeekFrom, Write};

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn chunks_tile_a_dense_file_exactly_once(size in 0_u64..10_000, chunk in 1_u64..3_000) {
            let file = tempfile::tempfile().expect("a file");
            let supply = ChunkSupply::new(size, chunk, false, 1);
            let mut expected = 0;
            while let Some(piece) = supply.next(&file).expect("no holes to look up") {
                prop_assert_eq!(piece.start, expected);
                prop_assert!(piece.end > piece.start && piece.end - piece.start <= chunk);
                prop_assert!(piece.end.is_multiple_of(chunk) || piece.end == size);
                expected = piece.end;
            }
            prop_assert_eq!(expected, size);
        }
    }

    /// Two extents may lie in one block of the device: a piece that is padded to whole blocks must
    /// then hold both, or writing one would wipe out the other.
    #[test]
    fn pieces_of_whole_blocks_are_disjoint_and_hold_all_data() {
        use std::os::unix::fs::FileExt;
        let file = tempfile::tempfile().expect("a file");
        let size = (1 << 20) + 1234;
        file.set_len(size).expect("extended");
        for start in [0, 5000, 70_000, 300_000, 1 << 20] {
            file.write_all_at(&[1; 700], start).expect("written");
        }
        // A block larger than the filesystem's, so that data is not aligned to it.
        let block = 1 << 16;
        let supply = ChunkSupply::new(size, 1 << 18, true, block);
        let mut end = 0;
        let mut handed = Vec::new();
        while let Some(piece) = supply.next(&file).expect("extents") {
            assert!(piece.start >= end && piece.start.is_multiple_of(block), "{piece:?}");
            assert!(piece.end.is_multiple_of(block) || piece.end == size, "{piece:?}");
            end = piece.end;
            handed.push(piece);
        }
        for start in [0_u64, 5000, 70_000, 300_000, 1 << 20] {
            assert!(
                (start..start + 700).all(|byte| handed.iter().any(|p| p.contains(&byte))),
                "data at {start} is in no piece of {handed:?}"
            );
        }
    }

    #[test]
    fn holes_are_left_out_and_all_data_is_handed_out() {
        let mut file = tempfile::tempfile().expect("a file");
        let mut data = Vec::new();
        for start in [1 << 20, 3 << 20, 7 << 20] {
            file.seek(SeekFrom::Start(start)).expect("seek");
            file.write_all(&vec![1; 100_000]).expect("written");
            data.push(start..start + 100_000);
        }
        file.set_len(64 << 20).expect("extended");
        let supply = ChunkSupply::new(64 << 20, 1 << 20, true, 1);
        let mut pieces = Vec::new();
        while let Some(piece) = supply.next(&file).expect("extents") {
            pieces.push(piece);
        }
        for range in &data {
            assert!(pieces.iter().any(|p| p.start <= range.start && p.end >= range.end));
        }
        let handed: u64 = pieces.iter().map(|piece| piece.end - piece.start).sum();
        assert!(handed < 2 << 20, "{handed} bytes of 300000 handed out: holes are being read");
    }
}
