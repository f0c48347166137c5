//! `longshore restripe`: options as typed become one request for each file; what became of each is
//! printed, one line each. It copies nothing itself.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::Args;
use longshore::display::human;
use longshore::engine::Control;
use longshore::error::show;
use longshore::exit::Outcome;
use longshore::lustre::choose::Policy;
use longshore::lustre::probe::Sources;
use longshore::lustre::table::Table;
use longshore::restripe::{Done, How, Refused, restripe};
use serde_json::{Value, json};

use super::{output, signals};

/// `longshore restripe`.
#[derive(Debug, Args)]
pub(crate) struct RestripeArgs {
    /// Files
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// The layout: in the words of lfs setstripe ("-c 8 -S 4M"), auto (by size), or inherit (the
    /// directory's default)
    #[arg(long, value_name = "LAYOUT", allow_hyphen_values = true)]
    layout: Policy,
    /// The site's table of layouts by size for --layout auto (docs/lustre.md)
    #[arg(long, value_name = "FILE")]
    layout_table: Option<PathBuf>,
    /// Print one JSON object for each file
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub(crate) fn run(args: &RestripeArgs) -> ExitCode {
    match all(args) {
        Ok(outcome) => ExitCode::from(outcome.code()),
        Err(error) => output::refuse(error.as_ref()),
    }
}

fn all(args: &RestripeArgs) -> anyhow::Result<Outcome> {
    anyhow::ensure!(
        args.layout != Policy::Preserve,
        "--layout preserve changes nothing; write a layout, auto or inherit"
    );
    let table = args.layout_table.as_ref().map(|path| {
        let text = std::fs::read_to_string(path).with_context(|| show(path))?;
        Table::parse(&text).with_context(|| show(path))
    });
    let (policy, table) = (args.layout.clone(), table.transpose()?);
    let how = How { policy, table, control: Control::default() };
    signals::forward(&how.control.cancel)?;
    let sources = Sources::of_this_system();
    let mut outcome = Outcome::Complete;
    for path in &args.paths {
        if let Some(cancelled) = how.control.cancel.outcome() {
            return Ok(outcome.worst(cancelled));
        }
        let done = restripe(path, &how, &sources);
        let text = if args.json { json_line(path, &done) } else { line(path, &done) };
        match (&done, args.json) {
            (Ok(_), _) | (Err(_), true) => output::print(text.as_bytes()),
            (Err(refused), false) => {
                output::refuse(anyhow::anyhow!(text).context(refused.word()).as_ref())
            }
        };
        outcome = match done {
            Ok(_) => outcome,
            Err(Refused::Cancelled(cancelled)) => outcome.worst(cancelled),
            Err(_) => outcome.worst(Outcome::Partial),
        };
    }
    Ok(outcome)
}

fn line(path: &std::path::Path, done: &Result<Done, Refused>) -> String {
    let path = show(path);
    match done {
        Ok(Done::Restriped { from, to, bytes }) => {
            format!("{path}: {from} -> {to}, {}\n", human::bytes(*bytes))
        }
        Ok(Done::Already { spec }) => format!("{path}: already {spec}\n"),
        Err(refused) => {
            let cause = std::error::Error::source(refused).map(|cause| format!(": {cause}"));
            format!("{path}: {refused}{}", cause.unwrap_or_default())
        }
    }
}

fn json_line(path: &std::path::Path, done: &Result<Done, Refused>) -> String {
    let mut value = match done {
        Ok(done) => serde_json::to_value(done).unwrap_or(Value::Null),
        Err(refused) => json!({
            "done": "refused", "reason": refused.word(), "message": refused.to_string(),
        }),
    };
    if let Value::Object(object) = &mut value {
        object.insert("path".to_owned(), json!(show(path)));
    }
    format!("{value}\n")
}
