//! Whether the files that a command was told to write (manifest, report, failed list, journal) lie where nothing is
//! lost by it. Asked before any of them is made; it makes none.

use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use longshore::error::{Refusal, show};

/// A file, and the option that names it.
pub(crate) type Named<'a> = (&'a str, &'a Path);

/// An option that names a file, if it was given.
pub(crate) fn named<'a>(option: &'a str, path: Option<&'a PathBuf>) -> Option<Named<'a>> {
    path.map(|path| (option, path.as_path()))
}

/// What no output may be in. A link is itself, unless its path ends with `/.`.
pub(crate) enum Tree {
    Source(PathBuf),
    Copy(PathBuf),
    /// A copy whose name nothing has yet.
    New(PathBuf),
}

/// Refuses an output that is a second one as well, or an input, or that lies in a tree: there it would take the
/// place of a file, or be an item too many.
///
/// # Errors
/// A [`Refusal`] that names the options.
pub(crate) fn check(
    written: &[Named<'_>],
    read: &[Named<'_>],
    trees: &[Tree],
) -> Result<(), Refusal> {
    if written.is_empty() {
        return Ok(());
    }
    let read: Vec<_> = read.iter().filter_map(Output::new).collect();
    // Looked at once, and not at all where nothing is written: each look is a request to a server.
    let roots: Vec<_> = trees.iter().filter_map(|tree| Some((tree, tree.place()?))).collect();
    let mut earlier: Vec<Output<'_>> = Vec::new();
    for output in written.iter().filter_map(Output::new) {
        let refuse = |text: String| Err(Refusal::path(output.path, text));
        let same = |other: &&Output<'_>| output.place.is_same(&other.place);
        if let Some(other) = earlier.iter().find(same) {
            return refuse(format!(
                "{} and {} name the same file; give each one of its own",
                other.option, output.option
            ));
        }
        if let Some(other) = read.iter().find(same) {
            return refuse(format!(
                "{} would overwrite what {} reads; name another file",
                output.option, other.option
            ));
        }
        for (tree, root) in &roots {
            if let Some(what) = output.harm(tree, root) {
                let at = show(tree.path());
                let option = output.option;
                return refuse(format!("{option} would {what} {at}; name a place beside it"));
            }
        }
        if output.has_other_names() && !trees.is_empty() {
            return refuse(format!(
                "{} has several names, and one of them may be in the source; name another file",
                output.option
            ));
        }
        earlier.push(output);
    }
    Ok(())
}

/// An output or input that is a regular file, or will be one.
struct Output<'a> {
    option: &'a str,
    path: &'a Path,
    place: Place,
}

impl<'a> Output<'a> {
    /// `None` for what takes no place: terminals, pipes, and where no file can be made.
    fn new(&(option, path): &Named<'a>) -> Option<Self> {
        let place = Place::of(path, fs::metadata(path).ok())?;
        place.there.as_ref().is_none_or(Metadata::is_file).then_some(Self { option, path, place })
    }

    fn has_other_names(&self) -> bool {
        self.place.there.as_ref().is_some_and(|found| found.nlink() > 1)
    }

    /// What this file would do to a tree, for the reader.
    fn harm(&self, tree: &Tree, root: &Place) -> Option<&'static str> {
        let is_root = self.place.is_same(root);
        let parent = self.place.path.parent();
        let is_inside = root.there.as_ref().is_some_and(Metadata::is_dir)
            && parent.is_some_and(|parent| parent.starts_with(&root.path));
        match tree {
            Tree::Source(_) if is_root => Some("overwrite the source"),
            Tree::Source(_) if is_inside => Some("lie inside the source"),
            Tree::Copy(_) | Tree::New(_) if is_root => Some("be in the place of the copy"),
            Tree::Copy(_) if is_inside => Some("lie inside the copy"),
            _ => None,
        }
    }
}

impl Tree {
    fn place(&self) -> Option<Place> {
        let there = match self {
            Tree::New(_) => None,
            _ => fs::symlink_metadata(self.path()).ok(),
        };
        Place::of(self.path(), there)
    }

    fn path(&self) -> &Path {
        match self {
            Tree::Source(path) | Tree::Copy(path) | Tree::New(path) => path,
        }
    }
}

/// Where a path leads, in such a way that two can be compared.
struct Place {
    /// With the links in all but the last name followed.
    name: PathBuf,
    /// With every link followed, unless a link is meant.
    path: PathBuf,
    there: Option<Metadata>,
}

impl Place {
    /// `None` when its directory is not there.
    fn of(path: &Path, there: Option<Metadata>) -> Option<Self> {
        let leads = there.as_ref().is_some_and(|there| !there.is_symlink());
        let whole = if leads { path.canonicalize().ok() } else { None };
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        let parent = parent.unwrap_or(Path::new(".")).canonicalize().ok();
        let name = match (path.file_name(), parent) {
            (Some(name), Some(parent)) => parent.join(name),
            _ => whole.clone()?, // `.`, `..` and `/`
        };
        Some(Self { path: whole.unwrap_or_else(|| name.clone()), name, there })
    }

    fn is_same(&self, other: &Self) -> bool {
        let id = |place: &Self| place.there.as_ref().map(|found| (found.dev(), found.ino()));
        self.name == other.name
            || self.path == other.path
            || id(self).is_some_and(|mine| Some(mine) == id(other))
    }
}
