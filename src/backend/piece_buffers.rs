//! Buffers for pieces of striped files, a bounded number for the whole copy. It moves nothing.

use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, PoisonError};

use crate::sys::buffer::Buffer;

/// All buffers of one copy.
#[derive(Debug)]
pub(crate) struct PieceBuffers {
    piece_bytes: usize,
    pool: Mutex<Pool>,
}

#[derive(Debug)]
struct Pool {
    idle: Vec<Buffer>,
    /// How many more may be made.
    left: usize,
}

/// One buffer, which goes back when it is dropped.
#[derive(Debug)]
pub(crate) struct PieceBuffer {
    buffer: Option<Buffer>,
    home: Arc<PieceBuffers>,
}

impl PieceBuffers {
    /// At most `most_bytes` in buffers of `piece_bytes`. None is made before it is needed.
    pub(crate) fn new(piece_bytes: usize, most_bytes: usize) -> Self {
        let left = most_bytes / piece_bytes;
        Self { piece_bytes, pool: Mutex::new(Pool { idle: Vec::new(), left }) }
    }

    /// Length of each buffer.
    pub(crate) fn piece_bytes(&self) -> usize {
        self.piece_bytes
    }

    /// A buffer, unless all are in use or no memory is to be had.
    pub(crate) fn take(self: &Arc<Self>) -> Option<PieceBuffer> {
        let mut pool = self.pool.lock().unwrap_or_else(PoisonError::into_inner);
        let buffer = match pool.idle.pop() {
            Some(buffer) => buffer,
            None if pool.left > 0 => {
                let buffer = Buffer::new(self.piece_bytes).ok()?;
                pool.left -= 1;
                buffer
            }
            None => return None,
        };
        Some(PieceBuffer { buffer: Some(buffer), home: Arc::clone(self) })
    }
}

impl Deref for PieceBuffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.buffer.as_deref().unwrap_or_default()
    }
}

impl DerefMut for PieceBuffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        self.buffer.as_deref_mut().unwrap_or_default()
    }
}

impl Drop for PieceBuffer {
    fn drop(&mut self) {
        if let Some(buffer) = self.buffer.take() {
            self.home.pool.lock().unwrap_or_else(PoisonError::into_inner).idle.push(buffer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_buffers_are_made_than_were_allowed_and_they_come_back() {
        let buffers = Arc::new(PieceBuffers::new(1 << 16, 3 << 16));
        let mut taken: Vec<_> = std::iter::from_fn(|| buffers.take()).collect();
        assert_eq!(taken.len(), 3);
        assert!(taken.iter().all(|buffer| buffer.len() == 1 << 16));
        taken.pop();
        assert!(buffers.take().is_some() && buffers.take().is_some(), "one buffer, twice");
    }
}
