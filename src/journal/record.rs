//! One entry of the journal: 48 bytes that say what was finished, with a check that tells a torn one.
//! The meaning of several entries together is in `load`; nothing here reads or writes files.

use std::time::Duration;

use nix::sys::stat::FileStat;
use nix::sys::time::TimeSpec;
use xxhash_rust::xxh3::{Xxh3, xxh3_64_with_seed, xxh3_128_with_seed};

use super::index::Key;

/// Bytes of one entry.
pub(super) const RECORD_BYTES: usize = 48;

/// A change of a source within one tick of the clock leaves the same change time. A source that was
/// changed more recently than this is waited for, and not noted as finished. Twice the coarsest tick (10 ms).
const TICK_NANOS: i64 = 20_000_000;
/// As [`TICK_NANOS`], for a filesystem that seems to know seconds only (FAT: two of them).
const COARSE_TICK_NANOS: i64 = 2_000_000_000;

/// What an entry says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// A regular file is complete. `a` is the print of its source, `b` its size in bytes.
    File,
    /// Anything else that is no directory is complete. `a` as for a file, `b` is 0.
    Other,
    /// A large file has a temporary one. `a` is the source's print, `b` the mark of that temporary.
    Begun,
    /// Which name that temporary has, or one that is about to be made. The key is the directory's, `a`
    /// the number in the name, `b` the mark, or 0.
    Named,
    /// Bytes from `a` up to `b` of a temporary file are written. The key is [`range_key`].
    Range,
    /// The temporary with the mark `b`, begun in epoch `a`, is removed.
    Dropped,
}

impl Kind {
    const ALL: [Self; 6] =
        [Self::File, Self::Other, Self::Begun, Self::Named, Self::Range, Self::Dropped];

    fn number(self) -> u8 {
        // Zero is kept for slots that were never written.
        self as u8 + 1
    }
}

/// An entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) kind: Kind,
    /// Counts the checkpoints; see `docs/journal.md`.
    pub(super) epoch: u32,
    pub(super) key: Key,
    pub(super) a: u64,
    pub(super) b: u64,
}

/// What a slot holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Slot {
    /// Never written.
    Empty,
    /// Written in part, or damaged since.
    Torn,
    /// An entry.
    Record(Record),
}

impl Record {
    /// The entry as bytes. `seed` is the journal's own, so that no entry of another one passes.
    pub(super) fn encode(&self, seed: u64) -> [u8; RECORD_BYTES] {
        let mut bytes = [0; RECORD_BYTES];
        bytes[8] = self.kind.number();
        bytes[12..16].copy_from_slice(&self.epoch.to_le_bytes());
        bytes[16..32].copy_from_slice(&self.key.to_le_bytes());
        bytes[32..40].copy_from_slice(&self.a.to_le_bytes());
        bytes[40..48].copy_from_slice(&self.b.to_le_bytes());
        let check = xxh3_64_with_seed(&bytes[8..], seed);
        bytes[..8].copy_from_slice(&check.to_le_bytes());
        bytes
    }

    /// What a slot holds.
    pub(super) fn decode(bytes: &[u8; RECORD_BYTES], seed: u64) -> Slot {
        if bytes.iter().all(|byte| *byte == 0) {
            return Slot::Empty;
        }
        let word = |at: usize| u64::from_le_bytes(part(bytes, at));
        let kind = Kind::ALL.into_iter().find(|kind| kind.number() == bytes[8]);
        let plain = bytes[9..12] == [0; 3];
        match kind {
            Some(kind) if plain && word(0) == xxh3_64_with_seed(&bytes[8..], seed) => {
                Slot::Record(Self {
                    kind,
                    epoch: u32::from_le_bytes(part(bytes, 12)),
                    key: Key::from_le_bytes(part(bytes, 16)),
                    a: word(32),
                    b: word(40),
                })
            }
            _ => Slot::Torn,
        }
    }
}

/// `N` bytes of a slot.
fn part<const N: usize>(bytes: &[u8; RECORD_BYTES], at: usize) -> [u8; N] {
    let mut part = [0; N];
    part.copy_from_slice(&bytes[at..at + N]);
    part
}

/// The key of the source with this index; what lies below it has keys made from this one.
#[must_use]
pub(crate) fn root_key(index: usize) -> Key {
    xxh3_128_with_seed(&(index as u64).to_le_bytes(), 0)
}

/// The key of a name in the directory with the key `above`.
#[must_use]
pub(crate) fn child_key(above: Key, name: &[u8]) -> Key {
    let mut hash = Xxh3::new();
    hash.update(&above.to_le_bytes());
    hash.update(name);
    hash.digest128()
}

/// The key of the ranges of one temporary file: of that one and of no later one of the same name,
/// because no two have the same mark begun in the same epoch.
pub(super) fn range_key(file: Key, begun: u32, mark: u64) -> Key {
    let mut bytes = [0; 28];
    bytes[..16].copy_from_slice(&file.to_le_bytes());
    bytes[16..20].copy_from_slice(&begun.to_le_bytes());
    bytes[20..].copy_from_slice(&mark.to_le_bytes());
    xxh3_128_with_seed(&bytes, 1)
}

