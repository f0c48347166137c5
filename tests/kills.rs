//! A copy that is killed at random moments, again and again, goes on with the same command until it is
//! exact, and copies again no more than was in flight. Single cases are in `journal.rs`.
#![allow(clippy::unwrap_used, clippy::print_stderr, clippy::print_stdout, unreachable_pub)] // tests

mod support;

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use support::compare::assert_none;
use support::journals::{THREADS, copy, journals, long_tree};
use support::{Compare, Fs, Run, Running, Scratch, Seed, diff_trees, for_each_backend, wait_for};

/// Kills for each backend; 200 altogether with LONGSHORE_SCALE=full.
fn kills() -> u32 {
    if std::env::var("LONGSHORE_SCALE").is_ok_and(|word| word == "full") { 50 } else { 6 }
}

/// Bytes that one worker may have in flight: a chunk of a large file.
const IN_FLIGHT_BYTES: u64 = 4 << 20;

/// What a process reads besides: libraries, what the kernel says of filesystems.
const STARTING_BYTES: u64 = 256 << 10;

/// Bytes that a stopped process has read, by whatever means.
fn bytes_read(running: &Running) -> u64 {
    let io = fs::read_to_string(format!("/proc/{}/io", running.pid())).unwrap_or_default();
    let value = |name: &str| {
        let line = io.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|text| text.trim().parse().ok()).unwrap_or(0_u64)
    };
    // Direct reads through the ring are counted by the block layer only.
    value("rchar:").max(value("read_bytes:"))
}

/// Whether every thread of a process has stopped.
fn is_stopped(pid: u32) -> bool {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    tasks.into_iter().all(|task| {
        let stat = fs::read_to_string(task.path().join("stat")).unwrap_or_default();
        stat.rsplit(')').next().is_none_or(|rest| !rest.trim_start().starts_with(['R', 'S', 'D']))
    })
}

/// Kills a copy after `moment`, and returns what it had read; `None` when it had ended before.
fn kill_after(mut running: Running, moment: Duration) -> (Run, Option<u64>) {
    let started = Instant::now();
    wait_for("the moment of the kill", Duration::from_secs(60), || {
        started.elapsed() >= moment || running.ended()
    });
    if running.ended() {
        return (running.wait(), None);
    }
    running.signal(Signal::SIGSTOP);
    let pid = running.pid();
    wait_for("all threads to stop", Duration::from_secs(60), || is_stopped(pid) || running.ended());
    let read = bytes_read(&running);
    running.signal(Signal::SIGKILL);
    let run = running.wait();
    // It may have ended while it was being stopped.
    let killed = run.signal == Some(9);
    (run, killed.then_some(read))
}

/// Files with content of their own, hard links once.
fn regular_files(root: &Path) -> u64 {
    let mut inodes = std::collections::HashSet::new();
    let mut dirs = vec![root.to_owned()];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(&dir).into_iter().flatten().flatten() {
            let Ok(metadata) = entry.metadata() else { continue };
            if metadata.is_dir() {
                dirs.push(entry.path());
            } else if metadata.is_file() {
                inodes.insert(metadata.ino());
            }
        }
    }
    u64::try_from(inodes.len()).unwrap()
}

#[test]
fn a_copy_killed_at_random_moments_is_exact_and_repeats_only_what_was_in_flight() {
    let seed = Seed::fresh();
    let mut rng = seed.rng();
    let Some(scratch) = Scratch::new(Fs::Tmpfs) else { return };
    let source = long_tree(&scratch, seed.0);
    // Deep paths are beyond what this count can reach; the engine's own count of a whole copy holds.
    let counted = regular_files(&source);
    for fs in [Fs::Tmpfs, Fs::Ext4] {
        let Some(scratch) = Scratch::new(fs) else { continue };
        for_each_backend(|backend| {
            let whole = scratch.join("whole");
            let run = copy(backend, &source, &whole).arg("--fresh").expect(0);
            let (took, files) = (run.elapsed, run.count("/copied/files"));
            assert!(files >= counted, "{files} of {counted}: {}", run.describe());
            let data = run.count("/copied/bytes_moved");
            assert!(data > 100 << 20, "{}", run.describe());
            support::scratch::remove(&whole);
            let target = scratch.join("copy");
            let wanted = if fs == Fs::Tmpfs { kills() } else { kills().div_ceil(4) };
            let (mut killed, mut since, mut read, mut journal_read) = (0, 0_u32, 0_u64, 0_u64);
            let part =
                u64::try_from(took.as_micros()).unwrap() * 2 / u64::from(wanted.clamp(8, 12));
            loop {
                journal_read += journals(scratch.path())
                    .iter()
                    .map(|path| fs::metadata(path).unwrap().len())
                    .sum::<u64>();
                let last = killed >= wanted;
                let moment = Duration::from_micros(rng.below(part + 1));
                let moment = if last { Duration::from_secs(60) } else { moment };
                let (run, before) = kill_after(copy(backend, &source, &target).start(), moment);
                if let Some(before) = before {
                    assert_eq!(run.signal, Some(9), "{}", run.describe());
                    read += before;
                    killed += 1;
                    since += 1;
                    // Killed between the end of the copy and its own: nothing is left to go on with,
                    // and by cp's rule the same command would copy into what is there.
                    if journals(scratch.path()).is_empty() && target.exists() {
                        println!("{fs} {backend}: killed when everything was done");
                        assert_none(
                            &diff_trees(&source, &target, Compare::default()),
                            &run.describe(),
                        );
                        support::scratch::remove(&target);
                        (since, read, journal_read) = (0, 0, 0);
                    }
                    continue;
                }
                run.expect(0);
                assert_none(&diff_trees(&source, &target, Compare::default()), &run.describe());
                assert_eq!(
                    run.count("/resumed/files") + run.count("/copied/files"),
                    files,
                    "{}",
                    run.describe()
                );
                assert!(journals(scratch.path()).is_empty(), "{}", run.describe());
                read += run.count("/copied/bytes_moved");
                let allowed = data / 20
                    + u64::from(since) * (THREADS * IN_FLIGHT_BYTES + STARTING_BYTES)
                    + journal_read;
                let repeated = read.saturating_sub(data);
                println!(
                    "{fs} {backend}: {since} kills, {repeated} of {data} bytes read again, {} % \
                     (in flight and starting: {allowed})",
                    repeated * 100 / data
                );
                assert!(repeated <= allowed, "{repeated} > {allowed}: {}", run.describe());
                support::scratch::remove(&target);
                (since, read, journal_read) = (0, 0, 0);
                if last {
                    break;
                }
            }
        });
    }
}
