//! Where a copied source ends up, by the cluster's rules: destination preparation, index directories
//! of a fan-in, and the copy tool's naming. It looks at both ends, and makes one directory.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::error::show;

/// A copy with its names settled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settled {
    /// The source as the engine gets it.
    pub source: PathBuf,
    /// The exact path that the source, or its contents, gets.
    pub destination: PathBuf,
    /// The destination as it was asked for, with the index directory in it and the slash that it had:
    /// what the cluster's data mover hands to its copy tool.
    pub named: PathBuf,
    /// The directory that must exist before the copy.
    pub directory: PathBuf,
}

impl Settled {
    /// Makes the directory, with its parents, and settles the destination by its real path.
    ///
    /// # Errors
    /// A sentence about what could not be made.
    pub fn make_directory(mut self) -> Result<Self, String> {
        let directory = &self.directory;
        let real = fs::create_dir_all(directory).and_then(|()| fs::canonicalize(directory));
        let real = real.map_err(|error| {
            format!("failed to create the directory {}: {error}", show(directory))
        })?;
        if let Ok(name) = self.destination.strip_prefix(directory) {
            // Collected, a path that is the directory itself has no trailing slash.
            self.destination = real.join(name).components().collect();
        }
        Ok(self)
    }
}

/// What a path is when symbolic links are followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    File,
    Directory,
    Absent,
}

/// Settles the names of one copy. `fan_in` is the index directory that keeps the allocations of a
/// node apart when they are copied to one place.
///
/// A directory source makes the destination a directory: with a trailing slash its contents go into
/// it, without one the source itself goes inside. A file source goes inside a destination that is a
/// directory or ends in a slash; otherwise the destination is its new name. A source that is a
/// symbolic link is followed; links below it are not.
///
/// # Errors
/// A sentence about what does not fit.
pub fn settle(source: &Path, destination: &Path, fan_in: Option<&str>) -> Result<Settled, String> {
    let kind = kind(source).map_err(|error| format!("failed to look at the source: {error}"))?;
    let there = self::kind(destination)
        .map_err(|error| format!("failed to look at the destination: {error}"))?;
    let inside = |base: &Path| fan_in.map_or_else(|| base.to_owned(), |index| base.join(index));
    match kind {
        Kind::Absent => Err("the source does not exist".into()),
        Kind::Directory => {
            if there == Kind::File {
                return Err("the source is a directory but the destination is a file".into());
            }
            let directory = inside(destination);
            let named = if fan_in.is_some() && ends_in_slash(destination) {
                joined(&directory, "/")
            } else {
                directory.clone()
            };
            let destination = match own_name(source) {
                Some(name) => directory.join(name),
                None => directory.clone(),
            };
            Ok(Settled { source: followed(source), destination, named, directory })
        }
        Kind::File => {
            let is_directory =
                there == Kind::Directory || there == Kind::Absent && ends_in_slash(destination);
            let (directory, name) = if is_directory {
                (inside(destination), source.file_name())
            } else {
                let parent = destination.parent().unwrap_or(Path::new("/"));
                (inside(parent), destination.file_name())
            };
            let name = name.ok_or("the source has no name")?;
            let named = match (is_directory, ends_in_slash(destination)) {
                (true, true) if fan_in.is_some() => joined(&directory, "/"),
                (true, _) => directory.clone(),
                (false, _) => directory.join(name),
            };
            let destination = directory.join(name);
            Ok(Settled { source: followed(source), destination, named, directory })
        }
    }
}

/// The index directory of a source that is in an allocation, and whether the source's path ends with
/// it: `PREFIX-<digits>` before a slash or at the end.
///
/// It is the first such text in the path, and not necessarily a whole name, as the cluster's data mover
/// has it: copies that are spread over both must end in the same place.
#[must_use]
pub fn index_directory(source: &Path, prefix: &str) -> Option<(String, bool)> {
    let path = source.as_os_str().as_bytes();
    let wanted = [prefix.as_bytes(), b"-"].concat();
    (0..path.len()).find_map(|start| {
        let digits = path[start..].strip_prefix(wanted.as_slice())?;
        let count = digits.iter().take_while(|byte| byte.is_ascii_digit()).count();
        let rest = &digits[count..];
        if count == 0 || !(rest.is_empty() || rest[0] == b'/') {
            return None;
        }
        let number = std::str::from_utf8(&digits[..count]).ok()?;
        Some((format!("{prefix}-{number}"), rest.is_empty()))
    })
}

/// The name that a directory source keeps at its destination; none when only its contents go.
fn own_name(source: &Path) -> Option<&OsStr> {
    let text = source.as_os_str().as_bytes();
    if text.ends_with(b"/") || text.ends_with(b"/.") { None } else { source.file_name() }
}

fn ends_in_slash(path: &Path) -> bool {
    path.as_os_str().as_bytes().ends_with(b"/")
}

fn kind(path: &Path) -> Result<Kind, std::io::Error> {
    match fs::metadata(path) {
        Ok(meta) if meta.is_dir() => Ok(Kind::Directory),
        Ok(_) => Ok(Kind::File),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Kind::Absent),
        Err(error) => Err(error),
    }
}

/// The source without symbolic links on the way, since the engine keeps a link as a link.
fn followed(source: &Path) -> PathBuf {
    match fs::canonicalize(source) {
        Ok(target) if own_name(source).is_none() => joined(&target, "/"),
        Ok(target) => target,
        Err(_) => source.to_owned(), // it has vanished; the engine says so
    }
}

