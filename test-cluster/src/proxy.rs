//! What stands between a program and the API server: a TCP proxy that can be cut. It does not look at what
//! passes.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use anyhow::Context;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use crate::ControlPlane;

/// A connection on which the client has said nothing for so long is one that only listens.
const QUIET: Duration = Duration::from_secs(3);

/// How a node or a program reaches the API server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Link {
    /// As it should.
    Up,
    /// Not at all, and is told so: connections end, new ones are closed at once.
    Refused,
    /// Not at all, and is not told: nothing passes any more, connections stay open until the link
    /// changes again, when they end.
    Silent,
    /// As it should, but for the connections that only listened when this began: they are forgotten,
    /// and nobody is told.
    Forgetful,
}

/// The proxy of one node or program.
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

    /// Sets how the API server is reached.
    pub(crate) fn set(&self, link: Link) {
        self.link.send_replace(link);
    }
}

/// The way of one program to the API server.
pub struct Way {
    proxy: Proxy,
    kubeconfig: PathBuf,
}

impl Way {
    /// The kubeconfig that leads over it, of an administrator.
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// Sets how the API server is reached.
    pub fn set(&self, link: Link) {
        self.proxy.set(link);
    }
}

impl ControlPlane {
    /// A way to the API server that can be cut. It belongs to the runtime that it is made on.
    ///
    /// # Errors
    ///
    /// When there is no port, or the kubeconfig cannot be written.
    pub async fn way(&self) -> anyhow::Result<Way> {
        let target = self.address();
        let target = target.trim_start_matches("https://").parse();
        let proxy = Proxy::start(target.context("the API server has no address")?).await?;
        let kubeconfig = self.directory().join(format!("kubeconfig-{}", proxy.address.port()));
        self.write_kubeconfig_by(&kubeconfig, &format!("https://{}", proxy.address))?;
        Ok(Way { proxy, kubeconfig })
    }
}

/// One connection, until it ends or the link changes.
async fn serve(client: TcpStream, target: SocketAddr, mut link: watch::Receiver<Link>) {
    let state = *link.borrow_and_update();
    if matches!(state, Link::Up | Link::Forgetful) {
        let Ok(server) = TcpStream::connect(target).await else { return };
        let spoken = Mutex::new(Instant::now());
        let (mut from_client, mut to_client) = client.into_split();
        let (mut from_server, mut to_server) = server.into_split();
        let traffic = async {
            // Whatever ends it: both sides see the end of their connection.
            tokio::select! {
                () = pass(&mut from_client, &mut to_server, Some(&spoken)) => {}
                () = pass(&mut from_server, &mut to_client, None) => {}
            }
        };
        tokio::pin!(traffic);
        loop {
            tokio::select! {
                () = &mut traffic => return,
                changed = link.changed() => if changed.is_err() { return },
            }
            let quiet = spoken.lock().is_ok_and(|spoken| spoken.elapsed() > QUIET);
            match *link.borrow_and_update() {
                Link::Up => {}
                Link::Forgetful if !quiet => {}
                _ => break,
            }
        }
        hold(&mut link).await;
    } else {
        hold(&mut link).await;
    }
}

/// Keeps a dead connection open until the link changes.
async fn hold(link: &mut watch::Receiver<Link>) {
    let state = *link.borrow_and_update();
    if state != Link::Refused {
        // An error is the end of the proxy.
        drop(link.wait_for(|now| *now != state).await);
    }
}

/// Passes bytes on in one direction until that ends.
async fn pass(
    from: &mut (impl AsyncRead + Unpin),
    to: &mut (impl AsyncWrite + Unpin),
    spoken: Option<&Mutex<Instant>>,
) {
    let mut buffer = vec![0; 16 << 10];
    while let Ok(read @ 1..) = from.read(&mut buffer).await {
        if let Some(Ok(mut spoken)) = spoken.map(Mutex::lock) {
            *spoken = Instant::now();
        }
        if to.write_all(&buffer[..read]).await.is_err() {
            return;
        }
    }
}
