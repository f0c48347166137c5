//! The metadata server's time. What it grants is in `mds`.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::passthrough::{Calendar, Give, Hands};
use crate::settings::MdtSettings;

struct State {
    settings: MdtSettings,
    hands: Hands,
    stalled: bool,
    until: Option<Instant>,
    parked: Vec<Give>,
}

/// The metadata server of a mounted filesystem.
pub struct Mdt {
    calendar: Arc<Calendar>,
    state: Mutex<State>,
}

impl Mdt {
    pub(crate) fn new(settings: MdtSettings, calendar: Arc<Calendar>) -> Arc<Self> {
        let hands = Hands::default();
        let state = State { settings, hands, stalled: false, until: None, parked: Vec::new() };
        Arc::new(Self { calendar, state: Mutex::new(state) })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What each request takes from now on.
    pub fn set_latency(&self, latency: Duration) {
        self.state().settings.latency = latency;
    }

    /// How many requests it serves at once from now on; none: any number.
    pub fn set_at_once(&self, at_once: Option<usize>) {
        self.state().settings.at_once = at_once;
    }

    /// It answers nothing until [`Mdt::resume`].
    pub fn stall(&self) {
        self.state().stalled = true;
    }

    /// It answers nothing for a while.
    pub fn stall_for(&self, time: Duration) {
        self.state().until = Some(Instant::now() + time);
    }

    /// It answers again.
    pub fn resume(self: &Arc<Self>) {
        let parked = {
            let mut state = self.state();
            (state.stalled, state.until) = (false, None);
            std::mem::take(&mut state.parked)
        };
        for answer in parked {
            self.serve(Instant::now(), answer);
        }
    }

    /// When something is done that has to be served while other things wait for it.
    pub(crate) fn plan(&self, start: Instant) -> Instant {
        let mut state = self.state();
        let start = state.until.map_or(start, |until| start.max(until));
        let latency = state.settings.latency;
        match state.settings.at_once {
            Some(hands) if !latency.is_zero() => {
                state.hands.serve(start, latency, hands.max(1), 0.0)
            }
            _ => start + latency,
        }
    }

    /// Has something answered when it has been served, not before `start`.
    pub(crate) fn serve(self: &Arc<Self>, start: Instant, answer: Give) {
        let mut state = self.state();
        if state.stalled {
            state.parked.push(answer);
            return;
        }
        drop(state);
        let end = self.plan(start);
        if end <= Instant::now() {
            answer();
        } else {
            self.calendar.at(end, answer);
        }
    }
}
