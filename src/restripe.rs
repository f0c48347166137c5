//! `longshore restripe`: gives files on Lustre another layout by copying each aside, checking the copy
//! against the device, and moving it into place if the file is still what it was. The path shows the old
//! or the new file at any moment, each complete. What cannot be done safely is refused by name.

mod refused;
mod swap;

use std::ffi::{CStr, CString, OsStr};
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg, OFlag, openat};
use nix::sys::stat::{FileStat, Mode, SFlag, fstat};
use serde::Serialize;
use signal_hook::consts::{SIGINT, SIGIO};
use signal_hook::flag;

pub use refused::Refused;

use crate::engine::{self, Cancel, Control};
use crate::error::Refusal;
use crate::exit::Outcome;
use crate::lustre::access::{self, Found};
use crate::lustre::choose::{Choice, Policy, choose};
use crate::lustre::layout::{Layout, Of};
use crate::lustre::probe::{Client, Sources};
use crate::lustre::site::Site;
use crate::lustre::table::Table;
use crate::options::{CopyOptions, CopyRequest, Preserve, Target, XattrPolicy};
use crate::plan::Plan;
use crate::sys;
use swap::{Place, Print};

/// Inode flags with which a file cannot be replaced: immutable and append-only (`linux/fs.h`).
const FIXED: u32 = 0x10 | 0x20;

/// How often somebody looks whether the copy of a file is still wanted.
const LOOK: Duration = Duration::from_millis(50);

/// How layouts are chosen, and the way to stop.
#[derive(Debug, Default)]
pub struct How {
    /// The policy; [`Policy::Preserve`] makes no sense here and changes nothing.
    pub policy: Policy,
    /// The site's table, for [`Policy::Auto`].
    pub table: Option<Table>,
    /// Stops between files, and in the copy of one.
    pub control: Control,
}

/// What became of a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "done")]
pub enum Done {
    /// It has a new layout.
    Restriped {
        /// The layout that it had, in words.
        from: String,
        /// The one that it was given.
        to: String,
        /// Its size.
        bytes: u64,
    },
    /// It has the wanted layout.
    Already {
        /// In words.
        spec: String,
    },
}

/// Gives one file the layout that the policy chooses.
///
/// Writers on this machine are kept from the file by a lease meanwhile, or make it give up. Those on
/// other machines are noticed by size, times and Lustre's data version up to the moment of the swap, and
/// directly after it; one that has the file open and writes later writes into the old one.
///
/// # Errors
/// [`Refused`]: the file is as it was, except where that says otherwise.
pub fn restripe(path: &Path, how: &How, sources: &Sources) -> Result<Done, Refused> {
    let place = Place::of(path)?;
    let file = open(&place)?;
    let look = |file: &OwnedFd| fstat(file).map_err(Refused::at("look at it"));
    if look(&file)?.st_mode & SFlag::S_IFMT.bits() != SFlag::S_IFREG.bits() {
        return Err(Refused::NotAFile);
    }
    let directory = place.path.canonicalize().map_err(Refused::io("find its directory"))?;
    let client = Client::of(&place.dir, &directory, sources).ok_or(Refused::NotLustre)?;
    // One process at a time: what another one is making must not be taken for a leftover.
    let file = lock(file)?;
    let print = Print::of(&*file)?;
    if !place.is_named(&print)? {
        return Err(Refused::Changed);
    }
    // A leftover may be a second name of this very file.
    place.remove_leftover(&print)?;
    let (stat, before) = (look(&file)?, Print::of(&*file)?);
    check_inode(&file, &stat)?;
    let current = layout_of(&*file)?;
    let bytes = stat.st_size.cast_unsigned();
    let site = site(&client, &place.dir);
    let choice = choose(&how.policy, None, bytes, &site, how.table.as_ref());
    let wanted = choice.request.clone().or_else(|| site.default.as_ref().map(Layout::template));
    let wanted = wanted.ok_or(Refused::Unchosen)?;
    if is_already(&current, &wanted, bytes, &site) {
        return Ok(Done::Already { spec: current.to_spec() });
    }
    let writers = Writers::keep_off(file.as_fd())?;
    let copied = writers.watch(file.as_fd(), &how.control.cancel, |cancel| {
        copy_aside(&place, &before, cancel, choice)
    });
    copied
        .map_err(|refused| if writers.came(file.as_fd()) { Refused::Changed } else { refused })?;
    let finish = || {
        place.is_made()?;
        let made = place.open_leftover()?;
        let to = layout_of(&made)?.template();
        if to == current.template() {
            return Err(Refused::NotGranted);
        }
        if writers.came(file.as_fd()) || !place.is_named(&before)? || Print::of(&*file)? != before {
            return Err(Refused::Changed);
        }
        place.swap(&*file, &before, &made)?;
        Ok(Done::Restriped { from: current.to_spec(), to: to.to_spec(), bytes })
    };
    finish().inspect_err(|refused| {
        // After a swap that went wrong the name aside is the only one of the file.
        if !matches!(refused, Refused::KeptAside(_)) {
            let _ = place.remove_leftover(&before); // what was wrong is what is told
        }
    })
}

