//! Keeps the certificate of the webhook: the authorities in a Secret that all replicas share, what the API
//! server is told of them, and the certificate that this replica has from one. Several replicas may do it at
//! once: every write is conditional on what was read, and whoever comes second takes what is there.

use std::collections::HashMap;
use std::time::Duration;

use anyhow::Context as _;
use jiff::Timestamp;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use kube::api::{ApiResource, DynamicObject, GroupVersionKind, PostParams};
use tokio::time::Instant;

use super::NAME;
use super::authority::{Authorities, is_old};
use super::certificate::Presented;
use crate::context::Context;

/// How often is looked whether everything is as it should be, and how soon after a conflict.
const PERIOD: Duration = Duration::from_secs(5);
const AGAIN: Duration = Duration::from_millis(500);

/// How long the API server has been told of an authority before it meets a certificate from it.
const TOLD: Duration = Duration::from_secs(5);

/// The entry of the Secret.
const ENTRY: &str = "authorities.json";

/// Keeps it.
pub(super) struct Keeper {
    secrets: Api<Secret>,
    configurations: Api<DynamicObject>,
    names: Vec<String>,
    presented: Presented,
    /// Since when the API server has been told of an authority, by its certificate, as far as was seen.
    told: HashMap<String, Instant>,
    /// The authority of the certificate that is presented, and when it was made.
    issued: Option<(String, Timestamp)>,
    /// What was logged last.
    said: Option<String>,
}

impl Keeper {
    /// For a replica that is asked under these names.
    pub(super) fn new(context: &Context, names: Vec<String>, presented: Presented) -> Self {
        let kind = GroupVersionKind::gvk(
            "admissionregistration.k8s.io",
            "v1",
            "ValidatingWebhookConfiguration",
        );
        let client = context.client.clone();
        Self {
            secrets: Api::namespaced(client.clone(), &context.namespace),
            // Not as a type of this program, which would lose the fields that it does not know.
            configurations: Api::all_with(client, &ApiResource::from_gvk(&kind)),
            names,
            presented,
            told: HashMap::new(),
            issued: None,
            said: None,
        }
    }

    /// Keeps it until dropped.
    pub(super) async fn keep(mut self) {
        loop {
            let looked = self.look().await;
            let conflict = looked.as_ref().is_err_and(is_conflict);
            if !conflict {
                self.say(looked.err().map(|error| format!("{error:#}")));
            }
            tokio::time::sleep(if conflict { AGAIN } else { PERIOD }).await;
        }
    }

    /// Logs a problem, once.
    fn say(&mut self, problem: Option<String>) {
        if let Some(problem) = problem.as_ref().filter(|_| problem != self.said) {
            tracing::warn!(problem, "admission is not set up");
        }
        self.said = problem;
    }

    async fn look(&mut self) -> anyhow::Result<()> {
        let configuration = self.configurations.get_opt(NAME).await;
        let configuration = configuration.context("failed to ask who is to be asked")?;
        let configuration = configuration.with_context(|| {
            format!("there is no ValidatingWebhookConfiguration {NAME}: nothing is refused before it is stored")
        })?;
        let authorities = self.authorities().await?;
        self.tell(configuration, &authorities).await?;
        self.present(&authorities)
    }

    /// The authorities that all replicas share, made anew if they have to be.
    async fn authorities(&self) -> anyhow::Result<Authorities> {
        let secret = self.secrets.get_opt(NAME).await.context("failed to read the Secret")?;
        // This program may only change this one, and none has to be made.
        let mut secret =
            secret.with_context(|| format!("there is no Secret {NAME} to write to"))?;
        let entries = secret.data.get_or_insert_default();
        let found = entries.get(ENTRY).and_then(|stored| Authorities::parse(&stored.0));
        let wanted = Authorities::renewed(found.as_ref(), Timestamp::now())?;
        if found.as_ref() != Some(&wanted) {
            entries.insert(ENTRY.to_owned(), ByteString(wanted.to_bytes()?));
            let written = self.secrets.replace(NAME, &PostParams::default(), &secret).await;
            written.context("failed to write the Secret")?;
            tracing::info!("made a new authority for admission");
        }
        Ok(wanted)
    }

    /// Tells the API server whom to trust, unless it was told.
    async fn tell(
        &mut self,
        mut configuration: DynamicObject,
        authorities: &Authorities,
    ) -> anyhow::Result<()> {
        let bundle = authorities.bundle();
        let value = serde_json::to_value(ByteString(bundle.clone().into_bytes()))
            .context("a bundle has no JSON form")?;
        let mut changed = false;
        let webhooks = configuration.data.get_mut("webhooks").and_then(|all| all.as_array_mut());
        for webhook in webhooks.into_iter().flatten() {
            let told = &mut webhook["clientConfig"]["caBundle"];
            if *told != value {
                *told = value.clone();
                changed = true;
            }
        }
        if changed {
            configuration.metadata.managed_fields = None;
            let how = PostParams::default();
            let written = self.configurations.replace(NAME, &how, &configuration).await;
            written.context("failed to tell the API server whom to trust")?;
            tracing::info!("told the API server whom to trust");
        }
        let now = Instant::now();
        self.told.retain(|certificate, _| bundle.contains(certificate));
        for certificate in authorities.certificates() {
            self.told.entry(certificate.to_owned()).or_insert(now);
        }
        Ok(())
    }

    /// Presents a certificate from the newest authority that the API server surely knows.
    fn present(&mut self, authorities: &Authorities) -> anyhow::Result<()> {
        let now = Timestamp::now();
        let authority = authorities.newest(|one| {
            self.told.get(&one.certificate).is_some_and(|since| since.elapsed() >= TOLD)
        });
        let authority = authority.context("there is no authority")?;
        let same = self.issued.as_ref().is_some_and(|(certificate, issued)| {
            *certificate == authority.certificate && !is_old(*issued, now)
        });
        if same {
            return Ok(());
        }
        let (certificate, key) = authority.issue(&self.names, now)?;
        self.presented.set(vec![certificate], key)?;
        self.issued = Some((authority.certificate.clone(), now));
        tracing::info!(names = ?self.names, "presents a new certificate");
        Ok(())
    }
}

fn is_conflict(error: &anyhow::Error) -> bool {
    let refused = error.downcast_ref::<kube::Error>();
    refused.is_some_and(|error| matches!(error, kube::Error::Api(status) if status.code == 409))
}
