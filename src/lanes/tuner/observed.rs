//! What the tuner is told of the workers, and the sums that it makes of it. It decides nothing.

use crate::lanes::Lane;

/// Fewer workers are kept when the throughput stays above this: what they cost others is the gain.
const SHRINK_LOSS: f64 = 0.98;
/// And only if operations then take at most so much of the time that they took before: where each takes
/// as long whoever else waits, a worker less is a loss, whatever a window says.
const RELIEVED: f64 = 0.9;
/// When many go at once, operations get as much shorter as there are fewer workers; so much more is noise.
const RELIEVED_WITHIN: f64 = 1.25;

/// What was observed since the last look.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Observed {
    /// How long that was, in seconds.
    pub(crate) seconds: f64,
    /// How much was done, in operations or what weighs as much.
    pub(crate) work: f64,
    /// How often a worker has begun another item, or another request of a large file: about how often it went round.
    pub(crate) rounds: f64,
    /// Share of the processors that this process used.
    pub(crate) cpu: f64,
    /// Share of the workers' time in which they waited for a filesystem.
    pub(crate) waiting: f64,
    /// By lane, operations and the seconds that they took together.
    pub(crate) lanes: [(f64, f64); Lane::ALL.len()],
}

impl Observed {
    pub(super) fn add(&mut self, more: &Self) {
        let seconds = self.seconds + more.seconds;
        if seconds <= 0.0 {
            return;
        }
        let mean = |a: f64, b: f64| (a * self.seconds + b * more.seconds) / seconds;
        self.cpu = mean(self.cpu, more.cpu);
        self.waiting = mean(self.waiting, more.waiting);
        self.seconds = seconds;
        self.work += more.work;
        self.rounds += more.rounds;
        for (sum, more) in self.lanes.iter_mut().zip(more.lanes) {
            *sum = (sum.0 + more.0, sum.1 + more.1);
        }
    }

    pub(super) fn rate(&self) -> f64 {
        if self.seconds > 0.0 { self.work / self.seconds } else { 0.0 }
    }

    /// Seconds per operation of a lane.
    pub(super) fn latency(&self, lane: Lane) -> f64 {
        let (passes, seconds) = self.lanes[lane as usize];
        if passes > 0.0 { seconds / passes } else { 0.0 }
    }

    /// Whether this `share` of the workers did as much as all of them, and their operations took less time.
    pub(super) fn is_enough(&self, more: &Self, share: f64) -> bool {
        let relieved = RELIEVED.min(RELIEVED_WITHIN * share);
        self.rate() >= SHRINK_LOSS * more.rate()
            && self.latency_all() <= relieved * more.latency_all()
    }

    /// Seconds per operation of any lane.
    pub(super) fn latency_all(&self) -> f64 {
        let (passes, seconds) =
            self.lanes.iter().fold((0.0, 0.0), |sum, lane| (sum.0 + lane.0, sum.1 + lane.1));
        if passes > 0.0 { seconds / passes } else { 0.0 }
    }

    /// Operations of a lane per second.
    pub(super) fn per_second(&self, lane: Lane) -> f64 {
        if self.seconds > 0.0 { self.lanes[lane as usize].0 / self.seconds } else { 0.0 }
    }

    /// How many workers were in any lane on average.
    pub(super) fn inside_all(&self) -> f64 {
        Lane::ALL.into_iter().map(|lane| self.inside(lane)).sum()
    }

    /// How many workers were in a lane on average.
    pub(super) fn inside(&self, lane: Lane) -> f64 {
        if self.seconds > 0.0 { self.lanes[lane as usize].1 / self.seconds } else { 0.0 }
    }
}
