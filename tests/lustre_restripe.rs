//! `longshore restripe` on an emulated filesystem: content, attributes and the path's own name survive,
//! whatever happens meanwhile; what cannot be done safely is refused by name.

#![allow(clippy::unwrap_used, clippy::print_stderr, unreachable_pub)] // tests

mod support;

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use nix::sys::stat::{UtimensatFlags, utimensat};
use nix::sys::time::TimeSpec;
use support::items::posix_acl;
use support::lustre::{Lustre, osts, set, spec, told};
use support::{Seed, wait_for};

const MIB: usize = 1 << 20;

fn command<A: AsRef<OsStr>>(lustre: &Lustre, arguments: impl IntoIterator<Item = A>) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_longshore"));
    command.arg("restripe").args(arguments).env("LONGSHORE_LUSTRE_MOUNTS", told(&[lustre]));
    command
}

fn restripe(lustre: &Lustre, path: &Path, layout: &str) -> Output {
    let words = [OsStr::new("--layout"), layout.as_ref(), path.as_os_str()];
    command(lustre, words).output().unwrap()
}

/// A file with content without a pattern and a layout.
fn file(lustre: &Lustre, name: &str, layout: &str, bytes: usize) -> (PathBuf, Vec<u8>) {
    let path = lustre.join(name);
    set(&path, layout);
    let content = Seed::fixed(7).rng().bytes(bytes);
    OpenOptions::new().write(true).open(&path).unwrap().write_all(&content).unwrap();
    (path, content)
}

const ACCESS_ACL: &str = "system.posix_acl_access";

fn give_project(path: &Path, id: u32) {
    let file = File::open(path).unwrap();
    let mut attributes = longshore::sys::project_attributes(file.as_fd()).unwrap();
    attributes.project = id;
    longshore::sys::set_project_attributes(file.as_fd(), &attributes).unwrap();
}

fn project(path: &Path) -> u32 {
    longshore::sys::project_attributes(File::open(path).unwrap().as_fd()).unwrap().project
}

fn names(directory: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

fn refused(output: &Output, word: &str) {
    let message = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{message}");
    assert!(message.starts_with(&format!("longshore: {word}: ")), "{message}");
}

#[test]
fn a_file_gets_another_layout_and_keeps_everything_else() {
    let Some(lustre) = Lustre::new(osts(8)) else { return };
    let (path, content) = file(&lustre, "data", "-c 1 -S 1M", 5 * MIB + 17);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
    std::os::unix::fs::chown(&path, Some(1234), Some(2345)).unwrap();
    xattr::set(&path, "user.note", b"kept").unwrap();
    let acl = posix_acl(6, 4321, 4);
    xattr::set(&path, ACCESS_ACL, &acl).unwrap();
    give_project(&path, 4711);
    let time = TimeSpec::new(1_000_000_000, 123_456_789);
    let follow = UtimensatFlags::FollowSymlink;
    utimensat(nix::fcntl::AT_FDCWD, &path, &time, &time, follow).unwrap();

    let mode = fs::metadata(&path).unwrap().mode() & 0o7777; // the ACL has changed its group bits

    let output = restripe(&lustre, &path, "-c 4 -S 1M");
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.ends_with("/data: -c 1 -S 1M -> -c 4 -S 1M, 5.00 MiB\n"), "{text}");
    assert_eq!(spec(&path), "-c 4 -S 1M");
    assert!(fs::read(&path).unwrap() == content, "the content is the same");
    let stat = fs::metadata(&path).unwrap();
    assert_eq!((stat.mode() & 0o7777, stat.uid(), stat.gid()), (mode, 1234, 2345));
    assert_eq!(xattr::get(&path, ACCESS_ACL).unwrap().unwrap(), acl);
    assert_eq!(project(&path), 4711);
    assert_eq!((stat.mtime(), stat.mtime_nsec()), (1_000_000_000, 123_456_789));
    assert_eq!(xattr::get(&path, "user.note").unwrap().unwrap(), b"kept");
    assert_eq!(names(lustre.path()), ["data"]);

    let again = restripe(&lustre, &path, "-c 4");
    assert!(String::from_utf8_lossy(&again.stdout).ends_with("/data: already -c 4 -S 1M\n"));
    assert_eq!(fs::metadata(&path).unwrap().ino(), stat.ino(), "nothing was done");
}

