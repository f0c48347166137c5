//! Layouts out of the bytes of `lustre.lov` (`struct lov_user_md_v1`, `_v3`, `lov_comp_md_v1`,
//! `lov_foreign_md`), in this machine's byte order, as Lustre's clients give them. Whatever is wrong
//! is an error that names the place; nothing is guessed, and nothing is kept that is longer than the
//! value. It knows no file.

use thiserror::Error;

use super::fields::{Count, Extent, Flags, Pattern, Pool, Start, Stripes, UNIT_BYTES};
use super::format::*;
use super::layout::{Body, Component, Composite, Foreign, Form, Layout, Object, Of, Plain};

/// Longest value that an extended attribute can have (`XATTR_SIZE_MAX`).
pub const MAX_BYTES: usize = 65_536;

/// Why a value is no layout.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("no valid layout: at byte {offset}: {problem}")]
pub struct LayoutError {
    /// Where in the value.
    pub offset: usize,
    /// What is wrong there.
    pub problem: Problem,
}

/// What is wrong with a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum Problem {
    /// It ends too early.
    #[error("the value ends within the {0}")]
    Truncated(&'static str),
    /// Longer than an attribute can be.
    #[error("the value is longer than the 65,536 bytes of an attribute")]
    TooLong,
    /// Not a layout, or one of a kind that came later.
    #[error("unknown magic number {0:#010x}")]
    Magic(u32),
    /// From a machine of the other byte order.
    #[error("the magic number has the other byte order")]
    ByteSwapped,
    /// Obsolete, or only used within servers.
    #[error("magic number {0:#010x} is obsolete or internal to servers")]
    Obsolete(u32),
    /// The declared size of a composite.
    #[error(
        "the declared size of {declared} bytes is not between the head's and the value's {value}"
    )]
    Size {
        /// What the head says.
        declared: usize,
        /// What there is.
        value: usize,
    },
    /// A composite without components.
    #[error("there are no components")]
    NoComponents,
    /// A component's blob lies outside, or over another one.
    #[error("a component at bytes {start} to {end} lies outside of the value or over another part")]
    Blob {
        /// Its first byte.
        start: usize,
        /// The byte after it.
        end: usize,
    },
    /// Bytes behind the last whole object.
    #[error("{0} bytes are left behind the last object")]
    Leftover(usize),
    /// Objects and stripes differ in number.
    #[error("there are {objects} objects for {stripes} stripes")]
    Objects {
        /// Objects in the value.
        objects: usize,
        /// Stripes that it declares.
        stripes: u16,
    },
    /// A stripe size that stripe arithmetic cannot do with.
    #[error("a stripe size of {0} bytes is no multiple of 65,536 above 0")]
    StripeSize(u32),
    /// No stripes where there must be some.
    #[error("there are no stripes")]
    NoStripes,
    /// A pool's name without its end.
    #[error("the name of the pool has no end")]
    Pool,
    /// A component that ends before it begins.
    #[error("a component ends at {end} before it begins at {start}")]
    Backwards {
        /// First byte of the file.
        start: u64,
        /// The byte after its last.
        end: u64,
    },
    /// A gap or overlap between components.
    #[error(
        "a component begins at {start}, neither at 0 nor where the one before it ends ({before})"
    )]
    NotAdjacent {
        /// Where it begins.
        start: u64,
        /// Where the one before it ends; 0 for the first.
        before: u64,
    },
    /// More or fewer mirrors than the head says.
    #[error("the head says {declared} mirrors and there are {found}")]
    Mirrors {
        /// As declared.
        declared: usize,
        /// As counted.
        found: usize,
    },
}

impl Layout {
    /// Reads a whole value of `lustre.lov`. What stands behind the declared size of a composite is
    /// ignored.
    ///
    /// # Errors
    /// [`LayoutError`] for everything that is not a layout, or not one that stripe arithmetic could
    /// rely on. Patterns and flags that are not known are no error.
    pub fn parse(bytes: &[u8], of: Of) -> Result<Self, LayoutError> {
        if bytes.len() > MAX_BYTES {
            return Err(LayoutError { offset: MAX_BYTES, problem: Problem::TooLong });
        }
        let value = Part { bytes, at: 0 };
        match value.magic()? {
            MAGIC_COMPOSITE => composite(value, of).map(Self::Composite),
            MAGIC_FOREIGN => foreign(value).map(Self::Foreign),
            magic => {
                let plain = plain(value, magic, of)?;
                if of == Of::File {
                    objects_match(value, &plain, false)?;
                }
                Ok(Self::Plain(plain))
            }
        }
    }
}

