//! Work that is stolen, not dealt: one LIFO deque per worker, thieves take the oldest task, and of a
//! worker that has directories to enter rather than of one that has only files of its own directory: two
//! who make files in one directory wait for each other. It knows nothing else of what a task is.
//!
//! Nothing here has a fixed bound, and nothing needs one: a worker reads on in a directory only when
//! its own deque is empty of everything newer, so that what waits is at most one batch of entries
//! per level of the tree and worker.

use std::cell::Cell;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed, Ordering::SeqCst};
use std::sync::{Condvar, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use crossbeam_deque::{Steal, Stealer, Worker};

/// The tasks of all workers, and who is waiting for one.
#[derive(Debug)]
pub(crate) struct Queue<T> {
    /// One for each deque made so far.
    stealers: Vec<OnceLock<Stealer<T>>>,
    /// How many tasks in each deque are wide. Only a hint of where to look first: it may be ahead of the
    /// deque for a moment.
    wide: Vec<AtomicUsize>,
    /// Whether a task leads to a part of the tree in which nobody works yet.
    is_wide: fn(&T) -> bool,
    made: AtomicUsize,
    /// Deques of workers that have gone home, with their numbers. What was left in one is stolen.
    spare: Mutex<Vec<(usize, Worker<T>)>>,
    /// Tasks pushed and not yet done.
    outstanding: AtomicUsize,
    sleepers: AtomicUsize,
    /// A worker died with a task that will never be done.
    abandoned: AtomicBool,
    /// Whoever waits for the end wants to know of a second task, and whether there was one.
    asked: AtomicBool,
    crowded: AtomicBool,
    gate: Mutex<()>,
    bell: Condvar,
    /// Rung when everything is done.
    over: Condvar,
}

/// One worker's end of the queue. Its deque is kept for another worker when it is dropped.
#[derive(Debug)]
pub(crate) struct Handle<'q, T> {
    queue: &'q Queue<T>,
    /// `None` only while it is being dropped.
    own: Option<Worker<T>>,
    index: usize,
    /// Whom it has robbed last: the next one is another, so that thieves do not all come to one directory.
    robbed: Cell<usize>,
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
    /// A queue for at most so many workers at a time. Wide tasks, those that lead to a part of the tree in
    /// which nobody works yet, are looked for first by thieves.
    pub(crate) fn new(most: usize, is_wide: fn(&T) -> bool) -> Self {
        Self {
            stealers: (0..most).map(|_| OnceLock::new()).collect(),
            wide: (0..most).map(|_| AtomicUsize::new(0)).collect(),
            is_wide,
            made: AtomicUsize::new(0),
            spare: Mutex::new(Vec::new()),
            outstanding: AtomicUsize::new(0),
            sleepers: AtomicUsize::new(0),
            abandoned: AtomicBool::new(false),
            asked: AtomicBool::new(false),
            crowded: AtomicBool::new(false),
            gate: Mutex::new(()),
            bell: Condvar::new(),
            over: Condvar::new(),
        }
    }

    /// A place for one more worker; `None` when there are as many as there may be.
    pub(crate) fn join(&self) -> Option<Handle<'_, T>> {
        let mut spare = self.spare.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((index, own)) = spare.pop() {
            return Some(Handle { queue: self, own: Some(own), index, robbed: Cell::new(index) });
        }
        // The lock is held: nobody else makes a deque now.
        let index = self.made.load(SeqCst);
        let place = self.stealers.get(index)?;
        let own = Worker::new_lifo();
        let _ = place.set(own.stealer()); // only ever set here
        self.made.store(index + 1, SeqCst);
        Some(Handle { queue: self, own: Some(own), index, robbed: Cell::new(index) })
    }

    /// Whether tasks are left.
    pub(crate) fn has_tasks(&self) -> bool {
        self.outstanding.load(SeqCst) > 0
    }

    /// From now on a task that is pushed while another one is not done ends [`Queue::wait`], once.
    pub(crate) fn ask_for_second(&self) {
        self.asked.store(true, SeqCst);
    }

    /// Whether that has happened; asked once.
    pub(crate) fn has_second(&self) -> bool {
        self.crowded.swap(false, SeqCst)
    }

    /// Waits until everything is done (true), at most so long, or until there is a second task (false).
    pub(crate) fn wait(&self, limit: Duration) -> bool {
        let over = || self.abandoned.load(SeqCst) || self.outstanding.load(SeqCst) == 0;
        let gate = self.gate.lock().unwrap_or_else(PoisonError::into_inner);
        if !over() && !self.crowded.load(SeqCst) {
            drop(self.over.wait_timeout(gate, limit).unwrap_or_else(PoisonError::into_inner));
        }
        over()
    }

    fn stealers(&self) -> impl DoubleEndedIterator<Item = &Stealer<T>> + ExactSizeIterator {
        let made = self.made.load(SeqCst);
        self.stealers[..made].iter().map(|place| place.get().expect("set before it was counted"))
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
            self.over.notify_all();
        } else {
            self.bell.notify_one();
        }
        drop(gate);
    }

    /// Takes the oldest task of another deque. Returns whose it was.
    fn steal(&self, thief: usize, after: usize) -> Option<(usize, T)> {
        let victims = || {
            let made = self.made.load(SeqCst);
            (after + 1..made).chain(0..made.min(after + 1)).filter(move |victim| *victim != thief)
        };
        let wide_first = victims().filter(|victim| self.wide[*victim].load(Relaxed) > 0);
        wide_first.chain(victims()).find_map(|victim| {
            let task = loop {
                match self.stealers[victim].get()?.steal() {
                    Steal::Success(task) => break task,
                    Steal::Empty => return None,
                    Steal::Retry => {}
                }
            };
            self.taken(victim, &task);
            Some((victim, task))
        })
    }

    /// Counts a task that was taken out of a deque.
    fn taken(&self, deque: usize, task: &T) {
        if (self.is_wide)(task) {
            self.wide[deque].fetch_sub(1, Relaxed);
        }
    }
}

