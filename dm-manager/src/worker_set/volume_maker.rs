//! Making and removing the PersistentVolumes and claims of filesystems, in place of lustre-fs-operator.
//! What they are is in `lustre_file_system::volumes`.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::Context as _;
use k8s_openapi::api::core::v1::{Namespace, PersistentVolume, PersistentVolumeClaim};
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams, Preconditions};
use kube::{Api, Resource, ResourceExt};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::step::Keeper;
use super::view::View;
use crate::lustre_file_system::volumes::{Driver, MADE_FOR, make, wanted};
use crate::lustre_file_system::{FileSystem, Judgement};

/// How long until a namespace that is not there is looked for again.
const LATER: Duration = Duration::from_secs(5);

impl Keeper {
    /// Makes what is missing, removes what is not wanted any more, and says so in the status.
    ///
    /// # Errors
    ///
    /// When the API server refuses.
    pub(super) async fn make_volumes(
        &mut self,
        view: &View,
        judgement: &Judgement,
        driver: Driver,
    ) -> anyhow::Result<()> {
        let live = judgement.accepted.iter().filter(|one| !one.is_deleted());
        // What was just written to says something else than what is known of it.
        let known: Vec<&FileSystem> =
            live.filter(|one| !self.is_being_written(&one.object)).collect();
        for one in known {
            let mut status = serde_json::Map::new();
            for (namespace, mode) in wanted(&one.object) {
                let there = self.make_volume(view, one, &namespace, &mode, driver).await;
                let there =
                    there.with_context(|| format!("failed to make a volume of {}", one.name))?;
                let (volume, claim) = make(driver, &one.object, &namespace, &mode);
                let state = match there {
                    true => json!({
                        "state": "Ready",
                        "persistentVolumeRef": {"name": volume.metadata.name},
                        "persistentVolumeClaimRef": {"name": claim.metadata.name},
                    }),
                    false => json!({"state": "Pending"}),
                };
                if !there {
                    self.at(Instant::now() + LATER);
                }
                let entry = status.entry(namespace).or_insert_with(|| json!({"modes": {}}));
                entry["modes"][mode] = state;
            }
            self.say_volumes(one, Value::Object(status)).await?;
        }
        self.remove_ownerless(view, judgement).await
    }

    /// Removes what was made for filesystems that are gone: a replica that was stopped may have had its
    /// last request carried out after another one had removed everything.
    async fn remove_ownerless(&self, view: &View, judgement: &Judgement) -> anyhow::Result<()> {
        let Some((volumes, claims)) = view.volumes() else { return Ok(()) };
        let labels = volumes.iter().map(|volume| volume.labels());
        let labels = labels.chain(claims.iter().map(|claim| claim.labels()));
        let named = labels.filter_map(|labels| {
            Some((labels.get(MADE_FOR[1])?.clone(), labels.get(MADE_FOR[0])?.clone()))
        });
        let refused = judgement.refused.iter().map(|(one, _)| one);
        let known: BTreeSet<(String, String)> = judgement
            .accepted
            .iter()
            .chain(refused)
            .map(|one| (one.object.namespace().unwrap_or_default(), one.name.clone()))
            .collect();
        for (namespace, name) in named.collect::<BTreeSet<_>>().difference(&known) {
            // It may just not have come into view yet.
            let answer = self.file_systems(namespace).get_opt(name).await;
            let found = self.counted("lustrefilesystems", "get", answer);
            if found.context("failed to ask for a filesystem")?.is_none() {
                tracing::warn!(namespace, name, "removing volumes of a filesystem that is gone");
                self.remove(namespace, name, |_| false).await?;
            }
        }
        Ok(())
    }

    /// Makes the volume and the claim for a namespace. False when there is no such namespace.
    async fn make_volume(
        &mut self,
        view: &View,
        one: &FileSystem,
        namespace: &str,
        mode: &str,
        driver: Driver,
    ) -> kube::Result<bool> {
        let client = self.context.client.clone();
        let (volume, claim) = make(driver, &one.object, namespace, mode);
        let Some((volumes, claims)) = view.volumes() else { return Ok(false) };
        let name = volume.name_any();
        let api: Api<PersistentVolume> = Api::all(client.clone());
        match volumes.iter().find(|other| other.name_any() == name) {
            None => {
                self.made("persistentvolumes", api.create(&PostParams::default(), &volume).await)?
            }
            // One that is going is replaced when it is gone.
            Some(old) if old.metadata.deletion_timestamp.is_some() => return Ok(false),
            // A new claim cannot bind to the volume of an old one of the same name.
            Some(old) if phase(old) == "Released" => {
                let patch = Patch::Merge(json!({
                    "metadata": {"resourceVersion": old.resource_version(), "uid": old.uid()},
                    "spec": {"claimRef": {"uid": null, "resourceVersion": null}},
                }));
                let answer = api.patch(&name, &PatchParams::default(), &patch).await;
                self.made("persistentvolumes", answer)?;
            }
            Some(_) => {}
        }
        let name = claim.name_any();
        let is_it = |other: &&std::sync::Arc<PersistentVolumeClaim>| {
            other.name_any() == name && other.namespace().as_deref() == Some(namespace)
        };
        if let Some(old) = claims.iter().find(is_it) {
            // One that is going is replaced when it is gone.
            return Ok(old.metadata.deletion_timestamp.is_none());
        }
        let namespaces: Api<Namespace> = Api::all(client.clone());
        let found = self.counted("namespaces", "get", namespaces.get_opt(namespace).await)?;
        if found.is_none_or(|found| found.metadata.deletion_timestamp.is_some()) {
            return Ok(false);
        }
        let api: Api<PersistentVolumeClaim> = Api::namespaced(client, namespace);
        let answer = api.create(&PostParams::default(), &claim).await;
        self.made("persistentvolumeclaims", answer)?;
        Ok(true)
    }