/// A part of the value, and where it begins in the whole.
#[derive(Clone, Copy)]
struct Part<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Part<'a> {
    fn wrong<T>(self, offset: usize, problem: Problem) -> Result<T, LayoutError> {
        Err(LayoutError { offset: self.at + offset, problem })
    }

    fn take<const N: usize>(self, offset: usize, of: &'static str) -> Result<[u8; N], LayoutError> {
        match self.bytes.get(offset..).and_then(|rest| rest.first_chunk()) {
            Some(bytes) => Ok(*bytes),
            None => self.wrong(self.bytes.len(), Problem::Truncated(of)),
        }
    }

    fn u8(self, offset: usize, of: &'static str) -> Result<u8, LayoutError> {
        self.take(offset, of).map(u8::from_ne_bytes)
    }

    fn u16(self, offset: usize, of: &'static str) -> Result<u16, LayoutError> {
        self.take(offset, of).map(u16::from_ne_bytes)
    }

    fn u32(self, offset: usize, of: &'static str) -> Result<u32, LayoutError> {
        self.take(offset, of).map(u32::from_ne_bytes)
    }

    fn u64(self, offset: usize, of: &'static str) -> Result<u64, LayoutError> {
        self.take(offset, of).map(u64::from_ne_bytes)
    }

    /// A size or an offset, which is then compared with what there is.
    fn size(self, offset: usize, of: &'static str) -> Result<usize, LayoutError> {
        Ok(usize::try_from(self.u32(offset, of)?).unwrap_or(usize::MAX))
    }

    /// The kind of the layout that begins here.
    fn magic(self) -> Result<u32, LayoutError> {
        const KNOWN: [u32; 8] = [
            MAGIC_V1,
            MAGIC_V3,
            MAGIC_SPECIFIC,
            MAGIC_COMPOSITE,
            MAGIC_FOREIGN,
            MAGIC_EXTENDED,
            MAGIC_JOINED,
            MAGIC_MIGRATE,
        ];
        let stored = self.u32(0, "magic number")?;
        match stored & !MARK_DEFINED {
            MAGIC_EXTENDED => Ok(MAGIC_COMPOSITE),
            magic @ (MAGIC_JOINED | MAGIC_MIGRATE) => self.wrong(0, Problem::Obsolete(magic)),
            magic if KNOWN.contains(&magic) => Ok(magic),
            _ if KNOWN.contains(&(stored.swap_bytes() & !MARK_DEFINED)) => {
                self.wrong(0, Problem::ByteSwapped)
            }
            _ => self.wrong(0, Problem::Magic(stored)),
        }
    }
}

fn plain(part: Part<'_>, magic: u32, of: Of) -> Result<Plain, LayoutError> {
    const NAME: &str = "head";
    let stored = part.u16(30, NAME)?;
    let pool = |offset| match Pool::from_bytes(part.take(offset, NAME)?) {
        Some(pool) => Ok(pool),
        None => part.wrong(offset, Problem::Pool),
    };
    let (form, head) = match magic {
        MAGIC_V1 => (Form::V1, HEAD_V1),
        MAGIC_V3 => (Form::V3(pool(HEAD_V1)?), HEAD_V3),
        MAGIC_SPECIFIC => (Form::Specific(pool(HEAD_V1)?), HEAD_V3),
        magic => return part.wrong(0, Problem::Magic(magic)), // a composite within a composite
    };
    let (objects, leftover) = part.bytes.get(head..).unwrap_or(&[]).as_chunks::<OBJECT>();
    if !leftover.is_empty() {
        return part.wrong(part.bytes.len() - leftover.len(), Problem::Leftover(leftover.len()));
    }
    let start = match (of, stored) {
        (Of::File, generation) => Start::Generation(generation),
        (Of::Directory, 0xffff) => Start::Any,
        (Of::Directory, ost) => Start::Ost(ost),
    };
    let plain = Plain {
        form,
        pattern: Pattern(part.u32(4, NAME)?),
        owner: [part.u64(8, NAME)?, part.u64(16, NAME)?],
        stripe_size: part.u32(24, NAME)?,
        count: Count(part.u16(28, NAME)?),
        start,
        objects: objects.iter().map(object).collect::<Result<_, _>>()?,
    };
    if magic == MAGIC_SPECIFIC && plain.objects.len() != usize::from(plain.count.0) {
        let problem = Problem::Objects { objects: plain.objects.len(), stripes: plain.count.0 };
        return part.wrong(28, problem);
    }
    Ok(plain)
}

fn object(bytes: &[u8; OBJECT]) -> Result<Object, LayoutError> {
    let part = Part { bytes, at: 0 };
    Ok(Object {
        id: [part.u64(0, "object")?, part.u64(8, "object")?],
        generation: part.u32(16, "object")?,
        ost: part.u32(20, "object")?,
    })
}

/// Checks what stripe arithmetic on a file relies on. `waiting`: the objects are still to be made.
fn objects_match(part: Part<'_>, plain: &Plain, waiting: bool) -> Result<(), LayoutError> {
    let (objects, stripes) = (plain.objects.len(), plain.count.0);
    let mismatch = Problem::Objects { objects, stripes };
    if plain.pattern.is_released() {
        // The stripes that there were are still said; their objects are absent or empty.
        let fits = objects == 0 || objects == usize::from(stripes);
        return if fits { Ok(()) } else { part.wrong(28, mismatch) };
    }
    if waiting && objects != 0 {
        return part.wrong(28, mismatch);
    }
    let aligned = u64::from(plain.stripe_size).is_multiple_of(UNIT_BYTES);
    if plain.pattern.is_mdt() {
        // One stripe is what a request may say; there are no objects in either case.
        let fits = objects == 0 && stripes <= 1;
        return if fits { Ok(()) } else { part.wrong(28, mismatch) };
    }
    if !plain.pattern.is_striped() {
        return Ok(()); // unknown rules
    }
    if !aligned || (plain.stripe_size == 0 && !waiting) {
        return part.wrong(24, Problem::StripeSize(plain.stripe_size));
    }
    match plain.count.stripes() {
        _ if waiting => Ok(()),
        Stripes::Default => part.wrong(28, Problem::NoStripes),
        _ if objects != usize::from(stripes) => part.wrong(28, mismatch),
        _ => Ok(()),
    }
}

