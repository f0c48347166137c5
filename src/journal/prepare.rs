//! Before a copy: looks for the journal of an earlier run of the same copy, plans the copy as that run
//! did, and decides whether the journal may be gone on with. Copies nothing.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::header::{BOOT_BYTES, Header, Unusable};
use super::identity::Identity;
use super::load::Earlier;
use super::place::{self, There};
use super::ticket::{Fresh, Ticket};
use super::{Held, Journal, Made, checkpoint};
use crate::error::{Refusal, show};
use crate::lustre::ready;
use crate::options::{CopyRequest, ExistingJournal, JournalPlace, Target};
use crate::plan::{Plan, nearest_existing};
use crate::selection::absolute;

/// Epochs that must be left: a journal of four thousand million checkpoints starts over.
const EPOCHS_LEFT: u32 = 1 << 20;

/// A copy that is planned, with what its journal needs.
#[derive(Debug)]
pub struct Prepared {
    /// What is copied to where.
    pub plan: Plan,
    /// For [`crate::engine::Control::journal`].
    pub ticket: Option<Arc<Ticket>>,
    /// What a person should know: why a journal was not used, say.
    pub notes: Vec<String>,
    /// Files and bytes that an earlier run finished, when the copy goes on with its journal.
    pub earlier: Option<(u64, u64)>,
}

/// Where a journal was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Spot {
    /// Where the user said.
    Given,
    /// In the directory that holds the destination.
    Above,
    /// In the destination, which is a directory that takes the sources.
    Inside,
    /// Among the user's state.
    State,
}

/// A journal that was found; it may be unusable.
struct Found {
    held: Held,
    path: PathBuf,
    spot: Spot,
    header: Result<Header, Unusable>,
}

/// Plans a request and finds its journal.
///
/// # Errors
/// Those of [`Plan::new`], and a [`Refusal`] when the journal is in use, is not ours to replace, or is
/// missing although it was required. Nothing has been written then.
pub fn prepare(request: &CopyRequest) -> Result<Prepared, Refusal> {
    let options = &request.options;
    let paths: Vec<_> =
        request.sources.iter().chain([&request.destination]).map(PathBuf::as_path).collect();
    let limit = options.mount_timeout.unwrap_or(ready::LIMIT);
    ready::check(&paths, &options.expected_mounts, limit)?;
    let choice = &options.journal;
    let mut notes = Vec::new();
    if choice.place == JournalPlace::None {
        if choice.existing == ExistingJournal::Require {
            return Err(cannot_go_on("there is no journal with --journal none"));
        }
        return Ok(Prepared { plan: Plan::new(request)?, ticket: None, notes, earlier: None });
    }
    let key = place::key(request);
    let found = find(request, key, &mut notes)?;
    let exact = found.as_ref().is_some_and(|found| found.was_exact(request));
    let unreliable = found.as_ref().is_some_and(Found::is_unreliable);
    let mut plan = if exact {
        Plan::new(&CopyRequest { target: Target::Exact, ..request.clone() })?
    } else {
        Plan::new(request)?
    };
    if unreliable && plan.options.update {
        plan.options.update = false;
        notes.push(
            "what an earlier run wrote could not be flushed and may be damaged; in spite of --update \
             all of it is copied again"
                .to_owned(),
        );
    }
    if plan.options.dry_run {
        return Ok(Prepared { plan, ticket: None, notes, earlier: None });
    }
    let sources = sources(&plan);
    let why_not = match &found {
        None => Some("there is no journal of this copy"),
        Some(found) => found.why_not(&plan, sources, choice.existing),
    };
    if choice.existing == ExistingJournal::Require
        && let Some(why_not) = why_not
    {
        return Err(cannot_go_on(why_not));
    }
    let mut header = Header {
        sequence: 0,
        key,
        seed: random(),
        epoch: 0,
        durable_epoch: 0,
        boot: checkpoint::boot_id().unwrap_or([0; BOOT_BYTES]),
        exact: exact || plan.is_exact_by_guess,
        unreliable,
        sources,
        root: Identity::default(),
        text: describe(request),
    };
    let planned = Fresh::places(&plan, &choice.place, key);
    let mut reuse = None;
    if let Some(found) = found {
        let beside = is_beside(&found.path, &plan);
        match (why_not, &found.header) {
            (None, Ok(earlier)) => match go_on(&found.held, earlier, &found.path, &header) {
                Ok((earlier, header)) => {
                    return continued(found, beside, plan, notes, earlier, header);
                }
                Err(error) => notes.push(format!(
                    "{}: the journal cannot be read ({error}); the copy starts over",
                    show(&found.path)
                )),
            },
            (
                Some(why_not),
                Ok(_) | Err(Unusable::Version | Unusable::Damaged | Unusable::Foreign),
            ) if choice.existing == ExistingJournal::Continue => {
                notes.push(format!("{why_not}; the copy starts over ({})", show(&found.path)));
            }
            _ => {}
        }
        if exact || planned.contains(&found.path) {
            reuse = Some((found.held, found.path, beside));
        } else {
            // The destination is another directory now, and so is the place of the journal.
            let _ = fs::remove_file(&found.path);
        }
    }
    let places = planned.into_iter().map(|path| (is_beside(&path, &plan), path)).collect();
    header.sequence = 0;
    let must = matches!(choice.place, JournalPlace::At(_));
    let later = !must && reuse.is_none() && plan.is_one_file();
    let ticket = Ticket::fresh(Fresh { reuse, places, header, must, later }, notes.clone());
    Ok(Prepared { plan, ticket: Some(Arc::new(ticket)), notes, earlier: None })
}

