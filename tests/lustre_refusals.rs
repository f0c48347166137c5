//! What a copy refuses to begin with where Lustre is expected: mount points without a mount, other
//! filesystems, clients that do not answer. Nothing is written then.
#![allow(clippy::unwrap_used, clippy::print_stderr, clippy::print_stdout, unreachable_pub)] // tests

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use lustre_emulator::{OstSettings, Settings};
use support::compare::assert_none;
use support::lustre::{Lustre, osts};
use support::{
    Backend, Compare, Fs, Longshore, Rng, Scratch, diff_trees, for_each_backend, has_program,
    need_root, wait_for,
};

const MIB: usize = 1 << 20;

/// A source of one file, and a directory that something should be mounted on.
fn bare(scratch: &Scratch) -> (std::path::PathBuf, std::path::PathBuf) {
    let (source, point) = (scratch.join("src"), scratch.join("lus"));
    fs::create_dir(&source).unwrap();
    fs::write(source.join("file"), "content").unwrap();
    fs::create_dir(&point).unwrap();
    (source, point)
}

fn is_empty(dir: &Path) -> bool {
    fs::read_dir(dir).unwrap().next().is_none()
}

#[test]
fn a_mount_point_of_fstab_on_which_nothing_is_mounted_is_refused() {
    if !need_root() || !has_program("unshare") {
        return;
    }
    let scratch = Scratch::on_disk();
    let (source, point) = bare(&scratch);
    let fstab = scratch.join("fstab");
    let line = format!("10.0.0.1@tcp:/lfs01 {} lustre defaults,_netdev 0 0\n", point.display());
    fs::write(&fstab, line).unwrap();
    // A mount namespace of its own sees this file as /etc/fstab.
    let script = format!("mount --bind {} /etc/fstab && exec \"$@\"", fstab.display());
    let within = ["unshare", "-m", "sh", "-ec", &script, "sh"];
    for destination in [point.clone(), point.join("new"), point.join("a/b")] {
        let copy = Longshore::copy(Backend::Auto).through(&within).arg("-p").arg(&source);
        let run = copy.arg(&destination).expect(2);
        run.says("nothing is mounted on").says("lfs01");
        assert!(is_empty(&point), "{}", run.describe());
    }
    // The other way round it is the source that is not there.
    let run = Longshore::copy(Backend::Auto).through(&within).arg(&point).arg(scratch.join("new"));
    run.expect(2).says("nothing is mounted on");
    assert!(!scratch.join("new").exists());
    // Through a link it is the same directory.
    std::os::unix::fs::symlink(&point, scratch.join("link")).unwrap();
    let run = Longshore::copy(Backend::Auto).through(&within).arg(&source);
    run.arg(scratch.join("link/new")).expect(2).says("nothing is mounted on");
    assert!(is_empty(&point));
    // Elsewhere fstab changes nothing.
    let run = Longshore::copy(Backend::Auto).through(&within).arg(&source);
    run.arg(scratch.join("elsewhere")).expect(0);
}

#[test]
fn what_is_expected_must_be_mounted_and_be_lustre() {
    let Some(scratch) = Scratch::new(Fs::Tmpfs) else { return };
    let (source, point) = bare(&scratch);
    let expect = |path: &Path, name: &str| {
        let copy = Longshore::copy(Backend::Auto).arg(&source).arg(point.join("new"));
        copy.arg("--expect-mount").arg(format!("{}{name}", path.display())).run()
    };
    expect(&point, "").expect(2).says("nothing is mounted there");
    expect(&point, ":lfs01").expect(2).says("for the filesystem lfs01");
    expect(&scratch.mount().path(), "").expect(2).says("no Lustre filesystem");
    expect(Path::new("relative"), "").expect(2).says("absolute path");
    assert!(is_empty(&point));
}

#[test]
fn another_filesystem_than_the_one_named_is_refused() {
    let Some(lustre) = Lustre::new(osts(2)) else { return };
    let scratch = Scratch::on_disk();
    let (source, _) = bare(&scratch);
    let expect = |name: &str, to: &str| {
        let copy = lustre.copy(Backend::Auto).arg(&source).arg(lustre.join(to));
        copy.arg("--expect-mount").arg(format!("{}:{name}", lustre.path().display())).run()
    };
    expect("other", "refused").expect(2).says("not other");
    assert!(is_empty(lustre.path()));
    expect(lustre.fsname(), "copy").expect(0);
}

