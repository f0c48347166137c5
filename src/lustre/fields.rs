//! The fields of a layout that are more than a number: patterns, component flags, stripe counts, pool
//! names, extents. Values as `lustre_user.h` of Lustre has them. Nothing is read or written here.

use std::fmt;

/// Stripe sizes and the extents of components are multiples of this many bytes
/// (`LOV_MIN_STRIPE_SIZE`).
pub const UNIT_BYTES: u64 = 65_536;

/// Most stripes that one component can have (`LOV_MAX_STRIPE_COUNT`).
pub const MAX_STRIPES: u16 = 2000;

/// Longest name of a pool in bytes (`LOV_MAXPOOLNAME`).
pub const MAX_POOL_BYTES: usize = 15;

/// How the bytes of a component are spread, and marks on it (`lmm_pattern`). Unknown bits are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Pattern(pub u32);

impl Pattern {
    /// The default, which is RAID0; only in requests.
    pub const DEFAULT: Self = Self(0);
    /// Striped over objects.
    pub const RAID0: Self = Self(0x001);
    /// Data on the metadata server (DoM).
    pub const MDT: Self = Self(0x100);
    /// Striped, with several objects on one OST allowed.
    pub const OVERSTRIPED: Self = Self(0x201);
    /// Not Lustre's data at all.
    pub const FOREIGN: Self = Self(0x400);

    const PARITY: u32 = 0x004;
    const COMPRESS: u32 = 0x800;
    const HOLE: u32 = 0x4000_0000;
    const RELEASED: u32 = 0x8000_0000;

    /// Without the marks that a file's history left on it.
    #[must_use]
    pub fn plain(self) -> Self {
        Self(self.0 & !(Self::HOLE | Self::RELEASED))
    }

    /// Whether the data is only in the archive (`LOV_PATTERN_F_RELEASED`).
    #[must_use]
    pub fn is_released(self) -> bool {
        self.0 & Self::RELEASED != 0
    }

    /// The same, marked as released.
    #[must_use]
    pub fn released(self) -> Self {
        Self(self.0 | Self::RELEASED)
    }

    /// Whether some objects are missing (`LOV_PATTERN_F_HOLE`).
    #[must_use]
    pub fn has_holes(self) -> bool {
        self.0 & Self::HOLE != 0
    }

    /// Whether the data lies on the metadata server.
    #[must_use]
    pub fn is_mdt(self) -> bool {
        self.plain() == Self::MDT
    }

    /// Whether it holds the parity of other components (erasure coding).
    #[must_use]
    pub fn is_parity(self) -> bool {
        self.0 & Self::PARITY != 0
    }

    /// Whether the client compresses what it writes.
    #[must_use]
    pub fn is_compressed(self) -> bool {
        self.0 & Self::COMPRESS != 0
    }

    /// The same without compression.
    #[must_use]
    pub fn uncompressed(self) -> Self {
        Self(self.0 & !Self::COMPRESS)
    }

    /// Whether bytes go over objects in plain turns, so that stripe arithmetic holds. Marks do not
    /// matter.
    #[must_use]
    pub fn is_striped(self) -> bool {
        matches!(self.plain(), Self::RAID0 | Self::OVERSTRIPED | Self::DEFAULT)
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let base = match self.plain() {
            Self::DEFAULT => "default".to_owned(),
            Self::RAID0 => "raid0".to_owned(),
            Self::OVERSTRIPED => "raid0,overstriped".to_owned(),
            Self::MDT => "mdt".to_owned(),
            Self::FOREIGN => "foreign".to_owned(),
            Self(bits) => {
                let known = [
                    (0x001, "raid0"),
                    (0x002, "raid1"),
                    (0x004, "parity"),
                    (0x100, "mdt"),
                    (0x200, "overstriped"),
                    (0x400, "foreign"),
                    (0x800, "compress"),
                ];
                words(bits, &known)
            }
        };
        f.write_str(&base)?;
        if self.is_released() {
            f.write_str(",released")?;
        }
        if self.has_holes() {
            f.write_str(",hole")?;
        }
        Ok(())
    }
}

