//! An object storage target: when each request is done, how far a client may write ahead of it, and
//! what is wrong with it. It moves no data and knows nothing of files.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering::AcqRel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::passthrough::{Calendar, Give, Hands, occupy};
use crate::settings::OstSettings;

/// An answer that several OSTs must agree to.
pub(crate) struct Pending {
    left: AtomicUsize,
    give: Mutex<Option<Give>>,
}

impl Pending {
    /// An answer that so many must agree to.
    pub(crate) fn new(left: usize, give: Give) -> Arc<Self> {
        Arc::new(Self { left: AtomicUsize::new(left.max(1)), give: Mutex::new(Some(give)) })
    }

    /// One of them agrees.
    pub(crate) fn agree(&self) {
        if self.left.fetch_sub(1, AcqRel) == 1 {
            let give = self.give.lock().unwrap_or_else(PoisonError::into_inner).take();
            if let Some(give) = give {
                give();
            }
        }
    }
}

/// A request to an OST.
pub(crate) struct Job {
    pub(crate) client: u32,
    pub(crate) bytes: u64,
    /// Bytes that may be unfinished; none: the answer waits for this request itself.
    pub(crate) window: Option<u64>,
    /// When it arrived, with its lock.
    pub(crate) start: Instant,
    /// The answer to the caller.
    pub(crate) pending: Arc<Pending>,
    /// Told when the OST begins and ends.
    pub(crate) planned: Box<dyn FnOnce(Instant, Instant) + Send>,
    /// Called when it is done.
    pub(crate) done: Give,
}

/// What there is to do when a request is done.
struct Finished {
    client: u32,
    bytes: u64,
    windowed: bool,
    pending: Arc<Pending>,
    done: Give,
}

#[derive(Default)]
struct Window {
    unfinished: u64,
    limit: u64,
    waiting: VecDeque<Arc<Pending>>,
}

#[derive(Default)]
enum Stall {
    #[default]
    None,
    Until(Instant),
    Released,
}

/// How often an OST fails with `EIO`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Failing {
    Never,
    Always,
    /// The request after so many more, and no other.
    After(u64),
}

struct State {
    settings: OstSettings,
    slow: f64,
    used: u64,
    inactive: bool,
    failing: Failing,
    stall: Stall,
    parked: Vec<Job>,
    pipe: Option<Instant>,
    hands: Hands,
    windows: HashMap<u32, Window>,
}

/// One object storage target of a mounted filesystem. Everything can be changed while it works;
/// requests that have been accepted keep the times that they were given.
pub struct Ost {
    calendar: Arc<Calendar>,
    state: Mutex<State>,
}

