//! Checksums of content: the algorithms, their digests, and the grid that long files are cut by. It
//! reads no files.

mod cells;

use std::fmt;
use std::str::FromStr;
use std::sync::OnceLock;

use serde::{Serialize, Serializer};

pub(crate) use cells::{Cells, Growing};

/// Length in bytes of one cell of the grid by which content is checked and repaired, and a constant of
/// the manifest's format. Every unit in which the engine moves large files is a whole number of
/// these (`engine::sizing`), so that a worker can digest what it moves without waiting for another,
/// and a file that is moved in one piece has one digest.
pub const CELL_BYTES: u64 = 1 << 20;

/// How content is checked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum Algorithm {
    /// XXH3 with 128 bits: finds every accident, costs next to nothing, resists no forger.
    #[default]
    Xxh3,
    /// BLAKE3 with 256 bits: cryptographic.
    Blake3,
}

impl Algorithm {
    /// Its word on the command line, in reports and in manifests; stable.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Xxh3 => "xxh3",
            Self::Blake3 => "blake3",
        }
    }

    /// Length of its digests in bytes.
    #[must_use]
    pub fn digest_bytes(self) -> usize {
        match self {
            Self::Xxh3 => 16,
            Self::Blake3 => 32,
        }
    }

    /// The digest of some bytes.
    #[must_use]
    pub fn digest(self, bytes: &[u8]) -> Digest {
        match self {
            Self::Xxh3 => Digest::xxh3(xxhash_rust::xxh3::xxh3_128(bytes)),
            Self::Blake3 => Digest::new(blake3::hash(bytes).as_bytes()),
        }
    }

    /// The digest of `length` zeros, at most [`CELL_BYTES`] of them: a hole's. Whole cells are
    /// remembered.
    #[must_use]
    pub fn of_zeros(self, length: u64) -> Digest {
        static WHOLE: [OnceLock<Digest>; 2] = [OnceLock::new(), OnceLock::new()];
        let compute = || {
            let mut hasher = Hasher::new(self);
            hasher.zeros(length);
            hasher.finish()
        };
        if length == CELL_BYTES { *WHOLE[self as usize].get_or_init(compute) } else { compute() }
    }
}

impl Serialize for Algorithm {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.word())
    }
}

impl FromStr for Algorithm {
    type Err = String;

    fn from_str(word: &str) -> Result<Self, String> {
        [Self::Xxh3, Self::Blake3]
            .into_iter()
            .find(|algorithm| algorithm.word() == word)
            .ok_or_else(|| format!("no checksum is named {word:?}; there are xxh3 and blake3"))
    }
}

/// A digest; compared, shown and stored as the bytes that `xxh128sum` and `b3sum` print.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Digest {
    bytes: [u8; 32],
    length: u8,
}

impl Digest {
    fn new(bytes: &[u8]) -> Self {
        let mut digest = Self { bytes: [0; 32], length: 0 };
        digest.bytes[..bytes.len()].copy_from_slice(bytes);
        digest.length = u8::try_from(bytes.len()).expect("a digest has at most 32 bytes");
        digest
    }

    fn xxh3(value: u128) -> Self {
        // The canonical form is big-endian.
        Self::new(&value.to_be_bytes())
    }

    /// Its bytes, in the order in which they are written down.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.length)]
    }

    /// Reads what [`Digest`] shows. `None` when it is no digest of this algorithm.
    #[must_use]
    pub fn parse(algorithm: Algorithm, text: &str) -> Option<Self> {
        let length = algorithm.digest_bytes();
        if text.len() != 2 * length || !text.is_ascii() {
            return None;
        }
        let mut bytes = [0; 32];
        for (at, byte) in bytes.iter_mut().enumerate().take(length) {
            let pair = &text[2 * at..2 * at + 2];
            // `from_str_radix` takes a sign as well.
            if !pair.bytes().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f')) {
                return None;
            }
            *byte = u8::from_str_radix(pair, 16).ok()?;
        }
        Some(Self::new(&bytes[..length]))
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_bytes().iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Digest({self})")
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// A digest in the making.
#[derive(Clone)]
pub enum Hasher {
    /// See [`Algorithm::Xxh3`].
    Xxh3(Box<xxhash_rust::xxh3::Xxh3>),
    /// See [`Algorithm::Blake3`].
    Blake3(Box<blake3::Hasher>),
}

impl Hasher {
    /// Nothing so far.
    #[must_use]
    pub fn new(algorithm: Algorithm) -> Self {
        match algorithm {
            Algorithm::Xxh3 => Self::Xxh3(Box::default()),
            Algorithm::Blake3 => Self::Blake3(Box::default()),
        }
    }

