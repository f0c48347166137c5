//! A bound of how many may be inside a lane at once. Who is inside while there is no bound is not
//! counted, so that a bound takes hold as those leave.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Condvar, Mutex, PoisonError};

use super::LOOK_UP;

#[derive(Debug, Default)]
pub(crate) struct Gate {
    /// 0 means no bound.
    limit: AtomicUsize,
    inside: Mutex<usize>,
    bell: Condvar,
}

impl Gate {
    pub(crate) fn limit(&self) -> Option<usize> {
        Some(self.limit.load(Relaxed)).filter(|limit| *limit > 0)
    }

    pub(crate) fn set(&self, limit: Option<usize>) {
        self.limit.store(limit.map_or(0, |limit| limit.max(1)), Relaxed);
        self.bell.notify_all();
    }

    /// Waits for room, unless it is `over`. True when room was taken: call `leave` then.
    pub(crate) fn enter(&self, over: impl Fn() -> bool) -> bool {
        let mut inside = self.inside.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            match self.limit() {
                None => return false,
                Some(limit) if *inside < limit || over() => break,
                Some(_) => {}
            }
            inside =
                self.bell.wait_timeout(inside, LOOK_UP).unwrap_or_else(PoisonError::into_inner).0;
        }
        *inside += 1;
        true
    }

    pub(crate) fn leave(&self) {
        *self.inside.lock().unwrap_or_else(PoisonError::into_inner) -= 1;
        self.bell.notify_one();
    }
}
