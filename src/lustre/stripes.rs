//! Stripe arithmetic: which object of a striped file holds which of its bytes, and in which pieces a
//! copy takes them. Pure: it knows no files and no servers, only numbers.

use std::ops::Range;

use super::fields::Flags;
use super::layout::{Component, Layout, Plain};

/// Where an object lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Server {
    /// On an object storage target, by its index in the filesystem.
    Ost(u32),
    /// On the metadata target (Data-on-MDT).
    Mdt,
}

/// A component of a layout, as far as arithmetic needs it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// Bytes of the file; the end of the last one may be `u64::MAX`, which is the end of any file.
    pub extent: Range<u64>,
    /// Bytes of one stripe.
    pub stripe_bytes: u64,
    /// The servers of its objects, by stripe index.
    pub servers: Vec<Server>,
}

/// How one file is striped over its objects. Objects are numbered through all components.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Striping {
    parts: Vec<Placed>,
    servers: Vec<Server>,
}

/// A part, and the number of its first object.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Placed {
    extent: Range<u64>,
    stripe_bytes: u64,
    first: usize,
    count: usize,
}

/// A run of bytes that lie side by side on one object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    /// Number of the object.
    pub object: usize,
    /// Bytes of the file.
    pub range: Range<u64>,
    /// Where in the object the first of them is.
    pub object_offset: u64,
}

impl Striping {
    /// From components that touch each other and begin at zero. `None` when they do not, when one has no
    /// stripe size or no objects: such a file is copied without knowing where its bytes are.
    #[must_use]
    pub fn new(components: impl IntoIterator<Item = Part>) -> Option<Self> {
        let mut parts: Vec<Placed> = Vec::new();
        let mut servers = Vec::new();
        for Part { extent, stripe_bytes, servers: own } in components {
            let start = parts.last().map_or(0, |part| part.extent.end);
            if extent.start != start || extent.is_empty() || stripe_bytes == 0 || own.is_empty() {
                return None;
            }
            parts.push(Placed { extent, stripe_bytes, first: servers.len(), count: own.len() });
            servers.extend(own);
        }
        (!parts.is_empty()).then_some(Self { parts, servers })
    }

    /// Of the layout of a file of `size` bytes. With mirrors it is that of one that is up to date, which the
    /// preferred one is taken of. `None` where it cannot be told: components without objects before
    /// the file's end, extension space, unknown patterns, released and foreign files.
    #[must_use]
    pub fn of(layout: &Layout, size: u64) -> Option<Self> {
        match layout {
            Layout::Plain(plain) => Self::new([part(0..u64::MAX, plain)?]),
            Layout::Composite(composite) => {
                let current = |mirror: &&[Component]| {
                    mirror.iter().all(|component| {
                        !component.flags.has(Flags::STALE) && !component.is_parity()
                    })
                };
                let preferred = |mirror: &[Component]| {
                    let marks = [Flags::PREFER_WRITE, Flags::PREFER_READ];
                    marks.map(|mark| mirror.iter().any(|component| component.flags.has(mark)))
                };
                // The last of the greatest is taken: of equal ones that shall be the first.
                let mirrors: Vec<_> = composite.mirrors().filter(current).collect();
                let mirror = mirrors.into_iter().rev().max_by_key(|mirror| preferred(mirror))?;
                let parts = mirror
                    .iter()
                    .filter(|component| !component.extent.is_empty())
                    .take_while(|component| component.extent.start < size.max(1))
                    .map(|component| {
                        let extent = component.extent.start..component.extent.end;
                        let known = !component.flags.has(Flags::EXTENSION);
                        component.striped().filter(|_| known).and_then(|plain| part(extent, plain))
                    });
                Self::new(parts.collect::<Option<Vec<_>>>()?)
            }
            Layout::Foreign(_) => None,
        }
    }

    /// The server of each object.
    #[must_use]
    pub fn servers(&self) -> &[Server] {
        &self.servers
    }

