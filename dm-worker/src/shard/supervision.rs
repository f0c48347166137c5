//! What the worker does with a mover over time: asks it to end, presses, complains, and decides when its
//! progress is worth a write. It writes nothing itself.

use std::time::Duration;

use longshore::api::data_movement_shard::Counters;
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use super::outcome::{self, Reason};
use super::stall::Stall;
use super::tally::Tally;
use super::{GRACE, PATIENCE};
use crate::process::{Mover, why_it_stays};
use crate::time::since_boot;

/// The watch over one mover.
#[derive(Debug)]
pub(super) struct Supervision {
    pub(super) stall: Stall,
    /// Why it has to end, and since when.
    asked: Option<(Reason, Duration)>,
    killed: bool,
    complained: bool,
    interval: Option<Duration>,
    due: Duration,
    written: Option<Counters>,
}

impl Supervision {
    pub(super) fn new(stall: Duration, interval: Option<Duration>) -> Self {
        let now = since_boot();
        Self {
            stall: Stall::new(stall, now),
            asked: None,
            killed: false,
            complained: false,
            interval,
            due: now + interval.unwrap_or_default(),
            written: None,
        }
    }

    pub(super) fn reason(&self) -> Option<Reason> {
        self.asked.map(|(reason, _)| reason)
    }

    /// Asks it to end; the first reason is why, but for a request to cancel, which is somebody's wish.
    pub(super) fn end(&mut self, reason: Reason, mover: &Mover) {
        match &mut self.asked {
            None => {
                tracing::debug!(pid = mover.pid(), ?reason, "asking a mover to end");
                self.asked = Some((reason, since_boot()));
                mover.signal(Signal::SIGTERM);
            }
            Some((known, _)) if *known == Reason::Release && reason == Reason::Cancel => {
                *known = reason;
            }
            Some(_) => {}
        }
    }

    /// Kills it when it does not end as asked. In words, why it is given up, when it is.
    pub(super) fn press(&mut self, mover: &Mover, give_up: Duration) -> Option<String> {
        let (_, since) = self.asked?;
        let waited = since_boot().saturating_sub(since);
        if waited >= GRACE && !self.killed {
            self.killed = true;
            mover.signal(Signal::SIGKILL);
        }
        (waited >= GRACE + give_up).then(|| why_it_stays(mover.pid()))
    }

    /// In words and once, that it does not end although it was killed.
    pub(super) fn complaint(&mut self, mover: &Mover) -> Option<String> {
        let (_, since) = self.asked?;
        let due = since_boot() >= since + GRACE + PATIENCE && !self.complained;
        self.complained |= due;
        due.then(|| why_it_stays(mover.pid()))
    }

    /// The progress, when it is time for it and there is some.
    pub(super) fn news(&mut self, tally: &Tally) -> Option<Value> {
        let interval = self.interval?;
        if since_boot() < self.due || self.asked.is_some() {
            return None;
        }
        self.due = since_boot() + interval;
        if tally.counters() == self.written.as_ref() {
            return None;
        }
        self.written = tally.counters().cloned();
        let mut status = json!({});
        outcome::add_progress(&mut status, tally);
        Some(status)
    }
}
