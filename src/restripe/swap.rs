//! The copy beside a file: its name, what a killed run left, and the moment in which it takes the file's
//! place. It copies nothing.

use std::ffi::{CStr, CString};
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, RenameFlags, openat, renameat, renameat2};
use nix::sys::stat::{Mode, SFlag, fstat, fstatat};
use nix::unistd::{UnlinkatFlags, fsync, unlinkat};

use super::{Refused, open_directory, os_str, split};
use crate::error::show;
use crate::lustre::version::data_version;

/// What a file was when it was looked at. Equal prints: nobody has touched it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Print {
    inode: (u64, u64),
    size: i64,
    modified: (i64, i64),
    changed: (i64, i64),
    /// Lustre's own count of changes to the data.
    version: Option<u64>,
}

impl Print {
    pub(super) fn of(file: impl AsFd) -> Result<Self, Refused> {
        let file = file.as_fd();
        let stat = fstat(file).map_err(Refused::at("look at it"))?;
        Ok(Self {
            inode: (stat.st_dev, stat.st_ino),
            size: stat.st_size,
            modified: (stat.st_mtime, stat.st_mtime_nsec),
            changed: (stat.st_ctime, stat.st_ctime_nsec),
            version: data_version(file),
        })
    }

    /// Whether the data is the same; the time of change moves with the name.
    fn same_data(&self, later: &Self) -> bool {
        Self { changed: self.changed, ..*later } == *self
    }
}

/// A file's name in its directory, and that of the copy beside it.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) path: PathBuf,
    pub(super) dir: File,
    pub(super) name: CString,
    aside: CString,
}

impl Place {
    pub(super) fn of(path: &Path) -> Result<Self, Refused> {
        let (parent, name) = split(path)?;
        let dir = open_directory(&parent)?;
        Ok(Self { path: parent, dir, aside: aside(&name), name })
    }

    pub(super) fn file(&self) -> PathBuf {
        self.path.join(os_str(&self.name))
    }

    pub(super) fn aside(&self) -> PathBuf {
        self.path.join(os_str(&self.aside))
    }

    /// Whether the name still is that of the file that was looked at.
    pub(super) fn is_named(&self, print: &Print) -> Result<bool, Refused> {
        match fstatat(&self.dir, self.name.as_c_str(), AtFlags::AT_SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok((stat.st_dev, stat.st_ino) == print.inode),
            Err(Errno::ENOENT) => Ok(false),
            Err(errno) => Err(Refused::at("look at it")(errno)),
        }
    }

    /// Removes what a run left that was killed: an unfinished copy, or the old file after a swap. The
    /// caller holds the lock on the file, so that it is no copy that somebody is making.
    pub(super) fn remove_leftover(&self) -> Result<(), Refused> {
        let stat = match fstatat(&self.dir, self.aside.as_c_str(), AtFlags::AT_SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(Errno::ENOENT) => return Ok(()),
            Err(errno) => return Err(Refused::at("look for a leftover")(errno)),
        };
        if stat.st_mode & SFlag::S_IFMT.bits() != SFlag::S_IFREG.bits() {
            return Err(Refused::InTheWay(show(&self.aside())));
        }
        unlinkat(&self.dir, self.aside.as_c_str(), UnlinkatFlags::NoRemoveDir)
            .map_err(Refused::at("remove a leftover"))
    }

    /// Opens the complete copy.
    pub(super) fn open_leftover(&self) -> Result<OwnedFd, Refused> {
        let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
        openat(&self.dir, self.aside.as_c_str(), flags, Mode::empty())
            .map_err(Refused::at("open the copy"))
    }

