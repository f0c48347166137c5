//! What the manager and the worker have in common as programs that run for long: their log, their
//! runtime, their end, the clock by which they hold Leases, how they speak to the API server and
//! whose turn it is, and what they answer over HTTP. It knows nothing of what they do.
#![forbid(unsafe_code)]

mod api_server;
mod clock;
mod log;
mod process;
mod server;
mod turns;

pub use api_server::{api_server, watching};
pub use clock::since_boot;
pub use log::{LogFormat, log_to_standard_error};
pub use process::{Ends, block_on, host_name};
pub use server::{Readiness, serve};
pub use turns::{Step, Turn, Turns};
