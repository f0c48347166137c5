//! Looks for the number of workers, and for bounds of single lanes, at which a copy is fastest: climbs
//! while the throughput rises, steps back where it does not. A state machine without a clock and
//! without threads: it is given what was observed and says what to set.
//!
//! One change is tried at a time and compared with what was measured just before it. It climbs by
//! doubling until that gains nothing, then in finer steps both ways, then it rests, longer after each
//! round in which nothing was gained. Fewer workers are kept only when they were as good as more of them
//! before and after, with operations that got quicker: a step down that noise talks it into costs more
//! than one that is not taken. How far down is worth a try follows from how long operations took without a
//! crowd (Little's law). A lane that gets slower as more workers crowd into it, while
//! others would bear more, is bounded by itself.

mod observed;

use super::Lane;
pub(crate) use observed::Observed;

/// Workers are doubled while climbing for the first time.
const RAMP: f64 = 2.0;
/// A finer step.
const STEP: f64 = 1.3;
/// A doubling must gain so much to be kept, and a finer step so much: above the noise of a window.
const RAMP_GAIN: f64 = 1.08;
const STEP_GAIN: f64 = 1.04;
/// A gain below this is measured once more before it is believed.
const CERTAIN_GAIN: f64 = 1.25;
/// From this share of the processors' time on, more workers only get into each other's way.
const CPU_BOUND: f64 = 0.85;
/// More workers help only if those that there are wait for a filesystem for at least this share of
/// their time, rather than for work.
const WAITING: f64 = 0.4;
/// A lane is crowded when its operations took this much longer after a step up than before it.
const CROWDED: f64 = 1.15;
/// And its crowd must have cost this much: where operations only queue, as much is done as ever, and a bound gains
/// nothing.
const WORSE: f64 = 0.97;
/// A lane that so much of the waiting is in is worth a bound, or worth more workers.
const LARGE_PART: f64 = 0.2;
/// After so many bounds of a lane that gained nothing no other is tried.
const REFUSED_MAX: u32 = 4;
/// A bound has so much more room than the throughput needs.
const BEARABLE: f64 = 1.5;
/// Least operations of a lane by which its latency is known.
const LANE_WORK: f64 = 10.0;
/// A doubling that comes to less than this part is no queue, in which as much is done as ever, but a crowd, or the
/// machine did something else meanwhile.
const DIP: f64 = 0.9;
/// So often doubling may fail before it is given up.
const DOUBLINGS: u32 = 2;
/// So often halving may fail before it is given up.
const HALVINGS: u32 = 2;
/// Least operations in a window, so that its throughput is worth comparing.
const WINDOW_WORK: f64 = 60.0;
/// Shortest and longest window in seconds: while climbing, and later.
const RAMP_SECONDS: f64 = 0.09;
const STEP_SECONDS: f64 = 0.25;
const WINDOW_MAX_SECONDS: f64 = 2.0;
/// The trial of a bound is over as soon as it is seen that it leaves less than this share of what was done before:
/// in half a window, so that dips do not count.
const HOPELESS: f64 = 0.6;
/// A change shows at once where workers go round so many times between two looks.
const AT_ONCE: f64 = 2.0;
/// No change is waited for longer than this, in seconds.
const SETTLE_MAX_SECONDS: f64 = 1.0;
/// First and longest rest in seconds.
const REST_SECONDS: f64 = 0.5;
const REST_MAX_SECONDS: f64 = 8.0;

/// What can be set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Setting {
    pub(crate) workers: usize,
    /// Bounds of how many workers may be inside a lane.
    pub(crate) bounds: [Option<usize>; Lane::ALL.len()],
}

/// The next thing to try when resting is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Try {
    More,
    Fewer,
    Bound(Lane),
    Loosen(Lane),
}

/// What is going on.
#[derive(Debug, Clone, Copy)]
enum Phase {
    /// Measuring what is set, before something is tried.
    Before(Try),
    /// Measuring what is tried; `confirmed` when this is the second look, since the first was not certain.
    /// The trial is given up when far less than `least` is done.
    During { tried: Try, before: Observed, back: Setting, least: f64, confirmed: bool },
    /// Measuring once more what was set before fewer workers, which looked good: the machine may have
    /// got faster by itself meanwhile.
    After { before: Observed, during: Observed, fewer: Setting },
    /// Leaving things alone for so many seconds more.
    Rest(f64),
}

