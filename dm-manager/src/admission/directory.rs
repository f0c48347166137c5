//! A certificate that somebody else keeps in a directory, such as cert-manager by way of a mounted Secret.
//! It is read again and again; nothing is written.

use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

use super::certificate::Presented;

/// How often is looked whether there is another one.
const PERIOD: Duration = Duration::from_secs(2);

/// Presents what is in a directory, whenever that changes, until dropped. What cannot be used is told once,
/// and the certificate before is presented on: the two files may have been read between two writes.
pub(super) async fn keep(directory: &Path, presented: &Presented) {
    let mut said = None;
    let mut before = None;
    loop {
        let problem = match load(directory, presented, &mut before) {
            Ok(false) => None,
            Ok(true) => {
                tracing::info!(directory = %directory.display(), "took a certificate");
                None
            }
            Err(error) => Some(format!("{error:#}")),
        };
        if let Some(error) = problem.as_ref().filter(|_| problem != said) {
            tracing::warn!(error, "no certificate could be taken");
        }
        said = problem;
        tokio::time::sleep(PERIOD).await;
    }
}

/// Presents what is there if it is not what was `before`; whether it is not.
fn load(
    directory: &Path,
    presented: &Presented,
    before: &mut Option<[Vec<u8>; 2]>,
) -> anyhow::Result<bool> {
    let read = |name: &str| {
        let path = directory.join(name);
        std::fs::read(&path).with_context(|| format!("failed to read {}", path.display()))
    };
    let now = [read("tls.crt")?, read("tls.key")?];
    if before.as_ref() == Some(&now) {
        return Ok(false);
    }
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&now[0]).collect();
    let chain = chain.context("tls.crt is no list of certificates")?;
    let key = PrivateKeyDer::from_pem_slice(&now[1]).ok().context("tls.key is no private key")?;
    presented.set(chain, key)?;
    *before = Some(now);
    Ok(true)
}
