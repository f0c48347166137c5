//! Requests to stop a run: they cancel copies at once and are passed on to the job body. It
//! installs no handler; the command line does.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use crate::engine::Cancel;

/// Signals that the process got. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct Signals {
    cancel: Cancel,
    /// Not yet passed on to the job body. Bounded by how often a person presses a key.
    waiting: Arc<Mutex<VecDeque<i32>>>,
}

impl Signals {
    /// Notes a signal.
    pub fn raise(&self, signal: i32) {
        self.cancel.raise(signal);
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).push_back(signal);
    }

    /// The handle that stops copies.
    #[must_use]
    pub fn cancel(&self) -> &Cancel {
        &self.cancel
    }

    /// The next signal for the job body.
    pub(crate) fn take(&self) -> Option<i32> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).pop_front()
    }
}
