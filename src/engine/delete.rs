//! `--delete`: removes from the destination what the source has not. Runs after everything is
//! copied, and only when all of the source was seen. It copies nothing, and removes nothing across a mount point:
//! what is mounted there has other users.

use std::ffi::{CStr, CString, OsStr};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering::Relaxed;

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, OFlag, openat};
use nix::sys::stat::{Mode, fstat, fstatat};
use nix::unistd::{UnlinkatFlags, unlinkat};

use super::dir::OPEN_DIRECTORY;
use super::inode::{inode, is_directory};
use super::job::Job;
use crate::error::{AtStep, FailureKind, Step, StepError};
use crate::journal::is_journal_name;
use crate::lanes::{self, Lane};
use crate::plan::Root;
use crate::sys;

/// A directory that both sides have, while its subdirectories are being visited.
struct Level {
    source: OwnedFd,
    destination: OwnedFd,
    relative: PathBuf,
    /// Subdirectories of both sides that are still to be visited.
    subdirectories: Vec<CString>,
}

/// Removes what is extraneous below one root.
pub(crate) fn delete_extraneous(job: &Job<'_>, root: &Root) {
    // The directory that a root hangs in is what the user named: a link to one is followed.
    const ANCHOR: OFlag = OFlag::O_PATH.union(OFlag::O_DIRECTORY).union(OFlag::O_CLOEXEC);
    let open = |dir: &Path, name: &OsStr| {
        openat(AT_FDCWD, dir, ANCHOR, Mode::empty())
            .and_then(|dir| openat(dir, name, OPEN_DIRECTORY, Mode::empty()))
    };
    let source = match open(&root.source_dir, &root.source_name) {
        Ok(fd) => fd,
        Err(errno) => {
            return job.fail_at_destination(
                root.source.clone(),
                StepError::os(Step::OpenDirectory, errno),
            );
        }
    };
    let destination = match open(&root.destination_dir, &root.destination_name) {
        Ok(fd) => fd,
        Err(Errno::ENOENT) if job.options().dry_run => return,
        Err(errno) => {
            return job.fail_at_destination(
                root.destination.clone(),
                StepError::os(Step::OpenDirectory, errno),
            );
        }
    };
    let device = fstat(&source).map_or(0, |stat| stat.st_dev);
    let mount = match sys::mount(destination.as_fd()) {
        Ok(mount) => mount,
        Err(errno) => {
            let error = StepError::os(Step::OpenDirectory, errno);
            return job.fail_at_destination(root.destination.clone(), error);
        }
    };
    // With another directory under the source's name (unmounted meanwhile, say) everything at the
    // destination would be extraneous.
    let same = fstat(&source)
        .and_then(|source| Ok(job.is_root(inode(&source), inode(&fstat(&destination)?))));
    if !same.unwrap_or(false) {
        let error = StepError::found(Step::Delete, FailureKind::SourceChanged);
        return job.fail(root.destination.clone(), error);
    }
    let mut levels = vec![visit(job, root, mount, source, destination, PathBuf::new())];
    while let Some(level) = levels.last_mut() {
        if job.stopped() {
            return;
        }
        let Some(name) = level.subdirectories.pop() else {
            levels.pop();
            continue;
        };
        let relative = level.relative.join(OsStr::from_bytes(name.to_bytes()));
        let below = |above: &OwnedFd| openat(above, name.as_c_str(), OPEN_DIRECTORY, Mode::empty());
        match (below(&level.source), below(&level.destination)) {
            (Ok(source), Ok(destination)) => {
                if let Err(error) = refuse_source(job, &destination) {
                    job.fail_at_destination(root.destination.join(relative), error);
                    continue;
                }
                let other = fstat(&source).is_ok_and(|stat| stat.st_dev != device);
                let here = sys::mount(destination.as_fd()).unwrap_or(u64::MAX); // no mount's number
                let mounted = here != mount;
                if (other || mounted) && job.options().one_file_system {
                    continue;
                }
                // A directory below the source could be bound there.
                let device_there = sys::device(destination.as_fd());
                if mounted && device_there.is_ok_and(|device| job.has_source_on(device)) {
                    let error = StepError::found(Step::Delete, FailureKind::IntoItself);
                    job.fail_at_destination(root.destination.join(relative), error);
                    continue;
                }
                // Both sides have it, as a whole: what is mounted there is part of the copy.
                levels.push(visit(job, root, here, source, destination, relative));
            }
            (Err(errno), _) | (_, Err(errno)) => {
                let error = StepError::os(Step::OpenDirectory, errno);
                job.fail_at_destination(root.destination.join(relative), error);
            }
        }
    }
}

