//! Runs with a copier that calls `cp`, so that the states are tested without the engine.

use std::ffi::OsString;
use std::fs;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use super::*;
use crate::exit::Outcome;
use crate::options::JournalPlace;
use crate::progress::Progress;
use crate::report::{Copied, REPORT_VERSION, Setup};
use crate::run::{CopyLabel, Start, StartedJob};

#[derive(Default)]
struct Heard(Mutex<Vec<String>>);

impl Heard {
    fn add(&self, text: String) {
        self.0.lock().unwrap().push(text);
    }

    fn all(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }
}

impl Observer for Heard {
    fn state(&self, state: State) {
        self.add(state.to_string());
    }
    fn copy_started(&self, _: &CopyLabel, _: &Arc<Progress>) {}
    fn copy_done(&self, _: &CopyLabel, _: &Report) {}
    fn message(&self, text: &str) {
        self.add(format!("says {text}"));
    }
}

fn report(outcome: Outcome) -> Report {
    Report {
        verify: None,
        version: REPORT_VERSION,
        outcome,
        exit_code: outcome.code(),
        stopped_by: None,
        go_on_with: "",
        nests: false,
        unreliable: false,
        resumed: None,
        dry_run: false,
        seconds: 0.0,
        sync_seconds: 0.0,
        copied: Copied::default(),
        files_skipped: 0,
        excluded: 0,
        deleted: 0,
        bytes_per_second: 0.0,
        mechanisms: std::collections::BTreeMap::new(),
        concurrency: crate::report::Concurrency::default(),
        bottleneck: crate::lanes::bottleneck::Bottleneck::default(),
        lustre: None,
        setup: Setup::default(),
        warnings: std::collections::BTreeMap::new(),
        errors: std::collections::BTreeMap::new(),
        failures: Vec::new(),
    }
}

#[allow(clippy::unnecessary_wraps)] // a copier
fn cp(request: &CopyRequest, _: &Control) -> Result<Report, Refusal> {
    let ends = [&request.sources[0], &request.destination];
    let status = Command::new("cp").arg("-aT").args(ends).status().unwrap();
    Ok(report(if status.success() { Outcome::Complete } else { Outcome::Partial }))
}

struct Bench {
    dir: tempfile::TempDir,
    heard: Heard,
    request: Request,
}

impl Bench {
    /// `@` in the script is the bench's directory, which has a tree `in`.
    fn new(script: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let root = fs::canonicalize(dir.path()).unwrap();
        fs::create_dir_all(root.join("in/sub")).unwrap();
        fs::write(root.join("in/sub/file"), "content").unwrap();
        let path = root.join("job.sh");
        fs::write(&path, script.replace('@', root.to_str().unwrap())).unwrap();
        let request = Request {
            script: path,
            args: Vec::new(),
            storage: root.join("storage"),
            allocations: NonZeroU32::MIN,
            filesystems: Vec::new(),
            start: Start::New,
        };
        Self { dir, heard: Heard::default(), request }
    }

    fn run_with(&self, copier: Copier<'_>) -> Result<RunReport, RunError> {
        run(&self.request, copier, &self.heard, &Signals::default())
    }

    fn run(&self) -> RunReport {
        self.run_with(&cp).unwrap()
    }

    fn at(&self, path: &str) -> PathBuf {
        fs::canonicalize(self.dir.path()).unwrap().join(path)
    }

