//! Shows running copies to people (bars, plain lines) and to programs (JSON lines), on standard
//! error. It reads the counters and the report of each copy; it never influences a copy, and an
//! error of writing progress is dropped, because a closed log must not stop a copy.

mod bars;
pub mod human;
mod json;
mod lines;
mod rate;
pub mod summary;

use std::io::{IsTerminal, Write};
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::error::show;
use crate::exit::Outcome;
use crate::progress::{Progress, Snapshot};
use crate::report::Report;

use rate::{Eta, Rate};

/// How progress is shown.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Mode {
    /// Bars when standard error is a terminal, otherwise plain lines.
    #[default]
    Auto,
    /// Bars; plain lines where standard error is no terminal, which cannot redraw them.
    Bar,
    /// One JSON object per line (`docs/progress-json.md`).
    Json,
    /// Nothing.
    None,
}

/// Names one copy of a [`Display`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CopyId(usize);

/// Progress of one or several copies that run at the same time. All methods may be called from any
/// thread. Call [`Display::close`] before anything else is printed.
#[derive(Debug)]
pub struct Display {
    shared: Arc<Shared>,
    ticker: Mutex<Option<JoinHandle<()>>>,
    summaries: Summaries,
}

/// What [`Display::summarize`] prints.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Summaries {
    /// Every summary.
    All,
    /// Only of copies that are not complete: `--progress none` must not hide a failure.
    Failures,
    /// None: the `done` object says it all.
    No,
}

#[derive(Debug)]
struct Shared {
    inner: Mutex<Inner>,
    wake: Condvar,
}

#[derive(Debug)]
struct Inner {
    copies: Vec<Running>,
    view: Option<View>,
    state: Option<String>,
    closed: bool,
}

/// One copy that was added.
#[derive(Debug)]
struct Running {
    label: String,
    progress: Arc<Progress>,
    rate: Rate,
    finished: bool,
}

/// What a view draws of one running copy.
#[derive(Debug)]
struct Observed<'a> {
    label: &'a str,
    snapshot: Snapshot,
    bytes_per_second: f64,
    files_per_second: f64,
    eta: Eta,
}

/// The ways to show progress. Each gets the same events.
#[derive(Debug)]
enum View {
    Bars(bars::Bars),
    Lines(lines::Lines),
    Json(json::Json),
}

impl Display {
    /// Starts showing progress on standard error.
    #[must_use]
    pub fn new(mode: Mode) -> Self {
        let terminal = std::io::stderr().is_terminal();
        let writer = Box::new(std::io::stderr());
        let view = match mode {
            Mode::Auto | Mode::Bar if terminal => Some(View::Bars(bars::Bars::new())),
            Mode::Auto | Mode::Bar => Some(View::Lines(lines::Lines::new(writer))),
            Mode::Json => Some(View::Json(json::Json::new(writer))),
            Mode::None => None,
        };
        let summaries = match mode {
            Mode::Auto | Mode::Bar => Summaries::All,
            Mode::Json => Summaries::No,
            Mode::None => Summaries::Failures,
        };
        Self::with_view(view, summaries)
    }

    /// Starts writing JSON lines (`docs/progress-json.md`) to somebody else than standard error.
    #[must_use]
    pub fn json_to(writer: Box<dyn Write + Send>) -> Self {
        Self::with_view(Some(View::Json(json::Json::new(writer))), Summaries::No)
    }

    fn with_view(view: Option<View>, summaries: Summaries) -> Self {
        let silent = view.is_none();
        let shared = Arc::new(Shared {
            inner: Mutex::new(Inner { copies: Vec::new(), view, state: None, closed: false }),
            wake: Condvar::new(),
        });
        let ticker = if silent {
            None
        } else {
            let shared = Arc::clone(&shared);
            // Without a thread there is no progress, which is no reason not to copy.
            std::thread::Builder::new()
                .name("progress".to_owned())
                .spawn(move || shared.tick_until_closed())
                .ok()
        };
        Self { shared, ticker: Mutex::new(ticker), summaries }
    }

    /// Whether bars are drawn, so that it is worth counting what is left.
    #[must_use]
    pub fn draws_bars(&self) -> bool {
        matches!(self.shared.lock().view, Some(View::Bars(_)))
    }

    /// Adds a copy. An empty label means the only copy of this command: its end is not announced,
    /// because the caller prints the [`summary`].
    pub fn add(&self, label: &str, progress: Arc<Progress>) -> CopyId {
        let mut inner = self.shared.lock();
        inner.copies.push(Running {
            label: show(Path::new(label)),
            progress,
            rate: Rate::default(),
            finished: false,
        });
        CopyId(inner.copies.len() - 1)
    }

    /// Ends a copy: its bar goes, and a line (or the JSON object `done`) says how it ended.
    pub fn finish(&self, id: CopyId, report: &Report) {
        let mut inner = self.shared.lock();
        let Inner { copies, view, .. } = &mut *inner;
        let Some(copy) = copies.get_mut(id.0).filter(|copy| !copy.finished) else {
            return;
        };
        copy.finished = true;
        match view {
            Some(View::Bars(view)) => view.finish(&copy.label, report),
            Some(View::Lines(view)) => view.finish(&copy.label, report),
            Some(View::Json(view)) => view.finish(&copy.label, report),
            None => {}
        }
        if matches!(inner.view, Some(View::Bars(_))) {
            inner.tick(); // its bar goes now: a job that starts next has the terminal for itself
        }
    }

