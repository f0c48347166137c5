//! What the manager and the worker have in common as programs that run for long: their log, their
//! runtime, their end, the clock by which they hold Leases, and what they answer over HTTP. It knows
//! nothing of what they do.
#![forbid(unsafe_code)]

mod clock;
mod log;
mod process;
mod server;

pub use clock::since_boot;
pub use log::{LogFormat, log_to_standard_error};
pub use process::{Ends, block_on, host_name};
pub use server::{Readiness, serve};
