//! Regular files: opened, created, given to a mechanism, finished, made visible. Moving the bytes is
//! the backend's work; chunks of large files are in `large`.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, IntoRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat};
use nix::sys::stat::{FileStat, Mode, SFlag, fstat, fstatat};
use nix::unistd::{fsync, linkat};

use super::attributes::Fresh;
use super::dir::{Dir, Inode, inode};
use super::job::Filesystems;
use super::links::{Claim, Name};
use super::pair::Pair;
use super::publish::{self, Visible, create_file};
use super::tally::Warning;
use super::walk::stat_entry;
use super::worker::Worker;
use crate::backend::{Finished, Mechanism, Read, SMALL_MAX_BYTES, SmallFile};
use crate::error::{AtStep, FailureKind, Step, StepError};
use crate::options::SyncPolicy;
use crate::sys::{self, XattrTarget};

/// How often a file that changes while it is read is read again from the start.
const CHANGE_RETRIES: u8 = 2;

/// Opening does not wait (for a FIFO that took the name) and does not touch the access time.
const OPEN_SOURCE: OFlag =
    OFlag::O_RDONLY.union(OFlag::O_NOFOLLOW).union(OFlag::O_NONBLOCK).union(OFlag::O_CLOEXEC);

/// A file that is being copied; what finishing it needs.
#[derive(Debug)]
pub(crate) struct Pending {
    pub(crate) dir: Arc<Dir>,
    pub(crate) source_name: CString,
    pub(crate) name: CString,
    /// The source when it was opened.
    pub(crate) stat: FileStat,
    visible: Visible,
    fresh: Fresh,
    pair: Arc<Pair>,
    /// Set when further names wait for this one.
    link: Option<Inode>,
    attempt: u8,
}

/// An opened source and everything decided about it.
#[derive(Debug)]
struct Source {
    file: OwnedFd,
    stat: FileStat,
    link: Option<Inode>,
    attempt: u8,
}

