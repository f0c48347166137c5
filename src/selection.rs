//! `--files-from`: the listed items instead of the whole tree. Parses lists; opens nothing.
//!
//! A list holds one path per line, or, when it contains a NUL byte anywhere, NUL-terminated paths of
//! any bytes, as `find -print0` and `--failed-list` write them. Paths are relative to the source, or
//! absolute and below it. A listed directory stands for everything in it.

use std::collections::BTreeMap;
use std::ffi::{CString, OsStr};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use crate::error::{Refusal, show};

/// The listed paths of every source, as trees, so that each directory is opened once.
#[derive(Debug, Default)]
pub struct Selection {
    roots: Vec<Arc<Node>>,
}

/// A directory of which some entries, or all of them, are wanted.
#[derive(Debug, Default)]
pub struct Node {
    /// Wanted with everything below.
    whole: bool,
    children: BTreeMap<CString, Arc<Node>>,
}

impl Node {
    /// Everything below is wanted.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.whole
    }

    /// Nothing below is wanted.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        !self.whole && self.children.is_empty()
    }

    /// The wanted entries, unless the whole is.
    pub fn children(&self) -> impl Iterator<Item = (&CString, &Arc<Self>)> {
        self.children.iter()
    }

    /// Calls `each` with what tells this selection from any other, part by part.
    fn describe(&self, each: &mut impl FnMut(&[u8])) {
        each(&[u8::from(self.whole)]);
        for (name, child) in &self.children {
            each(name.to_bytes());
            child.describe(each);
        }
        each(b"/");
    }

    fn insert(&mut self, mut names: impl Iterator<Item = CString>) {
        match names.next() {
            None => self.whole = true,
            Some(name) => {
                let child = self.children.entry(name).or_default();
                Arc::get_mut(child).expect("not shared while the list is read").insert(names);
            }
        }
    }
}

impl Selection {
    /// Parses a list for the given sources.
    ///
    /// # Errors
    /// A refusal that shows the path that lies outside the sources.
    pub fn parse(list: &[u8], sources: &[PathBuf]) -> Result<Self, Refusal> {
        let sources: Vec<PathBuf> = sources.iter().map(|source| absolute(source)).collect();
        let mut roots: Vec<Node> = sources.iter().map(|_| Node::default()).collect();
        let separator = if list.contains(&0) { 0 } else { b'\n' };
        for entry in list.split(|byte| *byte == separator).filter(|entry| !entry.is_empty()) {
            let path = Path::new(OsStr::from_bytes(entry));
            let (root, below) = locate(path, &sources)?;
            let names = names_of(path, below)?;
            roots[root].insert(names.into_iter());
        }
        Ok(Self { roots: roots.into_iter().map(Arc::new).collect() })
    }

    /// Calls `each` with what tells this selection from any other, part by part.
    pub(crate) fn describe(&self, mut each: impl FnMut(&[u8])) {
        self.roots.iter().for_each(|root| root.describe(&mut each));
    }

    /// What is wanted of the source with this index.
    #[must_use]
    pub fn root(&self, index: usize) -> Option<&Arc<Node>> {
        self.roots.get(index)
    }
}

/// The source that a listed path belongs to (the deepest that contains it), and its path below.
fn locate<'p>(path: &'p Path, sources: &[PathBuf]) -> Result<(usize, &'p Path), Refusal> {
    if path.is_absolute() {
        let mut found: Option<(usize, &Path)> = None;
        for (index, source) in sources.iter().enumerate() {
            if let Ok(below) = path.strip_prefix(source)
                && found.is_none_or(|(best, _)| source.starts_with(&sources[best]))
            {
                found = Some((index, below));
            }
        }
        return found
            .ok_or_else(|| Refusal::path(path, "is listed, but lies below none of the sources"));
    }
    if sources.len() != 1 {
        return Err(Refusal::path(
            path,
            "is listed as a relative path, which is ambiguous with several sources; list absolute paths",
        ));
    }
    Ok((0, path))
}

fn names_of(listed: &Path, below: &Path) -> Result<Vec<CString>, Refusal> {
    let mut names = Vec::new();
    for component in below.components() {
        match component {
            Component::Normal(name) => {
                let name = CString::new(name.as_bytes())
                    .map_err(|_| Refusal::Request(format!("{}: contains NUL", show(listed))))?;
                names.push(name);
            }
            Component::CurDir => {}
            _ => {
                return Err(Refusal::path(
                    listed,
                    "is listed with '..'; list paths below the source only",
                ));
            }
        }
    }
    Ok(names)
}

/// The path as it is shown in reports: absolute, without resolving links.
#[must_use]
pub fn absolute(path: &Path) -> PathBuf {
    // Fails only for an empty path or without a current directory; then the path is kept as it is.
    std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf()).components().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(node: &Node, prefix: &str, out: &mut Vec<String>) {
        if node.is_whole() {
            out.push(prefix.to_owned());
        }
        for (name, child) in node.children() {
            wanted(child, &format!("{prefix}/{}", name.to_string_lossy()), out);
        }
    }

    fn parse(list: &[u8], sources: &[&str]) -> Result<Vec<Vec<String>>, Refusal> {
        let sources: Vec<PathBuf> = sources.iter().map(PathBuf::from).collect();
        let selection = Selection::parse(list, &sources)?;
        Ok(selection
            .roots
            .iter()
            .map(|root| {
                let mut out = Vec::new();
                wanted(root, "", &mut out);
                out
            })
            .collect())
    }

    #[test]
    fn lines_and_nul_terminated_paths_are_both_understood() {
        assert_eq!(parse(b"a/b\n./c\n", &["/s"]).expect("valid"), [["/a/b", "/c"]]);
        assert_eq!(parse(b"a\nb\0c\0", &["/s"]).expect("valid"), [["/a\nb", "/c"]]);
    }

    #[test]
    fn absolute_paths_go_to_the_deepest_source_that_contains_them() {
        let found = parse(b"/s/t/x\n/s/y\n", &["/s", "/s/t"]).expect("valid");
        assert_eq!(found, [vec!["/y"], vec!["/x"]]);
    }

    #[test]
    fn paths_outside_the_source_are_refused() {
        for list in [b"../x".as_slice(), b"/elsewhere", b"a/../../x"] {
            assert!(parse(list, &["/s"]).is_err(), "{}", list.escape_ascii());
        }
    }
}
