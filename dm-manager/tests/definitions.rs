//! The definitions are those of the programs whose objects they are: compared with every row of a table
//! of facts, in both directions.
#![allow(clippy::unwrap_used, clippy::print_stderr, unreachable_pub)] // tests

mod support;

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, CustomResourceDefinitionVersion,
};
use serde_json::Value;
use support::{kinds, printed, schema};

const TABLE: &str = include_str!("data/crd-fields.tsv");

/// The table's word for a version whose rows are not repeated.
const SAME: &str = " | fields identical to the version above";

type Rows = BTreeMap<String, BTreeSet<String>>;

/// The rows of each version, by `crd version`.
fn rows_of_the_table() -> Rows {
    let mut rows = Rows::new();
    let mut above: Option<(String, String)> = None;
    for line in TABLE.lines().filter(|line| !line.starts_with('#') && !line.is_empty()) {
        let (name, rest) = line.split_once('\t').unwrap();
        let (version, row) = rest.split_once('\t').unwrap();
        let key = format!("{name} {version}");
        if let Some(row) = row.strip_suffix(SAME) {
            let (above_name, above_key) = above.as_ref().unwrap();
            assert_eq!(above_name, name, "the version above is of the same kind");
            let mut same = rows[above_key].clone();
            same.retain(|row| !row.starts_with("-\t"));
            same.insert(row.trim_end().to_owned());
            rows.insert(key.clone(), same);
        } else {
            rows.entry(key.clone()).or_default().insert(row.trim_end().to_owned());
        }
        above = Some((name.to_owned(), key));
    }
    rows
}

/// The same of a definition, in the table's words.
fn rows_of(definition: &CustomResourceDefinition) -> Rows {
    let spec = &definition.spec;
    let mut rows = Rows::new();
    for version in &spec.versions {
        let mut own = BTreeSet::from([about(definition, version)]);
        let schema = schema(definition, &version.name);
        let properties = schema["properties"].as_object().unwrap();
        for (field, inner) in properties {
            if !["apiVersion", "kind", "metadata"].contains(&field.as_str()) {
                describe(field, inner, required(&schema, field), &mut own);
            }
        }
        rows.insert(format!("{}.{} {}", spec.names.plural, spec.group, version.name), own);
    }
    rows
}

/// The row of a version itself.
fn about(
    definition: &CustomResourceDefinition,
    version: &CustomResourceDefinitionVersion,
) -> String {
    let yes = |value: bool| if value { "True" } else { "False" };
    let columns = version.additional_printer_columns.iter().flatten().map(|column| {
        let wide = if column.priority.unwrap_or(0) > 0 { "(wide)" } else { "" };
        format!("{}:{}:{}{wide}", column.name, column.type_, column.json_path)
    });
    let status = version.subresources.as_ref().is_some_and(|all| all.status.is_some());
    format!(
        "-\tserved={} storage={} scope={}\tkind={} short={} status_subresource={}\tcolumns: {}",
        yes(version.served),
        yes(version.storage),
        definition.spec.scope,
        definition.spec.names.kind,
        definition.spec.names.short_names.iter().flatten().cloned().collect::<Vec<_>>().join(","),
        yes(status),
        columns.collect::<Vec<_>>().join(" "),
    )
    .trim_end()
    .to_owned()
}

fn required(schema: &Value, field: &str) -> bool {
    schema["required"].as_array().is_some_and(|all| all.iter().any(|name| name == field))
}

/// The rows of a field and of what is in it.
fn describe(field: &str, schema: &Value, required_here: bool, rows: &mut BTreeSet<String>) {
    let kind = match (schema["type"].as_str(), schema["format"].as_str()) {
        _ if schema["x-kubernetes-int-or-string"] == true => "int-or-string".to_owned(),
        (Some(kind), Some(format)) => format!("{kind}:{format}"),
        (Some(kind), None) => kind.to_owned(),
        (None, _) => panic!("{field} has no type: {schema}"),
    };
    let must = if required_here { "required" } else { "" };
    rows.insert(format!("{field}\t{kind}\t{must}\t{}", constraints(schema)).trim_end().to_owned());
    for (name, inner) in schema["properties"].as_object().into_iter().flatten() {
        describe(&format!("{field}.{name}"), inner, required(schema, name), rows);
    }
    if schema["additionalProperties"].is_object() {
        describe(&format!("{field}{{}}"), &schema["additionalProperties"], false, rows);
    }
    if schema["items"].is_object() {
        describe(&format!("{field}[]"), &schema["items"], false, rows);
    }
}

/// What a value must be beside its type.
fn constraints(schema: &Value) -> String {
    let mut words = Vec::new();
    for (keyword, name) in [
        ("enum", "enum"),
        ("default", "default"),
        ("minimum", "minimum"),
        ("maximum", "maximum"),
        ("minLength", "minLength"),
        ("maxLength", "maxLength"),
        ("minItems", "minItems"),
        ("maxItems", "maxItems"),
        ("pattern", "pattern"),
    ] {
        if let Some(value) = schema.get(keyword) {
            let value = match value.as_f64() {
                Some(number) => number.to_string(),
                None => value.to_string().replace("\\u0026", "&"),
            };
            words.push(format!("{name}={value}"));
        }
    }
    for rule in schema["x-kubernetes-validations"].as_array().into_iter().flatten() {
        words.push(format!("rule={}", rule["rule"].as_str().unwrap()));
    }
    words.join(" ")
}

#[test]
fn every_row_of_the_table_is_there_and_nothing_else() {
    let mut ours = Rows::new();
    for definition in printed(&["--all"]) {
        if definition.spec.group != "longshore.dev" {
            ours.extend(rows_of(&definition));
        }
    }
    let table = rows_of_the_table();
    assert_eq!(table.len(), 16, "eight kinds in two versions each");
    assert_eq!(ours.keys().collect::<Vec<_>>(), table.keys().collect::<Vec<_>>());
    let mut differences = Vec::new();
    for (version, rows) in &table {
        let missing =
            rows.difference(&ours[version]).map(|row| format!("{version}: missing: {row}"));
        let extra =
            ours[version].difference(rows).map(|row| format!("{version}: not in the table: {row}"));
        differences.extend(missing.chain(extra));
    }
    assert!(differences.is_empty(), "{}", differences.join("\n"));
    assert!(table.values().map(BTreeSet::len).sum::<usize>() > 600, "the table is whole");
}

#[test]
fn only_what_nobody_else_installs_is_printed_unless_asked() {
    assert_eq!(kinds(&printed(&[])), ["DataMovementShard"]);
    let of_nnf_sos = [
        "DataMovementShard",
        "NnfDataMovement",
        "NnfDataMovementManager",
        "NnfDataMovementProfile",
        "NnfStorage",
        "NnfNodeStorage",
    ];
    assert_eq!(kinds(&printed(&["--without", "nnf-sos"])), of_nnf_sos);
    let of_two = printed(&["--without", "lustre-fs-operator", "--without", "dws"]);
    assert_eq!(
        kinds(&of_two),
        ["DataMovementShard", "LustreFileSystem", "Workflow", "DWDirectiveRule"]
    );
    assert_eq!(printed(&["--all"]).len(), 9);
}

#[test]
fn what_is_printed_is_what_the_types_say() {
    let rendered: Vec<_> = longshore::api::definitions().into_iter().map(|(_, one)| one).collect();
    assert_eq!(printed(&["--all"]), rendered);
}
