//! Lanes: every operation that may wait for a filesystem is passed through one of four, which measure
//! the waiting and can hold it back: by limits, by a pause, by a bound of how many are inside. What is
//! done in a lane is the caller's business.
//!
//! A pass costs a few nanoseconds where operations are fast: only one in sixteen is timed, counters
//! belong to one worker each, and limits, pause and bounds are one shared word that is nearly always
//! zero.

pub mod bottleneck;
mod gate;
pub mod limit;
pub(crate) mod seat;
pub(crate) mod tuner;

use std::cell::RefCell;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use crate::cancel::Cancel;
use crate::options::CopyOptions;
use gate::Gate;
use limit::Bucket;
use seat::{Sampler, Seat, Start, Timing};

/// What an operation waits for. The words are keys of the report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Lane {
    /// Opening, reading directories, attributes and links of the source.
    SourceMetadata,
    /// Reading content.
    SourceRead,
    /// Making, naming, attributing, closing and removing at the destination.
    DestinationCreate,
    /// Writing, allocating and flushing content.
    DestinationWrite,
}

impl Lane {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 4] =
        [Self::SourceMetadata, Self::SourceRead, Self::DestinationCreate, Self::DestinationWrite];

    /// Key of the report; stable.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::SourceMetadata => "source-metadata",
            Self::SourceRead => "source-read",
            Self::DestinationCreate => "destination-create",
            Self::DestinationWrite => "destination-write",
        }
    }
}

/// How long somebody who is held back sleeps at most before looking whether the copy was stopped.
const LOOK_UP: Duration = Duration::from_millis(20);

/// Largest piece of I/O under a bandwidth limit, as a share of a second: so that neither a burst nor
/// a pause of more than this long comes from one piece.
const PIECE_SECONDS: f64 = 0.05;
/// Pieces are not cut smaller than this, in bytes.
const PIECE_MIN_BYTES: u64 = 64 << 10;

/// Moving so many bytes takes so long that two looks at the clock do not matter.
const LONG_BYTES: usize = 64 << 10;

/// Bit of `brakes`: the copy is paused. The bits above it say which lanes are bounded.
const PAUSED: u32 = 1;

/// So many seats are kept before those of workers that have gone are summed up: twice as many as there are workers.
const SEATS_MAX: usize = 256;

/// The four lanes of one copy, with the limits, the pause and the number of workers that hold for it.
/// Shared by its workers and whoever steers it.
#[derive(Debug, Default)]
pub struct Lanes {
    cancel: OnceLock<Cancel>,
    stopped: AtomicBool,
    /// Nonzero when a pass has to look further.
    brakes: AtomicU32,
    pause: Mutex<Pause>,
    resumed: Condvar,
    /// Bytes of content per second.
    pub bandwidth: Bucket,
    /// Items begun per second: files, directories, links, special files, deletions.
    pub operations: Bucket,
    gates: [Gate; Lane::ALL.len()],
    seats: Mutex<Vec<Arc<Seat>>>,
    crew: Crew,
}

/// How many workers there are and may be.
#[derive(Debug, Default)]
struct Crew {
    /// Workers with a higher number go home.
    wanted: AtomicUsize,
    /// What the user allows.
    cap: AtomicUsize,
    /// What descriptors and memory allow.
    most: AtomicUsize,
}

#[derive(Debug, Default)]
struct Pause {
    since: Option<Instant>,
    /// Pauses that are over.
    total: Duration,
}

/// What this thread knows of its seat.
#[derive(Debug)]
struct Here {
    lanes: Arc<Lanes>,
    seat: Arc<Seat>,
    samplers: [Sampler; Lane::ALL.len()],
    inside: bool,
}

thread_local! {
    /// The seat of this thread. Passes are taken in the middle of system calls' wrappers, which know
    /// of no worker; and a seat belongs to one thread, as its counters do.
    static HERE: RefCell<Option<Here>> = const { RefCell::new(None) };
}

/// Keeps a thread's seat; leaves it when dropped.
#[derive(Debug)]
pub(crate) struct Sitting;

impl Drop for Sitting {
    fn drop(&mut self) {
        let here = HERE.try_with(|here| here.borrow_mut().take());
        if let Ok(Some(here)) = here {
            here.seat.leave();
        }
    }
}

impl Lanes {
    /// Gives this thread a seat: until the result is dropped its passes count, and obey.
    pub(crate) fn sit(self: &Arc<Self>) -> Sitting {
        let seat = Arc::new(Seat::new());
        let mut seats = lock(&self.seats);
        // In a long copy workers come and go without end; whoever has the seats of before goes on with those.
        if seats.len() >= SEATS_MAX {
            let (left, mut here) = seats.drain(..).partition::<Vec<_>, _>(|seat| seat.has_left());
            here.push(Arc::new(Seat::of_all(&left)));
            *seats = here;
        }
        seats.push(Arc::clone(&seat));
        drop(seats);
        let here =
            Here { lanes: Arc::clone(self), seat, samplers: Default::default(), inside: false };
        HERE.with(|place| *place.borrow_mut() = Some(here));
        Sitting
    }

