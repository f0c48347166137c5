//! The engine: takes a [`Plan`] and does it on its own threads, without async.
//! It never prints and never exits; it returns a [`Report`].

mod attributes;
mod count;
mod delete;
mod dir;
mod directory;
pub mod failures;
mod file;
mod filesystem;
mod finish;
mod hard_link;
mod inode;
mod job;
mod journal_end;
mod large;
mod links;
mod publish;
mod queue;
mod resume;
mod sizing;
mod special;
mod tally;
mod walk;
mod worker;
mod xattrs;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering::Relaxed};
use std::time::Instant;

use nix::fcntl::{AT_FDCWD, OFlag, openat};
use nix::sys::stat::Mode;

use crate::error::{FailureKind, Refusal, Step, StepError, show};
use crate::exit::Outcome;
use crate::journal::Ticket;
use crate::options::SyncPolicy;
use crate::plan::{Plan, nearest_existing};
use crate::progress::Progress;
use crate::report::{REPORT_VERSION, Report, Setup};
use filesystem::Filesystem;
use job::{Job, Task};
use journal_end::open_journal;
use queue::Queue;
use sizing::Sizing;
use tally::Tally;
use worker::Worker;

/// Asks a running copy to stop. Shared with a signal handler, so it is one atomic number.
#[derive(Debug, Default, Clone)]
pub struct Cancel(Arc<AtomicI32>);

impl Cancel {
    /// Stops the copy as the given signal would (SIGINT = 2, SIGTERM = 15).
    pub fn raise(&self, signal: i32) {
        self.0.store(signal, Relaxed);
    }

    /// How the copy must end, when it was asked to stop.
    #[must_use]
    pub fn outcome(&self) -> Option<Outcome> {
        match self.0.load(Relaxed) {
            0 => None,
            libc::SIGINT => Some(Outcome::Interrupted),
            _ => Some(Outcome::Terminated),
        }
    }
}

/// The caller's handles on a running copy.
#[derive(Debug, Default, Clone)]
pub struct Control {
    /// Live counters.
    pub progress: Arc<Progress>,
    /// The way to stop it.
    pub cancel: Cancel,
    /// Where every failed source path is written, NUL-terminated, as it fails.
    pub failed_list: Option<Arc<failures::FailedList>>,
    /// The way to the copy's journal; without one, a run that is stopped cannot be gone on with.
    pub journal: Option<Arc<Ticket>>,
    /// Whether the sources are counted ahead, for somebody who wants to know how much is left. It
    /// costs one look at every file and starts after two seconds.
    pub count_ahead: bool,
}

/// Stack of a worker thread. The walk does not recurse, so the default would do; stated because a
/// retry chain of linked names calls itself.
const STACK_BYTES: usize = 4 << 20;