impl<T> Handle<'_, T> {
    /// Adds a task; this worker takes its newest first.
    pub(crate) fn push(&self, task: T) {
        let before = self.queue.outstanding.fetch_add(1, SeqCst);
        if (self.queue.is_wide)(&task) {
            // Before it can be stolen, so that the count never falls below zero.
            self.queue.wide[self.index].fetch_add(1, Relaxed);
        }
        self.own().push(task);
        if self.queue.asked.load(Relaxed) && before > 0 && self.queue.asked.swap(false, SeqCst) {
            self.queue.crowded.store(true, SeqCst);
            self.queue.ring(true);
        }
        if self.queue.sleepers.load(SeqCst) > 0 {
            self.queue.ring(false);
        }
    }

    fn own(&self) -> &Worker<T> {
        self.own.as_ref().expect("only dropping takes the deque away")
    }

    /// The next task: an own one, else a stolen one.
    pub(crate) fn find(&self) -> Found<T> {
        if self.queue.abandoned.load(SeqCst) {
            return Found::Finished;
        }
        if let Some(task) = self.own().pop() {
            self.queue.taken(self.index, &task);
            return Found::Task(task);
        }
        if let Some((victim, task)) = self.queue.steal(self.index, self.robbed.get()) {
            self.robbed.set(victim);
            return Found::Task(task);
        }
        if self.queue.outstanding.load(SeqCst) == 0 { Found::Finished } else { Found::NothingYet }
    }

    /// Counts something that is to be done without being a task; say `done` after it.
    pub(crate) fn begin(&self) {
        self.queue.outstanding.fetch_add(1, SeqCst);
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
        let work = queue.stealers().any(|deque| !deque.is_empty());
        if !work && queue.outstanding.load(SeqCst) > 0 {
            drop(queue.bell.wait_timeout(gate, limit).unwrap_or_else(PoisonError::into_inner));
        }
        queue.sleepers.fetch_sub(1, SeqCst);
    }
}

