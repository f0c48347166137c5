//! A FUSE filesystem in memory that answers chosen reads and writes with an error, as a failing
//! disk or server does. It has no attributes beyond those of `stat`, and no holes.

use std::collections::{BTreeMap, HashMap};
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use fuser::{
    BackgroundSession, BsdFileFlags, Config, Errno, FileAttr, FileHandle, FileType, Filesystem,
    FopenFlags, Generation, INodeNo, LockOwner, MountOption, OpenFlags, RenameFlags, ReplyAttr,
    ReplyCreate, ReplyData, ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyStatfs, ReplyWrite,
    Request, TimeOrNow, WriteFlags,
};

use super::scratch::Scratch;
use super::{is_root, skip};

/// Which calls fail. A name is the last part of the path; content is how a write is recognised
/// whatever temporary name the file has.
#[derive(Clone, Default)]
pub struct Faults {
    /// Reads of the file with this name that reach the offset.
    pub read: Vec<(OsString, u64, i32)>,
    /// Writes whose data begins with these bytes.
    pub write: Vec<(Vec<u8>, i32)>,
    /// The flush at `close` of files that hold these bytes at their start.
    pub close: Vec<(Vec<u8>, i32)>,
    /// Reading the directory with this name.
    pub list: Vec<(OsString, i32)>,
    /// Names that differ in case only are one.
    pub folds: bool,
    /// Reads and writes with O_DIRECT: of both, or of writes only.
    pub direct: Option<Direct>,
}

/// What is refused (EINVAL) with O_DIRECT.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direct {
    All,
    Writes,
}

/// The mounted filesystem; unmounted when dropped.
pub struct FaultyFs {
    session: Option<BackgroundSession>,
    at: PathBuf,
}

impl FaultyFs {
    /// Mounts it at a new directory of the scratch directory, holding the given files; nothing and
    /// a recorded skip when this machine has no FUSE.
    pub fn mount(scratch: &Scratch, files: &[(&str, Vec<u8>)], faults: Faults) -> Option<Self> {
        if !is_root() || !Path::new("/dev/fuse").exists() {
            skip("FUSE needs root and /dev/fuse");
            return None;
        }
        let at = scratch.join("faulty");
        std::fs::create_dir(&at).expect("failed to make the mount point");
        let mut state =
            State { nodes: HashMap::from([(1, Node::new(FileType::Directory, 0o755))]), next: 2 };
        for (path, content) in files {
            state.add(Path::new(path), content);
        }
        let fs = Served { state: Mutex::new(state), faults };
        let mut config = Config::default();
        config.mount_options = vec![
            MountOption::FSName("longshore-faulty".to_owned()),
            MountOption::DefaultPermissions,
        ];
        config.n_threads = Some(2);
        match fuser::spawn_mount(fs, &at, &config) {
            Ok(session) => Some(Self { session: Some(session), at }),
            Err(error) => {
                skip(&format!("failed to mount a FUSE filesystem: {error}"));
                None
            }
        }
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        &self.at
    }
}

impl Drop for FaultyFs {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg("-l").arg(&self.at).output();
        drop(self.session.take());
    }
}

struct Node {
    attr: FileAttr,
    content: Vec<u8>,
    children: BTreeMap<OsString, u64>,
}

impl Node {
    fn new(kind: FileType, perm: u16) -> Self {
        let now = SystemTime::now();
        let attr = FileAttr {
            ino: INodeNo(1),
            size: 0,
            blocks: 0,
            atime: now,
            mtime: now,
            ctime: now,
            crtime: now,
            kind,
            perm,
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev: 0,
            blksize: 4096,
            flags: 0,
        };
        Self { attr, content: Vec::new(), children: BTreeMap::new() }
    }

    fn shown(&self) -> FileAttr {
        let size = u64::try_from(self.content.len()).unwrap_or(u64::MAX);
        FileAttr { size, blocks: size.div_ceil(512), ..self.attr }
    }
}

struct State {
    nodes: HashMap<u64, Node>,
    next: u64,
}

