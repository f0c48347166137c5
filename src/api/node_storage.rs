//! `NnfNodeStorage`: the part of a job's storage that is on one rabbit. It is read, never written.

use k8s_openapi::api::core::v1::ObjectReference;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::definition::{Column, Definition, Origin};
use super::resource::custom_resource;
use super::storage::{
    BackFs, CommandVariable, FileSystemType, Health, LustreComponents, TargetType,
};
use super::{Open, ResourceError, schema};

custom_resource! {
    /// The part of a job's storage that is on one node.
    NnfNodeStorage = Definition {
        origin: Origin::NnfSos,
        group: "nnf.cray.hpe.com",
        kind: "NnfNodeStorage",
        plural: "nnfnodestorages",
        short_names: &[],
        versions: &["v1alpha10", "v1alpha11"],
        status_subresource: true,
        columns: &[
            Column::new("READY", "string", ".status.ready"),
            Column::new("ERROR", "string", ".status.error.severity"),
            Column::AGE,
        ],
        required: &[],
    };
    /// What was asked.
    spec: NnfNodeStorageSpec,
    /// What there is.
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<NnfNodeStorageStatus>,
}

/// What is to be on a node.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct NnfNodeStorageSpec {
    /// The object with its block devices.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-kubernetes-map-type" = "atomic"))]
    pub block_reference: Option<ObjectReference>,
    /// The size of each allocation, in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub capacity: Option<i64>,
    /// Variables for the commands that make it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub command_variables: Option<Vec<CommandVariable>>,
    /// How many allocations are on the node.
    #[schemars(with = "schema::Int", range(min = 0))]
    pub count: i64,
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
    /// What Lustre needs beside.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lustre_storage: Option<LustreStorage>,
    /// Whether the node shares one allocation with others.
    pub shared_allocation: bool,
}

/// A node's part of a Lustre filesystem.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct LustreStorage {
    /// What is beneath the target.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub back_fs: Option<Open<BackFs>>,
    /// The name of the filesystem.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 8))]
    pub file_system_name: Option<String>,
    /// Where its parts are.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lustre_components: Option<LustreComponents>,
    /// The address of its management server.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mgs_address: Option<String>,
    /// The number of the first target on the node.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<schema::Int>", range(min = 0))]
    pub start_index: Option<i64>,
    /// What the targets are.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target_type: Option<Open<TargetType>>,
}

/// What is on a node.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct NnfNodeStorageStatus {
    /// Each allocation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allocations: Option<Vec<AllocationStatus>>,
    /// How well it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub health: Option<Open<Health>>,
    /// Whether it is there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ready: Option<bool>,
    /// What went wrong.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<ResourceError>,
}

/// How one allocation is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct AllocationStatus {
    /// How well it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub health: Option<Open<Health>>,
    /// Its logical volume.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub logical_volume: Option<String>,
    /// Whether it is there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ready: Option<bool>,
    /// The volume group that the logical volume is in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub volume_group: Option<String>,
}
