//! Counts ahead of the copy, so that people see how much is left: the copy itself looks at a file
//! only when its turn comes. It starts late, so that short copies do not pay for it, and its result
//! is shown, never relied upon.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, OFlag, openat};
use nix::sys::stat::{Mode, fstatat};

use super::dir::OPEN_DIRECTORY;
use super::inode::{is_directory, is_regular};
use crate::plan::Plan;
use crate::progress::Progress;
use crate::sys;

/// A copy that is over by then needs no estimate.
const START_AFTER: Duration = Duration::from_secs(2);

/// Counts files and bytes of all sources, unless `over` is raised meanwhile (with an unpark).
pub(crate) fn count_ahead(plan: &Plan, progress: &Progress, over: &AtomicBool) {
    std::thread::park_timeout(START_AFTER);
    // With filters and lists the walk itself would have to be repeated.
    if over.load(Relaxed) || plan.options.selection.is_some() || !plan.options.filter.is_empty() {
        return;
    }
    let mut totals = Totals::default();
    for root in &plan.roots {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let counted = openat(AT_FDCWD, &root.source_dir, flags, Mode::empty()).and_then(|dir| {
            let name =
                CString::new(root.source_name.as_encoded_bytes()).map_err(|_| Errno::EINVAL)?;
            totals.add(&dir, name, over)
        });
        if counted.is_err() {
            return; // an estimate that is wrong is worse than none
        }
    }
    totals.tell(progress);
}

/// Counts the files below an item, each name of an inode by itself, unless `over` is raised meanwhile
/// (with an unpark).
pub(crate) fn count_names_ahead(
    above: &OwnedFd,
    name: &CStr,
    progress: &Progress,
    over: &AtomicBool,
) {
    std::thread::park_timeout(START_AFTER);
    let mut totals = Totals { each_name: true, ..Totals::default() };
    if !over.load(Relaxed) && totals.add(above, name.to_owned(), over).is_ok() {
        totals.tell(progress);
    }
}

#[derive(Default)]
struct Totals {
    /// Further names of an inode count like the first.
    each_name: bool,
    files: u64,
    bytes: u64,
}

impl Totals {
    /// Adds one item with everything below it. Directories that cannot be opened are the copy's to
    /// report.
    fn add(&mut self, above: &OwnedFd, name: CString, over: &AtomicBool) -> Result<(), Errno> {
        let mut levels: Vec<(OwnedFd, Vec<CString>)> = Vec::new();
        let mut next = self.look(above, name)?;
        loop {
            if over.load(Relaxed) {
                return Err(Errno::ECANCELED);
            }
            if let Some(name) = next.take() {
                let dir = levels.last().map_or(above, |(dir, _)| dir);
                match openat(dir, name.as_c_str(), OPEN_DIRECTORY, Mode::empty()) {
                    Ok(dir) => {
                        let subdirectories = self.read(&dir)?;
                        levels.push((dir, subdirectories));
                    }
                    Err(Errno::EMFILE | Errno::ENFILE) => return Err(Errno::EMFILE),
                    Err(_) => {}
                }
            }
            match levels.last_mut() {
                None => return Ok(()),
                Some((_, subdirectories)) => match subdirectories.pop() {
                    Some(name) => next = Some(name),
                    None => drop(levels.pop()),
                },
            }
        }
    }

    /// Counts the files of a directory and returns its subdirectories.
    fn read(&mut self, dir: &OwnedFd) -> Result<Vec<CString>, Errno> {
        let mut subdirectories = Vec::new();
        let mut buffer = vec![0; 32 << 10];
        loop {
            let filled = sys::read_entries(dir.as_fd(), &mut buffer)?;
            if filled == 0 {
                return Ok(subdirectories);
            }
            for entry in sys::entries(&buffer[..filled]) {
                match entry.kind {
                    libc::DT_DIR => subdirectories.push(entry.name.to_owned()),
                    libc::DT_REG | libc::DT_UNKNOWN => {
                        subdirectories.extend(self.look(dir, entry.name.to_owned()).ok().flatten());
                    }
                    _ => {}
                }
            }
        }
    }

    /// Counts one item, unless it is a directory, whose name is returned.
    fn look(&mut self, dir: &OwnedFd, name: CString) -> Result<Option<CString>, Errno> {
        let stat = fstatat(dir, name.as_c_str(), AtFlags::AT_SYMLINK_NOFOLLOW)?;
        if is_directory(stat.st_mode) {
            return Ok(Some(name));
        }
        if is_regular(stat.st_mode) {
            self.files += 1;
            // Further names of an inode are linked, not copied.
            let names = if self.each_name { 1 } else { stat.st_nlink.max(1) };
            self.bytes += stat.st_size.cast_unsigned() / names;
        }
        Ok(None)
    }

    fn tell(&self, progress: &Progress) {
        progress.total_files.store(self.files, Relaxed);
        progress.total_bytes.store(self.bytes, Relaxed);
        progress.totals_known.store(true, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::CopyRequest;

    #[test]
    fn a_tree_is_counted_once_with_its_files_and_bytes() {
        let dir = tempfile::tempdir().unwrap();
        let source = dir.path().join("s");
        std::fs::create_dir_all(source.join("a/b/c")).unwrap();
        for (name, size) in [("x", 10), ("a/y", 20), ("a/b/c/z", 30)] {
            std::fs::write(source.join(name), vec![0; size]).unwrap();
        }
        std::os::unix::fs::symlink("x", source.join("link")).unwrap();
        let plan = Plan::new(&CopyRequest::new(vec![source], dir.path().join("d"))).unwrap();
        let progress = Progress::default();
        std::thread::current().unpark(); // the test need not wait
        count_ahead(&plan, &progress, &AtomicBool::new(false));
        let seen = progress.snapshot();
        assert_eq!((seen.files_found, seen.bytes_found, seen.walk_done), (3, 60, true));
    }
}
