//! `longshore run`: options as typed become a request; states and copies are shown by the library's
//! display; the end becomes an exit code. It does none of the work, and standard output belongs to
//! the job.

use std::ffi::OsString;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use longshore::arguments::ProgressArg;
use longshore::display::{CopyId, Display};
use longshore::error::{Refusal, show};
use longshore::lustre::job_id;
use longshore::progress::Progress;
use longshore::report::Report;
use longshore::run::report::RUN_REPORT_VERSION;
use longshore::run::{
    CopyLabel, Observer, Request, RunError, RunReport, Signals, Start, StartedJob, State,
    environment,
};
use signal_hook::consts::{SIGINT, SIGTERM};

use super::outputs::{self, named};
use super::{RunArgs, copy, lustre, output, signals};

/// Does the command and returns its exit code.
pub(crate) fn run(args: &RunArgs) -> ExitCode {
    let request = match request(args) {
        Ok(request) => request,
        Err(problem) => return refuse(&RunError::Refused(problem)),
    };
    if let Err(refusal) = check_outputs(args) {
        return refuse(&RunError::Refused(refusal.to_string()));
    }
    if args.dry_run {
        return match longshore::run::describe::describe(&request) {
            Ok(text) => output::print(text.as_bytes()),
            Err(error) => refuse(&error),
        };
    }
    let mut name = environment::workflow_name(&args.script);
    name.truncate(job_id::MAX_BYTES); // it is ASCII
    let asked = std::env::var_os("LONGSHORE_JOB_ID");
    let no_job = lustre::under_job(asked.as_deref(), Some(name.as_ref()));
    let signals = Signals::default();
    if let Err(error) = forward(signals.clone()) {
        let problem = format!("failed to listen for signals: {error}");
        return refuse(&RunError::Refused(problem));
    }
    let shown = Shown {
        display: Display::new(args.progress.into()),
        silent: args.progress == ProgressArg::None,
        running: Mutex::default(),
    };
    no_job.iter().for_each(|note| shown.message(note));
    let result = longshore::run::run(&request, &longshore::run::engine_copier, &shown, &signals);
    let code = match &result {
        Ok(report) => {
            report.notes.iter().for_each(|note| shown.message(note));
            shown.display.close();
            ExitCode::from(report.exit_code)
        }
        Err(error) => {
            shown.display.close();
            refuse(error)
        }
    };
    match write_report(args, &result) {
        Ok(()) => code,
        Err(error) => {
            let refused = output::refuse(error.as_ref());
            if code == ExitCode::SUCCESS { refused } else { code }
        }
    }
}

fn request(args: &RunArgs) -> Result<Request, String> {
    let storage = match &args.storage {
        Some(storage) => storage.clone(),
        None => default_storage()?,
    };
    // The job gets these paths and may change its directory.
    let storage = std::path::absolute(&storage)
        .map_err(|error| format!("{}: failed to use it as storage: {error}", show(&storage)))?;
    let job = match (args.rerun_job, args.skip_job) {
        (true, _) => StartedJob::Rerun,
        (_, true) => StartedJob::Skip,
        _ => StartedJob::Keep,
    };
    let start = match (args.resume, args.fresh) {
        (true, _) => Start::Resume(job),
        (_, true) => Start::Fresh,
        _ => Start::New,
    };
    Ok(Request {
        script: args.script.clone(),
        args: args.args.clone(),
        storage,
        allocations: args.allocations,
        filesystems: args.filesystems.clone(),
        start,
    })
}

/// Where a user's programs keep their state.
fn default_storage() -> Result<PathBuf, String> {
    let absolute = |name: &str| {
        let value: Option<OsString> = std::env::var_os(name);
        value.map(PathBuf::from).filter(|path| path.is_absolute())
    };
    let state = absolute("XDG_STATE_HOME").or_else(|| Some(absolute("HOME")?.join(".local/state")));
    let state = state.ok_or("there is no home directory; say where storage lies with --storage")?;
    Ok(state.join("longshore"))
}

/// Signals before the process ends without waiting: the first stops the copies, or goes to the job
/// (on a terminal it has it already), the second goes to a job that did not heed the first.
const HEEDED: usize = 2;

fn forward(signals: Signals) -> std::io::Result<()> {
    signals::survive_file_limit()?;
    let mut caught = signal_hook::iterator::Signals::new([SIGINT, SIGTERM])?;
    let builder = thread::Builder::new().name("signals".to_owned());
    builder.spawn(move || {
        for (number, signal) in caught.forever().enumerate() {
            if number >= HEEDED {
                std::process::exit(128 + signal);
            }
            signals.raise(signal);
        }
    })?;
    Ok(())
}

fn refuse(error: &RunError) -> ExitCode {
    output::refuse(error);
    if matches!(error, RunError::System { .. }) {
        let hint = "longshore: once that is mended, the same command with --resume goes on\n";
        let _ = std::io::stderr().write_all(hint.as_bytes()); // the exit code still tells
    }
    ExitCode::from(error.code())
}

/// The report overwrites nothing that says what to run.
fn check_outputs(args: &RunArgs) -> Result<(), Refusal> {
    let written: Vec<_> = named("--report", args.report.as_ref()).into_iter().collect();
    let script = named("the run", Some(&args.script));
    let read = args.filesystems.iter().filter_map(|path| named("--filesystems", Some(path)));
    outputs::check(&written, &script.into_iter().chain(read).collect::<Vec<_>>(), &[])
}

fn write_report(args: &RunArgs, result: &Result<RunReport, RunError>) -> anyhow::Result<()> {
    let Some(path) = &args.report else { return Ok(()) };
    match result {
        Ok(report) => copy::ReportFile::create(path)?.write(report),
        Err(error) => {
            let cause = std::error::Error::source(error).map(|cause| format!(": {cause}"));
            let refusal = serde_json::json!({
                "version": RUN_REPORT_VERSION,
                "exit_code": error.code(),
                "error": format!("{error}{}", cause.unwrap_or_default()),
            });
            copy::ReportFile::create(path)?.write(&refusal)
        }
    }
}

/// A run on the library's display.
struct Shown {
    display: Display,
    /// Whether the display drops messages; those of a run tell what to do next.
    silent: bool,
    running: Mutex<Vec<(CopyLabel, CopyId)>>,
}

impl Observer for Shown {
    fn state(&self, state: State) {
        self.display.state(&state.to_string());
    }

    fn copy_started(&self, copy: &CopyLabel, progress: &Arc<Progress>) {
        let id = self.display.add(&copy.to_string(), Arc::clone(progress));
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        running.push((copy.clone(), id));
    }

    fn copy_done(&self, copy: &CopyLabel, report: &Report) {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(index) = running.iter().position(|(label, _)| label == copy) {
            let (_, id) = running.swap_remove(index);
            self.display.finish(id, report);
        }
    }

    fn wants_totals(&self) -> bool {
        self.display.draws_bars()
    }

    fn message(&self, text: &str) {
        if self.silent {
            let lines: Vec<_> = text.lines().map(|line| format!("longshore: {line}\n")).collect();
            let _ = std::io::stderr().write_all(lines.concat().as_bytes()); // nobody reads it
        } else {
            self.display.message(text);
        }
    }
}