impl State {
    fn insert(&mut self, parent: u64, name: &OsStr, mut node: Node) -> FileAttr {
        let ino = self.next;
        self.next += 1;
        node.attr.ino = INodeNo(ino);
        let attr = node.shown();
        self.nodes.insert(ino, node);
        if let Some(parent) = self.nodes.get_mut(&parent) {
            parent.children.insert(name.to_owned(), ino);
            parent.attr.mtime = SystemTime::now();
        }
        attr
    }

    fn add(&mut self, path: &Path, content: &[u8]) {
        let mut at = 1;
        for name in path.parent().into_iter().flatten() {
            let known = self.nodes[&at].children.get(name).copied();
            at = known.unwrap_or_else(|| {
                self.insert(at, name, Node::new(FileType::Directory, 0o755)).ino.0
            });
        }
        let mut node = Node::new(FileType::RegularFile, 0o644);
        node.content = content.to_vec();
        self.insert(at, path.file_name().expect("a file has a name"), node);
    }

    fn name_of(&self, ino: u64) -> Option<&OsString> {
        self.nodes
            .values()
            .flat_map(|node| &node.children)
            .find(|(_, child)| **child == ino)
            .map(|(name, _)| name)
    }
}

struct Served {
    state: Mutex<State>,
    faults: Faults,
}

const AT_ONCE: Duration = Duration::ZERO;

impl Served {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn remove(&self, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let mut state = self.state();
        let child = state.nodes.get_mut(&parent.0).and_then(|node| node.children.remove(name));
        match child {
            Some(_) => reply.ok(), // the node stays for whoever has it open
            None => reply.error(Errno::ENOENT),
        }
    }

    fn make(&self, parent: INodeNo, name: &OsStr, kind: FileType, mode: u32) -> FileAttr {
        let node = Node::new(kind, u16::try_from(mode & 0o7777).unwrap_or(0));
        self.state().insert(parent.0, name, node)
    }
}

