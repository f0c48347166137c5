//! A limit of so much per second, shared by all workers and changeable at any time: who takes waits
//! until what it takes is due. It knows nothing of what is taken.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::LOOK_UP;

/// What may be saved up while nobody takes, in seconds of the rate: enough that a worker which wakes
/// up late loses nothing, too little to be seen as a burst.
const BURST_SECONDS: f64 = 0.05;

/// A token bucket that paces by position: takers queue up on one line, and the line is due at the
/// rate. A large taking waits for all of itself, so that neither bursts nor starving come from it.
#[derive(Debug, Default)]
pub struct Bucket {
    active: AtomicBool,
    /// Somebody has said whether there is a limit.
    chosen: AtomicBool,
    line: Mutex<Line>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Line {
    /// Units per second; `None` means no limit.
    rate: Option<f64>,
    /// How far the line was due at `at`.
    due: f64,
    at: Option<Instant>,
    /// How far takers have lined up.
    taken: f64,
}

impl Line {
    fn advance(&mut self) {
        let now = Instant::now();
        if let (Some(rate), Some(at)) = (self.rate, self.at) {
            // What was given back has been waited for, and is not lost.
            let most = self.due.max(self.taken + rate * BURST_SECONDS);
            self.due += rate * now.duration_since(at).as_secs_f64();
            self.due = self.due.min(most);
        }
        self.at = Some(now);
    }
}

impl Bucket {
    /// Sets the limit in units per second, for those who wait already too; `None` takes it away.
    pub fn set(&self, rate: Option<f64>) {
        let mut line = self.lock();
        self.chosen.store(true, Relaxed);
        line.advance();
        if line.rate.is_none() {
            // What went by without a limit is not owed.
            line.due = line.taken;
        }
        line.rate = rate.filter(|rate| *rate > 0.0);
        self.active.store(line.rate.is_some(), Relaxed);
        self.changed.notify_all();
    }

    /// The limit in units per second, if there is one.
    #[must_use]
    pub fn rate(&self) -> Option<f64> {
        if self.is_active() { self.lock().rate } else { None }
    }

    /// Whether somebody has set a limit, or taken it away.
    pub(crate) fn is_chosen(&self) -> bool {
        self.chosen.load(Relaxed)
    }

    /// Whether there is a limit.
    #[must_use]
    pub fn is_active(&self) -> bool {
        self.active.load(Relaxed)
    }

    /// Takes so many units, as soon as they are due or it is `over`. Returns how long that took.
    pub(crate) fn take(&self, units: u64, over: impl Fn() -> bool) -> Duration {
        let began = Instant::now();
        let mut line = self.lock();
        line.advance();
        #[allow(clippy::cast_precision_loss)] // exact below 2^53 units
        let mine = line.taken + units as f64;
        line.taken = mine;
        while let Some(rate) = line.rate
            && line.due < mine
            && !over()
        {
            let missing = Duration::try_from_secs_f64((mine - line.due) / rate);
            let nap = missing.unwrap_or(LOOK_UP).min(LOOK_UP).max(Duration::from_micros(50));
            line = self.changed.wait_timeout(line, nap).unwrap_or_else(PoisonError::into_inner).0;
            line.advance();
        }
        drop(line);
        began.elapsed()
    }

    /// Leaves to others what was taken and not used.
    pub(crate) fn give_back(&self, units: u64) {
        if units > 0 && self.is_active() {
            let mut line = self.lock();
            #[allow(clippy::cast_precision_loss)] // exact below 2^53 units
            let units = units as f64;
            line.taken -= units;
            self.changed.notify_all();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Line> {
        self.line.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_given_back_is_there_for_the_next() {
        let bucket = Bucket::default();
        bucket.set(Some(10.0));
        let waited = bucket.take(3, || false);
        assert!(waited >= Duration::from_millis(290), "{waited:?}");
        bucket.give_back(3);
        let waited = bucket.take(3, || false);
        assert!(waited < Duration::from_millis(200), "{waited:?}");
        let waited = bucket.take(3, || false);
        assert!(waited >= Duration::from_millis(200), "{waited:?}: more than was given back");
    }
}
