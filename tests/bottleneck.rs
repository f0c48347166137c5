//! The bottleneck that the report names: one kind of operation is made slow at a time, on filesystems
//! that take their time over it, and must be the one that is named. Limits are in `pace.rs`.
#![allow(clippy::unwrap_used, clippy::print_stderr, clippy::print_stdout, unreachable_pub)] // tests

mod support;

use std::fs;
use std::path::Path;
use std::time::Duration;

use support::latency_fs::{Kind, LatencyFs, Profile};
use support::{Backend, Compare, Fs, Longshore, Rng, Run, Scratch, assert_same_tree};

/// Many small files in several directories, and one large file.
fn make_tree(at: &Path) {
    let mut rng = Rng::new(7);
    for dir in 0..10 {
        let dir = at.join(format!("dir-{dir}"));
        fs::create_dir_all(&dir).unwrap();
        for file in 0..15 {
            fs::write(dir.join(format!("file-{file}")), rng.bytes(3000)).unwrap();
        }
    }
    fs::write(at.join("large"), rng.bytes(6 << 20)).unwrap();
}

#[track_caller]
fn named(run: &Run) -> &str {
    let bottleneck = &run.report.as_ref().unwrap()["bottleneck"];
    eprintln!("{bottleneck}");
    bottleneck["name"].as_str().unwrap()
}

/// The delay of all metadata, or of one kind.
const DELAY: Duration = Duration::from_millis(4);

#[test]
fn the_side_and_the_kind_that_is_slow_is_named() {
    let quick = Profile::immediate();
    // The kernel asks for `security.capability` in each write, which is then as slow as making a file.
    let slow = Profile::metadata(DELAY).delay(Kind::Getxattr, Duration::ZERO);
    let cases = [
        ("source-metadata", Profile::metadata(DELAY), quick.clone()),
        ("destination-create", quick.clone(), slow),
        ("source-read", quick.clone().delay(Kind::Read, 5 * DELAY), quick.clone()),
        ("destination-write", quick.clone(), quick.delay(Kind::Write, 5 * DELAY)),
    ];
    for (expected, source, destination) in cases {
        for backend in [Backend::Auto, Backend::Threads, Backend::Clone] {
            if backend == Backend::Clone && expected == "source-read" {
                continue; // copy_file_range cannot tell which of its two sides it waits for
            }
            let Some(scratch) = Scratch::new(Fs::Tmpfs) else { return };
            let Some(from) = LatencyFs::new(&scratch, "from", Profile::immediate()) else { return };
            let Some(to) = LatencyFs::new(&scratch, "to", Profile::immediate()) else { return };
            make_tree(&from.backing().join("src"));
            from.set(source.clone());
            to.set(destination.clone());
            let command = Longshore::copy(backend).arg(from.path().join("src"));
            let run = command.arg(to.path().join("copy")).run();
            run.expect(0);
            from.set(Profile::immediate());
            to.set(Profile::immediate());
            assert_eq!(named(&run), expected, "backend {backend}: {}", run.describe());
            let share = run.report.as_ref().unwrap()["bottleneck"]["share"].as_f64().unwrap();
            assert!(share > 0.5, "only {share} of the waiting: {}", run.describe());
            assert_same_tree(&from.path().join("src"), &to.path().join("copy"), Compare::default());
        }
    }
}

/// What is in memory already on both sides is held up by nothing but the processors.
#[test]
fn without_waiting_the_processors_are_named() {
    let Some(scratch) = Scratch::new(Fs::Tmpfs) else { return };
    let mut rng = Rng::new(8);
    for dir in 0..100 {
        let dir = scratch.join(format!("src/dir-{dir}"));
        fs::create_dir_all(&dir).unwrap();
        for file in 0..100 {
            fs::write(dir.join(format!("file-{file}")), rng.bytes(2000)).unwrap();
        }
    }
    for backend in [Backend::Auto, Backend::Threads] {
        let command = Longshore::copy(backend).arg(scratch.join("src"));
        let run = command.arg(scratch.join(format!("copy-{backend}"))).run();
        run.expect(0);
        assert_eq!(named(&run), "cpu", "{}", run.describe());
    }
}

/// Flushing at the end is writing: a destination that takes everything at once and then makes the
/// copy wait for it is slow all the same.
#[test]
fn a_slow_flush_at_the_end_is_writing() {
    let Some(scratch) = Scratch::new(Fs::Tmpfs) else { return };
    let slow = Profile::immediate().delay(Kind::Fsync, Duration::from_millis(40));
    let Some(to) = LatencyFs::new(&scratch, "to", slow) else { return };
    fs::create_dir(scratch.join("src")).unwrap();
    for file in 0..20 {
        fs::write(scratch.join(format!("src/file-{file}")), "content").unwrap();
    }
    let command = Longshore::copy(Backend::Auto).args(["--sync", "file"]);
    let run = command.arg(scratch.join("src")).arg(to.path().join("copy")).run();
    run.expect(0);
    assert_eq!(named(&run), "destination-write", "{}", run.describe());
}
