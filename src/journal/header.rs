//! The first pages of a journal: which copy it belongs to and how far it may be believed. Two copies
//! are written in turn, so that a crash in the middle of one leaves the other.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use xxhash_rust::xxh3::xxh3_64;

use super::identity::Identity;

/// How a journal begins.
const MAGIC: &[u8; 16] = b"LONGSHORE-JOURN\n";
/// Version of the format; raised when something changes its meaning.
const VERSION: u32 = 1;
/// Bytes of one copy of the header.
const HEADER_BYTES: usize = 4096;
/// Where the two copies lie.
const PLACES: [u64; 2] = [0, 32 << 10];
/// Bytes of the boot's id: a UUID as text.
pub(super) const BOOT_BYTES: usize = 36;
/// Where the text begins, and its greatest length.
const TEXT_AT: usize = 116;
const TEXT_MOST: usize = 2048;
/// Where the hashes of the times of birth lie; zeros in journals that were written without them.
const BIRTHS_AT: [usize; 2] = [HEADER_BYTES - 24, HEADER_BYTES - 16];
const CHECK_AT: usize = HEADER_BYTES - 8;

/// What the header says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Header {
    /// Counts the times it was written; the copy with the higher number is valid.
    pub(super) sequence: u64,
    /// The request's key.
    pub(super) key: u64,
    /// Random; the checks of the entries begin with it.
    pub(super) seed: u64,
    /// The epoch that new entries get; higher than that of any entry of an earlier run.
    pub(super) epoch: u32,
    /// Entries up to this epoch, and what they tell of, are on stable storage.
    pub(super) durable_epoch: u32,
    /// The boot of the machine that wrote last: entries of a later epoch are believed in it only.
    pub(super) boot: [u8; BOOT_BYTES],
    /// The destination was taken as the new name, which cp's rule would not do a second time.
    pub(super) exact: bool,
    /// What was written may be lost, whatever it looks like: not only the journal's word is nothing worth.
    pub(super) unreliable: bool,
    /// All sources together.
    pub(super) sources: Identity,
    /// The directory that the first source is copied to; zeros while it is not known.
    pub(super) root: Identity,
    /// The request, for people.
    pub(super) text: String,
}

/// Why there is no header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unusable {
    /// Nothing was written yet, or nothing of it has reached the device before a crash.
    Empty,
    /// No journal at all.
    Foreign,
    /// Written by another version.
    Version,
    /// A journal, but it does not pass its own check.
    Damaged,
}

impl Header {
    fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        let mut at = 0;
        let mut put = |part: &[u8]| {
            bytes[at..at + part.len()].copy_from_slice(part);
            at += part.len();
        };
        let mut end = self.text.len().min(TEXT_MOST);
        while !self.text.is_char_boundary(end) {
            end -= 1;
        }
        let text = &self.text.as_bytes()[..end];
        put(MAGIC);
        put(&VERSION.to_le_bytes());
        put(&super::BLOCK_BYTES.to_le_bytes()[..4]);
        put(&self.sequence.to_le_bytes());
        put(&self.key.to_le_bytes());
        put(&self.seed.to_le_bytes());
        put(&self.epoch.to_le_bytes());
        put(&self.durable_epoch.to_le_bytes());
        put(&self.boot);
        put(&(u32::from(self.exact) | u32::from(self.unreliable) << 1).to_le_bytes());
        put(&self.sources.inode.to_le_bytes());
        put(&self.root.inode.to_le_bytes());
        put(&(text.len() as u64).to_le_bytes()[..4]);
        put(text);
        for (at, birth) in BIRTHS_AT.into_iter().zip([self.sources.birth, self.root.birth]) {
            bytes[at..at + 8].copy_from_slice(&birth.to_le_bytes());
        }
        let check = xxh3_64(&bytes[..CHECK_AT]);
        bytes[CHECK_AT..].copy_from_slice(&check.to_le_bytes());
        bytes
    }

    fn decode(bytes: &[u8; HEADER_BYTES]) -> Result<Self, Unusable> {
        let long = |at: usize| u64::from_le_bytes(part(bytes, at));
        let short = |at: usize| u32::from_le_bytes(part(bytes, at));
        if bytes[..16] != MAGIC[..] {
            return Err(Unusable::Foreign);
        }
        if long(CHECK_AT) != xxh3_64(&bytes[..CHECK_AT]) {
            return Err(Unusable::Damaged);
        }
        if short(16) != VERSION || u64::from(short(20)) != super::BLOCK_BYTES {
            return Err(Unusable::Version);
        }
        let length = usize::try_from(short(112)).map_err(|_| Unusable::Damaged)?;
        let text = bytes.get(TEXT_AT..TEXT_AT + length).ok_or(Unusable::Damaged)?;
        Ok(Self {
            sequence: long(24),
            key: long(32),
            seed: long(40),
            epoch: short(48),
            durable_epoch: short(52),
            boot: part(bytes, 56),
            exact: short(92) & 1 != 0,
            unreliable: short(92) & 2 != 0,
            sources: Identity { inode: long(96), birth: long(BIRTHS_AT[0]) },
            root: Identity { inode: long(104), birth: long(BIRTHS_AT[1]) },
            text: String::from_utf8_lossy(text).into_owned(),
        })
    }

    /// Writes the header over the older of the two copies.
    ///
    /// # Errors
    /// Those of writing.
    pub(super) fn write(&mut self, file: &File) -> io::Result<()> {
        self.sequence += 1;
        let place = PLACES[usize::from(self.sequence.is_multiple_of(2))];
        file.write_all_at(&self.encode(), place)
    }

    /// Reads the newer of the two copies that pass their check.
    ///
    /// # Errors
    /// [`Unusable`] when neither does; what cannot be read counts as damaged.
    pub(super) fn read(file: &File) -> Result<Self, Unusable> {
        let length = file.metadata().map_err(|_| Unusable::Damaged)?.len();
        if length == 0 {
            return Err(Unusable::Empty);
        }
        let blocks = length.is_multiple_of(super::BLOCK_BYTES);
        let copies = PLACES.map(|place| {
            let mut bytes = [0; HEADER_BYTES];
            let read = read_at_most(file, &mut bytes, place);
            read.map_err(|_| Unusable::Damaged).and_then(|()| Self::decode(&bytes))
        });
        match copies {
            [Ok(first), Ok(second)] if second.sequence > first.sequence => Ok(second),
            [Ok(header), _] | [_, Ok(header)] => Ok(header),
            // Whole blocks that begin with zeros are what a crash of the machine left: allocated, and not yet written.
            [Err(Unusable::Foreign), Err(Unusable::Foreign)] if blocks && is_blank(file) => {
                Err(Unusable::Empty)
            }
            // A journal is known by its magic in either place.
            [Err(first), Err(Unusable::Foreign)] => Err(first),
            [_, Err(second)] => Err(second),
        }
    }
}

