//! Something that is held without being opened (`O_PATH`): links and special files, which cannot be, and names that are
//! linked again. What is done to it is done to it, whatever has its name by then.

use std::ffi::{CStr, CString};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::Mode;

use super::inode::Inode;
use super::publish;
use crate::error::{AtStep, FailureKind, Step, StepError};

/// A held file.
#[derive(Debug)]
pub(crate) struct Held {
    _file: OwnedFd,
    path: CString,
}

impl Held {
    /// Holds what has a name, if that is the inode `wanted`.
    ///
    /// # Errors
    /// The given step; `Contended` when another run has taken the name.
    pub(crate) fn of(
        dir: BorrowedFd<'_>,
        name: &CStr,
        wanted: Inode,
        step: Step,
    ) -> Result<Self, StepError> {
        let contended = StepError::found(step, FailureKind::Contended);
        let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let file = match openat(dir, name, flags, Mode::empty()) {
            Err(Errno::ENOENT) => return Err(contended),
            other => other.at(step)?,
        };
        if publish::identity(&file)? != wanted {
            return Err(contended);
        }
        let path = CString::new(format!("/proc/self/fd/{}", file.as_raw_fd()));
        Ok(Self { path: path.expect("digits hold no NUL"), _file: file })
    }

    /// The path that leads to it, for calls that follow links: not a step further than to the file itself, even where
    /// that is a link.
    pub(crate) fn path(&self) -> &CStr {
        &self.path
    }
}
