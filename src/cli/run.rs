//! `longshore run`: options as typed become a request; states, copies and the end are told on
//! standard error, since standard output belongs to the job. It does none of the work.
#![allow(clippy::print_stderr, clippy::print_stdout)] // this module speaks to people

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use longshore::error::show;
use longshore::progress::Progress;
use longshore::report::Report;
use longshore::run::report::{CopyEnd, CopyReport, RUN_REPORT_VERSION};
use longshore::run::space::size;
use longshore::run::{
    CopyLabel, Observer, Request, RunError, RunReport, Signals, Start, StartedJob, State,
};
use signal_hook::consts::{SIGINT, SIGTERM};

use super::{ProgressArg, RunArgs};

/// How often running copies are told of.
const TICK: Duration = Duration::from_secs(2);

/// Does the command and returns its exit code.
pub(crate) fn run(args: &RunArgs) -> ExitCode {
    let request = match request(args) {
        Ok(request) => request,
        Err(problem) => return fail(&RunError::Refused(problem)),
    };
    if args.dry_run {
        return match longshore::run::describe::describe(&request) {
            Ok(text) => {
                print!("{text}");
                ExitCode::SUCCESS
            }
            Err(error) => fail(&error),
        };
    }
    let signals = Signals::default();
    if let Err(error) = forward_signals(signals.clone()) {
        return fail(&RunError::Refused(format!(
            "failed to install signal handlers: {error}"
        )));
    }
    let lines = Lines {
        quiet: args.progress == ProgressArg::None,
        running: Mutex::default(),
    };
    let result = lines.ticking(|| {
        longshore::run::run(&request, &longshore::run::engine_copier, &lines, &signals)
    });
    let written = match &args.report {
        Some(path) => write_report(path, &result),
        None => Ok(()),
    };
    let code = match &result {
        Ok(report) => conclude(report),
        Err(error) => fail(error),
    };
    if let Err(problem) = written {
        eprintln!("longshore: {problem}");
        if code == ExitCode::SUCCESS {
            return ExitCode::FAILURE;
        }
    }
    code
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

fn forward_signals(signals: Signals) -> std::io::Result<()> {
    let mut caught = signal_hook::iterator::Signals::new([SIGINT, SIGTERM])?;
    thread::spawn(move || {
        for signal in &mut caught {
            signals.raise(signal);
        }
    });
    Ok(())
}

fn fail(error: &RunError) -> ExitCode {
    eprintln!("longshore: {error}");
    if matches!(error, RunError::System { .. }) {
        eprintln!("longshore: once that is mended, the same command with --resume goes on");
    }
    ExitCode::from(error.code())
}

/// The last words: what each copy did, and what is left to do.
fn conclude(report: &RunReport) -> ExitCode {
    for copy in &report.copies {
        eprintln!("longshore: {}", summary(copy));
    }
    for line in report
        .notes
        .iter()
        .flat_map(|note| note.lines())
        .filter(|line| !line.is_empty())
    {
        eprintln!("longshore: {line}");
    }
    ExitCode::from(report.exit_code)
}

fn summary(copy: &CopyReport) -> String {
    let label = &copy.copy;
    match &copy.end {
        CopyEnd::Refused(_) => format!("{label}: not copied"),
        CopyEnd::Report(report) => {
            let Report {
                copied,
                files_skipped,
                seconds,
                errors,
                ..
            } = &**report;
            let mut text = format!(
                "{label}: {} files, {} in {seconds:.1} s",
                copied.files,
                size(copied.bytes)
            );
            if *files_skipped > 0 {
                text.push_str(&format!(", {files_skipped} already there"));
            }
            let failed: u64 = errors.values().sum();
            if failed > 0 {
                text.push_str(&format!(", {failed} failed"));
            }
            text
        }
    }
}

fn write_report(path: &Path, result: &Result<RunReport, RunError>) -> Result<(), String> {
    let json = match result {
        Ok(report) => serde_json::to_string_pretty(report),
        Err(error) => serde_json::to_string_pretty(&serde_json::json!({
            "version": RUN_REPORT_VERSION,
            "exit_code": error.code(),
            "error": error.to_string(),
        })),
    };
    let json = json.map_err(|error| format!("failed to compose the report: {error}"))?;
    fs::write(path, json + "\n")
        .map_err(|error| format!("{}: failed to write the report: {error}", show(path)))
}

/// Tells of a run in plain lines.
struct Lines {
    quiet: bool,
    running: Mutex<Vec<(CopyLabel, Arc<Progress>)>>,
}

impl Lines {
    /// Tells of the running copies every [`TICK`] while the work goes on.
    fn ticking<T>(&self, work: impl FnOnce() -> T) -> T {
        let (done, waiting) = mpsc::channel::<()>();
        thread::scope(|scope| {
            scope.spawn(move || {
                while waiting.recv_timeout(TICK) == Err(RecvTimeoutError::Timeout) {
                    self.tick();
                }
            });
            let result = work();
            drop(done);
            result
        })
    }

    fn tick(&self) {
        let running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        for (copy, progress) in running.iter() {
            let now = progress.snapshot();
            let of = if now.walk_done { "of" } else { "of at least" };
            self.tell(&format!(
                "{copy}: {} {of} {} files, {} {of} {}",
                now.files_done + now.files_skipped,
                now.files_found,
                size(now.bytes_done),
                size(now.bytes_found)
            ));
        }
    }

    fn tell(&self, text: &str) {
        if !self.quiet {
            eprintln!("longshore: {text}");
        }
    }
}

impl Observer for Lines {
    fn state(&self, state: State) {
        self.tell(&format!("{state}"));
    }

    fn copy_started(&self, copy: &CopyLabel, progress: &Arc<Progress>) {
        self.tell(&format!("{copy}"));
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        running.push((copy.clone(), Arc::clone(progress)));
    }

    fn copy_done(&self, copy: &CopyLabel, _report: &Report) {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        running.retain(|(label, _)| label != copy);
    }

    fn message(&self, text: &str) {
        eprintln!("longshore: {text}");
    }
}
