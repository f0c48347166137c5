//! What the filesystem under a path offers to a copy, found by trying it on temporary files in that
//! directory. The files have no name where possible and are removed in any case.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::SystemTime;

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, open, openat};
use nix::sys::stat::{Mode, fstat, major, minor};
use nix::sys::statvfs::{FsFlags, fstatvfs};
use nix::unistd::{UnlinkatFlags, linkat, unlinkat};
use serde::Serialize;

use super::Offer;
use crate::error::{Refusal, show};
use crate::mounts::{Mount, mount_of};
use crate::report::path_or_base64;
use crate::sys::{self, XattrTarget};

/// What the filesystem under one path offers.
#[derive(Debug, Clone, Serialize)]
pub struct FilesystemFacts {
    /// The path as given.
    #[serde(serialize_with = "path_or_base64")]
    pub path: PathBuf,
    /// Where the filesystem is mounted; empty when the mount table does not say.
    #[serde(serialize_with = "path_or_base64")]
    pub mount_point: PathBuf,
    /// Its type (`ext4`, `lustre`, …); `unknown` when the mount table does not say.
    pub filesystem: String,
    /// The device or server.
    pub source: String,
    /// `f_type` of statfs, in hexadecimal.
    pub magic: String,
    /// Whether it is mounted read-only.
    pub read_only: bool,
    /// Bytes in all.
    pub total_bytes: u64,
    /// Bytes that this user may still write (quotas not counted).
    pub available_bytes: u64,
    /// Inodes in all; 0 where they are made as needed.
    pub total_inodes: u64,
    /// Inodes that this user may still make.
    pub available_inodes: u64,
    /// Whether files could be made in the directory.
    pub writable: Offer,
    /// I/O past the page cache.
    pub direct: Direct,
    /// Sharing blocks between files (FICLONE).
    pub clone: Offer,
    /// `user.*` attributes.
    pub xattrs: Offer,
    /// POSIX ACLs.
    pub acls: Offer,
    /// Second names for a file.
    pub hard_links: Offer,
    /// Reads that return instead of waiting, without which a ring has nothing to offer.
    pub non_blocking_reads: Offer,
}

/// I/O past the page cache.
#[derive(Debug, Clone, Serialize)]
pub struct Direct {
    /// What came of opening a file with `O_DIRECT`.
    #[serde(flatten)]
    pub offer: Offer,
    /// Alignment of buffers, when the kernel says.
    pub memory_alignment_bytes: Option<u32>,
    /// Alignment of offsets and lengths, when the kernel says.
    pub offset_alignment_bytes: Option<u32>,
}

impl FilesystemFacts {
    /// Examines the filesystem of an existing path; for a file, in its directory.
    ///
    /// # Errors
    /// A [`Refusal`] when the path does not exist or cannot be looked at.
    pub fn examine(path: &Path) -> Result<Self, Refusal> {
        let system = |action| {
            move |error: std::io::Error| Refusal::System {
                path: path.into(),
                action,
                source: error,
            }
        };
        let real = path.canonicalize().map_err(system("find the path"))?;
        let directory = if real.is_dir() { real.as_path() } else { real.parent().unwrap_or(&real) };
        // O_PATH: a directory may be written to that may not be read.
        let handle =
            open(directory, OFlag::O_DIRECTORY | OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty())
                .map_err(|errno| system("open the directory")(errno.into()))?;
        let look = |errno: Errno| system("look at the filesystem")(errno.into());
        let device = fstat(&handle).map_err(look)?.st_dev;
        let space = fstatvfs(&handle).map_err(look)?;
        let magic = nix::sys::statfs::fstatfs(&handle).map_err(look)?.filesystem_type();
        let mount = std::fs::read("/proc/self/mountinfo")
            .ok()
            .and_then(|table| mount_of(&table, directory, (major(device), minor(device))));
        let (mount_point, filesystem, source) = match mount {
            Some(Mount { point, filesystem, source, .. }) => {
                (point, filesystem, show(Path::new(&source)))
            }
            None => (PathBuf::new(), "unknown".to_owned(), String::new()),
        };
        let unit = space.fragment_size();
        let tried = Tried::all(&handle, &filesystem);
        Ok(Self {
            path: path.to_owned(),
            mount_point,
            filesystem,
            source,
            magic: format!("{:#x}", magic.0),
            read_only: space.flags().contains(FsFlags::ST_RDONLY),
            total_bytes: space.blocks().saturating_mul(unit),
            available_bytes: space.blocks_available().saturating_mul(unit),
            total_inodes: space.files(),
            available_inodes: space.files_available(),
            writable: tried.writable,
            direct: tried.direct,
            clone: tried.clone,
            xattrs: tried.xattrs,
            acls: tried.acls,
            hard_links: tried.hard_links,
            non_blocking_reads: tried.non_blocking_reads,
        })
    }
}

