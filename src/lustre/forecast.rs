//! `longshore layout plan`: which layouts a copy would ask for, and why, without copying anything.
//! Files are counted by what is asked for and the reasons, so that memory does not grow with the
//! tree. It reads names, sizes and layouts, and restores no file.

use std::collections::BTreeMap;
use std::collections::hash_map::{Entry, HashMap};
use std::ffi::CString;
use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use serde::{Serialize, Serializer};
use walkdir::{DirEntry, WalkDir};

use super::access;
use super::choose::{Choice, Policy, choose, explicit_default, preserved_default};
use super::layout::{Layout, Of};
use super::probe::{Client, Sources};
use super::reason::Reason;
use super::show::default_of;
use super::site::Site;
use super::table::Table;
use crate::error::{Refusal, show};
use crate::plan::{Plan, Root, nearest_existing};
use crate::report::path_or_base64;
use crate::sys::{self, XattrTarget};

/// Different answers that are kept apart; what comes later is counted together.
const GROUPS: usize = 500;
/// Problems that are kept with their text.
const PROBLEMS: usize = 20;

/// What a copy would ask for.
#[derive(Debug, Default, Serialize)]
pub struct Forecast {
    /// The sources' filesystem, when it is Lustre.
    pub source: Option<Client>,
    /// The destination's.
    pub destination: Client,
    /// The default where the copy begins.
    pub default: Option<Layout>,
    /// Regular files; further names of hard-linked files count as well.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Files whose data is only in the archive.
    pub released: u64,
    /// Files by what is asked for and why, the most frequent first.
    pub groups: Vec<Group>,
    /// Files of further groups, which are not listed.
    pub further: u64,
    /// Directories that would be made with a default of their own, likewise.
    pub directories: Vec<Group>,
    /// How many items could not be looked at.
    pub failed: u64,
    /// The first of them.
    pub problems: Vec<String>,
}

/// Items that get the same for the same reasons.
#[derive(Debug, Serialize)]
pub struct Group {
    /// The layout in words; `None`: nothing is asked for.
    pub spec: Option<String>,
    /// Why.
    #[serde(serialize_with = "words_and_texts")]
    pub reasons: Vec<Reason>,
    /// How many.
    pub items: u64,
    /// Their bytes; 0 for directories.
    pub bytes: u64,
    /// One of them.
    #[serde(serialize_with = "path_or_base64")]
    pub example: PathBuf,
}

fn words_and_texts<S: Serializer>(reasons: &[Reason], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(reasons.iter().map(|reason| {
        BTreeMap::from([("word", reason.word().to_owned()), ("text", reason.to_string())])
    }))
}

/// How layouts are chosen.
#[derive(Debug, Clone, Default)]
pub struct How {
    /// The policy.
    pub policy: Policy,
    /// The site's table, for `auto`.
    pub table: Option<Table>,
}

impl Forecast {
    /// Looks at everything that a plan would copy.
    ///
    /// # Errors
    /// A [`Refusal`] when the destination does not lie on Lustre or cannot be looked at. What cannot be
    /// looked at in the tree is counted.
    pub fn of(plan: &Plan, how: &How, sources: &Sources) -> Result<Self, Refusal> {
        let mut forecast = Self::default();
        let (mut files, mut directories) = (Groups::default(), Groups::default());
        for root in &plan.roots {
            let there = nearest_existing(&root.destination_dir);
            let Some(destination) = client(there, sources)? else {
                return Err(Refusal::path(
                    &root.destination,
                    "it does not lie on Lustre; files there have no layout",
                ));
            };
            let source = client(&root.source_dir, sources)?;
            let same_filesystem =
                source.as_ref().is_some_and(|source| source.device == destination.device);
            let pools = default_of(&destination.mount_point);
            let default = default_of(there);
            let mut site = destination.site(default.clone(), &pools.iter().collect::<Vec<_>>());
            site.same_filesystem = same_filesystem;
            let walk = Walk {
                how,
                root,
                source_root: source.as_ref().and_then(|source| default_of(&source.mount_point)),
                on_lustre: source.is_some(),
            };
            walk.count(site, &mut forecast, &mut files, &mut directories);
            forecast.source = forecast.source.or(source);
            (forecast.destination, forecast.default) = (destination, default);
        }
        (forecast.groups, forecast.further) = files.sorted();
        (forecast.directories, _) = directories.sorted();
        Ok(forecast)
    }

    fn problem(&mut self, path: &Path, error: &dyn std::fmt::Display) {
        self.failed += 1;
        if self.problems.len() < PROBLEMS {
            self.problems.push(format!("{}: {error}", show(path)));
        }
    }
}

fn client(directory: &Path, sources: &Sources) -> Result<Option<Client>, Refusal> {
    let failed = |source| Refusal::System {
        path: directory.to_owned(),
        action: "look at its filesystem",
        source,
    };
    let open = File::open(directory).map_err(failed)?;
    let real = directory.canonicalize().map_err(failed)?;
    Ok(Client::of(&open, &real, sources))
}

