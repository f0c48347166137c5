//! When a request may be answered: its delay, its place in the queue of the metadata server, the
//! bandwidth of servers and handles. Time is computed on arrival; nothing waits here.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use lustre_emulator::passthrough::{Calendar, Hands, occupy};

use super::counters::Tally;
use super::{Counters, Kind, Profile};

/// Which data a request moves.
pub(super) struct Moved {
    /// Number of the file in the order in which files were first touched.
    pub(super) file: usize,
    pub(super) offset: u64,
    pub(super) bytes: u64,
}

#[derive(Default)]
struct Queues {
    /// When each of the metadata server's hands is free.
    hands: Hands,
    /// When each data server is free.
    servers: Vec<Option<Instant>>,
}

pub(super) struct Pace {
    profile: Mutex<Arc<Profile>>,
    queues: Mutex<Queues>,
    tally: Arc<Tally>,
    calendar: Calendar,
}

impl Pace {
    pub(super) fn new(profile: Profile) -> Self {
        Self {
            profile: Mutex::new(Arc::new(profile)),
            queues: Mutex::default(),
            tally: Arc::default(),
            calendar: Calendar::new(),
        }
    }

    pub(super) fn set(&self, profile: Profile) {
        *self.profile.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(profile);
        *self.queues() = Queues::default();
    }

    pub(super) fn profile(&self) -> Arc<Profile> {
        self.profile.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn counters(&self) -> Counters {
        self.tally.look()
    }

    pub(super) fn reset_counters(&self) {
        self.tally.reset();
    }

    /// Gives the answer to a metadata request when it is time.
    pub(super) fn metadata(&self, kind: Kind, answer: impl FnOnce() + Send + 'static) {
        self.tally.begin(kind);
        let profile = self.profile();
        let mut due = Instant::now();
        let delay = profile.delay_of(kind);
        match profile.metadata_at_once {
            Some(hands) if kind.is_metadata() && !delay.is_zero() => {
                let crowding = profile.metadata_crowding;
                due = self.queues().hands.serve(due, delay, hands.max(1), crowding);
            }
            _ => due += delay,
        }
        self.answer(kind, due, answer);
    }

    /// Gives the answer to a read or a write when it is time. `handle` is when the file handle is free.
    pub(super) fn data(
        &self,
        kind: Kind,
        moved: &Moved,
        handle: &Mutex<Option<Instant>>,
        answer: impl FnOnce() + Send + 'static,
    ) {
        self.tally.begin(kind);
        let profile = self.profile();
        let now = Instant::now();
        let mut due = now;
        if let Some(bandwidth) = profile.handle_bandwidth {
            let mut free = handle.lock().unwrap_or_else(PoisonError::into_inner);
            due = due.max(occupy(&mut free, now, moved.bytes, bandwidth));
        }
        match profile.servers {
            None => self.tally.moved(0, moved.bytes),
            Some(servers) => {
                let mut queues = self.queues();
                queues.servers.resize(servers.count.max(1), None);
                let (width, piece) = servers.stripes.unwrap_or((1, u64::MAX));
                let (mut at, end) = (moved.offset, moved.offset + moved.bytes);
                while at < end {
                    let index = at / piece;
                    let stop = end.min((index + 1).saturating_mul(piece));
                    let lane = usize::try_from(index).unwrap_or(0) % width.max(1);
                    let server = (moved.file + lane) % servers.count.max(1);
                    let free = &mut queues.servers[server];
                    due = due.max(occupy(free, now, stop - at, servers.bandwidth));
                    self.tally.moved(server, stop - at);
                    at = stop;
                }
            }
        }
        self.answer(kind, due + profile.delay_of(kind), answer);
    }

    fn answer(&self, kind: Kind, due: Instant, answer: impl FnOnce() + Send + 'static) {
        let tally = self.tally.clone();
        // Counted as ended before the answer: whoever has it may look at the counters at once.
        let answer = move || {
            tally.end(kind);
            answer();
        };
        if due <= Instant::now() { answer() } else { self.calendar.at(due, answer) }
    }

    fn queues(&self) -> MutexGuard<'_, Queues> {
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
