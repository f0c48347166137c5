//! The layout of a Lustre file: where its bytes lie, or are to lie. A model of everything that the
//! extended attribute `lustre.lov` can say, and questions about it. It reads and writes nothing.

use super::fields::{Count, Extent, Flags, Pattern, Pool, Start};

pub use super::parse::{LayoutError, MAX_BYTES, Problem};

/// What a value was read from, which decides what its fields mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Of {
    /// A file: there are objects, and the first OST is not said.
    File,
    /// A directory: the default for new files. A request to set a layout looks the same.
    Directory,
}

/// A layout.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Layout {
    /// One component for the whole file (magic V1, V3 or SPECIFIC).
    Plain(Plain),
    /// Several components: progressive layouts, mirrors, data on the MDT.
    Composite(Composite),
    /// Data that is not Lustre's.
    Foreign(Foreign),
}

/// Which of the three plain forms a layout has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// Without a pool (0x0BD10BD0).
    V1,
    /// With room for a pool's name (0x0BD30BD0).
    V3(Pool),
    /// A request or default that lists its OSTs (0x0BD50BD0).
    Specific(Pool),
}

/// Stripes over objects: a whole plain layout, or the inside of a component.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plain {
    /// V1, V3 or SPECIFIC.
    pub form: Form,
    /// How bytes are spread.
    pub pattern: Pattern,
    /// The file's identity on its MDT, `lmm_oi`: id and sequence. Zero in components.
    pub owner: [u64; 2],
    /// Bytes on one object before the next one; 0 is the default. In an extension component: KiB by
    /// which the component before it grows.
    pub stripe_size: u32,
    /// Objects that there are, or are to be.
    pub count: Count,
    /// Where the first object is to be.
    pub start: Start,
    /// The objects; none where they were not made yet.
    pub objects: Vec<Object>,
}

/// One object on an OST.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Object {
    /// Its identity (`struct ost_id`): with a second word of zero the first is a plain number, else
    /// they are a FID.
    pub id: [u64; 2],
    /// Generation (`l_ost_gen`).
    pub generation: u32,
    /// The OST.
    pub ost: u32,
}

/// Several components.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Composite {
    /// Grows with each change of the layout.
    pub generation: u32,
    /// `lcm_flags`; see [`Composite::state`].
    pub flags: u16,
    /// Mirrors as the header has them: one less than there are.
    pub further_mirrors: u16,
    /// Erasure coding (`lcm_ec_count`).
    pub ec_count: u8,
    /// The rest of the header, which is not always zero (some clients put a stripe size there).
    pub padding: [u8; 13],
    /// Mirror by mirror, each from offset 0 up.
    pub components: Vec<Component>,
}

/// Whether the mirrors of a file agree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MirrorState {
    /// There are no mirrors.
    None,
    /// All are the same.
    InSync,
    /// One was written, the others are old.
    WritePending,
    /// Being brought up to date.
    SyncPending,
}

/// One component.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Component {
    /// Its number: the mirror in bits 16 to 30, a running number below. 0 in requests.
    pub id: u32,
    /// Marks.
    pub flags: Flags,
    /// The bytes of the file that it has.
    pub extent: Extent,
    /// `lcme_layout_gen`.
    pub generation: u32,
    /// When a mirror that is not kept up to date was last in sync: 48 bits of seconds.
    pub timestamp: u64,
    /// The mirror that this one belongs to, for parity.
    pub mirror_link: u16,
    /// Data stripes per parity group.
    pub data_stripes: u8,
    /// Parity stripes per parity group.
    pub parity_stripes: u8,
    /// Compression: kind, then level and chunk in half a byte each.
    pub compression: [u8; 2],
    /// Where its bytes lie.
    pub body: Body,
}

/// Where the bytes of a component lie.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Body {
    /// On objects.
    Striped(Plain),
    /// Elsewhere, for example in an archive.
    Foreign(Foreign),
}

/// Data that is not Lustre's: a type and a value that only somebody else understands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Foreign {
    /// 0 none, 1 posix archive, 2 and 3 client caches, 4 S3, 0xda05 symbolic link.
    pub kind: u32,
    /// Flags of that kind.
    pub flags: u32,
    /// The value.
    pub value: Vec<u8>,
}

