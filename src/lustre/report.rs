//! What the report of a copy says about Lustre: the filesystems, which layouts were chosen and why, and
//! released files. Only values.

use std::collections::BTreeMap;

use serde::Serialize;

use super::probe::Client;

/// The report's key `lustre`; absent where neither side is Lustre.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct LustreReport {
    /// The source's filesystem; absent when it is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<Client>,
    /// The destination's filesystem; absent when it is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub destination: Option<Client>,
    /// Layouts of the destination's files and directories; absent when it is not Lustre.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub layouts: Option<Layouts>,
    /// Released files that the copy brought back from the archive (`--hsm restore`).
    pub released_restored: u64,
}

/// How new files and directories came by their layouts.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Layouts {
    /// `inherit`, `preserve`, `auto`, or the words of the layout that was asked for.
    pub policy: String,
    /// Files for which a layout was set before anything was written.
    pub set: u64,
    /// Files for which a layout was chosen and none was set, because their directory's default does.
    /// With `inherit` nothing is chosen, and nothing counted.
    pub inherited: u64,
    /// Directories that were given a default of their own.
    pub directories: u64,
    /// Why: word to count of files. A file can have several.
    pub reasons: BTreeMap<&'static str, u64>,
}
