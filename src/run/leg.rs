//! From a copy directive to single copies: one for each allocation, with real paths at both ends.
//! Names inside the destination are settled later, by [`naming`](super::naming).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::naming::joined;
use super::storage::Volume;
use crate::directive::resolve::{Copy, Direction, Holder, Place};

/// The storages of a run by who holds them.
#[derive(Debug, Clone, Default)]
pub struct Volumes {
    /// By directive index.
    pub jobs: BTreeMap<usize, Volume>,
    /// By name.
    pub persistents: BTreeMap<String, Volume>,
}

impl Volumes {
    fn get(&self, holder: &Holder) -> Option<&Volume> {
        match holder {
            Holder::Job(index) => self.jobs.get(index),
            Holder::Persistent(name) => self.persistents.get(name),
        }
    }
}

/// One copy for the engine, names not yet settled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leg {
    /// The directive's line.
    pub line: usize,
    /// The directive's index.
    pub index: usize,
    /// Which way.
    pub direction: Direction,
    /// Which allocation, when there are several of one storage.
    pub allocation: Option<u32>,
    /// The source; a trailing slash counts.
    pub source: PathBuf,
    /// The destination as asked for; a trailing slash counts.
    pub destination: PathBuf,
    /// The index directory that a fan-in needs at the destination.
    pub fan_in: Option<String>,
}

impl Leg {
    /// The name of this leg in the journal.
    #[must_use]
    pub fn key(&self) -> String {
        match self.allocation {
            Some(allocation) => format!("{}-{allocation}", self.index),
            None => self.index.to_string(),
        }
    }
}

/// One end of a copy on this machine.
enum End<'a> {
    Global(&'a Path),
    Stored(&'a Volume, &'a str),
}

impl End<'_> {
    fn allocations(&self) -> Option<u32> {
        match self {
            Self::Global(_) => None,
            Self::Stored(volume, _) => volume.allocations,
        }
    }

    fn path(&self, allocation: u32) -> PathBuf {
        match self {
            Self::Global(path) => (*path).to_owned(),
            Self::Stored(volume, rest) if volume.allocations.is_some() => {
                joined(&volume.root.join(volume.index_name(allocation)), rest)
            }
            Self::Stored(volume, rest) => joined(&volume.root, rest),
        }
    }
}

/// The single copies of a directive. Each end has index directories by its own storage type:
///
/// - from one place into allocations, each of them gets everything;
/// - from allocations to one place, each goes to an index directory of its own there. A bare
///   `$DW_JOB_x` brings that directory as its own name, so it is not added again;
/// - from allocations to allocations, each goes to its counterpart, and the bare root of one means
///   its contents.
///
/// # Errors
/// A sentence when both ends have allocations, but not equally many.
pub fn legs(copy: &Copy, volumes: &Volumes) -> Result<Vec<Leg>, String> {
    let (source, destination) = (end(&copy.source, volumes)?, end(&copy.destination, volumes)?);
    let count = match (source.allocations(), destination.allocations()) {
        (Some(from), Some(to)) if from != to => {
            return Err(format!(
                "the source has {from} allocations and the destination {to}; \
                 run with --allocations {from}"
            ));
        }
        (from, to) => from.or(to),
    };
    let bare = matches!(&copy.source, Place::Storage { path, .. } if path.is_empty());
    let leg = |allocation: u32| {
        let mut from = source.path(allocation);
        let mut fan_in = None;
        if let End::Stored(volume, _) = &source
            && volume.allocations.is_some()
        {
            match (destination.allocations(), bare) {
                (Some(_), true) => from = joined(&from, "/"),
                (None, false) => fan_in = Some(volume.index_name(allocation)),
                _ => {}
            }
        }
        Leg {
            line: copy.line,
            index: copy.index,
            direction: copy.direction,
            allocation: count.map(|_| allocation),
            source: from,
            destination: destination.path(allocation),
            fan_in,
        }
    };
    Ok((0..count.unwrap_or(1)).map(leg).collect())
}

