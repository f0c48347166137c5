//! How a file comes to be visible: small new files under their own name, everything that is large or
//! replaces something under a temporary name that is moved into place when it is complete.
//! Never opens what already exists at the destination, so that no link is ever written through.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, RenameFlags, openat, renameat, renameat2};
use nix::sys::stat::{FileStat, Mode, fstatat};
use nix::unistd::{UnlinkatFlags, unlinkat};

use super::dir::OPEN_DIRECTORY;
use super::inode::{Inode, inode, is_directory};
use crate::error::{AtStep, FailureKind, Step, StepError};
use crate::journal::is_journal_name;
use crate::sys;

const CREATE: OFlag = OFlag::O_WRONLY
    .union(OFlag::O_CREAT)
    .union(OFlag::O_EXCL)
    .union(OFlag::O_NOFOLLOW)
    .union(OFlag::O_CLOEXEC);

/// A file that is being made.
#[derive(Debug)]
pub(crate) struct Created {
    pub(crate) file: OwnedFd,
    pub(crate) visible: Visible,
}

/// Under which name a file is being made.
#[derive(Debug, Clone)]
pub(crate) enum Visible {
    /// Its own.
    AsItself,
    /// A temporary one, to be moved into place.
    As(CString),
}

/// The temporary name for `name`: always the same, so that what a killed run left is found and
/// replaced by the next, and short, so that it fits wherever the name does.
pub(crate) fn temporary(name: &CStr) -> CString {
    numbered(temporary_number(name))
}

/// The number in the temporary name for `name`.
pub(crate) fn temporary_number(name: &CStr) -> u64 {
    // FNV-1a, 64 bits: stable over versions, which the hashers of the standard library are not.
    name.to_bytes().iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// The temporary name with a number.
pub(crate) fn numbered(number: u64) -> CString {
    CString::new(format!(".longshore-{number:016x}")).expect("hexadecimal digits hold no NUL")
}

/// Whether a name could be the temporary one of another file, or a journal's. Such an item is not
/// copied: unfinished files would replace it, or be replaced by it, without a word.
pub(crate) fn is_reserved(name: &CStr) -> bool {
    is_journal_name(name.to_bytes()) || is_temporary(name)
}

fn is_temporary(name: &CStr) -> bool {
    name.to_bytes().strip_prefix(b".longshore-").is_some_and(|hash| {
        hash.len() == 16 && hash.iter().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'))
    })
}

/// Creates a regular file. With `aside` it gets a temporary name from the start; `more` are flags to open
/// it with.
///
/// # Errors
/// Step `Create`; `TypeConflict` when a directory has the name.
pub(crate) fn create_file(
    dir: BorrowedFd<'_>,
    name: &CStr,
    mode: Mode,
    aside: bool,
    more: OFlag,
) -> Result<Created, StepError> {
    if !aside {
        match openat(dir, name, CREATE | more, mode) {
            Ok(file) => return Ok(Created { file, visible: Visible::AsItself }),
            Err(Errno::EEXIST) => {}
            Err(errno) => return Err(StepError::os(Step::Create, errno)),
        }
    }
    refuse_directory(dir, name)?;
    create_file_aside(dir, name, mode, more)
}

/// Creates a regular file under the temporary name for `name`, whatever has that name itself.
///
/// # Errors
/// Step `Create`.
pub(crate) fn create_file_aside(
    dir: BorrowedFd<'_>,
    name: &CStr,
    mode: Mode,
    more: OFlag,
) -> Result<Created, StepError> {
    make_aside(dir, name, Step::Create, |temporary| openat(dir, temporary, CREATE | more, mode))
        .map(|(file, temporary)| Created { file, visible: Visible::As(temporary) })
}

/// What is known of a directory in which things are moved into place.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Known {
    /// Its filesystem numbers inodes, and not names.
    pub(crate) keeps_numbers: bool,
    /// Whatever is in it was made by this run.
    pub(crate) is_new: bool,
}

/// Something that is made by name and never opened: a link or a special file.
#[derive(Debug)]
pub(crate) struct Made {
    /// The temporary name that it has, to be moved into place.
    pub(crate) aside: Option<CString>,
    /// What was found under its name right after it was made: itself, unless another run was quicker.
    pub(crate) stat: FileStat,
}

impl Made {
    /// The name that it has now, which will be `name`.
    pub(crate) fn name<'m>(&'m self, name: &'m CStr) -> &'m CStr {
        self.aside.as_deref().unwrap_or(name)
    }
}