impl Layout {
    /// Whether some of the data is only in the archive, so that reading it would restore it.
    #[must_use]
    pub fn is_released(&self) -> bool {
        self.plains().any(|plain| plain.pattern.is_released())
    }

    /// The plain layout, or those of all components that have one.
    pub fn plains(&self) -> impl Iterator<Item = &Plain> {
        let (one, many) = match self {
            Self::Plain(plain) => (Some(plain), &[][..]),
            Self::Composite(composite) => (None, composite.components.as_slice()),
            Self::Foreign(_) => (None, &[][..]),
        };
        one.into_iter().chain(many.iter().filter_map(Component::striped))
    }

    /// As [`Layout::plains`], to change them.
    pub fn plains_mut(&mut self) -> impl Iterator<Item = &mut Plain> {
        let (one, many) = match self {
            Self::Plain(plain) => (Some(plain), &mut [][..]),
            Self::Composite(composite) => (None, composite.components.as_mut_slice()),
            Self::Foreign(_) => (None, &mut [][..]),
        };
        one.into_iter().chain(many.iter_mut().filter_map(|component| match &mut component.body {
            Body::Striped(plain) => Some(plain),
            Body::Foreign(_) => None,
        }))
    }

    /// The same layout as one would ask for it: without what belongs to one file (identity, objects,
    /// generations, component numbers, INIT and STALE, marks of its history). The first OST stays only
    /// where it was asked for. A value that was read must never be set as it is: clients up to 2.16
    /// would take generations in it for OSTs.
    #[must_use]
    pub fn template(&self) -> Self {
        match self {
            Self::Plain(plain) => Self::Plain(plain.template()),
            Self::Composite(composite) => Self::Composite(composite.template()),
            Self::Foreign(foreign) => Self::Foreign(foreign.clone()),
        }
    }
}

impl Plain {
    /// RAID0 with the defaults of the filesystem.
    #[must_use]
    pub fn new(count: Count, stripe_size: u32) -> Self {
        Self {
            form: Form::V1,
            pattern: Pattern::RAID0,
            owner: [0; 2],
            stripe_size,
            count,
            start: Start::Any,
            objects: Vec::new(),
        }
    }

    /// The pool, if one is named.
    #[must_use]
    pub fn pool(&self) -> Option<Pool> {
        match self.form {
            Form::V1 => None,
            Form::V3(pool) | Form::Specific(pool) => {
                Some(pool).filter(|pool| !pool.name().is_empty())
            }
        }
    }

    /// Names another pool, or none.
    pub fn set_pool(&mut self, pool: Option<Pool>) {
        self.form = match (self.form, pool) {
            (Form::Specific(_), pool) => Form::Specific(pool.unwrap_or(Pool::NONE)),
            (_, Some(pool)) => Form::V3(pool),
            (_, None) => Form::V1,
        };
    }

    /// See [`Layout::template`].
    #[must_use]
    pub fn template(&self) -> Self {
        // From the name again: what stands behind its end is not ours to pass on.
        let pool = self.pool().and_then(|pool| Pool::new(pool.name()));
        let specific = matches!(self.form, Form::Specific(_));
        let listed = |object: &Object| Object { id: [0; 2], generation: 0, ost: object.ost };
        let mut template = Self {
            form: if specific { Form::Specific(Pool::NONE) } else { Form::V1 },
            pattern: self.pattern.plain(),
            owner: [0; 2],
            stripe_size: self.stripe_size,
            count: self.count,
            start: match self.start {
                Start::Ost(ost) => Start::Ost(ost),
                Start::Any | Start::Generation(_) => Start::Any,
            },
            objects: if specific { self.objects.iter().map(listed).collect() } else { Vec::new() },
        };
        template.set_pool(pool);
        template
    }
}

impl Composite {
    /// Whether the mirrors agree (`LCM_FL_FLR_MASK`, the two lowest bits of the flags; 0x8 is a copy
    /// in a client's cache).
    #[must_use]
    pub fn state(&self) -> MirrorState {
        match self.flags & 0x3 {
            0 => MirrorState::None,
            1 => MirrorState::InSync,
            2 => MirrorState::WritePending,
            _ => MirrorState::SyncPending,
        }
    }

