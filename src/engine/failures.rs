//! Failed items: counted by kind, the first of them kept, all of them written to the failed list.
//! It never decides the exit code; the report does.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::error::StepError;
use crate::report::Failure;

/// Failures kept in memory for the report. With paths of 200 bytes this is about 300 KiB.
pub const KEPT: usize = 1000;

/// The `--failed-list` file: absolute source paths, each followed by a NUL, so that any name can
/// be carried. It is valid input for `--files-from`.
#[derive(Debug)]
pub struct FailedList {
    file: Mutex<BufWriter<File>>,
}

impl FailedList {
    /// Creates (or empties) the list.
    ///
    /// # Errors
    /// Those of creating the file.
    pub fn create(path: &Path) -> io::Result<Self> {
        Ok(Self { file: Mutex::new(BufWriter::new(File::create(path)?)) })
    }

    /// Adds one path.
    ///
    /// # Errors
    /// Those of writing.
    pub fn add(&self, path: &Path) -> io::Result<()> {
        let mut file = lock(&self.file);
        file.write_all(path.as_os_str().as_bytes())?;
        file.write_all(b"\0")?;
        file.flush() // a killed process must not lose what already failed; failures are rare
    }
}

/// Failed items of one copy.
#[derive(Debug, Default)]
pub(crate) struct Failures {
    counts: Mutex<BTreeMap<&'static str, u64>>,
    kept: Mutex<Vec<Failure>>,
    /// Set when the failed list itself could not be written.
    list_error: Mutex<Option<String>>,
}

impl Failures {
    /// Records one. `path` is the source's, or the destination's for a deletion.
    pub(crate) fn add(&self, path: PathBuf, error: StepError, list: Option<&FailedList>) {
        *lock(&self.counts).entry(error.kind.word()).or_default() += 1;
        if let Some(list) = list {
            self.list(&path, list);
        }
        let mut kept = lock(&self.kept);
        if kept.len() < KEPT {
            kept.push(Failure {
                path,
                step: error.step,
                kind: error.kind,
                errno: error.errno.map(|errno| format!("{errno:?}")),
                message: error.to_string(),
            });
        }
    }

    /// Puts a path into the failed list.
    pub(crate) fn list(&self, path: &Path, list: &FailedList) {
        if let Err(error) = list.add(&crate::selection::absolute(path)) {
            lock(&self.list_error).get_or_insert_with(|| format!("failed list: {error}"));
        }
    }

    /// Failed items by kind.
    pub(crate) fn counts(&self) -> BTreeMap<&'static str, u64> {
        lock(&self.counts).clone()
    }

    /// The first of them, and why the failed list is incomplete, if it is.
    pub(crate) fn take_kept(&self) -> (Vec<Failure>, Option<String>) {
        (std::mem::take(&mut lock(&self.kept)), lock(&self.list_error).take())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
