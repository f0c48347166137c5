//! What a copy keeps and tells beside content where Lustre is: job ids, released files, data versions,
//! projects, attributes that are none.
#![allow(clippy::unwrap_used, clippy::print_stderr, clippy::print_stdout, unreachable_pub)] // tests

mod support;

use std::fs;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use lustre_emulator::{Kind, OstSettings, Settings};
use nix::sys::stat::UtimensatFlags;
use nix::sys::time::TimeSpec;
use support::compare::assert_none;
use support::lustre::{Lustre, osts, set, told};
use support::{
    Backend, Compare, Fs, Longshore, Rng, Scratch, diff_trees, for_each_backend, wait_for,
};

const MIB: usize = 1 << 20;

/// Parameters of a client that takes the job's id from the environment variable `SITE_JOB`.
fn parameters(scratch: &Scratch, rule: &str) -> String {
    let root = scratch.join("parameters");
    fs::create_dir_all(&root).unwrap();
    fs::write(root.join("jobid_var"), format!("{rule}\n")).unwrap();
    root.to_str().unwrap().to_owned()
}

/// The environment with which a process was started, which is where a client of Lustre looks.
fn environment_of(pid: u32, name: &str) -> Option<String> {
    let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
    let mut values = environment.split(|byte| *byte == 0);
    let prefix = format!("{name}=");
    values.find_map(|value| String::from_utf8_lossy(value).strip_prefix(&prefix).map(str::to_owned))
}

/// A copy that runs long enough to be looked at.
fn slow_copy(scratch: &Scratch, rule: &str) -> Longshore {
    let source = scratch.join("src");
    fs::create_dir_all(&source).unwrap();
    fs::write(source.join("file"), vec![1; 8 << 20]).unwrap();
    let copy = Longshore::copy(Backend::Threads).args(["--bandwidth-limit", "4M"]);
    let copy = copy.env("LONGSHORE_LUSTRE_SYSFS", &parameters(scratch, rule));
    copy.arg(source).arg(scratch.join(format!("copy-{}", rule.len())))
}

#[test]
fn the_servers_see_the_jobs_id_in_the_environment_that_the_copy_was_started_with() {
    let scratch = Scratch::on_disk();
    let mut running = slow_copy(&scratch, "SITE_JOB").args(["--job-id", "copy-17"]).start();
    let pid = running.pid();
    wait_for("the job's id", Duration::from_secs(10), || {
        assert!(!running.ended(), "it ended before it had the job's id");
        environment_of(pid, "SITE_JOB").as_deref() == Some("copy-17")
    });
    let run = running.wait();
    run.expect(0);
    assert_eq!(run.count("/copied/files"), 1, "it is the same process: {}", run.describe());
}

#[test]
fn a_batch_systems_id_is_left_alone_and_a_missing_one_is_told() {
    let scratch = Scratch::on_disk();
    let source = scratch.join("src");
    fs::create_dir(&source).unwrap();
    let notes = |copy: Longshore, to: &str| {
        let copy = copy.env("LONGSHORE_LUSTRE_SYSFS", &parameters(&scratch, "SITE_JOB"));
        let run = copy.arg(&source).arg(scratch.join(to)).expect(0);
        run.report.as_ref().unwrap()["setup"]["notes"].to_string()
    };
    let copy = || Longshore::copy(Backend::Auto);
    assert!(!notes(copy().env("SITE_JOB", "7"), "a").contains("SITE_JOB"));
    assert!(notes(copy(), "b").contains("SITE_JOB is not set"));
    assert!(!notes(copy().env("LONGSHORE_JOB_ID", "8"), "c").contains("SITE_JOB"));
    let run = copy().args(["--job-id", "not an id"]).arg(&source).arg(scratch.join("d"));
    run.expect(2).says("no spaces");
    assert!(!Path::new(&scratch.join("d")).exists());
}

/// Clients see at once that a file was released: their locks tell them.
fn coherent() -> Settings {
    Settings { cached: Duration::ZERO, ..osts(4) }
}

