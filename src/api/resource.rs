//! The outer shape of every object: type, metadata, and the fields of its kind. It knows no kind.

/// Makes the type of a kind: its outer fields, and what `kube` and the definition need of it.
macro_rules! custom_resource {
    (
        $(#[$about:meta])*
        $kind:ident = $definition:expr;
        $($(#[$field_about:meta])* $field:ident: $type:ty,)*
    ) => {
        $(#[$about])*
        #[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
        #[serde(rename_all = "camelCase")]
        pub struct $kind {
            /// The group and version that the object was read with, or is to be written with.
            #[serde(default)]
            pub api_version: String,
            /// The kind; always that of this type.
            #[serde(default)]
            pub kind: String,
            /// Name, namespace, labels, finalizers and the like.
            #[serde(default)]
            pub metadata: k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta,
            $($(#[$field_about])* #[serde(default)] pub $field: $type,)*
        }

        impl $kind {
            /// An empty object of a version, with a name, to be filled and created.
            pub fn new(version: &$crate::api::Version, name: impl Into<String>) -> Self {
                use $crate::api::Defined;
                Self {
                    api_version: format!("{}/{version}", Self::DEFINITION.group),
                    kind: Self::DEFINITION.kind.to_owned(),
                    metadata: k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta {
                        name: Some(name.into()),
                        ..Default::default()
                    },
                    $($field: Default::default(),)*
                }
            }
        }

        impl kube::Resource for $kind {
            type DynamicType = $crate::api::Version;
            // All kinds are namespaced, but with a version found at run time the scope is one too.
            type Scope = kube::core::DynamicResourceScope;

            fn kind(_: &Self::DynamicType) -> std::borrow::Cow<'_, str> {
                <Self as $crate::api::Defined>::DEFINITION.kind.into()
            }

            fn group(_: &Self::DynamicType) -> std::borrow::Cow<'_, str> {
                <Self as $crate::api::Defined>::DEFINITION.group.into()
            }

            fn version(version: &Self::DynamicType) -> std::borrow::Cow<'_, str> {
                version.name().into()
            }

            fn plural(_: &Self::DynamicType) -> std::borrow::Cow<'_, str> {
                <Self as $crate::api::Defined>::DEFINITION.plural.into()
            }

            fn meta(&self) -> &k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta {
                &self.metadata
            }

            fn meta_mut(&mut self) -> &mut k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta {
                &mut self.metadata
            }
        }

        impl $crate::api::Defined for $kind {
            const DEFINITION: $crate::api::Definition = $definition;

            fn properties() -> Vec<(&'static str, serde_json::Value)> {
                vec![$((stringify!($field), $crate::api::schema::of::<$type>()),)*]
            }
        }
    };
}

pub(crate) use custom_resource;
