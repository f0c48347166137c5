//! What keeps a replica that does not lead from writing: all controllers speak to the API server through
//! one client, which lets a write out only while the Lease of the leader holds, and looks at the moment
//! when the write is sent. A replica that was stopped in the middle of something and goes on would
//! otherwise do it once on what it saw before. It also bounds the time that an answer may take.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use anyhow::Context as _;
use http::{Method, Request, Response};
use kube::client::{Body, ClientBuilder};
use kube::{Client, Config};
use tower::{BoxError, Layer, Service};

use crate::leader::Leadership;

/// The API server has this long to begin its answer.
const ANSWERS_WITHIN: Duration = Duration::from_secs(15);

/// The client of a replica.
///
/// # Errors
///
/// When the configuration is of no use.
pub(crate) fn client(config: Config, leadership: Leadership) -> anyhow::Result<Client> {
    let builder = ClientBuilder::try_from(config).context("failed to make a client")?;
    Ok(builder.with_layer(&Fence(leadership)).build())
}

/// Whether a write was held back here.
pub(crate) fn held_back(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Service(error) if error.is::<NotLeading>())
}

/// Another replica may lead by now.
#[derive(Debug, thiserror::Error)]
#[error("the Lease of the leader has run out")]
struct NotLeading;

/// The API server does not say anything.
#[derive(Debug, thiserror::Error)]
#[error("no answer within {ANSWERS_WITHIN:?}")]
struct Silence;

#[derive(Clone)]
struct Fence(Leadership);

impl<S> Layer<S> for Fence {
    type Service = Fenced<S>;

    fn layer(&self, inner: S) -> Fenced<S> {
        Fenced { inner, leadership: self.0.clone() }
    }
}

struct Fenced<S> {
    inner: S,
    leadership: Leadership,
}

impl<S, B> Service<Request<Body>> for Fenced<S>
where
    S: Service<Request<Body>, Response = Response<B>>,
    S::Error: Into<BoxError>,
    S::Future: Send + 'static,
{
    type Response = Response<B>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Response<B>, BoxError>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(context).map_err(Into::into)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        if *request.method() != Method::GET && !self.leadership.holds() {
            return Box::pin(async { Err(NotLeading.into()) });
        }
        let answer = self.inner.call(request);
        Box::pin(async move {
            match tokio::time::timeout(ANSWERS_WITHIN, answer).await {
                Ok(answer) => answer.map_err(Into::into),
                Err(_) => Err(Silence.into()),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use dm_service::since_boot;
    use tower::ServiceExt;

    use super::*;

    #[tokio::test]
    async fn only_a_leader_writes_and_everybody_reads() {
        let leadership = Leadership::default();
        let answer = async |method: Method| {
            let inner =
                tower::service_fn(async |_: Request<Body>| Ok::<_, BoxError>(Response::new(())));
            let request = Request::builder().method(method).body(Body::empty()).unwrap();
            let answer = Fence(leadership.clone()).layer(inner).oneshot(request).await;
            answer.map_err(kube::Error::Service)
        };
        let writes = [Method::POST, Method::PUT, Method::PATCH, Method::DELETE];
        let past = since_boot().checked_sub(Duration::from_millis(1));
        for (until, holds) in
            [(None, false), (past, false), (Some(since_boot() + Duration::from_secs(60)), true)]
        {
            leadership.set(until);
            for method in writes.clone() {
                match answer(method.clone()).await {
                    Ok(_) => assert!(holds, "{method} went out"),
                    Err(error) => assert!(!holds && held_back(&error), "{method}: {error}"),
                }
            }
            answer(Method::GET).await.unwrap();
        }
    }
}
