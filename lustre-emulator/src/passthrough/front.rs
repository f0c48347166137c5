//! What a front end may decide about each request. Without a word from it everything is passed through.

use std::ffi::{OsStr, OsString};
use std::io;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use fuser::{
    Errno, FileAttr, FileHandle, FopenFlags, INodeNo, KernelConfig, ReplyData, ReplyWrite, Request,
};
use nix::fcntl::RenameFlags;
use nix::sys::statvfs::statvfs;

use super::behind::{Behind, Entry, Wanted};
use super::{Kind, Nodes};

/// Gives an answer to the kernel.
pub type Give = Box<dyn FnOnce() + Send>;

/// A name in a directory.
pub type Place<'a> = (INodeNo, &'a OsStr);

/// A request, as far as it is the same for all kinds.
#[derive(Debug, Clone)]
pub struct Asked {
    /// What it asks for.
    pub kind: Kind,
    /// The inode, or the directory of `name`.
    pub ino: u64,
    /// The name in the directory `ino`, where a request is about a name.
    pub name: Option<OsString>,
    /// The extended attribute that it is about.
    pub attribute: Option<OsString>,
    /// The file handle, if it names one.
    pub handle: Option<u64>,
    /// The thread that asks.
    pub thread: u32,
    /// The user who asks.
    pub user: u32,
    /// When it arrived.
    pub arrived: Instant,
    /// Whether it needs the data, not only names and attributes: seeking, allocating, a new length.
    pub data: bool,
}

impl Asked {
    pub(super) fn of(kind: Kind, request: &Request, ino: INodeNo) -> Self {
        Self {
            kind,
            ino: ino.0,
            name: None,
            attribute: None,
            handle: None,
            thread: request.pid(),
            user: request.uid(),
            arrived: Instant::now(),
            data: matches!(kind, Kind::Seek | Kind::Allocate | Kind::Read | Kind::Write),
        }
    }

    pub(super) fn named(mut self, name: &OsStr) -> Self {
        self.name = Some(name.to_owned());
        self
    }

    pub(super) fn attribute(mut self, name: &OsStr) -> Self {
        self.attribute = Some(name.to_owned());
        self
    }

    pub(super) fn by(mut self, handle: FileHandle) -> Self {
        self.handle = Some(handle.0);
        self
    }

    /// The path behind the filesystem that it is about, while it has one.
    #[must_use]
    pub fn path(&self, nodes: &Nodes) -> Option<PathBuf> {
        let path = nodes.path(self.ino)?;
        Some(self.name.as_ref().map_or_else(|| path.clone(), |name| path.join(name)))
    }
}

/// What `statfs` tells.
#[derive(Debug, Clone, Copy)]
pub struct Space {
    /// Blocks of `block` bytes: all, free, free to users.
    pub blocks: (u64, u64, u64),
    /// Inodes: all, free.
    pub files: (u64, u64),
    /// Bytes.
    pub block: u32,
}

