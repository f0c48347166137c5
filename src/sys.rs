//! System calls that `nix` lacks, one safe wrapper each. One of the two places with `unsafe`.
//! No policy: an unsupported call is an errno, what to do about it is the caller's business.
#![allow(unsafe_code)] // wrappers of raw system calls; each block says why it is sound

pub mod buffer;
mod entries;
pub mod processors;
pub mod ring;
mod shared_memory;

pub use entries::{Entry, entries};
pub use shared_memory::SharedMemory;

use std::ffi::CStr;
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use memmap2::{MmapMut, MmapOptions};
use nix::errno::Errno;
use nix::sys::stat::{fstat, makedev};

/// Converts the `-1` convention of libc into a `Result`.
fn check(result: impl TryInto<usize>) -> Result<usize, Errno> {
    result.try_into().map_err(|_| Errno::last())
}

/// Reads directory entries into `buffer` (getdents64(2)); 0 bytes mean the end. Decode with
/// [`entries`].
///
/// # Errors
/// The errno of getdents64.
pub fn read_entries(dir: BorrowedFd<'_>, buffer: &mut [u8]) -> Result<usize, Errno> {
    // SAFETY: the kernel writes at most `buffer.len()` bytes into a buffer that we hold mutably.
    let read = unsafe {
        libc::syscall(libc::SYS_getdents64, dir.as_raw_fd(), buffer.as_mut_ptr(), buffer.len())
    };
    check(read)
}