    /// Sets the limits that a copy begins with, unless somebody has set others already, or taken them
    /// away: the control socket is open before the copy begins.
    pub(crate) fn set_limits(&self, options: &CopyOptions) {
        #[allow(clippy::cast_precision_loss)] // exact below 2^53
        for (bucket, limit) in
            [(&self.bandwidth, options.bandwidth_limit), (&self.operations, options.ops_limit)]
        {
            if let (Some(limit), false) = (limit, bucket.is_chosen()) {
                bucket.set(Some(limit as f64));
            }
        }
    }

    /// Nobody is held back any more once this is raised.
    pub(crate) fn heed(&self, cancel: &Cancel) {
        let _ = self.cancel.set(cancel.clone()); // set before, when the same lanes run again
    }

    /// Lets everybody go, because the copy stops.
    pub(crate) fn stop(&self) {
        self.stopped.store(true, Relaxed);
    }

    fn over(&self) -> bool {
        self.stopped.load(Relaxed)
            || self.cancel.get().is_some_and(|cancel| cancel.outcome().is_some())
    }

    /// Holds everybody back before the next operation; what is being done is finished.
    pub fn pause(&self) {
        let mut pause = lock(&self.pause);
        pause.since.get_or_insert_with(Instant::now);
        self.brakes.fetch_or(PAUSED, Relaxed);
    }

    /// Ends the pause.
    pub fn go_on(&self) {
        let mut pause = lock(&self.pause);
        self.brakes.fetch_and(!PAUSED, Relaxed);
        if let Some(since) = pause.since.take() {
            pause.total += since.elapsed();
        }
        self.resumed.notify_all();
    }

    /// Whether the copy is paused.
    #[must_use]
    pub fn is_paused(&self) -> bool {
        self.brakes.load(Relaxed) & PAUSED != 0
    }

    /// How long the copy was paused so far.
    #[must_use]
    pub fn paused_for(&self) -> Duration {
        let pause = lock(&self.pause);
        pause.total + pause.since.map_or(Duration::ZERO, |since| since.elapsed())
    }

    /// Bounds how many are inside a lane at once; `None` takes the bound away.
    pub(crate) fn bound(&self, lane: Lane, limit: Option<usize>) {
        let bit = PAUSED << (1 + lane as u32);
        self.gates[lane as usize].set(limit);
        if limit.is_some() {
            self.brakes.fetch_or(bit, Relaxed);
        } else {
            self.brakes.fetch_and(!bit, Relaxed);
        }
    }

    /// The bound of a lane.
    #[must_use]
    pub fn bound_of(&self, lane: Lane) -> Option<usize> {
        self.gates[lane as usize].limit()
    }

    /// Sets how many workers there can be and how many the user allows.
    pub(crate) fn set_crew(&self, wanted: usize, cap: usize) {
        if self.crew.most.load(Relaxed) > 0 {
            return; // the copy has a second stage, for which the user's changes hold, too
        }
        self.crew.most.store(cap, Relaxed);
        self.crew.cap.store(cap, Relaxed);
        self.crew.wanted.store(wanted, Relaxed);
    }

    /// Workers that are wanted now.
    #[must_use]
    pub fn workers(&self) -> usize {
        self.crew.wanted.load(Relaxed).max(1)
    }

    /// Says how many workers are wanted; the user's cap holds. Returns what it came to.
    pub(crate) fn want(&self, workers: usize) -> usize {
        let wanted = workers.clamp(1, self.worker_cap());
        self.crew.wanted.store(wanted, Relaxed);
        wanted
    }

    /// The most workers that the user allows.
    #[must_use]
    pub fn worker_cap(&self) -> usize {
        self.crew.cap.load(Relaxed).max(1)
    }

    /// Changes the user's cap; descriptors set a bound to it. Returns what it came to.
    pub fn cap_workers(&self, cap: usize) -> usize {
        let cap = cap.clamp(1, self.crew.most.load(Relaxed).max(1));
        self.crew.cap.store(cap, Relaxed);
        self.crew.wanted.fetch_min(cap, Relaxed);
        cap
    }

    /// The seats taken so far, those left included.
    pub(crate) fn seats(&self) -> Vec<Arc<Seat>> {
        lock(&self.seats).clone()
    }

    /// Waits out a pause, then for room in the lane. True when room was taken that must be given back.
    #[cold]
    fn hold(&self, lane: Lane, seat: &Seat) -> bool {
        let mut pause = lock(&self.pause);
        while pause.since.is_some() && !self.over() {
            pause =
                self.resumed.wait_timeout(pause, LOOK_UP).unwrap_or_else(PoisonError::into_inner).0;
        }
        drop(pause);
        let began = Instant::now();
        let entered = self.gates[lane as usize].enter(|| self.over());
        // Whoever waits for room in a lane waits for what is done there.
        seat.held(lane, began.elapsed());
        entered
    }