/// What was tried on temporary files.
struct Tried {
    writable: Offer,
    direct: Direct,
    clone: Offer,
    xattrs: Offer,
    acls: Offer,
    hard_links: Offer,
    non_blocking_reads: Offer,
}

impl Tried {
    fn all(directory: &OwnedFd, filesystem: &str) -> Self {
        let source = match Scratch::create(directory, OFlag::empty()).and_then(Scratch::filled) {
            Ok(source) => source,
            Err(errno) => return Self::nothing(errno, filesystem),
        };
        let tried = Self {
            writable: Offer::yes("files can be made"),
            direct: direct(directory, &source),
            clone: clone(directory, &source),
            xattrs: attribute(&source, c"user.longshore.doctor", b"1"),
            acls: attribute(
                &source,
                c"system.posix_acl_access",
                &acl(nix::unistd::geteuid().as_raw()),
            ),
            hard_links: hard_links(directory),
            non_blocking_reads: non_blocking_reads(&source),
        };
        source.remove();
        tried
    }

    fn nothing(errno: Errno, filesystem: &str) -> Self {
        let untested = || match errno {
            Errno::EACCES | Errno::EPERM | Errno::EROFS => {
                Offer::untested("directory is not writable")
            }
            errno => Offer::untested(format!("no file could be made: {}", errno.desc())),
        };
        Self {
            writable: Offer::no(errno.desc()),
            direct: Direct {
                offer: untested(),
                memory_alignment_bytes: None,
                offset_alignment_bytes: None,
            },
            clone: clone_by_type(filesystem).unwrap_or_else(untested),
            xattrs: untested(),
            acls: untested(),
            hard_links: untested(),
            non_blocking_reads: untested(),
        }
    }
}

fn direct(directory: &OwnedFd, source: &Scratch) -> Direct {
    // An error of statx only means that the alignment is not known.
    let alignment = sys::direct_alignment(source.file.as_fd()).ok().flatten();
    let offer = match Scratch::create(directory, OFlag::O_DIRECT) {
        Ok(file) => {
            file.remove();
            match alignment {
                Some(alignment) => Offer::yes(format!(
                    "buffers aligned to {} bytes, offsets to {}",
                    alignment.memory, alignment.offset
                )),
                None => Offer::yes("opens; the kernel does not say which alignment it needs"),
            }
        }
        Err(errno) => refused(errno),
    };
    Direct {
        offer,
        memory_alignment_bytes: alignment.map(|alignment| alignment.memory),
        offset_alignment_bytes: alignment.map(|alignment| alignment.offset),
    }
}

fn clone(directory: &OwnedFd, source: &Scratch) -> Offer {
    let target = match Scratch::create(directory, OFlag::empty()) {
        Ok(target) => target,
        Err(errno) => return refused(errno),
    };
    let cloned = sys::clone_file(&target.file, &source.file);
    target.remove();
    cloned.map_or_else(refused, |()| Offer::yes("files can share blocks (FICLONE)"))
}

/// What the type alone says about clones, where they cannot be tried.
fn clone_by_type(filesystem: &str) -> Option<Offer> {
    match filesystem {
        "btrfs" | "bcachefs" | "ocfs2" => {
            Some(Offer::untested(format!("directory is not writable; {filesystem} usually can")))
        }
        "xfs" => Some(Offer::untested("directory is not writable; xfs can if made with reflink=1")),
        "ext2" | "ext3" | "ext4" | "tmpfs" | "ramfs" | "vfat" | "lustre" | "proc" | "sysfs" => {
            Some(Offer::no(format!("{filesystem} has no clones")))
        }
        _ => None,
    }
}

fn attribute(file: &Scratch, name: &std::ffi::CStr, value: &[u8]) -> Offer {
    sys::set_xattr(XattrTarget::Fd(file.file.as_fd()), name, value)
        .map_or_else(refused, |()| Offer::yes("can be set"))
}

/// The smallest ACL that no mode can stand for: one named user. The binary form of the xattr is a
/// version and entries of tag, permissions and id (`linux/posix_acl_xattr.h`), little-endian. The
/// user is the own one, because another may not exist in this user namespace.
fn acl(user: u32) -> Vec<u8> {
    const VERSION: u32 = 2;
    const NO_ID: u32 = u32::MAX;
    const READ: u16 = 4;
    let (user_obj, named_user, group_obj, mask, other) = (0x01_u16, 0x02, 0x04, 0x10, 0x20);
    let mut value = VERSION.to_le_bytes().to_vec();
    for (tag, id) in
        [(user_obj, NO_ID), (named_user, user), (group_obj, NO_ID), (mask, NO_ID), (other, NO_ID)]
    {
        value.extend(u16::to_le_bytes(tag));
        value.extend(READ.to_le_bytes());
        value.extend(id.to_le_bytes());
    }
    value
}

