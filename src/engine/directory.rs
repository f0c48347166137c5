//! A directory of the copy: made when it is entered, given its attributes when the last entry in it is
//! done. Reading it is the walk's work.

use std::ffi::CStr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag, openat};
use nix::sys::stat::{FchmodatFlags, FileStat, Mode, fchmodat, fstat, mkdirat};

use super::attributes::Fresh;
use super::dir::{Dir, OPEN_DIRECTORY, Opened};
use super::inode::inode;
use super::job::Enter;
use super::publish;
use super::worker::Worker;
use super::xattrs::DEFAULT_ACL;
use crate::error::{AtStep, FailureKind, Step, StepError};
use crate::lanes::{self, Lane};
use crate::sys::{self, XattrTarget};

/// Mode of a directory while it is being filled: nobody else looks into half a copy, and a read-only
/// source directory stays writable for us.
const FILLING: Mode = Mode::S_IRWXU;

impl Worker<'_> {
    /// Makes a directory at the destination and starts reading it.
    pub(crate) fn enter(&mut self, enter: Enter) {
        lanes::begin_item();
        let parent = Arc::clone(&enter.parent);
        match self.with_descriptors(|worker| worker.open_both(&enter)) {
            Ok(Some(dir)) => {
                self.job.tally.entered.fetch_add(1, Relaxed);
                dir.close_ancestor(self.job.sizing.keep);
                self.read(Arc::new(dir), 0);
            }
            Ok(None) => self.settle(&parent, 1),
            Err(error) => {
                self.job.walk_failed();
                self.job.fail(parent.source_path(Some(&enter.source_name)), error);
                self.settle(&parent, 1);
            }
        }
    }

    /// `None` when the directory is left out.
    fn open_both(&self, enter: &Enter) -> Result<Option<Dir>, StepError> {
        let Enter { parent, source_name, name, .. } = enter;
        if enter.selection.as_ref().is_some_and(|node| node.is_empty()) {
            return Ok(None);
        }
        let pass = lanes::enter(Lane::SourceMetadata);
        let above = parent.source().at(Step::OpenDirectory)?;
        let source = openat(above, source_name.as_c_str(), OPEN_DIRECTORY, Mode::empty())
            .at(Step::OpenDirectory)?;
        let stat = fstat(&source).at(Step::Stat)?;
        if self.job.is_destination(inode(&stat)) {
            return Err(StepError::found(Step::OpenDirectory, FailureKind::IntoItself));
        }
        if parent.is_anchor() || stat.st_dev != parent.stat.st_dev {
            self.job.note_source_device(stat.st_dev);
        }
        let mut selection = enter.selection.clone().filter(|node| !node.is_whole());
        if self.job.options().one_file_system
            && !parent.is_anchor()
            && stat.st_dev != parent.stat.st_dev
        {
            // As cp -x: the mount point is made, what is mounted on it is left out.
            self.job.tally.excluded.fetch_add(1, Relaxed);
            selection = Some(Arc::default());
        }
        let xattrs = self.job.attributes.read_xattrs(XattrTarget::Fd(source.as_fd()))?;
        drop(pass);
        let mut opened = Opened {
            source,
            destination: None,
            stat,
            xattrs: xattrs.unwrap_or_default(),
            destination_stat: None,
            default_acl: false,
            may_have_acl: parent.default_acl,
            is_made: false,
            selection,
        };
        if self.job.options().dry_run {
            opened.destination = parent
                .destination()
                .and_then(|above| openat(above, name.as_c_str(), OPEN_DIRECTORY, Mode::empty()))
                .ok();
            let twin = opened.destination.as_ref().map(|twin| fstat(twin).at(Step::Stat));
            opened.destination_stat = twin.transpose()?;
        } else {
            self.make_destination(parent, name, &mut opened)?;
        }
        if let (Some(destination), Some(twin)) = (&opened.destination, &opened.destination_stat) {
            if parent.is_anchor() {
                self.job.add_root(inode(&stat), inode(twin));
                if !self.job.options().dry_run {
                    self.job.note_place(parent.root.index, inode(twin));
                }
            }
            self.note_directory(parent, destination, twin);
        }
        Ok(Some(Dir::below(parent, (source_name.clone(), name.clone()), opened)))
    }

    fn make_destination(
        &self,
        parent: &Dir,
        name: &CStr,
        opened: &mut Opened,
    ) -> Result<(), StepError> {
        let _pass = lanes::enter(Lane::DestinationCreate);
        let above = parent.destination().at(Step::CreateDirectory)?;
        let made = match mkdirat(&above, name, FILLING) {
            Ok(()) => true,
            Err(Errno::EEXIST) => {
                let is_new = self.known(parent).is_new;
                if is_new && publish::is_folded(above.as_fd(), name).at(Step::CreateDirectory)? {
                    return Err(StepError::found(Step::CreateDirectory, FailureKind::NameFolded));
                }
                opened.may_have_acl = true;
                false
            }
            Err(errno) => return Err(StepError::os(Step::CreateDirectory, errno)),
        };
        let (destination, stat) = open_existing(&above, name).map_err(|errno| match errno {
            // Not a directory, or a link to one, which must not be followed out of the tree.
            Errno::ENOTDIR | Errno::ELOOP => StepError {
                step: Step::CreateDirectory,
                kind: FailureKind::TypeConflict,
                errno: Some(Errno::ENOTDIR),
            },
            errno => StepError::os(Step::CreateDirectory, errno),
        })?;
        // What was made just now has the one of its parent, if any.
        let has_none = made && !parent.is_anchor() && !parent.default_acl;
        opened.default_acl = !has_none && has_default_acl(&destination);
        self.keep_default_layout(parent, &opened.source, &destination, made)?;
        if self.job.options().preserve.project {
            self.job.attributes.apply_project(opened.source.as_fd(), destination.as_fd())?;
        }
        opened.is_made = made;
        opened.destination = Some(destination);
        opened.destination_stat = Some(stat);
        Ok(())
    }

    /// Sets the attributes of a directory in which everything is done.
    pub(crate) fn finish_directory(&mut self, dir: &Arc<Dir>) {
        let stopped = self.job.stopped();
        if !self.job.options().dry_run
            && !stopped
            && let Err(error) = self.with_descriptors(|worker| worker.apply_to_directory(dir))
        {
            self.job.fail(dir.source_path(None), error);
        }
        dir.reopen_parent();
        dir.close();
        if !stopped {
            if let Some(checks) = &self.job.checks {
                checks.record_directory(dir);
            }
            self.job.tally.directories.fetch_add(1, Relaxed);
            self.job.control.progress.directories_done.fetch_add(1, Relaxed);
        }
    }

    fn apply_to_directory(&self, dir: &Dir) -> Result<(), StepError> {
        let Some(stat) = &dir.destination_stat else { return Ok(()) };
        let _pass = lanes::enter(Lane::DestinationCreate);
        let destination = dir.destination().at(Step::OpenDirectory)?;
        let fresh = Fresh {
            owner: (stat.st_uid, stat.st_gid),
            mode: stat.st_mode & 0o7777,
            may_have_acl: dir.may_have_acl,
        };
        self.remove_left_over(dir, &destination);
        let attributes = &self.job.attributes;
        attributes.apply(destination.as_fd(), &dir.stat, &dir.xattrs, fresh)?;
        attributes.set_times(destination.as_fd(), &dir.stat)?;
        if self.job.options().preserve.flags
            && let Ok(source) = dir.source()
        {
            attributes.apply_flags(source.as_fd(), destination.as_fd())?;
        }
        Ok(())
    }
}

