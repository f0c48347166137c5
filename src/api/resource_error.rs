//! The error that a status carries, as the data workflow services define it. It makes no errors.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Open;

/// How bad an error is to the object that carries it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Severity {
    /// It may go away by itself.
    Minor,
    /// It may go away when somebody acts.
    Major,
    /// It will not go away.
    Fatal,
}

/// Who has to act on an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum ErrorType {
    /// The administrators.
    Internal,
    /// The user, whose request cannot be fulfilled.
    User,
    /// The workload manager.
    #[serde(rename = "WLM")]
    WorkloadManager,
}

/// What went wrong, for users, for administrators and for programs.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ResourceError {
    /// For the user, if it is the user's business.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user_message: Option<String>,
    /// For administrators.
    pub debug_message: String,
    /// Who has to act.
    #[serde(rename = "type")]
    pub error_type: Open<ErrorType>,
    /// How bad it is.
    pub severity: Open<Severity>,
}
