//! The journal: a copy that is killed at any moment goes on with the same command, and copies again
//! neither what was finished nor more than was in flight. What is kept of a tree is `fidelity.rs`.
#![allow(clippy::unwrap_used, clippy::print_stderr, clippy::print_stdout, unreachable_pub)] // tests

mod support;

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::signal::Signal;
use support::compare::assert_none;
use support::journals::{
    copy, entries, journals, kill_when, kill_within_large, large, long_tree, many, settle,
    temporary, the_journal,
};
use support::tree::{chmod, set_times};
use support::{
    Backend, Compare, Fs, Longshore, NOBODY, Run, Scratch, Seed, assert_same_tree, diff_trees,
    for_each_backend, is_journal, need_root, wait_for,
};

/// Names that are complete in a copy which was killed, by name.
fn complete(source: &Path, target: &Path) -> Vec<PathBuf> {
    let same = |name: &PathBuf| {
        let look =
            |dir: &Path| fs::metadata(dir.join(name)).ok().map(|m| (m.mtime(), m.mtime_nsec()));
        look(source) == look(target)
    };
    let mut names: Vec<PathBuf> = fs::read_dir(target)
        .unwrap()
        .map(|entry| PathBuf::from(entry.unwrap().file_name()))
        .filter(|name| !is_journal(name))
        .filter(same)
        .collect();
    names.sort();
    names
}

#[test]
fn what_changed_on_either_side_since_is_copied_anew() {
    for_each_backend(|backend| {
        let Some(scratch) = Scratch::new(Fs::Tmpfs) else { return };
        let source = many(&scratch, 6000);
        let target = scratch.join("copy");
        kill_when(copy(backend, &source, &target), "files", || entries(&target) > 1500);
        let done = complete(&source, &target);
        assert!(done.len() > 100);
        let of = |n: usize| (source.join(&done[n]), target.join(&done[n]));
        // In the source: other content with size and time kept; a link; a directory; gone.
        let (path, _) = of(0);
        let time = fs::metadata(&path).unwrap();
        fs::write(&path, [9; 3000]).unwrap();
        set_times(&path, time.mtime(), time.mtime_nsec());
        let (path, _) = of(1);
        fs::remove_file(&path).unwrap();
        symlink("elsewhere", &path).unwrap();
        let (path, there) = of(2);
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        fs::remove_file(&there).unwrap();
        let gone = of(3);
        fs::remove_file(&gone.0).unwrap();
        // At the destination: gone, shorter, another time, a link to somewhere.
        fs::remove_file(of(4).1).unwrap();
        fs::File::options().write(true).open(of(5).1).unwrap().set_len(17).unwrap();
        fs::write(of(6).1, [1; 3000]).unwrap();
        fs::remove_file(of(7).1).unwrap();
        symlink("/nowhere", of(7).1).unwrap();
        let run = copy(backend, &source, &target).expect(0);
        fs::remove_file(&gone.1).unwrap();
        let same = Compare { top: false, ..Compare::default() };
        assert_none(&diff_trees(&source, &target, same), &run.describe());
        let resumed = run.count("/resumed/files");
        assert!(resumed + 30 >= u64::try_from(done.len()).unwrap(), "{}", run.describe());
    });
}

/// In a directory that others may write to, a file of ours can be given the name of the journal.
#[test]
fn a_file_that_only_has_the_journals_name_as_well_is_left_alone() {
    let Some(scratch) = Scratch::new(Fs::Tmpfs) else { return };
    let source = many(&scratch, 2000);
    let target = scratch.join("copy");
    kill_when(copy(Backend::Auto, &source, &target).arg("-T"), "files", || entries(&target) > 500);
    let journal = the_journal(scratch.path());
    let thesis = scratch.join("thesis");
    fs::write(&thesis, "years of work").unwrap();
    fs::remove_file(&journal).unwrap();
    fs::hard_link(&thesis, &journal).unwrap();
    let state = scratch.join("state");
    let command = copy(Backend::Auto, &source, &target)
        .arg("-T")
        .env("XDG_STATE_HOME", state.to_str().unwrap());
    command.expect(0);
    assert_eq!(fs::read_to_string(&thesis).unwrap(), "years of work");
    assert_same_tree(&source, &target, Compare::default());
}

