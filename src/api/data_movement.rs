//! `NnfDataMovement`: one copy, as nnf-sos, Flux and the copy-offload server ask for it. It holds what
//! was asked and what came of it; the names of its labels and of its finalizer are here as well.

use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::definition::{Column, Definition, Origin};
use super::resource::custom_resource;
use super::{Open, ResourceError, schema};

/// The finalizer that keeps a movement, or a LustreFileSystem, until nothing of ours uses it any more.
pub const FINALIZER: &str = "dm.cray.hpe.com";

/// The label that says who asked: `copy_in`, `copy_out`, or the name of a compute node.
pub const INITIATOR_LABEL: &str = "dm.cray.hpe.com/initiator";

/// The label that marks the pods of the workers (`true`).
pub const WORKER_LABEL: &str = "dm.cray.hpe.com/worker";

/// The label that says in which state of its workflow the movement ends: `DataIn`, `DataOut` or `PostRun`.
pub const TEARDOWN_STATE_LABEL: &str = "nnf.cray.hpe.com/teardown_state";

/// The label with the number of the directive that the movement belongs to.
pub const DIRECTIVE_INDEX_LABEL: &str = "nnf.cray.hpe.com/directive_index";

/// The label with the job that the movement belongs to.
pub const JOB_ID_LABEL: &str = "nnf.cray.hpe.com/job_id";

custom_resource! {
    /// A copy from one place to another, and how it went.
    NnfDataMovement = Definition {
        origin: Origin::NnfSos,
        group: "nnf.cray.hpe.com",
        kind: "NnfDataMovement",
        plural: "nnfdatamovements",
        short_names: &[],
        versions: &["v1alpha10", "v1alpha11"],
        status_subresource: true,
        columns: &[
            Column::new("STATE", "string", ".status.state"),
            Column::new("STATUS", "string", ".status.status"),
            Column::new("ERROR", "string", ".status.error.severity"),
            Column::AGE,
        ],
        required: &[],
    };
    /// What was asked.
    spec: NnfDataMovementSpec,
    /// What came of it; absent until somebody picked it up.
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<NnfDataMovementStatus>,
}

/// What is to be copied, for whom and how.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct NnfDataMovementSpec {
    /// Where it is copied from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<Endpoint>,
    /// Where it is copied to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub destination: Option<Endpoint>,
    /// The user that the copy runs as; 0 when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user_id: Option<u32>,
    /// The group that the copy runs as; 0 when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group_id: Option<u32>,
    /// Set to have the copy stopped.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-default" = false))]
    pub cancel: Option<bool>,
    /// The NnfDataMovementProfile with the site's settings, in any namespace.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-kubernetes-map-type" = "atomic"))]
    pub profile_reference: Option<ObjectReference>,
    /// What this request wants otherwise than its profile.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user_config: Option<UserConfig>,
}

/// One end of a copy.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Endpoint {
    /// The absolute path, as the workers see it. Whether it ends in a slash matters.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// The storage that it is in: an NnfStorage, NnfNodeStorage or LustreFileSystem.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-kubernetes-map-type" = "atomic"))]
    pub storage_reference: Option<ObjectReference>,
}

/// What one request wants otherwise than its profile.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct UserConfig {
    /// Prepare everything, copy nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-default" = false))]
    pub dryrun: Option<bool>,
    /// Further options for mpirun.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mpirun_options: Option<String>,
    /// Further options for dcp.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dcp_options: Option<String>,
    /// Log the output of a success too. It cannot switch off what the profile switches on.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-default" = false))]
    pub log_stdout: Option<bool>,
    /// Keep the output of a success in the message. It cannot switch off what the profile switches on.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-default" = false))]
    pub store_stdout: Option<bool>,
    /// Processes on each host; 0 leaves the choice to mpirun, absent to the profile.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<schema::Int>")]
    pub slots: Option<i64>,
    /// The most processes on each host; 0 sets no limit, absent leaves it to the profile.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<schema::Int>")]
    pub max_slots: Option<i64>,
}

/// How far a movement is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum State {
    /// Picked up.
    Starting,
    /// Copying.
    Running,
    /// Over; the status says how it went.
    Finished,
}

/// How a movement went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Outcome {
    /// Everything was copied.
    Success,
    /// Something was not copied.
    Failed,
    /// The request could not be carried out, and nothing was copied.
    Invalid,
    /// It was stopped on request.
    Cancelled,
}

/// What came of a movement.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct NnfDataMovementStatus {
    /// How far it is; absent until it was picked up.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state: Option<Open<State>>,
    /// How it went, once it is finished.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<Open<Outcome>>,
    /// In words: what failed, or the output if it was to be kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// When it started last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start_time: Option<MicroTime>,
    /// When it was over.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub end_time: Option<MicroTime>,
    /// How often it was started again.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<schema::Int>")]
    pub restarts: Option<i64>,
    /// What is being run, and how far that is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub command_status: Option<CommandStatus>,
    /// What went wrong.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<ResourceError>,
}

/// How far the copy itself is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct CommandStatus {
    /// What is run, in words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub command: Option<String>,
    /// How much is copied, in percent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub progress: Option<i32>,
    /// The time from the start to the last news, as Go writes durations: `1m0.5s`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub elapsed_time: Option<String>,
    /// The last news, in words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_message: Option<String>,
    /// When the last news came.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_message_time: Option<MicroTime>,
    /// How long the copy took, in seconds with their fraction.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seconds: Option<String>,
    /// How many things were copied.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub items: Option<i32>,
    /// How many directories were copied.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub directories: Option<i32>,
    /// How many files were copied.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub files: Option<i32>,
    /// How many symbolic links were copied.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub links: Option<i32>,
    /// How much was copied, in words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data: Option<String>,
    /// How fast it was copied, in words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate: Option<String>,
}
