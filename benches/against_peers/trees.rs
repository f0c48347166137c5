//! The trees that are copied: seeded, made by all cores, with times in the past, so that a lost time
//! shows and reading a file does not write its access time.

use std::fs::{self, File, FileTimes};
use std::io::Write;
use std::os::unix::fs::{FileExt, MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Result, bail};

use crate::support::items::posix_acl;
use crate::support::{Rng, Tree as EverythingTree, TreeOptions};

const MIB: usize = 1 << 20;

/// Of the mixed tree: half of the files are smaller.
pub const MEDIAN_BYTES: f64 = 8.0 * 1024.0;

/// Of the mixed tree: the standard deviation of the logarithm. With the median it gives a mean of about
/// 55 KiB, and half of the bytes lie in 2 % of the files.
pub const SIGMA: f64 = 2.0;

/// What a tree is made of.
#[derive(Debug, Clone, Copy)]
pub enum Tree {
    /// Directories of files of one size.
    Small {
        /// Directories.
        dirs: usize,
        /// Files in each.
        files: usize,
        /// Size of each.
        bytes: usize,
    },
    /// Files at the top.
    Large {
        /// How many.
        files: usize,
        /// Size of each.
        mib: usize,
    },
    /// One file of 64 GiB that is nearly all hole.
    Sparse {
        /// Extents of 1 MiB, evenly spread.
        extents: usize,
    },
    /// Sizes as users have them: log-normal, [`MEDIAN_BYTES`], [`SIGMA`], at most 64 MiB.
    Mixed {
        /// How many, 50 to a directory.
        files: usize,
    },
    /// Files of 4 KiB with extended attributes, every second one with an ACL; every directory with a
    /// default ACL.
    Attributed {
        /// Directories.
        dirs: usize,
        /// Files in each.
        files: usize,
    },
    /// Ten empty files, half a symbolic link and one hard link per directory.
    Metadata {
        /// Directories.
        dirs: usize,
    },
    /// One of everything that a file can have (that of the fidelity tests).
    Everything,
}

impl Tree {
    /// Makes it at a path that does not exist.
    ///
    /// # Errors
    /// Those of the filesystem.
    pub fn make(self, root: &Path, seed: u64) -> Result<()> {
        if matches!(self, Self::Everything) {
            // Within PATH_MAX: beyond it most peers give up, and nothing else would be seen of them.
            let options = TreeOptions { deep: 12, ..TreeOptions::default() };
            EverythingTree::make(root, seed, options);
            return Ok(());
        }
        fs::create_dir(root)?;
        let pool = Rng::new(seed).bytes(8 * MIB);
        let pieces = match self {
            Self::Small { dirs, .. } | Self::Metadata { dirs } | Self::Attributed { dirs, .. } => {
                dirs
            }
            Self::Large { files, .. } => files,
            Self::Mixed { files } => files.div_ceil(50),
            Self::Sparse { .. } | Self::Everything => 1,
        };
        in_parallel(pieces, |index| {
            let piece = Piece { root, pool: &pool, index };
            let mut rng = Rng::new(seed ^ u64::try_from(index)?.wrapping_mul(0x9e37_79b9));
            match self {
                Self::Small { files, bytes, .. } => {
                    piece.directory(files, |_| bytes, &mut rng)?;
                }
                Self::Mixed { files } => {
                    let count = files.saturating_sub(index * 50).min(50);
                    piece.directory(count, log_normal, &mut rng)?;
                }
                Self::Attributed { files, .. } => {
                    let dir = piece.directory(files, |_| 4096, &mut rng)?;
                    piece.attributes(&dir, files, &mut rng)?;
                }
                Self::Large { mib, .. } => {
                    let path = root.join(format!("large-{index}"));
                    piece.file(&path, mib * MIB, &mut rng)?;
                }
                Self::Sparse { extents } => piece.sparse(extents, &mut rng)?,
                Self::Metadata { .. } => {
                    let dir = piece.directory(10, |_| 0, &mut rng)?;
                    if index % 2 == 0 {
                        symlink("../some/where", dir.join("symlink"))?;
                    }
                    fs::hard_link(dir.join("file-0"), root.join(format!("second-name-{index}")))?;
                }
                Self::Everything => {}
            }
            Ok(())
        })?;
        age(root)
    }
}

/// How much a tree is.
#[derive(Debug, Clone, Copy, Default)]
pub struct Amount {
    /// Entries that are no directories.
    pub files: u64,
    /// Bytes of data, without holes.
    pub bytes: u64,
}

