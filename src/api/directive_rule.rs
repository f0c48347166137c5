//! `DWDirectiveRule`: which directives a driver takes, and with which words. It checks no directive.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::definition::{Definition, Origin};
use super::resource::custom_resource;
use super::schema;

custom_resource! {
    /// The directives that a driver takes.
    DWDirectiveRule = Definition {
        origin: Origin::Dws,
        group: "dataworkflowservices.github.io",
        kind: "DWDirectiveRule",
        plural: "dwdirectiverules",
        short_names: &[],
        versions: &["v1alpha6", "v1alpha7"],
        status_subresource: false,
        columns: &[],
        required: &[],
    };
    /// One rule for each directive.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    spec: Vec<DirectiveRule>,
}

/// One directive.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct DirectiveRule {
    /// The word behind `#DW`.
    pub command: String,
    /// The states in which the driver has something to do, with commas between them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub watch_states: Option<String>,
    /// The label that the driver is known by.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub driver_label: Option<String>,
    /// The words that the directive can have.
    pub rule_defs: Vec<RuleDef>,
}

/// One word `key=value` of a directive.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct RuleDef {
    /// The word in front of the equals sign, as a regular expression.
    pub key: String,
    /// What the value is: `string`, `integer`, `bool`, …
    #[serde(rename = "type")]
    pub value_type: String,
    /// What a text must look like.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pattern: Option<String>,
    /// What a text must look like, several possibilities.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub patterns: Option<Vec<String>>,
    /// The least a number may be.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<schema::Int>")]
    pub min: Option<i64>,
    /// The most a number may be.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<schema::Int>")]
    pub max: Option<i64>,
    /// Whether the word must be there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub is_required: Option<bool>,
    /// Whether it must have a value.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub is_value_required: Option<bool>,
    /// What must not have the same value twice.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unique_within: Option<String>,
}
