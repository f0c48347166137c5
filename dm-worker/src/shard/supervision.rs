//! One mover from its order to its end: it is heard, and asked to end, pressed and given up. What its end
//! means is elsewhere.

use std::sync::Arc;
use std::time::Duration;

use dm_service::since_boot;
use longshore::api::DataMovementShard;
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval};

use super::outcome::{End, Reason, Said, Verdict, judge};
use super::stall::Stall;
use super::tally::Tally;
use super::{BEFORE_THE_LEASE, Conduct, Life};
use crate::api::{Refused, Status};
use crate::live::Stay;
use crate::process::{Heard, Mover, why_it_stays};
use crate::wire::{Assignment, News, Order};

/// How long a mover may take to stop in order before it is killed.
const GRACE: Duration = Duration::from_secs(1);

/// How long after that a mover that is still there is spoken of.
const PATIENCE: Duration = Duration::from_secs(5);

/// How often everything that depends on the time is looked at.
const LOOK: Duration = Duration::from_millis(200);

/// The watch over one mover.
#[derive(Debug)]
struct Supervision {
    stall: Stall,
    /// Why it has to end, and since when.
    asked: Option<(Reason, Duration)>,
    killed: bool,
    complained: bool,
}

impl Supervision {
    fn new(stall: Duration) -> Self {
        let stall = Stall::new(stall, since_boot());
        Self { stall, asked: None, killed: false, complained: false }
    }

    fn reason(&self) -> Option<Reason> {
        self.asked.map(|(reason, _)| reason)
    }

    /// Asks it to end; the first reason is why, but for a request to cancel, which is somebody's wish.
    fn end(&mut self, reason: Reason, mover: &Mover) {
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
    fn press(&mut self, mover: &Mover, give_up: Duration) -> Option<String> {
        let (_, since) = self.asked?;
        let waited = since_boot().saturating_sub(since);
        if waited >= GRACE && !self.killed {
            self.killed = true;
            mover.signal(Signal::SIGKILL);
        }
        (waited >= GRACE + give_up).then(|| why_it_stays(mover.pid()))
    }

    /// In words and once, that it does not end although it was killed.
    fn complaint(&mut self, mover: &Mover) -> Option<String> {
        let (_, since) = self.asked?;
        let due = since_boot() >= since + GRACE + PATIENCE && !self.complained;
        self.complained |= due;
        due.then(|| why_it_stays(mover.pid()))
    }
}

/// Whether the source goes inside the destination, as a status says that was written.
fn noted(written: &Value) -> Option<bool> {
    written.get("inside").and_then(Value::as_bool)
}

/// Returns when a status was written that says this of where the source goes; false when none will be.
async fn has_noted(written: &mut watch::Receiver<Value>, inside: Option<bool>) -> bool {
    written.wait_for(|last| noted(last) == inside).await.is_ok()
}

impl Life {
    fn assignment(&mut self) -> Assignment {
        let end_by_milliseconds = self.end_by();
        let spec = &self.shard.spec;
        Assignment {
            source: spec.source.clone(),
            destination: spec.destination.clone(),
            options: spec.options.clone().unwrap_or_default(),
            preparation: spec.preparation.clone(),
            dry_run: spec.dry_run == Some(true),
            count_ahead: self.progress_interval().is_some(),
            inside: self.inside,
            end_by_milliseconds,
        }
    }

    fn progress_interval(&self) -> Option<Duration> {
        let seconds = self.shard.spec.progress_interval_seconds.unwrap_or_default();
        u64::try_from(seconds).ok().filter(|seconds| *seconds > 0).map(Duration::from_secs)
    }

