//! The options of `longshore copy` as typed: by people, and in shards. Turning them into a request is in
//! [`request`]; nothing is copied here.

mod lustre;
pub mod rate;
mod request;

use std::path::PathBuf;

use clap::{Args, ValueEnum};

pub use lustre::{HsmArg, LustreArgs};
pub use request::{Unusable, filter, parse};

/// `longshore copy`.
#[derive(Debug, Args)]
#[command(override_usage = "longshore copy [OPTIONS] SRC... DST\n       \
                            longshore copy [OPTIONS] -t DIR SRC...")]
#[allow(clippy::struct_excessive_bools)] // one switch per option, as typed
pub struct CopyArgs {
    /// What to copy, and last where to (no DST with -t). A trailing slash on SRC means the
    /// directory's contents; an existing directory DST takes SRC inside it, anything else is the
    /// new name
    #[arg(required = true, value_name = "PATH")]
    pub paths: Vec<PathBuf>,
    /// Copy every SRC into DIR, which must exist
    #[arg(short = 't', long, value_name = "DIR", conflicts_with = "no_target_directory")]
    pub target_directory: Option<PathBuf>,
    /// Take DST as the new name, also when it is a directory
    #[arg(short = 'T', long)]
    pub no_target_directory: bool,
    /// Make missing parent directories of DST
    #[arg(short, long)]
    pub parents: bool,
    /// Keep only these attributes: mode, ownership, timestamps, links, xattr, acl, project, flags, all
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    pub preserve: Vec<Attribute>,
    /// Do not keep these attributes
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    pub no_preserve: Vec<Attribute>,
    /// Which extended attributes to keep
    #[arg(long, value_name = "POLICY", default_value = "auto")]
    pub xattrs: XattrArg,
    /// Which mechanism moves the bytes
    #[arg(long, value_name = "NAME", default_value = "auto", env = "LONGSHORE_BACKEND")]
    pub backend: BackendArg,
    /// Most worker threads
    #[arg(long, value_name = "N")]
    pub threads: Option<std::num::NonZeroUsize>,
    /// Whether the number of workers follows what makes the copy faster
    #[arg(long, value_name = "HOW", default_value = "adaptive")]
    pub concurrency: ConcurrencyArg,
    /// Whether large files on Lustre are written object by object, in pieces that end with stripes
    #[arg(long, value_name = "HOW", default_value = "aware")]
    pub stripes: StripesArg,
    /// Move at most this many bytes of content per second: 500K, 100M, 1.5GiB (powers of 1024;
    /// 100MB is in thousands). Clones move none. `longshore ctl` changes it while the copy runs
    #[arg(long, value_name = "RATE", value_parser = rate::bytes)]
    pub bandwidth_limit: Option<u64>,
    /// Begin at most this many items (files, directories, links, deletions) per second
    #[arg(long, value_name = "N")]
    pub ops_limit: Option<std::num::NonZeroU64>,
    /// The control socket for `longshore ctl`: a path, or none; by default
    /// $XDG_RUNTIME_DIR/longshore/PID.sock, else /tmp/longshore-UID/PID.sock
    #[arg(long, value_name = "PATH")]
    pub control: Option<PathBuf>,
    /// Copy what matches, whatever later rules say; may be repeated
    #[arg(long, value_name = "GLOB")]
    pub include: Vec<String>,
    /// Leave out what matches; the first matching --include or --exclude decides
    #[arg(long, value_name = "GLOB")]
    pub exclude: Vec<String>,
    /// Skip files whose destination has the same type, size and modification time
    #[arg(short, long)]
    pub update: bool,
    /// Delete what DST has and SRC has not; never when SRC could not be read completely, and never what is
    /// mounted in DST
    #[arg(long)]
    pub delete: bool,
    /// Copy only the listed paths: one per line, or NUL-terminated; - is standard input
    #[arg(long, value_name = "FILE")]
    pub files_from: Option<PathBuf>,
    /// Stay on the filesystem of each SRC
    #[arg(short = 'x', long)]
    pub one_file_system: bool,
    /// When data must be on stable storage
    #[arg(long, value_name = "WHEN", default_value = "end")]
    pub sync: SyncArg,
    /// Read every copied file back from the device, past the page cache, and repair what is wrong
    #[arg(long, value_name = "CHECKSUM", num_args = 0..=1, require_equals = true)]
    pub verify: Option<Option<ChecksumArg>>,
    /// Write what was copied, with checksums, here; longshore verify checks against it
    #[arg(long, value_name = "FILE", conflicts_with = "dry_run")]
    pub manifest: Option<PathBuf>,
    /// Checksum of --verify and --manifest
    #[arg(long, value_name = "CHECKSUM", default_value = "xxh3")]
    pub checksum: ChecksumArg,
    /// Where to note what is finished, so that the same command goes on after a stop; "none" notes
    /// nothing. Without it a hidden file beside DST, which is removed when all is copied
    #[arg(long, value_name = "FILE")]
    pub journal: Option<PathBuf>,
    /// Refuse to start over: there must be the journal of a copy that was stopped
    #[arg(long)]
    pub resume: bool,
    /// Start over although there is the journal of a copy that was stopped
    #[arg(long, conflicts_with = "resume")]
    pub fresh: bool,
    /// Those that concern Lustre
    #[command(flatten)]
    pub lustre: LustreArgs,
    /// Only say what would be done
    #[arg(short = 'n', long)]
    pub dry_run: bool,
    /// How progress is shown
    #[arg(long, value_name = "HOW", default_value = "auto")]
    pub progress: ProgressArg,
    /// Write a JSON report here
    #[arg(long, value_name = "FILE")]
    pub report: Option<PathBuf>,
    /// Write the source path of every failed item here, NUL-terminated; --files-from takes it
    #[arg(long, value_name = "FILE")]
    pub failed_list: Option<PathBuf>,
}

