//! The clock that the worker and its movers share, and times as the API server has them. It waits for
//! nothing.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use nix::time::{ClockId, clock_gettime};

/// The time since this machine was started, suspended times included. Processes of one machine agree on
/// it, nobody sets it, and it goes on while a process is stopped.
pub(crate) fn since_boot() -> Duration {
    let now =
        clock_gettime(ClockId::CLOCK_BOOTTIME).expect("the kernel has this clock since 2.6.39");
    Duration::from(now)
}

/// The time of day, for an object.
pub(crate) fn now() -> MicroTime {
    MicroTime(Timestamp::now())
}
