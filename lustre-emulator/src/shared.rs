//! The state of a mounted filesystem, and what is decided with it: defaults, layouts that grow, objects
//! that are made, files that come back from the archive.

use std::collections::HashMap;
use std::io;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use fuser::{Errno, INodeNo};

use crate::buffers::Buffers;
use crate::inode::{HSM_DIRTY, Inode, State, Table};
use crate::layout::{EXTENSION, Layout, STALE};
use crate::log::Log;
use crate::mds::{Defaults, Mds, View};
use crate::mdt::Mdt;
use crate::ost::Ost;
use crate::passthrough::{Behind, Calendar, TOP, errno};
use crate::settings::{Clients, Settings};

/// What is kept with an open file.
#[derive(Default)]
pub(crate) struct Opened {
    pub(crate) inode: OnceLock<Arc<Inode>>,
    pub(crate) path: OnceLock<Option<PathBuf>>,
    pub(crate) writes: AtomicBool,
    /// Whether anything has been written through it.
    pub(crate) wrote: AtomicBool,
}

pub(crate) struct Shared {
    pub(crate) settings: Mutex<Arc<Settings>>,
    pub(crate) behind: Behind<Opened>,
    pub(crate) top: PathBuf,
    pub(crate) osts: Vec<Arc<Ost>>,
    pub(crate) mdt: Arc<Mdt>,
    pub(crate) mds: Mds,
    pub(crate) inodes: Table,
    pub(crate) log: Arc<Log>,
    pub(crate) calendar: Arc<Calendar>,
    pub(crate) restores: AtomicU64,
    pub(crate) writes: AtomicU64,
    pub(crate) buffers: Buffers,
    processes: Mutex<HashMap<u32, u32>>,
}

impl Shared {
    pub(crate) fn new(settings: Settings, top: PathBuf) -> io::Result<Arc<Self>> {
        let calendar = Arc::new(Calendar::new());
        let osts = settings.osts.iter().map(|ost| Ost::new(ost.clone(), calendar.clone()));
        let shared = Self {
            behind: Behind::new(&top)?,
            osts: osts.collect(),
            mdt: Mdt::new(settings.mdt.clone(), calendar.clone()),
            mds: Mds::default(),
            inodes: Table::default(),
            log: Arc::new(Log::new(settings.log_limit)),
            calendar,
            restores: AtomicU64::new(0),
            writes: AtomicU64::new(1),
            buffers: Buffers::default(),
            processes: Mutex::default(),
            settings: Mutex::new(Arc::new(settings)),
            top,
        };
        for inode in shared.inodes.load(&shared.top, TOP)? {
            let state = inode.state();
            for (ost, bytes) in state.used() {
                if let Some(ost) = shared.osts.get(ost as usize) {
                    ost.reserve(bytes);
                }
            }
            for component in state.layout.iter().flat_map(|layout| &layout.components) {
                component.objects.iter().for_each(|object| shared.mds.seen(*object));
            }
        }
        Ok(Arc::new(shared))
    }

