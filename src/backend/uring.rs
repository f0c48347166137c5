//! io_uring where it can really work without blocking: cold reads of small files with many in
//! flight, and O_DIRECT reads and writes of large ones. Everything else stays plain, because through
//! the ring it would run in kernel worker threads, which is dearer.

use std::os::fd::AsFd;
use std::sync::Arc;

use nix::errno::Errno;

use super::plain::{
    Plain, account, next_chunk, read_some, read_whole, shrunk, to_usize, write_all,
};
use super::{Backend, Finished, LargeFile, Mechanism, Moved, SmallFile};
use crate::error::{AtStep, Step, StepError};
use crate::lanes::{self, Lane};
use crate::sys::ring::{Completion, Ring, Slot};

/// Length of most slots for small files; a file must be shorter than its slot, since reading one
/// byte more shows that it has grown.
const SMALL_SLOT_BYTES: usize = 128 << 10;
/// Length of the slots for the longest small files.
const WIDE_SLOT_BYTES: usize = (1 << 20) + 4096; // SMALL_MAX_BYTES and a page
/// Reads handed to the kernel at once. Its block layer then tells the device of all of them together,
/// which on a virtual machine saves an exit to the host for each (a tenth of all CPU time).
const BATCH: usize = 16;
/// After a file that was not in memory, so many are read through the ring without trying: the attempt
/// itself would start the read, one by one.
const PRESUMED_COLD: u8 = 31;
/// One slot of so many is a wide one: both kinds take about the same memory.
const SLOTS_PER_WIDE: usize = 8;
/// Memory for each small file in flight, in bytes: the mean over both kinds of slots.
pub(crate) const BYTES_IN_FLIGHT: usize =
    ((SLOTS_PER_WIDE - 1) * SMALL_SLOT_BYTES + WIDE_SLOT_BYTES) / SLOTS_PER_WIDE;

/// One ring for small files and, once needed, one for large files.
#[derive(Debug)]
pub(crate) struct Uring<T> {
    plain: Plain,
    small: Ring,
    /// The file that each slot belongs to.
    waiting: Vec<Option<SmallFile<T>>>,
    free: Vec<Slot>,
    /// Free slots of [`WIDE_SLOT_BYTES`].
    free_wide: Vec<Slot>,
    /// So many more files are taken not to be in memory.
    presumed_cold: u8,
    /// The ring itself failed: it is not used any more, its buffers stay with it until the end.
    broken: bool,
    large: Option<Ring>,
    large_slots: usize,
    large_slot_bytes: usize,
}

impl<T> Uring<T> {
    /// A mover with `depth` small files and `large_slots` chunks of large files in flight.
    ///
    /// # Errors
    /// The errno of mapping the buffers; the ring is set up with the first file that is not in memory.
    pub(crate) fn new(
        plain: Plain,
        depth: usize,
        large_slots: usize,
        large_slot_bytes: usize,
    ) -> Result<Self, Errno> {
        let wide = (depth / SLOTS_PER_WIDE).max(1);
        let narrow = depth.saturating_sub(wide).max(1);
        let lengths = [(narrow, SMALL_SLOT_BYTES), (wide, WIDE_SLOT_BYTES)];
        let lengths = lengths.into_iter().flat_map(|(count, length)| vec![length; count]);
        Ok(Self {
            plain,
            small: Ring::later(lengths)?,
            waiting: (0..narrow + wide).map(|_| None).collect(),
            free: (0..narrow).collect(),
            free_wide: (narrow..narrow + wide).collect(),
            presumed_cold: 0,
            broken: false,
            large: None,
            large_slots,
            large_slot_bytes,
        })
    }

    /// The free slots that a file of this size may take.
    fn free_for(&mut self, size: usize) -> &mut Vec<Slot> {
        if size < SMALL_SLOT_BYTES { &mut self.free } else { &mut self.free_wide }
    }

