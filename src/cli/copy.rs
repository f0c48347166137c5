//! `longshore copy`: options as typed become a request; the report becomes a summary and an exit code.
//! It copies nothing itself.

use std::ffi::OsStr;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context;
use clap::ArgMatches;
use longshore::control_socket::{Place, Server};
use longshore::display::{Display, human};
use longshore::engine::failures::FailedList;
use longshore::engine::{self, Control};
use longshore::error::show;
use longshore::exit::Outcome;
use longshore::filter::{Filter, Verdict};
use longshore::journal::{self, Prepared};
use longshore::manifest::Writer;
use longshore::options::{
    BackendChoice, ConcurrencyChoice, CopyOptions, CopyRequest, ExistingJournal, JournalChoice,
    JournalPlace, Preserve, StripeChoice, SyncPolicy, Target, XattrPolicy,
};
use longshore::plan::{Plan, Root};
use longshore::report::Report;
use longshore::selection::Selection;

use super::{
    Attribute, BackendArg, ConcurrencyArg, CopyArgs, StripesArg, SyncArg, XattrArg, lustre, output,
    signals,
};

/// Runs the command. `matches` knows the order of `--include` and `--exclude`.
pub(crate) fn run(args: &CopyArgs, matches: &ArgMatches) -> ExitCode {
    match copy(args, matches) {
        Ok(outcome) => ExitCode::from(outcome.code()),
        Err(error) => output::refuse(error.as_ref()),
    }
}

