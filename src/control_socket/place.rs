//! Where control sockets are: one directory of each user, which nobody else may enter, with one socket
//! for each running copy, named after its process. Sockets of processes that are gone are removed.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, OpenOptionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

/// Where a copy's socket shall be.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Place {
    /// In the user's own directory, named after the process.
    #[default]
    Default,
    /// At this path.
    At(PathBuf),
    /// Nowhere.
    None,
}

impl Place {
    /// The path to bind to, in a directory that is safe, with what a dead process left removed. `None`
    /// when none is wanted.
    ///
    /// # Errors
    /// A sentence that says why there can be no socket.
    pub fn prepare(&self) -> Result<Option<PathBuf>, String> {
        let path = match self {
            Self::None => return Ok(None),
            Self::At(path) => path.clone(),
            Self::Default => {
                let directory = own_directory()?;
                let _ = running_in(&directory); // removes what dead processes left
                directory.join(format!("{}.sock", std::process::id()))
            }
        };
        match fs::symlink_metadata(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(format!("{}: {error}", path.display())),
            Ok(found) if !found.file_type().is_socket() => {
                return Err(format!("{} exists and is no socket", path.display()));
            }
            Ok(_) if UnixStream::connect(&path).is_ok() => {
                return Err(format!("{} is in use by another copy", path.display()));
            }
            Ok(_) => fs::remove_file(&path).map_err(|e| format!("{}: {e}", path.display()))?,
        }
        Ok(Some(path))
    }
}

/// The directories that this user's sockets may be in, best first.
fn candidates() -> Vec<PathBuf> {
    let uid = nix::unistd::geteuid();
    let runtime = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
    let runtime = runtime.filter(|path| path.is_absolute()).map(|path| path.join("longshore"));
    runtime.into_iter().chain([PathBuf::from(format!("/tmp/longshore-{uid}"))]).collect()
}

/// The first of the candidates that there is or that can be made, and that belongs to nobody else.
fn own_directory() -> Result<PathBuf, String> {
    let mut reason = String::new();
    for path in candidates() {
        match DirBuilder::new().mode(0o700).create(&path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                reason = format!("{}: {error}", path.display());
            }
            _ => match check(&path) {
                Ok(()) => return Ok(path),
                Err(problem) => reason = format!("{}: {problem}", path.display()),
            },
        }
    }
    Err(reason)
}

/// Whether a directory is ours alone. It is looked at through a descriptor, never through a link: in a
/// directory that everybody may write to, anybody may have made it.
fn check(path: &Path) -> Result<(), String> {
    let flags = libc::O_DIRECTORY | libc::O_NOFOLLOW | libc::O_CLOEXEC;
    let directory = File::options().read(true).custom_flags(flags).open(path);
    let found = directory.and_then(|file| file.metadata()).map_err(|error| error.to_string())?;
    if found.uid() != nix::unistd::geteuid().as_raw() {
        return Err("belongs to another user".to_owned());
    }
    if found.mode() & 0o077 != 0 {
        return Err("is open to other users".to_owned());
    }
    Ok(())
}

/// The sockets of this user's running copies, by process.
#[must_use]
pub fn running() -> Vec<(u32, PathBuf)> {
    candidates()
        .into_iter()
        .filter(|path| check(path).is_ok())
        .flat_map(|path| running_in(&path))
        .collect()
}

/// The socket of one process.
#[must_use]
pub fn of_process(pid: u32) -> Option<PathBuf> {
    running().into_iter().find(|(running, _)| *running == pid).map(|(_, path)| path)
}

/// The sockets of a directory that somebody answers at; others are removed.
fn running_in(directory: &Path) -> Vec<(u32, PathBuf)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        let stem = path.file_stem().and_then(|stem| stem.to_str());
        let Some(pid) = stem.and_then(|stem| stem.parse::<u32>().ok()) else { continue };
        if path.extension().is_none_or(|extension| extension != "sock") {
            continue;
        }
        if Path::new(&format!("/proc/{pid}")).exists() {
            // It may be another program by now; whether it answers will tell.
            // If not, the number was given to another process; `prepare` removes what is in its way.
            if UnixStream::connect(&path).is_ok() {
                found.push((pid, path));
            }
        } else {
            let _ = fs::remove_file(path);
        }
    }
    found.sort();
    found
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    #[test]
    fn a_directory_that_others_may_enter_or_that_a_link_names_is_not_ours() {
        let home = tempfile::tempdir().expect("a directory");
        let own = home.path().join("own");
        DirBuilder::new().mode(0o700).create(&own).expect("made");
        assert_eq!(check(&own), Ok(()));
        symlink(&own, home.path().join("link")).expect("linked");
        assert!(check(&home.path().join("link")).is_err());
        fs::set_permissions(&own, fs::Permissions::from_mode(0o755)).expect("changed");
        assert_eq!(check(&own), Err("is open to other users".to_owned()));
    }

    #[test]
    fn what_is_no_socket_is_never_replaced() {
        let home = tempfile::tempdir().expect("a directory");
        let path = home.path().join("file");
        fs::write(&path, "mine").expect("written");
        let refused = Place::At(path.clone()).prepare().expect_err("refused");
        assert!(refused.contains("is no socket"), "{refused}");
        assert_eq!(fs::read(&path).expect("still there"), b"mine");
    }
}
