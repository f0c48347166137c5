//! The emulator as a front end of the pass-through filesystem: what a Lustre client does at each request
//! that is not about data. Reads and writes are in `data`, attributes and `ioctl` in `answers`.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use fuser::{
    Errno, FileAttr, FileHandle, FileType, FopenFlags, INodeNo, InitFlags, KernelConfig, ReplyData,
    ReplyWrite,
};
use nix::fcntl::RenameFlags;
use nix::libc::{
    FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE, O_ACCMODE, O_ASYNC, O_RDONLY, SEEK_DATA,
};

use crate::inode::Inode;
use crate::passthrough::{
    Asked, Behind, Entry, Front, Give, Kind, Place, Space, TOP, Wanted, errno,
};
use crate::shared::{Opened, Shared};

/// Lustre's answer to `stat` (`llite.*.stat_blocksize`), in bytes.
const BLOCK: u32 = 4 << 20;

/// Inherit the project (`FS_XFLAG_PROJINHERIT`).
pub(crate) const INHERIT: u32 = 0x200;

/// `fallocate` that does not let the file grow.
const KEEP_SIZE: i32 = FALLOC_FL_KEEP_SIZE;

/// `fallocate` that makes a hole.
const PUNCH: i32 = FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE;

pub(crate) struct Client(pub(crate) Arc<Shared>);

impl Client {
    /// The inode of an open file.
    pub(crate) fn opened(&self, handle: FileHandle) -> io::Result<(Arc<OpenFile>, Arc<Inode>)> {
        let handle = self.0.behind.handle(handle)?;
        let inode = match handle.own.inode.get() {
            Some(inode) => inode.clone(),
            None => self.0.inode(handle.ino)?,
        };
        Ok((handle, inode))
    }

    fn path(&self, asked: &Asked) -> Option<PathBuf> {
        let path = asked.path(&self.0.behind.nodes)?;
        path.strip_prefix(&self.0.top).map(PathBuf::from).ok()
    }

    /// Waits for everything of a file that its OSTs do not have yet.
    fn after_writes(&self, ino: u64, give: Give) {
        if let Some(inode) = self.0.inodes.known(ino) {
            let mut state = inode.state();
            if !state.unfinished.is_empty() {
                let all = state.unfinished.clone();
                state.waiting.push((all, give));
                return;
            }
        }
        give();
    }
}

/// An open file with what is kept with it.
pub(crate) type OpenFile = crate::passthrough::Handle<Opened>;

impl Front for Client {
    type Own = Opened;

    fn behind(&self) -> &Behind<Opened> {
        &self.0.behind
    }

    fn cached(&self) -> Duration {
        self.0.settings().cached
    }

    fn init(&self, config: &mut KernelConfig) {
        for wanted in [InitFlags::FUSE_HAS_IOCTL_DIR, InitFlags::FUSE_DIRECT_IO_ALLOW_MMAP] {
            let _ = config.add_capabilities(wanted);
        }
    }

    fn answer(&self, asked: Asked, error: Option<i32>, give: Give) {
        let shared = &self.0;
        let slot = shared.log.begin(&asked, shared.client(asked.thread), self.path(&asked), (0, 0));
        let log = shared.log.clone();
        let answer: Give = Box::new(move || {
            log.end(slot, error);
            give();
        });
        let mdt = shared.mdt.clone();
        match asked.kind {
            Kind::Fsync => self.after_writes(asked.ino, answer),
            Kind::Flush => {
                self.after_writes(asked.ino, Box::new(move || mdt.serve(Instant::now(), answer)))
            }
            // Known to the client, or not about metadata.
            Kind::Release | Kind::Statfs | Kind::Ioctl => answer(),
            _ => {
                // Whoever needs the data waits until it is back from the archive.
                let known = asked.data.then(|| shared.inodes.known(asked.ino)).flatten();
                let wait = known.and_then(|inode| inode.state().restored);
                match wait {
                    Some(at) if at > asked.arrived => {
                        shared.calendar.at(at, move || mdt.serve(at, answer));
                    }
                    _ => mdt.serve(asked.arrived, answer),
                }
            }
        }
    }

    fn read(&self, asked: Asked, handle: FileHandle, range: (u64, u32), reply: ReplyData) {
        self.read_data(asked, handle, range, reply);
    }

    fn write(&self, asked: Asked, handle: FileHandle, at: u64, data: &[u8], reply: ReplyWrite) {
        self.write_data(asked, handle, at, data, reply);
    }