fn copy(args: &CopyArgs, matches: &ArgMatches) -> anyhow::Result<Outcome> {
    let no_job = lustre::under_job(args.lustre.job_id.as_deref().map(OsStr::new), None);
    let request = request(args, matches)?;
    let Prepared { plan, ticket, notes, earlier } = journal::prepare(&request)?;
    if plan.options.dry_run {
        output::print(mapping(&plan).as_bytes());
    }
    let display = Display::new(args.progress.into());
    let control = Control {
        // Counting ahead looks at every file, which a limit of operations is there to prevent.
        count_ahead: display.draws_bars() && args.ops_limit.is_none(),
        manifest: create_manifest(args, &plan)?,
        journal: ticket,
        failed_list: args.failed_list.as_deref().map(create_list).transpose()?.map(Arc::new),
        ..Control::default()
    };
    if let Some(path) = &args.report {
        create_report(path)?;
    }
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
    if let Some(path) = &args.report
        && let Err(error) = write_report(path, &report)
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

/// Makes sure that the report can be written, before anything is copied; what is there stays.
pub(crate) fn create_report(path: &Path) -> anyhow::Result<()> {
    std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(path)
        .map(drop)
        .with_context(|| format!("failed to create the report {}", path.display()))
}

/// Writes the report as JSON.
pub(crate) fn write_report(path: &Path, report: &impl serde::Serialize) -> anyhow::Result<()> {
    let json = serde_json::to_vec_pretty(report).context("failed to write the report as JSON")?;
    std::fs::write(path, json)
        .with_context(|| format!("failed to write the report {}", path.display()))
}

/// What was typed, as a request.
fn request(args: &CopyArgs, matches: &ArgMatches) -> anyhow::Result<CopyRequest> {
    let (sources, destination, target) = paths(args)?;
    let selection = match &args.files_from {
        Some(path) => Some(Arc::new(Selection::parse(&read_list(path)?, &sources)?)),
        None => None,
    };
    let mut options = CopyOptions {
        preserve: preserve(args),
        xattrs: match args.xattrs {
            XattrArg::Auto => XattrPolicy::Auto,
            XattrArg::None => XattrPolicy::None,
            XattrArg::User => XattrPolicy::User,
            XattrArg::All => XattrPolicy::All,
        },
        backend: match args.backend {
            BackendArg::Auto => BackendChoice::Auto,
            BackendArg::Uring => BackendChoice::Uring,
            BackendArg::Threads => BackendChoice::Threads,
            BackendArg::Clone => BackendChoice::Clone,
        },
        threads: args.threads,
        concurrency: match args.concurrency {
            ConcurrencyArg::Adaptive => ConcurrencyChoice::Adaptive,
            ConcurrencyArg::Fixed => ConcurrencyChoice::Fixed,
        },
        stripes: match args.stripes {
            StripesArg::Aware => StripeChoice::Aware,
            StripesArg::Ignore => StripeChoice::Ignore,
        },
        bandwidth_limit: args.bandwidth_limit,
        ops_limit: args.ops_limit.map(std::num::NonZeroU64::get),
        filter: Arc::new(filter(&args.include, &args.exclude, matches)?),
        selection,
        update: args.update,
        delete: args.delete,
        one_file_system: args.one_file_system,
        sync: match args.sync {
            SyncArg::End => SyncPolicy::End,
            SyncArg::File => SyncPolicy::File,
            SyncArg::None => SyncPolicy::None,
        },
        verify: args.verify.is_some(),
        checksum: args.verify.flatten().unwrap_or(args.checksum).into(),
        dry_run: args.dry_run,
        journal: journal_choice(args),
        ..CopyOptions::default()
    };
    args.lustre.apply(&mut options)?;
    Ok(CopyRequest { sources, destination, target, parents: args.parents, options })
}

fn journal_choice(args: &CopyArgs) -> JournalChoice {
    JournalChoice {
        place: match &args.journal {
            None => JournalPlace::Beside,
            Some(path) if path == Path::new("none") => JournalPlace::None,
            Some(path) => JournalPlace::At(path.clone()),
        },
        existing: match (args.resume, args.fresh) {
            (true, _) => ExistingJournal::Require,
            (_, true) => ExistingJournal::Replace,
            _ => ExistingJournal::Continue,
        },
    }
}

/// The last path is the destination, unless `-t` names it.
fn paths(args: &CopyArgs) -> anyhow::Result<(Vec<PathBuf>, PathBuf, Target)> {
    let mut sources = args.paths.clone();
    if let Some(directory) = &args.target_directory {
        return Ok((sources, directory.clone(), Target::Directory));
    }
    let destination = sources
        .pop()
        .filter(|_| !sources.is_empty())
        .context("no destination: name it after the source, or with -t (longshore copy SRC DST)")?;
    let target = if args.no_target_directory { Target::Exact } else { Target::Guess };
    Ok((sources, destination, target))
}

fn read_list(path: &Path) -> anyhow::Result<Vec<u8>> {
    let mut list = Vec::new();
    if path == Path::new("-") {
        std::io::stdin()
            .read_to_end(&mut list)
            .context("failed to read the list on standard input")?;
        return Ok(list);
    }
    std::fs::read(path).with_context(|| format!("failed to read the list {}", path.display()))
}

/// The rules in the order in which they were typed: the first that matches decides.
pub(crate) fn filter(
    include: &[String],
    exclude: &[String],
    matches: &ArgMatches,
) -> anyhow::Result<Filter> {
    let indices = |id: &str| matches.indices_of(id).into_iter().flatten().collect::<Vec<_>>();
    let includes = indices("include").into_iter().zip(include);
    let excludes = indices("exclude").into_iter().zip(exclude);
    let mut rules: Vec<_> = includes
        .map(|(index, pattern)| (index, Verdict::Include, pattern))
        .chain(excludes.map(|(index, pattern)| (index, Verdict::Exclude, pattern)))
        .collect();
    rules.sort_by_key(|(index, ..)| *index);
    Ok(Filter::new(rules.into_iter().map(|(_, verdict, pattern)| (verdict, pattern.as_str())))?)
}

/// `--preserve` replaces the default set, `--no-preserve` takes away from what there is.
fn preserve(args: &CopyArgs) -> Preserve {
    let none = Preserve {
        mode: false,
        ownership: false,
        timestamps: false,
        links: false,
        xattr: false,
        acl: false,
        project: false,
        flags: false,
    };
    let mut kept = if args.preserve.is_empty() { Preserve::default() } else { none };
    let changes = args.preserve.iter().map(|attribute| (attribute, true));
    for (attribute, keep) in
        changes.chain(args.no_preserve.iter().map(|attribute| (attribute, false)))
    {
        match attribute {
            Attribute::Mode => kept.mode = keep,
            Attribute::Ownership => kept.ownership = keep,
            Attribute::Timestamps => kept.timestamps = keep,
            Attribute::Links => kept.links = keep,
            Attribute::Xattr => kept.xattr = keep,
            Attribute::Acl => kept.acl = keep,
            Attribute::Project => kept.project = keep,
            Attribute::Flags => kept.flags = keep,
            Attribute::All => {
                kept = if keep {
                    Preserve { project: true, flags: true, ..Preserve::default() }
                } else {
                    none
                };
            }
        }
    }
    kept
}
