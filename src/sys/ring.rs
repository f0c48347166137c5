//! One io_uring of one thread, over slots of a [`Buffer`]: an operation owns its slot and its
//! descriptor until its completion. One of the places with `unsafe`. It never blocks except in
//! [`Ring::wait`], and knows nothing of files to be copied.
#![allow(unsafe_code)] // handing addresses to the kernel; the block says why it is sound

use std::ops::Range;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;

use io_uring::{IoUring, opcode, squeue, types};
use nix::errno::Errno;

use super::buffer::Buffer;

/// A slot of the ring's buffer, by number.
pub type Slot = usize;

/// A finished operation.
#[derive(Debug, Clone, Copy)]
pub struct Completion {
    /// The slot that the operation used; its bytes can be read again.
    pub slot: Slot,
    /// Bytes moved, or what the kernel said.
    pub result: Result<usize, Errno>,
}

/// A ring with a fixed number of buffer slots.
pub struct Ring {
    /// Set up when the first operation is queued: a copy of warm files needs none.
    ring: Option<IoUring>,
    buffer: Buffer,
    /// Where each slot lies in the buffer.
    places: Vec<Range<usize>>,
    /// Per slot, the descriptor that the kernel is using; `None` means that the slot is ours.
    busy: Vec<Option<Arc<OwnedFd>>>,
    in_flight: usize,
    /// Operations queued but not yet handed to the kernel.
    unsubmitted: usize,
}

impl std::fmt::Debug for Ring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ring").field("in_flight", &self.in_flight).finish_non_exhaustive()
    }
}

/// Sets up a ring with the best flags that this kernel takes. DEFER_TASKRUN needs Linux 6.1,
/// COOP_TASKRUN 5.19; they save 5 to 10 %.
fn build(entries: u32) -> Result<IoUring, Errno> {
    let attempts: [fn(&mut io_uring::Builder<squeue::Entry>); 3] = [
        |builder| {
            builder.setup_single_issuer().setup_defer_taskrun();
        },
        |builder| {
            builder.setup_coop_taskrun();
        },
        |_| {},
    ];
    let mut last = Errno::ENOSYS;
    for configure in attempts {
        let mut builder = IoUring::builder();
        configure(&mut builder);
        match builder.build(entries) {
            Ok(ring) => return Ok(ring),
            Err(error) => {
                last = error.raw_os_error().map_or(Errno::ENOSYS, Errno::from_raw);
                // Only an unknown flag is worth another try; a refusal stays a refusal.
                if last != Errno::EINVAL {
                    break;
                }
            }
        }
    }
    Err(last)
}

/// Whether this process may set up a ring whose kernel knows READ and WRITE.
///
/// # Errors
/// `ENOSYS` (no io_uring in this kernel, or filtered), `EPERM` (switched off by
/// `kernel.io_uring_disabled` or filtered), `ENOMEM` (locked-memory limit), `EOPNOTSUPP` (a kernel
/// before 5.6).
pub fn probe() -> Result<(), Errno> {
    let ring = build(8)?;
    let mut probe = io_uring::Probe::new();
    ring.submitter()
        .register_probe(&mut probe)
        .map_err(|error| error.raw_os_error().map_or(Errno::EOPNOTSUPP, Errno::from_raw))?;
    let complete =
        [opcode::Read::CODE, opcode::Write::CODE].into_iter().all(|code| probe.is_supported(code));
    if complete { Ok(()) } else { Err(Errno::EOPNOTSUPP) }
}

impl Ring {
    /// Sets up a ring with a buffer for each of the lengths in bytes, numbered in this order. Must be
    /// used on the thread that made it.
    ///
    /// # Errors
    /// As [`probe`].
    pub fn new(lengths: impl IntoIterator<Item = usize>) -> Result<Self, Errno> {
        let mut ring = Self::later(lengths)?;
        ring.set_up()?;
        Ok(ring)
    }

    /// As [`Ring::new`], but the ring is set up with the first operation, on the thread that queues it.
    ///
    /// # Errors
    /// The errno of mapping the buffer.
    pub fn later(lengths: impl IntoIterator<Item = usize>) -> Result<Self, Errno> {
        let mut end = 0;
        let places: Vec<_> = lengths
            .into_iter()
            .map(|length| {
                let start = end;
                end += length;
                start..end
            })
            .collect();
        let buffer = Buffer::new(end)?;
        let busy = places.iter().map(|_| None).collect();
        Ok(Self { ring: None, buffer, places, busy, in_flight: 0, unsubmitted: 0 })
    }

