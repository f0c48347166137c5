//! The command `longshore`: a table of contents. Everything is done in the library.

mod cli;

use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches};

use cli::{Cli, Command};

fn main() -> ExitCode {
    let matches = Cli::command().get_matches();
    let cli = match Cli::from_arg_matches(&matches) {
        Ok(cli) => cli,
        Err(error) => error.exit(),
    };
    let result = match (cli.command, matches.subcommand()) {
        (Command::Copy(args), Some((_, matches))) => cli::copy::main(*args, matches),
        _ => Err(anyhow::anyhow!("not there yet")),
    };
    result.unwrap_or_else(|error| cli::copy::refused(&error))
}
