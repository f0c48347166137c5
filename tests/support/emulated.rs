//! A mounted Lustre emulator, and copies that take it for Lustre.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use lustre_emulator::{Emulator, OstSettings, Settings};

use super::command::{Backend, Longshore};
use super::scratch::Scratch;
use super::{is_root, skip};

/// Mounts an emulated filesystem at `name` in the scratch directory, before a directory beside it
/// (which an earlier mount of the same name may have filled); nothing and a recorded skip without FUSE.
pub fn lustre(scratch: &Scratch, name: &str, settings: Settings) -> Option<Emulator> {
    if !is_root() || !Path::new("/dev/fuse").exists() {
        skip("FUSE needs root and /dev/fuse");
        return None;
    }
    let (at, backing) = (scratch.join(name), scratch.join(format!("{name}-backing")));
    for dir in [&at, &backing] {
        fs::create_dir_all(dir).expect("failed to make a directory");
    }
    Emulator::mount(&at, &backing, settings)
        .inspect_err(|error| skip(&format!("failed to mount the emulator: {error}")))
        .ok()
}

/// So many OSTs with a bandwidth in MB/s and a latency of one millisecond, like the metadata server's.
pub fn servers(osts: usize, megabytes: u64) -> Settings {
    let latency = Duration::from_millis(1);
    let ost =
        OstSettings { bandwidth: Some(megabytes * 1_000_000), latency, ..OstSettings::default() };
    let mut settings = Settings::new(osts, &ost);
    settings.mdt.latency = latency;
    settings
}

/// A copy for which these mounts are Lustre.
pub fn copy_on(mounts: &[&Emulator]) -> Longshore {
    let points: Vec<PathBuf> = mounts.iter().map(|mount| mount.path().to_owned()).collect();
    let value = std::env::join_paths(points).expect("no colon in a test's path");
    Longshore::copy(Backend::Auto).env("LONGSHORE_LUSTRE_MOUNTS", &value.to_string_lossy())
}