/// Opens the file itself, no link and nothing that waits.
fn open(place: &Place) -> Result<OwnedFd, Refused> {
    let flags = OFlag::O_RDONLY
        | OFlag::O_NOFOLLOW
        | OFlag::O_NONBLOCK
        | OFlag::O_NOCTTY
        | OFlag::O_CLOEXEC;
    match openat(&place.dir, place.name.as_c_str(), flags, Mode::empty()) {
        Err(Errno::ELOOP | Errno::ENXIO) => Err(Refused::NotAFile),
        opened => opened.map_err(Refused::at("open it")),
    }
}

/// What the inode alone rules out.
fn check_inode(file: &OwnedFd, stat: &FileStat) -> Result<(), Refused> {
    if stat.st_nlink > 1 {
        return Err(Refused::HardLinked { names: stat.st_nlink });
    }
    if sys::inode_flags(file.as_fd()).is_ok_and(|flags| flags & FIXED != 0) {
        return Err(Refused::Immutable);
    }
    Ok(())
}

fn lock(file: OwnedFd) -> Result<Flock<OwnedFd>, Refused> {
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(locked) => Ok(locked),
        Err((_, Errno::EWOULDBLOCK)) => Err(Refused::InUse),
        Err((_, Errno::ENOSYS | Errno::EOPNOTSUPP)) => Err(Refused::NoLocks),
        Err((_, errno)) => Err(Refused::at("lock it")(errno)),
    }
}

/// The layout of a file that can be copied.
fn layout_of(file: impl AsFd) -> Result<Layout, Refused> {
    match access::read(file, Of::File).map_err(Refused::at("read its layout"))? {
        Found::Layout(Layout::Foreign(_)) | Found::Unknown(_) => Err(Refused::Unknown),
        Found::Layout(layout) if layout.is_released() => Err(Refused::Released),
        Found::Layout(layout) => Ok(layout),
        Found::None => Err(Refused::Empty),
        Found::NotLustre => Err(Refused::NotLustre),
    }
}

/// What is known of the directory.
fn site(client: &Client, directory: impl AsFd) -> Site {
    let default = access::read(directory, Of::Directory).ok().and_then(Found::layout);
    client.site(default, &[])
}

/// Whether a file has what is wanted, as far as something definite is: a default size, count or pool is
/// whatever the file has.
fn is_already(current: &Layout, wanted: &Layout, bytes: u64, site: &Site) -> bool {
    let current = current.template();
    let mut wanted = wanted.clone();
    let osts = site.osts.and_then(|osts| u16::try_from(osts).ok());
    for (want, have) in wanted.plains_mut().zip(current.plains()) {
        if want.stripe_size == 0 {
            want.stripe_size = have.stripe_size;
        }
        let all = want.count == crate::lustre::fields::Count::ALL && osts == Some(have.count.0);
        if want.count.0 == 0 || all {
            want.count = have.count;
        }
        if want.pool().is_none() {
            want.set_pool(have.pool());
        }
    }
    wanted == current || wanted.serves_as(&current, bytes)
}

