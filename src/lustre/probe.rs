//! What this machine's client knows of the Lustre filesystem that a file lies on: its name, how many
//! OSTs it has, how large requests to them are. All of it is optional: a client tells more or less by
//! version and by who asks. Ioctls are issued only after the filesystem's type was looked at, because
//! their numbers mean other things elsewhere. It reads no layouts.

use std::fs::read_dir;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};

use nix::sys::stat::{fstat, major, minor};
use nix::unistd::{SysconfVar, sysconf};
use serde::Serialize;

use super::layout::Layout;
use super::site::Site;
use super::{parameters, ready, told};
use crate::mounts::mount_of;
use crate::report::path_or_base64;
use crate::sys;

/// `OBD_IOC_GETDTNAME` of `lustre_ioctl.h` since 2.15: `<fsname>-clilov-<instance>` in 128 bytes. Up to
/// 2.14 it had another number, whose answer is longer than the number says; the name is then taken from
/// the mount table.
const GET_NAME: u32 = 0x8080_667f;
/// `LL_IOC_GETOBDCOUNT` of `lustre_user.h`, on directories: a u32 that is 0 on the way in becomes the
/// number of OSTs that are configured.
const GET_COUNT: u32 = 0x8008_66a8;
/// What stands between the name and the instance of a client; both may hold dashes.
const CLIENT: &str = "-clilov-";
/// Longest name of a filesystem (`LUSTRE_MAXFSNAME`).
const MAX_NAME_BYTES: usize = 8;
/// OSTs whose request size is looked at; they are configured alike.
const SAMPLE: usize = 16;

/// Where answers are looked for, so that tests can give others.
#[derive(Debug, Clone)]
pub struct Sources {
    /// The text of `/proc/self/mountinfo`.
    pub mountinfo: Vec<u8>,
    /// The client's parameters, `/sys/fs/lustre`.
    pub parameters: PathBuf,
}

impl Sources {
    /// Those of this system; empty where they cannot be read.
    #[must_use]
    pub fn of_this_system() -> Self {
        Self {
            mountinfo: std::fs::read("/proc/self/mountinfo").unwrap_or_default(),
            parameters: parameters::root(),
        }
    }
}

/// A Lustre filesystem as a client has it mounted.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Client {
    /// Whether the environment said that it is Lustre, instead of the filesystem itself.
    pub told: bool,
    /// Its device number, which two mounts of one filesystem share (a hash of the MDT's UUID).
    #[serde(skip)]
    pub device: u64,
    /// The filesystem's name.
    pub fsname: Option<String>,
    /// What tells several mounts of it apart.
    pub instance: Option<String>,
    /// Where it is mounted; empty when the mount table does not say.
    #[serde(serialize_with = "path_or_base64")]
    pub mount_point: PathBuf,
    /// OSTs that take objects, or that are configured where nobody says more.
    pub osts: Option<u32>,
    /// Bytes of the largest request to an OST.
    pub rpc_bytes: Option<u64>,
    /// The client's version.
    pub version: Option<String>,
}

impl Client {
    /// Looks at the filesystem of an open directory (for a file fewer questions are answered). `path`:
    /// the way to it without symbolic links, for the mount table. `None` when it is not Lustre.
    #[must_use]
    pub fn of(directory: impl AsFd, path: &Path, sources: &Sources) -> Option<Self> {
        let directory = directory.as_fd();
        told::is_lustre(directory).then(|| Self::examine(directory, path, sources))
    }

