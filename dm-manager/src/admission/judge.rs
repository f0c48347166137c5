//! What is to be said of an object before it is stored. The rules are those of the controllers, in their
//! functions; here is only when they are asked and with what. It writes nothing.

use std::sync::Arc;

use k8s_openapi::api::core::v1::Node;
use kube::api::{DynamicObject, ListParams};
use kube::core::admission::{AdmissionRequest, Operation};
use kube::{Api, Client, ResourceExt};
use longshore::api::{
    Defined, LustreFileSystem, NnfDataMovement, NnfDataMovementManager, NnfDataMovementProfile,
    NnfNodeStorage, NnfStorage, Version, data_movement_manager as manager_object,
};
use serde::de::DeserializeOwned;

use crate::context::{Context, Versions};
use crate::data_movement::plan::{self, Site};
use crate::data_movement::reference::{self, Lookup, Place};
use crate::data_movement::{command, decide};
use crate::lustre_file_system::{self, Pods};
use crate::verdict::Verdict;

/// Why nothing can be said. Such an object is let through: the controllers see it anyway.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unjudged {
    /// It is not as this program knows its kind.
    #[error("it cannot be read: {0}")]
    Unreadable(String),
    /// Something else that matters could not be asked for.
    #[error("what it depends on could not be asked for: {0}")]
    Request(#[from] kube::Error),
}

/// The kinds that are judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Movement,
    Profile,
    FileSystem,
}

impl Kind {
    /// The kind of a question, if it is one of these.
    pub(super) fn of(request: &AdmissionRequest<DynamicObject>) -> Option<Self> {
        let all = [Self::Movement, Self::Profile, Self::FileSystem];
        let asked = (request.kind.group.as_str(), request.kind.kind.as_str());
        all.into_iter().find(|kind| {
            let definition = kind.definition();
            (definition.group, definition.kind) == asked
        })
    }

    /// Its name.
    pub(super) fn name(self) -> &'static str {
        self.definition().kind
    }

    fn definition(self) -> longshore::api::Definition {
        match self {
            Self::Movement => NnfDataMovement::DEFINITION,
            Self::Profile => NnfDataMovementProfile::DEFINITION,
            Self::FileSystem => LustreFileSystem::DEFINITION,
        }
    }

    /// The field with all that is judged, beside the name.
    fn content(self) -> &'static str {
        match self {
            Self::Profile => "data",
            Self::Movement | Self::FileSystem => "spec",
        }
    }
}

/// Judges objects.
pub(super) struct Judge {
    client: Client,
    versions: Versions,
    /// The namespace of the manager and of the workers.
    namespace: String,
    /// The label of the nodes that have workers.
    node_selector: String,
    /// Whether filesystems are brought to workers at all.
    keeps_workers: bool,
}

impl Judge {
    /// One that judges as the controllers with this context do.
    pub(super) fn new(context: &Context, keeps_workers: bool) -> Self {
        Self {
            client: context.client.clone(),
            versions: context.versions.clone(),
            namespace: context.namespace.clone(),
            node_selector: context.node_selector.clone(),
            keeps_workers,
        }
    }

    /// What is to be said about a question. An object is refused for what is new about it only: one that
    /// was stored as it is can be changed in all other respects, and can go.
    ///
    /// # Errors
    ///
    /// When nothing can be said.
    pub(super) async fn judge(
        &self,
        kind: Kind,
        request: &AdmissionRequest<DynamicObject>,
    ) -> Result<Verdict, Unjudged> {
        let whole = request.sub_resource.as_ref().is_none_or(String::is_empty);
        let Some(object) = request.object.as_ref().filter(|_| whole) else {
            return Ok(Verdict::default());
        };
        let before = match request.operation {
            Operation::Create => None,
            Operation::Update => request.old_object.as_ref(),
            Operation::Delete | Operation::Connect => return Ok(Verdict::default()),
        };
        let content = |of: &DynamicObject| of.data.get(kind.content()).cloned();
        let unchanged = before.is_some_and(|before| content(before) == content(object));
        if unchanged || object.metadata.deletion_timestamp.is_some() {
            return Ok(Verdict::default());
        }
        let mut verdict = self.verdict(kind, object).await?;
        if let Some(before) = before.filter(|_| !verdict.refusals.is_empty()) {
            let known = self.verdict(kind, before).await?.refusals;
            let (old, new) =
                verdict.refusals.into_iter().partition(|refusal| known.contains(refusal));
            verdict.refusals = new;
            verdict.warnings.extend::<Vec<_>>(old);
        }
        Ok(verdict)
    }

