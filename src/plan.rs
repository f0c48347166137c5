//! From a request to a plan: which source becomes which path, by cp's rules, and every refusal that
//! can be known before the first byte. It creates nothing.
//!
//! | source | destination | the copy is |
//! |---|---|---|
//! | `a` | existing directory `d` | `d/a` |
//! | `a` | missing `d` | `d` |
//! | `a/`, `a/.` | directory `d`, existing or not | the contents of `a` in `d` |
//! | file `a` | existing file `d` | `d`, replaced when complete |
//! | directory `a` | existing file `d` | refused |
//! | several | existing directory `d` | `d/a`, `d/b`, … |
//! | several | anything else | refused |

mod check;

use std::collections::HashSet;
use std::ffi::OsString;
use std::fs::{self, Metadata};
use std::io::ErrorKind;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;

use crate::error::Refusal;
use crate::options::{CopyOptions, CopyRequest, Target};
pub(crate) use check::nearest_existing;
use check::{check_delete, check_options, check_root, check_target};

/// What will be copied to where. Printing it is the dry run's first lines.
#[derive(Debug, Clone)]
pub struct Plan {
    /// One entry for each source.
    pub roots: Vec<Root>,
    /// Whether missing parents of the destinations are made first.
    pub(crate) parents: bool,
    /// Whether cp's rule would put the sources one level deeper the next time, in the directory that this copy makes.
    pub(crate) is_exact_by_guess: bool,
    /// How.
    pub options: CopyOptions,
}

/// One source and the path that it gets. Each side is an existing directory and a name in it; the
/// name is `.` for the directory itself.
#[derive(Debug, Clone)]
pub struct Root {
    /// The source's path, for messages.
    pub source: PathBuf,
    /// The copy's path, for messages.
    pub destination: PathBuf,
    /// Whether the source is a directory.
    pub is_directory: bool,
    /// Whether nothing has the copy's name yet.
    pub is_new: bool,
    pub(crate) source_dir: PathBuf,
    pub(crate) source_name: OsString,
    pub(crate) destination_dir: PathBuf,
    pub(crate) destination_name: OsString,
}

/// A source as the user named it.
struct Source {
    path: PathBuf,
    metadata: Metadata,
    /// Its contents are meant, not itself.
    contents: bool,
}

impl Plan {
    /// Checks the request against the filesystems and resolves destination paths.
    ///
    /// # Errors
    /// A [`Refusal`] that says what to do; nothing has been written.
    pub fn new(request: &CopyRequest) -> Result<Self, Refusal> {
        let sources =
            request.sources.iter().map(|path| Source::new(path)).collect::<Result<Vec<_>, _>>()?;
        if sources.is_empty() {
            return Err(Refusal::Request("nothing to copy: no source was given".to_owned()));
        }
        check_options(request, &sources)?;
        let target = request.destination.as_path();
        if target.as_os_str().is_empty() {
            return Err(Refusal::path(
                target,
                "the destination is an empty path; name a file or directory",
            ));
        }
        let existing = look(target)?;
        let is_directory = existing.as_ref().is_some_and(Metadata::is_dir);
        check_target(request, &sources, existing.as_ref())?;

        // `--parents` makes the directory that a slash at the end names.
        let named_directory =
            existing.is_none() && ends_with_slash(target) && !sources[0].metadata.is_dir();
        let inside = (is_directory && request.target != Target::Exact) || named_directory;
        let mut roots = Vec::new();
        for source in &sources {
            roots.push(source.root(target, inside, is_directory)?);
        }
        let mut names = HashSet::new();
        for root in &roots {
            if !names.insert(&root.destination) {
                return Err(Refusal::path(
                    &root.destination,
                    "two sources would get this path; copy them one after the other",
                ));
            }
        }
        let exact = existing.filter(|_| !inside);
        for (root, source) in roots.iter_mut().zip(&sources) {
            // A loop of links in the place of one item is replaced like any link.
            let there =
                if inside { look(&root.destination).unwrap_or(None) } else { exact.clone() };
            root.is_new = there.is_none();
            check_root(root, source, there.as_ref(), request)?;
            check_delete(root, there.as_ref(), &sources, request)?;
        }
        // By cp's rule the second run of a command that made the directory goes one level deeper.
        let made_by_name = !inside && sources.iter().any(|s| s.metadata.is_dir() && !s.contents);
        let is_exact_by_guess = made_by_name && request.target == Target::Guess;
        let options = request.options.clone();
        Ok(Self { roots, parents: request.parents, is_exact_by_guess, options })
    }

    /// The options to add to the same command to go on without a journal, or to begin again when what was written is
    /// `unreliable`.
    pub(crate) fn go_on_with(&self, unreliable: bool) -> &'static str {
        match (self.is_exact_by_guess, unreliable) {
            (true, false) => "--update -T",
            (false, false) => "--update",
            (true, true) => "-T",
            (false, true) => "",
        }
    }
}

