//! Large and sparse files: cut into chunks that several workers may move, finished by the last.
//! How a chunk is moved is the backend's business.

use std::cell::Cell;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, FcntlArg, OFlag, fallocate, fcntl};
use nix::sys::stat::{FileStat, fstat};
use nix::unistd::{fdatasync, ftruncate};

use super::check::Content;
use super::file::{Pending, is_sparse};
use super::filesystem::Direct;
use super::job::{Filesystems, Job, Task};
use super::queue::Handle;
use super::resume::note_range;
use super::sizing::Mover;
use super::worker::Worker;
use crate::backend::chunk::ChunkSupply;
use crate::backend::objects::ObjectSupply;
use crate::backend::{LargeFile, Mechanism};
use crate::checksum::Cells;
use crate::error::{AtStep, FailureKind, Step, StepError};
use crate::journal::{Temporary, ranges};
use crate::lanes::{self, Lane};
use crate::options::{BackendChoice, SyncPolicy};
use crate::sys;

/// Below this O_DIRECT gains nothing over the page cache.
const DIRECT_MIN_BYTES: u64 = 16 << 20;

/// Page size for reading the page cache's size; only a ratio is made of it.
const PAGE_BYTES: u64 = 4096;

/// A large file that workers are copying.
#[derive(Debug)]
pub(crate) struct LargeCopy {
    file: LargeFile,
    /// What the journal knows of its temporary file.
    temporary: Option<Temporary>,
    /// Bytes that an earlier run has written.
    resumed: u64,
    /// More than one worker at a time is of use.
    shared: bool,
    /// Somebody was asked to help who has not come yet.
    invited: AtomicBool,
    /// It is among the parked files.
    pub(crate) is_parked: AtomicBool,
    state: Mutex<State>,
}

/// How a worker left a file.
enum Left {
    /// As the last one: the file is finished or failed.
    Last(Box<Pending>),
    /// While others go on.
    Others,
    /// While some of it waits for servers with room.
    Unfinished,
}

#[derive(Debug)]
struct State {
    /// Workers moving chunks.
    active: usize,
    /// Taken by whoever finishes the file.
    pending: Option<Pending>,
    error: Option<StepError>,
    mechanism: Mechanism,
}

