//! What has come out of a request, as an answer to the kernel at the front end's time.

use std::io;
use std::path::Path;

use fuser::{
    Errno, FileAttr, FileHandle, FopenFlags, INodeNo, InitFlags, KernelConfig, ReplyAttr,
    ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyOpen, ReplyStatfs, ReplyXattr, Request,
};

use super::behind::Entry;
use super::front::{Asked, Front, Place, Space};
use super::served::Served;

/// Room for readahead and closing of many streams: the default of 16 would be the bottleneck.
const BACKGROUND: u16 = 4096;

/// The largest request for data, as large parallel filesystems have.
const REQUEST_BYTES: u32 = 1 << 20;

impl<F: Front> Served<F> {
    /// Answers when it is time: with what has come out, or with its error.
    pub(super) fn when<T: Send + 'static, R: Send + 'static>(
        &self,
        asked: Asked,
        (reply, result): (R, io::Result<T>),
        give: impl FnOnce(R, T) + Send + 'static,
        fail: impl FnOnce(R, Errno) + Send + 'static,
    ) {
        let error = result.as_ref().err().map(|error| error.raw_os_error().unwrap_or(0));
        let answer = move || match result {
            Ok(out) => give(reply, out),
            Err(error) => fail(reply, error.into()),
        };
        self.front.answer(asked, error, Box::new(answer));
    }

    pub(super) fn entry(&self, asked: Asked, reply: ReplyEntry, result: io::Result<Entry>) {
        let ttl = self.front.cached();
        let result = result.map(|(attr, generation)| (self.front.shown(attr), generation));
        let give =
            move |reply: ReplyEntry, (attr, generation)| reply.entry(&ttl, &attr, generation);
        self.when(asked, (reply, result), give, ReplyEntry::error);
    }

    pub(super) fn empty(&self, asked: Asked, reply: ReplyEmpty, result: io::Result<()>) {
        self.when(asked, (reply, result), |reply, ()| reply.ok(), ReplyEmpty::error);
    }

    pub(super) fn opened(
        &self,
        asked: Asked,
        reply: ReplyOpen,
        out: io::Result<(FileHandle, FopenFlags)>,
    ) {
        let give = |reply: ReplyOpen, (handle, flags)| reply.opened(handle, flags);
        self.when(asked, (reply, out), give, ReplyOpen::error);
    }

    pub(super) fn value(
        &self,
        asked: Asked,
        reply: ReplyXattr,
        room: u32,
        value: io::Result<Vec<u8>>,
    ) {
        let give = move |reply: ReplyXattr, data: Vec<u8>| match u32::try_from(data.len()) {
            Ok(length) if room == 0 => reply.size(length),
            Ok(length) if length <= room => reply.data(&data),
            _ => reply.error(Errno::ERANGE),
        };
        self.when(asked, (reply, value), give, ReplyXattr::error);
    }

    /// Makes something new, and gives it what it inherits.
    pub(super) fn make(
        &self,
        asked: &Asked,
        by: (&Request, u32),
        place: Place<'_>,
        make: impl FnOnce(&Path) -> io::Result<()>,
    ) -> io::Result<Entry> {
        let behind = self.front.behind();
        let entry = behind.make(by, place, make)?;
        if let Err(error) = self.front.made(asked, place.0, &entry.0) {
            let dir = entry.0.kind == fuser::FileType::Directory;
            let _ = behind.remove(place.0, place.1, dir);
            return Err(error);
        }
        Ok(entry)
    }

    pub(super) fn attr(&self, asked: Asked, reply: ReplyAttr, attr: io::Result<FileAttr>) {
        let ttl = self.front.cached();
        let attr = attr.map(|attr| self.front.shown(attr));
        let give = move |reply: ReplyAttr, attr| reply.attr(&ttl, &attr);
        self.when(asked, (reply, attr), give, ReplyAttr::error);
    }

    pub(super) fn space(&self, asked: Asked, reply: ReplyStatfs, space: io::Result<Space>) {
        let give = |reply: ReplyStatfs, space: Space| {
            let ((all, free, open), (files, free_files)) = (space.blocks, space.files);
            reply.statfs(all, free, open, files, free_files, space.block, 255, space.block);
        };
        self.when(asked, (reply, space), give, ReplyStatfs::error);
    }

    /// A page of an open directory.
    pub(super) fn list(
        &self,
        handle: FileHandle,
        offset: u64,
        reply: &mut ReplyDirectory,
    ) -> io::Result<()> {
        let handle = self.front.behind().handle(handle)?;
        let skip = usize::try_from(offset).unwrap_or(usize::MAX);
        for (at, (ino, kind, name)) in (1..).zip(&handle.entries).skip(skip) {
            if reply.add(INodeNo(*ino), at, *kind, name) {
                break;
            }
        }
        Ok(())
    }
}

/// Asks the kernel for what every front end wants.
pub(super) fn prepare(config: &mut KernelConfig) {
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
    let _ = config.set_max_background(BACKGROUND);
    let _ = config.set_congestion_threshold(BACKGROUND);
    let _ = config.set_max_write(REQUEST_BYTES);
    if let Err(most) = config.set_max_readahead(REQUEST_BYTES) {
        let _ = config.set_max_readahead(most);
    }
}
