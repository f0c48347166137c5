//! Persistent instances below `STORAGE/persistent/NAME`: `instance.json`, who uses it, and the data in
//! a directory named like the instance. It does not check scripts.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};

use super::RunError;
use super::journal::write_durably;
use super::storage::{self, Volume};
use crate::directive::resolve::StorageType;

const DIRECTORY: &str = "persistent";

/// What `instance.json` says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Instance {
    /// Its type.
    #[serde(rename = "type")]
    pub storage_type: StorageType,
    /// How many allocations it has, when its type has any.
    pub allocations: u32,
    /// The node in its index directories.
    pub node: String,
    /// The run that created it.
    pub uid: String,
}

/// All instances of one storage directory.
#[derive(Debug, Clone)]
pub struct Instances {
    directory: PathBuf,
}

impl Instances {
    /// The instances below a storage directory.
    #[must_use]
    pub fn of(storage: &Path) -> Self {
        Self { directory: storage.join(DIRECTORY) }
    }

    fn root(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    fn users_directory(&self, name: &str) -> PathBuf {
        self.root(name).join("users")
    }

    /// Every instance, by name.
    ///
    /// # Errors
    /// [`RunError::System`].
    pub fn list(&self) -> Result<BTreeMap<String, Instance>, RunError> {
        let mut instances = BTreeMap::new();
        for name in names(&self.directory)? {
            let path = self.root(&name).join("instance.json");
            let text = match fs::read(&path) {
                Ok(text) => text,
                // Half made by a Setup that was killed, or not one of ours.
                Err(error)
                    if matches!(
                        error.kind(),
                        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
                    ) =>
                {
                    continue;
                }
                Err(error) => return Err(RunError::system(&path, "read the instance")(error)),
            };
            let instance = serde_json::from_slice(&text).map_err(|error| {
                RunError::system(&path, "understand the instance")(error.into())
            })?;
            instances.insert(name, instance);
        }
        Ok(instances)
    }

    /// The instance as directories.
    #[must_use]
    pub fn volume(&self, name: &str, instance: &Instance) -> Volume {
        // Named like the instance, so that a copy of its bare root has a telling name.
        let root = self.root(name).join(name);
        Volume::new(instance.storage_type, root, &instance.node, instance.allocations)
    }

    /// Makes an instance; repeating it for the same run is fine.
    ///
    /// # Errors
    /// [`RunError::System`]; [`RunError::Refused`] when another run was faster.
    pub fn create(&self, name: &str, instance: &Instance) -> Result<(), RunError> {
        let _lock = self.lock()?;
        if let Some(other) = self.list()?.get(name) {
            if other.uid == instance.uid {
                return Ok(());
            }
            return Err(RunError::Refused(format!("persistent storage '{name}' exists already")));
        }
        self.volume(name, instance).make()?;
        storage::make_private(&self.users_directory(name))?;
        let path = self.root(name).join("instance.json");
        let text = serde_json::to_vec_pretty(instance)
            .map_err(|error| RunError::system(&path, "compose the instance")(error.into()))?;
        // Last: an instance without its description does not exist.
        write_durably(&path, &text).map_err(RunError::system(&path, "write the instance"))
    }

    /// Notes that a run uses an instance, until [`Instances::release`].
    ///
    /// # Errors
    /// [`RunError::System`]; [`RunError::Refused`] when it is gone.
    pub fn retain(&self, name: &str, uid: &str, script: &str) -> Result<(), RunError> {
        let _lock = self.lock()?;
        if !self.list()?.contains_key(name) {
            return Err(RunError::Refused(format!("persistent storage '{name}' was destroyed")));
        }
        let path = self.users_directory(name).join(uid);
        write_durably(&path, script.as_bytes()).map_err(RunError::system(&path, "note the use"))
    }

    /// Takes back every note of a run.
    ///
    /// # Errors
    /// [`RunError::System`].
    pub fn release(&self, uid: &str) -> Result<(), RunError> {
        for name in names(&self.directory)? {
            let path = self.users_directory(&name).join(uid);
            match fs::remove_file(&path) {
                Err(error)
                    if !matches!(
                        error.kind(),
                        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
                    ) =>
                {
                    return Err(RunError::system(&path, "take back the use")(error));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// The scripts of the runs, other than one's own, that use an instance.
    ///
    /// # Errors
    /// [`RunError::System`].
    pub fn users(&self, name: &str, own: &[&str]) -> Result<Vec<String>, RunError> {
        let directory = self.users_directory(name);
        let mut scripts = Vec::new();
        for user in names(&directory)? {
            if !own.contains(&user.as_str()) && !user.ends_with(".new") {
                let path = directory.join(&user);
                scripts.push(fs::read_to_string(path).unwrap_or_default());
            }
        }
        Ok(scripts)
    }

    /// Removes an instance that nobody else uses; a missing one is fine.
    ///
    /// # Errors
    /// [`RunError::System`]; [`RunError::Refused`] when it is used.
    pub fn destroy(&self, name: &str, own_uid: &str) -> Result<(), RunError> {
        let lock = self.lock()?;
        let users = self.users(name, &[own_uid])?;
        if !users.is_empty() {
            return Err(RunError::Refused(in_use(name, &users)));
        }
        // Out of everybody's sight at once; removing the data may take long.
        let doomed = self.directory.join(format!(".{name}-{own_uid}"));
        match fs::rename(self.root(name), &doomed) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(RunError::system(&self.root(name), "remove the instance")(error));
            }
            _ => drop(lock),
        }
        storage::remove(&doomed)
    }

    /// Removes the instances that a run created and nobody ever put anything into; says which of
    /// them stay.
    ///
    /// # Errors
    /// [`RunError::System`].
    pub fn discard_empty(&self, uid: &str) -> Result<Vec<String>, RunError> {
        let mut kept = Vec::new();
        for (name, instance) in self.list()? {
            if instance.uid != uid {
                continue;
            }
            if self.is_empty(&name, &instance, uid)? {
                self.destroy(&name, uid)?;
            } else {
                kept.push(name);
            }
        }
        Ok(kept)
    }

    /// Whether nothing is in an instance and nobody but the given run uses it.
    ///
    /// # Errors
    /// [`RunError::System`].
    pub fn is_empty(
        &self,
        name: &str,
        instance: &Instance,
        own_uid: &str,
    ) -> Result<bool, RunError> {
        let empty = self.volume(name, instance).directories().iter().all(|directory| {
            fs::read_dir(directory).is_ok_and(|mut entries| entries.next().is_none())
        });
        Ok(empty && self.users(name, &[own_uid])?.is_empty())
    }

    /// Keeps looking at users and removing an instance together.
    fn lock(&self) -> Result<Flock<File>, RunError> {
        storage::make_private(&self.directory)?;
        let path = self.directory.join(".lock");
        let file = File::options().create(true).truncate(false).write(true).open(&path);
        let file = file.map_err(RunError::system(&path, "open the lock"))?;
        Flock::lock(file, FlockArg::LockExclusive)
            .map_err(|(_, errno)| RunError::system(&path, "take the lock")(errno.into()))
    }
}

/// Why an instance cannot be destroyed now.
#[must_use]
pub fn in_use(name: &str, scripts: &[String]) -> String {
    format!(
        "persistent storage '{name}' is used by an unfinished run of {}; let it end, or --resume it",
        scripts.join(", ")
    )
}

fn names(directory: &Path) -> Result<Vec<String>, RunError> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error)
            if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) =>
        {
            return Ok(Vec::new());
        }
        Err(error) => return Err(RunError::system(directory, "read the directory")(error)),
    };
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.map_err(RunError::system(directory, "read the directory"))?;
        if let Ok(name) = entry.file_name().into_string()
            && !name.starts_with('.')
        {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn instance(uid: &str) -> Instance {
        let node = "n".to_owned();
        Instance { storage_type: StorageType::Gfs2, allocations: 2, node, uid: uid.into() }
    }

    #[test]
    fn an_instance_lives_until_nobody_uses_it() {
        let dir = tempfile::tempdir().unwrap();
        let instances = Instances::of(dir.path());
        assert!(instances.list().unwrap().is_empty());
        instances.create("keep", &instance("u1")).unwrap();
        instances.create("keep", &instance("u1")).unwrap();
        assert!(instances.create("keep", &instance("u2")).is_err());
        assert_eq!(instances.list().unwrap()["keep"], instance("u1"));
        assert!(dir.path().join("persistent/keep/keep/n-1").is_dir());
        instances.retain("keep", "u3", "/job.sh").unwrap();
        let refused = instances.destroy("keep", "u4").unwrap_err().to_string();
        assert!(refused.contains("unfinished run of /job.sh"), "{refused}");
        instances.release("u3").unwrap();
        instances.destroy("keep", "u4").unwrap();
        instances.destroy("keep", "u4").unwrap();
        assert!(instances.retain("keep", "u3", "/job.sh").is_err());
    }

    #[test]
    fn a_discarded_run_takes_only_its_empty_instances_along() {
        let dir = tempfile::tempdir().unwrap();
        let instances = Instances::of(dir.path());
        for name in ["empty", "full"] {
            instances.create(name, &instance("u1")).unwrap();
        }
        fs::write(dir.path().join("persistent/full/full/n-0/data"), "x").unwrap();
        assert_eq!(instances.discard_empty("u1").unwrap(), ["full"]);
        assert_eq!(instances.list().unwrap().keys().collect::<Vec<_>>(), ["full"]);
    }
}
