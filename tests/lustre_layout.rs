//! `longshore layout show` and `longshore layout plan` as people call them, on emulated filesystems.
//! How layouts are chosen is tested with the library.

#![allow(clippy::unwrap_used, clippy::print_stderr, unreachable_pub)] // tests

mod support;

use std::ffi::OsStr;
use std::fs::{File, OpenOptions};
use std::path::Path;
use std::process::{Command, Output};

use serde_json::{Value, json};
use support::lustre::{Lustre, osts, set, told};

/// Makes a file of so many bytes, all of them a hole, with a layout in words.
fn file(lustre: &Lustre, name: &str, words: &str, bytes: u64) {
    set(&lustre.join(name), words);
    OpenOptions::new().write(true).open(lustre.join(name)).unwrap().set_len(bytes).unwrap();
}

/// Runs `longshore layout` with these filesystems taken for Lustre.
fn layout<A: AsRef<OsStr>>(mounted: &[&Lustre], arguments: impl IntoIterator<Item = A>) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_longshore"));
    command.arg("layout").args(arguments).env("LONGSHORE_LUSTRE_MOUNTS", told(mounted));
    command.output().unwrap()
}

fn stdout(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn parsed(output: &Output) -> Value {
    serde_json::from_str(&stdout(output)).unwrap()
}

const MIB: u64 = 1 << 20;

#[test]
fn a_files_layout_is_shown_as_it_is_granted() {
    let Some(lustre) = Lustre::new(osts(8)) else { return };
    file(&lustre, "f", "-E 4M -c 1 -S 1M -E 64M -c 2 -S 4M -E -1 -c 8", 10 * MIB);
    let path = lustre.path().join("f");
    let text = stdout(&layout(&[&lustre], [OsStr::new("show"), path.as_os_str()]));
    assert!(text.contains(" (file): composite, 3 components, generation "), "{text}");
    assert!(text.contains("\n  id  extent      flags  pattern  stripe_count"), "{text}");
    assert!(
        text.contains("[64M, EOF)  -      raid0    8             4M           -     not made yet")
    );
    assert!(text.contains("  objects: 3 on 3 OSTs\n"), "{text}");
    assert!(text.ends_with("  the same again: -E 4M -c 1 -S 1M -E 64M -c 2 -S 4M -E -1 -c 8\n"));

    let found =
        parsed(&layout(&[&lustre], [OsStr::new("show"), path.as_os_str(), "--json".as_ref()]));
    assert_eq!(found[0]["origin"], "file");
    assert_eq!(found[0]["layout"]["components"][1]["stripe_count"], 2);
    assert_eq!(found[0]["layout"]["components"][2]["objects"], json!([]));
    assert_eq!(found[0]["filesystem"]["fsname"], lustre.fsname());
    assert_eq!(found[0]["filesystem"]["told"], true);
    assert_eq!(found[0]["filesystem"]["osts"], 8);
}

#[test]
fn a_directorys_default_is_its_own_or_the_filesystems() {
    let Some(lustre) = Lustre::new(osts(8)) else { return };
    set(&lustre.join(""), "-c 2 -S 1M");
    for name in ["own", "none", "same"] {
        std::fs::create_dir(lustre.path().join(name)).unwrap();
    }
    set(&lustre.join("own"), "-E 1G -c 1 -S 4M -E -1 -c -1");
    let shown = |name: &str| {
        let path = lustre.path().join(name);
        let found = layout(&[&lustre], [OsStr::new("show"), "--json".as_ref(), path.as_os_str()]);
        let one = parsed(&found)[0].clone();
        (one["origin"].as_str().unwrap().to_owned(), one["spec"].as_str().unwrap().to_owned())
    };
    assert_eq!(shown("own"), ("directory".into(), "-E 1G -c 1 -S 4M -E -1 -c -1".into()));
    assert_eq!(shown("none"), ("filesystem".into(), "-c 2 -S 1M".into()));
    assert_eq!(shown(""), ("directory".into(), "-c 2 -S 1M".into()));
}

#[test]
fn a_released_file_is_shown_and_stays_released() {
    let Some(lustre) = Lustre::new(osts(4)) else { return };
    file(&lustre, "f", "-c 2 -S 1M", 5 * MIB);
    lustre.emulator().release(Path::new("f")).unwrap();
    let path = lustre.path().join("f");
    let text = stdout(&layout(&[&lustre], [OsStr::new("show"), path.as_os_str()]));
    assert!(text.contains("raid0,released"), "{text}");
    assert!(text.contains("\n  released: its data is only in the archive"), "{text}");
    std::fs::create_dir(lustre.path().join("d")).unwrap();
    let to = lustre.path().join("d");
    let words = ["plan", "--layout", "preserve"].map(OsStr::new);
    let planned = layout(&[&lustre], words.into_iter().chain([path.as_os_str(), to.as_os_str()]));
    assert!(stdout(&planned).contains("1 file is released"), "{planned:?}");
    assert_eq!(lustre.emulator().restores(), 0);
}

#[test]
fn what_is_not_on_lustre_is_refused_and_the_rest_is_shown() {
    let Some(lustre) = Lustre::new(osts(4)) else { return };
    let elsewhere = tempfile::tempdir().unwrap();
    let (here, there) = (lustre.path().as_os_str(), elsewhere.path().as_os_str());
    let both = layout(&[&lustre], [OsStr::new("show"), there, here]);
    assert_eq!(both.status.code(), Some(1), "{both:?}");
    assert!(String::from_utf8_lossy(&both.stderr).contains("does not lie on Lustre"));
    assert!(!both.stdout.is_empty());
    let none = layout(&[&lustre], [OsStr::new("show"), there]);
    assert_eq!(none.status.code(), Some(2), "{none:?}");
    let plan = layout(&[&lustre], [OsStr::new("plan"), here, there]);
    assert_eq!(plan.status.code(), Some(2), "{plan:?}");
    let wrong = layout(&[&lustre], ["plan", "a", "b", "--layout", "-S 5"].map(OsStr::new));
    assert_eq!(wrong.status.code(), Some(2));
    let message = String::from_utf8_lossy(&wrong.stderr).into_owned();
    assert!(message.contains("--layout: -S 5: a stripe size is a multiple of 64K"), "{message}");
}

/// A tree with layouts of several kinds, planned onto a filesystem with fewer OSTs and another default.
#[test]
fn a_plan_says_what_is_asked_for_and_why() {
    let (Some(from), Some(to)) = (Lustre::new(osts(8)), Lustre::new(osts(4))) else { return };
    set(&to.join(""), "-c 1 -S 4M");
    let tree = from.path().join("tree");
    std::fs::create_dir(&tree).unwrap();
    std::fs::create_dir(tree.join("wide")).unwrap();
    set(&from.join("tree/wide"), "-c 8 -S 1M");
    file(&from, "tree/progressive", "-E 4M -c 1 -S 1M -E 64M -c 2 -S 4M -E -1 -c 8", 100 * MIB);
    file(&from, "tree/plain", "-c 1 -S 1M", 3);
    file(&from, "tree/wide/a", "-c 8 -S 1M", 100 * MIB);
    file(&from, "tree/wide/b", "-c 8 -S 1M", MIB);
    let arguments = ["plan", "--layout", "preserve"].map(OsStr::new);
    let arguments = arguments.into_iter().chain([tree.as_os_str(), to.path().as_os_str()]);
    let output = layout(&[&from, &to], arguments.clone());
    eprintln!("{}", stdout(&output));

    let found = parsed(&layout(&[&from, &to], arguments.chain(["--json".as_ref()])));
    assert_eq!((found["files"].as_u64(), found["failed"].as_u64()), (Some(4), Some(0)));
    let groups: Vec<(Value, Vec<&str>)> = found["groups"]
        .as_array()
        .unwrap()
        .iter()
        .map(|group| {
            let reasons = group["reasons"].as_array().unwrap();
            (group["spec"].clone(), reasons.iter().map(|r| r["word"].as_str().unwrap()).collect())
        })
        .collect();
    assert_eq!(
        groups,
        [
            (json!(null), vec!["same-as-default"]), // plain
            (
                json!("-E 4M -c 1 -S 1M -E 64M -c 2 -S 4M -E -1 -c 4"),
                vec!["as-source", "fewer-osts"]
            ),
            // The directory is made with its default, so its large file needs nothing more.
            (json!(null), vec!["same-as-default", "fewer-osts"]),
            (json!("-c 1 -S 1M"), vec!["as-source", "fewer-osts", "narrowed"]),
        ]
    );
    assert_eq!(found["directories"][0]["spec"], "-c 4 -S 1M");
    assert_eq!(found["destination"]["osts"], 4);
    assert!(std::fs::read_dir(to.path()).unwrap().next().is_none(), "nothing was made");
}

#[test]
fn a_plan_by_size_follows_the_sites_table() {
    let Some(to) = Lustre::new(osts(4)) else { return };
    let from = tempfile::tempdir().unwrap();
    for (name, bytes) in [("a", 10), ("b", MIB + 1), ("c", 3 << 30)] {
        File::create(from.path().join(name)).unwrap().set_len(bytes).unwrap();
    }
    let table = from.path().join("table");
    std::fs::write(&table, "1M inherit\n1G -c 2\n- -c -1 -S 16M\n").unwrap();
    let ours = ["plan", "--json", "--layout", "auto"].map(OsStr::new).into_iter();
    let ours = ours.chain([from.path().as_os_str(), to.path().as_os_str()]);
    let specs = |found: &Value| {
        let mut specs: Vec<String> =
            found["groups"].as_array().unwrap().iter().map(|g| g["spec"].to_string()).collect();
        specs.sort();
        specs
    };
    let found = parsed(&layout(&[&to], ours.clone()));
    assert_eq!(specs(&found), ["\"-c 2 -S 4M\"", "null", "null"]);
    let theirs = ours.chain([OsStr::new("--layout-table"), table.as_os_str()]);
    let found = parsed(&layout(&[&to], theirs));
    assert_eq!(specs(&found), ["\"-c -1 -S 16M\"", "\"-c 2\"", "null"]);
}

/// The emulator reads and writes layouts with code of its own: what is asked for there is what is read
/// back here.
#[test]
fn what_is_asked_for_is_what_is_read_back() {
    let Some(lustre) = Lustre::new(osts(8)) else { return };
    let words = [
        "-c 1 -S 64K",
        "-c 8 -S 4M",
        "-C 12 -S 1M",
        "-c 2 -S 1M -p nowhere",
        "-E 1M -L mdt -E 64M -c 2 -E -1 -c 8 -S 4M",
        "-E 4M -c 1 -S 1M -E 64M -c 2 -S 4M -E -1 -c 8",
        "-E 4M -c 1 -S 1M -p flash -E -1 -c 4 -p disk",
        "-N -c 1 -S 1M -N -c 2",
        "-N --flags=prefer -E 4M -c 1 -S 1M -E -1 -c 4 -N -c 2",
    ];
    for (number, words) in words.into_iter().enumerate() {
        let path = lustre.join(format!("{number}"));
        set(&path, words);
        assert_eq!(support::lustre::spec(&path), words);
        let directory = lustre.join(format!("d{number}"));
        std::fs::create_dir(&directory).unwrap();
        set(&directory, words);
        assert_eq!(support::lustre::default_spec(&directory), words);
    }
}
