//! What the engine notes in the journal, and what it takes from there: finished items that need not be
//! copied again, and large files that are gone on with. How entries are kept is the journal's business.

use std::ffi::CStr;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use nix::errno::Errno;
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::{FileStat, Mode, SFlag, fchmod, fstat};
use nix::sys::time::TimeSpec;
use nix::time::{ClockId, clock_gettime};
use nix::unistd::{UnlinkatFlags, ftruncate, unlinkat};

use super::attributes::Fresh;
use super::dir::Dir;
use super::file::Pending;
use super::inode::{inode, is_regular};
use super::job::Job;
use super::links::{Claim, Name};
use super::publish::{self, Created, Visible, numbered, temporary, temporary_number};
use super::walk::stat_entry;
use super::worker::Worker;
use crate::error::{FailureKind, Step, StepError};
use crate::journal::{Begun, Identity, Temporary, Writer, ranges, record};
use crate::lanes::{self, Lane};

/// Mode of a temporary file until its attributes are set.
const UNFINISHED: Mode = Mode::S_IRUSR.union(Mode::S_IWUSR);

/// The temporary file that an earlier run left, open again.
pub(super) struct Partial {
    pub(super) created: Created,
    pub(super) temporary: Temporary,
    pub(super) fresh: Fresh,
}

