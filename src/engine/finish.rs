//! What follows the content of a regular file: was the source still, attributes, times, flush, close,
//! the move into place. Every failure here reaches the report; nothing is left to a destructor.

use std::os::fd::{AsFd, IntoRawFd, OwnedFd};
use std::sync::atomic::Ordering::Relaxed;

use nix::errno::Errno;
use nix::fcntl::AtFlags;
use nix::sys::stat::{FileStat, fstat, fstatat};
use nix::unistd::fsync;

use super::check::Content;
use super::file::{CHANGE_RETRIES, Pending};
use super::inode::{Inode, inode};
use super::publish::{self, Published, Visible};
use super::worker::Worker;
use crate::backend::{Finished, Mechanism, Read, SmallFile};
use crate::error::{AtStep, FailureKind, Step, StepError};
use crate::journal::record::is_trusted;
use crate::lanes::{self, Lane};
use crate::options::SyncPolicy;

impl Worker<'_> {
    /// The content of a small file has been moved, or not.
    pub(crate) fn small_is_moved(&mut self, finished: Finished<Pending>) {
        let SmallFile { source, destination, owner: mut pending, digest, .. } = finished.file;
        pending.content = digest.map(Content::whole);
        match finished.result {
            Ok(moved) if moved.read == Read::Exact => {
                let size = pending.stat.st_size.cast_unsigned();
                self.job.control.progress.bytes_done.fetch_add(size, Relaxed);
                self.content_is_there(pending, &source, destination, moved.mechanism, size);
                // Network filesystems wait for the server even to close what was read.
                let _pass = lanes::enter(Lane::SourceMetadata);
                drop(source);
            }
            Ok(moved) => {
                let grown = moved.read == Read::Grown;
                self.source_changed(pending, &source, destination, grown);
            }
            Err(error) => {
                drop(source);
                self.give_up(pending, destination, error);
            }
        }
    }

    /// All content is in place, `moved` bytes of which were read and written; unless the source
    /// changed meanwhile, the file is finished.
    pub(crate) fn content_is_there(
        &mut self,
        mut pending: Pending,
        source: &OwnedFd,
        destination: OwnedFd,
        mechanism: Mechanism,
        moved: u64,
    ) {
        // A clone is of one moment, too, even of a file that is written to all the time.
        pending.is_restless &= mechanism != Mechanism::Clone;
        // What is empty was so at one moment; of anything else, parts may be of different ones.
        let changed = if mechanism == Mechanism::Empty {
            Ok(None)
        } else {
            changed_meanwhile(&pending, source)
        };
        match changed {
            Ok(None) => {}
            Ok(Some(now)) => {
                // Of one that is written to all the time nobody can tell.
                let grown = now.st_size > pending.stat.st_size
                    || (pending.is_restless && now.st_size == pending.stat.st_size);
                return self.source_changed(pending, source, destination, grown);
            }
            Err(errno) => {
                return self.give_up(pending, destination, StepError::os(Step::Stat, errno));
            }
        }
        // A file that is read back gets its times, and what forbids setting them, when it is right.
        let now = !self.job.reads_back() || pending.stat.st_size == 0;
        match self.finish_file(&pending, source, destination, now) {
            Ok(Ok(())) => {
                self.job.tally.moved(mechanism, moved);
                self.file_is_published(&mut pending);
            }
            Ok(Err(error)) => {
                self.job.fail(pending.dir.source_path(Some(&pending.source_name)), error);
                // Names linked to this one would share what it lacks: each must fail by itself.
                self.first_name_failed(pending.link);
                self.settle(&pending.dir, 1);
                return;
            }
            Err(Unfinished { error, made }) => {
                self.note_full(&pending, error);
                self.abandon(&pending, made);
                return self.try_again_or_fail(pending, error);
            }
        }
        let Pending { dir, source_name, name, link, stat, made, .. } = &pending;
        self.first_name_is_complete(dir, source_name, name, stat, *link, made.get().copied());
        self.settle(dir, 1);
    }

    /// The source changed while it was read: it is read again from the start, or, when it only keeps
    /// growing, taken as it was.
    fn source_changed(
        &mut self,
        pending: Pending,
        source: &OwnedFd,
        destination: OwnedFd,
        grown: bool,
    ) {
        let changed = StepError::found(Step::Read, FailureKind::SourceChanged);
        if grown && pending.attempt >= CHANGE_RETRIES {
            self.keep_what_was_read(pending, source, destination, changed);
        } else {
            self.give_up(pending, destination, changed);
        }
    }

    /// Attributes, times, flush, close, and the move into place, in this order. An attribute that
    /// cannot be set does not keep the file from being published: that is the inner error. With the
    /// outer one the name does not show this file, and nothing may be linked to it.
    fn finish_file(
        &self,
        pending: &Pending,
        source: &OwnedFd,
        destination: OwnedFd,
        times: bool,
    ) -> Result<Result<(), StepError>, Unfinished> {
        let unfinished = |error| Unfinished { error, made: publish::identity(&destination).ok() };
        let pass = lanes::enter(Lane::DestinationCreate);
        let attributes = &self.job.attributes;
        let target = destination.as_fd();
        let applied = pending
            .xattrs
            .as_ref()
            .map_err(|error| *error)
            .and_then(|xattrs| attributes.apply(target, &pending.stat, xattrs, pending.fresh))
            .and_then(
                |()| if times { attributes.set_times(target, &pending.stat) } else { Ok(()) },
            );
        if self.job.options().sync == SyncPolicy::File {
            drop(pass);
            let _pass = lanes::enter(Lane::DestinationWrite);
            fsync(&destination).at(Step::Sync).map_err(unfinished)?;
        }
        let _pass = lanes::enter(Lane::DestinationCreate);
        // Whoever may fail once the descriptor is gone has to know the file by then, and whoever links to it.
        let aside = matches!(pending.visible, Visible::As(_));
        let linked = pending.link.is_some();
        let wanted = aside || linked || pending.closes_late || self.job.reads_back();
        let made = wanted.then(|| publish::identity(&destination)).transpose();
        let made = made.map_err(unfinished)?;
        // Both once for each attempt.
        if let Some(made) = made {
            let _ = pending.made.set(made);
        }
        if let Some(made) = made.filter(|_| self.job.reads_back()) {
            let published = Published::of(made, &destination).map_err(unfinished)?;
            let _ = pending.published.set(published);
        }
        // Flags come after the move: an immutable file cannot be renamed any more.
        let preserve = self.job.options().preserve;
        let for_flags = (times && applied.is_ok() && (preserve.flags || preserve.project))
            .then(|| destination.try_clone().map_err(|_| Errno::EMFILE).at(Step::Xattr))
            .transpose()
            .map_err(unfinished)?;
        let unfinished = |error| Unfinished { error, made };
        close(destination).map_err(unfinished)?;
        if let Some(made) = made {
            let dir = pending.dir.destination().at(Step::Publish).map_err(unfinished)?;
            publish::publish(
                dir.as_fd(),
                &pending.visible,
                &pending.name,
                made,
                self.known(&pending.dir),
            )
            .map_err(unfinished)?;
        }
        Ok(match for_flags {
            Some(target) => attributes.apply_flags(source.as_fd(), target.as_fd()),
            None => applied,
        })
    }

    /// Abandons a file. One that changed while it was read is tried again from the start, and so is one
    /// that a client of Lustre lost its connection over.
    pub(crate) fn give_up(&mut self, pending: Pending, destination: impl AsFd, error: StepError) {
        self.note_full(&pending, error);
        self.abandon(&pending, publish::identity(&destination).ok());
        // Not before: a filesystem may give the number of an inode that is gone to the next one.
        drop(destination);
        self.try_again_or_fail(pending, error);
    }

    fn try_again_or_fail(&mut self, pending: Pending, error: StepError) {
        let Pending { dir, source_name, name, link, attempt, .. } = pending;
        let again = error.kind == FailureKind::SourceChanged && attempt < CHANGE_RETRIES;
        if (again || self.may_recover(&dir, attempt, error)) && !self.job.stopped() {
            let waiting = link.map(|inode| self.job.links.fail(inode)).unwrap_or_default();
            self.retry_names(waiting);
            self.try_file(&dir, &source_name, &name, attempt + 1, true);
            return;
        }
        self.job.fail(dir.source_path(Some(&source_name)), error);
        self.first_name_failed(link);
        self.settle(&dir, 1);
    }

    /// A file that keeps growing, a log perhaps: what it held when it was opened is kept, with the
    /// time of the copy, so that a later `--update` takes it up again. It is an error all the same.
    fn keep_what_was_read(
        &mut self,
        pending: Pending,
        source: &OwnedFd,
        destination: OwnedFd,
        changed: StepError,
    ) {
        if let Err(Unfinished { made, .. }) = self.finish_file(&pending, source, destination, false)
        {
            self.abandon(&pending, made);
        }
        self.job.fail(pending.dir.source_path(Some(&pending.source_name)), changed);
        self.first_name_failed(pending.link);
        self.settle(&pending.dir, 1);
    }

    /// Removes what there is of a file that will not be finished, as far as it is known to be that file.
    pub(crate) fn abandon(&self, pending: &Pending, made: Option<Inode>) {
        let _pass = lanes::enter(Lane::DestinationCreate);
        self.note_dropped(pending);
        if let (Ok(dir), Some(made)) = (pending.dir.destination(), made) {
            publish::abandon(dir.as_fd(), &pending.visible, &pending.name, made);
        }
    }

    /// Counts a complete file of `size` bytes.
    pub(crate) fn count_file(&self, size: u64) {
        self.job.tally.files.fetch_add(1, Relaxed);
        self.job.tally.bytes.fetch_add(size, Relaxed);
        self.job.control.progress.files_done.fetch_add(1, Relaxed);
    }
}

