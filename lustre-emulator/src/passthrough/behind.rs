//! The directory behind the filesystem: what the kernel asks for, done there at once, with the numbers
//! and handles that the kernel uses. Permissions are not checked: everything is done as root.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirEntryExt, FileExt, MetadataExt, PermissionsExt, chown, lchown};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

use fuser::{Errno, FileAttr, FileHandle, FileType, Generation, INodeNo, Request, TimeOrNow};
use nix::fcntl::{AT_FDCWD, AtFlags, FallocateFlags, RenameFlags, fallocate, renameat2};
use nix::sys::stat::{UtimensatFlags, utimensat};
use nix::unistd::{Whence, linkat, lseek};

use super::attributes::{attr_of, time_spec};
use super::nodes::{Nodes, TOP};

/// Something open: a file, or a directory as it was when it was opened. `Own` is what the front end
/// keeps with it.
pub struct Handle<Own> {
    /// The inode's number.
    pub ino: u64,
    file: Option<File>,
    /// What a directory held when it was opened.
    pub entries: Vec<(u64, FileType, OsString)>,
    /// What the front end keeps with it.
    pub own: Own,
}

impl<Own: Default> Handle<Own> {
    fn new(ino: u64, file: Option<File>, entries: Vec<(u64, FileType, OsString)>) -> Self {
        Self { ino, file, entries, own: Own::default() }
    }

    /// The open file behind it.
    ///
    /// # Errors
    /// `EBADF` of a directory.
    pub fn file(&self) -> io::Result<&File> {
        self.file.as_ref().ok_or_else(|| errno(Errno::EBADF))
    }

    /// Up to `size` bytes from `offset`; fewer at the end only.
    ///
    /// # Errors
    /// Those of the file behind it.
    pub fn read(&self, offset: u64, size: u32) -> io::Result<Vec<u8>> {
        let mut data = vec![0; size as usize];
        let done = self.read_into(offset, &mut data)?;
        data.truncate(done);
        Ok(data)
    }

    /// As many bytes from `offset` as fit; fewer at the end only. Returns how many.
    ///
    /// # Errors
    /// Those of the file behind it.
    pub fn read_into(&self, offset: u64, data: &mut [u8]) -> io::Result<usize> {
        let mut done = 0;
        while done < data.len() {
            match self.file()?.read_at(&mut data[done..], offset + done as u64)? {
                0 => break,
                got => done += got,
            }
        }
        Ok(done)
    }

    /// `fallocate` with its mode as a number.
    ///
    /// # Errors
    /// Those of the file behind it; `EINVAL` for ranges out of range.
    pub fn allocate(&self, mode: i32, offset: u64, length: u64) -> io::Result<()> {
        let mode = FallocateFlags::from_bits_truncate(mode);
        let range = (i64::try_from(offset), i64::try_from(length));
        let (Ok(offset), Ok(length)) = range else { return Err(errno(Errno::EINVAL)) };
        Ok(fallocate(self.file()?, mode, offset, length)?)
    }

    /// `SEEK_DATA` and `SEEK_HOLE`.
    ///
    /// # Errors
    /// Those of the file behind it.
    pub fn seek(&self, offset: i64, whence: i32) -> io::Result<i64> {
        let data = whence == nix::libc::SEEK_DATA;
        let whence = if data { Whence::SeekData } else { Whence::SeekHole };
        Ok(lseek(self.file()?, offset, whence)?)
    }
}

/// What `setattr` may set.
#[derive(Debug)]
pub struct Wanted {
    /// Rights.
    pub mode: Option<u32>,
    /// User and group.
    pub owner: (Option<u32>, Option<u32>),
    /// Length in bytes.
    pub size: Option<u64>,
    /// Times of access and change.
    pub times: (Option<TimeOrNow>, Option<TimeOrNow>),
}

/// The directory and what is open in it.
pub struct Behind<Own> {
    /// Which path an inode number stands for.
    pub nodes: Nodes,
    handles: Mutex<HashMap<u64, Arc<Handle<Own>>>>,
    next_handle: AtomicU64,
}

/// Where an inode is, and whether the path's last step is a link that leads to it.
#[derive(Debug)]
pub struct Found {
    /// A path of the directory behind the filesystem, or of `/proc`.
    pub path: PathBuf,
    /// Whether its last step is to be followed.
    pub follow: bool,
}

/// What the kernel is told of a name.
pub type Entry = (FileAttr, Generation);

impl<Own: Default> Behind<Own> {
    /// Before this directory.
    ///
    /// # Errors
    /// When it does not exist.
    pub fn new(top: &Path) -> io::Result<Self> {
        let nodes = Nodes::new(&fs::canonicalize(top)?);
        Ok(Self { nodes, handles: Mutex::default(), next_handle: AtomicU64::new(1) })
    }

