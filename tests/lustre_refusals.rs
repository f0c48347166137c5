//! What a copy refuses to begin with where Lustre is expected: mount points without a mount, other
//! filesystems, clients that do not answer. Nothing is written then.
#![allow(clippy::unwrap_used, clippy::print_stderr, clippy::print_stdout, unreachable_pub)] // tests

mod support;

use std::fs;
use std::path::Path;

use support::{Backend, Fs, Longshore, Scratch, has_program, need_root};

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
