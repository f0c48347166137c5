//! `copy_file_range`: the kernel, or the server of a network filesystem, moves the bytes. Where it
//! cannot, plain reads and writes do. Cloning a whole file comes before and is not done here.

use std::os::fd::{AsFd, BorrowedFd};

use nix::errno::Errno;
use nix::fcntl::copy_file_range;

use super::plain::{Plain, in_pieces, next_chunk, read_some, shrunk};
use super::{Backend, Finished, LargeFile, Mechanism, Moved, Read, SmallFile};
use crate::error::{AtStep, Step, StepError};
use crate::lanes::{self, Lane};

/// `copy_file_range` with a fallback.
#[derive(Debug)]
pub(crate) struct Range {
    plain: Plain,
    /// Cleared when the kernel refuses; it then refuses for every file of the run.
    usable: bool,
}

impl Range {
    /// A mover that falls back to `plain`.
    pub(crate) fn new(plain: Plain) -> Self {
        Self { plain, usable: true }
    }

    /// Moves `bytes` from `offset` on. `Ok(None)` means that the kernel cannot do this pair of files;
    /// otherwise the bytes moved, which are fewer when the source ended.
    fn copy(
        &mut self,
        source: BorrowedFd<'_>,
        destination: BorrowedFd<'_>,
        offset: u64,
        bytes: u64,
    ) -> Result<Option<u64>, StepError> {
        let mut from = i64::try_from(offset).map_err(|_| Errno::EFBIG).at(Step::Write)?;
        let mut to = from;
        let mut moved = 0;
        while self.usable && moved < bytes {
            let rest = lanes::piece(bytes - moved);
            lanes::take_bytes(rest);
            let rest = usize::try_from(rest).unwrap_or(1 << 30);
            let pass = lanes::enter(Lane::DestinationWrite);
            let copied = copy_file_range(source, Some(&mut from), destination, Some(&mut to), rest);
            drop(pass);
            lanes::give_back((rest - copied.unwrap_or(0).min(rest)) as u64);
            match copied {
                // Some pseudo and FUSE filesystems say 0 although there is data.
                Ok(0) if moved == 0 => return Ok(None),
                Ok(0) => break,
                Ok(count) => moved += count as u64,
                Err(Errno::EINTR) => {}
                // ENOMEM: it takes a pipe, which a read and a write do not.
                Err(
                    Errno::EXDEV
                    | Errno::ENOSYS
                    | Errno::EOPNOTSUPP
                    | Errno::EINVAL
                    | Errno::EPERM
                    | Errno::ENOMEM,
                ) if moved == 0 => {
                    self.usable = false;
                }
                Err(errno) => return Err(StepError::os(Step::Write, errno)),
            }
        }
        Ok(self.usable.then_some(moved))
    }

    /// Moves one piece of a large file; false when that was done plainly, because the kernel cannot.
    fn piece(&mut self, file: &LargeFile, piece: std::ops::Range<u64>) -> Result<bool, StepError> {
        let length = piece.end - piece.start;
        let (source, destination) = (file.source.as_fd(), file.destination.as_fd());
        match self.copy(source, destination, piece.start, length)? {
            Some(moved) if moved < length => Err(shrunk()),
            Some(_) => {
                file.unseen(piece);
                Ok(true)
            }
            None => self.plain.copy_piece(file, piece).map(|()| false),
        }
    }
}

impl<T> Backend<T> for Range {
    fn small(&mut self, mut file: SmallFile<T>, done: &mut Vec<Finished<T>>) {
        let (source, destination) = (file.source.as_fd(), file.destination.as_fd());
        let size = file.size as u64;
        let result = match self.copy(source, destination, 0, size) {
            Ok(Some(moved)) => {
                let read = if moved < size { Ok(Read::Shrunk) } else { grown(source, size) };
                read.map(|read| Moved { mechanism: Mechanism::CopyFileRange, read })
            }
            Ok(None) => {
                lanes::take_bytes(size);
                let read = self.plain.copy_small(&mut file);
                read.map(|read| Moved { mechanism: Mechanism::ReadWrite, read })
            }
            Err(error) => Err(error),
        };
        done.push(Finished { file, result });
    }

    fn large(
        &mut self,
        file: &LargeFile,
        progress: &dyn Fn(std::ops::Range<u64>),
        goes: &dyn Fn() -> bool,
    ) -> Result<Mechanism, StepError> {
        // Where something else than the pair that the mover was chosen for is mounted, O_DIRECT may be better.
        if file.direct.is_some() {
            return Backend::<T>::large(&mut self.plain, file, progress, goes);
        }
        let mut mechanism = Mechanism::CopyFileRange;
        while self.usable
            && !goes()
            && let Some(chunk) = next_chunk(file)?
        {
            in_pieces(file, chunk, progress, |piece| {
                if !self.piece(file, piece)? {
                    mechanism = Mechanism::ReadWrite;
                }
                Ok(())
            })?;
        }
        if self.usable {
            Ok(mechanism)
        } else {
            Backend::<T>::large(&mut self.plain, file, progress, goes)
        }
    }
}

/// Whether a file holds more than the inode promised when it was opened.
fn grown(source: BorrowedFd<'_>, size: u64) -> Result<Read, StepError> {
    let more = read_some(source, &mut [0], size).at(Step::Read)?;
    Ok(if more > 0 { Read::Grown } else { Read::Exact })
}