    async fn verdict(&self, kind: Kind, object: &DynamicObject) -> Result<Verdict, Unjudged> {
        match kind {
            Kind::Movement => Ok(self.movement(&read(object)?).await?),
            Kind::Profile => Ok(command::validate(&read::<NnfDataMovementProfile>(object)?.data)),
            Kind::FileSystem => Ok(self.file_system(&read(object)?).await?),
        }
    }

    async fn movement(&self, movement: &NnfDataMovement) -> kube::Result<Verdict> {
        let begun = movement.status.as_ref().is_some_and(|status| status.state.is_some());
        let namespace = movement.namespace().unwrap_or_default();
        let site = self.site(&namespace).await?;
        if begun || !decide::is_planned(movement, &site) {
            return Ok(Verdict::default());
        }
        let facts = reference::facts(movement, self).await?;
        Ok(plan::validate(movement, &site, &facts))
    }

    /// Where the movements of a namespace are done.
    async fn site(&self, namespace: &str) -> kube::Result<Site> {
        if namespace == self.namespace {
            return Ok(Site::Anywhere);
        }
        let nodes = Api::<Node>::all(self.client.clone());
        let named = ListParams::default().fields(&format!("metadata.name={namespace}"));
        let found = nodes.list_metadata(&named.labels(&self.node_selector)).await?;
        Ok(match found.items.is_empty() {
            false => Site::Node(namespace.to_owned()),
            true => Site::Foreign,
        })
    }

    async fn file_system(&self, one: &LustreFileSystem) -> kube::Result<Verdict> {
        let versions = &self.versions;
        let (Some(file_system), Some(manager), true) =
            (&versions.lustre_file_system, &versions.manager, self.keeps_workers)
        else {
            return Ok(Verdict::default());
        };
        let all = Api::<LustreFileSystem>::all_with(self.client.clone(), file_system);
        let others = all.list(&ListParams::default()).await?.items;
        let managers: Api<NnfDataMovementManager> =
            Api::namespaced_with(self.client.clone(), &self.namespace, manager);
        let named = format!("metadata.name={}", manager_object::NAME);
        let managers = managers.list(&ListParams::default().fields(&named)).await?.items;
        let pods = managers.first().map(|one| Pods::of(&one.spec.pod_spec, &one.spec.mount_path));
        let pods = pods.unwrap_or_default();
        Ok(lustre_file_system::validate(one, &others, &self.namespace, &pods))
    }

    async fn find<K>(
        &self,
        version: Option<&Version>,
        place: &Place,
    ) -> kube::Result<Option<Arc<K>>>
    where
        K: Defined + kube::Resource<Scope = kube::core::DynamicResourceScope>,
        K: Clone + std::fmt::Debug + DeserializeOwned,
    {
        let Some(version) = version.filter(|_| place.is_complete()) else { return Ok(None) };
        let api = Api::<K>::namespaced_with(self.client.clone(), &place.namespace, version);
        Ok(api.get_opt(&place.name).await?.map(Arc::new))
    }
}

impl Lookup for Judge {
    async fn profile(&self, place: &Place) -> kube::Result<Option<Arc<NnfDataMovementProfile>>> {
        self.find(Some(&self.versions.profile), place).await
    }

    async fn storage(&self, place: &Place) -> kube::Result<Option<Arc<NnfStorage>>> {
        self.find(self.versions.storage.as_ref(), place).await
    }

    async fn node_storage(&self, place: &Place) -> kube::Result<Option<Arc<NnfNodeStorage>>> {
        self.find(self.versions.node_storage.as_ref(), place).await
    }
}

/// An object as one of its kind.
fn read<K: DeserializeOwned>(object: &DynamicObject) -> Result<K, Unjudged> {
    let unreadable = |error: serde_json::Error| Unjudged::Unreadable(error.to_string());
    let value = serde_json::to_value(object).map_err(unreadable)?;
    serde_json::from_value(value).map_err(unreadable)
}