    /// Takes an object that is there already for made.
    fn made<T>(&self, resource: &str, answer: kube::Result<T>) -> kube::Result<()> {
        match self.counted(resource, "create", answer) {
            Err(kube::Error::Api(refusal)) if refusal.code == 409 => Ok(()),
            answer => answer.map(drop),
        }
    }

    async fn say_volumes(&mut self, one: &FileSystem, namespaces: Value) -> anyhow::Result<()> {
        let status = one.object.status.clone().unwrap_or_default();
        let said = serde_json::to_value(status.namespaces.clone().unwrap_or_default())?;
        if said == namespaces {
            return Ok(());
        }
        // What a merge does not mention it leaves.
        let mut patch = namespaces.clone();
        for (namespace, entry) in said.as_object().into_iter().flatten() {
            if namespaces[namespace].is_null() {
                patch[namespace] = Value::Null;
                continue;
            }
            for mode in entry["modes"].as_object().into_iter().flat_map(serde_json::Map::keys) {
                if namespaces[namespace]["modes"][mode].is_null() {
                    patch[namespace]["modes"][mode] = Value::Null;
                }
            }
        }
        self.remove_unwanted(one).await?;
        let api = self.file_systems(&one.object.namespace().unwrap_or_default());
        let patch = Patch::Merge(json!({
            "metadata": {"resourceVersion": one.object.resource_version(), "uid": one.object.uid()},
            "status": {"namespaces": patch},
        }));
        let answer = api.patch_status(&one.name, &PatchParams::default(), &patch).await;
        let written = self.counted("lustrefilesystems", "patch", answer);
        self.wrote(&written.context("failed to write the status of a filesystem")?);
        Ok(())
    }

    /// Removes the volumes and claims that a filesystem is not to have any more.
    async fn remove_unwanted(&self, one: &FileSystem) -> anyhow::Result<()> {
        let wanted = wanted(&one.object);
        let kept = |name: &str| {
            wanted.iter().any(|(namespace, mode)| {
                crate::lustre_file_system::volumes::claim_name(&one.name, namespace, mode) == name
                    || crate::lustre_file_system::volumes::volume_name(&one.name, namespace, mode)
                        == name
            })
        };
        let namespace = one.object.namespace().unwrap_or_default();
        self.remove(&namespace, &one.name, kept).await
    }

    /// Removes all volumes and claims of a filesystem.
    ///
    /// # Errors
    ///
    /// When the API server refuses.
    pub(super) async fn remove_volumes(&self, one: &FileSystem) -> anyhow::Result<()> {
        let namespace = one.object.namespace().unwrap_or_default();
        self.remove(&namespace, &one.name, |_| false).await
    }

    async fn remove(
        &self,
        namespace: &str,
        name: &str,
        kept: impl Fn(&str) -> bool,
    ) -> anyhow::Result<()> {
        let client = self.context.client.clone();
        let labels = format!("{}={name},{}={namespace}", MADE_FOR[0], MADE_FOR[1]);
        let mine = ListParams::default().labels(&labels);
        let all: Api<PersistentVolumeClaim> = Api::all(client.clone());
        let claims = self.counted("persistentvolumeclaims", "list", all.list(&mine).await);
        for claim in claims.context("failed to list claims")? {
            if !kept(&claim.name_any()) && claim.metadata.deletion_timestamp.is_none() {
                let of = claim.namespace().unwrap_or_default();
                let api: Api<PersistentVolumeClaim> = Api::namespaced(client.clone(), &of);
                let answer = api.delete(&claim.name_any(), &just(&claim)).await;
                self.gone("persistentvolumeclaims", answer)?;
            }
        }
        let all: Api<PersistentVolume> = Api::all(client.clone());
        let volumes = self.counted("persistentvolumes", "list", all.list(&mine).await);
        for volume in volumes.context("failed to list volumes")? {
            if !kept(&volume.name_any()) && volume.metadata.deletion_timestamp.is_none() {
                let answer = all.delete(&volume.name_any(), &just(&volume)).await;
                self.gone("persistentvolumes", answer)?;
            }
        }
        Ok(())
    }

    fn gone<T>(&self, resource: &str, answer: kube::Result<T>) -> anyhow::Result<()> {
        match self.counted(resource, "delete", answer) {
            Err(kube::Error::Api(refusal)) if refusal.code == 404 => Ok(()),
            answer => answer.map(drop).with_context(|| format!("failed to delete {resource}")),
        }
    }
}

/// Deletes this object, and not another one of its name.
fn just<K: Resource>(object: &K) -> DeleteParams {
    let uid = object.meta().uid.clone();
    DeleteParams::default().preconditions(Preconditions { uid, resource_version: None })
}

fn phase(of: &PersistentVolume) -> &str {
    of.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or_default()
}
