//! The command line for people: options as typed. The only clap definitions of the package; turning
//! them into requests is in the submodules, doing them in the library.

pub(crate) mod copy;
pub(crate) mod ctl;
pub(crate) mod doctor;
pub(crate) mod layout;
pub(crate) mod lustre;
pub(crate) mod manual;
pub(crate) mod output;
pub(crate) mod rate;
pub(crate) mod restripe;
pub(crate) mod run;
pub(crate) mod signals;
pub(crate) mod verify;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

/// Moves data between parallel filesystems: exact, parallel, resumable.
#[derive(Debug, Parser)]
#[command(name = "longshore", version, arg_required_else_help = true, max_term_width = 100)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Copy files and trees, exactly and in parallel
    Copy(Box<CopyArgs>),
    /// Run a job script with #DW lines on this machine: stage in, run, stage out
    Run(Box<RunArgs>),
    /// Ask a running copy how it is doing, pause it, change its limits
    Ctl(CtlArgs),
    /// Show layouts of files on Lustre, and plan those of a copy
    Layout(layout::LayoutArgs),
    /// Give files on Lustre another layout, safely
    Restripe(restripe::RestripeArgs),
    /// Compare a copy with its source or with a manifest, reading it past the page cache
    Verify(VerifyArgs),
    /// Say what this machine and these filesystems offer, and what costs speed or fidelity
    Doctor(DoctorArgs),
    /// Print the completion script for a shell
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Print the manual page
    Man {
        /// The command to describe (copy, verify, run, ...); all of longshore without it
        command: Option<String>,
    },
}

/// How progress is shown.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum ProgressArg {
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

impl From<ProgressArg> for longshore::display::Mode {
    fn from(typed: ProgressArg) -> Self {
        match typed {
            ProgressArg::Auto => Self::Auto,
            ProgressArg::Bar => Self::Bar,
            ProgressArg::Json => Self::Json,
            ProgressArg::None => Self::None,
        }
    }
}

