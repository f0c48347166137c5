//! What a run remembers durably: where it is, which copies are complete, and whether the job body was
//! started. Written whole, flushed and moved into place, before the step that it announces. It
//! decides nothing.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};

use super::{RunError, State};
use crate::error::show;

const VERSION: u32 = 1;

/// The journal's content.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Journal {
    version: u32,
    /// Names the run's storage; stable over every resume.
    pub uid: String,
    /// The script, for messages.
    pub script: String,
    /// [`content_mark`] of the script.
    pub content: String,
    /// The node in index directories.
    pub node: String,
    /// `--allocations`.
    pub allocations: u32,
    /// The state that the run is in.
    pub state: State,
    /// What is known of the job body.
    pub job: Job,
    /// Legs of the present state that are complete.
    pub complete: Vec<String>,
}

/// What is known of the job body.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Job {
    /// It was not started.
    NotStarted,
    /// It was, or was about to be.
    Started {
        /// Its process, once there was one.
        pid: Option<i32>,
    },
    /// It ended.
    Ended {
        /// Its exit code; 128 and the number when a signal ended it.
        code: u8,
    },
}

impl Journal {
    /// A run that begins.
    #[must_use]
    pub fn new(
        uid: String,
        script: &Path,
        content: String,
        node: String,
        allocations: u32,
    ) -> Self {
        let (script, state, job) = (show(script), State::Proposal, Job::NotStarted);
        let complete = Vec::new();
        Self { version: VERSION, uid, script, content, node, allocations, state, job, complete }
    }
}

/// Where the journal of a script with its arguments lies.
#[derive(Debug, Clone)]
pub struct Place {
    directory: PathBuf,
    id: String,
}

impl Place {
    /// The same script (by its real path) with the same arguments is the same run.
    #[must_use]
    pub fn of(storage: &Path, script: &Path, args: &[OsString]) -> Self {
        let mut hash = Fnv::default();
        hash.add(script.as_os_str().as_bytes());
        for arg in args {
            hash.add(b"\0");
            hash.add(arg.as_bytes());
        }
        Self { directory: storage.join("runs"), id: format!("{:016x}", hash.0) }
    }

    fn path(&self) -> PathBuf {
        self.directory.join(format!("{}.json", self.id))
    }

    /// Reads the journal; `None` when there is none.
    ///
    /// # Errors
    /// When it cannot be read, or was written by another version.
    pub fn read(&self) -> Result<Option<Journal>, RunError> {
        let path = self.path();
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(RunError::system(&path, "read the run's journal")(error)),
        };
        match serde_json::from_slice::<Journal>(&text) {
            Ok(journal) if journal.version == VERSION => Ok(Some(journal)),
            _ => Err(RunError::Refused(format!(
                "{}: this journal was written by another version of longshore; finish the run with \
                 that version, or delete the file to forget the run",
                show(&path)
            ))),
        }
    }

    /// Writes the journal so that it survives a crash of this process and of the machine.
    ///
    /// # Errors
    /// [`RunError::System`].
    pub fn write(&self, journal: &Journal) -> Result<(), RunError> {
        let text = serde_json::to_vec_pretty(journal).map_err(|error| {
            RunError::system(&self.path(), "compose the run's journal")(error.into())
        })?;
        write_durably(&self.path(), &text)
            .map_err(RunError::system(&self.path(), "write the run's journal"))
    }

    /// Takes the run's lock, which its job body inherits: while a body lives on that lost its
    /// `longshore run`, nobody can resume the run.
    ///
    /// # Errors
    /// [`RunError::Refused`] when somebody has it.
    pub fn lock(&self) -> Result<Flock<File>, RunError> {
        super::storage::make_private(&self.directory)?;
        let path = self.lock_path();
        let file = File::options().create(true).truncate(false).write(true).open(&path);
        let file = file.map_err(RunError::system(&path, "open the run's lock"))?;
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => Ok(lock),
            Err((_, Errno::EWOULDBLOCK)) => Err(RunError::Refused(self.busy())),
            Err((_, errno)) => Err(RunError::system(&path, "take the run's lock")(errno.into())),
        }
    }

    /// Refuses while a run, or the job body of one, is alive. Nothing is written, so that a dry run
    /// can ask as well; [`Place::lock`] has the last word.
    ///
    /// # Errors
    /// [`RunError::Refused`].
    pub fn refuse_busy(&self) -> Result<(), RunError> {
        let Ok(file) = File::open(self.lock_path()) else { return Ok(()) };
        match Flock::lock(file, FlockArg::LockSharedNonblock) {
            Err((_, Errno::EWOULDBLOCK)) => Err(RunError::Refused(self.busy())),
            _ => Ok(()),
        }
    }

    fn lock_path(&self) -> PathBuf {
        self.directory.join(format!("{}.lock", self.id))
    }

    fn busy(&self) -> String {
        let job = self.read().ok().flatten().map(|journal| journal.job);
        let body = match job {
            Some(Job::Started { pid: Some(pid) }) => format!("; its job body is process {pid}"),
            _ => String::new(),
        };
        format!(
            "this script with these arguments is already running{body}. Wait until it has ended, \
             or end it, and then use --resume"
        )
    }
}