impl Worker<'_> {
    /// Starts a large file, invites others, and takes part.
    pub(crate) fn start_large(
        &mut self,
        mut pending: Pending,
        source: OwnedFd,
        destination: OwnedFd,
        filesystems: Filesystems,
    ) {
        let sparse = is_sparse(&pending.stat);
        let size = pending.stat.st_size.cast_unsigned();
        let tells_holes = filesystems.source.tells_holes;
        let data = size.min(pending.stat.st_blocks.cast_unsigned() * 512);
        // copy_file_range takes O_DIRECT for whole blocks only, and does not need it.
        let by_range = self.job.sizing.mover == Mover::Range
            && (self.job.options().backend == BackendChoice::Clone
                || filesystems.source.server_copies_to(filesystems.destination));
        let direct = if by_range || (sparse && !tells_holes) {
            None
        } else {
            go_direct(&source, &destination, size, data, filesystems)
        };
        let pass = lanes::enter(Lane::DestinationWrite);
        let striped = self.is_stripe_aware(filesystems);
        // A striped file shows all of its objects only when every component has been touched; what is written past the
        // page cache is slower where it makes the file longer; and zeros that become holes count as written.
        let size_first = striped || (sparse && (direct.is_some() || !tells_holes));
        let prepared = match (size_first, direct) {
            (true, _) => ftruncate(&destination, pending.stat.st_size).at(Step::Write),
            (false, Some(_)) if filesystems.destination.direct == Some(Direct::Blocks) => {
                allocate(&destination, size)
            }
            (false, _) => Ok(()),
        };
        drop(pass);
        if let Err(error) = prepared {
            drop(source);
            return self.give_up(pending, destination, error);
        }
        let chunk_bytes = self.job.sizing.chunk_bytes as u64;
        let block = direct.unwrap_or(1);
        self.begin_ranges(&mut pending, destination.as_fd(), chunk_bytes);
        let written = self.written_before(&pending, block);
        let resumed = ranges::bytes(&written);
        let cells = self.job.checksum().map(|algorithm| Cells::new(algorithm, size));
        if let Some(cells) = &cells {
            written.iter().for_each(|range| cells.unseen(range.clone()));
        }
        let objects = striped
            .then(|| self.objects(&source, &destination, &pending, filesystems, &written))
            .flatten();
        let shared_objects = objects.is_some();
        // Two threads writing one buffered file get in each other's way, except in memory, and except
        // between holes, where finding and reading the next data is what takes time.
        let in_memory = filesystems.source.in_memory && filesystems.destination.in_memory;
        // And except where every request goes to a server and back.
        let remote = filesystems.source.remote || filesystems.destination.remote;
        let shared = direct.is_some() || in_memory || sparse || remote || shared_objects;
        let copy = Arc::new(LargeCopy {
            file: LargeFile {
                source: Arc::new(source),
                destination: Arc::new(destination),
                chunks: ChunkSupply::new(size, chunk_bytes, sparse && tells_holes, block)
                    .without(written),
                objects,
                anyway: AtomicBool::new(false),
                zeros_are_holes: sparse && !tells_holes,
                in_memory,
                direct,
                stop: AtomicBool::new(false),
                moved: AtomicU64::new(0),
                cells: cells.map(Arc::new),
            },
            temporary: pending.temporary.clone(),
            resumed,
            shared: shared && size > 2 * chunk_bytes,
            invited: AtomicBool::new(false),
            is_parked: AtomicBool::new(false),
            state: Mutex::new(State {
                active: 0,
                pending: Some(pending),
                error: None,
                mechanism: Mechanism::ReadWrite,
            }),
        });
        self.job.large_files.fetch_add(1, Relaxed);
        if copy.join(self.job) {
            // The task that this is part of may have more files: nobody goes home from here.
            self.take_part(copy, false);
        }
    }

    /// Helps with a file that somebody else started, and lets a third one join.
    pub(crate) fn help(&mut self, copy: Arc<LargeCopy>) {
        copy.invited.store(false, Relaxed);
        // A file that failed keeps its chunks for ever: whoever pushed it on would never come home.
        if copy.file.is_handed_out() || copy.file.stop.load(Relaxed) || !copy.join(self.job) {
            return self.let_go(&copy);
        }
        self.take_part(copy, true);
    }

    /// Moves chunks as one who has joined, until the file is finished; where it `may_go`, until there are more workers
    /// than are wanted, in this file or at all, since a file may take hours.
    fn take_part(&mut self, copy: Arc<LargeCopy>, may_go: bool) {
        let (job, journal, handle) = (self.job, &self.journal, &self.handle);
        invite(job, handle, &copy);
        let count = |piece: std::ops::Range<u64>| {
            job.control.progress.bytes_done.fetch_add(piece.end - piece.start, Relaxed);
            note_range(job, journal.as_ref(), copy.temporary.as_ref(), piece);
            invite(job, handle, &copy);
            if job.stopped() {
                copy.file.stop.store(true, Relaxed);
            }
        };
        let (present, extra) = (self.present, self.extra);
        let (left, gone) = (Cell::new(false), Cell::new(false));
        let goes = || {
            let go_home = || {
                gone.set(present.may_go(extra, job.control.lanes.workers()));
                gone.get()
            };
            left.set(may_go && copy.lose(job, go_home));
            left.get()
        };
        let result = self.backend.large(&copy.file, &count, &goes);
        if left.get() {
            self.gone = gone.get();
            return;
        }
        match copy.leave(result) {
            Left::Last(pending) => self.finish_large(*pending, &copy),
            Left::Unfinished if !copy.is_parked.swap(true, Relaxed) => self.park(copy),
            Left::Unfinished | Left::Others => {}
        }
        self.look_at_parked();
    }

    /// Ends a file that is not gone on with and that nobody takes part in any more.
    pub(crate) fn let_go(&mut self, copy: &LargeCopy) {
        if self.job.stopped() {
            copy.file.stop.store(true, Relaxed);
        }
        if let Some(pending) = copy.take_when_over() {
            self.finish_large(*pending, copy);
        }
    }

    fn finish_large(&mut self, mut pending: Pending, copy: &LargeCopy) {
        self.job.large_files.fetch_sub(1, Relaxed);
        let (error, mechanism) = {
            let state = copy.lock();
            (state.error, state.mechanism)
        };
        // Nobody takes part any more, and nobody can join: the file is ours alone.
        let size = pending.stat.st_size;
        let written = &copy.file.destination;
        if let Some(error) = error {
            return self.give_up(pending, written, error);
        }
        if copy.file.stop.load(Relaxed) || self.job.stopped() {
            // Cancelled: no failure of this file. What the journal knows of is kept.
            return self.keep_or_abandon(&pending, written);
        }
        if !copy.file.is_handed_out() {
            let error = StepError::found(Step::Write, FailureKind::Internal);
            return self.give_up(pending, written, error);
        }
        let destination = match self.with_descriptors(|_| {
            let errno = |error: std::io::Error| error.raw_os_error().unwrap_or(libc::EMFILE);
            let clone = written.try_clone();
            clone.map_err(|error| Errno::from_raw(errno(error))).at(Step::Write)
        }) {
            Ok(fd) => fd,
            Err(error) => return self.give_up(pending, written, error),
        };
        if let Err(error) =
            self.set_size(&pending.stat, &destination, copy.file.moved.load(Relaxed) > 0)
        {
            return self.give_up(pending, destination, error);
        }
        if let Some(cells) = &copy.file.cells {
            cells.all_moved();
            pending.content = Some(Content::Cells(Arc::clone(cells)));
        }
        let moved = copy.file.moved.load(Relaxed);
        let holes = size.cast_unsigned().saturating_sub(moved).saturating_sub(copy.resumed);
        self.job.control.progress.bytes_done.fetch_add(holes, Relaxed);
        self.content_is_there(pending, &copy.file.source, destination, mechanism, moved);
    }
}

