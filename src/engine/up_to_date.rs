//! `--update`: whether a file of the destination is left as it is. It copies no content.

use std::ffi::CStr;
use std::os::fd::AsFd;

use nix::fcntl::{AtFlags, OFlag, openat};
use nix::sys::stat::{Mode, fstatat};

use super::attributes::Fresh;
use super::dir::Dir;
use super::file::Source;
use super::inode::is_regular;
use super::worker::Worker;
use crate::error::StepError;
use crate::lanes::{self, Lane};
use crate::sys::XattrTarget;

impl Worker<'_> {
    /// Whether the destination already holds this file: same type, size and time. Owner and mode are
    /// put right without copying.
    pub(super) fn is_up_to_date(
        &self,
        dir: &Dir,
        name: &CStr,
        source: &Source,
    ) -> Result<bool, StepError> {
        let _pass = lanes::enter(Lane::DestinationCreate);
        let Ok(destination) = dir.destination() else { return Ok(false) };
        let Ok(there) = fstatat(&destination, name, AtFlags::AT_SYMLINK_NOFOLLOW) else {
            return Ok(false);
        };
        let wanted = &source.stat;
        let regular = is_regular(there.st_mode);
        if !regular
            || there.st_size != wanted.st_size
            || (there.st_mtime, there.st_mtime_nsec) != (wanted.st_mtime, wanted.st_mtime_nsec)
        {
            return Ok(false);
        }
        let mode = self.job.attributes.final_mode(wanted);
        let owner = (there.st_uid, there.st_gid);
        let same = there.st_mode & 0o7777 == mode
            && (!self.job.options().preserve.ownership || owner == (wanted.st_uid, wanted.st_gid));
        if !same && !self.job.options().dry_run {
            let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK;
            let Ok(target) = openat(&destination, name, flags, Mode::empty()) else {
                return Ok(false); // not even readable: copy it anew
            };
            let read = self.job.attributes.read_xattrs(XattrTarget::Fd(source.file.as_fd()))?;
            let fresh = Fresh { owner, mode: there.st_mode & 0o7777, may_have_acl: true };
            let attributes = &self.job.attributes;
            attributes.apply(target.as_fd(), wanted, &read.unwrap_or_default(), fresh)?;
            attributes.set_times(target.as_fd(), wanted)?;
        }
        Ok(true)
    }
}