impl<T> Drop for Handle<'_, T> {
    fn drop(&mut self) {
        let mut spare = self.queue.spare.lock().unwrap_or_else(PoisonError::into_inner);
        spare.extend(self.own.take().map(|own| (self.index, own)));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU64;

    use super::*;

    /// Files in flight bring tasks when they are finished; whoever waited for nothing else was gone.
    #[test]
    fn nobody_goes_home_while_something_is_in_flight() {
        let queue = Queue::<u32>::new(2, |_| false);
        let (one, other) = (queue.join().expect("room"), queue.join().expect("room"));
        one.push(1);
        assert!(matches!(one.find(), Found::Task(1)));
        one.begin();
        one.done();
        assert!(matches!(other.find(), Found::NothingYet));
        assert!(!queue.wait(Duration::ZERO));
        one.push(2);
        one.done();
        assert!(matches!(other.find(), Found::Task(2)));
        other.done();
        assert!(matches!(one.find(), Found::Finished));
        assert!(!queue.has_tasks());
    }

    #[test]
    fn a_second_task_is_told_of_once_and_only_when_it_was_asked_for() {
        let queue = Queue::<u32>::new(2, |_| false);
        let one = queue.join().expect("room");
        one.push(1);
        one.push(2);
        assert!(!queue.has_second());
        for task in 1..=2 {
            assert!(matches!(one.find(), Found::Task(found) if found == 3 - task));
            one.done();
        }
        queue.ask_for_second();
        one.push(3);
        assert!(!queue.has_second(), "there is one task only");
        std::thread::scope(|scope| {
            let waiter = scope.spawn(|| {
                let began = std::time::Instant::now();
                let over = queue.wait(Duration::from_secs(60));
                (over, began.elapsed())
            });
            one.push(4);
            let (over, waited) = waiter.join().expect("no panic");
            assert!(!over && waited < Duration::from_secs(50), "{waited:?}");
        });
        assert!(queue.has_second() && !queue.has_second());
        one.push(5);
        assert!(!queue.has_second());
    }

    #[test]
    fn thieves_look_first_where_a_wide_task_is_and_go_round() {
        let queue = Queue::<u32>::new(4, |task| *task >= 100);
        let [thief, near, far, third] = std::array::from_fn(|_| queue.join().expect("room"));
        near.push(1);
        near.push(2);
        far.push(100);
        far.push(3);
        far.push(4);
        third.push(5);
        third.push(101);
        assert!(matches!(third.find(), Found::Task(101)), "its own newest");
        assert!(matches!(thief.find(), Found::Task(100)));
        // None is wide any more: it goes round.
        for task in [5, 1, 3, 2, 4] {
            assert!(matches!(thief.find(), Found::Task(found) if found == task), "{task}");
        }
        assert!(queue.wide.iter().all(|wide| wide.load(Relaxed) == 0));
    }

    /// A tree of tasks: every task of rank n pushes two of rank n - 1.
    #[test]
    fn every_task_is_done_once_and_all_workers_come_home() {
        let done = AtomicU64::new(0);
        let queue = Queue::<u32>::new(4, |_| false);
        std::thread::scope(|scope| {
            for index in 0..4 {
                let handle = queue.join().expect("there is room for four");
                let done = &done;
                if index == 0 {
                    handle.push(14);
                }
                scope.spawn(move || {
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
        let queue = Queue::<u32>::new(2, |_| false);
        let holder = queue.join().expect("room");
        holder.push(1);
        assert!(matches!(holder.find(), Found::Task(1)));
        let other = queue.join().expect("room");
        assert!(matches!(other.find(), Found::NothingYet));
        queue.abandon();
        assert!(matches!(other.find(), Found::Finished));
    }

    #[test]
    fn what_a_worker_leaves_behind_is_done_by_another_who_takes_its_place() {
        let queue = Queue::<u32>::new(2, |_| false);
        let stays = queue.join().expect("room");
        let leaves = queue.join().expect("room");
        leaves.push(1);
        leaves.push(2);
        drop(leaves);
        assert!(matches!(stays.find(), Found::Task(1)));
        let comes = queue.join().expect("a place became free");
        assert!(queue.join().is_none());
        assert!(matches!(comes.find(), Found::Task(2)));
        assert!(!queue.wait(Duration::ZERO));
        stays.done();
        comes.done();
        assert!(queue.wait(Duration::from_secs(5)));
    }
}
