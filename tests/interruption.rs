//! A copy that is killed or cancelled at any moment, and the run after it. The faults of
//! filesystems are `faults.rs`.
#![allow(clippy::unwrap_used, clippy::print_stderr, clippy::print_stdout, unreachable_pub)] // tests

mod support;

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use support::compare::{Difference, assert_none};
use support::{
    Backend, Compare, Fs, Longshore, Rng, Run, Scratch, Seed, Tree, TreeOptions, assert_same_tree,
    diff_trees, for_each_backend, wait_for,
};

/// Kills for each backend and filesystem of one test.
const KILLS: u32 = 5;

/// Kills copies of one tree at random moments, and calls `after_kill` with source and copy; the run
/// after the last kill must end well, and leave an exact copy.
fn killed_again_and_again(after_kill: impl Fn(&Path, &Path, &Run)) {
    let seed = Seed::fresh();
    let mut rng = seed.rng();
    for fs in [Fs::Ext4, Fs::Xfs] {
        let Some(scratch) = Scratch::new(fs) else { continue };
        let tree = Tree::make(
            scratch.join("src"),
            seed.0,
            TreeOptions { many: 1500, ..TreeOptions::default() },
        );
        fs::write(tree.root.join("large"), rng.bytes(24 << 20)).unwrap();
        for_each_backend(|backend| {
            let whole = scratch.join("whole");
            let took = copy(backend, &tree.root, &whole).expect(0).elapsed;
            support::scratch::remove(&whole);
            let target = scratch.join(format!("copy-{backend}"));
            for _ in 0..KILLS {
                let moment =
                    Duration::from_micros(rng.below(u64::try_from(took.as_micros()).unwrap() + 1));
                let mut running = copy(backend, &tree.root, &target).start();
                let started = Instant::now();
                wait_for("the moment of the kill", Duration::from_secs(60), || {
                    started.elapsed() >= moment || running.ended()
                });
                running.signal(Signal::SIGKILL);
                let run = running.wait();
                assert!(run.signal == Some(9) || run.code == Some(0), "{}", run.describe());
                after_kill(&tree.root, &target, &run);
            }
            let last = copy(backend, &tree.root, &target).expect(0);
            assert_none(&diff_trees(&tree.root, &target, Compare::default()), &last.describe());
            support::scratch::remove(&target);
        });
    }
}

#[test]
fn a_copy_killed_at_any_moment_is_exact_after_the_next_run() {
    killed_again_and_again(|_, _, _| {});
}

/// Large files appear complete only. A small new one is made under its own name, so that a kill can
/// leave it short; but no more of them than were being written, and none with the source's time.
#[test]
fn a_killed_copy_leaves_no_half_file_but_the_small_ones_it_was_writing() {
    const SMALL: u64 = 1 << 20;
    const IN_FLIGHT: usize = 64;
    let workers = std::thread::available_parallelism().unwrap().get() * 4;
    killed_again_and_again(|source, target, run| {
        let (small, large): (Vec<_>, Vec<_>) = half_files(source, target)
            .into_iter()
            .partition(|d| fs::metadata(source.join(&d.path)).is_ok_and(|m| m.len() <= SMALL));
        assert_none(&large, &run.describe());
        let names: std::collections::HashSet<_> = small.iter().map(|d| &d.path).collect();
        assert!(names.len() <= workers * IN_FLIGHT, "{} half files: {names:?}", names.len());
    });
}

/// The promise that `--update` needs: what looks finished (size and time) is finished.
#[test]
fn what_a_killed_copy_leaves_with_the_right_size_and_time_is_complete() {
    killed_again_and_again(|source, target, run| {
        if target.exists() {
            let differences = diff_trees(
                source,
                target,
                Compare { top: false, holes: false, ..Compare::default() },
            );
            let unlike = |path: &Path| {
                differences
                    .iter()
                    .any(|d| d.path == path && matches!(d.what, "mtime" | "size" | "type"))
            };
            let hidden: Vec<_> = differences
                .iter()
                .filter(|d| d.what == "content" && !unlike(&d.path))
                .cloned()
                .collect();
            assert_none(&hidden, &run.describe());
        }
    });
}

