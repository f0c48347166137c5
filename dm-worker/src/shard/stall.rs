//! Notices that nothing moves any more. It ends nothing.

use std::time::Duration;

use crate::wire::Progress;

/// Looks at the progress of one mover.
#[derive(Debug)]
pub(super) struct Stall {
    limit: Duration,
    last: Progress,
    since: Duration,
}

impl Stall {
    /// Nothing may stand still for longer than `limit`; times are those of one clock that goes on.
    pub(super) fn new(limit: Duration, now: Duration) -> Self {
        Self { limit, last: Progress::default(), since: now }
    }

    /// Something else than a counter moved.
    pub(super) fn moved(&mut self, now: Duration) {
        self.since = now;
    }

    /// The counters as they are now.
    pub(super) fn look(&mut self, progress: &Progress, now: Duration) {
        if self.last != *progress {
            self.last = progress.clone();
            self.since = now;
        }
    }

    /// For how long nothing has moved, when that is too long.
    pub(super) fn stalled(&self, now: Duration) -> Option<Duration> {
        let still = now.saturating_sub(self.since);
        (still >= self.limit).then_some(still)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_stands_still_for_long_is_stalled() {
        let second = Duration::from_secs;
        let mut stall = Stall::new(second(10), second(100));
        assert_eq!(stall.stalled(second(109)), None);
        let moving = Progress { bytes_done: 1, ..Progress::default() };
        stall.look(&moving, second(109));
        stall.look(&moving, second(118));
        assert_eq!(stall.stalled(second(118)), None);
        assert_eq!(stall.stalled(second(119)), Some(second(10)));
        stall.moved(second(119));
        assert_eq!(stall.stalled(second(120)), None);
    }
}
