//! Reading ahead in a large file that is copied through the page cache: the kernel by itself fetches
//! the next few pages, which leaves a fast device idle. It copies nothing.

use std::ops::Range;
use std::os::fd::AsFd;

use nix::errno::Errno;
use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};

use super::LargeFile;
use crate::lanes::{self, Lane};
use crate::sys;

/// So many bytes behind the chunk being copied are asked for.
const WINDOW_BYTES: u64 = 4 << 20;
/// What one call of posix_fadvise(2) has fetched at most (`force_page_cache_ra` in Linux takes no more
/// than the device's largest request).
const UNIT_BYTES: usize = 1 << 20;

/// How far one worker has read ahead in one file.
#[derive(Debug, Default)]
pub(super) struct ReadAhead {
    /// Whether the file is worth it: its first chunk was not in memory.
    cold: Option<bool>,
    /// Everything before it has been asked for.
    until: u64,
}

impl ReadAhead {
    /// Has the kernel fetch a chunk that is about to be copied, and what follows it.
    pub(super) fn begin(&mut self, file: &LargeFile, chunk: &Range<u64>) {
        let source = file.source.as_fd();
        let _pass = lanes::enter(Lane::SourceRead);
        let is_cold = || {
            let start = chunk.start.cast_signed();
            matches!(sys::read_without_waiting(source, &mut [0], start), Err(Errno::EAGAIN))
        };
        if !*self.cold.get_or_insert_with(is_cold) {
            return;
        }
        let start = self.until.max(chunk.start);
        self.until = file.chunks.dense_until(chunk.end + WINDOW_BYTES).max(chunk.end);
        for start in (start..self.until).step_by(UNIT_BYTES) {
            let length = (self.until - start).min(UNIT_BYTES as u64);
            let advice = PosixFadviseAdvice::POSIX_FADV_WILLNEED;
            // Advice that is not taken costs speed only.
            let _ = posix_fadvise(source, start.cast_signed(), length.cast_signed(), advice);
        }
    }
}
