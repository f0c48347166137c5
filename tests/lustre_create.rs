//! Files and directories that are created on Lustre: which layout they get, that it is set before
//! anything is written, and that small files cost no call for it. On the emulator.
#![allow(clippy::unwrap_used, clippy::print_stderr, clippy::print_stdout, unreachable_pub)] // tests

mod support;

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use lustre_emulator::{Kind, Misbehaviour, Settings};
use nix::sys::signal::Signal;
use support::compare::assert_none;
use support::journals::settle;
use support::lustre::{Lustre, default_spec, layout, osts, set, spec};
use support::{
    Backend, Compare, Fs, Longshore, Rng, Scratch, Seed, diff_trees, for_each_backend, wait_for,
};

const MIB: usize = 1 << 20;

/// A source with a file of each kind that is created in a way of its own.
fn every_kind(dir: &Path) {
    let mut rng = Rng::new(5);
    fs::create_dir_all(dir.join("deep/er")).unwrap();
    for (name, bytes) in
        [("empty", 0), ("small", 5000), ("deep/one", MIB), ("deep/er/large", 9 * MIB)]
    {
        fs::write(dir.join(name), rng.bytes(bytes)).unwrap();
    }
    let sparse = fs::File::create(dir.join("sparse")).unwrap();
    sparse.set_len(8 << 20).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&sparse, b"data", 5 << 20).unwrap();
    fs::hard_link(dir.join("small"), dir.join("deep/linked")).unwrap();
}

const KINDS: [&str; 5] = ["empty", "small", "deep/one", "deep/er/large", "sparse"];

#[test]
fn an_explicit_layout_is_set_before_anything_is_written() {
    let Some(lustre) = Lustre::new(osts(8)) else { return };
    let source = Scratch::on_disk();
    every_kind(source.path());
    for_each_backend(|backend| {
        let target = lustre.join(format!("copy-{backend}"));
        lustre.emulator().log().clear();
        let copy = lustre.copy(backend).args(["--layout", "-c 4 -S 1M"]);
        let run = copy.arg(source.path()).arg(&target).expect(0);
        assert_none(&diff_trees(source.path(), &target, Compare::default()), &run.describe());
        for name in KINDS {
            assert_eq!(spec(&target.join(name)), "-c 4 -S 1M", "{name}: {}", run.describe());
            assert_eq!(
                layout(&target.join(name)).unwrap().plains().next().unwrap().objects.len(),
                4
            );
        }
        assert_eq!(run.warnings(), 0, "{}", run.describe());
        assert_eq!(run.count("/lustre/layouts/set"), 5, "{}", run.describe());
        assert_eq!(run.count("/lustre/layouts/reasons/as-asked"), 5);
        let report = run.report.as_ref().unwrap();
        assert_eq!(report["lustre"]["layouts"]["policy"], "-c 4 -S 1M");
        assert_eq!(report["lustre"]["destination"]["fsname"], lustre.fsname());
        assert_eq!(report["lustre"]["destination"]["osts"], 8);
        assert_eq!(report["lustre"]["destination"]["told"], true);
        // Each inode: its layout first, then truncation and data.
        let records = lustre.emulator().log().records();
        for (at, record) in records.iter().enumerate() {
            let early = matches!(record.kind, Kind::Write | Kind::Allocate);
            let file = record.path.as_ref().is_some_and(|path| !support::is_journal(path));
            if early && file && record.error.is_none() {
                let set = records[..at].iter().any(|earlier| {
                    earlier.ino == record.ino
                        && earlier.kind == Kind::Setxattr
                        && earlier.error.is_none()
                });
                assert!(set, "written before its layout was set: {record:?}");
            }
        }
    });
}

