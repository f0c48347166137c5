//! What the tests of the emulator share: a mounted one, plain calls, bytes in hexadecimal.
#![allow(dead_code, unreachable_pub)] // every test crate includes all of it and uses its own part

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

use lustre_emulator::{Emulator, Settings};
use nix::libc::{O_ASYNC, O_NOCTTY};

/// Opens a file without giving it a layout (`O_LOV_DELAY_CREATE`).
pub const DELAY: i32 = O_ASYNC | O_NOCTTY;

pub const KIB: u64 = 1 << 10;
pub const MIB: u64 = 1 << 20;

/// A mounted emulator before a directory of its own.
pub struct Mounted {
    pub fs: Emulator,
    at: PathBuf,
    behind: PathBuf,
    scratch: tempfile::TempDir,
}

/// Records that the running test left something out, and why.
pub fn skip(reason: &str) {
    let thread = std::thread::current();
    let line = format!("{}: {reason}", thread.name().unwrap_or("unnamed test"));
    eprintln!("SKIPPED {line}");
    let Some(path) = std::env::var_os("LONGSHORE_SKIPS") else { return };
    if let Ok(mut skips) = OpenOptions::new().create(true).append(true).open(path) {
        let _ = writeln!(skips, "{line}");
    }
}

/// Whether a program is to be had; records a skip when it is not.
pub fn has_program(name: &str) -> bool {
    let dirs = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&dirs).any(|dir| dir.join(name).is_file());
    if !found {
        skip(&format!("{name} is not installed"));
    }
    found
}

/// Whether a filesystem can be mounted here; records a skip when not.
pub fn can_mount() -> bool {
    let can = nix::unistd::geteuid().is_root() && Path::new("/dev/fuse").exists();
    if !can {
        skip("FUSE needs root and /dev/fuse");
    }
    can
}

/// A directory for one test, in memory where there is such a place.
pub fn scratch() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    let scratch = match memory.is_dir() {
        true => tempfile::tempdir_in(memory),
        false => tempfile::tempdir(),
    };
    scratch.expect("a temporary directory")
}

/// Mounts one; nothing and a recorded skip where that is not possible.
pub fn mounted(settings: Settings) -> Option<Mounted> {
    if !can_mount() {
        return None;
    }
    let scratch = scratch();
    let (at, behind) = (scratch.path().join("mount"), scratch.path().join("behind"));
    for dir in [&at, &behind] {
        fs::create_dir(dir).expect("a directory");
    }
    if xattr::set(&behind, "trusted.emulator.probe", b"x").is_err() {
        skip("no trusted attributes in the temporary directory");
        return None;
    }
    match Emulator::mount(&at, &behind, settings) {
        Ok(fs) => Some(Mounted { fs, at, behind, scratch }),
        Err(error) => {
            skip(&format!("failed to mount a FUSE filesystem: {error}"));
            None
        }
    }
}

impl Mounted {
    /// A path in the mount.
    pub fn path(&self, name: &str) -> PathBuf {
        self.at.join(name)
    }

    /// Lets other users come as far as the mount.
    pub fn open_to_all(&self) {
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        fs::set_permissions(self.scratch.path(), mode).expect("a directory of this test");
    }

    /// Unmounts it, and mounts what it has left.
    pub fn again(self, settings: Settings) -> Self {
        let Self { fs, at, behind, scratch } = self;
        fs.unmount();
        let fs = Emulator::mount(&at, &behind, settings).expect("it could be mounted before");
        Self { fs, at, behind, scratch }
    }

    /// A new file without a layout.
    pub fn delayed(&self, name: &str) -> File {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create_new(true).custom_flags(DELAY);
        options.open(self.path(name)).expect("a new file")
    }

    /// A new file with the layout of this request.
    pub fn striped(&self, name: &str, request: &[u8]) -> File {
        let file = self.delayed(name);
        xattr::FileExt::set_xattr(&file, "lustre.lov", request).expect("a layout");
        file
    }

    /// The bytes of a layout.
    pub fn layout(&self, name: &str) -> Vec<u8> {
        self.try_layout(name).expect("a layout")
    }

    pub fn try_layout(&self, name: &str) -> Option<Vec<u8>> {
        xattr::get(self.path(name), "lustre.lov").expect("readable attributes")
    }

    /// The OSTs of a plain file.
    pub fn osts_of(&self, name: &str) -> Vec<u32> {
        osts(&self.layout(name))
    }
}

/// Bytes written in hexadecimal, with blanks anywhere.
pub fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(|digit| !digit.is_ascii_whitespace()).collect();
    let byte = |pair: &[u8]| {
        let text = std::str::from_utf8(pair).expect("digits");
        u8::from_str_radix(text, 16).expect("hexadecimal digits")
    };
    digits.chunks(2).map(byte).collect()
}

