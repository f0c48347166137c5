//! What a copy is asked to do, as checked values. Nothing here touches a filesystem and nothing
//! here knows the command line's spelling of an option.

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use crate::checksum::Algorithm;
use crate::filter::Filter;
use crate::lustre::choose::Policy;
use crate::lustre::expect::Expected;
use crate::lustre::table::Table;
use crate::selection::Selection;

/// One copy: sources, destination, and how.
#[derive(Debug, Clone)]
pub struct CopyRequest {
    /// At least one path. A trailing slash means the directory's contents.
    pub sources: Vec<PathBuf>,
    /// Where to; cp's rules (see [`crate::plan`]).
    pub destination: PathBuf,
    /// How the destination path is understood.
    pub target: Target,
    /// Whether missing parents of the destination are made.
    pub parents: bool,
    /// How the copy is done.
    pub options: CopyOptions,
}

impl CopyRequest {
    /// A request with cp's rules and default options.
    #[must_use]
    pub fn new(sources: Vec<PathBuf>, destination: PathBuf) -> Self {
        Self {
            sources,
            destination,
            target: Target::default(),
            parents: false,
            options: CopyOptions::default(),
        }
    }
}

/// How the destination path is understood.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Target {
    /// cp's rule: an existing directory takes the source inside it, anything else is the new name.
    #[default]
    Guess,
    /// `-t`: a directory that must exist and takes the sources inside it.
    Directory,
    /// `-T`: always the new name of the single source.
    Exact,
}

/// How the copy is done. Defaults: everything `cp -a` keeps, mechanism chosen by probing.
#[derive(Debug, Clone, Default)]
pub struct CopyOptions {
    /// Which attributes are kept; default all.
    pub preserve: Preserve,
    /// Which extended attributes are kept; default [`XattrPolicy::Auto`].
    pub xattrs: XattrPolicy,
    /// Which mechanism moves the bytes; default chosen by probing.
    pub backend: BackendChoice,
    /// Most worker threads; default what descriptors allow (see `engine::sizing`).
    pub threads: Option<NonZeroUsize>,
    /// Whether the number of workers adapts; default it does.
    pub concurrency: ConcurrencyChoice,
    /// Bytes of content moved per second at most; default no limit.
    pub bandwidth_limit: Option<u64>,
    /// Items begun per second at most (files, directories, links, special files, deletions); default
    /// no limit.
    pub ops_limit: Option<u64>,
    /// Which items are copied; default all.
    pub filter: Arc<Filter>,
    /// Copy only these paths (`--files-from`); default everything under the sources.
    pub selection: Option<Arc<Selection>>,
    /// Skip files whose destination has the same type, size and modification time.
    pub update: bool,
    /// Delete what the destination has and the source has not.
    pub delete: bool,
    /// Stay on the filesystem of each source.
    pub one_file_system: bool,
    /// When written data must be on stable storage; default at the end.
    pub sync: SyncPolicy,
    /// Read every copied file back from the device, and repair what is wrong.
    pub verify: bool,
    /// The checksum for verification and manifests.
    pub checksum: Algorithm,
    /// Only say what would be done.
    pub dry_run: bool,
    /// Which layout new files on Lustre are given; default their directory's.
    pub layout: Policy,
    /// The site's own table for [`Policy::Auto`].
    pub layout_table: Option<Arc<Table>>,
    /// What becomes of source files on Lustre whose data is only in an archive; default refused.
    pub hsm: HsmPolicy,
    /// What must be mounted before the copy begins; default what fstab(5) has above its paths.
    pub expected_mounts: Vec<Expected>,
    /// How long a Lustre filesystem may take to answer before the copy begins; default
    /// [`ready::LIMIT`](crate::lustre::ready::LIMIT).
    pub mount_timeout: Option<Duration>,
    /// Whether large files are written object by object where they are striped; default they are.
    pub stripes: StripeChoice,
    /// What is noted for a run after this one, and where; default nothing.
    pub journal: JournalChoice,
}

