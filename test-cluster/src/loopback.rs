//! Addresses of the loopback network, one for each pod, so that all pods can listen on the same port.
//! Linux has all of 127.0.0.0/8 without further ado.

use std::net::{Ipv4Addr, UdpSocket};

use anyhow::bail;

/// Up to 250 addresses that no other process of these tests has.
pub(crate) struct Addresses {
    network: [u8; 3],
    next: u8,
    /// What keeps other processes away: a port of the network's first address.
    _held: UdpSocket,
}

impl Addresses {
    /// Takes a free network.
    pub(crate) fn take() -> anyhow::Result<Self> {
        let start = std::process::id() % 60_000;
        for number in (start..start + 2_000).map(|number| number % 64_000 + 256) {
            let [_, _, high, low] = number.to_be_bytes();
            let held = UdpSocket::bind((Ipv4Addr::new(127, high, low, 1), 9));
            if let Ok(held) = held {
                return Ok(Self { network: [127, high, low], next: 1, _held: held });
            }
        }
        bail!("no network of the loopback addresses is free")
    }

    /// The next address.
    pub(crate) fn next(&mut self) -> anyhow::Result<Ipv4Addr> {
        if self.next >= 251 {
            *self = Self::take()?;
        }
        self.next += 1;
        let [a, b, c] = self.network;
        Ok(Ipv4Addr::new(a, b, c, self.next))
    }
}
