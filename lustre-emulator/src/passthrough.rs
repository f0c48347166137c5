//! A FUSE filesystem that passes everything through to a directory, and leaves to a front end when it
//! answers and what it does otherwise. It charges no time, keeps no log and knows nothing of Lustre.

mod answers;
mod attributes;
mod behind;
mod calendar;
mod front;
mod lanes;
mod nodes;
mod served;

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

pub use behind::{Behind, Entry, Found, Handle, Wanted, errno};
pub use calendar::Calendar;
pub use front::{Asked, Front, Give, Place, Space};
pub use lanes::{Hands, occupy};
pub use nodes::{Nodes, TOP};
pub use served::Served;

/// What a request asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A name in a directory.
    Lookup,
    /// `stat`.
    Getattr,
    /// chmod, chown, truncate, utimens.
    Setattr,
    /// Text of a symbolic link.
    Readlink,
    /// `open` of a file or a directory.
    Open,
    /// `open` that makes a file.
    Create,
    /// FIFOs, sockets, devices.
    Mknod,
    /// A directory.
    Mkdir,
    /// A symbolic link.
    Symlink,
    /// A hard link.
    Link,
    /// `rename`.
    Rename,
    /// `unlink` and `rmdir`.
    Unlink,
    /// A page of a directory.
    Readdir,
    /// Reading and listing extended attributes.
    Getxattr,
    /// Setting and removing them.
    Setxattr,
    /// The part of `close` that the caller waits for.
    Flush,
    /// The part of `close` that nobody waits for.
    Release,
    /// `fsync`.
    Fsync,
    /// `statfs`.
    Statfs,
    /// `SEEK_DATA` and `SEEK_HOLE`.
    Seek,
    /// `fallocate`.
    Allocate,
    /// `ioctl`.
    Ioctl,
    /// Data out of a file.
    Read,
    /// Data into a file.
    Write,
}

impl Kind {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 24] = [
        Self::Lookup,
        Self::Getattr,
        Self::Setattr,
        Self::Readlink,
        Self::Open,
        Self::Create,
        Self::Mknod,
        Self::Mkdir,
        Self::Symlink,
        Self::Link,
        Self::Rename,
        Self::Unlink,
        Self::Readdir,
        Self::Getxattr,
        Self::Setxattr,
        Self::Flush,
        Self::Release,
        Self::Fsync,
        Self::Statfs,
        Self::Seek,
        Self::Allocate,
        Self::Ioctl,
        Self::Read,
        Self::Write,
    ];

    /// Whether it is about names and attributes, and somebody waits for it.
    #[must_use]
    pub fn is_metadata(self) -> bool {
        !matches!(self, Self::Read | Self::Write | Self::Release)
    }
}

/// Has the kernel read so many KiB ahead in a mounted filesystem: FUSE lets one ask for 128 KiB at most,
/// but the mount may be told more afterwards.
///
/// # Errors
/// Without the right to write to `/sys`.
pub fn read_ahead(mounted: &Path, kib: u32) -> io::Result<()> {
    let device = fs::symlink_metadata(mounted)?.dev();
    let (major, minor) = (nix::sys::stat::major(device), nix::sys::stat::minor(device));
    fs::write(format!("/sys/class/bdi/{major}:{minor}/read_ahead_kb"), kib.to_string())
}
