//! `Workflow`: what a job asked of its storage, and how far each driver is with it. It drives nothing.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::definition::{Column, Definition, Origin};
use super::resource::custom_resource;
use super::{Open, schema};

custom_resource! {
    /// The storage side of a job, from its proposal to its teardown.
    Workflow = Definition {
        origin: Origin::Dws,
        group: "dataworkflowservices.github.io",
        kind: "Workflow",
        plural: "workflows",
        short_names: &[],
        versions: &["v1alpha6", "v1alpha7"],
        status_subresource: false,
        columns: &[
            Column::new("STATE", "string", ".status.state"),
            Column::new("READY", "boolean", ".status.ready"),
            Column::new("STATUS", "string", ".status.status"),
            Column::new("JOBID", "string", ".spec.jobID"),
            Column::AGE,
            Column::wide("DESIREDSTATE", "string", ".spec.desiredState"),
            Column::wide("DESIREDSTATECHANGE", "date", ".status.desiredStateChange"),
            Column::wide("ELAPSEDTIMELASTSTATE", "string", ".status.elapsedTimeLastState"),
            Column::wide("UID", "string", ".spec.userID"),
            Column::wide("GID", "string", ".spec.groupID"),
        ],
        required: &[],
    };
    /// What the workload manager asked.
    spec: WorkflowSpec,
    /// How far it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<WorkflowStatus>,
}

/// A state of a workflow, in the order in which it goes through them.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
pub enum WorkflowState {
    /// The directives are checked.
    Proposal,
    /// Storage is made.
    Setup,
    /// Data is copied in.
    DataIn,
    /// Storage is mounted for the job.
    PreRun,
    /// Storage is unmounted after the job.
    PostRun,
    /// Data is copied out.
    DataOut,
    /// Everything is taken away.
    Teardown,
}

/// How a workflow is in its state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum WorkflowCondition {
    /// The state is done.
    Completed,
    /// Some driver is not done.
    DriverWait,
    /// Something is wrong that may go away.
    TransientCondition,
    /// Something is wrong that will not go away.
    Error,
}

/// How a driver is with its part.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum DriverCondition {
    /// Not begun.
    Pending,
    /// Waiting for its turn.
    Queued,
    /// At it.
    Running,
    /// Done.
    Completed,
    /// Something is wrong that may go away.
    TransientCondition,
    /// Something is wrong that will not go away.
    Error,
    /// Waiting for another driver.
    DriverWait,
}

/// What the workload manager asked.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct WorkflowSpec {
    /// The state that it is to go to.
    pub desired_state: Open<WorkflowState>,
    /// The workload manager.
    #[serde(rename = "wlmID")]
    pub wlm_id: String,
    /// The job; a number or any other name.
    #[serde(rename = "jobID")]
    pub job_id: IntOrString,
    /// The user that the job belongs to.
    #[serde(rename = "userID")]
    pub user_id: u32,
    /// The group that the job belongs to.
    #[serde(rename = "groupID")]
    pub group_id: u32,
    /// The `#DW` lines of the job script.
    pub dw_directives: Vec<String>,
    /// Tear down without copying out.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-default" = false))]
    pub hurry: Option<bool>,
    /// Call the state done whatever the drivers say.
    #[schemars(extend("x-default" = false))]
    pub force_ready: bool,
}

impl Default for WorkflowSpec {
    fn default() -> Self {
        Self {
            desired_state: Open::default(),
            wlm_id: String::new(),
            job_id: IntOrString::String(String::new()),
            user_id: 0,
            group_id: 0,
            dw_directives: Vec::new(),
            hurry: None,
            force_ready: false,
        }
    }
}

/// How far a workflow is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct WorkflowStatus {
    /// The state that it is in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state: Option<Open<WorkflowState>>,
    /// Whether that state is done.
    pub ready: bool,
    /// How it is in that state.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<Open<WorkflowCondition>>,
    /// The same in words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// What the job's environment is to have.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub env: Option<BTreeMap<String, String>>,
    /// The drivers, one entry for each state and directive.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub drivers: Option<Vec<Driver>>,
    /// The objects with what each directive needs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub directive_breakdowns: Option<Vec<ObjectReference>>,
    /// The object with the compute nodes of the job.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-kubernetes-map-type" = "atomic"))]
    pub computes: Option<ObjectReference>,
    /// When another state was asked for last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub desired_state_change: Option<MicroTime>,
    /// When a state was done last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ready_change: Option<MicroTime>,
    /// How long the last state took, as Go writes durations.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub elapsed_time_last_state: Option<String>,
    /// What the job needs beside storage.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub requires: Option<Vec<String>>,
    /// The secret with the job's token for copy offload.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workflow_token: Option<TokenSecret>,
}

/// How far a driver is with one directive in one state.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Driver {
    /// The driver.
    #[serde(rename = "driverID")]
    pub driver_id: String,
    /// The driver's name for this work.
    #[serde(rename = "taskID")]
    pub task_id: String,
    /// The number of the directive.
    #[schemars(with = "schema::Int")]
    pub dwd_index: i64,
    /// The state.
    pub watch_state: Open<WorkflowState>,
    /// When the driver was heard of last.
    #[serde(rename = "lastHB")]
    pub last_heartbeat: i64,
    /// Whether it is done.
    pub completed: bool,
    /// How it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<Open<DriverCondition>>,
    /// The same in words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// What went wrong.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// When it was done.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub complete_time: Option<MicroTime>,
}

/// Where a token is kept.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct TokenSecret {
    /// The name of the secret.
    pub secret_name: String,
    /// The namespace of the secret.
    pub secret_namespace: String,
}