    /// The components, mirror by mirror.
    pub fn mirrors(&self) -> impl Iterator<Item = &[Component]> {
        self.components.chunk_by(|before, next| !next.begins_mirror(before))
    }

    /// Whether some component holds parity, which makes a mirror of its own.
    #[must_use]
    pub fn has_parity(&self) -> bool {
        self.components.iter().any(Component::is_parity)
    }

    /// See [`Layout::template`].
    #[must_use]
    pub fn template(&self) -> Self {
        let mut components: Vec<Component> =
            self.components.iter().map(Component::template).collect();
        // What grew into extension space begins again: with one extension at offset 0, else empty.
        for at in 1..components.len() {
            let (Some(bytes), Extent { end, .. }) =
                (components[at].extension_bytes(), components[at].extent)
            else {
                continue;
            };
            let start = components[at - 1].extent.start;
            let middle = if start == 0 { bytes } else { start };
            if bytes > 0 && middle < end && components[at].extent.start != 0 {
                components[at - 1].extent.end = middle;
                components[at].extent.start = middle;
            }
        }
        Self {
            generation: 0,
            flags: 0,
            further_mirrors: self.further_mirrors,
            ec_count: self.ec_count,
            padding: [0; 13],
            components,
        }
    }
}

impl Component {
    /// A component to ask for.
    #[must_use]
    pub fn new(extent: Extent, plain: Plain) -> Self {
        Self {
            id: 0,
            flags: Flags::default(),
            extent,
            generation: 0,
            timestamp: 0,
            mirror_link: 0,
            data_stripes: 0,
            parity_stripes: 0,
            compression: [0; 2],
            body: Body::Striped(plain),
        }
    }

    /// Its stripes, unless the data is not Lustre's.
    #[must_use]
    pub fn striped(&self) -> Option<&Plain> {
        match &self.body {
            Body::Striped(plain) => Some(plain),
            Body::Foreign(_) => None,
        }
    }

    /// The number of its mirror; 0 without mirrors and in requests.
    #[must_use]
    pub fn mirror(&self) -> u16 {
        u16::try_from(self.id >> 16 & 0x7fff).expect("15 bits fit into 16")
    }

    /// Whether a mirror begins with it, and ends with the one `before`: it starts at 0, and not only
    /// because that one is empty (before extension space).
    pub(super) fn begins_mirror(&self, before: &Self) -> bool {
        self.extent.start == 0 && before.extent.end != 0
    }

    /// Whether it holds the parity of another mirror.
    #[must_use]
    pub fn is_parity(&self) -> bool {
        self.flags.has(Flags::PARITY)
            || self.striped().is_some_and(|plain| plain.pattern.is_parity())
    }

    /// By how many bytes the component before it grows, when it is extension space.
    #[must_use]
    pub fn extension_bytes(&self) -> Option<u64> {
        let plain = self.striped().filter(|_| self.flags.has(Flags::EXTENSION))?;
        Some(u64::from(plain.stripe_size) * 1024)
    }

    /// See [`Layout::template`].
    #[must_use]
    pub fn template(&self) -> Self {
        let wanted = Flags::PREFER
            .and(Flags::NO_SYNC)
            .and(Flags::EXTENSION)
            .and(Flags::PARITY)
            .and(Flags::COMPRESS)
            .and(Flags::NO_COMPRESS);
        Self {
            id: 0,
            flags: self.flags.only(wanted),
            extent: self.extent,
            generation: 0,
            timestamp: 0,
            mirror_link: self.mirror_link,
            data_stripes: self.data_stripes,
            parity_stripes: self.parity_stripes,
            compression: self.compression,
            body: match &self.body {
                Body::Striped(plain) => Body::Striped(plain.template()),
                Body::Foreign(foreign) => Body::Foreign(foreign.clone()),
            },
        }
    }
}

impl Object {
    /// An entry of a list of wanted OSTs.
    #[must_use]
    pub fn on(ost: u32) -> Self {
        Self { id: [0; 2], generation: 0, ost }
    }
}