    fn take(&self, bucket: &Bucket, amount: u64) -> Duration {
        bucket.take(amount, || self.over())
    }
}

/// An operation in a lane. Measured from [`enter`] until it is dropped.
#[derive(Debug)]
#[must_use]
pub(crate) struct Pass {
    /// `None` where nothing is measured: no seat, or inside another pass.
    lane: Option<Lane>,
    start: Option<Start>,
    /// Room was taken in a bounded lane.
    gated: bool,
    /// Others are in flight beside it.
    in_ring: bool,
}

/// Begins an operation in a lane, once pause and bounds allow it. Inside another pass this does
/// nothing: the time belongs to the outer one, and nobody who holds room waits for more.
pub(crate) fn enter(lane: Lane) -> Pass {
    begin(lane, Timing::Sampled)
}

/// As [`enter`], for moving so many bytes.
pub(crate) fn enter_for(lane: Lane, bytes: usize) -> Pass {
    begin(lane, if bytes < LONG_BYTES { Timing::Sampled } else { Timing::Each })
}

/// As [`enter`], for waiting until one of the operations in a ring is done. That many are in flight
/// already, so that it is no reason to have more workers.
pub(crate) fn enter_ring(lane: Lane) -> Pass {
    let mut pass = begin(lane, Timing::Wait);
    pass.in_ring = true;
    pass
}

fn begin(lane: Lane, timing: Timing) -> Pass {
    with_seat(|here| {
        if std::mem::replace(&mut here.inside, true) {
            return None;
        }
        let braked = here.lanes.brakes.load(Relaxed) != 0;
        let gated = braked && here.lanes.hold(lane, &here.seat);
        let start = here.samplers[lane as usize].begin(timing);
        Some(Pass { lane: Some(lane), start, gated, in_ring: false })
    })
    .unwrap_or(Pass { lane: None, start: None, gated: false, in_ring: false })
}

impl Drop for Pass {
    fn drop(&mut self) {
        let Some(lane) = self.lane else { return };
        with_seat(|here| {
            here.inside = false;
            let sampler = &mut here.samplers[lane as usize];
            let waited = sampler.end(self.start.take(), &here.seat.cells[lane as usize]);
            if self.in_ring {
                here.seat.waits_for_ring(waited);
            }
            if self.gated {
                here.lanes.gates[lane as usize].leave();
            }
            None::<()>
        });
    }
}

/// Waits until the bandwidth limit lets this many bytes be moved.
pub(crate) fn take_bytes(bytes: u64) {
    with_seat(|here| {
        here.seat.takes_bytes(bytes);
        if here.lanes.bandwidth.is_active() {
            let waited = here.lanes.take(&here.lanes.bandwidth, bytes);
            here.seat.limited(seat::Limited::Bandwidth, waited);
        }
        None::<()>
    });
}

/// Gives back what was taken by [`take_bytes`] and not moved.
pub(crate) fn give_back(bytes: u64) {
    with_seat(|here| {
        here.seat.gives_back(bytes);
        here.lanes.bandwidth.give_back(bytes);
        None::<()>
    });
}

/// Waits until the limit of operations lets another item be begun.
pub(crate) fn begin_item() {
    with_seat(|here| {
        here.seat.begins_item();
        if here.lanes.operations.is_active() {
            let waited = here.lanes.take(&here.lanes.operations, 1);
            here.seat.limited(seat::Limited::Operations, waited);
        }
        None::<()>
    });
}

/// How many bytes to move at once, at most `most`: under a bandwidth limit less, so that it is kept
/// within fractions of a second. A multiple of 64 KiB unless `most` is smaller.
pub(crate) fn piece(most: u64) -> u64 {
    let rate = with_seat(|here| here.lanes.bandwidth.rate());
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // a positive size
    rate.map_or(most, |rate| {
        let piece = (rate * PIECE_SECONDS) as u64 / PIECE_MIN_BYTES * PIECE_MIN_BYTES;
        piece.max(PIECE_MIN_BYTES).min(most)
    })
}

/// Does something with this thread's seat; `None` where it has none.
fn with_seat<T>(what: impl FnOnce(&mut Here) -> Option<T>) -> Option<T> {
    HERE.try_with(|here| here.borrow_mut().as_mut().and_then(what)).ok().flatten()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The control socket is open before the copy begins: on a busy machine an early "none" was undone
    /// by the limit of the command line.
    #[test]
    fn a_limit_that_was_taken_away_before_the_copy_begins_stays_away() {
        let lanes = Lanes::default();
        lanes.bandwidth.set(None);
        let options = CopyOptions {
            bandwidth_limit: Some(1000),
            ops_limit: Some(10),
            ..CopyOptions::default()
        };
        lanes.set_limits(&options);
        assert_eq!(lanes.bandwidth.rate(), None);
        assert_eq!(lanes.operations.rate(), Some(10.0));
    }
}
