//! Content of two files, compared through their holes without reading them. No attributes here.

use std::fs::File;

use nix::errno::Errno;
use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};
use nix::sys::uio::pread;
use nix::unistd::{Whence, lseek};

/// Holes smaller than this may be filled: filesystems differ in block size.
pub const HOLE_GRAIN_BYTES: i64 = 64 * 1024;

const BLOCK_BYTES: i64 = 1024 * 1024;

/// What is asked for ahead: by itself the kernel reads 128 KiB at a time, which takes a minute for large cold files.
const AHEAD_BYTES: i64 = 8 * BLOCK_BYTES;

/// The data segments of a file as `[start, end)`, ascending.
pub fn data_segments(file: &File, size: i64) -> Vec<(i64, i64)> {
    let mut segments = Vec::new();
    let mut at = 0;
    while at < size {
        let start = match lseek(file, at, Whence::SeekData) {
            Ok(start) => start,
            Err(Errno::ENXIO) => break,
            Err(_) => return vec![(0, size)], // no SEEK_DATA here: everything is data
        };
        let end = lseek(file, start, Whence::SeekHole).unwrap_or(size).min(size);
        segments.push((start, end));
        at = end.max(start + 1);
    }
    segments
}

/// The first byte that differs between two files of the given size, holes being zeros.
pub fn first_difference(a: &File, b: &File, size: i64) -> Option<i64> {
    let mut segments = data_segments(a, size);
    segments.extend(data_segments(b, size));
    segments.sort_unstable();
    let mut at = 0;
    let block = usize_of(BLOCK_BYTES.min(size.max(0))); // most files are far smaller
    let (mut left, mut right) = (vec![0; block], vec![0; block]);
    for (start, end) in segments {
        at = at.max(start);
        while at < end {
            if end - start > BLOCK_BYTES && (at - start) % AHEAD_BYTES < BLOCK_BYTES {
                for file in [a, b] {
                    let advice = PosixFadviseAdvice::POSIX_FADV_WILLNEED;
                    let _ = posix_fadvise(file, at, 2 * AHEAD_BYTES, advice); // only slower without
                }
            }
            let length = usize_of(BLOCK_BYTES.min(end - at));
            let (left, right) = (&mut left[..length], &mut right[..length]);
            let (got_left, got_right) = (read_full(a, left, at), read_full(b, right, at));
            if got_left != got_right || left != right {
                let same = left.iter().zip(right.iter()).take_while(|(x, y)| x == y).count();
                return Some(at + i64::try_from(same).expect("a block is small"));
            }
            at += i64::try_from(length).expect("a block is small");
        }
    }
    None
}

/// The first hole of `source` that `copy` has filled with data.
pub fn first_filled_hole(source: &File, copy: &File, size: i64) -> Option<(i64, i64)> {
    let mut holes = Vec::new();
    let mut at = 0;
    for (start, end) in data_segments(source, size) {
        holes.push((at, start));
        at = end;
    }
    holes.push((at, size));
    for (start, end) in holes {
        let start = (start + HOLE_GRAIN_BYTES - 1) / HOLE_GRAIN_BYTES * HOLE_GRAIN_BYTES;
        let end = if end == size { end } else { end / HOLE_GRAIN_BYTES * HOLE_GRAIN_BYTES };
        if end - start < HOLE_GRAIN_BYTES {
            continue;
        }
        match lseek(copy, start, Whence::SeekData) {
            Ok(data) if data < end => return Some((data, end)),
            _ => {}
        }
    }
    None
}

fn read_full(file: &File, buffer: &mut [u8], offset: i64) -> usize {
    let mut done = 0;
    while done < buffer.len() {
        let at = offset + i64::try_from(done).expect("a block is small");
        match pread(file, &mut buffer[done..], at) {
            Ok(0) => break,
            Ok(got) => done += got,
            Err(Errno::EINTR) => {}
            Err(errno) => panic!("failed to read for the comparison: {errno}"),
        }
    }
    buffer[done..].fill(0);
    done
}

fn usize_of(bytes: i64) -> usize {
    usize::try_from(bytes).expect("a length in a file is not negative")
}
