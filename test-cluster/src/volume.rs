//! The volumes of a pod: what each of them is on the node. It mounts nothing.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use k8s_openapi::ByteString;
use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{
    ConfigMap, HostPathVolumeSource, KeyToPath, PersistentVolumeClaim, Pod, ProjectedVolumeSource,
    Secret, ServiceAccount, Volume,
};
use kube::api::PostParams;
use kube::{Api, Client};

use crate::environment::{Surroundings, field_of};

/// The ConfigMap with the API server's authority, which Kubernetes puts into every namespace.
const AUTHORITY: &str = "kube-root-ca.crt";

/// What is needed to say what a volume is.
pub(crate) struct Volumes<'a> {
    /// The API server, as the node reaches it.
    pub(crate) client: &'a Client,
    /// The pod.
    pub(crate) pod: &'a Pod,
    /// Where it runs.
    pub(crate) surroundings: &'a Surroundings,
    /// The directory that stands for the root of the node.
    pub(crate) node_root: &'a Path,
    /// A directory for what the pod has for itself.
    pub(crate) own: &'a Path,
    /// What stands for the volume of a claim, or why this node cannot mount it.
    pub(crate) claims: &'a BTreeMap<String, Result<PathBuf, String>>,
    /// The certificate of the API server's authority.
    pub(crate) authority: &'a str,
}

