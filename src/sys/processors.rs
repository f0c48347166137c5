//! How many processors this process may use. It decides nothing.

use std::sync::OnceLock;

/// Processors that this process may use, at least one. Asked once: the answer takes a dozen calls where
/// control groups have a say in it.
#[must_use]
pub fn cores() -> usize {
    static CORES: OnceLock<usize> = OnceLock::new();
    *CORES.get_or_init(|| std::thread::available_parallelism().map_or(1, usize::from))
}
