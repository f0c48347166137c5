//! What a stat says about an inode: which one it is and of what type. It makes no calls.

use nix::sys::stat::{FileStat, SFlag};

/// Identity of an inode: device and inode number.
pub(crate) type Inode = (u64, u64);

/// The identity in a stat.
pub(crate) fn inode(stat: &FileStat) -> Inode {
    (stat.st_dev, stat.st_ino)
}

/// Whether two stats of a file show the same content, as far as size and modification time tell.
pub(crate) fn same_version(one: &FileStat, other: &FileStat) -> bool {
    one.st_size == other.st_size
        && (one.st_mtime, one.st_mtime_nsec) == (other.st_mtime, other.st_mtime_nsec)
}

/// Whether a mode is a directory's.
pub(crate) fn is_directory(mode: u32) -> bool {
    SFlag::from_bits_truncate(mode) & SFlag::S_IFMT == SFlag::S_IFDIR
}

/// Whether a mode is a regular file's.
pub(crate) fn is_regular(mode: u32) -> bool {
    SFlag::from_bits_truncate(mode) & SFlag::S_IFMT == SFlag::S_IFREG
}

/// Whether a mode is a symbolic link's.
pub(crate) fn is_symlink(mode: u32) -> bool {
    SFlag::from_bits_truncate(mode) & SFlag::S_IFMT == SFlag::S_IFLNK
}