#[test]
fn several_files_are_done_and_what_fails_does_not_stop_the_others() {
    let Some(lustre) = Lustre::new(osts(4)) else { return };
    let (a, content) = file(&lustre, "a", "-c 1", 3 * MIB);
    let (b, _) = file(&lustre, "b", "-c 4 -S 1M", 10);
    let missing = lustre.join("missing");
    let words = ["--json", "--layout", "-E 1M -c 1 -S 1M -E -1 -c -1"].map(OsStr::new);
    let paths = [a.as_os_str(), missing.as_os_str(), b.as_os_str()];
    let output = command(&lustre, words.into_iter().chain(paths)).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let lines: Vec<serde_json::Value> = String::from_utf8_lossy(&output.stdout)
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let done: Vec<&str> = lines.iter().map(|line| line["done"].as_str().unwrap()).collect();
    assert_eq!(done, ["restriped", "refused", "restriped"]);
    assert_eq!(lines[1]["reason"], "system");
    assert!(fs::read(&a).unwrap() == content);
    assert_eq!(names(lustre.path()), ["a", "b"]);
}

#[test]
fn auto_goes_by_the_sites_table_and_inherit_by_the_directory() {
    let Some(lustre) = Lustre::new(osts(4)) else { return };
    set(lustre.path(), "-c 2 -S 64K");
    let (path, content) = file(&lustre, "data", "-c 1 -S 1M", 2 * MIB);
    let table = tempfile::NamedTempFile::new().unwrap();
    fs::write(table.path(), "1M inherit\n- -c 3 -S 1M\n").unwrap();
    let words = ["--layout", "auto", "--layout-table"].map(OsStr::new);
    let words = words.into_iter().chain([table.path().as_os_str(), path.as_os_str()]);
    let output = command(&lustre, words).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    assert_eq!(spec(&path), "-c 3 -S 1M");
    assert!(restripe(&lustre, &path, "inherit").status.success());
    assert_eq!(spec(&path), "-c 2 -S 64K");
    assert!(fs::read(&path).unwrap() == content);
}

#[test]
fn what_cannot_be_done_safely_is_refused_by_name() {
    let Some(lustre) = Lustre::new(osts(4)) else { return };
    let (linked, _) = file(&lustre, "linked", "-c 1", 10);
    fs::hard_link(&linked, lustre.join("second")).unwrap();
    refused(&restripe(&lustre, &linked, "-c 2"), "hard-linked");

    let (released, _) = file(&lustre, "released", "-c 1", 10);
    lustre.emulator().release(Path::new("released")).unwrap();
    refused(&restripe(&lustre, &released, "-c 2"), "released");
    assert_eq!(lustre.emulator().restores(), 0);

    let (written, _) = file(&lustre, "written", "-c 1", 10);
    let writer = OpenOptions::new().write(true).open(&written).unwrap();
    refused(&restripe(&lustre, &written, "-c 2"), "open-for-writing");
    drop(writer);

    let (locked, _) = file(&lustre, "locked", "-c 1", 10);
    let lock = File::open(&locked).unwrap();
    lock.lock().unwrap();
    refused(&restripe(&lustre, &locked, "-c 2"), "in-use");
    drop(lock);

    set(&lustre.join("empty"), "-c 1");
    fs::remove_file(lustre.join("empty")).unwrap();
    refused(&restripe(&lustre, lustre.path(), "-c 2"), "not-a-file");
    std::os::unix::fs::symlink(&written, lustre.join("link")).unwrap();
    refused(&restripe(&lustre, &lustre.join("link"), "-c 2"), "not-a-file");
    refused(&restripe(&lustre, Path::new("/etc/passwd"), "-c 2"), "not-lustre");

    for path in [&linked, &written, &locked] {
        assert_eq!(spec(path), "-c 1 -S 4M", "left as it was");
    }
    let preserve = restripe(&lustre, &written, "preserve");
    assert_eq!(preserve.status.code(), Some(2), "{preserve:?}");
    let wrong = restripe(&lustre, &written, "-c many");
    assert_eq!(wrong.status.code(), Some(2), "{wrong:?}");
}