    /// Adds bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Xxh3(state) => state.update(bytes),
            Self::Blake3(state) => {
                state.update(bytes);
            }
        }
    }

    /// Adds `length` zeros.
    pub fn zeros(&mut self, mut length: u64) {
        static ZEROS: [u8; 16 << 10] = [0; 16 << 10];
        while length > 0 {
            let part = usize::try_from(length).unwrap_or(usize::MAX).min(ZEROS.len());
            self.update(&ZEROS[..part]);
            length -= part as u64;
        }
    }

    /// The digest of everything added.
    #[must_use]
    pub fn finish(&self) -> Digest {
        match self {
            Self::Xxh3(state) => Digest::xxh3(state.digest128()),
            Self::Blake3(state) => Digest::new(state.finalize().as_bytes()),
        }
    }
}

impl fmt::Debug for Hasher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Xxh3(_) => "Hasher(xxh3)",
            Self::Blake3(_) => "Hasher(blake3)",
        })
    }
}

/// Number of cells of a file.
#[must_use]
pub fn cell_count(size_bytes: u64) -> u64 {
    size_bytes.div_ceil(CELL_BYTES)
}

/// The bytes of one cell of a file.
#[must_use]
pub fn cell_range(cell: u64, size_bytes: u64) -> std::ops::Range<u64> {
    let start = cell * CELL_BYTES;
    start..(start + CELL_BYTES).min(size_bytes)
}

/// The digest of a file from those of its cells: its only cell's, or that of all of them in a row.
/// An empty file has the digest of nothing.
#[must_use]
pub fn digest_of_cells(algorithm: Algorithm, mut cells: impl Iterator<Item = Digest>) -> Digest {
    let Some(first) = cells.next() else { return algorithm.digest(&[]) };
    let Some(second) = cells.next() else { return first };
    let mut hasher = Hasher::new(algorithm);
    for digest in [first, second].into_iter().chain(cells) {
        hasher.update(digest.as_bytes());
    }
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The values that `xxh128sum` (of xxHash 0.8) and the test vectors of BLAKE3 give.
    #[test]
    fn digests_are_those_that_other_programs_compute() {
        // XXH3_128bits of nothing, seed 0: a constant of the specification.
        assert_eq!(Algorithm::Xxh3.digest(b"").to_string(), "99aa06d3014798d86001c324468d497f");
        assert_eq!(
            Algorithm::Blake3.digest(b"").to_string(),
            "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262"
        );
        assert_eq!(
            Algorithm::Blake3.digest(b"abc").to_string(),
            "6437b3ac38465133ffb63b75273a8db548c558465d79db03fd359c6cd5bd9d85"
        );
        // test_vectors.json of BLAKE3: 1024 bytes 0, 1, ..., 250, 0, ...
        let input: Vec<u8> = (0..1024_u32).map(|n| u8::try_from(n % 251).unwrap()).collect();
        assert_eq!(
            Algorithm::Blake3.digest(&input).to_string(),
            "42214739f095a406f3fc83deb889744ac00df831c10daa55189b5d121c855af7"
        );
    }

    #[test]
    fn pieces_and_zeros_give_the_digest_of_the_whole() {
        let bytes: Vec<u8> = (0..300_000_u32).map(|n| u8::try_from(n % 253).unwrap()).collect();
        for algorithm in [Algorithm::Xxh3, Algorithm::Blake3] {
            let mut hasher = Hasher::new(algorithm);
            for part in bytes.chunks(7919) {
                hasher.update(part);
            }
            assert_eq!(hasher.finish(), algorithm.digest(&bytes));
            for length in [0, 1, 70_000, CELL_BYTES] {
                let zeros = vec![0; usize::try_from(length).unwrap()];
                assert_eq!(algorithm.of_zeros(length), algorithm.digest(&zeros));
            }
        }
    }

    #[test]
    fn a_digest_is_read_as_it_is_shown_and_nothing_else_is() {
        for algorithm in [Algorithm::Xxh3, Algorithm::Blake3] {
            let digest = algorithm.digest(b"x");
            let text = digest.to_string();
            assert_eq!(Digest::parse(algorithm, &text), Some(digest));
            for bad in [&text[1..], &text.to_uppercase(), "", &format!("+{}", &text[1..])] {
                assert_eq!(Digest::parse(algorithm, bad), None, "{bad}");
            }
        }
    }
}