/// Does the plan and says what was done. Failures of items are in the report.
///
/// # Errors
/// A [`Refusal`] when this process lacks what the copy needs (descriptors, the ring that was asked
/// for, memory); nothing has been written then.
pub fn run(plan: &Plan, control: &Control) -> Result<Report, Refusal> {
    let started = Instant::now();
    let (source, destination) = filesystems(plan)?;
    let sizing = Sizing::new(&plan.options, source, destination)?;
    make_parents(plan)?;
    let tally = Tally::default();
    let (journal, mut notes) = open_journal(plan, control)?;
    let job = Job::new(plan, control, &sizing, &tally, journal);
    work(&job).inspect_err(|_| job.forget_journal())?;
    if !job.stopped() && tally.entered.load(Relaxed) != tally.directories.load(Relaxed) {
        // Never seen since the walk counts entries before it hands them out; but attributes that are
        // missing without a word would be the worst that can happen.
        let lost = StepError::found(Step::CreateDirectory, FailureKind::Internal);
        job.fail(plan.roots[0].source.clone(), lost);
    }
    let mut stopped_by = None;
    if plan.options.delete && !job.stopped() {
        if job.walk_is_complete() {
            for root in plan.roots.iter().filter(|root| root.is_directory) {
                delete::delete_extraneous(&job, root);
            }
        } else {
            stopped_by =
                Some("nothing was deleted: part of the source could not be read".to_owned());
        }
    }
    let sync_started = Instant::now();
    let mut flushed = true;
    if plan.options.sync != SyncPolicy::None && !plan.options.dry_run && !job.stopped() {
        flushed = flush(plan, &job);
    }
    let sync_seconds = sync_started.elapsed().as_secs_f64();
    control.progress.walk_done.store(true, Relaxed);

    let setup = Setup {
        backend: sizing.backend_word(plan.options.backend),
        threads: sizing.threads,
        depth: sizing.depth,
        source_filesystem: source.word().to_owned(),
        destination_filesystem: destination.word().to_owned(),
        notes: Vec::new(),
    };
    // Deleting and flushing can fail for good, too.
    let fatal = job.fatal();
    if let Some((path, error)) = &fatal {
        stopped_by = Some(why_stopped(plan, path, *error));
    }
    let mut errors = job.failures.counts();
    let (mut failures, list_error) = job.failures.take_kept();
    let mut outcome = match control.cancel.outcome() {
        Some(outcome) => outcome,
        None if fatal.is_some() => Outcome::Fatal,
        None if !errors.is_empty() || list_error.is_some() => Outcome::Partial,
        None => Outcome::Complete,
    };
    let kept = job.end_journal(outcome, flushed);
    notes.extend(job.take_notes());
    if job.failures.counts() != errors {
        // Ending the journal can fail, too.
        errors = job.failures.counts();
        failures.extend(job.failures.take_kept().0);
        outcome = outcome.worst(Outcome::Partial);
    }
    let seconds = started.elapsed().as_secs_f64();
    let copied = tally.copied();
    #[allow(clippy::cast_precision_loss)] // a rate for people; exact below 2^53 bytes anyway
    let bytes_per_second = if seconds > 0.0 { copied.bytes as f64 / seconds } else { 0.0 };
    Ok(Report {
        version: REPORT_VERSION,
        outcome,
        exit_code: outcome.code(),
        stopped_by: stopped_by.or(list_error),
        go_on_with: if kept { "" } else { plan.go_on_with },
        dry_run: plan.options.dry_run,
        seconds,
        sync_seconds,
        copied,
        resumed: job.resumed(),
        files_skipped: control.progress.files_skipped.load(Relaxed),
        excluded: tally.excluded.load(Relaxed),
        deleted: tally.deleted.load(Relaxed),
        bytes_per_second,
        mechanisms: tally.mechanisms(),
        setup: Setup { notes: [sizing.notes.clone(), notes].concat(), ..setup },
        warnings: tally.warnings(),
        errors,
        failures,
    })
}

/// Sends the other workers home when this one panics, so that the panic ends the process instead of
/// leaving it waiting.
struct Alarm<'q>(&'q Queue<Task>);

impl Drop for Alarm<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.abandon();
        }
    }
}

/// Runs the workers until everything is done or dropped.
fn work(job: &Job<'_>) -> Result<(), Refusal> {
    let (queue, mut deques) = Queue::new(job.sizing.threads);
    queue.start(&deques[0], (0..job.plan.roots.len()).rev().map(Task::Root));
    job.walk_begins(job.plan.roots.len());
    let no_memory = |errno: nix::errno::Errno| {
        Refusal::Request(format!(
            "no memory for the buffers of {} threads: {errno}",
            job.sizing.threads
        ))
    };
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let counter = job.control.count_ahead.then(|| {
            let over = &over;
            scope.spawn(move || count::count_ahead(job.plan, &job.control.progress, over))
        });
        let handles: Vec<_> = deques
            .drain(..)
            .enumerate()
            .map(|(index, own)| {
                let queue = &queue;
                std::thread::Builder::new()
                    .name(format!("copy-{index}"))
                    .stack_size(STACK_BYTES)
                    .spawn_scoped(scope, move || {
                        let _alarm = Alarm(queue);
                        // A ring belongs to the thread that made it.
                        Worker::new(job, queue, own, index).map(|mut worker| worker.run())
                    })
            })
            .collect();
        let mut first_error = None;
        let mut alive = 0;
        for handle in handles {
            let result = match handle {
                Ok(handle) => {
                    handle.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
                }
                Err(error) => Err(error
                    .raw_os_error()
                    .map_or(nix::errno::Errno::EAGAIN, nix::errno::Errno::from_raw)),
            };
            match result {
                Ok(()) => alive += 1,
                Err(errno) => first_error = first_error.or(Some(errno)),
            }
        }
        over.store(true, Relaxed);
        if let Some(counter) = counter {
            counter.thread().unpark();
        }
        // One worker is enough: it has stolen everything from those that could not start.
        match first_error {
            Some(errno) if alive == 0 => Err(no_memory(errno)),
            _ => Ok(()),
        }
    })
}

