//! `--delete`: removes from the destination what the source has not. Runs after everything is
//! copied, and only when all of the source was seen. It copies nothing.

use std::ffi::{CStr, CString, OsStr};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering::Relaxed;

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, openat};
use nix::sys::stat::{Mode, fstat, fstatat};
use nix::unistd::{UnlinkatFlags, unlinkat};

use super::dir::OPEN_DIRECTORY;
use super::job::Job;
use super::publish::is_directory;
use crate::error::{AtStep, Step, StepError};
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
    let open = |dir: &Path, name: &OsStr| {
        openat(AT_FDCWD, dir, OPEN_DIRECTORY, Mode::empty())
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
    let mut levels = vec![visit(job, root, source, destination, PathBuf::new())];
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
                let other = fstat(&source).is_ok_and(|stat| stat.st_dev != device);
                if !(other && job.options().one_file_system) {
                    levels.push(visit(job, root, source, destination, relative));
                }
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
        // What the filter leaves out was never looked for in the source.
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
        if let Err(error) = remove(job, &level.destination, &name, directory) {
            let path = level.relative.join(OsStr::from_bytes(name.to_bytes()));
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

/// Removes one entry with everything below it.
fn remove(job: &Job<'_>, dir: &OwnedFd, name: &CStr, directory: bool) -> Result<(), StepError> {
    let dry_run = job.options().dry_run;
    let unlink = |dir: &OwnedFd, name: &CStr, flag| {
        job.tally.deleted.fetch_add(1, Relaxed);
        if dry_run { Ok(()) } else { unlinkat(dir, name, flag).at(Step::Delete) }
    };
    if !directory {
        return unlink(dir, name, UnlinkatFlags::NoRemoveDir);
    }
    // Each level holds the open directory, its name, and the subdirectories that are left.
    let mut levels = vec![open_level(dir, name, &unlink)?];
    while let Some((fd, _, subdirectories)) = levels.last_mut() {
        if let Some(name) = subdirectories.pop() {
            let level = open_level(fd, &name, &unlink)?;
            levels.push(level);
        } else if let Some((_, name, _)) = levels.pop() {
            let above = levels.last().map_or(dir, |(fd, _, _)| fd);
            unlink(above, &name, UnlinkatFlags::RemoveDir)?;
        }
    }
    Ok(())
}

type RemovedLevel = (OwnedFd, CString, Vec<CString>);

/// Opens a directory that goes away, and removes everything in it that is no directory.
fn open_level(
    above: &OwnedFd,
    name: &CStr,
    unlink: &dyn Fn(&OwnedFd, &CStr, UnlinkatFlags) -> Result<(), StepError>,
) -> Result<RemovedLevel, StepError> {
    let fd = openat(above, name, OPEN_DIRECTORY, Mode::empty()).at(Step::Delete)?;
    let mut files = Vec::new();
    let mut subdirectories = Vec::new();
    for_each_entry(&fd, |entry| {
        let stat = fstatat(&fd, entry, AtFlags::AT_SYMLINK_NOFOLLOW);
        let list = if stat.is_ok_and(|stat| is_directory(stat.st_mode)) {
            &mut subdirectories
        } else {
            &mut files
        };
        list.push(entry.to_owned());
    })?;
    for file in files {
        unlink(&fd, &file, UnlinkatFlags::NoRemoveDir)?;
    }
    Ok((fd, name.to_owned(), subdirectories))
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