/// Whatever somebody keeps under the journal's name stays as it is, byte by byte. The journal lies
/// elsewhere, and goes on from there.
#[test]
fn a_file_under_the_journals_name_that_is_none_is_neither_overwritten_nor_removed() {
    for content in [&b"years of work"[..], &[0; 9000], &[b'x'; 70_000]] {
        let Some(scratch) = Scratch::new(Fs::Tmpfs) else { return };
        let source = many(&scratch, 4000);
        let target = scratch.join("copy");
        let state = scratch.join("state");
        let command = || {
            let command = copy(Backend::Auto, &source, &target);
            command.env("XDG_STATE_HOME", state.to_str().unwrap())
        };
        kill_when(command(), "files", || entries(&target) > 500);
        let journal = the_journal(scratch.path());
        support::scratch::remove(&target);
        fs::write(&journal, content).unwrap();
        let before = fs::metadata(&journal).unwrap();
        command().arg("--resume").expect(2).says("no journal of this copy");
        kill_when(command(), "files", || entries(&target) > 500);
        let run = command().arg("--resume").expect(0);
        assert!(run.count("/resumed/files") > 300, "{}", run.describe());
        let notes = run.report.as_ref().unwrap()["setup"]["notes"].to_string();
        assert!(notes.contains("is no journal of Longshore; it is not used"), "{notes}");
        assert!(fs::read(&journal).unwrap() == content);
        let after = fs::metadata(&journal).unwrap();
        let identity = |file: &fs::Metadata| (file.ino(), file.mtime(), file.mtime_nsec());
        assert_eq!(identity(&after), identity(&before));
        fs::remove_file(&journal).unwrap();
        assert_none(&diff_trees(&source, &target, Compare::default()), &run.describe());
    }
}

/// ext4 gives the inode number of a removed directory to the next one. The journal must not take it for
/// the one that the copy had made: by cp's rule the copy goes into it.
#[test]
fn a_later_directory_with_the_inode_number_of_the_destination_is_not_taken_for_it() {
    let Some(scratch) = Scratch::new(Fs::Ext4) else { return };
    let source = many(&scratch, 2000);
    let target = scratch.join("copy");
    kill_when(copy(Backend::Auto, &source, &target), "files", || entries(&target) > 500);
    let inode = fs::metadata(&target).unwrap().ino();
    support::scratch::remove(&target);
    let taken: Vec<_> = (0..200)
        .map(|number| scratch.join(format!("other-{number}")))
        .take_while(|other| {
            fs::create_dir(other).unwrap();
            fs::metadata(other).unwrap().ino() != inode
        })
        .collect();
    let same = scratch.join(format!("other-{}", taken.len()));
    if !same.exists() {
        return support::skip("the inode number was not given again");
    }
    fs::rename(same, &target).unwrap();
    assert_eq!(fs::metadata(&target).unwrap().ino(), inode);
    let run = copy(Backend::Auto, &source, &target).expect(0);
    let inside = target.join(source.file_name().unwrap());
    assert_none(&diff_trees(&source, &inside, Compare::default()), &run.describe());
    assert_eq!(entries(&target), 1, "{}", run.describe());
}

/// Every form of naming the destination, killed and given again.
#[test]
fn the_same_command_goes_on_in_the_same_place_however_it_names_it() {
    let backend = Backend::Auto;
    // The command's arguments, whether the destination exists, where the copy is, and the journal.
    let table: [(&[&str], bool, &str, &str); 8] = [
        (&["src", "dst"], false, "dst", ""),
        (&["src", "dst"], true, "dst/src", "dst"),
        (&["src/", "dst"], false, "dst", ""),
        (&["src/", "dst"], true, "dst", "dst"),
        (&["-T", "src", "dst"], false, "dst", ""),
        (&["-T", "src", "dst"], true, "dst", "dst"),
        (&["-t", "dst", "src"], true, "dst/src", "dst"),
        (&["-p", "src", "dst/deep/down"], false, "dst/deep/down", "dst/deep"),
    ];
    for (args, exists, place, journal) in table {
        let Some(scratch) = Scratch::new(Fs::Tmpfs) else { return };
        let source = many(&scratch, 4000);
        set_times(&source, 1_000_000_000, 5);
        if exists {
            fs::create_dir(scratch.join("dst")).unwrap();
        }
        let at = scratch.join(place);
        let command = || Longshore::copy(backend).current_dir(scratch.path()).args(args);
        kill_when(command(), "files", || entries(&at) > 500);
        the_journal(&scratch.join(journal));
        // Looking costs nothing and changes nothing.
        let looked = command().arg("--dry-run").expect(0);
        assert!(!looked.stdout.contains("dst/src") || place.ends_with("src"), "{}", looked.stdout);
        let run = command().arg("--resume").expect(0);
        assert!(run.count("/resumed/files") > 300, "{args:?}: {}", run.describe());
        assert_none(&diff_trees(&source, &at, Compare::default()), &run.describe());
        assert!(journals(&scratch.join(journal)).is_empty());
        assert!(!scratch.join("dst/src/src").exists());
    }
}