impl Worker<'_> {
    /// Gives a file whose content is there the size of its source: cuts what O_DIRECT wrote behind it (whole blocks, those
    /// of an earlier run, too), or adds the hole that a sparse one ends in.
    fn set_size(
        &self,
        source: &FileStat,
        written: &OwnedFd,
        has_data: bool,
    ) -> Result<(), StepError> {
        let (now, size) = (fstat(written).at(Step::Stat)?.st_size, source.st_size);
        if now < size && !is_sparse(source) {
            return Err(StepError::found(Step::Write, FailureKind::Contended)); // somebody has cut it
        }
        // After a crash of the machine a file must not have size and time of a complete one, but no data.
        if now < size && has_data && self.job.options().sync != SyncPolicy::None {
            fdatasync(written).at(Step::Sync)?;
        }
        if now == size { Ok(()) } else { ftruncate(written, size).at(Step::Write) }
    }
}

impl LargeCopy {
    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether one worker more would be of use: for each object that is not written yet, or else as many for every
    /// file that is open, so that no file (nor the server that it lies on) is left for the end.
    fn wants_more(&self, job: &Job<'_>) -> bool {
        let enough = self.enough(job);
        self.lock().active < enough
    }

    fn enough(&self, job: &Job<'_>) -> usize {
        match &self.file.objects {
            Some(objects) => objects.useful_workers(),
            None if self.shared => {
                job.control.lanes.workers().div_ceil(job.large_files.load(Relaxed).max(1))
            }
            None => 1,
        }
    }

    /// Whether somebody could go on with what waits for a server with room, or need not any more.
    pub(crate) fn may_go_on(&self) -> bool {
        self.file.stop.load(Relaxed)
            || self.file.is_handed_out()
            || self.file.objects.as_ref().is_none_or(ObjectSupply::has_room)
    }

    /// From now on its servers get its objects however much they have to do.
    pub(crate) fn go_on_anyway(&self) {
        self.is_parked.store(false, Relaxed);
        self.file.anyway.store(true, Relaxed);
    }

    /// The file, when nobody takes part in it and nothing of it is left to do.
    fn take_when_over(&self) -> Option<Box<Pending>> {
        let mut state = self.lock();
        let over = state.active == 0 && (self.file.stop.load(Relaxed) || self.file.is_handed_out());
        if over { state.pending.take().map(Box::new) } else { None }
    }

    /// Begins one worker's part; false when the file is finished already, or has enough workers.
    fn join(&self, job: &Job<'_>) -> bool {
        let enough = !self.wants_more(job);
        let mut state = self.lock();
        let open = state.pending.is_some() && !(enough && state.active > 0);
        state.active += usize::from(open);
        open
    }

    /// Ends the part of one worker, who has nothing in flight, while others go on: of one who `goes_home`, which is
    /// asked last, or is of more use with another file.
    fn lose(&self, job: &Job<'_>, goes_home: impl FnOnce() -> bool) -> bool {
        let enough = self.enough(job);
        let mut state = self.lock();
        let goes = state.active > 1 && (goes_home() || state.active > enough);
        state.active -= usize::from(goes);
        goes
    }