fn end<'a>(place: &'a Place, volumes: &'a Volumes) -> Result<End<'a>, String> {
    match place {
        Place::Global(path) => Ok(End::Global(path)),
        Place::Storage { holder, path, .. } => match volumes.get(holder) {
            Some(volume) => Ok(End::Stored(volume, path)),
            None => Err("its storage does not exist".into()),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::directive::resolve::StorageType;

    fn volumes() -> Volumes {
        let volume = |kind, root: &str, n| Volume::new(kind, root.into(), "n", n);
        let mut volumes = Volumes::default();
        volumes.jobs.insert(0, volume(StorageType::Xfs, "/s/u-0", 2));
        volumes.jobs.insert(1, volume(StorageType::Lustre, "/s/u-1", 2));
        volumes.persistents.insert("px".into(), volume(StorageType::Gfs2, "/p/px", 2));
        volumes.persistents.insert("three".into(), volume(StorageType::Xfs, "/p/three", 3));
        volumes
    }

    fn job(index: usize, path: &str) -> Place {
        let storage_type = StorageType::Xfs; // the volume decides
        Place::Storage { holder: Holder::Job(index), storage_type, path: path.into() }
    }

    fn persistent(name: &str, path: &str) -> Place {
        let storage_type = StorageType::Xfs;
        Place::Storage { holder: Holder::Persistent(name.into()), storage_type, path: path.into() }
    }

    fn ends(source: Place, destination: Place) -> Vec<(String, String, Option<String>)> {
        let copy = Copy { index: 4, line: 5, direction: Direction::CopyOut, source, destination };
        let text = |path: &Path| path.to_str().unwrap().to_owned();
        let legs = legs(&copy, &volumes()).unwrap();
        legs.into_iter().map(|l| (text(&l.source), text(&l.destination), l.fan_in)).collect()
    }

    fn leg(from: &str, to: &str, fan_in: &str) -> (String, String, Option<String>) {
        (from.into(), to.into(), (!fan_in.is_empty()).then(|| fan_in.into()))
    }

    #[test]
    fn each_allocation_gets_everything_and_goes_to_its_own_directory() {
        let global = || Place::Global("/g/d/".into());
        assert_eq!(
            ends(global(), job(0, "/in")),
            [leg("/g/d/", "/s/u-0/n-0/in", ""), leg("/g/d/", "/s/u-0/n-1/in", "")]
        );
        assert_eq!(
            ends(job(0, "/out/"), global()),
            [leg("/s/u-0/n-0/out/", "/g/d/", "n-0"), leg("/s/u-0/n-1/out/", "/g/d/", "n-1")]
        );
        assert_eq!(ends(job(0, ""), global())[1], leg("/s/u-0/n-1", "/g/d/", ""));
        assert_eq!(ends(job(0, "/"), global())[1], leg("/s/u-0/n-1/", "/g/d/", "n-1"));
        assert_eq!(ends(job(1, "/out"), global()), [leg("/s/u-1/out", "/g/d/", "")]);
    }

    /// On the cluster both ends are formed with the type of one of them, and the copy fails.
    #[test]
    fn storages_of_different_types_keep_their_own_index_directories() {
        assert_eq!(ends(job(1, "/a"), job(0, "/b"))[1], leg("/s/u-1/a", "/s/u-0/n-1/b", ""));
        assert_eq!(ends(job(0, "/a"), job(1, "/b"))[1], leg("/s/u-0/n-1/a", "/s/u-1/b", "n-1"));
        let both = ends(persistent("px", "/a"), job(0, "/b"));
        assert_eq!(both[1], leg("/p/px/n-1/a", "/s/u-0/n-1/b", ""));
        assert_eq!(ends(persistent("px", ""), job(0, ""))[0], leg("/p/px/n-0/", "/s/u-0/n-0", ""));
    }

    #[test]
    fn unequal_allocations_are_refused() {
        let (source, destination) = (persistent("three", ""), job(0, ""));
        let copy = Copy { index: 4, line: 5, direction: Direction::CopyIn, source, destination };
        assert!(legs(&copy, &volumes()).unwrap_err().contains("--allocations 3"));
    }
}
