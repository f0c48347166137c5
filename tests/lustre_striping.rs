//! Large files on Lustre, by what the emulator's log says of them: who wrote which object when, what
//! was idle, what a slow server cost. The files are compared with their sources each time.
#![allow(clippy::unwrap_used, clippy::print_stderr, clippy::print_stdout, unreachable_pub)] // tests

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use lustre_emulator::Settings;
use nix::sys::signal::Signal;
use support::compare::assert_none;
use support::lustre::{Lustre, copy, data_writes, servers};
use support::{
    Backend, Compare, Fs, Run, Scratch, Seed, Tree, TreeOptions, assert_same_tree, cp_a,
    diff_trees, has_program, wait_for,
};

const MIB: u64 = 1 << 20;

/// A file of random bytes.
fn file_of(scratch: &Scratch, name: &str, bytes: u64, seed: u64) -> PathBuf {
    let path = scratch.join(name);
    let content = support::Rng::new(seed).bytes(usize::try_from(bytes).unwrap());
    fs::write(&path, content).unwrap();
    path
}

/// Eight stripes of 1 MiB by default, on servers of so many MB/s.
fn eight_stripes(megabytes: u64) -> Settings {
    Settings { stripe_count: 8, stripe_size: 1 << 20, ..servers(8, megabytes) }
}

#[track_caller]
fn assert_same_file(source: &Path, copy: &Path) {
    assert!(fs::read(source).unwrap() == fs::read(copy).unwrap(), "{} differs", copy.display());
}

/// From now on nothing takes time.
fn hurry(fs: &Lustre) {
    for ost in fs.emulator().osts() {
        ost.set_slow(1.0);
        ost.set_bandwidth(None);
        ost.set_latency(Duration::ZERO);
    }
    fs.emulator().mdt().set_latency(Duration::ZERO);
}

/// From the first arrival of a write to the last one that an OST had.
fn writing(fs: &Lustre) -> std::ops::Range<Duration> {
    let writes = data_writes(fs);
    let start = writes.iter().map(|write| write.start).min().unwrap();
    let ends = writes.iter().flat_map(|write| write.parts.iter().filter_map(|part| part.end));
    start..ends.max().unwrap()
}

/// When each OST had the last byte that was written to it, after the first write of all.
fn last_bytes(fs: &Lustre) -> BTreeMap<u32, Duration> {
    let begin = writing(fs).start;
    let mut last = BTreeMap::new();
    for write in data_writes(fs) {
        for part in &write.parts {
            if let (Some(object), Some(end)) = (part.object, part.end) {
                let latest = last.entry(object.ost).or_insert(Duration::ZERO);
                *latest = (*latest).max(end.saturating_sub(begin));
            }
        }
    }
    last
}

/// How many locks one thread took from another, and whether the copy was by objects.
fn copy_and_count(fs: &Lustre, source: &Path, how: &str) -> (Run, usize) {
    let target = fs.path().join(how);
    fs.emulator().log().clear();
    let run =
        copy(Backend::Auto, &[fs]).args(["--stripes", how]).arg(source).arg(&target).expect(0);
    assert_same_file(source, &fs.emulator().backing().join(how));
    let writes = data_writes(fs);
    let revocations = writes.iter().flat_map(|write| &write.parts).map(|part| part.revoked).sum();
    (run, revocations)
}

/// The largest share of the time for which an OST was idle at a stretch, and which.
fn longest_idle(fs: &Lustre) -> (f64, u32) {
    let time = writing(fs);
    let share = |ost| {
        let gaps = fs.emulator().log().idle_gaps(ost, time.clone());
        let longest = gaps.iter().map(|gap| gap.end - gap.start).max().unwrap_or_default();
        (longest.as_secs_f64() / (time.end - time.start).as_secs_f64(), ost)
    };
    (0..8).map(share).max_by(|one, other| one.0.total_cmp(&other.0)).unwrap()
}

#[test]
fn each_object_has_one_writer_no_piece_crosses_stripes_and_every_server_is_busy() {
    let Some(scratch) = Scratch::new(Fs::Tmpfs) else { return };
    let Some(fs) = Lustre::new(eight_stripes(40)) else { return };
    let source = file_of(&scratch, "source", 512 * MIB, 1);
    let (run, revocations) = copy_and_count(&fs, &source, "aware");
    assert_eq!(run.count("/mechanisms/striped"), 1, "{}", run.describe());
    let log = fs.emulator().log();
    assert_eq!(log.concurrent_writers(), [], "two threads wrote one object at the same time");
    assert!(log.crossing().is_empty(), "{:?}", log.crossing().first());
    assert_eq!(revocations, 0, "locks were taken from other threads");
    assert!((0..8).all(|ost| log.moved()[&ost].written >= 64 * MIB));
    // A machine that does something else for a moment makes a gap, too: the best of three.
    let mut idle = vec![longest_idle(&fs)];
    while idle.last().is_some_and(|(share, _)| *share >= 0.1) {
        assert!(idle.len() < 3, "idle for these shares of the time, on these OSTs: {idle:?}");
        copy_and_count(&fs, &source, "aware");
        idle.push(longest_idle(&fs));
    }
    // The twin that knows no stripes gives the same bytes, and the locks go to and fro.
    let (_, plain) = copy_and_count(&fs, &source, "ignore");
    assert!(plain > 100, "only {plain} locks were taken where stripes are ignored");
}

