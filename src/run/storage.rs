//! Where storage lies on this machine, in the layout that the cluster mounts:
//! `STORAGE/UID-INDEX/NODE-I` for xfs and gfs2, `STORAGE/UID-INDEX` for the others. It knows nothing
//! of persistent instances but their directories.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::RunError;
use crate::directive::resolve::StorageType;

/// One storage as directories.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Volume {
    /// What it is formatted as on the cluster.
    pub storage_type: StorageType,
    /// Its directory.
    pub root: PathBuf,
    /// The node in the names of its index directories.
    pub node: String,
    /// How many computes have an allocation of their own; `None` when all share one.
    pub allocations: Option<u32>,
}

impl Volume {
    /// A storage of the given type; `allocations` counts only for the types that have them.
    #[must_use]
    pub fn new(storage_type: StorageType, root: PathBuf, node: &str, allocations: u32) -> Self {
        let allocations = storage_type.is_per_compute().then_some(allocations);
        Self { storage_type, root, node: node.to_owned(), allocations }
    }

    /// The name of an allocation's index directory.
    #[must_use]
    pub fn index_name(&self, allocation: u32) -> String {
        format!("{}-{allocation}", self.node)
    }

    /// The directories that a compute sees, one for each allocation.
    #[must_use]
    pub fn directories(&self) -> Vec<PathBuf> {
        match self.allocations {
            Some(count) => (0..count).map(|i| self.root.join(self.index_name(i))).collect(),
            None => vec![self.root.clone()],
        }
    }

    /// What the job sees: the only directory, or the one of the first allocation.
    #[must_use]
    pub fn job_path(&self) -> PathBuf {
        match self.allocations {
            Some(_) => self.root.join(self.index_name(0)),
            None => self.root.clone(),
        }
    }

    /// Makes the directories; existing ones are fine, so that a killed Setup can be repeated.
    ///
    /// # Errors
    /// [`RunError::System`].
    pub fn make(&self) -> Result<(), RunError> {
        for directory in self.directories() {
            make_private(&directory)?;
        }
        Ok(())
    }
}

/// Makes a directory and its parents, for the user alone.
///
/// # Errors
/// [`RunError::System`].
pub fn make_private(directory: &Path) -> Result<(), RunError> {
    use std::os::unix::fs::DirBuilderExt;
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)
        .map_err(RunError::system(directory, "create the storage directory"))
}

/// The directory of the job storage that a run's directive makes.
#[must_use]
pub fn job_root(storage: &Path, uid: &str, index: usize) -> PathBuf {
    storage.join(format!("{uid}-{index}"))
}

/// Where a run's copies note what is finished.
#[must_use]
pub fn copy_journals(storage: &Path, uid: &str) -> PathBuf {
    storage.join("runs").join(format!("{uid}.copies"))
}

/// All job storage of one run, whatever its script says now.
///
/// # Errors
/// [`RunError::System`].
pub fn job_roots(storage: &Path, uid: &str) -> Result<Vec<PathBuf>, RunError> {
    let prefix = format!("{uid}-");
    let entries = match fs::read_dir(storage) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => {
            return Err(RunError::system(storage, "read the storage directory")(error));
        }
    };
    let mut roots = Vec::new();
    for entry in entries {
        let entry = entry.map_err(RunError::system(storage, "read the storage directory"))?;
        if entry.file_name().to_str().is_some_and(|name| name.starts_with(&prefix)) {
            roots.push(entry.path());
        }
    }
    Ok(roots)
}

/// Removes a storage directory with everything in it; a missing one is fine.
///
/// # Errors
/// [`RunError::System`].
pub fn remove(root: &Path) -> Result<(), RunError> {
    let first = fs::remove_dir_all(root);
    let result = match first {
        // A copied or job-made directory may be read-only for its owner; its storage goes anyway.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            open_up(root);
            fs::remove_dir_all(root)
        }
        result => result,
    };
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result.map_err(RunError::system(root, "remove the storage")),
    }
}

/// Lets the owner into every directory below. What fails here fails again, with its error, when it
/// is removed.
fn open_up(root: &Path) {
    for entry in walkdir::WalkDir::new(root).contents_first(false) {
        let Ok(entry) = entry else { continue };
        if entry.file_type().is_dir() {
            let _ = fs::set_permissions(entry.path(), fs::Permissions::from_mode(0o700));
        }
    }
}

/// The short name of this host, for index directories.
#[must_use]
pub fn node_name() -> String {
    let text = nix::unistd::gethostname().unwrap_or_default();
    let text = text.to_string_lossy();
    let short = text.split('.').next().unwrap_or_default();
    let clean: String =
        short.chars().filter(|c| c.is_ascii_alphanumeric() || *c == '-' || *c == '_').collect();
    if clean.is_empty() { "localhost".into() } else { clean }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_storage_of_one_allocation_per_compute_has_index_directories() {
        let root = PathBuf::from("/s/u-0");
        let xfs = Volume::new(StorageType::Xfs, root.clone(), "n1", 2);
        assert_eq!(xfs.directories(), [root.join("n1-0"), root.join("n1-1")]);
        assert_eq!(xfs.job_path(), root.join("n1-0"));
        let lustre = Volume::new(StorageType::Lustre, root.clone(), "n1", 2);
        assert_eq!(lustre.directories(), std::slice::from_ref(&root));
        assert_eq!(lustre.job_path(), root);
    }

    #[test]
    fn read_only_directories_are_removed_too_and_a_second_time_is_fine() {
        let dir = tempfile::tempdir().unwrap();
        let root = job_root(dir.path(), "u", 3);
        fs::create_dir_all(root.join("a/b")).unwrap();
        fs::write(root.join("a/b/c"), "x").unwrap();
        for part in ["a/b", "a"] {
            fs::set_permissions(root.join(part), fs::Permissions::from_mode(0o555)).unwrap();
        }
        let found = job_roots(dir.path(), "u").unwrap();
        assert_eq!(found, std::slice::from_ref(&root));
        remove(&root).unwrap();
        assert!(!root.exists());
        remove(&root).unwrap();
    }
}
