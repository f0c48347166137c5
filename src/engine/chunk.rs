//! Cuts a large file into chunks that idle workers take one by one; holes are left out.
//! It reads no data.

use std::ops::Range;
use std::os::fd::AsFd;
use std::sync::{Mutex, PoisonError};

use nix::errno::Errno;
use nix::unistd::{Whence, lseek};

/// Hands out the data of one file, each byte once, in pieces that end on multiples of the chunk size.
#[derive(Debug)]
pub(crate) struct ChunkSupply {
    chunk_bytes: u64,
    size_bytes: u64,
    sparse: bool,
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
    /// The whole of a file, or only its data when it is `sparse`.
    pub(crate) fn new(size_bytes: u64, chunk_bytes: u64, sparse: bool) -> Self {
        let data_end = if sparse { 0 } else { size_bytes };
        Self {
            chunk_bytes,
            size_bytes,
            sparse,
            position: Mutex::new(Position { next: 0, data_end }),
        }
    }

    /// Whether everything has been handed out (holes at the end may not have been looked up yet).
    pub(crate) fn is_empty(&self) -> bool {
        let position = self.position.lock().unwrap_or_else(PoisonError::into_inner);
        let end = if self.sparse { self.size_bytes } else { position.data_end };
        position.next >= end
    }

    /// The next piece; `None` when all have been handed out. Holes are looked up (`SEEK_DATA`) as
    /// they come, so that a file with millions of extents needs no memory.
    pub(crate) fn next(&self, source: impl AsFd) -> Result<Option<Range<u64>>, Errno> {
        let mut position = self.position.lock().unwrap_or_else(PoisonError::into_inner);
        if position.next >= position.data_end {
            if !self.sparse || position.next >= self.size_bytes {
                return Ok(None);
            }
            match next_data(source, position.next, self.size_bytes)? {
                Some(data) => {
                    position.next = data.start;
                    position.data_end = data.end;
                }
                None => {
                    position.next = self.size_bytes;
                    return Ok(None);
                }
            }
        }
        let start = position.next;
        let edge = (start / self.chunk_bytes + 1) * self.chunk_bytes;
        position.next = edge.min(position.data_end);
        Ok(Some(start..position.next))
    }
}

/// The first data at or behind `from`, up to the next hole.
fn next_data(source: impl AsFd, from: u64, size: u64) -> Result<Option<Range<u64>>, Errno> {
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
            let supply = ChunkSupply::new(size, chunk, false);
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
        let supply = ChunkSupply::new(64 << 20, 1 << 20, true);
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
