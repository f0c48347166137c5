//! Further names of an inode: claimed, made to wait, linked when the first name is complete. Which
//! names those are is kept in the table of `links`.

use std::ffi::CStr;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags};
use nix::sys::stat::FileStat;
use nix::unistd::linkat;

use super::dir::Dir;
use super::file::CHANGE_RETRIES;
use super::held::Held;
use super::inode::{Inode, inode, is_regular, is_symlink};
use super::job::{Names, Task};
use super::links::{Claim, Name};
use super::publish;
use super::special::refuse_what_it_leads_to;
use super::tally::Warning;
use super::walk::stat_entry;
use super::worker::Worker;
use crate::error::{AtStep, FailureKind, Step, StepError};
use crate::journal::record;
use crate::lanes::{self, Lane};

impl Worker<'_> {
    pub(crate) fn claim(
        &self,
        dir: &Arc<Dir>,
        source_name: &CStr,
        name: &CStr,
        stat: &FileStat,
        linked: bool,
    ) -> Option<Claim> {
        if stat.st_nlink < 2 || !linked || !self.job.options().preserve.links {
            return None;
        }
        let owned = || Name {
            dir: Arc::clone(dir),
            source_name: source_name.to_owned(),
            name: name.to_owned(),
            print: None,
            made: None,
            of: None,
        };
        Some(self.job.links.claim(stat, owned))
    }

    /// The first name of an inode is in place, as the inode `made` unless it was there before: the names that
    /// waited are linked to it.
    pub(crate) fn first_name_is_complete(
        &mut self,
        dir: &Arc<Dir>,
        source_name: &CStr,
        name: &CStr,
        stat: &FileStat,
        link: Option<Inode>,
        made: Option<Inode>,
    ) {
        let Some(inode) = link else { return };
        // Where numbers belong to names rather than inodes, nothing can be told by them.
        let made = made.filter(|_| self.known(dir).keeps_numbers);
        let first = Name {
            dir: Arc::clone(dir),
            source_name: source_name.to_owned(),
            name: name.to_owned(),
            print: self.print_of(dir, name, stat).filter(|_| record::is_trusted(stat)),
            made,
            of: link,
        };
        for waiting in self.job.links.complete(inode, || first.clone()) {
            self.link(&waiting.dir, &waiting.source_name, &waiting.name, &first);
        }
    }

    /// The first name failed: each of the others is tried for itself.
    pub(crate) fn first_name_failed(&mut self, link: Option<Inode>) {
        let Some(inode) = link else { return };
        let waiting = self.job.links.fail(inode);
        self.retry_names(waiting);
    }

    pub(crate) fn retry_names(&mut self, waiting: Vec<Name>) {
        for name in waiting {
            // Not counted again: its directory still expects it. It may be a special file.
            let mut names = Names::default();
            names.push(libc::DT_UNKNOWN, &name.source_name);
            self.push(Task::Slice(Arc::clone(&name.dir), names));
        }
    }

    /// Links a further name to the first.
    pub(crate) fn link(&mut self, dir: &Arc<Dir>, source_name: &CStr, name: &CStr, first: &Name) {
        if self.job.options().dry_run {
            self.job.tally.hard_links.fetch_add(1, Relaxed);
            self.settle(dir, 1);
            return;
        }
        if self.is_linked_already(dir, name, first) {
            return self.take_link_as_finished(dir, name, first);
        }
        self.forget_partial(dir, name);
        match make_link(dir, source_name, name, first, self.known(dir)) {
            Ok(()) => {
                if let Some(checks) = &self.job.checks {
                    checks.record_link(dir, name, first);
                    let path = || dir.source_path(Some(source_name));
                    if let Some(Err(error)) = first.of.map(|of| checks.note_linked(of, path)) {
                        self.job.fail(path(), error);
                        return self.settle(dir, 1);
                    }
                }
                self.note_link(dir, name, first);
                self.job.tally.hard_links.fetch_add(1, Relaxed);
                self.job.control.progress.links_done.fetch_add(1, Relaxed);
                self.settle(dir, 1);
            }
            Err(StepError {
                // EXDEV: another filesystem or project quota begins between the two directories.
                errno:
                    Some(
                        Errno::EMLINK
                        | Errno::EPERM
                        | Errno::EXDEV
                        | Errno::EOPNOTSUPP
                        | Errno::ENOSYS,
                    ),
                ..
            }) => {
                self.job.tally.warn(Warning::HardLinkNotKept);
                let found = dir.source().and_then(|fd| stat_entry(&fd, source_name));
                if found.is_ok_and(|stat| !is_regular(stat.st_mode)) {
                    self.special(dir, source_name, name, false);
                } else {
                    self.try_file(dir, source_name, name, CHANGE_RETRIES, false);
                }
            }
            Err(error) => {
                self.job.fail(dir.source_path(Some(source_name)), error);
                self.settle(dir, 1);
            }
        }
    }
}

/// Links `name` in `dir` to the first name, replacing what is there.
fn make_link(
    dir: &Dir,
    source_name: &CStr,
    name: &CStr,
    first: &Name,
    known: publish::Known,
) -> Result<(), StepError> {
    let _pass = lanes::enter(Lane::DestinationCreate);
    let from = first.dir.destination().at(Step::HardLink)?;
    let to = dir.destination().at(Step::HardLink)?;
    let contended = StepError::found(Step::HardLink, FailureKind::Contended);
    // Another copy may have replaced it since: a link to its file would be a wrong copy.
    let hold = |wanted| Held::of(from.as_fd(), &first.name, wanted, Step::HardLink);
    let held = first.made.map(hold).transpose()?;
    let made = if let Some(held) = &held {
        let flags = AtFlags::AT_SYMLINK_FOLLOW;
        let link = |new: &CStr| linkat(AT_FDCWD, held.path(), &to, new, flags);
        publish::make(to.as_fd(), name, Step::HardLink, false, link)?
    } else {
        let link = |new: &CStr| linkat(&from, first.name.as_c_str(), &to, new, AtFlags::empty());
        publish::make(to.as_fd(), name, Step::HardLink, false, link)?
    };
    let new = inode(&made.stat);
    if first.made.is_some_and(|wanted| wanted != new) {
        return Err(contended); // what has this name now is not ours to remove
    }
    if made.aside.is_none() {
        return Ok(());
    }
    // Renaming one name of an inode over another does nothing, so look first.
    if stat_entry(&to, name).is_ok_and(|old| inode(&old) == new) {
        publish::abandon_made(to.as_fd(), &made, name);
        return Ok(());
    }
    if is_symlink(made.stat.st_mode) {
        let source = dir.source().at(Step::HardLink)?;
        refuse_what_it_leads_to(&source, source_name, &to, &made, name)?;
    }
    publish::publish_made(to.as_fd(), &made, name, known)
}
