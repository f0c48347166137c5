//! The walk: reads directories in slices and sorts entries by type. Making and finishing directories
//! is in `directory`. It copies no content.

use std::ffi::{CStr, CString, OsStr};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, OFlag, openat};
use nix::sys::stat::{FileStat, Mode, fstatat};
use nix::unistd::{Whence, lseek};

use super::dir::{Dir, OPEN_DIRECTORY, RootPath};
use super::directory::has_default_acl;
use super::inode::{is_directory, is_regular};
use super::job::{Enter, Names, Task};
use super::publish::is_reserved;
use super::worker::Worker;
use crate::error::{AtStep, FailureKind, Step, StepError};
use crate::lanes::{self, Lane};
use crate::manifest;
use crate::plan::Root;
use crate::selection::Node;
use crate::sys;

/// Most entries handed out at once: enough to make a task worth its while.
const SLICE_MAX: usize = 64;
/// Slices that one buffer of entries is cut into for each worker, so that eight large files in one
/// directory are eight tasks, and a large file does not hold back many others.
const SLICES_PER_WORKER: usize = 4;

/// One buffer of entries.
struct Filled {
    bytes: usize,
    /// Where to read on; `None` at the end of the directory.
    next: Option<i64>,
}

impl Worker<'_> {
    /// Starts one source of the plan.
    pub(crate) fn root(&mut self, index: usize) {
        let root = &self.job.plan.roots[index];
        let selection = self.job.options().selection.as_ref().and_then(|s| s.root(index)).cloned();
        let started = self.anchor(index, root).and_then(|anchor| {
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
    fn anchor(&self, index: usize, root: &Root) -> Result<Dir, StepError> {
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
        if let (Some(journal), Some(destination)) = (&self.job.journal, &destination) {
            let stat = nix::sys::stat::fstat(destination).at(Step::Stat)?;
            journal.writes_to(stat.st_dev, destination);
        }
        let path = Arc::new(RootPath {
            source: root.source.clone(),
            index,
            in_manifest: manifest::path_of_root(self.job.plan, root),
        });
        Dir::anchor(path, source, destination, default_acl).at(Step::Stat)
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
        match self.with_descriptors(|_| fill(&dir, position, &mut buffer)) {
            Ok(Filled { bytes, next }) => {
                // A thief may come to the end of the directory while its entries are still being
                // counted here: until they are, the directory must not look done.
                dir.expect(1);
                match next {
                    Some(next) => self.push(Task::Read(Arc::clone(&dir), next)),
                    None => self.settle(&dir, 1),
                }
                self.hand_out(&dir, &buffer[..bytes]);
                self.settle(&dir, 1);
            }
            Err(error) => self.read_failed(&dir, error),
        }
        self.entries = buffer;
    }

    fn read_failed(&mut self, dir: &Arc<Dir>, error: StepError) {
        self.job.walk_failed();
        self.job.fail(dir.source_path(None), error);
        self.settle(dir, 1);
    }

    fn hand_out(&mut self, dir: &Arc<Dir>, filled: &[u8]) {
        let mut names = Names::default();
        let mut files = 0;
        let workers = self.job.control.lanes.workers().max(self.job.sizing.expected);
        let entries = sys::entries(filled).filter(|entry| entry.kind != libc::DT_DIR).count();
        let slice = (entries / (SLICES_PER_WORKER * workers)).clamp(1, SLICE_MAX);
        for entry in sys::entries(filled) {
            if entry.kind == libc::DT_DIR {
                self.descend(dir, entry.name, None);
                continue;
            }
            files += u64::from(entry.kind == libc::DT_REG);
            names.push(entry.kind, entry.name);
            if names.len() == slice {
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
        if is_reserved(name) {
            return self.refuse_name(dir, name);
        }
        dir.expect(1);
        self.push(Task::Enter(Enter {
            parent: Arc::clone(dir),
            source_name: name.to_owned(),
            name: name.to_owned(),
            selection,
        }));
    }

    fn refuse_name(&self, dir: &Dir, name: &CStr) {
        let error = StepError::found(Step::Create, FailureKind::ReservedName);
        self.job.fail(dir.source_path(Some(name)), error);
    }

    fn read_selection(&mut self, dir: &Arc<Dir>, node: &Node) {
        for (name, child) in node.children() {
            let stat = dir.source().and_then(|fd| stat_entry(&fd, name));
            match stat {
                Ok(stat) if is_directory(stat.st_mode) => {
                    let selection = (!child.is_whole()).then(|| Arc::clone(child));
                    self.descend(dir, name, selection);
                }
                // Something below it was listed; a link is not followed to find it.
                Ok(_) if !child.is_whole() => {
                    let path = dir.source_path(Some(name));
                    self.job.fail(path, StepError::os(Step::List, Errno::ENOTDIR));
                }
                Ok(stat) => {
                    let file = u64::from(is_regular(stat.st_mode));
                    self.job.control.progress.files_found.fetch_add(file, Relaxed);
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
        if kind != libc::DT_UNKNOWN && is_reserved(name) {
            self.refuse_name(dir, source_name);
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
                    let regular = is_regular(stat.st_mode);
                    let kind = if regular { libc::DT_REG } else { libc::DT_LNK };
                    self.entry_as(dir, kind, source_name, name);
                }
                Err(errno) => {
                    let path = dir.source_path(Some(source_name));
                    self.job.fail(path, StepError::os(Step::Stat, errno));
                    self.settle(dir, 1);
                }
            },
            _ => self.special(dir, source_name, name, true),
        }
    }
}

/// Reads entries until the buffer is half full or the directory ends, so that a small directory is
/// done with at once. The descriptor may have been closed and opened again since the last buffer, so
/// the position is always set.
fn fill(dir: &Dir, position: i64, buffer: &mut [u8]) -> Result<Filled, StepError> {
    let _pass = lanes::enter(Lane::SourceMetadata);
    let source = dir.source().at(Step::ReadDirectory)?;
    if position != 0 {
        lseek(&source, position, Whence::SeekSet).at(Step::ReadDirectory)?;
    }
    let mut bytes = 0;
    while bytes < buffer.len() / 2 {
        let read =
            sys::read_entries(source.as_fd(), &mut buffer[bytes..]).at(Step::ReadDirectory)?;
        if read == 0 {
            return Ok(Filled { bytes, next: None });
        }
        bytes += read;
    }
    // The kernel's own position is behind the last entry, dots included.
    let next = lseek(&source, 0, Whence::SeekCur).at(Step::ReadDirectory)?;
    Ok(Filled { bytes, next: Some(next) })
}

/// Stat of an entry, not following it.
pub(crate) fn stat_entry(dir: &Arc<OwnedFd>, name: &CStr) -> Result<FileStat, Errno> {
    let _pass = lanes::enter(Lane::SourceMetadata);
    fstatat(dir, name, AtFlags::AT_SYMLINK_NOFOLLOW)
}