/// After a crash of the machine the journal may be there without content: the same command must not put the copy one
/// level deeper for that.
#[test]
fn a_journal_of_zeros_is_an_empty_one() {
    let Some(scratch) = Scratch::new(Fs::Ext4) else { return };
    let source = many(&scratch, 300);
    for_each_backend(|backend| {
        let target = scratch.join(format!("copy-{backend}"));
        let slow = copy(backend, &source, &target).args(["--bandwidth-limit", "300K"]);
        kill_when(slow, "some files", || entries(&target) > 30);
        let journal = the_journal(scratch.path());
        let length = usize::try_from(fs::metadata(&journal).unwrap().len()).unwrap();
        fs::write(&journal, vec![0; length]).unwrap();
        let run = copy(backend, &source, &target).expect(0);
        assert_none(&diff_trees(&source, &target, Compare::default()), &run.describe());
        assert!(!journal.exists(), "{}", run.describe());
    });
}

/// Both look for a journal before either has made one.
#[test]
fn of_two_that_start_at_the_same_moment_one_is_refused() {
    let Some(scratch) = Scratch::new(Fs::Tmpfs) else { return };
    let source = many(&scratch, 400);
    let mut refused = 0;
    for round in 0..12 {
        let target = scratch.join(format!("copy-{round}"));
        let start = || copy(Backend::Auto, &source, &target).arg("-T").start();
        let runs = [start(), start()].map(|running| running.wait());
        let codes = runs.each_ref().map(|run| run.code);
        refused += codes.iter().filter(|code| **code == Some(2)).count();
        // One may have been over before the other began.
        assert!(codes.contains(&Some(0)), "{}", runs[0].describe());
        assert!(codes.iter().all(|code| matches!(code, Some(0 | 2))), "{}", runs[1].describe());
        assert_none(&diff_trees(&source, &target, Compare::default()), &runs[0].describe());
        assert_eq!(journals(scratch.path()).len(), 0, "{}", runs[0].describe());
    }
    println!("{refused} of 12 were refused");
}

/// Without times nothing tells what an earlier run finished from what another copy has put in its place.
#[test]
fn without_times_nothing_that_is_there_is_taken_as_finished() {
    let Some(scratch) = Scratch::new(Fs::Ext4) else { return };
    let sources = ["one", "two"].map(|name| {
        let source = scratch.join(name);
        fs::create_dir(&source).unwrap();
        for file in 0..60 {
            fs::write(source.join(file.to_string()), name.repeat(20_000)).unwrap();
        }
        source
    });
    settle(&sources[1].join("59"));
    for_each_backend(|backend| {
        let target = scratch.join(format!("copy-{backend}"));
        let of = |source: &Path| {
            copy(backend, source, &target).args(["-T", "--no-preserve", "timestamps"])
        };
        let slow = of(&sources[0]).args(["--bandwidth-limit", "1M"]);
        kill_when(slow, "some files", || entries(&target) > 30);
        of(&sources[1]).expect(0);
        let run = of(&sources[0]).expect(0);
        for file in fs::read_dir(&target).unwrap() {
            let content = fs::read_to_string(file.unwrap().path()).unwrap();
            assert!(content.starts_with("one"), "{}", run.describe());
        }
    });
}