#[test]
fn a_slow_server_does_not_hold_back_the_others_of_one_file() {
    let Some(scratch) = Scratch::new(Fs::Tmpfs) else { return };
    let Some(fs) = Lustre::new(eight_stripes(40)) else { return };
    fs.emulator().ost(3).set_slow(10.0);
    let source = file_of(&scratch, "source", 128 * MIB, 2);
    copy_and_count(&fs, &source, "aware");
    assert_eq!(fs.emulator().log().concurrent_writers(), []);
    let last = last_bytes(&fs);
    // 16 MiB each: 0.42 s, and 4.2 s for the slow one.
    for (ost, end) in &last {
        let seconds = end.as_secs_f64();
        if *ost == 3 {
            assert!(seconds > 4.0, "the slow one was done after {seconds} s");
        } else {
            assert!(seconds < 1.5, "OST {ost} was held back: {seconds} s instead of 0.42");
        }
    }
}

#[test]
fn a_slow_server_does_not_hold_back_files_on_the_others() {
    let Some(scratch) = Scratch::new(Fs::Tmpfs) else { return };
    let settings = Settings { stripe_size: 1 << 20, window: 1 << 20, ..servers(8, 20) };
    let Some(fs) = Lustre::new(settings) else { return };
    let source = scratch.join("source");
    fs::create_dir(&source).unwrap();
    for file in 0..64 {
        file_of(&scratch, &format!("source/{file}"), 3 * MIB, file);
    }
    fs.emulator().ost(5).set_slow(10.0);
    let target = fs.path().join("copy");
    copy(Backend::Auto, &[&fs]).arg(&source).arg(&target).expect(0);
    let last = last_bytes(&fs);
    let slow = last[&5].as_secs_f64();
    // 24 MiB for each server: 1.3 s; 12.6 s for the slow one, whose files are an eighth of all.
    let others = last.iter().filter(|(ost, _)| **ost != 5).map(|(_, end)| end.as_secs_f64());
    let others = others.fold(0.0, f64::max);
    assert!(slow > 8.0, "the slow one was done after {slow} s");
    assert!(others < slow / 2.0, "the others took {others} s, the slow one {slow} s");
    hurry(&fs);
    assert_same_tree(&source, &target, Compare::default());
}

#[test]
fn files_that_wait_for_a_slow_server_leave_descriptors_to_the_others() {
    if !has_program("prlimit") {
        return;
    }
    // The walk is far ahead of the data.
    let mut slow_to_write = servers(1, 6);
    slow_to_write.mdt.latency = Duration::ZERO;
    let Some(fs) = Lustre::new(slow_to_write) else { return };
    let scratch = Scratch::on_disk();
    for chain in 0..60 {
        let deep =
            (0..13).fold(scratch.join(format!("src/{chain}")), |dir, n| dir.join(n.to_string()));
        fs::create_dir_all(&deep).unwrap();
        file_of(&scratch, deep.join("file").to_str().unwrap(), (11 << 20) / 10, chain);
    }
    let target = fs.join("copy");
    let copy = fs.copy(Backend::Threads).through(&["prlimit", "--nofile=256:256"]);
    let run = copy.arg("-T").arg(scratch.join("src")).arg(&target).run();
    run.expect(0);
    assert_none(&diff_trees(&scratch.join("src"), &target, Compare::default()), &run.describe());
}

#[test]
fn a_file_on_one_object_has_one_writer_as_well() {
    let Some(scratch) = Scratch::new(Fs::Tmpfs) else { return };
    let Some(fs) = Lustre::new(servers(4, 400)) else { return };
    let source = file_of(&scratch, "source", 64 * MIB + 12_345, 3);
    let (_, revocations) = copy_and_count(&fs, &source, "aware");
    assert_eq!(fs.emulator().log().concurrent_writers(), []);
    assert_eq!(revocations, 0);
}