/// Removes the extraneous entries of one directory and notes its subdirectories.
fn visit(
    job: &Job<'_>,
    root: &Root,
    mount: u64,
    source: OwnedFd,
    destination: OwnedFd,
    relative: PathBuf,
) -> Level {
    let mut level = Level { source, destination, relative, subdirectories: Vec::new() };
    let before = job.tally.deleted.load(Relaxed);
    let mut extraneous = Vec::new();
    let read = for_each_entry(&level.destination, |name| {
        let path = level.relative.join(OsStr::from_bytes(name.to_bytes()));
        let look = |dir: &OwnedFd| fstatat(dir, name, AtFlags::AT_SYMLINK_NOFOLLOW);
        let directory = look(&level.destination).is_ok_and(|stat| is_directory(stat.st_mode));
        // What the filter leaves out was never looked for in the source; journals go with their copies.
        if is_journal_name(name.to_bytes()) && !directory {
            return;
        }
        if !job.options().filter.admits(&path, directory) {
            return;
        }
        match look(&level.source) {
            Ok(stat) if directory && is_directory(stat.st_mode) => {
                level.subdirectories.push(name.to_owned());
            }
            Ok(_) => {}
            Err(Errno::ENOENT) => extraneous.push((name.to_owned(), directory)),
            Err(errno) => {
                job.fail_at_destination(root.source.join(path), StepError::os(Step::Delete, errno))
            }
        }
    });
    if let Err(error) = read {
        job.fail_at_destination(root.destination.join(&level.relative), error);
    }
    for (name, directory) in extraneous {
        let path = level.relative.join(OsStr::from_bytes(name.to_bytes()));
        if let Err(error) = remove(job, mount, &level.destination, &name, &path, directory) {
            job.fail_at_destination(root.destination.join(path), error);
        }
    }
    if job.tally.deleted.load(Relaxed) > before && !job.options().dry_run {
        // Removing entries moved the time that the copy had set.
        let restored = fstat(&level.source)
            .at(Step::Stat)
            .and_then(|stat| job.attributes.set_times(level.destination.as_fd(), &stat));
        if let Err(error) = restored {
            job.fail_at_destination(root.destination.join(&level.relative), error);
        }
    }
    level
}

/// Removes one entry with everything below it that the filter does not protect.
fn remove(
    job: &Job<'_>,
    mount: u64,
    dir: &OwnedFd,
    name: &CStr,
    relative: &Path,
    directory: bool,
) -> Result<(), StepError> {
    if !directory {
        return unlink(job, dir, name, UnlinkatFlags::NoRemoveDir);
    }
    let mut levels = vec![open_level(job, mount, dir, name, relative.to_owned())?];
    while let Some(level) = levels.last_mut() {
        if let Some(name) = level.subdirectories.pop() {
            let relative = level.relative.join(OsStr::from_bytes(name.to_bytes()));
            let level = open_level(job, mount, &level.fd, &name, relative)?;
            levels.push(level);
        } else if let Some(done) = levels.pop() {
            match levels.last_mut() {
                Some(above) if done.keeps => above.keeps = true,
                None if done.keeps => {}
                above => {
                    let above = above.map_or(dir, |level| &level.fd);
                    unlink(job, above, &done.name, UnlinkatFlags::RemoveDir)?;
                }
            }
        }
    }
    Ok(())
}

/// Removes one name, unless this is a dry run, and counts it.
fn unlink(job: &Job<'_>, dir: &OwnedFd, name: &CStr, flag: UnlinkatFlags) -> Result<(), StepError> {
    if !job.options().dry_run {
        lanes::begin_item();
        let _pass = lanes::enter(Lane::DestinationCreate);
        unlinkat(dir, name, flag).at(Step::Delete)?;
    }
    job.tally.deleted.fetch_add(1, Relaxed);
    Ok(())
}

/// A directory that goes away.
struct RemovedLevel {
    fd: OwnedFd,
    name: CString,
    relative: PathBuf,
    /// Those that are still to be removed.
    subdirectories: Vec<CString>,
    /// Something in it is protected by the filter, and so it stays, too.
    keeps: bool,
}

/// Refuses to delete a source of this copy, or anything in it. Seen beforehand, unless a bind mount hides it or
/// something was moved since.
fn refuse_source(job: &Job<'_>, directory: &OwnedFd) -> Result<(), StepError> {
    let stat = fstat(directory).at(Step::Delete)?;
    if job.is_source(inode(&stat)) {
        return Err(StepError::found(Step::Delete, FailureKind::IntoItself));
    }
    Ok(())
}

/// Opens a directory that goes away, and removes everything in it that is no directory.
fn open_level(
    job: &Job<'_>,
    mount: u64,
    above: &OwnedFd,
    name: &CStr,
    relative: PathBuf,
) -> Result<RemovedLevel, StepError> {
    let fd = openat(above, name, OPEN_DIRECTORY, Mode::empty()).at(Step::Delete)?;
    refuse_source(job, &fd)?;
    if sys::mount(fd.as_fd()) != Ok(mount) {
        // As the system answers for the mount point itself, but before what is in it is gone.
        return Err(StepError::os(Step::Delete, Errno::EBUSY));
    }
    let mut files = Vec::new();
    let mut subdirectories = Vec::new();
    let mut keeps = false;
    for_each_entry(&fd, |entry| {
        let stat = fstatat(&fd, entry, AtFlags::AT_SYMLINK_NOFOLLOW);
        let directory = stat.is_ok_and(|stat| is_directory(stat.st_mode));
        let path = relative.join(OsStr::from_bytes(entry.to_bytes()));
        if !job.options().filter.admits(&path, directory) {
            keeps = true;
        } else if directory {
            subdirectories.push(entry.to_owned());
        } else {
            files.push(entry.to_owned());
        }
    })?;
    for file in files {
        unlink(job, &fd, &file, UnlinkatFlags::NoRemoveDir)?;
    }
    Ok(RemovedLevel { fd, name: name.to_owned(), relative, subdirectories, keeps })
}

/// Calls `each` with every name in a directory.
fn for_each_entry(dir: &OwnedFd, mut each: impl FnMut(&CStr)) -> Result<(), StepError> {
    let mut buffer = vec![0; 32 << 10];
    loop {
        let filled = sys::read_entries(dir.as_fd(), &mut buffer).at(Step::ReadDirectory)?;
        if filled == 0 {
            return Ok(());
        }
        for entry in sys::entries(&buffer[..filled]) {
            each(entry.name);
        }
    }
}