    /// Reads what is in memory; what is not goes in flight. `None` means that it is in flight.
    fn start(&mut self, file: SmallFile<T>) -> Option<Finished<T>> {
        let size = file.size;
        lanes::take_bytes(size as u64); // whichever way it goes
        if self.broken || size >= WIDE_SLOT_BYTES || !file.pair.reads_without_waiting() {
            return Some(self.plainly(file));
        }
        if self.presumed_cold > 0 {
            self.presumed_cold -= 1;
            return self.put_in_flight(file);
        }
        // What is in memory goes through the one buffer that stays in the processor's cache.
        let buffer = &mut self.plain.buffer[..=size];
        let pass = lanes::enter(Lane::SourceRead);
        let read = crate::sys::read_without_waiting(file.source.as_fd(), buffer, 0);
        drop(pass);
        match read {
            Ok(filled) if filled >= size => {
                Some(finish(&mut self.plain.buffer, file, filled, Mechanism::ReadWrite))
            }
            // Not in memory, or only its beginning.
            Ok(_) | Err(Errno::EAGAIN) => {
                self.presumed_cold = PRESUMED_COLD;
                self.put_in_flight(file)
            }
            Err(_) => {
                file.pair.cannot_read_without_waiting();
                Some(self.plainly(file))
            }
        }
    }

    /// Queues the read of a whole file.
    fn put_in_flight(&mut self, file: SmallFile<T>) -> Option<Finished<T>> {
        let Some(slot) = self.free_for(file.size).pop() else { return Some(self.plainly(file)) };
        let source = Arc::clone(&file.source);
        if self.small.read(slot, source, 0, file.size + 1).is_err() {
            self.broken |= self.small.in_flight() == 0; // it could not even be set up
            self.free_for(file.size).push(slot);
            return Some(self.plainly(file));
        }
        self.waiting[slot] = Some(file);
        None
    }

    fn plainly(&mut self, mut file: SmallFile<T>) -> Finished<T> {
        let result = self
            .plain
            .copy_small(&mut file)
            .map(|read| Moved { mechanism: Mechanism::ReadWrite, read });
        Finished { file, result }
    }

    /// Takes one completion.
    fn complete(&mut self, done: &mut Vec<Finished<T>>) {
        let pass = lanes::enter_ring(Lane::SourceRead);
        let completion = self.small.wait();
        drop(pass);
        match completion {
            Ok(Some(completion)) => {
                let slot = completion.slot;
                let Some(file) = self.waiting[slot].take() else { return };
                let size = file.size;
                let finished = match completion.result {
                    Ok(read) => finish(self.small.slot(slot), file, read, Mechanism::RingRead),
                    // A descriptor that the ring may not wait for: read it ourselves.
                    Err(Errno::EAGAIN | Errno::EINTR | Errno::EOPNOTSUPP | Errno::EINVAL) => {
                        self.plainly(file)
                    }
                    Err(errno) => Finished { file, result: Err(StepError::os(Step::Read, errno)) },
                };
                self.free_for(size).push(slot);
                done.push(finished);
            }
            Ok(None) => {}
            Err(_) => {
                self.broken = true;
                for slot in 0..self.waiting.len() {
                    if let Some(file) = self.waiting[slot].take() {
                        done.push(self.plainly(file));
                    }
                }
            }
        }
    }
}

/// Writes what the buffer holds, after reading the rest if the read was short.
fn finish<T>(
    buffer: &mut [u8],
    mut file: SmallFile<T>,
    filled: usize,
    mechanism: Mechanism,
) -> Finished<T> {
    let result =
        read_whole(file.source.as_fd(), buffer, file.size, filled).and_then(|(length, read)| {
            file.see(&buffer[..length]);
            write_all(file.destination.as_fd(), &buffer[..length], 0)?;
            Ok(Moved { mechanism, read })
        });
    Finished { file, result }
}

impl<T> Backend<T> for Uring<T> {
    fn small(&mut self, file: SmallFile<T>, done: &mut Vec<Finished<T>>) {
        while self.free_for(file.size).is_empty() && !self.broken && self.small.in_flight() > 0 {
            self.complete(done);
        }
        done.extend(self.start(file));
        if !self.broken && self.small.unsubmitted() >= BATCH && self.small.flush().is_err() {
            self.complete(done);
        }
    }

    fn in_flight(&self) -> usize {
        if self.broken { 0 } else { self.small.in_flight() }
    }

    fn wait(&mut self, done: &mut Vec<Finished<T>>) {
        self.complete(done);
    }