    /// Ends one worker's part. Returns the file to the last one, who finishes it.
    fn leave(&self, result: Result<Mechanism, StepError>) -> Left {
        let stopped = result.is_err() || self.file.stop.load(Relaxed);
        let mut state = self.lock();
        // Looked up under the lock: another one may just leave an object with work, and the file to us.
        let waits = self.file.objects.as_ref().is_some_and(ObjectSupply::has_unwritten);
        state.active -= 1;
        match result {
            Ok(mechanism) => state.mechanism = mechanism,
            Err(error) => {
                self.file.stop.store(true, Relaxed);
                state.error.get_or_insert(error);
            }
        }
        if !stopped && state.error.is_none() && waits {
            return Left::Unfinished;
        }
        // With others active, one of them is the last.
        let last = if state.active == 0 { state.pending.take() } else { None };
        last.map_or(Left::Others, |pending| Left::Last(Box::new(pending)))
    }
}

/// Asks for one worker more where that is of use, unless somebody is on the way.
fn invite(job: &Job<'_>, handle: &Handle<'_, Task>, copy: &Arc<LargeCopy>) {
    let wanted = copy.shared && !copy.file.is_handed_out() && copy.wants_more(job);
    if wanted && !job.stopped() && !copy.invited.swap(true, Relaxed) {
        handle.push(Task::Help(Arc::clone(copy)));
    }
}

/// Switches both files to O_DIRECT when that is the fastest way, and says how to align. Data that is
/// in memory already is copied from there: reading it from the device again would be slower.
fn go_direct(
    source: &OwnedFd,
    destination: &OwnedFd,
    size: u64,
    data: u64,
    filesystems: Filesystems,
) -> Option<u64> {
    let how =
        filesystems.source.direct.filter(|how| Some(*how) == filesystems.destination.direct)?;
    if data < DIRECT_MIN_BYTES {
        return None;
    }
    // Kernels before 6.5 cannot say; cold is what matters for files of this size.
    let cached = sys::cached_pages(source.as_fd(), size).unwrap_or(0);
    if cached * PAGE_BYTES > data / 2 {
        return None;
    }
    let alignment = |file: &OwnedFd| match sys::direct_alignment(file.as_fd()) {
        Ok(Some(alignment)) => Some(u64::from(alignment.offset.max(alignment.memory))),
        // No O_DIRECT for this file, or a kernel before 6.1, which cannot say.
        Ok(None) | Err(_) => None,
    };
    let block = match how {
        Direct::Blocks => alignment(source)?.max(alignment(destination)?).max(PAGE_BYTES),
        Direct::Requests => 1,
    };
    // Chunks of whole mebibytes must be whole blocks.
    if !(1_u64 << 20).is_multiple_of(block) || !set_direct(source) {
        return None;
    }
    if !set_direct(destination) {
        let _ = clear_direct(source);
        return None;
    }
    Some(block)
}

fn set_direct(file: &OwnedFd) -> bool {
    fcntl(file, FcntlArg::F_GETFL)
        .map(OFlag::from_bits_retain)
        .and_then(|flags| fcntl(file, FcntlArg::F_SETFL(flags | OFlag::O_DIRECT)))
        .is_ok()
}

fn clear_direct(file: &OwnedFd) -> Result<(), Errno> {
    let flags = OFlag::from_bits_retain(fcntl(file, FcntlArg::F_GETFL)?);
    fcntl(file, FcntlArg::F_SETFL(flags & !OFlag::O_DIRECT)).map(drop)
}

/// Allocates the blocks of a file that is written with O_DIRECT: writes into allocated blocks need no
/// kernel worker, and a full filesystem shows before the first byte.
fn allocate(destination: &OwnedFd, size: u64) -> Result<(), StepError> {
    let length = i64::try_from(size).map_err(|_| Errno::EFBIG).at(Step::Allocate)?;
    match fallocate(destination, FallocateFlags::empty(), 0, length) {
        Ok(()) | Err(Errno::EOPNOTSUPP | Errno::ENOSYS) => Ok(()),
        Err(errno) => {
            let error = StepError::os(Step::Allocate, errno);
            Err(if errno == Errno::EFBIG {
                StepError { kind: FailureKind::Unsupported, ..error }
            } else {
                error
            })
        }
    }
}
