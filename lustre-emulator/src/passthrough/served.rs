//! The requests of the kernel: done at once on the directory behind, as the front end has it, and
//! answered when the front end says so.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::SystemTime;

use fuser::{
    BsdFileFlags, FileHandle, Filesystem, FopenFlags, INodeNo, IoctlFlags, KernelConfig, LockOwner,
    OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyEmpty,
    ReplyEntry, ReplyIoctl, ReplyLseek, ReplyOpen, ReplyStatfs, ReplyWrite, ReplyXattr, Request,
    TimeOrNow, WriteFlags,
};
use nix::libc::{O_CREAT, O_EXCL};
use nix::sys::stat::{Mode, SFlag, mknod};

use super::Kind;
use super::answers::prepare;
use super::attributes::device_from;
use super::behind::Wanted;
use super::front::{Asked, Front};

/// A front end as the library wants a filesystem.
pub struct Served<F> {
    pub(super) front: F,
}

impl<F: Front> Served<F> {
    /// What is to be mounted.
    pub fn new(front: F) -> Self {
        Self { front }
    }
}

impl<F: Front> Filesystem for Served<F> {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> io::Result<()> {
        prepare(config);
        self.front.init(config);
        Ok(())
    }

    fn lookup(&self, by: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let asked = Asked::of(Kind::Lookup, by, parent).named(name);
        self.entry(asked, reply, self.front.behind().entry(parent, name));
    }

    fn forget(&self, _: &Request, ino: INodeNo, lookups: u64) {
        self.front.behind().nodes.forget(ino.0, lookups);
    }

    fn getattr(&self, by: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        let asked = Asked::of(Kind::Getattr, by, ino);
        self.attr(asked, reply, self.front.behind().attr(ino));
    }

    fn setattr(
        &self,
        by: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _: Option<SystemTime>,
        handle: Option<FileHandle>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let mut asked = Asked::of(Kind::Setattr, by, ino);
        asked.handle = handle.map(|handle| handle.0);
        asked.data = size.is_some_and(|size| size > 0);
        let wanted = Wanted { mode, owner: (uid, gid), size, times: (atime, mtime) };
        let attr = self.front.set(&asked, ino, &wanted, handle);
        self.attr(asked, reply, attr);
    }

    fn readlink(&self, by: &Request, ino: INodeNo, reply: ReplyData) {
        let text = self.front.behind().find(ino).and_then(|found| fs::read_link(found.path));
        let asked = Asked::of(Kind::Readlink, by, ino);
        let give = |reply: ReplyData, text: std::path::PathBuf| {
            reply.data(text.as_os_str().as_bytes());
        };
        self.when(asked, (reply, text), give, ReplyData::error);
    }

    fn mknod(
        &self,
        by: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        device: u32,
        reply: ReplyEntry,
    ) {
        let (mode, asked) = (mode & !umask, Asked::of(Kind::Mknod, by, parent).named(name));
        let made = self.make(&asked, (by, mode), (parent, name), |path| {
            let kind = SFlag::from_bits_truncate(mode & SFlag::S_IFMT.bits());
            let rights = Mode::from_bits_truncate(mode);
            Ok(mknod(path, kind, rights, device_from(device))?)
        });
        self.entry(asked, reply, made);
    }

    fn mkdir(
        &self,
        by: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        reply: ReplyEntry,
    ) {
        let (mode, asked) = (mode & !umask, Asked::of(Kind::Mkdir, by, parent).named(name));
        let made = self.make(&asked, (by, mode), (parent, name), |path| {
            Ok(nix::unistd::mkdir(path, Mode::from_bits_truncate(mode))?)
        });
        self.entry(asked, reply, made);
    }

    fn unlink(&self, by: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let asked = Asked::of(Kind::Unlink, by, parent).named(name);
        self.empty(asked, reply, self.front.remove((parent, name), false));
    }

    fn rmdir(&self, by: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let asked = Asked::of(Kind::Unlink, by, parent).named(name);
        self.empty(asked, reply, self.front.remove((parent, name), true));
    }

    fn symlink(&self, by: &Request, parent: INodeNo, name: &OsStr, text: &Path, reply: ReplyEntry) {
        let asked = Asked::of(Kind::Symlink, by, parent).named(name);
        let made = self.make(&asked, (by, 0o777), (parent, name), |path| {
            std::os::unix::fs::symlink(text, path)
        });
        self.entry(asked, reply, made);
    }

    fn rename(
        &self,
        by: &Request,
        parent: INodeNo,
        name: &OsStr,
        new_parent: INodeNo,
        new_name: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let asked = Asked::of(Kind::Rename, by, parent).named(name);
        let flags = nix::fcntl::RenameFlags::from_bits_truncate(flags.bits());
        let renamed = self.front.rename((parent, name), (new_parent, new_name), flags);
        self.empty(asked, reply, renamed);
    }

    fn link(&self, by: &Request, ino: INodeNo, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let asked = Asked::of(Kind::Link, by, parent).named(name);
        self.entry(asked, reply, self.front.link(ino, (parent, name)));
    }

    fn open(&self, by: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let asked = Asked::of(Kind::Open, by, ino);
        let out = self.front.open(&asked, ino, flags.0);
        self.opened(asked, reply, out);
    }