/// Decides what is done and when it is answered.
pub trait Front: Send + Sync + 'static {
    /// What it keeps with each open file or directory.
    type Own: Default + Send + Sync + 'static;

    /// The directory behind.
    fn behind(&self) -> &Behind<Self::Own>;

    /// How long the kernel may believe names and attributes.
    fn cached(&self) -> Duration;

    /// Asks the kernel for more than [`super::Served`] does.
    fn init(&self, _: &mut KernelConfig) {}

    /// Has the answer to a request that is not about data given when it is time. `error` is the
    /// answer's error number.
    fn answer(&self, asked: Asked, error: Option<i32>, give: Give);

    /// Reads `range` (offset, bytes), and answers.
    fn read(&self, asked: Asked, handle: FileHandle, range: (u64, u32), reply: ReplyData);

    /// Writes, and answers.
    fn write(&self, asked: Asked, handle: FileHandle, offset: u64, data: &[u8], reply: ReplyWrite);

    /// Attributes as they are shown.
    fn shown(&self, attr: FileAttr) -> FileAttr {
        attr
    }

    /// Something new has been made; what it inherits can be set here.
    ///
    /// # Errors
    /// The answer to the request; what has been made is taken away again.
    fn made(&self, _: &Asked, _: INodeNo, _: &FileAttr) -> io::Result<()> {
        Ok(())
    }

    /// Opens a file.
    ///
    /// # Errors
    /// The answer to the request.
    fn open(&self, _: &Asked, ino: INodeNo, flags: i32) -> io::Result<(FileHandle, FopenFlags)> {
        Ok((self.behind().open_file(ino, flags)?, FopenFlags::empty()))
    }

    /// A handle is no longer used.
    fn close(&self, handle: FileHandle) {
        self.behind().close(handle);
    }

    /// The last word on `close` and `fsync`, before they wait.
    ///
    /// # Errors
    /// The answer to the request.
    fn flush(&self, asked: &Asked, handle: FileHandle) -> io::Result<()> {
        if asked.kind == Kind::Fsync {
            self.behind().handle(handle)?.file()?.sync_all()?;
        }
        Ok(())
    }

    /// Sets attributes.
    ///
    /// # Errors
    /// The answer to the request.
    fn set(
        &self,
        _: &Asked,
        ino: INodeNo,
        wanted: &Wanted,
        handle: Option<FileHandle>,
    ) -> io::Result<FileAttr> {
        self.behind().set(ino, wanted, handle)
    }

    /// Removes a name.
    ///
    /// # Errors
    /// The answer to the request.
    fn remove(&self, (parent, name): Place<'_>, dir: bool) -> io::Result<()> {
        self.behind().remove(parent, name, dir)
    }

    /// Renames.
    ///
    /// # Errors
    /// The answer to the request.
    fn rename(&self, from: Place<'_>, to: Place<'_>, flags: RenameFlags) -> io::Result<()> {
        self.behind().rename(from, to, flags)
    }

    /// Another name for an inode.
    ///
    /// # Errors
    /// The answer to the request.
    fn link(&self, ino: INodeNo, (parent, name): Place<'_>) -> io::Result<Entry> {
        self.behind().link(ino, parent, name)
    }

    /// The room that there is.
    ///
    /// # Errors
    /// The answer to the request.
    fn space(&self, ino: INodeNo) -> io::Result<Space> {
        let space = statvfs(&self.behind().find(ino)?.path)?;
        Ok(Space {
            blocks: (space.blocks(), space.blocks_free(), space.blocks_available()),
            files: (space.files(), space.files_free()),
            block: u32::try_from(space.fragment_size()).unwrap_or(4096),
        })
    }

    /// The value of an extended attribute.
    ///
    /// # Errors
    /// The answer to the request.
    fn xattr(&self, _: &Asked, ino: INodeNo, name: &OsStr) -> io::Result<Vec<u8>> {
        self.behind().find(ino)?.xattr(name)
    }

    /// Their names, each with a zero byte behind it.
    ///
    /// # Errors
    /// The answer to the request.
    fn xattr_names(&self, _: &Asked, ino: INodeNo) -> io::Result<Vec<u8>> {
        self.behind().find(ino)?.xattr_names()
    }

    /// Sets one.
    ///
    /// # Errors
    /// The answer to the request.
    fn set_xattr(
        &self,
        _: &Asked,
        ino: INodeNo,
        name: &OsStr,
        value: &[u8],
        flags: i32,
    ) -> io::Result<()> {
        self.behind().find(ino)?.set_xattr(name, value, flags)
    }

    /// Removes one.
    ///
    /// # Errors
    /// The answer to the request.
    fn remove_xattr(&self, _: &Asked, ino: INodeNo, name: &OsStr) -> io::Result<()> {
        self.behind().find(ino)?.remove_xattr(name)
    }

    /// `fallocate` of `range` (offset, bytes).
    ///
    /// # Errors
    /// The answer to the request.
    fn allocate(
        &self,
        _: &Asked,
        handle: FileHandle,
        mode: i32,
        range: (u64, u64),
    ) -> io::Result<()> {
        self.behind().handle(handle)?.allocate(mode, range.0, range.1)
    }

    /// `SEEK_DATA` and `SEEK_HOLE`.
    ///
    /// # Errors
    /// The answer to the request.
    fn seek(&self, _: &Asked, handle: FileHandle, offset: i64, whence: i32) -> io::Result<i64> {
        self.behind().handle(handle)?.seek(offset, whence)
    }

    /// An `ioctl` with its input; returns its output.
    ///
    /// # Errors
    /// The answer to the request: `ENOTTY` unless the front end knows it. Never `ENOSYS`, which the
    /// kernel would remember for the whole mount.
    fn ioctl(&self, _: &Asked, _: INodeNo, _: u32, _: &[u8], _: usize) -> io::Result<Vec<u8>> {
        Err(super::errno(Errno::ENOTTY))
    }
}
