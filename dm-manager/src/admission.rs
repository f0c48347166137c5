//! The webhook that the API server asks before it stores an object: what the controllers would refuse later
//! is refused here, by the same functions and in the same words, while its author is still looking. It
//! writes no object that it is asked about, and nothing depends on it.

mod authority;
mod certificate;
mod connections;
mod directory;
mod judge;
mod keeper;
mod review;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context as _;
use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::routing::post;
use tokio::net::TcpListener;

use self::certificate::Presented;
use self::connections::Connections;
use self::judge::Judge;
use self::keeper::Keeper;
use self::review::Answering;
use crate::context::Context;
use crate::worker_set;

/// The name of everything that belongs to it: the ValidatingWebhookConfiguration, the Service and the Secret.
pub(crate) const NAME: &str = "longshore-admission";

/// The longest question: an object before and after, each of which etcd would still take, and some more.
const LONGEST_QUESTION: usize = 8 << 20;

/// How the API server is answered.
#[derive(Clone, Debug, clap::Args)]
#[group(id = "admission")]
pub(crate) struct Args {
    /// Where the API server is told, over HTTPS, what the controllers would refuse. Without it nothing
    /// is refused before it is stored
    #[arg(long, value_name = "ADDRESS")]
    admission_listen: Option<SocketAddr>,

    /// A directory with tls.crt and tls.key, which somebody else renews, and then tells the API server
    /// whom to trust as well. Without it the manager does both
    #[arg(long, value_name = "DIRECTORY", requires = "admission_listen")]
    admission_certificates: Option<PathBuf>,
}

/// What answers the API server, on an address of its own.
pub(crate) struct Server(Option<Bound>);

struct Bound {
    listener: TcpListener,
    address: SocketAddr,
    certificates: Option<PathBuf>,
}

impl Server {
    /// Listens, if that is asked for.
    ///
    /// # Errors
    ///
    /// When the address cannot be listened on.
    pub(crate) async fn bind(args: &Args) -> anyhow::Result<Self> {
        let Some(address) = args.admission_listen else { return Ok(Self(None)) };
        let listener = TcpListener::bind(address).await;
        let listener = listener.with_context(|| format!("failed to listen on {address}"))?;
        let address = listener.local_addr().context("failed to ask for the address")?;
        tracing::info!(%address, "listening for the API server");
        let certificates = args.admission_certificates.clone();
        Ok(Self(Some(Bound { listener, address, certificates })))
    }

    /// Answers, and keeps the certificate that it answers with, until dropped.
    pub(crate) async fn run(self, context: &Context, workers: &worker_set::Args) {
        let Some(Bound { listener, address, certificates }) = self.0 else {
            return std::future::pending().await;
        };
        let presented = Presented::default();
        let answering = Arc::new(Answering {
            judge: Judge::new(context, workers.keep_workers()),
            metrics: context.metrics.clone(),
        });
        let routes = Router::new()
            .route("/admit", post(review::answer))
            .layer(DefaultBodyLimit::max(LONGEST_QUESTION))
            .with_state(answering);
        let serve = async {
            let connections = match Connections::new(listener, address, &presented) {
                Ok(connections) => connections,
                Err(error) => {
                    tracing::error!(error = format!("{error:#}"), "admission cannot be served");
                    return std::future::pending().await;
                }
            };
            if let Err(error) = axum::serve(connections, routes).await {
                tracing::error!(%error, "failed to serve admission");
            }
        };
        match certificates {
            Some(directory) => {
                tokio::join!(serve, directory::keep(&directory, &presented));
            }
            None => {
                let names = certificate::names(&context.namespace, address.ip());
                let keeper = Keeper::new(context, names, presented.clone());
                tokio::join!(serve, keeper.keep());
            }
        }
    }
}