/// An attribute of an item, as `--preserve` names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[allow(missing_docs)] // each word is its own sentence
pub enum Attribute {
    Mode,
    Ownership,
    Timestamps,
    Links,
    Xattr,
    Acl,
    Project,
    Flags,
    All,
}

/// Which extended attributes are kept.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum XattrArg {
    /// user, and as root trusted and security.capability
    Auto,
    /// None, ACLs included
    None,
    /// user only
    User,
    /// As auto, and the rest of security and system
    All,
}

/// Which mechanism moves the bytes.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum BackendArg {
    /// Chosen by probing
    Auto,
    /// io_uring
    Uring,
    /// Plain system calls
    Threads,
    /// Reflink, then copy_file_range, then plain system calls
    Clone,
}

/// Whether the number of workers adapts.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum ConcurrencyArg {
    /// Begins with the cores, climbs while that gains something, up to --threads
    Adaptive,
    /// Stays at --threads
    Fixed,
}

/// How large files on Lustre are written.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum StripesArg {
    /// One worker at a time for each object of a file; servers get as much as they bear
    Aware,
    /// Files are cut into chunks as on any other filesystem
    Ignore,
}

/// A checksum.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum ChecksumArg {
    /// XXH3, 128 bits: finds accidents, at the speed of memory
    Xxh3,
    /// BLAKE3: cryptographic
    Blake3,
}

impl From<ChecksumArg> for crate::checksum::Algorithm {
    fn from(typed: ChecksumArg) -> Self {
        match typed {
            ChecksumArg::Xxh3 => Self::Xxh3,
            ChecksumArg::Blake3 => Self::Blake3,
        }
    }
}

/// When data must be on stable storage.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum SyncArg {
    /// Once, before success is reported
    End,
    /// Every file as well
    File,
    /// Never
    None,
}

/// How progress is shown.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum ProgressArg {
    /// Bars on a terminal, otherwise plain lines
    #[default]
    Auto,
    /// Bars
    Bar,
    /// One JSON object per line on standard error
    Json,
    /// Nothing
    None,
}

impl From<ProgressArg> for crate::display::Mode {
    fn from(typed: ProgressArg) -> Self {
        match typed {
            ProgressArg::Auto => Self::Auto,
            ProgressArg::Bar => Self::Bar,
            ProgressArg::Json => Self::Json,
            ProgressArg::None => Self::None,
        }
    }
}
