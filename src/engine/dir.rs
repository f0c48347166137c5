//! One directory that is being copied: its two descriptors, what is still pending in it, and its
//! place in the tree. It neither reads nor creates entries.
//!
//! Every path below a root is reached from its parent's descriptor, one component at a time and
//! never through a symbolic link, so that depth is unlimited and nothing outside is ever touched.
//! Descriptors of ancestors are closed when a chain gets long and opened again when needed, after
//! checking that it is still the same directory.

use std::ffi::{CStr, CString, OsStr};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering::AcqRel, Ordering::Acquire};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use nix::errno::Errno;
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::{FileStat, Mode, fstat};

use super::inode::{Inode, inode};
use super::xattrs::Xattrs;
use crate::journal::{Key, record};
use crate::lustre::choose::Site;
use crate::selection::Node;

/// How a directory is opened everywhere in the engine.
pub(crate) const OPEN_DIRECTORY: OFlag =
    OFlag::O_RDONLY.union(OFlag::O_DIRECTORY).union(OFlag::O_NOFOLLOW).union(OFlag::O_CLOEXEC);

/// The path of one source given by the user; everything below is named relative to it.
#[derive(Debug)]
pub(crate) struct RootPath {
    pub(crate) source: PathBuf,
    /// The copy's path in a manifest.
    pub(crate) in_manifest: PathBuf,
    /// Its place among the sources.
    pub(crate) index: usize,
}

/// A directory of the source and its twin at the destination.
#[derive(Debug)]
pub(crate) struct Dir {
    pub(crate) root: Arc<RootPath>,
    parent: Option<Arc<Dir>>,
    /// Name in the parent; differs between the sides for a root only.
    pub(crate) source_name: CString,
    pub(crate) name: CString,
    pub(crate) depth: usize,
    /// Names it in the journal.
    pub(crate) key: Key,
    source: Side,
    destination: Side,
    /// The source directory when it was opened.
    pub(crate) stat: FileStat,
    /// Its extended attributes, to be set when everything in it is done.
    pub(crate) xattrs: Xattrs,
    /// Owner, group and mode of the destination when it was opened.
    pub(crate) destination_stat: Option<FileStat>,
    /// The destination has a default ACL, which new entries inherit.
    pub(crate) default_acl: bool,
    /// The destination inherited ACLs from its own parent when it was made, or may have had some.
    pub(crate) may_have_acl: bool,
    /// The destination was made by this run.
    pub(crate) is_made: bool,
    /// Owner and group that the filesystem gives to entries made here; learned from the first one.
    pub(crate) new_owner: OnceLock<(u32, u32)>,
    /// What is known of the destination as a place for files with layouts, where that is asked for.
    pub(crate) site: OnceLock<Arc<Site>>,
    /// Which entries are wanted, when a list was given.
    pub(crate) selection: Option<Arc<Node>>,
    /// Entries that are not done, plus one while the directory is being read.
    pending: AtomicUsize,
}

/// One side's descriptor, closed when it has to make room.
#[derive(Debug)]
struct Side {
    open: Mutex<Option<Arc<OwnedFd>>>,
    inode: Inode,
}

impl Side {
    fn get(&self) -> Option<Arc<OwnedFd>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn put(&self, fd: Option<Arc<OwnedFd>>) {
        *self.open.lock().unwrap_or_else(PoisonError::into_inner) = fd;
    }

    /// Opens `name` below `above` again, provided that it is still the same directory.
    fn open(&self, above: impl AsFd, name: &CStr) -> Result<Arc<OwnedFd>, Errno> {
        let fd = openat(above, name, OPEN_DIRECTORY, Mode::empty())?;
        if inode(&fstat(&fd)?) == self.inode { Ok(Arc::new(fd)) } else { Err(Errno::ESTALE) }
    }
}

/// What `Dir::new` needs beside the parent; see the fields of [`Dir`].
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) source: OwnedFd,
    /// `None` in a dry run where the destination does not exist.
    pub(crate) destination: Option<OwnedFd>,
    pub(crate) stat: FileStat,
    pub(crate) xattrs: Xattrs,
    pub(crate) destination_stat: Option<FileStat>,
    pub(crate) default_acl: bool,
    pub(crate) may_have_acl: bool,
    pub(crate) is_made: bool,
    pub(crate) selection: Option<Arc<Node>>,
}