#[test]
fn servers_that_do_not_answer_are_told_within_a_time() {
    // Nothing is believed from before.
    let settings = Settings { cached: Duration::ZERO, ..osts(2) };
    let Some(lustre) = Lustre::new(settings) else { return };
    let scratch = Scratch::on_disk();
    let (source, _) = bare(&scratch);
    let copy = || {
        let copy = lustre.copy(Backend::Auto).args(["--mount-timeout", "1.5"]);
        copy.limit(Duration::from_secs(20))
    };
    // A request that FUSE has taken cannot be taken back, not even by the end of the process, and so
    // the servers come back after the refusal. Had it waited for them, it would have copied.
    let stall = || lustre.emulator().mdt().stall_for(Duration::from_secs(3));
    stall();
    copy().arg(&source).arg(lustre.join("copy")).expect(2).says("does not answer within 1.5 s");
    stall();
    let expected = format!("{}", lustre.path().display());
    let elsewhere = copy().args(["--expect-mount", &expected]).arg(&source);
    elsewhere.arg(scratch.join("copy")).expect(2).says("does not answer");
    assert!(!scratch.join("copy").exists());
    assert!(is_empty(lustre.path()));
    // One that comes back in time is waited for.
    lustre.emulator().mdt().stall_for(Duration::from_millis(700));
    copy().arg(&source).arg(lustre.join("copy")).expect(0);
}

/// Ends the connection between the kernel and a filesystem in this process, as an eviction for good.
/// `control` is a directory to mount the kernel's list of connections on.
fn disconnect(path: &Path, control: &Path) {
    use std::os::unix::fs::MetadataExt;
    let connection = nix::sys::stat::minor(fs::metadata(path).unwrap().dev());
    let flags = nix::mount::MsFlags::empty();
    nix::mount::mount(Some("none"), control, Some("fusectl"), flags, None::<&str>).unwrap();
    fs::write(control.join(connection.to_string()).join("abort"), "1").unwrap();
    nix::mount::umount(control).unwrap();
}

#[test]
fn a_client_without_a_connection_is_refused_in_words() {
    let Some(lustre) = Lustre::new(osts(2)) else { return };
    let scratch = Scratch::on_disk();
    let (source, point) = bare(&scratch);
    disconnect(lustre.path(), &point);
    let run = lustre.copy(Backend::Auto).arg(&source).arg(lustre.join("copy")).expect(2);
    run.says("is not ready").says(lustre.fsname());
    let run = lustre.copy(Backend::Auto).arg(lustre.join("src")).arg(scratch.join("copy"));
    run.expect(2).says("is not ready");
    assert!(!scratch.join("copy").exists());
}

/// The parameters of a client, which the emulator keeps as a directory of files.
fn free_space(lustre: &Lustre, root: &Path, free: &[u64]) {
    for (ost, bytes) in free.iter().enumerate() {
        let device = format!("osc/{}-OST{ost:04x}-osc-ffff8d2b40b8d800", lustre.fsname());
        fs::create_dir_all(root.join(&device)).unwrap();
        fs::write(root.join(device).join("kbytesavail"), (bytes >> 10).to_string()).unwrap();
    }
}

#[test]
fn a_full_ost_stops_the_copy_is_named_and_is_gone_on_with() {
    let ost = OstSettings { capacity: 1 << 30, ..OstSettings::default() };
    let Some(lustre) = Lustre::new(Settings::new(4, &ost)) else { return };
    let source = Scratch::on_disk();
    let mut rng = Rng::new(21);
    fs::create_dir(source.join("dir")).unwrap();
    for n in 0..6 {
        fs::write(source.join(format!("dir/{n}")), rng.bytes(12 * MIB)).unwrap();
    }
    let parameters = Scratch::on_disk();
    free_space(&lustre, parameters.path(), &[1 << 30, 1 << 30, 0, 512 << 20]);
    for_each_backend(|backend| {
        let target = lustre.join(format!("copy-{backend}"));
        lustre.emulator().ost(2).set_free(3 << 20);
        let copy = || {
            let copy = lustre.copy(backend).args(["--layout", "-c 4 -S 1M"]);
            let copy = copy.env("LONGSHORE_LUSTRE_SYSFS", parameters.path().to_str().unwrap());
            copy.arg("-T").arg(source.path()).arg(&target)
        };
        let run = copy().expect(3);
        println!("{}", run.stderr);
        let why = run.report.as_ref().unwrap()["stopped_by"].as_str().unwrap().to_owned();
        assert!(why.starts_with("no space left on OST0002 (0 B free)"), "{why}");
        assert!(why.contains(lustre.fsname()), "{why}");
        assert!(why.contains("the other 3 have 512.00 MiB to 1.00 GiB free"), "{why}");
        lustre.emulator().ost(2).set_free(1 << 30);
        let run = copy().expect(0);
        assert_none(&diff_trees(source.path(), &target, Compare::default()), &run.describe());
        fs::remove_dir_all(&target).unwrap();
    });
}

/// A recovery: seconds in which a server answers nothing.
fn stall() -> Duration {
    let full = std::env::var("LONGSHORE_SCALE").is_ok_and(|scale| scale == "full");
    Duration::from_secs(if full { 60 } else { 3 })
}