    pub(crate) fn settings(&self) -> Arc<Settings> {
        self.settings.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn change(&self, change: impl FnOnce(&mut Settings)) {
        let mut settings = self.settings.lock().unwrap_or_else(PoisonError::into_inner);
        let mut changed = (**settings).clone();
        change(&mut changed);
        *settings = Arc::new(changed);
    }

    pub(crate) fn inode(&self, ino: u64) -> io::Result<Arc<Inode>> {
        self.inodes.get(ino, || self.behind.find(INodeNo(ino)))
    }

    pub(crate) fn save(&self, ino: u64, state: &State) -> io::Result<()> {
        state.save(&self.behind.find(INodeNo(ino))?)
    }

    /// The client that a thread counts as.
    pub(crate) fn client(&self, thread: u32) -> u32 {
        if self.settings().clients == Clients::Thread {
            return thread;
        }
        let mut processes = self.processes.lock().unwrap_or_else(PoisonError::into_inner);
        *processes.entry(thread).or_insert_with(|| process_of(thread).unwrap_or(thread))
    }

    pub(crate) fn view(&self) -> View {
        let settings = self.settings();
        let indices = 0..u32::try_from(self.osts.len()).unwrap_or(u32::MAX);
        View {
            active: indices.filter(|ost| self.osts[*ost as usize].is_active()).collect(),
            osts: self.osts.len(),
            pools: settings.pools.clone(),
            misbehave: settings.misbehave.clone(),
        }
    }

    /// What a file in this directory asks for when nobody asks for anything, and what fills the gaps
    /// of a request.
    pub(crate) fn default_of(&self, parent: u64) -> (Layout, Defaults) {
        let own = |ino| self.inode(ino).ok().and_then(|inode| inode.state().default.clone());
        let root = own(TOP);
        let dir = if parent == TOP { None } else { own(parent) };
        let settings = self.settings();
        let mut defaults = Defaults {
            stripe_count: settings.stripe_count,
            stripe_size: settings.stripe_size,
            first: crate::layout::ANY,
            pool: [0; 16],
        };
        for plain in [&root, &dir].into_iter().flatten().filter(|known| !known.composite) {
            if let Some(component) = plain.components.first() {
                defaults = defaults.over(component);
            }
        }
        let whole = |layout: &Layout| {
            layout.composite
                || layout.components.iter().any(|part| part.magic == crate::layout::SPECIFIC)
        };
        let request = match (dir, root) {
            (Some(dir), _) if whole(&dir) => dir,
            (None, Some(root)) if whole(&root) => root,
            _ => defaults.request(),
        };
        (request, defaults)
    }

    pub(crate) fn parent(&self, ino: u64) -> u64 {
        self.behind.nodes.parent(ino).unwrap_or(TOP)
    }

    /// Gives a file the default layout, unless it has one.
    pub(crate) fn settle(&self, inode: &Inode, state: &mut State) -> io::Result<()> {
        if state.layout.is_some() {
            return Ok(());
        }
        let (request, defaults) = self.default_of(self.parent(inode.ino));
        let granted = self.mds.grant(request, &defaults, &self.view()).map_err(errno)?;
        state.layout = Some(granted);
        self.save(inode.ino, state)
    }

    /// Makes the components of a range that is about to be written; returns whether the metadata
    /// server had to. Mirrors that it does not go to are stale from now on.
    pub(crate) fn ensure(
        &self,
        inode: &Inode,
        state: &mut State,
        range: &Range<u64>,
    ) -> io::Result<bool> {
        let ebadf = || errno(Errno::EBADF);
        let before = state.layout.clone().ok_or_else(ebadf)?;
        if before.foreign.is_some() {
            return Err(ebadf());
        }
        let mut layout = before;
        let mut changed = false;
        if layout.flr == 1 {
            let kept = layout.mirror(true);
            for (at, component) in layout.components.iter_mut().enumerate() {
                if !kept.contains(&at) {
                    component.flags |= STALE;
                }
            }
            layout.flr = 2;
            changed = true;
        }
        changed |= extend(&mut layout, range);
        let mut at = range.start;
        let mut view = None;
        while at < range.end {
            let mirror = layout.mirror(true);
            let entry = layout.entry_at(&mirror, at).ok_or_else(|| errno(Errno::ENODATA))?;
            let generation = layout.generation;
            let component = &mut layout.components[entry];
            if !component.is_init() {
                let view = view.get_or_insert_with(|| self.view());
                self.mds.instantiate(component, view).map_err(errno)?;
                component.generation = u16::try_from(generation + 1).unwrap_or(u16::MAX);
                changed = true;
            }
            at = component.end;
        }
        if changed {
            layout.generation += 1;
            state.layout = Some(layout);
            self.save(inode.ino, state)?;
        }
        Ok(changed)
    }

    /// The data has changed.
    pub(crate) fn changed(state: &mut State) {
        state.version += 1;
        if state.hsm != 0 {
            state.hsm |= HSM_DIRTY;
        }
    }

    /// Gives the room of everything in an object range of the file back, from `size` on.
    pub(crate) fn cut(&self, state: &mut State, size: u64) {
        let Some(layout) = &state.layout else { return };
        for component in &layout.components {
            for (index, object) in (0_u64..).zip(&component.objects) {
                let stripe = u64::from(component.stripe_size).max(1);
                let width = stripe * component.objects.len() as u64;
                let rest = (size % width).saturating_sub(index * stripe).min(stripe);
                let left = size / width * stripe + rest;
                if let Some(known) = state.objects.get_mut(object) {
                    let freed = known.extents.remove(&(left..u64::MAX));
                    self.osts[object.ost as usize].give_back(freed);
                }
            }
        }
    }

    /// A file has neither a name nor a handle any more.
    pub(crate) fn gone(&self, inode: &Arc<Inode>) {
        let mut state = inode.state();
        for (ost, bytes) in state.used() {
            self.osts[ost as usize].give_back(bytes);
        }
        state.objects.clear();
        drop(state);
        self.inodes.forget(inode);
    }
}

/// Lets components grow into the extensions behind them as far as a range goes.
fn extend(layout: &mut Layout, range: &Range<u64>) -> bool {
    let mut changed = false;
    while let Some(at) = layout.components.iter().position(|component| {
        component.flags & EXTENSION != 0
            && component.start < range.end
            && range.start < component.end
    }) {
        let extension = layout.components[at].clone();
        let step = extension.extension().max(1);
        let wanted = (range.end - extension.start).div_ceil(step).saturating_mul(step);
        let end = extension.start.saturating_add(wanted).min(extension.end);
        if let Some(before) = at.checked_sub(1) {
            layout.components[before].end = end;
        }
        layout.components[at].start = end;
        if end == extension.end {
            layout.components.remove(at);
        }
        changed = true;
    }
    changed
}

/// The process of a thread.
fn process_of(thread: u32) -> Option<u32> {
    let status = std::fs::read_to_string(format!("/proc/{thread}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("Tgid:"))?;
    line.trim().parse().ok()
}
