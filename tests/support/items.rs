//! Single items of a tree and their attributes, one call each. What a tree consists of is `tree.rs`.

use std::fs::{self, File, Permissions};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::Path;

use nix::fcntl::{AT_FDCWD, OFlag, open, openat};
use nix::sys::stat::{Mode, SFlag, UtimensatFlags, mkdirat, mknod, utimensat};
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, Uid};

/// Times that every tested filesystem can hold: before 1970, zero, beyond 2038, odd nanoseconds.
pub const TIMES: [(&str, i64, i64); 6] = [
    ("before-1970", -1_000_000_000, 1),
    ("just-before-1970", -1, 999_999_999),
    ("zero", 0, 0),
    ("one-nanosecond", 0, 1),
    ("year-2200", 7_258_118_400, 999_999_999),
    ("year-2038", 2_147_483_648, 500_000_001),
];

/// A version 2 `security.capability` value: CAP_NET_RAW, permitted and effective.
pub const CAP_NET_RAW: [u8; 20] = [1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

/// A POSIX ACL as the kernel takes it: one named user besides owner, group and others.
pub fn posix_acl(owner: u16, named_uid: u32, named: u16) -> Vec<u8> {
    const NOBODY: u32 = u32::MAX;
    let mut value = 2_u32.to_le_bytes().to_vec();
    for (tag, permissions, id) in [
        (0x01_u16, owner, NOBODY),
        (0x02, named, named_uid),
        (0x04, 5, NOBODY),
        (0x10, 7, NOBODY),
        (0x20, 4, NOBODY),
    ] {
        value.extend_from_slice(&tag.to_le_bytes());
        value.extend_from_slice(&permissions.to_le_bytes());
        value.extend_from_slice(&id.to_le_bytes());
    }
    value
}

/// A chain of directories, each holding a file; total paths may be longer than `PATH_MAX`.
pub fn make_chain(top: &Path, name: &str, depth: usize) {
    let directory = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let mut at: OwnedFd = open(top, directory, Mode::empty()).expect("failed to open a directory");
    for level in 0..depth {
        if level % 50 == 0 || level + 1 == depth {
            let flags = OFlag::O_CREAT | OFlag::O_WRONLY | OFlag::O_CLOEXEC;
            let file = openat(&at, "file", flags, Mode::from_bits_truncate(0o640))
                .expect("failed to make a file");
            File::from(file)
                .write_all_at(format!("level {level}").as_bytes(), 0)
                .expect("failed to write a file");
        }
        mkdirat(&at, name, Mode::from_bits_truncate(0o755)).expect("failed to make a directory");
        at = openat(&at, name, directory, Mode::empty()).expect("failed to open a directory");
    }
}

/// Sets the permission bits of what a path leads to.
pub fn chmod(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).expect("failed to set a mode");
}

/// Sets the owner of a path itself.
pub fn chown(path: &Path, uid: u32, gid: u32) {
    std::os::unix::fs::lchown(path, Some(uid), Some(gid)).expect("failed to set an owner");
}

/// Gives a whole tree to a user; modes stay.
pub fn give_to(root: &Path, uid: u32) {
    for entry in walkdir::WalkDir::new(root).contents_first(true) {
        let entry = entry.expect("failed to walk a tree");
        let stat = nix::sys::stat::lstat(entry.path()).expect("failed to look at an item");
        let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(uid));
        let nofollow = nix::fcntl::AtFlags::AT_SYMLINK_NOFOLLOW;
        nix::unistd::fchownat(AT_FDCWD, entry.path(), Some(uid), Some(gid), nofollow)
            .expect("failed to set an owner");
        if !entry.file_type().is_symlink() {
            chmod(entry.path(), stat.st_mode & 0o7777);
        }
    }
}

/// Sets the modification time of a path itself.
pub fn set_times(path: &Path, seconds: i64, nanos: i64) {
    let (access, modified) = (TimeSpec::new(1_500_000_000, 42), TimeSpec::new(seconds, nanos));
    utimensat(AT_FDCWD, path, &access, &modified, UtimensatFlags::NoFollowSymlink)
        .expect("failed to set a time");
}

/// Sets an extended attribute of a path itself.
pub fn attribute(path: &Path, name: &str, value: &[u8]) {
    xattr::set(path, name, value)
        .unwrap_or_else(|error| panic!("failed to set {name} of {path:?}: {error}"));
}

/// Gives a file another name.
pub fn hard_link(from: &Path, to: &Path) {
    fs::hard_link(from, to).expect("failed to make a hard link");
}

/// Makes a FIFO, socket or device.
pub fn node(path: &Path, kind: SFlag, device: u64) {
    mknod(path, kind, Mode::from_bits_truncate(0o640), device)
        .expect("failed to make a special file");
}
