//! Layouts as the emulator keeps them, and the bytes of `lustre.lov`: a second reading of the format,
//! independent of any tool that is tested with it. It checks sizes; rules are checked elsewhere.

use fuser::Errno;

use crate::settings::Answers;

pub(crate) const V1: u32 = 0x0BD1_0BD0;
pub(crate) const V3: u32 = 0x0BD3_0BD0;
pub(crate) const SPECIFIC: u32 = 0x0BD5_0BD0;
pub(crate) const COMPOSITE: u32 = 0x0BD6_0BD0;
pub(crate) const FOREIGN: u32 = 0x0BD7_0BD0;
/// A server's mark on magics, which clients mask.
const DEFINED: u32 = 0x1000_0000;

pub(crate) const RAID0: u32 = 0x1;
pub(crate) const DOM: u32 = 0x100;
pub(crate) const OVERSTRIPED: u32 = 0x200;
/// Objects missing, data released: never taken from a request.
const STATE_BITS: u32 = 0xc000_0000;
const RELEASED: u32 = 0x8000_0000;

pub(crate) const STALE: u32 = 0x1;
pub(crate) const PREFER_READ: u32 = 0x2;
pub(crate) const PREFER_WRITE: u32 = 0x4;
pub(crate) const INIT: u32 = 0x10;
const NOSYNC: u32 = 0x20;
pub(crate) const EXTENSION: u32 = 0x40;

/// The end of the last component.
pub(crate) const EOF: u64 = u64::MAX;
/// "Any OST", and "all of them" as a count.
pub(crate) const ANY: u16 = 0xffff;

/// Sequence of the objects of OST 0, and the step to the next OST's.
const SEQUENCE: u64 = 0x1_8000_0401;
const SEQUENCE_STEP: u64 = 0x4000_0000;
/// Sequence of files.
const FILES: u64 = 0x2_0000_0401;

/// One object: on which OST, and its number there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize)]
pub struct Object {
    /// Index of the OST.
    pub ost: u32,
    /// Number on this OST, from 1.
    pub id: u32,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Component {
    pub(crate) id: u32,
    pub(crate) flags: u32,
    pub(crate) start: u64,
    pub(crate) end: u64,
    pub(crate) magic: u32,
    pub(crate) pattern: u32,
    pub(crate) stripe_size: u32,
    pub(crate) stripe_count: u16,
    /// The start index that was asked for.
    pub(crate) first: u16,
    pub(crate) pool: [u8; 16],
    pub(crate) objects: Vec<Object>,
    pub(crate) generation: u16,
}

impl Component {
    pub(crate) fn is_init(&self) -> bool {
        self.flags & INIT != 0
    }

    pub(crate) fn is_dom(&self) -> bool {
        self.pattern & DOM != 0
    }

    pub(crate) fn pool_name(&self) -> String {
        let name: Vec<u8> = self.pool.iter().copied().take_while(|byte| *byte != 0).collect();
        String::from_utf8_lossy(&name).into_owned()
    }

