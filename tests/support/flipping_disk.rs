//! A disk that lies: a filesystem on a loop device over a file of a FUSE filesystem, which flips one
//! bit of chosen blocks on their way to the platter. The filesystem above notices nothing, and its
//! page cache holds what was meant.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use fuser::{
    BackgroundSession, Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags,
    Generation, INodeNo, LockOwner, MountOption, OpenFlags, ReplyAttr, ReplyData, ReplyEmpty,
    ReplyEntry, ReplyOpen, ReplyStatfs, ReplyWrite, Request, WriteFlags,
};

use super::scratch::{Scratch, run};
use super::{is_root, skip};

/// Where in a block, counted from its marker, the bit is flipped.
const FLIPPED_BYTE: usize = 100;

/// Blocks are recognised at multiples of this.
const GRAIN: usize = 512;

/// A block that is damaged whenever it is written, so many times.
#[derive(Clone)]
pub struct Flip {
    /// What the block begins with.
    pub marker: [u8; 16],
    /// How often it is damaged.
    pub times: usize,
}

/// The disk with its filesystem; gone when dropped.
pub struct FlippingDisk {
    session: Option<BackgroundSession>,
    below: PathBuf,
    at: PathBuf,
    flips: Arc<Mutex<Vec<Flip>>>,
    flipped: Arc<Mutex<usize>>,
}

impl FlippingDisk {
    /// Makes a disk in the scratch directory with a filesystem made by `mkfs`; nothing and a recorded
    /// skip when this machine cannot.
    pub fn new(scratch: &Scratch, mkfs: &[&str], bytes: u64) -> Option<Self> {
        if !is_root() || !Path::new("/dev/fuse").exists() {
            skip("FUSE needs root and /dev/fuse");
            return None;
        }
        let (below, at) = (scratch.join("below"), scratch.join("disk"));
        fs::create_dir(&below).expect("failed to make the mount point");
        fs::create_dir(&at).expect("failed to make the mount point");
        let backing = scratch.join("backing");
        let file = File::options().create(true).truncate(true).read(true).write(true).open(backing);
        let file = file.expect("failed to make the image");
        file.set_len(bytes).expect("failed to make the image");
        let (flips, flipped) = (Arc::default(), Arc::default());
        let served =
            Served { file, bytes, flips: Arc::clone(&flips), flipped: Arc::clone(&flipped) };
        let mut config = Config::default();
        config.mount_options = vec![MountOption::FSName("longshore-flipping".to_owned())];
        config.n_threads = Some(2);
        let session = match fuser::spawn_mount(served, &below, &config) {
            Ok(session) => session,
            Err(error) => {
                skip(&format!("failed to mount a FUSE filesystem: {error}"));
                return None;
            }
        };
        let disk = Self { session: Some(session), below, at, flips, flipped };
        let made = run(Command::new(mkfs[0])
            .args(&mkfs[1..])
            .arg(disk.image())
            .env("PATH", "/usr/sbin:/sbin:/usr/bin:/bin"))
        .and_then(|()| disk.mount());
        match made {
            Ok(()) => Some(disk),
            Err(error) => {
                skip(&format!("no filesystem on a flipping disk: {error}"));
                None
            }
        }
    }

    fn image(&self) -> PathBuf {
        self.below.join("image")
    }

    fn mount(&self) -> Result<(), String> {
        run(Command::new("mount").args(["-o", "loop"]).arg(self.image()).arg(&self.at))
    }

    /// Where the filesystem is mounted.
    pub fn path(&self) -> &Path {
        &self.at
    }

    /// Damages these blocks from now on, and no others.
    pub fn flip(&self, flips: Vec<Flip>) {
        *self.flips.lock().unwrap_or_else(PoisonError::into_inner) = flips;
        *self.flipped.lock().unwrap_or_else(PoisonError::into_inner) = 0;
    }

    /// How many blocks have been damaged since.
    pub fn flipped(&self) -> usize {
        *self.flipped.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Forgets what memory knows of the disk.
    pub fn remount(&self) {
        run(Command::new("umount").arg(&self.at)).expect("failed to unmount the disk");
        self.mount().expect("failed to mount the disk again");
    }
}

impl Drop for FlippingDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.at).output();
        let _ = Command::new("umount").arg("-l").arg(&self.below).output();
        drop(self.session.take());
    }
}

struct Served {
    file: File,
    bytes: u64,
    flips: Arc<Mutex<Vec<Flip>>>,
    flipped: Arc<Mutex<usize>>,
}

const LONG: Duration = Duration::from_secs(3600);

impl Served {
    fn attr(&self, ino: u64) -> FileAttr {
        let now = SystemTime::UNIX_EPOCH;
        let directory = ino == 1;
        FileAttr {
            ino: INodeNo(ino),
            size: if directory { 0 } else { self.bytes },
            blocks: if directory { 0 } else { self.bytes / 512 },
            atime: now,
            mtime: now,
            ctime: now,
            crtime: now,
            kind: if directory { FileType::Directory } else { FileType::RegularFile },
            perm: 0o700,
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev: 0,
            blksize: 4096,
            flags: 0,
        }
    }

    /// The data as it reaches the platter.
    fn damaged(&self, data: &[u8]) -> Vec<u8> {
        let mut data = data.to_vec();
        let mut flips = self.flips.lock().unwrap_or_else(PoisonError::into_inner);
        if flips.is_empty() {
            return data;
        }
        for block in data.chunks_mut(GRAIN) {
            let found = flips.iter_mut().find(|flip| block.starts_with(&flip.marker));
            if let Some(flip) = found.filter(|flip| flip.times > 0) {
                flip.times -= 1;
                block[FLIPPED_BYTE] ^= 0x10;
                *self.flipped.lock().unwrap_or_else(PoisonError::into_inner) += 1;
            }
        }
        data
    }
}

impl Filesystem for Served {
    fn lookup(&self, _: &Request, _: INodeNo, name: &std::ffi::OsStr, reply: ReplyEntry) {
        if name == "image" {
            reply.entry(&LONG, &self.attr(2), Generation(0));
        } else {
            reply.error(Errno::ENOENT);
        }
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        reply.attr(&LONG, &self.attr(ino.0));
    }

    fn open(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        // No page cache in between, which would remember what was meant.
        reply.opened(FileHandle(0), FopenFlags::FOPEN_DIRECT_IO);
    }

    fn read(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let mut data = vec![0; usize::try_from(size).unwrap_or(0)];
        let mut filled = 0;
        while filled < data.len() {
            match self.file.read_at(&mut data[filled..], offset + filled as u64) {
                Ok(0) => break,
                Ok(read) => filled += read,
                Err(_) => return reply.error(Errno::EIO),
            }
        }
        reply.data(&data[..filled]);
    }

    fn write(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        match self.file.write_all_at(&self.damaged(data), offset) {
            Ok(()) => reply.written(u32::try_from(data.len()).unwrap_or(0)),
            Err(_) => reply.error(Errno::EIO),
        }
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.ok();
    }

    fn fsync(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        reply.ok();
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        reply.statfs(1 << 20, 1 << 20, 1 << 20, 1 << 20, 1 << 20, 4096, 255, 4096);
    }
}
