//! What a comparison has found so far: counted by kind, the first kept, all of them written to the
//! failed list. It decides nothing.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{Comparison, Control, Difference, Kind, VERIFY_VERSION};
use crate::backend::past_cache::How;
use crate::engine::failures::FailedList;
use crate::error::StepError;
use crate::exit::Outcome;
use crate::progress::Progress;
use crate::report::ReadBack;

/// Differences that are kept with their words.
pub(crate) const KEPT: usize = 1000;

/// Shared by all workers.
#[derive(Debug)]
pub(super) struct Findings {
    base: PathBuf,
    failed_list: Option<Arc<FailedList>>,
    counts: Mutex<BTreeMap<&'static str, u64>>,
    kept: Mutex<Vec<Difference>>,
    progress: Arc<Progress>,
    files: AtomicU64,
    bytes: AtomicU64,
    pub(super) others: AtomicU64,
    how: [AtomicU64; 3],
}

impl Findings {
    /// None yet. `base` is what the paths of the failed list begin with.
    pub(super) fn new(base: &Path, control: &Control) -> Self {
        Self {
            base: base.to_owned(),
            failed_list: control.failed_list.clone(),
            progress: Arc::clone(&control.progress),
            counts: Mutex::default(),
            kept: Mutex::default(),
            files: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            others: AtomicU64::new(0),
            how: [const { AtomicU64::new(0) }; 3],
        }
    }

    /// Counts a file whose content is about to be compared.
    pub(super) fn begins(&self, bytes: u64) {
        self.files.fetch_add(1, Relaxed);
        self.progress.files_found.fetch_add(1, Relaxed);
        self.progress.bytes_found.fetch_add(bytes, Relaxed);
    }

    /// Counts bytes of it that were compared.
    pub(super) fn compared(&self, bytes: u64) {
        self.bytes.fetch_add(bytes, Relaxed);
        self.progress.bytes_done.fetch_add(bytes, Relaxed);
        self.progress.bytes_verified.fetch_add(bytes, Relaxed);
    }

    /// Counts bytes that need not be compared: the file differs already.
    pub(super) fn passes_over(&self, bytes: u64) {
        self.progress.bytes_done.fetch_add(bytes, Relaxed);
    }

    /// Counts a file that was begun as done.
    pub(super) fn ends(&self) {
        self.progress.files_done.fetch_add(1, Relaxed);
    }

    /// Notes a difference.
    pub(super) fn add(&self, path: &Path, kind: Kind, message: impl Into<String>) {
        self.add_ranges(path, kind, message, Vec::new());
    }

    /// Notes a difference of content.
    pub(super) fn add_ranges(
        &self,
        path: &Path,
        kind: Kind,
        message: impl Into<String>,
        ranges: Vec<(u64, u64)>,
    ) {
        *lock(&self.counts).entry(kind.word()).or_default() += 1;
        self.progress.failed.fetch_add(1, Relaxed);
        if kind != Kind::Extra
            && let Some(list) = &self.failed_list
        {
            let whole =
                if path == Path::new(".") { self.base.clone() } else { self.base.join(path) };
            // The report has it all the same, and its count.
            let _ = list.add(&crate::selection::absolute(&whole));
        }
        let mut kept = lock(&self.kept);
        if kept.len() < KEPT {
            kept.push(Difference { path: path.to_owned(), kind, message: message.into(), ranges });
        }
    }

    /// Notes an item that could not be looked at.
    pub(super) fn unreadable(&self, path: &Path, error: StepError) {
        self.add(path, Kind::Unreadable, error.to_string());
    }

    /// Counts a file by the way in which it was read.
    pub(super) fn read_back(&self, how: How) {
        self.how[how as usize].fetch_add(1, Relaxed);
    }

    /// Whether nothing differs so far.
    pub(super) fn is_same(&self) -> bool {
        lock(&self.counts).is_empty()
    }

    /// The report, times left out.
    pub(super) fn into_comparison(self, outcome: Outcome) -> Comparison {
        let how = |how: How| self.how[how as usize].load(Relaxed);
        let read_back = ReadBack {
            direct: how(How::Direct),
            dropped: how(How::Dropped),
            memory: how(How::Memory),
        };
        let mut found = self.kept.into_inner().unwrap_or_else(PoisonError::into_inner);
        found.sort_by(|one, other| (&one.path, one.kind).cmp(&(&other.path, other.kind)));
        Comparison {
            version: VERIFY_VERSION,
            outcome,
            exit_code: outcome.code(),
            seconds: 0.0,
            files: self.files.load(Relaxed),
            bytes: self.bytes.load(Relaxed),
            others: self.others.load(Relaxed),
            read_back,
            manifest_complete: None,
            differences: self.counts.into_inner().unwrap_or_else(PoisonError::into_inner),
            found,
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
