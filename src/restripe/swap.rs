//! The copy beside a file: its name, what a killed run left, and the moment in which it takes the file's
//! place. It copies nothing.

use std::ffi::{CStr, CString};
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, RenameFlags, openat, renameat, renameat2};
use nix::sys::stat::{Mode, SFlag, fstat, fstatat};
use nix::unistd::{UnlinkatFlags, fsync, linkat, unlinkat};

use super::{Refused, open_directory, os_str, split};
use crate::engine::temporary;
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

/// Where the old file is once the copy has its name.
#[derive(Clone, Copy)]
enum Old {
    /// Under the copy's name.
    Exchanged,
    /// Under the name of an unfinished copy.
    Linked,
    /// Nowhere: it could have no second name.
    Gone,
}

/// A file's name in its directory, and that of the copy beside it.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) path: PathBuf,
    pub(super) dir: File,
    pub(super) name: CString,
    aside: CString,
    /// What the engine calls the copy until it is complete.
    unfinished: CString,
}

impl Place {
    pub(super) fn of(path: &Path) -> Result<Self, Refused> {
        let (parent, name) = split(path)?;
        let dir = open_directory(&parent)?;
        let aside = aside(&name);
        Ok(Self { path: parent, dir, unfinished: temporary(&aside), aside, name })
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

    /// Removes what a run left that was killed: an unfinished or complete copy, or the old file after a
    /// swap. The caller holds the lock on the file, so that it is no copy that somebody is making.
    pub(super) fn remove_leftover(&self) -> Result<(), Refused> {
        self.remove(&self.unfinished)?;
        self.remove(&self.aside)
    }

    fn remove(&self, name: &CStr) -> Result<(), Refused> {
        let stat = match fstatat(&self.dir, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(Errno::ENOENT) => return Ok(()),
            Err(errno) => return Err(Refused::at("look for a leftover")(errno)),
        };
        if stat.st_mode & SFlag::S_IFMT.bits() != SFlag::S_IFREG.bits() {
            return Err(Refused::InTheWay(show(&self.path.join(os_str(name)))));
        }
        unlinkat(&self.dir, name, UnlinkatFlags::NoRemoveDir)
            .map_err(Refused::at("remove a leftover"))
    }

    /// Opens the complete copy.
    pub(super) fn open_leftover(&self) -> Result<OwnedFd, Refused> {
        let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
        openat(&self.dir, self.aside.as_c_str(), flags, Mode::empty())
            .map_err(Refused::at("open the copy"))
    }

    /// Moves the copy into the file's place. A write in that very moment is noticed and the file put back:
    /// names are exchanged, or, where they cannot be, the file has a second name meanwhile.
    pub(super) fn swap(
        &self,
        file: impl AsFd,
        before: &Print,
        copy: impl AsFd,
    ) -> Result<(), Refused> {
        self.swap_by(file, before, copy, &|| self.exchange())
    }

    /// As [`Place::swap`], with a way to exchange both names.
    fn swap_by(
        &self,
        file: impl AsFd,
        before: &Print,
        copy: impl AsFd,
        exchange: &dyn Fn() -> Result<(), Errno>,
    ) -> Result<(), Refused> {
        if !self.is_aside(&Print::of(copy)?)? {
            return Err(Refused::Changed);
        }
        let failed = Refused::at("move the copy into place");
        let old = match exchange() {
            Ok(()) => Old::Exchanged,
            // What filesystems answer that can only rename; Lustre's client does.
            Err(Errno::EINVAL | Errno::ENOSYS | Errno::EOPNOTSUPP) => {
                // The copy is complete, so the name of unfinished ones is free, and the next run removes it.
                let linked = self.link(&self.name, &self.unfinished).is_ok();
                self.rename(&self.aside, &self.name).map_err(failed)?;
                if linked { Old::Linked } else { Old::Gone }
            }
            Err(errno) => return Err(failed(errno)),
        };
        let intact = Print::of(file).is_ok_and(|now| before.same_data(&now));
        let kept = |name: &CStr| Refused::KeptAside(show(&self.path.join(os_str(name))));
        match (old, intact) {
            (Old::Exchanged, true) => self.remove(&self.aside)?,
            (Old::Linked, true) => self.remove(&self.unfinished)?,
            (Old::Gone, true) => {}
            (Old::Exchanged, false) => {
                return Err(exchange().map_or_else(|_| kept(&self.aside), |()| Refused::Changed));
            }
            (Old::Linked, false) => {
                let back = self.rename(&self.unfinished, &self.name);
                return Err(back.map_or_else(|_| kept(&self.unfinished), |()| Refused::Changed));
            }
            (Old::Gone, false) => return Err(Refused::LateWrite),
        }
        fsync(&self.dir).map_err(Refused::at("flush the directory"))
    }

    fn link(&self, from: &CStr, to: &CStr) -> Result<(), Errno> {
        linkat(&self.dir, from, &self.dir, to, AtFlags::empty())
    }

    fn rename(&self, from: &CStr, to: &CStr) -> Result<(), Errno> {
        renameat(&self.dir, from, &self.dir, to)
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
    /// A file and a copy aside, with what the file was.
    fn pair() -> (tempfile::TempDir, Place, File, Print, OwnedFd) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("data");
        std::fs::write(&path, "old").unwrap();
        let place = Place::of(&path).unwrap();
        std::fs::write(place.aside(), "new").unwrap();
        let file = File::open(&path).unwrap();
        let before = Print::of(&file).unwrap();
        let copy = place.open_leftover().unwrap();
        (dir, place, file, before, copy)
    }

    fn content(path: &Path) -> String {
        std::fs::read_to_string(path).unwrap()
    }

    /// Names that cannot be exchanged.
    const NEVER: &dyn Fn() -> Result<(), Errno> = &|| Err(Errno::EINVAL);

    #[test]
    fn the_copy_takes_the_files_place_and_nothing_is_left() {
        for exchanges in [true, false] {
            let (dir, place, file, before, copy) = pair();
            if exchanges {
                place.swap(&file, &before, &copy).unwrap();
            } else {
                place.swap_by(&file, &before, &copy, NEVER).unwrap();
            }
            assert_eq!(content(&place.file()), "new");
            assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
        }
    }

    #[test]
    fn a_write_in_the_moment_of_the_swap_puts_the_file_back_or_is_told() {
        let (_dir, place, file, before, copy) = pair();
        std::fs::write(place.file(), "late write").unwrap();
        let refused = place.swap(&file, &before, &copy).unwrap_err();
        assert!(matches!(refused, Refused::Changed), "{refused}");
        assert_eq!(content(&place.file()), "late write");
        place.remove_leftover().unwrap();
        assert_eq!(content(&place.file()), "late write");

        let (_dir, place, file, before, copy) = pair();
        std::fs::write(place.file(), "late write").unwrap();
        let refused = place.swap_by(&file, &before, &copy, NEVER).unwrap_err();
        assert!(matches!(refused, Refused::Changed), "{refused}");
        assert_eq!(content(&place.file()), "late write");

        // It can have no second name, as where the limit of links is reached.
        let (_dir, place, file, before, copy) = pair();
        std::fs::write(place.file(), "late write").unwrap();
        std::fs::create_dir(place.path.join(os_str(&place.unfinished))).unwrap();
        let refused = place.swap_by(&file, &before, &copy, NEVER).unwrap_err();
        assert!(matches!(refused, Refused::LateWrite), "{refused}");

        // The second exchange, which would put the file back, fails.
        let (_dir, place, file, before, copy) = pair();
        std::fs::write(place.file(), "late write").unwrap();
        let calls = std::cell::Cell::new(0);
        let once = || match calls.replace(1) {
            0 => place.exchange(),
            _ => Err(Errno::EIO),
        };
        let refused = place.swap_by(&file, &before, &copy, &once).unwrap_err();
        assert!(matches!(refused, Refused::KeptAside(_)), "{refused}");
        assert_eq!(content(&place.aside()), "late write");
    }

    #[test]
    fn what_another_put_aside_is_not_moved_into_place() {
        let (_dir, place, file, before, copy) = pair();
        std::fs::remove_file(place.aside()).unwrap();
        std::fs::write(place.aside(), "not ours").unwrap();
        assert!(place.swap(&file, &before, &copy).is_err());
        assert_eq!(content(&place.file()), "old");
    }

    #[test]
    fn leftovers_are_removed_and_directories_are_in_the_way() {
        let (dir, place, ..) = pair();
        std::fs::write(dir.path().join(os_str(&place.unfinished)), "part").unwrap();
        place.remove_leftover().unwrap();
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
        place.remove_leftover().unwrap();
        std::fs::create_dir(place.aside()).unwrap();
        assert!(matches!(place.remove_leftover(), Err(Refused::InTheWay(_))));
    }
}