/// What an extended attribute is read from or written to.
#[derive(Debug, Clone, Copy)]
pub enum XattrTarget<'a> {
    /// An open file or directory.
    Fd(BorrowedFd<'a>),
    /// A path whose last component is not followed; for symbolic links and special files.
    Path(&'a CStr),
    /// A path that is followed: that of a descriptor below `/proc/self/fd` which is not open (`O_PATH`).
    Held(&'a CStr),
}

/// Lists the attribute names, each NUL-terminated, into `names` (which grows as needed).
///
/// # Errors
/// The errno of listxattr(2); `EOPNOTSUPP` where the filesystem has none.
pub fn list_xattrs(target: XattrTarget<'_>, names: &mut Vec<u8>) -> Result<(), Errno> {
    fill(names, |buffer| match target {
        // SAFETY: the kernel writes at most `buffer.len()` bytes into a buffer that we hold mutably.
        XattrTarget::Fd(fd) => check(unsafe {
            libc::flistxattr(fd.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len())
        }),
        // SAFETY: as above, and `path` is NUL-terminated by its type.
        XattrTarget::Path(path) => check(unsafe {
            libc::llistxattr(path.as_ptr(), buffer.as_mut_ptr().cast(), buffer.len())
        }),
        // SAFETY: as above.
        XattrTarget::Held(path) => check(unsafe {
            libc::listxattr(path.as_ptr(), buffer.as_mut_ptr().cast(), buffer.len())
        }),
    })
}

/// Reads one attribute's value into `value` (which grows as needed).
///
/// # Errors
/// The errno of getxattr(2); `ENODATA` where there is no such attribute.
pub fn get_xattr(target: XattrTarget<'_>, name: &CStr, value: &mut Vec<u8>) -> Result<(), Errno> {
    fill(value, |buffer| match target {
        // SAFETY: the kernel writes at most `buffer.len()` bytes into a buffer that we hold mutably;
        // `name` is NUL-terminated by its type.
        XattrTarget::Fd(fd) => check(unsafe {
            libc::fgetxattr(fd.as_raw_fd(), name.as_ptr(), buffer.as_mut_ptr().cast(), buffer.len())
        }),
        // SAFETY: as above, and `path` is NUL-terminated by its type.
        XattrTarget::Path(path) => check(unsafe {
            libc::lgetxattr(path.as_ptr(), name.as_ptr(), buffer.as_mut_ptr().cast(), buffer.len())
        }),
        // SAFETY: as above.
        XattrTarget::Held(path) => check(unsafe {
            libc::getxattr(path.as_ptr(), name.as_ptr(), buffer.as_mut_ptr().cast(), buffer.len())
        }),
    })
}

/// Calls `read` with a buffer that is large enough: attributes are small, so the first try nearly
/// always succeeds. 64 KiB is the kernel's limit for a value and for a list (`XATTR_SIZE_MAX`).
fn fill(
    out: &mut Vec<u8>,
    mut read: impl FnMut(&mut [u8]) -> Result<usize, Errno>,
) -> Result<(), Errno> {
    const FIRST: usize = 512;
    const MAX: usize = 65536;
    for size in [FIRST, MAX] {
        out.resize(size, 0);
        match read(out) {
            Err(Errno::ERANGE) if size < MAX => {}
            Ok(length) => {
                out.truncate(length);
                return Ok(());
            }
            Err(errno) => {
                out.clear();
                return Err(errno);
            }
        }
    }
    Err(Errno::ERANGE)
}

/// Sets one attribute, creating or replacing it.
///
/// # Errors
/// The errno of setxattr(2).
pub fn set_xattr(target: XattrTarget<'_>, name: &CStr, value: &[u8]) -> Result<(), Errno> {
    let result = match target {
        // SAFETY: the kernel reads `value.len()` bytes of a buffer that we hold, and a name that is
        // NUL-terminated by its type.
        XattrTarget::Fd(fd) => unsafe {
            libc::fsetxattr(fd.as_raw_fd(), name.as_ptr(), value.as_ptr().cast(), value.len(), 0)
        },
        // SAFETY: as above, and `path` is NUL-terminated by its type.
        XattrTarget::Path(path) => unsafe {
            libc::lsetxattr(path.as_ptr(), name.as_ptr(), value.as_ptr().cast(), value.len(), 0)
        },
        // SAFETY: as above.
        XattrTarget::Held(path) => unsafe {
            libc::setxattr(path.as_ptr(), name.as_ptr(), value.as_ptr().cast(), value.len(), 0)
        },
    };
    check(result).map(drop)
}

/// Removes one attribute.
///
/// # Errors
/// The errno of removexattr(2); `ENODATA` where there is no such attribute.
pub fn remove_xattr(target: XattrTarget<'_>, name: &CStr) -> Result<(), Errno> {
    let result = match target {
        // SAFETY: the kernel reads a name that is NUL-terminated by its type.
        XattrTarget::Fd(fd) => unsafe { libc::fremovexattr(fd.as_raw_fd(), name.as_ptr()) },
        // SAFETY: as above, for path and name.
        XattrTarget::Path(path) => unsafe { libc::lremovexattr(path.as_ptr(), name.as_ptr()) },
        // SAFETY: as above.
        XattrTarget::Held(path) => unsafe { libc::removexattr(path.as_ptr(), name.as_ptr()) },
    };
    check(result).map(drop)
}

/// Makes `destination` share all of `source`'s blocks (ioctl FICLONE, `linux/fs.h`).
///
/// # Errors
/// The errno of the ioctl; `EOPNOTSUPP`, `EXDEV`, `EINVAL` and `ENOTTY` mean "not here".
pub fn clone_file(destination: impl AsFd, source: impl AsFd) -> Result<(), Errno> {
    let (to, from) = (destination.as_fd().as_raw_fd(), source.as_fd().as_raw_fd());
    // SAFETY: FICLONE takes a descriptor by value and touches no memory of ours.
    check(unsafe { libc::ioctl(to, libc::FICLONE, from) }).map(drop)
}

/// Reads only what is there without waiting for the device (preadv2 with `RWF_NOWAIT`).
///
/// # Errors
/// `EAGAIN` when the data is not in memory, `EOPNOTSUPP` where the filesystem cannot tell.
pub fn read_without_waiting(
    file: BorrowedFd<'_>,
    buffer: &mut [u8],
    offset: i64,
) -> Result<usize, Errno> {
    let part = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    // SAFETY: the kernel writes at most `buffer.len()` bytes into a buffer that we hold mutably; the
    // vector lives until the call returns.
    check(unsafe { libc::preadv2(file.as_raw_fd(), &raw const part, 1, offset, libc::RWF_NOWAIT) })
}

/// Pages of a file that are in the page cache (cachestat(2), Linux 6.5), in pages of 4 KiB or what
/// the machine has.
///
/// # Errors
/// `ENOSYS` on older kernels, `EOPNOTSUPP` on hugetlbfs.
pub fn cached_pages(file: BorrowedFd<'_>, length_bytes: u64) -> Result<u64, Errno> {
    /// Not in libc for every target; the number is the same on all of them (unified table).
    const SYS_CACHESTAT: libc::c_long = 451;
    let range: [u64; 2] = [0, length_bytes]; // struct cachestat_range { off, len }
    let mut stat = [0_u64; 5]; // nr_cache, nr_dirty, nr_writeback, nr_evicted, nr_recently_evicted
    // SAFETY: both arrays have the size and alignment of the kernel's structures (two and five u64)
    // and live until the call returns.
    let result = unsafe {
        libc::syscall(SYS_CACHESTAT, file.as_raw_fd(), range.as_ptr(), stat.as_mut_ptr(), 0)
    };
    check(result).map(|_| stat[0])
}

/// What a file asks of O_DIRECT, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DirectAlignment {
    /// Alignment of the buffer in memory.
    pub memory: u32,
    /// Alignment of offset and length in the file.
    pub offset: u32,
}

/// statx(2) of an open file, with the flags and what is wanted by its mask.
fn statx(file: BorrowedFd<'_>, flags: i32, wanted: u32) -> Result<libc::statx, Errno> {
    // SAFETY: statx is plain old data, for which all zeroes are a valid value.
    let mut stat: libc::statx = unsafe { std::mem::zeroed() };
    let flags = flags | libc::AT_EMPTY_PATH;
    // SAFETY: the path is an empty NUL-terminated string, `stat` lives until the call returns.
    let result =
        unsafe { libc::statx(file.as_raw_fd(), c"".as_ptr(), flags, wanted, &raw mut stat) };
    check(result)?;
    Ok(stat)
}

/// Device and inode number of an open file, which never change. It asks no server, unless a container's filter
/// refuses statx.
///
/// # Errors
/// The errno of fstat.
pub fn inode(file: BorrowedFd<'_>) -> Result<(u64, u64), Errno> {
    match statx(file, libc::AT_STATX_DONT_SYNC, libc::STATX_INO) {
        Ok(stat) => {
            Ok((makedev(stat.stx_dev_major.into(), stat.stx_dev_minor.into()), stat.stx_ino))
        }
        Err(_) => fstat(file).map(|stat| (stat.st_dev, stat.st_ino)),
    }
}

/// The device number of the filesystem that an open file lies on, as [`inode`] finds it.
///
/// # Errors
/// The errno of fstat.
pub fn device(file: BorrowedFd<'_>) -> Result<u64, Errno> {
    inode(file).map(|(device, _)| device)
}

/// What tells the mount that an open directory lies on from others: its number (statx with `STATX_MNT_ID`, Linux 5.8),
/// by which a bind mount is another one; on older kernels the device, by which it is not.
///
/// # Errors
/// The errno of fstat.
pub fn mount(directory: BorrowedFd<'_>) -> Result<u64, Errno> {
    match statx(directory, libc::AT_STATX_DONT_SYNC, libc::STATX_MNT_ID) {
        Ok(stat) if stat.stx_mask & libc::STATX_MNT_ID != 0 => Ok(stat.stx_mnt_id),
        _ => device(directory),
    }
}

/// Asks for a file's O_DIRECT alignment (statx with `STATX_DIOALIGN`, Linux 6.1). `None` means that
/// the file does not take O_DIRECT or that the kernel cannot tell.
///
/// # Errors
/// The errno of statx.
pub fn direct_alignment(file: BorrowedFd<'_>) -> Result<Option<DirectAlignment>, Errno> {
    let stat = statx(file, 0, libc::STATX_DIOALIGN)?;
    let known = stat.stx_mask & libc::STATX_DIOALIGN != 0 && stat.stx_dio_offset_align != 0;
    Ok(known.then_some(DirectAlignment {
        memory: stat.stx_dio_mem_align,
        offset: stat.stx_dio_offset_align,
    }))
}

/// `struct fsxattr` of `linux/fs.h`: flags, extent hint, project id and padding (28 bytes).
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ProjectAttributes {
    /// `FS_XFLAG_*`; 0x200 is "new entries inherit the project".
    pub flags: u32,
    extent_size: u32,
    extent_count: u32,
    /// The project id that quota is charged to.
    pub project: u32,
    cow_extent_size: u32,
    padding: [u8; 8],
}

/// `FS_XFLAG_PROJINHERIT` of `linux/fs.h`.
pub const INHERIT_PROJECT: u32 = 0x200;

/// Reads project id and extended flags (ioctl FS_IOC_FSGETXATTR).
///
/// # Errors
/// The errno of the ioctl; `ENOTTY` or `EOPNOTSUPP` where there are none.
pub fn project_attributes(file: BorrowedFd<'_>) -> Result<ProjectAttributes, Errno> {
    const FS_IOC_FSGETXATTR: libc::c_ulong = 0x801c_581f;
    let mut value = ProjectAttributes::default();
    // SAFETY: the ioctl writes one `struct fsxattr`, which `value` is by its representation.
    let result = unsafe { libc::ioctl(file.as_raw_fd(), FS_IOC_FSGETXATTR, &raw mut value) };
    check(result).map(|_| value)
}

/// Sets project id and extended flags (ioctl FS_IOC_FSSETXATTR).
///
/// # Errors
/// The errno of the ioctl; `EPERM` outside the initial user namespace.
pub fn set_project_attributes(
    file: BorrowedFd<'_>,
    value: &ProjectAttributes,
) -> Result<(), Errno> {
    const FS_IOC_FSSETXATTR: libc::c_ulong = 0x401c_5820;
    // SAFETY: the ioctl reads one `struct fsxattr`, which `value` is by its representation.
    let result = unsafe { libc::ioctl(file.as_raw_fd(), FS_IOC_FSSETXATTR, &raw const *value) };
    check(result).map(drop)
}

/// Reads the inode flags that chattr(1) shows (ioctl FS_IOC_GETFLAGS).
///
/// # Errors
/// The errno of the ioctl; `ENOTTY` or `EOPNOTSUPP` where there are none.
pub fn inode_flags(file: BorrowedFd<'_>) -> Result<u32, Errno> {
    // The kernel reads and writes an int here, whatever the ioctl's number says.
    let mut flags: libc::c_int = 0;
    // SAFETY: the ioctl writes one int, which lives until the call returns.
    let result =
        unsafe { libc::ioctl(file.as_raw_fd(), libc::FS_IOC_GETFLAGS as _, &raw mut flags) };
    check(result).map(|_| flags.cast_unsigned())
}

/// Sets the inode flags (ioctl FS_IOC_SETFLAGS).
///
/// # Errors
/// The errno of the ioctl; `EPERM` for append-only and immutable without privilege.
pub fn set_inode_flags(file: BorrowedFd<'_>, flags: u32) -> Result<(), Errno> {
    let flags: libc::c_int = flags.cast_signed();
    // SAFETY: the ioctl reads one int, which lives until the call returns.
    let result =
        unsafe { libc::ioctl(file.as_raw_fd(), libc::FS_IOC_SETFLAGS as _, &raw const flags) };
    check(result).map(drop)
}

/// Issues an ioctl whose answer is a structure without pointers (`_IOR` of `asm-generic/ioctl.h`), for
/// filesystems whose type was looked at before: the numbers mean other things elsewhere.
///
/// # Errors
/// The errno of the ioctl; `ENOTTY` where there is none of this number.
///
/// # Panics
/// When the number does not say "read", or the buffer is shorter than the number says.
pub fn read_ioctl(file: BorrowedFd<'_>, number: u32, buffer: &mut [u8]) -> Result<(), Errno> {
    let bytes = usize::try_from(number >> 16 & 0x3fff).expect("14 bits fit");
    assert!(number >> 30 == 2 && buffer.len() >= bytes, "the buffer takes the answer");
    // SAFETY: the kernel writes at most as many bytes as the number says, which the buffer has; what it
    // reads of it is initialised.
    check(unsafe { libc::ioctl(file.as_raw_fd(), number.into(), buffer.as_mut_ptr()) }).map(drop)
}

/// Asks to be told of writers (fcntl `F_SETLEASE` with `F_RDLCK`): from then on whoever opens the file for
/// writing waits until the lease is given back (by closing the file), or `lease-break-time` is over; this
/// process gets SIGIO, which it must have provided for. Only writers on this machine are known.
///
/// # Errors
/// `EAGAIN` when the file is open for writing; `EINVAL` and others where there are no leases; `EACCES` for
/// the file of another user.
pub fn take_read_lease(file: BorrowedFd<'_>) -> Result<(), Errno> {
    // SAFETY: the request takes a number and touches no memory of ours.
    check(unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETLEASE, libc::F_RDLCK) }).map(drop)
}