/// Names of set bits, with commas; bits without a name as one number.
fn words(bits: u32, known: &[(u32, &str)]) -> String {
    let mut names: Vec<String> = known
        .iter()
        .filter(|(bit, _)| bits & bit != 0)
        .map(|(_, word)| (*word).to_owned())
        .collect();
    let rest = known.iter().fold(bits, |rest, (bit, _)| rest & !bit);
    if rest != 0 {
        names.push(format!("{rest:#x}"));
    }
    names.join(",")
}

/// Marks on a component (`lcme_flags`). Unknown bits are kept.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Flags(pub u32);

impl Flags {
    /// Its data is older than that of another mirror.
    pub const STALE: Self = Self(0x1);
    /// Read from this mirror first.
    pub const PREFER_READ: Self = Self(0x2);
    /// Write to this mirror first.
    pub const PREFER_WRITE: Self = Self(0x4);
    /// Both of them.
    pub const PREFER: Self = Self(0x6);
    /// It has its objects.
    pub const INIT: Self = Self(0x10);
    /// Mirrors are not brought up to date by themselves.
    pub const NO_SYNC: Self = Self(0x20);
    /// Space that the component before it may grow into; its stripe size is in KiB.
    pub const EXTENSION: Self = Self(0x40);
    /// Parity of another mirror.
    pub const PARITY: Self = Self(0x80);
    /// Compressed by clients.
    pub const COMPRESS: Self = Self(0x100);
    /// Partly uncompressed.
    pub const PARTIAL: Self = Self(0x200);
    /// Not to be compressed.
    pub const NO_COMPRESS: Self = Self(0x400);

    /// Whether all of `other`'s bits are set.
    #[must_use]
    pub fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Only the bits that `other` has as well.
    #[must_use]
    pub fn only(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// These bits and those.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl fmt::Display for Flags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let known = [
            (0x10, "init"),
            (0x1, "stale"),
            (0x2, "prefrd"),
            (0x4, "prefwr"),
            (0x8, "offline"),
            (0x20, "nosync"),
            (0x40, "extension"),
            (0x80, "parity"),
            (0x100, "compress"),
            (0x200, "partial"),
            (0x400, "nocompr"),
        ];
        f.write_str(&words(self.0, &known))
    }
}

/// A number of stripes as a layout has it (`lmm_stripe_count`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Count(pub u16);

/// What a [`Count`] says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stripes {
    /// As many as the filesystem's default says (or none, in a component on the MDT).
    Default,
    /// This many.
    Number(u16),
    /// This many on each OST that there is.
    EveryOst(u16),
}

impl Count {
    /// The filesystem's default; also the count of a component without objects by nature.
    pub const DEFAULT: Self = Self(0);
    /// One on each OST (`LOV_ALL_STRIPES`).
    pub const ALL: Self = Self(0xffff);
    /// The most stripes on each OST that can be asked for (`LOV_ALL_STRIPES_WIDE`, 0xffe0).
    pub const MAX_PER_OST: u16 = 32;

    /// `times` stripes on each OST; at most [`Count::MAX_PER_OST`] can be said.
    #[must_use]
    pub fn per_ost(times: u16) -> Option<Self> {
        (1..=Self::MAX_PER_OST).contains(&times).then(|| Self(0xffff - (times - 1)))
    }

    /// What it says.
    #[must_use]
    pub fn stripes(self) -> Stripes {
        match self.0 {
            0 => Stripes::Default,
            0xffe0..=0xffff => Stripes::EveryOst(0xffff - self.0 + 1),
            number => Stripes::Number(number),
        }
    }
}

impl fmt::Display for Count {
    /// In the words of `lfs setstripe -C`: -1 is one on each OST, -2 two, and so on.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.stripes() {
            Stripes::Default => f.write_str("0"),
            Stripes::Number(number) => write!(f, "{number}"),
            Stripes::EveryOst(times) => write!(f, "-{times}"),
        }
    }
}

/// What the 16 bits say that a layout has for the first OST when it is set, and for a generation when
/// it is read (`lmm_stripe_offset`, `lmm_layout_gen`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Start {
    /// The servers choose.
    Any,
    /// The first object is to be on this OST. Only in requests and directories' defaults.
    Ost(u16),
    /// A file's: a generation, 0 or 0xffff, depending on the client's version. Says nothing about
    /// where the file lies.
    Generation(u16),
}

