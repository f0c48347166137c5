//! `NnfDataMovementManager`: how the workers are to be run, and whether they all are. It runs none.

use k8s_openapi::api::apps::v1::DaemonSetUpdateStrategy;
use k8s_openapi::api::core::v1::PodSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::definition::{Column, Definition, Origin};
use super::resource::custom_resource;
use super::schema;

/// The namespace of the manager object, the workers and the movements between Lustre filesystems.
pub const NAMESPACE: &str = "nnf-dm-system";

/// The name of the one manager object, which other controllers look up.
pub const NAME: &str = "nnf-dm-manager-controller-manager";

custom_resource! {
    /// The workers of a cluster: how they are to be run, and whether they all are.
    NnfDataMovementManager = Definition {
        origin: Origin::NnfSos,
        group: "nnf.cray.hpe.com",
        kind: "NnfDataMovementManager",
        plural: "nnfdatamovementmanagers",
        short_names: &[],
        versions: &["v1alpha10", "v1alpha11"],
        status_subresource: true,
        columns: &[Column::new("READY", "boolean", ".status.ready"), Column::AGE],
        required: &[],
    };
    /// How the workers are to be run.
    spec: NnfDataMovementManagerSpec,
    /// Whether they are.
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<NnfDataMovementManagerStatus>,
}

/// How the workers are to be run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct NnfDataMovementManagerSpec {
    /// Which nodes have a worker; also the labels of the workers' pods.
    #[schemars(extend("x-kubernetes-map-type" = "atomic"))]
    pub selector: LabelSelector,
    /// The pods of the workers. It is nnf-sos that says which fields it may have: a part of those of a
    /// pod, with the same names.
    #[schemars(with = "schema::AnyObject")]
    pub pod_spec: PodSpec,
    /// How fast the workers are replaced when something about them changes.
    pub update_strategy: DaemonSetUpdateStrategy,
    /// The directory of the node below which the storage of jobs is mounted.
    pub host_path: String,
    /// Where the workers see that directory.
    pub mount_path: String,
}

/// Whether the workers run as they should.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct NnfDataMovementManagerStatus {
    /// Whether every worker is rolled out and ready.
    #[schemars(extend("x-default" = false))]
    pub ready: bool,
}
