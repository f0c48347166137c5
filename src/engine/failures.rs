//! Failed items: counted by kind, the first of them kept, all of them written to the failed list.
//! It never decides the exit code; the report does.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Mutex;

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
        let mut file = self.file.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        file.write_all(path.as_os_str().as_bytes())?;
        file.write_all(b"\0")?;
        file.flush() // a killed process must not lose what already failed; failures are rare
    }
}
