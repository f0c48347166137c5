//! Connections of the API server, ready to be read from: their handshakes are over, each within a time and
//! without keeping the others waiting, and there are only so many at once. It knows no HTTP.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use anyhow::Context as _;
use axum::serve::Listener;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::server::TlsStream;

use super::certificate::Presented;

/// Connections at once. An API server has few, and there are few API servers.
const MOST: usize = 128;

/// How long a handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(5);

/// How long is waited when no connection can be taken, for want of descriptors.
const PAUSE: Duration = Duration::from_millis(100);

/// The connections, as axum takes them.
pub(super) struct Connections {
    ready: mpsc::Receiver<(Connection, SocketAddr)>,
    address: SocketAddr,
}

impl Connections {
    /// Takes connections from a listener, under the certificate that is presented.
    ///
    /// # Errors
    ///
    /// When this machine's TLS cannot be set up.
    pub(super) fn new(
        listener: TcpListener,
        address: SocketAddr,
        presented: &Presented,
    ) -> anyhow::Result<Self> {
        let provider = Arc::new(ring::default_provider());
        let config =
            ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let config = config.context("failed to set up TLS")?;
        let mut config =
            config.with_no_client_auth().with_cert_resolver(Arc::new(presented.clone()));
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        let (sender, ready) = mpsc::channel(1);
        tokio::spawn(take(listener, TlsAcceptor::from(Arc::new(config)), sender));
        Ok(Self { ready, address })
    }
}

/// Takes connections until nobody wants them any more.
async fn take(
    listener: TcpListener,
    acceptor: TlsAcceptor,
    sender: mpsc::Sender<(Connection, SocketAddr)>,
) {
    let room = Arc::new(Semaphore::new(MOST));
    while let Ok(permit) = Arc::clone(&room).acquire_owned().await {
        let taken = tokio::select! {
            () = sender.closed() => return,
            taken = listener.accept() => taken,
        };
        let (stream, from) = match taken {
            Ok(taken) => taken,
            Err(error) => {
                tracing::warn!(%error, "no connection could be taken");
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        // An answer is sent in two pieces, and the second one must not wait for the first to be confirmed.
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%from, %error, "answers may be slow");
        }
        let (acceptor, sender) = (acceptor.clone(), sender.clone());
        tokio::spawn(async move {
            match tokio::time::timeout(HANDSHAKE, acceptor.accept(stream)).await {
                Ok(Ok(stream)) => {
                    // Nobody wants it any more when it cannot be sent.
                    drop(sender.send((Connection { stream, _permit: permit }, from)).await);
                }
                Ok(Err(error)) => tracing::debug!(%from, %error, "a handshake failed"),
                Err(_) => tracing::debug!(%from, "a handshake took too long"),
            }
        });
    }
}

impl Listener for Connections {
    type Io = Connection;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Connection, SocketAddr) {
        match self.ready.recv().await {
            Some(connection) => connection,
            None => std::future::pending().await,
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.address)
    }
}

/// One connection, which counts as long as it is there.
pub(super) struct Connection {
    stream: TlsStream<TcpStream>,
    _permit: OwnedSemaphorePermit,
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, into)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
