//! Attributes as FUSE has them and as the system has them, and extended attributes by path.

use std::ffi::OsStr;
use std::fs::Metadata;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fuser::{Errno, FileAttr, FileType, INodeNo, TimeOrNow};
use nix::libc::{XATTR_CREATE, XATTR_REPLACE};
use nix::sys::stat::{major, makedev, minor};
use nix::sys::time::TimeSpec;

use super::behind::{Found, errno};

/// Attributes as FUSE has them.
#[must_use]
pub(super) fn attr_of(about: &Metadata) -> FileAttr {
    let kind = about.file_type();
    let kind = FileType::from_std(kind)
        .unwrap_or_else(|| if kind.is_socket() { FileType::Socket } else { FileType::RegularFile });
    FileAttr {
        ino: INodeNo(about.ino()),
        size: about.size(),
        blocks: about.blocks(),
        atime: time(about.atime(), about.atime_nsec()),
        mtime: time(about.mtime(), about.mtime_nsec()),
        ctime: time(about.ctime(), about.ctime_nsec()),
        crtime: UNIX_EPOCH,
        kind,
        perm: u16::try_from(about.mode() & 0o7777).unwrap_or(0),
        nlink: u32::try_from(about.nlink()).unwrap_or(u32::MAX),
        uid: about.uid(),
        gid: about.gid(),
        rdev: device_of(about.rdev()),
        blksize: 4096,
        flags: 0,
    }
}

/// A device's number as FUSE has it, in 32 bits.
fn device_of(device: u64) -> u32 {
    let (major, minor) = (major(device), minor(device));
    u32::try_from((minor & 0xff) | (major << 8) | ((minor & !0xff) << 12)).unwrap_or(0)
}

/// A device's number as the C library has it.
#[must_use]
pub(super) fn device_from(device: u32) -> u64 {
    let device = u64::from(device);
    makedev((device & 0xf_ff00) >> 8, (device & 0xff) | ((device >> 12) & 0xf_ff00))
}

fn time(seconds: i64, nanos: i64) -> SystemTime {
    let nanos = Duration::from_nanos(u64::try_from(nanos).unwrap_or(0));
    match u64::try_from(seconds) {
        Ok(after) => UNIX_EPOCH + Duration::from_secs(after) + nanos,
        Err(_) => UNIX_EPOCH - Duration::from_secs(seconds.unsigned_abs()) + nanos,
    }
}

/// A time as the system takes it.
#[must_use]
pub(super) fn time_spec(time: Option<TimeOrNow>) -> TimeSpec {
    match time {
        None => TimeSpec::UTIME_OMIT,
        Some(TimeOrNow::Now) => TimeSpec::UTIME_NOW,
        Some(TimeOrNow::SpecificTime(time)) => match time.duration_since(UNIX_EPOCH) {
            Ok(after) => TimeSpec::from_duration(after),
            // The library takes (-1 s, 999,999,999 ns) for 1.999999999 s before 1970; undone here.
            Err(before) => {
                let before = before.duration();
                let seconds = i64::try_from(before.as_secs()).unwrap_or(i64::MAX);
                TimeSpec::new(-seconds, i64::from(before.subsec_nanos()))
            }
        },
    }
}

impl Found {
    fn known(&self, name: &OsStr) -> io::Result<Option<Vec<u8>>> {
        if self.follow { xattr::get_deref(&self.path, name) } else { xattr::get(&self.path, name) }
    }

    /// The value of an extended attribute.
    ///
    /// # Errors
    /// Those of the file behind it.
    pub fn xattr(&self, name: &OsStr) -> io::Result<Vec<u8>> {
        self.known(name)?.ok_or_else(|| errno(Errno::ENODATA))
    }

    /// The names of all of them, each with a zero byte behind it.
    ///
    /// # Errors
    /// Those of the file behind it.
    pub fn xattr_names(&self) -> io::Result<Vec<u8>> {
        let path = &self.path;
        let names = if self.follow { xattr::list_deref(path) } else { xattr::list(path) };
        Ok(names?.flat_map(|name| [name.as_bytes(), &[0]].concat()).collect())
    }

    /// Sets one, with the flags of `setxattr`.
    ///
    /// # Errors
    /// Those of the file behind it.
    pub fn set_xattr(&self, name: &OsStr, value: &[u8], flags: i32) -> io::Result<()> {
        if flags & XATTR_CREATE != 0 && self.known(name)?.is_some() {
            return Err(errno(Errno::EEXIST));
        }
        if flags & XATTR_REPLACE != 0 && self.known(name)?.is_none() {
            return Err(errno(Errno::ENODATA));
        }
        let path = &self.path;
        if self.follow {
            xattr::set_deref(path, name, value)
        } else {
            xattr::set(path, name, value)
        }
    }

    /// Removes one.
    ///
    /// # Errors
    /// Those of the file behind it.
    pub fn remove_xattr(&self, name: &OsStr) -> io::Result<()> {
        let path = &self.path;
        if self.follow { xattr::remove_deref(path, name) } else { xattr::remove(path, name) }
    }
}
