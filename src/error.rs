//! What can go wrong with one item of a copy, and what a whole request is refused for.
//! It never decides whether to go on: the engine does, by `FailureKind::is_fatal`.

use std::fmt;
use std::io;
use std::path::PathBuf;

use nix::errno::Errno;
use serde::Serialize;

/// What a failure means to the person who reads it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum FailureKind {
    /// The item was there when its directory was read and is gone now.
    Vanished,
    /// Permission denied (EACCES, EPERM).
    Permission,
    /// Size or modification time moved while the item was read.
    SourceChanged,
    /// A file stands where a directory must be, or the reverse.
    TypeConflict,
    /// A name is longer than the destination takes.
    NameTooLong,
    /// The device or the server answered with an error (EIO and its kin).
    Io,
    /// No more file descriptors, in this process or in the system.
    Descriptors,
    /// The destination cannot hold this kind of item or attribute.
    Unsupported,
    /// The copy would contain itself.
    IntoItself,
    /// A link would replace the file that it leads to.
    SameFile,
    /// The name is one that Longshore gives to unfinished files.
    ReservedName,
    /// Somebody else removed or replaced what was being written, another copy to the same place say.
    Contended,
    /// The destination takes its name for that of another item of the same copy: it does not tell upper from lower case,
    /// say.
    NameFolded,
    /// The destination is not at its path any more.
    Moved,
    /// The destination is out of blocks or inodes. Stops the copy.
    NoSpace,
    /// The user's or project's quota at the destination is used up. Stops the copy.
    Quota,
    /// The destination became read-only. Stops the copy.
    ReadOnly,
    /// A filesystem went away (ENODEV, ENOTCONN, ESHUTDOWN; EHOSTDOWN of CIFS; what FUSE had in hand
    /// when its connection ended gets ECONNABORTED). Stops the copy.
    FilesystemGone,
    /// The file's data is only in an archive (HSM), and nobody said that it may be brought back.
    Released,
    /// The destination does not hold what was written, and could not be repaired.
    VerifyFailed,
    /// Longshore itself went wrong.
    Internal,
    /// Anything else; the errno says what.
    Other,
}

impl FailureKind {
    /// Sorts an errno that the operating system returned for one item.
    #[must_use]
    pub fn of(errno: Errno) -> Self {
        match errno {
            Errno::ENOENT | Errno::ESTALE => Self::Vanished,
            Errno::EACCES | Errno::EPERM => Self::Permission,
            Errno::ENOTDIR | Errno::EISDIR | Errno::ENOTEMPTY => Self::TypeConflict,
            Errno::ENAMETOOLONG => Self::NameTooLong,
            Errno::EIO | Errno::EREMOTEIO | Errno::ETIMEDOUT | Errno::EBADMSG => Self::Io,
            Errno::EMFILE | Errno::ENFILE => Self::Descriptors,
            Errno::EOPNOTSUPP | Errno::ENOSYS | Errno::EFBIG => Self::Unsupported,
            Errno::ENOSPC => Self::NoSpace,
            Errno::EDQUOT => Self::Quota,
            Errno::EROFS => Self::ReadOnly,
            Errno::ENODEV
            | Errno::ENOTCONN
            | Errno::ESHUTDOWN
            | Errno::ECONNABORTED
            | Errno::EHOSTDOWN => Self::FilesystemGone,
            _ => Self::Other,
        }
    }

    /// Whether no other item can be expected to fare better, so that the copy stops (exit code 3).
    #[must_use]
    pub fn is_fatal(self) -> bool {
        matches!(self, Self::NoSpace | Self::Quota | Self::ReadOnly | Self::FilesystemGone)
    }

    /// The word used in reports and messages; stable.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Vanished => "vanished",
            Self::Permission => "permission",
            Self::SourceChanged => "source-changed",
            Self::TypeConflict => "type-conflict",
            Self::NameTooLong => "name-too-long",
            Self::Io => "io",
            Self::Descriptors => "descriptors",
            Self::Unsupported => "unsupported",
            Self::IntoItself => "into-itself",
            Self::SameFile => "same-file",
            Self::ReservedName => "reserved-name",
            Self::Contended => "contended",
            Self::NameFolded => "name-folded",
            Self::Moved => "moved",
            Self::NoSpace => "no-space",
            Self::Quota => "quota",
            Self::ReadOnly => "read-only",
            Self::FilesystemGone => "filesystem-gone",
            Self::Released => "released",
            Self::VerifyFailed => "verify-failed",
            Self::Internal => "internal",
            Self::Other => "other",
        }
    }
}