/// Reads the entries of an earlier run. Returns them, and the header for this run.
fn go_on(
    held: &Held,
    earlier: &Header,
    path: &Path,
    fresh: &Header,
) -> std::io::Result<(Earlier, Header)> {
    // Without a crash of the machine, all that was written is there.
    let same_boot = earlier.boot == fresh.boot && fresh.boot[0] != 0;
    let believed = if same_boot { u32::MAX } else { earlier.durable_epoch };
    let beside = path.parent().unwrap_or(Path::new("/"));
    let entries = Earlier::load(held, earlier.seed, believed, beside)?;
    Ok((entries, Header { boot: fresh.boot, ..earlier.clone() }))
}

fn continued(
    found: Found,
    beside: bool,
    plan: Plan,
    mut notes: Vec<String>,
    earlier: Earlier,
    header: Header,
) -> Result<Prepared, Refusal> {
    if earlier.torn > 0 {
        notes.push(format!(
            "{} entries of the journal are incomplete or damaged; what they told of is copied again",
            earlier.torn
        ));
    }
    if earlier.lost > 0 {
        notes.push(
            "this machine, or another one, wrote to the journal before a restart; what was finished \
             after the last checkpoint is copied again"
                .to_owned(),
        );
    }
    let done = (earlier.files, earlier.bytes);
    let Found { held, path, .. } = found;
    let made = Made { file: held, path: path.clone(), beside };
    let journal = Journal::begin(made, header, earlier);
    let journal =
        journal.map_err(|source| Refusal::System { path, action: "write the journal", source })?;
    journal.was_written(plan.roots.iter().map(|root| root.destination.clone()).collect());
    let ticket = Arc::new(Ticket::ready(journal, notes.clone()));
    Ok(Prepared { plan, ticket: Some(ticket), notes, earlier: Some(done) })
}

impl Found {
    /// Whether an earlier run could not flush what it wrote, and no later one has copied it again.
    fn is_unreliable(&self) -> bool {
        self.header.as_ref().is_ok_and(|header| header.unreliable)
    }

    /// Whether the earlier run took the destination as the new name, where cp's rule would now put the
    /// source inside it.
    fn was_exact(&self, request: &CopyRequest) -> bool {
        let [source] = request.sources.as_slice() else { return false };
        if request.target != Target::Guess {
            return false;
        }
        match &self.header {
            Ok(header) => header.exact && is_root(header, &request.destination),
            // Only a destination that is taken as the new name has its journal there.
            Err(_) => {
                self.spot == Spot::Above && fs::symlink_metadata(source).is_ok_and(|m| m.is_dir())
            }
        }
    }

    /// Why the copy does not go on with this journal.
    fn why_not(
        &self,
        plan: &Plan,
        sources: Identity,
        existing: ExistingJournal,
    ) -> Option<&'static str> {
        let root = plan.roots.first().map(|root| root.destination_dir.join(&root.destination_name));
        match &self.header {
            Err(Unusable::Empty) => Some("the journal of this copy is empty"),
            Err(Unusable::Foreign | Unusable::Damaged) => Some("the journal is damaged"),
            Err(Unusable::Version) => Some("the journal is of another version of longshore"),
            Ok(_) if existing == ExistingJournal::Replace => Some("the journal is to be replaced"),
            Ok(header) if !header.sources.may_be(sources) => {
                Some("the source is another one than the journal was written for")
            }
            Ok(header) if !root.is_some_and(|root| is_root(header, &root)) => {
                Some("the destination is another one than the journal was written for, or is gone")
            }
            Ok(header) if header.epoch >= u32::MAX - EPOCHS_LEFT => Some("the journal is full"),
            Ok(_) => None,
        }
    }
}

