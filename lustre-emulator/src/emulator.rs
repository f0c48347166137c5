//! The mounted filesystem as a test or a program holds it.

use std::fs;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use fuser::{BackgroundSession, Config, INodeNo, Session, SessionACL};
use nix::mount::{MntFlags, MsFlags, mount, umount2};

use crate::client::Client;
use crate::layout::For;
use crate::log::Log;
use crate::mdt::Mdt;
use crate::ost::Ost;
use crate::passthrough::{Served, read_ahead};
use crate::settings::Settings;
use crate::shared::Shared;

/// How long an unmount waits for the last request.
const UNMOUNTED: Duration = Duration::from_secs(2);

/// An emulated Lustre filesystem; unmounted when dropped.
pub struct Emulator {
    session: Option<BackgroundSession>,
    at: PathBuf,
    shared: Arc<Shared>,
}

impl Emulator {
    /// Mounts it at one existing directory before another, in which it finds again what an earlier mount
    /// has left there: content, layouts, projects.
    ///
    /// # Errors
    /// Without root or `/dev/fuse`, and when the directory behind cannot keep `trusted.` attributes.
    pub fn mount(at: &Path, backing: &Path, settings: Settings) -> io::Result<Self> {
        let mut config = Config::default();
        config.acl = SessionACL::All;
        config.n_threads = Some(settings.threads.max(1));
        config.clone_fd = true;
        let ahead = settings.read_ahead_kib;
        let shared = Shared::new(settings, fs::canonicalize(backing)?)?;
        let device = shared.settings().device.clone();
        let kernel = mount_there(at, &device)?;
        // From here on whatever fails unmounts it again.
        let mut mounted = Self { session: None, at: at.to_owned(), shared };
        let served = Served::new(Client(mounted.shared.clone()));
        let session = Session::from_fd(served, kernel, SessionACL::All, config)?;
        mounted.session = Some(session.spawn()?);
        let _ = read_ahead(at, ahead); // reads are slower without, and still right
        Ok(mounted)
    }

    /// Where it is mounted.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.at
    }

    /// What lies behind it: reading here takes no time and is not logged. Change nothing here.
    #[must_use]
    pub fn backing(&self) -> &Path {
        &self.shared.top
    }

    /// An OST by its index.
    ///
    /// # Panics
    /// When there is none with this index.
    #[must_use]
    pub fn ost(&self, index: usize) -> &Arc<Ost> {
        &self.shared.osts[index]
    }

    /// All OSTs.
    #[must_use]
    pub fn osts(&self) -> &[Arc<Ost>] {
        &self.shared.osts
    }

    /// The metadata server.
    #[must_use]
    pub fn mdt(&self) -> &Arc<Mdt> {
        &self.shared.mdt
    }

    /// What it was asked.
    #[must_use]
    pub fn log(&self) -> &Log {
        &self.shared.log
    }

    /// The settings as they are now. Those of the OSTs and of the metadata server are those of the
    /// mount.
    #[must_use]
    pub fn settings(&self) -> Arc<Settings> {
        self.shared.settings()
    }

    /// Changes settings while it is mounted. OSTs and the metadata server have methods of their own;
    /// of the rest, device, threads, readahead and the log's limit count at the mount only.
    pub fn change(&self, change: impl FnOnce(&mut Settings)) {
        self.shared.change(change);
    }

    /// How many released files have been asked back from the archive.
    #[must_use]
    pub fn restores(&self) -> u64 {
        self.shared.restores.load(Relaxed)
    }

    fn relative<'a>(&self, path: &'a Path) -> &'a Path {
        path.strip_prefix(&self.at).unwrap_or(path)
    }

    /// Moves a file's data to the archive: the next access to it waits until it is restored. `path` is
    /// in the mount or relative to its top.
    ///
    /// # Errors
    /// When there is no such file, or it has no layout.
    pub fn release(&self, path: &Path) -> io::Result<()> {
        self.shared.release(self.relative(path))?;
        self.forget(path)
    }

    /// Gives a file's components other objects, as a migration does: the layout's generation grows,
    /// content and data version stay.
    ///
    /// # Errors
    /// When there is no such file, or it has no layout.
    pub fn migrate(&self, path: &Path) -> io::Result<()> {
        self.shared.migrate(self.relative(path))
    }

    /// The bytes of a file's layout as `getxattr` would answer them, without asking the filesystem.
    ///
    /// # Errors
    /// When there is no such file.
    pub fn layout(&self, path: &Path) -> io::Result<Option<Vec<u8>>> {
        let (inode, _) = self.shared.by_path(self.relative(path))?;
        let reader = For::Caller(self.shared.settings().answers, inode.ino);
        Ok(inode.state().layout.as_ref().map(|layout| layout.encode(reader)))
    }

    /// Has the kernel ask again for a file's attributes.
    fn forget(&self, path: &Path) -> io::Result<()> {
        let (inode, _) = self.shared.by_path(self.relative(path))?;
        if let Some(session) = &self.session {
            let _ = session.notifier().inval_inode(INodeNo(inode.ino), 0, 0);
        }
        Ok(())
    }

    /// Unmounts it and waits until it is gone.
    pub fn unmount(self) {
        drop(self);
    }
}

impl Drop for Emulator {
    fn drop(&mut self) {
        // What comes with the unmount is not slowed, and nobody is left waiting.
        for ost in &self.shared.osts {
            ost.set_bandwidth(None);
            ost.set_latency(Duration::ZERO);
            ost.resume();
        }
        self.shared.mdt.set_latency(Duration::ZERO);
        self.shared.mdt.resume();
        let _ = umount2(&self.at, MntFlags::MNT_DETACH);
        self.shared.calendar.close();
        // Files that are still open keep the filesystem; nobody is to wait for them for ever.
        if let Some(session) = self.session.take() {
            let deadline = Instant::now() + UNMOUNTED;
            while !session.guard.is_finished() && Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(1));
            }
        }
    }
}

/// Mounts a FUSE filesystem whose type is shown as `fuse.lustre`, which the library cannot; returns the
/// kernel's end.
fn mount_there(at: &Path, device: &str) -> io::Result<OwnedFd> {
    let kernel: OwnedFd = fs::File::options().read(true).write(true).open("/dev/fuse")?.into();
    let mode = fs::metadata(at)?.mode();
    let data = format!(
        "fd={},rootmode={mode:o},user_id=0,group_id=0,default_permissions,allow_other",
        kernel.as_raw_fd()
    );
    mount(Some(device), at, Some("fuse.lustre"), MsFlags::empty(), Some(data.as_str()))?;
    Ok(kernel)
}
