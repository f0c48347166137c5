//! What must be mounted before a copy begins: what the user named, and what `/etc/fstab` has. Writing
//! into a mount point on which nothing is mounted fills the disk below it, and the data is not where
//! anybody looks for it. Pure: the mount table and fstab are handed in.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::error::{Refusal, show};
use crate::mounts::unescape;

/// Longest name of a filesystem (`LUSTRE_MAXFSNAME`).
const MAX_NAME: usize = 8;

/// A mount that there must be (`--expect-mount`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expected {
    /// The mount point.
    pub point: PathBuf,
    /// The filesystem's name, when another one would be wrong.
    pub fsname: Option<String>,
}

impl Expected {
    /// Reads `PATH` or `PATH:FSNAME`.
    ///
    /// # Errors
    /// A sentence, when the path is not absolute.
    pub fn parse(text: &OsStr) -> Result<Self, String> {
        let bytes = text.as_bytes();
        let colon = bytes.iter().rposition(|byte| *byte == b':');
        // A name has no slash, and so a colon further up belongs to the path. A colon at the end says
        // that one before it does, too.
        let split = colon.filter(|at| !bytes[at + 1..].contains(&b'/'));
        let (path, name) = split.map_or((bytes, &b""[..]), |at| (&bytes[..at], &bytes[at + 1..]));
        let point = Path::new(OsStr::from_bytes(path));
        if !point.is_absolute() {
            return Err("name the mount point by its absolute path".to_owned());
        }
        let name = std::str::from_utf8(name).map_err(|_| "the filesystem's name is no text")?;
        if name.len() > MAX_NAME {
            return Err(format!(
                "a filesystem's name has at most {MAX_NAME} letters; end a path that has a colon in it \
                 with another colon"
            ));
        }
        // Slashes at the end and doubled ones mean nothing.
        let point = point.components().collect();
        Ok(Self { point, fsname: (!name.is_empty()).then(|| name.to_owned()) })
    }
}

/// A mount, as far as it matters here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mounted {
    /// Where.
    pub point: PathBuf,
    /// The name of the Lustre filesystem whose client it is; none for anything else.
    pub fsname: Option<String>,
}

/// A client of Lustre in fstab.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Where it is to be mounted.
    pub point: PathBuf,
    /// The device, for example `10.0.0.1@tcp:/lfs01`.
    pub device: String,
}

/// The clients of Lustre in the text of fstab(5).
#[must_use]
pub fn fstab_entries(fstab: &[u8]) -> Vec<Entry> {
    let entry = |line: &[u8]| {
        let mut fields =
            line.split(|byte| byte.is_ascii_whitespace()).filter(|field| !field.is_empty());
        let device = fields.next().filter(|field| !field.starts_with(b"#"))?;
        let (point, kind) = (fields.next()?, fields.next()?);
        let device = unescape(device).to_string_lossy().into_owned();
        // A server's target is mounted with the same type, and has no `:/` in its device.
        (kind == b"lustre" && device.contains(":/"))
            .then(|| Entry { point: Path::new(&unescape(point)).components().collect(), device })
    };
    fstab.split(|byte| *byte == b'\n').filter_map(entry).collect()
}

/// Checks that what was named is mounted.
///
/// # Errors
/// A [`Refusal`] that says what is there instead.
pub fn check_expected(expected: &[Expected], mounted: &[Mounted]) -> Result<(), Refusal> {
    expected.iter().try_for_each(|Expected { point, fsname }| {
        // The last one hides the others.
        let there = mounted.iter().rfind(|mount| mount.point == *point);
        let refuse = |problem: String| Err(Refusal::path(point, problem));
        match (there.map(|mount| &mount.fsname), fsname) {
            (None, _) => refuse(format!(
                "nothing is mounted there, but --expect-mount names it{}; mount it, or name the mount \
                 point itself",
                what(fsname.as_deref())
            )),
            (Some(None), _) => refuse(format!(
                "what is mounted there is no Lustre filesystem, but --expect-mount names it{}",
                what(fsname.as_deref())
            )),
            (Some(Some(there)), Some(wanted)) if there != wanted => refuse(format!(
                "the Lustre filesystem {there} is mounted there, not {wanted}, which --expect-mount names"
            )),
            (Some(Some(_)), _) => Ok(()),
        }
    })
}

