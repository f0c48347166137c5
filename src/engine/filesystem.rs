//! What kind of filesystem a file lies on, and what is known to be worth trying there. Only a first
//! guess: every fast path is still tried before it is believed.

use std::os::fd::AsFd;

use nix::errno::Errno;

use crate::lustre::told;

/// A filesystem type, by the magic number of statfs(2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Filesystem {
    word: &'static str,
    /// Files are memory: nothing to wait for, nothing to flush.
    pub(crate) in_memory: bool,
    /// Buffered reads can be asynchronous (FMODE_NOWAIT), so that the ring is of use.
    pub(crate) asynchronous: bool,
    /// How O_DIRECT is used for large files, where it was measured to be the fastest way.
    pub(crate) direct: Option<Direct>,
    /// `copy_file_range` may run on the server.
    pub(crate) server_copy: bool,
    /// Files have layouts that say which server holds which stripe.
    pub(crate) layouts: bool,
    /// Every request may take a way to a server and back.
    pub(crate) remote: bool,
    /// Inode numbers are of inodes: all names of one have the same, and always. Servers of FUSE may number names.
    pub(crate) keeps_numbers: bool,
    /// Errors of writing may show when a file is closed.
    pub(crate) closes_late: bool,
    /// Holes can be asked for. ZFS has told of holes where data had just been written (openzfs 15526).
    pub(crate) tells_holes: bool,
    /// Files hold what reading them gives, whatever their size says.
    pub(crate) made_on_reading: bool,
    /// A file of size zero may hold something all the same.
    pub(crate) zero_is_no_size: bool,
}

/// What O_DIRECT does, and asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Direct {
    /// The device moves the bytes, in whole blocks.
    Blocks,
    /// Every call is a request to the server, of any length, as long as it says. Without it the kernel asks for what it
    /// reads ahead (128 KiB), and keeps everything in the page cache, which takes several times the processors' time.
    Requests,
}

/// Magic numbers of `linux/magic.h` (and of Lustre's own header), with their names.
const KNOWN: &[(i64, &str)] = &[
    (0x0102_1994, "tmpfs"),
    (0x8584_58f6, "ramfs"),
    (0xef53, "ext4"),
    (0x5846_5342, "xfs"),
    (0x9123_683e, "btrfs"),
    (0xf2f5_2010, "f2fs"),
    (0x2fc1_2fc1, "zfs"),
    (0xca45_1a4e, "bcachefs"),
    (0x6969, "nfs"),
    (0xff53_4d42, "cifs"),
    (0xfe53_4d42, "smb2"),
    (0x6573_5546, "fuse"),
    (0x794c_7630, "overlay"),
    (0x0bd0_0bd0, "lustre"),
    (0x4750_4653, "gpfs"),
    (0x00c3_6400, "ceph"),
    (0x0116_1970, "gfs2"),
    (0x7461_636f, "ocfs2"),
    (0x9fa0, "proc"),
    (0x6265_6572, "sysfs"),
    (0x6462_6720, "debugfs"),
    (0x7472_6163, "tracefs"),
    (0x0027_e0eb, "cgroup"),
    (0x6367_7270, "cgroup2"),
    (0x6265_6570, "configfs"),
    (0x7363_6673, "securityfs"),
];

/// Those whose files are made while they are read, so that their sizes mean nothing.
const MADE_ON_READING: [&str; 8] =
    ["proc", "sysfs", "debugfs", "tracefs", "cgroup", "cgroup2", "configfs", "securityfs"];

impl Filesystem {
    /// The filesystem that an open file lies on.
    ///
    /// # Errors
    /// The errno of fstatfs(2).
    pub(crate) fn of(file: impl AsFd) -> Result<Self, Errno> {
        Ok(Self::from_magic(told::magic(file)?))
    }

    fn from_magic(magic: i64) -> Self {
        let word =
            KNOWN.iter().find(|(known, _)| *known == magic).map_or("unknown", |(_, word)| word);
        let made_on_reading = MADE_ON_READING.contains(&word);
        Self {
            word,
            tells_holes: word != "zfs",
            layouts: word == "lustre",
            made_on_reading,
            zero_is_no_size: made_on_reading || matches!(word, "fuse" | "unknown"),
            in_memory: matches!(word, "tmpfs" | "ramfs"),
            remote: matches!(
                word,
                "nfs" | "cifs" | "smb2" | "fuse" | "lustre" | "gpfs" | "ceph" | "gfs2" | "ocfs2"
            ),
            keeps_numbers: !matches!(word, "fuse" | "cifs" | "smb2" | "unknown"),
            // These have no `flush` operation.
            closes_late: !matches!(
                word,
                "tmpfs" | "ramfs" | "ext4" | "xfs" | "btrfs" | "f2fs" | "zfs" | "bcachefs"
            ),
            asynchronous: matches!(word, "ext4" | "xfs" | "btrfs" | "f2fs"),
            direct: match word {
                "ext4" | "xfs" => Some(Direct::Blocks),
                "fuse" => Some(Direct::Requests),
                _ => None,
            },
            server_copy: matches!(word, "nfs" | "cifs" | "smb2" | "ceph" | "ocfs2"),
        }
    }

    /// Whether `copy_file_range` between the two may run on the server.
    pub(crate) fn server_copies_to(self, destination: Self) -> bool {
        self == destination && self.server_copy
    }

    /// The type's usual name; `unknown` when it is none of those that Longshore knows.
    pub(crate) fn word(self) -> &'static str {
        self.word
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn magic_numbers_are_recognised() {
        assert_eq!(Filesystem::from_magic(0xef53).word(), "ext4");
        assert_eq!(Filesystem::from_magic(0x9123_683e).word(), "btrfs");
        assert_eq!(Filesystem::from_magic(1).word(), "unknown");
    }
}