impl Root {
    /// The source itself, also where the user's path for it has a slash at the end: then it ends with `/.`.
    #[must_use]
    pub fn source_item(&self) -> PathBuf {
        self.source_dir.join(&self.source_name)
    }

    /// The copy itself, in the same way.
    #[must_use]
    pub fn copy_item(&self) -> PathBuf {
        self.destination_dir.join(&self.destination_name)
    }
}

impl Source {
    fn new(path: &Path) -> Result<Self, Refusal> {
        if path.as_os_str().is_empty() {
            return Err(Refusal::path(path, "a source is an empty path; name a file or directory"));
        }
        let bytes = path.as_os_str().as_bytes();
        let slash = ends_with_slash(path);
        let contents = slash || bytes == b"." || bytes == b".." || bytes.ends_with(b"/..");
        // A slash at the end follows a link, as everywhere.
        let metadata = if contents { fs::metadata(path) } else { fs::symlink_metadata(path) };
        let metadata = metadata.map_err(|error| match error.raw_os_error().map(Errno::from_raw) {
            Some(Errno::ENOENT) => Refusal::path(path, "the source does not exist"),
            Some(Errno::ELOOP) => Refusal::path(
                path,
                "the source is a loop of symbolic links; without the slash at the end the link itself is copied",
            ),
            Some(Errno::ENOTDIR) if slash => {
                Refusal::path(path, "the source is not a directory; leave out the slash at its end")
            }
            _ => Refusal::System { path: path.to_owned(), action: "look at the source", source: error },
        })?;
        let openable = || {
            let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK;
            open(path, flags, Mode::empty()).map(drop)
        };
        if (metadata.is_dir() || metadata.is_file())
            && let Err(errno) = openable()
            && errno != Errno::EAGAIN
        // a lease, which the copy waits for
        {
            return Err(Refusal::system(path, "open the source", errno));
        }
        Ok(Self { path: path.to_owned(), contents: contents && metadata.is_dir(), metadata })
    }

    /// Where this source goes. `inside` says that the target is a directory that takes it inside.
    fn root(
        &self,
        target: &Path,
        inside: bool,
        target_is_directory: bool,
    ) -> Result<Root, Refusal> {
        let (source_dir, source_name) = if self.contents {
            (self.path.clone(), OsString::from("."))
        } else {
            split(&self.path)?
        };
        let (destination, destination_dir, destination_name) = if inside && !self.contents {
            (target.join(&source_name), target.to_owned(), source_name.clone())
        } else if target_is_directory {
            (target.to_owned(), target.to_owned(), OsString::from("."))
        } else {
            let (dir, name) = split(target)?;
            (dir.join(&name), dir, name)
        };
        Ok(Root {
            source: self.path.clone(),
            destination,
            is_directory: self.metadata.is_dir(),
            is_new: false, // until it is looked for
            source_dir,
            source_name,
            destination_dir,
            destination_name,
        })
    }
}

/// Whether a path can only be a directory's.
fn ends_with_slash(path: &Path) -> bool {
    let bytes = path.as_os_str().as_bytes();
    bytes.ends_with(b"/") || bytes.ends_with(b"/.")
}

/// Whether a path, without the slash at its end, is a link.
fn is_link(path: &Path) -> bool {
    let plain: PathBuf = path.components().collect();
    fs::symlink_metadata(plain).is_ok_and(|metadata| metadata.is_symlink())
}

/// The directory that holds a path, and the name in it.
fn split(path: &Path) -> Result<(PathBuf, OsString), Refusal> {
    let Some(name) = path.file_name() else {
        return Err(Refusal::path(path, "has no name of its own; name the file or directory"));
    };
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    Ok((parent.unwrap_or(Path::new(".")).to_owned(), name.to_owned()))
}

/// The target, following links; `None` when there is nothing.
fn look(target: &Path) -> Result<Option<Metadata>, Refusal> {
    // The link itself first: what is missing, as most targets are, is asked for once.
    let found = match fs::symlink_metadata(target) {
        // A dangling link is replaced by a file, never written through.
        Ok(link) if link.is_symlink() => match fs::metadata(target) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Some(link)),
            other => other,
        },
        other => other,
    };
    match found {
        Ok(metadata) => Ok(Some(metadata)),
        Err(error) => match error.raw_os_error().map(Errno::from_raw) {
            Some(Errno::ENOENT) if ends_with_slash(target) && is_link(target) => {
                Err(Refusal::path(
                    target,
                    "the destination is a link that leads nowhere; make the directory that it leads to, or \
                     remove it",
                ))
            }
            Some(Errno::ENOENT) => Ok(None),
            Some(Errno::ENOTDIR) => {
                Err(Refusal::path(target, "a part of the destination path is not a directory"))
            }
            Some(Errno::ELOOP) => {
                Err(Refusal::path(target, "the destination is a loop of symbolic links"))
            }
            _ => Err(Refusal::System {
                path: target.to_owned(),
                action: "look at the destination",
                source: error,
            }),
        },
    }
}