/// Appends text to a path as it is: a trailing slash counts, which `Path::join` would drop.
#[must_use]
pub fn joined(root: &Path, rest: &str) -> PathBuf {
    let mut text = OsString::from(root);
    text.push(rest);
    PathBuf::from(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Place(tempfile::TempDir);

    impl Place {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            fs::create_dir_all(dir.path().join("src/dir/node-0")).unwrap();
            fs::create_dir_all(dir.path().join("u")).unwrap();
            fs::write(dir.path().join("src/file"), "x").unwrap();
            fs::write(dir.path().join("old"), "x").unwrap();
            std::os::unix::fs::symlink("dir", dir.path().join("src/link")).unwrap();
            Self(dir)
        }

        /// Destination and directory of the copy, relative to the place.
        fn settle(
            &self,
            from: &str,
            to: &str,
            fan_in: Option<&str>,
        ) -> Result<(String, String), String> {
            let root = self.0.path();
            let settled = settle(&joined(root, from), &joined(root, to), fan_in)?;
            let relative = |path: &Path| {
                let path = path.strip_prefix(root).unwrap();
                path.components().collect::<PathBuf>().to_str().unwrap().to_owned()
            };
            Ok((relative(&settled.destination), relative(&settled.directory)))
        }
    }

    fn names(destination: &str, directory: &str) -> Result<(String, String), String> {
        Ok((destination.to_owned(), directory.to_owned()))
    }

    /// The table of the data mover that this one stands in for.
    #[test]
    fn fan_in_directories_are_those_of_the_cluster() {
        let place = Place::new();
        let index = Some("r-0");
        let cases = [
            ("/src/file", "/u", "u/r-0/file", "u/r-0"),
            ("/src/file", "/u/new.out", "u/r-0/new.out", "u/r-0"),
            ("/src/file", "/old", "r-0/old", "r-0"),
            ("/src/file", "/u/newdir/", "u/newdir/r-0/file", "u/newdir/r-0"),
            ("/src/dir", "/u/newdir", "u/newdir/r-0/dir", "u/newdir/r-0"),
            ("/src/dir/", "/u/newdir", "u/newdir/r-0", "u/newdir/r-0"),
            ("/src/dir/", "/u/newdir/", "u/newdir/r-0", "u/newdir/r-0"),
        ];
        for (from, to, destination, directory) in cases {
            assert_eq!(place.settle(from, to, index), names(destination, directory), "{from} {to}");
        }
        let named = [
            ("/src/file", "/u", "/u/r-0"),
            ("/src/file", "/u/new.out", "/u/r-0/new.out"),
            ("/src/file", "/u/newdir/", "/u/newdir/r-0/"),
            ("/src/dir", "/u/newdir", "/u/newdir/r-0"),
            ("/src/dir", "/u/newdir/", "/u/newdir/r-0/"),
            ("/src/dir/", "/u/newdir/", "/u/newdir/r-0/"),
        ];
        let root = place.0.path();
        for (from, to, expected) in named {
            let settled = settle(&joined(root, from), &joined(root, to), index).unwrap();
            assert_eq!(
                settled.named.as_os_str(),
                joined(root, expected).as_os_str(),
                "{from} {to}"
            );
        }
        // The bare root of an allocation brings its index directory as its own name.
        let bare = place.settle("/src/dir/node-0", "/u", None);
        assert_eq!(bare, names("u/node-0", "u"));
    }

    #[test]
    fn the_index_directory_is_found_in_the_source() {
        let find = |path: &str| index_directory(Path::new(path), "rabbit-1");
        let found = |name: &str, end| Some((name.to_owned(), end));
        assert_eq!(find("/mnt/nnf/u-0/rabbit-1-0/out/"), found("rabbit-1-0", false));
        assert_eq!(find("/mnt/nnf/u-0/rabbit-1-0/"), found("rabbit-1-0", false));
        assert_eq!(find("/mnt/nnf/u-0/rabbit-1-12"), found("rabbit-1-12", true));
        let large = "rabbit-1-9999999999999";
        assert_eq!(find(&format!("/mnt/nnf/u-0/{large}/x")), found(large, false));
        for other in ["/mnt/nnf/u-0/out", "/m/rabbit-2-0/", "/m/rabbit-1-0-0/", "/m/rabbit-1-/"] {
            assert_eq!(find(other), None, "{other}");
        }
        assert_eq!(find("/m/rabbit-1-0-0/rabbit-1-3"), found("rabbit-1-3", true));
    }

    #[test]
    fn a_directory_goes_inside_and_its_contents_go_with_a_slash() {
        let place = Place::new();
        assert_eq!(place.settle("/src/dir", "/in", None), names("in/dir", "in"));
        assert_eq!(place.settle("/src/dir/", "/in", None), names("in", "in"));
        assert_eq!(place.settle("/src/dir/.", "/in", None), names("in", "in"));
        assert_eq!(place.settle("/src/file", "/in", None), names("in", ""));
        assert_eq!(place.settle("/src/file", "/in/", None), names("in/file", "in"));
    }

    #[test]
    fn a_source_that_is_a_link_is_followed_under_its_own_name() {
        let place = Place::new();
        assert_eq!(place.settle("/src/link", "/in", None), names("in/link", "in"));
        let root = fs::canonicalize(place.0.path()).unwrap();
        let settled = settle(&joined(&root, "/src/link"), &joined(&root, "/in"), None).unwrap();
        assert_eq!(settled.source, root.join("src/dir"));
    }

    #[test]
    fn impossible_pairs_are_sentences() {
        let place = Place::new();
        assert!(place.settle("/src/dir", "/old", None).unwrap_err().contains("is a file"));
        assert!(place.settle("/none", "/u", None).unwrap_err().contains("does not exist"));
        assert!(place.settle("/src/file/", "/u", None).unwrap_err().contains("source"));
    }
}