/// What becomes of released files: those of Lustre whose data is only in an archive.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum HsmPolicy {
    /// Each is a failed item; none is brought back.
    #[default]
    Refuse,
    /// Each is left out and counted; none is brought back.
    Skip,
    /// Reading them brings them back.
    Restore,
}

/// The journal of a copy, with which a run that was stopped is gone on with (`docs/journal.md`).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct JournalChoice {
    /// Where it lies.
    pub place: JournalPlace,
    /// What one that is there already means.
    pub existing: ExistingJournal,
}

/// Where the journal of a copy lies.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum JournalPlace {
    /// Nowhere: a run that is stopped cannot be gone on with.
    #[default]
    None,
    /// In the directory that holds the destination; else among the user's state.
    Beside,
    /// In a directory that is the caller's own, under the copy's key.
    Within(PathBuf),
    /// In this file.
    At(PathBuf),
}

/// What the journal of an earlier run of the same copy means.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ExistingJournal {
    /// The copy goes on with it.
    #[default]
    Continue,
    /// As above, and without one the copy is refused.
    Require,
    /// It is replaced.
    Replace,
}

/// Which attributes of an item are kept. Content, names, types and holes always are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[allow(clippy::struct_excessive_bools)] // independent switches, one per attribute
pub struct Preserve {
    /// Permission bits, setuid, setgid and sticky.
    pub mode: bool,
    /// Owner and group.
    pub ownership: bool,
    /// Access and modification time, in nanoseconds.
    pub timestamps: bool,
    /// Hard links between the copied names.
    pub links: bool,
    /// Extended attributes, as far as the [`XattrPolicy`] goes.
    pub xattr: bool,
    /// POSIX access and default ACLs.
    pub acl: bool,
    /// Project id and the project-inherit flag (off by default: it moves quota).
    pub project: bool,
    /// Inode flags that can be copied: nodump, noatime, append, immutable, … (off by default).
    pub flags: bool,
}

impl Default for Preserve {
    fn default() -> Self {
        Self {
            mode: true,
            ownership: true,
            timestamps: true,
            links: true,
            xattr: true,
            acl: true,
            project: false,
            flags: false,
        }
    }
}

/// Which extended attributes are copied, by namespace. ACLs follow `Preserve::acl` under every
/// policy but `None`. `lustre.*`, `security.ima`, `security.evm` and the Lustre internals in
/// `trusted.*` are never copied as data.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum XattrPolicy {
    /// `user.*`, `trusted.*` and `security.capability` (the last two as root); not
    /// `security.selinux`, which belongs to the destination's policy.
    #[default]
    Auto,
    /// Nothing, ACLs included.
    None,
    /// `user.*` only.
    User,
    /// As `Auto`, and every other `security.*` and `system.*` attribute that is data.
    All,
}

/// Which mechanism moves the bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum BackendChoice {
    /// Clone where both ends share a filesystem that can; else the ring where it reads without
    /// blocking; else threads.
    #[default]
    Auto,
    /// `io_uring` for the steps it is good at; refused when this machine has no usable ring.
    Uring,
    /// Plain system calls on threads.
    Threads,
    /// Clone, else `copy_file_range`, else plain reads and writes.
    Clone,
}

/// Whether the number of workers adapts to the filesystems.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ConcurrencyChoice {
    /// It begins with the cores and climbs as long as that makes the copy faster.
    #[default]
    Adaptive,
    /// It stays at `threads`, or at what the cores and filesystems suggest.
    Fixed,
}

/// Whether the copy heeds where a striped file's objects are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum StripeChoice {
    /// Each object is written by one worker at a time, in pieces that end with its stripes.
    #[default]
    Aware,
    /// Files are cut into chunks as on any other filesystem.
    Ignore,
}

/// When written data must be on stable storage.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum SyncPolicy {
    /// One `syncfs` of the destination before the copy reports success.
    #[default]
    End,
    /// `fsync` of every file before it is moved into place, and `syncfs` at the end.
    File,
    /// Never; errors of late write-back go unseen.
    None,
}
