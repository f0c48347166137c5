//! A free port of the loopback address, held as long as a server is to have it. It listens on none.

use std::os::fd::OwnedFd;

use anyhow::Context;
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrIn, bind, getsockname, setsockopt, socket, sockopt,
};

/// A port that nobody else gets. The server binds it beside this socket, which it has to allow (an
/// option of its own); since this one does not listen, every connection is the server's, and is refused
/// while the server is stopped.
pub(crate) struct Port {
    number: u16,
    _held: OwnedFd,
}

impl Port {
    /// Holds some free port.
    pub(crate) fn hold() -> anyhow::Result<Self> {
        let held = socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)
            .context("failed to make a socket")?;
        setsockopt(&held, sockopt::ReusePort, &true).context("failed to share a port")?;
        bind(std::os::fd::AsRawFd::as_raw_fd(&held), &SockaddrIn::new(127, 0, 0, 1, 0))
            .context("failed to bind a port of the loopback address")?;
        let bound: SockaddrIn = getsockname(std::os::fd::AsRawFd::as_raw_fd(&held))
            .context("failed to read a socket's port")?;
        Ok(Self { number: bound.port(), _held: held })
    }

    /// Its number.
    pub(crate) fn number(&self) -> u16 {
        self.number
    }
}