#[test]
fn a_server_in_recovery_is_waited_for() {
    let Some(lustre) = Lustre::new(osts(4)) else { return };
    let source = Scratch::on_disk();
    let mut rng = Rng::new(22);
    for n in 0..40 {
        fs::write(source.join(format!("small-{n}")), rng.bytes(20_000)).unwrap();
    }
    fs::write(source.join("large"), rng.bytes(40 * MIB)).unwrap();
    let target: PathBuf = lustre.join("copy");
    let copy = lustre.copy(Backend::Auto).args(["--layout", "-c 4 -S 1M", "--verify"]);
    let copy = copy.args(["--bandwidth-limit", "40M"]).limit(stall() + Duration::from_secs(60));
    let started = Instant::now();
    let running = copy.arg("-T").arg(source.path()).arg(&target).start();
    wait_for("writing to begin", Duration::from_secs(20), || {
        !lustre.emulator().log().writes().is_empty()
    });
    lustre.emulator().ost(1).stall_for(stall());
    lustre.emulator().mdt().stall_for(stall());
    let run = running.wait();
    run.expect(0);
    assert!(started.elapsed() >= stall(), "nothing waited for the server");
    assert_eq!(run.warnings(), 0, "{}", run.describe());
    assert_none(&diff_trees(source.path(), &target, Compare::default()), &run.describe());
}

#[test]
fn what_an_evicted_client_lost_is_copied_again() {
    let Some(lustre) = Lustre::new(osts(2)) else { return };
    let source = Scratch::on_disk();
    fs::write(source.join("file"), Rng::new(23).bytes(9 * MIB)).unwrap();
    for_each_backend(|backend| {
        let target = lustre.join(format!("copy-{backend}"));
        for to in ["one", "two"] {
            // A request after some that were served fails once, as that of a client that was evicted.
            lustre.emulator().ost(1).fail_after(if to == "one" { 2 } else { 0 });
            let copy = lustre.copy(backend).args(["--layout", "-c 1 -i 1 -S 1M"]);
            let run = copy.arg("-Tp").arg(source.path()).arg(target.join(to)).expect(0);
            assert_none(
                &diff_trees(source.path(), &target.join(to), Compare::default()),
                &run.describe(),
            );
        }
    });
    // A server that fails for good is no eviction: the file fails, once.
    lustre.emulator().ost(1).set_failing(true);
    let copy = lustre.copy(Backend::Auto).args(["--layout", "-c 1 -i 1 -S 1M"]);
    let run = copy.arg("-T").arg(source.path()).arg(lustre.join("failing")).expect(1);
    assert_eq!(run.count("/errors/io"), 1, "{}", run.describe());
    assert!(!lustre.join("failing/file").exists());
}

#[test]
fn a_filesystem_that_goes_away_for_good_stops_the_copy() {
    let Some(lustre) = Lustre::new(osts(2)) else { return };
    let scratch = Scratch::on_disk();
    let (source, point) = bare(&scratch);
    fs::write(source.join("large"), Rng::new(24).bytes(16 * MIB)).unwrap();
    let copy = lustre.copy(Backend::Auto).args(["--bandwidth-limit", "4M"]);
    let copy = copy.limit(Duration::from_secs(60)).arg("-T").arg(&source);
    let running = copy.arg(lustre.join("copy")).start();
    wait_for("writing to begin", Duration::from_secs(20), || {
        !lustre.emulator().log().writes().is_empty()
    });
    disconnect(lustre.path(), &point);
    running.wait().expect(3).says("a filesystem went away");
}

#[test]
fn what_was_in_flight_when_a_filesystem_went_away_says_so_too() {
    for of_metadata in [false, true] {
        let Some(lustre) = Lustre::new(osts(1)) else { return };
        let scratch = Scratch::on_disk();
        let (source, point) = bare(&scratch);
        for file in 0..200 {
            fs::write(source.join(file.to_string()), Rng::new(file).bytes(4 << 10)).unwrap();
        }
        let copy = lustre.copy(Backend::Auto).args(["--ops-limit", "50"]);
        let copy = copy.limit(Duration::from_secs(60)).arg("-T").arg(&source);
        let running = copy.arg(lustre.join("copy")).start();
        let log = lustre.emulator().log();
        wait_for("files to be written", Duration::from_secs(20), || log.writes().len() > 4);
        if of_metadata {
            lustre.emulator().mdt().stall()
        } else {
            lustre.emulator().ost(0).stall()
        }
        wait_for("a request that waits", Duration::from_secs(20), || {
            log.records().iter().any(|record| record.end.is_none())
        });
        disconnect(lustre.path(), &point);
        let run = running.wait();
        run.expect(3).says("a filesystem went away");
        assert_eq!(run.count("/errors/other"), 0, "{}", run.describe());
    }
}
