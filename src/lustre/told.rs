//! Whether a file lies on Lustre: statfs(2) says so, or the environment does, for tests and for an
//! emulator, which cannot have Lustre's magic number. It says nothing else about the filesystem.

use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::OnceLock;

use nix::errno::Errno;
use nix::sys::stat::fstat;
use nix::sys::statfs::fstatfs;

/// `LL_SUPER_MAGIC` of `lustre_user.h`.
pub const MAGIC: i64 = 0x0bd0_0bd0;

/// Mount points, separated by colons, that are taken for Lustre.
const VARIABLE: &str = "LONGSHORE_LUSTRE_MOUNTS";

/// Whether an open file lies on Lustre.
pub fn is_lustre(file: impl AsFd) -> bool {
    magic(file).is_ok_and(|magic| magic == MAGIC)
}

/// The magic number of the filesystem that an open file lies on: that of Lustre where the environment says
/// so. One request to its server, where it has one.
///
/// # Errors
/// The errno of fstatfs(2).
pub fn magic(file: impl AsFd) -> Result<i64, Errno> {
    let file = file.as_fd();
    #[allow(clippy::unnecessary_cast)] // the type differs between platforms
    let magic = fstatfs(file)?.filesystem_type().0 as i64;
    let told = !devices().is_empty() && fstat(file).is_ok_and(|stat| is_told(stat.st_dev));
    Ok(if told { MAGIC } else { unextended(magic) })
}

/// A magic number as headers have it; the field is sign-extended on some platforms.
fn unextended(magic: i64) -> i64 {
    magic & 0xffff_ffff
}

/// Whether the environment says that the filesystem of this device is Lustre.
#[must_use]
pub fn is_told(device: u64) -> bool {
    devices().contains(&device)
}

/// The mount points that the environment names.
#[must_use]
pub fn mounts() -> Vec<PathBuf> {
    let value = std::env::var_os(VARIABLE).unwrap_or_default();
    std::env::split_paths(&value).filter(|path| path.is_absolute()).collect()
}

/// The devices of those, looked up once: the environment of a process does not change.
fn devices() -> &'static [u64] {
    static DEVICES: OnceLock<Vec<u64>> = OnceLock::new();
    DEVICES.get_or_init(|| {
        mounts().iter().filter_map(|path| Some(std::fs::metadata(path).ok()?.dev())).collect()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn magic_numbers_are_the_same_where_they_are_sign_extended() {
        assert_eq!(unextended(0xef53), 0xef53);
        assert_eq!(unextended(-0x6edc_97c2), 0x9123_683e, "btrfs");
    }
}
