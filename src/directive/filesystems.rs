//! Which absolute paths are global filesystems: LustreFileSystem objects as YAML. It reads text
//! that the caller read from a file, and mounts nothing.

use std::path::{Component, Path, PathBuf};

use serde::Deserialize;

const GROUP: &str = "lus.cray.hpe.com";
const VERSIONS: [&str; 2] = ["v1alpha1", "v1beta1"];
const KIND: &str = "LustreFileSystem";
/// Lustre's own limit for the name of a filesystem.
const NAME_LIMIT_BYTES: usize = 8;

/// One global filesystem.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LustreFileSystem {
    /// The object's name.
    pub object: String,
    /// The filesystem's name.
    pub name: String,
    /// NIDs of its management servers.
    pub mgs_nids: String,
    /// Where it is mounted.
    pub mount_root: PathBuf,
}

/// The global filesystems that are known.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filesystems(Vec<LustreFileSystem>);

/// Why a list of filesystems is refused.
#[derive(Debug, thiserror::Error)]
pub enum FilesystemsError {
    /// The text is no YAML, or a value has the wrong type.
    #[error("failed to parse the YAML: {0}")]
    Yaml(String),
    /// An object of another kind.
    #[error(
        "document {number} is a {found}; only {KIND} of {GROUP}/v1alpha1 or v1beta1 belongs here"
    )]
    Kind {
        /// The document in the file, from 1.
        number: usize,
        /// Its apiVersion and kind.
        found: String,
    },
    /// A field that cannot be used.
    #[error("{KIND} '{object}': {problem}")]
    Field {
        /// The object's name.
        object: String,
        /// What is wrong and what to write.
        problem: String,
    },
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Head {
    #[serde(default)]
    api_version: String,
    #[serde(default)]
    kind: String,
}

#[derive(Deserialize)]
struct Object {
    #[serde(default)]
    metadata: Metadata,
    #[serde(default)]
    spec: Spec,
}

#[derive(Default, Deserialize)]
struct Metadata {
    #[serde(default)]
    name: String,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Spec {
    #[serde(default)]
    name: String,
    #[serde(default)]
    mgs_nids: String,
    #[serde(default)]
    mount_root: String,
}

impl Filesystems {
    /// Adds every object of a (multi-document) YAML text.
    ///
    /// # Errors
    /// When the text holds anything but valid LustreFileSystem objects, or one twice.
    pub fn add_yaml(&mut self, text: &str) -> Result<(), FilesystemsError> {
        let yaml = |error: serde_saphyr::Error| FilesystemsError::Yaml(error.to_string());
        let heads: Vec<Head> = serde_saphyr::from_multiple(text).map_err(yaml)?;
        for (number, head) in (1..).zip(&heads) {
            let version = head.api_version.strip_prefix(GROUP).and_then(|v| v.strip_prefix('/'));
            if head.kind != KIND || !version.is_some_and(|v| VERSIONS.contains(&v)) {
                let found = format!("{} {}", head.api_version, head.kind).trim().to_owned();
                let found = if found.is_empty() { "document without a kind".into() } else { found };
                return Err(FilesystemsError::Kind { number, found });
            }
        }
        let objects: Vec<Object> = serde_saphyr::from_multiple(text).map_err(yaml)?;
        for object in objects {
            self.add(object)?;
        }
        Ok(())
    }

