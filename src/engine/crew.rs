//! The crew: starts the workers, has the tuner look at what they do, sends more of them or lets some go
//! home, and waits for the end. What a worker does is the worker's business.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::thread::{Scope, ScopedJoinHandle};
use std::time::Duration;

use nix::errno::Errno;

use super::count;
use super::job::{Job, Task};
use super::observe::Observer;
use super::queue::{Handle, Queue};
use super::worker::Worker;
use crate::error::{FailureKind, Refusal, Step, StepError};
use crate::report::Concurrency;

/// Stack of a worker thread. The walk does not recurse, so the default would do; stated because a
/// retry chain of linked names calls itself.
const STACK_BYTES: usize = 4 << 20;

/// A copy that is over by then keeps the workers that it began with.
const FIRST_LOOK: Duration = Duration::from_millis(60);
/// How often the tuner looks.
const LOOK: Duration = Duration::from_millis(50);

/// Sends the other workers home when this one panics, so that the panic ends the process instead of
/// leaving it waiting.
struct Alarm<'q>(&'q Queue<Task>);

impl Drop for Alarm<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.abandon();
        }
    }
}

/// Who is there.
#[derive(Debug, Default)]
pub(crate) struct Present {
    /// Workers that the copy began with, whose backends are the best there are.
    starters: AtomicUsize,
    /// Workers that came later.
    extras: AtomicUsize,
    peak: AtomicUsize,
    /// One of them could begin.
    worked: AtomicBool,
}

impl Present {
    fn all(&self) -> usize {
        self.starters.load(Relaxed) + self.extras.load(Relaxed)
    }

    fn comes(&self, extra: bool) {
        let group = if extra { &self.extras } else { &self.starters };
        group.fetch_add(1, Relaxed);
        self.peak.fetch_max(self.all(), Relaxed);
    }

    pub(crate) fn goes(&self, extra: bool) {
        let group = if extra { &self.extras } else { &self.starters };
        group.fetch_sub(1, Relaxed);
    }

    /// Whether a worker of this group is one too many; if so it counts as gone. Starters stay as long
    /// as there are others, unless they alone are too many: others may be busy for hours.
    pub(crate) fn may_go(&self, extra: bool, wanted: usize) -> bool {
        let group = if extra { &self.extras } else { &self.starters };
        let present = group.load(Relaxed);
        let others = self.all().saturating_sub(present);
        if present + others <= wanted || (!extra && others > 0 && present <= wanted) {
            return false;
        }
        group.compare_exchange(present, present - 1, Relaxed, Relaxed).is_ok()
    }
}

type Workers<'s> = Vec<ScopedJoinHandle<'s, Result<(), Errno>>>;

/// Runs workers on some tasks until everything that follows from them is done or dropped.
///
/// # Errors
/// A refusal when not even one worker could be had.
pub(crate) fn work(job: &Job<'_>, tasks: Vec<Task>) -> Result<Concurrency, Refusal> {
    if tasks.is_empty() {
        return Ok(Concurrency::default());
    }
    let lanes = &job.control.lanes;
    let sizing = job.sizing;
    lanes.set_crew(sizing.starters, sizing.threads);
    let queue = Queue::new(sizing.threads, Task::is_walk);
    let present = Present::default();
    let first = queue.join().expect("a queue for at least one worker has room for the first");
    let walk = tasks.iter().filter(|task| task.is_walk()).count();
    job.walk_begins(walk);
    queue.ask_for_second();
    for task in tasks {
        first.push(task);
    }
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let counter = (job.control.count_ahead && walk > 0).then(|| {
            let over = &over;
            scope.spawn(move || count::count_ahead(job.plan, &job.control.progress, over))
        });
        let mut first_error = None;
        let mut workers = Vec::new();
        // The others come when there is more than one task: of one file they would only see the end.
        match send(scope, job, &queue, &present, first, false) {
            Ok(worker) => workers.push(worker),
            Err(errno) => first_error = Some(errno),
        }
        let concurrency = attend(scope, job, &queue, &present, &mut workers);
        for worker in workers {
            let result = worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            first_error = first_error.or(result.err());
        }
        if queue.has_tasks() && present.worked.load(Relaxed) && !job.stopped() {
            // Never seen since files in flight count as tasks; but items that are missing without a
            // word would be the worst that can happen.
            let lost = StepError::found(Step::Open, FailureKind::Internal);
            job.fail(job.plan.roots[0].source.clone(), lost);
        }
        over.store(true, Relaxed);
        if let Some(counter) = counter {
            counter.thread().unpark();
        }
        // One worker is enough: it has stolen everything from those that could not start.
        match first_error {
            Some(errno) if !present.worked.load(Relaxed) => Err(Refusal::Request(format!(
                "no memory for the buffers of {} threads: {errno}",
                sizing.starters
            ))),
            _ => Ok(Concurrency { peak: present.peak.load(Relaxed), ..concurrency }),
        }
    })
}

/// Starts one worker at a place in the queue.
fn send<'s, 'e: 's>(
    scope: &'s Scope<'s, 'e>,
    job: &'e Job<'_>,
    queue: &'e Queue<Task>,
    present: &'e Present,
    place: Handle<'e, Task>,
    extra: bool,
) -> Result<ScopedJoinHandle<'s, Result<(), Errno>>, Errno> {
    present.comes(extra);
    std::thread::Builder::new()
        .name("copy".to_owned())
        .stack_size(STACK_BYTES)
        .spawn_scoped(scope, move || {
            let _alarm = Alarm(queue);
            // A ring belongs to the thread that made it.
            let worker = Worker::new(job, place, extra, present);
            present.worked.fetch_or(worker.is_ok(), Relaxed);
            worker.map(|mut worker| worker.run()).inspect_err(|_| present.goes(extra))
        })
        .map_err(|error| {
            present.goes(extra);
            error.raw_os_error().map_or(Errno::EAGAIN, Errno::from_raw)
        })
}

/// Sees to it that there are as many workers as are wanted, until everything is done.
fn attend<'s, 'e: 's>(
    scope: &'s Scope<'s, 'e>,
    job: &'e Job<'_>,
    queue: &'e Queue<Task>,
    present: &'e Present,
    workers: &mut Workers<'s>,
) -> Concurrency {
    let lanes = &job.control.lanes;
    let mut observer = Observer::new(job);
    let mut pause = FIRST_LOOK;
    while !queue.wait(pause) {
        if present.all() == 0 {
            break; // none could start
        }
        if !queue.has_second() {
            pause = LOOK;
            job.begin_checkpoints();
            observer.look();
        }
        workers.retain(|worker| !worker.is_finished() || present.all() == 0);
        // Counted before the first is sent: when everything is done they go as fast as they come, and those that
        // have gone keep their stacks for a moment, so that thousands of them are no more than the system maps.
        for _ in present.all()..lanes.workers() {
            if !queue.has_tasks() {
                break;
            }
            let extra = present.starters.load(Relaxed) >= job.sizing.starters;
            let Some(place) = queue.join() else { break };
            match send(scope, job, queue, present, place, extra) {
                Ok(worker) => workers.push(worker),
                Err(_) => {
                    // No more threads are to be had: those that are there are what it takes.
                    lanes.cap_workers(present.all());
                    break;
                }
            }
        }
    }
    observer.concurrency()
}
