//! The stage behind publishing, for `--verify` and `--manifest`: files wait in batches, are flushed
//! together, and become tasks. Reading back is in `read_back`, reading a source for a digest that the
//! copy did not see in `rehash`, mending in `repair`.

mod content;
mod read_back;
mod rehash;
mod repair;
mod tally;

use std::collections::HashMap;
use std::ffi::{CStr, CString, OsStr};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::stat::FileStat;

use super::dir::Dir;
use super::file::Pending;
use super::inode::Inode;
use super::job::{Job, Task};
use super::links::Name;
use super::publish::Published;
use super::worker::Worker;
use crate::checksum::{Algorithm, Cells, cell_count};
use crate::error::{AtStep, Step, StepError};
use crate::manifest::{self, Entry, Writer};
pub(crate) use content::Content;
pub(crate) use read_back::Reader;
pub(crate) use tally::CheckTally;

/// Files in one batch, unless many workers share the memory: one flush for so many.
const BATCH_FILES: usize = 8192;
/// Files that wait in the batches of all workers together, each about 400 bytes.
const WAITING_FILES: usize = 64 << 10;
/// Bytes in one batch: what may be lost in the page cache before it is looked at.
const BATCH_BYTES: u64 = 1 << 30;
/// How long the first batch is filled at most, and how long any is; each may take twice the time of
/// the one before. What a killed run has copied but not yet found to be right is copied again.
const FIRST_BATCH_AGE: Duration = Duration::from_millis(50);
const BATCH_AGE: Duration = Duration::from_millis(500);
/// Cells of a large file that are one task.
const PART_CELLS: u64 = 64;
/// Most files of one task.
const TASK_FILES: usize = 64;
/// Bytes after which a task takes no further file.
const TASK_BYTES: u64 = 16 << 20;

/// A file that is to be looked at again.
#[derive(Debug)]
pub(crate) struct ToCheck {
    dir: Arc<Dir>,
    source_name: CString,
    name: CString,
    /// The source when it was opened for the copy.
    stat: FileStat,
    content: Content,
    /// The file that was published: nothing else under its name is looked at, let alone mended.
    published: Option<Published>,
    /// The source's inode, when it has further names.
    link: Option<Inode>,
    /// It was there before this copy: only its digest is wanted, for the manifest.
    skipped: bool,
    /// Parts that are not done.
    left: AtomicUsize,
    found: Mutex<Found>,
}

/// What the parts of a file found.
#[derive(Debug, Default)]
struct Found {
    bad_cells: Vec<u64>,
    error: Option<StepError>,
}

impl ToCheck {
    fn size(&self) -> u64 {
        self.stat.st_size.cast_unsigned()
    }

    fn found(&self) -> std::sync::MutexGuard<'_, Found> {
        self.found.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn fail(&self, error: StepError) {
        self.found().error.get_or_insert(error);
    }
}

/// Some cells of a file, to be looked at by one worker.
#[derive(Debug)]
pub(crate) struct Part {
    file: Arc<ToCheck>,
    cells: std::ops::Range<u64>,
}

/// What one copy checks, and what waits for it.
#[derive(Debug)]
pub(crate) struct Checks {
    algorithm: Algorithm,
    read_back: bool,
    manifest: Option<Arc<Writer>>,
    batch: Mutex<Batch>,
    batch_files: usize,
    /// What is linked to files that wait, or were found to be wrong, by the source's inode.
    linked: Mutex<HashMap<Inode, Linked>>,
    pub(crate) tally: CheckTally,
}

/// Further names of a file that is not known to be right: they share what it has.
#[derive(Debug)]
enum Linked {
    /// It is still to be looked at.
    Waiting(Vec<PathBuf>),
    /// It is wrong.
    Wrong(StepError),
}

#[derive(Debug, Default)]
struct Batch {
    files: Vec<ToCheck>,
    bytes: u64,
    /// When the first of its files came.
    since: Option<Instant>,
    /// Batches before it.
    before: u32,
}

impl Checks {
    /// The checks that a copy asks for; `None` when it asks for none.
    pub(crate) fn new(
        algorithm: Algorithm,
        read_back: bool,
        manifest: Option<Arc<Writer>>,
        workers: usize,
    ) -> Option<Self> {
        (read_back || manifest.is_some()).then(|| Self {
            algorithm,
            read_back,
            manifest,
            batch: Mutex::default(),
            linked: Mutex::default(),
            batch_files: (WAITING_FILES / workers.max(1)).clamp(1024, BATCH_FILES),
            tally: CheckTally::default(),
        })
    }

    /// The checksum to be taken of what is moved.
    pub(crate) fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// Whether the destination is read back.
    pub(crate) fn reads_back(&self) -> bool {
        self.read_back
    }

