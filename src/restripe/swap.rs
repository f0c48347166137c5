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
    /// Under a second name.
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
    /// The copy while it is made.
    making: CString,
    /// What the engine may call it until it is complete.
    unfinished: CString,
    /// The complete copy; after the swap the old file, where names can be exchanged.
    aside: CString,
    /// A second name of the file while the copy takes its place, where names cannot be exchanged.
    old: CString,
}

impl Place {
    pub(super) fn of(path: &Path) -> Result<Self, Refused> {
        let (parent, name) = split(path)?;
        let dir = open_directory(&parent)?;
        let (making, aside, old) = (beside(&name, "making"), beside(&name, "made"), old(&name));
        Ok(Self { path: parent, dir, unfinished: temporary(&making), making, aside, old, name })
    }

    pub(super) fn file(&self) -> PathBuf {
        self.path.join(os_str(&self.name))
    }

    pub(super) fn making(&self) -> PathBuf {
        self.path.join(os_str(&self.making))
    }

    /// Takes note that the copy is complete.
    pub(super) fn is_made(&self) -> Result<(), Refused> {
        self.rename(&self.making, &self.aside).map_err(Refused::at("rename the copy"))
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
    ///
    /// # Errors
    /// `KeptAside`, when it was written to after the file: it may be the old file, written to in the
    /// moment of a swap whose run was killed before it could look.
    pub(super) fn remove_leftover(&self, file: &Print) -> Result<(), Refused> {
        self.remove(&self.unfinished, None)?;
        self.remove(&self.making, None)?;
        self.remove(&self.aside, Some(file))?;
        self.remove(&self.old, Some(file))
    }

    /// Removes a name, unless it is that of a file that was written to after `file`.
    fn remove(&self, name: &CStr, file: Option<&Print>) -> Result<(), Refused> {
        let stat = match fstatat(&self.dir, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(Errno::ENOENT) => return Ok(()),
            Err(errno) => return Err(Refused::at("look for a leftover")(errno)),
        };
        let path = || show(&self.path.join(os_str(name)));
        if stat.st_mode & SFlag::S_IFMT.bits() != SFlag::S_IFREG.bits() {
            return Err(Refused::InTheWay(path()));
        }
        if file.is_some_and(|file| (stat.st_mtime, stat.st_mtime_nsec) > file.modified) {
            return Err(Refused::KeptAside(path()));
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
                let linked = self.link(&self.name, &self.old).is_ok();
                self.rename(&self.aside, &self.name).map_err(failed)?;
                if linked { Old::Linked } else { Old::Gone }
            }
            Err(errno) => return Err(failed(errno)),
        };
        let intact = Print::of(file).is_ok_and(|now| before.same_data(&now));
        let kept =
            |name: &CStr| Refused::KeptAside(show(&self.path.join(os_str(&self.keep(name)))));
        match (old, intact) {
            (Old::Exchanged, true) => self.remove(&self.aside, None)?,
            (Old::Linked, true) => self.remove(&self.old, None)?,
            (Old::Gone, true) => {}
            (Old::Exchanged, false) => {
                return Err(exchange().map_or_else(|_| kept(&self.aside), |()| Refused::Changed));
            }
            (Old::Linked, false) => {
                let back = self.rename(&self.old, &self.name);
                return Err(back.map_or_else(|_| kept(&self.old), |()| Refused::Changed));
            }
            (Old::Gone, false) => return Err(Refused::LateWrite),
        }
        fsync(&self.dir).map_err(Refused::at("flush the directory"))
    }

