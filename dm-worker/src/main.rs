//! The worker's command line: the agent of a node (`run`), and the processes that it starts: one for each
//! copy (`mover`), and one for whatever it mounts (`mount`, `unmount`). It never decides what is copied.
#![forbid(unsafe_code)]

mod admission;
mod agent;
mod api;
mod lease;
mod leftover;
mod live;
mod metrics;
mod mounts;
mod mover;
mod process;
mod reports;
mod run;
mod shard;
mod time;
mod wire;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Longshore's agent on a storage node.
#[derive(Debug, Parser)]
#[command(version, arg_required_else_help = true, max_term_width = 100)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Run(Box<run::Args>),
    /// Carries out one copy, which is told to it on standard input
    #[command(hide = true)]
    Mover(mover::Args),
    #[command(hide = true)]
    Mount(live::hands::MountArgs),
    #[command(hide = true)]
    Unmount(live::hands::UnmountArgs),
}

fn main() -> anyhow::Result<ExitCode> {
    match Args::parse().command {
        Command::Run(args) => run::run(*args).map(|()| ExitCode::SUCCESS),
        Command::Mover(args) => Ok(mover::run(&args)),
        Command::Mount(args) => Ok(live::hands::mount(&args)),
        Command::Unmount(args) => Ok(live::hands::unmount(&args)),
    }
}
