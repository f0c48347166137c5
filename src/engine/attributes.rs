//! Everything about an item besides its content: owner, extended attributes and ACLs, mode, flags,
//! project, times. Set by descriptor where there is one, in the one order that keeps all of them.
//!
//! The order: owner first (chown clears setuid and `security.capability`), then extended attributes
//! and ACLs (an ACL changes the group bits of the mode), then the mode, then flags and project, and
//! the times last. A file whose times are those of its source is therefore complete.

use std::ffi::{CStr, CString};
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags};
use nix::sys::stat::{
    FchmodatFlags, FileStat, Mode, UtimensatFlags, fchmod, fchmodat, fstat, futimens, utimensat,
};
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, Uid, fchown, fchownat};

use super::held::Held;
use super::inode::is_directory;
use super::tally::{Tally, Warning};
use super::xattrs::Xattrs;
use crate::error::{AtStep, Step, StepError};
use crate::options::{CopyOptions, Preserve};
use crate::sys::{self, XattrTarget};

/// Permission bits with setuid, setgid and sticky.
const PERMISSIONS: u32 = 0o7777;
/// Setuid and setgid.
const SET_IDS: u32 = 0o6000;

/// Inode flags that can be set again on the copy: `FS_*_FL` of `linux/fs.h` for sync, immutable,
/// append, nodump, noatime, compress, and dirsync.
const COPIED_FLAGS: u32 = 0x8 | 0x10 | 0x20 | 0x40 | 0x80 | 0x4 | 0x1_0000;

/// Applies attributes as one user, with one set of options.
#[derive(Debug)]
pub(crate) struct Attributes<'o> {
    pub(crate) options: &'o CopyOptions,
    pub(crate) tally: &'o Tally,
    pub(crate) root: bool,
    pub(crate) umask: u32,
    /// A time to the nanosecond was found at the destination as it was set.
    pub(crate) keeps_nanos: AtomicBool,
}

/// What is known of a fresh item at the destination before its attributes are set.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Fresh {
    /// Its owner and group now.
    pub(crate) owner: (u32, u32),
    /// Its mode now, permission bits only.
    pub(crate) mode: u32,
    /// Whether it may have ACLs that the source has not (inherited, or left from before).
    pub(crate) may_have_acl: bool,
}

/// What is known of an item that cannot be opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unopened {
    /// It has no mode and no ACL of its own.
    Symlink,
    /// A special file made where nothing is inherited.
    Special,
    /// A special file that may have inherited an ACL.
    MayHaveAcl,
}

impl<'o> Attributes<'o> {
    /// For this process, whose umask and privilege are looked up once.
    pub(crate) fn new(options: &'o CopyOptions, tally: &'o Tally) -> Self {
        Self {
            options,
            tally,
            root: nix::unistd::geteuid().is_root(),
            umask: umask(),
            keeps_nanos: AtomicBool::new(false),
        }
    }

    pub(crate) fn preserve(&self) -> &Preserve {
        &self.options.preserve
    }

    /// The mode that the copy shall have in the end.
    pub(crate) fn final_mode(&self, source: &FileStat) -> u32 {
        if self.preserve().mode {
            source.st_mode & PERMISSIONS
        } else {
            source.st_mode & 0o777 & !self.umask
        }
    }

    /// The mode to create a file with, and the mode that it then has. With the right owner from the
    /// start it is the final one, which saves a call; otherwise nobody else may open the file yet. Nor
    /// with an ACL on either side: until it is set, the group bits mean something else. And only root
    /// may set attributes of a file that is closed to writing.
    pub(crate) fn creation_mode(
        &self,
        source: &FileStat,
        owner: Option<(u32, u32)>,
        acl: bool,
    ) -> (Mode, u32) {
        const PLAIN: u32 = 0o777;
        const WRITABLE: u32 = 0o200;
        let wanted = self.final_mode(source);
        let right_owner = owner.is_some_and(|owner| !self.wants_chown(source, owner));
        let writable = self.root || wanted & WRITABLE != 0;
        let final_at_once = right_owner && writable && !acl && wanted & !PLAIN == 0;
        let mode = if final_at_once { wanted } else { 0o600 };
        (Mode::from_bits_truncate(mode), mode & !self.umask)
    }

    fn wants_chown(&self, source: &FileStat, owner: (u32, u32)) -> bool {
        self.preserve().ownership && owner != (source.st_uid, source.st_gid)
    }

