//! Regular files: opened, created, given to a mechanism. Moving the bytes is the backend's work, what
//! comes after is in `finish`, further names of the same inode are in `hard_link`.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::{FileStat, Mode, fstat};

use super::attributes::Fresh;
use super::check::Content;
use super::dir::Dir;
use super::inode::{Inode, inode, is_regular};
use super::job::{Filesystems, KnownPair};
use super::links::Claim;
use super::publish::{Known, Published, Visible};
use super::resume::{Partial, file_time};
use super::worker::Worker;
use super::xattrs::Xattrs;
use crate::backend::pair::Pair;
use crate::backend::{Mechanism, SMALL_MAX_BYTES, SmallFile, plain};
use crate::checksum::{Cells, Growing};
use crate::error::{AtStep, FailureKind, Step, StepError};
use crate::journal::{Temporary, record};
use crate::lanes::{self, Lane};
use crate::sys::{self, XattrTarget};

/// How often a file that changes while it is read is read again from the start.
pub(crate) const CHANGE_RETRIES: u8 = 2;

/// Opening does not wait (for a FIFO that took the name) and does not touch the access time.
const OPEN_SOURCE: OFlag =
    OFlag::O_RDONLY.union(OFlag::O_NOFOLLOW).union(OFlag::O_NONBLOCK).union(OFlag::O_CLOEXEC);

/// How long a lease on a source is waited for: the kernel takes it away after `fs.lease-break-time`,
/// 45 seconds by default.
const LEASE_WAIT: Duration = Duration::from_secs(60);
const LEASE_NAP: Duration = Duration::from_millis(20);

/// A file that is being copied; what finishing it needs.
#[derive(Debug)]
pub(crate) struct Pending {
    pub(crate) dir: Arc<Dir>,
    pub(crate) source_name: CString,
    pub(crate) name: CString,
    /// The source when it was opened.
    pub(crate) stat: FileStat,
    /// It is written to all the time, so that its times do not tell whether it changed while it was read.
    pub(crate) is_restless: bool,
    pub(crate) visible: Visible,
    pub(crate) fresh: Fresh,
    /// Its extended attributes; that they cannot be read is found out at the end.
    pub(crate) xattrs: Result<Xattrs, StepError>,
    /// Closing it may tell of errors of writing: it lies on servers, or who knows where.
    pub(crate) closes_late: bool,
    /// The size was found by reading, and is not what the source's inode says.
    pub(crate) streamed: bool,
    /// What the journal knows of its temporary file.
    pub(crate) temporary: Option<Temporary>,
    /// The data version of a large source on Lustre when it was opened.
    pub(crate) version: Option<u64>,
    /// Set when further names wait for this one.
    pub(crate) link: Option<Inode>,
    pub(crate) attempt: u8,
    /// Digests of the content, when they are wanted and were taken on the way.
    pub(crate) content: Option<Content>,
    /// The inode at the destination, once it is finished, where that was looked for.
    pub(crate) made: OnceLock<Inode>,
    /// The file that was published, when it is to be read back.
    pub(crate) published: OnceLock<Published>,
}

/// An opened source and everything decided about it.
#[derive(Debug)]
pub(super) struct Source {
    pub(super) file: OwnedFd,
    pub(super) stat: FileStat,
    /// See [`Pending::is_restless`].
    pub(super) is_restless: bool,
    pub(super) link: Option<Inode>,
    pub(super) attempt: u8,
}

