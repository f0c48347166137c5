//! Where the copies happen: filesystems made for one workload. They live in a mount namespace of the
//! bench, on loop devices that clear themselves, on images without a name: however the bench ends,
//! even by SIGKILL, the kernel takes all of it away.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::statvfs::statvfs;

use crate::support::latency_fs::{Counters, Servers};
use crate::volume::Volume;

const NONE: Option<&str> = None;

/// Which filesystem a workload runs on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// tmpfs; without root a directory of `/dev/shm`.
    Tmpfs,
    /// ext4 on a loop device with direct I/O: one for the source, and one made anew for every copy,
    /// since ext4 avoids inodes freed minutes ago and a deleted copy would slow the next one.
    Ext4 {
        /// Size of each of the two images.
        mib: u64,
        /// Inodes of each.
        inodes: u64,
    },
    /// XFS with reflinks; source and copies share it.
    Xfs {
        /// Size of the image.
        mib: u64,
    },
    /// The filesystem with latency of the tests, before tmpfs: one for the source, one for the copy.
    Latency {
        /// Of every metadata request.
        metadata: Duration,
        /// Of every request for data.
        data: Duration,
        /// The data servers of each of the two.
        servers: Option<Servers>,
    },
}

impl Place {
    /// The word for tables.
    pub fn word(self) -> &'static str {
        match self {
            Self::Tmpfs => "tmpfs",
            Self::Ext4 { .. } => "ext4",
            Self::Xfs { .. } => "xfs",
            Self::Latency { .. } => "latency filesystem",
        }
    }
}

/// Puts the process into a mount namespace of its own; false when that is not allowed.
pub fn enter_namespace() -> bool {
    let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    unshare(CloneFlags::CLONE_NEWNS).is_ok() && mount(NONE, "/", NONE, private, NONE).is_ok()
}

/// Drops what the page cache, the inode cache and the name cache hold, and lets the disk rest.
///
/// # Errors
/// Without root.
pub fn make_cold() -> Result<()> {
    nix::unistd::sync();
    fs::write("/proc/sys/vm/drop_caches", "3").context("drop the caches")?;
    std::thread::sleep(Duration::from_millis(500));
    Ok(())
}

/// Brings one filesystem to stable storage.
///
/// # Errors
/// Those of the filesystem.
pub fn flush(path: &Path) -> Result<()> {
    nix::unistd::syncfs(File::open(path)?).context("flush")
}

/// The filesystems of one workload.
pub struct Arena {
    source: Volume,
    target: Option<Volume>,
}

impl Arena {
    /// Makes them.
    ///
    /// # Errors
    /// When they cannot be had: no root, no room, no mkfs, no FUSE.
    pub fn new(place: Place) -> Result<Self> {
        let source = Volume::new(place)?;
        let target = match place {
            Place::Xfs { .. } => None,
            _ => Some(Volume::new(place)?),
        };
        Ok(Self { source, target })
    }

    /// The top of the tree to be copied, where the bench makes it and compares with it.
    pub fn behind_source(&self) -> PathBuf {
        self.source.behind().join("source")
    }

    /// The top of the tree to be copied, where the tools find it.
    pub fn source(&self) -> PathBuf {
        self.source.path().join("source")
    }

    /// The copy that was last made, where the bench compares it.
    pub fn behind_copy(&self) -> PathBuf {
        self.target.as_ref().unwrap_or(&self.source).behind().join("copy")
    }

    /// A place for a copy that does not exist yet, where none has been before.
    ///
    /// # Errors
    /// Those of mkfs and mount.
    pub fn fresh_target(&mut self) -> Result<PathBuf> {
        self.source.forget_caches()?;
        let volume = match &mut self.target {
            Some(target) => {
                target.renew()?;
                target
            }
            None => {
                let old = self.source.path().join("copy");
                if old.exists() {
                    fs::remove_dir_all(&old).context("remove the last copy")?;
                }
                &mut self.source
            }
        };
        flush(&volume.path())?;
        Ok(volume.path().join("copy"))
    }

    /// Bytes that are free where the copies go, after a flush.
    ///
    /// # Errors
    /// Those of the filesystem.
    pub fn free_bytes(&self) -> Result<u64> {
        let path = self.target.as_ref().unwrap_or(&self.source).behind();
        flush(&path)?;
        let space = statvfs(&path)?;
        Ok(space.blocks_free() * space.fragment_size())
    }

    /// What the filesystems with latency were asked since the last call of `fresh_target`: source, copy.
    pub fn counters(&self) -> Option<(Counters, Counters)> {
        Some((self.source.counters()?, self.target.as_ref()?.counters()?))
    }
}