/// Why a file could not be finished, and which one it is, where that is known.
struct Unfinished {
    error: StepError,
    made: Option<Inode>,
}

/// The source as it is now, if that is not what it was when it was opened.
fn changed_meanwhile(pending: &Pending, source: &OwnedFd) -> Result<Option<FileStat>, Errno> {
    let _pass = lanes::enter(Lane::SourceMetadata);
    let now = fstat(source)?;
    let same = !pending.is_restless
        && is_unchanged(pending, &now, || was_moved(pending, &now))
        && Worker::is_same_version(pending, source);
    Ok((!same).then_some(now))
}

/// Whether a source is what it was when it was opened. A further link, a new mode or owner and another name move the
/// change time and say so; anything else that moves it may be new content under the old time.
fn is_unchanged(pending: &Pending, now: &FileStat, moved: impl FnOnce() -> bool) -> bool {
    let before = &pending.stat;
    let said = |stat: &FileStat| (stat.st_nlink, stat.st_mode, stat.st_uid, stat.st_gid);
    // Of a file that had just been changed the nanoseconds were not kept.
    let nanos = if is_trusted(before) { before } else { now }.st_ctime_nsec;
    (pending.streamed || before.st_size == now.st_size)
        && (before.st_mtime, before.st_mtime_nsec) == (now.st_mtime, now.st_mtime_nsec)
        && ((before.st_ctime, nanos) == (now.st_ctime, now.st_ctime_nsec)
            || said(before) != said(now)
            || moved())
}

/// Whether the name that a source was opened by leads to it no more.
fn was_moved(pending: &Pending, now: &FileStat) -> bool {
    let found = pending.dir.source().and_then(|dir| {
        fstatat(dir.as_fd(), pending.source_name.as_c_str(), AtFlags::AT_SYMLINK_NOFOLLOW)
    });
    match found {
        Ok(found) => inode(&found) != inode(now),
        Err(errno) => errno == Errno::ENOENT,
    }
}

/// Closes a written file: on network filesystems late errors of writing appear here.
fn close(file: OwnedFd) -> Result<(), StepError> {
    match nix::unistd::close(file.into_raw_fd()) {
        Ok(()) | Err(Errno::EINTR) => Ok(()),
        Err(errno) => Err(StepError::os(Step::Write, errno)),
    }
}
