//! Compares a directory with a manifest: every line with its item, and every item with the lines. No
//! path of the manifest is followed through a symbolic link.

use std::collections::HashSet;
use std::ffi::{CString, OsStr};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};
use std::rc::Rc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, PoisonError};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat, readlinkat};
use nix::sys::stat::{FileStat, Mode, fstatat, major, minor};

use super::content::Differing;
use super::extra::{self, key};
use super::findings::Findings;
use super::metadata::{compare_mode, compare_owner, compare_time};
use super::{Control, Kind, Request, flush, open_named, threads};
use crate::backend::chunk::Holes;
use crate::backend::past_cache::{CellReader, OpenBack};
use crate::checksum::{Algorithm, Digest, cell_count, cell_range};
use crate::engine::filesystem::Filesystem;
use crate::engine::inode::inode;
use crate::error::{AtStep, FailureKind, Refusal, Step, StepError};
use crate::manifest::{Chunks, Kind as LineKind, Line, Reader, kind_of};
use crate::sys::ring;

/// Lines that a worker takes at once; as many files may be open.
const SLICE: usize = 32;

/// What all workers share.
struct Shared<'s> {
    request: &'s Request,
    control: &'s Control,
    findings: &'s Findings,
    root: OwnedFd,
    lines: Mutex<Reader>,
    algorithm: Algorithm,
    tells_holes: bool,
}

/// A file of the manifest that is being read.
struct Checked {
    path: PathBuf,
    size: u64,
    chunks: Chunks,
    bad: std::cell::RefCell<Vec<u64>>,
    error: std::cell::Cell<Option<StepError>>,
}

/// Compares a directory with a manifest.
///
/// # Errors
/// A refusal when the directory cannot be opened, or memory is short.
pub(super) fn compare(
    request: &Request,
    control: &Control,
    lines: Reader,
    directory: &Path,
    findings: &Findings,
) -> Result<(), Refusal> {
    let root = open_named(directory)?;
    flush(&root);
    let ring = ring::probe().is_ok();
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get);
    let count = if ring && request.threads.is_none() { cores } else { threads(request, &[&root]) };
    let shared = Shared {
        request,
        control,
        findings,
        algorithm: lines.algorithm,
        tells_holes: Filesystem::of(&root).is_ok_and(|fs| fs.tells_holes),
        root,
        lines: Mutex::new(lines),
    };
    let workers = std::thread::scope(|scope| {
        let work = || Worker::new(&shared, ring, count).map(Worker::run);
        let workers: Vec<_> = (0..count).map(|_| scope.spawn(work)).collect();
        workers
            .into_iter()
            .map(|worker| worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect::<Result<Vec<_>, Errno>>()
    });
    let no_memory = |errno| Refusal::system(directory, "have memory for comparing", errno);
    let mut named = HashSet::new();
    for worker in workers.map_err(no_memory)? {
        named.extend(worker);
    }
    if control.cancel.outcome().is_none() {
        extra::find(&shared.root, &named, (request, control), findings);
    }
    Ok(())
}

struct Worker<'w> {
    shared: &'w Shared<'w>,
    reader: CellReader<(Rc<Checked>, u64)>,
    named: HashSet<u128>,
    /// The directory of the last line: most lines share it with their neighbours.
    last: Option<(PathBuf, Arc<OwnedFd>)>,
}

impl<'w> Worker<'w> {
    fn new(shared: &'w Shared<'w>, ring: bool, count: usize) -> Result<Self, Errno> {
        let reader = CellReader::new(shared.algorithm, usize::MAX, ring, count)?;
        Ok(Self { shared, reader, named: HashSet::new(), last: None })
    }

    fn run(mut self) -> HashSet<u128> {
        while self.shared.control.cancel.outcome().is_none() {
            let mut taken = Vec::new();
            {
                let mut lines = self.shared.lines.lock().unwrap_or_else(PoisonError::into_inner);
                while taken.len() < SLICE {
                    match lines.next_line() {
                        Ok(Some(line)) => taken.push(line),
                        Ok(None) => break,
                        Err(problem) => {
                            let path = Path::new(".");
                            self.shared.findings.add(path, Kind::Unreadable, problem);
                        }
                    }
                }
            }
            if taken.is_empty() {
                break;
            }
            self.lines(&taken);
        }
        self.named
    }