    /// Gives the only name of a file to one that no run removes, and returns what it has now.
    fn keep(&self, name: &CStr) -> CString {
        for number in 1..100 {
            let mut kept = b".longshore-kept-".to_vec();
            // Enough of the name to find it by.
            kept.extend(self.name.to_bytes().iter().take(200));
            kept.extend(format!("-{number}").bytes());
            let kept = CString::new(kept).expect("neither the name nor the digits hold a NUL");
            match self.link(name, &kept) {
                Ok(()) => {
                    let _ = unlinkat(&self.dir, name, UnlinkatFlags::NoRemoveDir); // it has both names then
                    return kept;
                }
                Err(Errno::EEXIST) => {}
                Err(_) => break,
            }
        }
        name.to_owned()
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
fn beside(name: &CStr, what: &str) -> CString {
    const LONGEST: usize = 255;
    const SUFFIX: usize = 6;
    const DIGITS: &[u8] = b"0123456789";
    const UPPER: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ";
    const LOWER: &[u8] = b"abcdefghijklmnopqrstuvwxyz";
    let mut hash = hash(name, what);
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

/// A second name of the file itself.
fn old(name: &CStr) -> CString {
    let text = format!(".longshore-restriped-{:016x}", hash(name, "old"));
    CString::new(text).expect("digits hold no NUL")
}

/// FNV-1a, 64 bits: stable over versions. The first word keeps other users of the scheme apart.
fn hash(name: &CStr, what: &str) -> u64 {
    let words = b"longshore restripe ".iter().chain(what.as_bytes()).chain(b" ");
    let bytes = words.chain(name.to_bytes());
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_copys_name_has_the_form_that_stays_on_one_server_and_is_always_the_same() {
        let name = beside(c"data.h5", "made");
        assert_eq!(name, beside(c"data.h5", "made"));
        let text = name.to_str().unwrap();
        let suffix = text.strip_prefix(".data.h5.").unwrap();
        assert_eq!(suffix.len(), 6);
        for kind in [u8::is_ascii_uppercase, u8::is_ascii_lowercase, u8::is_ascii_digit] {
            assert!(suffix.bytes().any(|byte| kind(&byte)), "{suffix}");
        }
        assert_ne!(name, beside(c"data.h6", "made"));
        assert_ne!(name, beside(c"data.h5", "making"));
        let long = CString::new(vec![b'x'; 255]).unwrap();
        assert!(beside(&long, "made").to_bytes().len() <= 255);
        assert_ne!(beside(&long, "made"), beside(&CString::new(vec![b'x'; 254]).unwrap(), "made"));
    }
    /// A file and a copy aside, with what the file was.
    fn pair() -> (tempfile::TempDir, Place, File, Print, OwnedFd) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("data");
        std::fs::write(&path, "old").unwrap();
        let place = Place::of(&path).unwrap();
        std::fs::write(aside(&place), "new").unwrap();
        let file = File::open(&path).unwrap();
        let before = Print::of(&file).unwrap();
        let copy = place.open_leftover().unwrap();
        (dir, place, file, before, copy)
    }

    fn aside(place: &Place) -> PathBuf {
        place.path.join(os_str(&place.aside))
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
        place.remove_leftover(&Print::of(&file).unwrap()).unwrap();
        assert_eq!(content(&place.file()), "late write");

        let (_dir, place, file, before, copy) = pair();
        std::fs::write(place.file(), "late write").unwrap();
        let refused = place.swap_by(&file, &before, &copy, NEVER).unwrap_err();
        assert!(matches!(refused, Refused::Changed), "{refused}");
        assert_eq!(content(&place.file()), "late write");

        // It can have no second name, as where the limit of links is reached.
        let (_dir, place, file, before, copy) = pair();
        std::fs::write(place.file(), "late write").unwrap();
        std::fs::create_dir(place.path.join(os_str(&place.old))).unwrap();
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
        let kept = place.path.join(".longshore-kept-data-1");
        assert!(refused.to_string().contains(".longshore-kept-data-1"), "{refused}");
        place.remove_leftover(&before).unwrap();
        assert_eq!(content(&kept), "late write");

        // The run is killed before it could look.
        for name in
            [|place: &Place| aside(place), |place: &Place| place.path.join(os_str(&place.old))]
        {
            let (_dir, place, file, before, _copy) = pair();
            let kept = name(&place);
            std::fs::write(&kept, "late write").unwrap();
            file.set_modified(std::time::SystemTime::UNIX_EPOCH).unwrap();
            let before = Print { modified: (0, 0), ..before };
            let refused = place.remove_leftover(&before).unwrap_err();
            assert!(matches!(refused, Refused::KeptAside(_)), "{refused}");
            assert_eq!(content(&kept), "late write");
        }
    }

    #[test]
    fn what_another_put_aside_is_not_moved_into_place() {
        let (_dir, place, file, before, copy) = pair();
        std::fs::remove_file(aside(&place)).unwrap();
        std::fs::write(aside(&place), "not ours").unwrap();
        assert!(place.swap(&file, &before, &copy).is_err());
        assert_eq!(content(&place.file()), "old");
    }

    #[test]
    fn leftovers_are_removed_and_directories_are_in_the_way() {
        let (dir, place, file, ..) = pair();
        // What the engine leaves complete has the times of the file.
        File::open(aside(&place))
            .unwrap()
            .set_modified(file.metadata().unwrap().modified().unwrap())
            .unwrap();
        std::fs::hard_link(place.file(), place.path.join(os_str(&place.old))).unwrap();
        let print = Print::of(&file).unwrap();
        std::fs::write(dir.path().join(os_str(&place.unfinished)), "part").unwrap();
        std::fs::write(place.making(), "part").unwrap();
        place.remove_leftover(&print).unwrap();
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
        place.remove_leftover(&print).unwrap();
        std::fs::create_dir(aside(&place)).unwrap();
        assert!(matches!(place.remove_leftover(&print), Err(Refused::InTheWay(_))));
    }
}