/// Two released files and one that is not.
fn released(lustre: &Lustre) -> std::path::PathBuf {
    let source = lustre.join("src");
    fs::create_dir_all(source.join("dir")).unwrap();
    let mut rng = Rng::new(8);
    for (name, bytes) in [("here", 3000), ("dir/small", 700), ("large", 6 * MIB)] {
        fs::write(source.join(name), rng.bytes(bytes)).unwrap();
    }
    for name in ["dir/small", "large"] {
        lustre.emulator().release(&source.join(name)).unwrap();
    }
    // What the kernel has of them in memory says nothing about reading them.
    let large = fs::File::open(source.join("large")).unwrap();
    assert_eq!(large.metadata().unwrap().len(), 6 << 20);
    source
}

/// `longshore verify` on the emulator: its exit code and its report.
fn verify(lustre: &Lustre, report: &Path, args: &[&Path]) -> (Option<i32>, serde_json::Value) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_longshore"));
    command.arg("verify").arg("--report").arg(report).args(args);
    let output = command.env("LONGSHORE_LUSTRE_MOUNTS", told(&[lustre])).output().unwrap();
    let report = serde_json::from_slice(&fs::read(report).unwrap_or_default());
    (output.status.code(), report.unwrap_or_default())
}

#[test]
fn released_files_are_named_and_never_brought_back_by_accident() {
    let Some(lustre) = Lustre::new(coherent()) else { return };
    let source = released(&lustre);
    let elsewhere = Scratch::on_disk();
    for_each_backend(|backend| {
        let copy = |name: &str| {
            let to = elsewhere.join(format!("{name}-{backend}"));
            (lustre.copy(backend).arg(&source).arg(&to), to)
        };
        let (dry, _) = copy("dry");
        let run = dry.arg("--dry-run").expect(1);
        assert_eq!(run.count("/errors/released"), 2, "{}", run.describe());
        let (refuse, to) = copy("refuse");
        let run = refuse.arg("--verify").expect(1);
        assert_eq!(run.count("/errors/released"), 2, "{}", run.describe());
        assert!(run.blames(&source.join("large")) && run.blames(&source.join("dir/small")));
        run.says("--hsm restore brings released files back");
        assert!(to.join("here").exists() && !to.join("large").exists());
        let (skip, to) = copy("skip");
        let run = skip.args(["--hsm", "skip"]).expect(0);
        assert_eq!(run.count("/warnings/released-skipped"), 2, "{}", run.describe());
        assert_eq!((run.count("/copied/files"), run.count("/files_skipped")), (1, 2));
        assert!(!to.join("large").exists() && !to.join("dir/small").exists());
    });
    let manifest = elsewhere.join("manifest");
    let copy = lustre.copy(Backend::Auto).arg("--manifest").arg(&manifest);
    copy.arg(&source).arg(elsewhere.join("listed")).expect(1);
    assert_eq!(lustre.emulator().restores(), 0, "a released file was brought back");
}

#[test]
fn verification_names_released_files_on_either_side_and_reads_none() {
    let Some(lustre) = Lustre::new(coherent()) else { return };
    let source = Scratch::on_disk();
    fs::write(source.join("one"), vec![1; 5000]).unwrap();
    fs::write(source.join("two"), vec![2; 3 * MIB]).unwrap();
    let (copy, manifest) = (lustre.join("copy"), source.join("../manifest-of-released"));
    let run = lustre.copy(Backend::Auto).arg("--manifest").arg(&manifest);
    run.arg("-T").arg(source.path()).arg(&copy).expect(0);
    for name in ["one", "two"] {
        lustre.emulator().release(&copy.join(name)).unwrap();
    }
    let report = Scratch::on_disk();
    let report = report.join("report");
    let unreadable = |report: &serde_json::Value| {
        let words = report["found"].to_string();
        assert!(words.contains("only in the archive"), "{report:#}");
        report["differences"]["unreadable"].as_u64()
    };
    let (code, found) = verify(&lustre, &report, &[source.path(), &copy]);
    assert_eq!((code, unreadable(&found)), (Some(1), Some(2)));
    let (code, found) = verify(&lustre, &report, &[&copy, source.path()]);
    assert_eq!((code, unreadable(&found)), (Some(1), Some(2)));
    let (code, found) = verify(&lustre, &report, &[Path::new("--manifest"), &manifest, &copy]);
    assert_eq!((code, unreadable(&found)), (Some(1), Some(2)));
    assert_eq!(lustre.emulator().restores(), 0, "a released file was brought back");
    // What is up to date needs no reading, and what is replaced does not either.
    let up_to_date = lustre.copy(Backend::Auto).args(["--update", "-T"]).arg(source.path());
    assert_eq!(up_to_date.arg(&copy).expect(0).count("/files_skipped"), 2);
    let back = lustre.copy(Backend::Auto).args(["--update", "-T"]).arg(&copy).arg(source.path());
    assert_eq!(back.expect(0).count("/files_skipped"), 2);
    let replaced = lustre.copy(Backend::Auto).args(["--journal", "none", "-T"]);
    replaced.arg(source.path()).arg(&copy).expect(0);
    assert_eq!(lustre.emulator().restores(), 0, "a released file was brought back");
    fs::remove_file(manifest).unwrap();
}

