//! What the emulator knows of each file and directory beside its content: layout, default, project,
//! HSM state, locks. It is kept in extended attributes of the file behind, where a later mount finds it.

use std::collections::{BTreeSet, HashMap};
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use nix::unistd::{Whence, lseek};

use crate::extents::Extents;
use crate::layout::{For, INIT, Layout, Object};
use crate::locks::Locks;
use crate::passthrough::{Found, Give};

/// Everything of the emulator's own, hidden from the mount, begins like this.
pub(crate) const HIDDEN: &str = "trusted.emulator.";
const LAYOUT: &str = "trusted.emulator.lov";
const ABOUT: &str = "trusted.emulator.about";

/// HSM states: a copy exists in the archive, it has been changed since, only the copy is left.
pub(crate) const HSM_EXISTS: u32 = 0x1;
pub(crate) const HSM_DIRTY: u32 = 0x2;
pub(crate) const HSM_RELEASED: u32 = 0x4;
pub(crate) const HSM_ARCHIVED: u32 = 0x8;

/// What is known of an object.
#[derive(Default)]
pub(crate) struct ObjectState {
    pub(crate) locks: Locks,
    pub(crate) extents: Extents,
    /// Writes that its OST does not have yet, by their numbers, and their clients.
    pub(crate) writing: HashMap<u64, u32>,
}

#[derive(Default)]
pub(crate) struct State {
    /// Of a file.
    pub(crate) layout: Option<Layout>,
    /// Of a directory: the request that its new files make.
    pub(crate) default: Option<Layout>,
    /// Grows with every change of the data.
    pub(crate) version: u64,
    pub(crate) hsm: u32,
    pub(crate) project: u32,
    /// Flags of `FSSETXATTR`.
    pub(crate) flags: u32,
    pub(crate) opens: u32,
    pub(crate) writers: u32,
    pub(crate) objects: HashMap<Object, ObjectState>,
    /// Numbers of writes that their OSTs do not have yet.
    pub(crate) unfinished: BTreeSet<u64>,
    /// What waits until none of these writes is unfinished.
    pub(crate) waiting: Vec<(BTreeSet<u64>, Give)>,
    /// When its data is back from the archive.
    pub(crate) restored: Option<Instant>,
    /// How many writes there have been.
    pub(crate) writes: u64,
    /// Its last name is gone.
    pub(crate) unlinked: bool,
}

impl State {
    /// Bytes by OST.
    pub(crate) fn used(&self) -> Vec<(u32, u64)> {
        self.objects.iter().map(|(object, state)| (object.ost, state.extents.bytes())).collect()
    }

    pub(crate) fn save(&self, found: &Found) -> io::Result<()> {
        let layout = self.layout.as_ref().map(|layout| layout.encode(For::Store));
        let default = self.default.as_ref().map(|default| default.encode(For::Default));
        match layout.or(default) {
            Some(value) => found.set_xattr(LAYOUT.as_ref(), &value, 0)?,
            None => {
                let _ = found.remove_xattr(LAYOUT.as_ref());
            }
        }
        let mut about = Vec::with_capacity(20);
        about.extend(self.version.to_le_bytes());
        for number in [self.hsm, self.project, self.flags] {
            about.extend(number.to_le_bytes());
        }
        found.set_xattr(ABOUT.as_ref(), &about, 0)
    }

    fn load(found: &Found) -> io::Result<Self> {
        let path = &found.path;
        let about = if found.follow { fs::metadata(path)? } else { fs::symlink_metadata(path)? };
        let mut state = Self::default();
        if let Ok(known) = found.xattr(ABOUT.as_ref()) {
            let word = |at: usize| known.get(at..at + 4).and_then(|word| word.try_into().ok());
            let version = known.get(..8).and_then(|word| word.try_into().ok());
            state.version = version.map_or(0, u64::from_le_bytes);
            state.hsm = word(8).map_or(0, u32::from_le_bytes);
            state.project = word(12).map_or(0, u32::from_le_bytes);
            state.flags = word(16).map_or(0, u32::from_le_bytes);
        }
        let Ok(value) = found.xattr(LAYOUT.as_ref()) else { return Ok(state) };
        let layout = Layout::decode(&value).map_err(crate::passthrough::errno)?;
        if about.is_dir() {
            state.default = Some(layout);
        } else {
            state.layout = Some(restore(layout));
            state.measure(&File::open(path)?, about.size())?;
        }
        Ok(state)
    }

    /// Finds out anew where the bytes of a file lie.
    pub(crate) fn remeasure(&mut self, found: &Found) -> io::Result<()> {
        let file = File::open(&found.path)?;
        let size = file.metadata()?.len();
        self.measure(&file, size)
    }