    /// Extents of an extension component are extended by so many bytes.
    pub(crate) fn extension(&self) -> u64 {
        u64::from(self.stripe_size) * 1024
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Layout {
    pub(crate) composite: bool,
    pub(crate) generation: u32,
    /// State of mirrors: 0 none, 1 in sync, 2 write pending.
    pub(crate) flr: u16,
    /// Number of mirrors, minus one.
    pub(crate) mirrors: u16,
    pub(crate) released: bool,
    pub(crate) components: Vec<Component>,
    pub(crate) foreign: Option<Vec<u8>>,
}

/// For whom a layout is put into bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum For {
    /// A caller, about a file with this inode number.
    Caller(Answers, u64),
    /// A caller, about a directory's default.
    Default,
    /// The emulator's own memory.
    Store,
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

impl Layout {
    /// Reads bytes. `ERANGE` when they are too few or of an unknown magic, `EINVAL` when they
    /// contradict themselves.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, Errno> {
        let magic = u32_at(bytes, 0).ok_or(Errno::ERANGE)? & !DEFINED;
        if bytes.len() < 32 {
            return Err(Errno::ERANGE);
        }
        match magic {
            V1 | V3 | SPECIFIC => {
                let component = decode_part(bytes, None)?;
                let (released, generation) = (component.1, u32::from(component.0.generation));
                let components = vec![component.0];
                Ok(Self { released, generation, components, ..Self::default() })
            }
            COMPOSITE => Self::decode_composite(bytes).ok_or(Errno::EINVAL)?,
            FOREIGN => {
                let length = u32_at(bytes, 4).map_or(0, |length| length as usize);
                let whole = bytes.get(..16 + length).ok_or(Errno::ERANGE)?;
                Ok(Self { foreign: Some(whole.to_vec()), ..Self::default() })
            }
            _ => Err(Errno::ERANGE),
        }
    }

    fn decode_composite(bytes: &[u8]) -> Option<Result<Self, Errno>> {
        let size = u32_at(bytes, 4)? as usize;
        if size > bytes.len() {
            return Some(Err(Errno::ERANGE));
        }
        let bytes = &bytes[..size];
        let mut layout = Self {
            composite: true,
            generation: u32_at(bytes, 8)?,
            flr: u16_at(bytes, 12)? & 0x3,
            mirrors: u16_at(bytes, 16)?,
            ..Self::default()
        };
        for entry in 0..usize::from(u16_at(bytes, 14)?) {
            let at = 32 + 48 * entry;
            let (from, length) =
                (u32_at(bytes, at + 24)? as usize, u32_at(bytes, at + 28)? as usize);
            let part = bytes.get(from..from.checked_add(length)?)?;
            let head = Head {
                id: u32_at(bytes, at)?,
                flags: u32_at(bytes, at + 4)?,
                start: u64_at(bytes, at + 8)?,
                end: u64_at(bytes, at + 16)?,
            };
            let (component, released) = match decode_part(part, Some(head)) {
                Ok(part) => part,
                Err(_) => return Some(Err(Errno::EINVAL)),
            };
            layout.released |= released;
            layout.components.push(component);
        }
        Some(Ok(layout))
    }

    /// Takes a request as the client sends it on: what was fetched from a file loses its start index,
    /// and everything that only a server may say is dropped.
    pub(crate) fn into_request(mut self, answers: Answers) -> Self {
        let copied = self.composite && self.components.iter().any(Component::is_init);
        let cleaned = copied && answers == Answers::New;
        for component in &mut self.components {
            let specific = component.magic == SPECIFIC;
            let first = component.objects.first();
            if cleaned
                || !self.composite
                    && !specific
                    && component.first == 0
                    && first.is_some_and(|object| object.id != 0)
            {
                component.first = ANY;
            }
            if !specific {
                component.objects.clear();
            }
            component.id = 0;
            component.generation = 0;
            component.flags &= PREFER_READ | PREFER_WRITE | NOSYNC | EXTENSION;
            if component.pattern == 0 {
                component.pattern = RAID0;
            }
        }
        self.released = false;
        self.generation = 0;
        self.flr = 0;
        self
    }

    /// The bytes, for somebody.
    pub(crate) fn encode(&self, reader: For) -> Vec<u8> {
        if let Some(foreign) = &self.foreign {
            return foreign.clone();
        }
        if !self.composite {
            return self.components.first().map_or_else(Vec::new, |part| self.part(part, reader));
        }
        let parts: Vec<Vec<u8>> =
            self.components.iter().map(|part| self.part(part, reader)).collect();
        let heads = 32 + 48 * parts.len();
        let size = heads + parts.iter().map(Vec::len).sum::<usize>();
        let mut bytes = Vec::with_capacity(size);
        put32(&mut bytes, COMPOSITE);
        put32(&mut bytes, u32::try_from(size).unwrap_or(u32::MAX));
        put32(&mut bytes, self.generation);
        put16(&mut bytes, self.flr);
        put16(&mut bytes, u16::try_from(parts.len()).unwrap_or(u16::MAX));
        put16(&mut bytes, self.mirrors);
        bytes.resize(32, 0);
        let mut at = heads;
        for (component, part) in self.components.iter().zip(&parts) {
            put32(&mut bytes, component.id);
            put32(&mut bytes, component.flags);
            put64(&mut bytes, component.start);
            put64(&mut bytes, component.end);
            put32(&mut bytes, u32::try_from(at).unwrap_or(u32::MAX));
            put32(&mut bytes, u32::try_from(part.len()).unwrap_or(u32::MAX));
            bytes.resize(bytes.len() + 16, 0);
            at += part.len();
        }
        bytes.extend(parts.concat());
        bytes
    }

    fn part(&self, component: &Component, reader: For) -> Vec<u8> {
        let objects: &[Object] = match reader {
            For::Store => &component.objects,
            For::Caller(..) if !self.released => &component.objects,
            For::Caller(..) | For::Default => &[],
        };
        let named = component.magic == SPECIFIC && reader == For::Default;
        let pooled = component.magic != V1;
        let mut bytes = Vec::with_capacity(48 + 24 * objects.len());
        put32(
            &mut bytes,
            if named {
                SPECIFIC
            } else if pooled {
                V3
            } else {
                V1
            },
        );
        put32(&mut bytes, component.pattern | if self.released { RELEASED } else { 0 });
        match reader {
            For::Caller(_, ino) if !self.composite => {
                put64(&mut bytes, ino & 0xffff_ffff);
                put64(&mut bytes, FILES);
            }
            _ => bytes.resize(24, 0),
        }
        put32(&mut bytes, component.stripe_size);
        let count = match component.is_init() && !component.is_dom() {
            true => u16::try_from(component.objects.len()).unwrap_or(u16::MAX),
            false => component.stripe_count,
        };
        put16(&mut bytes, count);
        let made = component.is_init() || !self.composite && !component.objects.is_empty();
        put16(
            &mut bytes,
            match reader {
                For::Default => component.first,
                For::Store if made => component.generation,
                For::Store => component.first,
                For::Caller(Answers::Old, _) if !self.composite => 0,
                For::Caller(Answers::Old, _) if made => component.generation,
                For::Caller(..) => ANY,
            },
        );
        if pooled {
            bytes.extend(component.pool);
        }
        let named = if named { &component.objects[..] } else { &[] };
        for object in objects.iter().chain(named) {
            put64(&mut bytes, SEQUENCE + u64::from(object.ost) * SEQUENCE_STEP);
            put32(&mut bytes, object.id);
            put32(&mut bytes, 0);
            put32(&mut bytes, 0);
            put32(&mut bytes, object.ost);
        }
        bytes
    }
}

struct Head {
    id: u32,
    flags: u32,
    start: u64,
    end: u64,
}

/// A plain layout or the part of a component, and whether it is released.
fn decode_part(bytes: &[u8], head: Option<Head>) -> Result<(Component, bool), Errno> {
    let short = Errno::ERANGE;
    let magic = u32_at(bytes, 0).ok_or(short)? & !DEFINED;
    let objects_at = match magic {
        V1 => 32,
        V3 | SPECIFIC => 48,
        _ => return Err(Errno::EINVAL),
    };
    if bytes.len() < objects_at {
        return Err(short);
    }
    let pattern = u32_at(bytes, 4).ok_or(short)?;
    let stripe_count = u16_at(bytes, 28).ok_or(short)?;
    let first = u16_at(bytes, 30).ok_or(short)?;
    let mut pool = [0; 16];
    if objects_at == 48 {
        pool.copy_from_slice(&bytes[32..48]);
    }
    let slots = bytes[objects_at..].chunks_exact(24).take(usize::from(stripe_count));
    let objects: Vec<Object> = slots
        .filter_map(|slot| Some(Object { id: object_id(slot)?, ost: u32_at(slot, 20)? }))
        .collect();
    if magic == SPECIFIC && objects.len() < usize::from(stripe_count) {
        return Err(short);
    }
    // A plain layout is there from its beginning to its end, and always made.
    let head = head.unwrap_or(Head { id: 0, flags: 0, start: 0, end: EOF });
    let component = Component {
        id: head.id,
        flags: head.flags,
        start: head.start,
        end: head.end,
        magic,
        pattern: pattern & !STATE_BITS,
        stripe_size: u32_at(bytes, 24).ok_or(short)?,
        stripe_count,
        first,
        pool,
        objects,
        generation: first,
    };
    Ok((component, pattern & RELEASED != 0))
}

fn object_id(slot: &[u8]) -> Option<u32> {
    // With a sequence of 0 the first number is the object's, otherwise the FID's sequence.
    match u64_at(slot, 8)? {
        0 => u32::try_from(u64_at(slot, 0)?).ok(),
        _ => u32_at(slot, 8),
    }
}

fn put16(bytes: &mut Vec<u8>, value: u16) {
    bytes.extend(value.to_le_bytes());
}

fn put32(bytes: &mut Vec<u8>, value: u32) {
    bytes.extend(value.to_le_bytes());
}

fn put64(bytes: &mut Vec<u8>, value: u64) {
    bytes.extend(value.to_le_bytes());
}
