//! Tells a directory from a later one that has its path, and may have its inode number: that of a
//! removed directory is given to the next one. It decides nothing.

use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use nix::errno::Errno;
use xxhash_rust::xxh3::{Xxh3, xxh3_64};

use crate::sys;

/// What is known of a directory. Devices are left out: they have other numbers after a restart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Identity {
    /// Inode number; 0 while the directory is not known.
    pub(super) inode: u64,
    /// A hash of the time of birth; 0 where the filesystem, or this kernel's view of it, has none.
    pub(super) birth: u64,
}

impl Identity {
    /// An open directory; its path alone may be open (`O_PATH`).
    ///
    /// # Errors
    /// The errno of statx.
    pub(crate) fn of(directory: impl AsFd) -> Result<Self, Errno> {
        let [inode, seconds, nanos] = sys::birth(directory.as_fd())?;
        Ok(Self { inode, birth: birth_hash(seconds, nanos) })
    }

    /// What is at a path, behind symbolic links if it is to `follow` them; `None` where there is no
    /// directory.
    pub(super) fn at(path: &Path, follow: bool) -> Option<Self> {
        let mut flags = libc::O_PATH | libc::O_DIRECTORY | libc::O_CLOEXEC;
        if !follow {
            flags |= libc::O_NOFOLLOW;
        }
        let found = File::options().read(true).custom_flags(flags).open(path).ok()?;
        Self::of(found).ok()
    }

    /// Whether both can be the same directory. A time of birth that one of them does not know says
    /// nothing: nodes with different kernels see the same filesystem.
    pub(super) fn may_be(self, other: Self) -> bool {
        self.inode == other.inode && may_be_born(self.birth, other.birth)
    }

    /// The two numbers for several directories together, in their order; something that is no directory
    /// counts as nothing. The birth is known when all are.
    pub(super) fn of_all(all: impl IntoIterator<Item = Option<Self>>) -> Self {
        let (mut inodes, mut births) = (Xxh3::new(), Xxh3::new());
        let mut known = true;
        for identity in all {
            let found = identity.unwrap_or_default();
            inodes.update(&found.inode.to_le_bytes());
            births.update(&found.birth.to_le_bytes());
            known &= identity.is_none() || found.birth != 0;
        }
        let birth = if known { births.digest().max(1) } else { 0 };
        Self { inode: inodes.digest(), birth }
    }
}

fn may_be_born(one: u64, other: u64) -> bool {
    one == 0 || other == 0 || one == other
}

/// Zero stands for an unknown time.
fn birth_hash(seconds: u64, nanos: u64) -> u64 {
    if (seconds, nanos) == (0, 0) {
        return 0;
    }
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&seconds.to_le_bytes());
    bytes[8..].copy_from_slice(&nanos.to_le_bytes());
    xxh3_64(&bytes).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn born(inode: u64, nanos: u64) -> Identity {
        Identity { inode, birth: birth_hash(0, nanos) }
    }

    #[test]
    fn a_later_directory_with_the_same_inode_number_is_another_one() {
        assert!(born(7, 1).may_be(born(7, 1)));
        assert!(!born(7, 1).may_be(born(7, 2)));
        assert!(!born(7, 1).may_be(born(8, 1)));
        // Where no time is known there is only the number.
        assert!(born(7, 0).may_be(born(7, 2)) && born(7, 1).may_be(born(7, 0)));
    }

    #[test]
    fn several_directories_are_told_apart_by_any_of_them() {
        let all = |them: [Option<Identity>; 2]| Identity::of_all(them);
        let both = all([Some(born(7, 1)), Some(born(8, 2))]);
        assert!(both.may_be(all([Some(born(7, 1)), Some(born(8, 2))])));
        assert!(!both.may_be(all([Some(born(7, 1)), Some(born(8, 3))])));
        assert!(!both.may_be(all([Some(born(8, 2)), Some(born(7, 1))])));
        assert!(!both.may_be(all([Some(born(7, 1)), None])));
        // A file has no part in it, and does not hide the others.
        let one = all([Some(born(7, 1)), None]);
        assert!(one.birth != 0 && !one.may_be(all([Some(born(7, 2)), None])));
        assert_eq!(all([Some(born(7, 0)), Some(born(8, 2))]).birth, 0);
    }

    #[test]
    fn what_is_found_at_a_path_is_the_directory_behind_it() {
        let dir = tempfile::tempdir().expect("a directory");
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(dir.path(), &link).expect("a link");
        let own = Identity::at(dir.path(), false).expect("a directory");
        assert_eq!(Identity::at(&link, true), Some(own));
        assert_eq!(Identity::at(&link, false), None);
        assert_eq!(Identity::at(&dir.path().join("nothing"), true), None);
    }
}
