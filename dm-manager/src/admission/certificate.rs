//! The certificate that the webhook answers with, which is exchanged while it runs. It makes none.

use std::net::IpAddr;
use std::sync::{Arc, PoisonError, RwLock};

use anyhow::Context as _;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::{ClientHello, ResolvesServerCert};
use tokio_rustls::rustls::sign::CertifiedKey;

/// The certificate at this moment; while there is none, connections are refused. A clone is the same.
#[derive(Clone, Debug, Default)]
pub(super) struct Presented(Arc<RwLock<Option<Arc<CertifiedKey>>>>);

impl Presented {
    /// Presents another one from the next connection on.
    ///
    /// # Errors
    ///
    /// When they cannot be read, or the key is not that of the certificate. The one before stays.
    pub(super) fn set(
        &self,
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
    ) -> anyhow::Result<()> {
        let pair = CertifiedKey::from_der(chain, key, &ring::default_provider());
        let pair = pair.context("the certificate and the key are no pair")?;
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(pair));
        Ok(())
    }
}

impl ResolvesServerCert for Presented {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// The names under which the API server asks: that of the Service, and an address if it is a certain one.
pub(super) fn names(namespace: &str, address: IpAddr) -> Vec<String> {
    let service = format!("{}.{namespace}.svc", super::NAME);
    let address = (!address.is_unspecified()).then(|| address.to_string());
    [service].into_iter().chain(address).collect()
}
