//! The filesystems that workers are to mount themselves: a list that the manager writes into one
//! ConfigMap and that workers watch. What may be mounted where is decided before it is on the list.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The name of the ConfigMap, in the namespace of the workers.
pub const NAME: &str = "longshore-mounts";

/// The key in it that has the list, as JSON.
pub const KEY: &str = "mounts.json";

/// The annotation of a worker's Lease with the version of the ConfigMap that the worker acts on. What
/// [`super::data_movement_shard::MOUNTS_ANNOTATION`] says beside it was so after that version was seen.
pub const SEEN_ANNOTATION: &str = "longshore.dev/mounts-seen";

/// What is to be mounted, by mount point.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct MountList(pub BTreeMap<String, WantedMount>);

/// One filesystem.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WantedMount {
    /// What is mounted, as mount(8) has it: `MGSNIDS:/NAME`.
    pub source: String,
}