    fn large(
        &mut self,
        file: &LargeFile,
        progress: &dyn Fn(std::ops::Range<u64>),
        goes: &dyn Fn() -> bool,
    ) -> Result<Mechanism, StepError> {
        // Small files need not wait for a large one. An error comes again when they are waited for.
        let _ = self.small.flush();
        let Some(alignment) = file.direct else {
            return Backend::<T>::large(&mut self.plain, file, progress, goes);
        };
        let ring = match &mut self.large {
            Some(ring) => ring,
            none => match Ring::new(vec![self.large_slot_bytes; self.large_slots]) {
                Ok(ring) => none.insert(ring),
                Err(_) => return Backend::<T>::large(&mut self.plain, file, progress, goes),
            },
        };
        let result = Overlapped { ring, file, alignment, progress }.run();
        // The ring itself failed: what is still in flight must not be taken for the next file's.
        if self.large.as_ref().is_some_and(|ring| ring.in_flight() > 0) {
            self.large = None;
        }
        result
    }
}

/// Reads and writes of one large file, overlapping: each slot alternates between the two.
struct Overlapped<'a> {
    ring: &'a mut Ring,
    file: &'a LargeFile,
    alignment: u64,
    progress: &'a dyn Fn(std::ops::Range<u64>),
}

/// What a slot is doing.
#[derive(Debug, Clone)]
enum Stage {
    Idle,
    /// Reading a piece.
    Reading(std::ops::Range<u64>),
    /// Writing the piece; `written` bytes of `padded` are out.
    Writing {
        piece: std::ops::Range<u64>,
        padded: usize,
        written: usize,
    },
}

