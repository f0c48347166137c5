//! Which journal belongs to a request, and where it may lie. Opens files that are there, and removes
//! none.

use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use xxhash_rust::xxh3::Xxh3;

use super::{Held, feed, raw};
use crate::error::Refusal;
use crate::options::{CopyRequest, Preserve, Target};
use crate::selection::absolute;

const PREFIX: &[u8] = b".longshore-";
const SUFFIX: &[u8] = b".journal";

/// How often a journal that is removed while it is being opened is looked for again.
const TRIES: usize = 5;

/// The name of a journal beside its destination.
pub(super) fn name(key: u64) -> String {
    format!(".longshore-{key:016x}.journal")
}

/// The place of a journal in a directory that is ours.
pub(super) fn own(directory: &Path, key: u64) -> PathBuf {
    directory.join(format!("{key:016x}.journal"))
}

/// Whether a name is one that journals get.
pub(crate) fn is_journal_name(name: &[u8]) -> bool {
    let middle = name.strip_prefix(PREFIX).and_then(|rest| rest.strip_suffix(SUFFIX));
    middle.is_some_and(|key| {
        key.len() == 16 && key.iter().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'))
    })
}

/// Tells one copy from another: sources, destination, and every option that changes what is copied.
/// Options that only change how it is done (threads, mechanism, flushing) are left out, so that they may
/// differ the next time.
pub(super) fn key(request: &CopyRequest) -> u64 {
    let mut hash = Xxh3::new();
    let mut add = |part: &[u8]| feed(&mut hash, part);
    for source in &request.sources {
        add(raw(&with_slash(source)));
    }
    add(b"to");
    add(raw(&with_slash(&request.destination)));
    let options = &request.options;
    let Preserve { mode, ownership, timestamps, links, xattr, acl, project, flags } =
        options.preserve;
    let switches = [
        request.target == Target::Guess,
        request.target == Target::Exact,
        options.update,
        options.delete,
        options.one_file_system,
        // What is noted as finished was read back, or was not.
        options.verify,
        mode,
        ownership,
        timestamps,
        links,
        xattr,
        acl,
        project,
        flags,
    ];
    add(&switches.map(u8::from));
    add(&[options.xattrs as u8]);
    options.filter.describe(&mut add);
    if let Some(selection) = &options.selection {
        add(b"only");
        selection.describe(&mut add);
    }
    hash.digest()
}

/// An absolute path that keeps the slash at the end: on a source it means the contents.
fn with_slash(path: &Path) -> PathBuf {
    let mut whole = absolute(path);
    let bytes = raw(path);
    if bytes.ends_with(b"/") || bytes == b"." || bytes.ends_with(b"/.") {
        whole.push("");
    }
    whole
}

/// Where journals lie among the user's state.
pub(super) fn state_directory() -> Option<PathBuf> {
    let absolute =
        |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let state = absolute("XDG_STATE_HOME").or_else(|| Some(absolute("HOME")?.join(".local/state")));
    Some(state?.join("longshore"))
}

/// The directory that holds a path, whether or not anything is there yet.
pub(super) fn parent(path: &Path) -> PathBuf {
    let whole = absolute(path);
    whole.parent().unwrap_or(Path::new("/")).to_owned()
}

/// What is at a place where a journal could be.
pub(super) enum There {
    Nothing,
    /// Somebody else's file, or no file: it is left alone. The text goes behind the path.
    NotOurs(String),
    Open(Held),
}

/// Opens what is there, locked.
///
/// # Errors
/// A [`Refusal`] when another process has it.
pub(super) fn open(path: &Path, write: bool) -> Result<There, Refusal> {
    for _ in 0..TRIES {
        let mut options = File::options();
        options.read(true).write(write);
        options.custom_flags(libc::O_NOFOLLOW | libc::O_CLOEXEC | libc::O_NONBLOCK);
        let file = match options.open(path) {
            Ok(file) => file,
            Err(error) => {
                return Ok(match error.raw_os_error().map(Errno::from_raw) {
                    Some(Errno::ENOENT | Errno::ENOTDIR) => There::Nothing,
                    Some(errno) => There::NotOurs(format!("cannot be opened ({})", errno.desc())),
                    None => There::NotOurs(format!("cannot be opened ({error})")),
                });
            }
        };
        let Ok(metadata) = file.metadata() else { continue };
        if !metadata.is_file() {
            return Ok(There::NotOurs("is not a regular file".to_owned()));
        }
        // Whoever may write a journal decides what is taken for finished.
        if metadata.uid() != nix::unistd::geteuid().as_raw() {
            return Ok(There::NotOurs("belongs to another user".to_owned()));
        }
        // It may be a file of ours that somebody gave this name to have it overwritten.
        if metadata.nlink() != 1 {
            return Ok(There::NotOurs("has several names".to_owned()));
        }
        if !write {
            return Ok(There::Open(Held::Unlocked(file)));
        }
        let held = lock(file, path)?;
        // A run that just ended may have removed it before its lock was free.
        if is_still_at(&held, path) {
            return Ok(There::Open(held));
        }
    }
    Ok(There::NotOurs("comes and goes".to_owned()))
}

