//! The states of a run, named as on the cluster. It says nothing about what is done in them.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Where a run is. `Job` and `Done` are not states of the cluster's workflow: there, the batch
/// system runs the job between PreRun and PostRun, and the object is deleted at the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[allow(missing_docs)] // named as in the workflow object
pub enum State {
    Proposal,
    Setup,
    DataIn,
    PreRun,
    Job,
    PostRun,
    DataOut,
    Teardown,
    Done,
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}