impl Overlapped<'_> {
    fn run(mut self) -> Result<Mechanism, StepError> {
        let slots = self.ring.slots();
        let mut stages = vec![Stage::Idle; slots];
        let mut rest = None; // of a chunk that is longer than a slot
        let mut failure = None;
        for (slot, stage) in stages.iter_mut().enumerate() {
            self.start(slot, stage, &mut rest).unwrap_or_else(|error| failure = Some(error));
        }
        // After a failure nothing new is started, but what is in flight must come home.
        while let Some(completion) = self.wait(&stages)? {
            let stage = &mut stages[completion.slot];
            let step =
                self.advance(completion.slot, stage, completion.result).and_then(
                    |()| match stage {
                        Stage::Idle if failure.is_none() => {
                            self.start(completion.slot, stage, &mut rest)
                        }
                        _ => Ok(()),
                    },
                );
            if let Err(error) = step {
                *stage = Stage::Idle;
                failure.get_or_insert(error);
            }
        }
        failure.map_or(Ok(Mechanism::RingDirect), Err)
    }

    /// The next completion. The time belongs to whatever most of the slots wait for.
    fn wait(&mut self, stages: &[Stage]) -> Result<Option<Completion>, StepError> {
        let count = |kind: fn(&Stage) -> bool| stages.iter().filter(|stage| kind(stage)).count();
        let reading = count(|stage| matches!(stage, Stage::Reading(_)));
        let writing = count(|stage| matches!(stage, Stage::Writing { .. }));
        let lane = if reading > writing { Lane::SourceRead } else { Lane::DestinationWrite };
        let _pass = lanes::enter_ring(lane);
        self.ring.wait().at(Step::Read)
    }

    /// Takes the next piece, if there is one, and starts reading it.
    fn start(
        &mut self,
        slot: Slot,
        stage: &mut Stage,
        rest: &mut Option<std::ops::Range<u64>>,
    ) -> Result<(), StepError> {
        let chunk = match rest.take() {
            Some(chunk) => Some(chunk),
            None => next_chunk(self.file)?,
        };
        let Some(chunk) = chunk else { return Ok(()) };
        let most = lanes::piece(self.ring.slot_bytes(slot) as u64);
        let end = chunk.end.min(chunk.start + most);
        lanes::take_bytes(end - chunk.start);
        if end < chunk.end {
            *rest = Some(end..chunk.end);
        }
        let length = to_usize((end - chunk.start).next_multiple_of(self.alignment));
        let source = Arc::clone(&self.file.source);
        self.ring.read(slot, source, chunk.start, length).at(Step::Read)?;
        *stage = Stage::Reading(chunk.start..end);
        self.ring.flush().at(Step::Read)
    }

    /// Takes a slot one stage further after its completion.
    fn advance(
        &mut self,
        slot: Slot,
        stage: &mut Stage,
        result: Result<usize, Errno>,
    ) -> Result<(), StepError> {
        match std::mem::replace(stage, Stage::Idle) {
            Stage::Idle => Ok(()),
            Stage::Reading(piece) => {
                let length = to_usize(piece.end - piece.start);
                let read = self.complete_read(slot, &piece, result)?;
                if read < length {
                    return Err(shrunk());
                }
                let padded = to_usize((length as u64).next_multiple_of(self.alignment));
                self.file.see(piece.start, &self.ring.slot(slot)[..length]);
                self.ring.slot(slot)[length..padded].fill(0);
                self.write(slot, stage, piece, padded, 0)
            }
            Stage::Writing { piece, padded, written } => {
                let written = written + result.at(Step::Write)?;
                if written >= padded {
                    account(self.file, piece, self.progress);
                    return Ok(());
                }
                // A short direct write goes on at the last full block.
                let aligned = to_usize(written as u64 / self.alignment * self.alignment);
                if aligned == 0 {
                    return Err(StepError::os(Step::Write, Errno::EIO));
                }
                self.write(slot, stage, piece, padded, aligned)
            }
        }
    }

    /// A short read is finished with plain reads; the ring has no more to give.
    fn complete_read(
        &mut self,
        slot: Slot,
        piece: &std::ops::Range<u64>,
        result: Result<usize, Errno>,
    ) -> Result<usize, StepError> {
        let length = to_usize(piece.end - piece.start);
        let mut filled = match result {
            Ok(filled) => filled,
            Err(Errno::EAGAIN | Errno::EINTR) => 0,
            Err(errno) => return Err(StepError::os(Step::Read, errno)),
        };
        while filled < length {
            let from = to_usize(filled as u64 / self.alignment * self.alignment);
            let until = to_usize((length as u64).next_multiple_of(self.alignment));
            let source = self.file.source.as_fd();
            let part = &mut self.ring.slot(slot)[from..until];
            let end = from + read_some(source, part, piece.start + from as u64).at(Step::Read)?;
            if end <= filled {
                break;
            }
            filled = end;
        }
        Ok(filled)
    }

    fn write(
        &mut self,
        slot: Slot,
        stage: &mut Stage,
        piece: std::ops::Range<u64>,
        padded: usize,
        written: usize,
    ) -> Result<(), StepError> {
        let destination = Arc::clone(&self.file.destination);
        let offset = piece.start + written as u64;
        self.ring.write(slot, destination, offset, written..padded).at(Step::Write)?;
        *stage = Stage::Writing { piece, padded, written };
        self.ring.flush().at(Step::Write)
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::fd::OwnedFd;

    use super::*;
    use crate::backend::pair::Pair;
    use crate::lanes::Lanes;

    /// A file of procfs cannot be read without waiting, so that every one of these falls back.
    fn foreign() -> SmallFile<()> {
        let source = File::open("/proc/version").expect("procfs");
        let size = std::fs::read("/proc/version").expect("procfs").len();
        SmallFile {
            source: Arc::new(OwnedFd::from(source)),
            destination: tempfile::tempfile().expect("a file").into(),
            size,
            pair: Arc::new(Pair::new(false)),
            checksum: None,
            digest: None,
            owner: (),
        }
    }

    /// What falls back was counted a second time by the plain calls, which halved the rate that a
    /// limit allows.
    #[test]
    fn a_file_that_falls_back_is_taken_from_the_limit_once() {
        let plain = || Plain::new(1 << 20).expect("a buffer");
        // Without a ring there is nothing that could fall back.
        let Ok(mut ring) = Uring::new(plain(), 8, 1, 1 << 20) else { return };
        let lanes = Arc::new(Lanes::default());
        let _seat = lanes.sit();
        let taken = || lanes.seats().iter().map(|seat| seat.bytes_taken()).sum::<u64>();
        let mut expected = 0;
        let mut done = Vec::new();
        // Tried without waiting, presumed cold, and with a ring that has failed.
        for (presumed_cold, broken) in [(0, false), (1, false), (0, true)] {
            ring.presumed_cold = presumed_cold;
            ring.broken = broken;
            let file = foreign();
            expected += file.size as u64;
            ring.small(file, &mut done);
            while ring.in_flight() > 0 {
                ring.wait(&mut done);
            }
            assert_eq!(taken(), expected, "presumed cold {presumed_cold}, broken {broken}");
        }
        let mut backend: Box<dyn Backend<()>> = Box::new(plain());
        backend.small(foreign(), &mut done);
        expected += done[0].file.size as u64;
        // From procfs to a temporary file `copy_file_range` does not go.
        backend = Box::new(super::super::range::Range::new(plain()));
        backend.small(foreign(), &mut done);
        expected += done[0].file.size as u64;
        assert_eq!(taken(), expected);
        assert_eq!(done.len(), 5);
        assert!(done.iter().all(|finished| finished.result.is_ok()), "{done:?}");
    }
}