    /// The first byte behind the last component: no file of this layout can be longer.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.parts.last().map_or(0, |part| part.extent.end)
    }

    /// The bytes around `offset` that lie side by side on one object: a stripe, or all of a component
    /// that has one object only. `None` behind the last component.
    #[must_use]
    pub fn run_at(&self, offset: u64) -> Option<Run> {
        let index = self.parts.partition_point(|part| part.extent.end <= offset);
        let part = self.parts.get(index)?;
        Some(part.run(part.stripe_of(offset)))
    }

    /// The first bytes of an object at or behind `offset`, up to the end of their run. `None` when
    /// there are no more.
    ///
    /// # Panics
    /// When there is no such object.
    #[must_use]
    pub fn run_of(&self, object: usize, offset: u64) -> Option<Run> {
        let index = self.parts.partition_point(|part| part.first + part.count <= object);
        let part = &self.parts[index];
        let from = offset.max(part.extent.start);
        if from >= part.extent.end {
            return None;
        }
        let Run { range, object_offset, .. } = if part.count == 1 {
            part.run(0)
        } else {
            // The stripe index grows by one from stripe to stripe, around the objects.
            let (count, wanted) = (part.count as u64, (object - part.first) as u64);
            let stripe = part.stripe_of(from);
            let ahead = (wanted + count - stripe % count) % count;
            let stripe = stripe.checked_add(ahead)?;
            if stripe.checked_mul(part.stripe_bytes)? >= part.extent.end {
                return None;
            }
            part.run(stripe)
        };
        let skipped = from.saturating_sub(range.start);
        let range = range.start + skipped..range.end;
        Some(Run { object, range, object_offset: object_offset + skipped })
    }

    /// How many bytes of a file of this size lie on an object.
    #[must_use]
    pub fn bytes_of(&self, object: usize, size: u64) -> u64 {
        let index = self.parts.partition_point(|part| part.first + part.count <= object);
        let part = &self.parts[index];
        part.below(object, size.min(part.extent.end))
            - part.below(object, part.extent.start.min(size))
    }
}

/// A component whose pattern is known, with its objects.
fn part(extent: Range<u64>, plain: &Plain) -> Option<Part> {
    if plain.pattern.is_released() || plain.pattern.has_holes() {
        return None;
    }
    if plain.pattern.is_mdt() {
        // One stripe, as long as the component.
        let stripe_bytes = extent.end - extent.start;
        return Some(Part { extent, stripe_bytes, servers: vec![Server::Mdt] });
    }
    let servers = plain.objects.iter().map(|object| Server::Ost(object.ost)).collect();
    let stripe_bytes = u64::from(plain.stripe_size);
    plain.pattern.is_striped().then_some(Part { extent, stripe_bytes, servers })
}

impl Placed {
    /// The number of the stripe that holds a byte, counted from the beginning of the *file*: the
    /// start of the component is not taken off (`lov_offset.c`).
    fn stripe_of(&self, offset: u64) -> u64 {
        if self.count == 1 { 0 } else { offset / self.stripe_bytes }
    }

    /// The run of a stripe; with one object all stripes are one run.
    fn run(&self, stripe: u64) -> Run {
        let Range { start, end } = self.extent.clone();
        if self.count == 1 {
            return Run { object: self.first, range: start..end, object_offset: start };
        }
        let count = self.count as u64;
        let whole = stripe * self.stripe_bytes;
        let range = whole.max(start)..whole.saturating_add(self.stripe_bytes).min(end);
        let index = usize::try_from(stripe % count).expect("smaller than a number of objects");
        let object_offset = stripe / count * self.stripe_bytes + (range.start - whole);
        Run { object: self.first + index, range, object_offset }
    }

