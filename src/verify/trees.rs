//! Compares two trees, item against item: one walk over both, spread over threads. Memory is bounded
//! as in a copy: a directory is read on only when everything newer is done.

use std::ffi::{CStr, CString, OsStr};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{AtFlags, openat, readlinkat};
use nix::sys::stat::{FileStat, Mode, SFlag, fstat, fstatat};
use nix::unistd::{Whence, lseek};

use super::content::Cells;
use super::findings::Findings;
use super::metadata::Metadata;
use super::{Control, Kind, Request, flush, open_named, threads};
use crate::backend::past_cache::OpenBack;
use crate::engine::count::count_names_ahead;
use crate::engine::dir::OPEN_DIRECTORY;
use crate::engine::file::open_source_in;
use crate::engine::inode::{is_directory, is_regular, same_version};
use crate::engine::queue::{Found, Handle, Queue};
use crate::error::{AtStep, FailureKind, Refusal, Step, StepError};
use crate::journal::is_journal_name;
use crate::lustre::hsm::refuse_released;
use crate::manifest::kind_of;
use crate::sys;

/// Bytes of directory entries read at once.
const ENTRIES_BYTES: usize = 32 << 10;
/// Names that are one task.
const SLICE: usize = 64;
/// An idle worker looks up at least this often, to notice a cancellation.
const NAP: Duration = Duration::from_millis(50);

/// A directory that both sides have.
struct Level {
    source: OwnedFd,
    copy: OwnedFd,
    /// Below the roots; empty for them.
    path: PathBuf,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    Source,
    Copy,
}

enum Task {
    /// A directory of both sides.
    Enter(Arc<Level>, CString),
    /// More entries of one side, from this position on.
    Read(Arc<Level>, Side, i64),
    /// Names of the source.
    Slice(Arc<Level>, Vec<CString>),
    /// One item, which may have another name at the copy.
    Item(Arc<Level>, CString, CString),
}

/// What all workers share.
struct Shared<'s> {
    request: &'s Request,
    control: &'s Control,
    findings: &'s Findings,
    metadata: Metadata,
}

/// Compares a source with its copy.
///
/// # Errors
/// A refusal when one of them cannot be opened.
pub(super) fn compare(
    request: &Request,
    control: &Control,
    source: &Path,
    copy: &Path,
    findings: &Findings,
) -> Result<(), Refusal> {
    let is_dir = |path: &Path| std::fs::metadata(path).is_ok_and(|found| found.is_dir());
    let first = if is_dir(source) && is_dir(copy) {
        let level =
            Level { source: open_named(source)?, copy: open_named(copy)?, path: PathBuf::new() };
        Task::Item(Arc::new(level), c".".to_owned(), c".".to_owned())
    } else {
        // A link and its copy are compared themselves; a link to one of two files is another name of it.
        let is_link =
            |path: &Path| std::fs::symlink_metadata(path).is_ok_and(|found| found.is_symlink());
        let links = is_link(source) && is_link(copy);
        let (source_dir, source_name) = split(source, links)?;
        let (copy_dir, copy_name) = split(copy, links)?;
        let level = Level {
            source: open_named(&source_dir)?,
            copy: open_named(&copy_dir)?,
            path: PathBuf::new(),
        };
        Task::Item(Arc::new(level), source_name, copy_name)
    };
    let Task::Item(level, ..) = &first else { return Ok(()) };
    flush(&level.copy);
    let count = threads(request, &[&level.source, &level.copy]);
    let shared = Shared { request, control, findings, metadata: Metadata::new() };
    let counted = if let Task::Item(level, name, _) = &first
        && control.count_ahead
        && request.filter.is_empty()
    {
        Some((Arc::clone(level), name.clone()))
    } else {
        None
    };
    let over = AtomicBool::new(false);
    let queue = Queue::new(count, |task| matches!(task, Task::Enter(..) | Task::Read(..)));
    let mut places: Vec<_> = (0..count).filter_map(|_| queue.join()).collect();
    places[0].push(first);
    let no_memory = |errno| Refusal::system(source, "have memory for comparing", errno);
    std::thread::scope(|scope| {
        let counter = counted.map(|(level, name)| {
            let (progress, over) = (&control.progress, &over);
            scope.spawn(move || count_names_ahead(&level.source, &name, progress, over))
        });
        let workers: Vec<_> = places
            .drain(..)
            .map(|handle| {
                let (queue, shared) = (&queue, &shared);
                scope.spawn(move || {
                    let cells = Cells::new().inspect_err(|_| queue.abandon())?;
                    Worker { shared, handle, cells, entries: vec![0; ENTRIES_BYTES] }.run();
                    Ok(())
                })
            })
            .collect();
        let worked = workers
            .into_iter()
            .try_for_each(|worker| {
                worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            })
            .map_err(no_memory);
        over.store(true, Relaxed);
        if let Some(counter) = counter {
            counter.thread().unpark();
        }
        worked
    })
}

