//! Hands out the data of a striped file so that each of its objects has one writer at a time, while
//! others read ahead for it. It moves no data itself; that is `striped`.
//!
//! Why one writer: two clients that alternate on one object take its extent lock away from each other with
//! every write (`ldlm_extent.c`), which costs 40 to 90 % of the speed. Threads of one client share the lock, but
//! whoever splits a file over nodes splits it by objects too, and in-order writes of one object make full RPCs.

use std::cmp::Reverse;
use std::collections::VecDeque;
use std::ops::Range;
use std::os::fd::AsFd;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nix::errno::Errno;

use super::chunk::next_data;
use super::piece_buffers::{PieceBuffer, PieceBuffers};
use super::servers::Load;
use crate::lustre::stripes::Striping;

/// Pieces that lie ready, or are being read, for each object.
const AHEAD: usize = 2;
/// A writer looks after so many bytes whether another object needs it more: with fewer writers
/// than objects all objects are then done at about the same time.
const TURN_BYTES: u64 = 32 << 20;
/// Whoever waits for others looks up so often, to notice that the copy was stopped.
const LOOK: Duration = Duration::from_millis(20);

/// What a worker is to do next.
#[derive(Debug)]
pub(super) enum Role {
    /// Write this object, as its only writer, until [`ObjectSupply::next_to_write`] says no more.
    Write(usize),
    /// Read a piece for the writer of this object, and [`ObjectSupply::deliver`] it.
    Read(usize, Range<u64>, PieceBuffer),
    /// Go: all there is is being done by others, or done, or waits for servers that have enough to do.
    Leave,
}

/// What the writer of an object does next.
#[derive(Debug)]
pub(super) enum Piece {
    /// Write what somebody has read.
    Ready(Range<u64>, PieceBuffer),
    /// Read and write this.
    Unread(Range<u64>),
    /// The object is somebody else's, or done: ask for another role.
    None,
}

/// Where one side of a copy lies.
#[derive(Debug)]
pub(crate) struct Placement {
    pub(crate) striping: Striping,
    /// The load of the server of each object.
    pub(crate) loads: Vec<Arc<Load>>,
}

/// Whose objects are handed out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    /// Those that are read: the destination is not striped.
    Source,
    /// Those that are written.
    Destination,
}

/// The data of one striped file.
#[derive(Debug)]
pub(crate) struct ObjectSupply {
    /// What objects are handed out by: the destination's, or else the source's.
    placement: Placement,
    by: Side,
    /// Where the source lies, when it is known and not what objects are handed out by.
    source: Option<Placement>,
    size_bytes: u64,
    piece_bytes: u64,
    /// Holes are looked up in the source and left out.
    sparse: bool,
    /// What is there already: sorted and apart.
    written: Vec<Range<u64>>,
    buffers: Arc<PieceBuffers>,
    desk: Mutex<Desk>,
    changed: Condvar,
}

#[derive(Debug)]
struct Desk {
    objects: Vec<Object>,
    /// Somebody failed: nothing is handed out any more.
    failed: bool,
}

#[derive(Debug, Default)]
struct Object {
    /// Everything before it has been handed out; the size when all has.
    next: u64,
    /// The data that was found last in a sparse source.
    data: Range<u64>,
    writer: bool,
    /// Pieces that are being read for it.
    reading: usize,
    ready: VecDeque<(Range<u64>, PieceBuffer)>,
    /// Bytes written in this turn.
    turn: u64,
    /// Bytes that are still to be handed out, holes included.
    rest: u64,
}

impl Object {
    fn has_work(&self, size: u64) -> bool {
        self.next < size || !self.ready.is_empty()
    }
}

impl ObjectSupply {
    /// The data of a file of `size_bytes`, of which `written` is there already, in pieces of at most
    /// `piece_bytes`. `None` when the layout ends before the file does.
    pub(crate) fn new(
        (by, placement): (Side, Placement),
        source: Option<Placement>,
        size_bytes: u64,
        sparse: bool,
        written: Vec<Range<u64>>,
        buffers: Arc<PieceBuffers>,
    ) -> Option<Self> {
        if placement.striping.end() < size_bytes {
            return None;
        }
        let count = placement.loads.len();
        let rest = |object| placement.striping.bytes_of(object, size_bytes);
        let objects = (0..count).map(|object| Object { rest: rest(object), ..Object::default() });
        let objects = objects.collect();
        let piece_bytes = buffers.piece_bytes() as u64;
        Some(Self {
            placement,
            by,
            source,
            size_bytes,
            piece_bytes,
            sparse,
            written,
            buffers,
            desk: Mutex::new(Desk { objects, failed: false }),
            changed: Condvar::new(),
        })
    }

