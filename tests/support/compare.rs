//! The oracle: everything a user can see of two trees, compared name by name. It works by
//! descriptors, so that paths beyond `PATH_MAX` are no obstacle, and changes nothing.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, open, openat, readlinkat};
use nix::sys::stat::{FileStat, Mode, SFlag, fstatat};
use nix::sys::statfs::{XFS_SUPER_MAGIC, fstatfs};

use super::content;

/// Which attributes count. Content, names, types, link texts and device numbers always do.
#[derive(Debug, Clone, Copy)]
pub struct Compare {
    /// Owner and group.
    pub owner: bool,
    /// Permission bits, setuid, setgid and sticky.
    pub mode: bool,
    /// Modification times in nanoseconds.
    pub mtime: bool,
    /// Access times; off, since reading moves them.
    pub atime: bool,
    /// Holes kept as holes.
    pub holes: bool,
    /// Which names are links to one file.
    pub links: bool,
    /// Every extended attribute, ACLs and capabilities included.
    pub xattrs: bool,
    /// Whether the two top directories themselves are compared, or only what is in them.
    pub top: bool,
}

impl Default for Compare {
    fn default() -> Self {
        Self {
            owner: true,
            mode: true,
            mtime: true,
            atime: false,
            holes: true,
            links: true,
            xattrs: true,
            top: true,
        }
    }
}

/// One thing that is not the same.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Difference {
    /// Relative to the top of the trees.
    pub path: PathBuf,
    /// Which attribute; a word from a small set.
    pub what: &'static str,
    /// Both values.
    pub detail: String,
}

impl fmt::Debug for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}: {}", shorten(&self.path), self.what, self.detail)
    }
}

fn shorten(path: &Path) -> PathBuf {
    let bytes = path.as_os_str().as_bytes();
    if bytes.len() <= 300 {
        return path.to_owned();
    }
    let ends = [&bytes[..100], b" ... ", &bytes[bytes.len() - 190..]].concat();
    PathBuf::from(OsString::from_vec(ends))
}

/// One item of a tree with all its attributes except content.
pub struct Entry {
    /// What `lstat` says.
    pub stat: FileStat,
    /// Text of a symbolic link.
    pub link: Option<OsString>,
    /// Extended attributes by name.
    pub xattrs: BTreeMap<OsString, Vec<u8>>,
}

impl Entry {
    /// The type bits.
    pub fn kind(&self) -> SFlag {
        SFlag::from_bits_truncate(self.stat.st_mode & SFlag::S_IFMT.bits())
    }
}

/// A tree, opened at its top, as it was when it was read.
pub struct Snapshot {
    top: OwnedFd,
    top_name: OsString,
    /// Every item by its relative path; the top itself is the empty path.
    pub entries: BTreeMap<PathBuf, Entry>,
}

impl Snapshot {
    /// Reads a tree (or a single file).
    pub fn of(root: &Path) -> Self {
        let metadata = std::fs::symlink_metadata(root);
        let is_dir =
            metadata.unwrap_or_else(|error| panic!("failed to look at {root:?}: {error}")).is_dir();
        let (dir, top_name) = if is_dir {
            (root, OsString::from("."))
        } else {
            let name = root.file_name().expect("a file has a name").to_owned();
            (root.parent().expect("a file lies in a directory"), name)
        };
        let top = open(dir, DIRECTORY, Mode::empty()).expect("failed to open the top of the tree");
        let mut snapshot = Self { top, top_name, entries: BTreeMap::new() };
        let entry = entry_at(&snapshot.top, &snapshot.top_name);
        snapshot.entries.insert(PathBuf::new(), entry);
        let mut pending = if is_dir { vec![PathBuf::new()] } else { Vec::new() };
        while let Some(dir) = pending.pop() {
            snapshot.read_directory(&dir, &mut pending);
        }
        snapshot
    }

    fn read_directory(&mut self, relative: &Path, pending: &mut Vec<PathBuf>) {
        let fd = self.open_dir(relative).unwrap_or_else(|errno| panic!("{relative:?}: {errno}"));
        let mut listing = Dir::from_fd(fd).expect("failed to read a directory");
        let names: Vec<OsString> = listing
            .iter()
            .map(|entry| entry.expect("failed to read a directory"))
            .map(|entry| OsStr::from_bytes(entry.file_name().to_bytes()).to_owned())
            .filter(|name| name != "." && name != "..")
            .collect();
        for name in names {
            let entry = entry_at(&listing, &name);
            let path = relative.join(&name);
            if entry.kind() == SFlag::S_IFDIR {
                pending.push(path.clone());
            }
            self.entries.insert(path, entry);
        }
    }

