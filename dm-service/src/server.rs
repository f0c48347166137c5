//! What a program answers over HTTP: whether it lives (`/healthz`), whether it is of use (`/readyz`),
//! and its numbers (`/metrics`). It changes nothing.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Context as _;
use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;
use tokio::net::TcpListener;

/// Whether a program is of use, which it says itself. A clone is the same.
#[derive(Clone, Debug, Default)]
pub struct Readiness(Arc<AtomicBool>);

impl Readiness {
    /// Says whether it is.
    pub fn set(&self, ready: bool) {
        self.0.store(ready, Ordering::Relaxed);
    }

    fn get(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// Answers on an address until the process ends; `numbers` are the text of `/metrics`.
///
/// # Errors
///
/// When the address cannot be listened on.
pub async fn serve(
    address: SocketAddr,
    numbers: impl Fn() -> anyhow::Result<String> + Clone + Send + Sync + 'static,
    readiness: Readiness,
) -> anyhow::Result<()> {
    let listener = TcpListener::bind(address).await;
    let listener = listener.with_context(|| format!("failed to listen on {address}"))?;
    let address = listener.local_addr().context("failed to ask for the address")?;
    tracing::info!(%address, "listening");
    let routes = Router::new()
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(ready))
        .with_state(readiness)
        .route("/metrics", get(async move || text(numbers())));
    tokio::spawn(async move {
        if let Err(error) = axum::serve(listener, routes).await {
            tracing::error!(%error, "failed to serve");
        }
    });
    Ok(())
}

async fn ready(State(readiness): State<Readiness>) -> (StatusCode, &'static str) {
    match readiness.get() {
        true => (StatusCode::OK, "ok\n"),
        false => (StatusCode::SERVICE_UNAVAILABLE, "not ready\n"),
    }
}

fn text(numbers: anyhow::Result<String>) -> Result<String, (StatusCode, String)> {
    numbers.map_err(|error| (StatusCode::INTERNAL_SERVER_ERROR, format!("{error:#}")))
}