/// The state of looking.
#[derive(Debug)]
pub(crate) struct Tuner {
    setting: Setting,
    least: usize,
    cap: usize,
    phase: Phase,
    window: Observed,
    /// How often workers have to go round until the last change shows; `None` once it does.
    settling: Option<f64>,
    /// Doubling still gains.
    ramping: bool,
    /// How often doubling may still gain nothing before it is over.
    doublings: u32,
    /// How often it may still be tried to halve what doubling has come to, perhaps too late: the first windows
    /// of a copy rise by themselves, and the noise of a trial may hide a crowd.
    halvings: u32,
    rest: f64,
    /// What is tried in this round after the present trial.
    agenda: Vec<Try>,
    /// Something was gained in this round.
    gained: bool,
    /// How often a bound gained nothing, by lane: then it is not tried for ever.
    refused_bounds: [u32; Lane::ALL.len()],
    /// Seconds per operation of each lane when it was least crowded; 0 when not known.
    quickest: [f64; Lane::ALL.len()],
    steps: u32,
}

impl Tuner {
    /// Starts with so many workers, which never become fewer than `least` nor more than `cap`.
    pub(crate) fn new(workers: usize, least: usize, cap: usize) -> Self {
        Self {
            setting: Setting { workers, bounds: [None; Lane::ALL.len()] },
            least: least.min(cap).max(1),
            cap,
            phase: Phase::Before(Try::More),
            window: Observed::default(),
            settling: None,
            ramping: true,
            doublings: DOUBLINGS,
            halvings: HALVINGS,
            rest: REST_SECONDS,
            agenda: Vec::new(),
            gained: false,
            refused_bounds: [0; Lane::ALL.len()],
            quickest: [0.0; Lane::ALL.len()],
            steps: 0,
        }
    }

    /// What is set now.
    pub(crate) fn setting(&self) -> Setting {
        self.setting
    }

    /// Changes that were tried so far.
    pub(crate) fn steps(&self) -> u32 {
        self.steps
    }

    /// Takes another cap, which the user has set.
    pub(crate) fn set_cap(&mut self, cap: usize) {
        if cap != self.cap {
            self.cap = cap.max(1);
            self.least = self.least.min(self.cap);
            self.set(Setting { workers: self.setting.workers.min(self.cap), ..self.setting });
            self.start_round();
        }
    }

    /// Forgets what is being measured: the copy was paused, or other limits hold now.
    pub(crate) fn disturb(&mut self) {
        match self.phase {
            Phase::During { tried, back, .. } => {
                self.set(back);
                self.phase = Phase::Before(tried);
            }
            Phase::After { .. } => self.phase = Phase::Before(Try::Fewer),
            Phase::Before(_) | Phase::Rest(_) => {}
        }
        self.window = Observed::default();
    }

    /// Takes in what was observed and says what to set from now on.
    pub(crate) fn look(&mut self, observed: &Observed) -> Setting {
        self.window.add(observed);
        if self.is_settling(observed) && !self.is_hopeless() {
            return self.setting;
        }
        match self.phase {
            Phase::Rest(left) => {
                self.window = Observed::default();
                let left = left - observed.seconds;
                self.phase = Phase::Rest(left);
                if left <= 0.0 {
                    self.start_round();
                }
            }
            _ if !self.is_window_full() => {}
            Phase::Before(next) => {
                let before = std::mem::take(&mut self.window);
                self.remember_quickest(&before);
                self.try_it(next, before);
            }
            Phase::During { tried, before, back, confirmed, .. } => {
                let during = std::mem::take(&mut self.window);
                self.remember_quickest(&during);
                self.judge(tried, before, during, back, confirmed);
            }
            Phase::After { before, during, fewer } => {
                let after = std::mem::take(&mut self.window);
                self.judge_fewer(fewer, &[before, after], &during);
            }
        }
        self.setting
    }

