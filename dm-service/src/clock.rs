//! The clock by which Leases are held.

use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

/// The time since this machine was started, suspended times included. Processes of one machine agree on
/// it, nobody sets it, and it goes on while a process is stopped.
///
/// # Panics
///
/// On a kernel that lacks the clock, which is older than this program.
pub fn since_boot() -> Duration {
    let now =
        clock_gettime(ClockId::CLOCK_BOOTTIME).expect("the kernel has this clock since 2.6.39");
    Duration::from(now)
}
