//! What stands between a node and the API server: a TCP proxy that can be cut. It does not look at what
//! passes.

use std::net::SocketAddr;

use anyhow::Context;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// How a node reaches the API server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Link {
    /// As it should.
    Up,
    /// Not at all, and is told so: connections end, new ones are closed at once.
    Refused,
    /// Not at all, and is not told: nothing passes any more, connections stay open until the link is up
    /// again, when they end.
    Silent,
}

/// The proxy of one node.
pub(crate) struct Proxy {
    /// Where it listens.
    pub(crate) address: SocketAddr,
    link: watch::Sender<Link>,
}

impl Proxy {
    /// Starts one, on the current runtime.
    pub(crate) async fn start(target: SocketAddr) -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await.context("failed to listen")?;
        let address = listener.local_addr().context("a listener has no address")?;
        let (link, state) = watch::channel(Link::Up);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(serve(client, target, state.clone()));
            }
        });
        Ok(Self { address, link })
    }

    /// Sets how the node reaches the API server.
    pub(crate) fn set(&self, link: Link) {
        self.link.send_replace(link);
    }
}

/// One connection, until it ends or the link changes.
async fn serve(mut client: TcpStream, target: SocketAddr, mut link: watch::Receiver<Link>) {
    let state = *link.borrow_and_update();
    let mut server = None;
    if state == Link::Up {
        let Ok(mut connected) = TcpStream::connect(target).await else { return };
        tokio::select! {
            // Whatever ends it: both sides see the end of their connection.
            _ = copy_bidirectional(&mut client, &mut connected) => return,
            changed = link.changed() => if changed.is_err() { return },
        }
        server = Some(connected);
    }
    while *link.borrow_and_update() == Link::Silent {
        if link.changed().await.is_err() {
            break;
        }
    }
    drop((client, server));
}
