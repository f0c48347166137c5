//! What was finished before, for looking up: sorted entries of 28 bytes, in memory that the system can
//! take back. It decides nothing.

use std::path::Path;

use memmap2::MmapMut;

use crate::sys;

/// Names an item of the copy: a hash of its root and of all names down to it.
pub(crate) type Key = u128;

/// Key and epoch, both with the highest byte first so that bytes sort as numbers do, and the print.
type Entry = [u8; ENTRY_BYTES];
const ENTRY_BYTES: usize = 28;
const KEY_BYTES: usize = 16;

/// Up to this many bytes of entries are kept in plain memory: a file for them is not worth its while.
const PLAIN_BYTES: usize = 8 << 20;

/// Entries while they are collected, and sorted for looking up after that.
#[derive(Debug)]
pub(super) struct Index {
    store: Store,
    entries: usize,
}

#[derive(Debug)]
enum Store {
    Plain(Vec<u8>),
    /// Pages of a file without a name: under pressure they go there instead of staying.
    Mapped(MmapMut),
}

impl Index {
    /// Room for `most` entries. Many lie in a nameless file in the directory `beside`.
    pub(super) fn new(most: usize, beside: &Path) -> Self {
        let bytes = most.saturating_mul(ENTRY_BYTES);
        let mapped = (bytes > PLAIN_BYTES).then(|| sys::scratch_memory(beside, bytes).ok());
        let store = mapped.flatten().map_or_else(|| Store::Plain(Vec::new()), Store::Mapped);
        Self { store, entries: 0 }
    }

    /// Adds an entry.
    pub(super) fn push(&mut self, key: Key, epoch: u32, print: u64) {
        let mut entry: Entry = [0; ENTRY_BYTES];
        entry[..KEY_BYTES].copy_from_slice(&key.to_be_bytes());
        entry[KEY_BYTES..20].copy_from_slice(&epoch.to_be_bytes());
        entry[20..].copy_from_slice(&print.to_be_bytes());
        match &mut self.store {
            Store::Plain(bytes) => bytes.extend_from_slice(&entry),
            Store::Mapped(bytes) => {
                let at = self.entries * ENTRY_BYTES;
                bytes[at..at + ENTRY_BYTES].copy_from_slice(&entry);
            }
        }
        self.entries += 1;
    }

    /// Makes the entries ready for looking up.
    pub(super) fn sort(&mut self) {
        let bytes: &mut [u8] = match &mut self.store {
            Store::Plain(bytes) => bytes,
            Store::Mapped(bytes) => bytes,
        };
        let (entries, _) = bytes[..self.entries * ENTRY_BYTES].as_chunks_mut::<ENTRY_BYTES>();
        entries.sort_unstable();
    }

    /// Whether there are none.
    pub(super) fn is_empty(&self) -> bool {
        self.entries == 0
    }

    /// Epoch and print of the latest entry with this key. The entries must have been sorted.
    pub(super) fn latest(&self, key: Key) -> Option<(u32, u64)> {
        let bytes: &[u8] = match &self.store {
            Store::Plain(bytes) => bytes,
            Store::Mapped(bytes) => bytes,
        };
        let (entries, _) = bytes[..self.entries * ENTRY_BYTES].as_chunks::<ENTRY_BYTES>();
        let key = key.to_be_bytes();
        let behind = entries.partition_point(|entry| entry[..KEY_BYTES] <= key[..]);
        let entry = entries[..behind].last().filter(|entry| entry[..KEY_BYTES] == key)?;
        let (epoch, print) = (entry[KEY_BYTES..20].try_into(), entry[20..].try_into());
        Some((u32::from_be_bytes(epoch.ok()?), u64::from_be_bytes(print.ok()?)))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_latest_entry_of_every_key_is_found(
            entries in proptest::collection::vec((0_u128..50, 0_u32..1000, any::<u64>()), 0..200)
        ) {
            let home = tempfile::tempdir().expect("a directory");
            // Once in memory, once in a file.
            for most in [entries.len(), PLAIN_BYTES] {
                let mut index = Index::new(most, home.path());
                let mut expected: HashMap<u128, (u32, u64)> = HashMap::new();
                for (key, epoch, print) in &entries {
                    let key = key << 90 | 7;
                    index.push(key, *epoch, *print);
                    let known = expected.entry(key).or_insert((*epoch, *print));
                    *known = (*known).max((*epoch, *print));
                }
                index.sort();
                for key in (0..50_u128).map(|key| key << 90 | 7) {
                    prop_assert_eq!(index.latest(key), expected.get(&key).copied());
                }
                prop_assert_eq!(index.latest(8), None);
            }
        }
    }
}
