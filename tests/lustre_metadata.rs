//! What a copy keeps and tells beside content where Lustre is: job ids, released files, data versions,
//! projects, attributes that are none.
#![allow(clippy::unwrap_used, clippy::print_stderr, clippy::print_stdout, unreachable_pub)] // tests

mod support;

use std::fs;
use std::path::Path;
use std::time::Duration;

use support::{Backend, Longshore, Scratch, wait_for};

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
