//! Files of Lustre are created with the layout that was chosen for them: without objects first, then
//! the layout is set and read back, then the first byte is written. The other order would give them the
//! directory's default without a word. Which layout is chosen is in `lustre::choose`.

use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag, openat};
use nix::sys::stat::{Mode, fstat};

use super::dir::Dir;
use super::file::Source;
use super::filesystem::Filesystem;
use super::job::{Filesystems, Job};
use super::publish::{self, Created, Visible, create_file, create_file_aside};
use super::sites::default_of;
use super::tally::Warning;
use super::worker::Worker;
use crate::error::{AtStep, FailureKind, Refusal, Step, StepError};
use crate::lanes::{self, Lane};
use crate::lustre::access::{self, Difference, Found};
use crate::lustre::choose::{Policy, Site, choose, preserved_default};
use crate::lustre::layout::{Layout, Of};
use crate::lustre::told;
use crate::plan::{Plan, nearest_existing};

/// Opens a new file without making its objects (`O_LOV_DELAY_CREATE` of Lustre 2.17). Elsewhere both
/// flags mean nothing for a regular file. Older headers have one more bit, which is not needed.
pub(super) const DELAY: OFlag = OFlag::O_NOCTTY.union(OFlag::O_ASYNC);

/// A layout that a new file is to have.
#[derive(Debug)]
pub(super) struct Wish {
    /// As it is asked for.
    pub(super) layout: Layout,
    /// The user asked for exactly this one: when the servers refuse it, the file fails. When they give
    /// something else instead, which they do without a word, that is a warning.
    pub(super) explicit: bool,
}

impl Job<'_> {
    /// Creates a regular file with a layout, or with the directory's default where there is no wish.
    ///
    /// # Errors
    /// Those of [`create_file`]; step `Layout` when a layout that was asked for explicitly is refused.
    pub(super) fn create_with_layout(
        &self,
        dir: BorrowedFd<'_>,
        name: &CStr,
        mode: Mode,
        aside: bool,
        wish: Option<&Wish>,
    ) -> Result<Created, StepError> {
        let Some(wish) = wish else {
            return create_file(dir, name, mode, aside, OFlag::empty());
        };
        let created = create_file(dir, name, mode, aside, DELAY)?;
        match self.give_layout(&created.file, wish) {
            Ok(true) => Ok(created),
            Ok(false) => open_with_default(dir, created, name),
            Err(error) => {
                abandon(dir, &created, name);
                Err(error)
            }
        }
    }

    /// Sets a layout and reads back what was given. False when the file has none: the request was
    /// refused, or was not heeded.
    fn give_layout(&self, file: &OwnedFd, wish: &Wish) -> Result<bool, StepError> {
        if let Err(errno) = access::set(file, &wish.layout) {
            if wish.explicit || is_not_about_the_layout(errno) {
                return Err(refused(errno));
            }
            self.tally.warn(Warning::LayoutNotApplied);
            return Ok(false);
        }
        let given = match access::read(file, Of::File) {
            Ok(Found::Layout(layout)) => layout,
            // It was set: what cannot be read back is there all the same.
            Ok(Found::Unknown(_)) => return Ok(true),
            Ok(Found::None | Found::NotLustre) if wish.explicit => {
                return Err(refused(Errno::EOPNOTSUPP));
            }
            Ok(Found::None | Found::NotLustre) => {
                self.tally.warn(Warning::LayoutNotApplied);
                return Ok(false);
            }
            Err(errno) => return Err(StepError::os(Step::Layout, errno)),
        };
        self.tell_differences(wish, &given);
        Ok(true)
    }

    fn tell_differences(&self, wish: &Wish, given: &Layout) {
        for difference in access::differences(&wish.layout, given) {
            self.tally.warn(match difference {
                Difference::NotApplied => Warning::LayoutNotApplied,
                Difference::FewerStripes => Warning::LayoutFewerStripes,
                Difference::ChangedPool => Warning::LayoutChangedPool,
                Difference::CutOnMdt => Warning::LayoutCutOnMdt,
            });
        }
    }

    /// A file that an earlier run began keeps its layout, for what is in it would be lost. Where that is
    /// not what is asked for now, it is told.
    pub(super) fn compare_layout(&self, begun: &OwnedFd, wish: &Wish) {
        if let Ok(Found::Layout(given)) = access::read(begun, Of::File) {
            self.tell_differences(wish, &given);
        }
    }
}

