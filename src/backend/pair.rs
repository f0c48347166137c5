//! What is learned about a pair of filesystems while copying between them: one attempt decides for
//! the rest of the run. It makes no attempt itself.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};

use nix::errno::Errno;

/// Refusals in a row after which cloning is given up. One refusal can be the file's own fault (a
/// swap file, a NOCOW flag), several are the filesystem's.
const CLONE_REFUSALS: u32 = 3;

/// A source and a destination filesystem.
#[derive(Debug)]
pub(crate) struct Pair {
    clone_refusals: AtomicU32,
    clone_worked: AtomicBool,
    nowait_refused: AtomicBool,
    xattrs_absent: AtomicBool,
}

impl Pair {
    /// A pair of which nothing is known; `clone` says whether cloning may be tried.
    pub(crate) fn new(clone: bool) -> Self {
        Self {
            clone_refusals: AtomicU32::new(if clone { 0 } else { CLONE_REFUSALS }),
            clone_worked: AtomicBool::new(false),
            nowait_refused: AtomicBool::new(false),
            xattrs_absent: AtomicBool::new(false),
        }
    }

    /// Whether to try FICLONE.
    pub(crate) fn may_clone(&self) -> bool {
        self.clone_worked.load(Relaxed) || self.clone_refusals.load(Relaxed) < CLONE_REFUSALS
    }

    /// Notes that a clone worked.
    pub(crate) fn cloned(&self) {
        self.clone_worked.store(true, Relaxed);
    }

    /// Notes a refused clone. False means that the errno is a real failure (no space, I/O error).
    pub(crate) fn clone_refused(&self, errno: Errno) -> bool {
        match errno {
            // Nothing about these two filesystems will change.
            Errno::EXDEV | Errno::EOPNOTSUPP | Errno::ENOTTY | Errno::ENOSYS => {
                self.clone_refusals.store(CLONE_REFUSALS, Relaxed);
                true
            }
            Errno::EINVAL | Errno::EPERM | Errno::ETXTBSY | Errno::EACCES => {
                self.clone_refusals.fetch_add(1, Relaxed);
                true
            }
            _ => false,
        }
    }

    /// Whether the source's filesystem can say "not in memory" instead of blocking.
    pub(crate) fn reads_without_waiting(&self) -> bool {
        !self.nowait_refused.load(Relaxed)
    }

    /// Notes that it cannot.
    pub(crate) fn cannot_read_without_waiting(&self) {
        self.nowait_refused.store(true, Relaxed);
    }

    /// Whether the source's filesystem may have extended attributes.
    pub(crate) fn may_have_xattrs(&self) -> bool {
        !self.xattrs_absent.load(Relaxed)
    }

    /// Notes that it has none.
    pub(crate) fn has_no_xattrs(&self) {
        self.xattrs_absent.store(true, Relaxed);
    }
}