/// The step of a copy that failed; named as a person would say it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
#[allow(missing_docs)] // each word is its own sentence
pub enum Step {
    OpenDirectory,
    ReadDirectory,
    CreateDirectory,
    Open,
    Stat,
    Create,
    Layout,
    Read,
    Write,
    Clone,
    Allocate,
    ReadLink,
    Symlink,
    HardLink,
    MakeNode,
    Owner,
    Mode,
    Times,
    Xattr,
    Sync,
    Publish,
    ReadBack,
    Repair,
    Delete,
    List,
    Journal,
}

impl Step {
    /// Whether it is the destination that it was done to; some are done to either side.
    #[must_use]
    pub(crate) fn is_at_destination(self) -> bool {
        matches!(
            self,
            Self::CreateDirectory
                | Self::Create
                | Self::Layout
                | Self::Write
                | Self::Allocate
                | Self::Symlink
                | Self::HardLink
                | Self::MakeNode
                | Self::Owner
                | Self::Mode
                | Self::Times
                | Self::Sync
                | Self::Publish
                | Self::ReadBack
                | Self::Repair
                | Self::Journal
        )
    }

    /// "failed to {this}".
    #[must_use]
    pub fn phrase(self) -> &'static str {
        match self {
            Self::OpenDirectory => "open the directory",
            Self::ReadDirectory => "read the directory",
            Self::CreateDirectory => "create the directory",
            Self::Open => "open the source",
            Self::Stat => "look at the item",
            Self::Create => "create the file",
            Self::Layout => "give the file its layout",
            Self::Read => "read the source",
            Self::Write => "write the destination",
            Self::Clone => "clone the file",
            Self::Allocate => "allocate space for the file",
            Self::ReadLink => "read the symbolic link",
            Self::Symlink => "create the symbolic link",
            Self::HardLink => "create the hard link",
            Self::MakeNode => "create the special file",
            Self::Owner => "set the owner",
            Self::Mode => "set the mode",
            Self::Times => "set the times",
            Self::Xattr => "copy the extended attributes",
            Self::Sync => "flush the destination",
            Self::Publish => "move the finished file into place",
            Self::ReadBack => "read the destination back",
            Self::Repair => "repair the destination",
            Self::Delete => "delete the extraneous item",
            Self::List => "find the listed item",
            Self::Journal => "write the journal",
        }
    }
}

/// One step that failed, before it is known for which path: what the engine's inner functions return.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StepError {
    /// What was being done.
    pub step: Step,
    /// What it means.
    pub kind: FailureKind,
    /// What the system said, when it said something.
    pub errno: Option<Errno>,
}

impl StepError {
    /// An error that the operating system reported.
    #[must_use]
    pub fn os(step: Step, errno: Errno) -> Self {
        let kind = match (step, errno) {
            // ext4 says so when one attribute is too large for its block, however empty the disk is.
            (Step::Xattr, Errno::ENOSPC) => FailureKind::Unsupported,
            _ => FailureKind::of(errno),
        };
        Self { step, kind, errno: Some(errno) }
    }

    /// An error that the engine found itself.
    #[must_use]
    pub fn found(step: Step, kind: FailureKind) -> Self {
        Self { step, kind, errno: None }
    }
}