/// Makes something that is not a regular file: under its own name, or aside when that is taken. With
/// `aside` it gets a temporary name from the start.
///
/// # Errors
/// The given step; `TypeConflict` when a directory has the name.
pub(crate) fn make(
    dir: BorrowedFd<'_>,
    name: &CStr,
    step: Step,
    aside: bool,
    make: impl Fn(&CStr) -> Result<(), Errno>,
) -> Result<Made, StepError> {
    if !aside {
        match make(name) {
            Ok(()) => return look_at(dir, None, name, step),
            Err(Errno::EEXIST) => {}
            Err(errno) => return Err(StepError::os(step, errno)),
        }
    }
    refuse_directory(dir, name)?;
    let ((), temporary) = make_aside(dir, name, step, make)?;
    look_at(dir, Some(temporary), name, step)
}

/// What was just made.
fn look_at(
    dir: BorrowedFd<'_>,
    aside: Option<CString>,
    name: &CStr,
    step: Step,
) -> Result<Made, StepError> {
    let now = aside.as_deref().unwrap_or(name);
    match fstatat(dir, now, AtFlags::AT_SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Made { aside, stat }),
        Err(Errno::ENOENT) => Err(StepError::found(step, FailureKind::Contended)),
        Err(errno) => Err(StepError::os(step, errno)),
    }
}

/// Calls `make` with the temporary name, after removing what a killed run may have left there.
fn make_aside<T>(
    dir: BorrowedFd<'_>,
    name: &CStr,
    step: Step,
    make: impl Fn(&CStr) -> Result<T, Errno>,
) -> Result<(T, CString), StepError> {
    let temporary = temporary(name);
    let made = match make(&temporary) {
        Err(Errno::EEXIST) => {
            // While it is held the new one does not get its number: by that another copy, which was killed and is gone
            // on with, tells its own file from this one where there are no times of birth.
            let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
            let _held = openat(dir, temporary.as_c_str(), flags, Mode::empty());
            match unlinkat(dir, temporary.as_c_str(), UnlinkatFlags::NoRemoveDir) {
                Ok(()) | Err(Errno::ENOENT) => {}
                Err(errno) => return Err(StepError::os(step, errno)),
            }
            match make(&temporary) {
                Err(Errno::EEXIST) => Err(StepError::found(step, FailureKind::Contended)),
                other => other.at(step),
            }
        }
        other => other.at(step),
    };
    Ok((made?, temporary))
}

/// A directory is never replaced by something else.
fn refuse_directory(dir: BorrowedFd<'_>, name: &CStr) -> Result<(), StepError> {
    match fstatat(dir, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
        Ok(stat) if is_directory(stat.st_mode) => Err(StepError {
            step: Step::Create,
            kind: FailureKind::TypeConflict,
            errno: Some(Errno::EISDIR),
        }),
        Ok(_) | Err(Errno::ENOENT) => Ok(()),
        Err(errno) => Err(StepError::os(Step::Create, errno)),
    }
}

/// Moves what [`make`] made into place, or removes it again. What has its own name has to be there still: what was
/// done by that name meanwhile would have been done to another file.
///
/// # Errors
/// Step `Publish`; `Contended` when another run has taken the name; `NameFolded`.
pub(crate) fn publish_made(
    dir: BorrowedFd<'_>,
    made: &Made,
    name: &CStr,
    known: Known,
) -> Result<(), StepError> {
    let own = inode(&made.stat);
    match &made.aside {
        Some(temporary) => move_into_place(dir, temporary, name, own, known)
            .inspect_err(|_| remove_if_still(dir, temporary, own)),
        None => is_still(dir, name, own),
    }
}

/// Removes what [`make`] made, unless another run has taken its name.
pub(crate) fn abandon_made(dir: BorrowedFd<'_>, made: &Made, name: &CStr) {
    remove_if_still(dir, made.name(name), inode(&made.stat));
}

/// Moves a finished file into place. `written` is the file.
///
/// # Errors
/// Step `Publish`; `Contended` when another run has taken the temporary name; `NameFolded`.
pub(crate) fn publish(
    dir: BorrowedFd<'_>,
    visible: &Visible,
    name: &CStr,
    written: Inode,
    known: Known,
) -> Result<(), StepError> {
    let Visible::As(temporary) = visible else { return Ok(()) };
    move_into_place(dir, temporary, name, written, known)
}