    /// Ends something else than a copy that was added with an empty label; `done` is the JSON object.
    pub fn finish_with(&self, id: CopyId, done: &impl serde::Serialize) {
        let mut inner = self.shared.lock();
        let Inner { copies, view, .. } = &mut *inner;
        let Some(copy) = copies.get_mut(id.0).filter(|copy| !copy.finished) else {
            return;
        };
        copy.finished = true;
        if let (Some(View::Json(view)), Ok(done)) = (view, serde_json::to_value(done)) {
            view.finish_with(&copy.label, &done);
        }
    }

    /// Names the state that the whole command is in from now on (`longshore run`: `DataIn`, …).
    pub fn state(&self, name: &str) {
        let name = show(Path::new(name));
        let mut inner = self.shared.lock();
        let Inner { view, state, .. } = &mut *inner;
        match view {
            Some(View::Bars(view)) => view.message(&name),
            Some(View::Lines(view)) => view.message(&name),
            Some(View::Json(view)) => view.state(&name),
            None => {}
        }
        *state = Some(name);
    }

    /// Shows a text between the progress; control characters but newlines are escaped. In mode
    /// `None` it is dropped.
    pub fn message(&self, text: &str) {
        let text: Vec<String> = text.lines().map(|line| show(Path::new(line))).collect();
        let text = text.join("\n");
        match &mut self.shared.lock().view {
            Some(View::Bars(view)) => view.message(&text),
            Some(View::Lines(view)) => view.message(&text),
            Some(View::Json(view)) => view.message(&text),
            None => {}
        }
    }

    /// Stops at once and leaves the terminal clean. Progress of copies that were not finished is
    /// not announced any more.
    pub fn close(&self) {
        self.shared.stop();
        let ticker = self.ticker.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(ticker) = ticker {
            let _ = ticker.join(); // a panic of the ticker was already printed by its thread
        }
        if let Some(View::Bars(view)) = &mut self.shared.lock().view {
            view.clear();
        }
    }

    /// Closes, and prints the summary of a copy on standard error: always on a terminal or in plain
    /// lines, only when the copy is not complete in mode `None`, never as JSON.
    pub fn summarize(&self, report: &Report, failed_list: Option<&Path>) {
        self.close();
        let wanted = match self.summaries {
            Summaries::All => true,
            Summaries::Failures => report.outcome != Outcome::Complete,
            Summaries::No => false,
        };
        if wanted {
            let text = summary::text(report, failed_list, human::colour_on_stderr());
            let _ = std::io::stderr().write_all(text.as_bytes()); // nobody reads it: nothing to do
        }
    }
}

impl Drop for Display {
    /// Stops the ticker when the caller returned early, without waiting for it.
    fn drop(&mut self) {
        self.shared.stop();
    }
}

impl Shared {
    /// A panic elsewhere leaves counters that are still good enough to show.
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn stop(&self) {
        self.lock().closed = true;
        self.wake.notify_all();
    }

    fn tick_until_closed(&self) {
        let started = Instant::now();
        let mut inner = self.lock();
        let mut due = Duration::ZERO;
        loop {
            let Some(view) = &inner.view else { return };
            due = view.next_tick(due.max(started.elapsed()));
            while !inner.closed {
                let Some(left) = due.checked_sub(started.elapsed()) else { break };
                let waited = self.wake.wait_timeout(inner, left);
                inner = waited.unwrap_or_else(PoisonError::into_inner).0;
            }
            if inner.closed {
                return;
            }
            inner.tick();
        }
    }
}

impl Inner {
    fn tick(&mut self) {
        let observed: Vec<Observed<'_>> =
            self.copies.iter_mut().filter(|copy| !copy.finished).map(Running::observe).collect();
        match &mut self.view {
            Some(View::Bars(view)) => view.tick(&observed),
            Some(View::Lines(view)) => view.tick(&observed),
            Some(View::Json(view)) => view.tick(self.state.as_deref(), &observed),
            None => {}
        }
    }
}

impl Running {
    fn observe(&mut self) -> Observed<'_> {
        let snapshot = self.progress.snapshot();
        self.rate.update(&snapshot);
        let (bytes_per_second, files_per_second) = self.rate.per_second(snapshot.elapsed);
        let eta = Eta::of(&snapshot, bytes_per_second, files_per_second);
        Observed { label: &self.label, snapshot, bytes_per_second, files_per_second, eta }
    }
}

impl View {
    /// When the next tick is due, counted from the start of the display, after one at `now`.
    fn next_tick(&self, now: Duration) -> Duration {
        match self {
            Self::Bars(_) => now + bars::INTERVAL,
            Self::Lines(_) => lines::next_tick(now),
            Self::Json(_) => now + json::INTERVAL,
        }
    }
}

#[cfg(test)]
mod tests;
