//! Whether what is to be copied in fits: needs of the sources against free blocks and inodes. An
//! estimate, made before the first byte; the engine reports a filesystem that fills up anyway.

use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::sys::statfs::{BTRFS_SUPER_MAGIC, XFS_SUPER_MAGIC, statfs};
use nix::sys::statvfs::statvfs;
use walkdir::WalkDir;

use crate::display::human::bytes;

/// The unit of `st_blocks`.
const BLOCK_BYTES: u64 = 512;

/// What a tree takes up.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Need {
    /// Blocks, so that holes do not count.
    pub bytes: u64,
    /// Items, each hard-linked file once.
    pub inodes: u64,
}

impl Need {
    /// Measures a file or a tree. What cannot be looked at is left out; the copy reports it.
    #[must_use]
    pub fn of(source: &Path) -> Self {
        let mut need = Self::default();
        let mut linked = HashSet::new();
        for entry in WalkDir::new(source).follow_root_links(true).into_iter().flatten() {
            let Ok(meta) = entry.metadata() else { continue };
            if meta.is_file() && meta.nlink() > 1 && !linked.insert((meta.dev(), meta.ino())) {
                continue;
            }
            need.bytes += meta.blocks() * BLOCK_BYTES;
            need.inodes += 1;
        }
        need
    }

    /// The need of so many copies.
    #[must_use]
    pub fn times(self, copies: u64) -> Self {
        Self {
            bytes: self.bytes.saturating_mul(copies),
            inodes: self.inodes.saturating_mul(copies),
        }
    }

    /// Both needs together.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self {
            bytes: self.bytes.saturating_add(other.bytes),
            inodes: self.inodes.saturating_add(other.inodes),
        }
    }
}

/// What a filesystem has left for this user.
#[derive(Debug, Clone, Copy)]
pub struct Room {
    bytes: u64,
    /// `None` when the filesystem makes inodes as it goes.
    inodes: Option<u64>,
}

impl Room {
    /// The room at an existing path.
    ///
    /// # Errors
    /// The errno of `statvfs`.
    pub fn at(path: &Path) -> nix::Result<Self> {
        let stat = statvfs(path)?;
        let bytes = stat.blocks_available().saturating_mul(stat.fragment_size());
        let inodes = (stat.files() > 0).then(|| stat.files_available());
        Ok(Self { bytes, inodes })
    }

    /// Why a need does not fit; `None` when it does.
    #[must_use]
    pub fn lacks(self, need: Need) -> Option<String> {
        if need.bytes > self.bytes {
            return Some(format!(
                "{} are needed and {} are free",
                bytes(need.bytes),
                bytes(self.bytes)
            ));
        }
        match self.inodes {
            Some(free) if need.inodes > free => {
                Some(format!("{} inodes are needed and {free} are free", need.inodes))
            }
            _ => None,
        }
    }
}

/// Whether copies between these paths may share blocks with their sources and need none of their
/// own, so that a lack of room is no reason to refuse.
#[must_use]
pub fn may_share_blocks(source: &Path, destination: &Path) -> bool {
    let device = |path: &Path| fs::metadata(path).ok().map(|meta| meta.dev());
    let clones = statfs(destination).is_ok_and(|stat| {
        let kind = stat.filesystem_type();
        kind == BTRFS_SUPER_MAGIC || kind == XFS_SUPER_MAGIC
    });
    clones && device(source).is_some() && device(source) == device(destination)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hard_links_and_holes_are_not_counted_as_content() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("a"), vec![1; 20_000]).unwrap();
        fs::hard_link(dir.path().join("a"), dir.path().join("b")).unwrap();
        let hole = fs::File::create(dir.path().join("hole")).unwrap();
        hole.set_len(1 << 40).unwrap();
        let need = Need::of(dir.path());
        assert_eq!(need.inodes, 3);
        assert!(need.bytes < 1 << 30, "{need:?}");
    }

    #[test]
    fn a_lack_of_blocks_or_inodes_is_named() {
        let room = Room { bytes: 2048, inodes: Some(3) };
        assert_eq!(room.lacks(Need { bytes: 2048, inodes: 3 }), None);
        let blocks = room.lacks(Need { bytes: 4096, inodes: 1 });
        assert_eq!(blocks.unwrap(), "4.00 KiB are needed and 2.00 KiB are free");
        assert!(room.lacks(Need { bytes: 1, inodes: 4 }).unwrap().contains("4 inodes"));
        let endless = Room { bytes: 1, inodes: None };
        assert_eq!(endless.lacks(Need { bytes: 1, inodes: 1 << 40 }), None);
    }
}