#[test]
fn several_sources_and_options_that_choose_go_on_too() {
    let table: [&[&str]; 4] = [
        &["a", "b", "dst"],
        &["--delete", "--update", "a", "b", "dst"],
        &["--exclude", "f00*", "a", "b", "dst"],
        &["--no-preserve", "timestamps", "a", "b", "dst"],
    ];
    for args in table {
        let Some(scratch) = Scratch::new(Fs::Tmpfs) else { return };
        let source = many(&scratch, 4000);
        fs::rename(&source, scratch.join("a")).unwrap();
        let source = many(&scratch, 4000);
        fs::rename(&source, scratch.join("b")).unwrap();
        fs::create_dir(scratch.join("dst")).unwrap();
        let command = || Longshore::copy(Backend::Auto).current_dir(scratch.path()).args(args);
        kill_when(command(), "files", || entries(&scratch.join("dst/a")) > 500);
        let other = Longshore::copy(Backend::Auto)
            .current_dir(scratch.path())
            .args(["--resume", "-x"])
            .args(args)
            .expect(2);
        other.says("no journal");
        let run = command().expect(0);
        assert!(run.count("/resumed/files") > 200, "{args:?}: {}", run.describe());
        let again = scratch.join("again");
        fs::create_dir(&again).unwrap();
        let last = args.len() - 1;
        Longshore::copy(Backend::Auto)
            .current_dir(scratch.path())
            .args(&args[..last])
            .arg(&again)
            .expect(0);
        let same = Compare { top: false, ..Compare::default() };
        let mut differences = diff_trees(&again, &scratch.join("dst"), same);
        if args.contains(&"timestamps") {
            differences.retain(|d| d.what != "mtime");
        }
        assert_none(&differences, &run.describe());
    }
}

#[test]
fn only_what_failed_is_copied_by_the_same_command() {
    if !need_root() {
        return;
    }
    for_each_backend(|backend| {
        let Some(scratch) = Scratch::new(Fs::Ext4) else { return };
        scratch.open_to_all();
        let source = many(&scratch, 300);
        let closed = source.join("f00007");
        chmod(&closed, 0);
        let command = || copy(backend, &source, &scratch.join("copy")).user(NOBODY);
        let run = command().args(["--no-preserve", "ownership"]).expect(1);
        assert_eq!(run.failed, std::slice::from_ref(&closed));
        run.says("same command");
        chmod(&closed, 0o644);
        settle(&closed);
        let run = command().args(["--no-preserve", "ownership"]).expect(0);
        assert_eq!(run.count("/copied/files"), 1, "{}", run.describe());
        assert_eq!(run.count("/resumed/files"), 299, "{}", run.describe());
        let same = Compare { owner: false, ..Compare::default() };
        assert_none(&diff_trees(&source, &scratch.join("copy"), same), &run.describe());
    });
}

#[test]
fn a_journal_that_is_damaged_foreign_or_missing_is_never_trusted() {
    let Some(scratch) = Scratch::new(Fs::Tmpfs) else { return };
    let source = many(&scratch, 4000);
    let target = scratch.join("copy");
    let given = scratch.join("given");
    let command = || copy(Backend::Auto, &source, &target);
    let with = |path: &Path| command().arg("--journal").arg(path);
    let killed = || {
        support::scratch::remove(&target);
        kill_when(command(), "files", || entries(&target) > 500);
        the_journal(scratch.path())
    };
    let ends_well = |run: &Run| {
        assert_none(&diff_trees(&source, &target, Compare::default()), &run.describe());
        assert!(journals(scratch.path()).is_empty(), "{}", run.describe());
    };

    // Nothing to go on with.
    command().arg("--resume").expect(2).says("no journal of this copy");
    command().args(["--resume", "--journal", "none"]).expect(2).says("--journal none");

    // A damaged header: refused when going on was asked for, else replaced, in the same place.
    let journal = killed();
    let mut bytes = fs::read(&journal).unwrap();
    for at in (30..4096).step_by(100) {
        bytes[at] ^= 0x55;
        bytes[32768 + at] ^= 0x55;
    }
    fs::write(&journal, &bytes).unwrap();
    command().arg("--resume").expect(2).says("damaged");
    let run = command().expect(0);
    assert!(run.report.as_ref().unwrap()["setup"]["notes"].to_string().contains("damaged"));
    ends_well(&run);

    // An empty file.
    let journal = killed();
    fs::write(&journal, "").unwrap();
    let run = command().expect(0);
    assert_eq!(run.count("/resumed/files"), 0);
    ends_well(&run);

    // Cut short, entries included.
    let journal = killed();
    let length = fs::metadata(&journal).unwrap().len();
    fs::File::options().write(true).open(&journal).unwrap().set_len(length - 70_001).unwrap();
    ends_well(&command().expect(0));

    // Started over on request.
    killed();
    let run = command().arg("--fresh").expect(0);
    assert_eq!(run.count("/copied/files"), 4000);
    ends_well(&run);

    // A file that the user named is not overwritten unless it is this copy's journal.
    support::scratch::remove(&target);
    fs::write(&given, "my thesis").unwrap();
    for more in ["--fresh", "--update"] {
        with(&given).arg(more).expect(2).says("is no journal");
    }
    assert_eq!(fs::read(&given).unwrap(), b"my thesis");
    for zeros in [9000, 128 << 10] {
        fs::write(&given, vec![0; zeros]).unwrap();
        with(&given).expect(2).says("is no journal");
    }
    fs::remove_file(&given).unwrap();
    symlink(scratch.join("behind"), &given).unwrap();
    with(&given).expect(2);
    assert!(!scratch.join("behind").exists());
    fs::remove_file(&given).unwrap();
    with(Path::new("/nowhere/journal")).expect(2);
    assert!(!target.exists());

    kill_when(with(&given), "files", || entries(&target) > 500);
    with(&given).arg("-x").expect(2).says("journal of another copy");
    let run = with(&given).arg("--resume").expect(0);
    assert!(run.count("/resumed/files") > 300 && !given.exists(), "{}", run.describe());
    ends_well(&run);

    // Without one nothing is noted, and the report says how to go on.
    support::scratch::remove(&target);
    let none = || command().args(["--journal", "none"]);
    let mut running = none().start();
    wait_for("files", Duration::from_secs(30), || entries(&target) > 500 || running.ended());
    running.signal(Signal::SIGTERM);
    let run = running.wait();
    assert!(journals(scratch.path()).is_empty());
    assert_eq!(run.expect(143).report.as_ref().unwrap()["go_on_with"], "--update -T");
}