    fn set_up(&mut self) -> Result<&mut IoUring, Errno> {
        match &mut self.ring {
            Some(ring) => Ok(ring),
            none => {
                let entries = u32::try_from(self.places.len()).map_err(|_| Errno::EINVAL)?;
                Ok(none.insert(build(entries.max(1).next_power_of_two())?))
            }
        }
    }

    /// Number of slots.
    #[must_use]
    pub fn slots(&self) -> usize {
        self.busy.len()
    }

    /// Length of a slot in bytes.
    ///
    /// # Panics
    /// When there is no such slot.
    #[must_use]
    pub fn slot_bytes(&self, slot: Slot) -> usize {
        self.places[slot].len()
    }

    /// Operations that have not completed.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// Operations that [`Ring::flush`] or [`Ring::wait`] would hand to the kernel.
    #[must_use]
    pub fn unsubmitted(&self) -> usize {
        self.unsubmitted
    }

    /// The bytes of a slot.
    ///
    /// # Panics
    /// When an operation is using the slot: reading it would race with the kernel.
    pub fn slot(&mut self, slot: Slot) -> &mut [u8] {
        assert!(self.busy[slot].is_none(), "slot {slot} is in the kernel's hands");
        &mut self.buffer[self.places[slot].clone()]
    }

    /// Queues a read of `length` bytes at `offset` into the first bytes of `slot`. The descriptor is
    /// kept until the completion.
    ///
    /// # Errors
    /// As [`probe`] for the first operation; the errno of submitting, when the queue was full and had
    /// to be flushed first.
    ///
    /// # Panics
    /// When the slot is busy or shorter than `length`.
    pub fn read(
        &mut self,
        slot: Slot,
        file: Arc<OwnedFd>,
        offset: u64,
        length: usize,
    ) -> Result<(), Errno> {
        let address = self.slot(slot)[..length].as_mut_ptr();
        let length = u32::try_from(length).map_err(|_| Errno::EINVAL)?;
        let entry = opcode::Read::new(types::Fd(file.as_raw_fd()), address, length).offset(offset);
        self.push(slot, file, entry.build())
    }

    /// Queues a write of the bytes `from` of `slot` at `offset`. The descriptor is kept until the
    /// completion.
    ///
    /// # Errors
    /// As [`Ring::read`].
    ///
    /// # Panics
    /// When the slot is busy or shorter than the range.
    pub fn write(
        &mut self,
        slot: Slot,
        file: Arc<OwnedFd>,
        offset: u64,
        from: Range<usize>,
    ) -> Result<(), Errno> {
        let length = u32::try_from(from.len()).map_err(|_| Errno::EINVAL)?;
        let address = self.slot(slot)[from].as_ptr();
        let entry = opcode::Write::new(types::Fd(file.as_raw_fd()), address, length).offset(offset);
        self.push(slot, file, entry.build())
    }

    fn push(&mut self, slot: Slot, file: Arc<OwnedFd>, entry: squeue::Entry) -> Result<(), Errno> {
        let entry = entry.user_data(slot as u64);
        loop {
            let ring = self.set_up()?;
            // SAFETY: the entry points into `buffer`, at a slot that `busy` takes out of everybody's
            // reach until the completion, and names a descriptor that `busy` keeps open as long;
            // `drop` waits for the completions before either goes away.
            if unsafe { ring.submission().push(&entry) }.is_ok() {
                break;
            }
            self.submit(0)?;
        }
        self.busy[slot] = Some(file);
        self.in_flight += 1;
        self.unsubmitted += 1;
        Ok(())
    }

    /// Hands queued operations to the kernel and waits until `wanted` completions are there.
    fn submit(&mut self, wanted: usize) -> Result<(), Errno> {
        let Some(ring) = &self.ring else { return Ok(()) };
        loop {
            match ring.submit_and_wait(wanted) {
                Ok(submitted) => {
                    self.unsubmitted = self.unsubmitted.saturating_sub(submitted);
                    return Ok(());
                }
                Err(error) => match error.raw_os_error().map(Errno::from_raw) {
                    Some(Errno::EINTR) => {}
                    // EBUSY: completions must be reaped first; the caller does that next.
                    Some(Errno::EBUSY) => return Ok(()),
                    Some(Errno::EAGAIN) => std::thread::yield_now(),
                    other => return Err(other.unwrap_or(Errno::EIO)),
                },
            }
        }
    }