/// Groups by what is asked for and why.
#[derive(Default)]
struct Groups {
    groups: HashMap<(Option<String>, Vec<Reason>), Group>,
    further: u64,
}

impl Groups {
    fn add(&mut self, choice: Choice, bytes: u64, example: &Path) {
        let spec = choice.request.as_ref().map(Layout::to_spec);
        let full = self.groups.len() >= GROUPS;
        match self.groups.entry((spec, choice.reasons)) {
            Entry::Occupied(mut group) => {
                group.get_mut().items += 1;
                group.get_mut().bytes += bytes;
            }
            Entry::Vacant(_) if full => self.further += 1,
            Entry::Vacant(group) => {
                let (spec, reasons) = group.key().clone();
                let example = example.to_owned();
                group.insert(Group { spec, reasons, items: 1, bytes, example });
            }
        }
    }

    fn sorted(self) -> (Vec<Group>, u64) {
        let mut groups: Vec<Group> = self.groups.into_values().collect();
        groups.sort_by(|a, b| b.items.cmp(&a.items).then_with(|| a.example.cmp(&b.example)));
        (groups, self.further)
    }
}

/// One source.
struct Walk<'a> {
    how: &'a How,
    root: &'a Root,
    /// The default of the root of the source's filesystem.
    source_root: Option<Layout>,
    on_lustre: bool,
}

impl Walk<'_> {
    /// `site` is the directory that takes the source inside.
    fn count(
        &self,
        site: Site,
        forecast: &mut Forecast,
        files: &mut Groups,
        directories: &mut Groups,
    ) {
        // The directories above the present item, as they will be at the destination.
        let mut above = vec![site];
        for entry in WalkDir::new(&self.root.source).follow_root_links(false) {
            let entry = match entry {
                Ok(entry) => entry,
                Err(error) => {
                    let path = error.path().unwrap_or(&self.root.source).to_owned();
                    forecast.problem(&path, &error);
                    continue;
                }
            };
            above.truncate(entry.depth() + 1);
            let Some(site) = above.last() else { continue };
            let path = entry.path();
            if entry.file_type().is_dir() {
                let inside = self.directory(&entry, site, directories);
                above.push(inside);
            } else if entry.file_type().is_file() {
                match self.file(&entry, site) {
                    Ok((choice, bytes, released)) => {
                        forecast.files += 1;
                        forecast.bytes += bytes;
                        forecast.released += u64::from(released);
                        files.add(choice, bytes, path);
                    }
                    Err(error) => forecast.problem(path, &error),
                }
            }
        }
    }

    fn file(&self, entry: &DirEntry, site: &Site) -> std::io::Result<(Choice, u64, bool)> {
        let bytes = entry.metadata()?.len();
        let source = self.layout(entry.path(), Of::File)?;
        let released = source.as_ref().is_some_and(Layout::is_released);
        let how = self.how;
        let choice = choose(&how.policy, source.as_ref(), bytes, site, how.table.as_ref());
        Ok((choice, bytes, released))
    }

    /// What is known of a directory at the destination: its own default where it is there already, else
    /// the parent's, or the source's where that is kept.
    fn directory(&self, entry: &DirEntry, parent: &Site, directories: &mut Groups) -> Site {
        let mut site = parent.clone();
        let Ok(below) = entry.path().strip_prefix(&self.root.source) else { return site };
        if let Ok(there) = File::open(self.root.destination.join(below)) {
            site.default = access::read(&there, Of::Directory).ok().and_then(access::Found::layout);
            if let Some(default) = site.default.clone() {
                site.learn_pools(&default);
            }
            return site;
        }
        if self.how.policy == Policy::Preserve {
            let own = self.layout(entry.path(), Of::Directory).ok().flatten();
            if explicit_default(own.as_ref(), self.source_root.as_ref()).is_some() {
                let choice = preserved_default(own.as_ref(), self.source_root.as_ref(), &site);
                if let Some(request) = &choice.request {
                    site.default = Some(request.clone());
                }
                directories.add(choice, 0, entry.path());
            }
        }
        site
    }

    /// The source's layout, where the policy asks for it.
    fn layout(&self, path: &Path, of: Of) -> std::io::Result<Option<Layout>> {
        if self.how.policy != Policy::Preserve || !self.on_lustre {
            return Ok(None);
        }
        let path = CString::new(path.as_os_str().as_bytes())?;
        let mut value = Vec::new();
        match sys::get_xattr(XattrTarget::Path(&path), access::NAME, &mut value) {
            Ok(()) => Ok(Layout::parse(&value, of).ok()),
            Err(Errno::ENODATA | Errno::EOPNOTSUPP | Errno::EPROTO | Errno::EINVAL) => Ok(None),
            Err(errno) => Err(errno.into()),
        }
    }
}
