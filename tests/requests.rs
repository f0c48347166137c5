//! What a copy asks of its filesystems beside the files themselves. On a parallel filesystem each request is a
//! way to a server and back, and those before the first byte and after the last one wait for each other.
#![allow(clippy::unwrap_used, clippy::print_stderr, clippy::print_stdout, unreachable_pub)] // tests

mod support;

use std::fs;
use std::time::Duration;

use support::latency_fs::{Counters, Kind, LatencyFs, Profile};
use support::{Backend, Compare, Fs, Longshore, Rng, Scratch, assert_same_tree};

/// What one copy of a directory with one file asks of source and destination.
fn asked() -> Option<(Counters, Counters)> {
    let scratch = Scratch::new(Fs::Tmpfs)?;
    // Longer than the copy takes: what the kernel knows already is no request.
    let profile = Profile::immediate().cached(Duration::from_secs(60));
    let source = LatencyFs::new(&scratch, "source", profile.clone())?;
    let destination = LatencyFs::new(&scratch, "destination", profile)?;
    fs::create_dir(source.backing().join("tree")).unwrap();
    fs::write(source.backing().join("tree/file"), "something").unwrap();
    let (from, to) = (source.path().join("tree"), destination.path().join("tree"));
    Longshore::copy(Backend::Auto).arg("-T").args([&from, &to]).expect(0);
    assert_same_tree(
        &source.backing().join("tree"),
        &destination.backing().join("tree"),
        Compare::default(),
    );
    Some((source.counters(), destination.counters()))
}

#[test]
fn a_copy_asks_no_more_than_this_beside_its_files() {
    let Some((source, destination)) = asked() else { return };
    // Source and destination. The journal is looked for in two places, made, and removed; the kind of the
    // filesystem is asked of the directory that the tree lies in and of the tree, which may be a mount point. At the end
    // the tree is looked for once more: it may have been moved.
    let most = [
        (Kind::Lookup, 2, 7),
        (Kind::Getattr, 2, 3),
        (Kind::Open, 3, 4),
        (Kind::Statfs, 2, 2),
        (Kind::Create, 0, 2),
        (Kind::Readdir, 2, 0),
        (Kind::Unlink, 0, 1),
    ];
    for (kind, from, to) in most {
        let asked = (source.of(kind).requests, destination.of(kind).requests);
        assert!(asked.0 <= from && asked.1 <= to, "{kind:?}: {asked:?}, not {from} and {to}");
    }
}

/// Through the page cache they would be asked for in the pieces that the kernel reads ahead, which is 128 KiB. The length
/// is no whole number of anything.
#[test]
fn a_large_file_is_asked_for_in_long_requests_whatever_its_length() {
    const BYTES: usize = (40 << 20) + 123;
    let Some(scratch) = Scratch::new(Fs::Tmpfs) else { return };
    for backend in [Backend::Auto, Backend::Threads] {
        let name = |side: &str| format!("{side}-{backend}");
        let new = |side: &str| LatencyFs::new(&scratch, &name(side), Profile::immediate());
        let (Some(source), Some(destination)) = (new("source"), new("destination")) else { return };
        fs::create_dir(source.backing().join("tree")).unwrap();
        fs::write(source.backing().join("tree/file"), Rng::new(5).bytes(BYTES)).unwrap();
        let (from, to) = (source.path().join("tree"), destination.path().join("tree"));
        let run = Longshore::copy(backend).arg("-T").args([&from, &to]).expect(0);
        assert_eq!(run.report.as_ref().unwrap()["mechanisms"]["direct"], 1, "{}", run.describe());
        let asked = (source.counters().of(Kind::Read), destination.counters().of(Kind::Write));
        assert!(asked.0.requests <= 120 && asked.1.requests <= 120, "{asked:?}");
        let sides = [source, destination].map(|side| side.backing().join("tree"));
        assert_same_tree(&sides[0], &sides[1], Compare::default());
    }
}