    /// Moves the copy into the file's place. Where names can be exchanged, a write in that very moment is
    /// noticed and the file put back; elsewhere it can only be told.
    pub(super) fn swap(
        &self,
        file: impl AsFd,
        before: &Print,
        copy: impl AsFd,
    ) -> Result<(), Refused> {
        let file = file.as_fd();
        if !self.is_aside(&Print::of(copy)?)? {
            return Err(Refused::Changed);
        }
        let exchanged = match self.exchange() {
            Ok(()) => true,
            // What filesystems answer that can only rename; Lustre's client does.
            Err(Errno::EINVAL | Errno::ENOSYS | Errno::EOPNOTSUPP) => {
                renameat(&self.dir, self.aside.as_c_str(), &self.dir, self.name.as_c_str())
                    .map_err(Refused::at("move the copy into place"))?;
                false
            }
            Err(errno) => return Err(Refused::at("move the copy into place")(errno)),
        };
        let intact = Print::of(file).is_ok_and(|now| before.same_data(&now));
        if intact {
            if exchanged {
                self.remove_leftover()?;
            }
            return fsync(&self.dir).map_err(Refused::at("flush the directory"));
        }
        match exchanged.then(|| self.exchange()) {
            Some(Ok(())) => Err(Refused::Changed),
            _ => Err(Refused::LateWrite { exchanged }),
        }
    }

    fn exchange(&self) -> Result<(), Errno> {
        let (from, to) = (self.aside.as_c_str(), self.name.as_c_str());
        renameat2(&self.dir, from, &self.dir, to, RenameFlags::RENAME_EXCHANGE)
    }

    fn is_aside(&self, copy: &Print) -> Result<bool, Refused> {
        fstatat(&self.dir, self.aside.as_c_str(), AtFlags::AT_SYMLINK_NOFOLLOW)
            .map(|stat| (stat.st_dev, stat.st_ino) == copy.inode)
            .map_err(Refused::at("look at the copy"))
    }
}

/// The name of the copy of `name`. In a directory that is striped over several metadata servers the
/// name decides where an inode lies, and a name of the form `.NAME.xxxxxx`, the suffix of mixed
/// letters and digits, is placed like `NAME` itself (`lu_name_is_temp_file` of `lu_object.h`), so that the
/// rename stays on one server. Until it is complete the engine gives a large copy its own kind of
/// temporary name, which in such a directory may cost one rename between servers, and is right all the
/// same. The suffix is always the same, so that the next run finds what a killed one left. Names that
/// are too long for a suffix get a short one instead.
fn aside(name: &CStr) -> CString {
    const LONGEST: usize = 255;
    const SUFFIX: usize = 6;
    const DIGITS: &[u8] = b"0123456789";
    const UPPER: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ";
    const LOWER: &[u8] = b"abcdefghijklmnopqrstuvwxyz";
    // FNV-1a, 64 bits: stable over versions. The first word keeps other users of the scheme apart.
    let bytes = b"longshore restripe".iter().chain(name.to_bytes());
    let mut hash = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    });
    let mut out = vec![b'.'];
    if name.to_bytes().len() + SUFFIX + 2 <= LONGEST {
        out.extend(name.to_bytes());
    } else {
        out.extend(format!("longshore-restripe-{hash:016x}").bytes());
    }
    out.push(b'.');
    // One of each kind, twice: "mixed" whatever the hash.
    for digits in [UPPER, LOWER, DIGITS, LOWER, UPPER, DIGITS] {
        let count = u64::try_from(digits.len()).expect("at most 26");
        out.push(digits[usize::try_from(hash % count).expect("at most 26")]);
        hash /= count;
    }
    CString::new(out).expect("neither the name nor the digits hold a NUL")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_copys_name_has_the_form_that_stays_on_one_server_and_is_always_the_same() {
        let name = aside(c"data.h5");
        assert_eq!(name, aside(c"data.h5"));
        let text = name.to_str().unwrap();
        let suffix = text.strip_prefix(".data.h5.").unwrap();
        assert_eq!(suffix.len(), 6);
        for kind in [u8::is_ascii_uppercase, u8::is_ascii_lowercase, u8::is_ascii_digit] {
            assert!(suffix.bytes().any(|byte| kind(&byte)), "{suffix}");
        }
        assert_ne!(name, aside(c"data.h6"));
        let long = CString::new(vec![b'x'; 255]).unwrap();
        assert!(aside(&long).to_bytes().len() <= 255);
        assert_ne!(aside(&long), aside(&CString::new(vec![b'x'; 254]).unwrap()));
    }
}