    /// How many workers are of use: for each object with data one that writes and one that reads.
    pub(crate) fn useful_workers(&self) -> usize {
        let desk = self.lock();
        2 * desk.objects.iter().filter(|object| object.has_work(self.size_bytes)).count()
    }

    /// Whether everything has been handed out.
    pub(crate) fn is_empty(&self) -> bool {
        self.lock().objects.iter().all(|object| !object.has_work(self.size_bytes))
    }

    /// Whether some of it has no writer.
    pub(crate) fn has_unwritten(&self) -> bool {
        let desk = self.lock();
        let waits = |object: &Object| !object.writer && object.has_work(self.size_bytes);
        !desk.failed && desk.objects.iter().any(waits)
    }

    /// Whether somebody without an object could begin one now.
    pub(crate) fn has_room(&self) -> bool {
        let desk = self.lock();
        desk.failed || self.to_be_written(&desk, None, false).is_some()
    }

    /// The load on the server of an object.
    pub(super) fn load(&self, object: usize) -> &Arc<Load> {
        &self.placement.loads[object]
    }

    /// The load on the server that the source of a piece lies on, where that is known.
    pub(super) fn source_load(&self, piece: &Range<u64>) -> Option<&Arc<Load>> {
        let source = self.source.as_ref()?;
        source.striping.run_at(piece.start).map(|run| &source.loads[run.object])
    }

    /// Ends everybody's part.
    pub(super) fn fail(&self) {
        self.lock().failed = true;
        self.changed.notify_all();
    }

    /// Takes an object back from a writer that failed.
    pub(super) fn give_back(&self, object: usize) {
        self.lock().objects[object].writer = false;
        self.load(object).writer_goes();
    }

    /// Takes note of how long reading or writing a piece of an object took.
    pub(super) fn took(&self, side: Side, object: usize, bytes: u64, time: Duration) {
        if side == self.by {
            self.load(object).moved(bytes, time);
        }
    }

    /// A buffer for one piece, unless all are in use.
    pub(super) fn buffer(&self) -> Option<PieceBuffer> {
        self.buffers.take()
    }

    /// What to do next; waits while nothing can be begun but may soon be. `stopped` ends the wait. With
    /// `anyway`, servers that have enough to do get more.
    ///
    /// # Errors
    /// The errno of looking up holes in the source.
    pub(super) fn role(
        &self,
        source: impl AsFd,
        stopped: impl Fn() -> bool,
        anyway: bool,
    ) -> Result<Role, Errno> {
        let mut desk = self.lock();
        loop {
            if desk.failed || stopped() {
                return Ok(Role::Leave);
            }
            if let Some(object) = self.to_be_written(&desk, None, anyway) {
                let own = &mut desk.objects[object];
                (own.writer, own.turn) = (true, 0);
                self.load(object).writer_comes();
                return Ok(Role::Write(object));
            }
            let readable = |object: &Object| object.writer && object.next < self.size_bytes;
            if !desk.objects.iter().any(readable) {
                return Ok(Role::Leave); // their writers will do the rest
            }
            if let Some(object) = self.least_supplied(&desk)
                && let Some(buffer) = self.buffers.take()
            {
                if let Some(piece) = self.next_piece(&mut desk.objects[object], object, &source)? {
                    desk.objects[object].reading += 1;
                    return Ok(Role::Read(object, piece, buffer));
                }
                continue; // nothing but holes: look again
            }
            desk = self.wait(desk);
        }
    }

    /// Hands a piece that was read to the writer of its object.
    pub(super) fn deliver(&self, object: usize, piece: Range<u64>, buffer: PieceBuffer) {
        let mut desk = self.lock();
        let own = &mut desk.objects[object];
        own.reading -= 1;
        own.ready.push_back((piece, buffer));
        drop(desk);
        self.changed.notify_all();
    }