    /// Gives a mover its order, and stays with it until its end.
    pub(super) async fn supervise(
        &mut self,
        mut mover: Mover,
        attempt: i32,
        status: &mut Status,
        tally: &mut Tally,
    ) -> Verdict {
        tally.begin(attempt);
        let mut placed = status.written();
        // What a mover before this one found is decided anew where it is not noted: none has begun by it.
        self.inside = noted(&placed.borrow()).or(self.inside);
        mover.tell(&Order::Begin(Box::new(self.assignment()))).await;
        let mut said = Said::default();
        let mut watch = Supervision::new(self.worker.limits.stall);
        let mut ticks = interval(LOOK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let end = loop {
            let asked = watch.reason().is_some();
            tokio::select! {
                heard = mover.next() => match heard {
                    Heard::Said(news) => self.absorb(news, &mut watch, &mut said, tally),
                    Heard::Ended(Ok(status)) => break End::Exited(status),
                    Heard::Ended(Err(error)) => {
                        break End::Stays(format!("its end cannot be seen: {error}"));
                    }
                },
                refused = status.refused(), if !asked => watch.end(match refused {
                    Refused::Lost => Reason::Lost,
                    Refused::Gone => Reason::Deleted,
                }, &mover),
                changed = self.held.changed() => match changed {
                    Ok(()) => mover.tell(&Order::EndBy { milliseconds: self.end_by() }).await,
                    Err(_) => watch.end(Reason::Release, &mover),
                },
                true = has_noted(&mut placed, said.waits), if said.waits.is_some() => {
                    said.waits = None;
                    mover.tell(&Order::Go).await;
                }
                _ = ticks.tick() => {}
            }
            if let Some(inside) = said.placed.take() {
                said.waits = Some(inside);
                status.set(json!({"inside": inside}));
            }
            if let Some(text) = said.others.take() {
                status.set(json!({"message": text}));
                said.held_up = text;
            }
            if let Some(reason) = self.reason() {
                watch.end(reason, &mover);
            }
            if let Some(still) = watch.stall.stalled(since_boot())
                && watch.reason().is_none()
            {
                self.worker.metrics.stalled();
                watch.end(Reason::Stall(still), &mover);
            }
            if let Some(why) = watch.press(&mover, self.worker.limits.give_up) {
                break End::Stays(why);
            }
            if let Some(text) = watch.complaint(&mover) {
                tracing::error!(shard = self.name(), "{text}");
                status.set(json!({"message": text}));
            }
        };
        if matches!(end, End::Stays(_)) {
            self.see_off(mover);
        } else {
            self.worker.directory.forget(self.uid());
            said.errors = mover.errors().await;
        }
        // It keeps to the time of its end as exactly as the worker does, and may be first.
        let asked = watch.reason().or_else(|| self.reason());
        judge(&end, asked, &said)
    }

    /// Waits for the end of a mover that stays, so that it is noted nowhere after it.
    fn see_off(&self, mut mover: Mover) {
        let (worker, uid) = (Arc::clone(&self.worker), self.uid().to_owned());
        tokio::spawn(async move {
            drop(mover.ended().await);
            worker.directory.forget(&uid);
            tracing::info!(uid, "a mover that stayed has ended");
        });
    }

    /// Why the mover has to end now, if it has to.
    pub(super) fn reason(&self) -> Option<Reason> {
        match self.seen.borrow().as_ref() {
            None => return Some(Reason::Deleted),
            Some(seen) if self.taken_by_others(seen) => return Some(Reason::Lost),
            Some(_) => {}
        }
        if self.is_to_be_cancelled() {
            return Some(Reason::Cancel);
        }
        let over = self.held.borrow().is_none_or(|until| since_boot() + BEFORE_THE_LEASE >= until);
        let unmounting = self.stay.as_ref().is_some_and(Stay::is_over);
        (over || unmounting || *self.conduct.borrow() == Conduct::PutBack)
            .then_some(Reason::Release)
    }

    /// Whether the watch shows that somebody else has claimed it since. That it shows nobody means
    /// nothing: it may not have shown this worker's claim yet.
    fn taken_by_others(&self, seen: &DataMovementShard) -> bool {
        let status = seen.status.as_ref().filter(|status| status.state.is_some());
        status.is_some_and(|status| {
            status.attempts > Some(self.attempts() + 1) && !self.worker.own.has(Some(status))
        })
    }

    /// Until when a mover may run, as far as is known now.
    fn end_by(&mut self) -> u64 {
        let until = self.held.borrow_and_update().unwrap_or_default();
        let until = until.saturating_sub(BEFORE_THE_LEASE).as_millis();
        u64::try_from(until).unwrap_or(u64::MAX)
    }

    fn absorb(&self, news: News, watch: &mut Supervision, said: &mut Said, tally: &mut Tally) {
        let metrics = &self.worker.metrics;
        match news {
            News::Prepared { destination } => {
                watch.stall.moved(since_boot());
                tally.came_to(self.command(&destination), destination);
            }
            News::Progress(progress) => {
                watch.stall.look(&progress, since_boot());
                tally.progress(&progress, metrics);
                if let Some(interval) = self.progress_interval()
                    && let Some(progress) = tally.report(self.uid())
                {
                    self.worker.reports.say(&self.name(), interval, progress);
                }
            }
            News::Placed { inside } => {
                watch.stall.moved(since_boot());
                said.placed = Some(inside);
            }
            News::Waits { text } => said.others = Some(text),
            News::Done(done) => {
                watch.stall.moved(since_boot());
                tally.done(&done, metrics);
            }
            News::Refused { text } => said.refused = Some(text),
            News::Summary { text } => said.summary = Some(text),
            News::Other => {}
        }
    }
}
