//! What a run did, as a value: the JSON report and the summary are made from it. It never prints.

use serde::Serialize;

use super::{CopyLabel, State};
use crate::exit::Outcome;
use crate::report::Report;

/// Version of the JSON report's layout; raised when a key changes its meaning.
pub const RUN_REPORT_VERSION: u32 = 1;

/// What a run did.
#[derive(Debug, Clone, Serialize)]
pub struct RunReport {
    /// [`RUN_REPORT_VERSION`].
    pub version: u32,
    /// The run's identity; its storage is named after it.
    pub uid: String,
    /// The script.
    pub script: String,
    /// The state in which the run is now; `Done` when nothing is left to do.
    pub state: State,
    /// The process exit code.
    pub exit_code: u8,
    /// The exit code of the job body, when it has ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub job_exit_code: Option<u8>,
    /// What this process copied, in the order of the script.
    pub copies: Vec<CopyReport>,
    /// What a person has to know or do about the end.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
}

/// What one copy did.
#[derive(Debug, Clone, Serialize)]
pub struct CopyReport {
    /// Which copy.
    #[serde(flatten)]
    pub copy: CopyLabel,
    /// What happened.
    #[serde(flatten)]
    pub end: CopyEnd,
}

/// How one copy ended.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum CopyEnd {
    /// The engine ran; its report says how it went.
    Report(Box<Report>),
    /// It could not begin.
    Refused(String),
}

/// Failures of one copy that are worth a line each in the message; the report has more.
const FAILURES_SHOWN: usize = 3;

impl CopyReport {
    /// What went wrong, for people.
    #[must_use]
    pub fn explain(&self) -> String {
        let label = &self.copy;
        match &self.end {
            CopyEnd::Refused(problem) => format!("{label}: {problem}"),
            CopyEnd::Report(report) => {
                let mut text = format!("{label} ended with exit code {}", report.exit_code);
                if let Some(reason) = &report.stopped_by {
                    text.push_str(": ");
                    text.push_str(reason);
                }
                for failure in report.failures.iter().take(FAILURES_SHOWN) {
                    let path = crate::error::show(&failure.path);
                    text.push_str(&format!("\n  {path}: {}", failure.message));
                }
                let failed: u64 = report.errors.values().sum();
                let shown = u64::try_from(report.failures.len().min(FAILURES_SHOWN)).unwrap_or(0);
                if failed > shown {
                    text.push_str(&format!("\n  and {} more", failed - shown));
                }
                text
            }
        }
    }

    /// How the copy counts for the run. A copy that could not begin is one failed item of the
    /// run, whose other copies are exact.
    #[must_use]
    pub fn outcome(&self) -> Outcome {
        match &self.end {
            CopyEnd::Report(report) if report.outcome != Outcome::Refused => report.outcome,
            _ => Outcome::Partial,
        }
    }
}
