//! Observes the workers of a copy for the tuner, obeys it, and keeps the trace of both for the report.
//! What to do is the tuner's decision.

use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use nix::time::{ClockId, clock_gettime};

use super::job::Job;
use crate::lanes::Lane;
use crate::lanes::tuner::{Observed, Setting, Tuner};
use crate::options::ConcurrencyChoice;
use crate::report::{Concurrency, TracePoint};

/// Bytes that weigh as much as one operation: about what costs as much on a fast machine.
const BYTES_PER_OPERATION: f64 = 65536.0;
/// Bytes of a large file that a worker moves at once where that takes longest, a request to a server: [`super::sizing`].
const BYTES_PER_ROUND: f64 = (1 << 20) as f64;
/// No item takes more operations than about this; what is read back for verification is counted by them only.
const PASSES_PER_ROUND: f64 = 16.0;
/// Points of the trace; when there are more, every other is dropped and the interval doubles.
const TRACE_MAX: usize = 500;

/// Totals at one look.
#[derive(Debug, Clone, Copy)]
struct Totals {
    at: Instant,
    paused: Duration,
    bytes: u64,
    items: u64,
    cpu: Duration,
    waited: u64,
    /// Workers' own time, in seconds: how long each has been there.
    present: f64,
    lanes: [(u64, u64); Lane::ALL.len()],
}

/// The tuner's eyes and hands.
#[derive(Debug)]
pub(crate) struct Observer<'o> {
    job: &'o Job<'o>,
    started: Instant,
    tuner: Option<Tuner>,
    last: Totals,
    trace: Vec<TracePoint>,
    /// Looks that make one point of the trace.
    stride: usize,
    /// What was seen since the last point.
    since: Since,
}

#[derive(Debug, Clone, Copy, Default)]
struct Since {
    looks: usize,
    seconds: f64,
    bytes: u64,
    items: u64,
}

impl<'o> Observer<'o> {
    pub(crate) fn new(job: &'o Job<'o>) -> Self {
        let sizing = job.sizing;
        let adaptive = job.options().concurrency == ConcurrencyChoice::Adaptive;
        let least = sizing.starters.min(2);
        let tuner = (adaptive && sizing.threads > least)
            .then(|| Tuner::new(sizing.starters, least, sizing.threads));
        Self {
            job,
            started: Instant::now(),
            tuner,
            last: totals(job),
            trace: Vec::new(),
            stride: 1,
            since: Since::default(),
        }
    }

    /// Looks at what was done since the last time, and sets what the tuner wants.
    pub(crate) fn look(&mut self) {
        let lanes = &self.job.control.lanes;
        let now = totals(self.job);
        let last = std::mem::replace(&mut self.last, now);
        let seconds = (now.at - last.at).as_secs_f64();
        let paused = lanes.is_paused() || now.paused != last.paused;
        self.note(&now, &last, seconds);
        let Some(tuner) = &mut self.tuner else { return };
        tuner.set_cap(lanes.worker_cap());
        if paused || lanes.bandwidth.is_active() || lanes.operations.is_active() {
            // What a limit holds back says nothing about the filesystems.
            tuner.disturb();
        } else {
            tuner.look(&observed(&now, &last, seconds));
        }
        let Setting { workers, bounds } = tuner.setting();
        lanes.want(workers);
        for lane in Lane::ALL {
            if lanes.bound_of(lane) != bounds[lane as usize] {
                lanes.bound(lane, bounds[lane as usize]);
            }
        }
    }

    /// Adds to the trace.
    fn note(&mut self, now: &Totals, last: &Totals, seconds: f64) {
        let since = &mut self.since;
        since.looks += 1;
        since.seconds += seconds;
        since.bytes += now.bytes.saturating_sub(last.bytes); // some may have been given back
        since.items += now.items - last.items;
        if since.looks < self.stride || since.seconds <= 0.0 {
            return;
        }
        let lanes = &self.job.control.lanes;
        #[allow(clippy::cast_precision_loss)] // rates
        self.trace.push(TracePoint {
            seconds: (now.at - self.started).as_secs_f64(),
            workers: lanes.workers(),
            lanes: bounds(self.job),
            bytes_per_second: since.bytes as f64 / since.seconds,
            items_per_second: since.items as f64 / since.seconds,
        });
        self.since = Since::default();
        if self.trace.len() >= TRACE_MAX {
            let mut keep = false;
            self.trace.retain(|_| {
                keep = !keep;
                keep
            });
            self.stride *= 2;
        }
    }

    /// What it came to.
    pub(crate) fn concurrency(self) -> Concurrency {
        Concurrency {
            workers: self.job.control.lanes.workers(),
            peak: 0,
            lanes: bounds(self.job),
            steps: self.tuner.as_ref().map_or(0, Tuner::steps),
            trace: self.trace,
        }
    }
}

/// The lanes that are bounded now.
fn bounds(job: &Job<'_>) -> std::collections::BTreeMap<&'static str, usize> {
    let bound = |lane: Lane| Some((lane.word(), job.control.lanes.bound_of(lane)?));
    Lane::ALL.into_iter().filter_map(bound).collect()
}

/// Adds up what all workers have counted.
fn totals(job: &Job<'_>) -> Totals {
    let lanes = &job.control.lanes;
    let at = Instant::now();
    let mut totals = Totals {
        at,
        paused: lanes.paused_for(),
        bytes: 0,
        items: 0,
        cpu: clock_gettime(ClockId::CLOCK_PROCESS_CPUTIME_ID)
            .map_or(Duration::ZERO, Duration::from),
        waited: 0,
        present: 0.0,
        lanes: [(0, 0); Lane::ALL.len()],
    };
    for seat in lanes.seats() {
        totals.items += seat.items();
        // Not those that are done: a chunk of a large file is done after many pieces.
        totals.bytes += seat.bytes();
        totals.present += seat.present().as_secs_f64();
        for (lane, cells) in totals.lanes.iter_mut().zip(&seat.cells) {
            lane.0 += cells.passes.load(Relaxed);
            lane.1 += cells.inside.load(Relaxed);
            totals.waited += cells.waited.load(Relaxed);
        }
        totals.waited = totals.waited.saturating_sub(seat.waited_for_rings());
    }
    totals
}

/// The difference between two looks.
fn observed(now: &Totals, last: &Totals, seconds: f64) -> Observed {
    #[allow(clippy::cast_precision_loss)] // differences over fractions of a second
    let difference = |now: u64, last: u64| now.saturating_sub(last) as f64;
    const NANOS: f64 = 1e9;
    let mut lanes = [(0.0, 0.0); Lane::ALL.len()];
    for ((lane, now), last) in lanes.iter_mut().zip(now.lanes).zip(last.lanes) {
        *lane = (difference(now.0, last.0), difference(now.1, last.1) / NANOS);
    }
    let passes: f64 = lanes.iter().map(|lane| lane.0).sum();
    let cores = crate::sys::processors::cores();
    #[allow(clippy::cast_precision_loss)] // a small number
    let room = seconds * cores as f64;
    let share = |part: f64, whole: f64| if whole > 0.0 { (part / whole).min(1.0) } else { 0.0 };
    Observed {
        seconds,
        work: passes + difference(now.bytes, last.bytes) / BYTES_PER_OPERATION,
        rounds: (difference(now.items, last.items)
            + difference(now.bytes, last.bytes) / BYTES_PER_ROUND)
            .max(passes / PASSES_PER_ROUND),
        cpu: share(now.cpu.saturating_sub(last.cpu).as_secs_f64(), room),
        waiting: share(difference(now.waited, last.waited) / NANOS, now.present - last.present),
        lanes,
    }
}
