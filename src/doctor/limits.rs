//! Limits of this process that the engine meets: open files and locked memory. It raises none.

use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit};
use serde::Serialize;

use super::kernel::read;

/// Limits of this process.
#[derive(Debug, Clone, Serialize)]
pub struct LimitFacts {
    /// Open files, in descriptors.
    pub open_files: Limit,
    /// Locked memory, in bytes.
    pub locked_memory_bytes: Limit,
    /// Whether this process may lock memory past that limit (`CAP_IPC_LOCK`).
    pub may_exceed_locked_memory: bool,
}

/// A limit; `None` is "unlimited".
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Limit {
    /// What applies now.
    pub soft: Option<u64>,
    /// How far this process may raise it.
    pub hard: Option<u64>,
}

impl LimitFacts {
    /// Looks at this process.
    #[must_use]
    pub fn examine() -> Self {
        let status = read("/proc/self/status").unwrap_or_default();
        let effective = status_field(&status, "CapEff")
            .and_then(|mask| u64::from_str_radix(mask, 16).ok())
            .unwrap_or(0);
        Self {
            open_files: Limit::of(Resource::RLIMIT_NOFILE),
            locked_memory_bytes: Limit::of(Resource::RLIMIT_MEMLOCK),
            may_exceed_locked_memory: effective & CAP_IPC_LOCK != 0,
        }
    }
}

/// Bit of the capability in `CapEff` (`linux/capability.h`).
const CAP_IPC_LOCK: u64 = 1 << 14;

impl Limit {
    fn of(resource: Resource) -> Self {
        // Fails only for a resource that the kernel does not know; these two are as old as Unix.
        let (soft, hard) = getrlimit(resource).unwrap_or((RLIM_INFINITY, RLIM_INFINITY));
        let known = |value| (value != RLIM_INFINITY).then_some(value);
        Self { soft: known(soft), hard: known(hard) }
    }
}

/// A field of `/proc/…/status`.
pub(super) fn status_field<'a>(status: &'a str, name: &str) -> Option<&'a str> {
    status.lines().find_map(|line| Some(line.strip_prefix(name)?.strip_prefix(':')?.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_field_is_found_by_its_whole_name() {
        let status = "Seccomp_filters:\t1\nSeccomp:\t2\n";
        assert_eq!(status_field(status, "Seccomp"), Some("2"));
        assert_eq!(status_field(status, "Cap"), None);
    }
}
