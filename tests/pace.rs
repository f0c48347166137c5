//! Limits, pause and the control socket: kept to within 5 %, changeable while a copy runs, and open to
//! nobody else. Limits of the machine are `limits.rs`.
#![allow(clippy::unwrap_used, clippy::print_stderr, clippy::print_stdout, unreachable_pub)] // tests

mod support;

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::Value;
use support::command::has_ring;
use support::{
    Backend, Compare, Fs, Longshore, NOBODY, Rng, Run, Running, Scratch, assert_same_tree,
    need_root, wait_for,
};

const MIB: u64 = 1 << 20;

/// Runs `longshore ctl` with these words.
fn ctl(words: &[&str]) -> Output {
    let binary =
        std::env::var_os("LONGSHORE_BIN").unwrap_or_else(|| env!("CARGO_BIN_EXE_longshore").into());
    Command::new(binary).arg("ctl").args(words).output().unwrap()
}

/// As [`ctl`], to one socket, expecting success. Returns the status.
#[track_caller]
fn told(socket: &Path, words: &[&str]) -> Value {
    let mut all = vec!["--json", "--socket", socket.to_str().unwrap()];
    all.extend(words);
    let output = ctl(&all);
    assert!(output.status.success(), "{all:?}: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn seconds(run: &Run) -> f64 {
    run.expect(0).report.as_ref().unwrap()["seconds"].as_f64().unwrap()
}

/// Fails unless a copy took this long to within 5 %, and what starting takes on a busy machine.
#[track_caller]
fn took(run: &Run, expected: f64) {
    let seconds = seconds(run);
    eprintln!("{seconds:.2} s, {expected:.2} s expected");
    assert!(
        (expected * 0.95..expected * 1.05 + 0.15).contains(&seconds),
        "{seconds:.2} s instead of {expected:.2} s: {}",
        run.describe()
    );
}

fn backends() -> impl Iterator<Item = Backend> {
    Backend::ALL.into_iter().filter(|backend| *backend != Backend::Uring || has_ring())
}

/// A directory with `count` files of `bytes` each.
fn files(at: PathBuf, count: u64, bytes: u64) -> PathBuf {
    fs::create_dir_all(&at).unwrap();
    let content = Rng::new(count).bytes(usize::try_from(bytes).unwrap());
    for number in 0..count {
        fs::write(at.join(format!("file-{number}")), &content).unwrap();
    }
    at
}

fn start(scratch: &Scratch, name: &str, words: &[&str]) -> (Running, PathBuf) {
    let socket = scratch.join(format!("{name}.sock"));
    let running = Longshore::copy(Backend::Auto).arg("--control").arg(&socket).args(words).start();
    wait_for("the control socket", Duration::from_secs(5), || socket.exists());
    (running, socket)
}

/// All backends at once, each with a rate of its own: they run for four seconds either way.
#[test]
fn the_bandwidth_limit_is_kept_for_large_and_small_files() {
    for fs in [Fs::Tmpfs, Fs::Ext4] {
        let Some(scratch) = Scratch::new(fs) else { continue };
        let source = files(scratch.join("src"), 40, 300 << 10);
        files(source.join("large"), 1, 20 * MIB);
        let total = 40 * (300 << 10) + 20 * MIB;
        let copies: Vec<_> = backends()
            .zip([8, 7, 9, 10])
            .map(|(backend, rate)| {
                let limit = format!("{rate}MiB");
                let copy = scratch.join(format!("copy-{backend}"));
                let command = Longshore::copy(backend).args(["--sync", "none"]);
                let command = command.args(["--bandwidth-limit", &limit]);
                (command.arg(&source).arg(&copy).start(), copy, rate * MIB)
            })
            .collect();
        for (running, copy, rate) in copies {
            let run = running.wait();
            took(&run, total as f64 / rate as f64);
            let bottleneck = &run.report.as_ref().unwrap()["bottleneck"]["name"];
            assert_eq!(bottleneck, "bandwidth-limit", "{}", run.describe());
            assert_same_tree(&source, &copy, Compare::default());
        }
    }
}

/// Slow limits: a piece must not be a burst.
#[test]
fn a_low_limit_is_paced_within_a_file() {
    let Some(scratch) = Scratch::new(Fs::Tmpfs) else { return };
    let source = files(scratch.join("src"), 1, 4 * MIB);
    let (running, socket) = start(
        &scratch,
        "low",
        &[
            "--bandwidth-limit",
            "1M",
            source.to_str().unwrap(),
            scratch.join("copy").to_str().unwrap(),
        ],
    );
    let mut last = 0;
    for _ in 0..6 {
        // A look every half second, not a wait for something to happen.
        std::thread::sleep(Duration::from_millis(500));
        let status = told(&socket, &["status"]);
        let done = status["bytes_done"].as_u64().unwrap();
        // Two looks are half a second apart and take some time themselves.
        assert!(done - last < 700 << 10, "{} bytes in half a second: {status}", done - last);
        assert!(done > last, "nothing in half a second: {status}");
        last = done;
    }
    took(&running.wait(), 4.0);
}

#[test]
fn the_limit_of_operations_is_kept() {
    let Some(scratch) = Scratch::new(Fs::Tmpfs) else { return };
    let source = files(scratch.join("src"), 300, 10);
    for number in 0..99 {
        std::os::unix::fs::symlink("x", source.join(format!("link-{number}"))).unwrap();
    }
    let copies: Vec<_> = backends()
        .map(|backend| {
            let command = Longshore::copy(backend).args(["--ops-limit", "100"]);
            command.arg(&source).arg(scratch.join(format!("copy-{backend}"))).start()
        })
        .collect();
    for running in copies {
        let run = running.wait();
        took(&run, 4.0);
        assert_eq!(run.report.as_ref().unwrap()["bottleneck"]["name"], "ops-limit");
    }
}

/// What the manual promises: five percent over ten seconds, for a limit that was changed while the
/// copy ran. All at once, since each measures for ten seconds.
#[test]
fn over_ten_seconds_a_changed_limit_is_kept_to_five_percent() {
    /// A copy, the limit it is given midway, and what the status counts in the limit's unit.
    struct Case {
        name: &'static str,
        source: PathBuf,
        before: [&'static str; 2],
        after: [&'static str; 2],
        rate: f64,
        counter: &'static [&'static str],
    }
    let Some(scratch) = Scratch::new(Fs::Tmpfs) else { return };
    let bytes = |name, source, before, after, rate: u64| Case {
        name,
        source,
        before: ["--bandwidth-limit", before],
        after: ["--bandwidth-limit", after],
        rate: (rate * MIB) as f64,
        counter: &["bytes_done"],
    };
    let items = |name, before, after, rate| Case {
        name,
        source: files(scratch.join(name), 3500, 10),
        before: ["--ops-limit", before],
        after: ["--ops-limit", after],
        rate,
        counter: &["files_done", "directories_done"],
    };
    let large = files(scratch.join("large"), 4, 25 * MIB);
    let small = files(scratch.join("small"), 1000, 100 << 10);
    let cases = [
        bytes("large-up", large.clone(), "2MiB", "7MiB", 7),
        bytes("large-down", large, "10MiB", "3MiB", 3),
        bytes("small-up", small, "2MiB", "6MiB", 6),
        items("items-up", "40", "250", 250.0),
        items("items-down", "300", "110", 110.0),
    ];
    let copies: Vec<_> = cases
        .iter()
        .map(|case| {
            let copy = scratch.join(format!("copy-of-{}", case.name));
            let paths = [case.source.to_str().unwrap(), copy.to_str().unwrap()];
            let words: Vec<&str> = case.before.iter().chain(&paths).copied().collect();
            start(&scratch, case.name, &words)
        })
        .collect();
    // In the middle of what the first limit allows.
    std::thread::sleep(Duration::from_secs(1));
    let read = |case: &Case, status: &Value| {
        let count = |key: &&str| status[*key].as_u64().unwrap_or_else(|| panic!("{key}: {status}"));
        let done: u64 = case.counter.iter().map(count).sum();
        (done as f64, status["elapsed_seconds"].as_f64().unwrap())
    };
    let limited = |(case, (_, socket)): (&Case, &(Running, PathBuf))| {
        let words: Vec<&str> = ["limit"].iter().chain(&case.after).copied().collect();
        read(case, &told(socket, &words))
    };
    let before: Vec<_> = cases.iter().zip(&copies).map(limited).collect();
    std::thread::sleep(Duration::from_secs(10));
    let mut wrong = Vec::new();
    for ((case, (running, socket)), (done, at)) in cases.iter().zip(copies).zip(before) {
        let (now, later) = read(case, &told(&socket, &["status"]));
        let ratio = (now - done) / (later - at) / case.rate;
        eprintln!("{}: {ratio:.4} of the limit over {:.2} s", case.name, later - at);
        assert!(later - at >= 10.0, "{}: {:.2} s", case.name, later - at);
        if (ratio - 1.0).abs() > 0.05 {
            wrong.push(format!("{}: {ratio:.3}", case.name));
        }
        assert!(running.signal(Signal::SIGINT), "{} ended before it was measured", case.name);
        assert_eq!(running.wait().code, Some(130));
    }
    assert!(wrong.is_empty(), "the limit times {wrong:?}");
}

#[test]
fn a_limit_that_is_changed_midway_holds_from_then_on() {
    let Some(scratch) = Scratch::new(Fs::Tmpfs) else { return };
    let source = files(scratch.join("src"), 4, 8 * MIB);
    let copy = scratch.join("copy");
    let began = Instant::now();
    let words = ["--bandwidth-limit", "2MiB", source.to_str().unwrap(), copy.to_str().unwrap()];
    let (running, socket) = start(&scratch, "midway", &words);
    std::thread::sleep(Duration::from_secs(3).saturating_sub(began.elapsed()));
    let status = told(&socket, &["limit", "--bandwidth-limit", "8MiB"]);
    let changed = began.elapsed().as_secs_f64();
    assert_eq!(status["bandwidth_limit"], 8 * MIB);
    let done = status["bytes_done"].as_u64().unwrap() as f64;
    assert!((done / (2.0 * MIB as f64 * changed) - 1.0).abs() < 0.12, "{done} in {changed}");
    took(&running.wait(), changed + (32.0 * MIB as f64 - done) / (8.0 * MIB as f64));
    assert!(!socket.exists(), "the socket is left behind");
    assert_same_tree(&source, &copy, Compare::default());
}

/// A large file may take hours: whoever is one too many does not stay for the rest of it.
#[test]
fn fewer_threads_are_fewer_in_the_middle_of_a_file() {
    let Some(scratch) = Scratch::new(Fs::Tmpfs) else { return };
    let source = files(scratch.join("src"), 1, 128 * MIB);
    let copy = scratch.join("copy");
    let begin = ["--threads", "16", "--concurrency", "fixed", "--bandwidth-limit", "32MiB"];
    let words = [&begin[..], &[source.to_str().unwrap(), copy.to_str().unwrap()]].concat();
    let (running, socket) = start(&scratch, "fewer", &words);
    let tasks = PathBuf::from(format!("/proc/{}/task", running.pid()));
    let movers = || {
        let names = fs::read_dir(&tasks).into_iter().flatten().map(|task| {
            let name = task.unwrap().path().join("comm");
            fs::read_to_string(name).unwrap_or_default()
        });
        names.filter(|name| name.trim() == "copy").count()
    };
    wait_for("all movers", Duration::from_secs(5), || movers() >= 16);
    told(&socket, &["limit", "--threads", "2"]);
    wait_for("fewer movers", Duration::from_secs(5), || movers() <= 2);
    let status = told(&socket, &["status"]);
    assert!(status["bytes_done"].as_u64().unwrap() < 120 * MIB, "in the middle: {status}");
    told(&socket, &["limit", "--bandwidth-limit", "none"]);
    running.wait().expect(0);
    assert_same_tree(&source, &copy, Compare::default());
}

#[test]
fn no_limit_is_left_when_it_is_taken_away() {
    let Some(scratch) = Scratch::new(Fs::Tmpfs) else { return };
    let source = files(scratch.join("src"), 4, 8 * MIB);
    let copy = scratch.join("copy");
    let words = ["--bandwidth-limit", "100K", source.to_str().unwrap(), copy.to_str().unwrap()];
    let (running, socket) = start(&scratch, "free", &words);
    let status = told(&socket, &["limit", "--bandwidth-limit", "none"]);
    assert_eq!(status["bandwidth_limit"], Value::Null);
    let run = running.wait();
    assert!(seconds(&run) < 20.0, "{}", run.describe());
}

#[test]
fn a_paused_copy_does_nothing_until_it_goes_on() {
    let Some(scratch) = Scratch::new(Fs::Tmpfs) else { return };
    let source = files(scratch.join("src"), 4, 4 * MIB);
    let copy = scratch.join("copy");
    let words = ["--bandwidth-limit", "8MiB", source.to_str().unwrap(), copy.to_str().unwrap()];
    let (running, socket) = start(&scratch, "pause", &words);
    assert_eq!(told(&socket, &["pause"])["paused"], true);
    // What was being done is finished; pieces are no longer than 50 ms of the limit.
    std::thread::sleep(Duration::from_millis(300));
    let before = told(&socket, &["status"])["bytes_done"].clone();
    std::thread::sleep(Duration::from_millis(1500));
    let status = told(&socket, &["status"]);
    assert_eq!(status["bytes_done"], before);
    assert!(status["paused_seconds"].as_f64().unwrap() >= 1.5);
    let status = told(&socket, &["continue"]);
    assert_eq!(status["paused"], false);
    let paused = status["paused_seconds"].as_f64().unwrap();
    took(&running.wait(), 2.0 + paused);
    assert_same_tree(&source, &copy, Compare::default());
}

#[test]
fn a_paused_copy_can_be_cancelled() {
    let Some(scratch) = Scratch::new(Fs::Tmpfs) else { return };
    let source = files(scratch.join("src"), 100, MIB);
    let words = ["--bandwidth-limit", "1MiB"];
    for command in [&["pause"][..], &["limit", "--ops-limit", "1"]] {
        let copy = scratch.join(command.join("-"));
        let paths = [source.to_str().unwrap(), copy.to_str().unwrap()];
        let (running, socket) = start(&scratch, "cancel", &[&words[..], &paths].concat());
        told(&socket, command);
        let asked = Instant::now();
        assert!(running.signal(Signal::SIGINT));
        assert_eq!(running.wait().code, Some(130));
        assert!(asked.elapsed() < Duration::from_secs(2), "{:?}", asked.elapsed());
    }
}

#[test]
fn nobody_else_may_speak_to_a_copy() {
    if !need_root() {
        return;
    }
    let Some(scratch) = Scratch::new(Fs::Tmpfs) else { return };
    scratch.open_to_all();
    let source = files(scratch.join("src"), 4, MIB);
    let copy = scratch.join("copy");
    let words = ["--bandwidth-limit", "1MiB", source.to_str().unwrap(), copy.to_str().unwrap()];
    let (running, socket) = start(&scratch, "root", &words);
    // Even where the socket's own permissions would let them.
    fs::set_permissions(&socket, fs::Permissions::from_mode(0o777)).unwrap();
    let mut stranger = Command::new("/bin/sh");
    stranger.args(["-c", "exec \"$0\" ctl --socket \"$1\" pause"]);
    stranger.arg(program_for_all(&scratch)).arg(&socket).uid(NOBODY).gid(NOBODY);
    let output = stranger.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("only the user who runs the copy"), "{said}");
    assert_eq!(told(&socket, &["status"])["paused"], false);
    assert!(running.signal(Signal::SIGTERM));
    assert_eq!(running.wait().code, Some(143));
}

/// The command where everybody may run it: the build directory may be closed to others.
fn program_for_all(scratch: &Scratch) -> PathBuf {
    let at = scratch.join("longshore");
    fs::copy(env!("CARGO_BIN_EXE_longshore"), &at).unwrap();
    fs::set_permissions(&at, fs::Permissions::from_mode(0o755)).unwrap();
    at
}

/// A runtime directory of its own, so that copies of other tests are not seen.
#[test]
fn copies_are_found_by_user_and_process_and_leave_nothing_behind() {
    /// A user who has no other copies: those of root may be running here.
    const LONELY: u32 = 62_791;
    if !need_root() {
        return;
    }
    let Some(scratch) = Scratch::new(Fs::Tmpfs) else { return };
    scratch.open_to_all();
    let source = files(scratch.join("src"), 10, MIB);
    let runtime = scratch.join("runtime");
    fs::create_dir(&runtime).unwrap();
    chown(&runtime, Some(LONELY), Some(LONELY)).unwrap();
    let runtime = runtime.to_str().unwrap();
    let sockets = Path::new(runtime).join("longshore");
    let ask = |words: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_longshore"));
        command.arg("ctl").args(words).env("XDG_RUNTIME_DIR", runtime);
        let output = command.uid(LONELY).gid(LONELY).output();
        let output = output.unwrap();
        let said = [output.stdout, output.stderr].concat();
        (output.status.code(), String::from_utf8_lossy(&said).into_owned())
    };
    let copy = |name: &str| {
        let command = Longshore::copy(Backend::Auto).env("XDG_RUNTIME_DIR", runtime);
        let command = command.user(LONELY).args(["--bandwidth-limit", "1MiB"]);
        command.arg(&source).arg(scratch.join(name)).start()
    };
    let first = copy("one");
    let listed = |count: usize| {
        wait_for("the control sockets", Duration::from_secs(5), || {
            let is_socket = |path: &Path| path.extension().is_some_and(|end| end == "sock");
            fs::read_dir(&sockets).is_ok_and(|entries| {
                entries.filter(|entry| is_socket(&entry.as_ref().unwrap().path())).count() == count
            })
        });
    };
    listed(1);
    // What a killed copy leaves: a socket nobody listens at.
    drop(UnixListener::bind(sockets.join("4000000.sock")).unwrap());
    let (code, said) = ask(&["status"]);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains(&format!("process {}: running", first.pid())), "{said}");
    assert!(!sockets.join("4000000.sock").exists());
    let second = copy("two");
    listed(2);
    let (code, said) = ask(&["status"]);
    assert_eq!(code, Some(2), "{said}");
    for running in [&first, &second] {
        assert!(said.contains(&running.pid().to_string()), "{said}");
    }
    for running in [first, second] {
        let (code, said) =
            ask(&["limit", "--pid", &running.pid().to_string(), "--ops-limit", "50"]);
        assert_eq!(code, Some(0), "{said}");
        assert!(said.contains("operations 50/s"), "{said}");
        assert!(running.signal(Signal::SIGINT));
        assert_eq!(running.wait().code, Some(130));
    }
    assert_eq!(fs::read_dir(&sockets).unwrap().count(), 0);
    let (code, said) = ask(&["pause"]);
    assert_eq!((code, said.contains("no copy")), (Some(2), true), "{said}");
}