    /// Whether the last change does not show yet: those who were under way finish what they have begun, and a crowd
    /// gathers or goes home only then. What is seen meanwhile says nothing.
    fn is_settling(&mut self, observed: &Observed) -> bool {
        let Some(rounds) = self.settling else { return false };
        if rounds <= 0.0 || observed.rounds >= AT_ONCE * rounds {
            self.settling = None;
            self.window = *observed;
            return false;
        }
        let left = rounds - observed.rounds;
        self.settling = Some(if self.window.seconds >= SETTLE_MAX_SECONDS { 0.0 } else { left });
        true
    }

    /// Sets this from now on. It shows when every worker has been round once.
    fn set(&mut self, setting: Setting) {
        #[allow(clippy::cast_precision_loss)] // some hundreds
        let workers = self.setting.workers.max(setting.workers) as f64;
        if setting != self.setting {
            self.settling = Some(workers);
        }
        self.setting = setting;
    }

    fn is_window_full(&self) -> bool {
        let least = if self.ramping { RAMP_SECONDS } else { STEP_SECONDS };
        let window = &self.window;
        window.seconds >= WINDOW_MAX_SECONDS
            || (window.seconds >= least
                && window.work >= WINDOW_WORK
                && window.rounds >= self.setting.workers as f64)
            || self.is_hopeless()
    }

    /// Whether what is tried has cost so much already that more of it would be waste: of a bound at any time, of
    /// other changes while they settle, which takes long in a crowd.
    fn is_hopeless(&self) -> bool {
        let (least, compared) = match self.phase {
            Phase::During { tried: Try::Bound(_), least, .. } => (RAMP_SECONDS, least),
            Phase::During { least, .. } if self.settling.is_some() => (STEP_SECONDS, least),
            Phase::After { during, .. } if self.settling.is_some() => (STEP_SECONDS, during.rate()),
            _ => return false,
        };
        let (seconds, expected) = (self.window.seconds, compared * self.window.seconds);
        seconds >= least && expected >= WINDOW_WORK / 2.0 && self.window.work < HOPELESS * expected
    }

    fn start_round(&mut self) {
        self.window = Observed::default();
        self.gained = false;
        self.agenda.clear();
        self.agenda.push(Try::Fewer);
        let bounded = |lane: &Lane| self.setting.bounds[*lane as usize].is_some();
        self.agenda.extend(Lane::ALL.into_iter().filter(bounded).map(Try::Loosen));
        self.phase = Phase::Before(Try::More);
    }

    fn next(&mut self) {
        self.phase = match self.agenda.pop() {
            Some(next) => Phase::Before(next),
            None => {
                self.rest = if self.gained {
                    REST_SECONDS
                } else {
                    (self.rest * 2.0).min(REST_MAX_SECONDS)
                };
                Phase::Rest(self.rest)
            }
        };
    }

    /// Sets what is to be tried, if it makes sense.
    fn try_it(&mut self, tried: Try, before: Observed) {
        let back = self.setting;
        let workers = back.workers;
        let factor = if self.ramping { RAMP } else { STEP };
        let mut setting = back;
        match tried {
            Try::More if before.cpu >= CPU_BOUND || before.waiting < WAITING => {}
            Try::More => setting.workers = scaled(workers, factor).min(self.cap),
            // With fewer than keep the processors busy something is lost for certain.
            Try::Fewer if before.waiting < WAITING => {}
            Try::Fewer => {
                let step = scaled(workers, 1.0 / STEP);
                let half = scaled(workers, 1.0 / RAMP);
                let needed = self.without_a_crowd(&before, workers).max(half);
                let fewer = if self.halvings > 0 { needed.min(step) } else { step };
                setting.workers = fewer.max(self.least);
            }
            Try::Bound(lane) => {
                let narrower = back.bounds[lane as usize].map(|bound| scaled(bound, 1.0 / STEP));
                setting.bounds[lane as usize] =
                    Some(narrower.unwrap_or_else(|| self.bearable(lane, &before)));
            }
            Try::Loosen(lane) => {
                let bound = back.bounds[lane as usize].map(|bound| scaled(bound, STEP));
                setting.bounds[lane as usize] = bound.filter(|bound| *bound < workers);
            }
        }
        if setting == back {
            if tried == Try::More {
                if self.ramping && before.cpu < CPU_BOUND && workers < self.cap {
                    // They have no work yet: a copy's first moments say nothing about the rest.
                    self.phase = Phase::Before(Try::More);
                    return;
                }
                if self.ramping {
                    // The last doublings may have been too many.
                    self.agenda = vec![Try::Fewer];
                }
                self.ramping = false;
            }
            return self.next();
        }
        self.steps += 1;
        self.set(setting);
        self.phase = Phase::During { tried, before, back, least: before.rate(), confirmed: false };
    }

