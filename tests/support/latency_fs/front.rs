//! The latency filesystem as a front end of the pass-through filesystem: everything is answered when
//! the pace says so.

use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use fuser::{FileHandle, InitFlags, KernelConfig, ReplyData, ReplyWrite};
use lustre_emulator::passthrough::{Asked, Behind, Front, Give, Kind};

use super::pace::{Moved, Pace};

/// When the bandwidth of an open file is free again.
pub(super) type Free = Mutex<Option<Instant>>;

pub(super) struct Slow {
    behind: Behind<Free>,
    pace: Arc<Pace>,
}

impl Slow {
    pub(super) fn new(top: &Path, pace: Arc<Pace>) -> io::Result<Self> {
        Ok(Self { behind: Behind::new(top)?, pace })
    }

    fn moved(&self, ino: u64, offset: u64, bytes: usize) -> Moved {
        Moved { file: self.behind.nodes.file(ino), offset, bytes: bytes as u64 }
    }
}

impl Front for Slow {
    type Own = Free;

    fn behind(&self) -> &Behind<Free> {
        &self.behind
    }

    fn cached(&self) -> Duration {
        self.pace.profile().cached
    }

    fn init(&self, config: &mut KernelConfig) {
        if self.pace.profile().write_behind {
            let _ = config.add_capabilities(InitFlags::FUSE_WRITEBACK_CACHE);
        }
    }

    fn answer(&self, asked: Asked, _: Option<i32>, give: Give) {
        self.pace.metadata(asked.kind, give);
    }

    fn read(&self, asked: Asked, handle: FileHandle, (at, size): (u64, u32), reply: ReplyData) {
        let read = self.behind.handle(handle).and_then(|handle| {
            let data = handle.read(at, size)?;
            Ok((data, handle))
        });
        match read {
            Ok((data, handle)) => {
                let moved = self.moved(asked.ino, at, data.len());
                self.pace.data(Kind::Read, &moved, &handle.own, move || reply.data(&data));
            }
            Err(error) => reply.error(error.into()),
        }
    }

    fn write(&self, asked: Asked, handle: FileHandle, at: u64, data: &[u8], reply: ReplyWrite) {
        let written = self.behind.handle(handle).and_then(|handle| {
            handle.file()?.write_all_at(data, at)?;
            Ok(handle)
        });
        match written {
            Ok(handle) => {
                let moved = self.moved(asked.ino, at, data.len());
                let bytes = u32::try_from(data.len()).unwrap_or(u32::MAX);
                self.pace.data(Kind::Write, &moved, &handle.own, move || reply.written(bytes));
            }
            Err(error) => reply.error(error.into()),
        }
    }
}
