//! What a request is refused for before the first byte: the destination's kind, its parent, permission,
//! a copy that would contain itself. Which path a source gets is decided in `plan`.

use std::ffi::OsStr;
use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags};
use nix::sys::statvfs::{FsFlags, statvfs};
use nix::unistd::{AccessFlags, faccessat};

use super::{Root, Source, ends_with_slash};
use crate::error::{Refusal, show};
use crate::options::{CopyRequest, Target};

pub(super) fn check_options(request: &CopyRequest, sources: &[Source]) -> Result<(), Refusal> {
    let options = &request.options;
    let refuse = |text: &str| Err(Refusal::Request(text.to_owned()));
    if options.delete && options.selection.is_some() {
        return refuse(
            "--delete with --files-from: what is not listed would be deleted; use one of them",
        );
    }
    for (index, source) in sources.iter().enumerate().filter(|(_, one)| !one.metadata.is_dir()) {
        let listed = options.selection.as_ref().and_then(|selection| selection.root(index));
        if listed.is_some_and(|node| !node.is_whole() && !node.is_empty()) {
            return Err(Refusal::path(
                &source.path,
                "--files-from lists something below it, but it is not a directory; list its own path",
            ));
        }
    }
    if options.delete && sources.iter().any(|source| !source.metadata.is_dir()) {
        return refuse(
            "--delete needs directories as sources; there is nothing to compare a file with",
        );
    }
    Ok(())
}

pub(super) fn check_target(
    request: &CopyRequest,
    sources: &[Source],
    existing: Option<&Metadata>,
) -> Result<(), Refusal> {
    let target = request.destination.as_path();
    let is_directory = existing.is_some_and(Metadata::is_dir);
    if request.target == Target::Directory && !is_directory {
        return Err(Refusal::path(target, "-t needs an existing directory"));
    }
    if request.target == Target::Exact && sources.len() > 1 {
        return Err(Refusal::Request(
            "-T takes one source; leave it out to copy several".to_owned(),
        ));
    }
    if sources.len() > 1 && !is_directory {
        return Err(Refusal::path(
            target,
            "several sources need an existing directory as destination",
        ));
    }
    let Some(existing) = existing else {
        if ends_with_slash(target) && !sources[0].metadata.is_dir() && !request.parents {
            return Err(Refusal::path(
                target,
                "the directory does not exist; make it or pass --parents, or leave out the slash to give \
                 the copy this name",
            ));
        }
        return Ok(());
    };
    if !is_directory && sources[0].metadata.is_dir() {
        return Err(Refusal::path(
            target,
            "the destination is not a directory, but the source is; name another destination",
        ));
    }
    if is_directory && request.target == Target::Exact && !sources[0].metadata.is_dir() {
        return Err(Refusal::path(target, "-T: a directory is in the way of a file"));
    }
    if !existing.is_dir()
        && !existing.is_file()
        && !existing.is_symlink()
        && sources[0].metadata.is_file()
    {
        return Err(Refusal::path(
            target,
            "the destination is a device, pipe or socket; Longshore writes files only",
        ));
    }
    Ok(())
}

/// The deepest directory on the way to `path` that exists.
pub(crate) fn nearest_existing(mut path: &Path) -> &Path {
    // Ends even where the current directory itself is gone.
    while !path.exists() && path != Path::new(".") {
        path = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
    }
    path
}

/// Everything about one root: its parent, permission, and that it does not contain itself. `there`: what
/// has its destination's name, links followed (a dangling one is itself).
pub(super) fn check_root(
    root: &Root,
    source: &Source,
    there: Option<&Metadata>,
    request: &CopyRequest,
) -> Result<(), Refusal> {
    let mut existing = root.destination_dir.as_path();
    if !existing.exists() {
        if !request.parents {
            return Err(Refusal::path(
                existing,
                "the parent directory of the destination does not exist; make it or pass --parents",
            ));
        }
        existing = nearest_existing(existing);
        check_missing(&root.destination_dir, existing)?;
    }
    match fs::metadata(existing) {
        Ok(found) if found.is_dir() && found.nlink() == 0 => {
            return Err(Refusal::path(
                existing,
                "this directory has been removed; change to one that is there",
            ));
        }
        Ok(found) if found.is_dir() => {}
        _ => {
            let text = "a part of the destination path is not a directory";
            return Err(Refusal::path(existing, text));
        }
    }
    if let Some(twin) = there
        && place(twin) == place(&source.metadata)
        && (source.metadata.is_dir() || twin.is_file())
    {
        return Err(Refusal::path(
            &root.source,
            format!("source and destination are the same: {}", show(&root.destination)),
        ));
    }
    if source.metadata.is_symlink() && replaces_what_it_leads_to(root, source) {
        return Err(Refusal::path(
            &root.source,
            format!(
                "is a link to the file that it would replace: {}; its content would be lost",
                show(&root.destination)
            ),
        ));
    }
    if there.is_some() {
        check_type(root, source)?;
    }
    let is_there = there.is_some_and(Metadata::is_dir);
    if source.metadata.is_dir() {
        check_not_inside(source, if is_there { &root.destination } else { existing }, root)?;
    }
    check_writable(root, existing, is_there, request)
}

/// Refuses what cannot be made below `existing` on the way to `path`: a link that leads nowhere has the name.
fn check_missing(path: &Path, existing: &Path) -> Result<(), Refusal> {
    let missing = path.ancestors().take_while(|above| *above != existing);
    let first = missing.filter(|above| !above.as_os_str().is_empty()).last();
    match first.filter(|first| fs::symlink_metadata(first).is_ok()) {
        None => Ok(()),
        Some(link) => Err(Refusal::path(
            link,
            "a part of the destination path is a link that leads nowhere; make the directory that it leads to, or \
             remove it",
        )),
    }
}

