//! Why a file was not given another layout: a word to count by, and a sentence that says what to do.

use std::io;

use nix::errno::Errno;
use thiserror::Error;

use crate::exit::Outcome;

/// Why a file was left as it is.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum Refused {
    /// No regular file.
    #[error("only regular files can be restriped; for all of a tree use find -type f -exec")]
    NotAFile,
    /// On another filesystem.
    #[error("it does not lie on Lustre")]
    NotLustre,
    /// It has further names, which would keep the old layout and become another file.
    #[error("it has {names} names (hard links), which would become different files")]
    HardLinked {
        /// How many.
        names: u64,
    },
    /// Its inode may not be replaced.
    #[error("it is immutable or append-only; see chattr(1)")]
    Immutable,
    /// Its data is in an archive.
    #[error("it is released: its data is only in the archive; restore it first (lfs hsm_restore)")]
    Released,
    /// Its layout is none that Longshore understands.
    #[error("its layout is foreign or unknown")]
    Unknown,
    /// It has no layout yet.
    #[error("it has no layout yet; set one with lfs setstripe before it is written to")]
    Empty,
    /// Nothing says which layout it should have.
    #[error("the directory's default cannot be read, and nothing else was asked for")]
    Unchosen,
    /// A process on this machine has it open for writing.
    #[error("it is open for writing; try again when nobody writes to it")]
    OpenForWriting,
    /// Another `longshore restripe` is at it.
    #[error("another process is restriping it, or holds a lock on it")]
    InUse,
    /// Two runs could not be told apart.
    #[error("the filesystem is mounted without locks; mount it with -o flock")]
    NoLocks,
    /// Something else has the name of the copy.
    #[error("{0:?} is in the way; remove it")]
    InTheWay(String),
    /// It changed meanwhile.
    #[error("it changed while it was copied; it was left as it is")]
    Changed,
    /// The servers gave the copy the layout that the file has.
    #[error("the servers granted no other layout than it has")]
    NotGranted,
    /// It was written to in the moment of the swap, where names cannot be exchanged.
    #[error("it was written to while the copy was moved into place: what was written then is lost")]
    LateWrite,
    /// It was written to in the moment of the swap, and could not be put back.
    #[error(
        "it was written to while the copy was moved into place, and could not be put back: it is \
         {0} now; move it over the copy"
    )]
    KeptAside(String),
    /// The copy failed, or lost something.
    #[error("the copy failed: {0}")]
    Copy(String),
    /// The user stopped it.
    #[error("cancelled")]
    Cancelled(Outcome),
    /// The system refused something.
    #[error("failed to {action}")]
    System {
        /// "failed to {action}".
        action: &'static str,
        /// What the system said.
        source: io::Error,
    },
}

impl Refused {
    /// The word that it is counted by; stable.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            Self::NotAFile => "not-a-file",
            Self::NotLustre => "not-lustre",
            Self::HardLinked { .. } => "hard-linked",
            Self::Immutable => "immutable",
            Self::Released => "released",
            Self::Unknown => "unknown-layout",
            Self::Empty => "no-layout",
            Self::Unchosen => "no-choice",
            Self::OpenForWriting => "open-for-writing",
            Self::InUse => "in-use",
            Self::NoLocks => "no-locks",
            Self::InTheWay(_) => "in-the-way",
            Self::Changed => "changed",
            Self::NotGranted => "not-granted",
            Self::LateWrite => "late-write",
            Self::KeptAside(_) => "kept-aside",
            Self::Copy(_) => "copy-failed",
            Self::Cancelled(_) => "cancelled",
            Self::System { .. } => "system",
        }
    }

    /// Attaches what was being done to an errno.
    pub(super) fn at(action: &'static str) -> impl Fn(Errno) -> Self {
        move |errno| Self::System { action, source: errno.into() }
    }

    /// Attaches what was being done to an error.
    pub(super) fn io(action: &'static str) -> impl Fn(io::Error) -> Self {
        move |source| Self::System { action, source }
    }
}