#[test]
fn where_the_default_is_right_small_files_cost_no_call_for_their_layouts() {
    let Some(lustre) = Lustre::new(osts(4)) else { return };
    let source = Scratch::on_disk();
    let few = source.join("few");
    let many = source.join("many");
    for (dir, count) in [(&few, 10), (&many, 400)] {
        fs::create_dir(dir).unwrap();
        for n in 0..count {
            fs::write(dir.join(n.to_string()), n.to_string()).unwrap();
        }
    }
    let calls = |policy: &str, dir: &Path, to: &str| {
        lustre.emulator().log().clear();
        let run =
            lustre.copy(Backend::Auto).args(["--layout", policy]).arg(dir).arg(lustre.join(to));
        run.expect(0);
        lustre.layout_calls()
    };
    for policy in ["inherit", "auto"] {
        let (few, none) = calls(policy, &few, &format!("few-{policy}"));
        let (many, none_either) = calls(policy, &many, &format!("many-{policy}"));
        println!("{policy}: {few} reads of layouts for 10 files, {many} for 400");
        assert_eq!((many, none, none_either), (few, 0, 0), "{policy}");
        assert!(many <= 4, "{policy}: {many} reads, which are those of directories");
    }
}

/// The layout of a site: what the emulator's root has.
fn with_default(settings: Settings, default: &str) -> Option<Lustre> {
    let lustre = Lustre::new(settings)?;
    set(lustre.path(), default);
    Some(lustre)
}

#[test]
fn a_progressive_layout_is_kept_where_there_are_fewer_osts_and_another_default() {
    let (Some(from), Some(to)) =
        (with_default(osts(8), "-c 1 -S 1M"), with_default(osts(4), "-c 2 -S 4M"))
    else {
        return;
    };
    let wide = "-E 4M -c 1 -S 1M -E 64M -c 4 -S 4M -E -1 -c 8 -S 4M";
    let source = from.join("src");
    fs::create_dir(&source).unwrap();
    let mut rng = Rng::new(6);
    for (name, words, bytes) in [
        ("wide", wide, 70 * MIB),
        ("tail", wide, 5 * MIB),
        ("pooled", "-c 2 -S 1M -p flash", 5 * MIB),
        ("pinned", "-c 1 -S 1M -i 6", 3 * MIB),
        ("plain", "-c 8 -S 1M", 20 * MIB),
        ("default", "-c 2 -S 4M", 9 * MIB),
    ] {
        set(&source.join(name), words);
        fs::OpenOptions::new().write(true).open(source.join(name)).unwrap();
        let file = fs::OpenOptions::new().write(true).open(source.join(name)).unwrap();
        std::os::unix::fs::FileExt::write_all_at(&file, &rng.bytes(bytes), 0).unwrap();
    }
    for_each_backend(|backend| {
        let target = to.join(format!("copy-{backend}"));
        let copy = support::lustre::copy(backend, &[&from, &to]).args(["--layout", "preserve"]);
        let run = copy.arg(&source).arg(&target).expect(0);
        assert_none(&diff_trees(&source, &target, Compare::default()), &run.describe());
        println!("{:8} {:55} copy", "file", "source");
        for name in ["wide", "tail", "pooled", "pinned", "plain", "default"] {
            let both = (spec(&source.join(name)), spec(&target.join(name)));
            println!("{name:8} {:55} {}", both.0, both.1);
        }
        println!("{}", run.report.as_ref().unwrap()["lustre"]);
        let of = |name: &str| spec(&target.join(name));
        assert_eq!(of("wide"), "-E 4M -c 1 -S 1M -E 64M -c 4 -S 4M -E -1 -c 4");
        assert!(!of("pooled").contains("flash"), "an unknown pool was asked for: {}", of("pooled"));
        assert_eq!(of("plain"), "-c 4 -S 1M");
        assert_eq!(of("default"), "-c 2 -S 4M");
        assert!(run.count("/lustre/layouts/inherited") >= 1, "{}", run.describe());
        assert!(run.count("/lustre/layouts/reasons/fewer-osts") >= 2, "{}", run.describe());
        assert_eq!(run.warnings(), 0, "{}", run.describe());
    });
}

