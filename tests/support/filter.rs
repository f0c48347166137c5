//! A seccomp filter as a container runtime installs one: chosen system calls fail with an errno.
//! It holds for the calling thread and what it starts, so the caller is a thread of its own.

use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, apply_filter};

/// Denies the system calls in this thread and its children.
pub fn deny_in_this_thread(syscalls: &[i64], errno: u32) {
    let rules = syscalls.iter().map(|number| (*number, Vec::new())).collect();
    let arch = std::env::consts::ARCH.try_into().expect("seccompiler knows this architecture");
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, SeccompAction::Errno(errno), arch);
    let program: BpfProgram =
        filter.and_then(TryInto::try_into).expect("failed to build the filter");
    apply_filter(&program).expect("failed to install the filter");
}
