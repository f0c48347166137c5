//! Which mount a path is on, and which lie below it, from the text of `/proc/self/mountinfo`. Pure.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

/// One line of mountinfo.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// Where it is mounted.
    pub point: PathBuf,
    /// Type of the filesystem.
    pub filesystem: String,
    /// What is mounted: a device, `server:/export`, or a word.
    pub source: OsString,
    /// `major:minor` of the files on it.
    device: (u64, u64),
}

/// Decodes one line, for example
/// `36 35 98:0 /root /mnt\0402 rw,noatime master:1 - ext4 /dev/sda rw,errors=continue`.
fn parse(line: &[u8]) -> Option<Mount> {
    let mut fields = line.split(|byte| *byte == b' ');
    let device = std::str::from_utf8(fields.nth(2)?).ok()?.split_once(':')?;
    let point = fields.nth(1)?;
    // Any number of optional fields stand before the separator.
    let mut after = fields.skip_while(|field| *field != b"-").skip(1);
    let filesystem = after.next()?;
    let source = after.next().unwrap_or_default();
    Some(Mount {
        point: unescape(point).into(),
        filesystem: String::from_utf8_lossy(filesystem).into_owned(),
        source: unescape(source),
        device: (device.0.parse().ok()?, device.1.parse().ok()?),
    })
}

/// All mounts, the later over the earlier.
pub fn all(mountinfo: &[u8]) -> impl Iterator<Item = Mount> {
    mountinfo.split(|byte| *byte == b'\n').filter_map(parse)
}

/// Space, tab, newline and backslash are written as a backslash and three octal digits.
pub(crate) fn unescape(field: &[u8]) -> OsString {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&first, tail)) = rest.split_first() {
        let octal = tail
            .get(..3)
            .filter(|_| first == b'\\')
            .and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok());
        match octal {
            Some(byte) => {
                out.push(byte);
                rest = &tail[3..];
            }
            None => {
                out.push(first);
                rest = tail;
            }
        }
    }
    OsString::from_vec(out)
}

/// The mount that an absolute path without symbolic links is on: the longest mount point above it.
/// Mounts of the path's own device are preferred, because a mount may be hidden under a later one;
/// where none has it (btrfs gives each subvolume its own number), the mount point alone decides.
pub(crate) fn mount_of(mountinfo: &[u8], path: &Path, device: (u64, u64)) -> Option<Mount> {
    let above: Vec<Mount> = all(mountinfo).filter(|mount| path.starts_with(&mount.point)).collect();
    let same_device = above.iter().any(|mount| mount.device == device);
    above
        .into_iter()
        .filter(|mount| !same_device || mount.device == device)
        // Of equal ones the last was mounted over the others; `max_by_key` returns the last.
        .max_by_key(|mount| mount.point.components().count())
}

/// The mount points at or below an absolute path without symbolic links. What is only mounted when
/// somebody goes there (autofs) is left out.
pub(crate) fn mounts_below(mountinfo: &[u8], path: &Path) -> Vec<PathBuf> {
    mountinfo
        .split(|byte| *byte == b'\n')
        .filter_map(parse)
        .filter(|mount| mount.point.starts_with(path) && mount.filesystem != "autofs")
        .map(|mount| mount.point)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTINFO: &[u8] = b"\
22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
30 22 0:26 / /tmp rw,nosuid - tmpfs tmpfs rw,size=1g
31 22 0:40 / /mnt/with\\040space\\134back rw master:3 propagate_from:2 - lustre 10.0.0.1@tcp:/lus\\011x rw
32 22 0:41 / /mnt/hidden/below rw - xfs /dev/vdb rw
33 22 0:42 / /mnt/hidden rw - tmpfs over rw
34 30 0:50 /sub /tmp/sub rw - btrfs /dev/vdc rw,subvol=/sub
malformed line
";

    fn find(path: &str, device: (u64, u64)) -> (String, String) {
        let mount = mount_of(MOUNTINFO, Path::new(path), device).unwrap();
        (mount.filesystem, mount.source.into_string().unwrap())
    }

    #[test]
    fn the_longest_mount_point_wins() {
        assert_eq!(find("/etc/passwd", (254, 0)), ("ext4".into(), "/dev/vda".into()));
        assert_eq!(find("/tmp/a", (0, 26)), ("tmpfs".into(), "tmpfs".into()));
        assert_eq!(find("/tmpfoo", (254, 0)), ("ext4".into(), "/dev/vda".into()));
    }

    #[test]
    fn mounts_below_a_path_are_found_by_whole_names() {
        let below = |path: &str| mounts_below(MOUNTINFO, Path::new(path));
        assert_eq!(below("/tmp"), [Path::new("/tmp"), Path::new("/tmp/sub")]);
        assert!(below("/tm").is_empty());
        assert_eq!(below("/mnt/with space\\back").len(), 1);
        assert_eq!(below("/mnt/hidden").len(), 2);
        assert_eq!(below("/").len(), 6);
    }

    #[test]
    fn octal_escapes_are_decoded() {
        let expected = ("lustre".into(), "10.0.0.1@tcp:/lus\tx".into());
        assert_eq!(find("/mnt/with space\\back/a", (0, 40)), expected);
    }

    #[test]
    fn a_mount_hidden_under_a_later_one_is_not_taken() {
        assert_eq!(find("/mnt/hidden/below", (0, 42)), ("tmpfs".into(), "over".into()));
    }

    #[test]
    fn a_subvolume_with_its_own_device_number_is_found_by_its_mount_point() {
        assert_eq!(find("/tmp/sub/a", (0, 99)).0, "btrfs");
    }

    #[test]
    fn malformed_escapes_stay_as_they_are() {
        assert_eq!(unescape(b"a\\04"), "a\\04");
        assert_eq!(unescape(b"a\\999"), "a\\999");
    }
}