    /// Sets owner, extended attributes, mode, flags and project of an open file or directory.
    /// The times come last, by [`Attributes::set_times`].
    ///
    /// # Errors
    /// The first step that failed; what policy forgives is a counted warning instead.
    pub(crate) fn apply(
        &self,
        target: BorrowedFd<'_>,
        source: &FileStat,
        xattrs: &Xattrs,
        fresh: Fresh,
    ) -> Result<(), StepError> {
        let mut mode = self.final_mode(source);
        let chown = self.wants_chown(source, fresh.owner);
        if chown {
            let change = |uid, gid| fchown(target, uid, gid);
            if !self.change_owner(source, fresh.owner, &change)? {
                mode &= !SET_IDS;
            }
        } else if !self.preserve().ownership && !is_directory(source.st_mode) {
            // Nobody asked for the owner, and so the file must not act for another one.
            mode &= !foreign_ids(source, fresh.owner);
        }
        if fresh.may_have_acl {
            self.remove_foreign_acls(XattrTarget::Fd(target), xattrs);
        }
        mode &= self.write_xattrs(XattrTarget::Fd(target), xattrs)?;
        // chown and ACLs both move mode bits, so the mode is set again after either.
        if chown || mode != fresh.mode || fresh.may_have_acl {
            fchmod(target, Mode::from_bits_truncate(mode)).at(Step::Mode)?;
        }
        Ok(())
    }

    /// Copies project id and inode flags where asked for. Flags come after everything else, for an
    /// immutable file takes no more changes.
    ///
    /// # Errors
    /// Step `Xattr`, when the destination refuses for another reason than not knowing them.
    pub(crate) fn apply_flags(
        &self,
        source: BorrowedFd<'_>,
        target: BorrowedFd<'_>,
    ) -> Result<(), StepError> {
        let unknown = |errno| matches!(errno, Errno::ENOTTY | Errno::EOPNOTSUPP | Errno::ENOSYS);
        if self.preserve().project {
            self.apply_project(source, target)?;
        }
        if self.preserve().flags {
            match sys::inode_flags(source).map(|flags| flags & COPIED_FLAGS) {
                Ok(0) => {}
                Ok(flags) => {
                    let set = sys::inode_flags(target)
                        .and_then(|own| sys::set_inode_flags(target, own & !COPIED_FLAGS | flags));
                    match set {
                        Err(errno) if unknown(errno) => self.tally.warn(Warning::FlagsUnsupported),
                        other => other.at(Step::Xattr)?,
                    }
                }
                Err(errno) if unknown(errno) => {}
                Err(errno) => return Err(StepError::os(Step::Xattr, errno)),
            }
        }
        Ok(())
    }

    /// Copies project id and inheritance; on a directory before anything is created in it, so that
    /// quota is charged right from the first byte.
    ///
    /// # Errors
    /// Step `Xattr`, as [`Attributes::apply_flags`].
    pub(crate) fn apply_project(
        &self,
        source: BorrowedFd<'_>,
        target: BorrowedFd<'_>,
    ) -> Result<(), StepError> {
        let Ok(wanted) = sys::project_attributes(source) else { return Ok(()) };
        let inherit = wanted.flags & sys::INHERIT_PROJECT;
        if wanted.project == 0 && inherit == 0 {
            return Ok(());
        }
        let mut own = match sys::project_attributes(target) {
            Ok(own) => own,
            Err(Errno::ENOTTY | Errno::EOPNOTSUPP | Errno::ENOSYS) => {
                self.tally.warn(Warning::FlagsUnsupported);
                return Ok(());
            }
            Err(errno) => return Err(StepError::os(Step::Xattr, errno)),
        };
        own.project = wanted.project;
        own.flags = own.flags & !sys::INHERIT_PROJECT | inherit;
        match sys::set_project_attributes(target, &own) {
            Err(Errno::ENOTTY | Errno::EOPNOTSUPP | Errno::EINVAL) => {
                self.tally.warn(Warning::FlagsUnsupported);
                Ok(())
            }
            other => other.at(Step::Xattr),
        }
    }

    /// Sets access and modification time. The last thing that happens to an item.
    ///
    /// # Errors
    /// Step `Times`.
    pub(crate) fn set_times(
        &self,
        target: BorrowedFd<'_>,
        source: &FileStat,
    ) -> Result<(), StepError> {
        if !self.preserve().timestamps {
            return Ok(());
        }
        let (accessed, modified) = times(source);
        futimens(target, &accessed, &modified).at(Step::Times)?;
        // Filesystems cut what they cannot hold without a word: the digits, and years outside of 32 bits.
        let far = i32::try_from(source.st_mtime).is_err();
        if far || !self.keeps_nanos.load(Relaxed) {
            let there = fstat(target).at(Step::Times)?;
            if (there.st_mtime, there.st_mtime_nsec) != (source.st_mtime, source.st_mtime_nsec) {
                self.tally.warn(Warning::TimeNotKept);
            } else if source.st_mtime_nsec % 100 != 0 {
                self.keeps_nanos.store(true, Relaxed);
            }
        }
        Ok(())
    }