impl Filesystem for Served {
    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let state = self.state();
        let child = state.nodes.get(&parent.0).and_then(|node| {
            let folded = || {
                let mut children = node.children.iter();
                children.find(|(own, _)| own.eq_ignore_ascii_case(name)).map(|(_, ino)| ino)
            };
            node.children.get(name).or_else(|| self.faults.folds.then(folded).flatten())
        });
        match child.and_then(|ino| state.nodes.get(ino)) {
            Some(node) => reply.entry(&AT_ONCE, &node.shown(), Generation(0)),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        match self.state().nodes.get(&ino.0) {
            Some(node) => reply.attr(&AT_ONCE, &node.shown()),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn setattr(
        &self,
        _: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _: Option<SystemTime>,
        _: Option<FileHandle>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let mut state = self.state();
        let Some(node) = state.nodes.get_mut(&ino.0) else { return reply.error(Errno::ENOENT) };
        let time = |time| match time {
            TimeOrNow::SpecificTime(time) => time,
            TimeOrNow::Now => SystemTime::now(),
        };
        node.attr.perm =
            mode.and_then(|mode| u16::try_from(mode & 0o7777).ok()).unwrap_or(node.attr.perm);
        node.attr.uid = uid.unwrap_or(node.attr.uid);
        node.attr.gid = gid.unwrap_or(node.attr.gid);
        node.attr.atime = atime.map_or(node.attr.atime, time);
        node.attr.mtime = mtime.map_or(node.attr.mtime, time);
        if let Some(size) = size.and_then(|size| usize::try_from(size).ok()) {
            node.content.resize(size, 0);
        }
        reply.attr(&AT_ONCE, &node.shown());
    }

    fn mkdir(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _: u32,
        reply: ReplyEntry,
    ) {
        reply.entry(&AT_ONCE, &self.make(parent, name, FileType::Directory, mode), Generation(0));
    }

    fn mknod(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _: u32,
        _: u32,
        reply: ReplyEntry,
    ) {
        reply.entry(&AT_ONCE, &self.make(parent, name, FileType::RegularFile, mode), Generation(0));
    }

    fn create(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _: u32,
        _: i32,
        reply: ReplyCreate,
    ) {
        let attr = self.make(parent, name, FileType::RegularFile, mode);
        reply.created(&AT_ONCE, &attr, Generation(0), FileHandle(0), FopenFlags::empty());
    }

    fn unlink(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        self.remove(parent, name, reply);
    }

    fn rmdir(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        self.remove(parent, name, reply);
    }

    fn rename(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        newparent: INodeNo,
        newname: &OsStr,
        _: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let mut state = self.state();
        let child = state.nodes.get_mut(&parent.0).and_then(|node| node.children.remove(name));
        let (Some(child), Some(target)) = (child, state.nodes.get_mut(&newparent.0)) else {
            return reply.error(Errno::ENOENT);
        };
        if self.faults.folds {
            target.children.retain(|name, _| !name.eq_ignore_ascii_case(newname));
        }
        target.children.insert(newname.to_owned(), child);
        reply.ok();
    }

    fn read(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        flags: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        if self.faults.direct == Some(Direct::All) && flags.0 & libc::O_DIRECT != 0 {
            return reply.error(Errno::EINVAL);
        }
        let state = self.state();
        let name = state.name_of(ino.0);
        let end = offset + u64::from(size);
        let fault =
            self.faults.read.iter().find(|(file, from, _)| Some(file) == name && end > *from);
        if let Some((_, _, errno)) = fault {
            return reply.error(Errno::from_i32(*errno));
        }
        let content = state.nodes.get(&ino.0).map_or(&[][..], |node| &node.content);
        let clamp = |at: u64| usize::try_from(at).unwrap_or(usize::MAX).min(content.len());
        reply.data(&content[clamp(offset)..clamp(end)]);
    }

    fn write(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        flags: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        if self.faults.direct.is_some() && flags.0 & libc::O_DIRECT != 0 {
            return reply.error(Errno::EINVAL);
        }
        if let Some((_, errno)) =
            self.faults.write.iter().find(|(start, _)| data.starts_with(start))
        {
            return reply.error(Errno::from_i32(*errno));
        }
        let mut state = self.state();
        let Some(node) = state.nodes.get_mut(&ino.0) else { return reply.error(Errno::ENOENT) };
        let at = usize::try_from(offset).unwrap_or(0);
        let end = node.content.len().max(at + data.len());
        node.content.resize(end, 0);
        node.content[at..at + data.len()].copy_from_slice(data);
        node.attr.mtime = SystemTime::now();
        reply.written(u32::try_from(data.len()).unwrap_or(0));
    }

    fn flush(&self, _: &Request, ino: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        let state = self.state();
        let content = state.nodes.get(&ino.0).map_or(&[][..], |node| &node.content);
        match self.faults.close.iter().find(|(start, _)| content.starts_with(start)) {
            Some((_, errno)) => reply.error(Errno::from_i32(*errno)),
            None => reply.ok(),
        }
    }

    fn fsync(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        reply.ok();
    }
    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        reply.statfs(1 << 20, 1 << 20, 1 << 20, 1 << 20, 1 << 20, 4096, 255, 4096);
    }

    fn readdir(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        let state = self.state();
        let name = state.name_of(ino.0);
        if let Some((_, errno)) = self.faults.list.iter().find(|(dir, _)| Some(dir) == name) {
            return reply.error(Errno::from_i32(*errno));
        }
        let Some(node) = state.nodes.get(&ino.0) else { return reply.error(Errno::ENOENT) };
        let dots = [(".", ino.0), ("..", 1)].map(|(name, ino)| (OsString::from(name), ino));
        let entries =
            dots.into_iter().chain(node.children.iter().map(|(name, ino)| (name.clone(), *ino)));
        for (at, (name, child)) in
            (1..).zip(entries).skip(usize::try_from(offset).unwrap_or(usize::MAX))
        {
            let kind = state.nodes.get(&child).map_or(FileType::Directory, |node| node.attr.kind);
            if reply.add(INodeNo(child), at, kind, name) {
                break;
            }
        }
        reply.ok();
    }
}