    /// What is open under this number.
    ///
    /// # Errors
    /// `EBADF` for numbers that are not given out.
    pub fn handle(&self, handle: FileHandle) -> io::Result<Arc<Handle<Own>>> {
        let handles = self.handles.lock().unwrap_or_else(PoisonError::into_inner);
        handles.get(&handle.0).cloned().ok_or_else(|| errno(Errno::EBADF))
    }

    fn keep(&self, handle: Handle<Own>) -> FileHandle {
        let number = self.next_handle.fetch_add(1, Relaxed);
        let mut handles = self.handles.lock().unwrap_or_else(PoisonError::into_inner);
        handles.insert(number, Arc::new(handle));
        FileHandle(number)
    }

    /// Gives a number back; returns what was open under it.
    pub fn close(&self, handle: FileHandle) -> Option<Arc<Handle<Own>>> {
        self.handles.lock().unwrap_or_else(PoisonError::into_inner).remove(&handle.0)
    }

    /// By a name, or by whoever has it open when it has none any more.
    ///
    /// # Errors
    /// `ENOENT` when neither leads to it.
    pub fn find(&self, ino: INodeNo) -> io::Result<Found> {
        if let Some(path) = self.nodes.path(ino.0) {
            return Ok(Found { path, follow: false });
        }
        let handles = self.handles.lock().unwrap_or_else(PoisonError::into_inner);
        let open = handles.values().find(|handle| handle.ino == ino.0 && handle.file.is_some());
        let file = open.ok_or_else(|| errno(Errno::ENOENT))?.file()?;
        let path = PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
        Ok(Found { path, follow: true })
    }

    /// The path of a name in a directory.
    ///
    /// # Errors
    /// Those of the directory behind it.
    pub fn child(&self, parent: INodeNo, name: &OsStr) -> io::Result<PathBuf> {
        Ok(self.nodes.path(parent.0).ok_or_else(|| errno(Errno::ENOENT))?.join(name))
    }

    /// Attributes of an inode.
    ///
    /// # Errors
    /// Those of the directory behind it.
    pub fn attr(&self, ino: INodeNo) -> io::Result<FileAttr> {
        let found = self.find(ino)?;
        let about =
            if found.follow { fs::metadata(found.path) } else { fs::symlink_metadata(found.path) };
        Ok(FileAttr { ino, ..attr_of(&about?) })
    }

    /// A name, of which the kernel knows from now on.
    ///
    /// # Errors
    /// Those of the directory behind it.
    pub fn entry(&self, parent: INodeNo, name: &OsStr) -> io::Result<Entry> {
        let attr = attr_of(&fs::symlink_metadata(self.child(parent, name)?)?);
        Ok((attr, Generation(self.nodes.learn(parent.0, name, attr.ino.0))))
    }

    /// Makes something new, and gives it what it has of whoever asked for it, whatever the mask and
    /// the user of this process.
    ///
    /// # Errors
    /// Those of the directory behind it.
    pub fn make(
        &self,
        (request, mode): (&Request, u32),
        (parent, name): (INodeNo, &OsStr),
        make: impl FnOnce(&Path) -> io::Result<()>,
    ) -> io::Result<Entry> {
        let path = self.child(parent, name)?;
        let dir = path.parent().ok_or_else(|| errno(Errno::ENOENT))?;
        make(&path)?;
        let (uid, gid) = (request.uid(), request.gid());
        if (uid, gid) != (0, 0) {
            let inherits = fs::metadata(dir)?.mode() & 0o2000 != 0;
            lchown(&path, Some(uid), (!inherits).then_some(gid))?;
        }
        let about = fs::symlink_metadata(&path)?;
        let lacks = mode & 0o7777 & !about.mode();
        // With a default ACL the rights are the ACL's business, and the mask has no say.
        let ruled = || xattr::get(dir, "system.posix_acl_default").ok().flatten().is_some();
        if !about.is_symlink() && lacks != 0 && !ruled() {
            let inherited = about.mode() & 0o2000;
            fs::set_permissions(&path, fs::Permissions::from_mode(mode & 0o7777 | inherited))?;
        }
        self.entry(parent, name)
    }

    /// Removes a name.
    ///
    /// # Errors
    /// Those of the directory behind it.
    pub fn remove(&self, parent: INodeNo, name: &OsStr, dir: bool) -> io::Result<()> {
        let path = self.child(parent, name)?;
        let ino = fs::symlink_metadata(&path)?.ino();
        if dir {
            fs::remove_dir(&path)?
        } else {
            fs::remove_file(&path)?
        }
        self.nodes.unname(parent.0, name, ino);
        Ok(())
    }

