//! Work that is stolen, not dealt: one LIFO deque per worker, thieves take the oldest task.
//! It knows nothing of what a task is.
//!
//! Nothing here has a fixed bound, and nothing needs one: a worker reads on in a directory only when
//! its own deque is empty of everything newer, so that what waits is at most one batch of entries
//! per level of the tree and worker.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

use crossbeam_deque::{Steal, Stealer, Worker};

/// The tasks of all workers, and who is waiting for one.
#[derive(Debug)]
pub(crate) struct Queue<T> {
    stealers: Vec<Stealer<T>>,
    /// Tasks pushed and not yet done.
    outstanding: AtomicUsize,
    sleepers: AtomicUsize,
    /// A worker died with a task that will never be done.
    abandoned: AtomicBool,
    gate: Mutex<()>,
    bell: Condvar,
}

/// One worker's end of the queue; stays on its thread.
#[derive(Debug)]
pub(crate) struct Handle<'q, T> {
    queue: &'q Queue<T>,
    own: Worker<T>,
    index: usize,
}

/// What a worker finds when it asks for work.
#[derive(Debug)]
pub(crate) enum Found<T> {
    /// A task; say `done` after it.
    Task(T),
    /// None now, but others are still working and may push some.
    NothingYet,
    /// Every task of every worker is done.
    Finished,
}

impl<T> Queue<T> {
    /// A queue for `count` workers, and their deques, to be turned into handles on their threads.
    pub(crate) fn new(count: usize) -> (Self, Vec<Worker<T>>) {
        let workers: Vec<Worker<T>> = (0..count).map(|_| Worker::new_lifo()).collect();
        let queue = Self {
            stealers: workers.iter().map(Worker::stealer).collect(),
            outstanding: AtomicUsize::new(0),
            sleepers: AtomicUsize::new(0),
            abandoned: AtomicBool::new(false),
            gate: Mutex::new(()),
            bell: Condvar::new(),
        };
        (queue, workers)
    }

    /// Puts the first tasks into one worker's deque, before any worker runs.
    pub(crate) fn start(&self, own: &Worker<T>, tasks: impl IntoIterator<Item = T>) {
        for task in tasks {
            self.outstanding.fetch_add(1, SeqCst);
            own.push(task);
        }
    }

    /// The handle of worker `index`.
    pub(crate) fn handle(&self, own: Worker<T>, index: usize) -> Handle<'_, T> {
        Handle { queue: self, own, index }
    }

    /// Sends everybody home although tasks are left: the others would wait for ever for one that a
    /// dead worker holds.
    pub(crate) fn abandon(&self) {
        self.abandoned.store(true, SeqCst);
        self.ring(true);
    }

    fn ring(&self, everybody: bool) {
        // The lock orders this call after a sleeper's last look at the deques.
        let gate = self.gate.lock().unwrap_or_else(PoisonError::into_inner);
        if everybody {
            self.bell.notify_all();
        } else {
            self.bell.notify_one();
        }
        drop(gate);
    }

    fn steal(&self, thief: usize) -> Option<T> {
        let count = self.stealers.len();
        for step in 1..count {
            let victim = &self.stealers[(thief + step) % count];
            loop {
                match victim.steal() {
                    Steal::Success(task) => return Some(task),
                    Steal::Empty => break,
                    Steal::Retry => {}
                }
            }
        }
        None
    }
}

impl<T> Handle<'_, T> {
    /// Adds a task; this worker takes its newest first.
    pub(crate) fn push(&self, task: T) {
        self.queue.outstanding.fetch_add(1, SeqCst);
        self.own.push(task);
        if self.queue.sleepers.load(SeqCst) > 0 {
            self.queue.ring(false);
        }
    }

    /// The next task: an own one, else a stolen one.
    pub(crate) fn find(&self) -> Found<T> {
        if self.queue.abandoned.load(SeqCst) {
            return Found::Finished;
        }
        if let Some(task) = self.own.pop().or_else(|| self.queue.steal(self.index)) {
            return Found::Task(task);
        }
        if self.queue.outstanding.load(SeqCst) == 0 { Found::Finished } else { Found::NothingYet }
    }

    /// Marks one found task as done. Its follow-up tasks must have been pushed before.
    pub(crate) fn done(&self) {
        if self.queue.outstanding.fetch_sub(1, SeqCst) == 1 {
            self.queue.ring(true);
        }
    }

    /// Sleeps until somebody pushes a task or everything is done; at most `limit`.
    pub(crate) fn sleep(&self, limit: Duration) {
        let queue = self.queue;
        let gate = queue.gate.lock().unwrap_or_else(PoisonError::into_inner);
        queue.sleepers.fetch_add(1, SeqCst);
        let work = queue.stealers.iter().any(|deque| !deque.is_empty());
        if !work && queue.outstanding.load(SeqCst) > 0 {
            drop(queue.bell.wait_timeout(gate, limit).unwrap_or_else(PoisonError::into_inner));
        }
        queue.sleepers.fetch_sub(1, SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU64;

    use super::*;

    /// A tree of tasks: every task of rank n pushes two of rank n - 1.
    #[test]
    fn every_task_is_done_once_and_all_workers_come_home() {
        let done = AtomicU64::new(0);
        let (queue, workers) = Queue::<u32>::new(4);
        std::thread::scope(|scope| {
            for (index, own) in workers.into_iter().enumerate() {
                let handle_of = &queue;
                let done = &done;
                if index == 0 {
                    handle_of.start(&own, [14]);
                }
                scope.spawn(move || {
                    let handle = handle_of.handle(own, index);
                    loop {
                        match handle.find() {
                            Found::Task(rank) => {
                                if rank > 0 {
                                    handle.push(rank - 1);
                                    handle.push(rank - 1);
                                }
                                done.fetch_add(1, SeqCst);
                                handle.done();
                            }
                            Found::NothingYet => handle.sleep(Duration::from_secs(5)),
                            Found::Finished => break,
                        }
                    }
                });
            }
        });
        assert_eq!(done.load(SeqCst), (1 << 15) - 1);
    }

    /// A worker that panics never says `done`; the others must not wait for it.
    #[test]
    fn workers_come_home_when_the_queue_is_abandoned() {
        let (queue, mut workers) = Queue::<u32>::new(2);
        queue.start(&workers[0], [1]);
        let holder = queue.handle(workers.remove(0), 0);
        assert!(matches!(holder.find(), Found::Task(1)));
        let other = queue.handle(workers.remove(0), 1);
        assert!(matches!(other.find(), Found::NothingYet));
        queue.abandon();
        assert!(matches!(other.find(), Found::Finished));
    }
}
