//! Everything about an item besides its content: owner, extended attributes and ACLs, mode, flags,
//! project, times. Set by descriptor where there is one, in the one order that keeps all of them.
//!
//! The order: owner first (chown clears setuid and `security.capability`), then extended attributes
//! and ACLs (an ACL changes the group bits of the mode), then the mode, then flags and project, and
//! the times last. A file whose times are those of its source is therefore complete.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd};

use nix::errno::Errno;
use nix::fcntl::AtFlags;
use nix::sys::stat::{
    FchmodatFlags, FileStat, Mode, UtimensatFlags, fchmod, fchmodat, futimens, utimensat,
};
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, Uid, fchown, fchownat};

use super::tally::{Tally, Warning};
use crate::error::{AtStep, Step, StepError};
use crate::options::{CopyOptions, Preserve, XattrPolicy};
use crate::sys::{self, XattrTarget};

/// Name of the access ACL among the extended attributes (`linux/xattr.h`).
pub(crate) const ACCESS_ACL: &CStr = c"system.posix_acl_access";
/// Name of a directory's default ACL.
pub(crate) const DEFAULT_ACL: &CStr = c"system.posix_acl_default";

/// Permission bits with setuid, setgid and sticky.
const PERMISSIONS: u32 = 0o7777;
/// Setuid and setgid.
const SET_IDS: u32 = 0o6000;

/// Inode flags that can be set again on the copy: `FS_*_FL` of `linux/fs.h` for sync, immutable,
/// append, nodump, noatime, compress, and dirsync.
const COPIED_FLAGS: u32 = 0x8 | 0x10 | 0x20 | 0x40 | 0x80 | 0x4 | 0x1_0000;

/// Names and values of extended attributes that are to be set on the copy.
#[derive(Debug, Default)]
pub(crate) struct Xattrs(Vec<(CString, Vec<u8>)>);

impl Xattrs {
    fn has(&self, name: &CStr) -> bool {
        self.0.iter().any(|(own, _)| own.as_c_str() == name)
    }
}

/// Applies attributes as one user, with one set of options.
#[derive(Debug)]
pub(crate) struct Attributes<'o> {
    options: &'o CopyOptions,
    tally: &'o Tally,
    root: bool,
    umask: u32,
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

impl<'o> Attributes<'o> {
    /// For this process, whose umask and privilege are looked up once.
    pub(crate) fn new(options: &'o CopyOptions, tally: &'o Tally) -> Self {
        Self { options, tally, root: nix::unistd::geteuid().is_root(), umask: umask() }
    }

    /// Whether this process is root (as far as its user namespace goes).
    pub(crate) fn is_root(&self) -> bool {
        self.root
    }

    fn preserve(&self) -> &Preserve {
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
    /// start it is the final one, which saves a call; otherwise nobody else may open the file yet.
    pub(crate) fn creation_mode(
        &self,
        source: &FileStat,
        owner: Option<(u32, u32)>,
    ) -> (Mode, u32) {
        let wanted = self.final_mode(source);
        let right_owner = owner.is_some_and(|owner| !self.wants_chown(source, owner));
        let mode = if right_owner && wanted & !0o777 == 0 { wanted } else { 0o600 };
        (Mode::from_bits_truncate(mode), mode & !self.umask)
    }

    fn wants_chown(&self, source: &FileStat, owner: (u32, u32)) -> bool {
        self.preserve().ownership && owner != (source.st_uid, source.st_gid)
    }

    /// Reads the extended attributes that the policy lets through.
    ///
    /// # Errors
    /// Step `Xattr`, with the errno of listing or reading.
    pub(crate) fn read_xattrs(&self, source: XattrTarget<'_>) -> Result<Option<Xattrs>, StepError> {
        let preserve = self.preserve();
        if self.options.xattrs == XattrPolicy::None || !(preserve.xattr || preserve.acl) {
            return Ok(Some(Xattrs::default()));
        }
        let mut names = Vec::new();
        match sys::list_xattrs(source, &mut names) {
            Ok(()) => {}
            Err(Errno::EOPNOTSUPP | Errno::ENOSYS) => return Ok(None),
            Err(errno) => return Err(StepError::os(Step::Xattr, errno)),
        }
        let mut found = Vec::new();
        for name in names.split_inclusive(|byte| *byte == 0) {
            let Ok(name) = CStr::from_bytes_with_nul(name) else { continue };
            if !self.is_copied(name.to_bytes()) {
                continue;
            }
            let mut value = Vec::new();
            match sys::get_xattr(source, name, &mut value) {
                Ok(()) => found.push((name.to_owned(), value)),
                Err(Errno::ENODATA) => {} // removed since it was listed
                Err(errno) => return Err(StepError::os(Step::Xattr, errno)),
            }
        }
        Ok(Some(Xattrs(found)))
    }

    /// The policy, by name. The Lustre internals are those that dcp leaves out too.
    fn is_copied(&self, name: &[u8]) -> bool {
        const LUSTRE_TRUSTED: [&[u8]; 11] = [
            b"som",
            b"lov",
            b"lma",
            b"lmv",
            b"dmv",
            b"link",
            b"fid",
            b"version",
            b"hsm",
            b"lfsck_bitmap",
            b"dummy",
        ];
        if name == ACCESS_ACL.to_bytes() || name == DEFAULT_ACL.to_bytes() {
            return self.preserve().acl;
        }
        if !self.preserve().xattr {
            return false;
        }
        let policy = self.options.xattrs;
        if name.starts_with(b"user.") {
            return true;
        }
        if policy == XattrPolicy::User {
            return false;
        }
        if let Some(rest) = name.strip_prefix(b"trusted.") {
            return self.root && !LUSTRE_TRUSTED.contains(&rest);
        }
        match name {
            b"security.capability" => self.root,
            b"security.ima" | b"security.evm" => false,
            b"security.selinux" => {
                if policy == XattrPolicy::Auto {
                    self.tally.warn(Warning::SecurityLabel);
                }
                policy == XattrPolicy::All
            }
            _ if name.starts_with(b"security.") || name.starts_with(b"system.") => {
                policy == XattrPolicy::All
            }
            _ => false, // lustre.* and namespaces that we do not know
        }
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
        }
        if fresh.may_have_acl && self.preserve().acl {
            for name in [ACCESS_ACL, DEFAULT_ACL] {
                if !xattrs.has(name) {
                    let _ = sys::remove_xattr(target, name); // usually there is none: no error
                }
            }
        }
        self.write_xattrs(XattrTarget::Fd(target), xattrs)?;
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
        futimens(target, &accessed, &modified).at(Step::Times)
    }