    /// Keeps what was tried, or takes it back.
    fn judge(
        &mut self,
        tried: Try,
        before: Observed,
        during: Observed,
        back: Setting,
        confirmed: bool,
    ) {
        let gain = during.rate() / before.rate().max(f64::MIN_POSITIVE);
        if tried == Try::Fewer {
            let fewer = self.setting;
            self.set(back);
            if !during.is_enough(&before, share(&fewer, &back)) {
                self.halvings = self.halvings.saturating_sub(1);
                return self.next();
            }
            self.phase = Phase::After { before, during, fewer };
            return;
        }
        if gain >= if self.ramping { RAMP_GAIN } else { STEP_GAIN } {
            if gain < CERTAIN_GAIN && !confirmed && !self.ramping {
                self.phase =
                    Phase::During { tried, before, back, least: before.rate(), confirmed: true };
                return;
            }
            self.gained = true;
            match tried {
                Try::More => self.try_it(Try::More, during),
                Try::Bound(lane) => {
                    // Others may now bear more workers, and this one perhaps fewer still.
                    self.agenda.push(Try::Bound(lane));
                    self.phase = Phase::Before(Try::More);
                }
                Try::Fewer | Try::Loosen(_) => self.next(),
            }
            return;
        }
        if self.ramping && !confirmed {
            // The windows of the ramp are short, and ending it for a dip costs seconds.
            self.phase =
                Phase::During { tried, before, back, least: before.rate(), confirmed: true };
            return;
        }
        self.set(back);
        match tried {
            Try::More => {
                if gain < WORSE
                    && let Some(lane) = self.crowded(&before, &during)
                {
                    return self.try_bound(lane, before, during.rate(), back);
                }
                if self.ramping {
                    // The machine did something else, perhaps; or it was too much at once.
                    self.doublings = self.doublings.saturating_sub(1);
                    self.ramping = self.doublings > 0 && gain < DIP;
                    self.phase = Phase::Before(Try::More);
                    self.agenda = vec![Try::Fewer];
                    return;
                }
            }
            // One that starves the copy follows from a wrong idea of the lane, which stays wrong.
            Try::Bound(lane) if gain < HOPELESS => {
                self.refused_bounds[lane as usize] = REFUSED_MAX;
            }
            Try::Bound(lane) => self.refused_bounds[lane as usize] += 1,
            Try::Fewer | Try::Loosen(_) => {}
        }
        self.ramping = false;
        self.next();
    }

    /// Keeps fewer workers if they were enough beside what was measured before them and after them.
    fn judge_fewer(&mut self, fewer: Setting, more: &[Observed; 2], during: &Observed) {
        let share = share(&fewer, &self.setting);
        if !more.iter().all(|more| during.is_enough(more, share)) {
            self.halvings = self.halvings.saturating_sub(1);
            return self.next();
        }
        self.set(fewer);
        let better = |more: &Observed| during.rate() >= STEP_GAIN * more.rate();
        let better = more.iter().all(better);
        self.gained |= better;
        // After the doubling most of a crowd may still be there.
        if better || self.halvings > 0 {
            return self.try_it(Try::Fewer, *during);
        }
        // Down again and again without a loss is a way to lose a little each time.
        self.next();
    }