/// Whatever is changed in a journal, the copy is exact.
#[test]
fn a_copy_with_a_changed_journal_is_exact() {
    let seed = Seed::fresh();
    let mut rng = seed.rng();
    let Some(scratch) = Scratch::new(Fs::Tmpfs) else { return };
    let source = long_tree(&scratch, 4);
    let target = scratch.join("copy");
    for case in 0..8 {
        let moment = || temporary(&target).is_some() || entries(&target.join("many")) > 300;
        kill_when(copy(Backend::Auto, &source, &target), "some of it", moment);
        let journal = the_journal(scratch.path());
        let mut bytes = fs::read(&journal).unwrap();
        let flips = 1 << rng.below(12);
        let from = if case % 2 == 0 { 65536 } else { 0 };
        for _ in 0..flips {
            let room = u64::try_from(bytes.len() - from).unwrap();
            let at = from + usize::try_from(rng.below(room)).unwrap();
            bytes[at] ^= u8::try_from(1 + rng.below(255)).unwrap();
        }
        fs::write(&journal, &bytes).unwrap();
        let run = copy(Backend::Auto, &source, &target).expect(0);
        assert_none(&diff_trees(&source, &target, Compare::default()), &run.describe());
        assert!(journals(scratch.path()).is_empty(), "{}", run.describe());
        support::scratch::remove(&target);
    }
}

#[test]
fn a_copy_that_is_running_is_not_started_a_second_time() {
    let Some(scratch) = Scratch::new(Fs::Tmpfs) else { return };
    let source = many(&scratch, 6000);
    let target = scratch.join("copy");
    let mut running = copy(Backend::Auto, &source, &target).start();
    wait_for("files", Duration::from_secs(30), || entries(&target) > 10 || running.ended());
    running.signal(Signal::SIGSTOP);
    copy(Backend::Auto, &source, &target).expect(2).says("running already");
    running.signal(Signal::SIGCONT);
    running.wait().expect(0);
    assert_same_tree(&source, &target, Compare::default());
}

