//! What a kind is to the API server: group, versions, names, columns, and from these and the schema of
//! its fields the CustomResourceDefinition. It knows no single kind.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceColumnDefinition, CustomResourceDefinition, CustomResourceDefinitionNames,
    CustomResourceDefinitionSpec, CustomResourceDefinitionVersion, CustomResourceSubresourceStatus,
    CustomResourceSubresources, CustomResourceValidation, JSONSchemaProps,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::{Value, json};

/// The version of a kind that is spoken with the API server, such as `v1alpha11`. It is found out at
/// run time, so that a cluster may be newer than this program.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Version(Cow<'static, str>);

impl Version {
    /// A version by its name.
    pub fn new(name: impl Into<Cow<'static, str>>) -> Self {
        Self(name.into())
    }

    /// The name, as in `apiVersion` behind the slash.
    pub fn name(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The program that installs a definition. Two programs that install the same one undo each other's
/// work: whoever comes last decides on versions, conversion and schema.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Origin {
    /// Ours: nobody else installs it.
    Longshore,
    /// nnf-sos, whose webhook converts between the versions.
    NnfSos,
    /// lustre-fs-operator, whose webhook validates.
    LustreFsOperator,
    /// The data workflow services.
    Dws,
}

/// A column of `kubectl get`.
#[derive(Clone, Copy, Debug)]
pub struct Column {
    /// The heading.
    pub name: &'static str,
    /// `string`, `boolean`, `date`, …: how the value is shown.
    pub shown_as: &'static str,
    /// Where the value is.
    pub path: &'static str,
    /// Whether it is shown with `-o wide` only.
    pub wide: bool,
}

impl Column {
    /// A column that is always shown.
    pub const fn new(name: &'static str, shown_as: &'static str, path: &'static str) -> Self {
        Self { name, shown_as, path, wide: false }
    }

    /// A column of `-o wide`.
    pub const fn wide(name: &'static str, shown_as: &'static str, path: &'static str) -> Self {
        Self { name, shown_as, path, wide: true }
    }

    /// The column that closes most tables.
    pub const AGE: Self = Self::new("AGE", "date", ".metadata.creationTimestamp");
}

/// All that is said of a kind beside its fields.
#[derive(Clone, Copy, Debug)]
pub struct Definition {
    /// Whose it is to install.
    pub origin: Origin,
    /// The API group.
    pub group: &'static str,
    /// The kind, in camel case.
    pub kind: &'static str,
    /// The plural, as in the address of a list.
    pub plural: &'static str,
    /// Short names for `kubectl`.
    pub short_names: &'static [&'static str],
    /// The served versions, oldest first. The last one is how objects are stored.
    pub versions: &'static [&'static str],
    /// Whether the status is written apart from the rest.
    pub status_subresource: bool,
    /// The columns of `kubectl get`.
    pub columns: &'static [Column],
    /// Which of the top-level fields an object must have.
    pub required: &'static [&'static str],
}

impl Definition {
    /// The version in which objects are stored, where this program knows the newest. To be preferred:
    /// every other one is converted on its way, by a webhook on a cluster with nnf-sos.
    pub const fn storage_version(&self) -> Version {
        let Some(last) = self.versions.last() else {
            panic!("a definition has at least one version");
        };
        Version(Cow::Borrowed(last))
    }
}

/// A kind with its definition and the schema of its fields.
pub trait Defined: kube::Resource<DynamicType = Version> {
    /// What is said of it beside its fields.
    const DEFINITION: Definition;

    /// The schemas of its top-level fields, without the metadata.
    fn properties() -> Vec<(&'static str, Value)>;
}

/// The definition of a kind, as the API server takes it.
pub fn render<K: Defined>() -> CustomResourceDefinition {
    let definition = K::DEFINITION;
    let schema = whole_object::<K>();
    let newest = definition.storage_version();
    let versions = definition.versions.iter().map(|name| CustomResourceDefinitionVersion {
        name: (*name).to_owned(),
        served: true,
        storage: *name == newest.name(),
        schema: Some(CustomResourceValidation { open_api_v3_schema: Some(schema.clone()) }),
        subresources: definition.status_subresource.then(|| CustomResourceSubresources {
            status: Some(CustomResourceSubresourceStatus(json!({}))),
            scale: None,
        }),
        additional_printer_columns: columns(definition.columns),
        ..CustomResourceDefinitionVersion::default()
    });
    CustomResourceDefinition {
        metadata: ObjectMeta {
            name: Some(format!("{}.{}", definition.plural, definition.group)),
            ..ObjectMeta::default()
        },
        spec: CustomResourceDefinitionSpec {
            group: definition.group.to_owned(),
            names: CustomResourceDefinitionNames {
                kind: definition.kind.to_owned(),
                list_kind: Some(format!("{}List", definition.kind)),
                plural: definition.plural.to_owned(),
                singular: Some(definition.kind.to_lowercase()),
                short_names: some_unless_empty(definition.short_names),
                categories: None,
            },
            scope: "Namespaced".to_owned(),
            versions: versions.collect(),
            ..CustomResourceDefinitionSpec::default()
        },
        status: None,
    }
}

/// The schema of an object with its type and metadata, which the API server checks itself.
fn whole_object<K: Defined>() -> JSONSchemaProps {
    let mut properties = BTreeMap::from([
        ("apiVersion".to_owned(), json!({"type": "string"})),
        ("kind".to_owned(), json!({"type": "string"})),
        ("metadata".to_owned(), json!({"type": "object"})),
    ]);
    properties.extend(K::properties().into_iter().map(|(name, schema)| (name.to_owned(), schema)));
    let mut whole = json!({"type": "object", "properties": properties});
    if !K::DEFINITION.required.is_empty() {
        whole["required"] = json!(K::DEFINITION.required);
    }
    serde_json::from_value(whole).expect("the schema is made of keywords that the API server has")
}

fn columns(of: &[Column]) -> Option<Vec<CustomResourceColumnDefinition>> {
    let rendered = of.iter().map(|column| CustomResourceColumnDefinition {
        name: column.name.to_owned(),
        type_: column.shown_as.to_owned(),
        json_path: column.path.to_owned(),
        priority: column.wide.then_some(1),
        ..CustomResourceColumnDefinition::default()
    });
    (!of.is_empty()).then(|| rendered.collect())
}

fn some_unless_empty(names: &[&str]) -> Option<Vec<String>> {
    (!names.is_empty()).then(|| names.iter().map(|name| (*name).to_owned()).collect())
}
