//! A FUSE filesystem that passes everything through to a directory and takes its time over it, as a
//! parallel filesystem does: a delay for every request by its kind, a metadata server that serves only
//! so many at once, and data servers (or file handles) with a bandwidth. Delays overlap; nothing is cached
//! unless asked. It counts what it was asked. It does not fail on purpose: that is `faulty_fs`.

#[path = "latency_fs/counters.rs"]
mod counters;
#[path = "latency_fs/front.rs"]
mod front;
#[path = "latency_fs/pace.rs"]
mod pace;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use fuser::{BackgroundSession, Config, MountOption, SessionACL};

use lustre_emulator::passthrough::{Served, read_ahead};

use super::scratch::Scratch;
use super::{is_root, skip};
pub use counters::{Count, Counters};
use front::Slow;
pub use lustre_emulator::passthrough::Kind;
use pace::Pace;

/// How long everything takes. Settable while mounted; requests that wait keep what they were given.
#[derive(Debug, Clone, PartialEq)]
pub struct Profile {
    /// The delay of each kind, by its number; see [`Profile::delay`].
    pub delays: [Duration; Kind::ALL.len()],
    /// How many metadata requests are served at once; further ones queue up.
    pub metadata_at_once: Option<usize>,
    /// By which part of itself the delay of a metadata request grows for each request that queues:
    /// a server that loses its way in a crowd. Only with `metadata_at_once`.
    pub metadata_crowding: f64,
    /// The data servers.
    pub servers: Option<Servers>,
    /// Bytes per second of one open file, both directions together.
    pub handle_bandwidth: Option<u64>,
    /// How long the kernel may believe names and attributes without asking again.
    pub cached: Duration,
    /// Whether the kernel writes behind. Otherwise every write waits for its answer, and writes to one
    /// file wait for each other. Only the profile of the mount counts.
    pub write_behind: bool,
    /// How many KiB the kernel reads ahead; none: as FUSE has it (128 KiB). Only the profile of the mount
    /// counts.
    pub read_ahead_kib: Option<u32>,
}

/// Data servers with a bandwidth each: requests to one queue up, those to several do not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Servers {
    /// How many.
    pub count: usize,
    /// Bytes per second of each, both directions together.
    pub bandwidth: u64,
    /// On how many of them, and in pieces of how many bytes, a file lies. None: on one, and files
    /// go round the servers in the order in which their data is first touched.
    pub stripes: Option<(usize, u64)>,
}

impl Profile {
    /// No delay at all.
    pub fn immediate() -> Self {
        Self {
            delays: [Duration::ZERO; Kind::ALL.len()],
            metadata_at_once: None,
            metadata_crowding: 0.0,
            servers: None,
            handle_bandwidth: None,
            cached: Duration::ZERO,
            write_behind: false,
            read_ahead_kib: None,
        }
    }

    /// Every metadata request takes this long.
    pub fn metadata(delay: Duration) -> Self {
        Kind::ALL
            .into_iter()
            .filter(|kind| kind.is_metadata())
            .fold(Self::immediate(), |profile, kind| profile.delay(kind, delay))
    }

    /// The same with another delay for one kind.
    pub fn delay(mut self, kind: Kind, delay: Duration) -> Self {
        self.delays[kind as usize] = delay;
        self
    }

    /// The same with data servers.
    pub fn servers(mut self, servers: Servers) -> Self {
        self.servers = Some(servers);
        self
    }

    /// The same with names and attributes believed for a while, as a filesystem with locks on them does.
    pub fn cached(mut self, cached: Duration) -> Self {
        self.cached = cached;
        self
    }

    /// The delay of one kind.
    pub fn delay_of(&self, kind: Kind) -> Duration {
        self.delays[kind as usize]
    }
}

/// The mounted filesystem; unmounted when dropped.
pub struct LatencyFs {
    session: Option<BackgroundSession>,
    at: PathBuf,
    backing: PathBuf,
    pace: Arc<Pace>,
}

impl LatencyFs {
    /// Mounts it at `name` in the scratch directory, before a new directory beside it; nothing and a
    /// recorded skip when this machine has no FUSE.
    pub fn new(scratch: &Scratch, name: &str, profile: Profile) -> Option<Self> {
        if !is_root() || !Path::new("/dev/fuse").exists() {
            skip("FUSE needs root and /dev/fuse");
            return None;
        }
        let (at, backing) = (scratch.join(name), scratch.join(format!("{name}-backing")));
        for dir in [&at, &backing] {
            fs::create_dir(dir).expect("failed to make a directory");
        }
        Self::mount(&at, &backing, profile)
            .inspect_err(|error| skip(&format!("failed to mount a FUSE filesystem: {error}")))
            .ok()
    }

    /// Mounts it at one existing directory before another.
    ///
    /// # Errors
    /// Without root or FUSE.
    pub fn mount(at: &Path, backing: &Path, profile: Profile) -> Result<Self, String> {
        let ahead = profile.read_ahead_kib;
        let pace = Arc::new(Pace::new(profile));
        let slow = Slow::new(backing, pace.clone()).map_err(|error| error.to_string())?;
        let mut config = Config::default();
        config.mount_options = vec![
            MountOption::FSName("longshore-latency".to_owned()),
            MountOption::Dev,
            MountOption::Suid,
        ];
        config.acl = SessionACL::All;
        // The backing directory answers at once, and waiting is done in the calendar: as many threads
        // as small machines have cores.
        config.n_threads = Some(2);
        let session = fuser::spawn_mount(Served::new(slow), at, &config);
        let session = session.map_err(|error| error.to_string())?;
        let (at, backing) = (at.to_owned(), backing.to_owned());
        let mounted = Self { session: Some(session), at, backing, pace };
        if let Some(ahead) = ahead {
            read_ahead(&mounted.at, ahead)
                .map_err(|error| format!("set the readahead: {error}"))?;
        }
        Ok(mounted)
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        &self.at
    }

    /// What lies behind it: reading and writing here takes no time and is not counted. Change nothing
    /// here while the names are in use there.
    pub fn backing(&self) -> &Path {
        &self.backing
    }

    /// Other delays from now on.
    pub fn set(&self, profile: Profile) {
        self.pace.set(profile);
    }

    /// What has been asked since the mount or the last [`LatencyFs::reset_counters`].
    pub fn counters(&self) -> Counters {
        self.pace.counters()
    }

    /// Counts from zero; requests that wait now are still counted as waiting.
    pub fn reset_counters(&self) {
        self.pace.reset_counters();
    }
}

impl Drop for LatencyFs {
    fn drop(&mut self) {
        self.pace.set(Profile::immediate()); // what comes with the unmount is not slowed
        let _ = std::process::Command::new("umount").arg("-l").arg(&self.at).output();
        drop(self.session.take());
    }
}
