//! `LustreFileSystem`: a global Lustre filesystem, its mount point and the namespaces that have volumes
//! for it. It mounts nothing.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::definition::{Column, Definition, Origin};
use super::resource::custom_resource;

custom_resource! {
    /// A global Lustre filesystem.
    LustreFileSystem = Definition {
        origin: Origin::LustreFsOperator,
        group: "lus.cray.hpe.com",
        kind: "LustreFileSystem",
        plural: "lustrefilesystems",
        short_names: &[],
        versions: &["v1alpha1", "v1beta1"],
        status_subresource: true,
        columns: &[
            Column::new("FSNAME", "string", ".spec.name"),
            Column::new("MGSNIDS", "string", ".spec.mgsNids"),
            Column::AGE,
            Column::wide("MountRoot", "string", ".spec.mountRoot"),
            Column::wide("StorageClass", "string", ".spec.storageClassName"),
        ],
        required: &[],
    };
    /// The filesystem.
    spec: LustreFileSystemSpec,
    /// Its volumes.
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<LustreFileSystemStatus>,
}

/// A filesystem and who has volumes for it. All but the namespaces stay as they were created.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct LustreFileSystemSpec {
    /// The name that the filesystem has for its servers.
    #[schemars(length(min = 1, max = 8))]
    pub name: String,
    /// The addresses of its management servers, with commas or colons between them.
    pub mgs_nids: String,
    /// The absolute path at which users and workers see it.
    pub mount_root: String,
    /// What links its volumes and their claims; no such class needs to exist.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-default" = "nnf-lustre-fs"))]
    pub storage_class_name: Option<String>,
    /// The namespaces that are to have volumes for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespaces: Option<BTreeMap<String, NamespaceModes>>,
}

/// The volumes that a namespace is to have.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct NamespaceModes {
    /// Access modes, such as `ReadWriteMany`: one volume for each.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub modes: Option<Vec<String>>,
}

/// The volumes that there are.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct LustreFileSystemStatus {
    /// The namespaces that have some.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespaces: Option<BTreeMap<String, NamespaceStatus>>,
}

/// The volumes of a namespace.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct NamespaceStatus {
    /// By access mode.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub modes: Option<BTreeMap<String, VolumeStatus>>,
}

/// A volume and its claim.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct VolumeStatus {
    /// `Pending`, or `Ready` once both objects are written; they need not be bound then.
    pub state: String,
    /// The PersistentVolume.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-kubernetes-map-type" = "atomic"))]
    pub persistent_volume_ref: Option<LocalReference>,
    /// The PersistentVolumeClaim.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-kubernetes-map-type" = "atomic"))]
    pub persistent_volume_claim_ref: Option<LocalReference>,
}

/// An object by its name alone.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct LocalReference {
    /// The name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}
