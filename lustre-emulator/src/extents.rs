//! Which bytes of an object are written: for the room that it takes.

use std::collections::BTreeMap;
use std::ops::Range;

/// Ranges that neither touch nor overlap, by their beginnings.
#[derive(Debug, Clone, Default)]
pub(crate) struct Extents {
    ranges: BTreeMap<u64, u64>,
}

impl Extents {
    /// How many bytes of a range are not there yet.
    pub(crate) fn missing(&self, range: &Range<u64>) -> u64 {
        let before = self.ranges.range(..range.start).next_back();
        let inside = self.ranges.range(range.start..range.end);
        let there: u64 = before
            .into_iter()
            .chain(inside)
            .map(|(start, end)| end.min(&range.end).saturating_sub(*start.max(&range.start)))
            .sum();
        (range.end - range.start).saturating_sub(there)
    }

    /// The range is there from now on.
    pub(crate) fn insert(&mut self, mut range: Range<u64>) {
        while let Some((start, end)) = self.ranges.range(..=range.end).next_back() {
            let (start, end) = (*start, *end);
            if end < range.start {
                break;
            }
            self.ranges.remove(&start);
            range = start.min(range.start)..end.max(range.end);
        }
        self.ranges.insert(range.start, range.end);
    }

    /// The range is no longer there; returns how many bytes of it were.
    pub(crate) fn remove(&mut self, range: &Range<u64>) -> u64 {
        let mut freed = 0;
        while let Some((start, end)) = self.ranges.range(..range.end).next_back() {
            let (start, end) = (*start, *end);
            if end <= range.start {
                break;
            }
            self.ranges.remove(&start);
            freed += end.min(range.end) - start.max(range.start);
            if end > range.end {
                self.ranges.insert(range.end, end);
            }
            if start < range.start {
                self.ranges.insert(start, range.start);
            }
        }
        freed
    }

    /// All bytes that are there.
    pub(crate) fn bytes(&self) -> u64 {
        self.ranges.iter().map(|(start, end)| end - start).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::Extents;

    #[test]
    fn ranges_grow_together_and_are_cut_apart() {
        let mut extents = Extents::default();
        extents.insert(10..20);
        extents.insert(30..40);
        assert_eq!(extents.missing(&(0..50)), 30);
        assert_eq!(extents.missing(&(12..18)), 0);
        extents.insert(20..30);
        assert_eq!(extents.ranges.len(), 1);
        assert_eq!(extents.bytes(), 30);
        assert_eq!(extents.remove(&(15..35)), 20);
        assert_eq!(extents.bytes(), 10);
        assert_eq!(extents.missing(&(10..40)), 20);
        extents.insert(0..100);
        assert_eq!((extents.ranges.len(), extents.bytes()), (1, 100));
    }
}