/// Refuses a layout that was asked for explicitly where it cannot be had, before anything is copied.
///
/// # Errors
/// A [`Refusal`] when the destination is not Lustre, or when its servers do not take the layout.
pub(super) fn check_explicit(plan: &Plan, destination: Filesystem) -> Result<(), Refusal> {
    let Policy::Spec(layout) = &plan.options.layout else { return Ok(()) };
    let Some(root) = plan.roots.first() else { return Ok(()) };
    let place = nearest_existing(&root.destination_dir);
    let words = layout.to_spec();
    if !destination.layouts {
        let problem = format!("--layout \"{words}\": the destination is not on Lustre");
        return Err(Refusal::path(&root.destination, problem));
    }
    if plan.options.dry_run {
        return Ok(());
    }
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    // Whether anything can be made there at all is found out by the copy.
    let Ok(dir) = openat(AT_FDCWD, place, flags, Mode::empty()) else { return Ok(()) };
    match try_layout(dir.as_fd(), layout) {
        Err(StepError { step: Step::Layout, errno: Some(errno), .. }) => Err(Refusal::path(
            place,
            format!(
                "the servers do not take --layout \"{words}\" ({}); name OSTs and pools that there are, \
                 and sizes in multiples of 64 KiB",
                errno.desc()
            ),
        )),
        _ => Ok(()),
    }
}

/// Tries whether a directory takes files of a layout: makes one without content and removes it.
///
/// # Errors
/// Step `Layout` when it does not, `Create` when no file can be made there at all.
fn try_layout(dir: BorrowedFd<'_>, layout: &Layout) -> Result<(), StepError> {
    // No file can have a slash for its name, and so nobody else's unfinished file is meant.
    let name = c"/";
    let created = create_file_aside(dir, name, Mode::S_IRUSR, DELAY)?;
    let set = access::set(&created.file, layout).map_err(refused);
    abandon(dir, &created, name);
    set
}

/// Removes a file that was made and does not get its layout.
fn abandon(dir: BorrowedFd<'_>, created: &Created, name: &CStr) {
    if let Ok(made) = publish::identity(&created.file) {
        publish::abandon(dir, &created.visible, name, made);
    }
}

/// Servers or a quota that are at fault, whatever the layout.
fn is_not_about_the_layout(errno: Errno) -> bool {
    matches!(
        FailureKind::of(errno),
        FailureKind::Io | FailureKind::Quota | FailureKind::ReadOnly | FailureKind::FilesystemGone
    ) && errno != Errno::EREMOTEIO
}

fn refused(errno: Errno) -> StepError {
    let error = StepError::os(Step::Layout, errno);
    match errno {
        // It breaks the rules, names an OST that there is not, or one that is not in use.
        Errno::EINVAL | Errno::ERANGE | Errno::EREMOTEIO => {
            StepError { kind: FailureKind::Unsupported, ..error }
        }
        _ => error,
    }
}

/// Opens a file that has no layout again: the first opening for writing gives it the default.
fn open_with_default(
    dir: BorrowedFd<'_>,
    created: Created,
    name: &CStr,
) -> Result<Created, StepError> {
    let made = publish::identity(&created.file)?;
    let Created { file, visible } = created;
    drop(file);
    let own = match &visible {
        Visible::AsItself => name,
        Visible::As(temporary) => temporary.as_c_str(),
    };
    let flags = OFlag::O_WRONLY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    // Somebody else may have taken the name meanwhile: then it is theirs.
    let contended = StepError::found(Step::Create, FailureKind::Contended);
    let opened = match openat(dir, own, flags, Mode::empty()) {
        Err(Errno::ENOENT) => Err(contended),
        Err(errno) => Err(StepError::os(Step::Create, errno)),
        Ok(file) => publish::identity(file.as_fd())
            .and_then(|inode| if inode == made { Ok(file) } else { Err(contended) }),
    };
    let file = opened.inspect_err(|_| publish::abandon(dir, &visible, name, made))?;
    Ok(Created { file, visible })
}

