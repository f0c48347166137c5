//! The limits: bare loops of the system calls that no copy can do without. They keep no attribute,
//! check nothing and stop at the first error; a tool that is as fast has nothing left to save.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{ErrorKind, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::fcntl::{FcntlArg, OFlag, SpliceFFlags, fcntl, open, openat, readlinkat, splice};
use nix::sys::stat::Mode;
use nix::unistd::{pipe, symlinkat};

use crate::support::content::data_segments;

/// First argument that selects this mode.
pub const MODE: &str = "--limit";

/// Fits beside the page cache's copy into a core's second-level cache of 1 MiB: a buffer of 1 MiB was
/// measured at five times the CPU of 256 KiB, which would be no limit.
const BUFFER_BYTES: usize = 256 << 10;

/// The command line of a limit. `kind`: `stream` reads every file to its end; `segments` follows the
/// extents of sparse files; `splice` moves pages in memory through a pipe.
pub fn argv(kind: &str, threads: usize, source: &Path, copy: &Path) -> Vec<OsString> {
    let own = std::env::current_exe().unwrap_or_default();
    let words = [MODE, kind, &threads.to_string()].map(OsString::from);
    let mut argv = vec![own.into_os_string()];
    argv.extend(words);
    argv.extend([source, copy].map(|path| path.as_os_str().to_owned()));
    argv
}

/// The loop itself.
///
/// # Errors
/// The first error of any thread.
pub fn main(args: &[String]) -> Result<()> {
    let [kind, threads, source, copy] = args else { bail!("{MODE} KIND THREADS SOURCE COPY") };
    let (source, copy) = (Path::new(source), Path::new(copy));
    fs::create_dir(copy)?;
    let work = Work {
        dirs: Mutex::new(vec![PathBuf::new()]),
        more: Condvar::new(),
        unfinished: AtomicUsize::new(1),
        source,
        copy,
        segments: kind == "segments",
        splices: kind == "splice",
    };
    let threads: usize = threads.parse()?;
    std::thread::scope(|scope| {
        let handles: Vec<_> = (0..threads).map(|_| scope.spawn(|| work.run())).collect();
        handles.into_iter().try_for_each(|handle| match handle.join() {
            Ok(result) => result,
            Err(_) => bail!("a thread of the limit panicked"),
        })
    })
}

/// Directories are the unit of work, or single files when there are only a few large ones.
struct Work<'a> {
    dirs: Mutex<Vec<PathBuf>>,
    more: Condvar,
    unfinished: AtomicUsize,
    source: &'a Path,
    copy: &'a Path,
    segments: bool,
    splices: bool,
}

impl Work<'_> {
    fn run(&self) -> Result<()> {
        let mut buffer = vec![0; BUFFER_BYTES];
        while self.unfinished.load(Relaxed) > 0 {
            let mut dirs = self.dirs.lock().unwrap_or_else(PoisonError::into_inner);
            let Some(relative) = dirs.pop() else {
                // With a limit, because the last one may end between the look and the wait.
                let waited = self.more.wait_timeout(dirs, Duration::from_millis(5));
                drop(waited.unwrap_or_else(PoisonError::into_inner));
                continue;
            };
            drop(dirs);
            let done = self.item(&relative, &mut buffer);
            if self.unfinished.fetch_sub(1, Relaxed) == 1 || done.is_err() {
                self.unfinished.store(0, Relaxed);
                self.more.notify_all();
            }
            done.with_context(|| format!("{}", relative.display()))?;
        }
        Ok(())
    }

    fn push(&self, relative: PathBuf) {
        self.unfinished.fetch_add(1, Relaxed);
        self.dirs.lock().unwrap_or_else(PoisonError::into_inner).push(relative);
        self.more.notify_one();
    }

    fn item(&self, relative: &Path, buffer: &mut [u8]) -> Result<()> {
        let (source, copy) = (self.source.join(relative), self.copy.join(relative));
        let listing = match fs::read_dir(&source) {
            Ok(listing) => listing,
            Err(error) if error.kind() == ErrorKind::NotADirectory => {
                return self.file(File::open(source)?, File::create(copy)?, buffer);
            }
            Err(error) => return Err(error.into()),
        };
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let from = open(&source, flags, Mode::empty())?;
        let to = open(&copy, flags, Mode::empty())?;
        for entry in listing {
            let entry = entry?;
            let (kind, name) = (entry.file_type()?, entry.file_name());
            if kind.is_dir() {
                fs::create_dir(copy.join(&name))?;
                self.push(relative.join(name));
            } else if kind.is_symlink() {
                let text = readlinkat(&from, name.as_os_str())?;
                symlinkat(text.as_os_str(), &to, name.as_os_str())?;
            } else if relative.as_os_str().is_empty() {
                self.push(relative.join(name)); // large files lie at the top: one thread each
            } else {
                let (from, to) = pair(&from, &to, &name)?;
                self.file(from, to, buffer)?;
            }
        }
        Ok(())
    }

    fn file(&self, mut from: File, mut to: File, buffer: &mut [u8]) -> Result<()> {
        if self.segments {
            let size = from.metadata()?.len();
            to.set_len(size)?;
            for (start, end) in data_segments(&from, i64::try_from(size)?) {
                let (mut at, end) = (u64::try_from(start)?, u64::try_from(end)?);
                while at < end {
                    let want = usize::try_from(end - at)?.min(buffer.len());
                    let got = from.read_at(&mut buffer[..want], at)?;
                    if got == 0 {
                        break;
                    }
                    to.write_all_at(&buffer[..got], at)?;
                    at += u64::try_from(got)?;
                }
            }
            return Ok(());
        }
        if self.splices {
            let (end, begin) = pipe()?;
            fcntl(&begin, FcntlArg::F_SETPIPE_SZ(i32::try_from(BUFFER_BYTES)?))?;
            let none = SpliceFFlags::empty();
            loop {
                let got = splice(&from, None, &begin, None, BUFFER_BYTES, none)?;
                let mut rest = got;
                while rest > 0 {
                    rest -= splice(&end, None, &to, None, rest, none)?;
                }
                if got == 0 {
                    return Ok(());
                }
            }
        }
        loop {
            let got = from.read(buffer)?;
            to.write_all(&buffer[..got])?;
            if got < buffer.len() {
                return Ok(()); // a regular file gives less than was asked for only at its end
            }
        }
    }
}

fn pair(from: &OwnedFd, to: &OwnedFd, name: &OsString) -> Result<(File, File)> {
    let name = name.as_os_str();
    let source = openat(from, name, OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty())?;
    let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_CLOEXEC;
    let copy = openat(to, name, flags, Mode::from_bits_truncate(0o600))?;
    Ok((File::from(source), File::from(copy)))
}
