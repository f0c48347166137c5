//! The manager's command line. It never opens a user's file and never runs the engine.
#![forbid(unsafe_code)]

mod admission;
mod bounded;
mod context;
mod crds;
mod data_movement;
mod events;
mod fence;
mod leader;
mod lustre_file_system;
mod metrics;
mod run;
mod verdict;
mod worker_set;

use clap::{Parser, Subcommand};

/// Longshore's controllers.
#[derive(Debug, Parser)]
#[command(version, arg_required_else_help = true)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Crds(crds::Args),
    Run(run::Args),
}

fn main() -> anyhow::Result<()> {
    match Args::parse().command {
        Command::Crds(args) => crds::run(&args),
        Command::Run(args) => run::run(args),
    }
}
