//! The keys of one control plane: who the API server is, who may speak to it, and what its service
//! account tokens are signed with. Made anew for each, and worth nothing beyond it.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};

/// The keys, and where they are.
pub(crate) struct Credentials {
    /// The certificate of the authority that vouches for the API server, as DER.
    pub(crate) authority: Vec<u8>,
    /// The same as PEM.
    pub(crate) authority_pem: String,
    /// The token of an administrator, in group `system:masters`.
    pub(crate) admin_token: String,
    folder: PathBuf,
}

impl Credentials {
    /// Makes them in a folder.
    pub(crate) fn create(folder: &Path) -> anyhow::Result<Self> {
        let mut authority = CertificateParams::default();
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().context("failed to make a key")?;
        let authority =
            CertifiedIssuer::self_signed(authority, key).context("failed to sign a certificate")?;

        let names =
            ["127.0.0.1".to_owned(), "localhost".to_owned(), "kubernetes.default.svc".to_owned()];
        let key = KeyPair::generate().context("failed to make a key")?;
        let server = CertificateParams::new(names).context("failed to name the server")?;
        let server = server.signed_by(&key, &authority).context("failed to sign a certificate")?;
        let tokens = KeyPair::generate().context("failed to make a key")?;
        let admin_token = random_token()?;

        let credentials = Self {
            authority: authority.der().to_vec(),
            authority_pem: authority.pem(),
            admin_token,
            folder: folder.to_owned(),
        };
        let admin = format!("{},admin,admin,system:masters\n", credentials.admin_token);
        for (path, content) in [
            (credentials.certificate(), server.pem()),
            (credentials.key(), key.serialize_pem()),
            (credentials.token_key(), tokens.serialize_pem()),
            (credentials.token_check(), tokens.public_key_pem()),
            (credentials.tokens(), admin),
            (credentials.authority_file(), credentials.authority_pem.clone()),
        ] {
            fs::write(&path, content)
                .with_context(|| format!("failed to write {}", path.display()))?;
        }
        Ok(credentials)
    }

    /// The API server's certificate.
    pub(crate) fn certificate(&self) -> PathBuf {
        self.folder.join("server.crt")
    }

    /// The API server's key.
    pub(crate) fn key(&self) -> PathBuf {
        self.folder.join("server.key")
    }

    /// The key that service account tokens are signed with.
    pub(crate) fn token_key(&self) -> PathBuf {
        self.folder.join("service-accounts.key")
    }

    /// The key that service account tokens are checked with.
    pub(crate) fn token_check(&self) -> PathBuf {
        self.folder.join("service-accounts.pub")
    }

    /// The list of tokens with their users and groups.
    pub(crate) fn tokens(&self) -> PathBuf {
        self.folder.join("tokens.csv")
    }

    /// The authority's certificate.
    pub(crate) fn authority_file(&self) -> PathBuf {
        self.folder.join("authority.crt")
    }
}

fn random_token() -> anyhow::Result<String> {
    // A key is as hard to guess as a token has to be, and there is a generator for it here already.
    let key = KeyPair::generate().context("failed to make a token")?;
    let bytes = key.serialize_der();
    Ok(bytes.iter().rev().take(32).map(|byte| format!("{byte:02x}")).collect())
}