impl Worker<'_> {
    /// One regular file that was expected by its directory.
    pub(crate) fn file(&mut self, dir: &Arc<Dir>, source_name: &CStr, name: &CStr) {
        self.try_file(dir, source_name, name, 0, true);
    }

    /// `linked` is false for a name that must become a file of its own.
    fn try_file(
        &mut self,
        dir: &Arc<Dir>,
        source_name: &CStr,
        name: &CStr,
        attempt: u8,
        linked: bool,
    ) {
        let opened = self.with_descriptors(|_| open_source(dir, source_name));
        let result = match opened {
            Ok((file, stat))
                if SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT == SFlag::S_IFREG =>
            {
                let progress = &self.job.control.progress;
                if attempt == 0 {
                    progress.bytes_found.fetch_add(stat.st_size.cast_unsigned(), Relaxed);
                }
                match self.claim(dir, source_name, name, &stat, linked) {
                    Some(Claim::Waiting) => return,
                    Some(Claim::LinkTo(first)) => return self.link(dir, source_name, name, &first),
                    claimed => {
                        let link = claimed.map(|_| inode(&stat));
                        let source = Source { file, stat, link, attempt };
                        self.copy_file(dir, source_name, name, source)
                    }
                }
            }
            // It is something else by now.
            Ok(_) => Err(StepError::found(Step::Open, FailureKind::SourceChanged)),
            Err(error) => Err(error),
        };
        if let Err(error) = result {
            self.job.fail(dir.source_path(Some(source_name)), error);
            self.settle(dir, 1);
        }
    }

    fn claim(
        &self,
        dir: &Arc<Dir>,
        source_name: &CStr,
        name: &CStr,
        stat: &FileStat,
        linked: bool,
    ) -> Option<Claim> {
        if stat.st_nlink < 2 || !linked || !self.job.options().preserve.links {
            return None;
        }
        let owned = || Name {
            dir: Arc::clone(dir),
            source_name: source_name.to_owned(),
            name: name.to_owned(),
        };
        Some(self.job.links.claim(inode(stat), stat.st_nlink, owned))
    }

    /// Copies an opened file. An error means that nothing was put in flight and that the caller
    /// settles the entry.
    fn copy_file(
        &mut self,
        dir: &Arc<Dir>,
        source_name: &CStr,
        name: &CStr,
        source: Source,
    ) -> Result<(), StepError> {
        let link = source.link;
        let result = self.start_file(dir, source_name, name, source);
        if result.is_err() {
            self.first_name_failed(link);
        }
        result
    }

    fn start_file(
        &mut self,
        dir: &Arc<Dir>,
        source_name: &CStr,
        name: &CStr,
        source: Source,
    ) -> Result<(), StepError> {
        let stat = source.stat;
        let size = stat.st_size.cast_unsigned();
        if self.job.options().update && self.is_up_to_date(dir, name, &source)? {
            self.job.control.progress.files_skipped.fetch_add(1, Relaxed);
            self.first_name_is_complete(dir, source_name, name, source.link);
            self.settle(dir, 1);
            return Ok(());
        }
        if self.job.options().dry_run {
            self.count_file(size);
            self.first_name_is_complete(dir, source_name, name, source.link);
            self.settle(dir, 1);
            return Ok(());
        }
        let (pair, filesystems) = self.pair_of(dir)?;
        let large = size > SMALL_MAX_BYTES || is_sparse(&stat);
        let owner = dir.new_owner.get().copied();
        let (mode, effective) = self.job.attributes.creation_mode(&stat, owner);
        let destination = dir.destination().at(Step::Create)?;
        let created = self.with_descriptors(|_| {
            create_file(destination.as_fd(), name, mode, size > SMALL_MAX_BYTES)
        })?;
        let owner = match owner {
            Some(owner) => owner,
            None => {
                // What the filesystem gives to a file made here holds for all of this directory.
                let made = fstat(&created.file).at(Step::Stat)?;
                *dir.new_owner.get_or_init(|| (made.st_uid, made.st_gid))
            }
        };
        let pending = Pending {
            dir: Arc::clone(dir),
            source_name: source_name.to_owned(),
            name: name.to_owned(),
            stat,
            visible: created.visible,
            fresh: Fresh { owner, mode: effective, may_have_acl: dir.default_acl },
            pair: Arc::clone(&pair),
            link: source.link,
            attempt: source.attempt,
        };
        if size == 0 {
            self.content_is_there(pending, &source.file, created.file, Mechanism::Empty);
            return Ok(());
        }
        if pair.may_clone() {
            match sys::clone_file(&created.file, &source.file) {
                Ok(()) => {
                    pair.cloned();
                    self.job.control.progress.bytes_done.fetch_add(size, Relaxed);
                    self.content_is_there(pending, &source.file, created.file, Mechanism::Clone);
                    return Ok(());
                }
                Err(errno) if pair.clone_refused(errno) => {}
                Err(errno) => {
                    self.give_up(pending, StepError::os(Step::Clone, errno));
                    return Ok(());
                }
            }
        }
        if large {
            self.start_large(pending, source.file, created.file, filesystems);
        } else {
            let size = usize::try_from(size).expect("a small file's size fits into usize");
            let source = Arc::new(source.file);
            self.move_small(SmallFile {
                source,
                destination: created.file,
                size,
                pair,
                owner: pending,
            });
        }
        Ok(())
    }

    /// The filesystems of a directory's two sides.
    fn pair_of(&self, dir: &Dir) -> Result<(Arc<Pair>, Filesystems), StepError> {
        let destination = dir.destination_stat.as_ref().ok_or(Errno::ENOENT).at(Step::Create)?;
        if let Some(known) = self.job.pair(&dir.stat, destination) {
            return Ok(known);
        }
        let kind = |fd: Result<Arc<OwnedFd>, Errno>| {
            fd.and_then(super::filesystem::Filesystem::of).at(Step::Stat)
        };
        let filesystems =
            Filesystems { source: kind(dir.source())?, destination: kind(dir.destination())? };
        Ok(self.job.add_pair(&dir.stat, destination, filesystems))
    }

    /// The content of a small file has been moved, or not.
    pub(crate) fn small_is_moved(&mut self, finished: Finished<Pending>) {
        let SmallFile { source, destination, owner: pending, .. } = finished.file;
        match finished.result {
            Ok(moved) if moved.read == Read::Exact => {
                let size = pending.stat.st_size.cast_unsigned();
                self.job.control.progress.bytes_done.fetch_add(size, Relaxed);
                self.content_is_there(pending, &source, destination, moved.mechanism);
            }
            Ok(moved) => {
                let changed = StepError::found(Step::Read, FailureKind::SourceChanged);
                if moved.read == Read::Grown && pending.attempt >= CHANGE_RETRIES {
                    self.keep_what_was_read(pending, &source, destination, changed);
                } else {
                    drop((source, destination));
                    self.give_up(pending, changed);
                }
            }
            Err(error) => {
                drop((source, destination));
                self.give_up(pending, error);
            }
        }
    }

    /// All content is in place; unless the source changed meanwhile, the file is finished.
    pub(crate) fn content_is_there(
        &mut self,
        pending: Pending,
        source: &OwnedFd,
        destination: OwnedFd,
        mechanism: Mechanism,
    ) {
        match fstat(source) {
            Ok(now) if is_unchanged(&pending.stat, &now) => {}
            Ok(now) => {
                let changed = StepError::found(Step::Read, FailureKind::SourceChanged);
                let grown = now.st_size > pending.stat.st_size;
                if grown && pending.attempt >= CHANGE_RETRIES {
                    self.keep_what_was_read(pending, source, destination, changed);
                } else {
                    drop(destination);
                    self.give_up(pending, changed);
                }
                return;
            }
            Err(errno) => {
                drop(destination);
                self.give_up(pending, StepError::os(Step::Stat, errno));
                return;
            }
        }
        let size = pending.stat.st_size.cast_unsigned();
        match self.finish_file(&pending, source, destination, true) {
            Ok(()) => {
                let cloned = matches!(mechanism, Mechanism::Clone | Mechanism::Empty);
                self.job.tally.moved(mechanism, if cloned { 0 } else { size });
                self.count_file(size);
            }
            Err(error) => {
                self.job.fail(pending.dir.source_path(Some(&pending.source_name)), error);
                if matches!(error.step, Step::Publish | Step::Sync | Step::Write) {
                    self.abandon(&pending);
                    self.first_name_failed(pending.link);
                    self.settle(&pending.dir, 1);
                    return;
                }
            }
        }
        let Pending { dir, source_name, name, link, .. } = &pending;
        self.first_name_is_complete(dir, source_name, name, *link);
        self.settle(dir, 1);
    }

    /// Attributes, times, flush, close, and the move into place, in this order. An attribute that
    /// cannot be set does not keep the file from being published; the error is returned all the same.
    fn finish_file(
        &self,
        pending: &Pending,
        source: &OwnedFd,
        destination: OwnedFd,
        times: bool,
    ) -> Result<(), StepError> {
        let attributes = &self.job.attributes;
        let target = destination.as_fd();
        let applied = self
            .xattrs_of(pending, source)
            .and_then(|xattrs| attributes.apply(target, &pending.stat, &xattrs, pending.fresh))
            .and_then(
                |()| if times { attributes.set_times(target, &pending.stat) } else { Ok(()) },
            );
        if self.job.options().sync == SyncPolicy::File {
            fsync(&destination).at(Step::Sync)?;
        }
        let aside = matches!(pending.visible, Visible::As(_));
        let written = aside.then(|| publish::identity(&destination)).transpose()?;
        // Flags come after the move: an immutable file cannot be renamed any more.
        let preserve = self.job.options().preserve;
        let for_flags = (applied.is_ok() && (preserve.flags || preserve.project))
            .then(|| destination.try_clone().map_err(|_| Errno::EMFILE).at(Step::Xattr))
            .transpose()?;
        close(destination)?;
        let dir = pending.dir.destination().at(Step::Publish)?;
        publish::publish(dir.as_fd(), &pending.visible, &pending.name, written)?;
        if let Some(target) = for_flags {
            attributes.apply_flags(source.as_fd(), target.as_fd())?;
        }
        applied
    }

    fn xattrs_of(
        &self,
        pending: &Pending,
        source: &OwnedFd,
    ) -> Result<super::attributes::Xattrs, StepError> {
        if !pending.pair.may_have_xattrs() {
            return Ok(super::attributes::Xattrs::default());
        }
        let xattrs = self.job.attributes.read_xattrs(XattrTarget::Fd(source.as_fd()))?;
        Ok(xattrs.unwrap_or_else(|| {
            pending.pair.has_no_xattrs();
            super::attributes::Xattrs::default()
        }))
    }

    /// Abandons a file. One that changed while it was read is tried again from the start.
    pub(crate) fn give_up(&mut self, pending: Pending, error: StepError) {
        self.abandon(&pending);
        let Pending { dir, source_name, name, link, attempt, .. } = pending;
        if error.kind == FailureKind::SourceChanged
            && attempt < CHANGE_RETRIES
            && !self.job.stopped()
        {
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
    pub(crate) fn keep_what_was_read(
        &mut self,
        pending: Pending,
        source: &OwnedFd,
        destination: OwnedFd,
        changed: StepError,
    ) {
        if self.finish_file(&pending, source, destination, false).is_err() {
            self.abandon(&pending);
        }
        self.job.fail(pending.dir.source_path(Some(&pending.source_name)), changed);
        self.first_name_failed(pending.link);
        self.settle(&pending.dir, 1);
    }

    /// Removes what there is of a file that will not be finished.
    pub(crate) fn abandon(&self, pending: &Pending) {
        if let Ok(dir) = pending.dir.destination() {
            publish::abandon(dir.as_fd(), &pending.visible, &pending.name);
        }
    }

    fn count_file(&self, size: u64) {
        self.job.tally.files.fetch_add(1, Relaxed);
        self.job.tally.bytes.fetch_add(size, Relaxed);
        self.job.control.progress.files_done.fetch_add(1, Relaxed);
    }

    /// Whether the destination already holds this file: same type, size and time. Owner and mode are
    /// put right without copying.
    fn is_up_to_date(&self, dir: &Dir, name: &CStr, source: &Source) -> Result<bool, StepError> {
        let Ok(destination) = dir.destination() else { return Ok(false) };
        let Ok(there) = fstatat(&destination, name, AtFlags::AT_SYMLINK_NOFOLLOW) else {
            return Ok(false);
        };
        let wanted = &source.stat;
        let regular = SFlag::from_bits_truncate(there.st_mode) & SFlag::S_IFMT == SFlag::S_IFREG;
        if !regular
            || there.st_size != wanted.st_size
            || (there.st_mtime, there.st_mtime_nsec) != (wanted.st_mtime, wanted.st_mtime_nsec)
        {
            return Ok(false);
        }
        let mode = self.job.attributes.final_mode(wanted);
        let owner = (there.st_uid, there.st_gid);
        let same = there.st_mode & 0o7777 == mode
            && (!self.job.options().preserve.ownership || owner == (wanted.st_uid, wanted.st_gid));
        if !same && !self.job.options().dry_run {
            let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK;
            let Ok(target) = openat(&destination, name, flags, Mode::empty()) else {
                return Ok(false); // not even readable: copy it anew
            };
            let read = self.job.attributes.read_xattrs(XattrTarget::Fd(source.file.as_fd()))?;
            let fresh = Fresh { owner, mode: there.st_mode & 0o7777, may_have_acl: true };
            let attributes = &self.job.attributes;
            attributes.apply(target.as_fd(), wanted, &read.unwrap_or_default(), fresh)?;
            attributes.set_times(target.as_fd(), wanted)?;
        }
        Ok(true)
    }

    /// The first name of an inode is in place: the names that waited are linked to it.
    pub(crate) fn first_name_is_complete(
        &mut self,
        dir: &Arc<Dir>,
        source_name: &CStr,
        name: &CStr,
        link: Option<Inode>,
    ) {
        let Some(inode) = link else { return };
        let first = Name {
            dir: Arc::clone(dir),
            source_name: source_name.to_owned(),
            name: name.to_owned(),
        };
        for waiting in self.job.links.complete(inode, || first.clone()) {
            self.link(&waiting.dir, &waiting.source_name, &waiting.name, &first);
        }
    }

    /// The first name failed: each of the others is tried for itself.
    pub(crate) fn first_name_failed(&mut self, link: Option<Inode>) {
        let Some(inode) = link else { return };
        let waiting = self.job.links.fail(inode);
        self.retry_names(waiting);
    }

    fn retry_names(&mut self, waiting: Vec<Name>) {
        for name in waiting {
            // Not counted again: its directory still expects it.
            let mut names = super::job::Names::default();
            names.push(libc::DT_REG, &name.source_name);
            self.push(super::job::Task::Slice(Arc::clone(&name.dir), names));
        }
    }

    /// Links a further name to the first.
    pub(crate) fn link(&mut self, dir: &Arc<Dir>, source_name: &CStr, name: &CStr, first: &Name) {
        if self.job.options().dry_run {
            self.job.tally.hard_links.fetch_add(1, Relaxed);
            self.settle(dir, 1);
            return;
        }
        match make_link(dir, name, first) {
            Ok(()) => {
                self.job.tally.hard_links.fetch_add(1, Relaxed);
                self.job.control.progress.links_done.fetch_add(1, Relaxed);
                self.settle(dir, 1);
            }
            Err(StepError {
                errno: Some(Errno::EMLINK | Errno::EPERM | Errno::EOPNOTSUPP | Errno::ENOSYS),
                ..
            }) => {
                self.job.tally.warn(Warning::HardLinkNotKept);
                self.try_file(dir, source_name, name, CHANGE_RETRIES, false);
            }
            Err(error) => {
                self.job.fail(dir.source_path(Some(source_name)), error);
                self.settle(dir, 1);
            }
        }
    }
}

/// Opens a source file and looks at it.
fn open_source(dir: &Dir, name: &CStr) -> Result<(OwnedFd, FileStat), StepError> {
    let above = dir.source().at(Step::Open)?;
    let open = |flags| openat(&above, name, flags, Mode::empty());
    let file = match open(OPEN_SOURCE | OFlag::O_NOATIME) {
        Err(Errno::EPERM) => open(OPEN_SOURCE), // only owners may leave the access time alone
        other => other,
    };
    let file = file.map_err(|errno| match errno {
        // It was a regular file when the directory was read.
        Errno::ELOOP | Errno::ENXIO => StepError::found(Step::Open, FailureKind::SourceChanged),
        errno => StepError::os(Step::Open, errno),
    })?;
    let stat = fstat(&file).at(Step::Stat)?;
    Ok((file, stat))
}

/// Whether blocks are missing, so that holes have to be looked for.
pub(crate) fn is_sparse(stat: &FileStat) -> bool {
    stat.st_blocks.saturating_mul(512) < stat.st_size
}

/// Whether a source is what it was when it was opened. The change time is left out: a further link
/// or a new mode changes it, but no content.
fn is_unchanged(before: &FileStat, now: &FileStat) -> bool {
    (before.st_size, before.st_mtime, before.st_mtime_nsec)
        == (now.st_size, now.st_mtime, now.st_mtime_nsec)
}

/// Closes a written file: on network filesystems late errors of writing appear here.
fn close(file: OwnedFd) -> Result<(), StepError> {
    match nix::unistd::close(file.into_raw_fd()) {
        Ok(()) | Err(Errno::EINTR) => Ok(()),
        Err(errno) => Err(StepError::os(Step::Write, errno)),
    }
}

/// Links `name` in `dir` to the first name, replacing what is there.
fn make_link(dir: &Dir, name: &CStr, first: &Name) -> Result<(), StepError> {
    let from = first.dir.destination().at(Step::HardLink)?;
    let to = dir.destination().at(Step::HardLink)?;
    let link = |new: &CStr| linkat(&from, first.name.as_c_str(), &to, new, AtFlags::empty());
    let visible = publish::make(to.as_fd(), name, Step::HardLink, link)?;
    if let Visible::As(temporary) = &visible {
        // Renaming one name of an inode over another does nothing, so look first.
        let old = stat_entry(&to, name).map(|stat| inode(&stat));
        let new = stat_entry(&to, temporary).map(|stat| inode(&stat));
        if old == new {
            publish::abandon(to.as_fd(), &visible, name);
            return Ok(());
        }
    }
    publish::publish(to.as_fd(), &visible, name, None)
}
