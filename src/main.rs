//! The command `longshore`: a table of contents. Everything is done in the library.

mod cli;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    match cli::Cli::parse().command {
        cli::Command::Copy(_) | cli::Command::Run(_) => ExitCode::from(2), // not in this build yet
        cli::Command::Doctor(args) => cli::doctor::run(&args),
        cli::Command::Completions { shell } => cli::manual::completions(shell),
        cli::Command::Man { command } => cli::manual::man(command.as_deref()),
    }
}
