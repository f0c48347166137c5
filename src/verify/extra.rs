//! Items of a directory that no line of a manifest names. It compares nothing.

use std::collections::HashSet;
use std::ffi::{CStr, CString, OsStr};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::fcntl::{AtFlags, openat};
use nix::sys::stat::{Mode, fstatat};

use super::findings::Findings;
use super::{Control, Kind, Request};
use crate::engine::dir::OPEN_DIRECTORY;
use crate::engine::inode::is_directory;
use crate::error::{AtStep, Step};
use crate::filter::Filter;
use crate::journal::is_journal_name;
use crate::sys;

/// 128 bits stand for a path: a million paths are 16 MiB, and no two will meet.
pub(super) fn key(path: &Path) -> u128 {
    xxhash_rust::xxh3::xxh3_128(path.as_os_str().as_bytes())
}

/// Looks for items that no line names and no rule leaves out. A directory that no line names is told once, not entered.
pub(super) fn find(
    root: &OwnedFd,
    named: &HashSet<u128>,
    (request, control): (&Request, &Control),
    findings: &Findings,
) {
    let open = |dir: &OwnedFd, name: &CStr| {
        openat(dir, name, OPEN_DIRECTORY, Mode::empty()).at(Step::OpenDirectory)
    };
    let top = match open(root, c".") {
        Ok(top) => top,
        Err(error) => return findings.unreadable(Path::new("."), error),
    };
    let mut levels = vec![(top, PathBuf::new(), None::<Vec<CString>>)];
    while let Some((dir, path, subdirectories)) = levels.last_mut() {
        if control.cancel.outcome().is_some() {
            return;
        }
        let Some(waiting) = subdirectories else {
            *subdirectories = Some(visit(dir, path, named, &request.filter, findings));
            continue;
        };
        let Some(name) = waiting.pop() else {
            levels.pop();
            continue;
        };
        let below = path.join(OsStr::from_bytes(name.to_bytes()));
        match open(dir, &name) {
            Ok(dir) => levels.push((dir, below, None)),
            Err(error) => findings.unreadable(&below, error),
        }
    }
}

/// Looks at the entries of one directory; returns the subdirectories that have lines.
fn visit(
    dir: &OwnedFd,
    path: &Path,
    named: &HashSet<u128>,
    filter: &Filter,
    findings: &Findings,
) -> Vec<CString> {
    let mut subdirectories = Vec::new();
    let mut buffer = vec![0; 32 << 10];
    loop {
        let filled = match sys::read_entries(dir.as_fd(), &mut buffer).at(Step::ReadDirectory) {
            Ok(0) => return subdirectories,
            Ok(filled) => filled,
            Err(error) => {
                findings.unreadable(path, error);
                return subdirectories;
            }
        };
        for entry in sys::entries(&buffer[..filled]) {
            let below = path.join(OsStr::from_bytes(entry.name.to_bytes()));
            let directory = || {
                let stat = fstatat(dir, entry.name, AtFlags::AT_SYMLINK_NOFOLLOW);
                stat.is_ok_and(|stat| is_directory(stat.st_mode))
            };
            if !named.contains(&key(&below)) {
                // The journal of a copy that is not complete lies in it, and is no part of it.
                if is_journal_name(entry.name.to_bytes())
                    || (!filter.is_empty() && !filter.admits(&below, directory()))
                {
                    continue;
                }
                findings.add(&below, Kind::Extra, "the manifest does not name it");
            } else if (entry.kind == libc::DT_DIR
                || (entry.kind == libc::DT_UNKNOWN && directory()))
                && filter.admits(&below, true)
            {
                subdirectories.push(entry.name.to_owned());
            }
        }
    }
}