#[test]
fn a_sites_table_decides_by_size() {
    let Some(lustre) = Lustre::new(osts(4)) else { return };
    let source = Scratch::on_disk();
    for (name, bytes) in [("small", 1000), ("middle", 3 * MIB), ("large", 9 * MIB)] {
        fs::write(source.join(name), vec![7; bytes]).unwrap();
    }
    let table = Scratch::on_disk();
    let table = table.join("table");
    fs::write(&table, "1M inherit\n4M -c 1 -S 1M # middle\n- -c 3 -S 2M\n").unwrap();
    let copy = lustre.copy(Backend::Auto).args(["--layout", "auto", "--layout-table"]).arg(&table);
    let run = copy.arg(source.path()).arg(lustre.join("copy")).expect(0);
    let of = |name: &str| spec(&lustre.join("copy").join(name));
    assert_eq!(
        (of("small"), of("middle"), of("large")),
        ("-c 1 -S 4M".to_owned(), "-c 1 -S 1M".to_owned(), "-c 3 -S 2M".to_owned())
    );
    assert_eq!(run.count("/lustre/layouts/reasons/by-site-table"), 3, "{}", run.describe());
    assert_eq!((run.count("/lustre/layouts/set"), run.count("/lustre/layouts/inherited")), (2, 1));
    // A table that says nothing that can be understood is refused with its line.
    fs::write(&table, "1M inherit\n4M -c x\n").unwrap();
    let copy = lustre.copy(Backend::Auto).args(["--layout", "auto", "--layout-table"]).arg(&table);
    copy.arg(source.path()).arg(lustre.join("none")).expect(2).says("line 2");
    assert!(!lustre.join("none").exists());
}

#[test]
fn what_the_servers_gave_instead_is_told() {
    let Some(lustre) = Lustre::new(osts(8)) else { return };
    let source = Scratch::on_disk();
    fs::write(source.join("file"), vec![1; 3 * MIB]).unwrap();
    let copy = |misbehave: Misbehaviour, words: &str, to: &str| {
        lustre.emulator().change(|settings| settings.misbehave = misbehave);
        let copy = lustre.copy(Backend::Auto).args(["--layout", words]);
        copy.arg(source.path()).arg(lustre.join(to)).expect(0)
    };
    let fewer = Misbehaviour { most_stripes: Some(3), ..Misbehaviour::default() };
    let run = copy(fewer, "-c 6 -S 1M", "fewer");
    assert_eq!(run.count("/warnings/layout-granted-fewer-stripes"), 1, "{}", run.describe());
    assert_eq!(spec(&lustre.join("fewer/file")), "-c 3 -S 1M");
    let cut = Misbehaviour { dom_limit: Some(64 << 10), ..Misbehaviour::default() };
    let run = copy(cut, "-E 1M -L mdt -E -1 -c 1 -S 1M", "cut");
    assert_eq!(run.count("/warnings/layout-cut-on-mdt"), 1, "{}", run.describe());
    let none = Misbehaviour { dom_limit: Some(0), ..Misbehaviour::default() };
    let run = copy(none, "-E 1M -L mdt -E -1 -c 1 -S 1M", "dropped");
    assert_eq!(run.count("/warnings/layout-cut-on-mdt"), 1, "{}", run.describe());
    for name in ["fewer", "cut", "dropped"] {
        assert_none(
            &diff_trees(source.path(), &lustre.join(name), Compare::default()),
            "content whatever the layout",
        );
    }
}

#[test]
fn a_layout_that_cannot_be_had_is_refused_before_anything_is_written() {
    let Some(lustre) = Lustre::new(osts(2)) else { return };
    let source = Scratch::on_disk();
    fs::write(source.join("file"), "content").unwrap();
    let refused = |words: &str, to: &Path| {
        let copy = lustre.copy(Backend::Auto).args(["--layout", words]);
        let run = copy.arg(source.path()).arg(to).expect(2);
        assert!(!to.exists(), "{}", run.describe());
        run
    };
    refused("-c 2 -S 1M -i 9", &lustre.join("copy")).says("do not take").says("Invalid argument");
    refused("-c 2 -S 100", &lustre.join("copy")).says("-S 100");
    refused("fast", &lustre.join("copy")).says("inherit, preserve, auto");
    let elsewhere = Scratch::on_disk();
    refused("-c 2", &elsewhere.join("copy")).says("not on Lustre");
    assert_eq!(fs::read_dir(lustre.path()).unwrap().count(), 0, "the trial was left behind");
}

