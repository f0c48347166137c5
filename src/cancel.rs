//! The request to stop a running copy, shared by whoever asks and whoever obeys. It stops nothing
//! itself.

use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering::Relaxed};

use crate::exit::Outcome;

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
            libc::SIGINT => Some(Outcome::Interrupted),
            _ => Some(Outcome::Terminated),
        }
    }
}
