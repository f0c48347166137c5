//! Before a copy: are the filesystems mounted that it needs, and do they answer? A client of Lustre that
//! lost its servers lets every call wait, for ever if it must, so that the looking is done by a thread
//! that is not waited for longer than the user wants. It writes nothing.

use std::ffi::CString;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf, absolute};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::statfs::statfs;

use super::expect::{self, Entry, Expected, Mounted};
use super::{access, told};
use crate::error::{Refusal, show};
use crate::mounts;
use crate::sys::{self, XattrTarget};

/// How long a filesystem may take to answer unless the user says otherwise.
pub const LIMIT: Duration = Duration::from_secs(10);

/// What the looking thread has to say.
enum Word {
    /// It looks at this path now.
    At(PathBuf),
    /// It is done.
    Done(Result<(), Refusal>),
}

/// Checks what was expected to be mounted, and that the filesystems of some paths, which need not exist,
/// are mounted as fstab(5) has them and answer within `limit`.
///
/// Without any Lustre on this machine this is two small files that are read.
///
/// # Errors
/// A [`Refusal`] that says what is not mounted, or does not answer.
pub fn check(paths: &[&Path], expected: &[Expected], limit: Duration) -> Result<(), Refusal> {
    let mounted = mounted();
    expect::check_expected(expected, &mounted)?;
    let fstab = expect::fstab_entries(&std::fs::read("/etc/fstab").unwrap_or_default());
    if fstab.is_empty() && mounted.iter().all(|mount| mount.fsname.is_none()) {
        return Ok(());
    }
    // Relative ones would be looked up from wherever this process is by then.
    let paths: Vec<PathBuf> = paths
        .iter()
        .map(|path| absolute(path).unwrap_or_else(|_| path.to_path_buf()))
        .chain(expected.iter().map(|expected| expected.point.clone()))
        .collect();
    let (sender, words) = mpsc::channel();
    let thread = std::thread::Builder::new().name("mounts".to_owned());
    let looking = thread.spawn(move || {
        let result = paths.iter().try_for_each(|path| look(path, &fstab, &sender));
        let _ = sender.send(Word::Done(result)); // when nobody waits any more, nobody wants it
    });
    if let Err(source) = looking {
        return Err(Refusal::System { path: "/".into(), action: "start a thread", source });
    }
    let deadline = Instant::now() + limit;
    let mut at = PathBuf::new();
    loop {
        match words.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(Word::At(path)) => at = path,
            Ok(Word::Done(result)) => return result,
            Err(RecvTimeoutError::Timeout) => {
                return Err(Refusal::path(
                    at,
                    format!(
                        "the filesystem does not answer within {} s; try again when its servers are \
                         back, or wait longer with --mount-timeout",
                        limit.as_secs_f64()
                    ),
                ));
            }
            Err(RecvTimeoutError::Disconnected) => {
                let broken = io::Error::other("the looking thread ended early");
                return Err(Refusal::System { path: at, action: "look at it", source: broken });
            }
        }
    }
}

/// Looks at one path: its mount as it was written, then where it leads to.
fn look(path: &Path, fstab: &[Entry], words: &Sender<Word>) -> Result<(), Refusal> {
    let say = |path: &Path| {
        let _ = words.send(Word::At(path.to_owned())); // as above
    };
    say(path);
    answers(path, &mounted())?;
    let mut existing = path.to_owned();
    let real = loop {
        match existing.canonicalize() {
            Ok(real) => break real,
            Err(error) => match error.raw_os_error().map(Errno::from_raw) {
                Some(Errno::ENOENT | Errno::ENOTDIR) if existing.pop() => {}
                Some(errno) if is_gone(errno) => return Err(silent(&existing, None, errno)),
                // The plan says what is wrong with it.
                _ => return Ok(()),
            },
        }
    };
    // Looking may have mounted it.
    let mounted = mounted();
    expect::check_path(path, fstab, &mounted)?;
    expect::check_path(&real, fstab, &mounted)?;
    say(&real);
    answers(&real, &mounted)
}

/// Asks the Lustre filesystem that a path lies on for its state and for the default layout of its root,
/// which only its first metadata server knows. Others are not asked.
fn answers(path: &Path, mounted: &[Mounted]) -> Result<(), Refusal> {
    let Some(mount) = mount_of(path, mounted) else { return Ok(()) };
    let Some(fsname) = &mount.fsname else { return Ok(()) };
    let asked = statfs(&mount.point).map(drop).and_then(|()| {
        let point = CString::new(mount.point.as_os_str().as_bytes()).map_err(|_| Errno::EINVAL)?;
        sys::get_xattr(XattrTarget::Path(&point), access::NAME, &mut Vec::new())
    });
    match asked {
        Err(errno) if is_gone(errno) => Err(silent(&mount.point, Some(fsname), errno)),
        // No default, or not for this user: an answer.
        _ => Ok(()),
    }
}

