//! One worker thread: finds tasks, does them, and takes what its backend finishes meanwhile.
//! What a task means is in the modules named after it.

use std::sync::Arc;
use std::time::Duration;

use nix::errno::Errno;

use super::check::Reader;
use super::crew::Present;
use super::dir::Dir;
use super::file::Pending;
use super::job::{Job, Names, Task};
use super::queue::{Found, Handle};
use super::sizing::Mover;
use crate::backend::plain::Plain;
use crate::backend::range::Range;
use crate::backend::splice::Splice;
use crate::backend::uring::Uring;
use crate::backend::{Backend, Finished};
use crate::error::{FailureKind, StepError};
use crate::journal::Writer;

/// Bytes of directory entries read at once: about a thousand names.
const ENTRIES_BYTES: usize = 32 << 10;
/// An idle worker looks up at least this often, to notice a cancellation.
const NAP: Duration = Duration::from_millis(50);
/// How often a step is tried again when descriptors ran out, and how long each wait is.
const DESCRIPTOR_RETRIES: u32 = 100;
const DESCRIPTOR_WAIT: Duration = Duration::from_millis(10);

/// A worker, on its thread.
pub(crate) struct Worker<'w> {
    pub(crate) job: &'w Job<'w>,
    pub(crate) handle: Handle<'w, Task>,
    pub(crate) backend: Box<dyn Backend<Pending>>,
    pub(crate) entries: Vec<u8>,
    pub(crate) extra: bool,
    pub(crate) present: &'w Present,
    /// It has left in the middle of a large file, and counts as gone.
    pub(crate) gone: bool,
    /// What reads files back, once there are some.
    pub(crate) reader: Option<Reader>,
    pub(crate) journal: Option<Writer>,
    finished: Vec<Finished<Pending>>,
    /// Files in flight are counted as a task.
    holding: bool,
}

impl<'w> Worker<'w> {
    /// Makes the backend that the sizing asks for. A ring that cannot be had now (its memory, say) is
    /// replaced by plain calls.
    ///
    /// # Errors
    /// The errno of mapping buffers.
    pub(crate) fn new(
        job: &'w Job<'w>,
        handle: Handle<'w, Task>,
        extra: bool,
        present: &'w Present,
    ) -> Result<Self, Errno> {
        let sizing = job.sizing;
        let plain = || Plain::new(sizing.unit);
        let backend: Box<dyn Backend<Pending>> = match sizing.mover {
            // Those that come later are for waiting: their memory is kept small.
            _ if extra => Box::new(Plain::new(sizing.extra_unit)?),
            Mover::Plain => Box::new(plain()?),
            Mover::Range => Box::new(Range::new(plain()?)),
            Mover::Splice => Box::new(Splice::new(plain()?)),
            Mover::Uring => {
                match Uring::new(plain()?, sizing.depth, sizing.large_slots, sizing.chunk_bytes) {
                    Ok(uring) => Box::new(uring),
                    Err(_) => Box::new(plain()?),
                }
            }
        };
        Ok(Self {
            job,
            handle,
            backend,
            entries: vec![0; ENTRIES_BYTES],
            extra,
            present,
            gone: false,
            reader: None,
            journal: job.journal.as_ref().map(Writer::new),
            finished: Vec::new(),
            holding: false,
        })
    }

    /// Works until every task of every worker is done, or fewer workers are wanted.
    pub(crate) fn run(&mut self) {
        let _seat = self.job.control.lanes.sit();
        loop {
            let wanted = self.job.control.lanes.workers();
            if self.gone || self.present.may_go(self.extra, wanted) {
                while self.backend.in_flight() > 0 {
                    self.take_finished(true);
                }
                return;
            }
            match self.handle.find() {
                Found::Task(task) => {
                    let walk = task.is_walk();
                    if self.job.stopped() {
                        self.leave_alone(task);
                    } else {
                        self.perform(task);
                    }
                    if walk {
                        self.job.walk_ends();
                    }
                    self.handle.done();
                }
                Found::NothingYet if self.backend.in_flight() > 0 => self.take_finished(true),
                Found::NothingYet => {
                    self.look_at_parked();
                    self.handle.sleep(NAP);
                }
                Found::Finished if self.backend.in_flight() > 0 => self.take_finished(true),
                Found::Finished => return self.present.goes(self.extra),
            }
        }
    }

