//! What a copy is not the same in as its source: the comparison of the fidelity tests, in one cell.

use std::collections::BTreeMap;
use std::path::Path;

use crate::support::{Compare, diff_trees};

/// The word for an exact copy.
pub const NOTHING: &str = "nothing";

/// Counts of entries by the attribute that differs.
pub fn between(source: &Path, copy: &Path) -> String {
    if !copy.exists() {
        return "everything".to_owned();
    }
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for difference in diff_trees(source, copy, Compare::default()) {
        *counts.entry(difference.what).or_default() += 1;
    }
    if counts.is_empty() {
        return NOTHING.to_owned();
    }
    let words: Vec<String> =
        counts.iter().map(|(what, count)| format!("{what} of {count}")).collect();
    words.join(", ")
}
