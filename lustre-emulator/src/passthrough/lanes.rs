//! Times of servers, computed on arrival: a pipe through which bytes go one after the other, and hands
//! of which each serves one request. Nothing waits here.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::{Duration, Instant};

/// When each hand of a server is free.
#[derive(Debug, Default)]
pub struct Hands {
    busy: BinaryHeap<Reverse<Instant>>,
}

impl Hands {
    /// When one of so many hands is free for a request that arrives now, and how many requests are
    /// before it in the queue, itself included (0: none had to wait).
    pub fn free(&mut self, now: Instant, hands: usize) -> (Instant, usize) {
        while self.busy.peek().is_some_and(|Reverse(free)| *free <= now) {
            self.busy.pop();
        }
        // A request that finds all hands busy follows the one that is free first.
        let busy = self.busy.len();
        let mut start = now;
        if busy >= hands {
            let mut ends: Vec<Instant> = self.busy.iter().map(|Reverse(free)| *free).collect();
            ends.sort_unstable();
            start = ends[busy - hands];
        }
        (start, (busy + 1).saturating_sub(hands))
    }

    /// Keeps a hand busy until then.
    pub fn take(&mut self, until: Instant) {
        self.busy.push(Reverse(until));
    }

    /// When a server with so many hands is done with one more request, whose delay grows by the part
    /// `crowding` of itself for each request that queues.
    pub fn serve(&mut self, now: Instant, delay: Duration, hands: usize, crowding: f64) -> Instant {
        let (start, queued) = self.free(now, hands);
        let queued = u32::try_from(queued).unwrap_or(u32::MAX);
        let end = start + delay.mul_f64(1.0 + crowding * f64::from(queued));
        self.take(end);
        end
    }
}

/// Takes the time that the bytes need at so many a second from whoever serves them, who is free at
/// `free`; returns when they are done.
pub fn occupy(free: &mut Option<Instant>, now: Instant, bytes: u64, bandwidth: u64) -> Instant {
    let nanos = u128::from(bytes) * 1_000_000_000 / u128::from(bandwidth.max(1));
    let took = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
    let start = free.map_or(now, |free| free.max(now));
    let end = start + took;
    *free = Some(end);
    end
}
