//! Hard links: the first name of an inode is copied, every further name waits for it and is linked.
//! The table forgets an inode when all its names have been seen. It makes no links itself.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::ffi::CString;
use std::sync::{Arc, Mutex, PoisonError};

use nix::sys::stat::{FileStat, SFlag};

use super::dir::Dir;
use super::inode::{Inode, inode};

/// Shards of the table, so that workers seldom meet.
const SHARDS: usize = 16;

/// One name at the destination: where, and as what.
#[derive(Debug, Clone)]
pub(crate) struct Name {
    pub(crate) dir: Arc<Dir>,
    pub(crate) source_name: CString,
    pub(crate) name: CString,
    /// The source's print in the journal, once this name is complete.
    pub(crate) print: Option<u64>,
    /// The inode that this copy made under the name; `None` where it was there before.
    pub(crate) made: Option<Inode>,
    /// The inode at the source that this is the first name of.
    pub(crate) of: Option<Inode>,
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

/// What is known of an inode with several names.
#[derive(Debug)]
struct Known {
    state: State,
    /// Names that have not been seen.
    left: u64,
    /// Type, size and time when it was claimed first: the number alone can be another file's by now.
    version: Version,
}

/// Tells an inode from a later one with the same number.
pub(crate) type Version = (u32, i64, i64, i64);

/// The version in a stat.
pub(crate) fn version(stat: &FileStat) -> Version {
    (stat.st_mode & SFlag::S_IFMT.bits(), stat.st_size, stat.st_mtime, stat.st_mtime_nsec)
}

/// Inodes with several names.
#[derive(Debug, Default)]
pub(crate) struct LinkTable {
    shards: [Mutex<HashMap<Inode, Known>>; SHARDS],
}

impl LinkTable {
    fn shard(&self, inode: Inode) -> std::sync::MutexGuard<'_, HashMap<Inode, Known>> {
        let index = usize::try_from(inode.1 % SHARDS as u64).unwrap_or_default();
        self.shards[index].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Claims one of the `st_nlink` names of an inode.
    pub(crate) fn claim(&self, stat: &FileStat, name: impl FnOnce() -> Name) -> Claim {
        let mut shard = self.shard(inode(stat));
        let version = version(stat);
        let fresh = Known {
            state: State::Busy(Vec::new()),
            left: stat.st_nlink.saturating_sub(1),
            version,
        };
        let mut entry = match shard.entry(inode(stat)) {
            Entry::Vacant(entry) => {
                entry.insert(fresh);
                return Claim::First;
            }
            Entry::Occupied(entry) => entry,
        };
        let known = entry.get_mut();
        match &mut known.state {
            State::Busy(waiting) => {
                known.left = known.left.saturating_sub(1);
                waiting.push(name());
                Claim::Waiting
            }
            // Deleted, and its number given to another file; or written to since it was copied.
            State::Done(_) if known.version != version => {
                *known = fresh;
                Claim::First
            }
            State::Done(first) => {
                let first = first.clone();
                known.left = known.left.saturating_sub(1);
                if known.left == 0 {
                    entry.remove();
                }
                Claim::LinkTo(first)
            }
        }
    }

    /// The first name is complete. Returns the names that wait to be linked to it.
    pub(crate) fn complete(&self, inode: Inode, first: impl FnOnce() -> Name) -> Vec<Name> {
        let mut shard = self.shard(inode);
        let Some(known) = shard.get_mut(&inode) else { return Vec::new() };
        let State::Busy(waiting) = &mut known.state else { return Vec::new() };
        let waiting = std::mem::take(waiting);
        if known.left == 0 {
            shard.remove(&inode);
        } else {
            known.state = State::Done(first());
        }
        waiting
    }

    /// The first name failed. Returns the names that waited; each must be tried anew.
    pub(crate) fn fail(&self, inode: Inode) -> Vec<Name> {
        match self.shard(inode).remove(&inode) {
            Some(Known { state: State::Busy(waiting), .. }) => waiting,
            _ => Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::OwnedFd;

    use super::*;
    use crate::engine::dir::RootPath;

    /// A first name was copied and deleted, and its inode number went to another file: linking that
    /// one to the copy would give it the old content.
    #[test]
    fn an_inode_number_that_is_used_again_is_not_linked_to_the_old_copy() {
        let home = tempfile::tempdir().expect("a directory");
        let fd = OwnedFd::from(std::fs::File::open(home.path()).expect("opens"));
        let mut stat = nix::sys::stat::fstat(&fd).expect("a stat");
        let root = Arc::new(RootPath {
            source: home.path().to_owned(),
            index: 0,
            in_manifest: std::path::PathBuf::new(),
        });
        let dir = Arc::new(Dir::anchor(root, fd, None, false).expect("an anchor"));
        let name = || Name {
            dir: Arc::clone(&dir),
            source_name: c"a".into(),
            name: c"a".into(),
            print: None,
            made: None,
            of: None,
        };
        let table = LinkTable::default();
        stat.st_nlink = 3;
        assert!(matches!(table.claim(&stat, name), Claim::First));
        assert!(table.complete(inode(&stat), name).is_empty());
        assert!(matches!(table.claim(&stat, name), Claim::LinkTo(_)));
        stat.st_mtime += 1;
        assert!(matches!(table.claim(&stat, name), Claim::First));
        assert!(matches!(table.claim(&stat, name), Claim::Waiting));
    }
}
