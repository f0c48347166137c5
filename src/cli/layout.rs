//! `longshore layout show` and `longshore layout plan`: options as typed become questions to the
//! library, its answers text or JSON. Nothing is created.

use std::fmt::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::{Args, Subcommand};
use longshore::display::human;
use longshore::error::show;
use longshore::exit::Outcome;
use longshore::lustre::choose::Policy;
use longshore::lustre::forecast::{Forecast, Group, How};
use longshore::lustre::layout::Layout;
use longshore::lustre::probe::{Client, Sources};
use longshore::lustre::show::Shown;
use longshore::lustre::table::Table;
use longshore::options::CopyRequest;
use longshore::plan::Plan;

use super::output::{print, refuse};

/// `longshore layout`.
#[derive(Debug, Args)]
pub(crate) struct LayoutArgs {
    #[command(subcommand)]
    command: LayoutCommand,
}

#[derive(Debug, Subcommand)]
enum LayoutCommand {
    /// Show the layout of files on Lustre, and the default of directories and whose it is
    Show {
        /// Files and directories
        #[arg(required = true, value_name = "PATH")]
        paths: Vec<PathBuf>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Say which layouts a copy would ask for, and why; nothing is copied
    Plan(PlanArgs),
}

#[derive(Debug, Args)]
struct PlanArgs {
    /// What would be copied
    #[arg(value_name = "SRC")]
    source: PathBuf,
    /// Where to, by the rules of longshore copy
    #[arg(value_name = "DST")]
    destination: PathBuf,
    /// inherit: as the destination's directories say; preserve: as the source has it, translated;
    /// auto: by size; or a layout in the words of lfs setstripe: "-c 8 -S 4M",
    /// "-E 256M -c 1 -E -1 -c -1"
    #[arg(long, value_name = "LAYOUT", default_value = "inherit", allow_hyphen_values = true)]
    layout: String,
    /// The site's table of layouts by size, for auto
    #[arg(long, value_name = "FILE")]
    layout_table: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub(crate) fn run(args: &LayoutArgs) -> ExitCode {
    match &args.command {
        LayoutCommand::Show { paths, json } => show_all(paths, *json),
        LayoutCommand::Plan(args) => match plan(args) {
            Ok((text, outcome)) => {
                print(text.as_bytes());
                ExitCode::from(outcome.code())
            }
            Err(error) => refuse(error.as_ref()),
        },
    }
}

/// Everything that can be shown is; the exit code says whether that was all of it.
fn show_all(paths: &[PathBuf], json: bool) -> ExitCode {
    let sources = Sources::of_this_system();
    let mut shown = Vec::new();
    let mut refused = false;
    for path in paths {
        match Shown::of(path, &sources) {
            Ok(one) => shown.push(one),
            Err(refusal) => {
                refuse(&refusal);
                refused = true;
            }
        }
    }
    let text = if json {
        serde_json::to_string_pretty(&shown).map(|text| text + "\n")
    } else {
        Ok(shown.iter().map(Shown::text).collect())
    };
    match text {
        Err(error) => return refuse(&error),
        Ok(text) if !shown.is_empty() => print(text.as_bytes()),
        Ok(_) => ExitCode::SUCCESS,
    };
    let outcome = match (refused, shown.is_empty()) {
        (false, _) => Outcome::Complete,
        (true, false) => Outcome::Partial,
        (true, true) => Outcome::Refused,
    };
    ExitCode::from(outcome.code())
}

fn plan(args: &PlanArgs) -> anyhow::Result<(String, Outcome)> {
    let policy: Policy = args.layout.parse().context("--layout")?;
    let table = args.layout_table.as_ref().map(|path| {
        let text = std::fs::read_to_string(path).with_context(|| show(path))?;
        Table::parse(&text).with_context(|| show(path))
    });
    let how = How { policy, table: table.transpose()? };
    let mut request = CopyRequest::new(vec![args.source.clone()], args.destination.clone());
    request.parents = true;
    request.options.dry_run = true;
    let plan = Plan::new(&request)?;
    let forecast = Forecast::of(&plan, &how, &Sources::of_this_system())?;
    let outcome = if forecast.failed == 0 { Outcome::Complete } else { Outcome::Partial };
    let text =
        if args.json { serde_json::to_string_pretty(&forecast)? + "\n" } else { text(&forecast) };
    Ok((text, outcome))
}

fn text(forecast: &Forecast) -> String {
    let mut out = String::new();
    // Writing to a String cannot fail.
    if let Some(source) = &forecast.source {
        let _ = writeln!(out, "Source: {}", filesystem(source));
    }
    let _ = writeln!(out, "Destination: {}", filesystem(&forecast.destination));
    let default = forecast.default.as_ref().map(Layout::to_spec);
    let default = default.unwrap_or_else(|| "none; the servers decide".to_owned());
    let _ = writeln!(out, "Default there: {default}");
    let files = human::counted(forecast.files, "file", "files");
    let _ = writeln!(out, "{files}, {}:", human::bytes(forecast.bytes));
    for group in &forecast.groups {
        group_text(&mut out, group, "file", "files");
    }
    if forecast.further > 0 {
        let further = human::counted(forecast.further, "file", "files");
        let _ = writeln!(out, "  {further} in further groups");
    }
    if !forecast.directories.is_empty() {
        let _ = writeln!(out, "Defaults of directories:");
    }
    for group in &forecast.directories {
        group_text(&mut out, group, "directory", "directories");
    }
    if forecast.released > 0 {
        let released = human::counted(forecast.released, "file is", "files are");
        let _ =
            writeln!(out, "{released} released: only in the archive (see longshore copy --hsm)");
    }
    for problem in &forecast.problems {
        let _ = writeln!(out, "failed: {problem}");
    }
    if let Some(more) = forecast.failed.checked_sub(forecast.problems.len() as u64)
        && more > 0
    {
        let _ = writeln!(out, "failed: {} more", human::count(more));
    }
    out
}

fn filesystem(client: &Client) -> String {
    let mut out = "Lustre".to_owned();
    if let Some(fsname) = &client.fsname {
        let _ = write!(out, " {fsname}");
    }
    let _ = write!(out, " on {}", show(&client.mount_point));
    if let Some(osts) = client.osts {
        let _ = write!(out, ", {}", human::counted(osts.into(), "OST", "OSTs"));
    }
    if client.told {
        out.push_str(" (LONGSHORE_LUSTRE_MOUNTS says so)");
    }
    out
}

fn group_text(out: &mut String, group: &Group, one: &str, many: &str) {
    let spec = group.spec.as_deref().unwrap_or("nothing asked for");
    let mut line = format!("  {}", human::counted(group.items, one, many));
    if group.bytes > 0 {
        let _ = write!(line, ", {}", human::bytes(group.bytes));
    }
    let _ = writeln!(out, "{line}: {spec}");
    let reasons: Vec<String> = group.reasons.iter().map(ToString::to_string).collect();
    let _ = writeln!(out, "    {}", reasons.join("; "));
    let _ = writeln!(out, "    such as {}", show(&group.example));
}
