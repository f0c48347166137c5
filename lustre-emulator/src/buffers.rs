//! Buffers of reads, kept for the next: making and clearing a MiB for each would cost more than copying it.

use std::sync::{Mutex, PoisonError};

/// How many are kept.
const KEPT: usize = 64;

/// Those that nobody uses.
#[derive(Default)]
pub(crate) struct Buffers {
    free: Mutex<Vec<Vec<u8>>>,
}

impl Buffers {
    /// One of at least so many bytes, with anything in it.
    pub(crate) fn take(&self, size: usize) -> Vec<u8> {
        let kept = self.free.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut buffer = kept.unwrap_or_default();
        if buffer.len() < size {
            buffer.resize(size, 0);
        }
        buffer
    }

    /// One that is no longer used.
    pub(crate) fn give_back(&self, buffer: Vec<u8>) {
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        if free.len() < KEPT {
            free.push(buffer);
        }
    }
}
