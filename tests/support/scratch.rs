//! Scratch directories on real filesystems: tmpfs and loop-mounted ext4, XFS and btrfs. Mounts of a
//! process that was killed are swept by the next one; nothing outside `target/test-fs` is touched.

use std::collections::HashMap;
use std::fmt;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};

use super::{is_root, skip, target_dir};

/// Where a scratch directory lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Fs {
    /// A tmpfs of its own.
    Tmpfs,
    /// ext4 on a loop device, with ACLs and user attributes.
    Ext4,
    /// XFS with reflink on a loop device.
    Xfs,
    /// btrfs on a loop device.
    Btrfs,
    /// Whatever the build directory lies on.
    RootDisk,
}

impl fmt::Display for Fs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tmpfs => "tmpfs",
            Self::Ext4 => "ext4",
            Self::Xfs => "xfs",
            Self::Btrfs => "btrfs",
            Self::RootDisk => "root disk",
        })
    }
}

impl Fs {
    /// Every filesystem with a mount of its own.
    pub const ALL: [Self; 4] = [Self::Tmpfs, Self::Ext4, Self::Xfs, Self::Btrfs];

    fn mkfs(self) -> &'static [&'static str] {
        match self {
            Self::Ext4 => &["mkfs.ext4", "-q", "-F", "-I", "256"],
            Self::Xfs => &["mkfs.xfs", "-q", "-f", "-m", "reflink=1,bigtime=1"],
            Self::Btrfs => &["mkfs.btrfs", "-q", "-f"],
            Self::Tmpfs | Self::RootDisk => &[],
        }
    }
}

/// A mounted filesystem (or a plain directory for [`Fs::RootDisk`]); unmounted when dropped.
pub struct Mount {
    home: PathBuf,
    mounted: bool,
}

/// Making and removing mounts is serialised: they share a directory and the loop devices.
static MOUNTING: Mutex<()> = Mutex::new(());

impl Mount {
    /// Where the filesystem is.
    pub fn path(&self) -> PathBuf {
        self.home.join("mnt")
    }

    /// The image behind a loop mount.
    pub fn image(&self) -> PathBuf {
        self.home.join("image")
    }

    fn empty() -> Self {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let _guard = MOUNTING.lock().unwrap_or_else(PoisonError::into_inner);
        let home = process_dir().join(NEXT.fetch_add(1, Relaxed).to_string());
        fs::create_dir_all(home.join("mnt")).expect("failed to make the mount point");
        Self { home, mounted: false }
    }

    /// A tmpfs with the given mount options.
    pub fn tmpfs(options: &str) -> Result<Self, String> {
        let mut mount = Self::empty(); // first, so that on a failure it is dropped after the guard
        let _guard = MOUNTING.lock().unwrap_or_else(PoisonError::into_inner);
        let path = mount.path();
        run(Command::new("mount")
            .args(["-t", "tmpfs", "-o", options, "longshore-test"])
            .arg(&path))?;
        mount.mounted = true;
        Ok(mount)
    }

    /// A filesystem on a sparse image: `mkfs` is the command without the image.
    pub fn image_of(mkfs: &[&str], bytes: u64, options: &str) -> Result<Self, String> {
        let mut mount = Self::empty(); // first, so that on a failure it is dropped after the guard
        let _guard = MOUNTING.lock().unwrap_or_else(PoisonError::into_inner);
        let image = mount.image();
        let file = fs::File::create(&image).map_err(|error| error.to_string())?;
        file.set_len(bytes).map_err(|error| error.to_string())?;
        run(with_sbin(Command::new(mkfs[0]).args(&mkfs[1..]).arg(&image)))?;
        let path = mount.path();
        run(Command::new("mount").arg("-o").arg(format!("loop,{options}")).arg(&image).arg(&path))?;
        mount.mounted = true;
        Ok(mount)
    }

    /// Mounts again with other options (`ro`, `rw`).
    pub fn remount(&self, options: &str) {
        let mut command = Command::new("mount");
        run(command.arg("-o").arg(format!("remount,{options}")).arg(self.path()))
            .expect("failed to remount");
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _guard = MOUNTING.lock().unwrap_or_else(PoisonError::into_inner);
        if self.mounted {
            unmount(&self.path());
        }
        remove(&self.home);
        let _ =
            fs::remove_dir(self.home.parent().expect("a mount lies in its process's directory"));
    }
}

/// A bind mount that lasts as long as the value.
pub struct Bind(PathBuf);

impl Bind {
    /// Makes `from` visible at the existing directory `at`.
    pub fn new(from: &Path, at: &Path) -> Self {
        run(Command::new("mount").arg("--bind").arg(from).arg(at)).expect("failed to bind");
        Self(at.to_owned())
    }
}

