//! The request to stop a running copy, shared by whoever asks and whoever obeys. It stops nothing
//! itself.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use crate::exit::Outcome;

const SIGINT: usize = libc::SIGINT.unsigned_abs() as usize; // a small number

/// Asks a running copy to stop. Shared with a signal handler, so it is one atomic number.
#[derive(Debug, Default, Clone)]
pub struct Cancel(Arc<AtomicUsize>);

impl Cancel {
    /// Stops the copy as the given signal would (SIGINT = 2, SIGTERM = 15).
    pub fn raise(&self, signal: i32) {
        self.0.store(usize::try_from(signal).unwrap_or(usize::MAX), Relaxed);
    }

    /// The number of the signal that stops the copy, 0 while there is none: for a handler, which can
    /// store a number and do little else.
    #[must_use]
    pub fn word(&self) -> &Arc<AtomicUsize> {
        &self.0
    }

    /// How the copy must end, when it was asked to stop.
    #[must_use]
    pub fn outcome(&self) -> Option<Outcome> {
        match self.0.load(Relaxed) {
            0 => None,
            SIGINT => Some(Outcome::Interrupted),
            _ => Some(Outcome::Terminated),
        }
    }
}