    fn read(&self, path: &str) -> String {
        fs::read_to_string(self.at(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
    }

    /// Directories of job storage that are there now.
    fn job_storage(&self) -> usize {
        let entries = fs::read_dir(self.at("storage")).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name != "runs" && name != "persistent").count()
    }
}

const WHOLE: &str = "#!/bin/sh
#DW jobdw type=xfs capacity=1GiB name=my-fs
#DW copy_in source=@/in/ destination=$DW_JOB_my_fs/data
#DW copy_out source=$DW_JOB_my_fs/out/ destination=@/res
mkdir $DW_JOB_my_fs/out
cp $DW_JOB_my_fs/data/sub/file $DW_JOB_my_fs/out/result
echo ran >> @/count
exit 5
";

#[test]
fn a_run_goes_through_the_states_and_ends_with_the_jobs_code() {
    let bench = Bench::new(WHOLE);
    let report = bench.run();
    assert_eq!((report.exit_code, report.job_exit_code), (5, Some(5)));
    assert_eq!(report.state, State::Done);
    let result = format!("res/{}-0/result", storage::node_name());
    assert_eq!(bench.read(&result), "content");
    assert_eq!(bench.job_storage(), 0);
    let states: Vec<_> =
        bench.heard.all().into_iter().filter(|text| !text.starts_with("says")).collect();
    let expected =
        ["Proposal", "Setup", "DataIn", "PreRun", "Job", "PostRun", "DataOut", "Teardown"];
    assert_eq!(states, expected);
}

#[test]
fn a_failed_data_out_keeps_the_storage_and_resume_does_not_run_the_job_again() {
    let mut bench = Bench::new(WHOLE);
    let calls = AtomicUsize::new(0);
    let second_fails = |request: &CopyRequest, control: &Control| {
        if calls.fetch_add(1, Relaxed) == 1 {
            return Ok(report(Outcome::Fatal));
        }
        cp(request, control)
    };
    let report = bench.run_with(&second_fails).unwrap();
    assert_eq!((report.exit_code, report.state), (3, State::DataOut));
    assert_eq!(bench.job_storage(), 1);
    let notes = report.notes.join("\n");
    assert!(notes.contains("line 4 copy_out") && notes.contains("kept in"), "{notes}");
    let refused = bench.run_with(&cp).unwrap_err();
    assert_eq!(refused.code(), 2);
    bench.request.start = Start::Resume(StartedJob::Keep);
    let report = bench.run();
    assert_eq!((report.exit_code, report.state), (5, State::Done));
    assert_eq!(bench.read("count"), "ran\n");
    assert_eq!(bench.job_storage(), 0);
    // Once more: nothing is left to do.
    assert_eq!(bench.run().exit_code, 5);
    assert_eq!(bench.read("count"), "ran\n");
}

#[test]
fn complete_copies_are_not_repeated_and_siblings_of_a_failed_one_finish() {
    let mut bench = Bench::new(
        "#DW jobdw type=lustre capacity=1GiB name=fs\n\
         #DW copy_in source=@/in/ destination=$DW_JOB_fs/a\n\
         #DW copy_in source=@/in/ destination=$DW_JOB_fs/b\n\
         test -e $DW_JOB_fs/a/sub/file && test -e $DW_JOB_fs/b/sub/file\n",
    );
    let calls = AtomicUsize::new(0);
    let a_fails = |request: &CopyRequest, control: &Control| {
        calls.fetch_add(1, Relaxed);
        assert!(matches!(request.options.journal.place, JournalPlace::Within(_)));
        if request.destination.ends_with("a") {
            return Ok(report(Outcome::Partial));
        }
        cp(request, control)
    };
    let first = bench.run_with(&a_fails).unwrap();
    assert_eq!((first.exit_code, first.state), (1, State::DataIn));
    bench.request.start = Start::Resume(StartedJob::Keep);
    let only_a = |request: &CopyRequest, control: &Control| {
        calls.fetch_add(1, Relaxed);
        // The same request finds the journal of the first try.
        assert!(matches!(request.options.journal.place, JournalPlace::Within(_)));
        cp(request, control)
    };
    assert_eq!(bench.run_with(&only_a).unwrap().exit_code, 0);
    assert_eq!(calls.load(Relaxed), 3);
}

#[test]
fn fresh_discards_an_unfinished_run() {
    let mut bench = Bench::new(WHOLE);
    let fail = |_: &CopyRequest, _: &Control| Ok(report(Outcome::Partial));
    assert_eq!(bench.run_with(&fail).unwrap().state, State::DataIn);
    bench.request.start = Start::Fresh;
    assert_eq!(bench.run().exit_code, 5);
    assert_eq!(bench.job_storage(), 0);
}

#[test]
fn what_can_be_known_is_refused_before_anything_is_written() {
    let bench = Bench::new(
        "#!/no/such/shell\n\
         #DW jobdw type=xfs capacity=1KB name=fs\n\
         #DW copy_in source=@/in/ destination=$DW_JOB_fs\n\
         #DW copy_in source=@/none destination=$DW_JOB_fs\n\
         #DW copy_out source=$DW_JOB_fs destination=@/job.sh/x\n\
         #DW persistentdw name=gone\n",
    );
    // What resolves badly hides what is looked at only afterwards.
    let error = bench.run_with(&cp).unwrap_err().to_string();
    assert!(error.contains("line 6: persistent storage 'gone' does not exist"), "{error}");
    let script = bench.read("job.sh").replace("#DW persistentdw name=gone\n", "");
    fs::write(&bench.request.script, script).unwrap();
    let error = bench.run_with(&cp).unwrap_err();
    assert_eq!(error.code(), 2);
    let error = error.to_string();
    for part in ["line 1: the interpreter", "line 4: source=", "line 5: destination="] {
        assert!(error.contains(part), "{part}: {error}");
    }
    assert!(!bench.at("storage").exists());
    let script = "#DW jobdw type=xfs capacity=1KB name=fs\n#DW copy_in source=@/in/ destination=$DW_JOB_fs\n";
    let bench = Bench::new(script);
    let error = bench.run_with(&cp).unwrap_err().to_string();
    assert!(error.contains("line 1: ") && error.contains("capacity of 1000 B"), "{error}");
}

#[test]
fn a_persistent_storage_is_created_used_and_destroyed_by_three_jobs() {
    let create = Bench::new("#DW create_persistent type=gfs2 name=keep\n");
    assert_eq!(create.run().exit_code, 0);
    let storage = create.at("storage");
    let job = |script: &str| {
        let mut bench = Bench::new(script);
        bench.request.storage = storage.clone();
        bench
    };
    let used = job("#DW persistentdw name=keep\n\
         #DW copy_in source=@/in destination=$DW_PERSISTENT_keep/\n\
         test $DW_PERSISTENTS = keep:$DW_PERSISTENT_keep && cat $DW_PERSISTENT_keep/in/sub/file > @/seen\n");
    let destroy = job("#DW destroy_persistent name=keep\n");
    let fail = |_: &CopyRequest, _: &Control| Ok(report(Outcome::Partial));
    assert_eq!(used.run_with(&fail).unwrap().exit_code, 1);
    let error = destroy.run_with(&cp).unwrap_err().to_string();
    assert!(error.contains("is used by an unfinished run of"), "{error}");
    let mut used = used;
    used.request.start = Start::Resume(StartedJob::Keep);
    assert_eq!(used.run().exit_code, 0);
    assert_eq!(used.read("seen"), "content");
    assert_eq!(destroy.run().exit_code, 0);
    assert!(!storage.join("persistent/keep").exists());
    assert_eq!(job("#DW destroy_persistent name=keep\n").run_with(&cp).unwrap_err().code(), 2);
}

#[test]
fn a_body_whose_end_nobody_saw_is_skipped_or_started_again_as_told() {
    for (choice, code, ran) in
        [(StartedJob::Skip, 1, "ran\n"), (StartedJob::Rerun, 5, "ran\nran\n")]
    {
        let mut bench = Bench::new(&WHOLE.replace("mkdir", "mkdir -p"));
        let calls = AtomicUsize::new(0);
        let out_fails = |request: &CopyRequest, control: &Control| match calls.fetch_add(1, Relaxed)
        {
            1 => Ok(report(Outcome::Partial)),
            _ => cp(request, control),
        };
        let report = bench.run_with(&out_fails).unwrap();
        // As a kill during the body leaves it.
        let place = Place::of(&bench.request.storage, &bench.request.script, &[] as &[OsString]);
        let mut journal = place.read().unwrap().unwrap();
        assert_eq!((&journal.uid, journal.state), (&report.uid, State::DataOut));
        journal.state = State::Job;
        journal.job = Job::Started { pid: Some(1) };
        place.write(&journal).unwrap();
        bench.request.start = Start::Resume(StartedJob::Keep);
        let error = bench.run_with(&cp).unwrap_err().to_string();
        assert!(error.contains("--skip-job"), "{error}");
        bench.request.start = Start::Resume(choice);
        let report = bench.run();
        assert_eq!((report.exit_code, report.state), (code, State::Done));
        assert_eq!(bench.read("count"), ran);
    }
}

#[test]
fn a_signal_during_the_body_stops_the_run_where_resume_goes_on() {
    let mut bench = Bench::new(WHOLE);
    let script = bench.read("job.sh").replace("exit 5", "sleep 60");
    fs::write(&bench.request.script, script).unwrap();
    let signals = Signals::default();
    let later = signals.clone();
    let marker = bench.at("count");
    let raiser = std::thread::spawn(move || {
        // A shell makes the file before it writes to it.
        while fs::read(&marker).map_or(0, |content| content.len()) == 0 {
            std::thread::yield_now();
        }
        later.raise(15);
    });
    let report = run(&bench.request, &cp, &bench.heard, &signals).unwrap();
    raiser.join().unwrap();
    assert_eq!((report.exit_code, report.job_exit_code), (143, Some(143)));
    assert!(report.state < State::DataOut, "{:?}", report.state);
    bench.request.start = Start::Resume(StartedJob::Keep);
    let report = bench.run();
    assert_eq!((report.exit_code, report.state), (143, State::Done));
    assert_eq!(bench.read("count"), "ran\n");
}