fn foreign(part: Part<'_>) -> Result<Foreign, LayoutError> {
    const NAME: &str = "foreign layout";
    let (kind, flags) = (part.u32(8, NAME)?, part.u32(12, NAME)?);
    let length = part.size(4, NAME)?;
    match part.bytes.get(HEAD_FOREIGN..).and_then(|rest| rest.get(..length)) {
        Some(value) => Ok(Foreign { kind, flags, value: value.to_vec() }),
        None => part.wrong(4, Problem::Truncated(NAME)),
    }
}

fn composite(value: Part<'_>, of: Of) -> Result<Composite, LayoutError> {
    const NAME: &str = "head of a composite";
    let padding = value.take(19, NAME)?;
    let declared = value.size(4, NAME)?;
    let Some(bytes) = value.bytes.get(..declared).filter(|_| declared >= HEAD_COMPOSITE) else {
        return value.wrong(4, Problem::Size { declared, value: value.bytes.len() });
    };
    let value = Part { bytes, ..value };
    let entries = usize::from(value.u16(14, NAME)?);
    let mut free_from = HEAD_COMPOSITE + entries * ENTRY;
    if free_from > bytes.len() {
        return value.wrong(14, Problem::Truncated("list of components"));
    }
    let mut composite = Composite {
        generation: value.u32(8, NAME)?,
        flags: value.u16(12, NAME)?,
        further_mirrors: value.u16(16, NAME)?,
        ec_count: value.u8(18, NAME)?,
        padding,
        components: Vec::with_capacity(entries),
    };
    let mut before = 0;
    for number in 0..entries {
        let at = HEAD_COMPOSITE + number * ENTRY;
        let entry = Part { bytes: &bytes[at..at + ENTRY], at };
        let (component, end) = component(value, entry, free_from, of)?;
        let Extent { start, end: file_end } = component.extent;
        if file_end < start {
            return entry.wrong(8, Problem::Backwards { start, end: file_end });
        }
        if start != 0 && start != before {
            return entry.wrong(8, Problem::NotAdjacent { start, before });
        }
        (before, free_from) = (file_end, end);
        composite.components.push(component);
    }
    if entries == 0 {
        return value.wrong(14, Problem::NoComponents);
    }
    let (declared, found) =
        (usize::from(composite.further_mirrors) + 1, composite.mirrors().count());
    // How parity is counted differs, so there the head is taken as it is.
    if declared != found && !composite.has_parity() {
        return value.wrong(16, Problem::Mirrors { declared, found });
    }
    Ok(composite)
}

/// One entry and its blob, which must begin at `free_from` or later, and where the blob ends. In
/// order and apart: every writer does it so, and 64 KiB cannot become megabytes.
fn component(
    value: Part<'_>,
    entry: Part<'_>,
    free_from: usize,
    of: Of,
) -> Result<(Component, usize), LayoutError> {
    const NAME: &str = "entry of a component";
    let (start, length) = (entry.size(24, NAME)?, entry.size(28, NAME)?);
    let end = start.saturating_add(length);
    let Some(bytes) = value.bytes.get(start..end).filter(|_| start >= free_from) else {
        return entry.wrong(24, Problem::Blob { start, end });
    };
    let blob = Part { bytes, at: start };
    let flags = Flags(entry.u32(4, NAME)?);
    let body = match blob.magic()? {
        MAGIC_FOREIGN => Body::Foreign(foreign(blob)?),
        magic => {
            let plain = plain(blob, magic, of)?;
            // In extension space the stripe size is another unit, and there are no objects.
            if of == Of::File && !flags.has(Flags::EXTENSION) {
                objects_match(blob, &plain, !flags.has(Flags::INIT))?;
            }
            Body::Striped(plain)
        }
    };
    let stamp = entry.u64(36, NAME)?;
    let component = Component {
        id: entry.u32(0, NAME)?,
        flags,
        extent: Extent { start: entry.u64(8, NAME)?, end: entry.u64(16, NAME)? },
        generation: entry.u32(32, NAME)?,
        timestamp: stamp & ((1 << 48) - 1),
        mirror_link: u16::try_from(stamp >> 48).expect("16 of 64 bits are left"),
        data_stripes: entry.u8(44, NAME)?,
        parity_stripes: entry.u8(45, NAME)?,
        compression: entry.take(46, NAME)?,
        body,
    };
    Ok((component, end))
}
