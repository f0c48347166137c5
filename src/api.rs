//! The objects of the cluster that the agents read and write, as Rust types with their schemas. It
//! talks to no API server and decides nothing.
//!
//! Four groups: `nnf.cray.hpe.com` (data movements, their manager and profiles, and the storage they
//! run on), `lus.cray.hpe.com` (global Lustre filesystems), `dataworkflowservices.github.io`
//! (workflows and the rules of their directives) and our own `longshore.dev` (shards of a movement).
//! All but the last belong to other programs, so the types here follow theirs field by field, and are
//! made to outlive them:
//!
//! - The served versions of a kind have the same fields, so a kind is one type, and the version is a
//!   value given to the API ([`Version`]): which one is spoken is found out at run time.
//! - Unknown fields are ignored, absent ones take their default, and a word that an enumeration does
//!   not know is kept as it is ([`Open`]): one object of a newer program must not make a whole list
//!   unreadable. The price: an object that was read here must be patched, never replaced, or the
//!   fields unknown here are lost.

pub mod data_movement;
pub mod data_movement_manager;
pub mod data_movement_profile;
pub mod data_movement_shard;
pub mod definition;
pub mod directive_rule;
pub mod lustre_file_system;
pub mod mount_list;
pub mod node_storage;
pub mod open;
mod resource;
pub mod resource_error;
mod schema;
pub mod shard_progress;
pub mod storage;
pub mod workflow;

pub use data_movement::NnfDataMovement;
pub use data_movement_manager::NnfDataMovementManager;
pub use data_movement_profile::NnfDataMovementProfile;
pub use data_movement_shard::DataMovementShard;
pub use definition::{Defined, Definition, Origin, Version};
pub use directive_rule::DWDirectiveRule;
pub use lustre_file_system::LustreFileSystem;
pub use node_storage::NnfNodeStorage;
pub use open::Open;
pub use resource_error::ResourceError;
pub use storage::NnfStorage;
pub use workflow::Workflow;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;

/// Every definition modelled here, with the program whose it is to install.
pub fn definitions() -> Vec<(Origin, CustomResourceDefinition)> {
    fn of<K: Defined>() -> (Origin, CustomResourceDefinition) {
        (K::DEFINITION.origin, definition::render::<K>())
    }
    vec![
        of::<DataMovementShard>(),
        of::<NnfDataMovement>(),
        of::<NnfDataMovementManager>(),
        of::<NnfDataMovementProfile>(),
        of::<NnfStorage>(),
        of::<NnfNodeStorage>(),
        of::<LustreFileSystem>(),
        of::<Workflow>(),
        of::<DWDirectiveRule>(),
    ]
}

#[cfg(test)]
mod tests {
    use kube::core::ObjectList;
    use serde_json::json;

    use super::data_movement::State;
    use super::*;

    #[test]
    fn what_a_newer_program_writes_makes_no_list_unreadable() {
        let list = json!({
            "apiVersion": "nnf.cray.hpe.com/v1alpha12",
            "kind": "NnfDataMovementList",
            "metadata": {},
            "items": [
                {"metadata": {"name": "new-words"}, "status": {"state": "Paused", "status": "Postponed"}},
                {"metadata": {"name": "new-fields"}, "spec": {"priority": 7}, "novelty": {"x": [1]}},
                {"metadata": {"name": "lost-fields"}, "status": {"error": {"severity": "Minor"}}},
                {"metadata": {"name": "as-today"}, "status": {"state": "Running"}},
            ],
        });
        let list: ObjectList<NnfDataMovement> = serde_json::from_value(list).unwrap();
        let states = list
            .items
            .iter()
            .map(|one| one.status.as_ref().and_then(|status| status.state.clone()));
        let unknown = Open::Unknown("Paused".to_owned());
        assert_eq!(
            states.collect::<Vec<_>>(),
            [Some(unknown), None, None, Some(State::Running.into())]
        );
    }

    #[test]
    fn an_object_says_what_it_is() {
        let version = NnfDataMovement::DEFINITION.storage_version();
        let movement = serde_json::to_value(NnfDataMovement::new(&version, "copy")).unwrap();
        let expected = json!({
            "apiVersion": "nnf.cray.hpe.com/v1alpha11",
            "kind": "NnfDataMovement",
            "metadata": {"name": "copy"},
            "spec": {},
        });
        assert_eq!(movement, expected);
        let newer = Version::new("v1alpha12");
        let address = <NnfDataMovement as kube::Resource>::url_path(&newer, Some("rabbit-1"));
        assert_eq!(
            address,
            "/apis/nnf.cray.hpe.com/v1alpha12/namespaces/rabbit-1/nnfdatamovements"
        );
    }

    #[test]
    fn the_newest_version_is_the_one_that_is_stored() {
        for (_, definition) in definitions() {
            let stored: Vec<bool> =
                definition.spec.versions.iter().map(|version| version.storage).collect();
            let mut expected = vec![false; stored.len() - 1];
            expected.push(true);
            assert_eq!(stored, expected, "{:?}", definition.metadata.name);
        }
    }
}