/// Tells the source that was copied from one that was changed since: its inode, type, size, and the
/// times of its content and of its last change of any sort.
#[must_use]
pub(crate) fn print(stat: &FileStat) -> u64 {
    let words = [
        stat.st_ino,
        u64::from(stat.st_mode & libc::S_IFMT),
        stat.st_size.cast_unsigned(),
        stat.st_mtime.cast_unsigned(),
        stat.st_mtime_nsec.cast_unsigned(),
        stat.st_ctime.cast_unsigned(),
        stat.st_ctime_nsec.cast_unsigned(),
    ];
    let mut bytes = [0; 56];
    for (to, word) in bytes.chunks_exact_mut(8).zip(words) {
        to.copy_from_slice(&word.to_le_bytes());
    }
    xxh3_64_with_seed(&bytes, 0)
}

/// A print of a source whose copy does not have its time: with it that one file is told from what another copy may put
/// in its place later.
#[must_use]
pub(crate) fn print_with_copy(print: u64, copy: &FileStat) -> u64 {
    let words =
        [print, copy.st_ino, copy.st_mtime.cast_unsigned(), copy.st_mtime_nsec.cast_unsigned()];
    let mut bytes = [0; 32];
    for (to, word) in bytes.chunks_exact_mut(8).zip(words) {
        to.copy_from_slice(&word.to_le_bytes());
    }
    xxh3_64_with_seed(&bytes, 1)
}

/// The stat of a source that is about to be read. When a change from now on might not show in its
/// [`print`], because the clock may stand where it stood at the last change, its change time is taken
/// away, and with it all trust: see [`is_trusted`].
#[must_use]
pub(crate) fn about_to_be_read(mut stat: FileStat, now: TimeSpec) -> FileStat {
    if !is_settled(&stat, now) {
        stat.st_ctime_nsec = UNSETTLED;
    }
    stat
}

/// How long it takes until any change shows in the change time of a stat; `None` when that is so already, or when
/// its filesystem's clock is far ahead of ours, so that nobody can tell.
#[must_use]
pub(crate) fn unsettled_for(stat: &FileStat, now: TimeSpec) -> Option<Duration> {
    let age = age_nanos(stat, now);
    let left = tick_nanos(stat) - age;
    let left = u64::try_from(left).ok().filter(|left| *left > 0 && age > -TICK_NANOS)?;
    Some(Duration::from_nanos(left))
}

/// What no filesystem gives as parts of a second.
const UNSETTLED: i64 = -1;

/// Whether a print of this stat tells the source from every later state of it.
#[must_use]
pub(crate) fn is_trusted(stat: &FileStat) -> bool {
    stat.st_ctime_nsec != UNSETTLED
}

fn is_settled(stat: &FileStat, now: TimeSpec) -> bool {
    age_nanos(stat, now) >= tick_nanos(stat)
}

fn tick_nanos(stat: &FileStat) -> i64 {
    if stat.st_ctime_nsec == 0 { COARSE_TICK_NANOS } else { TICK_NANOS }
}

/// Time since the last change, below zero when that is to come.
fn age_nanos(stat: &FileStat, now: TimeSpec) -> i64 {
    let seconds = now.tv_sec().saturating_sub(stat.st_ctime);
    seconds.saturating_mul(1_000_000_000).saturating_add(now.tv_nsec() - stat.st_ctime_nsec)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const RECORD: Record =
        Record { kind: Kind::Range, epoch: 7, key: 1 << 100 | 5, a: 3, b: u64::MAX };

    proptest! {
        #[test]
        fn an_entry_with_any_other_byte_is_none(at in 0_usize..RECORD_BYTES, flip in 1_u8..) {
            let mut bytes = RECORD.encode(99);
            prop_assert_eq!(Record::decode(&bytes, 99), Slot::Record(RECORD));
            bytes[at] ^= flip;
            prop_assert_eq!(Record::decode(&bytes, 99), Slot::Torn);
        }
    }

    #[test]
    fn an_entry_of_another_journal_is_none() {
        assert_eq!(Record::decode(&RECORD.encode(1), 2), Slot::Torn);
        assert_eq!(Record::decode(&[0; RECORD_BYTES], 2), Slot::Empty);
    }

    #[test]
    fn ranges_belong_to_one_temporary_file() {
        let keys = [range_key(1, 1, 1), range_key(2, 1, 1), range_key(1, 2, 1), range_key(1, 1, 2)];
        for (n, key) in keys.iter().enumerate() {
            assert!(!keys[..n].contains(key));
        }
    }

    #[test]
    fn a_source_that_changed_a_moment_ago_is_not_settled() {
        let home = tempfile::tempdir().expect("a directory");
        let mut stat = nix::sys::stat::stat(home.path()).expect("a stat");
        (stat.st_ctime, stat.st_ctime_nsec) = (100, 990_000_000);
        assert!(!is_settled(&stat, TimeSpec::new(101, 9_000_000)));
        assert!(is_settled(&stat, TimeSpec::new(101, 10_000_000)));
        assert!(!is_settled(&stat, TimeSpec::new(99, 0)), "a clock that was set back");
        let left = |seconds, nanos| unsettled_for(&stat, TimeSpec::new(seconds, nanos));
        assert_eq!(left(101, 9_000_000), Some(Duration::from_millis(1)));
        assert_eq!(left(101, 10_000_000), None);
        assert_eq!(left(99, 0), None, "a clock that is ahead is not waited for");
        stat.st_ctime_nsec = 0; // perhaps it knows no parts of seconds
        assert!(!is_settled(&stat, TimeSpec::new(101, 999_999_999)));
        assert!(is_settled(&stat, TimeSpec::new(102, 0)));
    }
}
