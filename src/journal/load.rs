//! Reads what an earlier run noted, and makes of it what this run may rely on. It trusts no entry that
//! does not pass its check, and none that a crash of the machine may have outlived.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::BLOCK_BYTES;
use super::index::{Index, Key};
use super::ranges;
use super::record::{Kind, RECORD_BYTES, Record, Slot, range_key};

/// What an earlier run left.
#[derive(Debug)]
pub(crate) struct Earlier {
    pub(super) done: Index,
    /// Large files that were begun and not finished, by their key.
    pub(super) begun: HashMap<Key, Begun>,
    /// Temporary files of those, by the key of their directory: the numbers in their names.
    pub(super) named: HashMap<Key, Vec<u64>>,
    /// Regular files that were finished, and their bytes.
    pub(super) files: u64,
    pub(super) bytes: u64,
    /// Entries that did not pass their check.
    pub(super) torn: u64,
    /// Entries that were written after the last checkpoint before the machine went down.
    pub(super) lost: u64,
    /// The highest epoch of any entry.
    pub(super) last_epoch: u32,
    /// Blocks in the file, whole or not.
    pub(super) blocks: u64,
    /// Blocks that are not full: their number, and the first free slot.
    pub(super) open_blocks: Vec<(u64, usize)>,
}

/// A large file that was begun and not finished.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Begun {
    /// The source's print when it was begun.
    pub(crate) print: u64,
    pub(super) epoch: u32,
    pub(super) mark: u64,
    /// What is written in its temporary file: sorted, apart.
    pub(crate) ranges: Vec<Range<u64>>,
}

/// Entries as they come, before it is known which of them count.
#[derive(Default)]
struct Raw {
    begun: HashMap<Key, (u32, u64, u64)>,
    named: Vec<(Key, u64, u64)>,
    ranges: HashMap<Key, Vec<(u32, Range<u64>)>>,
    dropped: HashSet<(Key, u64, u64)>,
}

impl Earlier {
    /// Nothing: the journal is new.
    pub(super) fn none() -> Self {
        Self {
            done: Index::new(0, Path::new("")),
            begun: HashMap::new(),
            named: HashMap::new(),
            files: 0,
            bytes: 0,
            torn: 0,
            lost: 0,
            last_epoch: 0,
            blocks: 0,
            open_blocks: Vec::new(),
        }
    }

    /// Reads all entries of up to the epoch `believed`, and wipes out later ones, so that no run after
    /// this one believes them. `beside` is the directory for a large index.
    ///
    /// # Errors
    /// Those of reading and of wiping out.
    pub(super) fn load(file: &File, seed: u64, believed: u32, beside: &Path) -> io::Result<Self> {
        let length = file.metadata()?.len();
        let mut found = Self::none();
        found.blocks = length.saturating_sub(BLOCK_BYTES).div_ceil(BLOCK_BYTES);
        let slots = length / RECORD_BYTES as u64;
        found.done = Index::new(usize::try_from(slots).unwrap_or(usize::MAX), beside);
        let mut raw = Raw::default();
        let mut block = vec![0; usize::try_from(BLOCK_BYTES).unwrap_or(0)];
        for number in 0..found.blocks {
            let start = (number + 1) * BLOCK_BYTES;
            let filled = read_block(file, &mut block, start)?;
            let (entries, _) = block[..filled].as_chunks::<RECORD_BYTES>();
            let mut free = 0;
            for (slot, bytes) in entries.iter().enumerate() {
                let record = match Record::decode(bytes, seed) {
                    Slot::Empty => continue,
                    Slot::Torn => {
                        found.torn += 1;
                        free = slot + 1;
                        continue;
                    }
                    Slot::Record(record) => record,
                };
                free = slot + 1;
                found.last_epoch = found.last_epoch.max(record.epoch);
                if record.epoch <= believed {
                    found.take(record, &mut raw);
                } else {
                    found.lost += 1;
                    let at = start + (slot * RECORD_BYTES) as u64;
                    file.write_all_at(&[0; RECORD_BYTES], at)?;
                }
            }
            if filled == block.len() && free < entries.len() {
                found.open_blocks.push((number, free));
            }
        }
        found.done.sort();
        found.settle(raw);
        Ok(found)
    }

    fn take(&mut self, record: Record, raw: &mut Raw) {
        let Record { kind, epoch, key, a, b } = record;
        match kind {
            Kind::File | Kind::Other => {
                self.done.push(key, epoch, a);
                self.files += u64::from(kind == Kind::File);
                self.bytes = self.bytes.saturating_add(b);
            }
            Kind::Begun => {
                // Of several the last one counts: its temporary took the place of the others.
                let known = raw.begun.entry(key).or_insert((epoch, b, a));
                *known = (*known).max((epoch, b, a));
            }
            Kind::Named => raw.named.push((key, a, b)),
            Kind::Range => raw.ranges.entry(key).or_default().push((epoch, a..b)),
            Kind::Dropped => {
                raw.dropped.insert((key, a, b));
            }
        }
    }

    /// Puts together what belongs together.
    fn settle(&mut self, mut raw: Raw) {
        let mut marks = HashSet::new();
        for (key, (epoch, mark, print)) in raw.begun {
            let finished = self.done.latest(key).is_some_and(|(done, _)| done >= epoch);
            if finished || raw.dropped.contains(&(key, u64::from(epoch), mark)) {
                continue;
            }
            let written = raw.ranges.remove(&range_key(key, epoch, mark)).unwrap_or_default();
            // A range is noted after the file was begun, in the same epoch or a later one.
            let written = written.into_iter().filter(|(noted, _)| *noted >= epoch);
            let ranges = ranges::merge(written.map(|(_, range)| range).collect());
            self.bytes = self.bytes.saturating_add(ranges::bytes(&ranges));
            marks.insert(mark);
            self.begun.insert(key, Begun { print, epoch, mark, ranges });
        }
        for (directory, number, mark) in raw.named {
            if mark == 0 || marks.contains(&mark) {
                self.named.entry(directory).or_default().push(number);
            }
        }
    }
}

/// Fills the buffer as far as the file goes.
fn read_block(file: &File, block: &mut [u8], start: u64) -> io::Result<usize> {
    let mut filled = 0;
    while filled < block.len() {
        match file.read_at(&mut block[filled..], start + filled as u64) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}
