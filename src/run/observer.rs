//! What a run tells while it goes: states, copies, remarks. Displays implement it; the run does not
//! know whether anybody looks.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use serde::Serialize;

use super::State;
use crate::directive::resolve::Direction;
use crate::error::show;
use crate::progress::Progress;
use crate::report::{Report, path_or_base64};

/// Is told what a run does. Copies of one state run side by side, so calls come from several
/// threads.
pub trait Observer: Sync {
    /// The run enters a state.
    fn state(&self, state: State);
    /// A copy begins; its counters are live until it is done.
    fn copy_started(&self, copy: &CopyLabel, progress: &Arc<Progress>);
    /// A copy ended, well or not.
    fn copy_done(&self, copy: &CopyLabel, report: &Report);
    /// Whether somebody wants to see how much is left, so that sources are counted ahead.
    fn wants_totals(&self) -> bool {
        false
    }
    /// Something that a person should read.
    fn message(&self, text: &str);
}

/// Which copy of a run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CopyLabel {
    /// The directive's line in the script.
    pub line: usize,
    /// The directive's index, from 0.
    pub index: usize,
    /// The allocation, when the storage has one for each compute.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allocation: Option<u32>,
    /// `copy_in` or `copy_out`.
    pub direction: Direction,
    /// The source; a trailing slash means its contents.
    #[serde(serialize_with = "path_or_base64")]
    pub source: PathBuf,
    /// The full path that the source (or its contents) gets.
    #[serde(serialize_with = "path_or_base64")]
    pub destination: PathBuf,
}

impl fmt::Display for CopyLabel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (command, source) = (self.direction.command(), show(&self.source));
        write!(f, "line {} {command} {source} -> {}", self.line, show(&self.destination))
    }
}