    /// Finds out which bytes of its objects are there.
    fn measure(&mut self, file: &File, size: u64) -> io::Result<()> {
        let mut at = 0;
        while at < size {
            let Ok(start) = lseek(file, i64::try_from(at).unwrap_or(i64::MAX), Whence::SeekData)
            else {
                break;
            };
            let end = lseek(file, start, Whence::SeekHole)?;
            let (start, end) = (u64::try_from(start).unwrap_or(0), u64::try_from(end).unwrap_or(0));
            let layout = self.layout.as_ref();
            for piece in
                layout.and_then(|known| known.pieces(true, start..end).ok()).unwrap_or_default()
            {
                if let Some((_, object)) = piece.object {
                    let range = piece.object_offset..piece.object_offset + piece.length;
                    self.objects.entry(object).or_default().extents.insert(range);
                }
            }
            at = end;
        }
        Ok(())
    }
}

/// A plain layout that has been kept: it has its objects.
fn restore(mut layout: Layout) -> Layout {
    if !layout.composite {
        for component in &mut layout.components {
            component.flags |= INIT;
        }
    }
    layout
}

/// One file or directory.
pub(crate) struct Inode {
    pub(crate) ino: u64,
    state: Mutex<State>,
}

impl Inode {
    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A write with this number is done: returns what waited for it.
    pub(crate) fn finished(&self, number: u64, object: Option<Object>) -> Vec<Give> {
        let mut state = self.state();
        if !state.unfinished.remove(&number) {
            return Vec::new(); // a read
        }
        if let Some(known) = object.and_then(|object| state.objects.get_mut(&object)) {
            known.writing.remove(&number);
        }
        let mut ready = Vec::new();
        for (mut after, give) in std::mem::take(&mut state.waiting) {
            after.remove(&number);
            if after.is_empty() {
                ready.push(give);
            } else {
                state.waiting.push((after, give));
            }
        }
        ready
    }
}

/// All that have been touched.
#[derive(Default)]
pub(crate) struct Table {
    inodes: Mutex<HashMap<u64, Arc<Inode>>>,
}

impl Table {
    fn inodes(&self) -> MutexGuard<'_, HashMap<u64, Arc<Inode>>> {
        self.inodes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn known(&self, ino: u64) -> Option<Arc<Inode>> {
        self.inodes().get(&ino).cloned()
    }

    /// By its number, read from the file behind when it is not known.
    pub(crate) fn get(
        &self,
        ino: u64,
        find: impl FnOnce() -> io::Result<Found>,
    ) -> io::Result<Arc<Inode>> {
        if let Some(inode) = self.known(ino) {
            return Ok(inode);
        }
        let state = Mutex::new(State::load(&find()?)?);
        let mut inodes = self.inodes();
        Ok(inodes.entry(ino).or_insert_with(|| Arc::new(Inode { ino, state })).clone())
    }

    /// One that has just been made, whatever had its number before.
    pub(crate) fn fresh(&self, ino: u64) -> Arc<Inode> {
        let inode = Arc::new(Inode { ino, state: Mutex::default() });
        self.inodes().insert(ino, inode.clone());
        inode
    }

    /// It is gone.
    pub(crate) fn forget(&self, gone: &Arc<Inode>) {
        let mut inodes = self.inodes();
        if inodes.get(&gone.ino).is_some_and(|known| Arc::ptr_eq(known, gone)) {
            inodes.remove(&gone.ino);
        }
    }

    /// Reads everything beneath a directory: returns what is there. `top` has the number that FUSE
    /// gives to the top.
    pub(crate) fn load(&self, top: &Path, number: u64) -> io::Result<Vec<Arc<Inode>>> {
        let found = |path: &Path| Found { path: path.to_owned(), follow: false };
        let mut loaded = vec![self.get(number, || Ok(found(top)))?];
        let mut dirs = vec![top.to_owned()];
        while let Some(dir) = dirs.pop() {
            for entry in fs::read_dir(dir)? {
                let entry = entry?;
                let (path, about) = (entry.path(), entry.metadata()?);
                if about.is_dir() {
                    dirs.push(path.clone());
                }
                let marked = || xattr::get(&path, ABOUT).ok().flatten().is_some();
                if (about.is_dir() || about.is_file())
                    && self.known(about.ino()).is_none()
                    && marked()
                {
                    loaded.push(self.get(about.ino(), || Ok(found(&path)))?);
                }
            }
        }
        Ok(loaded)
    }
}
