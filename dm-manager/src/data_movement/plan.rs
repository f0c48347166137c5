//! What the shard of a movement is to do, made from the movement, its profile and the storage that it
//! names; and why there can be none. It asks nobody: what it needs to know is given.

use longshore::api::data_movement::{Endpoint, NnfDataMovement};
use longshore::api::data_movement_profile::NnfDataMovementProfileData;
use longshore::api::data_movement_shard::{
    DataMovementShardSpec, IndexMount, MovementReference, Preparation,
};
use longshore::api::resource_error::Severity;
use longshore::api::storage::FileSystemType;

use super::command::{self, Request, Task};
use crate::verdict::Verdict;

/// The longest path that a shard takes, in characters; Linux takes no longer one.
const LONGEST_PATH: usize = 4096;

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

/// Why there is no profile.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum NoProfile {
    /// None can be meant.
    Impossible(String),
    /// It is named, and does not exist.
    Missing(String),
}

/// What there is to know of the objects that a movement names.
#[derive(Clone, Debug)]
pub(crate) struct Facts {
    /// The profile, or why there is none.
    pub(crate) profile: Result<NnfDataMovementProfileData, NoProfile>,
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
    /// Whether it is only that something is not there that is named. It may come.
    pub(crate) missing: bool,
}

impl Refusal {
    fn new(severity: Severity, problem: String) -> Self {
        Self { severity, problem, missing: false }
    }

    fn of_missing(self) -> Self {
        Self { missing: true, ..self }
    }
}

/// What is to be done, and what was asked for and has no meaning here.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Plan {
    pub(crate) shard: DataMovementShardSpec,
    pub(crate) ignored: Vec<String>,
    pub(crate) ignored_of_user: Vec<String>,
}

/// What is looked at in a movement, each with what came of it or why there can be none, in the words that
/// the controllers before this one used. The order is that in which they are told.
struct Checked {
    node: Result<Option<String>, Refusal>,
    request: Result<Request, Refusal>,
    source: Result<String, Refusal>,
    destination: Result<String, Refusal>,
    index_mount: Result<Option<IndexMount>, Refusal>,
}

impl Checked {
    fn new(
        movement: &NnfDataMovement,
        site: &Site,
        facts: &Facts,
        profile: &NnfDataMovementProfileData,
    ) -> Self {
        let spec = &movement.spec;
        let user = spec.user_config.clone().unwrap_or_default();
        Self {
            node: match site {
                Site::Node(node) => Ok(Some(node.clone())),
                Site::Anywhere | Site::Foreign => reachable_from_anywhere(facts).map(|()| None),
            },
            request: command::request(profile, &user).map_err(|problem| {
                let problem = format!("could not create data movement command: {problem}");
                Refusal::new(Severity::Major, problem)
            }),
            source: path(spec.source.as_ref(), "source"),
            destination: path(spec.destination.as_ref(), "destination"),
            index_mount: match &facts.source {
                Storage::Missing(problem) => {
                    Err(Refusal::new(Severity::Fatal, problem.clone()).of_missing())
                }
                Storage::Job(Some(FileSystemType::Xfs | FileSystemType::Gfs2))
                | Storage::Node(Some(FileSystemType::Xfs | FileSystemType::Gfs2)) => {
                    let prefix = movement.metadata.namespace.clone().unwrap_or_default();
                    Ok(Some(IndexMount { prefix }))
                }
                _ => Ok(None),
            },
        }
    }
}

