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
    match (cli.command, matches.subcommand()) {
        (Command::Copy(args), Some((_, matches))) => cli::copy::run(&args, matches),
        (Command::Restripe(args), _) => cli::restripe::run(&args),
        (Command::Layout(args), _) => cli::layout::run(&args),
        (Command::Ctl(args), _) => cli::ctl::run(&args),
        (Command::Verify(args), Some((_, matches))) => cli::verify::run(&args, matches),
        (Command::Run(args), _) => cli::run::run(&args),
        (Command::Doctor(args), _) => cli::doctor::run(&args),
        (Command::Completions { shell }, _) => cli::manual::completions(shell),
        (Command::Man { command }, _) => cli::manual::man(command.as_deref()),
        (Command::Copy(_) | Command::Verify(_), None) => {
            unreachable!("clap parsed the command from its own matches")
        }
    }
}
