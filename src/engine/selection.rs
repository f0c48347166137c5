//! `--files-from`: the listed items instead of the whole tree.

/// The listed paths, grouped so that each directory is opened once.
#[derive(Debug, Default)]
pub struct Selection {}