impl Dir {
    /// The directory that holds a root: only a place to start from, never finished.
    pub(crate) fn anchor(
        root: Arc<RootPath>,
        source: OwnedFd,
        destination: Option<OwnedFd>,
        default_acl: bool,
    ) -> Result<Self, Errno> {
        let stat = fstat(&source)?;
        let destination_stat = destination.as_ref().map(fstat).transpose()?;
        let opened = Opened {
            source,
            destination,
            stat,
            xattrs: Xattrs::default(),
            destination_stat,
            default_acl,
            may_have_acl: false,
            is_made: false,
            selection: None,
        };
        Ok(Self::build(root, None, (CString::default(), CString::default()), 0, opened))
    }

    /// A directory below `parent`.
    pub(crate) fn below(parent: &Arc<Self>, names: (CString, CString), opened: Opened) -> Self {
        let depth = parent.depth + 1;
        Self::build(Arc::clone(&parent.root), Some(Arc::clone(parent)), names, depth, opened)
    }

    fn build(
        root: Arc<RootPath>,
        parent: Option<Arc<Self>>,
        (source_name, name): (CString, CString),
        depth: usize,
        opened: Opened,
    ) -> Self {
        let key = parent
            .as_ref()
            .map_or_else(|| record::root_key(root.index), |parent| parent.key_of(&name));
        let side = |fd: Option<OwnedFd>, inode| Side { open: Mutex::new(fd.map(Arc::new)), inode };
        Self {
            root,
            parent,
            source_name,
            name,
            depth,
            key,
            source: side(Some(opened.source), inode(&opened.stat)),
            destination: side(
                opened.destination,
                opened.destination_stat.as_ref().map_or((0, 0), inode),
            ),
            stat: opened.stat,
            xattrs: opened.xattrs,
            destination_stat: opened.destination_stat,
            default_acl: opened.default_acl,
            may_have_acl: opened.may_have_acl,
            is_made: opened.is_made,
            new_owner: OnceLock::new(),
            site: OnceLock::new(),
            selection: opened.selection,
            pending: AtomicUsize::new(1),
        }
    }

    /// The parent, except for an anchor.
    pub(crate) fn parent(&self) -> Option<&Arc<Self>> {
        self.parent.as_ref()
    }

    /// The directory is the place that a root hangs in, not part of the copy.
    pub(crate) fn is_anchor(&self) -> bool {
        self.parent.is_none()
    }

    /// Names an entry in the journal. The name of a root is left out: it is the source's index that
    /// tells it, and by cp's rule the name can be another one the next time.
    pub(crate) fn key_of(&self, name: &CStr) -> Key {
        let name = if self.is_anchor() { c"" } else { name };
        record::child_key(self.key, name.to_bytes())
    }

    /// The source's descriptor.
    pub(crate) fn source(&self) -> Result<Arc<OwnedFd>, Errno> {
        self.side(|dir| &dir.source, |dir| &dir.source_name)
    }

    /// The destination's descriptor; `ENOENT` in a dry run where there is none.
    pub(crate) fn destination(&self) -> Result<Arc<OwnedFd>, Errno> {
        if self.destination_stat.is_none() {
            return Err(Errno::ENOENT);
        }
        self.side(|dir| &dir.destination, |dir| &dir.name)
    }

    /// One side's descriptor, opened again from the nearest ancestor that still has its own.
    fn side(
        &self,
        side: fn(&Dir) -> &Side,
        name: fn(&Dir) -> &CString,
    ) -> Result<Arc<OwnedFd>, Errno> {
        if let Some(fd) = side(self).get() {
            return Ok(fd);
        }
        let mut closed = vec![self];
        let mut above = self.parent.as_deref();
        let mut fd = loop {
            // An anchor is never closed, so the loop ends there at the latest.
            let dir = above.ok_or(Errno::ESTALE)?;
            if let Some(fd) = side(dir).get() {
                break fd;
            }
            closed.push(dir);
            above = dir.parent.as_deref();
        };
        for dir in closed.into_iter().rev() {
            fd = side(dir).open(&fd, name(dir))?;
        }
        // Those on the way are closed again, and so is a finished directory (a hard link's first
        // name lies in it): nobody would ever close them.
        if self.pending.load(Acquire) > 0 {
            side(self).put(Some(Arc::clone(&fd)));
        }
        Ok(fd)
    }