/// Looks for the journal of a request, in the order in which journals are placed.
fn find(
    request: &CopyRequest,
    key: u64,
    notes: &mut Vec<String>,
) -> Result<Option<Found>, Refusal> {
    let name = place::name(key);
    let destination = absolute(&request.destination);
    let mut spots = Vec::new();
    match &request.options.journal.place {
        JournalPlace::None => {}
        JournalPlace::At(path) => spots.push((path.clone(), Spot::Given)),
        JournalPlace::Within(dir) => spots.push((place::own(dir, key), Spot::State)),
        JournalPlace::Beside => {
            spots.push((place::parent(&destination).join(&name), Spot::Above));
            spots.push((destination.join(&name), Spot::Inside));
            let state = place::state_directory();
            spots.extend(state.map(|dir| (place::own(&dir, key), Spot::State)));
        }
    }
    for (path, spot) in spots {
        match place::open(&path, !request.options.dry_run)? {
            There::Nothing => {}
            There::NotOurs(why) if spot == Spot::Given => {
                return Err(Refusal::path(
                    path,
                    format!("{why}; name another file for the journal with --journal"),
                ));
            }
            There::NotOurs(why) => notes.push(format!("{}: {why}; it is not used", show(&path))),
            There::Open(held) => {
                let mut header = Header::read(&held);
                if spot == Spot::Given {
                    // Whoever names a file of zeros may want to keep it.
                    if held.metadata().is_ok_and(|file| file.len() > 0)
                        && matches!(header, Err(Unusable::Empty))
                    {
                        header = Err(Unusable::Foreign);
                    }
                    refuse_other(&path, &header, key, request.options.journal.existing)?;
                } else if matches!(header, Err(Unusable::Foreign)) {
                    // Nobody is asked before a journal gets its own name; what is there stays.
                    let path = show(&path);
                    notes.push(format!("{path}: is no journal of Longshore; it is not used"));
                    continue;
                }
                if header.as_ref().is_ok_and(|header| header.key != key) {
                    header = Err(Unusable::Damaged); // under our name it can only be that
                }
                return Ok(Some(Found { held, path, spot, header }));
            }
        }
    }
    Ok(None)
}

/// A file that the user named is never overwritten unless it is the journal of this very copy.
fn refuse_other(
    path: &Path,
    header: &Result<Header, Unusable>,
    key: u64,
    existing: ExistingJournal,
) -> Result<(), Refusal> {
    let problem = match header {
        Ok(header) if header.key == key => return Ok(()),
        Err(Unusable::Empty) => return Ok(()),
        Err(Unusable::Version | Unusable::Damaged) if existing == ExistingJournal::Replace => {
            return Ok(());
        }
        Ok(header) => format!(
            "is the journal of another copy ({}); name another file with --journal",
            show(Path::new(&header.text))
        ),
        Err(Unusable::Foreign) => {
            "is no journal of Longshore and stays as it is; name another file with --journal".into()
        }
        Err(Unusable::Version) => {
            "is a journal of another version of longshore; finish the copy with \
                                   that version, or replace it with --fresh"
                .into()
        }
        Err(Unusable::Damaged) => {
            "is a damaged journal; replace it with --fresh, which starts the copy over".into()
        }
    };
    Err(Refusal::path(path, problem))
}

fn cannot_go_on(why: &str) -> Refusal {
    Refusal::Request(format!("--resume: {why}; leave --resume out to copy from the start"))
}

/// Whether a directory is the one that an earlier run copied to; true while that is not known.
fn is_root(header: &Header, destination: &Path) -> bool {
    header.root.inode == 0
        || Identity::at(destination, true).is_some_and(|found| header.root.may_be(found))
}

/// Tells these sources from others that have their paths by now. A file may be replaced between two
/// runs and is then copied anew, like any file of a tree.
fn sources(plan: &Plan) -> Identity {
    Identity::of_all(plan.roots.iter().map(|root| Identity::at(&root.source_item(), false)))
}

/// Whether a journal there is on the destination's filesystem.
fn is_beside(path: &Path, plan: &Plan) -> bool {
    let Some(root) = plan.roots.first() else { return false };
    let device = |path: &Path| fs::metadata(nearest_existing(path)).map(|found| found.dev()).ok();
    let holder = path.parent().unwrap_or(Path::new("/"));
    device(holder).is_some_and(|own| device(&root.destination_dir) == Some(own))
}

/// The request in a line.
fn describe(request: &CopyRequest) -> String {
    let first = request.sources.first().map(|source| show(&absolute(source))).unwrap_or_default();
    let more = match request.sources.len() {
        0 | 1 => String::new(),
        several => format!(" and {} more", several - 1),
    };
    format!("{first}{more} -> {}", show(&absolute(&request.destination)))
}

/// A number that nobody else has.
fn random() -> u64 {
    use std::hash::{BuildHasher, Hasher};
    std::hash::RandomState::new().build_hasher().finish()
}

impl Plan {
    /// Whether one item is copied that is no directory.
    fn is_one_file(&self) -> bool {
        matches!(self.roots.as_slice(), [root] if !root.is_directory)
    }

    /// The directory whose times the journal changes by lying in it, with its source: the copy of a
    /// directory's contents into an existing directory.
    pub(crate) fn holder_that_is_copied(&self) -> Option<(PathBuf, PathBuf)> {
        let inside = |root: &&crate::plan::Root| root.destination_name == OsStr::new(".");
        let root = self.roots.first().filter(inside)?;
        Some((root.source_item(), root.destination_dir.clone()))
    }
}
