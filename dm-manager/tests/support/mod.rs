//! What the tests of the definitions share.
#![allow(dead_code, unreachable_pub)] // every test crate includes all of it and uses its own part

pub mod admission;
pub mod cluster;
pub mod example;
pub mod fleet;
pub mod ledger;
pub mod manager;
pub mod rabbit;
pub mod real_worker;
pub mod scale;
pub mod scenes;
pub mod worker;

use std::process::Command;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use serde_json::Value;

/// What `dm-manager` prints.
pub fn dm_manager(arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_dm-manager")).args(arguments).output().unwrap();
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// The definitions that `dm-manager crds` prints.
pub fn printed(arguments: &[&str]) -> Vec<CustomResourceDefinition> {
    let text = dm_manager(&[&["crds"], arguments].concat());
    let documents = text.split("---\n").filter(|document| !document.is_empty());
    documents.map(|document| serde_saphyr::from_str(document).unwrap()).collect()
}

/// The kinds of the definitions.
pub fn kinds(of: &[CustomResourceDefinition]) -> Vec<&str> {
    of.iter().map(|definition| definition.spec.names.kind.as_str()).collect()
}

/// The schema of a version, as JSON.
pub fn schema(definition: &CustomResourceDefinition, version: &str) -> Value {
    let mut versions = definition.spec.versions.iter();
    let version =
        versions.find(|candidate| candidate.name == version).expect("the version is defined");
    let schema = version.schema.as_ref().and_then(|schema| schema.open_api_v3_schema.as_ref());
    serde_json::to_value(schema.expect("every version has a schema")).unwrap()
}
