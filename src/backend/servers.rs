//! The servers that striped files lie on: how many workers look after objects on each, and how many it bears. It
//! moves nothing and waits for nothing.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use crate::lustre::stripes::{Server, Striping};

/// Writers of one server to begin with, and at least: two keep it busy while one of them reads, and how long
/// a write takes without a crowd is seen only before there is one.
const DEPTH_MIN: f64 = 2.0;
const DEPTH_MAX: f64 = 64.0;
/// Writers that wait behind others at a server: with fewer one more is let in, with more one less. Two
/// thresholds, so that the depth comes to rest; the rule is TCP Vegas'.
const QUEUE_FEW: f64 = 1.5;
const QUEUE_MANY: f64 = 3.0;
/// Share of the newest time in the smoothed one.
const SMOOTH: f64 = 0.25;

/// All servers that one copy has met, by device number and index.
#[derive(Debug, Default)]
pub(crate) struct Servers(RwLock<HashMap<(u64, Server), Arc<Load>>>);

impl Servers {
    /// The load of the server of each object of a file on this device.
    pub(crate) fn of(&self, device: u64, striping: &Striping) -> Vec<Arc<Load>> {
        striping.servers().iter().map(|server| self.one(device, *server)).collect()
    }

    fn one(&self, device: u64, server: Server) -> Arc<Load> {
        let key = (device, server);
        let known = self.0.read().unwrap_or_else(PoisonError::into_inner).get(&key).cloned();
        known.unwrap_or_else(|| {
            let mut all = self.0.write().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(all.entry(key).or_default())
        })
    }
}

/// One server.
#[derive(Debug, Default)]
pub(crate) struct Load {
    /// Workers that are the writers of an object on it.
    writers: AtomicUsize,
    /// Reads from it that are going on.
    reads: AtomicUsize,
    /// Bytes moved to or from it.
    moved: AtomicU64,
    depth: Mutex<Depth>,
}

impl Load {
    /// Workers that write to it.
    pub(crate) fn writers(&self) -> usize {
        self.writers.load(Relaxed)
    }

    /// Whether it bears one writer more.
    pub(crate) fn has_room(&self) -> bool {
        self.writers() < self.depth.lock().unwrap_or_else(PoisonError::into_inner).allowed()
    }

    /// Counts a writer that comes.
    pub(crate) fn writer_comes(&self) {
        self.writers.fetch_add(1, Relaxed);
    }

    /// Counts a writer that goes.
    pub(crate) fn writer_goes(&self) {
        self.writers.fetch_sub(1, Relaxed);
    }

    /// Reads that are going on.
    pub(crate) fn reads(&self) -> usize {
        self.reads.load(Relaxed)
    }

    /// Counts a read for as long as the value lives.
    pub(crate) fn reading(self: &Arc<Self>) -> Reading {
        self.reads.fetch_add(1, Relaxed);
        Reading(Arc::clone(self))
    }

    /// Takes note of how long moving a piece took.
    pub(crate) fn moved(&self, bytes: u64, time: Duration) {
        self.moved.fetch_add(bytes, Relaxed);
        let writers = self.writers();
        let mut depth = self.depth.lock().unwrap_or_else(PoisonError::into_inner);
        depth.observe(bytes, time, writers);
    }
}

/// A read from a server that is going on.
#[derive(Debug)]
pub(crate) struct Reading(Arc<Load>);

impl Drop for Reading {
    fn drop(&mut self) {
        self.0.reads.fetch_sub(1, Relaxed);
    }
}

/// How many writers a server bears, found out from how long writes take: what they take longer than
/// with nobody else there is queueing.
#[derive(Debug)]
struct Depth {
    depth: f64,
    /// Seconds per MiB: the least, and lately.
    best: f64,
    now: f64,
    /// Writes since the depth was changed.
    since: usize,
}

impl Default for Depth {
    fn default() -> Self {
        Self { depth: DEPTH_MIN, best: f64::INFINITY, now: 0.0, since: 0 }
    }
}

impl Depth {
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // between 2 and 64
    fn allowed(&self) -> usize {
        self.depth as usize
    }

    #[allow(clippy::cast_precision_loss)] // lengths of single writes, and a few dozen writers
    fn observe(&mut self, bytes: u64, time: Duration, writers: usize) {
        if bytes == 0 {
            return;
        }
        let pace = time.as_secs_f64() * (1 << 20) as f64 / bytes as f64;
        self.now = if self.now == 0.0 { pace } else { self.now + SMOOTH * (pace - self.now) };
        self.best = self.best.min(pace);
        self.since += 1;
        // Once for each round of all writers: what a change does shows only then.
        if self.since < writers.max(1) {
            return;
        }
        self.since = 0;
        let queue = writers as f64 * (1.0 - self.best / self.now.max(f64::MIN_POSITIVE));
        if queue > QUEUE_MANY {
            self.depth -= 1.0;
        } else if queue < QUEUE_FEW && writers >= self.allowed() {
            self.depth += 1.0;
        }
        self.depth = self.depth.clamp(DEPTH_MIN, DEPTH_MAX);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A server that takes `latency` for itself and transfers one MiB at a time in `transfer`; as many
    /// writers as allowed, one MiB each.
    fn settle(latency: f64, transfer: f64) -> usize {
        let mut depth = Depth::default();
        for _ in 0..2000 {
            let writers = depth.allowed();
            let round = (latency + transfer)
                .max(transfer * f64::from(u32::try_from(writers).expect("few")));
            depth.observe(1 << 20, Duration::from_secs_f64(round), writers);
        }
        depth.allowed()
    }

    #[test]
    fn a_server_that_transfers_one_at_a_time_gets_few_writers() {
        let few = settle(0.001, 0.1);
        assert!((2..=5).contains(&few), "{few}");
    }

    #[test]
    fn a_far_server_gets_as_many_writers_as_hide_its_latency() {
        // 20 ms there and back, 1 ms of transfer: 21 writers keep it busy.
        let many = settle(0.02, 0.001);
        assert!((19..=30).contains(&many), "{many}");
    }

    #[test]
    fn a_server_that_becomes_slow_loses_writers() {
        let mut depth = Depth::default();
        while depth.allowed() < 12 {
            depth.observe(1 << 20, Duration::from_millis(10), depth.allowed());
        }
        for _ in 0..200 {
            depth.observe(1 << 20, Duration::from_millis(400), depth.allowed());
        }
        assert!(depth.allowed() < 5, "{}", depth.allowed());
    }

    #[test]
    fn servers_are_told_apart_by_device_and_index() {
        let servers = Servers::default();
        let one = servers.one(1, Server::Ost(3));
        one.writer_comes();
        assert_eq!(servers.one(1, Server::Ost(3)).writers(), 1);
        assert_eq!(servers.one(2, Server::Ost(3)).writers(), 0);
        assert_eq!(servers.one(1, Server::Mdt).writers(), 0);
    }
}
