//! Whether the user may read a source and write a destination, by looking. Nothing is opened for
//! writing and nothing is made.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use nix::unistd::{AccessFlags, access};

use crate::error::show;

/// Why a source cannot be copied in.
pub(super) fn readable(source: &Path, storage: &Path) -> Result<(), String> {
    let meta = fs::metadata(source).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => "does not exist".to_owned(),
        _ => format!("failed to look at it: {error}"),
    })?;
    if meta.is_dir() {
        // Read and search permission; the walk reports what is unreadable further down.
        access(source, AccessFlags::R_OK | AccessFlags::X_OK)
            .map_err(|errno| format!("the directory cannot be read: {}", errno.desc()))?;
        let real = |path: &Path| fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        let storage = deepest_existing(storage);
        if real(&storage).starts_with(real(source)) && !real(source).starts_with(real(&storage)) {
            return Err("contains the storage directory; choose another one with --storage".into());
        }
        Ok(())
    } else if meta.is_file() {
        File::open(source).map(drop).map_err(|error| format!("the file cannot be read: {error}"))
    } else {
        Err("is neither a file nor a directory".into())
    }
}

/// Why nothing can be copied out to a path.
pub(super) fn destination_writable(path: &Path) -> Result<(), String> {
    let clean: PathBuf = path.components().collect();
    let place = match fs::metadata(&clean) {
        Ok(meta) if !meta.is_dir() => clean.parent().unwrap_or(Path::new("/")).to_owned(),
        _ => deepest_existing(&clean),
    };
    writable_directory(&place).map_err(|problem| format!("cannot be written: {problem}"))
}

/// The path itself or the nearest ancestor that exists.
pub(super) fn deepest_existing(path: &Path) -> PathBuf {
    let existing = path.ancestors().find(|ancestor| fs::symlink_metadata(ancestor).is_ok());
    existing.unwrap_or(Path::new("/")).to_owned()
}

/// Why nothing can be made in a directory.
pub(super) fn writable_directory(path: &Path) -> Result<(), String> {
    if !fs::metadata(path).is_ok_and(|meta| meta.is_dir()) {
        return Err(format!("{} is not a directory", show(path)));
    }
    access(path, AccessFlags::W_OK | AccessFlags::X_OK)
        .map_err(|errno| format!("{}: {}", show(path), errno.desc()))
}
