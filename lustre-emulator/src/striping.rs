//! Which object each byte of a file lies in. It follows the formulas of the format and nothing else.

use std::ops::Range;

use crate::layout::{Component, EXTENSION, Layout, Object, PREFER_READ, PREFER_WRITE, STALE};

/// A part of a range of a file, as one object has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Piece {
    /// Number of the component's entry.
    pub(crate) entry: usize,
    /// The component's id.
    pub(crate) component: u32,
    /// Stripe index and object; none: on the metadata server.
    pub(crate) object: Option<(u32, Object)>,
    pub(crate) file_offset: u64,
    pub(crate) object_offset: u64,
    pub(crate) length: u64,
}

/// Why a range has no pieces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Beyond {
    /// It goes past the end of the last component.
    Components,
}

impl Layout {
    /// The entries of the mirror that reads or writes go to.
    pub(crate) fn mirror(&self, write: bool) -> Vec<usize> {
        let mut mirrors: Vec<Vec<usize>> = Vec::new();
        for (at, component) in self.components.iter().enumerate() {
            let before = at.checked_sub(1).map(|before| &self.components[before]);
            let begins = component.start == 0 && before.is_none_or(|before| before.end > 0);
            match mirrors.last_mut() {
                Some(mirror) if !begins => mirror.push(at),
                _ => mirrors.push(vec![at]),
            }
        }
        let wanted = if write { PREFER_WRITE } else { PREFER_READ };
        let has = |mirror: &Vec<usize>, flag: u32| {
            mirror.iter().any(|at| self.components[*at].flags & flag != 0)
        };
        let fresh = mirrors.iter().filter(|mirror| !has(mirror, STALE));
        let chosen =
            fresh.clone().find(|mirror| has(mirror, wanted)).or_else(|| fresh.clone().next());
        chosen.or(mirrors.first()).cloned().unwrap_or_default()
    }

    /// The entry of a mirror that holds this byte.
    pub(crate) fn entry_at(&self, mirror: &[usize], at: u64) -> Option<usize> {
        mirror.iter().copied().find(|entry| {
            let component = &self.components[*entry];
            component.start <= at && at < component.end
        })
    }

    /// The pieces of a range. Parts of components without objects have none.
    pub(crate) fn pieces(&self, write: bool, range: Range<u64>) -> Result<Vec<Piece>, Beyond> {
        let mirror = self.mirror(write);
        let mut pieces = Vec::new();
        let mut at = range.start;
        while at < range.end {
            let entry = self.entry_at(&mirror, at).ok_or(Beyond::Components)?;
            let component = &self.components[entry];
            let end = range.end.min(component.end);
            pieces.extend(component.pieces(entry, at..end));
            at = end;
        }
        Ok(pieces)
    }
}

impl Component {
    fn pieces(&self, entry: usize, range: Range<u64>) -> Vec<Piece> {
        let length = range.end - range.start;
        let piece = Piece {
            entry,
            component: self.id,
            object: None,
            file_offset: range.start,
            object_offset: range.start,
            length,
        };
        if self.is_dom() {
            return vec![piece];
        }
        if self.objects.is_empty() || self.flags & EXTENSION != 0 {
            return Vec::new();
        }
        let stripe = u64::from(self.stripe_size).max(1);
        let mut pieces = Vec::new();
        let mut at = range.start;
        while at < range.end {
            let (index, offset) = self.place(at);
            let stop = range.end.min((at / stripe + 1) * stripe);
            let object = self.objects[index as usize];
            pieces.push(Piece {
                object: Some((index, object)),
                file_offset: at,
                object_offset: offset,
                length: stop - at,
                ..piece
            });
            at = stop;
        }
        pieces
    }

    /// Stripe index and offset in its object of a byte of the file: the file's own offset counts, not
    /// that in the component.
    pub(crate) fn place(&self, at: u64) -> (u32, u64) {
        let stripe = u64::from(self.stripe_size).max(1);
        let width = stripe * self.objects.len().max(1) as u64;
        let index = (at % width) / stripe;
        (u32::try_from(index).unwrap_or(0), (at / width) * stripe + at % stripe)
    }
}