    /// Counts files in flight as a task that is not done: what they bring when they are finished (a
    /// name to try again, a batch to read back) would come when everybody else has gone home.
    fn hold_while_in_flight(&mut self) {
        let flying = self.backend.in_flight() > 0;
        if flying == self.holding {
            return;
        }
        self.holding = flying;
        if flying {
            self.handle.begin();
        } else {
            self.handle.done();
        }
    }

    /// Does not begin a task: the next run will. A large file that nobody takes part in is let go.
    fn leave_alone(&mut self, task: Task) {
        if let Task::Help(copy) = task {
            self.let_go(&copy);
        }
    }

    fn perform(&mut self, task: Task) {
        match task {
            Task::Root(index) => self.root(index),
            Task::Enter(enter) => self.enter(enter),
            Task::Read(dir, position) => self.read(dir, position),
            Task::Slice(dir, names) => self.slice(&dir, &names),
            Task::Help(copy) => self.help(copy),
            Task::Check(parts) => self.check(parts),
        }
    }

    /// Adds a task, counting those of the walk.
    pub(crate) fn push(&self, task: Task) {
        if task.is_walk() {
            self.job.walk_begins(1);
        }
        self.handle.push(task);
    }

    fn slice(&mut self, dir: &Arc<Dir>, names: &Names) {
        for (kind, name) in names.iter() {
            if self.job.stopped() {
                return;
            }
            self.entry(dir, kind, name);
        }
    }

    /// Finishes the small files whose content has been moved; with `wait` at least one of them.
    pub(crate) fn take_finished(&mut self, wait: bool) {
        let mut finished = std::mem::take(&mut self.finished);
        if wait {
            self.backend.wait(&mut finished);
        }
        for file in finished.drain(..) {
            self.small_is_moved(file);
        }
        // Finishing one file can finish others, which are then in the new list.
        if self.finished.is_empty() {
            self.finished = finished;
        } else {
            self.take_finished(false);
        }
        self.hold_while_in_flight();
    }

    /// Hands a small file to the backend.
    pub(crate) fn move_small(&mut self, file: crate::backend::SmallFile<Pending>) {
        let mut finished = std::mem::take(&mut self.finished);
        self.backend.small(file, &mut finished);
        self.finished.append(&mut finished);
        if !self.finished.is_empty() {
            self.take_finished(false);
        }
        self.hold_while_in_flight();
    }

    /// Repeats a step while descriptors are short: what is in flight is finished first, then others
    /// are given time to close theirs.
    pub(crate) fn with_descriptors<T>(
        &mut self,
        mut step: impl FnMut(&mut Self) -> Result<T, StepError>,
    ) -> Result<T, StepError> {
        let mut tries = 0;
        loop {
            match step(self) {
                Err(error)
                    if error.kind == FailureKind::Descriptors && tries < DESCRIPTOR_RETRIES =>
                {
                    tries += 1;
                    while self.backend.in_flight() > 0 {
                        self.take_finished(true);
                    }
                    std::thread::sleep(DESCRIPTOR_WAIT);
                }
                other => return other,
            }
        }
    }

    /// Takes entries off their directory and finishes every directory that thereby is complete.
    pub(crate) fn settle(&mut self, dir: &Arc<Dir>, entries: usize) {
        let mut dir = Arc::clone(dir);
        let mut entries = entries;
        while dir.settle(entries) {
            let Some(parent) = dir.parent().cloned() else { return };
            self.finish_directory(&dir);
            dir = parent;
            entries = 1;
        }
    }
}
