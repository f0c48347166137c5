//! Which path behind the filesystem an inode number stands for: the numbers are those of the files
//! behind it, each with the names under which it has been seen. No calls on files here.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The number of the top, which FUSE prescribes.
pub const TOP: u64 = 1;

#[derive(Default)]
struct Node {
    names: Vec<(u64, OsString)>,
    lookups: u64,
    generation: u64,
    /// Its place in the order in which files were first read or written.
    file: Option<usize>,
}

#[derive(Default)]
struct Table {
    nodes: HashMap<u64, Node>,
    files: usize,
}

/// All inodes that the kernel knows.
pub struct Nodes {
    top: PathBuf,
    table: Mutex<Table>,
}

impl Nodes {
    /// Those beneath a directory.
    #[must_use]
    pub fn new(top: &Path) -> Self {
        Self { top: top.to_owned(), table: Mutex::default() }
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that the kernel is told of this inode under this name; returns the generation, which
    /// tells a new file from a removed one whose number it got.
    pub fn learn(&self, parent: u64, name: &OsStr, ino: u64) -> u64 {
        let mut table = self.table();
        let node = table.nodes.entry(ino).or_default();
        if node.names.is_empty() && node.lookups > 0 {
            node.generation += 1;
            node.file = None;
        }
        node.lookups += 1;
        let known = node.names.iter().any(|(dir, known)| *dir == parent && known == name);
        if !known {
            node.names.push((parent, name.to_owned()));
        }
        node.generation
    }

    /// The kernel has forgotten it so many times.
    pub fn forget(&self, ino: u64, lookups: u64) {
        let mut table = self.table();
        if let Some(node) = table.nodes.get_mut(&ino) {
            node.lookups = node.lookups.saturating_sub(lookups);
            if node.lookups == 0 {
                table.nodes.remove(&ino);
            }
        }
    }

    /// This name has gone.
    pub fn unname(&self, parent: u64, name: &OsStr, ino: u64) {
        if let Some(node) = self.table().nodes.get_mut(&ino) {
            node.names.retain(|(dir, known)| *dir != parent || known != name);
        }
    }

    /// This name is another one now.
    pub fn rename(&self, ino: u64, from: (u64, &OsStr), to: (u64, &OsStr)) {
        if let Some(node) = self.table().nodes.get_mut(&ino) {
            node.names.retain(|(dir, known)| (*dir, known.as_os_str()) != from);
            node.names.push((to.0, to.1.to_owned()));
        }
    }

    /// A directory that it has a name in.
    pub fn parent(&self, ino: u64) -> Option<u64> {
        self.table().nodes.get(&ino)?.names.first().map(|(parent, _)| *parent)
    }

    /// A path that leads to it; nothing when it has no name any more.
    pub fn path(&self, ino: u64) -> Option<PathBuf> {
        let table = self.table();
        let mut names = Vec::new();
        let mut at = ino;
        while at != TOP {
            let known = |parent: &u64| *parent == TOP || table.nodes.contains_key(parent);
            let (parent, name) =
                table.nodes.get(&at)?.names.iter().find(|(parent, _)| known(parent))?;
            names.push(name);
            at = *parent;
        }
        let mut path = self.top.clone();
        path.extend(names.into_iter().rev());
        Some(path)
    }

    /// Its place in the order in which files were first read or written.
    pub fn file(&self, ino: u64) -> usize {
        let mut table = self.table();
        let next = table.files;
        let node = table.nodes.entry(ino).or_default();
        if let Some(file) = node.file {
            return file;
        }
        node.file = Some(next);
        table.files += 1;
        next
    }
}
