//! From Rust types to the dialect of JSON schema that the API server takes ("structural"), in the way
//! controller-gen does it for Go types. It knows no single kind.
//!
//! What the attributes of the fields mean:
//!
//! | in Rust | in the schema |
//! |---|---|
//! | no `skip_serializing_if` | required, as a Go field without `omitempty` |
//! | `#[schemars(extend("x-default" = …))]` | `default`, filled in by the API server |
//! | serde's `default` | nothing: it is about reading what an older or newer program left out |
//! | `u32` | integer, int32, without bounds, as controller-gen has Go's `uint32` |
//! | `with = "schema::Int"` | integer without a format, as Go's `int` |

use std::borrow::Cow;

use schemars::generate::SchemaSettings;
use schemars::transform::{Transform, transform_subschemas};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde_json::{Map, Value, json};

/// The schema of a type.
pub(crate) fn of<T: JsonSchema>() -> Value {
    let settings = SchemaSettings::draft2020_12()
        .for_serialize()
        .with(|settings| {
            settings.inline_subschemas = true;
            settings.meta_schema = None;
        })
        .with_transform(Structural);
    settings.into_generator().into_root_schema_for::<T>().to_value()
}

/// Go's `int`: an integer without a format.
pub(crate) struct Int;

impl JsonSchema for Int {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Int".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "integer"})
    }
}

/// An object whose fields are not checked here.
pub(crate) struct AnyObject;

impl JsonSchema for AnyObject {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "AnyObject".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "object", "x-kubernetes-preserve-unknown-fields": true})
    }
}

/// Rewrites one schema after the other, inner ones first.
#[derive(Clone, Debug)]
struct Structural;

impl Transform for Structural {
    fn transform(&mut self, schema: &mut Schema) {
        transform_subschemas(self, schema);
        let Some(keywords) = schema.as_object_mut() else { return };
        for name in ["$schema", "title"] {
            keywords.remove(name);
        }
        absent_instead_of_null(keywords);
        one_enumeration(keywords);
        integers_as_in_go(keywords);
        keywords.remove("default");
        if let Some(default) = keywords.remove("x-default") {
            keywords.insert("default".to_owned(), default);
        }
        if let Some(Value::String(text)) = keywords.get_mut("description") {
            // Lines are broken in the source for its readers; kubectl explain breaks them itself.
            *text = text.split("\n\n").map(one_line).collect::<Vec<_>>().join("\n\n");
        }
    }
}

fn one_line(paragraph: &str) -> String {
    paragraph.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// An optional field is left out, never null.
fn absent_instead_of_null(keywords: &mut Map<String, Value>) {
    if let Some(Value::Array(types)) = keywords.get_mut("type") {
        types.retain(|one| one != "null");
        if let [only] = types.as_slice() {
            let only = only.clone();
            keywords.insert("type".to_owned(), only);
        }
    }
    if let Some(Value::Array(values)) = keywords.get_mut("enum") {
        values.retain(|value| !value.is_null());
    }
    let Some(Value::Array(choices)) = keywords.get_mut("anyOf") else { return };
    choices.retain(|choice| choice.get("type") != Some(&json!("null")));
    if let [Value::Object(only)] = choices.as_slice() {
        let only = only.clone();
        keywords.remove("anyOf");
        for (name, value) in only {
            // What is said at the field is closer than what is said at its type.
            keywords.entry(name).or_insert(value);
        }
    }
}

/// Described words are written as one constant each; the API server has only the list.
fn one_enumeration(keywords: &mut Map<String, Value>) {
    let Some(Value::Array(choices)) = keywords.get("oneOf") else { return };
    let words: Option<Vec<Value>> =
        choices.iter().map(|choice| choice.get("const").cloned()).collect();
    if let Some(words) = words {
        keywords.remove("oneOf");
        keywords.insert("type".to_owned(), json!("string"));
        keywords.insert("enum".to_owned(), Value::Array(words));
    }
}

/// Unsigned integers are written by Go programs as signed ones without bounds.
fn integers_as_in_go(keywords: &mut Map<String, Value>) {
    let signed = match keywords.get("format").and_then(Value::as_str) {
        Some("uint32") => "int32",
        Some("uint64") => "int64",
        _ => return,
    };
    keywords.insert("format".to_owned(), json!(signed));
    keywords.remove("minimum");
}
