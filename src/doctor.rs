//! `longshore doctor`: what this machine and these filesystems offer, found by trying, and what to
//! do about what costs speed or fidelity. It changes no setting and leaves no file behind.

pub mod advice;
pub mod filesystem;
pub mod kernel;
pub mod limits;
mod text;

use std::path::PathBuf;

use serde::Serialize;

use crate::error::Refusal;

use advice::Advice;
use filesystem::FilesystemFacts;
use kernel::KernelFacts;
use limits::LimitFacts;

/// Version of the JSON's layout; raised when a key changes its meaning.
pub const DIAGNOSIS_VERSION: u32 = 1;

/// Everything that was found. The JSON of `--json` is this value (`docs/doctor-json.md`).
#[derive(Debug, Clone, Serialize)]
pub struct Diagnosis {
    /// [`DIAGNOSIS_VERSION`].
    pub version: u32,
    /// The kernel and what it lets this process do.
    pub kernel: KernelFacts,
    /// Limits of this process.
    pub limits: LimitFacts,
    /// One entry for each path, in the given order.
    pub filesystems: Vec<FilesystemFacts>,
    /// One sentence for each thing that costs speed or fidelity.
    pub advice: Vec<Advice>,
}

impl Diagnosis {
    /// Examines the machine and the filesystem of each path.
    ///
    /// # Errors
    /// A [`Refusal`] for a path that does not exist or cannot be looked at. Anything else that does
    /// not work is a finding.
    pub fn new(paths: &[PathBuf]) -> Result<Self, Refusal> {
        let filesystems = paths
            .iter()
            .map(|path| FilesystemFacts::examine(path))
            .collect::<Result<Vec<_>, _>>()?;
        let kernel = KernelFacts::examine();
        let limits = LimitFacts::examine();
        let advice = advice::all(&kernel, &limits, &filesystems);
        Ok(Self { version: DIAGNOSIS_VERSION, kernel, limits, filesystems, advice })
    }

    /// The findings for a terminal.
    #[must_use]
    pub fn text(&self, colour: bool) -> String {
        text::text(self, colour)
    }
}

/// Whether something is offered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// It was tried and works.
    Yes,
    /// It was tried and does not work.
    No,
    /// It could not be tried.
    Untested,
}

/// One thing that was tried.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Offer {
    /// What came of it.
    pub verdict: Verdict,
    /// The words for people: how, or why not. May change between versions.
    pub detail: String,
}

impl Offer {
    pub(crate) fn yes(detail: impl Into<String>) -> Self {
        Self { verdict: Verdict::Yes, detail: detail.into() }
    }

    pub(crate) fn no(detail: impl Into<String>) -> Self {
        Self { verdict: Verdict::No, detail: detail.into() }
    }

    pub(crate) fn untested(detail: impl Into<String>) -> Self {
        Self { verdict: Verdict::Untested, detail: format!("not tested: {}", detail.into()) }
    }
}

#[cfg(test)]
mod tests;