#[test]
fn a_file_that_is_written_to_meanwhile_is_left_as_it_was() {
    let Some(lustre) = Lustre::new(osts(4)) else { return };
    // So slow that there is time to write.
    let (path, mut content) = file(&lustre, "data", "-c 1 -S 1M", 8 * MIB);
    for ost in lustre.emulator().osts() {
        ost.set_bandwidth(Some(8 << 20));
    }
    let words = [OsStr::new("--layout"), OsStr::new("-c 4 -S 1M"), path.as_os_str()];
    let mut command = command(&lustre, words);
    let child = command.stderr(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    wait_for("a copy aside", Duration::from_secs(20), || names(lustre.path()).len() > 1);
    // The lease makes this open wait until the process that holds it gives up or notices.
    let stat = fs::metadata(&path).unwrap();
    let writer = OpenOptions::new().write(true).open(&path);
    for ost in lustre.emulator().osts() {
        ost.set_bandwidth(None);
    }
    writer.unwrap().write_all_at(b"late", 5).unwrap();
    content[5..9].copy_from_slice(b"late");
    let output = child.wait_with_output().unwrap();
    if fs::metadata(&path).unwrap().ino() == stat.ino() {
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        assert_eq!(spec(&path), "-c 1 -S 1M");
    }
    assert!(fs::read(&path).unwrap() == content, "the late write is there");
    assert_eq!(names(lustre.path()), ["data"]);
}

/// Killed at random moments, the path shows the old or the new file, each complete; the next run removes
/// what is left and gets it done.
#[test]
fn kills_leave_the_old_or_the_new_file_and_nothing_once_it_is_done() {
    let Some(lustre) = Lustre::new(osts(4)) else { return };
    let seed = Seed::fresh();
    let mut rng = seed.rng();
    let (path, content) = file(&lustre, "data", "-c 1 -S 1M", 6 * MIB + 3);
    let specs = ["-c 4 -S 1M", "-c 1 -S 1M"];
    let (mut killed, mut leftovers, mut round) = (0, 0, 0);
    while killed < 25 && round < 400 {
        let layout = specs[round % 2];
        round += 1;
        let words = [OsStr::new("--layout"), OsStr::new(layout), path.as_os_str()];
        let mut child = command(&lustre, words).stdout(Stdio::null()).spawn().unwrap();
        let after = Duration::from_micros(rng.below(120_000));
        std::thread::sleep(after); // the moment is meant to be random
        child.kill().unwrap();
        let status = child.wait().unwrap();
        killed += usize::from(status.code().is_none());
        leftovers += usize::from(names(lustre.path()).len() > 1);
        assert!(fs::read(&path).unwrap() == content, "complete after {after:?}");
        let now = spec(&path);
        assert!(specs.contains(&now.as_str()), "{now}");
        if status.code().is_none() && rng.one_in(2) {
            continue; // the next one begins on top of what this one left
        }
        let output = restripe(&lustre, &path, layout);
        assert!(output.status.success(), "{output:?}");
        assert_eq!(spec(&path), layout);
        assert!(fs::read(&path).unwrap() == content);
        if names(lustre.path()).len() > 1 {
            // A request that was on its way when its sender was killed is served all the same, and may
            // be served after the next run. The one after that removes what it left.
            for layout in [specs[round % 2], layout] {
                assert!(restripe(&lustre, &path, layout).status.success());
            }
        }
        assert_eq!(names(lustre.path()), ["data"], "after {after:?}");
    }
    eprintln!("{killed} of {round} were killed, {leftovers} left something");
    assert!(killed > 0);
}
