//! The program: that it mounts what it is told, writes its log, and unmounts when it is told to stop.
#![allow(clippy::unwrap_used, clippy::print_stderr)] // tests

mod support;

use std::fs;
use std::path::Path;
use std::process::Command;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

fn is_mounted(at: &Path) -> bool {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    mounts.lines().any(|line| line.split(' ').nth(1) == at.to_str())
}

#[test]
fn the_program_mounts_logs_and_unmounts() {
    if !support::can_mount() {
        return;
    }
    let scratch = support::scratch();
    let at = |name: &str| scratch.path().join(name);
    fs::create_dir(at("mount")).unwrap();
    fs::create_dir(at("behind")).unwrap();
    let mut program = Command::new(env!("CARGO_BIN_EXE_lustre-emulator"))
        .args([at("mount"), at("behind")])
        .args(["--osts", "4", "--bandwidth", "100M", "--latency", "1ms", "--capacity", "1G"])
        .args(["--stripe-count", "2", "--stripe-size", "1M", "--pool", "flash:2,3"])
        .arg("--log")
        .arg(at("log"))
        .spawn()
        .unwrap();
    support::wait_for("the mount", || is_mounted(&at("mount")));
    fs::write(at("mount/file"), vec![1; 3 << 20]).unwrap();
    let layout = xattr::get(at("mount/file"), "lustre.lov").unwrap().unwrap();
    assert_eq!(support::osts(&layout).len(), 2);
    let space = nix::sys::statvfs::statvfs(&at("mount")).unwrap();
    assert_eq!(space.blocks() * space.fragment_size(), 4 << 30);
    kill(Pid::from_raw(i32::try_from(program.id()).unwrap()), Signal::SIGTERM).unwrap();
    assert!(program.wait().unwrap().success());
    assert!(!is_mounted(&at("mount")));
    let log = fs::read_to_string(at("log")).unwrap();
    let records = log.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    let written: u64 = records
        .filter(|record| record["kind"] == "write")
        .map(|record| record["length"].as_u64().unwrap())
        .sum();
    assert_eq!(written, 3 << 20);
    assert_eq!(fs::read(at("behind/file")).unwrap().len(), 3 << 20);
}

#[test]
fn nonsense_is_refused_before_anything_is_mounted() {
    let scratch = support::scratch();
    for wrong in
        [["--bandwidth", "fast"], ["--latency", "1"], ["--pool", "x"], ["--stripe-size", "1000"]]
    {
        let mut program = Command::new(env!("CARGO_BIN_EXE_lustre-emulator"));
        let out = program.args(wrong).arg(scratch.path()).arg(scratch.path()).output().unwrap();
        assert!(!out.status.success(), "{wrong:?}");
        assert!(!is_mounted(scratch.path()), "{wrong:?}");
    }
}