#[test]
fn fewer_workers_than_objects_finish_all_objects_at_about_the_same_time() {
    let Some(scratch) = Scratch::new(Fs::Tmpfs) else { return };
    // Without a window a worker waits for its server: three of them keep three servers busy.
    let settings = Settings { window: 0, ..eight_stripes(80) };
    let Some(fs) = Lustre::new(settings) else { return };
    let source = file_of(&scratch, "source", 1024 * MIB, 4);
    let target = fs.path().join("copy");
    let three = ["--threads", "3", "--concurrency", "fixed"];
    copy(Backend::Auto, &[&fs]).args(three).arg(&source).arg(&target).expect(0);
    assert_same_file(&source, &fs.emulator().backing().join("copy"));
    let last: Vec<f64> = last_bytes(&fs).values().map(Duration::as_secs_f64).collect();
    let (first, all) =
        (last.iter().copied().fold(f64::MAX, f64::min), last.iter().copied().fold(0.0, f64::max));
    assert!(first > 0.5 * all, "the first object was done after {first} s of {all} s");
    assert!(fs.emulator().log().crossing().is_empty());
}

#[test]
fn a_striped_source_is_read_from_all_its_servers_at_once() {
    let Some(scratch) = Scratch::new(Fs::Tmpfs) else { return };
    let settings = Settings { cached_reads: false, ..eight_stripes(40) };
    let Some(fs) = Lustre::new(settings) else { return };
    let original = file_of(&scratch, "original", 256 * MIB, 5);
    let source = fs.path().join("source");
    fs::copy(&original, &source).unwrap();
    fs.emulator().log().clear();
    let target = scratch.join("copy");
    let run = copy(Backend::Auto, &[&fs]).arg(&source).arg(&target).expect(0);
    assert_eq!(run.count("/mechanisms/striped"), 1, "{}", run.describe());
    assert_same_file(&original, &target);
    for (ost, moved) in fs.emulator().log().moved() {
        assert_eq!(moved.read, 32 * MIB, "OST {ost}: read once");
    }
    // 32 MiB from each server take 0.84 s; one after the other it would be 6.7 s.
    assert!(run.elapsed < Duration::from_secs(3), "{:?}", run.elapsed);
}

#[test]
fn between_two_filesystems_both_sides_are_kept_busy() {
    let Some(scratch) = Scratch::new(Fs::Tmpfs) else { return };
    let settings = Settings { cached_reads: false, ..eight_stripes(40) };
    let Some(from) = Lustre::new(settings) else { return };
    let Some(to) = Lustre::new(Settings { stripe_count: 4, ..eight_stripes(80) }) else { return };
    let original = file_of(&scratch, "original", 256 * MIB, 6);
    let source = from.path().join("source");
    fs::copy(&original, &source).unwrap();
    let run = copy(Backend::Auto, &[&from, &to]).arg(&source).arg(to.path().join("copy")).expect(0);
    assert_same_file(&original, &to.emulator().backing().join("copy"));
    assert_eq!(to.emulator().log().concurrent_writers(), []);
    assert!(to.emulator().log().crossing().is_empty());
    assert!(run.elapsed < Duration::from_secs(3), "{:?} instead of 0.84 s", run.elapsed);
}

#[test]
fn trees_of_all_kinds_of_files_are_exact_in_every_setting_and_with_verification() {
    let seed = Seed::fresh();
    let Some(scratch) = Scratch::new(Fs::Tmpfs) else { return };
    let small = Settings { stripe_count: 3, stripe_size: 64 << 10, ..Settings::default() };
    let Some(fs) = Lustre::new(small) else { return };
    let source = scratch.join("source");
    Tree::make(&source, seed.0, TreeOptions { deep: 5, ..TreeOptions::default() });
    file_of(&scratch, "source/large", 9 * MIB + 4097, seed.0);
    for (index, how) in ["aware", "ignore"].into_iter().enumerate() {
        for further in [&[][..], &["--verify"], &["--threads", "1"], &["--manifest", "none.jsonl"]]
        {
            let name = format!("{index}-{}", further.join(""));
            let manifest = scratch.join(format!("{name}.manifest"));
            let further = further.iter().map(|word| {
                if *word == "none.jsonl" { manifest.clone() } else { PathBuf::from(word) }
            });
            let target = fs.path().join(&name);
            copy(Backend::Auto, &[&fs])
                .args(["--stripes", how])
                .args(further)
                .arg(&source)
                .arg(&target)
                .expect(0);
            assert_same_tree(&source, &target, Compare::default());
        }
    }
    // And from there to somewhere else.
    let back = scratch.join("back");
    copy(Backend::Auto, &[&fs]).arg("--verify").arg(fs.path().join("0-")).arg(&back).expect(0);
    assert_same_tree(&source, &back, Compare::default());
}

