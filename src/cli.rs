//! The command line for people: options as typed. Turning them into requests is in the submodules, doing
//! them in the library, which has the options of `longshore copy` too, because shards have them.

pub(crate) mod copy;
pub(crate) mod ctl;
pub(crate) mod doctor;
pub(crate) mod layout;
pub(crate) mod lustre;
pub(crate) mod manual;
pub(crate) mod output;
pub(crate) mod outputs;
pub(crate) mod restripe;
pub(crate) mod run;
pub(crate) mod signals;
pub(crate) mod verify;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use longshore::arguments::{CopyArgs, ProgressArg, rate};

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
    /// Compare mode, owner, modification time and hard links as well, and extended attributes where there is a source
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

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_definition_of_the_command_line_is_sound() {
        super::Cli::command().debug_assert();
    }
}
