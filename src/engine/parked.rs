//! Striped files whose servers have enough to do: they wait here, open, while workers do other things,
//! so that a slow server does not hold back the others. Who makes room on a server looks here.

use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, PoisonError};

use super::job::Task;
use super::large::LargeCopy;
use super::worker::Worker;

/// The files of one copy that wait.
#[derive(Debug)]
pub(crate) struct Parked {
    files: Mutex<Vec<Arc<LargeCopy>>>,
    /// How many may wait: each holds two descriptors, and those of its directories.
    most: usize,
}

impl Parked {
    /// Room for `most` files.
    pub(crate) fn new(most: usize) -> Self {
        Self { files: Mutex::default(), most }
    }

    /// Adds a file; false when there is no room.
    fn add(&self, copy: &Arc<LargeCopy>) -> bool {
        let mut files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        let room = files.len() < self.most;
        if room {
            files.push(Arc::clone(copy));
        }
        room
    }

    /// Takes out what need not wait any more: everything when the copy was stopped.
    fn take(&self, stopped: bool) -> Vec<Arc<LargeCopy>> {
        let mut files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        files.extract_if(.., |copy| stopped || copy.may_go_on()).collect()
    }
}

impl Worker<'_> {
    /// Leaves a file until one of its servers has room. It counts as a task that is not done.
    pub(super) fn park(&mut self, copy: Arc<LargeCopy>) {
        self.handle.begin();
        if !self.job.parked.add(&copy) {
            // Too many wait: this one is gone on with, however busy its servers are.
            copy.go_on_anyway();
            self.push(Task::Help(copy));
            self.handle.done();
        }
    }

    /// Goes on with files that need not wait any more. Called by whoever leaves a file, since that may
    /// have made room, and by whoever has nothing to do, since servers may have turned out to bear more;
    /// and a file is looked at after it was added, so that none is forgotten.
    pub(super) fn look_at_parked(&mut self) {
        let stopped = self.job.stopped();
        for copy in self.job.parked.take(stopped) {
            copy.is_parked.store(false, Relaxed);
            if stopped {
                self.let_go(&copy);
            } else {
                self.push(Task::Help(copy));
            }
            self.handle.done();
        }
    }
}