impl Worker<'_> {
    /// Whether an earlier run finished an entry that was expected by its directory; it is then settled.
    pub(super) fn take_as_finished(
        &mut self,
        dir: &Arc<Dir>,
        source_name: &CStr,
        name: &CStr,
    ) -> bool {
        let Some(stat) = self.finished_before(dir, source_name, name) else { return false };
        let regular = is_regular(stat.st_mode);
        // A manifest has what a link says; making it again is no more work than looking.
        if !regular && self.job.checks.is_some() {
            return false;
        }
        let claim = self.claim(dir, source_name, name, &stat, true);
        match &claim {
            None | Some(Claim::First) => {}
            Some(Claim::Waiting) => return true,
            Some(Claim::LinkTo(first)) => {
                self.link(dir, source_name, name, first);
                return true;
            }
        }
        if regular {
            self.file_was_there(dir, source_name, name, &stat);
        }
        let progress = &self.job.control.progress;
        if regular {
            let size = stat.st_size.cast_unsigned();
            progress.files_done.fetch_add(1, Relaxed);
            progress.files_resumed.fetch_add(1, Relaxed);
            for bytes in [&progress.bytes_found, &progress.bytes_done, &progress.bytes_resumed] {
                bytes.fetch_add(size, Relaxed);
            }
        } else {
            progress.links_done.fetch_add(1, Relaxed);
            self.job.tally.links_resumed.fetch_add(1, Relaxed);
        }
        let link = claim.map(|_| inode(&stat));
        self.first_name_is_complete(dir, source_name, name, &stat, link, None);
        self.settle(dir, 1);
        true
    }

    /// The stat of a source that is about to be read, as the journal wants it.
    pub(super) fn about_to_be_read(&self, stat: FileStat) -> FileStat {
        if self.journal.is_none() { stat } else { record::about_to_be_read(stat, file_time()) }
    }

    /// The source of an item that an earlier run finished, provided that it is still the same and that
    /// the destination has it.
    fn finished_before(&self, dir: &Dir, source_name: &CStr, name: &CStr) -> Option<FileStat> {
        let print = self.journal.as_ref()?.journal().done(dir.key_of(name))?;
        let pass = lanes::enter(Lane::SourceMetadata);
        let stat = stat_entry(&dir.source().ok()?, source_name).ok()?;
        drop(pass);
        let times = self.job.options().preserve.timestamps;
        if times && record::print(&stat) != print {
            return None;
        }
        let _pass = lanes::enter(Lane::DestinationCreate);
        let there = stat_entry(&dir.destination().ok()?, name).ok()?;
        let kind = |stat: &FileStat| SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT;
        let device = matches!(kind(&stat), SFlag::S_IFCHR | SFlag::S_IFBLK);
        let time = |stat: &FileStat| (stat.st_mtime, stat.st_mtime_nsec);
        let same = kind(&there) == kind(&stat)
            && there.st_size == stat.st_size
            && (!device || there.st_rdev == stat.st_rdev)
            && (if times {
                time(&there) == time(&stat)
            } else {
                record::print_with_copy(record::print(&stat), &there) == print
            });
        same.then_some(stat)
    }

    /// Whether the journal says that an item was once finished. What is made in its place is made
    /// aside: half of it under this name would look finished to the next run.
    pub(super) fn was_finished(&self, dir: &Dir, name: &CStr) -> bool {
        let journal = self.journal.as_ref().map(Writer::journal);
        journal.is_some_and(|journal| journal.done(dir.key_of(name)).is_some())
    }

    /// As [`Worker::was_finished`], for an item that is about to be made again.
    pub(super) fn is_made_again(&self, dir: &Dir, name: &CStr) -> bool {
        let again = self.was_finished(dir, name);
        if again && let Some(journal) = &self.journal {
            self.noted(journal.journal().is_redone());
        }
        again
    }

    /// Notes that an item is complete. `stat` is its source when it was opened.
    pub(super) fn note_finished(&self, dir: &Dir, name: &CStr, stat: &FileStat) {
        if let Some(journal) = &self.journal
            && let Some(print) = self.print_of(dir, name, stat)
        {
            let regular = is_regular(stat.st_mode);
            self.noted(journal.finished(dir.key_of(name), stat, print, regular));
        }
    }

    /// The print under which an item that is complete is noted. Without the source's time it is told by its own, and by
    /// its inode.
    pub(super) fn print_of(&self, dir: &Dir, name: &CStr, stat: &FileStat) -> Option<u64> {
        let print = record::print(stat);
        if self.job.options().preserve.timestamps {
            return Some(print);
        }
        let there = stat_entry(&dir.destination().ok()?, name).ok()?;
        Some(record::print_with_copy(print, &there))
    }

    /// Notes that a further name is linked to the first; not while the first waits to be read back,
    /// because what is noted is finished for good.
    pub(super) fn note_link(&self, dir: &Dir, name: &CStr, first: &Name) {
        if !self.job.reads_back()
            && let Some(journal) = &self.journal
            && let Some(print) = first.print
        {
            self.noted(journal.linked(dir.key_of(name), print));
        }
    }

    /// Whether an earlier run linked this name, and it still is what it was.
    pub(super) fn is_linked_already(&self, dir: &Dir, name: &CStr, first: &Name) -> bool {
        let look = |dir: &Dir, name: &CStr| stat_entry(&dir.destination()?, name);
        self.was_finished(dir, name)
            && look(dir, name)
                .and_then(|own| Ok(inode(&own) == inode(&look(&first.dir, &first.name)?)))
                .unwrap_or(false)
    }

    /// Counts and settles a further name that an earlier run linked.
    pub(super) fn take_link_as_finished(&mut self, dir: &Arc<Dir>, name: &CStr, first: &Name) {
        if let Some(checks) = &self.job.checks {
            checks.record_link(dir, name, first);
        }
        self.job.tally.links_resumed.fetch_add(1, Relaxed);
        self.job.control.progress.links_done.fetch_add(1, Relaxed);
        self.settle(dir, 1);
    }

    /// Opens the temporary file that an earlier run left of this one. With `usable` unset, or when the
    /// source is another one by now, what was left is removed.
    pub(super) fn partial(
        &self,
        dir: &Dir,
        name: &CStr,
        stat: &FileStat,
        usable: bool,
    ) -> Option<Partial> {
        let journal = self.journal.as_ref()?;
        let begun = journal.journal().begun(dir.key_of(name))?;
        let partial = (usable && begun.print == record::print(stat))
            .then(|| reopen(journal, dir, name, stat, begun))
            .flatten();
        if partial.is_none() {
            self.forget_partial(dir, name);
        }
        partial
    }

    /// Removes the temporary file that an earlier run left of this name, if it left one.
    pub(super) fn forget_partial(&self, dir: &Dir, name: &CStr) {
        let Some(journal) = &self.journal else { return };
        let key = dir.key_of(name);
        let Some(begun) = journal.journal().begun(key) else { return };
        self.noted(journal.dropped_earlier(key, begun));
        if let Ok(destination) = dir.destination() {
            // Whoever needs the name finds out whether it is free.
            let _ = unlinkat(&destination, temporary(name).as_c_str(), UnlinkatFlags::NoRemoveDir);
        }
    }

    /// Notes that a file is about to be made under its temporary name.
    pub(super) fn note_aside(&self, dir: &Dir, name: &CStr) {
        if let Some(journal) = &self.journal {
            self.noted(journal.named(dir.key, temporary_number(name)));
        }
    }

    /// From now on the journal is told which ranges of a large file are written, when there will be
    /// several.
    pub(super) fn begin_ranges(
        &self,
        pending: &mut Pending,
        destination: BorrowedFd<'_>,
        chunk_bytes: u64,
    ) {
        let Some(journal) = &self.journal else { return };
        let aside = matches!(pending.visible, Visible::As(_));
        let long = pending.stat.st_size.cast_unsigned() > chunk_bytes;
        if pending.temporary.is_some() || !aside || !long {
            return;
        }
        let keys = (pending.dir.key_of(&pending.name), pending.dir.key);
        let number = temporary_number(&pending.name);
        match journal.begun(keys, &pending.stat, destination, number) {
            Ok(temporary) => pending.temporary = temporary,
            Err(errno) => self.noted(Err(errno)),
        }
    }

    /// What an earlier run has written of a large file, in whole blocks.
    pub(super) fn written_before(&self, pending: &Pending, block: u64) -> Vec<Range<u64>> {
        let Some(temporary) = &pending.temporary else { return Vec::new() };
        let size = pending.stat.st_size.cast_unsigned();
        let written = ranges::whole_blocks(&temporary.written, block, size);
        let progress = &self.job.control.progress;
        for bytes in [&progress.bytes_done, &progress.bytes_resumed, &progress.ranges_resumed] {
            bytes.fetch_add(ranges::bytes(&written), Relaxed);
        }
        written
    }

    /// Leaves a file that was cancelled to the next run, when the journal knows what is written of it.
    pub(super) fn keep_or_abandon(&self, pending: &Pending, written: impl AsFd) {
        match &self.journal {
            Some(journal) if pending.temporary.is_some() => journal.kept(),
            _ => self.abandon(pending, publish::identity(written).ok()),
        }
    }

    /// Notes that a temporary file is about to be removed.
    pub(super) fn note_dropped(&self, pending: &Pending) {
        if let (Some(journal), Some(temporary)) = (&self.journal, &pending.temporary) {
            self.noted(journal.dropped(temporary));
        }
    }

    /// Notes a directory that things will be written to.
    pub(super) fn note_directory(&self, above: &Dir, directory: &OwnedFd, stat: &FileStat) {
        let Some(journal) = &self.job.journal else { return };
        journal.writes_to(stat.st_dev, directory);
        if journal.goes_on() {
            // What an earlier run wrote there is to be flushed, too.
            self.job.writes_to(stat.st_dev, directory);
        }
        if above.is_anchor() && above.root.index == 0 && !self.job.options().dry_run {
            // A directory that cannot be looked at is not known, and whatever is there is taken.
            journal.note_root(Identity::of(directory).unwrap_or_default());
        }
    }

    /// Removes temporary files that an earlier run left in a directory in which everything is done.
    pub(super) fn remove_left_over(&self, dir: &Dir, destination: &Arc<OwnedFd>) {
        let Some(journal) = &self.job.journal else { return };
        for number in journal.left_in(dir.key) {
            let name = numbered(*number);
            if stat_entry(destination, &name).is_ok_and(|stat| is_regular(stat.st_mode)) {
                // Should it stay, it is in nobody's way.
                let _ = unlinkat(destination, name.as_c_str(), UnlinkatFlags::NoRemoveDir);
            }
        }
    }

    fn noted(&self, result: Result<(), Errno>) {
        if let Err(errno) = result {
            journal_failed(self.job, errno);
        }
    }
}