/// The filesystems of the first source and of the destination, for sizing.
fn filesystems(plan: &Plan) -> Result<(Filesystem, Filesystem), Refusal> {
    let of = |path: &Path| {
        let flags = OFlag::O_PATH | OFlag::O_CLOEXEC;
        openat(AT_FDCWD, path, flags, Mode::empty())
            .and_then(Filesystem::of)
            .map_err(|errno| Refusal::system(path, "look at the filesystem", errno))
    };
    let Some(root) = plan.roots.first() else {
        return Err(Refusal::Request("nothing to copy: no source was given".to_owned()));
    };
    let destination = nearest_existing(&root.destination_dir);
    Ok((of(&root.source_dir)?, of(destination)?))
}

/// Makes the directories that the destinations lie in, when that was asked for.
fn make_parents(plan: &Plan) -> Result<(), Refusal> {
    if !plan.parents || plan.options.dry_run {
        return Ok(());
    }
    plan.roots.iter().try_for_each(|root| {
        std::fs::create_dir_all(&root.destination_dir).map_err(|source| Refusal::System {
            path: root.destination_dir.clone(),
            action: "make the directory",
            source,
        })
    })
}

/// Brings everything written to stable storage; late errors of write-back appear here, and only in
/// syncfs(2), filesystem by filesystem: sync(2) tells nothing. Returns whether no error appeared.
fn flush(plan: &Plan, job: &Job<'_>) -> bool {
    let mut well = true;
    let Some(root) = plan.roots.first() else { return well };
    // Directories and links alone are to be flushed, too.
    if let Ok(fd) = openat(AT_FDCWD, &root.destination_dir, OFlag::O_PATH, Mode::empty())
        && let Ok(stat) = nix::sys::stat::fstat(&fd)
    {
        job.writes_to(stat.st_dev, fd);
    }
    for device in job.take_written() {
        match device.map(nix::unistd::syncfs) {
            Some(Ok(())) => {}
            Some(Err(errno)) => {
                well = false;
                job.fail_at_destination(root.destination.clone(), StepError::os(Step::Sync, errno));
            }
            // Write permission without read permission: nothing to name the filesystem by.
            None => nix::unistd::sync(),
        }
    }
    well
}

/// The sentence for a copy that stopped early: what is full, and what is left of the other thing.
fn why_stopped(plan: &Plan, path: &Path, error: StepError) -> String {
    let at = show(path);
    let space =
        plan.roots.first().and_then(|root| nix::sys::statvfs::statvfs(&root.destination_dir).ok());
    match (error.kind, space) {
        (FailureKind::NoSpace, Some(space))
            if space.files() > 0 && space.files_available() == 0 =>
        {
            format!("the destination has no free inodes (stopped at {at})")
        }
        (FailureKind::NoSpace, Some(space)) => format!(
            "no space left at the destination: {} KiB free (stopped at {at})",
            space.blocks_available().saturating_mul(space.fragment_size()) / 1024
        ),
        (FailureKind::Quota, _) => {
            format!("the quota at the destination is used up (stopped at {at})")
        }
        (FailureKind::ReadOnly, _) => {
            format!("the destination has become read-only (stopped at {at})")
        }
        (FailureKind::FilesystemGone, _) => {
            format!("a filesystem went away (stopped at {at}: {error})")
        }
        _ => format!("{error} (at {at})"),
    }
}