/// Whether nobody wanted to write since [`take_read_lease`].
pub fn has_read_lease(file: BorrowedFd<'_>) -> bool {
    // SAFETY: the request takes no argument and touches no memory of ours.
    check(unsafe { libc::fcntl(file.as_raw_fd(), libc::F_GETLEASE) }).ok()
        == usize::try_from(libc::F_RDLCK).ok()
}

/// Memory in pages of a nameless file in `directory`, which the system can write there when it is
/// short, instead of keeping them. All zeros.
///
/// # Errors
/// The errno of making, allocating or mapping the file.
pub fn scratch_memory(directory: &Path, length_bytes: usize) -> Result<MmapMut, Errno> {
    let mut options = File::options();
    options.read(true).write(true).mode(0o600).custom_flags(libc::O_TMPFILE | libc::O_CLOEXEC);
    let file = options.open(directory).map_err(errno_of)?;
    let length = i64::try_from(length_bytes).map_err(|_| Errno::EFBIG)?;
    let flags = nix::fcntl::FallocateFlags::empty();
    nix::fcntl::fallocate(&file, flags, 0, length)?;
    // SAFETY: the file has no name and its only descriptor is closed here, so nobody else can change
    // or shorten it; its blocks are allocated.
    unsafe { MmapOptions::new().len(length_bytes).map_mut(&file) }.map_err(errno_of)
}

#[allow(clippy::needless_pass_by_value)] // for map_err
fn errno_of(error: std::io::Error) -> Errno {
    error.raw_os_error().map_or(Errno::EIO, Errno::from_raw)
}

/// Tells a file from a later one with the same inode number: inode and time of birth, where the
/// filesystem knows it (statx with `STATX_BTIME`).
///
/// # Errors
/// The errno of statx.
pub fn birth(file: BorrowedFd<'_>) -> Result<[u64; 3], Errno> {
    let stat = statx(file, 0, libc::STATX_INO | libc::STATX_BTIME)?;
    let born = (stat.stx_mask & libc::STATX_BTIME != 0).then_some(stat.stx_btime);
    let (seconds, nanos) = born.map_or((0, 0), |time| (time.tv_sec, time.tv_nsec));
    Ok([stat.stx_ino, seconds.cast_unsigned(), u64::from(nanos)])
}

#[cfg(test)]
mod tests {

    use super::*;

    #[test]
    fn project_attributes_have_the_size_of_the_kernels_structure() {
        assert_eq!(size_of::<ProjectAttributes>(), 28);
    }
}
