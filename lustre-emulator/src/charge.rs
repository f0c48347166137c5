//! Reads and writes that have been done are charged here: locks first, then the OST of each piece, and
//! the answer when all of them allow it. No data is moved.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use crate::inode::{Inode, State};
use crate::log::Slot;
use crate::ost::{Job, Pending};
use crate::passthrough::{Asked, Give};
use crate::shared::Shared;
use crate::striping::Piece;

/// A read or a write that is to be charged.
pub(crate) struct Charge {
    pub(crate) asked: Asked,
    pub(crate) client: u32,
    pub(crate) slot: Slot,
    pub(crate) write: bool,
    pub(crate) pieces: Vec<Piece>,
    /// When the data is there; later than its arrival only for files that come from the archive.
    pub(crate) ready: Instant,
}

/// What a lock costs.
struct Price {
    /// How many locks others lost.
    revoked: usize,
    /// Writes of others that must be done first.
    after: BTreeSet<u64>,
    /// What giving back takes.
    cost: Duration,
}

impl Shared {
    /// Has every piece served, and the answer given when all of them allow it.
    pub(crate) fn charge(self: &Arc<Self>, inode: &Arc<Inode>, charge: Charge, give: Give) {
        if charge.ready > Instant::now() {
            let (shared, inode, at) = (self.clone(), inode.clone(), charge.ready);
            let mut charge = charge;
            charge.asked.arrived = at; // for its servers
            self.calendar.at(at, move || shared.charge(&inode, charge, give));
            return;
        }
        if charge.pieces.is_empty() {
            give();
            return;
        }
        let pending = Pending::new(charge.pieces.len(), give);
        // Nothing is served under the lock on the inode: what is done at once needs it, too.
        let mut now: Vec<Give> = Vec::new();
        let mut logged = Vec::new();
        {
            let mut state = inode.state();
            for (part, piece) in charge.pieces.iter().enumerate() {
                let number = self.writes.fetch_add(1, Relaxed);
                let price = self.lock(&mut state, &charge, piece);
                logged.push((*piece, price.revoked));
                if charge.write {
                    state.unfinished.insert(number);
                    if let Some((_, object)) = piece.object {
                        let known = state.objects.entry(object).or_default();
                        known.writing.insert(number, charge.client);
                    }
                }
                let go = self.service(inode, &charge, (part, number), &pending);
                if price.revoked == 0 {
                    now.push(Box::new(move || go(None)));
                    continue;
                }
                // The lock comes when the others have written what they had, and a while later.
                let (calendar, cost) = (self.calendar.clone(), price.cost);
                let granted = move || {
                    let at = Instant::now() + cost;
                    calendar.at(at, move || go(Some(at)));
                };
                if price.after.is_empty() {
                    now.push(Box::new(granted));
                } else {
                    state.waiting.push((price.after, Box::new(granted)));
                }
            }
        }
        self.log.parts(charge.slot, charge.write, &logged);
        for go in now {
            go();
        }
    }

    /// Takes the lock for a piece.
    fn lock(&self, state: &mut State, charge: &Charge, piece: &Piece) -> Price {
        let mut price = Price { revoked: 0, after: BTreeSet::new(), cost: Duration::ZERO };
        let settings = self.settings();
        let Some((_, object)) = piece.object.filter(|_| charge.write || settings.read_locks) else {
            return price;
        };
        let known = state.objects.entry(object).or_default();
        let range = (piece.object_offset, piece.object_offset + piece.length);
        let losers = known.locks.take(charge.client, range, charge.write);
        price.revoked = losers.len();
        if price.revoked > 0 {
            let of_losers = known.writing.iter().filter(|(_, client)| losers.contains(client));
            price.after = of_losers.map(|(number, _)| *number).collect();
            let latency = || self.osts[object.ost as usize].latency();
            price.cost = settings.revocation.unwrap_or_else(latency);
        }
        price
    }

    /// What has a piece served: at once, or at the time when its lock came.
    fn service(
        self: &Arc<Self>,
        inode: &Arc<Inode>,
        charge: &Charge,
        (part, number): (usize, u64),
        pending: &Arc<Pending>,
    ) -> impl FnOnce(Option<Instant>) + Send + 'static {
        let window = self.settings().window;
        let window = (charge.write && window > 0).then_some(window);
        let (log, slot, client) = (self.log.clone(), charge.slot, charge.client);
        let (piece, arrived) = (charge.pieces[part], charge.asked.arrived);
        let (shared, inode, pending) = (self.clone(), inode.clone(), pending.clone());
        move |granted| {
            let start = granted.unwrap_or(arrived);
            let object = piece.object.map(|(_, object)| object);
            let done: Give = Box::new(move || {
                for give in inode.finished(number, object) {
                    give();
                }
            });
            let Some(object) = object else {
                let served = move || {
                    log.planned(slot, part, (start, Instant::now()));
                    done();
                    pending.agree();
                };
                return shared.mdt.serve(start, Box::new(served));
            };
            let planned = Box::new(move |begin, end| log.planned(slot, part, (begin, end)));
            let bytes = piece.length;
            let job = Job { client, bytes, window, start, pending, planned, done };
            shared.osts[object.ost as usize].submit(job);
        }
    }
}
