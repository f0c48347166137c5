//! Mends damaged cells: reads the source again, writes the blocks that differ, and looks again. The
//! source must still have the digest that it had when it was copied.

use std::ops::Range;
use std::os::fd::{AsFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::{Mode, fchmod, fstat};
use nix::unistd::fsync;

use super::ToCheck;
use super::read_back::verify_failed;
use super::rehash::{changed, open_unchanged, read_cell};
use crate::backend::past_cache::OpenBack;
use crate::backend::plain::write_all;
use crate::checksum::{CELL_BYTES, cell_range};
use crate::engine::attributes::Fresh;
use crate::engine::inode::inode;
use crate::engine::worker::Worker;
use crate::error::{AtStep, Step, StepError};
use crate::sys::XattrTarget;
use crate::sys::buffer::Buffer;

/// How often a cell is written again before its device is given up.
const REPAIR_TRIES: usize = 3;

/// A file that is being mended.
struct Mending<'a> {
    file: &'a ToCheck,
    source: OwnedFd,
    target: OwnedFd,
    back: &'a OpenBack,
    there: Buffer,
}

impl Worker<'_> {
    /// Mends cells of a file.
    ///
    /// # Errors
    /// `VerifyFailed` when a cell stays wrong, `SourceChanged` when it cannot be known any more what
    /// is right, or the step that failed.
    pub(super) fn repair(
        &mut self,
        file: &ToCheck,
        back: &OpenBack,
        bad_cells: &[u64],
    ) -> Result<(), StepError> {
        let Some(checks) = &self.job.checks else { return Ok(()) };
        let path = || file.dir.source_path(Some(&file.source_name));
        let begun = self.begin_mending(file, back);
        let mut first_error = begun.as_ref().err().copied();
        let mut mending = begun.ok();
        for cell in bad_cells {
            let range = cell_range(*cell, file.size());
            let mended = mending.as_mut().map(|mending| {
                let mut right = Buffer::new(cell_bytes()).at(Step::Repair)?;
                let right = read_cell(&mending.source, &range, &mut right)?;
                if Some(checks.algorithm.digest(right)) != file.content.cell(*cell) {
                    return Err(changed());
                }
                mending.cell(&range, right)
            });
            let (damage, repaired) = match mended {
                Some(Ok(mended)) => mended,
                Some(Err(error)) => {
                    first_error.get_or_insert(error);
                    (vec![range], false)
                }
                None => (vec![range], false),
            };
            for range in damage {
                checks.tally.damaged(path(), range, repaired);
            }
            if !repaired {
                first_error.get_or_insert(verify_failed());
            }
        }
        if let Some(mending) = &mending {
            self.restore_attributes(mending)?;
        }
        first_error.map_or(Ok(()), Err)
    }

    fn begin_mending<'a>(
        &mut self,
        file: &'a ToCheck,
        back: &'a OpenBack,
    ) -> Result<Mending<'a>, StepError> {
        let source = self.with_descriptors(|worker| open_unchanged(file, worker.job))?;
        let target = self.with_descriptors(|_| open_target(file, back))?;
        let there = Buffer::new(cell_bytes()).at(Step::Repair)?;
        Ok(Mending { file, source, target, back, there })
    }

    /// Writing takes away setuid, setgid and capabilities, and a read-only file was made writable.
    fn restore_attributes(&self, mending: &Mending<'_>) -> Result<(), StepError> {
        let attributes = &self.job.attributes;
        let now = fstat(&mending.target).at(Step::Stat)?;
        let fresh = Fresh {
            owner: (now.st_uid, now.st_gid),
            mode: now.st_mode & 0o7777,
            may_have_acl: true,
        };
        let xattrs = attributes.read_xattrs(XattrTarget::Fd(mending.source.as_fd()))?;
        let xattrs = xattrs.unwrap_or_default();
        attributes.apply(mending.target.as_fd(), &mending.file.stat, &xattrs, fresh)
    }
}

impl Mending<'_> {
    /// Mends one cell. Returns what was damaged, and whether it is right now.
    fn cell(
        &mut self,
        range: &Range<u64>,
        right: &[u8],
    ) -> Result<(Vec<Range<u64>>, bool), StepError> {
        let mut damage = Vec::new();
        for _ in 0..REPAIR_TRIES {
            self.back.drop_pages();
            let wrong = self.differences(range, right)?;
            if damage.is_empty() {
                // A device that gave wrong bytes once and right ones now is damage as well.
                damage = if wrong.is_empty() { vec![range.clone()] } else { wrong.clone() };
            }
            if wrong.is_empty() {
                return Ok((damage, true));
            }
            for part in wrong {
                let bytes = &right[index(part.start - range.start)..index(part.end - range.start)];
                write_all(self.target.as_fd(), bytes, part.start)
                    .map_err(|error| StepError { step: Step::Repair, ..error })?;
            }
            fsync(&self.target).at(Step::Repair)?;
        }
        self.back.drop_pages();
        let still_wrong = !self.differences(range, right)?.is_empty();
        Ok((damage, !still_wrong))
    }

    /// The ranges of a cell whose blocks are wrong on the device, or cannot be read.
    fn differences(
        &mut self,
        range: &Range<u64>,
        right: &[u8],
    ) -> Result<Vec<Range<u64>>, StepError> {
        let unit = self.back.unit();
        let whole = match self.back.read(&mut self.there, range.start, right.len()) {
            Ok(read) => Some(read),
            Err(errno) if is_damage(errno) => None,
            Err(errno) => return Err(StepError::os(Step::ReadBack, errno)),
        };
        let mut wrong: Vec<Range<u64>> = Vec::new();
        for (at, block) in (0..).step_by(unit).zip(right.chunks(unit)) {
            let start = range.start + at as u64;
            let same = match whole {
                Some(read) => {
                    at + block.len() <= read && self.there[at..at + block.len()] == *block
                }
                None => match self.back.read(&mut self.there, start, block.len()) {
                    Ok(read) => self.there[..read] == *block,
                    Err(errno) if is_damage(errno) => false,
                    Err(errno) => return Err(StepError::os(Step::ReadBack, errno)),
                },
            };
            if same {
                continue;
            }
            let end = start + block.len() as u64;
            match wrong.last_mut() {
                Some(last) if last.end == start => last.end = end,
                _ => wrong.push(start..end),
            }
        }
        Ok(wrong)
    }
}

fn is_damage(errno: Errno) -> bool {
    crate::error::FailureKind::of(errno) == crate::error::FailureKind::Io
}

/// Opens the copy for writing, also when its mode forbids that to its owner.
fn open_target(file: &ToCheck, back: &OpenBack) -> Result<OwnedFd, StepError> {
    let dir = file.dir.destination().at(Step::Repair)?;
    let flags = OFlag::O_RDWR | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
    let open = || openat(&dir, file.name.as_c_str(), flags, Mode::empty());
    let target = match open() {
        Err(Errno::EACCES) => {
            let mode = Mode::from_bits_truncate(back.stat.st_mode & 0o777 | 0o600);
            fchmod(&back.file, mode).at(Step::Repair)?;
            open()
        }
        other => other,
    };
    let target = target.at(Step::Repair)?;
    // Somebody may have put another file there.
    if inode(&fstat(&target).at(Step::Repair)?) == inode(&back.stat) {
        Ok(target)
    } else {
        Err(verify_failed())
    }
}

fn cell_bytes() -> usize {
    index(CELL_BYTES)
}

fn index(number: u64) -> usize {
    usize::try_from(number).expect("a part of a cell fits into memory")
}
