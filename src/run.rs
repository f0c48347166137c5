//! A job script with `#DW` lines on one machine: the cluster's states from Proposal to Teardown,
//! with directories in place of rabbits. It never prints; an [`Observer`] is told.
//!
//! ```text
//! proposal ─► setup ─► data in ─► (pre run) job body (post run) ─► data out ─► teardown
//!    │          │         └── stage: legs ─► naming ─► engine ──────┘            │
//!  checks    storage, persistent                                    storage, persistent
//! ```
//!
//! [`journal`] remembers durably where a run is, so that it can be killed at any instant.

mod access;
pub mod body;
pub mod describe;
pub mod environment;
pub mod journal;
pub mod leg;
pub mod machine;
pub mod naming;
pub mod observer;
pub mod persistent;
pub mod proposal;
pub mod report;
pub mod resume;
pub mod signals;
pub mod space;
pub mod stage;
pub mod state;
pub mod storage;

use std::ffi::OsString;
use std::io;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};

pub use machine::{Copier, engine_copier, run};
pub use observer::{CopyLabel, Observer};
pub use report::RunReport;
pub use signals::Signals;
pub use state::State;

use crate::directive::Fault;
use crate::error::show;

/// One `longshore run`.
#[derive(Debug, Clone)]
pub struct Request {
    /// The job script.
    pub script: PathBuf,
    /// Its arguments.
    pub args: Vec<OsString>,
    /// Where storage and journals lie.
    pub storage: PathBuf,
    /// Allocations of each xfs and gfs2 storage.
    pub allocations: NonZeroU32,
    /// Files with LustreFileSystem objects.
    pub filesystems: Vec<PathBuf>,
    /// What an earlier run of the same script means.
    pub start: Start,
}

/// What to do about an earlier run of the same script with the same arguments.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// Refuse to start when it is unfinished.
    New,
    /// Discard the job storage of an unfinished one, and start from the beginning.
    Fresh,
    /// Go on where it stopped.
    Resume(StartedJob),
}

/// What a resumed run does about a job body that was started before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StartedJob {
    /// Refuse when nobody knows how it ended.
    Keep,
    /// Start it again.
    Rerun,
    /// Go on as if it had failed.
    Skip,
}

/// Why a run did not start, or could not go on.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The script asks for what cannot be done; nothing was written.
    #[error("{}: {} in the script, nothing was done:\n  {}", show(script), count(faults.len()), listed(faults))]
    Script {
        /// The script.
        script: PathBuf,
        /// All that is wrong with it.
        faults: Vec<Fault>,
    },
    /// The request cannot be met; nothing was written.
    #[error("{0}")]
    Refused(String),
    /// The system refused something that the run needs.
    #[error("{}: failed to {action}", show(path))]
    System {
        /// Where.
        path: PathBuf,
        /// "failed to {action}".
        action: &'static str,
        /// What the system said.
        source: io::Error,
    },
}

impl RunError {
    /// The process exit code: 2 for a refusal, 3 for what stops a run and can be resumed.
    #[must_use]
    pub fn code(&self) -> u8 {
        use crate::exit::Outcome;
        match self {
            Self::Script { .. } | Self::Refused(_) => Outcome::Refused.code(),
            Self::System { .. } => Outcome::Fatal.code(),
        }
    }

    /// Turns a system error into this error.
    pub(crate) fn system(path: &Path, action: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::System { path: path.to_owned(), action, source }
    }
}

fn count(faults: usize) -> String {
    if faults == 1 { "one problem".into() } else { format!("{faults} problems") }
}

fn listed(faults: &[Fault]) -> String {
    let lines: Vec<_> = faults.iter().map(ToString::to_string).collect();
    lines.join("\n  ")
}
