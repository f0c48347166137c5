//! What can be read out of the log: who wrote where at the same time, what was idle, what it cost.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::PathBuf;
use std::time::Duration;

use crate::layout::Object;
use crate::log::{Log, Part, Record};
use crate::passthrough::Kind;

/// Two clients that wrote one object at the same time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conflict {
    /// The object.
    pub object: Object,
    /// The file.
    pub path: Option<PathBuf>,
    /// Numbers of the two writes in the log.
    pub writes: (u64, u64),
    /// The two clients.
    pub clients: (u32, u32),
}

/// What one OST did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Moved {
    /// Bytes that were read from it.
    pub read: u64,
    /// Bytes that were written to it.
    pub written: u64,
}

/// A write, and from when to when it lasted.
type Timed<'a> = (&'a Record, Range<Duration>);

/// From its arrival until the server had it.
fn span(record: &Record, part: &Part) -> Range<Duration> {
    record.start..part.end.unwrap_or(Duration::MAX)
}

impl Log {
    /// All writes of data that were not refused.
    #[must_use]
    pub fn writes(&self) -> Vec<Record> {
        self.of(|record| record.kind == Kind::Write && record.error.is_none())
    }

    /// All reads of data that were not refused.
    #[must_use]
    pub fn reads(&self) -> Vec<Record> {
        self.of(|record| record.kind == Kind::Read && record.error.is_none())
    }

    fn of(&self, wanted: impl Fn(&&Record) -> bool) -> Vec<Record> {
        self.with(|records| records.iter().filter(wanted).cloned().collect())
    }

    /// Pairs of writes by different clients to one object that overlap in time: from the arrival of
    /// a write until the OST has it. One pair for each write at most.
    #[must_use]
    pub fn concurrent_writers(&self) -> Vec<Conflict> {
        self.with(|records| {
            let mut objects: BTreeMap<(u64, Object), Vec<Timed<'_>>> = BTreeMap::new();
            for record in records {
                if record.kind != Kind::Write || record.error.is_some() {
                    continue;
                }
                for part in &record.parts {
                    if let Some(object) = part.object {
                        let writes = objects.entry((record.ino, object)).or_default();
                        writes.push((record, span(record, part)));
                    }
                }
            }
            let mut conflicts = Vec::new();
            for ((_, object), mut writes) in objects {
                writes.sort_by_key(|(_, span)| span.start);
                // Of each client the write that lasts longest so far is enough to compare with.
                let mut latest: BTreeMap<u32, (&Record, Duration)> = BTreeMap::new();
                for (record, span) in writes {
                    let other = latest
                        .iter()
                        .find(|(client, (_, end))| **client != record.client && *end > span.start);
                    if let Some((client, (before, _))) = other {
                        conflicts.push(Conflict {
                            object,
                            path: record.path.clone(),
                            writes: (before.number, record.number),
                            clients: (*client, record.client),
                        });
                    }
                    let known = latest.entry(record.client).or_insert((record, span.end));
                    if span.end >= known.1 {
                        *known = (record, span.end);
                    }
                }
            }
            conflicts
        })
    }

    /// Writes that went to more than one object, although they came as one request.
    #[must_use]
    pub fn crossing(&self) -> Vec<Record> {
        self.of(|record| {
            let mut objects = record.parts.iter().map(|part| part.object);
            let first = objects.next();
            record.kind == Kind::Write && objects.any(|object| Some(object) != first)
        })
    }

    /// Times within a range, as time since the mount, in which an OST had nothing to do.
    #[must_use]
    pub fn idle_gaps(&self, ost: u32, within: Range<Duration>) -> Vec<Range<Duration>> {
        let mut gaps = Vec::new();
        let mut at = within.start;
        for busy in self.spans(ost) {
            if busy.start >= within.end {
                break;
            }
            if busy.start > at {
                gaps.push(at..busy.start);
            }
            at = at.max(busy.end);
        }
        if at < within.end {
            gaps.push(at..within.end);
        }
        gaps
    }

    /// When an OST had requests, in the order of their arrival.
    fn spans(&self, ost: u32) -> Vec<Range<Duration>> {
        let mut spans: Vec<Range<Duration>> = self.with(|records| {
            let parts = records
                .iter()
                .flat_map(|record| record.parts.iter().map(move |part| (record, part)));
            parts
                .filter(|(_, part)| part.object.is_some_and(|object| object.ost == ost))
                .map(|(record, part)| span(record, part))
                .collect()
        });
        spans.sort_by_key(|span| span.start);
        spans
    }

    /// Most requests that an OST had at the same time.
    #[must_use]
    pub fn most_in_flight(&self, ost: u32) -> usize {
        let spans = self.spans(ost);
        let mut steps: Vec<(Duration, bool)> =
            spans.iter().flat_map(|span| [(span.start, true), (span.end, false)]).collect();
        steps.sort_unstable(); // an end before a beginning at the same time
        let (mut now, mut most) = (0_usize, 0);
        for (_, begins) in steps {
            now = if begins { now + 1 } else { now.saturating_sub(1) };
            most = most.max(now);
        }
        most
    }

    /// How many locks were taken from other clients, by object and inode.
    #[must_use]
    pub fn revocations_by_object(&self) -> BTreeMap<(u64, Object), usize> {
        self.with(|records| {
            let mut counts = BTreeMap::new();
            for record in records {
                for part in record.parts.iter().filter(|part| part.revoked > 0) {
                    if let Some(object) = part.object {
                        *counts.entry((record.ino, object)).or_default() += part.revoked;
                    }
                }
            }
            counts
        })
    }

    /// How many locks were taken from other clients.
    #[must_use]
    pub fn revocations(&self) -> usize {
        self.revocations_by_object().values().sum()
    }

    /// Bytes by OST.
    #[must_use]
    pub fn moved(&self) -> BTreeMap<u32, Moved> {
        self.with(|records| {
            let mut moved: BTreeMap<u32, Moved> = BTreeMap::new();
            for record in records.iter().filter(|record| record.error.is_none()) {
                for part in &record.parts {
                    if let Some(object) = part.object {
                        let ost = moved.entry(object.ost).or_default();
                        match record.kind {
                            Kind::Write => ost.written += part.length,
                            _ => ost.read += part.length,
                        }
                    }
                }
            }
            moved
        })
    }

    /// How many requests of a kind there were.
    #[must_use]
    pub fn count(&self, kind: Kind) -> usize {
        self.with(|records| records.iter().filter(|record| record.kind == kind).count())
    }

    /// How many requests of each kind there were.
    #[must_use]
    pub fn counts(&self) -> BTreeMap<Kind, usize> {
        self.with(|records| {
            let mut counts = BTreeMap::new();
            for record in records {
                *counts.entry(record.kind).or_default() += 1;
            }
            counts
        })
    }

    /// How often `kind` ([`Kind::Getxattr`], [`Kind::Setxattr`]) was asked for an extended attribute.
    #[must_use]
    pub fn attribute(&self, kind: Kind, name: &str) -> usize {
        self.with(|records| {
            let asked =
                |record: &&Record| record.kind == kind && record.attribute.as_deref() == Some(name);
            records.iter().filter(asked).count()
        })
    }
}