    fn create(
        &self,
        by: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        let (mode, asked) = (mode & !umask, Asked::of(Kind::Create, by, parent).named(name));
        let made = self.make(&asked, (by, mode), (parent, name), |path| {
            let mut options = File::options();
            options.write(true).create(true).create_new(flags & O_EXCL != 0).mode(mode);
            options.open(path).map(drop)
        });
        let created = made.and_then(|(attr, generation)| {
            let opened = self.front.open(&asked, attr.ino, flags & !(O_CREAT | O_EXCL))?;
            Ok((self.front.shown(attr), generation, opened))
        });
        let ttl = self.front.cached();
        let give = move |reply: ReplyCreate, (attr, generation, (handle, flags))| {
            reply.created(&ttl, &attr, generation, handle, flags);
        };
        self.when(asked, (reply, created), give, ReplyCreate::error);
    }

    fn read(
        &self,
        by: &Request,
        ino: INodeNo,
        handle: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let asked = Asked::of(Kind::Read, by, ino).by(handle);
        self.front.read(asked, handle, (offset, size), reply);
    }

    fn write(
        &self,
        by: &Request,
        ino: INodeNo,
        handle: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let asked = Asked::of(Kind::Write, by, ino).by(handle);
        self.front.write(asked, handle, offset, data, reply);
    }

    fn flush(
        &self,
        by: &Request,
        ino: INodeNo,
        handle: FileHandle,
        _: LockOwner,
        reply: ReplyEmpty,
    ) {
        let asked = Asked::of(Kind::Flush, by, ino).by(handle);
        let flushed = self.front.flush(&asked, handle);
        self.empty(asked, reply, flushed);
    }

    fn release(
        &self,
        by: &Request,
        ino: INodeNo,
        handle: FileHandle,
        _: OpenFlags,
        _: Option<LockOwner>,
        _: bool,
        reply: ReplyEmpty,
    ) {
        self.front.close(handle);
        self.empty(Asked::of(Kind::Release, by, ino).by(handle), reply, Ok(()));
    }

    fn fsync(&self, by: &Request, ino: INodeNo, handle: FileHandle, _: bool, reply: ReplyEmpty) {
        let asked = Asked::of(Kind::Fsync, by, ino).by(handle);
        let synced = self.front.flush(&asked, handle);
        self.empty(asked, reply, synced);
    }

    fn opendir(&self, by: &Request, ino: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        let out = self.front.behind().open_directory(ino);
        let out = out.map(|handle| (handle, FopenFlags::empty()));
        self.opened(Asked::of(Kind::Open, by, ino), reply, out);
    }

    fn readdir(
        &self,
        by: &Request,
        ino: INodeNo,
        handle: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        let listed = self.list(handle, offset, &mut reply);
        let asked = Asked::of(Kind::Readdir, by, ino).by(handle);
        self.when(asked, (reply, listed), |reply, ()| reply.ok(), ReplyDirectory::error);
    }

    fn releasedir(
        &self,
        by: &Request,
        ino: INodeNo,
        handle: FileHandle,
        _: OpenFlags,
        reply: ReplyEmpty,
    ) {
        self.front.behind().close(handle);
        self.empty(Asked::of(Kind::Release, by, ino).by(handle), reply, Ok(()));
    }

    fn statfs(&self, by: &Request, ino: INodeNo, reply: ReplyStatfs) {
        let asked = Asked::of(Kind::Statfs, by, ino);
        self.space(asked, reply, self.front.space(ino));
    }

    fn setxattr(
        &self,
        by: &Request,
        ino: INodeNo,
        name: &OsStr,
        value: &[u8],
        flags: i32,
        _: u32,
        reply: ReplyEmpty,
    ) {
        let asked = Asked::of(Kind::Setxattr, by, ino).attribute(name);
        let set = self.front.set_xattr(&asked, ino, name, value, flags);
        self.empty(asked, reply, set);
    }

    fn getxattr(&self, by: &Request, ino: INodeNo, name: &OsStr, room: u32, reply: ReplyXattr) {
        let asked = Asked::of(Kind::Getxattr, by, ino).attribute(name);
        let value = self.front.xattr(&asked, ino, name);
        self.value(asked, reply, room, value);
    }

    fn listxattr(&self, by: &Request, ino: INodeNo, room: u32, reply: ReplyXattr) {
        let asked = Asked::of(Kind::Getxattr, by, ino);
        let names = self.front.xattr_names(&asked, ino);
        self.value(asked, reply, room, names);
    }

    fn removexattr(&self, by: &Request, ino: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let asked = Asked::of(Kind::Setxattr, by, ino).attribute(name);
        let removed = self.front.remove_xattr(&asked, ino, name);
        self.empty(asked, reply, removed);
    }

    fn fallocate(
        &self,
        by: &Request,
        ino: INodeNo,
        handle: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        let asked = Asked::of(Kind::Allocate, by, ino).by(handle);
        let done = self.front.allocate(&asked, handle, mode, (offset, length));
        self.empty(asked, reply, done);
    }

    fn lseek(
        &self,
        by: &Request,
        ino: INodeNo,
        handle: FileHandle,
        offset: i64,
        whence: i32,
        reply: ReplyLseek,
    ) {
        let asked = Asked::of(Kind::Seek, by, ino).by(handle);
        let at = self.front.seek(&asked, handle, offset, whence);
        self.when(asked, (reply, at), |reply, at| reply.offset(at), ReplyLseek::error);
    }

    fn ioctl(
        &self,
        by: &Request,
        ino: INodeNo,
        handle: FileHandle,
        _: IoctlFlags,
        number: u32,
        input: &[u8],
        room: u32,
        reply: ReplyIoctl,
    ) {
        let asked = Asked::of(Kind::Ioctl, by, ino).by(handle);
        let room = usize::try_from(room).unwrap_or(0);
        let out = self.front.ioctl(&asked, ino, number, input, room);
        let give = |reply: ReplyIoctl, out: Vec<u8>| reply.ioctl(0, &out);
        self.when(asked, (reply, out), give, ReplyIoctl::error);
    }
}
