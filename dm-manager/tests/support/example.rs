//! Objects made from a schema: one with every field set, and variations of it that must be refused. It
//! knows no kind.

use serde_json::{Map, Value, json};

/// A value that a schema allows, with every field set. Fields whose content is not checked are left to
/// the caller.
pub fn every_field(schema: &Value) -> Value {
    if schema["x-kubernetes-int-or-string"] == true {
        return json!("25%");
    }
    if let Some(words) = schema["enum"].as_array() {
        // Not the first, which may be what an absent field becomes.
        return words.last().cloned().expect("an enumeration has words");
    }
    match schema["type"].as_str().expect("a field has a type") {
        "object" if schema["additionalProperties"].is_object() => {
            let inner = &schema["additionalProperties"];
            json!({"first": every_field(inner), "second": every_field(inner)})
        }
        "object" => {
            let fields = schema["properties"].as_object().into_iter().flatten();
            let fields = fields.map(|(name, inner)| (name.clone(), every_field(inner)));
            Value::Object(fields.collect::<Map<_, _>>())
        }
        "array" => json!([every_field(&schema["items"]), every_field(&schema["items"])]),
        // Never what it would be when absent.
        "boolean" => json!(schema["default"] != true),
        "integer" => integer(schema),
        "string" => string(schema),
        other => panic!("no example for {other}"),
    }
}

fn integer(schema: &Value) -> Value {
    // Large, so that a narrower type on the way would be noticed.
    let large = match schema["format"].as_str() {
        Some("int32") => i64::from(i32::MAX),
        _ => 9_007_199_254_740_993, // 2^53 + 1, which a double does not have
    };
    let large = schema["maximum"].as_f64().map_or(large, |most| large.min(whole(most)));
    json!(large)
}

fn string(schema: &Value) -> Value {
    if schema["format"] == "date-time" {
        return json!("2026-11-21T03:48:56.031803Z");
    }
    let longest = schema["maxLength"].as_u64().unwrap_or(u64::MAX);
    let words: String = match schema["x-kubernetes-validations"].is_array() {
        // A rule of a command that names a program holds where the program is not named.
        true => "/bin/true # \"quoted\", µ".to_owned(),
        false => "text: \"quoted\", µ\n".to_owned(),
    };
    json!(words.chars().take(usize::try_from(longest).unwrap_or(usize::MAX)).collect::<String>())
}

/// What has to be refused, and why: the path of the field, and the object with that one fault.
pub type Fault = (String, Value);

/// The variations of an object with one fault each: a required field missing, a word that an
/// enumeration has not, a number or a text out of bounds, a value of another type.
pub fn faults(schema: &Value, object: &Value) -> Vec<Fault> {
    let mut found = Vec::new();
    collect(schema, object, &mut Vec::new(), &mut found);
    found
        .into_iter()
        .map(|(path, fault)| {
            let mut faulty = object.clone();
            let what = match &fault {
                Some(value) => format!("{} = {}", path.join("."), shortened(value)),
                None => format!("{} is missing", path.join(".")),
            };
            apply(&mut faulty, &path, fault);
            (what, faulty)
        })
        .collect()
}

fn shortened(value: &Value) -> String {
    value.to_string().chars().take(60).collect()
}

type At = (Vec<String>, Option<Value>);

