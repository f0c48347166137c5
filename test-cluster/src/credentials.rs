//! The keys of one control plane: who the API server is, who may speak to it, and what its service
//! account tokens are signed with. Made anew for each, and worth nothing beyond it.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context;
use kube::Config;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use serde_json::json;

/// The keys, and where they are.
pub(crate) struct Credentials {
    /// The certificate of the authority that vouches for the API server, as DER.
    pub(crate) authority: Vec<u8>,
    /// The same as PEM.
    pub(crate) authority_pem: String,
    /// The token of an administrator, in group `system:masters`.
    pub(crate) admin_token: String,
    /// Those of the further users, in the order in which they were given.
    pub(crate) user_tokens: Vec<String>,
    folder: PathBuf,
}

impl Credentials {
    /// Makes them in a folder, for a server with further names or addresses and for further users, each
    /// with a group.
    pub(crate) fn create(
        folder: &Path,
        further_names: &[&str],
        users: &[(&str, &str)],
    ) -> anyhow::Result<Self> {
        let mut authority = CertificateParams::default();
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().context("failed to make a key")?;
        let authority =
            CertifiedIssuer::self_signed(authority, key).context("failed to sign a certificate")?;

        let names = ["127.0.0.1", "localhost", "kubernetes.default.svc"];
        let names = names.iter().chain(further_names).map(|&name| name.to_owned());
        let key = KeyPair::generate().context("failed to make a key")?;
        let server = CertificateParams::new(names.collect::<Vec<_>>());
        let server = server.context("failed to name the server")?;
        let server = server.signed_by(&key, &authority).context("failed to sign a certificate")?;
        let tokens = KeyPair::generate().context("failed to make a key")?;
        let admin_token = random_token()?;
        let user_tokens = users.iter().map(|_| random_token()).collect::<anyhow::Result<_>>()?;

        let credentials = Self {
            authority: authority.der().to_vec(),
            authority_pem: authority.pem(),
            admin_token,
            user_tokens,
            folder: folder.to_owned(),
        };
        let mut tokens_list = format!("{},admin,admin,system:masters\n", credentials.admin_token);
        for (token, (user, group)) in credentials.user_tokens.iter().zip(users) {
            tokens_list += &format!("{token},{user},{user},{group}\n");
        }
        for (path, content) in [
            (credentials.certificate(), server.pem()),
            (credentials.key(), key.serialize_pem()),
            (credentials.token_key(), tokens.serialize_pem()),
            (credentials.token_check(), tokens.public_key_pem()),
            (credentials.tokens(), tokens_list),
            (credentials.authority_file(), credentials.authority_pem.clone()),
        ] {
            fs::write(&path, content)
                .with_context(|| format!("failed to write {}", path.display()))?;
        }
        Ok(credentials)
    }

    /// Writes a kubeconfig for a token of the API server at an address.
    pub(crate) fn write_kubeconfig(
        &self,
        file: &Path,
        server: &str,
        token: &str,
    ) -> anyhow::Result<()> {
        let content = json!({
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "test",
            "clusters": [{"name": "test", "cluster": {
                "server": server,
                "certificate-authority": self.authority_file(),
            }}],
            "users": [{"name": "test", "user": {"token": token}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
        });
        let text = serde_saphyr::to_string(&content).context("failed to write YAML")?;
        fs::write(file, text).with_context(|| format!("failed to write {}", file.display()))
    }

    /// How a client of the administrator connects to the API server at an address.
    pub(crate) fn config(&self, server: &str) -> Config {
        let address = server.parse().expect("the address is a valid URL");
        let mut config = Config::new(address);
        config.root_cert = Some(vec![self.authority.clone()]);
        config.auth_info.token = Some(self.admin_token.clone().into());
        config
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
