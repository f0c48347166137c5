//! `DataMovementShard`: a part of a data movement, small enough to be done again, which one worker
//! claims and carries out. It claims and copies nothing.
//!
//! The manager makes the shards of a movement in the movement's namespace, owned by it. A worker claims
//! one by writing its name into the status with the resource version that it has read, so only one
//! can. Each worker renews one Lease; a mover ends before the Lease of its worker runs out, so a shard
//! whose worker's Lease ran out may be put back: its status is cleared but for the attempts, where the
//! source goes, and when that was. Done twice, a shard gives the same bytes.
//!
//! A shard that is to be cancelled before anybody has claimed it is not claimed any more, and its status
//! stays as it is. One that is deleted ends its mover too, but there is no status left then that says
//! when it had ended: cancel it first, and delete it when it is finished.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::data_movement::Outcome;
use super::definition::{Column, Definition, Origin};
use super::resource::custom_resource;
use super::{Open, ResourceError};

/// The label on a shard with the name of its movement.
pub const MOVEMENT_LABEL: &str = "longshore.dev/movement";

/// The label on a shard with the name of the only node that can do it. A shard with `spec.node` must
/// have it, since it is what workers watch by.
pub const NODE_LABEL: &str = "longshore.dev/node";

/// The label on a shard with the namespace of the manager that has made it: another one, for other nodes of
/// the same cluster, leaves it alone.
pub const MANAGER_LABEL: &str = "longshore.dev/manager";

/// The annotation of a worker's Lease that says which filesystems its node has, as JSON:
/// `{"/lus/home": {"mounted": true, "type": "lustre"}, "/lus/work": {"mounted": false}}`. A worker that
/// mounts them itself adds `"pending": true` while it mounts or unmounts one, and a `"reason"` when it cannot.
pub const MOUNTS_ANNOTATION: &str = "longshore.dev/mounts";

/// The name of the Lease of a node's worker, in the worker's own namespace.
#[must_use]
pub fn worker_lease(node: &str) -> String {
    format!("longshore-worker-{node}")
}

custom_resource! {
    /// A part of a data movement, for one worker.
    DataMovementShard = Definition {
        origin: Origin::Longshore,
        group: "longshore.dev",
        kind: "DataMovementShard",
        plural: "datamovementshards",
        short_names: &["dmshard"],
        versions: &["v1alpha1"],
        status_subresource: true,
        columns: &[
            Column::new("MOVEMENT", "string", ".spec.movement.name"),
            Column::new("STATE", "string", ".status.state"),
            Column::new("OUTCOME", "string", ".status.outcome"),
            Column::new("WORKER", "string", ".status.worker"),
            Column::new("BYTES", "integer", ".status.counters.bytes"),
            Column::AGE,
            Column::wide("NODE", "string", ".spec.node"),
            Column::wide("ATTEMPTS", "integer", ".status.attempts"),
            Column::wide("FILES", "integer", ".status.counters.files"),
            Column::wide("SOURCE", "string", ".spec.source"),
            Column::wide("DESTINATION", "string", ".spec.destination"),
        ],
        required: &["spec"],
    };
    /// The work.
    spec: DataMovementShardSpec,
    /// How far it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<DataMovementShardStatus>,
}

/// The work of a shard. Who it is done for, from where and to where stay as they were created: nobody
/// who may only change a shard can have files of others copied.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct DataMovementShardSpec {
    /// The movement that it is a part of, in the same namespace.
    #[schemars(extend("x-kubernetes-validations" = [{"rule": "self == oldSelf", "message": "the movement of a shard cannot change"}]))]
    pub movement: MovementReference,
    /// The only node that can do it, for storage that is on one node; any node when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub node: Option<String>,
    /// The user that it is done as.
    #[schemars(with = "i64", range(min = 0, max = 4_294_967_294_i64), extend("x-kubernetes-validations" = [{"rule": "self == oldSelf", "message": "the user of a shard cannot change"}]))]
    pub user_id: u32,
    /// The group that it is done as.
    #[schemars(with = "i64", range(min = 0, max = 4_294_967_294_i64), extend("x-kubernetes-validations" = [{"rule": "self == oldSelf", "message": "the group of a shard cannot change"}]))]
    pub group_id: u32,
    /// The root of the copy's source: an absolute path. Whether it ends in a slash matters, as it does
    /// to `longshore copy`.
    #[schemars(length(min = 1, max = 4096), extend("x-kubernetes-validations" = [{"rule": "self == oldSelf", "message": "the source of a shard cannot change"}]))]
    pub source: String,
    /// The root of the copy's destination: an absolute path.
    #[schemars(length(min = 1, max = 4096), extend("x-kubernetes-validations" = [{"rule": "self == oldSelf", "message": "the destination of a shard cannot change"}]))]
    pub destination: String,
    /// The directories below the source that it is to copy. Without directories and ranges it is the
    /// whole source.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 10_000))]
    pub directories: Option<Vec<Directory>>,
    /// The parts of large files below the source that it is to copy.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 10_000))]
    pub ranges: Option<Vec<FileRange>>,
    /// Options of `longshore copy`, one word each, without the paths.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256))]
    pub options: Option<Vec<String>>,
    /// What is done at the destination before the copy. Without it the destination is taken as it is,
    /// by the rule of `longshore copy`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub preparation: Option<Preparation>,
    /// Whether the source goes inside the destination, where an attempt has decided that before this shard
    /// was made in the place of another one.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-kubernetes-validations" = [{"rule": "self == oldSelf", "message": "where the source of a shard goes cannot change"}]))]
    pub inside: Option<bool>,
    /// Whether only the preparation is done, and nothing is copied.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-default" = false))]
    pub dry_run: Option<bool>,
    /// Seconds between two reports of progress; 0 for none.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0), extend("x-default" = 5))]
    pub progress_interval_seconds: Option<i32>,
    /// Set to have it stopped.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-default" = false))]
    pub cancel: Option<bool>,
}

