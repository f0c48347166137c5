//! What one copy knows of the Lustre filesystems that it meets, looked up once for each, and what it did
//! about layouts. It sets none.

use std::collections::{BTreeMap, HashMap};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use nix::fcntl::{AT_FDCWD, OFlag, openat};
use nix::sys::stat::{Mode, fstat};

use super::job::Job;
use crate::lustre::access::{self, Found};
use crate::lustre::choose::{Choice, Policy, Site};
use crate::lustre::layout::{Layout, Of};
use crate::lustre::probe::{Client, Sources};
use crate::lustre::report::{Layouts, LustreReport};
use crate::lustre::told::is_lustre;
use crate::lustre::{full, parameters};
use crate::plan::nearest_existing;

/// What is known of one filesystem.
#[derive(Debug, Default)]
pub(super) struct Facts {
    /// As this machine's client has it mounted; `None` where it is not Lustre.
    pub(super) client: Option<Client>,
    /// The default of the filesystem's root, which all directories without their own have.
    pub(super) root_default: Option<Layout>,
}

/// The filesystems of one copy, and counts of what was decided.
#[derive(Debug, Default)]
pub(crate) struct Sites {
    known: RwLock<HashMap<u64, Arc<Facts>>>,
    set: AtomicU64,
    inherited: AtomicU64,
    directories: AtomicU64,
    reasons: Mutex<BTreeMap<&'static str, u64>>,
    /// Which OST was full, when one was.
    full: Mutex<Option<String>>,
}

impl Sites {
    /// What is known of the filesystem of an open directory.
    pub(super) fn facts(&self, device: u64, directory: &OwnedFd) -> Arc<Facts> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner).get(&device).cloned();
        known.unwrap_or_else(|| {
            let facts = Arc::new(Facts::of(directory));
            let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(known.entry(device).or_insert(facts))
        })
    }

    /// What is known of an open directory at the destination as a place for new files.
    pub(super) fn site(&self, directory: &OwnedFd, device: u64, same_filesystem: bool) -> Site {
        let facts = self.facts(device, directory);
        let default = default_of(directory);
        let others: Vec<&Layout> = facts.root_default.iter().collect();
        let site = facts.client.as_ref().map(|client| client.site(default, &others));
        Site { same_filesystem, ..site.unwrap_or_default() }
    }

    /// Counts what was chosen for a file.
    pub(super) fn count_file(&self, choice: &Choice) {
        let counter = if choice.request.is_some() { &self.set } else { &self.inherited };
        counter.fetch_add(1, Relaxed);
        let mut reasons = self.reasons.lock().unwrap_or_else(PoisonError::into_inner);
        for reason in &choice.reasons {
            *reasons.entry(reason.word()).or_default() += 1;
        }
    }

    /// Counts a directory that was given a default.
    pub(super) fn count_directory(&self) {
        self.directories.fetch_add(1, Relaxed);
    }

    /// Remembers which OST of a file is full, unless one is known already. `file` is what there is of it
    /// at the destination, `directory` an open one of its filesystem.
    pub(super) fn note_full(&self, file: &OwnedFd, device: u64, directory: &OwnedFd) {
        let Some(layout) = access::read(file, Of::File).ok().and_then(Found::layout) else {
            return;
        };
        let facts = self.facts(device, directory);
        let name = facts.client.as_ref().and_then(|client| client.fsname.as_deref());
        let name = name.unwrap_or_default();
        let free = parameters::free_bytes(&parameters::root(), name);
        let mut full = self.full.lock().unwrap_or_else(PoisonError::into_inner);
        if full.is_none() {
            *full = full::describe(&layout, name, &free);
        }
    }

    /// Which OST was full, in words.
    pub(super) fn full(&self) -> Option<String> {
        self.full.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn layouts(&self, policy: &Policy) -> Layouts {
        Layouts {
            policy: match policy {
                Policy::Inherit => "inherit".to_owned(),
                Policy::Preserve => "preserve".to_owned(),
                Policy::Auto => "auto".to_owned(),
                Policy::Spec(layout) => layout.to_spec(),
            },
            set: self.set.load(Relaxed),
            inherited: self.inherited.load(Relaxed),
            directories: self.directories.load(Relaxed),
            reasons: self.reasons.lock().unwrap_or_else(PoisonError::into_inner).clone(),
        }
    }
}

impl Facts {
    fn of(directory: &OwnedFd) -> Self {
        if !is_lustre(directory) {
            return Self::default(); // without reading the mount table, which a copy of one small file would notice
        }
        let path = std::fs::read_link(format!("/proc/self/fd/{}", directory.as_raw_fd()));
        let path = path.unwrap_or_default();
        let client = Client::of(directory, &path, &Sources::of_this_system());
        let root = client.as_ref().and_then(|client| open_directory(&client.mount_point));
        Self { root_default: root.as_ref().and_then(default_of), client }
    }
}

impl Job<'_> {
    /// The report's part about Lustre, of the first source and the destination.
    pub(super) fn lustre_report(&self) -> Option<LustreReport> {
        let root = self.plan.roots.first()?;
        let look = |path: &Path| -> Option<Client> {
            let directory = open_directory(path)?;
            let device = fstat(&directory).ok()?.st_dev;
            self.sites.facts(device, &directory).client.clone()
        };
        let source = look(&root.source_dir);
        let destination = look(nearest_existing(&root.destination_dir));
        if source.is_none() && destination.is_none() {
            return None;
        }
        let layouts = destination.as_ref().map(|_| self.sites.layouts(&self.options().layout));
        let released_restored = self.tally.released_restored.load(Relaxed);
        Some(LustreReport { source, destination, layouts, released_restored })
    }
}

/// The default layout of an open directory: its own, else its filesystem's.
pub(super) fn default_of(directory: &OwnedFd) -> Option<Layout> {
    access::read(directory, Of::Directory).ok()?.layout()
}

fn open_directory(path: &Path) -> Option<OwnedFd> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    openat(AT_FDCWD, path, flags, Mode::empty()).ok()
}
