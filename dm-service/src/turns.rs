//! Whose request to the API server is next, where many have something to say at once: each request under way
//! is a connection of its own, and hundreds of new ones cost both sides more than the requests do. What lets
//! a copy begin goes before what only says that one has ended. It sends nothing.

use tokio::sync::{Semaphore, SemaphorePermit};

/// As many requests are under way at once, at most.
const AT_ONCE: usize = 24;

/// As many of them may be about ends.
const ENDS_AT_ONCE: usize = 6;

/// The turns of all who share a client. Among those who want the same they come in order.
#[derive(Debug)]
pub struct Turns {
    all: Semaphore,
    ends: Semaphore,
}

/// A turn, until it is dropped.
#[derive(Debug)]
pub struct Turn<'a> {
    _one: SemaphorePermit<'a>,
    _end: Option<SemaphorePermit<'a>>,
}

impl Default for Turns {
    fn default() -> Self {
        Self { all: Semaphore::new(AT_ONCE), ends: Semaphore::new(ENDS_AT_ONCE) }
    }
}

impl Turns {
    /// Waits for a turn: to say that something has ended, or for anything else.
    ///
    /// # Panics
    ///
    /// Never: the semaphores are not closed.
    pub async fn next(&self, end: bool) -> Turn<'_> {
        const OPEN: &str = "nobody closes it";
        // In this order: an end that waits for its turn takes none from others.
        let end = match end {
            true => Some(self.ends.acquire().await.expect(OPEN)),
            false => None,
        };
        Turn { _one: self.all.acquire().await.expect(OPEN), _end: end }
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    use super::*;

    fn at_once(turns: &Turns, end: bool) -> Option<Turn<'_>> {
        match pin!(turns.next(end)).poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(turn) => Some(turn),
            Poll::Pending => None,
        }
    }

    #[test]
    fn ends_leave_room_for_beginnings() {
        let turns = Turns::default();
        let take = |end| (0..2 * AT_ONCE).filter_map(|_| at_once(&turns, end)).collect::<Vec<_>>();
        let ends = take(true);
        assert_eq!(ends.len(), ENDS_AT_ONCE);
        let others = take(false);
        assert_eq!(others.len(), AT_ONCE - ENDS_AT_ONCE);
        drop(others);
        assert!(at_once(&turns, true).is_none());
        drop(ends);
        assert!(at_once(&turns, true).is_some());
    }
}
