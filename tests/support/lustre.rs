//! An emulated Lustre filesystem for a test, and copies that take it for one. Layouts are told in the
//! words of `lfs setstripe`.

use std::ffi::{CString, OsString};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use longshore::lustre::layout::{Layout, Of};
use lustre_emulator::{Emulator, Kind, OstSettings, Record, Settings};

use super::{Backend, Fs, Longshore, Scratch, is_root, skip};

/// A mounted emulator; unmounted when dropped.
pub struct Lustre {
    // Dropped before the scratch directory that it lies in.
    emulator: Option<Emulator>,
    at: PathBuf,
    behind: PathBuf,
    settings: Settings,
    _scratch: Scratch,
}

/// So many OSTs without limits.
pub fn osts(count: usize) -> Settings {
    Settings::new(count, &OstSettings::default())
}

/// So many OSTs with a bandwidth in MB/s and a latency of one millisecond, like the metadata server's.
pub fn servers(osts: usize, megabytes: u64) -> Settings {
    let latency = Duration::from_millis(1);
    let bandwidth = Some(megabytes * 1_000_000);
    let mut settings =
        Settings::new(osts, &OstSettings { bandwidth, latency, ..OstSettings::default() });
    settings.mdt.latency = latency;
    settings
}

impl Lustre {
    /// Mounts one, or nothing and a recorded skip when this machine cannot.
    pub fn new(settings: Settings) -> Option<Self> {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        if !is_root() {
            skip("needs root");
            return None;
        }
        if !Path::new("/dev/fuse").exists() {
            skip("needs /dev/fuse");
            return None;
        }
        let scratch = Scratch::new(Fs::Tmpfs)?;
        let (at, behind) = (scratch.join("lustre"), scratch.join("behind"));
        fs::create_dir(&at).expect("failed to make a directory");
        fs::create_dir(&behind).expect("failed to make a directory");
        // Each filesystem has a name of its own.
        let name = format!("emul{}", NEXT.fetch_add(1, Relaxed));
        let device = format!("10.0.0.1@tcp:/{name}");
        let settings = Settings { device, name, ..settings };
        let mut lustre = Self { emulator: None, at, behind, settings, _scratch: scratch };
        lustre.mount();
        Some(lustre)
    }

    /// Mounts it again, as after a crash of the client.
    pub fn mount(&mut self) {
        self.emulator = None;
        let emulator = Emulator::mount(&self.at, &self.behind, self.settings.clone());
        self.emulator = Some(emulator.expect("failed to mount the emulator"));
    }

    /// The emulator.
    pub fn emulator(&self) -> &Emulator {
        self.emulator.as_ref().expect("it is mounted")
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        &self.at
    }

    /// A path in it.
    pub fn join(&self, name: impl AsRef<Path>) -> PathBuf {
        self.at.join(name)
    }

    /// The name of the filesystem.
    pub fn fsname(&self) -> &str {
        &self.settings.name
    }

    /// A copy that takes it for Lustre.
    pub fn copy(&self, backend: Backend) -> Longshore {
        copy(backend, &[self])
    }

    /// How often layouts were asked for and set since the log was cleared.
    pub fn layout_calls(&self) -> (usize, usize) {
        let log = self.emulator().log();
        let count = |kind| log.attribute(kind, "lustre.lov");
        (count(Kind::Getxattr), count(Kind::Setxattr))
    }
}

/// The writes of users' data: the journal, which all threads of a copy share, is left out.
pub fn data_writes(lustre: &Lustre) -> Vec<Record> {
    let is_journal = |record: &Record| {
        let name = record.path.as_ref().and_then(|path| path.file_name());
        name.is_some_and(|name| name.to_string_lossy().ends_with(".journal"))
    };
    lustre.emulator().log().writes().into_iter().filter(|record| !is_journal(record)).collect()
}

/// A copy that takes several filesystems for Lustre.
pub fn copy(backend: Backend, all: &[&Lustre]) -> Longshore {
    Longshore::copy(backend).env("LONGSHORE_LUSTRE_MOUNTS", &told(all))
}

/// The value of the variable that tells which mounts are Lustre.
pub fn told(all: &[&Lustre]) -> String {
    let points: Vec<OsString> = all.iter().map(|lustre| lustre.at.clone().into()).collect();
    points.join(":".as_ref()).into_string().expect("a test's path is text")
}

/// The layout of a file, as `lustre.lov` has it; none where there is none.
pub fn layout(path: &Path) -> Option<Layout> {
    read(path).map(|value| Layout::parse(&value, Of::File).expect("a layout"))
}

/// The layout of a file in the words of `lfs setstripe`; empty where there is none.
pub fn spec(path: &Path) -> String {
    layout(path).map(|layout| layout.template().to_spec()).unwrap_or_default()
}

/// The default of a directory in these words; its filesystem's where it has none of its own.
pub fn default_spec(path: &Path) -> String {
    let layout = read(path).map(|value| Layout::parse(&value, Of::Directory).expect("a layout"));
    layout.map(|layout| layout.template().to_spec()).unwrap_or_default()
}

/// Makes an empty file with a layout, or gives a directory a default.
pub fn set(path: &Path, spec: &str) {
    let layout = Layout::from_spec(spec).expect("a layout");
    if !path.exists() {
        let mode = nix::sys::stat::Mode::from_bits_truncate(0o644);
        nix::sys::stat::mknod(path, nix::sys::stat::SFlag::S_IFREG, mode, 0).expect("a file");
    }
    xattr::set(path, "lustre.lov", &layout.request()).expect("failed to set the layout");
}

fn read(path: &Path) -> Option<Vec<u8>> {
    xattr::get(path, "lustre.lov").expect("failed to read the layout")
}

/// A path as the kernel takes it.
pub fn c_path(path: &Path) -> CString {
    CString::new(path.as_os_str().as_bytes()).expect("no NUL in a path")
}