/// The name of a pool of OSTs: 16 bytes with at least one NUL at the end. What stands behind the
/// first NUL is kept and means nothing.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Pool([u8; MAX_POOL_BYTES + 1]);

impl Pool {
    /// A V3 layout that names no pool.
    pub const NONE: Self = Self([0; MAX_POOL_BYTES + 1]);

    /// A pool by its name; `None` when it is longer than 15 bytes or has a NUL in it.
    #[must_use]
    pub fn new(name: &[u8]) -> Option<Self> {
        let mut bytes = [0; MAX_POOL_BYTES + 1];
        if name.contains(&0) {
            return None;
        }
        bytes[..MAX_POOL_BYTES].get_mut(..name.len())?.copy_from_slice(name);
        Some(Self(bytes))
    }

    /// The 16 bytes of a layout; `None` when there is no NUL.
    #[must_use]
    pub fn from_bytes(bytes: [u8; MAX_POOL_BYTES + 1]) -> Option<Self> {
        bytes.contains(&0).then_some(Self(bytes))
    }

    /// The bytes as a layout has them.
    #[must_use]
    pub fn bytes(&self) -> &[u8; MAX_POOL_BYTES + 1] {
        &self.0
    }

    /// The name; empty when no pool is named.
    #[must_use]
    pub fn name(&self) -> &[u8] {
        let end = self.0.iter().position(|byte| *byte == 0).unwrap_or(MAX_POOL_BYTES);
        &self.0[..end]
    }
}

impl fmt::Display for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.name().escape_ascii())
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pool({})", self.0.escape_ascii())
    }
}

/// A range of a file, in bytes from its beginning.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Extent {
    /// The first byte.
    pub start: u64,
    /// The byte after the last; [`Extent::EOF`] for all that may come.
    pub end: u64,
}

impl Extent {
    /// The end of an extent that has none (`LUSTRE_EOF`).
    pub const EOF: u64 = u64::MAX;
    /// All of a file.
    pub const WHOLE: Self = Self { start: 0, end: Self::EOF };

    /// Whether the byte lies in it.
    #[must_use]
    pub fn contains(self, offset: u64) -> bool {
        self.start <= offset && offset < self.end
    }

    /// Whether nothing lies in it.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.start >= self.end
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_near_the_top_are_stripes_on_every_ost() {
        assert_eq!(Count(0xffff).stripes(), Stripes::EveryOst(1));
        assert_eq!(Count(0xffe0).stripes(), Stripes::EveryOst(32));
        assert_eq!(Count(0xffdf).stripes(), Stripes::Number(0xffdf));
        assert_eq!(Count(0).stripes(), Stripes::Default);
        for times in 1..=32 {
            let count = Count::per_ost(times).unwrap();
            assert_eq!(count.stripes(), Stripes::EveryOst(times));
            assert_eq!(count.to_string(), format!("-{times}"));
        }
        assert_eq!(Count::per_ost(0), None);
        assert_eq!(Count::per_ost(33), None);
    }

    #[test]
    fn patterns_and_flags_have_the_words_of_lfs() {
        assert_eq!(Pattern(0x201).to_string(), "raid0,overstriped");
        assert_eq!(Pattern(0x8000_0001).to_string(), "raid0,released");
        assert_eq!(Pattern(0x4000_0001).to_string(), "raid0,hole");
        assert_eq!(Pattern(0x0001_0801).to_string(), "raid0,compress,0x10000");
        assert_eq!(Flags(0x11).to_string(), "init,stale");
        assert_eq!(Flags(0x1000_0040).to_string(), "extension,0x10000000");
        assert!(Pattern(0x8000_0100).is_mdt());
        assert!(!Pattern(0x5).is_striped());
    }

    #[test]
    fn pool_names_have_at_most_fifteen_bytes() {
        assert_eq!(Pool::new(b"flash").unwrap().name(), b"flash");
        assert_eq!(Pool::new(&[b'a'; 15]).unwrap().name(), [b'a'; 15]);
        assert_eq!(Pool::new(&[b'a'; 16]), None);
        assert_eq!(Pool::new(b"a\0b"), None);
        assert_eq!(Pool::from_bytes([b'a'; 16]), None);
        assert_eq!(Pool::new(b"a\xffb").unwrap().to_string(), "a\\xffb");
    }
}