#[test]
fn copies_killed_at_random_go_on_by_objects_and_repeat_only_what_was_in_flight() {
    let seed = Seed::fresh();
    let mut rng = seed.rng();
    let Some(scratch) = Scratch::new(Fs::Tmpfs) else { return };
    let Some(fs) = Lustre::new(eight_stripes(40)) else { return };
    let source = scratch.join("source");
    fs::create_dir(&source).unwrap();
    file_of(&scratch, "source/large", 300 * MIB, seed.0);
    for file in 0..200 {
        file_of(&scratch, &format!("source/{file}"), 1 + rng.below(3 * MIB / 2), seed.0 ^ file);
    }
    let target = fs.path().join("copy");
    let kills =
        if std::env::var("LONGSHORE_SCALE").is_ok_and(|word| word == "full") { 40 } else { 8 };
    let mut killed = 0;
    loop {
        let mut running = copy(Backend::Auto, &[&fs]).arg(&source).arg(&target).start();
        let moment = Duration::from_millis(rng.below(if killed < kills { 900 } else { 1 << 40 }));
        let begun = std::time::Instant::now();
        wait_for("the moment of the kill", Duration::from_secs(120), || {
            begun.elapsed() >= moment || running.ended()
        });
        running.signal(Signal::SIGKILL);
        let run = running.wait();
        if run.signal.is_none() {
            run.expect(0);
            break;
        }
        killed += 1;
    }
    hurry(&fs);
    assert_none(&diff_trees(&source, &target, Compare::default()), "the copy after kills");
    let size: u64 =
        fs::read_dir(&source).unwrap().map(|entry| entry.unwrap().metadata().unwrap().len()).sum();
    let written: u64 = fs.emulator().log().moved().values().map(|moved| moved.written).sum();
    // In flight: for each of 16 workers a piece of 1 MiB and what lies ready, and what small files there are.
    let most = size + size / 20 + killed * 48 * MIB;
    eprintln!("{killed} kills: {written} bytes written for {size}");
    assert!(written <= most, "{written} bytes written for {size}, {killed} kills, at most {most}");
    assert!(killed > 0, "no kill hit the copy");
}

#[test]
fn a_server_that_recovers_is_waited_for() {
    let Some(scratch) = Scratch::new(Fs::Tmpfs) else { return };
    let Some(fs) = Lustre::new(eight_stripes(20)) else { return };
    let full = std::env::var("LONGSHORE_SCALE").is_ok_and(|word| word == "full");
    let stall = Duration::from_secs(if full { 60 } else { 4 });
    let source = file_of(&scratch, "source", 128 * MIB, 8);
    let target = fs.path().join("copy");
    let running = copy(Backend::Auto, &[&fs]).arg(&source).arg(&target).start();
    wait_for("data is written", Duration::from_secs(30), || data_writes(&fs).len() > 8);
    fs.emulator().ost(2).stall_for(stall);
    fs.emulator().mdt().stall_for(stall / 2);
    let run = running.wait();
    run.expect(0);
    assert!(run.elapsed >= stall, "{:?}: the stall was not met", run.elapsed);
    assert!(run.elapsed < stall + Duration::from_secs(10), "{:?}", run.elapsed);
    assert_same_file(&source, &fs.emulator().backing().join("copy"));
    assert_eq!(run.count("/failed"), 0, "{}", run.describe());
}

#[test]
fn small_files_are_copied_with_many_in_flight_and_without_asking_for_layouts() {
    let Some(scratch) = Scratch::new(Fs::Tmpfs) else { return };
    let Some(fs) = Lustre::new(servers(8, 100)) else { return };
    let source = scratch.join("source");
    for dir in 0..20 {
        fs::create_dir_all(source.join(dir.to_string())).unwrap();
        for file in 0..50 {
            file_of(&scratch, &format!("source/{dir}/{file}"), 4096, file);
        }
    }
    let run = copy(Backend::Auto, &[&fs]).arg(&source).arg(fs.path().join("copy")).expect(0);
    let names: BTreeSet<PathBuf> = fs
        .emulator()
        .log()
        .records()
        .into_iter()
        .filter(|record| record.attribute.as_deref() == Some("lustre.lov"))
        .filter_map(|record| record.path)
        .collect();
    assert!(names.len() <= 2, "layouts of {names:?} were asked for");
    assert_same_tree(&source, &fs.path().join("copy"), Compare::default());
    let begun = std::time::Instant::now();
    cp_a(&source, &fs.path().join("cp"));
    let ratio = begun.elapsed().as_secs_f64() / run.elapsed.as_secs_f64();
    eprintln!("{ratio:.1} times as fast as cp -a");
    assert!(ratio > 4.0, "only {ratio:.1} times as fast as cp -a"); // the bench shows more
}