#[test]
fn where_no_journal_can_lie_beside_the_copy_it_lies_among_the_users_state() {
    if !need_root() {
        return;
    }
    let Some(scratch) = Scratch::new(Fs::Ext4) else { return };
    scratch.open_to_all();
    let source = many(&scratch, 6000);
    let state = scratch.join("state");
    fs::create_dir(&state).unwrap();
    chmod(&state, 0o777);
    // A closed directory with an open one in it: `-T` renames nothing into the closed one.
    let closed = scratch.join("closed");
    fs::create_dir_all(&closed).unwrap();
    chmod(&source, 0o777);
    let target = closed.join("copy");
    fs::create_dir(&target).unwrap();
    support::tree::give_to(&target, NOBODY);
    // Its own directory takes no journal either, until the engine opens it.
    chmod(&target, 0o555);
    let command = || {
        Longshore::copy(Backend::Auto)
            .user(NOBODY)
            .env("XDG_STATE_HOME", state.to_str().unwrap())
            .args(["--no-preserve", "ownership", "-T"])
            .arg(&source)
            .arg(&target)
    };
    kill_when(command(), "files", || entries(&target) > 500);
    assert!(journals(&target).is_empty());
    assert_eq!(entries(&state.join("longshore")), 1);
    let run = command().arg("--resume").expect(0);
    assert!(run.count("/resumed/files") > 300, "{}", run.describe());
    assert_eq!(entries(&state.join("longshore")), 0);
    let same = Compare { owner: false, ..Compare::default() };
    assert_none(&diff_trees(&source, &target, same), &run.describe());
    // Neither here nor there: the copy goes on without, and says so.
    support::scratch::remove(&target);
    fs::create_dir(&target).unwrap();
    support::tree::give_to(&target, NOBODY);
    chmod(&target, 0o555);
    chmod(&state, 0o500);
    support::scratch::remove(&state.join("longshore"));
    let run = command().expect(0);
    assert!(run.report.unwrap()["setup"]["notes"].to_string().contains("no journal"));
}

/// A journal lies in the destination: it is neither copied, nor deleted, nor seen in the times.
#[test]
fn journals_are_neither_copied_nor_deleted() {
    let Some(scratch) = Scratch::new(Fs::Tmpfs) else { return };
    let source = many(&scratch, 50);
    let target = scratch.join("dst");
    fs::create_dir(&target).unwrap();
    let name = ".longshore-0123456789abcdef.journal";
    fs::write(target.join(name), "of another copy").unwrap();
    set_times(&source, 1_000_000_000, 7);
    let contents = format!("{}/", source.display());
    let run = Longshore::copy(Backend::Auto).args(["--delete", &contents]).arg(&target).expect(0);
    assert_eq!(fs::metadata(&target).unwrap().mtime(), 1_000_000_000, "{}", run.describe());
    assert_eq!(fs::read(target.join(name)).unwrap(), b"of another copy");
    fs::write(source.join(name), "in the source").unwrap();
    let run = Longshore::copy(Backend::Auto).arg(&contents).arg(scratch.join("new")).expect(1);
    assert_eq!(run.failed, [source.join(name)]);
}

/// A part that an earlier run wrote is not known by its checksum: it must be neither taken for a hole
/// nor for damage, and be read back like the rest.
#[test]
fn a_copy_that_is_verified_or_listed_goes_on_like_any_other() {
    for_each_backend(|backend| {
        let Some(scratch) = Scratch::new(Fs::Tmpfs) else { return };
        let (source, file, target) = large(&scratch, backend);
        let list = scratch.join("manifest");
        for n in 0..50 {
            fs::write(source.join(format!("small-{n}")), vec![3; 5000]).unwrap();
        }
        fs::hard_link(source.join("small-0"), source.join("small-again")).unwrap();
        symlink("small-1", source.join("link")).unwrap();
        settle(&source.join("small-0"));
        let command = || {
            let list = format!("--manifest={}", list.display());
            copy(backend, &source, &target).args(["--verify", &list])
        };
        kill_within_large(command(), &target);
        let run = command().arg("--resume").expect(0);
        assert!(run.count("/resumed/ranges") > 30 << 20, "{}", run.describe());
        assert_eq!(run.count("/verify/bad_ranges"), 0, "{}", run.describe());
        assert!(run.count("/verify/bytes") >= fs::metadata(&file).unwrap().len());
        assert_same_tree(&source, &target, Compare::default());
        let check = std::process::Command::new(env!("CARGO_BIN_EXE_longshore"))
            .args(["verify", "--manifest"])
            .args([&list, &target])
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&check.stderr).into_owned();
        assert_eq!(check.status.code(), Some(0), "{said}{}", run.describe());
        let listed = fs::read_to_string(&list).unwrap();
        for name in ["large", "small-0", "small-49", "small-again", "link"] {
            assert!(listed.contains(&format!("{name}\"")), "{name} is not in {listed}");
        }
    });
}