    /// Gives an inode another name.
    ///
    /// # Errors
    /// Those of the directory behind it.
    pub fn link(&self, ino: INodeNo, parent: INodeNo, name: &OsStr) -> io::Result<Entry> {
        let (from, to) = (self.find(ino)?, self.child(parent, name)?);
        let follow = if from.follow { AtFlags::AT_SYMLINK_FOLLOW } else { AtFlags::empty() };
        linkat(AT_FDCWD, &from.path, AT_FDCWD, &to, follow)?;
        self.entry(parent, name)
    }

    /// Renames, exchanges or replaces.
    ///
    /// # Errors
    /// Those of the directory behind it.
    pub fn rename(
        &self,
        (parent, name): (INodeNo, &OsStr),
        (new_parent, new_name): (INodeNo, &OsStr),
        flags: RenameFlags,
    ) -> io::Result<()> {
        let (from, to) = (self.child(parent, name)?, self.child(new_parent, new_name)?);
        let ino = fs::symlink_metadata(&from)?.ino();
        let replaced = fs::symlink_metadata(&to).ok().map(|about| about.ino());
        renameat2(AT_FDCWD, &from, AT_FDCWD, &to, flags)?;
        let (old, new) = ((parent.0, name), (new_parent.0, new_name));
        match replaced {
            Some(other) if flags.contains(RenameFlags::RENAME_EXCHANGE) => {
                self.nodes.rename(other, new, old);
            }
            // Two names of one file: rename does nothing then.
            Some(other) if other == ino => return Ok(()),
            Some(other) => self.nodes.unname(new.0, new.1, other),
            None => {}
        }
        self.nodes.rename(ino, old, new);
        Ok(())
    }

    /// Sets attributes, and returns them all.
    ///
    /// # Errors
    /// Those of the directory behind it.
    pub fn set(
        &self,
        ino: INodeNo,
        wanted: &Wanted,
        handle: Option<FileHandle>,
    ) -> io::Result<FileAttr> {
        let found = self.find(ino)?;
        if let Some(size) = wanted.size {
            let open = handle.and_then(|handle| self.handle(handle).ok());
            match open.as_ref().and_then(|open| open.file.as_ref()) {
                Some(file) => file.set_len(size)?,
                None => File::options().write(true).open(&found.path)?.set_len(size)?,
            }
        }
        let (uid, gid) = wanted.owner;
        if uid.is_some() || gid.is_some() {
            let give = if found.follow { chown::<&Path> } else { lchown::<&Path> };
            give(&found.path, uid, gid)?;
        }
        if let Some(mode) = wanted.mode {
            fs::set_permissions(&found.path, fs::Permissions::from_mode(mode & 0o7777))?;
        }
        let (atime, mtime) = wanted.times;
        if atime.is_some() || mtime.is_some() {
            let follow = if found.follow {
                UtimensatFlags::FollowSymlink
            } else {
                UtimensatFlags::NoFollowSymlink
            };
            utimensat(AT_FDCWD, &found.path, &time_spec(atime), &time_spec(mtime), follow)?;
        }
        self.attr(ino)
    }

    /// Opens a directory, and reads it whole.
    ///
    /// # Errors
    /// Those of the directory behind it.
    pub fn open_directory(&self, ino: INodeNo) -> io::Result<FileHandle> {
        let path = self.nodes.path(ino.0).ok_or_else(|| errno(Errno::ENOENT))?;
        let own = (ino.0, FileType::Directory, OsString::from("."));
        let mut entries = vec![own, (TOP, FileType::Directory, OsString::from(".."))];
        for entry in fs::read_dir(path)? {
            let entry = entry?;
            let kind = FileType::from_std(entry.file_type()?).unwrap_or(FileType::RegularFile);
            entries.push((entry.ino(), kind, entry.file_name()));
        }
        Ok(self.keep(Handle::new(ino.0, None, entries)))
    }

    /// Opens a file with the flags of `open`.
    ///
    /// # Errors
    /// Those of the directory behind it.
    pub fn open_file(&self, ino: INodeNo, flags: i32) -> io::Result<FileHandle> {
        let access = flags & nix::libc::O_ACCMODE;
        let file = File::options()
            .read(true) // a kernel that writes behind reads the rest of a page first
            .write(access != nix::libc::O_RDONLY)
            .truncate(access != nix::libc::O_RDONLY && flags & nix::libc::O_TRUNC != 0)
            .open(self.find(ino)?.path)?;
        Ok(self.keep(Handle::new(ino.0, Some(file), Vec::new())))
    }
}

/// A number of FUSE as an error of the system.
pub fn errno(errno: Errno) -> io::Error {
    io::Error::from_raw_os_error(errno.into())
}