fn what(fsname: Option<&str>) -> String {
    fsname.map_or_else(String::new, |name| format!(" for the filesystem {name}"))
}

/// Checks that a path does not lie in a directory on which fstab would have Lustre mounted and on which
/// nothing is. `path` is absolute and without links.
///
/// # Errors
/// A [`Refusal`] that names the mount point.
pub fn check_path(path: &Path, fstab: &[Entry], mounted: &[Mounted]) -> Result<(), Refusal> {
    let bare = fstab.iter().find(|entry| {
        path.starts_with(&entry.point) && mounted.iter().all(|mount| mount.point != entry.point)
    });
    bare.map_or(Ok(()), |entry| {
        Err(Refusal::path(
            path,
            format!(
                "nothing is mounted on {}, where /etc/fstab has the Lustre filesystem {}; mount it first",
                show(&entry.point),
                entry.device
            ),
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mounted(point: &str, fsname: Option<&str>) -> Mounted {
        Mounted { point: point.into(), fsname: fsname.map(str::to_owned) }
    }

    fn expected(text: &str) -> Expected {
        Expected::parse(OsStr::new(text)).unwrap()
    }

    #[test]
    fn the_name_stands_behind_the_last_colon() {
        let read = |text| {
            let Expected { point, fsname } = expected(text);
            (point.to_str().unwrap().to_owned(), fsname)
        };
        assert_eq!(read("/lus/home"), ("/lus/home".into(), None));
        assert_eq!(read("/lus/home/:lfs-01"), ("/lus/home".into(), Some("lfs-01".into())));
        assert_eq!(read("/a:b/c"), ("/a:b/c".into(), None));
        assert_eq!(read("/a:b:"), ("/a:b".into(), None));
        for wrong in ["lus", "", "/lus:far-too-long"] {
            assert!(Expected::parse(OsStr::new(wrong)).is_err(), "{wrong}");
        }
    }

    #[test]
    fn what_was_named_must_be_mounted_and_be_lustre_and_have_the_name() {
        let mounts = [mounted("/lus", Some("one")), mounted("/data", None)];
        let problem = |text| {
            let found = check_expected(&[expected(text)], &mounts);
            found.err().map(|refusal| refusal.to_string()).unwrap_or_default()
        };
        assert_eq!(problem("/lus"), "");
        assert_eq!(problem("/lus:one"), "");
        assert!(problem("/lus:two").contains("filesystem one is mounted there, not two"));
        assert!(problem("/data").contains("no Lustre"));
        assert!(problem("/lus/sub").contains("nothing is mounted there"));
    }

    #[test]
    fn a_filesystem_that_hides_another_one_counts() {
        let mounts = [mounted("/lus", Some("one")), mounted("/lus", None)];
        assert!(check_expected(&[expected("/lus")], &mounts).is_err());
    }

    #[test]
    fn fstab_has_clients_only() {
        let fstab = b"# 10.0.0.9@tcp:/old /old lustre\n\
            10.0.0.1@tcp:10.0.0.2@tcp:/lfs01/sub\t/lus/with\\040space/ lustre _netdev,noauto 0 0\n\
            /dev/sdb /mnt/ost0 lustre noauto 0 0\nUUID=1 / ext4 defaults 0 1\nbad\n\n";
        let device = "10.0.0.1@tcp:10.0.0.2@tcp:/lfs01/sub".to_owned();
        let point = "/lus/with space".into();
        assert_eq!(fstab_entries(fstab), [Entry { point, device }]);
    }

    #[test]
    fn a_path_below_a_bare_mount_point_is_refused() {
        let fstab = fstab_entries(b"10.0.0.1@tcp:/lfs01 /lus/home lustre defaults 0 0\n");
        let check = |path: &str, mounts: &[Mounted]| check_path(Path::new(path), &fstab, mounts);
        let refused = check("/lus/home/ann/x", &[]).unwrap_err().to_string();
        assert!(refused.contains("nothing is mounted on /lus/home"), "{refused}");
        assert!(check("/lus/home", &[]).is_err());
        assert!(check("/lus/homes", &[]).is_ok() && check("/lus", &[]).is_ok());
        assert!(check("/lus/home/ann", &[mounted("/lus/home", Some("lfs01"))]).is_ok());
    }
}