impl Ost {
    pub(crate) fn new(settings: OstSettings, calendar: Arc<Calendar>) -> Arc<Self> {
        let state = State {
            settings,
            slow: 1.0,
            used: 0,
            inactive: false,
            failing: Failing::Never,
            stall: Stall::None,
            parked: Vec::new(),
            pipe: None,
            hands: Hands::default(),
            windows: HashMap::new(),
        };
        Arc::new(Self { calendar, state: Mutex::new(state) })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Bytes per second from now on; none: no limit.
    pub fn set_bandwidth(&self, bandwidth: Option<u64>) {
        self.state().settings.bandwidth = bandwidth;
    }

    /// What each request takes beside its bytes, from now on.
    pub fn set_latency(&self, latency: Duration) {
        self.state().settings.latency = latency;
    }

    /// How many requests it serves at once from now on.
    pub fn set_queue(&self, queue: usize) {
        self.state().settings.queue = queue;
    }

    /// Everything takes so many times as long; 1: as it should be.
    pub fn set_slow(&self, factor: f64) {
        self.state().slow = factor.max(0.0);
    }

    /// Bytes that fit from now on.
    pub fn set_capacity(&self, bytes: u64) {
        self.state().settings.capacity = bytes;
    }

    /// Leaves room for no more than so many further bytes; 0: full.
    pub fn set_free(&self, bytes: u64) {
        let mut state = self.state();
        state.settings.capacity = state.used + bytes;
    }

    /// Bytes that fit.
    pub fn capacity(&self) -> u64 {
        self.state().settings.capacity
    }

    /// Bytes that objects occupy.
    pub fn used(&self) -> u64 {
        self.state().used
    }

    /// Whether it takes no new objects. What lies there can still be read and written.
    pub fn set_inactive(&self, inactive: bool) {
        self.state().inactive = inactive;
    }

    pub(crate) fn is_active(&self) -> bool {
        !self.state().inactive
    }

    /// All requests fail with `EIO` from now on, or none does.
    pub fn set_failing(&self, failing: bool) {
        self.state().failing = if failing { Failing::Always } else { Failing::Never };
    }

    /// The request after so many more fails with `EIO`, and no other.
    pub fn fail_after(&self, requests: u64) {
        self.state().failing = Failing::After(requests);
    }

    /// It answers nothing, as in recovery, until [`Ost::resume`].
    pub fn stall(&self) {
        self.state().stall = Stall::Released;
    }

    /// It answers nothing for a while.
    pub fn stall_for(&self, time: Duration) {
        self.state().stall = Stall::Until(Instant::now() + time);
    }

    /// It answers again. What waited is served in the order in which it came.
    pub fn resume(self: &Arc<Self>) {
        let parked = {
            let mut state = self.state();
            state.stall = Stall::None;
            std::mem::take(&mut state.parked)
        };
        let now = Instant::now();
        for job in parked {
            let job = Job { start: job.start.max(now), ..job };
            let finished = self.plan(&mut self.state(), job);
            finished.into_iter().for_each(|finished| self.finish(finished));
        }
    }

    /// Takes its part in a failure: whether a request is to fail.
    pub(crate) fn fails(&self) -> bool {
        let mut state = self.state();
        match state.failing {
            Failing::Never => false,
            Failing::Always => true,
            Failing::After(0) => {
                state.failing = Failing::Never;
                true
            }
            Failing::After(more) => {
                state.failing = Failing::After(more - 1);
                false
            }
        }
    }

    /// Takes room for so many bytes, unless there is not enough.
    pub(crate) fn reserve(&self, bytes: u64) -> bool {
        let mut state = self.state();
        let fits = bytes == 0 || state.used.saturating_add(bytes) <= state.settings.capacity;
        if fits {
            state.used += bytes;
        }
        fits
    }

    /// Gives room back.
    pub(crate) fn give_back(&self, bytes: u64) {
        let mut state = self.state();
        state.used = state.used.saturating_sub(bytes);
    }

    pub(crate) fn latency(&self) -> Duration {
        let state = self.state();
        state.settings.latency.mul_f64(state.slow)
    }

    /// Takes a request. It may be done, and answered, before this returns.
    pub(crate) fn submit(self: &Arc<Self>, job: Job) {
        let mut state = self.state();
        // The window is judged now; what is beyond it is answered when it has shrunk.
        let mut admitted = None;
        if let Some(limit) = job.window {
            let window = state.windows.entry(job.client).or_default();
            window.unfinished += job.bytes;
            window.limit = limit;
            if window.unfinished < limit {
                admitted = Some(job.pending.clone());
            } else {
                window.waiting.push_back(job.pending.clone());
            }
        }
        let finished = match state.stall {
            Stall::Released => {
                state.parked.push(job);
                None
            }
            _ => self.plan(&mut state, job),
        };
        drop(state);
        finished.into_iter().for_each(|finished| self.finish(finished));
        if let Some(pending) = admitted {
            pending.agree();
        }
    }

    /// Finds out when a request is done; returns it when it is already.
    fn plan(self: &Arc<Self>, state: &mut State, job: Job) -> Option<Finished> {
        let start = match state.stall {
            Stall::Until(end) => job.start.max(end),
            _ => job.start,
        };
        let queue = state.settings.queue.max(1);
        let (begin, _) = state.hands.free(start, queue);
        let mut end = begin;
        if let Some(bandwidth) = state.settings.bandwidth {
            let bytes = scaled(job.bytes, state.slow);
            end = occupy(&mut state.pipe, begin, bytes, bandwidth);
        }
        end += state.settings.latency.mul_f64(state.slow);
        state.hands.take(end);
        (job.planned)(begin, end);
        let finished = Finished {
            client: job.client,
            bytes: job.bytes,
            windowed: job.window.is_some(),
            pending: job.pending,
            done: job.done,
        };
        if end <= Instant::now() {
            return Some(finished);
        }
        let ost = self.clone();
        self.calendar.at(end, move || ost.finish(finished));
        None
    }

    /// A request is done.
    fn finish(&self, finished: Finished) {
        let mut admitted = Vec::new();
        if finished.windowed {
            let mut state = self.state();
            if let Some(window) = state.windows.get_mut(&finished.client) {
                window.unfinished = window.unfinished.saturating_sub(finished.bytes);
                if window.unfinished < window.limit {
                    admitted.extend(window.waiting.drain(..));
                }
                if window.unfinished == 0 {
                    state.windows.remove(&finished.client);
                }
            }
        } else {
            admitted.push(finished.pending);
        }
        (finished.done)();
        for pending in admitted {
            pending.agree();
        }
    }
}

fn scaled(bytes: u64, factor: f64) -> u64 {
    if factor == 1.0 {
        return bytes;
    }
    #[expect(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    let scaled = (bytes as f64 * factor) as u64;
    scaled
}
