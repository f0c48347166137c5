//! What the shard of a movement is to do, made from the movement, its profile and the storage that it
//! names; and why there can be none. It asks nobody: what it needs to know is given.

use longshore::api::data_movement::{Endpoint, NnfDataMovement};
use longshore::api::data_movement_profile::NnfDataMovementProfileData;
use longshore::api::data_movement_shard::{
    DataMovementShardSpec, IndexMount, MovementReference, Preparation,
};
use longshore::api::resource_error::Severity;
use longshore::api::storage::FileSystemType;

use super::command::{self, Task};

/// Where the movements of a namespace are done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Site {
    /// On any worker that has both ends: those in the manager's own namespace.
    Anywhere,
    /// On the node that the namespace is named after.
    Node(String),
    /// Nowhere: the namespace is not ours.
    Foreign,
}

/// The storage that one end of a movement is in, as far as it matters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Storage {
    /// None is named, or of a kind that says nothing about nodes.
    Other,
    /// A global Lustre filesystem.
    GlobalLustre,
    /// A job's storage, and its filesystem if that is one this program knows.
    Job(Option<FileSystemType>),
    /// The part of a job's storage on one node.
    Node(Option<FileSystemType>),
    /// It is named, and does not exist; the text says which.
    Missing(String),
}

/// What there is to know of the objects that a movement names.
#[derive(Clone, Debug)]
pub(crate) struct Facts {
    /// The profile, or why there is none.
    pub(crate) profile: Result<NnfDataMovementProfileData, String>,
    /// What the source is in.
    pub(crate) source: Storage,
    /// What the destination is in.
    pub(crate) destination: Storage,
}

/// Why a movement cannot be carried out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) severity: Severity,
    pub(crate) problem: String,
}

/// What is to be done, and what was asked for and has no meaning here.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Plan {
    pub(crate) shard: DataMovementShardSpec,
    pub(crate) ignored: Vec<String>,
    pub(crate) ignored_of_user: Vec<String>,
}

/// The plan of a movement.
///
/// # Errors
///
/// Why there can be none, in the words that the controllers before this one used.
pub(crate) fn plan(
    movement: &NnfDataMovement,
    site: &Site,
    facts: &Facts,
) -> Result<Plan, Refusal> {
    let major = |problem: String| Refusal { severity: Severity::Major, problem };
    let fatal = |problem: String| Refusal { severity: Severity::Fatal, problem };
    let profile = facts
        .profile
        .as_ref()
        .map_err(|problem| major(format!("could not get profile for data movement: {problem}")))?;
    let node = match site {
        Site::Node(node) => Some(node.clone()),
        Site::Anywhere | Site::Foreign => {
            reachable_from_anywhere(facts).map_err(|problem| {
                major(format!("could not get storage nodes for data movement: {problem}"))
            })?;
            None
        }
    };
    let spec = &movement.spec;
    let user = spec.user_config.clone().unwrap_or_default();
    let request = command::request(profile, &user)
        .map_err(|problem| major(format!("could not create data movement command: {problem}")))?;
    let source = path(spec.source.as_ref(), "source").map_err(fatal)?;
    let destination = path(spec.destination.as_ref(), "destination").map_err(fatal)?;
    let index_mount = match &facts.source {
        Storage::Missing(problem) => return Err(fatal(problem.clone())),
        Storage::Job(Some(FileSystemType::Xfs | FileSystemType::Gfs2))
        | Storage::Node(Some(FileSystemType::Xfs | FileSystemType::Gfs2)) => {
            let prefix = movement.metadata.namespace.clone().unwrap_or_default();
            Some(IndexMount { prefix })
        }
        _ => None,
    };
    let interval = profile.progress_interval_seconds.unwrap_or(5);
    let (options, dry_run) = match request.task {
        Task::Copy(options) => (Some(options), None),
        Task::PrepareOnly => (None, Some(true)),
    };
    let shard = DataMovementShardSpec {
        movement: MovementReference {
            name: movement.metadata.name.clone().unwrap_or_default(),
            uid: movement.metadata.uid.clone().unwrap_or_default(),
        },
        node,
        user_id: spec.user_id.unwrap_or(0),
        group_id: spec.group_id.unwrap_or(0),
        source,
        destination,
        options,
        dry_run,
        preparation: profile
            .create_dest_dir
            .then_some(Preparation { create_destination_directory: true, index_mount }),
        progress_interval_seconds: Some(i32::try_from(interval).unwrap_or(i32::MAX)),
        ..DataMovementShardSpec::default()
    };
    Ok(Plan { shard, ignored: request.ignored, ignored_of_user: request.ignored_of_user })
}

/// A worker on any node can have both ends only if both are Lustre.
fn reachable_from_anywhere(facts: &Facts) -> Result<(), String> {
    // The storage of the job decides, the source before the destination, as it always has.
    match (&facts.source, &facts.destination) {
        (Storage::Missing(problem), _) => Err(problem.clone()),
        (Storage::Job(kind), _) | (_, Storage::Job(kind)) => match kind {
            Some(FileSystemType::Lustre) => Ok(()),
            other => Err(format!("Unsupported storage type {}", name(*other))),
        },
        (_, Storage::Missing(problem)) => Err(problem.clone()),
        (Storage::GlobalLustre, Storage::GlobalLustre) => Ok(()),
        _ => Err("Neither source or destination is of NNF Storage type".to_owned()),
    }
}

fn name(kind: Option<FileSystemType>) -> &'static str {
    match kind {
        Some(FileSystemType::Raw) => "raw",
        Some(FileSystemType::Lvm) => "lvm",
        Some(FileSystemType::Zfs) => "zfs",
        Some(FileSystemType::Xfs) => "xfs",
        Some(FileSystemType::Gfs2) => "gfs2",
        Some(FileSystemType::Lustre) => "lustre",
        None => "unknown",
    }
}