/// Opens a directory of the destination that may be closed to its own owner (a copy of a read-only
/// directory, made by an earlier run without privilege).
fn open_existing(above: &Arc<OwnedFd>, name: &CStr) -> Result<(OwnedFd, FileStat), Errno> {
    let open = || openat(above, name, OPEN_DIRECTORY, Mode::empty());
    let fd = match open() {
        Err(Errno::EACCES) => {
            // O_PATH needs no permission and cannot be a link, so this cannot change anything else.
            let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
            let fd = openat(above, name, flags, Mode::empty())?;
            let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
            fchmodat(AT_FDCWD, path.as_str(), FILLING, FchmodatFlags::FollowSymlink)?;
            open()?
        }
        other => other?,
    };
    let mut stat = fstat(&fd)?;
    if stat.st_mode & FILLING.bits() != FILLING.bits()
        && stat.st_uid == nix::unistd::geteuid().as_raw()
    {
        stat.st_mode |= FILLING.bits();
        nix::sys::stat::fchmod(&fd, Mode::from_bits_truncate(stat.st_mode & 0o7777))?;
    }
    Ok((fd, stat))
}

pub(crate) fn has_default_acl(dir: &OwnedFd) -> bool {
    let mut value = Vec::new();
    sys::get_xattr(XattrTarget::Fd(dir.as_fd()), DEFAULT_ACL, &mut value).is_ok()
}
