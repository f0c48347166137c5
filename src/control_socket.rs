//! The control socket of a running copy: status, pause, limits, from another process of the same user.
//! [`Server`] is the copy's end, [`client`] the other. The format is in `docs/control.md`. Nothing here
//! can make a copy fail.

pub mod client;
pub mod place;
mod server;
pub mod wire;

pub use place::Place;
pub use server::Server;
