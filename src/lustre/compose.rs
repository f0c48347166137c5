//! The bytes of `lustre.lov` out of layouts: the reverse of `parse`, and clean requests. It sets
//! nothing.

use super::fields::Start;
use super::format::*;
use super::layout::{Body, Component, Composite, Foreign, Form, Layout, Plain};

impl Layout {
    /// The value with every field, so that parsing gives the same layout again. A layout that was made
    /// up may be longer than an attribute can be; setting it then fails.
    #[must_use]
    pub fn compose(&self) -> Vec<u8> {
        let mut out = Vec::new();
        match self {
            Self::Plain(plain) => plain.append(&mut out),
            Self::Composite(composite) => composite.append(&mut out),
            Self::Foreign(foreign) => foreign.append(&mut out),
        }
        out
    }

    /// The value to set on a new file or on a directory: [`Layout::template`], composed.
    #[must_use]
    pub fn request(&self) -> Vec<u8> {
        self.template().compose()
    }
}

impl Plain {
    fn length(&self) -> usize {
        let head = if self.form == Form::V1 { HEAD_V1 } else { HEAD_V3 };
        head + self.objects.len() * OBJECT
    }

    fn append(&self, out: &mut Vec<u8>) {
        let (magic, pool) = match &self.form {
            Form::V1 => (MAGIC_V1, None),
            Form::V3(pool) => (MAGIC_V3, Some(pool)),
            Form::Specific(pool) => (MAGIC_SPECIFIC, Some(pool)),
        };
        let start = match self.start {
            Start::Any => 0xffff,
            Start::Ost(number) | Start::Generation(number) => number,
        };
        out.extend(magic.to_ne_bytes());
        out.extend(self.pattern.0.to_ne_bytes());
        out.extend(self.owner.iter().flat_map(|word| word.to_ne_bytes()));
        out.extend(self.stripe_size.to_ne_bytes());
        out.extend(self.count.0.to_ne_bytes());
        out.extend(start.to_ne_bytes());
        out.extend(pool.iter().flat_map(|pool| pool.bytes()));
        for object in &self.objects {
            out.extend(object.id.iter().flat_map(|word| word.to_ne_bytes()));
            out.extend(object.generation.to_ne_bytes());
            out.extend(object.ost.to_ne_bytes());
        }
    }
}

impl Foreign {
    fn length(&self) -> usize {
        HEAD_FOREIGN + self.value.len()
    }

    fn append(&self, out: &mut Vec<u8>) {
        out.extend(MAGIC_FOREIGN.to_ne_bytes());
        out.extend(size(self.value.len()).to_ne_bytes());
        out.extend(self.kind.to_ne_bytes());
        out.extend(self.flags.to_ne_bytes());
        out.extend(&self.value);
    }
}

impl Composite {
    fn append(&self, out: &mut Vec<u8>) {
        let entries = HEAD_COMPOSITE + self.components.len() * ENTRY;
        let total = entries + self.components.iter().map(|c| c.body.length()).sum::<usize>();
        let count = u16::try_from(self.components.len()).unwrap_or(u16::MAX);
        out.extend(MAGIC_COMPOSITE.to_ne_bytes());
        out.extend(size(total).to_ne_bytes());
        out.extend(self.generation.to_ne_bytes());
        out.extend(self.flags.to_ne_bytes());
        out.extend(count.to_ne_bytes());
        out.extend(self.further_mirrors.to_ne_bytes());
        out.push(self.ec_count);
        out.extend(self.padding);
        let mut blob = entries;
        for component in &self.components {
            component.append(blob, out);
            blob += component.body.length();
        }
        for component in &self.components {
            match &component.body {
                Body::Striped(plain) => plain.append(out),
                Body::Foreign(foreign) => foreign.append(out),
            }
        }
    }
}

impl Component {
    fn append(&self, blob: usize, out: &mut Vec<u8>) {
        let stamp = u64::from(self.mirror_link) << 48 | (self.timestamp & ((1 << 48) - 1));
        out.extend(self.id.to_ne_bytes());
        out.extend(self.flags.0.to_ne_bytes());
        out.extend(self.extent.start.to_ne_bytes());
        out.extend(self.extent.end.to_ne_bytes());
        out.extend(size(blob).to_ne_bytes());
        out.extend(size(self.body.length()).to_ne_bytes());
        out.extend(self.generation.to_ne_bytes());
        out.extend(stamp.to_ne_bytes());
        out.extend([self.data_stripes, self.parity_stripes]);
        out.extend(self.compression);
    }
}

impl Body {
    fn length(&self) -> usize {
        match self {
            Self::Striped(plain) => plain.length(),
            Self::Foreign(foreign) => foreign.length(),
        }
    }
}

/// Sizes above 4 GiB are no attribute's; the kernel refuses the value for its length.
fn size(bytes: usize) -> u32 {
    u32::try_from(bytes).unwrap_or(u32::MAX)
}