    /// Hands queued operations to the kernel without waiting.
    ///
    /// # Errors
    /// The errno of io_uring_enter(2).
    pub fn flush(&mut self) -> Result<(), Errno> {
        if self.unsubmitted > 0 { self.submit(0) } else { Ok(()) }
    }

    /// The next completion, waiting for it when none is there. `None` when nothing is in flight.
    ///
    /// # Errors
    /// The errno of io_uring_enter(2).
    pub fn wait(&mut self) -> Result<Option<Completion>, Errno> {
        while self.in_flight > 0 {
            let next = self.ring.as_mut().and_then(|ring| ring.completion().next());
            if let Some(entry) = next {
                let slot = usize::try_from(entry.user_data()).map_err(|_| Errno::EIO)?;
                self.busy[slot] = None;
                self.in_flight -= 1;
                let result =
                    usize::try_from(entry.result()).map_err(|_| Errno::from_raw(-entry.result()));
                return Ok(Some(Completion { slot, result }));
            }
            self.submit(1)?;
        }
        Ok(None)
    }
}

impl Drop for Ring {
    /// Waits for what is in flight: the kernel may still write into the buffer. Reads and writes of
    /// files end by themselves; if the ring itself fails, the buffer is leaked rather than freed
    /// under the kernel's hands.
    fn drop(&mut self) {
        while self.in_flight > 0 {
            if self.wait().is_err() {
                if let Ok(spare) = Buffer::new(0) {
                    std::mem::forget(std::mem::replace(&mut self.buffer, spare));
                }
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn ring(slots: usize) -> Option<Ring> {
        match Ring::new(vec![4096; slots]) {
            Ok(ring) => Some(ring),
            Err(errno) => {
                println!("skipped: no io_uring here ({errno})");
                None
            }
        }
    }

    #[test]
    fn what_is_read_through_the_ring_is_what_the_file_holds() {
        let Some(mut ring) = ring(4) else { return };
        let mut file = tempfile::tempfile().expect("a file");
        file.write_all(&[5; 1000]).expect("written");
        let file = Arc::new(OwnedFd::from(file));
        ring.read(2, Arc::clone(&file), 10, 4096).expect("queued");
        let done = ring.wait().expect("the ring works").expect("one in flight");
        assert_eq!((done.slot, done.result), (2, Ok(990)));
        assert!(ring.slot(2)[..990].iter().all(|byte| *byte == 5));
        assert!(ring.wait().expect("the ring works").is_none());
    }

    #[test]
    fn a_ring_that_is_set_up_later_works_from_the_first_operation_on() {
        if ring(1).is_none() {
            return;
        }
        let mut ring = Ring::later([4096, 4096]).expect("memory");
        assert!(ring.wait().expect("nothing to wait for").is_none());
        ring.flush().expect("nothing to hand over");
        let mut file = tempfile::tempfile().expect("a file");
        file.write_all(&[5; 1000]).expect("written");
        ring.read(1, Arc::new(OwnedFd::from(file)), 0, 4096).expect("queued");
        assert_eq!((ring.in_flight(), ring.unsubmitted()), (1, 1));
        let done = ring.wait().expect("the ring works").expect("one in flight");
        assert_eq!((done.slot, done.result), (1, Ok(1000)));
    }

    #[test]
    #[should_panic(expected = "in the kernel's hands")]
    fn a_busy_slot_cannot_be_looked_at() {
        let Some(mut ring) = ring(1) else { panic!("in the kernel's hands") };
        let file = Arc::new(OwnedFd::from(tempfile::tempfile().expect("a file")));
        ring.read(0, file, 0, 16).expect("queued");
        ring.slot(0);
    }

    #[test]
    fn dropping_a_ring_waits_and_gives_the_descriptors_back() {
        let Some(mut ring) = ring(8) else { return };
        let file = Arc::new(OwnedFd::from(tempfile::tempfile().expect("a file")));
        for slot in 0..8 {
            ring.read(slot, Arc::clone(&file), 0, 4096).expect("queued");
        }
        drop(ring);
        assert_eq!(Arc::strong_count(&file), 1);
    }
}
