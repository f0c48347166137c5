//! The counters of one worker: written by its thread alone, read by anybody. And how passes are timed
//! without paying for a clock at each.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use nix::time::{ClockId, clock_gettime};

use super::Lane;

/// An operation that is shorter did not wait for anything worth knowing.
const FAST: Duration = Duration::from_micros(20);
/// Of fast operations one in so many is timed, on average: at random, because what is slow may come
/// at regular distances (the read that waits for the next readahead, the first completion of a batch).
const FAST_PERIOD: u32 = 16;
/// Of slow operations one in so many is asked for the processor's time as well, which costs a
/// system call.
const CPU_PERIOD: u32 = 4;

/// What limits hold a worker back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Limited {
    Bandwidth,
    Operations,
}

/// Counters of one lane on one worker.
#[derive(Debug, Default)]
pub(crate) struct Cells {
    /// Operations ended.
    pub(crate) passes: AtomicU64,
    /// Time inside, in nanoseconds.
    pub(crate) inside: AtomicU64,
    /// Of which not on a processor; and the time spent waiting for room.
    pub(crate) waited: AtomicU64,
}

/// One worker's counters. Aligned so that two workers never write to one cache line.
#[derive(Debug)]
#[repr(align(128))]
pub(crate) struct Seat {
    pub(crate) cells: [Cells; Lane::ALL.len()],
    limited: [AtomicU64; 2],
    items: AtomicU64,
    /// Bytes of content that were moved, but for the last piece.
    bytes: AtomicU64,
    /// Bytes of the piece that is being moved. Counted when the next one is taken: otherwise the pieces that
    /// further workers begin with would look as if they had been moved at once.
    taken: AtomicU64,
    /// Nanoseconds waited for rings, which have many operations in flight at once.
    queued: AtomicU64,
    since: Instant,
    /// Nanoseconds that the worker was there, once left.
    stayed: AtomicU64,
    thread: i32,
    /// Processor time and time spent waiting for a processor, in nanoseconds, once left.
    last: [AtomicU64; 2],
    left: AtomicBool,
}

/// Adds to a counter that only this thread writes.
fn add(cell: &AtomicU64, amount: u64) {
    cell.store(cell.load(Relaxed) + amount, Relaxed);
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

impl Seat {
    pub(crate) fn new() -> Self {
        Self {
            cells: Default::default(),
            limited: Default::default(),
            items: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            taken: AtomicU64::new(0),
            queued: AtomicU64::new(0),
            since: Instant::now(),
            stayed: AtomicU64::new(0),
            thread: nix::unistd::gettid().as_raw(),
            last: Default::default(),
            left: AtomicBool::new(false),
        }
    }

    /// The sums of workers that have gone.
    pub(crate) fn of_all(left: &[Arc<Self>]) -> Self {
        let all = Self::new();
        all.left.store(true, Relaxed);
        for one in left {
            for (sum, cells) in all.cells.iter().zip(&one.cells) {
                add(&sum.passes, cells.passes.load(Relaxed));
                add(&sum.inside, cells.inside.load(Relaxed));
                add(&sum.waited, cells.waited.load(Relaxed));
            }
            let pairs = [
                (&all.limited[0], &one.limited[0]),
                (&all.limited[1], &one.limited[1]),
                (&all.items, &one.items),
                (&all.bytes, &one.bytes),
                (&all.taken, &one.taken),
                (&all.queued, &one.queued),
                (&all.stayed, &one.stayed),
                (&all.last[0], &one.last[0]),
                (&all.last[1], &one.last[1]),
            ];
            for (sum, part) in pairs {
                add(sum, part.load(Relaxed));
            }
        }
        all
    }

    pub(crate) fn held(&self, lane: Lane, time: Duration) {
        add(&self.cells[lane as usize].waited, nanos(time));
    }

    pub(crate) fn limited(&self, by: Limited, time: Duration) {
        add(&self.limited[by as usize], nanos(time));
    }

    /// Nanoseconds that a limit held this worker back.
    pub(crate) fn limited_by(&self, by: Limited) -> u64 {
        self.limited[by as usize].load(Relaxed)
    }

    pub(crate) fn waits_for_ring(&self, time: Duration) {
        add(&self.queued, nanos(time));
    }

    /// Nanoseconds waited for rings.
    pub(crate) fn waited_for_rings(&self) -> u64 {
        self.queued.load(Relaxed)
    }

    pub(crate) fn takes_bytes(&self, bytes: u64) {
        add(&self.bytes, self.taken.load(Relaxed));
        self.taken.store(bytes, Relaxed);
    }

    pub(crate) fn gives_back(&self, bytes: u64) {
        self.taken.store(self.taken.load(Relaxed).saturating_sub(bytes), Relaxed);
    }

    /// Bytes of content that were moved, without the piece that is being moved.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes.load(Relaxed)
    }

    /// The same with it.
    #[cfg(test)]
    pub(crate) fn bytes_taken(&self) -> u64 {
        self.bytes() + self.taken.load(Relaxed)
    }

    pub(crate) fn begins_item(&self) {
        add(&self.items, 1);
    }

    /// Items begun.
    pub(crate) fn items(&self) -> u64 {
        self.items.load(Relaxed)
    }

    /// How long the worker has been there.
    pub(crate) fn present(&self) -> Duration {
        if self.has_left() {
            Duration::from_nanos(self.stayed.load(Relaxed))
        } else {
            self.since.elapsed()
        }
    }

    /// Whether the worker is gone.
    pub(crate) fn has_left(&self) -> bool {
        self.left.load(Relaxed)
    }

    /// Called on the worker's own thread.
    pub(crate) fn leave(&self) {
        let [on, waiting] = processor_times("thread-self").unwrap_or([nanos(cpu_time()), 0]);
        self.last[0].store(on, Relaxed);
        self.last[1].store(waiting, Relaxed);
        self.stayed.store(nanos(self.since.elapsed()), Relaxed);
        self.left.store(true, Relaxed);
    }

    /// Nanoseconds on a processor, and nanoseconds ready to run without one.
    pub(crate) fn processor(&self) -> [u64; 2] {
        if !self.has_left()
            && let Some(times) = processor_times(&format!("self/task/{}", self.thread))
        {
            return times;
        }
        [self.last[0].load(Relaxed), self.last[1].load(Relaxed)]
    }
}

