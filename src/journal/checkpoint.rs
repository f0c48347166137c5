//! Makes what was noted outlive a crash of the machine: from time to time the destination is flushed,
//! then the journal, and then the header says up to where both are on stable storage.

use std::fs::{self, File};
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::atomic::Ordering::{AcqRel, Relaxed};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag, openat};
use nix::sys::stat::{Mode, fstat};
use nix::unistd::{fdatasync, syncfs};

use super::{Journal, Made, lock};
use crate::mounts::mounts_below;

/// Time between two checkpoints: what a crash of the machine costs at most, besides the time that
/// flushing takes.
const INTERVAL: Duration = Duration::from_secs(60);

/// The filesystems that are written to, each with a descriptor of our own to flush it by: one that is
/// shared with somebody else would take the error of a late write-back away from him.
#[derive(Debug, Default)]
pub(super) struct Targets(Vec<(u64, Option<Arc<OwnedFd>>)>);

#[cfg(test)]
impl Targets {
    /// Whether a filesystem is flushed.
    pub(super) fn has(&self, device: u64) -> bool {
        self.0.iter().any(|(known, _)| *known == device)
    }

    /// A filesystem that cannot be flushed.
    pub(super) fn add_unflushable(&mut self, device: u64) {
        self.0.push((device, None));
    }
}

impl Journal {
    /// Notes that something will be written to the filesystem of a directory.
    pub(crate) fn writes_to(&self, device: u64, directory: impl AsFd) {
        let mut targets = lock(&self.targets);
        if targets.0.iter().all(|(known, _)| *known != device) {
            let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
            let opened = openat(directory, c".", flags, Mode::empty()).ok();
            targets.0.push((device, opened.map(Arc::new)));
        }
    }

    /// Notes where earlier runs wrote. What they noted is believed with the next checkpoint, and so all
    /// filesystems that they may have met there must be flushed by then, also those that this run's walk
    /// reaches later.
    pub(super) fn was_written(&self, destinations: Vec<PathBuf>) {
        *lock(&self.unvisited) = destinations;
    }

    /// Adds the filesystems that earlier runs may have written to: whatever is mounted in a destination.
    /// Done by the thread of the checkpoints, since looking at a mount can take long. A filesystem that
    /// was unmounted since has been flushed then.
    ///
    /// # Errors
    /// `EACCES` when they cannot be known or flushed.
    fn add_unvisited(&self) -> Result<(), Errno> {
        let destinations = lock(&self.unvisited).clone();
        if destinations.is_empty() {
            return Ok(());
        }
        let mountinfo = fs::read("/proc/thread-self/mountinfo").map_err(|_| Errno::EACCES)?;
        for destination in destinations {
            let Ok(real) = fs::canonicalize(&destination) else { continue }; // gone, and all in it
            for place in mounts_below(&mountinfo, &real).into_iter().chain([real]) {
                let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
                match openat(AT_FDCWD, &place, flags, Mode::empty()) {
                    Ok(directory) => {
                        let device = fstat(&directory).map_err(|_| Errno::EACCES)?.st_dev;
                        self.writes_to(device, directory);
                    }
                    // A file, into which nothing is ever written, or a mount that just went away.
                    Err(Errno::ENOTDIR | Errno::ENOENT) => {}
                    Err(_) => return Err(Errno::EACCES),
                }
            }
        }
        lock(&self.unvisited).clear();
        Ok(())
    }

    /// Makes checkpoints until the end, however often it is called. Without a thread there are none, and a crash of the machine
    /// costs all that was noted; a crash of the process costs nothing either way.
    pub(crate) fn make_checkpoints(self: &Arc<Self>) {
        if self.watched.swap(true, Relaxed) {
            return;
        }
        let journal = Arc::clone(self);
        let _ = std::thread::Builder::new().name("checkpoints".to_owned()).spawn(move || {
            loop {
                let closed = lock(&journal.closed);
                let waited = journal.bell.wait_timeout_while(closed, INTERVAL, |closed| !*closed);
                let closed = *waited.unwrap_or_else(PoisonError::into_inner).0;
                if closed {
                    return;
                }
                match journal.checkpoint() {
                    Ok(()) => {}
                    Err(Errno::EACCES) => return,
                    // The copy's own descriptors show the error, too; but it may be killed before it
                    // looks, and the next run's would not.
                    Err(_) => return journal.distrust(),
                }
            }
        });
    }

    /// One checkpoint.
    ///
    /// # Errors
    /// The errno of flushing; what was noted since the last checkpoint is then not taken for durable.
    pub(crate) fn checkpoint(&self) -> Result<(), Errno> {
        let Some(made) = self.made.get() else { return Ok(()) }; // nothing was noted
        self.add_unvisited()?;
        // Whoever looks up the epoch after this gets the new one; whoever has the old one has written
        // his data before, and so the flush below brings them to the disk.
        self.redone.store(false, Relaxed);
        let mut header = lock(&self.header).clone();
        let believed = self.epoch.fetch_add(1, AcqRel);
        header.epoch = believed.saturating_add(1);
        let targets: Vec<_> = lock(&self.targets).0.iter().map(|(_, fd)| fd.clone()).collect();
        for target in targets {
            match target {
                Some(target) => syncfs(&*target)?,
                None => return Err(Errno::EACCES), // no way to flush it
            }
        }
        fdatasync(&*made.file)?;
        let closed = lock(&self.closed);
        if *closed || self.broken.load(Relaxed) || self.redone.load(Relaxed) {
            return Ok(());
        }
        let mut header_now = lock(&self.header);
        header_now.epoch = header.epoch;
        header_now.durable_epoch = believed;
        header_now.write(&made.file).map_err(|_| Errno::EIO)?;
        drop(header_now);
        fdatasync(&*made.file)
    }
}

impl Journal {
    /// What was written may be lost, and nobody knows which part: no entry is believed any more.
    pub(super) fn distrust(&self) {
        self.broken.store(true, Relaxed);
        self.unreliable.store(true, Relaxed);
        let mut header = lock(&self.header);
        // Entries are checked with the seed.
        header.seed = header.seed.wrapping_add(1);
        header.durable_epoch = 0;
        header.unreliable = true;
        let Some(Made { file, .. }) = self.made.get() else { return };
        if header.write(file).is_err() || fdatasync(&**file).is_err() {
            let _ = file.set_len(0); // no journal is better than one that lies
        }
    }

    /// An item that an earlier run finished is about to be made again. Should the machine crash before
    /// the next checkpoint, the older entry must not be believed: it would speak for content that
    /// never reached the disk.
    ///
    /// # Errors
    /// The errno of writing the header.
    pub(crate) fn is_redone(&self) -> Result<(), Errno> {
        if self.redone.swap(true, Relaxed) {
            return Ok(());
        }
        let mut header = lock(&self.header);
        if header.durable_epoch == 0 {
            return Ok(());
        }
        header.durable_epoch = 0;
        let file = &self.make()?.file;
        header.write(file).map_err(|_| Errno::EIO)?;
        fdatasync(&**file)
    }
}

/// The id of this boot of the machine; `None` where the kernel does not tell, so that nothing is
/// believed in another run but what is durable.
pub(super) fn boot_id() -> Option<[u8; super::header::BOOT_BYTES]> {
    use std::io::Read;
    let mut id = [0; super::header::BOOT_BYTES];
    let mut file = File::open("/proc/sys/kernel/random/boot_id").ok()?;
    file.read_exact(&mut id).ok()?;
    Some(id)
}
