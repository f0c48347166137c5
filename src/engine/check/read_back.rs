//! Reads published files back from the device and compares them with what was written. What is wrong
//! is noted, and mended by `repair`.

use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::Ordering::{AcqRel, Relaxed};
use std::time::Instant;

use nix::errno::Errno;

use super::{Part, ToCheck};
use crate::backend::chunk::Holes;
use crate::backend::past_cache::{CellReader, OpenBack};
use crate::checksum::{Digest, cell_range};
use crate::engine::inode::{inode, is_regular};
use crate::engine::publish::Published;
use crate::engine::sizing::Mover;
use crate::engine::worker::Worker;
use crate::error::{AtStep, FailureKind, Step, StepError};
use crate::lanes::{self, Lane};

/// One worker's means of reading back; made when the first file is to be read.
#[derive(Debug)]
pub(crate) struct Reader {
    /// Reads of cells, each belonging to a file.
    pub(super) cells: CellReader<(Arc<ToCheck>, u64)>,
}

/// A part whose file is open.
struct Opened {
    part: Part,
    back: Option<OpenBack>,
}

impl Worker<'_> {
    /// Looks at parts of files, and finishes those files of which they were the last.
    pub(crate) fn check(&mut self, parts: Vec<Part>) {
        let started = Instant::now();
        match self.reader.take().map_or_else(|| self.new_reader(), Ok) {
            Ok(mut reader) => {
                self.check_with(&mut reader, parts);
                self.reader = Some(reader);
            }
            Err(error) => {
                for part in parts {
                    part.file.fail(error);
                    self.part_is_done(&part.file, None);
                }
            }
        }
        if let Some(checks) = &self.job.checks {
            checks.tally.spent(started);
        }
    }

    fn new_reader(&self) -> Result<Reader, StepError> {
        let sizing = self.job.sizing;
        let algorithm = self.job.checksum().unwrap_or_default();
        // Those that came later are for waiting: their memory is kept small.
        let ring = sizing.mover == Mover::Uring && !self.extra;
        let unit = if self.extra { sizing.extra_unit } else { usize::MAX };
        let cells = CellReader::new(algorithm, unit, ring, sizing.starters).at(Step::ReadBack)?;
        Ok(Reader { cells })
    }

    fn check_with(&mut self, reader: &mut Reader, parts: Vec<Part>) {
        // As many files are open at the same time as the copy itself may have.
        let at_once = self.job.sizing.depth.max(1);
        let mut parts = parts.into_iter().peekable();
        while parts.peek().is_some() {
            if self.job.stopped() {
                return; // files without their times: the next run copies them again
            }
            let mut opened = Vec::new();
            for part in parts.by_ref().take(at_once) {
                opened.push(self.start_part(reader, part));
            }
            {
                let _pass = lanes::enter(Lane::DestinationWrite);
                reader.cells.drain(&mut |(file, cell), digest| judge(&file, cell, digest));
            }
            for Opened { part, back } in opened {
                self.part_is_done(&part.file, back);
            }
        }
    }

    /// Puts the cells of a part in flight.
    fn start_part(&mut self, reader: &mut Reader, part: Part) -> Opened {
        let read_back = self.job.checks.as_ref().is_some_and(|checks| checks.read_back);
        let mut result = self.rehash(&part, reader);
        let mut back = None;
        if result.is_ok() && read_back && !part.file.skipped {
            match self.open_back(&part.file) {
                Ok(opened) => {
                    result = self.read_part(reader, &part, &opened);
                    back = Some(opened);
                }
                Err(error) => result = Err(error),
            }
        }
        if let Err(error) = result {
            part.file.fail(error);
        }
        Opened { part, back }
    }

    pub(super) fn open_back(&mut self, file: &ToCheck) -> Result<OpenBack, StepError> {
        let back = self.with_descriptors(|_| {
            let _pass = lanes::enter(Lane::DestinationCreate);
            let dir = file.dir.destination().at(Step::ReadBack)?;
            OpenBack::open(dir.as_fd(), &file.name)
        })?;
        let same = is_regular(back.stat.st_mode)
            && back.stat.st_size == file.stat.st_size
            && match file.published {
                Some(published) => Published::of(inode(&back.stat), &back.file)? == published,
                None => true,
            };
        if same { Ok(back) } else { Err(verify_failed()) }
    }

    fn read_part(
        &mut self,
        reader: &mut Reader,
        part: &Part,
        back: &OpenBack,
    ) -> Result<(), StepError> {
        let Some(checks) = &self.job.checks else { return Ok(()) };
        let algorithm = checks.algorithm;
        if part.cells.start == 0 {
            checks.tally.read_back(back.how);
        }
        let file = &part.file;
        let mut holes = Holes::of(&back.stat, self.job.tells_holes(&file.dir).1);
        for cell in part.cells.clone() {
            if self.job.stopped() {
                break;
            }
            let range = cell_range(cell, file.size());
            let bytes = range.end - range.start;
            checks.tally.bytes.fetch_add(bytes, Relaxed);
            self.job.control.progress.bytes_verified.fetch_add(bytes, Relaxed);
            if holes.contain(&back.file, &range).at(Step::ReadBack)? {
                if file.content.cell(cell) != Some(algorithm.of_zeros(bytes)) {
                    file.found().bad_cells.push(cell);
                }
                continue;
            }
            lanes::take_bytes(bytes);
            let _pass = lanes::enter(Lane::DestinationWrite);
            let length = usize::try_from(bytes).unwrap_or(usize::MAX);
            reader.cells.read(
                back,
                range.start,
                length,
                (Arc::clone(file), cell),
                &mut |(file, cell), digest| judge(&file, cell, digest),
            );
        }
        Ok(())
    }

    /// One part of a file has been looked at; whoever did the last one finishes the file.
    fn part_is_done(&mut self, file: &Arc<ToCheck>, back: Option<OpenBack>) {
        if file.left.fetch_sub(1, AcqRel) != 1 {
            return;
        }
        if self.job.stopped() {
            return;
        }
        let found = std::mem::take(&mut *file.found());
        let result = match (found.error, back) {
            (Some(error), _) => Err(error),
            (None, Some(back)) => self.conclude(file, &back, found.bad_cells),
            // Only a digest was wanted.
            (None, None) => Ok(()),
        };
        self.file_is_checked(file, result);
    }

    fn conclude(
        &mut self,
        file: &ToCheck,
        back: &OpenBack,
        mut bad_cells: Vec<u64>,
    ) -> Result<(), StepError> {
        if let Some(checks) = &self.job.checks {
            checks.tally.files.fetch_add(1, Relaxed);
        }
        if !bad_cells.is_empty() {
            bad_cells.sort_unstable();
            self.repair(file, back, &bad_cells)?;
        }
        let _pass = lanes::enter(Lane::DestinationCreate);
        self.set_late_attributes(file, &back.file)
    }
}

/// Compares a cell that was read back. A read that fails is damage, too: filesystems with checksums
/// of their own show damage in this way only.
fn judge(file: &ToCheck, cell: u64, digest: Result<Digest, Errno>) {
    match digest {
        Ok(digest) if file.content.cell(cell) == Some(digest) => {}
        Ok(_) => file.found().bad_cells.push(cell),
        Err(errno) if FailureKind::of(errno) == FailureKind::Io => {
            file.found().bad_cells.push(cell);
        }
        Err(errno) => file.fail(StepError::os(Step::ReadBack, errno)),
    }
}

/// What was written is not there, and cannot be mended.
pub(super) fn verify_failed() -> StepError {
    StepError::found(Step::ReadBack, FailureKind::VerifyFailed)
}
