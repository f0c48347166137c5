//! How many workers a copy comes to: as many as hide the latency of a filesystem, no more than make it
//! faster, never more than the user allows. The tuner by itself is tested on models, in `lanes`.
#![allow(clippy::unwrap_used, clippy::print_stderr, clippy::print_stdout, unreachable_pub)] // tests
#![allow(clippy::cast_precision_loss)] // rates

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::Value;
use support::latency_fs::{Kind, LatencyFs, Profile, Servers};
use support::{Backend, Compare, Fs, Longshore, Run, Scratch, assert_same_tree, wait_for};

/// Throughputs are compared: two of these tests at a time would disturb each other.
fn alone() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    ONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// `dirs` directories with `files` small files each.
fn make_tree(at: &Path, dirs: usize, files: usize) {
    for dir in 0..dirs {
        let dir = at.join(format!("dir-{dir}"));
        fs::create_dir_all(&dir).unwrap();
        for file in 0..files {
            fs::write(dir.join(format!("file-{file}")), format!("content {file}")).unwrap();
        }
    }
}

fn copy(from: &Path, to: &Path, words: &[&str]) -> Run {
    let run = Longshore::copy(Backend::Auto).args(words).arg(from).arg(to).run();
    run.expect(0);
    run
}

fn report<'r>(run: &'r Run, pointer: &str) -> &'r Value {
    run.report.as_ref().unwrap().pointer(pointer).unwrap_or(&Value::Null)
}

/// Items per second at full speed: the upper quartile over the trace, so that climbing at the beginning
/// and running out of work at the end do not count.
fn full_rate(run: &Run) -> f64 {
    let trace = report(run, "/concurrency/trace").as_array().unwrap();
    let mut rates: Vec<f64> =
        trace.iter().map(|point| point["items_per_second"].as_f64().unwrap()).collect();
    rates.sort_by(f64::total_cmp);
    rates[rates.len() * 3 / 4]
}

/// As [`full_rate`], of the whole copy.
fn seconds(run: &Run) -> f64 {
    report(run, "/seconds").as_f64().unwrap()
}

fn show(run: &Run) {
    let trace = report(run, "/concurrency/trace").as_array().unwrap();
    let points: Vec<String> = trace
        .iter()
        .map(|point| {
            format!(
                "{:.2}:{}{}={:.0}",
                point["seconds"].as_f64().unwrap(),
                point["workers"],
                point["lanes"],
                point["items_per_second"].as_f64().unwrap()
            )
        })
        .collect();
    eprintln!("{} s, trace {}", report(run, "/seconds"), points.join(" "));
}

/// Two filesystems of a millisecond each, with something to copy.
struct Far {
    from: LatencyFs,
    to: LatencyFs,
    source: PathBuf,
    scratch: Scratch,
}

impl Far {
    fn new(source: &Profile, destination: &Profile, dirs: usize, files: usize) -> Option<Self> {
        let scratch = Scratch::new(Fs::Tmpfs)?;
        let from = LatencyFs::new(&scratch, "from", Profile::immediate())?;
        let to = LatencyFs::new(&scratch, "to", Profile::immediate())?;
        make_tree(&from.backing().join("src"), dirs, files);
        from.set(source.clone());
        to.set(destination.clone());
        let source = from.path().join("src");
        Some(Self { from, to, source, scratch })
    }

    fn copy(&self, name: &str, words: &[&str]) -> Run {
        let run = copy(&self.source, &self.to.path().join(name), words);
        eprintln!("-- {name}");
        show(&run);
        run
    }

    fn same(&self, name: &str) {
        self.from.set(Profile::immediate());
        self.to.set(Profile::immediate());
        assert_same_tree(&self.source, &self.to.path().join(name), Compare::default());
    }
}

#[test]
fn latency_is_hidden_as_well_as_by_the_best_fixed_number() {
    let _alone = alone();
    let slow = Profile::metadata(Duration::from_millis(2));
    let Some(far) = Far::new(&slow, &slow, 100, 30) else { return };
    let adaptive = far.copy("adaptive", &[]);
    let fixed: Vec<Run> = ["32", "128"]
        .into_iter()
        .map(|threads| {
            let run = far.copy(threads, &["--concurrency", "fixed", "--threads", threads]);
            assert_eq!(*report(&run, "/concurrency/peak"), threads.parse::<u64>().unwrap());
            run
        })
        .collect();
    let best = fixed.iter().map(full_rate).fold(0.0, f64::max);
    let soonest = fixed.iter().map(seconds).fold(f64::MAX, f64::min);
    let rate = full_rate(&adaptive);
    // The machine that runs the tests is busy with other things; the bench has the real comparison.
    assert!(rate >= 0.75 * best, "{rate:.0} items/s, {best:.0} with the best fixed number");
    // It begins with the cores, so that the climb is all that it loses.
    assert!(seconds(&adaptive) <= soonest + 3.0, "{} s, {soonest} s", seconds(&adaptive));
    far.same("adaptive");
}