    /// All attributes of an item that cannot be opened: a symbolic link or a special file, `name` in
    /// `dir`. `symlink` items have no mode of their own.
    ///
    /// # Errors
    /// The first step that failed.
    pub(crate) fn apply_by_name(
        &self,
        dir: BorrowedFd<'_>,
        name: &CStr,
        source: &FileStat,
        xattrs: &Xattrs,
        symlink: bool,
    ) -> Result<(), StepError> {
        let mut mode = self.final_mode(source);
        let change = |uid, gid| fchownat(dir, name, uid, gid, AtFlags::AT_SYMLINK_NOFOLLOW);
        if self.preserve().ownership && !self.change_owner(source, (u32::MAX, u32::MAX), &change)? {
            mode &= !SET_IDS;
        }
        let path = path_of(dir, name);
        self.write_xattrs(XattrTarget::Path(&path), xattrs)?;
        if !symlink {
            let bits = Mode::from_bits_truncate(mode);
            fchmodat(dir, name, bits, FchmodatFlags::FollowSymlink).at(Step::Mode)?;
        }
        if self.preserve().timestamps {
            let (accessed, modified) = times(source);
            utimensat(dir, name, &accessed, &modified, UtimensatFlags::NoFollowSymlink)
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

    fn write_xattrs(&self, target: XattrTarget<'_>, xattrs: &Xattrs) -> Result<(), StepError> {
        for (name, value) in &xattrs.0 {
            match sys::set_xattr(target, name, value) {
                Ok(()) => {}
                Err(Errno::EOPNOTSUPP) => {
                    let acl = name.as_c_str() == ACCESS_ACL || name.as_c_str() == DEFAULT_ACL;
                    self.tally.warn(if acl {
                        Warning::AclUnsupported
                    } else {
                        Warning::XattrUnsupported
                    });
                }
                Err(errno) => return Err(StepError::os(Step::Xattr, errno)),
            }
        }
        Ok(())
    }
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
    std::fs::read_to_string("/proc/self/status")
        .ok()
        .and_then(|status| {
            let value = status.lines().find_map(|line| line.strip_prefix("Umask:"))?.trim();
            u32::from_str_radix(value, 8).ok()
        })
        .unwrap_or(0o777)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn copied(policy: XattrPolicy, root: bool, name: &[u8]) -> bool {
        let options = CopyOptions { xattrs: policy, ..CopyOptions::default() };
        let tally = Tally::default();
        Attributes { options: &options, tally: &tally, root, umask: 0o022 }.is_copied(name)
    }

    #[test]
    fn lustre_internals_and_integrity_hashes_are_never_copied() {
        for name in [b"lustre.lov".as_slice(), b"trusted.lov", b"security.ima", b"security.evm"] {
            assert!(!copied(XattrPolicy::All, true, name), "{}", name.escape_ascii());
        }
    }

    #[test]
    fn the_label_of_the_destination_is_kept_unless_all_is_asked_for() {
        assert!(!copied(XattrPolicy::Auto, true, b"security.selinux"));
        assert!(copied(XattrPolicy::All, true, b"security.selinux"));
    }

    #[test]
    fn user_attributes_and_acls_are_copied_under_every_policy_but_none() {
        for policy in [XattrPolicy::Auto, XattrPolicy::User, XattrPolicy::All] {
            assert!(copied(policy, false, b"user.mine"));
            assert!(copied(policy, false, ACCESS_ACL.to_bytes()));
        }
        assert!(!copied(XattrPolicy::User, true, b"trusted.site"));
        assert!(copied(XattrPolicy::Auto, true, b"trusted.site"));
        assert!(!copied(XattrPolicy::Auto, false, b"trusted.site"));
    }
}