    fn lines(&mut self, lines: &[Line]) {
        let mut open = Vec::new();
        for line in lines {
            self.named.insert(key(&line.path));
            let directory = line.kind == LineKind::Directory;
            if !self.shared.request.filter.admits_with_parents(&line.path, directory) {
                continue;
            }
            match self.line(line) {
                Ok(Some(checked)) => open.push(checked),
                Ok(None) => {}
                Err(error) => self.shared.findings.unreadable(&line.path, error),
            }
        }
        self.reader.drain(&mut |(file, chunk), digest| judge(&file, chunk, digest));
        for file in open {
            self.shared.findings.ends();
            let mut bad = file.bad.take();
            if let Some(error) = file.error.get() {
                self.shared.findings.unreadable(&file.path, error);
            } else if !bad.is_empty() {
                bad.sort_unstable();
                let mut differing = Differing::default();
                bad.iter().for_each(|chunk| differing.add(cell_range(*chunk, file.size)));
                let words = differing.words();
                self.shared.findings.add_ranges(&file.path, Kind::Content, words, differing.ranges);
            }
        }
    }

    /// Compares one line with its item. A file whose content is being read is returned.
    fn line(&mut self, line: &Line) -> Result<Option<Rc<Checked>>, StepError> {
        let findings = self.shared.findings;
        let path = line.path.as_path();
        let Some((dir, name, stat)) = self.look(path)? else {
            findings.add(path, Kind::Missing, "the copy has no such item");
            return Ok(None);
        };
        let wanted = match line.kind {
            LineKind::File => "file",
            LineKind::Directory => "directory",
            LineKind::Symlink => "symlink",
            LineKind::Fifo => "fifo",
            LineKind::Socket => "socket",
            LineKind::BlockDevice => "block-device",
            LineKind::CharDevice => "char-device",
            LineKind::HardLink => {
                self.compare_link(line, &stat)?;
                return Ok(None);
            }
        };
        if kind_of(stat.st_mode) != wanted {
            let text = format!("{} instead of {wanted}", kind_of(stat.st_mode));
            findings.add(path, Kind::Type, text);
            return Ok(None);
        }
        if self.shared.request.metadata {
            compare_metadata(line, &stat, findings);
        }
        if line.kind == LineKind::File {
            findings.begins(line.size);
            let content = self.content(line, &dir, &name, &stat);
            if !matches!(content, Ok(Some(_))) {
                findings.ends();
            }
            return content;
        }
        findings.others.fetch_add(1, Relaxed);
        if let Some(target) = line.target.as_ref().filter(|_| line.kind == LineKind::Symlink)
            && readlinkat(&dir, name.as_c_str()).at(Step::ReadLink)? != *target.as_os_str()
        {
            findings.add(path, Kind::Target, "points elsewhere");
        }
        if let Some(device) = line.device
            && device != (major(stat.st_rdev), minor(stat.st_rdev))
        {
            findings.add(path, Kind::Device, "another device");
        }
        Ok(None)
    }

    fn compare_link(&mut self, line: &Line, stat: &FileStat) -> Result<(), StepError> {
        self.shared.findings.others.fetch_add(1, Relaxed);
        let first = line.to.as_ref().map(|to| self.look(to)).transpose()?.flatten();
        if first.is_none_or(|(_, _, first)| inode(&first) != inode(stat)) {
            let text = "not a hard link to the file that the manifest names";
            self.shared.findings.add(&line.path, Kind::HardLink, text);
        }
        Ok(())
    }

