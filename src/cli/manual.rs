//! `longshore completions` and `longshore man`: made from the same definition that parses the
//! command line, so that they cannot disagree with it. Nothing is installed.

use std::process::ExitCode;

use clap::CommandFactory;
use longshore::error::Refusal;

use super::Cli;
use super::output::{print, refuse};

/// Prints the completion script.
pub(crate) fn completions(shell: clap_complete::Shell) -> ExitCode {
    let mut command = Cli::command();
    let name = command.get_name().to_owned();
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut command, name, &mut script);
    print(&script)
}

/// Prints the page of one command, or of all of longshore.
pub(crate) fn man(name: Option<&str>) -> ExitCode {
    let mut all = Cli::command();
    all.build(); // gives commands below their full names
    let source = format!("{} {}", all.get_name(), all.get_version().unwrap_or_default());
    let page = match name {
        None => all,
        Some(name) => match all.find_subcommand(name) {
            Some(command) => command.clone(),
            None => {
                let known: Vec<&str> = all.get_subcommands().map(clap::Command::get_name).collect();
                let problem =
                    format!("no command is named {name:?}; there are {}", known.join(", "));
                return refuse(&Refusal::Request(problem));
            }
        },
    };
    let mut text = Vec::new();
    match clap_mangen::Man::new(page).source(source).render(&mut text) {
        Ok(()) => print(&text),
        Err(error) => refuse(&error),
    }
}
