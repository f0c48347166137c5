//! DataIn and DataOut: the copies of one state, side by side. A failed copy does not stop its
//! siblings; what a failure means for the run is not decided here.

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::thread;

use super::leg::Leg;
use super::machine::Copier;
use super::naming::{Settled, settle};
use super::report::{CopyEnd, CopyReport};
use super::{CopyLabel, Observer, RunError, Signals};
use crate::engine::Control;
use crate::exit::Outcome;
use crate::lustre::ready;
use crate::options::{CopyRequest, JournalPlace, Target};

/// Copies at the same time. Each has at least one thread and a few open directories, so that this
/// many stay below the usual limit of 1024 descriptors.
const SIDE_BY_SIDE: usize = 64;

/// The copies of one state.
pub struct Stage<'a> {
    /// Those that are not complete yet.
    pub legs: Vec<&'a Leg>,
    /// Where the copies note what is finished, for the process after this one.
    pub journals: PathBuf,
    /// The engine.
    pub copier: Copier<'a>,
    /// Who is told.
    pub observer: &'a dyn Observer,
    /// The way to stop.
    pub signals: &'a Signals,
    /// Remembers durably that a leg is complete.
    pub completed: &'a (dyn Fn(&Leg) -> Result<(), RunError> + Sync),
}

/// A leg whose names are settled, or why they could not be.
struct Ready<'a> {
    leg: &'a Leg,
    label: CopyLabel,
    request: Result<CopyRequest, String>,
}

impl Stage<'_> {
    /// Does all copies and returns what they did, in the order of the script.
    ///
    /// # Errors
    /// [`RunError::System`] when the journal could not be written.
    pub fn run(&self) -> Result<Vec<CopyReport>, RunError> {
        let at_once = self.legs.len().clamp(1, SIDE_BY_SIDE);
        let cores = thread::available_parallelism().map_or(1, NonZeroUsize::get);
        let threads = NonZeroUsize::new(cores / at_once).unwrap_or(NonZeroUsize::MIN);
        // One after the other in the script's order, so that a copy which makes a destination
        // directory decides the same names every time for the copies after it.
        let ready: Vec<_> = self.legs.iter().map(|leg| self.prepare(leg, threads)).collect();
        let next = AtomicUsize::new(0);
        let reports: Mutex<Vec<(usize, CopyReport)>> = Mutex::new(Vec::new());
        let failure: Mutex<Option<RunError>> = Mutex::new(None);
        thread::scope(|scope| {
            for _ in 0..at_once {
                scope.spawn(|| {
                    loop {
                        let index = next.fetch_add(1, Relaxed);
                        let Some(ready) = ready.get(index) else {
                            return;
                        };
                        let report = self.copy(ready);
                        if report.outcome() == Outcome::Complete
                            && let Err(error) = (self.completed)(ready.leg)
                        {
                            *failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
                        }
                        let mut reports = reports.lock().unwrap_or_else(PoisonError::into_inner);
                        reports.push((index, report));
                    }
                });
            }
        });
        if let Some(error) = failure.into_inner().unwrap_or_else(PoisonError::into_inner) {
            return Err(error);
        }
        let mut reports = reports.into_inner().unwrap_or_else(PoisonError::into_inner);
        reports.sort_by_key(|(index, _)| *index);
        Ok(reports.into_iter().map(|(_, report)| report).collect())
    }

    fn prepare<'a>(&self, leg: &'a Leg, threads: NonZeroUsize) -> Ready<'a> {
        let label = |source: PathBuf, destination: PathBuf| CopyLabel {
            line: leg.line,
            index: leg.index,
            allocation: leg.allocation,
            direction: leg.direction,
            source,
            destination,
        };
        // Directories are made below, and not where a filesystem is missing.
        let ends = [leg.source.as_path(), leg.destination.as_path()];
        let mounted = ready::check(&ends, &[], ready::LIMIT).map_err(|refusal| refusal.to_string());
        let settled =
            mounted.and_then(|()| settle(&leg.source, &leg.destination, leg.fan_in.as_deref()));
        let made = settled.and_then(Settled::make_directory);
        match made {
            Ok(Settled { source, destination, .. }) => {
                let mut request = CopyRequest::new(vec![source.clone()], destination.clone());
                request.target = Target::Exact;
                request.options.threads = Some(threads);
                // What an earlier process finished is not copied again.
                request.options.journal.place = JournalPlace::Within(self.journals.clone());
                Ready { leg, label: label(source, destination), request: Ok(request) }
            }
            Err(problem) => {
                let label = label(leg.source.clone(), leg.destination.clone());
                Ready { leg, label, request: Err(problem) }
            }
        }
    }

    fn copy(&self, ready: &Ready<'_>) -> CopyReport {
        let copy = ready.label.clone();
        let refused = |problem: String| {
            self.observer.message(&format!("{copy}: {problem}"));
            CopyEnd::Refused(problem)
        };
        let end = match &ready.request {
            Err(problem) => refused(problem.clone()),
            Ok(request) => {
                let cancel = self.signals.cancel().clone();
                let count_ahead = self.observer.wants_totals();
                let control = Control { cancel, count_ahead, ..Control::default() };
                self.observer.copy_started(&copy, &control.progress);
                match (self.copier)(request, &control) {
                    Ok(report) => {
                        self.observer.copy_done(&copy, &report);
                        CopyEnd::Report(Box::new(report))
                    }
                    Err(refusal) => refused(refusal.to_string()),
                }
            }
        };
        CopyReport { copy, end }
    }
}
