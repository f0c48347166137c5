//! `splice` between two files in memory: pages of the source are put into a pipe as they are, and only the
//! destination copies them, which is one copy less than reading and writing. Whatever it cannot do is done plainly, and
//! so is every small file, since a file needs as many calls either way.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, SpliceFFlags, fcntl, splice};
use nix::unistd::pipe2;

use super::plain::{Plain, in_pieces, next_chunk, shrunk, to_usize};
use super::{Backend, Finished, LargeFile, Mechanism, SmallFile};
use crate::error::{AtStep, Step, StepError};
use crate::lanes::{self, Lane};

/// What a pipe should hold: as much as is read and written at once elsewhere. Pages in pipes are counted to their user
/// (pipe(7), pipe-user-pages-soft).
const PIPE_BYTES: usize = 256 << 10;

/// With less than what a pipe holds by default, the calls cost more than the copy that they save.
const PIPE_MIN_BYTES: usize = 64 << 10;

/// An empty pipe, of which this thread has both ends.
#[derive(Debug)]
struct Pipe {
    from: OwnedFd,
    to: OwnedFd,
    /// What it holds.
    bytes: usize,
}

impl Pipe {
    /// `None` where there is none to be had, or only a small one.
    fn new() -> Option<Self> {
        let (from, to) = pipe2(OFlag::O_CLOEXEC).ok()?;
        let wanted = i32::try_from(PIPE_BYTES).ok()?;
        // Refused to those whose pipes hold much already; then it is as large as it is.
        let bytes = fcntl(&to, FcntlArg::F_SETPIPE_SZ(wanted))
            .or_else(|_| fcntl(&to, FcntlArg::F_GETPIPE_SZ))
            .ok()?;
        let bytes = usize::try_from(bytes).ok().filter(|bytes| *bytes >= PIPE_MIN_BYTES)?;
        Some(Self { from, to, bytes })
    }

    /// Moves up to `unit` bytes; 0 at the end of the source.
    fn move_some(&self, file: &LargeFile, offset: u64, unit: usize) -> Result<usize, StepError> {
        lanes::take_bytes(unit as u64);
        let filled = self.fill(file.source.as_fd(), offset, unit);
        lanes::give_back((unit - filled.unwrap_or(0)) as u64);
        let filled = filled.at(Step::Read)?;
        self.empty(file.destination.as_fd(), offset, filled).at(Step::Write)?;
        Ok(filled)
    }

    /// Puts up to `bytes` of a file into the empty pipe; 0 at its end.
    fn fill(&self, source: BorrowedFd<'_>, offset: u64, bytes: usize) -> Result<usize, Errno> {
        let offset = i64::try_from(offset).map_err(|_| Errno::EOVERFLOW)?;
        let _pass = lanes::enter_for(Lane::SourceRead, bytes);
        loop {
            match splice(
                source,
                Some(&mut { offset }),
                &self.to,
                None,
                bytes,
                SpliceFFlags::empty(),
            ) {
                Err(Errno::EINTR) => {}
                other => return other,
            }
        }
    }

    /// Writes the `bytes` that the pipe holds.
    fn empty(
        &self,
        destination: BorrowedFd<'_>,
        offset: u64,
        mut bytes: usize,
    ) -> Result<(), Errno> {
        let mut offset = i64::try_from(offset).map_err(|_| Errno::EFBIG)?;
        let _pass = lanes::enter_for(Lane::DestinationWrite, bytes);
        while bytes > 0 {
            // It moves the offset on.
            let to = Some(&mut offset);
            match splice(&self.from, None, destination, to, bytes, SpliceFFlags::empty()) {
                Ok(0) => return Err(Errno::EIO),
                Ok(moved) => bytes -= moved,
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno),
            }
        }
        Ok(())
    }
}

/// `splice` with a fallback.
#[derive(Debug)]
pub(crate) struct Splice {
    plain: Plain,
    /// Made when the first large file comes.
    pipe: Option<Pipe>,
    /// Set when the kernel refuses, or has no pipe: it is not asked again in this run.
    refused: bool,
}

impl Splice {
    /// A mover that falls back to `plain`.
    pub(crate) fn new(plain: Plain) -> Self {
        Self { plain, pipe: None, refused: false }
    }

    /// The pipe, unless the kernel has refused.
    fn pipe(&mut self) -> Option<&Pipe> {
        if self.pipe.is_none() && !self.refused {
            self.pipe = Pipe::new();
            self.refused = self.pipe.is_none();
        }
        self.pipe.as_ref()
    }

    /// Moves one piece, plainly from where the kernel refuses.
    fn piece(&mut self, file: &LargeFile, piece: std::ops::Range<u64>) -> Result<(), StepError> {
        let mut offset = piece.start;
        while offset < piece.end
            && let Some(pipe) = self.pipe()
        {
            let unit = to_usize((piece.end - offset).min(lanes::piece(pipe.bytes as u64)));
            match pipe.move_some(file, offset, unit) {
                Ok(0) => return Err(shrunk()),
                Ok(moved) => offset += moved as u64,
                Err(error) => {
                    // What is left in it belongs nowhere.
                    self.pipe = None;
                    self.refused = error.errno.is_some_and(refuses);
                    if !self.refused {
                        return Err(error);
                    }
                }
            }
        }
        if offset < piece.end { self.plain.copy_piece(file, offset..piece.end) } else { Ok(()) }
    }
}

/// Whether an error is about splicing: a filter, a filesystem that does not know it, too little memory for pipes.
fn refuses(errno: Errno) -> bool {
    matches!(
        errno,
        Errno::EINVAL
            | Errno::ENOSYS
            | Errno::EPERM
            | Errno::ENOMEM
            | Errno::EOPNOTSUPP
            | Errno::EAGAIN
    )
}

impl<T> Backend<T> for Splice {
    fn small(&mut self, file: SmallFile<T>, done: &mut Vec<Finished<T>>) {
        self.plain.small(file, done);
    }

    fn large(
        &mut self,
        file: &LargeFile,
        progress: &dyn Fn(std::ops::Range<u64>),
        goes: &dyn Fn() -> bool,
    ) -> Result<Mechanism, StepError> {
        // Bytes that are to be hashed have to be read. And below the pair that the mover was chosen for,
        // something else may be mounted.
        let spliced = file.in_memory && file.cells.is_none();
        while spliced
            && self.pipe().is_some()
            && !goes()
            && let Some(chunk) = next_chunk(file)?
        {
            in_pieces(file, chunk, progress, |piece| self.piece(file, piece))?;
        }
        if spliced && !self.refused {
            Ok(Mechanism::Splice)
        } else {
            Backend::<T>::large(&mut self.plain, file, progress, goes)
        }
    }
}
