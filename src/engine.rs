//! The engine: takes a [`Plan`](crate::plan::Plan) and does it on its own threads, without async.
//! It never prints and never exits; it returns a [`Report`](crate::report::Report).

pub mod failures;
pub mod filter;
pub mod selection;

use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering::Relaxed};

use crate::exit::Outcome;
use crate::plan::Plan;
use crate::progress::Progress;
use crate::report::Report;

/// Asks a running copy to stop. Shared with a signal handler, so it is one atomic number.
#[derive(Debug, Default, Clone)]
pub struct Cancel(Arc<AtomicI32>);

impl Cancel {
    /// Stops the copy as the given signal would (SIGINT = 2, SIGTERM = 15).
    pub fn raise(&self, signal: i32) {
        self.0.store(signal, Relaxed);
    }

    /// How the copy must end, when it was asked to stop.
    #[must_use]
    pub fn outcome(&self) -> Option<Outcome> {
        match self.0.load(Relaxed) {
            0 => None,
            2 => Some(Outcome::Interrupted),
            _ => Some(Outcome::Terminated),
        }
    }
}

/// The caller's handles on a running copy.
#[derive(Debug, Default, Clone)]
pub struct Control {
    /// Live counters.
    pub progress: Arc<Progress>,
    /// The way to stop it.
    pub cancel: Cancel,
    /// Where every failed source path is written, NUL-terminated, as it fails.
    pub failed_list: Option<Arc<failures::FailedList>>,
}

/// Does the plan and says what was done. Failures of items are in the report.
#[must_use]
pub fn run(plan: &Plan, control: &Control) -> Report {
    let _ = (plan, control);
    unimplemented!("written next")
}