#[test]
fn released_files_are_brought_back_when_that_is_asked_for() {
    let Some(lustre) = Lustre::new(coherent()) else { return };
    let source = released(&lustre);
    let elsewhere = Scratch::on_disk();
    let copy = lustre.copy(Backend::Auto).args(["--hsm", "restore", "--verify"]);
    let run = copy.arg(&source).arg(elsewhere.join("copy")).expect(0);
    assert_eq!(lustre.emulator().restores(), 2);
    assert_eq!(run.count("/lustre/released_restored"), 2, "{}", run.describe());
    assert_none(&diff_trees(&source, &elsewhere.join("copy"), Compare::default()), &run.describe());
}

#[test]
fn where_the_data_lies_is_never_copied_as_an_attribute() {
    let Some(lustre) = Lustre::new(osts(4)) else { return };
    let source = lustre.join("src");
    fs::create_dir(&source).unwrap();
    set(&source.join("file"), "-c 3 -S 1M");
    fs::write(source.join("file"), "content").unwrap();
    xattr::set(source.join("file"), "user.mine", b"kept").unwrap();
    xattr::set(source.join("file"), "trusted.mine", b"kept").unwrap();
    let listed: Vec<_> = xattr::list(source.join("file")).unwrap().collect();
    assert!(listed.iter().any(|name| name == "trusted.lov"), "the emulator shows it: {listed:?}");
    for fs in [Fs::Tmpfs, Fs::Ext4] {
        let Some(elsewhere) = Scratch::new(fs) else { continue };
        for policy in ["auto", "all"] {
            let to = elsewhere.join(policy);
            lustre.copy(Backend::Auto).args(["--xattrs", policy]).arg(&source).arg(&to).expect(0);
            let mut names: Vec<_> = xattr::list(to.join("file")).unwrap().collect();
            names.retain(|name| name != "security.selinux");
            names.sort();
            let expected = if fs == Fs::Tmpfs {
                xattr::get(to.join("file"), "user.mine").unwrap_or_default().map(|_| 2)
            } else {
                Some(2)
            };
            assert!(expected.is_none() || names == ["trusted.mine", "user.mine"], "{names:?}");
        }
    }
    // What an administrator's archive brought along means nothing on another Lustre.
    let Some(archive) = Scratch::new(Fs::Ext4) else { return };
    let from = archive.join("src");
    fs::create_dir(&from).unwrap();
    fs::write(from.join("file"), "content").unwrap();
    let junk = ["lov", "lma", "lmv", "dmv", "link", "fid", "som", "version", "hsm"];
    let more = ["lfsck_bitmap", "lfsck_ns", "dummy", "dataver", "inodefl", "projid"];
    for name in junk.iter().chain(&more) {
        xattr::set(from.join("file"), format!("trusted.{name}"), b"junk").unwrap();
    }
    lustre.emulator().log().clear();
    let run =
        lustre.copy(Backend::Auto).args(["--xattrs", "all"]).arg(&from).arg(lustre.join("to"));
    run.expect(0);
    let records = lustre.emulator().log().records();
    let set: Vec<_> = records
        .iter()
        .filter(|record| record.kind == Kind::Setxattr)
        .filter_map(|record| record.attribute.clone())
        .collect();
    assert!(set.is_empty(), "attributes that are Lustre's own business were set: {set:?}");
}

