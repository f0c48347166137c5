//! The command `longshore`: a table of contents. Everything is done in the library.

mod cli;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    let _args = cli::Cli::parse();
    ExitCode::SUCCESS
}