/// Refuses what would be in the way of the root itself: the engine replaces no directory, and follows no link in
/// the place of one.
fn check_type(root: &Root, source: &Source) -> Result<(), Refusal> {
    if root.destination_name == OsStr::new(".") {
        return Ok(());
    }
    match fs::symlink_metadata(root.copy_item()) {
        Ok(found) if source.metadata.is_dir() && !found.is_dir() => Err(Refusal::path(
            &root.destination,
            "is not a directory, but the source is; remove it, or name another destination",
        )),
        Ok(found) if !source.metadata.is_dir() && found.is_dir() => Err(Refusal::path(
            &root.destination,
            "a directory is in the way of what is no directory; remove it, or name another destination",
        )),
        _ => Ok(()),
    }
}

/// Whether a link would replace the file that it leads to.
fn replaces_what_it_leads_to(root: &Root, link: &Source) -> bool {
    let ends = (fs::symlink_metadata(&root.destination), fs::metadata(&link.path));
    matches!(&ends, (Ok(replaced), Ok(file)) if place(replaced) == place(file))
}

/// What tells a file or directory from every other one: device and inode.
fn place(metadata: &Metadata) -> (u64, u64) {
    (metadata.dev(), metadata.ino())
}

/// Refuses `--delete` where a source lies below a destination: nothing at the source is called as it is there, so
/// that it would be deleted. What a bind mount hides, the engine sees.
pub(super) fn check_delete(
    root: &Root,
    there: Option<&Metadata>,
    sources: &[Source],
    request: &CopyRequest,
) -> Result<(), Refusal> {
    let Some(there) = there.filter(|there| request.options.delete && there.is_dir()) else {
        return Ok(());
    };
    for source in sources {
        // Goes up by the directories' own names, so that links do not hide it.
        let Ok(whole) = source.path.canonicalize() else { continue };
        let mut above = whole.clone();
        while above.pop() {
            let same = fs::metadata(&above).is_ok_and(|found| place(&found) == place(there));
            if same && !is_protected(&whole, &above, request) {
                return Err(Refusal::path(
                    &root.destination,
                    format!(
                        "--delete would delete the source {}, which lies inside it; leave --delete \
                         out, or choose another destination",
                        show(&source.path)
                    ),
                ));
            }
        }
    }
    Ok(())
}

/// Whether the filter leaves out a directory, or one on the way to it from a root: then it is not deleted.
fn is_protected(path: &Path, root: &Path, request: &CopyRequest) -> bool {
    let below = path.strip_prefix(root).unwrap_or(path);
    let mut ways = below.ancestors().filter(|way| !way.as_os_str().is_empty());
    ways.any(|way| !request.options.filter.admits(way, true))
}

/// Refuses a destination below its source. Goes up from `start`, the deepest directory that exists, so that links and
/// a bind mount of the source do not hide it; what a bind mount of a directory below the source hides, the engine sees.
fn check_not_inside(source: &Source, start: &Path, root: &Root) -> Result<(), Refusal> {
    let me = place(&source.metadata);
    let mut dir = start.canonicalize().map_err(|source| Refusal::System {
        path: start.to_owned(),
        action: "resolve the destination",
        source,
    })?;
    loop {
        if fs::metadata(&dir).is_ok_and(|metadata| place(&metadata) == me) {
            return Err(Refusal::path(
                &root.destination,
                format!(
                    "lies inside its own source {}; the copy would contain itself",
                    show(&root.source)
                ),
            ));
        }
        if !dir.pop() {
            return Ok(());
        }
    }
}

fn check_writable(
    root: &Root,
    existing: &Path,
    is_there: bool,
    request: &CopyRequest,
) -> Result<(), Refusal> {
    if request.options.dry_run {
        return Ok(());
    }
    let advice = "choose another destination or have it made writable";
    // The root itself when it is there already, else the directory that gets the new name.
    let is_root = root.is_directory && is_there;
    let into = is_root && root.destination_name != OsStr::new(".");
    let dir = if into && existing == root.destination_dir {
        root.copy_item()
    } else {
        existing.to_owned()
    };
    let access =
        faccessat(AT_FDCWD, &dir, AccessFlags::W_OK | AccessFlags::X_OK, AtFlags::AT_EACCESS);
    match access {
        Ok(()) => Ok(()),
        // The kernel looks at the mount last, after the permissions.
        Err(errno) if errno == Errno::EROFS || is_read_only(existing) => {
            Err(Refusal::path(existing, format!("the filesystem is mounted read-only; {advice}")))
        }
        Err(Errno::EACCES) if is_root && may_be_opened(&dir, into) => Ok(()),
        Err(errno @ (Errno::EACCES | Errno::EPERM)) => Err(Refusal::path(
            dir,
            format!("not writable by this user ({}); {advice}", errno.desc()),
        )),
        Err(errno) => Err(Refusal::system(dir, "check the destination", errno)),
    }
}

/// Whether the engine makes a directory writable again, as it does for the copy of a read-only one. It is closed
/// even to its owner who comes by its name; who comes by `.` must be able to search it.
fn may_be_opened(dir: &Path, by_name: bool) -> bool {
    const SEARCH: u32 = 0o100;
    fs::metadata(dir).is_ok_and(|found| {
        found.uid() == nix::unistd::geteuid().as_raw() && (by_name || found.mode() & SEARCH != 0)
    })
}

fn is_read_only(path: &Path) -> bool {
    statvfs(path).is_ok_and(|vfs| vfs.flags().contains(FsFlags::ST_RDONLY))
}