/// A request for a plain layout on any OSTs.
pub fn plain(count: u16, size: u64) -> Vec<u8> {
    plain_at(count, size, 0xffff)
}

/// A request for a plain layout from this OST on.
pub fn plain_at(count: u16, size: u64, first: u16) -> Vec<u8> {
    let mut bytes = hex("d00bd10b 01000000 00000000 00000000 00000000 00000000");
    bytes.extend(u32::try_from(size).expect("a stripe size").to_le_bytes());
    bytes.extend(count.to_le_bytes());
    bytes.extend(first.to_le_bytes());
    bytes
}

/// The same with the name of a pool.
pub fn pooled(count: u16, size: u64, pool: &str) -> Vec<u8> {
    let mut bytes = plain(count, size);
    bytes[2] = 0xd3;
    bytes.extend(pool.as_bytes());
    bytes.resize(48, 0);
    bytes
}

/// A request for these OSTs and no others.
pub fn specific(size: u64, osts: &[u32]) -> Vec<u8> {
    let mut bytes = pooled(u16::try_from(osts.len()).expect("a count"), size, "");
    bytes[2] = 0xd5;
    for ost in osts {
        bytes.extend([0; 20]);
        bytes.extend(ost.to_le_bytes());
    }
    bytes
}

/// A component of a request: extent, bytes of its part.
pub type Wanted = (u64, u64, Vec<u8>);

/// A request for a composite layout; `flags` of each component are 0 unless given.
pub fn composite(components: &[Wanted]) -> Vec<u8> {
    let flagged: Vec<(u32, Wanted)> =
        components.iter().map(|component| (0, component.clone())).collect();
    composite_with(0, &flagged)
}

/// The same with a number of further mirrors, and flags.
pub fn composite_with(mirrors: u16, components: &[(u32, Wanted)]) -> Vec<u8> {
    let heads = 32 + 48 * components.len();
    let size = heads + components.iter().map(|(_, (_, _, part))| part.len()).sum::<usize>();
    let mut bytes = hex("d00bd60b");
    bytes.extend(u32::try_from(size).expect("a size").to_le_bytes());
    bytes.extend([0; 6]);
    bytes.extend(u16::try_from(components.len()).expect("a count").to_le_bytes());
    bytes.extend(mirrors.to_le_bytes());
    bytes.resize(32, 0);
    let mut at = heads;
    for (flags, (start, end, part)) in components {
        bytes.extend(0_u32.to_le_bytes());
        bytes.extend(flags.to_le_bytes());
        bytes.extend(start.to_le_bytes());
        bytes.extend(end.to_le_bytes());
        bytes.extend(u32::try_from(at).expect("an offset").to_le_bytes());
        bytes.extend(u32::try_from(part.len()).expect("a size").to_le_bytes());
        bytes.extend([0; 16]);
        at += part.len();
    }
    for (_, (_, _, part)) in components {
        bytes.extend(part);
    }
    bytes
}

pub fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(bytes[at..at + 2].try_into().expect("two bytes"))
}

pub fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

pub fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

/// The OSTs of a plain layout or of one component's part.
pub fn osts(part: &[u8]) -> Vec<u32> {
    let objects = if part[2] == 0xd1 { 32 } else { 48 };
    part[objects..].chunks_exact(24).map(|slot| u32_at(slot, 20)).collect()
}

/// One component of a composite value: id, flags, extent, part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub id: u32,
    pub flags: u32,
    pub start: u64,
    pub end: u64,
    pub part: Vec<u8>,
}

/// The components of a composite value.
pub fn entries(value: &[u8]) -> Vec<Entry> {
    assert_eq!(u32_at(value, 0), 0x0bd6_0bd0, "not composite");
    let count = usize::from(u16_at(value, 14));
    (0..count)
        .map(|entry| {
            let head = &value[32 + 48 * entry..];
            let (from, size) = (u32_at(head, 24) as usize, u32_at(head, 28) as usize);
            Entry {
                id: u32_at(head, 0),
                flags: u32_at(head, 4),
                start: u64_at(head, 8),
                end: u64_at(head, 16),
                part: value[from..from + size].to_vec(),
            }
        })
        .collect()
}

/// Seconds that something takes.
pub fn seconds(work: impl FnOnce()) -> f64 {
    let started = Instant::now();
    work();
    started.elapsed().as_secs_f64()
}

/// The number of an error.
pub fn number<T: std::fmt::Debug>(result: std::io::Result<T>) -> i32 {
    result.expect_err("it should fail").raw_os_error().expect("an error of the system")
}

/// Waits for a condition, and fails with its name when it does not come true in time.
pub fn wait_for(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + std::time::Duration::from_secs(10);
    while !condition() {
        assert!(Instant::now() < deadline, "waited in vain for: {what}");
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
}