/// Writes a file under a temporary name, flushes it, and moves it into place.
///
/// # Errors
/// Those of the system.
pub fn write_durably(path: &Path, text: &[u8]) -> io::Result<()> {
    let temporary = path.with_extension("new");
    let mut file = File::create(&temporary)?;
    file.write_all(text)?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    if let Some(parent) = path.parent() {
        File::open(parent)?.sync_all()?;
    }
    Ok(())
}

/// A mark of the script's content: tells an edited script from the one that a run began with. It
/// guards against accidents, not against forgery.
#[must_use]
pub fn content_mark(script: &[u8]) -> String {
    let mut hash = Fnv::default();
    hash.add(script);
    format!("{:016x}-{}", hash.0, script.len())
}

/// FNV-1a, since the standard library's hashes may change between compilers.
struct Fnv(u64);

impl Default for Fnv {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl Fnv {
    fn add(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_journal_survives_and_belongs_to_script_and_arguments() {
        let dir = tempfile::tempdir().unwrap();
        let place = |args: &[&str]| {
            let args: Vec<OsString> = args.iter().map(OsString::from).collect();
            Place::of(dir.path(), Path::new("/job.sh"), &args)
        };
        let lock = place(&["a"]).lock().unwrap();
        assert_eq!(place(&["a"]).read().unwrap(), None);
        let mut journal =
            Journal::new("u".into(), Path::new("/job.sh"), content_mark(b"x"), "n".into(), 2);
        journal.job = Job::Started { pid: Some(7) };
        place(&["a"]).write(&journal).unwrap();
        assert_eq!(place(&["a"]).read().unwrap(), Some(journal));
        assert_eq!(place(&["b"]).read().unwrap(), None);
        let busy = place(&["a"]).lock().unwrap_err().to_string();
        assert!(busy.contains("process 7"), "{busy}");
        assert_eq!(place(&["a"]).refuse_busy().unwrap_err().to_string(), busy);
        place(&["b"]).refuse_busy().unwrap();
        assert!(place(&["b"]).lock().is_ok());
        drop(lock);
        assert!(place(&["a"]).lock().is_ok());
    }

    #[test]
    fn a_journal_of_another_version_is_not_guessed_at() {
        let dir = tempfile::tempdir().unwrap();
        let place = Place::of(dir.path(), Path::new("/job.sh"), &[]);
        let _lock = place.lock().unwrap();
        fs::write(place.path(), "{\"version\": 99}").unwrap();
        assert!(matches!(place.read(), Err(RunError::Refused(_))));
    }
}
