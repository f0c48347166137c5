//! The objects that a movement names: where they are, what there is to know of them, and in which words
//! they are missed. How they are found is the caller's: in caches, or by asking.

use std::future::Future;
use std::sync::Arc;

use k8s_openapi::api::core::v1::ObjectReference;
use longshore::api::data_movement::{Endpoint, NnfDataMovement};
use longshore::api::open::Open;
use longshore::api::storage::FileSystemType;
use longshore::api::{Defined, NnfDataMovementProfile, NnfNodeStorage, NnfStorage};

use super::plan::{Facts, NoProfile, Storage};

/// Where an object is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) namespace: String,
    pub(crate) name: String,
}

impl Place {
    fn of(reference: Option<&ObjectReference>) -> Self {
        let text = |field: fn(&ObjectReference) -> Option<&String>| {
            reference.and_then(field).cloned().unwrap_or_default()
        };
        Self {
            namespace: text(|reference| reference.namespace.as_ref()),
            name: text(|reference| reference.name.as_ref()),
        }
    }

    /// Whether something can be there at all.
    pub(crate) fn is_complete(&self) -> bool {
        !self.namespace.is_empty() && !self.name.is_empty()
    }
}

/// What finds objects. None is where there is none.
pub(crate) trait Lookup: Sync {
    /// A profile.
    fn profile(
        &self,
        place: &Place,
    ) -> impl Future<Output = kube::Result<Option<Arc<NnfDataMovementProfile>>>> + Send;

    /// The storage of a job.
    fn storage(
        &self,
        place: &Place,
    ) -> impl Future<Output = kube::Result<Option<Arc<NnfStorage>>>> + Send;

    /// The part of a job's storage on one node.
    fn node_storage(
        &self,
        place: &Place,
    ) -> impl Future<Output = kube::Result<Option<Arc<NnfNodeStorage>>>> + Send;
}

/// What there is to know of the objects that a movement names.
///
/// # Errors
///
/// When it could not be found out whether one is there.
pub(crate) async fn facts(movement: &NnfDataMovement, look: &impl Lookup) -> kube::Result<Facts> {
    let spec = &movement.spec;
    Ok(Facts {
        profile: profile(spec.profile_reference.as_ref(), look).await?,
        source: storage(spec.source.as_ref(), look).await?,
        destination: storage(spec.destination.as_ref(), look).await?,
    })
}

async fn profile(
    reference: Option<&ObjectReference>,
    look: &impl Lookup,
) -> kube::Result<
    Result<longshore::api::data_movement_profile::NnfDataMovementProfileData, NoProfile>,
> {
    const KIND: &str = NnfDataMovementProfile::DEFINITION.kind;
    let kind = kind(reference);
    if kind != KIND {
        return Ok(Err(NoProfile::Impossible(format!("invalid {KIND} kind {kind}"))));
    }
    let place = Place::of(reference);
    let found = look.profile(&place).await?;
    Ok(found
        .map(|profile| profile.data.clone())
        .ok_or_else(|| NoProfile::Missing(not_found(KIND, &place.name))))
}

async fn storage(end: Option<&Endpoint>, look: &impl Lookup) -> kube::Result<Storage> {
    let reference = end.and_then(|end| end.storage_reference.as_ref());
    let kind = kind(reference);
    let place = Place::of(reference);
    let found = match kind {
        "LustreFileSystem" => return Ok(Storage::GlobalLustre),
        "NnfStorage" => look
            .storage(&place)
            .await?
            .map(|found| Storage::Job(known(found.spec.file_system_type.as_ref()))),
        "NnfNodeStorage" => look
            .node_storage(&place)
            .await?
            .map(|found| Storage::Node(known(found.spec.file_system_type.as_ref()))),
        _ => return Ok(Storage::Other),
    };
    Ok(found.unwrap_or_else(|| {
        let Place { namespace, name } = &place;
        let problem = not_found(kind, name);
        Storage::Missing(format!("could not get {kind}: {namespace}/{name}: {problem}"))
    }))
}

fn kind(reference: Option<&ObjectReference>) -> &str {
    reference.and_then(|reference| reference.kind.as_deref()).unwrap_or_default()
}

fn known(kind: Option<&Open<FileSystemType>>) -> Option<FileSystemType> {
    // The default of the definition.
    kind.map_or(Some(FileSystemType::Raw), |kind| kind.known().copied())
}

fn not_found(kind: &str, name: &str) -> String {
    format!("{kind}.nnf.cray.hpe.com \"{name}\" not found")
}