    /// Opens a directory of the tree, however long its path is.
    fn open_dir(&self, relative: &Path) -> nix::Result<OwnedFd> {
        let mut fd = openat(&self.top, ".", DIRECTORY, Mode::empty())?;
        let mut piece = PathBuf::new();
        for name in relative {
            if piece.as_os_str().len() + name.len() > 3800 {
                fd = openat(&fd, &piece, DIRECTORY, Mode::empty())?;
                piece = PathBuf::new();
            }
            piece.push(name);
        }
        if piece.as_os_str().is_empty() {
            Ok(fd)
        } else {
            openat(&fd, &piece, DIRECTORY, Mode::empty())
        }
    }

    /// Opens a regular file of the tree for reading, without moving its access time if allowed.
    pub fn open_file(&self, relative: &Path) -> File {
        let parent = self
            .open_dir(relative.parent().unwrap_or(Path::new("")))
            .expect("failed to open a directory");
        let name = relative.file_name().unwrap_or(&self.top_name);
        let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK;
        let quiet = openat(&parent, name, flags | OFlag::O_NOATIME, Mode::empty());
        let opened = quiet.or_else(|_| openat(&parent, name, flags, Mode::empty()));
        File::from(
            opened.unwrap_or_else(|errno| {
                panic!("failed to open {relative:?} to compare it: {errno}")
            }),
        )
    }

    /// For every item with more than one name in this tree: its first name.
    fn link_groups(&self) -> HashMap<&Path, &Path> {
        let mut first: HashMap<(u64, u64), &Path> = HashMap::new();
        let mut groups = HashMap::new();
        for (path, entry) in &self.entries {
            if entry.kind() != SFlag::S_IFDIR {
                let name = *first.entry((entry.stat.st_dev, entry.stat.st_ino)).or_insert(path);
                groups.insert(path.as_path(), name);
            }
        }
        groups
    }
}

const DIRECTORY: OFlag = OFlag::O_RDONLY.union(OFlag::O_DIRECTORY).union(OFlag::O_CLOEXEC);

fn entry_at(dir: &(impl AsFd + AsRawFd), name: &OsStr) -> Entry {
    let stat = fstatat(dir, name, AtFlags::AT_SYMLINK_NOFOLLOW).expect("failed to look at an item");
    let mut entry = Entry { stat, link: None, xattrs: BTreeMap::new() };
    if entry.kind() == SFlag::S_IFLNK {
        entry.link = Some(readlinkat(dir, name).expect("failed to read a link"));
    }
    let path = Path::new("/proc/self/fd").join(dir.as_raw_fd().to_string()).join(name);
    match xattr::list(&path) {
        Ok(names) => {
            // Where a file lies on Lustre's servers is told by attributes, and is no part of it.
            let layout = |name: &OsString| name == "lustre.lov" || name == "trusted.lov";
            for name in names.filter(|name| {
                name != "security.selinux" && !is_storage_of_acls(dir, name) && !layout(name)
            }) {
                let value = xattr::get(&path, &name)
                    .expect("failed to read an attribute")
                    .unwrap_or_default();
                entry.xattrs.insert(name, value);
            }
        }
        Err(error) if error.raw_os_error() == Some(Errno::EOPNOTSUPP as i32) => {}
        Err(error) => panic!("failed to list the attributes of {name:?}: {error}"),
    }
    entry
}

/// XFS shows root its ACLs twice: as such, and as the attribute it stores them in. On any other
/// filesystem that attribute would be a leak, and is compared.
fn is_storage_of_acls(dir: &impl AsFd, name: &OsStr) -> bool {
    name.as_bytes().starts_with(b"trusted.SGI_ACL_")
        && fstatfs(dir).is_ok_and(|stat| stat.filesystem_type() == XFS_SUPER_MAGIC)
}

/// Everything in which `copy` is not the same as `source`.
pub fn diff_trees(source: &Path, copy: &Path, compare: Compare) -> Vec<Difference> {
    diff_snapshots(&Snapshot::of(source), &Snapshot::of(copy), compare)
}

/// As [`diff_trees`], for trees already read (content is read now).
pub fn diff_snapshots(source: &Snapshot, copy: &Snapshot, compare: Compare) -> Vec<Difference> {
    let mut found = Found(Vec::new());
    let (source_groups, copy_groups) = (source.link_groups(), copy.link_groups());
    let paths: BTreeSet<&PathBuf> = source.entries.keys().chain(copy.entries.keys()).collect();
    for path in paths {
        if path.as_os_str().is_empty() && !compare.top {
            continue;
        }
        let (Some(a), Some(b)) = (source.entries.get(path), copy.entries.get(path)) else {
            let what = if copy.entries.contains_key(path) { "extraneous" } else { "missing" };
            found.add(path, what, "in the copy");
            continue;
        };
        if a.kind() != b.kind() {
            found.add(path, "type", format!("{:o} became {:o}", a.kind().bits(), b.kind().bits()));
            continue;
        }
        attributes(path, a, b, compare, &mut found);
        if compare.links && source_groups.get(path.as_path()) != copy_groups.get(path.as_path()) {
            let (a, b) = (source_groups.get(path.as_path()), copy_groups.get(path.as_path()));
            found.add(path, "links", format!("linked with {a:?} became {b:?}"));
        }
        if a.kind() == SFlag::S_IFREG {
            file(path, (source, a), (copy, b), compare, &mut found);
        }
    }
    found.0
}