    /// Bytes of an object that lie before `offset` when the layout began at zero.
    fn below(&self, object: usize, offset: u64) -> u64 {
        let (count, index) = (self.count as u64, (object - self.first) as u64);
        let (whole, rest) = (offset / self.stripe_bytes, offset % self.stripe_bytes);
        let (rows, behind) = (whole / count, whole % count);
        let mut bytes = rows * self.stripe_bytes;
        if index < behind {
            bytes += self.stripe_bytes;
        } else if index == behind {
            bytes += rest;
        }
        bytes
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn part(extent: Range<u64>, stripe_bytes: u64, osts: Range<u32>) -> Part {
        Part { extent, stripe_bytes, servers: osts.map(Server::Ost).collect() }
    }

    const MIB: u64 = 1 << 20;

    /// The example of `lustre-layouts`: [0,4M) 1 x 1M, [4M,64M) 2 x 4M, [64M,EOF) 8 x 4M.
    fn progressive() -> Striping {
        Striping::new([
            part(0..4 * MIB, MIB, 0..1),
            part(4 * MIB..64 * MIB, 4 * MIB, 1..3),
            part(64 * MIB..u64::MAX, 4 * MIB, 3..11),
        ])
        .expect("a layout")
    }

    #[test]
    fn a_component_begins_on_the_object_that_the_absolute_offset_says() {
        let striping = progressive();
        let run = striping.run_at(4 * MIB).expect("a run");
        assert_eq!(run, Run { object: 2, range: 4 * MIB..8 * MIB, object_offset: 0 });
        let run = striping.run_at(8 * MIB + 5).expect("a run");
        assert_eq!(run, Run { object: 1, range: 8 * MIB..12 * MIB, object_offset: 4 * MIB });
        let all = striping.run_at(3 * MIB).expect("a run");
        assert_eq!(all, Run { object: 0, range: 0..4 * MIB, object_offset: 0 });
    }

    fn parsed(hex: &str) -> Layout {
        let bytes = super::super::fixtures::bytes(hex);
        Layout::parse(&bytes, super::super::layout::Of::File).expect("a layout")
    }

    #[test]
    fn a_progressive_file_is_known_as_far_as_it_has_objects() {
        let layout = parsed(super::super::fixtures::PROGRESSIVE);
        let striping = Striping::of(&layout, 64 * MIB).expect("two components with objects");
        assert_eq!(striping.servers(), [0, 1, 2].map(Server::Ost));
        assert_eq!(striping.end(), 64 * MIB);
        assert!(Striping::of(&layout, 64 * MIB + 1).is_none(), "the third has no objects");
    }

    #[test]
    fn data_on_the_metadata_server_is_one_object() {
        let layout = parsed(super::super::fixtures::ON_MDT);
        let striping = Striping::of(&layout, MIB).expect("the first component");
        assert_eq!(striping.servers(), [Server::Mdt]);
        assert_eq!(striping.run_at(5).map(|run| run.range), Some(0..MIB));
    }

    #[test]
    fn of_mirrors_the_one_that_is_up_to_date_counts() {
        let striping = Striping::of(&parsed(super::super::fixtures::MIRRORS), 1 << 40);
        assert_eq!(striping.expect("a mirror").servers(), [Server::Ost(0)]);
    }

    #[test]
    fn layouts_that_leave_holes_or_have_no_objects_are_none() {
        assert!(Striping::new([]).is_none());
        assert!(Striping::new([part(1..2, 1, 0..1)]).is_none());
        assert!(Striping::new([part(0..2, 1, 0..1), part(3..4, 1, 0..1)]).is_none());
        assert!(Striping::new([part(0..2, 0, 0..1)]).is_none());
        assert!(Striping::new([part(0..2, 1, 0..0)]).is_none());
        let ended = Striping::new([part(0..64 * MIB, MIB, 0..4)]).expect("a layout");
        assert!(ended.run_at(64 * MIB).is_none() && ended.end() == 64 * MIB);
    }

    /// Components whose sizes fit together, up to a file size.
    fn stripings() -> impl Strategy<Value = (Striping, u64)> {
        let component = (1_u64..6, 1_usize..7, 1_u64..5);
        (prop::collection::vec(component, 1..4), 1_u64..4000).prop_map(|(components, size)| {
            let mut start = 0;
            let last = components.len() - 1;
            let parts = components.into_iter().enumerate().map(|(index, (unit, count, length))| {
                let stripe = unit * 16;
                // Every end is a multiple of the stripe size, as the servers ask for.
                let end = if index == last {
                    u64::MAX
                } else {
                    (start + length * stripe).next_multiple_of(stripe)
                };
                let range = start..end;
                start = end;
                let servers =
                    (0..count).map(|ost| Server::Ost(u32::try_from(ost % 3).expect("< 3")));
                Part { extent: range, stripe_bytes: stripe, servers: servers.collect() }
            });
            (Striping::new(parts).expect("components that touch"), size)
        })
    }

    proptest! {
        /// The claim that everything else rests on.
        #[test]
        fn runs_of_all_objects_cover_the_file_once_each_on_one_object((striping, size) in stripings()) {
            let mut covered = vec![0_u8; usize::try_from(size).expect("small")];
            for object in 0..striping.servers().len() {
                let (mut from, mut bytes) = (0, 0);
                while let Some(run) = striping.run_of(object, from).filter(|run| run.range.start < size) {
                    prop_assert_eq!(run.object, object);
                    prop_assert!(run.range.start >= from && run.range.start < run.range.end);
                    for offset in run.range.start..run.range.end.min(size) {
                        let at = striping.run_at(offset).expect("covered");
                        prop_assert_eq!(at.object, object);
                        prop_assert!(at.range.contains(&offset) && at.range.end == run.range.end);
                        let within = at.object_offset + (offset - at.range.start);
                        prop_assert_eq!(within, run.object_offset + (offset - run.range.start));
                        covered[usize::try_from(offset).expect("small")] += 1;
                        bytes += 1;
                    }
                    from = run.range.end;
                }
                prop_assert_eq!(bytes, striping.bytes_of(object, size));
            }
            prop_assert!(covered.iter().all(|times| *times == 1));
        }

        /// The formula of `lov_offset.c`, and back.
        #[test]
        fn offsets_map_to_objects_as_lustre_maps_them(
            stripe in 1_u64..50, count in 1_usize..9, offset in 0_u64..100_000,
        ) {
            let servers = vec![Server::Mdt; count];
            let striping = Striping::new([Part { extent: 0..u64::MAX, stripe_bytes: stripe, servers }])
                .expect("a layout");
            let run = striping.run_at(offset).expect("a run");
            let width = stripe * count as u64;
            let within = if count == 1 { offset } else { offset / width * stripe + offset % stripe };
            prop_assert_eq!(run.object as u64, offset % width / stripe);
            prop_assert_eq!(run.object_offset + (offset - run.range.start), within);
            let back = within / stripe * width + run.object as u64 * stripe + within % stripe;
            prop_assert_eq!(back, offset);
        }
    }
}
