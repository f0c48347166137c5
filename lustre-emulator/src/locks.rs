//! Extent locks of one object: who holds which range, whose lock a request takes away, and how far the
//! granted range grows. It waits for nobody.

/// With more locks of others than this a lock does not grow downwards.
const GROWS_DOWN: usize = 4;
/// With more than this a lock for writing grows to `MOST_GROWN` at most.
const GROWS_FREELY: usize = 32;
/// `LDLM_MAX_GROWN_EXTENT`, in bytes.
const MOST_GROWN: u64 = 32 << 20;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Lock {
    client: u32,
    start: u64,
    end: u64,
    write: bool,
}

/// The locks of one object.
#[derive(Debug, Clone, Default)]
pub(crate) struct Locks {
    held: Vec<Lock>,
}

impl Locks {
    /// Takes a lock on a range; returns the clients that had to give one back, once for each lock.
    pub(crate) fn take(&mut self, client: u32, (start, end): (u64, u64), write: bool) -> Vec<u32> {
        let covers = |lock: &&Lock| {
            lock.client == client && lock.start <= start && end <= lock.end && lock.write >= write
        };
        if self.held.iter().find(covers).is_some() {
            return Vec::new();
        }
        let against = |lock: &Lock| lock.client != client && (write || lock.write);
        let mut revoked = Vec::new();
        self.held.retain(|lock| {
            let overlaps = lock.start < end && start < lock.end;
            if against(lock) && overlaps {
                revoked.push(lock.client);
            }
            !(against(lock) && overlaps)
        });
        let others: Vec<Lock> = self.held.iter().copied().filter(against).collect();
        let below = others.iter().filter(|lock| lock.end <= start).map(|lock| lock.end).max();
        let above = others.iter().filter(|lock| lock.start >= end).map(|lock| lock.start).min();
        let mut grown = (below.unwrap_or(0), above.unwrap_or(u64::MAX));
        if others.len() > GROWS_DOWN {
            grown.0 = start;
        }
        if others.len() > GROWS_FREELY && write {
            grown.1 = grown.1.min(end.max(start.saturating_add(MOST_GROWN)));
        }
        // What it had inside the new range is part of it now.
        self.held.retain(|lock| {
            lock.client != client
                || lock.write && !write
                || lock.start < grown.0
                || grown.1 < lock.end
        });
        self.held.push(Lock { client, start: grown.0, end: grown.1, write });
        revoked
    }

    /// All locks are given back.
    pub(crate) fn drop_all(&mut self) {
        self.held.clear();
    }
}