/// The movement that a shard is a part of.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct MovementReference {
    /// Its name.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// Its identity: a movement that was made anew under the same name has other shards.
    #[schemars(length(min = 1, max = 64))]
    pub uid: String,
}

/// What is done at the destination before a copy, as the job's user. A directory goes inside the
/// destination under its own name, or only its contents do when the source ends in a slash; a file
/// goes inside a destination that is a directory or ends in a slash.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Preparation {
    /// Whether the directory that the copy goes into is made when it is missing, with its parents.
    /// When it is not to be made, the index mount is left out too.
    pub create_destination_directory: bool,
    /// The source is one of several that are copied to one place: each gets a directory of its own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub index_mount: Option<IndexMount>,
}

/// A directory that keeps the copies from several allocations apart.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct IndexMount {
    /// What stands before the dash and the number in its name; the source's path has that name.
    #[schemars(length(min = 1, max = 253))]
    pub prefix: String,
}

/// A directory below the source.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Directory {
    /// The path from the source's root; empty for the root itself.
    #[schemars(length(max = 4096))]
    pub path: String,
    /// Whether what is in its subdirectories belongs to the shard too.
    pub recursive: bool,
}

/// A part of a file below the source.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct FileRange {
    /// The path from the source's root.
    #[schemars(length(min = 1, max = 4096))]
    pub path: String,
    /// The first byte.
    #[schemars(range(min = 0))]
    pub offset: i64,
    /// How many bytes.
    #[schemars(range(min = 1))]
    pub length: i64,
}

/// How far a shard is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum ShardState {
    /// A worker has claimed it, and its mover runs.
    Running,
    /// It is over; the outcome says how it went.
    Finished,
}

/// How far a shard is, and what came of it. Absent while nobody has claimed it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct DataMovementShardStatus {
    /// How far it is; absent when it is free to be claimed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state: Option<Open<ShardState>>,
    /// How it went, once it is finished.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outcome: Option<Open<Outcome>>,
    /// The worker's pod that has it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub worker: Option<String>,
    /// The Lease that the worker renews as long as it lives: its namespace, a slash, its name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lease: Option<String>,
    /// How often it was claimed.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub attempts: Option<i32>,
    /// What the worker runs, in words.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32_768))]
    pub command: Option<String>,
    /// The destination that the preparation came to: what was asked for, with the index mount in it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 8192))]
    pub destination: Option<String>,
    /// Whether the source goes inside the destination: what the first attempt found there, which holds for
    /// those that follow. Absent where that does not depend on what is there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub inside: Option<bool>,
    /// When the mover started last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start_time: Option<MicroTime>,
    /// When it was over, or was put back.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub end_time: Option<MicroTime>,
    /// The exit code of the mover, as `longshore copy` defines them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// What was done, once it is finished. While it runs the worker's Lease says that
    /// ([`super::shard_progress`]).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub counters: Option<Counters>,
    /// How much of it was done, once it is finished; absent when nobody knew how much there was. It is
    /// 100 only when everything was copied.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 100))]
    pub percent: Option<i32>,
    /// In words: what failed, the summary of what was copied, or while it runs what is wrong.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32_768))]
    pub message: Option<String>,
    /// What went wrong.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<ResourceError>,
}

/// What a shard has done.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Counters {
    /// Bytes of content that are at the destination.
    #[schemars(range(min = 0))]
    pub bytes: i64,
    /// Bytes of content that there are to copy, as far as known.
    #[schemars(range(min = 0))]
    pub total_bytes: i64,
    /// Regular files that are done.
    #[schemars(range(min = 0))]
    pub files: i64,
    /// Regular files that there are to copy, as far as known.
    #[schemars(range(min = 0))]
    pub total_files: i64,
    /// Directories that are done.
    #[schemars(range(min = 0))]
    pub directories: i64,
    /// Links and special files that are done.
    #[schemars(range(min = 0))]
    pub links: i64,
    /// Of the bytes, those that an earlier attempt had copied.
    #[schemars(range(min = 0))]
    pub resumed_bytes: i64,
    /// Of the files, those that an earlier attempt had copied.
    #[schemars(range(min = 0))]
    pub resumed_files: i64,
    /// Things that were not copied, or not completely.
    #[schemars(range(min = 0))]
    pub failed: i64,
}