#[derive(Debug, Args)]
#[allow(clippy::struct_excessive_bools)] // one switch per option, as typed
pub(crate) struct RunArgs {
    /// The job script, with its #DW lines
    pub(crate) script: PathBuf,
    /// Arguments for the script
    #[arg(last = true)]
    pub(crate) args: Vec<std::ffi::OsString>,
    /// Directory that holds job and persistent storage
    #[arg(long, value_name = "DIR", env = "LONGSHORE_STORAGE")]
    pub(crate) storage: Option<PathBuf>,
    /// Allocations (computes) of each xfs and gfs2 storage: index directories NODE-0 … NODE-(N-1)
    #[arg(long, value_name = "N", default_value = "1")]
    pub(crate) allocations: std::num::NonZeroU32,
    /// LustreFileSystem YAML that says which paths are global filesystems; may be repeated
    #[arg(long, value_name = "FILE")]
    pub(crate) filesystems: Vec<PathBuf>,
    /// Go on where a killed run of the same script stopped
    #[arg(long)]
    pub(crate) resume: bool,
    /// With --resume: start the job body again although it was started before
    #[arg(long, requires = "resume")]
    pub(crate) rerun_job: bool,
    /// With --resume: go on with DataOut as if a job body of unknown end had failed
    #[arg(long, requires = "resume", conflicts_with = "rerun_job")]
    pub(crate) skip_job: bool,
    /// Discard the job storage of an unfinished run of the same script, and start again
    #[arg(long, conflicts_with = "resume")]
    pub(crate) fresh: bool,
    /// Only print the plan
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// How progress is shown
    #[arg(long, value_name = "HOW", default_value = "auto")]
    pub(crate) progress: ProgressArg,
    /// Write a JSON report of the whole run here
    #[arg(long, value_name = "FILE")]
    pub(crate) report: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct DoctorArgs {
    /// Paths whose filesystems are examined; the current directory without any
    pub(crate) paths: Vec<PathBuf>,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// `longshore ctl`.
#[derive(Debug, Args)]
pub(crate) struct CtlArgs {
    /// The control socket of the copy
    #[arg(long, value_name = "PATH", conflicts_with = "pid", global = true)]
    pub(crate) socket: Option<PathBuf>,
    /// The process of the copy; without it and --socket, the only copy of this user that runs
    #[arg(long, value_name = "PID", global = true)]
    pub(crate) pid: Option<u32>,
    /// Print JSON
    #[arg(long, global = true)]
    pub(crate) json: bool,
    #[command(subcommand)]
    pub(crate) command: CtlCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum CtlCommand {
    /// Say how the copy is doing
    Status,
    /// Begin nothing more until `continue`; what is being done is finished
    Pause,
    /// End a pause
    Continue,
    /// Change limits; those that are not named stay
    Limit {
        /// Bytes of content per second (100M, 1.5GiB), or none
        #[arg(long, value_name = "RATE", value_parser = rate::bytes_or_none)]
        bandwidth_limit: Option<u64>,
        /// Items begun per second, or none
        #[arg(long, value_name = "N", value_parser = rate::count_or_none)]
        ops_limit: Option<u64>,
        /// Most worker threads; not above what the copy was started with
        #[arg(long, value_name = "N")]
        threads: Option<std::num::NonZeroUsize>,
    },
}

/// `longshore verify`.
#[derive(Debug, Args)]
#[command(override_usage = "longshore verify [OPTIONS] SRC DST\n       \
                            longshore verify [OPTIONS] --manifest FILE [DIR]")]
pub(crate) struct VerifyArgs {
    /// What was copied, and its copy: item against item, as longshore copy -T made them. With
    /// --manifest, the directory that it describes; by default the one that it was written for
    #[arg(value_name = "PATH", num_args = 0..=2)]
    pub(crate) paths: Vec<PathBuf>,
    /// Compare with this manifest instead of a source
    #[arg(long, value_name = "FILE")]
    pub(crate) manifest: Option<PathBuf>,
    /// Compare mode, owner, modification time, extended attributes and hard links as well
    #[arg(long)]
    pub(crate) metadata: bool,
    /// Worker threads
    #[arg(long, value_name = "N")]
    pub(crate) threads: Option<std::num::NonZeroUsize>,
    /// Compare what matches, whatever later rules say; may be repeated
    #[arg(long, value_name = "GLOB")]
    pub(crate) include: Vec<String>,
    /// Leave out what matches; the first matching --include or --exclude decides
    #[arg(long, value_name = "GLOB")]
    pub(crate) exclude: Vec<String>,
    /// How progress is shown, on standard error; the result is on standard output in any case
    #[arg(long, value_name = "HOW", default_value = "auto")]
    pub(crate) progress: ProgressArg,
    /// Write a JSON report here
    #[arg(long, value_name = "FILE")]
    pub(crate) report: Option<PathBuf>,
    /// Write the source path of everything that differs here, NUL-terminated; copy --files-from
    /// takes it
    #[arg(long, value_name = "FILE")]
    pub(crate) failed_list: Option<PathBuf>,
}

/// `longshore copy`.
#[derive(Debug, Args)]
#[command(override_usage = "longshore copy [OPTIONS] SRC... DST\n       \
                            longshore copy [OPTIONS] -t DIR SRC...")]
#[allow(clippy::struct_excessive_bools)] // one switch per option, as typed
pub(crate) struct CopyArgs {
    /// What to copy, and last where to (no DST with -t). A trailing slash on SRC means the
    /// directory's contents; an existing directory DST takes SRC inside it, anything else is the
    /// new name
    #[arg(required = true, value_name = "PATH")]
    pub(crate) paths: Vec<PathBuf>,
    /// Copy every SRC into DIR, which must exist
    #[arg(short = 't', long, value_name = "DIR", conflicts_with = "no_target_directory")]
    pub(crate) target_directory: Option<PathBuf>,
    /// Take DST as the new name, also when it is a directory
    #[arg(short = 'T', long)]
    pub(crate) no_target_directory: bool,
    /// Make missing parent directories of DST
    #[arg(short, long)]
    pub(crate) parents: bool,
    /// Keep only these attributes: mode, ownership, timestamps, links, xattr, acl, project, flags, all
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    pub(crate) preserve: Vec<Attribute>,
    /// Do not keep these attributes
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    pub(crate) no_preserve: Vec<Attribute>,
    /// Which extended attributes to keep
    #[arg(long, value_name = "POLICY", default_value = "auto")]
    pub(crate) xattrs: XattrArg,
    /// Which mechanism moves the bytes
    #[arg(long, value_name = "NAME", default_value = "auto", env = "LONGSHORE_BACKEND")]
    pub(crate) backend: BackendArg,
    /// Most worker threads
    #[arg(long, value_name = "N")]
    pub(crate) threads: Option<std::num::NonZeroUsize>,
    /// Whether the number of workers follows what makes the copy faster
    #[arg(long, value_name = "HOW", default_value = "adaptive")]
    pub(crate) concurrency: ConcurrencyArg,
    /// Whether large files on Lustre are written object by object, in pieces that end with stripes
    #[arg(long, value_name = "HOW", default_value = "aware")]
    pub(crate) stripes: StripesArg,
    /// Move at most this many bytes of content per second: 500K, 100M, 1.5GiB (powers of 1024;
    /// 100MB is in thousands). Clones move none. `longshore ctl` changes it while the copy runs
    #[arg(long, value_name = "RATE", value_parser = rate::bytes)]
    pub(crate) bandwidth_limit: Option<u64>,
    /// Begin at most this many items (files, directories, links, deletions) per second
    #[arg(long, value_name = "N")]
    pub(crate) ops_limit: Option<std::num::NonZeroU64>,
    /// The control socket for `longshore ctl`: a path, or none; by default
    /// $XDG_RUNTIME_DIR/longshore/PID.sock, else /tmp/longshore-UID/PID.sock
    #[arg(long, value_name = "PATH")]
    pub(crate) control: Option<PathBuf>,
    /// Copy what matches, whatever later rules say; may be repeated
    #[arg(long, value_name = "GLOB")]
    pub(crate) include: Vec<String>,
    /// Leave out what matches; the first matching --include or --exclude decides
    #[arg(long, value_name = "GLOB")]
    pub(crate) exclude: Vec<String>,
    /// Skip files whose destination has the same type, size and modification time
    #[arg(short, long)]
    pub(crate) update: bool,
    /// Delete what DST has and SRC has not; never when SRC could not be read completely
    #[arg(long)]
    pub(crate) delete: bool,
    /// Copy only the listed paths: one per line, or NUL-terminated; - is standard input
    #[arg(long, value_name = "FILE")]
    pub(crate) files_from: Option<PathBuf>,
    /// Stay on the filesystem of each SRC
    #[arg(short = 'x', long)]
    pub(crate) one_file_system: bool,
    /// When data must be on stable storage
    #[arg(long, value_name = "WHEN", default_value = "end")]
    pub(crate) sync: SyncArg,
    /// Read every copied file back from the device, past the page cache, and repair what is wrong
    #[arg(long, value_name = "CHECKSUM", num_args = 0..=1, require_equals = true)]
    pub(crate) verify: Option<Option<ChecksumArg>>,
    /// Write what was copied, with checksums, here; longshore verify checks against it
    #[arg(long, value_name = "FILE", conflicts_with = "dry_run")]
    pub(crate) manifest: Option<PathBuf>,
    /// Checksum of --verify and --manifest
    #[arg(long, value_name = "CHECKSUM", default_value = "xxh3")]
    pub(crate) checksum: ChecksumArg,
    /// Where to note what is finished, so that the same command goes on after a stop; "none" notes
    /// nothing. Without it a hidden file beside DST, which is removed when all is copied
    #[arg(long, value_name = "FILE")]
    pub(crate) journal: Option<PathBuf>,
    /// Refuse to start over: there must be the journal of a copy that was stopped
    #[arg(long)]
    pub(crate) resume: bool,
    /// Start over although there is the journal of a copy that was stopped
    #[arg(long, conflicts_with = "resume")]
    pub(crate) fresh: bool,
    #[command(flatten)]
    pub(crate) lustre: lustre::LustreArgs,
    /// Only say what would be done
    #[arg(short = 'n', long)]
    pub(crate) dry_run: bool,
    /// How progress is shown
    #[arg(long, value_name = "HOW", default_value = "auto")]
    pub(crate) progress: ProgressArg,
    /// Write a JSON report here
    #[arg(long, value_name = "FILE")]
    pub(crate) report: Option<PathBuf>,
    /// Write the source path of every failed item here, NUL-terminated; --files-from takes it
    #[arg(long, value_name = "FILE")]
    pub(crate) failed_list: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Attribute {
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

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum XattrArg {
    /// user, and as root trusted and security.capability
    Auto,
    /// None, ACLs included
    None,
    /// user only
    User,
    /// As auto, and the rest of security and system
    All,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum BackendArg {
    /// Chosen by probing
    Auto,
    /// io_uring
    Uring,
    /// Plain system calls
    Threads,
    /// Reflink, then copy_file_range, then plain system calls
    Clone,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum ConcurrencyArg {
    /// Begins with the cores, climbs while that gains something, up to --threads
    Adaptive,
    /// Stays at --threads
    Fixed,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum StripesArg {
    /// One worker at a time for each object of a file; servers get as much as they bear
    Aware,
    /// Files are cut into chunks as on any other filesystem
    Ignore,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum ChecksumArg {
    /// XXH3, 128 bits: finds accidents, at the speed of memory
    Xxh3,
    /// BLAKE3: cryptographic
    Blake3,
}

impl From<ChecksumArg> for longshore::checksum::Algorithm {
    fn from(typed: ChecksumArg) -> Self {
        match typed {
            ChecksumArg::Xxh3 => Self::Xxh3,
            ChecksumArg::Blake3 => Self::Blake3,
        }
    }
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum SyncArg {
    /// Once, before success is reported
    End,
    /// Every file as well
    File,
    /// Never
    None,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_definition_of_the_command_line_is_sound() {
        super::Cli::command().debug_assert();
    }
}