/// Renames `temporary`, if that still is the file that was written. Should another run take its name at that moment, it is
/// that one's half file which has the final name now: that is seen afterwards.
fn move_into_place(
    dir: BorrowedFd<'_>,
    temporary: &CStr,
    name: &CStr,
    written: Inode,
    known: Known,
) -> Result<(), StepError> {
    is_still(dir, temporary, written)?;
    let rename = || renameat(dir, temporary, dir, name).map_err(publishing_failed);
    if known.is_new {
        // What is there by now was made by this run, under this name or one that the filesystem takes for it.
        let no_replace = RenameFlags::RENAME_NOREPLACE;
        match renameat2(dir, temporary, dir, name, no_replace) {
            Ok(()) => {}
            Err(
                Errno::EEXIST | Errno::EINVAL | Errno::ENOSYS | Errno::EOPNOTSUPP | Errno::EPERM,
            ) => {
                if is_folded(dir, name).at(Step::Publish)? {
                    return Err(StepError::found(Step::Publish, FailureKind::NameFolded));
                }
                rename()?;
            }
            Err(errno) => return Err(publishing_failed(errno)),
        }
    } else {
        rename()?;
    }
    // Whoever waits for the file may have taken it away again.
    match fstatat(dir, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
        Ok(now) if known.keeps_numbers && inode(&now) != written => {
            Err(publishing_failed(Errno::ENOENT))
        }
        _ => Ok(()),
    }
}

/// Whether a name that is taken is not the one that the directory lists: its filesystem takes two names for one, those
/// that differ in case, say. Reads the directory.
///
/// # Errors
/// Those of reading it.
pub(crate) fn is_folded(dir: BorrowedFd<'_>, name: &CStr) -> Result<bool, Errno> {
    match fstatat(dir, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
        Ok(_) => {}
        Err(Errno::ENOENT) => return Ok(false),
        Err(errno) => return Err(errno),
    }
    let list = openat(dir, c".", OPEN_DIRECTORY, Mode::empty())?; // with a position of its own
    let mut buffer = vec![0; 64 << 10];
    loop {
        match sys::read_entries(list.as_fd(), &mut buffer)? {
            0 => return Ok(true),
            filled if sys::entries(&buffer[..filled]).any(|entry| entry.name == name) => {
                return Ok(false);
            }
            _ => {}
        }
    }
}

/// Whether a name still is the file that was written.
fn is_still(dir: BorrowedFd<'_>, name: &CStr, written: Inode) -> Result<(), StepError> {
    let now = fstatat(dir, name, AtFlags::AT_SYMLINK_NOFOLLOW).map_err(publishing_failed)?;
    if inode(&now) == written { Ok(()) } else { Err(publishing_failed(Errno::ENOENT)) }
}

/// A file that is not there any more under its name was another run's to remove.
fn publishing_failed(errno: Errno) -> StepError {
    match errno {
        Errno::ENOENT => StepError::found(Step::Publish, FailureKind::Contended),
        errno => StepError::os(Step::Publish, errno),
    }
}

/// Removes a file that will not be finished, `made`, unless its name is another file's by now: another run may
/// have taken it, even have finished under it.
pub(crate) fn abandon(dir: BorrowedFd<'_>, visible: &Visible, name: &CStr, made: Inode) {
    let name = match visible {
        Visible::AsItself => name,
        Visible::As(temporary) => temporary,
    };
    remove_if_still(dir, name, made);
}

fn remove_if_still(dir: BorrowedFd<'_>, name: &CStr, made: Inode) {
    let now = fstatat(dir, name, AtFlags::AT_SYMLINK_NOFOLLOW);
    if now.is_ok_and(|stat| inode(&stat) == made) {
        // When even this fails the file stays behind with a time that no source has: the next run sees
        // that it is not complete.
        let _ = unlinkat(dir, name, UnlinkatFlags::NoRemoveDir);
    }
}

/// Identity of an open file.
///
/// # Errors
/// Step `Stat`.
pub(crate) fn identity(file: impl AsFd) -> Result<Inode, StepError> {
    sys::inode(file.as_fd()).at(Step::Stat)
}

/// Which file was published, to be told from another one that has its name by now. An inode number
/// alone does not do: ext4 gives that of a removed file to the next one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Published {
    inode: Inode,
    /// Inode and time of birth, zeros where the filesystem does not know that.
    birth: [u64; 3],
}

impl Published {
    /// An open file, which is this inode.
    ///
    /// # Errors
    /// Step `Stat`.
    pub(crate) fn of(inode: Inode, file: impl AsFd) -> Result<Self, StepError> {
        let birth = sys::birth(file.as_fd()).at(Step::Stat)?;
        Ok(Self { inode, birth })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn temporary_names_are_the_same_every_time_and_differ_by_name() {
        assert_eq!(temporary(c"a").as_c_str(), c".longshore-af63dc4c8601ec8c");
        assert_ne!(temporary(c"a"), temporary(c"b"));
        assert!(is_reserved(&temporary(c"a")));
        assert!(is_reserved(c".longshore-0123456789abcdef.journal"));
        assert!(!is_reserved(c".longshore-notes") && !is_reserved(c"longshore"));
    }
}