    /// The next piece for the writer of an object. It stays the writer until this is [`Piece::None`].
    ///
    /// # Errors
    /// The errno of looking up holes in the source.
    pub(super) fn next_to_write(
        &self,
        object: usize,
        source: impl AsFd,
        stopped: impl Fn() -> bool,
    ) -> Result<Piece, Errno> {
        let mut desk = self.lock();
        loop {
            let failed = desk.failed || stopped();
            let turn_is_over = desk.objects[object].turn >= TURN_BYTES
                && self.to_be_written(&desk, Some(object), false).is_some();
            let own = &mut desk.objects[object];
            if failed || turn_is_over {
                break;
            }
            if let Some((piece, buffer)) = own.ready.pop_front() {
                own.turn += piece.end - piece.start;
                drop(desk);
                self.changed.notify_all(); // there is room for another piece
                return Ok(Piece::Ready(piece, buffer));
            }
            if let Some(piece) = self.next_piece(own, object, &source)? {
                own.turn += piece.end - piece.start;
                return Ok(Piece::Unread(piece));
            }
            if own.reading == 0 {
                break;
            }
            desk = self.wait(desk);
        }
        desk.objects[object].writer = false;
        self.load(object).writer_goes();
        drop(desk);
        self.changed.notify_all();
        Ok(Piece::None)
    }

    /// The object without a writer that needs one most: on the server with the fewest writers, and of
    /// those the one with most to do. For the writer of one, only an object that needs it clearly more.
    fn to_be_written(&self, desk: &Desk, own: Option<usize>, anyway: bool) -> Option<usize> {
        let writers = |object: usize| {
            let mine = usize::from(own == Some(object));
            self.load(object).writers().saturating_sub(mine)
        };
        let free = |(index, object): &(usize, &Object)| {
            !object.writer
                && object.has_work(self.size_bytes)
                && (anyway || self.load(*index).has_room())
        };
        let order = |(index, object): &(usize, &Object)| (writers(*index), Reverse(object.rest));
        let (best, object) = desk.objects.iter().enumerate().filter(free).min_by_key(order)?;
        let better = own.is_none_or(|own| {
            let rest = desk.objects[own].rest;
            writers(best) < writers(own)
                || (writers(best) == writers(own) && object.rest > rest + TURN_BYTES)
        });
        better.then_some(best)
    }

    /// The object, of those that have a writer, for which least lies ready, and of those the one whose
    /// next piece is read from the server with the fewest reads.
    fn least_supplied(&self, desk: &Desk) -> Option<usize> {
        let supplied = |object: &Object| object.ready.len() + object.reading;
        let wants = |(_, object): &(usize, &Object)| {
            object.writer && object.next < self.size_bytes && supplied(object) < AHEAD
        };
        let reads = |index: usize, object: &Object| {
            let run = self.placement.striping.run_of(index, object.next);
            run.and_then(|run| self.source_load(&run.range)).map_or(0, |load| load.reads())
        };
        let objects = desk.objects.iter().enumerate().filter(wants);
        let order = |(index, object): &(usize, &Object)| (supplied(object), reads(*index, object));
        objects.min_by_key(order).map(|(index, _)| index)
    }

    /// The next bytes of an object that are data and not there yet.
    fn next_piece(
        &self,
        own: &mut Object,
        object: usize,
        source: &impl AsFd,
    ) -> Result<Option<Range<u64>>, Errno> {
        loop {
            let size = self.size_bytes;
            let run = self
                .placement
                .striping
                .run_of(object, own.next)
                .filter(|run| run.range.start < size);
            let Some(run) = run else {
                (own.next, own.rest) = (size, 0);
                return Ok(None);
            };
            let mut start = run.range.start;
            let end = run.range.end.min(size);
            if self.sparse {
                if start >= own.data.end {
                    let none = size..size;
                    own.data = next_data(source.as_fd(), start, size)?.unwrap_or(none);
                }
                start = start.max(own.data.start);
                if start >= end {
                    own.next = end.max(own.data.start.min(size));
                    continue;
                }
            }
            // Pieces end on a grid that begins with the run, so that a resumed copy cuts as the first did.
            let whole = self.placement.striping.run_at(start).map_or(start, |run| run.range.start);
            let grid = whole + ((start - whole) / self.piece_bytes + 1) * self.piece_bytes;
            let mut end = end.min(grid);
            if self.sparse {
                end = end.min(own.data.end);
            }
            let index = self.written.partition_point(|range| range.end <= start);
            match self.written.get(index) {
                Some(there) if there.start <= start => {
                    own.next = there.end;
                    continue;
                }
                Some(there) => end = end.min(there.start),
                None => {}
            }
            own.next = end;
            own.rest = own.rest.saturating_sub(end - start);
            return Ok(Some(start..end));
        }
    }

    fn lock(&self) -> MutexGuard<'_, Desk> {
        self.desk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'d>(&self, desk: MutexGuard<'d, Desk>) -> MutexGuard<'d, Desk> {
        let waited = self.changed.wait_timeout(desk, LOOK);
        waited.unwrap_or_else(PoisonError::into_inner).0
    }
}