#[test]
fn a_chosen_layout_that_is_refused_gives_way_to_the_default() {
    let (Some(from), Some(to)) = (Lustre::new(osts(4)), Lustre::new(osts(4))) else { return };
    let source = from.join("src");
    fs::create_dir(&source).unwrap();
    for name in ["small", "large"] {
        set(&source.join(name), "-c 3 -S 1M");
    }
    fs::OpenOptions::new().write(true).open(source.join("small")).unwrap();
    fs::write(source.join("small"), "small").unwrap();
    fs::write(source.join("large"), vec![3; 5 * MIB]).unwrap();
    for (errno, code) in [(libc::ENOSPC, 0), (libc::EFBIG, 0), (libc::EDQUOT, 3)] {
        let target = to.join(format!("copy-{errno}"));
        let copy = support::lustre::copy(Backend::Threads, &[&from, &to]);
        let copy = copy.deny(&[libc::SYS_fsetxattr], errno).args(["--layout", "preserve"]);
        let run = copy.arg(&source).arg(&target).expect(code);
        if code == 0 {
            assert_none(&diff_trees(&source, &target, Compare::default()), &run.describe());
            // A single stripe is all that the small one fills, which the default gives it.
            assert_eq!(run.count("/warnings/layout-not-applied"), 1, "{}", run.describe());
            assert_eq!(spec(&target.join("large")), "-c 1 -S 4M");
        }
    }
}

#[test]
fn directories_keep_the_defaults_that_are_their_own() {
    let (Some(from), Some(to)) =
        (with_default(osts(8), "-c 2 -S 1M"), with_default(osts(8), "-c 1 -S 4M"))
    else {
        return;
    };
    let source = from.join("src");
    fs::create_dir_all(source.join("own/below")).unwrap();
    fs::create_dir(source.join("site")).unwrap();
    fs::create_dir(source.join("there")).unwrap();
    set(&source.join("own"), "-c 4 -S 2M");
    fs::create_dir(source.join("own/made-after")).unwrap();
    set(&source.join("there"), "-c 5 -S 1M");
    let copy = |policy: &str, to_name: &str| {
        let copy = support::lustre::copy(Backend::Auto, &[&from, &to]).args(["--layout", policy]);
        copy.arg("-T").arg(&source).arg(to.join(to_name)).expect(0)
    };
    // One that somebody configured before.
    fs::create_dir_all(to.join("kept/there")).unwrap();
    set(&to.join("kept/there"), "-c 7 -S 1M");
    let run = copy("preserve", "kept");
    let of = |name: &str| default_spec(&to.join("kept").join(name));
    assert_eq!(of("own"), "-c 4 -S 2M", "{}", run.describe());
    assert_eq!(of("own/made-after"), "-c 4 -S 2M", "it inherits it");
    assert_eq!(of("site"), "-c 1 -S 4M", "the source site's policy was made data");
    assert_eq!(of("there"), "-c 7 -S 1M", "a default of its own was replaced");
    assert_eq!(run.count("/lustre/layouts/directories"), 1, "{}", run.describe());
    copy("inherit", "inherited");
    assert_eq!(default_spec(&to.join("inherited/own")), "-c 1 -S 4M");
    // A second run, as after a stop between making the directory and setting its default.
    fs::remove_dir_all(to.join("kept/own")).unwrap();
    fs::create_dir(to.join("kept/own")).unwrap();
    copy("preserve", "kept");
    assert_eq!(of("own"), "-c 4 -S 2M");
}

#[test]
fn a_layout_is_kept_from_lustre_only_and_to_lustre_only() {
    let Some(lustre) = Lustre::new(osts(4)) else { return };
    let source = lustre.join("src");
    fs::create_dir(&source).unwrap();
    set(&source.join("file"), "-c 3 -S 1M");
    fs::write(source.join("file"), vec![9; 2 * MIB]).unwrap();
    let elsewhere = Scratch::new(Fs::Tmpfs).expect("the emulator lies on one");
    let copy = || lustre.copy(Backend::Auto).args(["--layout", "preserve"]);
    let run = copy().arg(&source).arg(elsewhere.join("copy")).expect(0);
    assert_none(&diff_trees(&source, &elsewhere.join("copy"), Compare::default()), &run.describe());
    let names: Vec<_> = xattr::list(elsewhere.join("copy/file")).unwrap().collect();
    assert!(names.is_empty(), "attributes that mean nothing there: {names:?}");
    let run = copy().arg(elsewhere.join("copy")).arg(lustre.join("back")).expect(0);
    assert_eq!(spec(&lustre.join("back/file")), "-c 1 -S 4M");
    assert_eq!(run.count("/lustre/layouts/reasons/no-source-layout"), 1, "{}", run.describe());
    // A filesystem that is none of both says nothing about Lustre.
    let run = Longshore::copy(Backend::Auto).arg(elsewhere.join("copy")).arg(elsewhere.join("two"));
    assert!(run.expect(0).report.as_ref().unwrap()["lustre"].is_null());
}