#[test]
fn a_source_that_is_written_in_place_is_noticed_although_its_time_is_set_back() {
    let slow = OstSettings { bandwidth: Some(8 << 20), ..OstSettings::default() };
    let settings = Settings { cached_reads: false, ..Settings::new(1, &slow) };
    let Some(lustre) = Lustre::new(settings) else { return };
    lustre.emulator().ost(0).set_bandwidth(None);
    let source = lustre.join("src");
    fs::create_dir(&source).unwrap();
    let bytes = 24 * MIB;
    fs::write(source.join("file"), Rng::new(3).bytes(bytes)).unwrap();
    let before = fs::metadata(source.join("file")).unwrap();
    lustre.emulator().ost(0).set_bandwidth(Some(8 << 20));
    let elsewhere = Scratch::on_disk();
    lustre.emulator().log().clear();
    let copy = lustre.copy(Backend::Threads).arg(&source).arg(elsewhere.join("copy")).start();
    wait_for("reading to begin", Duration::from_secs(20), || {
        !lustre.emulator().log().reads().is_empty()
    });
    // The first block has been read by then, and the last one has not.
    let file = fs::OpenOptions::new().write(true).open(source.join("file")).unwrap();
    file.write_all_at(b"other bytes", 0).unwrap();
    file.write_all_at(b"other bytes", bytes as u64 - 11).unwrap();
    let time = |seconds, nanos| TimeSpec::new(seconds, nanos);
    nix::sys::stat::utimensat(
        nix::fcntl::AT_FDCWD,
        &source.join("file"),
        &time(before.atime(), before.atime_nsec()),
        &time(before.mtime(), before.mtime_nsec()),
        UtimensatFlags::NoFollowSymlink,
    )
    .unwrap();
    drop(file);
    lustre.emulator().ost(0).set_bandwidth(None);
    let run = copy.wait();
    run.expect(0);
    // It was read again, and so the copy is the new content.
    assert_none(&diff_trees(&source, &elsewhere.join("copy"), Compare::default()), &run.describe());
    let read: u64 = lustre.emulator().log().reads().iter().map(|record| record.length).sum();
    assert!(read > bytes as u64 * 3 / 2, "it was read once only: {read} bytes");
}

/// Project id and whether new entries inherit it.
fn project(path: &Path) -> (u32, bool) {
    let file = fs::File::open(path).unwrap();
    let found = longshore::sys::project_attributes(file.as_fd()).unwrap();
    (found.project, found.flags & longshore::sys::INHERIT_PROJECT != 0)
}

#[test]
fn projects_and_their_inheritance_are_kept_and_are_there_before_the_first_file() {
    let (Some(from), Some(to)) = (Lustre::new(osts(2)), Lustre::new(osts(2))) else { return };
    let source = from.join("src");
    fs::create_dir_all(source.join("dir")).unwrap();
    let give = |path: &Path, id, inherit| {
        let file = fs::File::open(path).unwrap();
        let mut attributes = longshore::sys::project_attributes(file.as_fd()).unwrap();
        attributes.project = id;
        attributes.flags = if inherit { longshore::sys::INHERIT_PROJECT } else { 0 };
        longshore::sys::set_project_attributes(file.as_fd(), &attributes)
            .unwrap_or_else(|errno| panic!("fd {}: {errno}", file.as_raw_fd()));
    };
    give(&source.join("dir"), 4711, true);
    fs::write(source.join("dir/file"), "content").unwrap();
    fs::write(source.join("other"), "content").unwrap();
    give(&source.join("other"), 12, false);
    assert_eq!(project(&source.join("dir/file")), (4711, false), "inherited");
    let copy = support::lustre::copy(Backend::Auto, &[&from, &to]).args(["--preserve", "all"]);
    let run = copy.arg(&source).arg(to.join("copy")).expect(0);
    assert_eq!(run.warnings(), 0, "{}", run.describe());
    for name in ["dir", "dir/file", "other"] {
        let both = (project(&source.join(name)), project(&to.join("copy").join(name)));
        assert_eq!(both.0, both.1, "{name}");
    }
}