/// The directory that holds a path, and the name in it: links followed, since the user named the item, unless the
/// item is the link itself.
fn split(path: &Path, link: bool) -> Result<(PathBuf, CString), Refusal> {
    let resolved = |path: &Path| {
        path.canonicalize().map_err(|source| Refusal::System {
            path: path.to_owned(),
            action: "look at it",
            source,
        })
    };
    let whole = match (path.file_name(), path.parent()) {
        (Some(name), Some(parent)) if link => {
            let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
            resolved(parent)?.join(name)
        }
        _ => resolved(path)?,
    };
    let name = whole.file_name().unwrap_or(OsStr::new("."));
    let name = CString::new(name.as_bytes()).map_err(|_| Refusal::path(path, "holds a NUL"))?;
    Ok((whole.parent().unwrap_or(Path::new("/")).to_owned(), name))
}

struct Worker<'w> {
    shared: &'w Shared<'w>,
    handle: Handle<'w, Task>,
    cells: Cells,
    entries: Vec<u8>,
}

impl Worker<'_> {
    fn run(mut self) {
        loop {
            match self.handle.find() {
                Found::Task(task) => {
                    if self.shared.control.cancel.outcome().is_none() {
                        self.perform(task);
                    }
                    self.handle.done();
                }
                Found::NothingYet => self.handle.sleep(NAP),
                Found::Finished => return,
            }
        }
    }

    fn perform(&mut self, task: Task) {
        match task {
            Task::Enter(above, name) => self.enter(&above, &name),
            Task::Read(level, side, position) => self.read(&level, side, position),
            Task::Slice(level, names) => {
                for name in names {
                    if self.shared.control.cancel.outcome().is_some() {
                        return;
                    }
                    self.item(&level, &name, &name);
                }
            }
            Task::Item(level, source_name, name) => self.item(&level, &source_name, &name),
        }
    }

    fn enter(&mut self, above: &Level, name: &CStr) {
        let path = path_in(above, name);
        let open = |dir: &OwnedFd| openat(dir, name, OPEN_DIRECTORY, Mode::empty());
        match (open(&above.source), open(&above.copy)) {
            (Ok(source), Ok(copy)) => {
                let level = Arc::new(Level { source, copy, path });
                self.handle.push(Task::Read(level, Side::Source, 0));
            }
            (Err(errno), _) | (_, Err(errno)) => {
                let error = StepError::os(Step::OpenDirectory, errno);
                self.shared.findings.unreadable(&shown(&path), error);
            }
        }
    }

    /// Reads one buffer of entries. The rest is pushed first, so that it is done last.
    fn read(&mut self, level: &Arc<Level>, side: Side, position: i64) {
        let dir = if side == Side::Source { &level.source } else { &level.copy };
        let filled = lseek(dir, position, Whence::SeekSet)
            .and_then(|_| sys::read_entries(dir.as_fd(), &mut self.entries));
        let filled = match filled {
            Ok(filled) => filled,
            Err(errno) => {
                let error = StepError::os(Step::ReadDirectory, errno);
                return self.shared.findings.unreadable(&shown(&level.path), error);
            }
        };
        if filled == 0 {
            if side == Side::Source {
                self.handle.push(Task::Read(Arc::clone(level), Side::Copy, 0));
            }
            return;
        }
        // The kernel's own position is behind the last entry, dots included.
        match lseek(dir, 0, Whence::SeekCur) {
            Ok(next) => self.handle.push(Task::Read(Arc::clone(level), side, next)),
            Err(errno) => {
                let error = StepError::os(Step::ReadDirectory, errno);
                self.shared.findings.unreadable(&shown(&level.path), error);
            }
        }
        let mut names = Vec::new();
        for entry in sys::entries(&self.entries[..filled]) {
            match side {
                Side::Source => names.push(entry.name.to_owned()),
                Side::Copy => self.look_for_extra(level, entry.name),
            }
        }
        while !names.is_empty() {
            let slice = names.split_off(names.len().saturating_sub(SLICE));
            self.handle.push(Task::Slice(Arc::clone(level), slice));
        }
    }

    fn look_for_extra(&self, level: &Level, name: &CStr) {
        let findings = self.shared.findings;
        let look = |dir: &OwnedFd| fstatat(dir, name, AtFlags::AT_SYMLINK_NOFOLLOW);
        // The journal of a copy that is not complete lies in it, and is no part of it.
        if !is_journal_name(name.to_bytes()) && look(&level.source) == Err(Errno::ENOENT) {
            let path = path_in(level, name);
            let directory = look(&level.copy).is_ok_and(|stat| is_directory(stat.st_mode));
            if self.shared.request.filter.admits(&path, directory) {
                findings.add(&path, Kind::Extra, "only the copy has it");
            }
        }
    }

    /// Compares one item.
    fn item(&mut self, level: &Arc<Level>, source_name: &CStr, name: &CStr) {
        let findings = self.shared.findings;
        let root = level.path.as_os_str().is_empty() && source_name == c".";
        let path = if root { PathBuf::new() } else { path_in(level, name) };
        let look = |dir: &OwnedFd, name: &CStr| fstatat(dir, name, AtFlags::AT_SYMLINK_NOFOLLOW);
        let source = match look(&level.source, source_name) {
            Ok(stat) => stat,
            Err(errno) => {
                return findings.unreadable(&shown(&path), StepError::os(Step::Stat, errno));
            }
        };
        let directory = is_directory(source.st_mode);
        if !root && !self.shared.request.filter.admits(&path, directory) {
            return;
        }
        let path = shown(&path);
        let copy = match look(&level.copy, name) {
            Ok(stat) => stat,
            Err(Errno::ENOENT) => {
                return findings.add(&path, Kind::Missing, "the copy has no such item");
            }
            Err(errno) => {
                return findings.unreadable(&path, StepError::os(Step::ReadBack, errno));
            }
        };
        let kinds = (kind_of(source.st_mode), kind_of(copy.st_mode));
        if kinds.0 != kinds.1 {
            return findings.add(&path, Kind::Type, format!("{} instead of {}", kinds.1, kinds.0));
        }
        if self.shared.request.metadata {
            self.shared.metadata.compare(
                &path,
                (&level.source, source_name, &source),
                (&level.copy, name, &copy),
                findings,
            );
        }
        if is_regular(source.st_mode) {
            findings.begins(source.st_size.cast_unsigned());
            if let Err(error) = self.content(level, (source_name, &source), (name, &copy), &path) {
                findings.unreadable(&path, error);
            }
            return findings.ends();
        }
        findings.others.fetch_add(1, Relaxed);
        if directory {
            let task = if root {
                Task::Read(Arc::clone(level), Side::Source, 0)
            } else {
                Task::Enter(Arc::clone(level), name.to_owned())
            };
            return self.handle.push(task);
        }
        compare_special(level, (source_name, &source), (name, &copy), &path, findings);
    }

    fn content(
        &mut self,
        level: &Level,
        (source_name, source): (&CStr, &FileStat),
        (name, copy): (&CStr, &FileStat),
        path: &Path,
    ) -> Result<(), StepError> {
        let findings = self.shared.findings;
        if source.st_size != copy.st_size {
            let text = format!("{} bytes instead of {}", copy.st_size, source.st_size);
            findings.add(path, Kind::Size, text);
            findings.passes_over(source.st_size.cast_unsigned());
            return Ok(());
        }
        if source.st_size == 0 {
            return Ok(());
        }
        let stopped = || self.shared.control.cancel.outcome().is_some();
        let (file, opened) = open_source_in(&level.source, source_name, stopped)?;
        refuse_released(&file, &opened, Step::Read)?;
        let back = OpenBack::open(level.copy.as_fd(), name)?;
        let cancel = &self.shared.control.cancel;
        let compared = |bytes| findings.compared(bytes);
        let differing = self.cells.compare((&file, &opened), &back, cancel, compared)?;
        findings.read_back(back.how);
        if !differing.ranges.is_empty() {
            let now = fstat(&file).at(Step::Stat)?;
            if !same_version(&now, source) {
                return Err(StepError::found(Step::Read, FailureKind::SourceChanged));
            }
            findings.add_ranges(path, Kind::Content, differing.words(), differing.ranges);
        }
        Ok(())
    }
}

