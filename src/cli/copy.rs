//! `longshore copy`: options as typed become a request; the report becomes a summary and an exit code.
//! It copies nothing itself.

use std::ffi::OsStr;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context;
use clap::ArgMatches;
use longshore::arguments::CopyArgs;
use longshore::control_socket::{Place, Server};
use longshore::display::{Display, human};
use longshore::engine::failures::FailedList;
use longshore::engine::{self, Control};
use longshore::error::{Refusal, show};
use longshore::exit::Outcome;
use longshore::journal::{self, Prepared};
use longshore::manifest::Writer;
use longshore::plan::{Plan, Root};
use longshore::report::Report;

use super::outputs::{self, Tree, named};
use super::{lustre, output, signals};

/// Runs the command. `matches` knows the order of `--include` and `--exclude`.
pub(crate) fn run(args: &CopyArgs, matches: &ArgMatches) -> ExitCode {
    match copy(args, matches) {
        Ok(outcome) => ExitCode::from(outcome.code()),
        Err(error) => output::refuse(error.as_ref()),
    }
}

fn copy(args: &CopyArgs, matches: &ArgMatches) -> anyhow::Result<Outcome> {
    let no_job = lustre::under_job(args.lustre.job_id.as_deref().map(OsStr::new), None);
    let request = args.request(matches)?;
    let Prepared { plan, ticket, notes, earlier } = journal::prepare(&request)?;
    if plan.options.dry_run {
        output::print(mapping(&plan).as_bytes());
    }
    check_outputs(args, &plan)?;
    let display = Display::new(args.progress.into());
    let control = Control {
        // Counting ahead looks at every file, which a limit of operations is there to prevent.
        count_ahead: display.draws_bars() && args.ops_limit.is_none(),
        manifest: create_manifest(args, &plan)?,
        journal: ticket,
        failed_list: args.failed_list.as_deref().map(create_list).transpose()?.map(Arc::new),
        ..Control::default()
    };
    let mut file = args.report.as_deref().map(ReportFile::create).transpose()?;
    signals::forward(&control.cancel)?;
    for note in &notes {
        display.message(note);
    }
    if let Some((files, bytes)) = earlier {
        display.message(&format!(
            "going on with the copy that was stopped: {} and {} are done",
            human::counted(files, "file", "files"),
            human::bytes(bytes)
        ));
    }
    let id = display.add("", Arc::clone(&control.progress));
    let server = Server::start(place(args), &control.lanes, &control.progress);
    let mut report = engine::run(&plan, &control)?;
    report.setup.notes.extend(server.note());
    report.setup.notes.extend(no_job);
    drop(server);
    display.finish(id, &report);
    let written =
        control.manifest.as_deref().map_or(Ok(()), |writer| finish_manifest(writer, &report));
    display.summarize(&report, args.failed_list.as_deref());
    if let Some(file) = &mut file
        && let Err(error) = file.write(&report)
    {
        output::refuse(error.as_ref());
        return Ok(report.outcome.worst(Outcome::Partial)); // "refused" would say: nothing written
    }
    if let Err(error) = written {
        output::refuse(error.as_ref());
        return Ok(report.outcome.worst(Outcome::Partial));
    }
    Ok(report.outcome)
}

/// Where the control socket shall be.
fn place(args: &CopyArgs) -> Place {
    match &args.control {
        None => Place::Default,
        Some(path) if path == Path::new("none") => Place::None,
        Some(path) => Place::At(path.clone()),
    }
}

/// What is written beside the copy lies neither in it nor in its source: it would be an item too many there, or the
/// end of one.
fn check_outputs(args: &CopyArgs, plan: &Plan) -> Result<(), Refusal> {
    let is_path = |path: &&PathBuf| !["none", "-"].contains(&path.to_str().unwrap_or_default());
    let journal = args.journal.as_ref().filter(is_path);
    let list = args.files_from.as_ref().filter(is_path);
    let written = [
        named("--manifest", args.manifest.as_ref()),
        named("--failed-list", args.failed_list.as_ref()),
        named("--report", args.report.as_ref()),
    ];
    let written: Vec<_> = written.into_iter().flatten().collect();
    let read: Vec<_> =
        [named("--files-from", list), named("--journal", journal)].into_iter().flatten().collect();
    let trees = plan.roots.iter().flat_map(|root| {
        let copy = if root.is_new { Tree::New } else { Tree::Copy };
        [Tree::Source(root.source_item()), copy(root.copy_item())]
    });
    outputs::check(&written, &read, &trees.collect::<Vec<_>>())
}

fn create_manifest(args: &CopyArgs, plan: &Plan) -> anyhow::Result<Option<Arc<Writer>>> {
    let create = |path: &PathBuf| Writer::create(path, plan).map(Arc::new);
    Ok(args.manifest.as_ref().map(create).transpose()?)
}

/// A copy that was stopped leaves no manifest: the one of the run that goes on has everything.
fn finish_manifest(writer: &Writer, report: &Report) -> anyhow::Result<()> {
    let complete = match report.outcome {
        Outcome::Complete => Some(true),
        Outcome::Partial => Some(false),
        _ => None,
    };
    writer.finish(complete).context("failed to write the manifest")
}

/// Which source gets which path: the first lines of a dry run.
fn mapping(plan: &Plan) -> String {
    let line = |root: &Root| format!("{} -> {}\n", show(&root.source), show(&root.destination));
    plan.roots.iter().map(line).collect()
}

pub(crate) fn create_list(path: &Path) -> anyhow::Result<FailedList> {
    FailedList::create(path)
        .with_context(|| format!("failed to create the failed list {}", path.display()))
}

/// Where a report is written in the end, open from the beginning on: then it is known that it can be, and whoever
/// reads it from a pipe waits for it.
pub(crate) struct ReportFile {
    path: PathBuf,
    file: File,
}

impl ReportFile {
    /// Opens it, before anything is done; what is there stays.
    ///
    /// # Errors
    /// It cannot be made or written.
    pub(crate) fn create(path: &Path) -> anyhow::Result<Self> {
        let file = File::options().create(true).append(true).open(path);
        let file =
            file.with_context(|| format!("failed to create the report {}", path.display()))?;
        Ok(Self { path: path.to_owned(), file })
    }

    /// Writes the report as JSON in the place of what is there.
    ///
    /// # Errors
    /// Those of writing.
    pub(crate) fn write(&mut self, report: &impl serde::Serialize) -> anyhow::Result<()> {
        let json =
            serde_json::to_vec_pretty(report).context("failed to write the report as JSON")?;
        let is_file = self.file.metadata().is_ok_and(|metadata| metadata.is_file());
        let emptied = if is_file { self.file.set_len(0) } else { Ok(()) };
        emptied
            .and_then(|()| self.file.write_all(&json))
            .with_context(|| format!("failed to write the report {}", self.path.display()))
    }
}