    fn shown(&self, mut attr: FileAttr) -> FileAttr {
        if attr.kind == FileType::RegularFile {
            attr.blksize = BLOCK;
            let known = self.0.inodes.known(attr.ino.0);
            let released = known.is_some_and(|inode| {
                let mut state = inode.state();
                self.0.up_to_date(&inode, &mut state);
                state.layout.as_ref().is_some_and(|layout| layout.released)
            });
            if released {
                attr.blocks = 1; // the stub; its data is elsewhere
            }
        }
        attr
    }

    fn made(&self, _: &Asked, parent: INodeNo, made: &FileAttr) -> io::Result<()> {
        let dir = made.kind == FileType::Directory;
        if !dir && made.kind != FileType::RegularFile {
            return Ok(());
        }
        let above = self.0.inode(parent.0)?;
        let (default, project, flags) = {
            let above = above.state();
            (above.default.clone(), above.project, above.flags)
        };
        let inode = self.0.inodes.fresh(made.ino.0);
        let mut state = inode.state();
        if flags & INHERIT != 0 {
            state.project = project;
            state.flags = if dir { INHERIT } else { 0 };
        }
        if dir && parent.0 != TOP {
            state.default = default;
        }
        if state.project != 0 || state.flags != 0 || state.default.is_some() {
            self.0.save(made.ino.0, &state)?;
        }
        Ok(())
    }

    fn open(&self, _: &Asked, ino: INodeNo, flags: i32) -> io::Result<(FileHandle, FopenFlags)> {
        let writes = flags & O_ACCMODE != O_RDONLY;
        let inode = self.0.inode(ino.0)?;
        let mut state = inode.state();
        // Of `O_LOV_DELAY_CREATE` the kernel lets only this bit through.
        if writes && flags & O_ASYNC == 0 {
            self.0.settle(&inode, &mut state)?;
        }
        let handle = self.0.behind.open_file(ino, flags)?;
        state.opens += 1;
        state.writers += u32::from(writes);
        let opened = self.0.behind.handle(handle)?;
        opened.own.writes.store(writes, Relaxed);
        let _ = opened.own.inode.set(inode.clone());
        let path = self.0.behind.nodes.path(ino.0);
        let path = path.and_then(|path| path.strip_prefix(&self.0.top).map(PathBuf::from).ok());
        let _ = opened.own.path.set(path);
        let cached = !writes && state.writers == 0 && self.0.settings().cached_reads;
        let fopen = if cached {
            FopenFlags::empty()
        } else {
            FopenFlags::FOPEN_DIRECT_IO | FopenFlags::FOPEN_PARALLEL_DIRECT_WRITES
        };
        Ok((handle, fopen))
    }

    fn close(&self, handle: FileHandle) {
        let Some(closed) = self.0.behind.close(handle) else { return };
        let Some(inode) = closed.own.inode.get() else { return };
        let mut state = inode.state();
        state.opens = state.opens.saturating_sub(1);
        state.writers -= u32::from(closed.own.writes.load(Relaxed) && state.writers > 0);
        if state.opens > 0 {
            return;
        }
        state.objects.values_mut().for_each(|object| object.locks.drop_all());
        if state.unlinked {
            drop(state);
            self.0.gone(inode);
        } else if closed.own.wrote.load(Relaxed) {
            let _ = self.0.save(inode.ino, &state);
        }
    }

    fn flush(&self, _: &Asked, handle: FileHandle) -> io::Result<()> {
        let wrote = self.0.behind.handle(handle)?.own.wrote.load(Relaxed);
        match self.0.settings().misbehave.late_error {
            Some(error) if wrote => Err(io::Error::from_raw_os_error(error)),
            _ => Ok(()),
        }
    }

    fn set(
        &self,
        _: &Asked,
        ino: INodeNo,
        wanted: &Wanted,
        handle: Option<FileHandle>,
    ) -> io::Result<FileAttr> {
        if let Some(size) = wanted.size {
            let inode = self.0.inode(ino.0)?;
            let mut state = inode.state();
            if size == 0 {
                self.0.returned(&inode, &mut state);
            } else {
                self.0.settle(&inode, &mut state)?;
                self.0.restore(&inode, &mut state);
                self.0.ensure(&inode, &mut state, &(0..size))?;
            }
            self.0.cut(&mut state, size);
            Shared::changed(&mut state);
        }
        self.0.behind.set(ino, wanted, handle)
    }

    fn remove(&self, (parent, name): Place<'_>, dir: bool) -> io::Result<()> {
        let leaving = self.leaving((parent, name), dir)?;
        self.0.behind.remove(parent, name, dir)?;
        self.left(leaving);
        Ok(())
    }