#[test]
fn a_copy_that_is_killed_again_and_again_ends_with_the_layouts_that_it_began_with() {
    let Some(mut lustre) = Lustre::new(osts(4)) else { return };
    let seed = Seed::fresh();
    let mut rng = seed.rng();
    let source = Scratch::on_disk();
    for n in 0..60 {
        fs::write(source.join(format!("small-{n}")), rng.bytes(30_000)).unwrap();
    }
    for n in 0..4 {
        fs::write(source.join(format!("large-{n}")), rng.bytes(20 * MIB)).unwrap();
    }
    for backend in [Backend::Threads, Backend::Auto] {
        let target = lustre.join(format!("copy-{backend}"));
        let mut kills = 0;
        let run = loop {
            let copy = lustre.copy(backend).args(["--layout", "-c 3 -S 1M"]);
            let copy = copy.args(["--bandwidth-limit", "150M", "-T"]).arg(source.path());
            let mut running = copy.arg(&target).start();
            if kills < 12 {
                std::thread::sleep(Duration::from_millis(60 + rng.below(150)));
            }
            if kills >= 12 || running.ended() {
                break running.wait();
            }
            running.signal(Signal::SIGKILL);
            running.wait();
            kills += 1;
            if kills % 4 == 0 {
                lustre.mount(); // as after a crash of the client
            }
        };
        run.expect(0);
        println!("{backend}: {kills} kills");
        assert_none(&diff_trees(source.path(), &target, Compare::default()), &run.describe());
        for entry in fs::read_dir(&target).unwrap() {
            let path = entry.unwrap().path();
            assert_eq!(spec(&path), "-c 3 -S 1M", "{}", path.display());
        }
    }
}

#[test]
fn a_file_that_was_begun_with_another_layout_keeps_it_and_is_told() {
    let Some(lustre) = Lustre::new(osts(4)) else { return };
    let source = Scratch::on_disk();
    fs::write(source.join("large"), Seed::fresh().rng().bytes(20 * MIB)).unwrap();
    settle(&source.join("large"));
    let target = lustre.join("copy");
    let copy = |words: &[&str]| {
        let copy = lustre.copy(Backend::Auto).args(words).arg("-T");
        copy.arg(source.path()).arg(&target)
    };
    let running = copy(&["--layout", "-c 1 -S 1M", "--bandwidth-limit", "8M"]).start();
    // More than a second's worth: the journal, which is written every second, knows of a part.
    let begun = || {
        let entries = fs::read_dir(&target).into_iter().flatten().flatten();
        let mut files = entries.filter_map(|entry| entry.metadata().ok());
        files.any(|file| file.blocks() * 512 > 14 * MIB as u64)
    };
    wait_for("most of the file is there", Duration::from_secs(60), begun);
    running.signal(Signal::SIGKILL);
    running.wait();
    let run = copy(&["--layout", "-c 4 -S 1M"]).run();
    run.expect(0);
    let report = run.report.as_ref().unwrap();
    assert!(
        report["copied"]["bytes_moved"].as_u64().unwrap() < 20 * MIB as u64,
        "{}",
        run.describe()
    );
    assert_eq!(report["warnings"]["layout-granted-fewer-stripes"], 1, "{}", run.describe());
    assert_eq!(report["lustre"]["layouts"]["set"], 0, "{}", run.describe());
    assert_eq!(spec(&target.join("large")), "-c 1 -S 1M");
    assert_none(&diff_trees(source.path(), &target, Compare::default()), &run.describe());
}
