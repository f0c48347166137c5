//! Movers that an earlier worker of this node left: a file for each mover that runs says which process it
//! is, so that a worker that starts ends them before it starts others. It knows nothing of shards but
//! their names.

use std::fs::{self, DirBuilder, File, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context;
use nix::fcntl::{Flock, FlockArg};
use nix::sys::signal::Signal;
use serde::{Deserialize, Serialize};

use crate::process::{signal_group, start_of, why_it_stays};

/// How long movers that were left may take to end; nothing but a filesystem that hangs takes so long.
const ENDS_WITHIN: Duration = Duration::from_secs(10);

/// The directory with the files.
#[derive(Debug)]
pub(crate) struct RunDirectory {
    path: PathBuf,
    boot: String,
    /// Held as long as this worker lives; the kernel lets go of it whatever the end is.
    _lock: Flock<File>,
}

/// What is noted of a mover.
#[derive(Debug, Serialize, Deserialize)]
struct Note {
    boot: String,
    pid: u32,
    /// As [`start_of`] has it.
    start: u64,
    /// For people who look.
    shard: String,
}

impl RunDirectory {
    /// Opens it, or makes it, for this worker alone.
    ///
    /// # Errors
    /// When another worker has it, or the system refuses.
    pub(crate) fn open(path: &Path) -> anyhow::Result<Self> {
        let about = || format!("the run directory {}", path.display());
        DirBuilder::new().recursive(true).mode(0o700).create(path).with_context(about)?;
        // A volume of a pod is everybody's, and what is noted here is killed.
        fs::set_permissions(path, Permissions::from_mode(0o700)).with_context(about)?;
        let file = File::create(path.join("lock")).with_context(about)?;
        let lock = Flock::lock(file, FlockArg::LockExclusiveNonblock)
            .map_err(|(_, errno)| io::Error::from(errno))
            .with_context(|| format!("{}: another worker has it", about()))?;
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        Ok(Self { path: path.to_owned(), boot: boot.trim().to_owned(), _lock: lock })
    }

    fn file(&self, uid: &str) -> PathBuf {
        self.path.join(format!("{uid}.json"))
    }

    /// Notes the mover of a shard, given by its uid and a name for people.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(crate) fn note(&self, uid: &str, pid: u32, shard: &str) -> io::Result<()> {
        let start = start_of(pid).ok_or_else(|| io::Error::other("the mover has ended"))?;
        let note = Note { boot: self.boot.clone(), pid, start, shard: shard.to_owned() };
        let text = serde_json::to_vec(&note)?;
        // Written aside: a worker that is killed here leaves no half a note.
        let aside = self.path.join(format!("{uid}.new"));
        fs::write(&aside, text)?;
        fs::rename(aside, self.file(uid))
    }

    /// Forgets the mover of a shard, which has ended.
    pub(crate) fn forget(&self, uid: &str) {
        if let Err(error) = fs::remove_file(self.file(uid))
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::error!(uid, %error, "failed to forget a mover");
        }
    }

    /// The process of a shard's mover that is still there although nobody waits for it.
    pub(crate) fn still_there(&self, uid: &str) -> Option<u32> {
        let running = self.running(&self.file(uid));
        if running.is_none() {
            self.forget(uid);
        }
        running
    }

    /// Whether a mover that was noted is still there.
    pub(crate) fn has_running(&self) -> bool {
        let files = fs::read_dir(&self.path).into_iter().flatten().flatten();
        files.map(|file| file.path()).any(|file| self.running(&file).is_some())
    }

    /// The process that a file names, if it is that process still.
    fn running(&self, file: &Path) -> Option<u32> {
        let note: Note = serde_json::from_slice(&fs::read(file).ok()?).ok()?;
        (note.boot == self.boot && start_of(note.pid) == Some(note.start)).then_some(note.pid)
    }

    /// Ends every mover that an earlier worker left, and waits for it.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub(crate) fn end_all(&self) -> anyhow::Result<()> {
        let deadline = Instant::now() + ENDS_WITHIN;
        for entry in fs::read_dir(&self.path).context("failed to read the run directory")? {
            let file = entry.context("failed to read the run directory")?.path();
            if file.extension().is_none_or(|extension| extension != "json") {
                continue;
            }
            if let Some(pid) = self.running(&file) {
                tracing::warn!(pid, "ending a mover that an earlier worker left");
                signal_group(pid, Signal::SIGKILL);
            }
            while let Some(pid) = self.running(&file) {
                if Instant::now() > deadline {
                    // Its shard waits for it; the others need not.
                    tracing::error!(pid, "of an earlier worker: {}", why_it_stays(pid));
                    break;
                }
                std::thread::sleep(Duration::from_millis(10));
            }
            if self.running(&file).is_none() {
                fs::remove_file(&file).context("failed to forget a mover that has ended")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::CommandExt;
    use std::process::Command;

    use super::*;

    #[test]
    fn what_was_left_is_ended_and_nothing_else() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("run");
        fs::create_dir(&path).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o777)).unwrap();
        let mut children: Vec<_> = (0..2)
            .map(|_| Command::new("sleep").arg("600").process_group(0).spawn().unwrap())
            .collect();
        {
            let directory = RunDirectory::open(&path).unwrap();
            assert!(RunDirectory::open(&path).is_err(), "one worker has it");
            let mode = fs::metadata(&path).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o700, "nobody else notes anything there");
            directory.note("left", children[0].id(), "ns/left").unwrap();
            // Another process that got the number of one that was left.
            let note = Note {
                boot: directory.boot.clone(),
                pid: children[1].id(),
                start: 1,
                shard: String::new(),
            };
            fs::write(directory.file("other"), serde_json::to_vec(&note).unwrap()).unwrap();
        }
        let directory = RunDirectory::open(&path).unwrap();
        assert_eq!(directory.still_there("left"), Some(children[0].id()));
        assert!(directory.has_running());
        // In another thread, because a child is there until it is waited for.
        let ended = std::thread::scope(|scope| {
            let ending = scope.spawn(|| directory.end_all());
            let status = children[0].wait().unwrap();
            ending.join().unwrap().unwrap();
            status
        });
        assert!(!ended.success());
        assert_eq!(directory.still_there("left"), None);
        assert!(!directory.has_running());
        assert!(children[1].try_wait().unwrap().is_none(), "another process lives");
        assert_eq!(fs::read_dir(&path).unwrap().count(), 1, "only the lock is left");
        children[1].kill().unwrap();
        children[1].wait().unwrap();
    }
}