/// A server that answers four at once and loses its way in a crowd, behind a source that takes any
/// number: more workers than it bears make it slower.
#[test]
fn a_destination_that_gets_worse_in_a_crowd_is_spared() {
    let _alone = alone();
    let far_source = Profile::metadata(Duration::from_millis(4));
    let mut crowded = Profile::metadata(Duration::from_micros(500));
    crowded.metadata_at_once = Some(4);
    crowded.metadata_crowding = 0.1;
    let Some(far) = Far::new(&far_source, &crowded, 80, 40) else { return };
    let adaptive = far.copy("adaptive", &[]);
    let fixed = far.copy("48", &["--concurrency", "fixed", "--threads", "48"]);
    eprintln!("{} s, {} s with 48", seconds(&adaptive), seconds(&fixed));
    assert!(seconds(&adaptive) < seconds(&fixed), "as slow as in a crowd");
    far.same("adaptive");
}

#[test]
fn what_is_in_memory_is_copied_by_as_many_as_there_are_cores() {
    let _alone = alone();
    let Some(scratch) = Scratch::new(Fs::Tmpfs) else { return };
    make_tree(&scratch.join("src"), 200, 200);
    for backend in [Backend::Auto, Backend::Threads] {
        let name = format!("copy-{backend}");
        let command = Longshore::copy(backend).arg(scratch.join("src"));
        let run = command.arg(scratch.join(&name)).run();
        run.expect(0);
        show(&run);
        let cores = u64::try_from(std::thread::available_parallelism().unwrap().get()).unwrap();
        let workers = report(&run, "/concurrency/workers").as_u64().unwrap();
        assert!(workers <= 2 * cores, "{workers} workers: {}", run.describe());
    }
}

#[test]
fn the_users_cap_wins_at_the_start_and_while_it_runs() {
    let _alone = alone();
    let slow = Profile::metadata(Duration::from_millis(2));
    let Some(far) = Far::new(&slow, &slow, 20, 20) else { return };
    let run = far.copy("five", &["--threads", "5"]);
    assert_eq!(*report(&run, "/concurrency/peak"), 5);
    let running = |kind: Kind| far.from.counters().of(kind).most_at_once;
    assert!(Kind::ALL.into_iter().filter(|kind| kind.is_metadata()).all(|kind| running(kind) <= 5));

    let socket = far.scratch.join("socket");
    let command = Longshore::copy(Backend::Auto).arg("--control").arg(&socket);
    let running = command.arg(&far.source).arg(far.to.path().join("lowered")).start();
    let ctl = |words: &[&str]| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_longshore"));
        let output = command.args(["ctl", "--json", "--socket"]).arg(&socket).args(words).output();
        serde_json::from_slice::<Value>(&output.unwrap().stdout).unwrap_or_default()
    };
    wait_for("more than ten workers", Duration::from_secs(20), || {
        ctl(&["status"])["workers"].as_u64().is_some_and(|workers| workers > 10)
    });
    let status = ctl(&["limit", "--threads", "3"]);
    assert_eq!((&status["workers_cap"], &status["workers"]), (&3.into(), &3.into()));
    let run = running.wait();
    run.expect(0);
    show(&run);
    assert_eq!(*report(&run, "/concurrency/workers"), 3);
    far.same("lowered");
}

/// Each server is slow, all of them together are not: one large file needs as many workers as there are
/// servers that it lies on.
#[test]
fn a_large_file_on_many_servers_is_copied_by_many_workers() {
    let _alone = alone();
    let Some(scratch) = Scratch::new(Fs::Tmpfs) else { return };
    let Some(from) = LatencyFs::new(&scratch, "from", Profile::immediate()) else { return };
    let bytes = 48 << 20;
    let content = support::Rng::new(3).bytes(bytes);
    fs::write(from.backing().join("large"), content).unwrap();
    let stripes = Some((16, 1 << 20));
    let servers = Servers { count: 16, bandwidth: 3 << 20, stripes };
    from.set(Profile::immediate().servers(servers));
    let source = from.path().join("large");
    let run = copy(&source, &scratch.join("copy"), &[]);
    show(&run);
    from.set(Profile::immediate());
    assert_eq!(fs::read(&source).unwrap(), fs::read(scratch.join("copy")).unwrap());
    // One worker reads from one server, or from two when the kernel reads ahead.
    let one_by_one = 16.0;
    assert!(seconds(&run) < one_by_one / 3.0, "{}", run.describe());
}