fn copy(backend: Backend, source: &Path, target: &Path) -> Longshore {
    Longshore::copy(backend).args(["--update", "-T"]).arg(source).arg(target)
}

/// What has its final name but not its whole content.
fn half_files(source: &Path, target: &Path) -> Vec<Difference> {
    if !target.exists() {
        return Vec::new();
    }
    let differences =
        diff_trees(source, target, Compare { top: false, holes: false, ..Compare::default() });
    differences.into_iter().filter(|d| matches!(d.what, "content" | "size" | "type")).collect()
}

/// A source that takes long enough to be met in the middle: many files and a large one.
fn long_source(scratch: &Scratch) {
    let mut rng = Rng::new(11);
    for dir in 0..20 {
        fs::create_dir_all(scratch.join(format!("src/{dir}"))).unwrap();
        for n in 0..1000 {
            fs::write(scratch.join(format!("src/{dir}/{n}")), rng.bytes(1000)).unwrap();
        }
    }
    let piece = rng.bytes(1 << 20);
    fs::write(scratch.join("src/large"), piece.repeat(200)).unwrap();
}

fn cancelled(signal: Signal, code: i32, outcome: &str) {
    let (Some(source), Some(target)) = (Scratch::new(Fs::Tmpfs), Scratch::new(Fs::Ext4)) else {
        return;
    };
    long_source(&source);
    for_each_backend(|backend| {
        let copy_to = target.join(format!("copy-{backend}"));
        let mut running = copy(backend, &source.join("src"), &copy_to).start();
        let begun =
            |dir: &Path| fs::read_dir(dir).is_ok_and(|mut entries| entries.next().is_some());
        wait_for("the copy to begin", Duration::from_secs(30), || {
            begun(&copy_to) || running.ended()
        });
        assert!(running.signal(signal));
        let sent = Instant::now();
        let run = running.wait();
        let took = sent.elapsed();
        run.expect(code);
        assert!(took < Duration::from_secs(2), "{signal} took {took:?}: {}", run.describe());
        run.says("again"); // how to go on
        assert_eq!(run.report.as_ref().unwrap()["outcome"], outcome);
        assert_none(&half_files(&source.join("src"), &copy_to), &run.describe());
        copy(backend, &source.join("src"), &copy_to).expect(0);
        assert_same_tree(&source.join("src"), &copy_to, Compare::default());
        support::scratch::remove(&copy_to);
    });
}

#[test]
fn sigint_ends_the_copy_at_once_and_the_next_run_goes_on() {
    cancelled(Signal::SIGINT, 130, "interrupted");
}

#[test]
fn sigterm_ends_the_copy_at_once_and_the_next_run_goes_on() {
    cancelled(Signal::SIGTERM, 143, "terminated");
}

/// By cp's rule the second run of `copy a b` would go to `b/a`: what the summary and the report tell
/// people to add must lead to the same place.
#[test]
fn what_a_stopped_copy_tells_people_to_add_goes_on_in_the_same_place() {
    let (Some(source), Some(target)) = (Scratch::new(Fs::Tmpfs), Scratch::new(Fs::Ext4)) else {
        return;
    };
    long_source(&source);
    for_each_backend(|backend| {
        let copy_to = target.join(format!("copy-{backend}"));
        let command = || Longshore::copy(backend).arg(source.join("src")).arg(copy_to.as_path());
        let mut running = command().start();
        let begun =
            |dir: &Path| fs::read_dir(dir).is_ok_and(|mut entries| entries.next().is_some());
        wait_for("the copy to begin", Duration::from_secs(30), || {
            begun(&copy_to) || running.ended()
        });
        running.signal(Signal::SIGTERM);
        let stopped = running.wait();
        stopped.expect(143);
        let options = stopped.report.as_ref().unwrap()["go_on_with"].as_str().unwrap().to_owned();
        stopped.says(&options);
        command().args(options.split_whitespace()).expect(0);
        assert_same_tree(&source.join("src"), &copy_to, Compare::default());
        support::scratch::remove(&copy_to);
    });
}
