//! What the Lustre client of this machine tells in its parameters (sysfs): where they are, and how much
//! room each OST has. It sets none.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Where another tree of parameters is looked for, for tests and for an emulator.
const OVERRIDE: &str = "LONGSHORE_LUSTRE_SYSFS";

/// The directory of the client's parameters: `/sys/fs/lustre`.
#[must_use]
pub fn root() -> PathBuf {
    std::env::var_os(OVERRIDE).map_or_else(|| "/sys/fs/lustre".into(), PathBuf::from)
}

/// Free bytes of each OST of a filesystem, by index, as far as the client knows them
/// (`osc.<fsname>-OST<hex>-osc-<instance>.kbytesavail`). Empty where it tells nothing.
#[must_use]
pub fn free_bytes(root: &Path, fsname: &str) -> BTreeMap<u32, u64> {
    let Ok(devices) = std::fs::read_dir(root.join("osc")) else { return BTreeMap::new() };
    let free = |name: &str, path: &Path| {
        let index = ost_of(name, fsname)?;
        let text = std::fs::read_to_string(path.join("kbytesavail")).ok()?;
        Some((index, text.trim().parse::<u64>().ok()?.saturating_mul(1024)))
    };
    devices
        .flatten()
        .filter_map(|entry| free(&entry.file_name().to_string_lossy(), &entry.path()))
        .collect()
}

/// Bytes that the client sends to an OST at once (`osc.*.max_pages_per_rpc`; pages are those of 4 KiB, or of
/// this machine). The most of all OSTs; `None` where the client tells nothing.
#[must_use]
pub fn rpc_bytes(root: &Path) -> Option<u64> {
    let page = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE).ok()??;
    let pages = |path: PathBuf| {
        let text = std::fs::read_to_string(path.join("max_pages_per_rpc")).ok()?;
        text.trim().parse::<u64>().ok()
    };
    let devices = std::fs::read_dir(root.join("osc")).ok()?;
    let most = devices.flatten().filter_map(|device| pages(device.path())).max()?;
    Some(most.saturating_mul(page.cast_unsigned()))
}

/// The index in the name of an OST's device. A filesystem's name may hold dashes.
fn ost_of(device: &str, fsname: &str) -> Option<u32> {
    let rest = device.strip_prefix(fsname)?.strip_prefix("-OST")?;
    let (index, _instance) = rest.split_once("-osc-")?;
    u32::from_str_radix(index, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_length_of_a_request_is_that_of_the_ost_that_takes_most() {
        let root = tempfile::tempdir().unwrap();
        assert_eq!(rpc_bytes(root.path()), None);
        for (device, pages) in [("a-OST0000-osc-f", "256\n"), ("a-OST0001-osc-f", "1024\n")] {
            let dir = root.path().join("osc").join(device);
            std::fs::create_dir_all(&dir).unwrap();
            std::fs::write(dir.join("max_pages_per_rpc"), pages).unwrap();
        }
        let page = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE).unwrap().unwrap();
        assert_eq!(rpc_bytes(root.path()), Some(1024 * page.cast_unsigned()));
    }

    #[test]
    fn free_space_is_found_for_each_ost_of_this_filesystem_only() {
        let root = tempfile::tempdir().unwrap();
        for (device, kib) in [
            ("my-fs-OST0000-osc-ffff8d2b", "100"),
            ("my-fs-OST001f-osc-ffff8d2b", "7"),
            ("my-OST0001-osc-ffff8d2b", "1"),
            ("my-fs-MDT0000-mdc-ffff8d2b", "1"),
        ] {
            let dir = root.path().join("osc").join(device);
            std::fs::create_dir_all(&dir).unwrap();
            std::fs::write(dir.join("kbytesavail"), format!("{kib}\n")).unwrap();
        }
        std::fs::create_dir(root.path().join("osc/my-fs-OST0002-osc-ffff8d2b")).unwrap();
        let free = free_bytes(root.path(), "my-fs");
        assert_eq!(free, BTreeMap::from([(0, 102_400), (31, 7168)]));
        assert!(free_bytes(Path::new("/nonexistent"), "my-fs").is_empty());
    }
}