    /// All attributes of an item that cannot be opened: a symbolic link or a special file.
    ///
    /// # Errors
    /// The first step that failed.
    pub(crate) fn apply_to_held(
        &self,
        target: &Held,
        source: &FileStat,
        xattrs: &Xattrs,
        kind: Unopened,
    ) -> Result<(), StepError> {
        let path = target.path();
        let mut mode = self.final_mode(source);
        let change = |uid, gid| fchownat(AT_FDCWD, path, uid, gid, AtFlags::empty());
        if self.preserve().ownership && !self.change_owner(source, (u32::MAX, u32::MAX), &change)? {
            mode &= !SET_IDS;
        }
        if kind == Unopened::MayHaveAcl {
            self.remove_foreign_acls(XattrTarget::Held(path), xattrs);
        }
        mode &= self.write_xattrs(XattrTarget::Held(path), xattrs)?;
        if kind != Unopened::Symlink {
            let bits = Mode::from_bits_truncate(mode);
            fchmodat(AT_FDCWD, path, bits, FchmodatFlags::FollowSymlink).at(Step::Mode)?;
        }
        if self.preserve().timestamps {
            let (accessed, modified) = times(source);
            utimensat(AT_FDCWD, path, &accessed, &modified, UtimensatFlags::FollowSymlink)
                .at(Step::Times)?;
        }
        Ok(())
    }

    /// Changes owner and group; false when the owner could not be kept, so that setuid and setgid
    /// must not be set either (they would work for the wrong user).
    fn change_owner(
        &self,
        source: &FileStat,
        now: (u32, u32),
        change: &dyn Fn(Option<Uid>, Option<Gid>) -> Result<(), Errno>,
    ) -> Result<bool, StepError> {
        let (uid, gid) = (Uid::from_raw(source.st_uid), Gid::from_raw(source.st_gid));
        match change(Some(uid), Some(gid)) {
            Ok(()) => Ok(true),
            Err(Errno::EPERM | Errno::EINVAL) if !self.root => {
                // The group alone may be one of ours.
                let group = now.1 == source.st_gid || change(None, Some(gid)).is_ok();
                self.tally.warn(Warning::OwnerNotKept);
                if !group {
                    self.tally.warn(Warning::GroupNotKept);
                }
                Ok(false)
            }
            Err(errno) => Err(StepError::os(Step::Owner, errno)),
        }
    }
}

/// The setuid and setgid bits that would work for another owner or group than the source's.
fn foreign_ids(source: &FileStat, owner: (u32, u32)) -> u32 {
    let bit = |foreign: bool, bit| if foreign { bit } else { 0 };
    bit(owner.0 != source.st_uid, 0o4000) | bit(owner.1 != source.st_gid, 0o2000)
}

/// Access and modification time of a stat, in nanoseconds.
fn times(stat: &FileStat) -> (TimeSpec, TimeSpec) {
    (
        TimeSpec::new(stat.st_atime, stat.st_atime_nsec),
        TimeSpec::new(stat.st_mtime, stat.st_mtime_nsec),
    )
}

/// A short path to `name` in an open directory, for the calls that take paths only.
pub(crate) fn path_of(dir: BorrowedFd<'_>, name: &CStr) -> CString {
    use std::os::fd::AsRawFd;
    let mut path = format!("/proc/self/fd/{}/", dir.as_fd().as_raw_fd()).into_bytes();
    path.extend_from_slice(name.to_bytes());
    CString::new(path).expect("a name from a CStr holds no NUL")
}

/// The process's umask. umask(2) can only tell it by changing it for all threads, so it is read from
/// /proc (Linux 4.7); without /proc everything is created private and changed afterwards.
fn umask() -> u32 {
    // It is in the second line.
    let mut beginning = [0; 512];
    let file = std::fs::File::open("/proc/self/status");
    file.and_then(|mut file| file.read(&mut beginning))
        .ok()
        .and_then(|length| {
            let status = std::str::from_utf8(&beginning[..length]).ok()?;
            let value = status.lines().find_map(|line| line.strip_prefix("Umask:"))?.trim();
            u32::from_str_radix(value, 8).ok()
        })
        .unwrap_or(0o777)
}