impl Worker<'_> {
    /// One regular file that was expected by its directory.
    pub(crate) fn file(&mut self, dir: &Arc<Dir>, source_name: &CStr, name: &CStr) {
        lanes::begin_item();
        if !self.take_as_finished(dir, source_name, name) {
            self.try_file(dir, source_name, name, 0, true);
        }
    }

    /// `linked` is false for a name that must become a file of its own.
    pub(crate) fn try_file(
        &mut self,
        dir: &Arc<Dir>,
        source_name: &CStr,
        name: &CStr,
        attempt: u8,
        linked: bool,
    ) {
        let opened =
            self.with_descriptors(|worker| open_source(dir, source_name, || worker.job.stopped()));
        let settled = opened.and_then(|opened| self.settled(dir, opened, attempt > 0));
        let result = match settled {
            Ok((file, stat, is_restless)) if is_regular(stat.st_mode) => {
                match self.claim(dir, source_name, name, &stat, linked) {
                    Some(Claim::Waiting) => return,
                    Some(Claim::LinkTo(first)) => return self.link(dir, source_name, name, &first),
                    claimed => {
                        if attempt == 0 {
                            let size = stat.st_size.cast_unsigned();
                            self.job.control.progress.bytes_found.fetch_add(size, Relaxed);
                        }
                        let link = claimed.map(|_| inode(&stat));
                        let stat = self.about_to_be_read(stat);
                        let source = Source { file, stat, is_restless, link, attempt };
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

    /// Waits, once, until a change of an opened source would show in its times, and looks at it again: of a file that
    /// was written to just now a mixture could be read that has its final time. The second value says that nobody can
    /// tell: it is written to all the time. Where times are whole seconds that would be any log, and is not said.
    fn settled(
        &self,
        dir: &Dir,
        (file, mut stat): (OwnedFd, FileStat),
        again: bool,
    ) -> Result<(OwnedFd, FileStat, bool), StepError> {
        let Some(left) = record::unsettled_for(&stat, file_time()) else {
            return Ok((file, stat, false));
        };
        let made_on_reading =
            || self.pair_of(dir).is_ok_and(|(_, pair)| pair.source.made_on_reading);
        let coarse = stat.st_ctime_nsec == 0;
        if !is_regular(stat.st_mode) || self.job.options().dry_run || made_on_reading() {
            return Ok((file, stat, false));
        }
        if !(again && coarse) {
            let _pass = lanes::enter(Lane::SourceMetadata);
            self.job.waits(left);
            stat = fstat(&file).at(Step::Stat)?;
        }
        let is_restless = !coarse && record::unsettled_for(&stat, file_time()).is_some();
        Ok((file, stat, is_restless))
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
            self.job.control.progress.bytes_skipped.fetch_add(size, Relaxed);
            self.file_was_there(dir, source_name, name, &stat);
            self.first_name_is_complete(dir, source_name, name, &stat, source.link, None);
            self.settle(dir, 1);
            return Ok(());
        }
        if self.leaves_out_released(&source.file, &stat)? {
            self.first_name_failed(source.link);
            self.settle(dir, 1);
            return Ok(());
        }
        if self.job.options().dry_run {
            self.count_file(size);
            self.first_name_is_complete(dir, source_name, name, &stat, source.link, None);
            self.settle(dir, 1);
            return Ok(());
        }
        if self.job.checksum().is_some_and(|algorithm| !Cells::fit(algorithm, size)) {
            return Err(StepError::os(Step::Read, Errno::ENOMEM));
        }
        let (pair, filesystems) = self.pair_of(dir)?;
        let large = size > SMALL_MAX_BYTES || is_sparse(&stat);
        // A file mounted over another one lies on a filesystem that nobody has looked at.
        let unknown = filesystems.source.zero_is_no_size || stat.st_dev != dir.stat.st_dev;
        let streamed = filesystems.source.made_on_reading || (size == 0 && unknown);
        let owner = dir.new_owner.get().copied();
        let xattrs = self.xattrs_of(&pair, &source, dir);
        let acl = dir.default_acl || xattrs.as_ref().is_ok_and(Xattrs::has_acl);
        let (mode, effective) = self.job.attributes.creation_mode(&stat, owner, acl);
        let destination = dir.destination().at(Step::Create)?;
        let aside = streamed || size > SMALL_MAX_BYTES;
        let pass = lanes::enter(Lane::DestinationCreate);
        let partial = self.partial(dir, name, &stat, aside && !streamed);
        drop(pass);
        let wish = self.wish(dir, &source, filesystems, partial.is_none());
        let pass = lanes::enter(Lane::DestinationCreate);
        let aside = self.is_made_again(dir, name) || aside;
        let (created, temporary, owner, effective) = match partial {
            Some(Partial { created, temporary, fresh }) => {
                if let Some(wish) = &wish {
                    self.job.compare_layout(&created.file, wish);
                }
                (created, Some(temporary), Some(fresh.owner), fresh.mode)
            }
            None => {
                if aside {
                    self.note_aside(dir, name);
                }
                let create = |worker: &mut Self| {
                    let dir = destination.as_fd();
                    worker.job.create_with_layout(dir, name, mode, aside, wish.as_ref())
                };
                (self.with_descriptors(create)?, None, owner, effective)
            }
        };
        let owner = match owner {
            Some(owner) => owner,
            None => {
                // What the filesystem gives to a file made here holds for all of this directory.
                let made = fstat(&created.file).at(Step::Stat)?;
                *dir.new_owner.get_or_init(|| (made.st_uid, made.st_gid))
            }
        };
        drop(pass);
        let pending = Pending {
            dir: Arc::clone(dir),
            source_name: source_name.to_owned(),
            name: name.to_owned(),
            stat,
            is_restless: source.is_restless,
            visible: created.visible,
            fresh: Fresh {
                owner,
                mode: effective,
                may_have_acl: dir.default_acl || temporary.is_some(),
            },
            temporary,
            closes_late: filesystems.destination.closes_late,
            streamed,
            xattrs,
            version: self.version_before(&source.file, size, filesystems.source.layouts),
            link: source.link,
            attempt: source.attempt,
            content: None,
            made: OnceLock::new(),
            published: OnceLock::new(),
        };
        if streamed {
            self.stream(pending, &source.file, created.file);
            return Ok(());
        }
        if size == 0 {
            self.content_is_there(pending, &source.file, created.file, Mechanism::Empty, 0);
            return Ok(());
        }
        if pair.may_clone() {
            let cloned = {
                let _pass = lanes::enter(Lane::DestinationWrite);
                sys::clone_file(&created.file, &source.file)
            };
            match cloned {
                Ok(()) => {
                    pair.cloned();
                    self.job.control.progress.bytes_done.fetch_add(size, Relaxed);
                    self.content_is_there(pending, &source.file, created.file, Mechanism::Clone, 0);
                    return Ok(());
                }
                Err(errno) if pair.clone_refused(errno) => {}
                Err(errno) => {
                    self.give_up(pending, created.file, StepError::os(Step::Clone, errno));
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
                checksum: self.job.checksum(),
                digest: None,
                owner: pending,
            });
        }
        Ok(())
    }

    fn xattrs_of(&self, pair: &Pair, source: &Source, dir: &Dir) -> Result<Xattrs, StepError> {
        if !pair.may_have_xattrs() {
            return Ok(Xattrs::default());
        }
        let _pass = lanes::enter(Lane::SourceMetadata);
        let xattrs = self.job.attributes.read_xattrs(XattrTarget::Fd(source.file.as_fd()))?;
        Ok(xattrs.unwrap_or_else(|| {
            // A file mounted over another one speaks for its own filesystem only.
            if source.stat.st_dev == dir.stat.st_dev {
                pair.has_no_xattrs();
            }
            Xattrs::default()
        }))
    }

    /// Copies a file whose size says nothing.
    fn stream(&mut self, mut pending: Pending, source: &OwnedFd, destination: OwnedFd) {
        let mut digests = self.job.checksum().map(Growing::new);
        let see = |bytes: &[u8]| {
            if let Some(digests) = &mut digests {
                digests.feed(bytes);
            }
        };
        match plain::stream(source.as_fd(), destination.as_fd(), see) {
            Ok(moved) => {
                pending.content = digests.map(|digests| Content::Cells(Arc::new(digests.finish())));
                self.job.control.progress.bytes_done.fetch_add(moved, Relaxed);
                pending.stat.st_size = moved.cast_signed();
                let mechanism = if moved == 0 { Mechanism::Empty } else { Mechanism::ReadWrite };
                self.content_is_there(pending, source, destination, mechanism, moved);
            }
            Err(error) => self.give_up(pending, destination, error),
        }
    }

    /// The filesystems of a directory's two sides.
    pub(super) fn pair_of(&self, dir: &Dir) -> Result<KnownPair, StepError> {
        let destination = dir.destination_stat.as_ref().ok_or(Errno::ENOENT).at(Step::Create)?;
        if let Some(known) = self.job.pair(&dir.stat, destination) {
            return Ok(known);
        }
        let kind = |fd: Result<Arc<OwnedFd>, Errno>| {
            fd.and_then(super::filesystem::Filesystem::of).at(Step::Stat)
        };
        let filesystems =
            Filesystems { source: kind(dir.source())?, destination: kind(dir.destination())? };
        self.job.writes_to(destination.st_dev, dir.destination().at(Step::Create)?);
        Ok(self.job.add_pair(&dir.stat, destination, filesystems))
    }

    /// What is known of a directory's destination as a place to move things into.
    pub(super) fn known(&self, dir: &Dir) -> Known {
        let pair = self.pair_of(dir);
        Known {
            keeps_numbers: pair.is_ok_and(|(_, pair)| pair.destination.keeps_numbers),
            is_new: dir.is_made,
        }
    }
}

/// Opens a source file and looks at it.
fn open_source(
    dir: &Dir,
    name: &CStr,
    stopped: impl Fn() -> bool,
) -> Result<(OwnedFd, FileStat), StepError> {
    let _pass = lanes::enter(Lane::SourceMetadata);
    let above = dir.source().at(Step::Open)?;
    open_source_in(&above, name, stopped)
}

/// Opens a source file in an open directory and looks at it.
pub(crate) fn open_source_in(
    above: &OwnedFd,
    name: &CStr,
    stopped: impl Fn() -> bool,
) -> Result<(OwnedFd, FileStat), StepError> {
    let open = |flags| {
        let deadline = Instant::now() + LEASE_WAIT;
        loop {
            match openat(above, name, flags, Mode::empty()) {
                // Somebody holds a write lease, who has now been asked to give it back.
                Err(Errno::EAGAIN) if Instant::now() < deadline && !stopped() => {
                    std::thread::sleep(LEASE_NAP);
                }
                other => return other,
            }
        }
    };
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