/// The plan of a movement.
///
/// # Errors
///
/// The first of the reasons why there can be none.
pub(crate) fn plan(
    movement: &NnfDataMovement,
    site: &Site,
    facts: &Facts,
) -> Result<Plan, Refusal> {
    let profile = facts.profile.as_ref().map_err(without_profile)?;
    let checked = Checked::new(movement, site, facts, profile);
    let (node, request) = (checked.node?, checked.request?);
    let (source, destination) = (checked.source?, checked.destination?);
    let index_mount = checked.index_mount?;
    let spec = &movement.spec;
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

/// All that is to be said of a movement before it is stored: every reason why [`plan`] would refuse it,
/// and what is only doubtful. What is missing is a doubt here, since it may come.
pub(crate) fn validate(movement: &NnfDataMovement, site: &Site, facts: &Facts) -> Verdict {
    let (profile, refused) = match &facts.profile {
        Ok(profile) => (Some(profile), None),
        Err(none) => (None, Some(without_profile(none))),
    };
    // Without the profile all but its command can be looked at.
    let default = NnfDataMovementProfileData::default();
    let checked = Checked::new(movement, site, facts, profile.unwrap_or(&default));
    let request = profile.map(|_| checked.request);
    let ignored = request.iter().flatten().flat_map(|request| &request.ignored_of_user);
    let mut verdict = Verdict::default();
    verdict.warnings.extend(command::without_meaning(&ignored.cloned().collect::<Vec<_>>()));
    let refusals = [
        refused,
        checked.node.err(),
        request.and_then(Result::err),
        checked.source.err(),
        checked.destination.err(),
        checked.index_mount.err(),
    ];
    for refusal in refusals.into_iter().flatten() {
        let to = if refusal.missing { &mut verdict.warnings } else { &mut verdict.refusals };
        to.push(refusal.problem);
    }
    verdict
}

fn without_profile(why: &NoProfile) -> Refusal {
    let refusal = |problem: &str| {
        let problem = format!("could not get profile for data movement: {problem}");
        Refusal::new(Severity::Major, problem)
    };
    match why {
        NoProfile::Impossible(problem) => refusal(problem),
        NoProfile::Missing(problem) => refusal(problem).of_missing(),
    }
}

/// A worker on any node can have both ends only if both are Lustre.
fn reachable_from_anywhere(facts: &Facts) -> Result<(), Refusal> {
    let refusal = |problem: &str| {
        let problem = format!("could not get storage nodes for data movement: {problem}");
        Refusal::new(Severity::Major, problem)
    };
    // The storage of the job decides, the source before the destination, as it always has.
    match (&facts.source, &facts.destination) {
        (Storage::Missing(problem), _) => Err(refusal(problem).of_missing()),
        (Storage::Job(kind), _) | (_, Storage::Job(kind)) => match kind {
            Some(FileSystemType::Lustre) => Ok(()),
            other => Err(refusal(&format!("Unsupported storage type {}", name(*other)))),
        },
        (_, Storage::Missing(problem)) => Err(refusal(problem).of_missing()),
        (Storage::GlobalLustre, Storage::GlobalLustre) => Ok(()),
        _ => Err(refusal("Neither source or destination is of NNF Storage type")),
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

fn path(end: Option<&Endpoint>, which: &str) -> Result<String, Refusal> {
    let path = end.and_then(|end| end.path.as_deref()).unwrap_or_default();
    let length = path.chars().count();
    let problem = if !path.starts_with('/') || path.contains('\0') {
        format!("the {which} path '{path}' is not an absolute path")
    } else if length > LONGEST_PATH {
        format!(
            "could not make a shard of the data movement: the {which} path has {length} characters, and \
             may have {LONGEST_PATH}"
        )
    } else {
        return Ok(path.to_owned());
    };
    Err(Refusal::new(Severity::Fatal, problem))
}

#[cfg(test)]
pub(crate) mod tests {
    use k8s_openapi::api::core::v1::ObjectReference;
    use longshore::api::data_movement::UserConfig;
    use longshore::api::{Defined, NnfDataMovement};
    use proptest::prelude::*;

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
        let impossible = "invalid NnfDataMovementProfile kind ".to_owned();
        wrong.profile = Err(NoProfile::Impossible(impossible));
        let refusal = plan(&movement(), &here(), &wrong).unwrap_err();
        let expected =
            "could not get profile for data movement: invalid NnfDataMovementProfile kind ";
        assert_eq!(refusal, Refusal::new(Severity::Major, expected.to_owned()));

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

    fn storages() -> impl Strategy<Value = Storage> {
        let kind = || {
            let kinds = [FileSystemType::Xfs, FileSystemType::Lustre, FileSystemType::Raw];
            prop::option::of(prop::sample::select(kinds.to_vec()))
        };
        prop_oneof![
            Just(Storage::Other),
            Just(Storage::GlobalLustre),
            kind().prop_map(Storage::Job),
            kind().prop_map(Storage::Node),
            Just(Storage::Missing("it is not there".to_owned())),
        ]
    }

    proptest! {
        #[test]
        fn what_is_refused_before_it_is_stored_is_what_is_not_planned(
            (source, destination) in (storages(), storages()),
            paths in prop::array::uniform2(prop::sample::select(vec!["", "a", "/a", "/a\0", "/a/b/"])),
            options in prop::sample::select(vec!["", "-p", "-v", "-L", "; id", "-X some"]),
            command in prop::sample::select(vec!["dcp $SRC $DEST", "true", "sleep 1", "longshore copy $SRC $DEST"]),
            profile in 0..4,
            (dry, anywhere) in any::<(bool, bool)>(),
        ) {
            let mut movement = movement();
            for (end, path) in [&mut movement.spec.source, &mut movement.spec.destination].into_iter().zip(paths) {
                end.as_mut().unwrap().path = Some(path.to_owned());
            }
            let dcp_options = Some(options.to_owned());
            let user = UserConfig { dcp_options, dryrun: Some(dry), ..UserConfig::default() };
            movement.spec.user_config = Some(user);
            let mut facts = Facts { source, destination, ..facts() };
            match profile {
                0 => facts.profile = Err(NoProfile::Missing("it is not there".to_owned())),
                1 => facts.profile = Err(NoProfile::Impossible("it is none".to_owned())),
                _ => facts.profile.as_mut().unwrap().command = command.to_owned(),
            }
            let site = if anywhere { Site::Anywhere } else { here() };
            let verdict = validate(&movement, &site, &facts);
            match plan(&movement, &site, &facts) {
                Ok(plan) => {
                    prop_assert_eq!(&verdict.refusals, &[""; 0]);
                    prop_assert_eq!(verdict.warnings.is_empty(), plan.ignored_of_user.is_empty());
                }
                Err(refusal) if refusal.missing => {
                    prop_assert!(verdict.warnings.contains(&refusal.problem), "{verdict:?}");
                }
                Err(refusal) => prop_assert!(verdict.refusals.contains(&refusal.problem), "{verdict:?}"),
            }
        }
    }
}
