//! What the filesystem was asked: requests by kind, how many were in hand at once, bytes by server.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};

use super::Kind;

/// One kind of request.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Count {
    /// How many have been asked.
    pub requests: u64,
    /// How many of them were in hand at the same time, at most.
    pub most_at_once: usize,
}

/// What has been asked so far.
#[derive(Debug, Clone)]
pub struct Counters {
    kinds: [Count; Kind::ALL.len()],
    /// Most metadata requests in hand at the same time, of all kinds.
    pub metadata_most_at_once: usize,
    /// Bytes moved by each server; one number when there are none.
    pub server_bytes: Vec<u64>,
}

impl Counters {
    /// Those of one kind.
    pub fn of(&self, kind: Kind) -> Count {
        self.kinds[kind as usize]
    }

    /// Metadata requests of all kinds.
    pub fn metadata_requests(&self) -> u64 {
        let kinds = Kind::ALL.into_iter().filter(|kind| kind.is_metadata());
        kinds.map(|kind| self.of(kind).requests).sum()
    }
}

#[derive(Default)]
struct Live {
    requests: AtomicU64,
    now: AtomicUsize,
    most: AtomicUsize,
}

impl Live {
    fn begin(&self) {
        self.requests.fetch_add(1, Relaxed);
        let now = self.now.fetch_add(1, Relaxed) + 1;
        self.most.fetch_max(now, Relaxed);
    }

    fn end(&self) {
        self.now.fetch_sub(1, Relaxed);
    }

    fn reset(&self) {
        self.requests.store(0, Relaxed);
        self.most.store(self.now.load(Relaxed), Relaxed);
    }
}

/// The counters at work.
#[derive(Default)]
pub(super) struct Tally {
    kinds: [Live; Kind::ALL.len()],
    metadata: Live,
    server_bytes: Mutex<Vec<u64>>,
}

impl Tally {
    pub(super) fn begin(&self, kind: Kind) {
        self.kinds[kind as usize].begin();
        if kind.is_metadata() {
            self.metadata.begin();
        }
    }

    pub(super) fn end(&self, kind: Kind) {
        self.kinds[kind as usize].end();
        if kind.is_metadata() {
            self.metadata.end();
        }
    }

    pub(super) fn moved(&self, server: usize, bytes: u64) {
        let mut servers = self.server_bytes.lock().unwrap_or_else(PoisonError::into_inner);
        if servers.len() <= server {
            servers.resize(server + 1, 0);
        }
        servers[server] += bytes;
    }

    pub(super) fn look(&self) -> Counters {
        let kinds = std::array::from_fn(|kind| Count {
            requests: self.kinds[kind].requests.load(Relaxed),
            most_at_once: self.kinds[kind].most.load(Relaxed),
        });
        let servers = self.server_bytes.lock().unwrap_or_else(PoisonError::into_inner);
        let metadata_most_at_once = self.metadata.most.load(Relaxed);
        Counters { kinds, metadata_most_at_once, server_bytes: servers.clone() }
    }

    pub(super) fn reset(&self) {
        self.kinds.iter().for_each(Live::reset);
        self.metadata.reset();
        self.server_bytes.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}