    /// The lane in which the crowd queues, if it got slower with more workers while others did not that are waited for
    /// as well.
    fn crowded(&self, before: &Observed, during: &Observed) -> Option<Lane> {
        let rise = |lane: Lane| {
            let was = before.latency(lane);
            if was > 0.0 { during.latency(lane) / was } else { 1.0 }
        };
        let much = |at: &Observed, lane| at.inside(lane) >= LARGE_PART * at.inside_all();
        // Not the one that got slower by the largest part: two lanes of one server do alike, and the few operations of
        // one of them are not where the crowd is.
        let queued = |lane: &Lane| {
            during.inside(*lane) - during.per_second(*lane) * self.quickest[*lane as usize]
        };
        let worst = Lane::ALL
            .into_iter()
            .filter(|lane| much(during, *lane))
            .max_by(|a, b| queued(a).total_cmp(&queued(b)))?;
        let bears_more =
            |lane: &Lane| *lane != worst && much(before, *lane) && rise(*lane) < CROWDED;
        let open = self.refused_bounds[worst as usize] < REFUSED_MAX
            && self.setting.bounds[worst as usize].is_none();
        (open && rise(worst) >= CROWDED && Lane::ALL.iter().any(bears_more)).then_some(worst)
    }

    fn remember_quickest(&mut self, seen: &Observed) {
        for lane in Lane::ALL {
            let latency = seen.latency(lane);
            let quickest = &mut self.quickest[lane as usize];
            if seen.lanes[lane as usize].0 >= LANE_WORK && (*quickest == 0.0 || latency < *quickest)
            {
                *quickest = latency;
            }
        }
    }

    /// How many a lane bears: as many as would be inside at this throughput if each operation took as
    /// long as when there was no crowd, and some more, so that it never idles.
    fn bearable(&self, lane: Lane, seen: &Observed) -> usize {
        whole(BEARABLE * seen.per_second(lane) * self.quickest[lane as usize]).max(1)
    }

    /// How many of these workers would do as much if no operation queued: those that would be inside the lanes
    /// then, those that compute, and some more, so that nothing idles.
    fn without_a_crowd(&self, seen: &Observed, workers: usize) -> usize {
        let inside = |lane: Lane| {
            // What has not been seen often enough to be known is taken as it is.
            let known = Some(self.quickest[lane as usize]).filter(|quickest| *quickest > 0.0);
            known.map_or(seen.inside(lane), |quickest| seen.per_second(lane) * quickest)
        };
        let inside: f64 = Lane::ALL.into_iter().map(inside).sum();
        #[allow(clippy::cast_precision_loss)] // some hundreds
        let computing = workers as f64 * (1.0 - seen.waiting).max(0.0);
        whole(BEARABLE * (inside + computing)).max(1)
    }

    /// Tries to bound a crowded lane while more workers are there for the others.
    fn try_bound(&mut self, lane: Lane, before: Observed, crowd: f64, back: Setting) {
        self.ramping = false;
        let mut setting = back;
        setting.workers = scaled(back.workers, RAMP).min(self.cap);
        setting.bounds[lane as usize] = Some(self.bearable(lane, &before));
        self.steps += 1;
        self.set(setting);
        // Without a bound that helps fewer have to do.
        self.agenda.push(Try::Fewer);
        // The crowd has to go home first.
        let least = crowd.min(before.rate());
        self.phase =
            Phase::During { tried: Try::Bound(lane), before, back, least, confirmed: false };
    }
}

/// Which part of the workers of one setting another one has.
#[allow(clippy::cast_precision_loss)] // some hundreds
fn share(of: &Setting, all: &Setting) -> f64 {
    of.workers as f64 / all.workers as f64
}

/// A number of workers times a factor, moved by at least one.
fn scaled(workers: usize, factor: f64) -> usize {
    #[allow(clippy::cast_precision_loss)] // some hundreds
    let moved = workers as f64 * factor;
    if factor > 1.0 { whole(moved).max(workers + 1) } else { whole(moved).min(workers - 1).max(1) }
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // some hundreds at most
fn whole(number: f64) -> usize {
    number.round().max(0.0) as usize
}

#[cfg(test)]
mod tests;