/// Symptom: `--control job.sock` removed a file `job.new`, `--manifest m.json` one named
/// `m.json.unfinished`. Guarantee: names beside those that were given are nobody else's.
#[test]
fn files_beside_the_socket_and_the_manifest_are_left_alone() {
    let Some(scratch) = Scratch::new(Fs::Tmpfs) else { return };
    let source = files(scratch.join("src"), 2, 1000);
    let own = ["job.new", "m.json.unfinished", "job.sock.new"].map(|name| scratch.join(name));
    for path in &own {
        fs::write(path, "mine").unwrap();
    }
    let command = Longshore::copy(Backend::Auto).arg("--control").arg(scratch.join("job.sock"));
    let command = command.arg("--manifest").arg(scratch.join("m.json"));
    command.arg(&source).arg(scratch.join("copy")).expect(0);
    for path in &own {
        assert_eq!(fs::read(path).unwrap(), b"mine", "{}", path.display());
    }
    let left = fs::read_dir(scratch.path()).unwrap().map(|entry| entry.unwrap().file_name());
    let left: Vec<_> = left.filter(|name| name.to_string_lossy().starts_with('.')).collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn a_copy_without_its_socket_is_a_copy_all_the_same() {
    let Some(scratch) = Scratch::new(Fs::Tmpfs) else { return };
    let source = files(scratch.join("src"), 2, 1000);
    fs::write(scratch.join("taken"), "mine").unwrap();
    let places = [
        (scratch.join("taken"), "is no socket"),
        (scratch.join("no/such/directory"), "No such file"),
        (scratch.join("x".repeat(200)), "path"),
    ];
    for (at, (place, reason)) in places.into_iter().enumerate() {
        let command = Longshore::copy(Backend::Auto).arg("--control").arg(&place);
        let run = command.arg(&source).arg(scratch.join(format!("copy-{at}"))).expect(0);
        let notes = run.report.as_ref().unwrap()["setup"]["notes"].to_string();
        assert!(notes.contains("no control socket"), "{}", run.describe());
        assert!(notes.contains(reason), "{notes}");
    }
    assert_eq!(fs::read(scratch.join("taken")).unwrap(), b"mine");
    let command = Longshore::copy(Backend::Auto).args(["--control", "none"]);
    let run = command.arg(&source).arg(scratch.join("quiet")).expect(0);
    assert!(!run.report.as_ref().unwrap()["setup"]["notes"].to_string().contains("control"));
}

#[test]
fn what_is_not_understood_is_refused_and_the_copy_goes_on() {
    use std::io::{BufRead, BufReader, Write};
    let Some(scratch) = Scratch::new(Fs::Tmpfs) else { return };
    let source = files(scratch.join("src"), 2, MIB);
    let copy = scratch.join("copy");
    let words = ["--bandwidth-limit", "2MiB", source.to_str().unwrap(), copy.to_str().unwrap()];
    let (running, socket) = start(&scratch, "odd", &words);
    let mut stream = std::os::unix::net::UnixStream::connect(&socket).unwrap();
    let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
    for (request, ok) in [
        ("{\"command\":\"stop\"}", false),
        ("\u{0}\u{1}", false),
        ("{\"command\":\"limit\",\"threads\":0}", false),
        ("{\"command\":\"limit\",\"bandwidth\":-1}", false),
        ("{\"command\":\"status\",\"new\":1}", true),
    ] {
        stream.write_all(format!("{request}\n").as_bytes()).unwrap();
        let reply: Value = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
        assert_eq!(reply["ok"], ok, "{request}: {reply}");
    }
    drop((stream, lines));
    took(&running.wait(), 1.0);
}
