//! Answers that wait for their time, in one heap for two threads: thousands may wait at once, and
//! each is given within some 50 us of its time on an idle machine. It does not decide the times.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;

type Answer = Box<dyn FnOnce() + Send>;

struct Waiting {
    due: Instant,
    number: u64,
    answer: Answer,
}

impl PartialEq for Waiting {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Waiting {}

impl PartialOrd for Waiting {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Waiting {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.due, self.number).cmp(&(other.due, other.number))
    }
}

#[derive(Default)]
struct Pages {
    waiting: BinaryHeap<Reverse<Waiting>>,
    next: u64,
    closed: bool,
}

#[derive(Default)]
struct Shared {
    pages: Mutex<Pages>,
    changed: Condvar,
}

/// The heap and its threads, which end when it is dropped; what still waits then is answered.
pub struct Calendar {
    shared: Arc<Shared>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Calendar {
    /// An empty one, with its threads.
    #[must_use]
    #[expect(clippy::new_without_default, reason = "it starts threads")]
    pub fn new() -> Self {
        let shared = Arc::new(Shared::default());
        let threads = (0..2).map(|_| {
            let shared = shared.clone();
            std::thread::spawn(move || shared.serve())
        });
        Self { threads: Mutex::new(threads.collect()), shared }
    }

    /// Gives the answer at that time.
    pub fn at(&self, due: Instant, answer: impl FnOnce() + Send + 'static) {
        let mut pages = self.shared.pages.lock().unwrap_or_else(PoisonError::into_inner);
        if pages.closed {
            drop(pages);
            // Not here: the caller may hold what the answer takes.
            std::thread::spawn(answer);
            return;
        }
        let number = pages.next;
        pages.next += 1;
        let first = pages.waiting.peek().is_none_or(|Reverse(first)| due < first.due);
        pages.waiting.push(Reverse(Waiting { due, number, answer: Box::new(answer) }));
        drop(pages);
        if first {
            self.shared.changed.notify_one();
        }
    }

    /// Gives all answers at once, and takes none any more that would have to wait.
    pub fn close(&self) {
        self.shared.pages.lock().unwrap_or_else(PoisonError::into_inner).closed = true;
        self.shared.changed.notify_all();
        let mut threads = self.threads.lock().unwrap_or_else(PoisonError::into_inner);
        for thread in threads.drain(..) {
            // The last answer may hold what holds this calendar: a thread does not wait for itself.
            if thread.thread().id() != std::thread::current().id() {
                let _ = thread.join();
            }
        }
    }
}

impl Drop for Calendar {
    fn drop(&mut self) {
        self.close();
    }
}

impl Shared {
    fn serve(&self) {
        // The default slack of 50 us would be a twentieth of the delays that are pretended here.
        let _ = nix::sys::prctl::set_timerslack(1_000);
        let mut pages = self.pages.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            let due = pages.waiting.peek().map(|Reverse(first)| first.due);
            match due {
                None if pages.closed => return,
                None => {
                    pages = self.changed.wait(pages).unwrap_or_else(PoisonError::into_inner);
                }
                Some(due) => {
                    let left = due.saturating_duration_since(Instant::now());
                    if left.is_zero() || pages.closed {
                        let first = pages.waiting.pop();
                        let more = !pages.waiting.is_empty();
                        drop(pages);
                        if more {
                            self.changed.notify_one(); // the other thread watches the next one
                        }
                        if let Some(Reverse(first)) = first {
                            (first.answer)();
                        }
                        pages = self.pages.lock().unwrap_or_else(PoisonError::into_inner);
                    } else {
                        let waited = self.changed.wait_timeout(pages, left);
                        pages = waited.unwrap_or_else(PoisonError::into_inner).0;
                    }
                }
            }
        }
    }
}
