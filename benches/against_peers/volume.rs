//! One filesystem of an arena: made, unmounted, made anew. It knows nothing of what is copied.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::statvfs::statvfs;
use tempfile::TempDir;

use crate::arena::Place;
use crate::support::latency_fs::{Counters, Kind, LatencyFs, Profile};

const NONE: Option<&str> = None;

/// How long the kernel believes names and attributes of the filesystem with latency. Parallel
/// filesystems hold locks on them meanwhile; without this, tools that name files by long paths would ask for
/// every directory of the path each time, which they do not there.
const BELIEVED: Duration = Duration::from_secs(1);

/// How far the kernel reads ahead where there are data servers. Clients of parallel filesystems do; without
/// it, a tool with one thread would read and write in turn, which it does not there. More would only make
/// the tail longer that is left to write when all has been read.
const READ_AHEAD_KIB: u32 = 2048;

/// Devices that no filesystem lies on now, with their sizes in MiB: writing an image takes long, so that
/// one workload leaves its own to the next.
static UNUSED: Mutex<Vec<(u64, Device)>> = Mutex::new(Vec::new());

/// A loop device, held open: it clears itself when nobody has it open any more.
struct Device {
    path: PathBuf,
    _held: File,
}

/// One filesystem.
pub struct Volume {
    dir: TempDir,
    place: Place,
    device: Option<Device>,
    mounted: bool,
    slow: Option<LatencyFs>,
}

impl Volume {
    /// Makes and mounts it.
    ///
    /// # Errors
    /// When it cannot be had.
    pub fn new(place: Place) -> Result<Self> {
        let privileged = nix::unistd::geteuid().is_root();
        let plain = !privileged && place == Place::Tmpfs;
        let home = if plain { PathBuf::from("/dev/shm") } else { home() };
        let dir = tempfile::Builder::new().prefix("against-peers-").tempdir_in(&home)?;
        let mut volume = Self { dir, place, device: None, mounted: false, slow: None };
        if let Place::Ext4 { mib, .. } | Place::Xfs { mib } = place {
            let mut unused = UNUSED.lock().unwrap_or_else(PoisonError::into_inner);
            let known = unused.iter().position(|(size, _)| *size == mib);
            volume.device = Some(match known {
                Some(index) => unused.swap_remove(index).1,
                None => attach(&volume.dir.path().join("image"), mib)?,
            });
        }
        if !plain {
            volume.make()?;
        }
        Ok(volume)
    }

    /// Where the tools find it.
    pub fn path(&self) -> PathBuf {
        self.slow.as_ref().map_or_else(|| self.behind(), |slow| slow.path().to_owned())
    }

    /// The same without what is slow about it.
    pub fn behind(&self) -> PathBuf {
        self.dir.path().join("mnt")
    }

    /// What the filesystem with latency has been asked.
    pub fn counters(&self) -> Option<Counters> {
        self.slow.as_ref().map(LatencyFs::counters)
    }

    /// mkfs and mount.
    fn make(&mut self) -> Result<()> {
        let path = self.behind();
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
            _ => {
                let options = "size=90%,nr_inodes=0,mode=755";
                mount(Some("against-peers"), &path, Some("tmpfs"), no, Some(options))?;
            }
        }
        self.mounted = true;
        self.slow_down()
    }

    /// Puts the filesystem with latency before it, where one is wanted.
    fn slow_down(&mut self) -> Result<()> {
        let Place::Latency { metadata, data, servers } = self.place else { return Ok(()) };
        let at = self.dir.path().join("slow");
        fs::create_dir_all(&at)?;
        let mut profile = Profile::metadata(metadata).cached(BELIEVED);
        profile = profile.delay(Kind::Read, data).delay(Kind::Write, data);
        profile.servers = servers;
        profile.read_ahead_kib = servers.map(|_| READ_AHEAD_KIB);
        // FUSE lets writes to one file wait for each other unless the kernel writes behind; on a real
        // one, a striped file is written to all its servers at once.
        profile.write_behind = servers.is_some_and(|servers| servers.stripes.is_some());
        let mounted = LatencyFs::mount(&at, &self.behind(), profile);
        self.slow = Some(mounted.map_err(|error| anyhow!("mount a FUSE filesystem: {error}"))?);
        Ok(())
    }

    /// Lets the filesystem with latency begin anew: the kernel has nothing of it in memory.
    ///
    /// # Errors
    /// Those of mounting.
    pub fn forget_caches(&mut self) -> Result<()> {
        if self.slow.take().is_some() {
            self.slow_down()?;
        }
        Ok(())
    }

    /// Makes it anew, empty.
    ///
    /// # Errors
    /// Those of mkfs and mount.
    pub fn renew(&mut self) -> Result<()> {
        self.slow = None;
        if self.mounted {
            umount2(&self.behind(), MntFlags::empty()).context("unmount the last copy")?;
            self.mounted = false;
            return self.make();
        }
        let path = self.behind();
        if path.exists() {
            fs::remove_dir_all(&path)?;
        }
        fs::create_dir(&path).context("make the target's place")
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        self.slow = None;
        if self.mounted && umount2(&self.behind(), MntFlags::empty()).is_err() {
            let _ = umount2(&self.behind(), MntFlags::MNT_DETACH); // the namespace's end does it too
            return;
        }
        if let (Place::Ext4 { mib, .. } | Place::Xfs { mib }, Some(device)) =
            (self.place, self.device.take())
        {
            UNUSED.lock().unwrap_or_else(PoisonError::into_inner).push((mib, device));
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