    /// Closes the descriptors of the ancestor that lies `keep` levels up: whoever needs them opens
    /// them again. Called for every directory entered, so that no chain holds more than `keep`.
    pub(crate) fn close_ancestor(&self, keep: usize) {
        if self.depth <= keep {
            return;
        }
        let mut dir = self.parent.as_ref();
        for _ in 1..keep {
            dir = dir.and_then(|dir| dir.parent.as_ref());
        }
        if let Some(dir) = dir.filter(|dir| !dir.is_anchor()) {
            dir.source.put(None);
            dir.destination.put(None);
        }
    }

    /// Gives the parent its descriptors back through `..`, when they were closed: opening them from
    /// the root for every level of a very deep chain would take quadratic time.
    pub(crate) fn reopen_parent(&self) {
        let Some(parent) = self.parent.as_ref().filter(|parent| !parent.is_anchor()) else {
            return;
        };
        let sides = [(&self.source, &parent.source), (&self.destination, &parent.destination)];
        for (own, above) in sides {
            if above.get().is_none()
                && let Some(own) = own.get()
                // When it fails, `side` takes the long way and reports what is wrong.
                && let Ok(fd) = above.open(&own, c"..")
            {
                above.put(Some(fd));
            }
        }
    }

    /// Closes both descriptors: the directory is finished.
    pub(crate) fn close(&self) {
        self.source.put(None);
        self.destination.put(None);
    }

    /// Adds entries that must be done before the directory is.
    pub(crate) fn expect(&self, entries: usize) {
        self.pending.fetch_add(entries, AcqRel);
    }

    /// Takes entries off; true when they were the last, so that the caller must finish the directory.
    pub(crate) fn settle(&self, entries: usize) -> bool {
        let before = self.pending.fetch_sub(entries, AcqRel);
        debug_assert!(before >= entries, "a directory was finished before its last entry");
        before == entries
    }

    /// Names from below the root down to this directory.
    fn names(&self) -> Vec<&CStr> {
        let mut names = Vec::new();
        let mut dir = self;
        while let Some(parent) = &dir.parent {
            // The root's own name is already the end of its path.
            if !parent.is_anchor() {
                names.push(dir.name.as_c_str());
            }
            dir = parent;
        }
        names.reverse();
        names
    }

    /// Path of an entry of this directory, relative to the root; empty for the root itself.
    pub(crate) fn relative(&self, entry: Option<&CStr>) -> PathBuf {
        let mut path = PathBuf::new();
        for name in self.names() {
            path.push(OsStr::from_bytes(name.to_bytes()));
        }
        if let Some(entry) = entry.filter(|_| !self.is_anchor()) {
            path.push(OsStr::from_bytes(entry.to_bytes()));
        }
        path
    }

    /// Source path of an entry of this directory, or of the directory itself; for messages.
    pub(crate) fn source_path(&self, entry: Option<&CStr>) -> PathBuf {
        join(&self.root.source, self.relative(entry))
    }
}

/// Joins without adding a slash for the root itself.
fn join(root: &std::path::Path, relative: PathBuf) -> PathBuf {
    if relative.as_os_str().is_empty() { root.to_path_buf() } else { root.join(relative) }
}

impl Drop for Dir {
    /// Lets go of a long chain of ancestors one by one; the derived recursion would overflow the
    /// stack on a tree that is a hundred thousand levels deep.
    fn drop(&mut self) {
        let mut next = self.parent.take();
        while let Some(mut dir) = next.and_then(Arc::into_inner) {
            next = dir.parent.take();
        }
    }
}
