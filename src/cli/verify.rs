//! `longshore verify`: options as typed become a request; what differs is printed, one line each. It
//! compares nothing itself.

use std::fmt::Write;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::bail;
use clap::ArgMatches;
use longshore::arguments::filter;
use longshore::display::{Display, human};
use longshore::error::{Refusal, show};
use longshore::exit::Outcome;
use longshore::verify::{self, Against, Comparison, Control, Request};

use super::copy::{ReportFile, create_list};
use super::outputs::{self, Tree, named};
use super::{VerifyArgs, output, signals};

/// Differences that are printed; the report has more, the failed list all.
const SHOWN: usize = 100;

/// Runs the command. `matches` knows the order of `--include` and `--exclude`.
pub(crate) fn run(args: &VerifyArgs, matches: &ArgMatches) -> ExitCode {
    match compare(args, matches) {
        Ok(outcome) => ExitCode::from(outcome.code()),
        Err(error) => output::refuse(error.as_ref()),
    }
}

fn compare(args: &VerifyArgs, matches: &ArgMatches) -> anyhow::Result<Outcome> {
    let against = match (&args.manifest, args.paths.as_slice()) {
        (Some(manifest), []) => Against::Manifest(manifest.clone(), None),
        (Some(manifest), [directory]) => {
            Against::Manifest(manifest.clone(), Some(directory.clone()))
        }
        (None, [source, copy]) => Against::Source(source.clone(), copy.clone()),
        (Some(_), _) => bail!("with --manifest, name the copy's directory only"),
        (None, _) => bail!("name a source and its copy, or a manifest (longshore verify SRC DST)"),
    };
    check_outputs(args)?;
    let request = Request {
        against,
        metadata: args.metadata,
        threads: args.threads,
        filter: Arc::new(filter(&args.include, &args.exclude, matches)?),
    };
    let display = Display::new(args.progress.into());
    let control = Control {
        count_ahead: display.draws_bars(),
        failed_list: args.failed_list.as_deref().map(create_list).transpose()?.map(Arc::new),
        ..Control::default()
    };
    let mut file = args.report.as_deref().map(ReportFile::create).transpose()?;
    signals::forward(&control.cancel)?;
    let id = display.add("", Arc::clone(&control.progress));
    let comparison = verify::run(&request, &control)?;
    display.finish_with(id, &comparison);
    display.close();
    let printed = output::print(text(&comparison).as_bytes()) == ExitCode::SUCCESS;
    if let Some(file) = &mut file
        && let Err(error) = file.write(&comparison)
    {
        output::refuse(error.as_ref());
        return Ok(comparison.outcome.worst(Outcome::Partial));
    }
    // What nobody could read is no result.
    Ok(if printed { comparison.outcome } else { comparison.outcome.worst(Outcome::Partial) })
}

/// Neither the manifest nor anything that is compared is overwritten, or gets an item more.
fn check_outputs(args: &VerifyArgs) -> Result<(), Refusal> {
    let written = [
        named("--failed-list", args.failed_list.as_ref()),
        named("--report", args.report.as_ref()),
    ];
    let written: Vec<_> = written.into_iter().flatten().collect();
    let read: Vec<_> = named("--manifest", args.manifest.as_ref()).into_iter().collect();
    let trees: Vec<_> = match (&args.manifest, args.paths.as_slice()) {
        (None, [source, copy]) => vec![Tree::Source(source.clone()), Tree::Copy(copy.clone())],
        (_, paths) => paths.iter().cloned().map(Tree::Copy).collect(),
    };
    outputs::check(&written, &read, &trees)
}

/// One line for each difference, and one for the whole.
fn text(comparison: &Comparison) -> String {
    let mut out = String::new();
    for difference in comparison.found.iter().take(SHOWN) {
        let path = show(&difference.path);
        let (word, message) = (difference.kind.word(), &difference.message);
        let _ = writeln!(out, "{word}: {path}: {message}"); // writing to a String cannot fail
    }
    let all: u64 = comparison.differences.values().sum();
    let more = all.saturating_sub(SHOWN.min(comparison.found.len()) as u64);
    if more > 0 {
        let _ = writeln!(out, "... and {} more", human::count(more));
    }
    let compared = format!(
        "{} ({}), {}, in {}",
        human::counted(comparison.files, "file", "files"),
        human::bytes(comparison.bytes),
        human::counted(comparison.others, "other item", "other items"),
        human::seconds(comparison.seconds)
    );
    let verdict = match comparison.outcome {
        Outcome::Complete => "Same".to_owned(),
        Outcome::Partial => {
            format!("Different in {}", human::counted(all, "place", "places"))
        }
        _ => "Cancelled".to_owned(),
    };
    let _ = writeln!(out, "{verdict}: compared {compared}");
    if comparison.manifest_complete == Some(false) {
        let _ = writeln!(out, "The manifest says that the copy was incomplete.");
    }
    out
}