impl Worker<'_> {
    /// The layout that a new file is to have; `None` when its directory's default decides, for which no
    /// call is made. It is counted where the file is to be made now.
    ///
    /// With `preserve` the layout of every source file is read, of small and empty ones too: they may lie
    /// on the metadata server or in a pool, and an empty one may have been made for what comes later.
    pub(super) fn wish(
        &self,
        dir: &Dir,
        source: &Source,
        filesystems: Filesystems,
        is_new: bool,
    ) -> Option<Wish> {
        let options = self.job.options();
        if options.layout == Policy::Inherit || !filesystems.destination.layouts {
            return None;
        }
        let preserve = options.layout == Policy::Preserve && filesystems.source.layouts;
        let from = preserve.then(|| {
            let _pass = lanes::enter(Lane::SourceMetadata);
            access::read(&source.file, Of::File).ok()?.layout()
        });
        let site = self.site(dir);
        let table = options.layout_table.as_deref();
        let size = source.stat.st_size.cast_unsigned();
        let choice = choose(&options.layout, from.flatten().as_ref(), size, &site, table);
        if is_new {
            self.job.sites.count_file(&choice);
        }
        let explicit = matches!(options.layout, Policy::Spec(_));
        choice.request.map(|layout| Wish { layout, explicit })
    }

    /// What is known of a directory of the destination; looked up for its first file, while others wait.
    fn site(&self, dir: &Dir) -> Arc<Site> {
        let look = || {
            let _pass = lanes::enter(Lane::DestinationCreate);
            // What a root hangs in is open for its path only, and that cannot be asked for attributes.
            let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
            let path = dir.destination().ok()?;
            let readable = openat(&path, c".", flags, Mode::empty()).ok()?;
            let device = dir.destination_stat.as_ref().map_or(0, |stat| stat.st_dev);
            Some(self.job.sites.site(&readable, device, device == dir.stat.st_dev))
        };
        // Without permission to read the directory nothing is known.
        Arc::clone(dir.site.get_or_init(|| Arc::new(look().unwrap_or_default())))
    }

    /// Gives a new directory the default that its source has of its own. What a source directory only has
    /// from the root of its filesystem is that site's policy, and stays there. A directory that was there
    /// before and has a default of its own keeps it.
    pub(super) fn keep_default_layout(
        &self,
        parent: &Dir,
        source: &OwnedFd,
        destination: &OwnedFd,
        made: bool,
    ) -> Result<(), StepError> {
        let preserve = self.job.options().layout == Policy::Preserve;
        if !preserve || !told::is_lustre(source) || !told::is_lustre(destination) {
            return Ok(());
        }
        let Some(own) = default_of(source) else { return Ok(()) };
        let device = |directory: &OwnedFd| fstat(directory).map(|stat| stat.st_dev).at(Step::Stat);
        let (from, to) = (device(source)?, device(destination)?);
        let root = self.job.sites.facts(from, source).root_default.clone();
        let site = self.job.sites.site(destination, to, from == to);
        if !made && site.default != self.site(parent).default {
            return Ok(());
        }
        let choice = preserved_default(Some(&own), root.as_ref(), &site);
        let Some(layout) = choice.request else { return Ok(()) };
        match access::set(destination, &layout) {
            Ok(()) => self.job.sites.count_directory(),
            Err(errno) if is_not_about_the_layout(errno) => return Err(refused(errno)),
            Err(_) => self.job.tally.warn(Warning::LayoutNotApplied),
        }
        Ok(())
    }
}