/// The time, to compare that of a change with: never before one that a filesystem of this machine gives, which is
/// that of the last tick. (The coarse clock was, when the processor that moves both on was held up.)
pub(super) fn file_time() -> TimeSpec {
    clock_gettime(ClockId::CLOCK_REALTIME).unwrap_or(TimeSpec::new(0, 0))
}

/// Notes that a piece of a large file is written.
pub(super) fn note_range(
    job: &Job<'_>,
    journal: Option<&Writer>,
    temporary: Option<&Temporary>,
    piece: Range<u64>,
) {
    if let (Some(journal), Some(temporary)) = (journal, temporary)
        && let Err(errno) = journal.written(temporary, piece)
    {
        journal_failed(job, errno);
    }
}

/// A journal that cannot be written: what is full for it is full for the copy, and stops it. Otherwise
/// the copy goes on without.
fn journal_failed(job: &Job<'_>, errno: Errno) {
    let Some(journal) = &job.journal else { return };
    let error = StepError::os(Step::Journal, errno);
    if journal.is_beside() && FailureKind::of(errno).is_fatal() {
        job.fail_at_destination(journal.path().unwrap_or(Path::new("")).to_owned(), error);
    } else {
        job.note(format!("{error}: a run that is stopped does what follows again"));
    }
}

/// Opens the temporary file of an earlier run, when it is that one and nobody else has a hand in it.
fn reopen(
    journal: &Writer,
    dir: &Dir,
    name: &CStr,
    stat: &FileStat,
    begun: &Begun,
) -> Option<Partial> {
    let destination = dir.destination().ok()?;
    let aside = temporary(name);
    let flags = OFlag::O_WRONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
    let file = openat(&destination, aside.as_c_str(), flags, Mode::empty()).ok()?;
    let found = fstat(&file).ok()?;
    // It may have its final owner already, when it was only to be moved into place.
    let ours = found.st_uid == nix::unistd::geteuid().as_raw() || found.st_uid == stat.st_uid;
    let end = begun.ranges.last().map_or(0, |range| range.end);
    if !is_regular(found.st_mode)
        || found.st_nlink != 1
        || !ours
        || found.st_size.cast_unsigned() < end
        || end > stat.st_size.cast_unsigned()
    {
        return None;
    }
    let temporary = journal.again(dir.key_of(name), begun, file.as_fd()).ok()??;
    fchmod(&file, UNFINISHED).ok()?;
    if found.st_size > stat.st_size {
        // O_DIRECT wrote its last block whole, and the run was killed before it cut that.
        ftruncate(&file, stat.st_size).ok()?;
    }
    let owner = (found.st_uid, found.st_gid);
    let fresh = Fresh { owner, mode: UNFINISHED.bits(), may_have_acl: true };
    Some(Partial { created: Created { file, visible: Visible::As(aside) }, temporary, fresh })
}
