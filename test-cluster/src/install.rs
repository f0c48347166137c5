//! Installing custom resource definitions, and waiting until the API server serves them. It renders none.

use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{ApiResource, DynamicObject, GroupVersionKind, ListParams, Patch, PatchParams};
use kube::{Api, Client};

use crate::ControlPlane;

/// How long the API server may take to serve a new kind.
const SERVED_WITHIN: Duration = Duration::from_secs(60);

impl ControlPlane {
    /// Installs definitions, unless they are there already, and returns when every version of each is
    /// served.
    ///
    /// # Errors
    ///
    /// When the API server refuses one, or finds fault with its schema.
    pub async fn install(&self, definitions: &[CustomResourceDefinition]) -> anyhow::Result<()> {
        install(self.client(), definitions).await
    }
}

/// The same on any API server.
pub(crate) async fn install(
    client: Client,
    definitions: &[CustomResourceDefinition],
) -> anyhow::Result<()> {
    let installed: Api<CustomResourceDefinition> = Api::all(client.clone());
    for definition in definitions {
        let name = definition.metadata.name.as_deref().context("a definition has no name")?;
        let how = PatchParams::apply("test-cluster").force();
        let applied = installed.patch(name, &how, &Patch::Apply(definition)).await;
        applied.with_context(|| format!("failed to install {name}"))?;
    }
    let deadline = Instant::now() + SERVED_WITHIN;
    for definition in definitions {
        let spec = &definition.spec;
        for version in spec.versions.iter().filter(|version| version.served) {
            let kind = GroupVersionKind::gvk(&spec.group, &version.name, &spec.names.kind);
            let resource = ApiResource::from_gvk_with_plural(&kind, &spec.names.plural);
            let all: Api<DynamicObject> = Api::all_with(client.clone(), &resource);
            while let Err(error) = all.list(&ListParams::default().limit(1)).await {
                if Instant::now() > deadline {
                    bail!("{}/{} is not served: {error}", spec.names.plural, version.name);
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    }
    for definition in definitions {
        let name = definition.metadata.name.as_deref().context("a definition has no name")?;
        let stored = installed.get(name).await.with_context(|| format!("{name} is not there"))?;
        let conditions = stored.status.and_then(|status| status.conditions).unwrap_or_default();
        if let Some(fault) =
            conditions.iter().find(|condition| condition.type_ == "NonStructuralSchema")
        {
            bail!(
                "the schema of {name} is not structural: {}",
                fault.message.as_deref().unwrap_or("")
            );
        }
    }
    Ok(())
}