struct Found(Vec<Difference>);

impl Found {
    fn add(&mut self, path: &Path, what: &'static str, detail: impl Into<String>) {
        self.0.push(Difference { path: path.to_owned(), what, detail: detail.into() });
    }

    fn unequal<T: PartialEq + fmt::Debug>(
        &mut self,
        path: &Path,
        what: &'static str,
        a: &T,
        b: &T,
    ) {
        if a != b {
            self.add(path, what, format!("{a:?} became {b:?}"));
        }
    }
}

fn attributes(path: &Path, a: &Entry, b: &Entry, compare: Compare, found: &mut Found) {
    let (x, y) = (&a.stat, &b.stat);
    if compare.mode && a.kind() != SFlag::S_IFLNK && x.st_mode & 0o7777 != y.st_mode & 0o7777 {
        found.add(
            path,
            "mode",
            format!("{:04o} became {:04o}", x.st_mode & 0o7777, y.st_mode & 0o7777),
        );
    }
    if compare.owner {
        found.unequal(path, "uid", &x.st_uid, &y.st_uid);
        found.unequal(path, "gid", &x.st_gid, &y.st_gid);
    }
    if compare.mtime {
        found.unequal(
            path,
            "mtime",
            &(x.st_mtime, x.st_mtime_nsec),
            &(y.st_mtime, y.st_mtime_nsec),
        );
    }
    if compare.atime {
        found.unequal(
            path,
            "atime",
            &(x.st_atime, x.st_atime_nsec),
            &(y.st_atime, y.st_atime_nsec),
        );
    }
    if matches!(a.kind(), SFlag::S_IFCHR | SFlag::S_IFBLK) {
        found.unequal(path, "device", &x.st_rdev, &y.st_rdev);
    }
    found.unequal(path, "link text", &a.link, &b.link);
    if compare.xattrs {
        let names: BTreeSet<&OsString> = a.xattrs.keys().chain(b.xattrs.keys()).collect();
        for name in names {
            let (x, y) = (a.xattrs.get(name), b.xattrs.get(name));
            if x != y {
                let length = |value: Option<&Vec<u8>>| {
                    value.map(|bytes| {
                        (bytes.len(), bytes.iter().take(40).copied().collect::<Vec<u8>>())
                    })
                };
                found.add(
                    path,
                    "xattr",
                    format!("{name:?}: {:?} became {:?}", length(x), length(y)),
                );
            }
        }
    }
}

fn file(
    path: &Path,
    (source, a): (&Snapshot, &Entry),
    (copy, b): (&Snapshot, &Entry),
    compare: Compare,
    found: &mut Found,
) {
    let size = a.stat.st_size;
    if size != b.stat.st_size {
        found.add(path, "size", format!("{size} became {}", b.stat.st_size));
        return;
    }
    if size == 0 {
        return;
    }
    let (from, to) = (source.open_file(path), copy.open_file(path));
    if let Some(at) = content::first_difference(&from, &to, size) {
        found.add(path, "content", format!("first differs at byte {at} of {size}"));
    }
    if compare.holes && a.stat.st_blocks * 512 < size {
        if let Some((start, end)) = content::first_filled_hole(&from, &to, size) {
            found.add(path, "hole", format!("data from byte {start} in a hole that ends at {end}"));
        }
        let slack = 512 + (b.stat.st_blocks.min(a.stat.st_blocks)) / 8; // 256 KiB and an eighth, in blocks
        if b.stat.st_blocks > a.stat.st_blocks + slack {
            found.add(path, "blocks", format!("{} became {}", a.stat.st_blocks, b.stat.st_blocks));
        }
    }
}

/// Fails with the list of differences, unless there are none.
#[track_caller]
pub fn assert_same_tree(source: &Path, copy: &Path, compare: Compare) {
    assert_none(&diff_trees(source, copy, compare), &format!("{source:?} and its copy {copy:?}"));
}

/// Fails with the list of differences, unless it is empty.
#[track_caller]
pub fn assert_none(differences: &[Difference], context: &str) {
    let shown: Vec<String> =
        differences.iter().take(40).map(|difference| format!("  {difference:?}")).collect();
    assert!(
        differences.is_empty(),
        "{} differences:\n{}\nin {context}",
        differences.len(),
        shown.join("\n")
    );
}