/// Compares what cannot be opened: the text of a link, the number of a device.
fn compare_special(
    level: &Level,
    (source_name, source): (&CStr, &FileStat),
    (name, copy): (&CStr, &FileStat),
    path: &Path,
    findings: &Findings,
) {
    match SFlag::from_bits_truncate(source.st_mode) & SFlag::S_IFMT {
        SFlag::S_IFLNK => {
            let there = readlinkat(&level.source, source_name).at(Step::ReadLink);
            let here = readlinkat(&level.copy, name).at(Step::ReadLink);
            match (there, here) {
                (Ok(there), Ok(here)) if there == here => {}
                (Ok(_), Ok(_)) => findings.add(path, Kind::Target, "points elsewhere"),
                (Err(error), _) | (_, Err(error)) => findings.unreadable(path, error),
            }
        }
        SFlag::S_IFBLK | SFlag::S_IFCHR if source.st_rdev != copy.st_rdev => {
            findings.add(path, Kind::Device, "another device");
        }
        _ => {}
    }
}

fn path_in(level: &Level, name: &CStr) -> PathBuf {
    level.path.join(OsStr::from_bytes(name.to_bytes()))
}

/// The roots themselves are shown as a dot.
fn shown(path: &Path) -> PathBuf {
    if path.as_os_str().is_empty() { PathBuf::from(".") } else { path.to_owned() }
}
