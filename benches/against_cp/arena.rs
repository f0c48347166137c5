//! Where the copies happen: filesystems made for one workload. They live in a mount namespace of the
//! bench, on loop devices that clear themselves, on images without a name: however the bench ends,
//! even by SIGKILL, the kernel takes all of it away.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::sys::statvfs::statvfs;
use tempfile::TempDir;

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
}

impl Place {
    /// The word for tables.
    pub fn word(self) -> &'static str {
        match self {
            Self::Tmpfs => "tmpfs",
            Self::Ext4 { .. } => "ext4",
            Self::Xfs { .. } => "xfs",
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
    std::thread::sleep(Duration::from_millis(700));
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
    /// When they cannot be had: no root, no room, no mkfs.
    pub fn new(place: Place) -> Result<Self> {
        let source = Volume::new(place)?;
        let target = match place {
            Place::Xfs { .. } => None,
            _ => Some(Volume::new(place)?),
        };
        Ok(Self { source, target })
    }

    /// The top of the tree to be copied; to be made by the caller.
    pub fn source(&self) -> PathBuf {
        self.source.path().join("source")
    }

    /// A place for a copy that does not exist yet, where none has been before.
    ///
    /// # Errors
    /// Those of mkfs and mount.
    pub fn fresh_target(&mut self) -> Result<PathBuf> {
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
        let path = self.target.as_ref().unwrap_or(&self.source).path();
        flush(&path)?;
        let space = statvfs(&path)?;
        Ok(space.blocks_free() * space.fragment_size())
    }
}

/// A loop device, held open: it clears itself when nobody has it open any more.
struct Device {
    path: PathBuf,
    _held: File,
}

/// One filesystem.
struct Volume {
    dir: TempDir,
    place: Place,
    device: Option<Device>,
    mounted: bool,
}

impl Volume {
    fn new(place: Place) -> Result<Self> {
        let privileged = nix::unistd::geteuid().is_root();
        let plain = !privileged && place == Place::Tmpfs;
        let home = if plain { PathBuf::from("/dev/shm") } else { home() };
        let dir = tempfile::Builder::new().prefix("against-cp-").tempdir_in(&home)?;
        let mut volume = Self { dir, place, device: None, mounted: false };
        if let Place::Ext4 { mib, .. } | Place::Xfs { mib } = place {
            volume.device = Some(attach(&volume.dir.path().join("image"), mib)?);
        }
        if !plain {
            volume.make()?;
        }
        Ok(volume)
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("mnt")
    }

    /// mkfs and mount.
    fn make(&mut self) -> Result<()> {
        let path = self.path();
        fs::create_dir_all(&path)?;
        let no = MsFlags::empty();
        match (self.place, &self.device) {
            (Place::Ext4 { inodes, .. }, Some(Device { path: device, .. })) => {
                let inodes = inodes.to_string();
                // Lazy tables without the thread that fills them: nothing runs beside the copies.
                let lazy = "nodiscard,lazy_itable_init=1,lazy_journal_init=1";
                let args = ["-q", "-F", "-I", "256", "-N", &inodes, "-E", lazy];
                command(Command::new("mkfs.ext4").args(args).arg(device))?;
                mount(Some(device), &path, Some("ext4"), no, Some("noinit_itable"))?;
            }
            (Place::Xfs { .. }, Some(Device { path: device, .. })) => {
                let args = ["-q", "-f", "-K", "-m", "reflink=1"];
                command(Command::new("mkfs.xfs").args(args).arg(device))?;
                mount(Some(device), &path, Some("xfs"), no, NONE)?;
            }
            _ => mount(
                Some("against-cp"),
                &path,
                Some("tmpfs"),
                no,
                Some("size=90%,nr_inodes=0,mode=755"),
            )?,
        }
        self.mounted = true;
        Ok(())
    }

    fn renew(&mut self) -> Result<()> {
        if self.mounted {
            umount2(&self.path(), MntFlags::empty()).context("unmount the last copy")?;
            self.mounted = false;
            return self.make();
        }
        let path = self.path();
        if path.exists() {
            fs::remove_dir_all(&path)?;
        }
        fs::create_dir(&path).context("make the target's place")
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        if self.mounted {
            let _ = umount2(&self.path(), MntFlags::MNT_DETACH); // the namespace's end does it too
        }
    }
}

/// Where images and mount points lie.
fn home() -> PathBuf {
    let chosen = std::env::var_os("LONGSHORE_BENCH_DIR").map(PathBuf::from);
    chosen.unwrap_or_else(|| PathBuf::from(env!("CARGO_TARGET_TMPDIR")))
}

/// A loop device on an image that has no name any more.
fn attach(image: &Path, mib: u64) -> Result<Device> {
    let parent = image.parent().context("an image lies in a directory")?;
    let space = statvfs(parent)?;
    let free_mib = space.blocks_available() * space.fragment_size() / (1 << 20);
    if free_mib < mib + 1024 {
        bail!("no room for an image of {mib} MiB: {free_mib} MiB free");
    }
    // Written once in full, so that no run pays for allocating the image.
    let mut file = File::create(image)?;
    let zeros = vec![0; 1 << 20];
    for _ in 0..mib {
        file.write_all(&zeros)?;
    }
    file.sync_all()?;
    drop(file);
    let args = ["--find", "--show", "--direct-io=on"];
    let output = command(Command::new("losetup").args(args).arg(image))?;
    let device = PathBuf::from(output.trim());
    let held = File::open(&device);
    // On a device in use this means: clear it with its last user.
    command(Command::new("losetup").arg("-d").arg(&device))?;
    fs::remove_file(image)?;
    Ok(Device { path: device, _held: held? })
}

fn command(command: &mut Command) -> Result<String> {
    let path = std::env::var("PATH").unwrap_or_default();
    command.env("PATH", format!("{path}:/usr/sbin:/sbin"));
    let output = command.output().with_context(|| format!("start {command:?}"))?;
    if !output.status.success() {
        bail!("{command:?}: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
