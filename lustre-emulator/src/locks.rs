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

#[cfg(test)]
mod tests {
    use super::{Locks, MOST_GROWN};

    const MIB: u64 = 1 << 20;

    #[test]
    fn a_lock_grows_as_far_as_nobody_else_is() {
        let mut locks = Locks::default();
        assert!(locks.take(1, (10 * MIB, 11 * MIB), true).is_empty());
        assert!(locks.take(1, (0, 1), true).is_empty(), "it has everything");
        assert_eq!(locks.take(2, (20 * MIB, 21 * MIB), true), [1]);
        assert_eq!(locks.take(1, (0, 1), true), [2], "the other has everything now");
    }

    #[test]
    fn readers_share_and_a_writer_takes_from_all_of_them() {
        let mut locks = Locks::default();
        assert!(locks.take(1, (0, 1), false).is_empty());
        assert!(locks.take(2, (0, 1), false).is_empty());
        let mut lost = locks.take(3, (5, 6), true);
        lost.sort_unstable();
        assert_eq!(lost, [1, 2]);
        assert_eq!(locks.take(1, (0, 1), false), [3]);
        assert!(locks.take(2, (7, 8), false).is_empty());
    }

    #[test]
    fn among_many_a_lock_grows_little() {
        let mut locks = Locks::default();
        // Ranges that are held by many, as after their locks have been shrunk.
        for client in 0..40 {
            let start = u64::from(client) * 100 * MIB;
            locks.held.push(super::Lock { client, start, end: start + MIB, write: true });
        }
        assert!(locks.take(99, (50 * MIB, 51 * MIB), true).is_empty());
        let grown = locks.held.last().unwrap();
        assert_eq!(grown.start, 50 * MIB, "not downwards");
        assert_eq!(grown.end, 50 * MIB + MOST_GROWN);
        locks.drop_all();
        assert!(locks.take(1, (0, 1), true).is_empty());
    }
}
