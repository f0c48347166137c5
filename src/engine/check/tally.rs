//! Counts of what was checked, and where damage was, for the report. It decides nothing.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::backend::past_cache::How;
use crate::checksum::Algorithm;
use crate::report::{Damage, ReadBack, VerifyReport};

/// Damaged ranges that are kept for the report.
const KEPT: usize = 1000;

/// Shared counters of the checks of one copy.
#[derive(Debug, Default)]
pub(crate) struct CheckTally {
    pub(super) files: AtomicU64,
    pub(super) bytes: AtomicU64,
    worker_nanoseconds: AtomicU64,
    pub(super) reread: AtomicU64,
    bad_ranges: AtomicU64,
    repaired_ranges: AtomicU64,
    repaired_bytes: AtomicU64,
    how: [AtomicU64; 3],
    damage: Mutex<Vec<Damage>>,
}

impl CheckTally {
    /// Counts a file by the way in which it was read back.
    pub(super) fn read_back(&self, how: How) {
        self.how[how as usize].fetch_add(1, Relaxed);
    }

    /// Counts time that a worker spent on checks.
    pub(super) fn spent(&self, since: Instant) {
        let nanoseconds = u64::try_from(since.elapsed().as_nanos()).unwrap_or(u64::MAX);
        self.worker_nanoseconds.fetch_add(nanoseconds, Relaxed);
    }

    /// Counts a damaged range of a file.
    pub(super) fn damaged(&self, path: PathBuf, range: std::ops::Range<u64>, repaired: bool) {
        self.bad_ranges.fetch_add(1, Relaxed);
        if repaired {
            self.repaired_ranges.fetch_add(1, Relaxed);
            self.repaired_bytes.fetch_add(range.end - range.start, Relaxed);
        }
        let mut damage = self.damage.lock().unwrap_or_else(PoisonError::into_inner);
        if damage.len() < KEPT {
            damage.push(Damage { path, start: range.start, end: range.end, repaired });
        }
    }

    /// The part of the report.
    pub(crate) fn report(&self, algorithm: Algorithm) -> VerifyReport {
        let how = |how: How| self.how[how as usize].load(Relaxed);
        let bad_ranges = self.bad_ranges.load(Relaxed);
        let repaired_ranges = self.repaired_ranges.load(Relaxed);
        let nanoseconds = self.worker_nanoseconds.load(Relaxed);
        VerifyReport {
            algorithm,
            files: self.files.load(Relaxed),
            bytes: self.bytes.load(Relaxed),
            worker_seconds: Duration::from_nanos(nanoseconds).as_secs_f64(),
            files_reread: self.reread.load(Relaxed),
            read_back: ReadBack {
                direct: how(How::Direct),
                dropped: how(How::Dropped),
                memory: how(How::Memory),
            },
            bad_ranges,
            repaired_ranges,
            repaired_bytes: self.repaired_bytes.load(Relaxed),
            unrepaired_ranges: bad_ranges.saturating_sub(repaired_ranges),
            damage: std::mem::take(
                &mut *self.damage.lock().unwrap_or_else(PoisonError::into_inner),
            ),
        }
    }
}
