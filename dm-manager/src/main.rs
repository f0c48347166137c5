//! The manager's command line. It reconciles nothing yet: the cluster side comes after the engine.
//! It never opens a user's file and never runs the engine.
#![forbid(unsafe_code)]

mod crds;

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
}

fn main() -> anyhow::Result<()> {
    match Args::parse().command {
        Command::Crds(args) => crds::run(&args),
    }
}
