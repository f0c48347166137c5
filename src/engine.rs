//! The engine: takes a [`Plan`] and does it on its own threads, without async.
//! It never prints and never exits; it returns a [`Report`].

pub(crate) mod attributes;
mod check;
pub(crate) mod count;
mod crew;
mod delete;
pub(crate) mod dir;
mod directory;
pub mod failures;
pub(crate) mod file;
pub(crate) mod filesystem;
mod finish;
mod hard_link;
mod held;
pub(crate) mod inode;
mod job;
mod journal_end;
mod large;
mod layout;
mod links;
mod lustre;
mod observe;
mod parked;
mod placement;
mod publish;
pub(crate) mod queue;
mod resume;
mod sites;
pub(crate) mod sizing;
mod special;
pub(crate) mod tally;
mod up_to_date;
mod walk;
mod worker;
mod xattrs;

use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag, openat};
use nix::sys::stat::Mode;

pub use crate::cancel::Cancel;
use crate::error::{FailureKind, Refusal, Step, StepError, show};
use crate::exit::Outcome;
use crate::journal::Ticket;
use crate::lanes::bottleneck::{Bottleneck, Sums};
use crate::lanes::{Lane, Lanes};
use crate::manifest::Writer;
use crate::options::SyncPolicy;
use crate::plan::{Plan, nearest_existing};
use crate::progress::Progress;
use crate::report::{REPORT_VERSION, Report, Setup};
use crate::sys;
use filesystem::Filesystem;
use job::{Job, Task};
use journal_end::open_journal;
pub(crate) use publish::temporary;
use sizing::Sizing;
use tally::Tally;

/// The caller's handles on a running copy.
#[derive(Debug, Default, Clone)]
pub struct Control {
    /// Live counters.
    pub progress: Arc<Progress>,
    /// The way to stop it.
    pub cancel: Cancel,
    /// The way to limit, pause and measure it.
    pub lanes: Arc<Lanes>,
    /// Where every failed source path is written, NUL-terminated, as it fails.
    pub failed_list: Option<Arc<failures::FailedList>>,
    /// The manifest that the copy writes, if any; the caller finishes it.
    pub manifest: Option<Arc<Writer>>,
    /// The way to the copy's journal; without one, a run that is stopped cannot be gone on with.
    pub journal: Option<Arc<Ticket>>,
    /// Whether the sources are counted ahead, for somebody who wants to know how much is left. It
    /// costs one look at every file and starts after two seconds.
    pub count_ahead: bool,
}

