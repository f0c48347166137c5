//! Begin and end of a copy as far as its journal is concerned: opened before the first byte, removed
//! when there is nothing to go on with. What is noted in between is in `resume`.

use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use nix::fcntl::{AT_FDCWD, OFlag, openat};
use nix::sys::stat::{Mode, fstat};

use super::Control;
use super::job::Job;
use crate::error::{AtStep, Refusal, Step, StepError};
use crate::exit::Outcome;
use crate::journal::{End, Journal};
use crate::options::SyncPolicy;
use crate::plan::Plan;
use crate::report::Resumed;

/// Opens the journal that the caller prepared. The second value is what the
/// report says about it.
///
/// # Errors
/// Those of [`crate::journal::Ticket`].
pub(super) fn open_journal(
    plan: &Plan,
    control: &Control,
) -> Result<(Option<Arc<Journal>>, Vec<String>), Refusal> {
    let Some(ticket) = control.journal.as_ref().filter(|_| !plan.options.dry_run) else {
        return Ok((None, Vec::new()));
    };
    let mut notes = ticket.notes().to_vec();
    match ticket.open()? {
        Ok(journal) => Ok((Some(journal), notes)),
        Err(why) => {
            notes.push(why);
            Ok((None, notes))
        }
    }
}

impl Job<'_> {
    /// Starts the checkpoints of the journal, once. A copy that is over in a moment has none.
    pub(super) fn begin_checkpoints(&self) {
        if let Some(journal) = &self.journal
            && self.options().sync != SyncPolicy::None
        {
            journal.make_checkpoints();
        }
    }

    /// Ends the journal's part in this copy. Returns whether the same command, as it is, goes on after
    /// this, or has nothing left to do.
    pub(super) fn end_journal(&self, outcome: Outcome) -> bool {
        let Some(journal) = &self.journal else { return false };
        let how = match outcome {
            Outcome::Complete => End::Complete,
            _ if self.is_unreliable() => End::Lost,
            _ if self.has_lost_filesystem() => End::Unreliable,
            _ => End::Unfinished,
        };
        let holder = journal.path().and_then(Path::parent).map(Path::to_owned);
        if !journal.end(how) {
            return true;
        }
        if let Some((source, destination)) = self.plan.holder_that_is_copied()
            && holder.as_deref() == Some(crate::selection::absolute(&destination).as_path())
            && let Err(error) = self.restore_times(&source, &destination)
        {
            self.fail_at_destination(destination, error);
        }
        outcome == Outcome::Complete
    }

    /// Removes the journal of a copy that was refused after all.
    pub(super) fn forget_journal(&self) {
        if let Some(journal) = &self.journal {
            journal.end(End::Refused);
        }
    }

    /// Removing the journal from a directory that was copied moved the time that the copy had set.
    fn restore_times(
        &self,
        source: &std::path::Path,
        destination: &std::path::Path,
    ) -> Result<(), StepError> {
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let path = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let source = openat(AT_FDCWD, source, path, Mode::empty()).at(Step::Times)?;
        let stat = fstat(&source).at(Step::Stat)?;
        let target = openat(AT_FDCWD, destination, flags, Mode::empty()).at(Step::Times)?;
        self.attributes.set_times(target.as_fd(), &stat)
    }

    /// What an earlier run had done, when this one went on with its journal.
    pub(super) fn resumed(&self) -> Option<Resumed> {
        let progress = &self.control.progress;
        self.journal.as_ref().filter(|journal| journal.goes_on()).map(|_| Resumed {
            files: progress.files_resumed.load(Relaxed),
            links: self.tally.links_resumed.load(Relaxed),
            bytes: progress.bytes_resumed.load(Relaxed),
            ranges: progress.ranges_resumed.load(Relaxed),
        })
    }
}