    fn content(
        &mut self,
        line: &Line,
        dir: &OwnedFd,
        name: &CString,
        stat: &FileStat,
    ) -> Result<Option<Rc<Checked>>, StepError> {
        let findings = self.shared.findings;
        let algorithm = self.shared.algorithm;
        let path = line.path.as_path();
        if stat.st_size.cast_unsigned() != line.size {
            let text = format!("{} bytes instead of {}", stat.st_size, line.size);
            findings.add(path, Kind::Size, text);
            findings.passes_over(line.size);
            return Ok(None);
        }
        let chunks = match line.digests(algorithm) {
            Ok(chunks) => chunks,
            Err(problem) => {
                findings.add(path, Kind::Unreadable, format!("its line {problem}"));
                return Ok(None);
            }
        };
        if line.size == 0 {
            return Ok(None);
        }
        let back = OpenBack::open(dir.as_fd(), name)?;
        findings.read_back(back.how);
        let checked = Rc::new(Checked {
            path: line.path.clone(),
            size: line.size,
            chunks,
            bad: std::cell::RefCell::default(),
            error: std::cell::Cell::default(),
        });
        let mut holes = Holes::of(&back.stat, self.shared.tells_holes);
        for chunk in 0..cell_count(line.size) {
            if self.shared.control.cancel.outcome().is_some() {
                break;
            }
            let range = cell_range(chunk, line.size);
            let bytes = range.end - range.start;
            findings.compared(bytes);
            if holes.contain(&back.file, &range).at(Step::ReadBack)? {
                if checked.chunks.get(chunk) != Some(algorithm.of_zeros(bytes)) {
                    checked.bad.borrow_mut().push(chunk);
                }
                continue;
            }
            let length = usize::try_from(bytes).unwrap_or(usize::MAX);
            let tag = (Rc::clone(&checked), chunk);
            self.reader.read(&back, range.start, length, tag, &mut |(file, chunk), digest| {
                judge(&file, chunk, digest);
            });
        }
        Ok(Some(checked))
    }

    /// The directory of a path, its name there, and what it is; `None` when there is no such item.
    fn look(
        &mut self,
        path: &Path,
    ) -> Result<Option<(Arc<OwnedFd>, CString, FileStat)>, StepError> {
        let mut parts: Vec<&OsStr> = path
            .components()
            .filter_map(|part| if let Component::Normal(name) = part { Some(name) } else { None })
            .collect();
        let name = parts.pop().unwrap_or(OsStr::new("."));
        let name = CString::new(name.as_bytes()).map_err(|_| Errno::EINVAL).at(Step::ReadBack)?;
        let above: PathBuf = parts.iter().collect();
        let known = self.last.as_ref().filter(|(last, _)| *last == above);
        let dir = match known {
            Some((_, dir)) => Arc::clone(dir),
            None => match self.open_below(&parts) {
                Ok(dir) => {
                    let dir = Arc::new(dir);
                    self.last = Some((above, Arc::clone(&dir)));
                    dir
                }
                // A link or a file where a directory was: the item is not there.
                Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP) => return Ok(None),
                Err(errno) => return Err(StepError::os(Step::OpenDirectory, errno)),
            },
        };
        match fstatat(&dir, name.as_c_str(), AtFlags::AT_SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some((dir, name, stat))),
            Err(Errno::ENOENT) => Ok(None),
            Err(errno) => Err(StepError::os(Step::Stat, errno)),
        }
    }

    fn open_below(&self, parts: &[&OsStr]) -> Result<OwnedFd, Errno> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let mut dir = openat(&self.shared.root, c".", flags, Mode::empty())?;
        for part in parts {
            dir = openat(&dir, *part, flags, Mode::empty())?;
        }
        Ok(dir)
    }
}

fn judge(file: &Checked, chunk: u64, digest: Result<Digest, Errno>) {
    match digest {
        Ok(digest) if file.chunks.get(chunk) == Some(digest) => {}
        Ok(_) => file.bad.borrow_mut().push(chunk),
        Err(errno) if FailureKind::of(errno) == FailureKind::Io => {
            file.bad.borrow_mut().push(chunk);
        }
        Err(errno) => file.error.set(Some(StepError::os(Step::ReadBack, errno))),
    }
}

fn compare_metadata(line: &Line, stat: &FileStat, findings: &Findings) {
    let mode = line.mode.as_ref().and_then(|text| u32::from_str_radix(text, 8).ok());
    if let Some(mode) = mode {
        compare_mode(&line.path, mode, stat.st_mode, findings);
    }
    if let (Some(uid), Some(gid)) = (line.uid, line.gid) {
        compare_owner(&line.path, (uid, gid), (stat.st_uid, stat.st_gid), findings);
    }
    if let Some(mtime) = line.mtime {
        compare_time(&line.path, mtime, (stat.st_mtime, stat.st_mtime_nsec), findings);
    }
}
