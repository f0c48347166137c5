//! The requests of the kernel: done at once on the directory behind, answered when the pace says so.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use fuser::{
    BsdFileFlags, Errno, FileAttr, FileHandle, Filesystem, FopenFlags, INodeNo, InitFlags,
    KernelConfig, LockOwner, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData,
    ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyLseek, ReplyOpen, ReplyStatfs, ReplyWrite,
    ReplyXattr, Request, TimeOrNow, WriteFlags,
};
use nix::libc::{O_CREAT, O_EXCL};
use nix::sys::stat::{Mode, SFlag, mknod};
use nix::sys::statvfs::statvfs;

use super::Kind;
use super::attributes::device_from;
use super::behind::{Behind, Entry, Wanted};
use super::pace::{Moved, Pace};

/// Room for readahead and closing of many streams: the default of 16 would be the bottleneck.
const BACKGROUND: u16 = 4096;

/// The largest request for data, as large parallel filesystems have.
const REQUEST_BYTES: u32 = 1 << 20;

pub(super) struct Served {
    behind: Behind,
    pace: Arc<Pace>,
}

impl Served {
    pub(super) fn new(top: &Path, pace: Arc<Pace>) -> io::Result<Self> {
        Ok(Self { behind: Behind::new(top)?, pace })
    }

    fn moved(&self, ino: INodeNo, offset: u64, bytes: usize) -> Moved {
        Moved { file: self.behind.nodes.file(ino.0), offset, bytes: bytes as u64 }
    }
}

