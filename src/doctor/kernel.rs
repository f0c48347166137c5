//! What the kernel lets this process do: release, `io_uring`, huge pages, cores. Read from `/proc`
//! and `/sys` and by setting up a real ring; nothing is configured.

use nix::errno::Errno;
use serde::Serialize;

use crate::sys;

/// The kernel and what it lets this process do.
#[derive(Debug, Clone, Serialize)]
pub struct KernelFacts {
    /// `uname -r`.
    pub release: String,
    /// Cores that this process may use (affinity and cgroup counted).
    pub cores: usize,
    /// Whether a ring can be used.
    pub io_uring: Uring,
    /// The chosen word of `transparent_hugepage/enabled`: `always`, `madvise` or `never`; absent
    /// where the kernel has none.
    pub transparent_huge_pages: Option<String>,
}

/// Whether a ring can be used, found by setting one up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Uring {
    /// What came of it.
    pub state: UringState,
    /// The errno's name, when it was refused.
    pub errno: Option<String>,
    /// `kernel.io_uring_disabled`; absent before Linux 6.6.
    pub disabled_sysctl: Option<u8>,
    /// The words for people.
    pub detail: String,
}

/// What came of setting up a ring.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum UringState {
    /// It works, and knows the operations that the engine needs.
    Available,
    /// Switched off by `kernel.io_uring_disabled`.
    Disabled,
    /// A seccomp filter or a security module refuses the calls.
    Filtered,
    /// The kernel has none.
    Absent,
    /// The limit of locked memory is too small even for a small ring.
    LockedMemory,
    /// The kernel is too old for plain reads and writes (before Linux 5.6).
    Incomplete,
    /// Refused for another reason.
    Refused,
}

impl KernelFacts {
    /// Looks at the running kernel.
    #[must_use]
    pub fn examine() -> Self {
        let release = nix::sys::utsname::uname().map_or_else(
            |_| "unknown".to_owned(),
            |name| name.release().to_string_lossy().into_owned(),
        );
        Self {
            release,
            cores: std::thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get),
            io_uring: Uring::of(
                sys::ring::probe().err(),
                read("/proc/sys/kernel/io_uring_disabled").and_then(|text| text.parse().ok()),
                seccomp_filter(),
            ),
            transparent_huge_pages: read("/sys/kernel/mm/transparent_hugepage/enabled")
                .and_then(|text| chosen(&text)),
        }
    }
}

impl Uring {
    /// Explains a refusal. EPERM comes from the sysctl or from a filter, and a filter may answer
    /// ENOSYS as if the kernel had no ring; the sysctl and the process's seccomp mode tell which.
    fn of(refusal: Option<Errno>, disabled_sysctl: Option<u8>, seccomp_filter: bool) -> Self {
        let sysctl = match disabled_sysctl {
            Some(1) => "kernel.io_uring_disabled is 1: only for privileged processes and a group",
            Some(2) => "kernel.io_uring_disabled is 2: for nobody",
            _ => "",
        };
        let has_filter = if seccomp_filter { " (this process has a seccomp filter)" } else { "" };
        let (state, detail) = match refusal {
            None => (UringState::Available, "a ring was set up".to_owned()),
            Some(Errno::EPERM) if !sysctl.is_empty() => (UringState::Disabled, sysctl.to_owned()),
            Some(Errno::EPERM | Errno::EACCES) => (
                UringState::Filtered,
                format!("filtered: the kernel has it, but refuses it here{has_filter}"),
            ),
            // The sysctl exists only where the kernel has the ring.
            Some(Errno::ENOSYS) if seccomp_filter || disabled_sysctl.is_some() => (
                UringState::Filtered,
                format!("filtered: the call is hidden from this process{has_filter}"),
            ),
            Some(Errno::ENOSYS) => (UringState::Absent, "not in this kernel".to_owned()),
            Some(Errno::ENOMEM) => (
                UringState::LockedMemory,
                "the locked-memory limit is too small for a ring".to_owned(),
            ),
            Some(Errno::EOPNOTSUPP | Errno::EINVAL) => (
                UringState::Incomplete,
                "older than Linux 5.6: no plain reads and writes".to_owned(),
            ),
            Some(errno) => (UringState::Refused, errno.desc().to_owned()),
        };
        let errno = refusal.map(|errno| format!("{errno:?}"));
        Self { state, errno, disabled_sysctl, detail }
    }
}

/// Whether a seccomp filter applies to this thread (`Seccomp: 2` in `/proc/thread-self/status`).
fn seccomp_filter() -> bool {
    read("/proc/thread-self/status")
        .is_some_and(|status| super::limits::status_field(&status, "Seccomp") == Some("2"))
}

/// The word in brackets: `always [madvise] never`.
fn chosen(text: &str) -> Option<String> {
    Some(text.split_once('[')?.1.split_once(']')?.0.to_owned())
}

/// A small file of `/proc` or `/sys`; what cannot be read is not known.
pub(super) fn read(path: &str) -> Option<String> {
    Some(std::fs::read_to_string(path).ok()?.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_of_the_ring_are_told_apart() {
        let state = |errno, sysctl, filter| Uring::of(errno, sysctl, filter).state;
        assert_eq!(state(None, Some(0), false), UringState::Available);
        assert_eq!(state(Some(Errno::EPERM), Some(2), false), UringState::Disabled);
        assert_eq!(state(Some(Errno::EPERM), Some(1), true), UringState::Disabled);
        assert_eq!(state(Some(Errno::EPERM), Some(0), false), UringState::Filtered);
        assert_eq!(state(Some(Errno::EPERM), None, true), UringState::Filtered);
        assert_eq!(state(Some(Errno::ENOSYS), Some(0), false), UringState::Filtered);
        assert_eq!(state(Some(Errno::ENOSYS), None, true), UringState::Filtered);
        assert_eq!(state(Some(Errno::ENOSYS), None, false), UringState::Absent);
        assert_eq!(state(Some(Errno::ENOMEM), None, false), UringState::LockedMemory);
        assert_eq!(state(Some(Errno::EIO), None, false), UringState::Refused);
    }

    #[test]
    fn the_chosen_huge_page_mode_is_in_brackets() {
        assert_eq!(chosen("always [madvise] never").as_deref(), Some("madvise"));
        assert_eq!(chosen("nonsense"), None);
    }
}