/// The first two numbers of a thread's `schedstat`. Absent in kernels without `CONFIG_SCHED_INFO`.
fn processor_times(thread: &str) -> Option<[u64; 2]> {
    let text = std::fs::read_to_string(format!("/proc/{thread}/schedstat")).ok()?;
    let mut numbers = text.split_ascii_whitespace().map_while(|number| number.parse().ok());
    Some([numbers.next()?, numbers.next()?])
}

/// Processor time of this thread; zero where the clock is not to be had, which then looks like
/// waiting.
fn cpu_time() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map_or(Duration::ZERO, Duration::from)
}

/// How an operation is to be timed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Timing {
    /// Now and then: there are very many of them.
    Sampled,
    /// Each, with the processor's time: it is long enough not to notice.
    Each,
    /// Each, and all of it is waiting.
    Wait,
}

/// The start of a timed operation.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Start {
    at: Instant,
    cpu: Option<Duration>,
    timing: Timing,
}

/// Decides which operations of one lane are timed on one worker, and estimates the rest.
#[derive(Debug, Default)]
pub(crate) struct Sampler {
    /// Operations to let go by untimed.
    left: u32,
    /// Operations that went by since the last timed one.
    skipped: u32,
    timed: u32,
    /// The last timed one was slow.
    slow: bool,
    /// End of the last timed one.
    last: Option<Instant>,
    /// Seconds of slow operations, and of them on the processor, of late.
    slow_seconds: f64,
    busy_seconds: f64,
    /// State of the random numbers.
    random: u32,
}

impl Sampler {
    pub(crate) fn begin(&mut self, timing: Timing) -> Option<Start> {
        if timing == Timing::Sampled && self.left > 0 {
            self.left -= 1;
            return None;
        }
        let cpu = match timing {
            Timing::Sampled => self.slow && self.timed.is_multiple_of(CPU_PERIOD),
            Timing::Each => true,
            Timing::Wait => false,
        };
        Some(Start { at: Instant::now(), cpu: cpu.then(cpu_time), timing })
    }

    /// A number below `2 * FAST_PERIOD`, from a linear congruential generator (Numerical Recipes).
    fn pause(&mut self) -> u32 {
        self.random = self.random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (self.random >> 16) % (2 * FAST_PERIOD)
    }

    /// Returns how long was waited, as far as this was timed.
    pub(crate) fn end(&mut self, start: Option<Start>, cells: &Cells) -> Duration {
        let Some(start) = start else {
            self.skipped += 1;
            return Duration::ZERO;
        };
        let now = Instant::now();
        let inside = now - start.at;
        let used = start.cpu.map(|before| cpu_time().saturating_sub(before).min(inside));
        let (passes, time, waited) = match start.timing {
            Timing::Wait => (1, inside, inside),
            Timing::Each => (1, inside, inside - used.unwrap_or_default()),
            Timing::Sampled => self.sampled(start.at, inside, used),
        };
        add(&cells.passes, passes);
        add(&cells.inside, nanos(time));
        add(&cells.waited, nanos(waited));
        if start.timing == Timing::Sampled {
            self.last = Some(now);
        }
        waited
    }

    /// What a timed operation says of itself and of those that went by: how many they are, how long
    /// they took, and how long of that they waited.
    fn sampled(
        &mut self,
        at: Instant,
        inside: Duration,
        used: Option<Duration>,
    ) -> (u64, Duration, Duration) {
        let slow = inside >= FAST;
        if slow && let Some(used) = used {
            // Long ones count for more, and old ones for less.
            self.slow_seconds = 0.9 * self.slow_seconds + inside.as_secs_f64();
            self.busy_seconds = 0.9 * self.busy_seconds + used.as_secs_f64();
        }
        // Those that went by are taken to have been like this one, but they were over before it.
        let before = self.last.map_or(Duration::ZERO, |last| at - last);
        let time = inside + (inside * self.skipped).min(before);
        let busy =
            if self.slow_seconds > 0.0 { self.busy_seconds / self.slow_seconds } else { 0.0 };
        let waited = if slow { time.mul_f64(1.0 - busy.min(1.0)) } else { Duration::ZERO };
        let passes = u64::from(self.skipped) + 1;
        self.timed = self.timed.wrapping_add(1);
        self.skipped = 0;
        self.left = if slow { 0 } else { self.pause() };
        self.slow = slow;
        (passes, time, waited)
    }
}