    fn add(&mut self, object: Object) -> Result<(), FilesystemsError> {
        let Object { metadata, spec } = object;
        let refuse = |problem: String| {
            let object = metadata.name.clone();
            Err(FilesystemsError::Field { object, problem })
        };
        if metadata.name.is_empty() {
            return refuse("metadata.name is missing".into());
        }
        if spec.name.is_empty() || spec.name.len() > NAME_LIMIT_BYTES {
            return refuse(format!("spec.name must have 1 to {NAME_LIMIT_BYTES} characters"));
        }
        if spec.mgs_nids.is_empty() {
            return refuse("spec.mgsNids is missing".into());
        }
        let root = Path::new(&spec.mount_root);
        if !root.is_absolute() || root.components().any(|c| c == Component::ParentDir) {
            return refuse("spec.mountRoot must be an absolute path without '..'".into());
        }
        // Collected from its components, the root has no doubled or trailing slashes.
        let mount_root: PathBuf = root.components().collect();
        if let Some(other) = self.0.iter().find(|f| f.object == metadata.name) {
            return refuse(format!(
                "is there twice (also with mountRoot {})",
                other.mount_root.display()
            ));
        }
        if let Some(other) = self.0.iter().find(|f| f.mount_root == mount_root) {
            return refuse(format!("has the same mountRoot as '{}'", other.object));
        }
        let (object, name, mgs_nids) = (metadata.name, spec.name, spec.mgs_nids);
        self.0.push(LustreFileSystem { object, name, mgs_nids, mount_root });
        Ok(())
    }

    /// Whether none is known; then every absolute path is taken as it is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The filesystem that holds a path: by whole components, the longest mount root first.
    #[must_use]
    pub fn holding(&self, path: &Path) -> Option<&LustreFileSystem> {
        self.0
            .iter()
            .filter(|f| path.starts_with(&f.mount_root))
            .max_by_key(|f| f.mount_root.components().count())
    }

    /// The mount roots, for messages.
    #[must_use]
    pub fn roots(&self) -> String {
        let roots: Vec<_> = self.0.iter().map(|f| f.mount_root.display().to_string()).collect();
        roots.join(", ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(name: &str, fs: &str, root: &str) -> String {
        format!(
            "apiVersion: lus.cray.hpe.com/v1beta1\nkind: LustreFileSystem\nmetadata:\n  name: {name}\n  namespace: default\n\
             spec:\n  name: {fs}\n  mgsNids: 10.0.0.1@tcp\n  mountRoot: {root}\n  namespaces:\n    default: {{modes: [ReadWriteMany]}}\n"
        )
    }

    fn load(text: &str) -> Result<Filesystems, String> {
        let mut filesystems = Filesystems::default();
        filesystems.add_yaml(text).map_err(|e| e.to_string())?;
        Ok(filesystems)
    }

    #[test]
    fn the_longest_root_on_whole_components_holds_a_path() {
        let text = [object("a", "lus1", "/lus/lus1/"), object("b", "lus2", "/lus/lus1/inner")]
            .join("---\n");
        let filesystems = load(&text).unwrap();
        let holding = |path: &str| filesystems.holding(Path::new(path)).map(|f| f.object.as_str());
        assert_eq!(holding("/lus/lus1/x"), Some("a"));
        assert_eq!(holding("/lus/lus1"), Some("a"));
        assert_eq!(holding("/lus/lus1/inner/x"), Some("b"));
        assert_eq!(holding("/lus/lus10/x"), None);
    }

    #[test]
    fn objects_that_cannot_be_are_refused_by_name() {
        let refused = |text: &str, part: &str| {
            let error = load(text).unwrap_err();
            assert!(error.contains(part), "{error}");
        };
        refused(&object("a", "toolongname", "/lus"), "'a': spec.name must have 1 to 8");
        refused(&object("a", "lus", "lus/x"), "absolute");
        refused(&[object("a", "l", "/l"), object("a", "m", "/m")].join("---\n"), "twice");
        refused(&[object("a", "l", "/l"), object("b", "m", "/l/")].join("---\n"), "same mountRoot");
        refused("apiVersion: v1\nkind: Pod\nspec: [1]\n", "document 1 is a v1 Pod");
        refused("a: [", "YAML");
        let v2 = object("a", "l", "/l").replace("v1beta1", "v2");
        refused(&v2, "lus.cray.hpe.com/v2 LustreFileSystem");
    }
}
