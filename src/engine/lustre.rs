//! What a copy does differently where its source or its destination is Lustre: files that are released,
//! data that changed although the times did not, clients that were evicted. Layouts are in `layout`.

use std::os::fd::AsFd;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::{FileStat, Mode};

use super::dir::Dir;
use super::file::{CHANGE_RETRIES, Pending};
use super::job::Job;
use super::publish::Visible;
use super::tally::Warning;
use super::worker::Worker;
use crate::backend::SMALL_MAX_BYTES;
use crate::error::{FailureKind, Step, StepError};
use crate::lustre::{hsm, version};
use crate::options::HsmPolicy;

/// How long a client that was evicted is given to connect again before a file is copied anew, for each
/// attempt. Connecting takes a few seconds; the calls of the next attempt wait for the rest by themselves.
const RECONNECT: Duration = Duration::from_secs(2);

impl Worker<'_> {
    /// Whether a released file is left out, as the policy says.
    ///
    /// # Errors
    /// `Released`, when the policy is to refuse.
    pub(super) fn leaves_out_released(
        &self,
        source: impl AsFd,
        stat: &FileStat,
    ) -> Result<bool, StepError> {
        if !hsm::is_released(source, stat, Step::Read)? {
            return Ok(false);
        }
        let tally = &self.job.tally;
        match self.job.options().hsm {
            HsmPolicy::Refuse => Err(StepError::found(Step::Read, FailureKind::Released)),
            HsmPolicy::Skip => {
                tally.warn(Warning::ReleasedSkipped);
                self.job.control.progress.files_skipped.fetch_add(1, Relaxed);
                let size = stat.st_size.cast_unsigned();
                self.job.control.progress.bytes_skipped.fetch_add(size, Relaxed);
                Ok(true)
            }
            HsmPolicy::Restore => {
                tally.released_restored.fetch_add(1, Relaxed);
                Ok(false)
            }
        }
    }

    /// The data version of a large source on Lustre, before it is read. Small ones are read with one
    /// call, for which size and time are enough.
    pub(super) fn version_before(&self, source: impl AsFd, size: u64, lustre: bool) -> Option<u64> {
        if !lustre || size <= SMALL_MAX_BYTES { None } else { version::data_version(source) }
    }

    /// Whether a source that was read has the data version that it had before.
    pub(super) fn is_same_version(pending: &Pending, source: impl AsFd) -> bool {
        // Without one before there is nothing to compare with: it was released and is not any more.
        pending.version.is_none_or(|before| version::data_version(source) == Some(before))
    }

    /// Looks which OST is full, before what there is of the file is removed.
    pub(super) fn note_full(&self, pending: &Pending, error: StepError) {
        if error.kind != FailureKind::NoSpace || !self.job.is_on_lustre(&pending.dir) {
            return;
        }
        let name = match &pending.visible {
            Visible::AsItself => &pending.name,
            Visible::As(temporary) => temporary,
        };
        let Some(stat) = &pending.dir.destination_stat else { return };
        let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
        if let Ok(directory) = pending.dir.destination()
            && let Ok(file) = openat(&directory, name.as_c_str(), flags, Mode::empty())
        {
            self.job.sites.note_full(&file, stat.st_dev, &directory);
        }
    }

    /// Whether a file is to be copied anew because the client was evicted while it was written or read:
    /// what it had not written yet is lost, and later calls succeed again. Waits for the connection.
    pub(super) fn may_recover(&self, dir: &Dir, attempt: u8, error: StepError) -> bool {
        let pause = match error.errno {
            // Another call is answered at once: the connection is there again.
            Some(Errno::EIO | Errno::EAGAIN) => Duration::ZERO,
            Some(Errno::ENOTCONN | Errno::ESHUTDOWN) => RECONNECT * (u32::from(attempt) + 1),
            _ => return false,
        };
        attempt < CHANGE_RETRIES && self.job.is_on_lustre(dir) && self.job.waits(pause)
    }
}

impl Job<'_> {
    /// Whether a directory's source or destination is Lustre.
    pub(super) fn is_on_lustre(&self, dir: &Dir) -> bool {
        let pair = dir.destination_stat.as_ref().and_then(|stat| self.pair(&dir.stat, stat));
        pair.is_some_and(|(_, filesystems)| {
            filesystems.source.layouts || filesystems.destination.layouts
        })
    }
}