/// Locks a journal, where the filesystem has locks.
///
/// # Errors
/// A [`Refusal`] when another process has it.
pub(super) fn lock(file: File, path: &Path) -> Result<Held, Refusal> {
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(file) => Ok(Held::Locked(file)),
        Err((_, Errno::EWOULDBLOCK)) => Err(Refusal::Running { journal: path.to_owned() }),
        Err((file, _)) => Ok(Held::Unlocked(file)),
    }
}

/// Whether the open file still has this name.
pub(super) fn is_still_at(file: &File, path: &Path) -> bool {
    let named = fs::symlink_metadata(path);
    let open = file.metadata();
    matches!((named, open), (Ok(a), Ok(b)) if (a.dev(), a.ino()) == (b.dev(), b.ino()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(sources: &[&str], destination: &str) -> CopyRequest {
        CopyRequest::new(sources.iter().map(PathBuf::from).collect(), PathBuf::from(destination))
    }

    #[test]
    fn the_same_copy_has_the_same_key_and_another_one_has_not() {
        let one = request(&["/a"], "/d");
        let mut how = one.clone();
        how.options.threads = std::num::NonZeroUsize::new(7);
        how.options.sync = crate::options::SyncPolicy::None;
        assert_eq!(key(&one), key(&how));
        let here = std::env::current_dir().expect("a directory").join("x");
        assert_eq!(
            key(&request(&["x"], "d")),
            key(&CopyRequest::new(vec![here], absolute(Path::new("d"))))
        );
        let mut others = vec![
            request(&["/a/"], "/d"),
            request(&["/a"], "/d/"),
            request(&["/a", "/b"], "/d"),
            request(&["/a/b"], "/d"),
        ];
        for change in [
            |request: &mut CopyRequest| request.target = Target::Exact,
            |request: &mut CopyRequest| request.target = Target::Directory,
            |request: &mut CopyRequest| request.options.update = true,
            |request: &mut CopyRequest| request.options.delete = true,
            |request: &mut CopyRequest| request.options.preserve.acl = false,
            |request: &mut CopyRequest| request.options.xattrs = crate::options::XattrPolicy::All,
        ] {
            let mut other = one.clone();
            change(&mut other);
            others.push(other);
        }
        let rules = [("*.o", true), ("*.c", true), ("*.o", false)];
        for (pattern, include) in rules {
            use crate::filter::{Filter, Verdict};
            let verdict = if include { Verdict::Include } else { Verdict::Exclude };
            let mut other = one.clone();
            let filter = Filter::new([(verdict, pattern)]).expect("a pattern");
            other.options.filter = std::sync::Arc::new(filter);
            others.push(other);
        }
        for list in ["/a/b/c", "/a/b\n/a/c"] {
            use crate::selection::Selection;
            let mut other = one.clone();
            let selection = Selection::parse(list.as_bytes(), &other.sources).expect("a list");
            other.options.selection = Some(std::sync::Arc::new(selection));
            others.push(other);
        }
        let mut keys = vec![key(&one)];
        for other in &others {
            let key = key(other);
            assert!(!keys.contains(&key), "{other:?}");
            keys.push(key);
        }
    }

    #[test]
    fn names_of_journals_are_known() {
        assert!(is_journal_name(name(5).as_bytes()));
        for other in [".longshore-5.journal", ".longshore-0000000000000005", "x.journal"] {
            assert!(!is_journal_name(other.as_bytes()), "{other}");
        }
    }
}