fn path(end: Option<&Endpoint>, which: &str) -> Result<String, String> {
    let path = end.and_then(|end| end.path.as_deref()).unwrap_or_default();
    match path.starts_with('/') && !path.contains('\0') {
        true => Ok(path.to_owned()),
        false => Err(format!("the {which} path '{path}' is not an absolute path")),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use k8s_openapi::api::core::v1::ObjectReference;
    use longshore::api::data_movement::UserConfig;
    use longshore::api::{Defined, NnfDataMovement};

    use super::*;

    pub(crate) fn movement() -> NnfDataMovement {
        let version = NnfDataMovement::DEFINITION.storage_version();
        let mut movement = NnfDataMovement::new(&version, "fluffy-1-0");
        movement.metadata.namespace = Some("rabbit-1".to_owned());
        movement.metadata.uid = Some("1234".to_owned());
        let end = |path: &str| {
            let storage_reference = Some(ObjectReference::default());
            Some(Endpoint { path: Some(path.to_owned()), storage_reference })
        };
        movement.spec.source = end("/lus/lus1/in/");
        movement.spec.destination = end("/mnt/nnf/1-0/rabbit-1-0/in");
        movement.spec.user_id = Some(1001);
        movement
    }

    pub(crate) fn facts() -> Facts {
        Facts {
            profile: Ok(NnfDataMovementProfileData {
                command: "dcp $SRC $DEST".to_owned(),
                create_dest_dir: true,
                ..NnfDataMovementProfileData::default()
            }),
            source: Storage::GlobalLustre,
            destination: Storage::Job(Some(FileSystemType::Xfs)),
        }
    }

    fn here() -> Site {
        Site::Node("rabbit-1".to_owned())
    }

    #[test]
    fn a_movement_in_a_nodes_namespace_is_done_on_that_node() {
        let plan = plan(&movement(), &here(), &facts()).unwrap().shard;
        assert_eq!(plan.node.as_deref(), Some("rabbit-1"));
        assert_eq!((plan.user_id, plan.group_id), (1001, 0));
        assert_eq!(plan.source, "/lus/lus1/in/", "the slash stays");
        assert_eq!(plan.options, Some(vec!["--preserve=mode,xattr".to_owned()]));
        assert_eq!(plan.preparation.unwrap().index_mount, None);
        assert_eq!(plan.progress_interval_seconds, Some(5));
    }

    #[test]
    fn copies_out_of_an_allocation_have_an_index_mount() {
        let mut facts = facts();
        for (source, expected) in [
            (Storage::Job(Some(FileSystemType::Xfs)), true),
            (Storage::Node(Some(FileSystemType::Gfs2)), true),
            (Storage::Job(Some(FileSystemType::Lustre)), false),
            (Storage::Other, false),
        ] {
            facts.source = source;
            let shard = plan(&movement(), &here(), &facts).unwrap().shard;
            let prefix = shard.preparation.unwrap().index_mount.map(|mount| mount.prefix);
            assert_eq!(prefix, expected.then(|| "rabbit-1".to_owned()));
        }
        facts.source = Storage::Job(Some(FileSystemType::Xfs));
        facts.profile.as_mut().unwrap().create_dest_dir = false;
        assert_eq!(plan(&movement(), &here(), &facts).unwrap().shard.preparation, None);
    }

    #[test]
    fn without_a_node_both_ends_have_to_be_lustre() {
        let job = |kind| Storage::Job(Some(kind));
        for (source, destination, expected) in [
            (job(FileSystemType::Lustre), Storage::GlobalLustre, None),
            (Storage::GlobalLustre, job(FileSystemType::Lustre), None),
            (Storage::GlobalLustre, Storage::GlobalLustre, None),
            (job(FileSystemType::Xfs), Storage::GlobalLustre, Some("Unsupported storage type xfs")),
            (
                Storage::GlobalLustre,
                Storage::Other,
                Some("Neither source or destination is of NNF"),
            ),
            (Storage::Missing("no such".to_owned()), Storage::Other, Some("no such")),
        ] {
            let facts = Facts { source, destination, ..facts() };
            let plan = plan(&movement(), &Site::Anywhere, &facts);
            match (plan, expected) {
                (Ok(plan), None) => assert_eq!(plan.shard.node, None),
                (Err(refusal), Some(expected)) => {
                    assert!(refusal.problem.contains(expected), "{refusal:?}");
                    assert_eq!(refusal.severity, Severity::Major);
                }
                (plan, expected) => panic!("{plan:?} instead of {expected:?}"),
            }
        }
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let mut wrong = facts();
        wrong.profile = Err("invalid NnfDataMovementProfile kind ".to_owned());
        let refusal = plan(&movement(), &here(), &wrong).unwrap_err();
        let expected =
            "could not get profile for data movement: invalid NnfDataMovementProfile kind ";
        assert_eq!(refusal, Refusal { severity: Severity::Major, problem: expected.to_owned() });

        let mut pathless = movement();
        pathless.spec.destination = None;
        let refusal = plan(&pathless, &here(), &facts()).unwrap_err();
        assert_eq!(refusal.severity, Severity::Fatal);

        let mut strange = movement();
        let dcp_options = Some("--frob".to_owned());
        strange.spec.user_config = Some(UserConfig { dcp_options, ..UserConfig::default() });
        let refusal = plan(&strange, &here(), &facts()).unwrap_err();
        assert_eq!(refusal.severity, Severity::Major);
        assert!(refusal.problem.contains("--frob"), "{refusal:?}");
    }
}
