//! Compares the bytes of two files, the copy's as the device has them. Holes on both sides are not
//! read.

use std::ops::Range;
use std::os::fd::{AsFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::stat::FileStat;

use crate::backend::chunk::Holes;
use crate::backend::past_cache::OpenBack;
use crate::backend::plain::read_up_to;
use crate::checksum::{CELL_BYTES, cell_count, cell_range};
use crate::engine::Cancel;
use crate::engine::filesystem::Filesystem;
use crate::error::{AtStep, Step, StepError};
use crate::sys::buffer::Buffer;

/// Differing ranges of one file that are told.
const RANGES: usize = 16;
/// Bytes that are the same between two differences and do not part them.
const GAP_BYTES: u64 = 512;

/// Room for one cell of either side.
pub(super) struct Cells {
    source: Buffer,
    copy: Buffer,
}

/// Ranges of bytes that differ, and whether there are more than those.
#[derive(Debug, Default)]
pub(super) struct Differing {
    pub(super) ranges: Vec<(u64, u64)>,
    pub(super) more: bool,
}

impl Differing {
    /// Adds a range behind all others.
    pub(super) fn add(&mut self, range: Range<u64>) {
        let room = self.ranges.len() < RANGES;
        match self.ranges.last_mut() {
            Some(last) if range.start <= last.1 + GAP_BYTES => last.1 = range.end,
            _ if room => self.ranges.push((range.start, range.end)),
            _ => self.more = true,
        }
    }

    /// In words.
    pub(super) fn words(&self) -> String {
        let ranges: Vec<String> =
            self.ranges.iter().map(|(start, end)| format!("{start}-{end}")).collect();
        let more = if self.more { " and more" } else { "" };
        format!("other content at bytes {}{more}", ranges.join(", "))
    }
}

impl Cells {
    /// # Errors
    /// The errno of mapping memory.
    pub(super) fn new() -> Result<Self, Errno> {
        let cell = usize::try_from(CELL_BYTES).map_err(|_| Errno::ENOMEM)?;
        Ok(Self { source: Buffer::new(cell)?, copy: Buffer::new(cell)? })
    }

    /// Compares two files of the same size; `compared` is told of the bytes as they are.
    ///
    /// # Errors
    /// The read that failed.
    pub(super) fn compare(
        &mut self,
        (source, stat): (&OwnedFd, &FileStat),
        copy: &OpenBack,
        cancel: &Cancel,
        compared: impl Fn(u64),
    ) -> Result<Differing, StepError> {
        let size = stat.st_size.cast_unsigned();
        let told = |file: &OwnedFd| Filesystem::of(file).is_ok_and(|fs| fs.tells_holes);
        let sparse = stat.st_blocks.saturating_mul(512) < stat.st_size;
        let mut source_holes = Holes::of(stat, sparse && told(source));
        let mut copy_holes = Holes::of(&copy.stat, sparse && told(&copy.file));
        let mut differing = Differing::default();
        for cell in 0..cell_count(size) {
            if cancel.outcome().is_some() {
                break;
            }
            let range = cell_range(cell, size);
            let hole = source_holes.contain(source, &range).at(Step::Read)?;
            let copy_hole = copy_holes.contain(&copy.file, &range).at(Step::ReadBack)?;
            if hole && copy_hole {
                compared(range.end - range.start);
                continue;
            }
            let length = usize::try_from(range.end - range.start).unwrap_or(usize::MAX);
            let there = &mut self.source[..length];
            let read = read_up_to(source.as_fd(), there, range.start).at(Step::Read)?;
            let read_back = copy.read(&mut self.copy, range.start, length).at(Step::ReadBack)?;
            let (there, here) = (&self.source[..read], &self.copy[..read_back]);
            if there != here {
                add_bytes(&mut differing, range.start, there, here);
            }
            compared(range.end - range.start);
        }
        Ok(differing)
    }
}

/// Adds the bytes that differ, those behind the end of the shorter side included.
fn add_bytes(differing: &mut Differing, start: u64, one: &[u8], other: &[u8]) {
    for (at, _) in (start..).zip(one.iter().zip(other)).filter(|(_, (one, other))| one != other) {
        differing.add(at..at + 1);
    }
    let (shorter, longer) = (one.len().min(other.len()), one.len().max(other.len()));
    if shorter < longer {
        differing.add(start + shorter as u64..start + longer as u64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_that_differ_are_told_as_ranges() {
        let one = vec![0; 10_000];
        let mut other = one.clone();
        other[5] = 1;
        other[100] = 1;
        other[8000] = 1;
        let mut differing = Differing::default();
        add_bytes(&mut differing, 1000, &one, &other);
        assert_eq!(differing.ranges, [(1005, 1101), (9000, 9001)]);
        add_bytes(&mut differing, 20_000, &one, &one[..9000]);
        assert_eq!(differing.ranges[2..], [(29_000, 30_000)]);
        assert!(!differing.more);
    }

    #[test]
    fn very_many_ranges_are_cut_short() {
        let mut differing = Differing::default();
        for n in 0..100 {
            differing.add(n * 10_000..n * 10_000 + 1);
        }
        assert!(differing.more && differing.ranges.len() == RANGES);
        assert!(differing.words().ends_with("and more"));
    }
}
