//! What a copy is not the same in as its source: the comparison of the fidelity tests, in one cell.

use std::collections::BTreeMap;
use std::path::Path;

use crate::support::Compare;
use crate::support::compare::{Snapshot, diff_snapshots};

/// The word for an exact copy.
pub const NOTHING: &str = "nothing";

/// Counts of entries by the attribute that differs. The source is read once for all copies.
pub fn between(source: &Snapshot, copy: &Path) -> String {
    if !copy.exists() {
        return "everything".to_owned();
    }
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for difference in diff_snapshots(source, &Snapshot::of(copy), Compare::default()) {
        *counts.entry(difference.what).or_default() += 1;
    }
    if counts.is_empty() {
        return NOTHING.to_owned();
    }
    let words: Vec<String> =
        counts.iter().map(|(what, count)| format!("{what} of {count}")).collect();
    words.join(", ")
}