fn hard_links(directory: &OwnedFd) -> Offer {
    let first = match Scratch::named(directory, OFlag::empty()) {
        Ok(first) => first,
        Err(errno) => return refused(errno),
    };
    let Some(name) = &first.name else { return Offer::untested("the file has no name") };
    let second = unique_name();
    let linked = linkat(directory, name.as_str(), directory, second.as_str(), AtFlags::empty());
    if linked.is_ok() {
        let _ = unlinkat(directory, second.as_str(), UnlinkatFlags::NoRemoveDir);
    }
    first.remove();
    linked.map_or_else(refused, |()| Offer::yes("can be made"))
}

fn non_blocking_reads(file: &Scratch) -> Offer {
    let mut buffer = [0; 512];
    match sys::read_without_waiting(file.file.as_fd(), &mut buffer, 0) {
        // EAGAIN: it had to wait and said so, which is what is asked for.
        Ok(_) | Err(Errno::EAGAIN) => Offer::yes("a ring can read without blocking"),
        Err(Errno::EOPNOTSUPP) => Offer::no("threads do the reads here: a ring would gain nothing"),
        Err(errno) => refused(errno),
    }
}

fn refused(errno: Errno) -> Offer {
    match errno {
        // What filesystems without the feature answer to the ioctl or the open flag.
        Errno::EOPNOTSUPP | Errno::ENOTTY | Errno::EINVAL | Errno::ENOSYS => {
            Offer::no("not supported")
        }
        errno => Offer::no(errno.desc()),
    }
}

/// A temporary file.
struct Scratch<'a> {
    directory: &'a OwnedFd,
    file: OwnedFd,
    /// Absent for a file without a name, which vanishes by itself, also after a kill.
    name: Option<String>,
}

impl<'a> Scratch<'a> {
    fn create(directory: &'a OwnedFd, extra: OFlag) -> Result<Self, Errno> {
        let flags = OFlag::O_TMPFILE | OFlag::O_RDWR | OFlag::O_CLOEXEC | extra;
        match openat(directory, ".", flags, Mode::S_IRUSR | Mode::S_IWUSR) {
            Ok(file) => Ok(Self { directory, file, name: None }),
            // Filesystems without O_TMPFILE answer EOPNOTSUPP or, when old, EISDIR; EINVAL is the
            // refusal of O_DIRECT, or theirs: the file with a name finds out.
            Err(
                Errno::EOPNOTSUPP | Errno::EISDIR | Errno::EINVAL | Errno::ENOENT | Errno::ENOSYS,
            ) => Self::named(directory, extra),
            Err(errno) => Err(errno),
        }
    }

    fn named(directory: &'a OwnedFd, extra: OFlag) -> Result<Self, Errno> {
        let name = unique_name();
        let flags =
            OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_RDWR | OFlag::O_CLOEXEC;
        match openat(directory, name.as_str(), flags | extra, Mode::S_IRUSR | Mode::S_IWUSR) {
            Ok(file) => Ok(Self { directory, file, name: Some(name) }),
            Err(Errno::EEXIST) => Err(Errno::EEXIST),
            Err(errno) => {
                // An open that fails for O_DIRECT has already made the file.
                let _ = unlinkat(directory, name.as_str(), UnlinkatFlags::NoRemoveDir);
                Err(errno)
            }
        }
    }

    /// With two pages of data, so that there is something to clone and to read.
    fn filled(self) -> Result<Self, Errno> {
        let written = nix::unistd::write(&self.file, &[1; 8192]);
        if let Err(errno) = written {
            self.remove();
            return Err(errno);
        }
        Ok(self)
    }

    /// Removes the name, if there is one. It cannot be in the way of anybody, and a directory that
    /// took the file gives it back; so there is nothing to say about an error.
    fn remove(&self) {
        if let Some(name) = &self.name {
            let _ = unlinkat(self.directory, name.as_str(), UnlinkatFlags::NoRemoveDir);
        }
    }
}

/// A hidden name that nobody else uses, on any client of a shared filesystem: process, time and a
/// running number.
fn unique_name() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Relaxed);
    let time = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    format!(".longshore-doctor-{}-{:x}-{number}", std::process::id(), time.as_nanos())
}