impl fmt::Display for StepError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "failed to {}: ", self.step.phrase())?;
        match (self.kind, self.errno) {
            (FailureKind::SourceChanged, _) => f.write_str("it changed while it was read"),
            (FailureKind::IntoItself, _) if self.step == Step::Delete => {
                f.write_str("it is the source of the copy")
            }
            (FailureKind::IntoItself, _) => f.write_str("the destination lies inside it"),
            (FailureKind::SameFile, _) => f.write_str("it leads to the file that it would replace"),
            (FailureKind::ReservedName, _) => f.write_str(
                "Longshore gives such names to unfinished files; delete it if an interrupted copy \
                 left it, else rename it, or leave it out with --exclude '.longshore-*'",
            ),
            (FailureKind::Contended, _) => f.write_str(
                "its unfinished copy was removed or replaced; if another copy writes to the same \
                 place, wait until that is over",
            ),
            (FailureKind::NameFolded, _) => f.write_str(
                "the destination takes its name for that of another item of this copy (upper and lower case \
                 are the same there, say); rename one of the two",
            ),
            (FailureKind::Moved, _) => f.write_str(
                "it was moved, replaced or unmounted while it was copied to: the copy is not at this path",
            ),
            // Short, so that a terminal shows the option.
            (FailureKind::Released, _) => f.write_str("only in the archive (see copy --hsm)"),
            (FailureKind::VerifyFailed, _) => f.write_str(
                "it does not hold what was written; it was left without the source's modification \
                 time, so that --update copies it again",
            ),
            (FailureKind::Internal, _) => f.write_str(
                "Longshore lost count of it, which is a bug; copy it again and report this",
            ),
            (_, Some(errno)) => f.write_str(errno.desc()),
            (kind, None) => f.write_str(kind.word()),
        }
    }
}

impl std::error::Error for StepError {}

/// Attaches the step to the result of a system call.
pub trait AtStep<T> {
    /// Names the step that this result belongs to.
    ///
    /// # Errors
    /// The same error, as a [`StepError`] of the given step.
    fn at(self, step: Step) -> Result<T, StepError>;
}

impl<T> AtStep<T> for Result<T, Errno> {
    fn at(self, step: Step) -> Result<T, StepError> {
        self.map_err(|errno| StepError::os(step, errno))
    }
}

/// Why a request was refused before anything was written. The message says what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// A path of the request cannot be used as it is.
    #[error("{}: {problem}", show(path))]
    Path {
        /// The path as the user gave it.
        path: PathBuf,
        /// What is wrong with it and what to do.
        problem: String,
    },
    /// The system refused something that the check needed.
    #[error("{}: failed to {action}", show(path))]
    System {
        /// The path as the user gave it.
        path: PathBuf,
        /// "failed to {action}".
        action: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// The same copy is made already, by another process.
    #[error(
        "this copy is running already; wait for its end, or stop it (its journal is {})",
        show(journal)
    )]
    Running {
        /// What that process has locked.
        journal: PathBuf,
    },
    /// The request contradicts itself or cannot be met on this machine.
    #[error("{0}")]
    Request(String),
}

impl Refusal {
    /// A path that cannot be used as it is.
    pub fn path(path: impl Into<PathBuf>, problem: impl Into<String>) -> Self {
        Self::Path { path: path.into(), problem: problem.into() }
    }

    /// A check that the system refused.
    pub fn system(path: impl Into<PathBuf>, action: &'static str, errno: Errno) -> Self {
        Self::System { path: path.into(), action, source: errno.into() }
    }
}

/// A path for a terminal: control characters and bytes that are not UTF-8 are escaped.
#[must_use]
pub fn show(path: &std::path::Path) -> String {
    use std::fmt::Write;
    use std::os::unix::ffi::OsStrExt;
    let mut out = String::new();
    for chunk in path.as_os_str().as_bytes().utf8_chunks() {
        for c in chunk.valid().chars() {
            if c.is_control() {
                out.extend(c.escape_default());
            } else {
                out.push(c);
            }
        }
        for byte in chunk.invalid() {
            let _ = write!(out, "\\x{byte:02x}"); // writing to a String cannot fail
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;
    use std::path::Path;

    use super::*;

    #[test]
    fn names_are_shown_without_control_characters_or_lost_bytes() {
        let path = Path::new(OsStr::from_bytes(b"a\nb\xff\xc3\xa9"));
        assert_eq!(show(path), "a\\nb\\xff\u{e9}");
    }

    #[test]
    fn only_conditions_of_the_whole_destination_are_fatal() {
        for errno in [
            Errno::ENOSPC,
            Errno::EDQUOT,
            Errno::EROFS,
            Errno::ENOTCONN,
            Errno::ECONNABORTED,
            Errno::EHOSTDOWN,
        ] {
            assert!(FailureKind::of(errno).is_fatal(), "{errno}");
        }
        for errno in [Errno::EIO, Errno::EACCES, Errno::ENOENT, Errno::EMFILE] {
            assert!(!FailureKind::of(errno).is_fatal(), "{errno}");
        }
    }
}