    fn linked(&self) -> std::sync::MutexGuard<'_, HashMap<Inode, Linked>> {
        self.linked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes a further name that was linked to the copy of `first`; it fails with that.
    ///
    /// # Errors
    /// Why the copy is wrong, when that was found already.
    pub(crate) fn note_linked(
        &self,
        first: Inode,
        path: impl FnOnce() -> PathBuf,
    ) -> Result<(), StepError> {
        match self.linked().get_mut(&first) {
            None => Ok(()),
            Some(Linked::Waiting(names)) => {
                names.push(path());
                Ok(())
            }
            Some(Linked::Wrong(error)) => Err(*error),
        }
    }

    /// Adds a file; returns the batch when it is full.
    fn add(&self, file: ToCheck) -> Option<Vec<ToCheck>> {
        let mut batch = self.batch.lock().unwrap_or_else(PoisonError::into_inner);
        batch.bytes += file.size();
        batch.files.push(file);
        let limit = (FIRST_BATCH_AGE * (1 << batch.before.min(8))).min(BATCH_AGE);
        let age = batch.since.get_or_insert_with(Instant::now).elapsed();
        let full =
            batch.files.len() >= self.batch_files || batch.bytes >= BATCH_BYTES || age >= limit;
        full.then(|| {
            let next = Batch { before: batch.before + 1, ..Batch::default() };
            std::mem::replace(&mut *batch, next).files
        })
    }

    /// The last batch as tasks, when everything has been copied.
    pub(crate) fn take_rest(&self, job: &Job<'_>) -> Vec<Task> {
        let batch = std::mem::take(&mut *self.batch.lock().unwrap_or_else(PoisonError::into_inner));
        if batch.files.is_empty() { Vec::new() } else { self.tasks(job, batch.files) }
    }

    /// Flushes what the files of a batch consist of, and cuts the batch into tasks.
    fn tasks(&self, job: &Job<'_>, files: Vec<ToCheck>) -> Vec<Task> {
        if self.read_back {
            // What is still dirty could not be dropped from memory. An error of late write-back shows
            // only once, so it is reported here; what it damaged of these files is found below.
            for device in job.written_devices() {
                match device {
                    Some(fd) => {
                        if let Err(errno) = nix::unistd::syncfs(fd) {
                            job.flushing_failed(errno);
                        }
                    }
                    None => nix::unistd::sync(),
                }
            }
        }
        let mut tasks = Vec::new();
        let mut parts = Vec::new();
        let mut bytes = 0;
        for file in files {
            let cells = cell_count(file.size());
            let file = Arc::new(file);
            if cells > PART_CELLS {
                let count = usize::try_from(cells.div_ceil(PART_CELLS)).unwrap_or(usize::MAX);
                file.left.store(count, Relaxed);
                tasks.extend((0..cells.div_ceil(PART_CELLS)).map(|part| {
                    let cells = part * PART_CELLS..((part + 1) * PART_CELLS).min(cells);
                    Task::Check(vec![Part { file: Arc::clone(&file), cells }])
                }));
                continue;
            }
            bytes += file.size();
            parts.push(Part { file, cells: 0..cells });
            if parts.len() >= TASK_FILES || bytes >= TASK_BYTES {
                tasks.push(Task::Check(std::mem::take(&mut parts)));
                bytes = 0;
            }
        }
        if !parts.is_empty() {
            tasks.push(Task::Check(parts));
        }
        tasks
    }

    /// Adds a file to the manifest.
    fn record(&self, dir: &Dir, name: &CStr, stat: &FileStat, content: &Content) {
        let (Some(manifest), Some(digest)) = (&self.manifest, content.file()) else { return };
        let chunks = match content {
            Content::Cells(cells) => Some(cells.as_ref()),
            Content::Whole(_) => None,
        };
        let entry = Entry::File { stat, digest, chunks };
        manifest.add(&dir.root.in_manifest, &dir.relative(Some(name)), &entry);
    }

    /// Adds a further name of a file to the manifest.
    pub(crate) fn record_link(&self, dir: &Dir, name: &CStr, first: &Name) {
        if let Some(manifest) = &self.manifest {
            let to =
                manifest::join(&first.dir.root.in_manifest, &first.dir.relative(Some(&first.name)));
            let entry = Entry::HardLink { to: &to };
            manifest.add(&dir.root.in_manifest, &dir.relative(Some(name)), &entry);
        }
    }

    /// Adds a symbolic link or a special file to the manifest. `target` is the link's, as it was made.
    pub(crate) fn record_special(
        &self,
        dir: &Dir,
        name: &CStr,
        stat: &FileStat,
        target: Option<&CStr>,
    ) {
        let Some(manifest) = &self.manifest else { return };
        let target = target.map(|target| Path::new(OsStr::from_bytes(target.to_bytes())));
        let entry = match target {
            Some(target) => Entry::Symlink { stat, target },
            None => Entry::Other { stat },
        };
        manifest.add(&dir.root.in_manifest, &dir.relative(Some(name)), &entry);
    }