/// The mount that a path without links is on: the longest above it, and of equal ones the last.
fn mount_of<'m>(path: &Path, mounted: &'m [Mounted]) -> Option<&'m Mounted> {
    let above = mounted.iter().filter(|mount| path.starts_with(&mount.point));
    above.max_by_key(|mount| mount.point.components().count())
}

fn is_gone(errno: Errno) -> bool {
    matches!(
        errno,
        Errno::ENOTCONN
            | Errno::ECONNABORTED
            | Errno::ESHUTDOWN
            | Errno::EIO
            | Errno::ENODEV
            | Errno::ETIMEDOUT
    )
}

fn silent(path: &Path, fsname: Option<&str>, errno: Errno) -> Refusal {
    let what = fsname.map_or("filesystem".to_owned(), |name| format!("Lustre filesystem {name}"));
    Refusal::path(
        path,
        format!(
            "the client of the {what} is not ready ({}); try again when `lfs df {}` shows its servers",
            errno.desc(),
            show(path)
        ),
    )
}

/// What is mounted now.
fn mounted() -> Vec<Mounted> {
    let told = told::mounts();
    let table = std::fs::read("/proc/self/mountinfo").unwrap_or_default();
    let of = |mount: mounts::Mount| {
        let lustre = mount.filesystem == "lustre" || told.contains(&mount.point);
        let device = mount.source.into_vec();
        Mounted { fsname: fsname(&device).filter(|_| lustre), point: mount.point }
    };
    mounts::all(&table).map(of).collect()
}

/// The filesystem's name in the device of a client, `NID[,NID…][:NID…]:/fsname[/directory]`. A NID may
/// hold colons, and no slash. A server's target has no `:/` and no name.
#[must_use]
pub fn fsname(device: &[u8]) -> Option<String> {
    let device = std::str::from_utf8(device).ok()?;
    let (_, path) = device.split_once('/').filter(|(nids, _)| nids.ends_with(':'))?;
    let name = path.trim_start_matches('/').split('/').next()?;
    (!name.is_empty()).then(|| name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_is_found_in_the_device() {
        let name = |device: &str| fsname(device.as_bytes());
        assert_eq!(name("10.0.0.1@tcp:10.0.0.2@tcp:/lfs01/sub").as_deref(), Some("lfs01"));
        assert_eq!(name("fd00::1@tcp,fd00::2@tcp://my-fs").as_deref(), Some("my-fs"));
        assert_eq!(name("/dev/mapper/ost0"), None);
        assert_eq!(name("10.0.0.1@tcp:/"), None);
    }

    #[test]
    fn the_longest_mount_point_above_a_path_counts() {
        let mount = |point: &str| Mounted { point: point.into(), fsname: None };
        let mounted = [mount("/"), mount("/lus"), mount("/lus/home"), mount("/lusts")];
        let of = |path: &str| mount_of(Path::new(path), &mounted).unwrap().point.clone();
        assert_eq!(of("/lus/home/ann"), Path::new("/lus/home"));
        assert_eq!(of("/lus/homes"), Path::new("/lus"));
        assert_eq!(of("/l"), Path::new("/"));
    }

    #[test]
    fn paths_that_exist_or_not_on_filesystems_that_answer_are_no_problem() {
        let dir = tempfile::tempdir().unwrap();
        let missing = dir.path().join("a/b");
        assert!(check(&[dir.path(), &missing, Path::new("relative")], &[], LIMIT).is_ok());
        let (sender, _words) = mpsc::channel();
        assert!(look(&missing, &[], &sender).is_ok());
        let entry = Entry { point: dir.path().to_owned(), device: "10.0.0.1@tcp:/lfs".to_owned() };
        let refused = look(&missing, &[entry], &sender).unwrap_err().to_string();
        assert!(refused.contains("nothing is mounted on"), "{refused}");
    }

    #[test]
    fn what_is_expected_and_not_there_is_refused() {
        let expected = [Expected { point: "/proc/self".into(), fsname: None }];
        assert!(check(&[], &expected, LIMIT).is_err());
    }
}
