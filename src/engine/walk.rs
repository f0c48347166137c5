//! The walk: makes directories, reads them in slices, and sorts entries by type. Directories get
//! their attributes here too, when the last entry in them is done. It copies no content.

use std::ffi::{CStr, CString, OsStr};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, OFlag, openat};
use nix::sys::stat::{FchmodatFlags, FileStat, Mode, SFlag, fchmodat, fstat, fstatat, mkdirat};
use nix::unistd::{Whence, lseek};

use super::attributes::Fresh;
use super::dir::{Dir, OPEN_DIRECTORY, Opened, RootPath, inode};
use super::job::{Enter, Names, Task};
use super::publish::is_directory;
use super::selection::Node;
use super::worker::Worker;
use super::xattrs::DEFAULT_ACL;
use crate::error::{AtStep, FailureKind, Step, StepError};
use crate::plan::Root;
use crate::sys::{self, XattrTarget};

/// Entries handed out at once: a thief gets some work, a crash loses little.
const SLICE: usize = 64;

/// Mode of a directory while it is being filled: nobody else looks into half a copy, and a read-only
/// source directory stays writable for us.
const FILLING: Mode = Mode::S_IRWXU;

impl Worker<'_> {
    /// Starts one source of the plan.
    pub(crate) fn root(&mut self, index: usize) {
        let root = &self.job.plan.roots[index];
        let selection = self.job.options().selection.as_ref().and_then(|s| s.root(index)).cloned();
        let started = self.anchor(root).and_then(|anchor| {
            let name = |name: &OsStr| CString::new(name.as_bytes()).map_err(|_| Errno::EINVAL);
            let source_name = name(&root.source_name).at(Step::Open)?;
            let name = name(&root.destination_name).at(Step::Create)?;
            let anchor = Arc::new(anchor);
            if root.is_directory {
                anchor.expect(1);
                let parent = Arc::clone(&anchor);
                self.push(Task::Enter(Enter { parent, source_name, name, selection }));
            } else if selection.is_none_or(|node| node.is_whole()) {
                anchor.expect(1);
                self.job.control.progress.files_found.fetch_add(1, Relaxed);
                self.entry_as(&anchor, libc::DT_UNKNOWN, &source_name, &name);
            }
            Ok(())
        });
        if let Err(error) = started {
            self.job.walk_failed();
            self.job.fail(root.source.clone(), error);
        }
    }

    /// Opens the directories that hold a root on both sides.
    fn anchor(&self, root: &Root) -> Result<Dir, StepError> {
        const ANCHOR: OFlag = OFlag::O_PATH.union(OFlag::O_DIRECTORY).union(OFlag::O_CLOEXEC);
        let dry_run = self.job.options().dry_run;
        let open = |path: &Path, flags| openat(AT_FDCWD, path, flags, Mode::empty());
        let source = open(&root.source_dir, ANCHOR).at(Step::OpenDirectory)?;
        let destination = match open(&root.destination_dir, ANCHOR) {
            Ok(fd) => Some(fd),
            Err(Errno::ENOENT) if dry_run => None,
            Err(errno) => return Err(StepError::os(Step::CreateDirectory, errno)),
        };
        // O_PATH shows no attributes; a directory that we may not read is taken to have no ACL.
        let readable = open(&root.destination_dir, OPEN_DIRECTORY & !OFlag::O_NOFOLLOW);
        let default_acl = !dry_run && readable.is_ok_and(|fd| has_default_acl(&fd));
        let path = Arc::new(RootPath { source: root.source.clone() });
        Dir::anchor(path, source, destination, default_acl).at(Step::Stat)
    }

    /// Makes a directory at the destination and starts reading it.
    pub(crate) fn enter(&mut self, enter: Enter) {
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
        let above = parent.source().at(Step::OpenDirectory)?;
        let source = openat(above, source_name.as_c_str(), OPEN_DIRECTORY, Mode::empty())
            .at(Step::OpenDirectory)?;
        let stat = fstat(&source).at(Step::Stat)?;
        if self.job.is_destination(inode(&stat)) {
            return Err(StepError::found(Step::OpenDirectory, FailureKind::IntoItself));
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
        let mut opened = Opened {
            source,
            destination: None,
            stat,
            xattrs: xattrs.unwrap_or_default(),
            destination_stat: None,
            default_acl: false,
            may_have_acl: parent.default_acl,
            selection,
        };
        if self.job.options().dry_run {
            opened.destination = parent
                .destination()
                .and_then(|above| openat(above, name.as_c_str(), OPEN_DIRECTORY, Mode::empty()))
                .ok();
        } else {
            self.make_destination(parent, name, &mut opened)?;
        }
        if let Some(destination) = &opened.destination {
            let stat = fstat(destination).at(Step::Stat)?;
            if parent.is_anchor() {
                self.job.add_destination(inode(&stat));
            }
            opened.destination_stat = Some(stat);
        }
        Ok(Some(Dir::below(parent, (source_name.clone(), name.clone()), opened)))
    }

    fn make_destination(
        &self,
        parent: &Dir,
        name: &CStr,
        opened: &mut Opened,
    ) -> Result<(), StepError> {
        let above = parent.destination().at(Step::CreateDirectory)?;
        match mkdirat(&above, name, FILLING) {
            Ok(()) => {}
            Err(Errno::EEXIST) => opened.may_have_acl = true,
            Err(errno) => return Err(StepError::os(Step::CreateDirectory, errno)),
        }
        let destination = open_existing(&above, name).map_err(|errno| match errno {
            // Not a directory, or a link to one, which must not be followed out of the tree.
            Errno::ENOTDIR | Errno::ELOOP => StepError {
                step: Step::CreateDirectory,
                kind: FailureKind::TypeConflict,
                errno: Some(Errno::ENOTDIR),
            },
            errno => StepError::os(Step::CreateDirectory, errno),
        })?;
        opened.default_acl = has_default_acl(&destination);
        if self.job.options().preserve.project {
            self.job.attributes.apply_project(opened.source.as_fd(), destination.as_fd())?;
        }
        opened.destination = Some(destination);
        Ok(())
    }

    /// Reads one buffer of entries and hands them out. The rest of the directory is pushed first, so
    /// that it is the last thing this worker comes back to and the first that a thief takes.
    pub(crate) fn read(&mut self, dir: Arc<Dir>, position: i64) {
        if let Some(node) = dir.selection.clone() {
            self.read_selection(&dir, &node);
            self.settle(&dir, 1);
            return;
        }
        let mut buffer = std::mem::take(&mut self.entries);
        let filled = self.fill(&dir, position, &mut buffer);
        match filled {
            Ok(0) => self.settle(&dir, 1),
            Ok(filled) => {
                // A thief may come to the end of the directory while its entries are still being
                // counted here: until they are, the directory must not look done.
                dir.expect(1);
                let next = sys::entries(&buffer[..filled]).last().map(|entry| entry.next);
                if let Some(next) = next {
                    self.push(Task::Read(Arc::clone(&dir), next));
                } else {
                    // Only "." and ".." so far; the rest is read when this is done.
                    let offset = dir.source().and_then(|fd| lseek(fd, 0, Whence::SeekCur));
                    match offset {
                        Ok(offset) => self.push(Task::Read(Arc::clone(&dir), offset)),
                        Err(errno) => self.read_failed(&dir, errno),
                    }
                }
                self.hand_out(&dir, &buffer[..filled]);
                self.settle(&dir, 1);
            }
            Err(errno) => self.read_failed(&dir, errno),
        }
        self.entries = buffer;
    }

    fn read_failed(&mut self, dir: &Arc<Dir>, errno: Errno) {
        self.job.walk_failed();
        self.job.fail(dir.source_path(None), StepError::os(Step::ReadDirectory, errno));
        self.settle(dir, 1);
    }

    /// The descriptor may have been closed and opened again since the last buffer, so the position is
    /// always set.
    fn fill(&self, dir: &Dir, position: i64, buffer: &mut [u8]) -> Result<usize, Errno> {
        let source = dir.source()?;
        if position != 0 {
            lseek(&source, position, Whence::SeekSet)?;
        }
        sys::read_entries(source.as_fd(), buffer)
    }

    fn hand_out(&mut self, dir: &Arc<Dir>, filled: &[u8]) {
        let mut names = Names::default();
        let mut files = 0;
        for entry in sys::entries(filled) {
            if entry.kind == libc::DT_DIR {
                self.descend(dir, entry.name, None);
                continue;
            }
            files += u64::from(entry.kind == libc::DT_REG);
            names.push(entry.kind, entry.name);
            if names.len() == SLICE {
                self.push_slice(dir, std::mem::take(&mut names));
            }
        }
        if names.len() > 0 {
            self.push_slice(dir, names);
        }
        self.job.control.progress.files_found.fetch_add(files, Relaxed);
    }

    fn push_slice(&self, dir: &Arc<Dir>, names: Names) {
        dir.expect(names.len());
        self.push(Task::Slice(Arc::clone(dir), names));
    }

    /// Queues a subdirectory, unless it is left out.
    fn descend(&mut self, dir: &Arc<Dir>, name: &CStr, selection: Option<Arc<Node>>) {
        if !self.admits(dir, name, true) {
            self.job.tally.excluded.fetch_add(1, Relaxed);
            return;
        }
        dir.expect(1);
        self.push(Task::Enter(Enter {
            parent: Arc::clone(dir),
            source_name: name.to_owned(),
            name: name.to_owned(),
            selection,
        }));
    }

    fn read_selection(&mut self, dir: &Arc<Dir>, node: &Node) {
        for (name, child) in node.children() {
            let stat = dir.source().and_then(|fd| stat_entry(&fd, name));
            match stat {
                Ok(stat) if is_directory(stat.st_mode) => {
                    let selection = (!child.is_whole()).then(|| Arc::clone(child));
                    self.descend(dir, name, selection);
                }
                Ok(stat) => {
                    let file =
                        SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT == SFlag::S_IFREG;
                    self.job.control.progress.files_found.fetch_add(u64::from(file), Relaxed);
                    dir.expect(1);
                    self.entry(dir, libc::DT_UNKNOWN, name);
                }
                Err(errno) => {
                    let path = dir.source_path(Some(name));
                    self.job.fail(path, StepError::os(Step::List, errno));
                }
            }
        }
    }

    /// Whether the filter lets an entry through.
    pub(crate) fn admits(&self, dir: &Dir, name: &CStr, is_directory: bool) -> bool {
        let filter = &self.job.options().filter;
        filter.is_empty()
            || dir.is_anchor()
            || filter.admits(&dir.relative(Some(name)), is_directory)
    }

    /// One entry that was expected by its directory, under the same name on both sides.
    pub(crate) fn entry(&mut self, dir: &Arc<Dir>, kind: u8, name: &CStr) {
        self.entry_as(dir, kind, name, name);
    }

    /// One entry that was expected by its directory.
    pub(crate) fn entry_as(&mut self, dir: &Arc<Dir>, kind: u8, source_name: &CStr, name: &CStr) {
        if kind != libc::DT_UNKNOWN && !self.admits(dir, source_name, false) {
            self.job.tally.excluded.fetch_add(1, Relaxed);
            self.settle(dir, 1);
            return;
        }
        match kind {
            libc::DT_REG => self.file(dir, source_name, name),
            libc::DT_UNKNOWN => match dir.source().and_then(|fd| stat_entry(&fd, source_name)) {
                Ok(stat) if is_directory(stat.st_mode) => {
                    self.descend(dir, source_name, None);
                    self.settle(dir, 1);
                }
                Ok(stat) => {
                    let kind = SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT;
                    let regular = kind == SFlag::S_IFREG;
                    let kind = if regular { libc::DT_REG } else { libc::DT_LNK };
                    self.entry_as(dir, kind, source_name, name);
                }
                Err(errno) => {
                    let path = dir.source_path(Some(source_name));
                    self.job.fail(path, StepError::os(Step::Stat, errno));
                    self.settle(dir, 1);
                }
            },
            _ => self.special(dir, source_name, name),
        }
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
            self.job.tally.directories.fetch_add(1, Relaxed);
            self.job.control.progress.directories_done.fetch_add(1, Relaxed);
        }
    }

    fn apply_to_directory(&self, dir: &Dir) -> Result<(), StepError> {
        let Some(stat) = &dir.destination_stat else { return Ok(()) };
        let destination = dir.destination().at(Step::OpenDirectory)?;
        let fresh = Fresh {
            owner: (stat.st_uid, stat.st_gid),
            mode: stat.st_mode & 0o7777,
            may_have_acl: dir.may_have_acl,
        };
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

/// Stat of an entry, not following it.
pub(crate) fn stat_entry(dir: &Arc<OwnedFd>, name: &CStr) -> Result<FileStat, Errno> {
    fstatat(dir, name, AtFlags::AT_SYMLINK_NOFOLLOW)
}

/// Opens a directory of the destination that may be closed to its own owner (a copy of a read-only
/// directory, made by an earlier run without privilege).
fn open_existing(above: &Arc<OwnedFd>, name: &CStr) -> Result<OwnedFd, Errno> {
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
    let stat = fstat(&fd)?;
    if stat.st_mode & FILLING.bits() != FILLING.bits()
        && stat.st_uid == nix::unistd::geteuid().as_raw()
    {
        nix::sys::stat::fchmod(&fd, Mode::from_bits_truncate(stat.st_mode & 0o7777) | FILLING)?;
    }
    Ok(fd)
}

fn has_default_acl(dir: &OwnedFd) -> bool {
    let mut value = Vec::new();
    sys::get_xattr(XattrTarget::Fd(dir.as_fd()), DEFAULT_ACL, &mut value).is_ok()
}
