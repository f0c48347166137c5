//! Digests of sources whose bytes the copy did not see: clones, `copy_file_range`, files that were
//! there before, and cells whose pieces came in no order. It writes nothing.

use std::ops::Range;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::Ordering::Relaxed;

use super::{Part, Reader, ToCheck};
use crate::backend::chunk::Holes;
use crate::backend::plain::read_up_to;
use crate::checksum::{Algorithm, Digest, Hasher, cell_range};
use crate::engine::file::open_source_in;
use crate::engine::inode::same_version;
use crate::engine::job::Job;
use crate::engine::worker::Worker;
use crate::error::{AtStep, FailureKind, Step, StepError};
use crate::lanes::{self, Lane};
use crate::lustre::hsm::refuse_released;
use crate::options::HsmPolicy;

impl Worker<'_> {
    /// Finds out the digests of a part that are still unknown.
    pub(super) fn rehash(&mut self, part: &Part, reader: &mut Reader) -> Result<(), StepError> {
        let file = &part.file;
        let mut unknown = part.cells.clone().filter(|cell| file.content.cell(*cell).is_none());
        let Some(first) = unknown.next() else { return Ok(()) };
        let Some(checks) = &self.job.checks else { return Ok(()) };
        checks.tally.reread.fetch_add(u64::from(part.cells.start == 0), Relaxed);
        let source = self.with_descriptors(|worker| open_unchanged(file, worker.job))?;
        let mut holes = Holes::of(&file.stat, self.job.tells_holes(&file.dir).0);
        for cell in std::iter::once(first).chain(unknown) {
            if self.job.stopped() {
                return Ok(());
            }
            let range = cell_range(cell, file.size());
            let digest = if holes.contain(&source, &range).at(Step::Read)? {
                checks.algorithm.of_zeros(range.end - range.start)
            } else {
                lanes::take_bytes(range.end - range.start);
                let _pass = lanes::enter(Lane::SourceRead);
                read_digest(checks.algorithm, &source, &range, reader.cells.buffer())?
            };
            file.content.set(cell, digest);
        }
        still_unchanged(file, &source)
    }
}

/// Opens the source of a file that was copied, if it is still what was copied.
///
/// # Errors
/// `SourceChanged` when it is not, `Released` when reading it would bring it back from an archive.
pub(super) fn open_unchanged(file: &ToCheck, job: &Job<'_>) -> Result<OwnedFd, StepError> {
    let _pass = lanes::enter(Lane::SourceMetadata);
    let dir = file.dir.source().at(Step::Open)?;
    let (source, stat) = open_source_in(&dir, &file.source_name, || job.stopped())?;
    if job.options().hsm != HsmPolicy::Restore {
        refuse_released(&source, &stat, Step::Read)?;
    }
    if same_version(&stat, &file.stat) { Ok(source) } else { Err(changed()) }
}

fn still_unchanged(file: &ToCheck, source: &OwnedFd) -> Result<(), StepError> {
    let now = nix::sys::stat::fstat(source).at(Step::Stat)?;
    if same_version(&now, &file.stat) { Ok(()) } else { Err(changed()) }
}

/// The digest of one cell of a source, read one buffer at a time.
///
/// # Errors
/// `SourceChanged` when it ends before.
fn read_digest(
    algorithm: Algorithm,
    source: &OwnedFd,
    range: &Range<u64>,
    buffer: &mut [u8],
) -> Result<Digest, StepError> {
    let mut hasher = Hasher::new(algorithm);
    let mut at = range.start;
    while at < range.end {
        let end = range.end.min(at + buffer.len() as u64);
        hasher.update(read_cell(source, &(at..end), buffer)?);
        at = end;
    }
    Ok(hasher.finish())
}

/// The bytes of one cell of a source, or of a part of it.
///
/// # Errors
/// `SourceChanged` when it ends before.
pub(super) fn read_cell<'b>(
    source: &OwnedFd,
    range: &Range<u64>,
    buffer: &'b mut [u8],
) -> Result<&'b [u8], StepError> {
    let length = usize::try_from(range.end - range.start).unwrap_or(usize::MAX);
    let part = &mut buffer[..length];
    match read_up_to(source.as_fd(), part, range.start).at(Step::Read)? {
        read if read == length => Ok(part),
        _ => Err(changed()),
    }
}

pub(super) fn changed() -> StepError {
    StepError::found(Step::Read, FailureKind::SourceChanged)
}