/// Does the plan and says what was done. Failures of items are in the report.
///
/// # Errors
/// A [`Refusal`] when this process lacks what the copy needs (descriptors, the ring that was asked
/// for, memory); nothing has been written then.
pub fn run(plan: &Plan, control: &Control) -> Result<Report, Refusal> {
    let started = Instant::now();
    let (source, destination) = filesystems(plan)?;
    let sizing = Sizing::new(&plan.options, source, destination)?;
    layout::check_explicit(plan, destination)?;
    make_parents(plan)?;
    let lanes = &control.lanes;
    lanes.heed(&control.cancel);
    lanes.set_limits(&plan.options);
    let tally = Tally::default();
    let (journal, mut notes) = open_journal(plan, control)?;
    let job = Job::new(plan, control, &sizing, &tally, journal);
    // The first source is to be the newest task.
    let roots = (0..plan.roots.len()).rev().map(Task::Root).collect();
    let concurrency = crew::work(&job, roots).inspect_err(|_| job.forget_journal())?;
    if let Some(checks) = &job.checks
        && !job.stopped()
    {
        // Much has been written by now: it is too late for a refusal.
        if crew::work(&job, checks.take_rest(&job)).is_err() {
            let unread = StepError::os(Step::ReadBack, Errno::ENOMEM);
            job.fail(plan.roots[0].source.clone(), unread);
        }
    }
    if !job.stopped() && tally.entered.load(Relaxed) != tally.directories.load(Relaxed) {
        // Never seen since the walk counts entries before it hands them out; but attributes that are
        // missing without a word would be the worst that can happen.
        let lost = StepError::found(Step::CreateDirectory, FailureKind::Internal);
        job.fail(plan.roots[0].source.clone(), lost);
    }
    look_for_destinations(plan, &job);
    let mut stopped_by = None;
    let seat = plan.options.delete.then(|| lanes.sit());
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
    drop(seat);
    let sync_started = Instant::now();
    if plan.options.sync != SyncPolicy::None && !plan.options.dry_run && !job.stopped() {
        flush(plan, &job);
    }
    let sync_seconds = sync_started.elapsed().as_secs_f64();
    control.progress.walk_done.store(true, Relaxed);
    let bottleneck = bottleneck(lanes, concurrency.peak, started.elapsed(), sync_seconds);

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
        let full = job.sites.full().filter(|_| error.kind == FailureKind::NoSpace);
        stopped_by = Some(full.map_or_else(
            || why_stopped(plan, path, *error),
            |full| format!("{full} (stopped at {})", show(path)),
        ));
    }
    let unreliable = job.is_unreliable();
    if unreliable {
        stopped_by.get_or_insert_with(|| {
            "what was written may be lost: the destination could not be flushed".to_owned()
        });
        if let Some(list) = &control.failed_list {
            plan.roots.iter().for_each(|root| job.failures.list(&root.source, list));
        }
    }
    let verify = job.checks.as_ref().filter(|checks| checks.reads_back());
    let verify = verify.map(|checks| checks.tally.report(checks.algorithm()));
    let mut errors = job.failures.counts();
    let (mut failures, list_error) = job.failures.take_kept();
    let mut outcome = match control.cancel.outcome() {
        Some(outcome) => outcome,
        None if fatal.is_some() || unreliable => Outcome::Fatal,
        None if !errors.is_empty() || list_error.is_some() => Outcome::Partial,
        None => Outcome::Complete,
    };
    let kept = job.end_journal(outcome);
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
        go_on_with: if kept { "" } else { plan.go_on_with(unreliable) },
        nests: plan.is_exact_by_guess,
        unreliable,
        dry_run: plan.options.dry_run,
        seconds,
        sync_seconds,
        copied,
        resumed: job.resumed(),
        files_skipped: control.progress.files_skipped.load(Relaxed),
        excluded: tally.excluded.load(Relaxed),
        deleted: tally.deleted.load(Relaxed),
        verify,
        bytes_per_second,
        mechanisms: tally.mechanisms(),
        setup: Setup { notes: [sizing.notes.clone(), notes].concat(), ..setup },
        concurrency,
        bottleneck,
        lustre: if source.layouts || destination.layouts { job.lustre_report() } else { None },
        warnings: tally.warnings(),
        errors,
        failures,
    })
}

/// Whether the directories that were copied to are still what their paths lead to.
fn look_for_destinations(plan: &Plan, job: &Job<'_>) {
    if job.stopped() {
        return;
    }
    for (index, made) in job.places() {
        let root = &plan.roots[index];
        let path = root.destination_dir.join(&root.destination_name);
        let moved = StepError::found(Step::OpenDirectory, FailureKind::Moved);
        let error = match nix::sys::stat::stat(&path) {
            Ok(stat) if inode::inode(&stat) == made => continue,
            // Where names are numbered it may have got another one.
            Ok(stat) if stat.st_dev == made.0 && !keeps_numbers(&path) => continue,
            Ok(_) | Err(Errno::ENOENT | Errno::ENOTDIR) => moved,
            Err(errno) => StepError::os(Step::OpenDirectory, errno),
        };
        job.fail_at_destination(root.destination.clone(), error);
    }
}

fn keeps_numbers(path: &Path) -> bool {
    let opened = openat(AT_FDCWD, path, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty());
    opened.and_then(Filesystem::of).is_ok_and(|filesystem| filesystem.keeps_numbers)
}

/// What held the copy up. While everything is flushed at the end, every worker would have waited.
fn bottleneck(lanes: &Lanes, workers: usize, elapsed: Duration, flushing: f64) -> Bottleneck {
    let mut sums = Sums::of(lanes);
    #[allow(clippy::cast_precision_loss)] // a small number
    let waiting = flushing * workers as f64;
    sums.waits[Lane::DestinationWrite as usize] += waiting;
    let seconds = elapsed.saturating_sub(lanes.paused_for()).as_secs_f64();
    Bottleneck::judge(&sums, seconds, workers)
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
fn flush(plan: &Plan, job: &Job<'_>) {
    let Some(root) = plan.roots.first() else { return };
    // Directories and links alone are to be flushed, too.
    if let Ok(fd) = openat(AT_FDCWD, &root.destination_dir, OFlag::O_PATH, Mode::empty())
        && let Ok(device) = sys::device(fd.as_fd())
    {
        job.writes_to(device, fd);
    }
    for device in job.take_written() {
        match device.map(nix::unistd::syncfs) {
            Some(Ok(())) => {}
            Some(Err(errno)) => {
                job.flushing_failed(errno);
            }
            // Write permission without read permission: nothing to name the filesystem by.
            None => nix::unistd::sync(),
        }
    }
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
