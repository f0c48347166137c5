//! Sets of byte ranges of a file: what is done of it. Pure.

use std::ops::Range;

/// Sorts ranges and joins those that touch or overlap; empty ones fall out.
#[must_use]
pub(crate) fn merge(mut ranges: Vec<Range<u64>>) -> Vec<Range<u64>> {
    ranges.retain(|range| range.start < range.end);
    ranges.sort_unstable_by_key(|range| range.start);
    let mut merged: Vec<Range<u64>> = Vec::new();
    for range in ranges {
        match merged.last_mut() {
            Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
            _ => merged.push(range),
        }
    }
    merged
}

/// The whole blocks in merged ranges of a file of `size` bytes, whose last block may be short. What is
/// left over is copied again: a piece that is padded to whole blocks must not touch what is done.
#[must_use]
pub(crate) fn whole_blocks(ranges: &[Range<u64>], block: u64, size: u64) -> Vec<Range<u64>> {
    let inner = ranges.iter().map(|range| {
        let end = if range.end >= size { size } else { range.end / block * block };
        range.start.next_multiple_of(block)..end
    });
    inner.filter(|range| range.start < range.end).collect()
}

/// How many bytes they hold.
#[must_use]
pub(crate) fn bytes(ranges: &[Range<u64>]) -> u64 {
    ranges.iter().map(|range| range.end - range.start).sum()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn merged_ranges_hold_the_same_bytes_and_are_apart(
            ranges in proptest::collection::vec((0_u64..200, 0_u64..50), 0..20)
        ) {
            let ranges: Vec<_> = ranges.into_iter().map(|(start, length)| start..start + length).collect();
            let merged = merge(ranges.clone());
            for byte in 0..260 {
                let before = ranges.iter().any(|range| range.contains(&byte));
                prop_assert_eq!(before, merged.iter().any(|range| range.contains(&byte)));
            }
            prop_assert!(merged.windows(2).all(|pair| pair[0].end < pair[1].start));
            let whole = whole_blocks(&merged, 16, 250);
            for range in &whole {
                prop_assert!(range.start.is_multiple_of(16));
                prop_assert!(range.end.is_multiple_of(16) || range.end == 250);
                prop_assert!(merged.iter().any(|m| m.start <= range.start && range.end <= m.end));
            }
            prop_assert!(bytes(&whole) <= bytes(&merged));
        }
    }
}