fn collect(schema: &Value, object: &Value, path: &mut Vec<String>, found: &mut Vec<At>) {
    let mut wrong = |value: Value| found.push((path.clone(), Some(value)));
    if schema["enum"].is_array() {
        wrong(json!("NoSuchWord"));
    }
    if let Some(least) = schema["minimum"].as_f64() {
        wrong(json!(whole(least) - 1));
    }
    if let Some(most) = schema["maximum"].as_f64() {
        wrong(json!(whole(most) + 1));
    }
    if let Some(shortest) = schema["minLength"].as_u64().filter(|&shortest| shortest > 0) {
        wrong(json!("x".repeat(usize::try_from(shortest).unwrap() - 1)));
    }
    if let Some(longest) = schema["maxLength"].as_u64() {
        wrong(json!("x".repeat(usize::try_from(longest).unwrap() + 1)));
    }
    if let Some(rules) = schema["x-kubernetes-validations"].as_array()
        && rules
            .iter()
            .any(|rule| rule["rule"].as_str().is_some_and(|rule| rule.contains("contains")))
    {
        // Each of these names its program, and nothing of what it must hand on.
        wrong(json!("dcp; stat; mkdir; setpriv"));
    }
    match (schema["type"].as_str(), schema["x-kubernetes-int-or-string"] == true) {
        (_, true) => wrong(json!(true)),
        (Some("string"), _) => wrong(json!(7)),
        (Some("integer"), _) => wrong(json!("seven")),
        (Some("boolean"), _) => wrong(json!("true")),
        // An object that is none cannot even be sent.
        (Some("object" | "array"), _) if !path.is_empty() => {
            wrong(json!("neither object nor array"))
        }
        _ => {}
    }
    for name in schema["required"].as_array().into_iter().flatten() {
        let name = name.as_str().unwrap();
        // One with a default is filled in before it is missed.
        if schema["properties"][name].get("default").is_none() {
            path.push(name.to_owned());
            found.push((path.clone(), None));
            path.pop();
        }
    }
    for (name, inner) in schema["properties"].as_object().into_iter().flatten() {
        if let Some(value) = object.get(name) {
            path.push(name.clone());
            collect(inner, value, path, found);
            path.pop();
        }
    }
    for (key, step) in [("items", "0"), ("additionalProperties", "first")] {
        if schema[key].is_object() {
            path.push(step.to_owned());
            collect(&schema[key], &value_at(object, step), path, found);
            path.pop();
        }
    }
}

fn whole(number: f64) -> i64 {
    format!("{number:.0}").parse().expect("a bound of an integer is one")
}

fn value_at(object: &Value, step: &str) -> Value {
    match object {
        Value::Array(items) => items[step.parse::<usize>().unwrap()].clone(),
        other => other[step].clone(),
    }
}

fn apply(object: &mut Value, path: &[String], fault: Option<Value>) {
    let (last, way) = path.split_last().expect("a fault is somewhere");
    let mut at = object;
    for step in way {
        at = match at {
            Value::Array(items) => &mut items[step.parse::<usize>().unwrap()],
            other => &mut other[step.as_str()],
        };
    }
    match (at, fault) {
        (Value::Array(items), Some(value)) => items[last.parse::<usize>().unwrap()] = value,
        (Value::Object(fields), Some(value)) => drop(fields.insert(last.clone(), value)),
        (Value::Object(fields), None) => drop(fields.remove(last)),
        (at, fault) => panic!("cannot set {fault:?} in {at}"),
    }
}

/// A value with as little as a schema allows: of the fields that hold others all, of the rest those that
/// must be given.
pub fn sparse(schema: &Value) -> Value {
    if schema["type"] == "array" {
        return json!([]);
    }
    if schema["type"] != "object" || schema["additionalProperties"].is_object() {
        return every_field(schema);
    }
    let fields = schema["properties"].as_object().into_iter().flatten();
    let given = fields.filter(|(name, inner)| {
        let required = schema["required"].as_array().is_some_and(|all| all.contains(&json!(name)));
        inner["properties"].is_object() || (required && inner.get("default").is_none())
    });
    Value::Object(given.map(|(name, inner)| (name.clone(), sparse(inner))).collect())
}

/// What such a value becomes: with every default filled in.
pub fn with_defaults(schema: &Value, mut value: Value) -> Value {
    let Some(given) = value.as_object_mut() else { return value };
    for (name, inner) in schema["properties"].as_object().into_iter().flatten() {
        let filled = given.remove(name).or_else(|| inner.get("default").cloned());
        if let Some(filled) = filled {
            given.insert(name.clone(), with_defaults(inner, filled));
        }
    }
    value
}
