//! What a copy is given to open its journal with, once it is certain that something will be written.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use super::header::{Header, Unusable};
use super::place::{self, There, is_journal_name};
use super::{Held, Journal, Made, lock};
use crate::error::{Refusal, show};
use crate::options::JournalPlace;
use crate::plan::Plan;
use crate::selection::absolute;

/// Opens a journal, once.
#[derive(Debug)]
pub struct Ticket {
    state: Mutex<Option<State>>,
    notes: Vec<String>,
}

#[derive(Debug)]
enum State {
    Ready(Box<Journal>),
    Fresh(Box<Fresh>),
}

/// A journal that is to be made.
#[derive(Debug)]
pub(super) struct Fresh {
    /// A file that is there and is used again, its path, and whether it is beside the destination.
    pub(super) reuse: Option<(Held, PathBuf, bool)>,
    /// Where it may lie, best first; and whether that is beside the destination.
    pub(super) places: Vec<(bool, PathBuf)>,
    pub(super) header: Header,
    /// The user named the file: without it the copy is refused.
    pub(super) must: bool,
    /// Nothing is noted before a large file is begun, and until then there need be no file.
    pub(super) later: bool,
}

impl Fresh {
    /// Where the journal of a plan may lie, best first.
    pub(super) fn places(plan: &Plan, place: &JournalPlace, key: u64) -> Vec<PathBuf> {
        match place {
            JournalPlace::None => Vec::new(),
            JournalPlace::At(path) => vec![path.clone()],
            JournalPlace::Within(dir) => vec![place::own(dir, key)],
            JournalPlace::Beside => {
                let holder = plan.roots.first().map(|root| absolute(&root.destination_dir));
                let state = place::state_directory();
                let beside = holder.map(|dir| dir.join(place::name(key)));
                let state = state.map(|dir| place::own(&dir, key));
                beside.into_iter().chain(state).collect()
            }
        }
    }
}

impl Ticket {
    pub(super) fn ready(journal: Journal, notes: Vec<String>) -> Self {
        Self { state: Mutex::new(Some(State::Ready(Box::new(journal)))), notes }
    }

    pub(super) fn fresh(fresh: Fresh, notes: Vec<String>) -> Self {
        Self { state: Mutex::new(Some(State::Fresh(Box::new(fresh)))), notes }
    }

    /// What a person should know of how the journal was found.
    #[must_use]
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// Opens the journal. Where none can be made the copy goes on without, and the text says why.
    ///
    /// # Errors
    /// A [`Refusal`] when another process makes the same copy, or when a file that the user named
    /// cannot be made.
    pub(crate) fn open(&self) -> Result<Result<Arc<Journal>, String>, Refusal> {
        let fresh = match lock(&self.state).take() {
            Some(State::Ready(journal)) => return Ok(Ok(Arc::new(*journal))),
            Some(State::Fresh(fresh)) => *fresh,
            None => return Ok(Err("its journal was used before".to_owned())),
        };
        let Fresh { header, later, .. } = &fresh;
        let (header, later) = (header.clone(), *later);
        let journal = Journal::planned(fresh, header);
        if later {
            return Ok(Ok(Arc::new(journal)));
        }
        Ok(journal.make_planned()?.map(|()| Arc::new(journal)))
    }
}

impl Fresh {
    /// Makes the file, locked, with its header. The inner error says why there is no place for it.
    ///
    /// # Errors
    /// A [`Refusal`] when another process makes the same copy, or when a file that the user named
    /// cannot be made.
    pub(super) fn make(self, header: &mut Header) -> Result<Result<Made, String>, Refusal> {
        let Self { reuse, places, must, .. } = self;
        if let Some((file, path, beside)) = reuse {
            return match file.set_len(0).and_then(|()| header.write(&file)) {
                Ok(()) => Ok(Ok(Made { file, path, beside })),
                Err(source) => Err(Refusal::System { path, action: "write the journal", source }),
            };
        }
        let mut why = "there is no place for it".to_owned();
        for (beside, path) in places {
            let made = match create(&path, must) {
                Ok(file) => place::lock(file, &path)?,
                // Somebody was quicker, and may be over by now: the same copy. Anything else is not ours to overwrite.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists && !must => {
                    match place::open(&path, true)? {
                        There::Open(held) if is_ours(&held, header.key) => held,
                        _ => {
                            why = format!("{}: {error}", show(&path));
                            continue;
                        }
                    }
                }
                Err(source) if must => {
                    return Err(Refusal::System { path, action: "make the journal", source });
                }
                Err(error) => {
                    why = format!("{}: {error}", show(&path));
                    continue;
                }
            };
            match made.set_len(0).and_then(|()| header.write(&made)) {
                Ok(()) => return Ok(Ok(Made { file: made, path, beside })),
                Err(source) => {
                    let _ = fs::remove_file(&path);
                    if must {
                        return Err(Refusal::System { path, action: "write the journal", source });
                    }
                    why = format!("{}: {source}", show(&path));
                }
            }
        }
        Ok(Err(format!("there is no journal, so that a stopped copy starts over ({why})")))
    }
}

/// Whether a file is this copy's journal, or was just made to be that.
fn is_ours(file: &File, key: u64) -> bool {
    match Header::read(file) {
        Ok(header) => header.key == key,
        Err(why) => why == Unusable::Empty,
    }
}

/// Makes the file, and for one among the user's state its directory.
fn create(path: &Path, named: bool) -> io::Result<File> {
    let make = || {
        let mut options = File::options();
        options.read(true).write(true).create_new(true).mode(0o600);
        options.custom_flags(libc::O_NOFOLLOW | libc::O_CLOEXEC).open(path)
    };
    match make() {
        Err(error) if error.kind() == io::ErrorKind::NotFound && !named => {
            let beside = path.file_name().is_some_and(|name| is_journal_name(name.as_bytes()));
            if let Some(directory) = path.parent().filter(|_| !beside) {
                DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
            }
            make()
        }
        other => other,
    }
}
