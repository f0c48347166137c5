//! Results of metadata requests as answers to the kernel, each when the pace says so.

use std::io;

use fuser::{
    Errno, FileAttr, FileHandle, FopenFlags, ReplyAttr, ReplyEmpty, ReplyEntry, ReplyOpen,
    ReplyStatfs, ReplyXattr,
};
use nix::sys::statvfs::Statvfs;

use super::Kind;
use super::behind::Entry;
use super::pace::Pace;

impl Pace {
    pub(super) fn entry(&self, kind: Kind, reply: ReplyEntry, result: io::Result<Entry>) {
        let ttl = self.profile().cached;
        self.metadata(kind, move || match result {
            Ok((attr, generation)) => reply.entry(&ttl, &attr, generation),
            Err(error) => reply.error(error.into()),
        });
    }

    pub(super) fn attr(&self, kind: Kind, reply: ReplyAttr, result: io::Result<FileAttr>) {
        let ttl = self.profile().cached;
        self.metadata(kind, move || match result {
            Ok(attr) => reply.attr(&ttl, &attr),
            Err(error) => reply.error(error.into()),
        });
    }

    pub(super) fn empty(&self, kind: Kind, reply: ReplyEmpty, result: io::Result<()>) {
        self.metadata(kind, move || match result {
            Ok(()) => reply.ok(),
            Err(error) => reply.error(error.into()),
        });
    }

    pub(super) fn opened(&self, reply: ReplyOpen, result: io::Result<FileHandle>) {
        self.metadata(Kind::Open, move || match result {
            Ok(handle) => reply.opened(handle, FopenFlags::empty()),
            Err(error) => reply.error(error.into()),
        });
    }

    pub(super) fn xattr(&self, reply: ReplyXattr, size: u32, result: io::Result<Vec<u8>>) {
        self.metadata(Kind::Getxattr, move || match result {
            Err(error) => reply.error(error.into()),
            Ok(data) => match u32::try_from(data.len()) {
                Ok(length) if size == 0 => reply.size(length),
                Ok(length) if length <= size => reply.data(&data),
                _ => reply.error(Errno::ERANGE),
            },
        });
    }

    pub(super) fn space(&self, reply: ReplyStatfs, space: io::Result<Statvfs>) {
        self.metadata(Kind::Statfs, move || match space {
            Ok(space) => reply.statfs(
                space.blocks(),
                space.blocks_free(),
                space.blocks_available(),
                space.files(),
                space.files_free(),
                u32::try_from(space.block_size()).unwrap_or(4096),
                255,
                u32::try_from(space.fragment_size()).unwrap_or(4096),
            ),
            Err(error) => reply.error(error.into()),
        });
    }
}