impl Drop for Bind {
    fn drop(&mut self) {
        unmount(&self.0);
    }
}

/// An empty directory on a chosen filesystem; removed when dropped.
pub struct Scratch {
    dir: PathBuf,
    mount: Arc<Mount>,
    /// The filesystem it lies on.
    pub fs: Fs,
}

impl Scratch {
    /// A directory on `fs`, or nothing and a recorded skip when this machine cannot have one.
    /// Directories of one process share the mount.
    pub fn new(fs: Fs) -> Option<Self> {
        static CACHE: OnceLock<Mutex<HashMap<Fs, Weak<Mount>>>> = OnceLock::new();
        let mut cache =
            CACHE.get_or_init(Mutex::default).lock().unwrap_or_else(PoisonError::into_inner);
        let cached = cache.get(&fs).and_then(Weak::upgrade);
        let mount = match cached.map_or_else(|| mount(fs).map(Arc::new), Ok) {
            Ok(mount) => mount,
            Err(reason) => {
                skip(&format!("no {fs} to test on: {reason}"));
                return None;
            }
        };
        cache.insert(fs, Arc::downgrade(&mount));
        drop(cache);
        Some(Self::in_mount(mount, fs))
    }

    /// A directory on the disk of the build directory, which is always there.
    pub fn on_disk() -> Self {
        Self::new(Fs::RootDisk).expect("the build directory is always there")
    }

    /// A directory on a filesystem made for this test alone.
    pub fn in_mount(mount: Arc<Mount>, fs: Fs) -> Self {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let dir = mount.path().join(format!("s{}", NEXT.fetch_add(1, Relaxed)));
        fs::create_dir(&dir).expect("failed to make the scratch directory");
        Self { dir, mount, fs }
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.dir
    }

    /// A path inside it.
    pub fn join(&self, name: impl AsRef<Path>) -> PathBuf {
        self.dir.join(name)
    }

    /// The filesystem beneath it.
    pub fn mount(&self) -> &Mount {
        &self.mount
    }

    /// Lets every user write into it.
    pub fn open_to_all(&self) -> &Self {
        fs::set_permissions(&self.dir, fs::Permissions::from_mode(0o777))
            .expect("failed to open the directory");
        self
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        remove(&self.dir);
    }
}

fn mount(fs: Fs) -> Result<Mount, String> {
    if fs == Fs::RootDisk {
        return Ok(Mount::empty());
    }
    if !is_root() {
        return Err("needs root".to_owned());
    }
    match fs {
        Fs::Tmpfs => Mount::tmpfs("size=14g,nr_inodes=0,mode=755"),
        Fs::Ext4 => Mount::image_of(fs.mkfs(), 1 << 30, "acl,user_xattr"),
        _ => Mount::image_of(fs.mkfs(), 1 << 30, "relatime"),
    }
}

/// The directory of this process, after what killed processes left has been swept.
fn process_dir() -> PathBuf {
    static SWEPT: OnceLock<PathBuf> = OnceLock::new();
    let all = SWEPT.get_or_init(|| {
        let all = target_dir().join("test-fs");
        fs::create_dir_all(&all).expect("failed to make the directory of test filesystems");
        for entry in fs::read_dir(&all).into_iter().flatten().flatten() {
            let alive =
                entry.file_name().to_str().is_some_and(|pid| Path::new("/proc").join(pid).exists());
            let own = entry.file_name().to_str() == Some(&std::process::id().to_string());
            if !alive || own {
                sweep(&entry.path());
            }
        }
        all
    });
    all.join(std::process::id().to_string())
}

fn sweep(dir: &Path) {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let beneath = mounts.lines().filter_map(|line| line.split(' ').nth(1)).map(Path::new);
    for path in beneath.filter(|path| path.starts_with(dir)).collect::<Vec<_>>().into_iter().rev() {
        unmount(path);
    }
    remove(dir);
}

fn unmount(path: &Path) {
    if run(Command::new("umount").arg(path)).is_err() {
        let _ = run(Command::new("umount").arg("-l").arg(path)); // still busy: gone with its last user
    }
}

/// `rm -rf`: it copes with depth, odd names and read-only directories.
pub fn remove(path: &Path) {
    let _ = run(Command::new("rm").arg("-rf").arg("--one-file-system").arg("--").arg(path));
}

fn with_sbin(command: &mut Command) -> &mut Command {
    let path = std::env::var("PATH").unwrap_or_default();
    command.env("PATH", format!("{path}:/usr/sbin:/sbin"))
}

/// Runs a command to its end; its standard error is the error.
pub fn run(command: &mut Command) -> Result<(), String> {
    let output = command.output().map_err(|error| format!("{command:?}: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("{command:?}: {}", String::from_utf8_lossy(&output.stderr).trim()))
}
