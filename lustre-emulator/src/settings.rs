//! What an emulated filesystem is like: its servers, its client, and in which ways it misbehaves.

use std::time::Duration;

/// One object storage target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OstSettings {
    /// Bytes per second, both directions together; none: no limit.
    pub bandwidth: Option<u64>,
    /// What each request takes beside the time of its bytes; it overlaps the transfers of others.
    pub latency: Duration,
    /// How many requests it serves at once; further ones queue up.
    pub queue: usize,
    /// Bytes that fit.
    pub capacity: u64,
}

impl Default for OstSettings {
    fn default() -> Self {
        Self { bandwidth: None, latency: Duration::ZERO, queue: 64, capacity: 1 << 40 }
    }
}

/// The metadata server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MdtSettings {
    /// What each request takes.
    pub latency: Duration,
    /// How many requests it serves at once; none: any number.
    pub at_once: Option<usize>,
}

impl Default for MdtSettings {
    fn default() -> Self {
        Self { latency: Duration::ZERO, at_once: None }
    }
}

/// Who counts as one client of the filesystem.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Clients {
    /// Every thread: the strictest view, in which each thread plays a node.
    Thread,
    /// Every process, as on a real node.
    Process,
}

/// How a layout's start index and generation show in `getxattr`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answers {
    /// Up to 2.16: 0 in plain layouts, the generation in components.
    Old,
    /// From 2.17: 0xffff.
    New,
}

/// Ways to do other than what was asked, all of which a real server has.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Misbehaviour {
    /// No component gets more stripes than this.
    pub most_stripes: Option<u16>,
    /// Objects come from all OSTs, whatever pool was asked for.
    pub ignore_pools: bool,
    /// The largest DoM component in bytes; 0 drops it.
    pub dom_limit: Option<u64>,
    /// A file gets other objects after so many writes to it.
    pub migrate_after: Option<u64>,
    /// `fsync` and `close` of a file that was written answer with this error number (`EDQUOT` is 122).
    pub late_error: Option<i32>,
}

/// The whole filesystem.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// The OSTs, in the order of their indices.
    pub osts: Vec<OstSettings>,
    /// The metadata server.
    pub mdt: MdtSettings,
    /// Bytes of one client to one OST that may be unfinished while its writes are answered; 0: every
    /// write waits for its OST. A client of 8 RPCs of 4 MiB in flight fills about this.
    pub window: u64,
    /// Who counts as one client.
    pub clients: Clients,
    /// What taking a lock from another client costs; none: one latency of the OST.
    pub revocation: Option<Duration>,
    /// Whether reads take locks too.
    pub read_locks: bool,
    /// How layouts are answered.
    pub answers: Answers,
    /// Stripes of a file for which nobody has said anything (Lustre: 1).
    pub stripe_count: u16,
    /// Stripe size of such a file in bytes (Lustre from 2.16: 4 MiB).
    pub stripe_size: u32,
    /// Known pools: names and OST indices.
    pub pools: Vec<(String, Vec<u32>)>,
    /// How long restoring a released file takes.
    pub restore: Duration,
    /// How long the kernel may believe names and attributes: as if it held locks on them.
    pub cached: Duration,
    /// Whether files that are open for reading only go through the page cache.
    pub cached_reads: bool,
    /// How many KiB the kernel reads ahead in them (Lustre: up to 256 MiB in one file).
    pub read_ahead_kib: u32,
    /// How many threads serve requests.
    pub threads: usize,
    /// Device in the mount table.
    pub device: String,
    /// Name of the filesystem, at most 8 bytes.
    pub name: String,
    /// Instance of the mount.
    pub instance: String,
    /// Records of the log that are kept in memory. A log that is full begins anew, and counts what it
    /// has lost.
    pub log_limit: usize,
    /// Ways to do other than what was asked.
    pub misbehave: Misbehaviour,
}

impl Settings {
    /// So many OSTs that are all alike, and everything else as Lustre has it.
    #[must_use]
    pub fn new(osts: usize, ost: &OstSettings) -> Self {
        Self {
            osts: vec![ost.clone(); osts.max(1)],
            mdt: MdtSettings::default(),
            window: 8 << 20,
            clients: Clients::Thread,
            revocation: None,
            read_locks: true,
            answers: Answers::New,
            stripe_count: 1,
            stripe_size: 4 << 20,
            pools: Vec::new(),
            restore: Duration::from_millis(200),
            cached: Duration::from_secs(1),
            cached_reads: true,
            read_ahead_kib: 65536,
            threads: 4,
            device: "10.0.0.1@tcp:/emul".to_owned(),
            name: "emul".to_owned(),
            instance: "ffff8d2b40b8d800".to_owned(),
            log_limit: 1_000_000,
            misbehave: Misbehaviour::default(),
        }
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self::new(8, &OstSettings::default())
    }
}
