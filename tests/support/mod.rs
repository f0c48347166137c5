//! What the tests share: filesystems, trees, the comparison, the command. It knows the command line
//! and the report, and nothing of the engine.
#![allow(dead_code, unused_imports)] // every test crate includes all of it and uses its own part

pub mod command;
pub mod compare;
pub mod content;
pub mod faulty_fs;
pub mod filter;
pub mod flipping_disk;
pub mod items;
pub mod journals;
pub mod latency_fs;
pub mod lustre;
pub mod random_tree;
pub mod scratch;
pub mod tree;

use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

pub use command::{Backend, Longshore, Run, Running, cp_a, for_each_backend};
pub use compare::{Compare, assert_same_tree, diff_trees};
pub use scratch::{Fs, Scratch};
pub use tree::{Tree, TreeOptions};

/// The user that stands for "not root" (nobody).
pub const NOBODY: u32 = 65534;

/// The build directory: everything a test leaves on disk is beneath it.
pub fn target_dir() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR"))
        .parent()
        .expect("the temporary directory is inside target")
        .to_owned()
}

/// Whether the tests run as root. Those that need it skip themselves by name otherwise.
pub fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// Records that the running test left something out, and why. Never silent: the line goes to
/// standard error and to the file named by `LONGSHORE_SKIPS` (else `target/skipped-tests.txt`).
pub fn skip(reason: &str) {
    let thread = std::thread::current();
    let reason = reason.lines().next().unwrap_or("");
    let line = format!("{}: {reason}", thread.name().unwrap_or("unnamed test"));
    eprintln!("SKIPPED {line}");
    let file = std::env::var_os("LONGSHORE_SKIPS")
        .map_or_else(|| target_dir().join("skipped-tests.txt"), PathBuf::from);
    let opened = OpenOptions::new().create(true).append(true).open(&file);
    let written = opened.and_then(|mut skips| writeln!(skips, "{line}"));
    if let Err(error) = written {
        eprintln!("failed to record the skip in {}: {error}", file.display());
    }
}

/// Whether a program is to be had; records a skip when it is not.
pub fn has_program(name: &str) -> bool {
    let dirs = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&dirs)
        .chain(["/usr/sbin", "/sbin"].map(PathBuf::from))
        .any(|dir| dir.join(name).is_file());
    if !found {
        skip(&format!("{name} is not installed"));
    }
    found
}

/// Whether the tests run as root; records a skip when they do not.
pub fn need_root() -> bool {
    if !is_root() {
        skip("needs root");
    }
    is_root()
}

/// Whether a path is a journal's, which a copy that is not complete leaves beside its destination.
pub fn is_journal(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or("");
    name.starts_with(".longshore-") && name.ends_with(".journal")
}

/// Waits for a condition, and fails with its name when it does not come true in time.
pub fn wait_for(what: &str, limit: Duration, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + limit;
    while !condition() {
        assert!(Instant::now() < deadline, "waited {limit:?} in vain for: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// A seed that prints itself when made and when dropped, so that a failure can be repeated.
pub struct Seed(pub u64);

impl Seed {
    /// The same seed on every run, unless `LONGSHORE_SEED` says otherwise.
    pub fn fixed(default: u64) -> Self {
        let seed = std::env::var("LONGSHORE_SEED").ok();
        let seed = seed.map_or(default, |text| text.parse().expect("LONGSHORE_SEED is a number"));
        eprintln!("LONGSHORE_SEED={seed}");
        Self(seed)
    }

    /// Another seed on every run, unless `LONGSHORE_SEED` says otherwise.
    pub fn fresh() -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("the clock is past 1970");
        Self::fixed(u64::from(now.subsec_nanos()) ^ now.as_secs())
    }

    /// The generator that starts from this seed.
    pub fn rng(&self) -> Rng {
        Rng(self.0)
    }
}

impl Drop for Seed {
    fn drop(&mut self) {
        eprintln!("LONGSHORE_SEED={}", self.0);
    }
}

/// A small seeded generator (splitmix64); quality enough to fill files and choose sizes.
#[derive(Clone)]
pub struct Rng(u64);

impl Rng {
    /// A generator of its own for one part of a tree, so that parts do not shift each other.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number.
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `limit`.
    pub fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    /// True once in `n` times.
    pub fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    /// One of the given values.
    pub fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        let index = self.below(u64::try_from(from.len()).expect("a length fits u64"));
        &from[usize::try_from(index).expect("an index fits usize")]
    }

    /// Bytes without a pattern, so that a block in the wrong place is noticed.
    pub fn bytes(&mut self, length: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(length + 8);
        while bytes.len() < length {
            bytes.extend_from_slice(&self.next().to_le_bytes());
        }
        bytes.truncate(length);
        bytes
    }
}
