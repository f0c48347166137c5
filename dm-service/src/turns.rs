//! Whose request to the API server is next, where many have something to say at once: each request under way
//! is a connection of its own, and hundreds of new ones cost both sides more than the requests do. A copy that
//! is on its way goes before one that is not, so that the first run soon and nobody waits for all. What only
//! says that a copy has ended has few turns of its own: it takes nothing from others, here or elsewhere, that
//! have yet to begin. It sends nothing.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

/// As many requests are under way at once, at most, beside those about ends.
const AT_ONCE: usize = 24;

/// As many requests about ends are.
const ENDS_AT_ONCE: usize = 2;

/// What a request does for a copy. The first goes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    /// It says that the copy runs, or changes one that does.
    GoOn,
    /// It lets the copy begin.
    Begin,
    /// It takes the copy in, or lets it go.
    Enter,
    /// It says that the copy has ended.
    End,
}

/// The turns of all who share a client. Among those at the same step they come in order.
#[derive(Debug)]
pub struct Turns {
    ends: Mutex<Queue>,
    others: Mutex<Queue>,
}

#[derive(Debug)]
struct Queue {
    free: usize,
    /// Who waits, by step and arrival.
    waiting: BTreeMap<(Step, u64), oneshot::Sender<()>>,
    arrivals: u64,
}

/// A turn, until it is dropped.
#[derive(Debug)]
pub struct Turn<'a>(&'a Mutex<Queue>);

/// A place in a queue, until it is dropped.
struct Place<'a> {
    queue: &'a Mutex<Queue>,
    at: (Step, u64),
    called: oneshot::Receiver<()>,
}

impl Default for Turns {
    fn default() -> Self {
        let queue = |free| Mutex::new(Queue { free, waiting: BTreeMap::new(), arrivals: 0 });
        Self { ends: queue(ENDS_AT_ONCE), others: queue(AT_ONCE) }
    }
}

impl Turns {
    /// Waits for a turn.
    ///
    /// # Panics
    ///
    /// Never: who waits is called, or stops waiting.
    pub async fn next(&self, step: Step) -> Turn<'_> {
        let queue = if step == Step::End { &self.ends } else { &self.others };
        let mut place = Place::new(queue, step);
        (&mut place.called).await.expect("who waits is called");
        Turn(queue)
    }
}

fn lock(queue: &Mutex<Queue>) -> MutexGuard<'_, Queue> {
    queue.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Queue {
    /// Calls those whose turn it is. Who waits is there to be called: who leaves is not in the queue.
    fn call(&mut self) {
        while self.free > 0
            && let Some((_, call)) = self.waiting.pop_first()
        {
            self.free -= usize::from(call.send(()).is_ok());
        }
    }

    fn give_back(&mut self) {
        self.free += 1;
        self.call();
    }
}

impl<'a> Place<'a> {
    fn new(queue: &'a Mutex<Queue>, step: Step) -> Self {
        let (call, called) = oneshot::channel();
        let mut locked = lock(queue);
        let at = (step, locked.arrivals);
        locked.arrivals += 1;
        locked.waiting.insert(at, call);
        locked.call();
        Self { queue, at, called }
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        lock(self.0).give_back();
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut queue = lock(self.queue);
        queue.waiting.remove(&self.at);
        // Called, and gone before it heard.
        if self.called.try_recv().is_ok() {
            queue.give_back();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::pin::{Pin, pin};
    use std::task::{Context, Poll, Waker};

    use super::*;

    type Next<'a> = Pin<Box<dyn Future<Output = Turn<'a>> + 'a>>;

    /// Whether a turn has come.
    fn look<'a>(next: &mut Next<'a>) -> Option<Turn<'a>> {
        match pin!(next).poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(turn) => Some(turn),
            Poll::Pending => None,
        }
    }

    fn wait(turns: &Turns, step: Step) -> Next<'_> {
        let mut next: Next<'_> = Box::pin(turns.next(step));
        assert!(look(&mut next).is_none(), "{step:?} came at once");
        next
    }

    fn take(turns: &Turns, step: Step) -> Option<Turn<'_>> {
        look(&mut (Box::pin(turns.next(step)) as Next<'_>))
    }

    fn take_all(turns: &Turns, step: Step) -> Vec<Turn<'_>> {
        std::iter::from_fn(|| take(turns, step)).collect()
    }

    #[test]
    fn who_is_further_goes_first_and_the_rest_in_order() {
        let turns = Turns::default();
        let mut taken = take_all(&turns, Step::Enter);
        assert_eq!(taken.len(), AT_ONCE);
        let steps = [Step::Enter, Step::Begin, Step::GoOn, Step::Begin, Step::GoOn];
        let mut waiting: Vec<_> =
            steps.map(|step| wait(&turns, step)).into_iter().enumerate().collect();
        let mut order = Vec::new();
        while !waiting.is_empty() {
            taken.pop();
            let come = waiting
                .iter_mut()
                .enumerate()
                .find_map(|(at, (number, next))| look(next).map(|turn| (at, *number, turn)));
            let (at, number, turn) = come.expect("one is called");
            drop(waiting.remove(at));
            taken.insert(0, turn);
            order.push(number);
        }
        assert_eq!(order, [2, 4, 1, 3, 0]);
    }

    #[test]
    fn ends_have_few_turns_and_always_have_them() {
        let turns = Turns::default();
        let others = take_all(&turns, Step::Enter);
        let mut ends = take_all(&turns, Step::End);
        assert_eq!(ends.len(), ENDS_AT_ONCE);
        let mut next = wait(&turns, Step::End);
        drop(others);
        assert!(look(&mut next).is_none());
        ends.pop();
        assert!(look(&mut next).is_some());
    }

    #[test]
    fn who_does_not_wait_any_more_takes_no_turn() {
        let turns = Turns::default();
        for step in [Step::GoOn, Step::End] {
            let mut taken = take_all(&turns, step);
            let number = taken.len();
            let [leaves, called] = [(); 2].map(|()| wait(&turns, step));
            drop(leaves);
            taken.pop();
            drop(called);
            drop(taken);
            assert_eq!(take_all(&turns, step).len(), number);
        }
    }
}
