//! Where a file's data is: released to the archive and back, or moved to other objects.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

use fuser::Errno;

use crate::inode::{HSM_ARCHIVED, HSM_EXISTS, HSM_RELEASED, Inode, State};
use crate::layout::ANY;
use crate::passthrough::{Found, errno};
use crate::shared::Shared;

impl Shared {
    /// Moves a file's data to the archive. `path` is relative to the top.
    pub(crate) fn release(&self, path: &Path) -> io::Result<()> {
        let (inode, found) = self.by_path(path)?;
        let mut state = inode.state();
        let layout = state.layout.as_mut().ok_or_else(|| errno(Errno::ENODATA))?;
        layout.released = true;
        state.hsm = HSM_EXISTS | HSM_ARCHIVED | HSM_RELEASED;
        state.save(&found)
    }

    /// Gives a file's components other objects. `path` is relative to the top.
    pub(crate) fn migrate(&self, path: &Path) -> io::Result<()> {
        let (inode, found) = self.by_path(path)?;
        self.migrate_found(&mut inode.state(), &found)
    }

    pub(crate) fn migrate_found(&self, state: &mut State, found: &Found) -> io::Result<()> {
        let view = self.view();
        let layout = state.layout.as_mut().ok_or_else(|| errno(Errno::ENODATA))?;
        for component in layout.components.iter_mut().filter(|component| component.is_init()) {
            component.first = ANY;
            self.mds.instantiate(component, &view).map_err(errno)?;
        }
        layout.generation += 1;
        for (ost, bytes) in state.used() {
            self.osts[ost as usize].give_back(bytes);
        }
        state.objects.clear();
        state.save(found)?;
        state.remeasure(found)?;
        for (ost, bytes) in state.used() {
            self.osts[ost as usize].reserve(bytes);
        }
        Ok(())
    }

    /// Has a released file come back; returns when it will be there.
    pub(crate) fn restore(
        self: &Arc<Self>,
        inode: &Arc<Inode>,
        state: &mut State,
    ) -> Option<Instant> {
        self.up_to_date(inode, state);
        let released = state.layout.as_ref().is_some_and(|layout| layout.released);
        if !released {
            return None;
        }
        if let Some(restored) = state.restored {
            return Some(restored);
        }
        let at = Instant::now() + self.settings().restore;
        state.restored = Some(at);
        self.restores.fetch_add(1, Relaxed);
        let (shared, inode) = (self.clone(), inode.clone());
        self.calendar.at(at, move || {
            shared.up_to_date(&inode, &mut inode.state());
        });
        Some(at)
    }

    /// Takes note of a restore whose time has come: whoever was told of it may look before the calendar
    /// has.
    pub(crate) fn up_to_date(&self, inode: &Inode, state: &mut State) {
        if state.restored.is_some_and(|at| at <= Instant::now()) {
            self.returned(inode, state);
        }
    }

    /// The data of a released file is there again, or is not needed any more.
    pub(crate) fn returned(&self, inode: &Inode, state: &mut State) {
        if let Some(layout) = state.layout.as_mut().filter(|layout| layout.released) {
            layout.released = false;
            layout.generation += 1;
            state.hsm &= !HSM_RELEASED;
            state.restored = None;
            let _ = self.save(inode.ino, state);
        }
    }
}
