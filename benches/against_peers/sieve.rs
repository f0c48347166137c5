//! Memory that stays with the machine. A virtual machine may give the host what it has free ("free page
//! reporting"), and whoever uses such memory next waits for the host to hand it out again, which takes longer
//! than copying into it does. Only whole blocks of 2 MiB are given back: with one page of each block held, like
//! the wires of a sieve, the rest of it is free for everybody here and is never given away.

use std::fs::File;
use std::os::unix::fs::FileExt;

use anyhow::{Context, Result};
use nix::fcntl::{FallocateFlags, fallocate};
use nix::sys::memfd::{MFdFlags, memfd_create};

/// What is held of each [`CELL_BYTES`].
const PAGE_BYTES: usize = 4096;

/// A quarter of a block: pages that follow each other in a file need not lie side by side in memory, so that
/// one in a block would miss some blocks. It holds less than one percent of the memory.
const CELL_BYTES: usize = 512 << 10;

/// Left alone: for programs and their buffers of huge pages, and for page caches in whole blocks (of ext4, say): where
/// there are none the kernel makes them, and in doing so moves the wires together.
const SPARE_BYTES: usize = 4 << 30;

/// Keeps memory with the machine for as long as it lives.
pub struct Sieve {
    _halves: [File; 2],
}

impl Sieve {
    /// Has the host hand out so many bytes of the free memory, or as many as can be spared, and keeps them here.
    ///
    /// # Errors
    /// When there is less memory than the kernel said.
    pub fn new(bytes: usize) -> Result<Self> {
        let half = bytes.min(available_bytes().saturating_sub(SPARE_BYTES)) / 2;
        let [one, other] = std::thread::scope(|scope| {
            [(); 2].map(|()| scope.spawn(|| wires(half))).map(|thread| {
                thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            })
        });
        Ok(Self { _halves: [one?, other?] })
    }
}

/// A file in memory of which only the first page of every cell is there, and all was.
fn wires(bytes: usize) -> Result<File> {
    let file =
        File::from(memfd_create("sieve", MFdFlags::MFD_CLOEXEC).context("a file in memory")?);
    let cell = vec![1; CELL_BYTES];
    let cells = (0..bytes).step_by(CELL_BYTES);
    for at in cells.clone() {
        file.write_all_at(&cell, at as u64).context("memory from the host")?;
    }
    let hole = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
    for at in cells {
        let (at, length) =
            (i64::try_from(at + PAGE_BYTES)?, i64::try_from(CELL_BYTES - PAGE_BYTES)?);
        fallocate(&file, hole, at, length).context("free memory")?;
    }
    Ok(file)
}

/// Memory that could be used without swapping.
fn available_bytes() -> usize {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:")).unwrap_or_default();
    let kib: usize = line.split_whitespace().next().and_then(|kib| kib.parse().ok()).unwrap_or(0);
    kib << 10
}
