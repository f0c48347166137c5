//! Hard links: the first name of an inode is copied, every further name waits for it and is linked.
//! The table forgets an inode when all its names have been seen. It makes no links itself.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::ffi::CString;
use std::sync::{Arc, Mutex, PoisonError};

use super::dir::{Dir, Inode};

/// Shards of the table, so that workers seldom meet.
const SHARDS: usize = 16;

/// One name at the destination: where, and as what.
#[derive(Debug, Clone)]
pub(crate) struct Name {
    pub(crate) dir: Arc<Dir>,
    pub(crate) source_name: CString,
    pub(crate) name: CString,
}

/// What the holder of one name of an inode must do.
#[derive(Debug)]
pub(crate) enum Claim {
    /// Copy it: it is the first. Say `complete` or `fail` afterwards.
    First,
    /// Nothing: whoever copies the first name gets this one from `complete` or `fail`.
    Waiting,
    /// Link it to this name, which is complete.
    LinkTo(Name),
}

#[derive(Debug)]
enum State {
    Busy(Vec<Name>),
    Done(Name),
}

/// Inodes with several names.
#[derive(Debug, Default)]
pub(crate) struct LinkTable {
    shards: [Mutex<HashMap<Inode, (State, u64)>>; SHARDS],
}

impl LinkTable {
    fn shard(&self, inode: Inode) -> std::sync::MutexGuard<'_, HashMap<Inode, (State, u64)>> {
        let index = usize::try_from(inode.1 % SHARDS as u64).unwrap_or_default();
        self.shards[index].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Claims one of the `names` (`st_nlink`) names of an inode.
    pub(crate) fn claim(&self, inode: Inode, names: u64, name: impl FnOnce() -> Name) -> Claim {
        let mut shard = self.shard(inode);
        match shard.entry(inode) {
            Entry::Vacant(entry) => {
                entry.insert((State::Busy(Vec::new()), names.saturating_sub(1)));
                Claim::First
            }
            Entry::Occupied(mut entry) => {
                let (state, left) = entry.get_mut();
                *left = left.saturating_sub(1);
                match state {
                    State::Busy(waiting) => {
                        waiting.push(name());
                        Claim::Waiting
                    }
                    State::Done(first) => {
                        let first = first.clone();
                        if *left == 0 {
                            entry.remove();
                        }
                        Claim::LinkTo(first)
                    }
                }
            }
        }
    }

    /// The first name is complete. Returns the names that wait to be linked to it.
    pub(crate) fn complete(&self, inode: Inode, first: impl FnOnce() -> Name) -> Vec<Name> {
        let mut shard = self.shard(inode);
        let Some((state, left)) = shard.get_mut(&inode) else { return Vec::new() };
        let State::Busy(waiting) = state else { return Vec::new() };
        let waiting = std::mem::take(waiting);
        if *left == 0 {
            shard.remove(&inode);
        } else {
            *state = State::Done(first());
        }
        waiting
    }

    /// The first name failed. Returns the names that waited; each must be tried anew.
    pub(crate) fn fail(&self, inode: Inode) -> Vec<Name> {
        match self.shard(inode).remove(&inode) {
            Some((State::Busy(waiting), _)) => waiting,
            _ => Vec::new(),
        }
    }
}