    /// As [`Client::of`], for a filesystem that is known to be Lustre.
    fn examine(directory: BorrowedFd<'_>, path: &Path, sources: &Sources) -> Self {
        let device = fstat(directory).map_or(0, |stat| stat.st_dev);
        let numbers = (major(device), minor(device));
        let mount = mount_of(&sources.mountinfo, path, numbers);
        let name = name(directory);
        let (fsname, instance) = match name.as_deref().and_then(|name| name.split_once(CLIENT)) {
            Some((fsname, instance)) => (Some(fsname.to_owned()), Some(instance.to_owned())),
            None => {
                let source = mount.as_ref().map(|mount| mount.source.as_encoded_bytes());
                (source.and_then(ready::fsname), None)
            }
        };
        let fsname = fsname.filter(|name| (1..=MAX_NAME_BYTES).contains(&name.len()));
        let parameters = fsname.as_ref().map(|fsname| Parameters {
            root: &sources.parameters,
            fsname,
            instance: instance.as_deref(),
        });
        Self {
            told: told::is_told(device),
            device,
            osts: fewest(parameters.as_ref().and_then(Parameters::osts), count(directory)),
            rpc_bytes: parameters.as_ref().and_then(Parameters::rpc_bytes),
            version: version(&sources.parameters),
            mount_point: mount.map(|mount| mount.point).unwrap_or_default(),
            fsname,
            instance,
        }
    }

    /// What a choice of layouts needs to know of a directory here: `default` is what the directory's
    /// new files get, `others` are further layouts whose pools are there.
    #[must_use]
    pub fn site(&self, default: Option<Layout>, others: &[&Layout]) -> Site {
        let (osts, rpc_bytes) = (self.osts, self.rpc_bytes);
        let mut site = Site { osts, rpc_bytes, ..Site::default() };
        for layout in default.iter().chain(others.iter().copied()) {
            site.learn_pools(layout);
        }
        site.default = default;
        site
    }
}

/// Active OSTs are at most those that are configured; either may be unknown.
fn fewest(active: Option<u32>, configured: Option<u32>) -> Option<u32> {
    match (active, configured) {
        (Some(active), Some(configured)) => Some(active.min(configured)),
        (one, other) => one.or(other),
    }
    .filter(|osts| *osts > 0)
}

/// The client's own name.
fn name(file: BorrowedFd<'_>) -> Option<String> {
    let mut buffer = [0; 128];
    sys::read_ioctl(file, GET_NAME, &mut buffer).ok()?;
    let name = buffer.split(|byte| *byte == 0).next()?;
    Some(std::str::from_utf8(name).ok()?.to_owned()).filter(|name| !name.is_empty())
}

/// How many OSTs are configured.
fn count(directory: BorrowedFd<'_>) -> Option<u32> {
    let mut buffer = [0; 8];
    sys::read_ioctl(directory, GET_COUNT, &mut buffer).ok()?;
    let (count, _) = buffer.split_first_chunk()?;
    Some(u32::from_ne_bytes(*count))
}

/// `/sys/fs/lustre/version`: a number alone, or in older clients behind `lustre:`.
fn version(parameters: &Path) -> Option<String> {
    let text = std::fs::read_to_string(parameters.join("version")).ok()?;
    let line = text.lines().find(|line| line.starts_with("lustre:")).or(text.lines().next())?;
    let version = line.strip_prefix("lustre:").unwrap_or(line).trim();
    (!version.is_empty()).then(|| version.to_owned())
}

/// The parameters of one filesystem's client.
struct Parameters<'a> {
    root: &'a Path,
    fsname: &'a str,
    instance: Option<&'a str>,
}

impl Parameters<'_> {
    /// Directories of a kind of device that are this filesystem's.
    fn devices(&self, kind: &str, mark: &str, joint: &str) -> Vec<PathBuf> {
        let prefix = format!("{}{mark}", self.fsname);
        let suffix = self.instance.map(|instance| format!("{joint}{instance}")).unwrap_or_default();
        let entries = read_dir(self.root.join(kind)).into_iter().flatten().flatten();
        let mut paths: Vec<PathBuf> = entries
            .filter(|entry| {
                let name = entry.file_name();
                let name = name.to_string_lossy();
                name.starts_with(&prefix) && name.ends_with(&suffix)
            })
            .map(|entry| entry.path())
            .collect();
        paths.sort();
        paths
    }

    fn osts(&self) -> Option<u32> {
        let device = self.devices("lov", CLIENT, "-clilov-").into_iter().next()?;
        let number = |name| number(&device.join(name));
        number("activeobd").or_else(|| number("numobd")).and_then(|osts| u32::try_from(osts).ok())
    }

    /// The least of the OSTs', so that a request never has to be cut.
    fn rpc_bytes(&self) -> Option<u64> {
        let page = sysconf(SysconfVar::PAGE_SIZE).ok().flatten()?;
        let devices = self.devices("osc", "-OST", "-osc-").into_iter().take(SAMPLE);
        let pages = devices.filter_map(|path| number(&path.join("max_pages_per_rpc"))).min()?;
        pages.checked_mul(u64::try_from(page).ok()?).filter(|bytes| *bytes > 0)
    }
}