impl Filesystem for Served {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> io::Result<()> {
        // Each is asked for by itself: an older kernel refuses what it does not have. The last keeps
        // the kernel from asking for `security.capability` before every single write.
        for wanted in [
            InitFlags::FUSE_PARALLEL_DIROPS,
            InitFlags::FUSE_ASYNC_DIO,
            InitFlags::FUSE_AUTO_INVAL_DATA,
            InitFlags::FUSE_DONT_MASK,
            InitFlags::FUSE_HANDLE_KILLPRIV_V2,
        ] {
            let _ = config.add_capabilities(wanted);
        }
        if self.pace.profile().write_behind {
            let _ = config.add_capabilities(InitFlags::FUSE_WRITEBACK_CACHE);
        }
        let _ = config.set_max_background(BACKGROUND);
        let _ = config.set_congestion_threshold(BACKGROUND);
        let _ = config.set_max_write(REQUEST_BYTES);
        if let Err(most) = config.set_max_readahead(REQUEST_BYTES) {
            let _ = config.set_max_readahead(most);
        }
        Ok(())
    }

    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        self.pace.entry(Kind::Lookup, reply, self.behind.entry(parent, name));
    }

    fn forget(&self, _: &Request, ino: INodeNo, lookups: u64) {
        self.behind.nodes.forget(ino.0, lookups);
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        self.pace.attr(Kind::Getattr, reply, self.behind.attr(ino));
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
        handle: Option<FileHandle>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let wanted = Wanted { mode, owner: (uid, gid), size, times: (atime, mtime) };
        self.pace.attr(Kind::Setattr, reply, self.behind.set(ino, &wanted, handle));
    }

    fn readlink(&self, _: &Request, ino: INodeNo, reply: ReplyData) {
        let text = self.behind.find(ino).and_then(|found| fs::read_link(found.path));
        self.pace.metadata(Kind::Readlink, move || match text {
            Ok(text) => reply.data(text.as_os_str().as_bytes()),
            Err(error) => reply.error(error.into()),
        });
    }

    fn mknod(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        device: u32,
        reply: ReplyEntry,
    ) {
        let mode = mode & !umask;
        let made = self.behind.make((request, mode), (parent, name), |path| {
            let kind = SFlag::from_bits_truncate(mode & SFlag::S_IFMT.bits());
            let rights = Mode::from_bits_truncate(mode);
            Ok(mknod(path, kind, rights, device_from(device))?)
        });
        self.pace.entry(Kind::Mknod, reply, made);
    }

    fn mkdir(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        reply: ReplyEntry,
    ) {
        let mode = mode & !umask;
        let made = self.behind.make((request, mode), (parent, name), |path| {
            Ok(nix::unistd::mkdir(path, Mode::from_bits_truncate(mode))?)
        });
        self.pace.entry(Kind::Mkdir, reply, made);
    }

    fn unlink(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        self.pace.empty(Kind::Unlink, reply, self.behind.remove(parent, name, false));
    }

    fn rmdir(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        self.pace.empty(Kind::Unlink, reply, self.behind.remove(parent, name, true));
    }

    fn symlink(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        text: &Path,
        reply: ReplyEntry,
    ) {
        let made = self
            .behind
            .make((request, 0o777), (parent, name), |path| std::os::unix::fs::symlink(text, path));
        self.pace.entry(Kind::Symlink, reply, made);
    }

    fn rename(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        new_parent: INodeNo,
        new_name: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let flags = nix::fcntl::RenameFlags::from_bits_truncate(flags.bits());
        let renamed = self.behind.rename((parent, name), (new_parent, new_name), flags);
        self.pace.empty(Kind::Rename, reply, renamed);
    }

    fn link(&self, _: &Request, ino: INodeNo, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        self.pace.entry(Kind::Link, reply, self.behind.link(ino, parent, name));
    }

    fn open(&self, _: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        self.pace.opened(reply, self.behind.open_file(ino, flags.0));
    }

    fn create(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        let mode = mode & !umask;
        let made = self.behind.make((request, mode), (parent, name), |path| {
            let mut options = File::options();
            options.write(true).create(true).create_new(flags & O_EXCL != 0).mode(mode);
            options.open(path).map(drop)
        });
        let created = made.and_then(|(attr, generation)| {
            let flags = flags & !(O_CREAT | O_EXCL);
            Ok((attr, generation, self.behind.open_file(attr.ino, flags)?))
        });
        let ttl = self.pace.profile().cached;
        self.pace.metadata(Kind::Create, move || match created {
            Ok((attr, generation, handle)) => {
                reply.created(&ttl, &attr, generation, handle, FopenFlags::empty());
            }
            Err(error) => reply.error(error.into()),
        });
    }

    fn read(
        &self,
        _: &Request,
        ino: INodeNo,
        handle: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let read = self.behind.handle(handle).and_then(|handle| {
            let data = handle.read(offset, size)?;
            Ok((data, handle.free.clone()))
        });
        match read {
            Ok((data, free)) => {
                let moved = self.moved(ino, offset, data.len());
                self.pace.data(Kind::Read, &moved, &free, move || reply.data(&data));
            }
            Err(error) => reply.error(error.into()),
        }
    }

    fn write(
        &self,
        _: &Request,
        ino: INodeNo,
        handle: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let written = self.behind.handle(handle).and_then(|handle| {
            handle.file()?.write_all_at(data, offset)?;
            Ok(handle.free.clone())
        });
        match written {
            Ok(free) => {
                let moved = self.moved(ino, offset, data.len());
                let bytes = u32::try_from(data.len()).unwrap_or(u32::MAX);
                self.pace.data(Kind::Write, &moved, &free, move || reply.written(bytes));
            }
            Err(error) => reply.error(error.into()),
        }
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        self.pace.empty(Kind::Flush, reply, Ok(()));
    }

    fn release(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        _: OpenFlags,
        _: Option<LockOwner>,
        _: bool,
        reply: ReplyEmpty,
    ) {
        self.behind.close(handle);
        self.pace.empty(Kind::Release, reply, Ok(()));
    }

    fn fsync(&self, _: &Request, _: INodeNo, handle: FileHandle, _: bool, reply: ReplyEmpty) {
        let synced = self.behind.handle(handle).and_then(|handle| handle.file()?.sync_all());
        self.pace.empty(Kind::Fsync, reply, synced);
    }

    fn opendir(&self, _: &Request, ino: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        self.pace.opened(reply, self.behind.open_directory(ino));
    }

    fn readdir(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        let listed = self.behind.handle(handle);
        if let Ok(handle) = &listed {
            let skip = usize::try_from(offset).unwrap_or(usize::MAX);
            for (at, (ino, kind, name)) in (1..).zip(&handle.entries).skip(skip) {
                if reply.add(INodeNo(*ino), at, *kind, name) {
                    break;
                }
            }
        }
        self.pace.metadata(Kind::Readdir, move || match listed {
            Ok(_) => reply.ok(),
            Err(error) => reply.error(error.into()),
        });
    }

    fn releasedir(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        _: OpenFlags,
        reply: ReplyEmpty,
    ) {
        self.behind.close(handle);
        self.pace.empty(Kind::Release, reply, Ok(()));
    }

    fn statfs(&self, _: &Request, ino: INodeNo, reply: ReplyStatfs) {
        let space = self.behind.find(ino).and_then(|found| Ok(statvfs(&found.path)?));
        self.pace.space(reply, space);
    }

    fn setxattr(
        &self,
        _: &Request,
        ino: INodeNo,
        name: &OsStr,
        value: &[u8],
        flags: i32,
        _: u32,
        reply: ReplyEmpty,
    ) {
        let set = self.behind.find(ino).and_then(|found| found.set_xattr(name, value, flags));
        self.pace.empty(Kind::Setxattr, reply, set);
    }

    fn getxattr(&self, _: &Request, ino: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        let value = self.behind.find(ino).and_then(|found| found.xattr(name));
        self.pace.xattr(reply, size, value);
    }

    fn listxattr(&self, _: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        let names = self.behind.find(ino).and_then(|found| found.xattr_names());
        self.pace.xattr(reply, size, names);
    }

    fn removexattr(&self, _: &Request, ino: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let removed = self.behind.find(ino).and_then(|found| found.remove_xattr(name));
        self.pace.empty(Kind::Setxattr, reply, removed);
    }

    fn fallocate(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        let done =
            self.behind.handle(handle).and_then(|handle| handle.allocate(mode, offset, length));
        self.pace.empty(Kind::Allocate, reply, done);
    }

    fn lseek(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        offset: i64,
        whence: i32,
        reply: ReplyLseek,
    ) {
        let at = self.behind.handle(handle).and_then(|handle| handle.seek(offset, whence));
        self.pace.metadata(Kind::Seek, move || match at {
            Ok(at) => reply.offset(at),
            Err(error) => reply.error(error.into()),
        });
    }
}
