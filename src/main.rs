//! The command `longshore`: a table of contents. Everything is done in the library.

mod cli;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    match cli::Cli::parse().command {
        cli::Command::Run(args) => cli::run::run(&args),
        _ => ExitCode::SUCCESS,
    }
}
