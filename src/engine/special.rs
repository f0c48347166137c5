//! Symbolic links, FIFOs, sockets and devices: made by name, never opened.

use std::ffi::{CStr, CString};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use nix::errno::Errno;
use nix::fcntl::{AtFlags, readlinkat};
use nix::sys::stat::{FileStat, Mode, SFlag, fstatat, mknodat};
use nix::unistd::symlinkat;

use super::attributes::{Unopened, path_of};
use super::dir::Dir;
use super::held::Held;
use super::inode::{Inode, inode};
use super::links::Claim;
use super::publish::{self, Made};
use super::walk::stat_entry;
use super::worker::Worker;
use super::xattrs::Xattrs;
use crate::error::{AtStep, FailureKind, Step, StepError};
use crate::lanes::{self, Lane};
use crate::sys::XattrTarget;

impl Worker<'_> {
    /// One such item that was expected by its directory. `linked` is false for a name that must become
    /// an item of its own.
    pub(crate) fn special(
        &mut self,
        dir: &Arc<Dir>,
        source_name: &CStr,
        name: &CStr,
        linked: bool,
    ) {
        lanes::begin_item();
        if linked && self.take_as_finished(dir, source_name, name) {
            return;
        }
        match self.copy_special(dir, source_name, name, linked) {
            Ok(true) => self.settle(dir, 1),
            Ok(false) => {} // waits for, or was linked to, another name of the same inode
            Err(error) => {
                self.job.fail(dir.source_path(Some(source_name)), error);
                self.settle(dir, 1);
            }
        }
    }

    fn copy_special(
        &mut self,
        dir: &Arc<Dir>,
        source_name: &CStr,
        name: &CStr,
        linked: bool,
    ) -> Result<bool, StepError> {
        let source = dir.source().at(Step::Stat)?;
        let stat = self.about_to_be_read(stat_entry(&source, source_name).at(Step::Stat)?);
        let kind = SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT;
        if kind == SFlag::S_IFREG || kind == SFlag::S_IFDIR {
            return Err(StepError::found(Step::Stat, FailureKind::SourceChanged));
        }
        let claim = self.claim(dir, source_name, name, &stat, linked);
        match &claim {
            None | Some(Claim::First) => {}
            Some(Claim::Waiting) => return Ok(false),
            Some(Claim::LinkTo(first)) => {
                self.link(dir, source_name, name, first);
                return Ok(false);
            }
        }
        let link = claim.map(|_| inode(&stat));
        let made = if self.job.options().dry_run {
            Ok(None)
        } else {
            self.make_special(dir, source_name, name, &stat, kind)
        };
        match made {
            Ok(made) => {
                let count = if kind == SFlag::S_IFLNK {
                    &self.job.tally.symlinks
                } else {
                    &self.job.tally.special
                };
                count.fetch_add(1, Relaxed);
                self.job.control.progress.links_done.fetch_add(1, Relaxed);
                self.note_finished(dir, name, &stat);
                self.first_name_is_complete(dir, source_name, name, &stat, link, made);
                Ok(true)
            }
            Err(error) => {
                self.first_name_failed(link);
                Err(error)
            }
        }
    }

    fn make_special(
        &self,
        dir: &Dir,
        source_name: &CStr,
        name: &CStr,
        stat: &FileStat,
        kind: SFlag,
    ) -> Result<Option<Inode>, StepError> {
        let source = dir.source().at(Step::Stat)?;
        let target = dir.destination().at(Step::Create)?;
        let unopened = match (kind == SFlag::S_IFLNK, dir.default_acl) {
            (true, _) => Unopened::Symlink,
            (false, false) => Unopened::Special,
            (false, true) => Unopened::MayHaveAcl,
        };
        let aside = self.is_made_again(dir, name);
        let make = |name: &CStr, step, how: &dyn Fn(&CStr) -> Result<(), Errno>| {
            let _pass = lanes::enter(Lane::DestinationCreate);
            publish::make(target.as_fd(), name, step, aside, how)
        };
        let mut text = None;
        let made = if unopened == Unopened::Symlink {
            let pass = lanes::enter(Lane::SourceMetadata);
            let found = readlinkat(&source, source_name).at(Step::ReadLink)?;
            drop(pass);
            let found =
                CString::new(found.as_bytes()).map_err(|_| Errno::EINVAL).at(Step::ReadLink)?;
            let text = text.insert(found).as_c_str();
            make(name, Step::Symlink, &|name| symlinkat(text, &target, name))?
        } else {
            make(name, Step::MakeNode, &|name| {
                mknodat(&target, name, kind, Mode::S_IRUSR | Mode::S_IWUSR, stat.st_rdev)
            })?
        };
        if SFlag::from_bits_truncate(made.stat.st_mode) & SFlag::S_IFMT != kind {
            return Err(StepError::found(Step::Create, FailureKind::Contended));
        }
        if unopened == Unopened::Symlink {
            refuse_what_it_leads_to(&source, source_name, &target, &made, name)?;
        }
        // From here on it is this one that is given attributes, whatever has its name.
        let held = Held::of(target.as_fd(), made.name(name), inode(&made.stat), Step::Create)
            .inspect_err(|_| publish::abandon_made(target.as_fd(), &made, name))?;
        let attributes = &self.job.attributes;
        let path = path_of(source.as_fd(), source_name);
        let pass = lanes::enter(Lane::SourceMetadata);
        let found = attributes.read_xattrs(XattrTarget::Path(&path));
        drop(pass);
        let _pass = lanes::enter(Lane::DestinationCreate);
        let applied = found
            .map(|found| found.unwrap_or_else(Xattrs::default))
            .and_then(|xattrs| attributes.apply_to_held(&held, stat, &xattrs, unopened));
        publish::publish_made(target.as_fd(), &made, name, self.known(dir))?;
        if let Some(checks) = &self.job.checks
            && applied.is_ok()
        {
            checks.record_special(dir, name, stat, text.as_deref());
        }
        applied.map(|()| Some(inode(&made.stat)))
    }
}

/// Before a symbolic link that was made replaces something: refuses when that is the file which the link leads
/// to at the source. Its content would be lost.
///
/// # Errors
/// `SameFile`; what was made is removed.
pub(super) fn refuse_what_it_leads_to(
    source: impl AsFd,
    source_name: &CStr,
    target: impl AsFd,
    made: &Made,
    name: &CStr,
) -> Result<(), StepError> {
    if made.aside.is_none() {
        return Ok(()); // nothing had the name
    }
    let old = fstatat(&target, name, AtFlags::AT_SYMLINK_NOFOLLOW).map(|stat| inode(&stat));
    let leads_to = fstatat(&source, source_name, AtFlags::empty()).map(|stat| inode(&stat));
    if old.is_ok() && old == leads_to {
        publish::abandon_made(target.as_fd(), made, name);
        return Err(StepError::found(Step::Symlink, FailureKind::SameFile));
    }
    Ok(())
}