    fn rename(&self, from: Place<'_>, to: Place<'_>, flags: RenameFlags) -> io::Result<()> {
        let replaces = !flags.contains(RenameFlags::RENAME_EXCHANGE);
        let same = |place: Place<'_>| {
            let about = fs::symlink_metadata(self.0.behind.child(place.0, place.1)?)?;
            io::Result::Ok(about.ino())
        };
        let leaving = match (same(from), same(to)) {
            (Ok(from), Ok(other)) if replaces && from != other => self.leaving(to, true)?,
            _ => None,
        };
        self.0.behind.rename(from, to, flags)?;
        self.left(leaving);
        Ok(())
    }

    fn link(&self, ino: INodeNo, (parent, name): Place<'_>) -> io::Result<Entry> {
        self.0.behind.link(ino, parent, name)
    }

    fn space(&self, ino: INodeNo) -> io::Result<Space> {
        let behind = nix::sys::statvfs::statvfs(&self.0.behind.find(ino)?.path)?;
        let capacity: u64 = self.0.osts.iter().map(|ost| ost.capacity()).sum();
        let free = self.0.osts.iter().map(|ost| ost.capacity().saturating_sub(ost.used()));
        let free: u64 = free.sum::<u64>() / 4096;
        Ok(Space {
            blocks: (capacity / 4096, free, free),
            files: (behind.files(), behind.files_free()),
            block: 4096,
        })
    }

    fn xattr(&self, asked: &Asked, ino: INodeNo, name: &OsStr) -> io::Result<Vec<u8>> {
        self.attribute(asked, ino, name)
    }

    fn xattr_names(&self, asked: &Asked, ino: INodeNo) -> io::Result<Vec<u8>> {
        self.attribute_names(asked, ino)
    }

    fn set_xattr(
        &self,
        _: &Asked,
        ino: INodeNo,
        name: &OsStr,
        value: &[u8],
        flags: i32,
    ) -> io::Result<()> {
        self.set_attribute(ino, name, value, flags)
    }

    fn remove_xattr(&self, _: &Asked, ino: INodeNo, name: &OsStr) -> io::Result<()> {
        self.remove_attribute(ino, name)
    }

    fn allocate(
        &self,
        _: &Asked,
        handle: FileHandle,
        mode: i32,
        (offset, length): (u64, u64),
    ) -> io::Result<()> {
        // What OSTs on ldiskfs have.
        if !matches!(mode, 0 | KEEP_SIZE | PUNCH) {
            return Err(errno(Errno::EOPNOTSUPP));
        }
        let (opened, inode) = self.opened(handle)?;
        let range = offset..offset.saturating_add(length);
        let mut state = inode.state();
        self.0.settle(&inode, &mut state)?;
        self.0.restore(&inode, &mut state);
        if mode == PUNCH {
            self.free_room(&mut state, &range);
        } else {
            self.0.ensure(&inode, &mut state, &range)?;
            self.take_room(&mut state, &range)?;
        }
        Shared::changed(&mut state);
        opened.own.wrote.store(true, Relaxed);
        drop(state);
        opened.allocate(mode, offset, length)
    }

    fn seek(&self, _: &Asked, handle: FileHandle, offset: i64, whence: i32) -> io::Result<i64> {
        let (opened, inode) = self.opened(handle)?;
        if whence >= SEEK_DATA {
            let mut state = inode.state();
            self.0.restore(&inode, &mut state);
        }
        opened.seek(offset, whence)
    }

    fn ioctl(
        &self,
        asked: &Asked,
        ino: INodeNo,
        number: u32,
        input: &[u8],
        room: usize,
    ) -> io::Result<Vec<u8>> {
        self.control(asked, ino, number, input, room)
    }
}

impl Client {
    /// The inode whose last name goes with this one.
    fn leaving(&self, (parent, name): Place<'_>, dir: bool) -> io::Result<Option<Arc<Inode>>> {
        let about = fs::symlink_metadata(self.0.behind.child(parent, name)?)?;
        let last = about.nlink() == 1 || dir && about.is_dir();
        Ok(self.0.inodes.known(about.ino()).filter(|_| last))
    }

    /// A name is gone, and this inode has no other.
    fn left(&self, inode: Option<Arc<Inode>>) {
        let Some(inode) = inode else { return };
        let mut state = inode.state();
        state.unlinked = true;
        if state.opens == 0 {
            drop(state);
            self.0.gone(&inode);
        }
    }
}