fn number(file: &Path) -> Option<u64> {
    std::fs::read_to_string(file).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::unix::fs::MetadataExt;

    use super::*;

    fn put(root: &Path, file: &str, text: &str) {
        let path = root.join(file);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    #[test]
    fn other_filesystems_are_not_lustre_and_not_asked() {
        let dir = tempfile::tempdir().unwrap();
        let open = File::open(dir.path()).unwrap();
        assert_eq!(Client::of(&open, dir.path(), &Sources::of_this_system()), None);
    }

    #[test]
    fn what_the_client_tells_is_found_by_the_name_in_the_mount_table() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("parameters");
        for (file, text) in [
            ("lov/my-fs-clilov-ffff8d2b40b8d800/activeobd", "7\n"),
            ("lov/my-fs-clilov-ffff8d2b40b8d800/numobd", "8\n"),
            ("lov/my-clilov-ffff8d2b40b8d800/activeobd", "99\n"),
            ("osc/my-fs-OST0000-osc-ffff8d2b40b8d800/max_pages_per_rpc", "4096\n"),
            ("osc/my-fs-OST0001-osc-ffff8d2b40b8d800/max_pages_per_rpc", "1024\n"),
            ("osc/my-OST0001-osc-ffff8d2b40b8d800/max_pages_per_rpc", "1\n"),
            ("version", "2.17.0\n"),
        ] {
            put(&root, file, text);
        }
        let device = std::fs::metadata(dir.path()).unwrap().dev();
        let line = format!(
            "9 1 {}:{} / {} rw - lustre fd00::1@tcp:10.0.0.2@tcp://my-fs/sub rw\n",
            major(device),
            minor(device),
            dir.path().display()
        );
        let sources = Sources { mountinfo: line.into_bytes(), parameters: root };
        let open = File::open(dir.path()).unwrap();
        let page = u64::try_from(sysconf(SysconfVar::PAGE_SIZE).unwrap().unwrap()).unwrap();
        let expected = Client {
            told: false,
            device,
            fsname: Some("my-fs".into()),
            instance: None,
            mount_point: dir.path().to_owned(),
            osts: Some(7),
            rpc_bytes: Some(1024 * page),
            version: Some("2.17.0".into()),
        };
        assert_eq!(Client::examine(open.as_fd(), dir.path(), &sources), expected);
    }

    #[test]
    fn a_client_that_tells_nothing_is_still_one() {
        let dir = tempfile::tempdir().unwrap();
        let open = File::open(dir.path()).unwrap();
        let sources = Sources { mountinfo: Vec::new(), parameters: dir.path().join("nothing") };
        let device = std::fs::metadata(dir.path()).unwrap().dev();
        let expected = Client { device, ..Client::default() };
        assert_eq!(Client::examine(open.as_fd(), dir.path(), &sources), expected);
        put(dir.path(), "version", "lustre: 2.12.0\nkernel: patchless_client\n");
        assert_eq!(version(dir.path()).as_deref(), Some("2.12.0"));
    }

    #[test]
    fn a_site_knows_the_pools_that_were_seen() {
        let spec = |words| Layout::from_spec(words).unwrap();
        let client = Client { osts: Some(3), ..Client::default() };
        let site =
            client.site(Some(spec("-E 1G -p flash -E -1 -p disk")), &[&spec("-c 1 -p cold")]);
        assert_eq!(site.osts, Some(3));
        for name in ["flash", "disk", "cold"] {
            assert!(site.knows_pool(name.as_bytes()), "{name}");
        }
        assert!(!site.knows_pool(b"hot"));
    }
}
