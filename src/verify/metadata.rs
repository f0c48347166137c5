//! Compares what `--metadata` asks for: mode, owner, modification time, extended attributes, ACLs,
//! hard links. Content is compared elsewhere.

use std::collections::HashMap;
use std::ffi::CStr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use nix::sys::stat::{FileStat, SFlag};

use super::Kind;
use super::findings::Findings;
use crate::engine::attributes::{Attributes, path_of};
use crate::engine::inode::{Inode, inode};
use crate::engine::tally::Tally;
use crate::options::CopyOptions;
use crate::sys::XattrTarget;

/// What is compared with what, and which inodes belong together.
pub(super) struct Metadata {
    options: CopyOptions,
    tally: Tally,
    /// For each inode of the source with several names, that of the copy.
    linked: Mutex<HashMap<Inode, Inode>>,
}

impl Metadata {
    pub(super) fn new() -> Self {
        Self { options: CopyOptions::default(), tally: Tally::default(), linked: Mutex::default() }
    }

    /// Compares one item of the same type on both sides.
    pub(super) fn compare(
        &self,
        path: &Path,
        (source_dir, source_name, source): (&OwnedFd, &CStr, &FileStat),
        (copy_dir, copy_name, copy): (&OwnedFd, &CStr, &FileStat),
        findings: &Findings,
    ) {
        compare_mode(path, source.st_mode, copy.st_mode, findings);
        compare_owner(path, (source.st_uid, source.st_gid), (copy.st_uid, copy.st_gid), findings);
        let time = |stat: &FileStat| (stat.st_mtime, stat.st_mtime_nsec);
        compare_time(path, time(source), time(copy), findings);
        let attributes = Attributes::new(&self.options, &self.tally);
        let read = |dir: &OwnedFd, name: &CStr| {
            let path = path_of(dir.as_fd(), name);
            attributes.read_xattrs(XattrTarget::Path(&path)).map(Option::unwrap_or_default)
        };
        match (read(source_dir, source_name), read(copy_dir, copy_name)) {
            (Ok(one), Ok(other)) => {
                let names = one.differing(&other);
                if !names.is_empty() {
                    let text = format!("other extended attributes: {}", names.join(", "));
                    findings.add(path, Kind::Xattr, text);
                }
            }
            (Err(error), _) | (_, Err(error)) => findings.unreadable(path, error),
        }
        self.compare_links(path, source, copy, findings);
    }

    fn compare_links(&self, path: &Path, source: &FileStat, copy: &FileStat, findings: &Findings) {
        let directory = SFlag::from_bits_truncate(source.st_mode) & SFlag::S_IFMT == SFlag::S_IFDIR;
        if source.st_nlink < 2 || directory {
            return;
        }
        let mut linked = self.linked.lock().unwrap_or_else(PoisonError::into_inner);
        let first = *linked.entry(inode(source)).or_insert_with(|| inode(copy));
        if first != inode(copy) {
            findings.add(path, Kind::HardLink, "not a hard link to the same file");
        }
    }
}

/// Compares permission bits; those of symbolic links mean nothing.
pub(super) fn compare_mode(path: &Path, source: u32, copy: u32, findings: &Findings) {
    let link = SFlag::from_bits_truncate(copy) & SFlag::S_IFMT == SFlag::S_IFLNK;
    let (source, copy) = (source & 0o7777, copy & 0o7777);
    if source != copy && !link {
        findings.add(path, Kind::Mode, format!("mode {copy:04o} instead of {source:04o}"));
    }
}

/// Compares owner and group.
pub(super) fn compare_owner(
    path: &Path,
    source: (u32, u32),
    copy: (u32, u32),
    findings: &Findings,
) {
    if source != copy {
        let text = format!("owner {}:{} instead of {}:{}", copy.0, copy.1, source.0, source.1);
        findings.add(path, Kind::Owner, text);
    }
}

/// Compares modification times, seconds and nanoseconds.
pub(super) fn compare_time(path: &Path, source: (i64, i64), copy: (i64, i64), findings: &Findings) {
    if source != copy {
        let text = format!(
            "modification time {}.{:09} instead of {}.{:09}",
            copy.0, copy.1, source.0, source.1
        );
        findings.add(path, Kind::Time, text);
    }
}
