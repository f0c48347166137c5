//! `NnfStorage`: the storage of a job on the rabbits, which says on which nodes a copy can run. It is
//! read, never written; the parts that `NnfNodeStorage` shares are here too.

use k8s_openapi::api::core::v1::ObjectReference;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::definition::{Column, Definition, Origin};
use super::resource::custom_resource;
use super::{Open, ResourceError, schema};

custom_resource! {
    /// The storage of a job, over all nodes that it is on.
    NnfStorage = Definition {
        origin: Origin::NnfSos,
        group: "nnf.cray.hpe.com",
        kind: "NnfStorage",
        plural: "nnfstorages",
        short_names: &[],
        versions: &["v1alpha10", "v1alpha11"],
        status_subresource: true,
        columns: &[
            Column::new("READY", "string", ".status.ready"),
            Column::AGE,
            Column::new("ERROR", "string", ".status.error.severity"),
        ],
        required: &[],
    };
    /// What was asked.
    spec: NnfStorageSpec,
    /// What there is.
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<NnfStorageStatus>,
}

/// The kind of a filesystem that a job has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum FileSystemType {
    /// A block device.
    Raw,
    /// A logical volume.
    Lvm,
    /// ZFS.
    Zfs,
    /// XFS, on one node.
    Xfs,
    /// GFS2, on several nodes.
    Gfs2,
    /// Lustre.
    Lustre,
}

/// What a Lustre target is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum TargetType {
    /// Management.
    Mgt,
    /// Metadata.
    Mdt,
    /// Management and metadata.
    Mgtmdt,
    /// Objects: the content of files.
    Ost,
}

/// The filesystem beneath a Lustre target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum BackFs {
    /// Lustre's ext4.
    Ldiskfs,
    /// ZFS.
    Zfs,
}

/// How well storage is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Health {
    /// Nothing is wrong.
    Healthy,
    /// It works, but something is wrong.
    Degraded,
    /// It does not work.
    Faulted,
}

/// A variable in the commands that make storage.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct CommandVariable {
    /// Its name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Whether every allocation has a value of its own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub indexed: Option<bool>,
    /// The values, one for each allocation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub indexed_values: Option<Vec<String>>,
    /// The one value.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
}

/// The nodes that each part of a Lustre filesystem is on.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct LustreComponents {
    /// Metadata targets.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mdts: Option<Vec<String>>,
    /// Management targets.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mgts: Option<Vec<String>>,
    /// Management and metadata targets.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mgtmdts: Option<Vec<String>>,
    /// Object storage targets.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub osts: Option<Vec<String>>,
    /// All nodes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nnf_nodes: Option<Vec<String>>,
}

/// The storage that a job is to have.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct NnfStorageSpec {
    /// The kind of filesystem.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-default" = "raw"))]
    pub file_system_type: Option<Open<FileSystemType>>,
    /// The owner of the storage.
    #[serde(rename = "userID")]
    pub user_id: u32,
    /// The group of the storage.
    #[serde(rename = "groupID")]
    pub group_id: u32,
    /// The parts of the storage; Lustre has one for each kind of target.
    pub allocation_sets: Vec<AllocationSet>,
}

/// One part of a job's storage.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct AllocationSet {
    /// Its name.
    pub name: String,
    /// The size of each allocation, in bytes.
    pub capacity: i64,
    /// The nodes that it is on.
    pub nodes: Vec<AllocationNode>,
    /// Whether the nodes share one allocation.
    pub shared_allocation: bool,
    /// What the target is, on Lustre.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target_type: Option<Open<TargetType>>,
    /// What is beneath the target, on Lustre.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub back_fs: Option<Open<BackFs>>,
    /// The address of the management server, on Lustre.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mgs_address: Option<String>,
    /// The storage that the management server is taken from, on Lustre.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-kubernetes-map-type" = "atomic"))]
    pub persistent_mgs_reference: Option<ObjectReference>,
    /// Variables for the commands that make it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub command_variables: Option<Vec<CommandVariable>>,
}

/// A node with allocations.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct AllocationNode {
    /// The name of the node, which is also its namespace.
    pub name: String,
    /// How many allocations are on it.
    #[schemars(with = "schema::Int")]
    pub count: i64,
}

/// The storage that a job has.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct NnfStorageStatus {
    /// Each part of the storage.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allocation_sets: Option<Vec<AllocationSetStatus>>,
    /// The name of the Lustre filesystem.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 8))]
    pub file_system_name: Option<String>,
    /// How well it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub health: Option<Open<Health>>,
    /// Where its parts are, on Lustre.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lustre_components: Option<LustreComponents>,
    /// The object of its management target, on Lustre.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-kubernetes-map-type" = "atomic"))]
    pub lustre_mgt_reference: Option<ObjectReference>,
    /// The address of its management server, on Lustre.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mgs_address: Option<String>,
    /// Whether it is there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ready: Option<bool>,
    /// What went wrong.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<ResourceError>,
}

/// How one part of a job's storage is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct AllocationSetStatus {
    /// How many allocations there are.
    #[schemars(with = "schema::Int")]
    pub allocation_count: i64,
    /// How well it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub health: Option<Open<Health>>,
    /// Whether it is there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ready: Option<bool>,
}