/// Copies the file beside itself, with everything that it has, and reads the copy back.
fn copy_aside(
    place: &Place,
    before: &Print,
    cancel: &Cancel,
    choice: Choice,
) -> Result<(), Refused> {
    let mut request = CopyRequest::new(vec![place.file()], place.making());
    request.target = Target::Exact;
    request.options = CopyOptions {
        preserve: Preserve { project: true, flags: true, ..Preserve::default() },
        xattrs: if nix::unistd::geteuid().is_root() { XattrPolicy::All } else { XattrPolicy::Auto },
        verify: true,
        layout: choice.request.map_or(Policy::Inherit, Policy::Spec),
        ..CopyOptions::default()
    };
    let refusal = |refusal: Refusal| {
        let cause = std::error::Error::source(&refusal).map(|cause| format!(": {cause}"));
        Refused::Copy(format!("{refusal}{}", cause.unwrap_or_default()))
    };
    let plan = Plan::new(&request).map_err(refusal)?;
    let control = Control { cancel: cancel.clone(), ..Control::default() };
    let report = engine::run(&plan, &control).map_err(refusal)?;
    let lost: Vec<&str> =
        report.warnings.keys().copied().filter(|word| !word.starts_with("layout-")).collect();
    let problem = match report.outcome {
        Outcome::Complete if lost.is_empty() && report.copied.files == 1 => return Ok(()),
        Outcome::Complete => Refused::Copy(format!("not everything was kept: {}", lost.join(", "))),
        outcome @ (Outcome::Interrupted | Outcome::Terminated) => Refused::Cancelled(outcome),
        _ => {
            let first = report.failures.first().map(|failure| failure.message.clone());
            Refused::Copy(first.or(report.stopped_by).unwrap_or_default())
        }
    };
    let _ = place.remove_leftover(before); // what was wrong is what is told
    Err(problem)
}

/// Keeps writers on this machine off the file.
struct Writers {
    /// Whether there is a lease: not every filesystem has them, nor may every user take them.
    leased: bool,
}

impl Writers {
    fn keep_off(file: BorrowedFd<'_>) -> Result<Self, Refused> {
        // Whoever wants to write makes the kernel send SIGIO, which would end a process that does not
        // expect it. What came is asked for later.
        static HEARD: OnceLock<bool> = OnceLock::new();
        let listen = || flag::register(SIGIO, Arc::new(AtomicBool::new(false))).is_ok();
        if !HEARD.get_or_init(listen) {
            return Ok(Self { leased: false });
        }
        match sys::take_read_lease(file) {
            Ok(()) => Ok(Self { leased: true }),
            Err(Errno::EAGAIN) => Err(Refused::OpenForWriting),
            Err(_) => Ok(Self { leased: false }),
        }
    }

    /// Does the work with a cancel of its own, which is set when the user cancels, or when one wants to
    /// write: that one waits until the file is closed.
    fn watch<T>(&self, file: BorrowedFd<'_>, user: &Cancel, work: impl FnOnce(&Cancel) -> T) -> T {
        let (cancel, over) = (Cancel::default(), AtomicBool::new(false));
        let look = || {
            while !over.load(Relaxed) {
                let signal = match user.word().load(Relaxed) {
                    0 if self.came(file) => usize::try_from(SIGINT).unwrap_or(usize::MAX),
                    signal => signal,
                };
                cancel.word().store(signal, Relaxed);
                std::thread::park_timeout(LOOK);
            }
        };
        std::thread::scope(|scope| {
            let watcher = scope.spawn(look);
            let done = work(&cancel);
            over.store(true, Relaxed);
            watcher.thread().unpark();
            done
        })
    }

    /// Whether one wanted to write since.
    fn came(&self, file: BorrowedFd<'_>) -> bool {
        self.leased && !sys::has_read_lease(file)
    }
}

/// A path as the kernel takes it.
fn c_string(bytes: &OsStr) -> Result<CString, Refused> {
    CString::new(bytes.as_bytes()).map_err(|_| Refused::NotAFile)
}

/// A name as a path.
fn os_str(name: &CStr) -> &OsStr {
    OsStr::from_bytes(name.to_bytes())
}

/// The directory of a path, and its name in it.
fn split(path: &Path) -> Result<(PathBuf, CString), Refused> {
    let name = path.file_name().ok_or(Refused::NotAFile)?;
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    Ok((parent.unwrap_or(Path::new(".")).to_owned(), c_string(name)?))
}

/// A directory, to reach names in it.
fn open_directory(path: &Path) -> Result<File, Refused> {
    File::open(path).map_err(Refused::io("open its directory"))
}