    /// Adds a finished directory to the manifest.
    pub(crate) fn record_directory(&self, dir: &Dir) {
        if let Some(manifest) = &self.manifest {
            let entry = Entry::Other { stat: &dir.stat };
            manifest.add(&dir.root.in_manifest, &dir.relative(None), &entry);
        }
    }
}

impl Worker<'_> {
    /// A file is in place under its name. Unless it is to be looked at again, it is finished for good.
    pub(crate) fn file_is_published(&mut self, pending: &mut Pending) {
        let size = pending.stat.st_size.cast_unsigned();
        let Some(checks) = &self.job.checks else {
            return self.file_is_finished(&pending.dir, &pending.name, &pending.stat);
        };
        let algorithm = checks.algorithm;
        let content = pending.content.take();
        let content = content.unwrap_or_else(|| {
            if size == 0 {
                Content::whole(algorithm.digest(&[]))
            } else {
                Content::unknown(algorithm, size)
            }
        });
        let wanted = if checks.read_back { size > 0 } else { content.file().is_none() };
        if !wanted {
            checks.record(&pending.dir, &pending.name, &pending.stat, &content);
            return self.file_is_finished(&pending.dir, &pending.name, &pending.stat);
        }
        self.check_later(ToCheck {
            dir: Arc::clone(&pending.dir),
            source_name: pending.source_name.clone(),
            name: pending.name.clone(),
            stat: pending.stat,
            content,
            published: pending.published.get().copied(),
            link: pending.link,
            skipped: false,
            left: AtomicUsize::new(1),
            found: Mutex::default(),
        });
    }

    /// A file was left alone because the destination has it. A manifest wants its digest all the same.
    pub(crate) fn file_was_there(
        &mut self,
        dir: &Arc<Dir>,
        source_name: &CStr,
        name: &CStr,
        stat: &FileStat,
    ) {
        let Some(checks) = self.job.checks.as_ref().filter(|checks| checks.manifest.is_some())
        else {
            return;
        };
        let algorithm = checks.algorithm;
        if !Cells::fit(algorithm, stat.st_size.cast_unsigned()) {
            let error = StepError::os(Step::Read, Errno::ENOMEM);
            return self.job.fail(dir.source_path(Some(source_name)), error);
        }
        self.check_later(ToCheck {
            dir: Arc::clone(dir),
            source_name: source_name.to_owned(),
            name: name.to_owned(),
            stat: *stat,
            content: Content::unknown(algorithm, stat.st_size.cast_unsigned()),
            published: None,
            link: None,
            skipped: true,
            left: AtomicUsize::new(1),
            found: Mutex::default(),
        });
    }

    /// A file is finished for good, and verified if that was asked.
    fn file_is_finished(&self, dir: &Dir, name: &CStr, stat: &FileStat) {
        self.count_file(stat.st_size.cast_unsigned());
        self.note_finished(dir, name, stat);
    }

    fn check_later(&mut self, file: ToCheck) {
        let Some(checks) = &self.job.checks else { return };
        if let Some(inode) = file.link {
            checks.linked().insert(inode, Linked::Waiting(Vec::new()));
        }
        if let Some(batch) = checks.add(file) {
            for task in checks.tasks(self.job, batch) {
                self.push(task);
            }
        }
    }

    /// Everything that was asked of a file has been done.
    fn file_is_checked(&mut self, file: &ToCheck, result: Result<(), StepError>) {
        let Some(checks) = &self.job.checks else { return };
        match result {
            Ok(()) => {
                if let Some(inode) = &file.link {
                    checks.linked().remove(inode);
                }
                checks.record(&file.dir, &file.name, &file.stat, &file.content);
                if !file.skipped {
                    self.file_is_finished(&file.dir, &file.name, &file.stat);
                }
            }
            Err(error) => {
                self.job.fail(file.dir.source_path(Some(&file.source_name)), error);
                let wrong = Linked::Wrong(error);
                let linked = file.link.and_then(|inode| checks.linked().insert(inode, wrong));
                if let Some(Linked::Waiting(names)) = linked {
                    names.into_iter().for_each(|name| self.job.fail(name, error));
                }
            }
        }
    }

    /// The times, and the flags that forbid setting them, come only after a file was found to be right:
    /// a file that has its source's time is a right one.
    fn set_late_attributes(&self, file: &ToCheck, target: impl AsFd) -> Result<(), StepError> {
        let attributes = &self.job.attributes;
        attributes.set_times(target.as_fd(), &file.stat)?;
        let preserve = self.job.options().preserve;
        if preserve.flags || preserve.project {
            let dir = file.dir.source().at(Step::Open)?;
            let (source, _) =
                super::file::open_source_in(&dir, &file.source_name, || self.job.stopped())?;
            attributes.apply_flags(source.as_fd(), target.as_fd())?;
        }
        Ok(())
    }
}
