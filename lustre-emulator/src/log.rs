//! The log of everything that a mounted filesystem was asked, in memory. What can be read out of it is
//! in `judgements`.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::layout::Object;
use crate::passthrough::{Asked, Kind};
use crate::striping::Piece;

/// A part of a read or a write, as one object had it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Part {
    /// The component's id; 0 in plain layouts.
    pub component: u32,
    /// Stripe index in its component; none: on the metadata server.
    pub stripe: Option<u32>,
    /// The object; none: on the metadata server.
    pub object: Option<Object>,
    /// Where it begins in the file, in bytes.
    pub file_offset: u64,
    /// Where it begins in the object, in bytes.
    pub object_offset: u64,
    /// Bytes.
    pub length: u64,
    /// When the server took it, as time since the mount; none while it has not.
    pub begin: Option<Duration>,
    /// When the server had it; none while nobody knows.
    pub end: Option<Duration>,
    /// How many locks were taken from other clients for it.
    pub revoked: usize,
}

/// One operation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Record {
    /// Its place in the log, counted from the mount.
    pub number: u64,
    /// What was asked.
    pub kind: Kind,
    /// The inode's number, or its directory's where it is about a name.
    pub ino: u64,
    /// Where it was in the filesystem, relative to the top, if it had a name.
    pub path: Option<PathBuf>,
    /// The extended attribute that it was about.
    pub attribute: Option<String>,
    /// The file handle.
    pub handle: Option<u64>,
    /// The thread that asked.
    pub thread: u32,
    /// The client that it counts as.
    pub client: u32,
    /// When it arrived, as time since the mount.
    pub start: Duration,
    /// When it was answered; none while it has not been.
    pub end: Option<Duration>,
    /// The error number of the answer.
    pub error: Option<i32>,
    /// Where a read or write begins, in bytes.
    pub offset: u64,
    /// Bytes of a read or write.
    pub length: u64,
    /// What each object had of it.
    pub parts: Vec<Part>,
}

/// Sums over everything since the mount or the last [`Log::clear`], also over what is no longer kept.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Totals {
    /// Operations by kind.
    pub operations: BTreeMap<Kind, u64>,
    /// Bytes read from each OST.
    pub read: BTreeMap<u32, u64>,
    /// Bytes written to each OST.
    pub written: BTreeMap<u32, u64>,
    /// Locks taken from other clients.
    pub revocations: u64,
}

/// A place in the log that is still to be filled in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Slot(u64);

#[derive(Default)]
struct Book {
    records: Vec<Record>,
    /// Number of the first record that is kept.
    first: u64,
    /// Number of the next record.
    next: u64,
    dropped: u64,
    totals: Totals,
}

/// The log.
pub struct Log {
    mounted: Instant,
    limit: usize,
    book: Mutex<Book>,
}

impl Log {
    pub(crate) fn new(limit: usize) -> Self {
        Self { mounted: Instant::now(), limit, book: Mutex::default() }
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Time since the mount.
    #[must_use]
    pub fn now(&self) -> Duration {
        self.mounted.elapsed()
    }

    fn since(&self, time: Instant) -> Duration {
        time.saturating_duration_since(self.mounted)
    }

    /// Everything that is kept, in the order of arrival.
    #[must_use]
    pub fn records(&self) -> Vec<Record> {
        self.book().records.clone()
    }

    /// Takes out everything that has been answered and is kept; later operations go on being logged.
    #[must_use]
    pub fn take(&self) -> Vec<Record> {
        let mut book = self.book();
        let open = |record: &Record| {
            record.end.is_none() || record.parts.iter().any(|part| part.end.is_none())
        };
        let count = book.records.iter().position(open).unwrap_or(book.records.len());
        book.first += count as u64;
        book.records.drain(..count).collect()
    }

    /// Forgets what has been logged, and goes on.
    pub fn clear(&self) {
        let mut book = self.book();
        book.records.clear();
        book.first = book.next;
        book.dropped = 0;
        book.totals = Totals::default();
    }

    /// Sums over everything.
    #[must_use]
    pub fn totals(&self) -> Totals {
        self.book().totals.clone()
    }

    /// How many operations were not kept because the log was full.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.book().dropped
    }

    /// Looks at the records without copying them.
    pub(crate) fn with<T>(&self, look: impl FnOnce(&[Record]) -> T) -> T {
        look(&self.book().records)
    }

    pub(crate) fn begin(
        &self,
        asked: &Asked,
        client: u32,
        path: Option<PathBuf>,
        (offset, length): (u64, u64),
    ) -> Slot {
        let attribute = asked.attribute.as_ref().map(|name| name.to_string_lossy().into_owned());
        let mut book = self.book();
        let number = book.next;
        book.next += 1;
        *book.totals.operations.entry(asked.kind).or_default() += 1;
        if book.records.len() >= self.limit {
            book.dropped += book.records.len() as u64;
            book.records.clear();
            book.first = number;
        }
        book.records.push(Record {
            number,
            kind: asked.kind,
            ino: asked.ino,
            path,
            attribute,
            handle: asked.handle,
            thread: asked.thread,
            client,
            start: self.since(asked.arrived),
            end: None,
            error: None,
            offset,
            length,
            parts: Vec::new(),
        });
        Slot(number)
    }

    fn change(&self, slot: Slot, change: impl FnOnce(&mut Record)) {
        let mut book = self.book();
        let place = slot.0.checked_sub(book.first).and_then(|at| usize::try_from(at).ok());
        if let Some(record) = place.and_then(|at| book.records.get_mut(at)) {
            change(record);
        }
    }

    pub(crate) fn parts(&self, slot: Slot, write: bool, pieces: &[(Piece, usize)]) {
        self.sum(write, pieces);
        let parts = pieces.iter().map(|(piece, revoked)| Part {
            component: piece.component,
            stripe: piece.object.map(|(stripe, _)| stripe),
            object: piece.object.map(|(_, object)| object),
            file_offset: piece.file_offset,
            object_offset: piece.object_offset,
            length: piece.length,
            begin: None,
            end: None,
            revoked: *revoked,
        });
        let parts: Vec<Part> = parts.collect();
        self.change(slot, |record| record.parts = parts);
    }

    fn sum(&self, write: bool, pieces: &[(Piece, usize)]) {
        let totals = &mut self.book().totals;
        for (piece, revoked) in pieces {
            totals.revocations += *revoked as u64;
            if let Some((_, object)) = piece.object {
                let sums = if write { &mut totals.written } else { &mut totals.read };
                *sums.entry(object.ost).or_default() += piece.length;
            }
        }
    }

    pub(crate) fn planned(&self, slot: Slot, part: usize, (begin, end): (Instant, Instant)) {
        let (begin, end) = (self.since(begin), self.since(end));
        self.change(slot, |record| {
            if let Some(part) = record.parts.get_mut(part) {
                (part.begin, part.end) = (Some(begin), Some(end));
            }
        });
    }

    pub(crate) fn end(&self, slot: Slot, error: Option<i32>) {
        let now = self.mounted.elapsed();
        self.change(slot, |record| {
            (record.end, record.error) = (Some(now), error);
        });
    }
}