impl Volumes<'_> {
    /// The directory or file of the node that a volume is.
    ///
    /// # Errors
    ///
    /// In the words of a kubelet, when there is none (yet).
    pub(crate) async fn find(&self, volume: &Volume) -> anyhow::Result<PathBuf> {
        if let Some(claim) = &volume.persistent_volume_claim {
            return self.claim(&claim.claim_name).await;
        }
        self.look(volume).await.with_context(|| failed(&volume.name))
    }

    async fn look(&self, volume: &Volume) -> anyhow::Result<PathBuf> {
        if let Some(path) = &volume.host_path {
            return self.host_path(path);
        }
        let folder = self.own.join(&volume.name);
        fs::create_dir_all(&folder).context("failed to make a directory")?;
        if volume.empty_dir.is_some() {
            return Ok(folder);
        }
        let files = if let Some(projected) = &volume.projected {
            self.projected(projected).await?
        } else if let Some(map) = &volume.config_map {
            self.config_map(&map.name, map.items.as_deref()).await?
        } else if let Some(secret) = &volume.secret {
            let name = secret.secret_name.as_deref().unwrap_or_default();
            self.secret(name, secret.items.as_deref()).await?
        } else {
            bail!("this kind of volume is not played");
        };
        for (path, content) in files {
            let file = folder.join(path);
            fs::create_dir_all(file.parent().context("a file has no directory")?)?;
            fs::write(&file, content).context("failed to write a file of a volume")?;
        }
        Ok(folder)
    }

    fn host_path(&self, wanted: &HostPathVolumeSource) -> anyhow::Result<PathBuf> {
        let relative = wanted.path.trim_start_matches('/');
        let path = self.node_root.join(relative);
        match wanted.type_.as_deref().unwrap_or_default() {
            "DirectoryOrCreate" => fs::create_dir_all(&path).context("failed to make it")?,
            "FileOrCreate" if !path.exists() => {
                fs::write(&path, "").context("failed to make it")?
            }
            _ => {}
        }
        // The node has what this machine has, besides what the test gave it.
        let all = [path, Path::new("/").join(relative)];
        let found = all.into_iter().find(|path| path.exists());
        let found =
            found.with_context(|| format!("hostPath type check failed: {}", wanted.path))?;
        match wanted.type_.as_deref().unwrap_or_default() {
            "Directory" if !found.is_dir() => bail!("{} is not a directory", wanted.path),
            "File" if !found.is_file() => bail!("{} is not a file", wanted.path),
            _ => Ok(found),
        }
    }

    async fn claim(&self, name: &str) -> anyhow::Result<PathBuf> {
        let claims: Api<PersistentVolumeClaim> = self.namespaced();
        let claim = claims.get_opt(name).await.context("failed to read the claim")?;
        let claim = claim.with_context(|| format!("persistentvolumeclaim \"{name}\" not found"))?;
        if claim.metadata.deletion_timestamp.is_some() {
            bail!("persistentvolumeclaim \"{name}\" is being deleted");
        }
        let volume = claim.spec.and_then(|spec| spec.volume_name).unwrap_or_default();
        let phase = claim.status.and_then(|status| status.phase).unwrap_or_default();
        if phase != "Bound" {
            bail!("persistentvolumeclaim \"{name}\" is not bound");
        }
        match self.claims.get(name) {
            Some(Ok(directory)) => Ok(directory.clone()),
            // The mount is of the PersistentVolume, whatever the pod calls it.
            Some(Err(reason)) => bail!("{} : {reason}", failed(&volume)),
            None => bail!("{} : nothing stands for the claim \"{name}\"", failed(&volume)),
        }
    }

    async fn projected(
        &self,
        wanted: &ProjectedVolumeSource,
    ) -> anyhow::Result<BTreeMap<String, Vec<u8>>> {
        let mut files = BTreeMap::new();
        for source in wanted.sources.iter().flatten() {
            if let Some(token) = &source.service_account_token {
                files.insert(token.path.clone(), self.token().await?.into_bytes());
            }
            if let Some(map) = &source.config_map {
                files.extend(self.config_map(&map.name, map.items.as_deref()).await?);
            }
            if let Some(secret) = &source.secret {
                files.extend(self.secret(&secret.name, secret.items.as_deref()).await?);
            }
            let fields = source.downward_api.as_ref().and_then(|api| api.items.as_ref());
            for field in fields.into_iter().flatten() {
                let wanted = field.field_ref.as_ref().context("only fields are played")?;
                let value = field_of(self.pod, self.surroundings, &wanted.field_path)?;
                files.insert(field.path.clone(), value.into_bytes());
            }
        }
        Ok(files)
    }

    /// A token of the pod's service account that holds as long as the pod is there, at most an hour.
    async fn token(&self) -> anyhow::Result<String> {
        let spec = self.pod.spec.as_ref().context("the pod has no spec")?;
        let account = spec.service_account_name.as_deref().unwrap_or("default");
        let request = TokenRequest {
            spec: Some(TokenRequestSpec {
                expiration_seconds: Some(3600),
                bound_object_ref: Some(BoundObjectReference {
                    api_version: Some("v1".to_owned()),
                    kind: Some("Pod".to_owned()),
                    name: self.pod.metadata.name.clone(),
                    uid: self.pod.metadata.uid.clone(),
                }),
                ..TokenRequestSpec::default()
            }),
            ..TokenRequest::default()
        };
        let accounts: Api<ServiceAccount> = self.namespaced();
        let made = accounts.create_token_request(account, &PostParams::default(), &request).await;
        let made = made.context("failed to get a token")?;
        made.status.and_then(|status| status.token).context("the answer has no token")
    }

    async fn config_map(
        &self,
        name: &str,
        items: Option<&[KeyToPath]>,
    ) -> anyhow::Result<BTreeMap<String, Vec<u8>>> {
        if name == AUTHORITY {
            let content = self.authority.as_bytes().to_vec();
            return Ok(chosen(BTreeMap::from([("ca.crt".to_owned(), content)]), items));
        }
        let maps: Api<ConfigMap> = self.namespaced();
        let map = maps.get_opt(name).await.context("failed to read a ConfigMap")?;
        let map = map.with_context(|| format!("configmap \"{name}\" not found"))?;
        let texts = map.data.unwrap_or_default().into_iter();
        let texts = texts.map(|(key, text)| (key, text.into_bytes()));
        let bytes = map.binary_data.unwrap_or_default().into_iter();
        let bytes = bytes.map(|(key, ByteString(bytes))| (key, bytes));
        Ok(chosen(texts.chain(bytes).collect(), items))
    }

    async fn secret(
        &self,
        name: &str,
        items: Option<&[KeyToPath]>,
    ) -> anyhow::Result<BTreeMap<String, Vec<u8>>> {
        let secrets: Api<Secret> = self.namespaced();
        let secret = secrets.get_opt(name).await.context("failed to read a Secret")?;
        let secret = secret.with_context(|| format!("secret \"{name}\" not found"))?;
        let data = secret.data.unwrap_or_default().into_iter();
        Ok(chosen(data.map(|(key, ByteString(bytes))| (key, bytes)).collect(), items))
    }

    fn namespaced<K>(&self) -> Api<K>
    where
        K: kube::Resource<Scope = kube::core::NamespaceResourceScope>,
        K::DynamicType: Default,
    {
        let namespace = self.pod.metadata.namespace.as_deref().unwrap_or("default");
        Api::namespaced(self.client.clone(), namespace)
    }
}

fn failed(volume: &str) -> String {
    format!("MountVolume.SetUp failed for volume \"{volume}\"")
}

/// The files of some keys, or of all.
fn chosen(
    mut all: BTreeMap<String, Vec<u8>>,
    items: Option<&[KeyToPath]>,
) -> BTreeMap<String, Vec<u8>> {
    let Some(items) = items else { return all };
    let chosen = items.iter().filter_map(|item| Some((item.path.clone(), all.remove(&item.key)?)));
    chosen.collect()
}