impl Amount {
    /// Counts a tree.
    ///
    /// # Errors
    /// Those of reading it.
    pub fn of(root: &Path) -> Result<Self> {
        let mut amount = Self::default();
        for entry in walkdir::WalkDir::new(root) {
            let about = entry?.metadata()?;
            if !about.is_dir() {
                amount.files += 1;
                amount.bytes += about.len().min(about.blocks() * 512);
            }
        }
        Ok(amount)
    }
}

struct Piece<'a> {
    root: &'a Path,
    pool: &'a [u8],
    index: usize,
}

impl Piece<'_> {
    fn directory(
        &self,
        files: usize,
        size: impl Fn(&mut Rng) -> usize,
        rng: &mut Rng,
    ) -> Result<PathBuf> {
        let dir = self.root.join(format!("dir-{:04}", self.index));
        fs::create_dir(&dir)?;
        for index in 0..files {
            let bytes = size(rng);
            self.file(&dir.join(format!("file-{index}")), bytes, rng)?;
        }
        age(&dir)?;
        Ok(dir)
    }

    fn attributes(&self, dir: &Path, files: usize, rng: &mut Rng) -> Result<()> {
        for index in 0..files {
            let file = dir.join(format!("file-{index}"));
            xattr::set(&file, "user.origin", self.slice(20, rng)?)?;
            xattr::set(&file, "user.checksum", self.slice(64, rng)?)?;
            if index % 2 == 0 {
                xattr::set(&file, "system.posix_acl_access", &posix_acl(6, 12345, 4))?;
            }
        }
        xattr::set(dir, "system.posix_acl_default", &posix_acl(6, 54321, 5))?;
        age(dir)
    }

    fn file(&self, path: &Path, bytes: usize, rng: &mut Rng) -> Result<()> {
        let mut file = File::create_new(path)?;
        let mut left = bytes;
        while left > 0 {
            let now = left.min(MIB);
            file.write_all(self.slice(now, rng)?)?;
            left -= now;
        }
        file.set_times(past(rng.below(1 << 24)))?;
        Ok(())
    }

    fn sparse(&self, extents: usize, rng: &mut Rng) -> Result<()> {
        const SIZE: u64 = 64 << 30;
        let file = File::create_new(self.root.join("sparse"))?;
        file.set_len(SIZE)?;
        let step = SIZE / u64::try_from(extents)? / 4096 * 4096;
        for index in 0..u64::try_from(extents)? {
            file.write_all_at(self.slice(MIB, rng)?, index * step)?;
        }
        file.set_times(past(1))?;
        Ok(())
    }

    fn slice(&self, bytes: usize, rng: &mut Rng) -> Result<&[u8]> {
        let room = u64::try_from(self.pool.len() - bytes)?;
        let start = usize::try_from(rng.below(room))?;
        Ok(&self.pool[start..start + bytes])
    }
}

fn past(offset: u64) -> FileTimes {
    let time = UNIX_EPOCH + Duration::new(1_500_000_000 + offset, 123_456_789);
    FileTimes::new().set_modified(time)
}

fn age(dir: &Path) -> Result<()> {
    // Reading times later than writing times: relatime then leaves them alone.
    File::open(dir)?.set_times(past(0).set_accessed(SystemTime::now()))?;
    Ok(())
}

#[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss)]
// a random size: the last digits are random as well
fn log_normal(rng: &mut Rng) -> usize {
    let mut uniform = || (rng.below(1 << 30) + 1) as f64 / (1_u64 << 30) as f64;
    let normal = (-2.0 * uniform().ln()).sqrt() * (std::f64::consts::TAU * uniform()).cos();
    let bytes = MEDIAN_BYTES * (SIGMA * normal).exp();
    (bytes as usize).min(64 * MIB)
}

/// Runs `piece` for every number below `pieces` on all cores.
///
/// # Errors
/// The first error of every thread.
pub fn in_parallel(pieces: usize, piece: impl Fn(usize) -> Result<()> + Sync) -> Result<()> {
    let next = AtomicUsize::new(0);
    let threads = std::thread::available_parallelism().map_or(2, usize::from);
    let run = || {
        loop {
            let index = next.fetch_add(1, Relaxed);
            if index >= pieces {
                return Ok(());
            }
            piece(index)?;
        }
    };
    std::thread::scope(|scope| {
        let handles: Vec<_> = (0..threads).map(|_| scope.spawn(run)).collect();
        handles.into_iter().try_for_each(|handle| match handle.join() {
            Ok(result) => result,
            Err(_) => bail!("making the tree panicked"),
        })
    })
}
