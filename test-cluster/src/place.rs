//! The directory of one control plane, below the build directory: its data, logs and keys. What a
//! process left behind that did not clean up is removed by the next one.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// The logs of a failed test are kept this long.
const KEPT: Duration = Duration::from_secs(24 * 60 * 60);

/// A directory that is removed when it is dropped, unless a test failed.
pub(crate) struct Place {
    path: PathBuf,
    /// Locked as long as this process lives; the kernel lets go of it whatever the end is.
    _owned: File,
}

impl Place {
    /// A new directory.
    pub(crate) fn create() -> io::Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let all = target_dir().join("control-planes");
        fs::create_dir_all(&all)?;
        sweep(&all)?;
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = all.join(format!("{}-{number}", std::process::id()));
        // The lock is beside the directory and made first: whoever sweeps never sees one without it.
        let owned = File::create(lock_of(&path))?;
        owned.lock()?;
        fs::create_dir_all(&path)?;
        Ok(Self { path, _owned: owned })
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if std::thread::panicking() {
            return;
        }
        // What cannot be removed now is removed by the next process.
        drop(fs::remove_dir_all(&self.path));
        drop(fs::remove_file(lock_of(&self.path)));
    }
}

fn lock_of(path: &Path) -> PathBuf {
    path.with_extension("lock")
}

/// Removes what dead processes left. Data goes at once; logs may be what somebody is about to read.
fn sweep(all: &Path) -> io::Result<()> {
    for entry in fs::read_dir(all)? {
        let lock = entry?.path();
        if lock.extension().is_none_or(|extension| extension != "lock") {
            continue;
        }
        let Ok(file) = File::open(&lock) else { continue };
        if file.try_lock().is_err() {
            continue; // its process lives
        }
        let place = lock.with_extension("");
        for data in ["etcd", "data"] {
            drop(fs::remove_dir_all(place.join(data)));
        }
        let age = file.metadata()?.modified()?.elapsed().unwrap_or_default();
        if age > KEPT || !place.exists() {
            drop(fs::remove_dir_all(&place));
            drop(fs::remove_file(&lock));
        }
    }
    Ok(())
}

/// The build directory: everything a test leaves on disk is beneath it.
pub(crate) fn target_dir() -> PathBuf {
    let program = std::env::current_exe().expect("the running program has a path");
    let marked = program.ancestors().find(|folder| folder.join("CACHEDIR.TAG").exists());
    marked.map_or_else(std::env::temp_dir, Path::to_owned)
}