/// Whether there are zeros where both headers would be.
fn is_blank(file: &File) -> bool {
    PLACES.iter().all(|place| {
        let mut bytes = [0; HEADER_BYTES];
        read_at_most(file, &mut bytes, *place).is_ok() && bytes.iter().all(|byte| *byte == 0)
    })
}

/// Fills the buffer as far as the file goes.
fn read_at_most(file: &File, mut buffer: &mut [u8], mut offset: u64) -> io::Result<()> {
    while !buffer.is_empty() {
        match file.read_at(buffer, offset) {
            Ok(0) => return Ok(()),
            Ok(read) => {
                buffer = &mut buffer[read..];
                offset += read as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// `N` bytes of a header.
fn part<const N: usize>(bytes: &[u8; HEADER_BYTES], at: usize) -> [u8; N] {
    let mut part = [0; N];
    part.copy_from_slice(&bytes[at..at + N]);
    part
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in crate::journal) fn header() -> Header {
        Header {
            sequence: 0,
            key: 5,
            seed: 6,
            epoch: 7,
            durable_epoch: 3,
            boot: [b'b'; BOOT_BYTES],
            exact: true,
            unreliable: true,
            sources: Identity { inode: 8, birth: 10 },
            root: Identity { inode: 9, birth: 11 },
            text: "a -> b".to_owned(),
        }
    }

    #[test]
    fn the_newer_copy_is_read_and_the_older_when_that_is_damaged() {
        let file = tempfile::tempfile().expect("a file");
        assert_eq!(Header::read(&file), Err(Unusable::Empty));
        let mut header = header();
        header.write(&file).expect("written");
        let first = header.clone();
        assert_eq!(Header::read(&file).as_ref(), Ok(&first));
        header.epoch = 8;
        header.write(&file).expect("written");
        assert_eq!(Header::read(&file).as_ref(), Ok(&header));
        let newer = PLACES[usize::from(header.sequence.is_multiple_of(2))];
        file.write_all_at(b"x", newer + 49).expect("written");
        assert_eq!(Header::read(&file), Ok(first));
        file.write_all_at(b"x", PLACES[0] + 50).expect("written");
        file.write_all_at(b"x", PLACES[1] + 50).expect("written");
        assert_eq!(Header::read(&file), Err(Unusable::Damaged));
    }

    #[test]
    fn what_is_no_journal_or_of_another_version_is_not_guessed_at() {
        let file = tempfile::tempfile().expect("a file");
        file.write_all_at(b"something else that somebody keeps here", 0).expect("written");
        assert_eq!(Header::read(&file), Err(Unusable::Foreign));
        let mut bytes = header().encode();
        let zeros = tempfile::tempfile().expect("a file");
        zeros.set_len(1 << 17).expect("extended");
        assert_eq!(Header::read(&zeros), Err(Unusable::Empty));
        bytes[16] = 99;
        let check = xxh3_64(&bytes[..CHECK_AT]);
        bytes[CHECK_AT..].copy_from_slice(&check.to_le_bytes());
        assert_eq!(Header::decode(&bytes), Err(Unusable::Version));
    }

    #[test]
    fn a_long_text_is_cut_between_characters() {
        let long = Header { text: "ü".repeat(3000), ..header() };
        let back = Header::decode(&long.encode()).expect("a header");
        assert!(back.text.len() <= TEXT_MOST && back.text.chars().all(|c| c == 'ü'));
    }
}
