//! `longshore doctor`, `completions` and `man` as people call them: the real binary, real
//! filesystems, and real seccomp filters. What the engine does with the findings is tested elsewhere.

#![allow(clippy::unwrap_used, clippy::print_stdout)] // a test may panic and say what it skipped

use std::path::Path;
use std::process::{Command, Output};

use seccompiler::{BpfProgram, SeccompAction, SeccompFilter};
use serde_json::Value;

fn longshore(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_longshore"));
    command.args(arguments).env_remove("CLICOLOR_FORCE");
    command
}

fn stdout(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn examine(path: &Path) -> Value {
    let output = longshore(&["doctor", "--json"]).arg(path).output().unwrap();
    serde_json::from_str(&stdout(&output)).unwrap()
}

/// Runs the command under a filter that answers `errno` to `io_uring_setup`. A filter binds the
/// thread that installs it and is inherited by its children, so a thread of its own is enough.
fn with_io_uring_refused(errno: i32, mut command: Command) -> Output {
    let filter = SeccompFilter::new(
        [(libc::SYS_io_uring_setup, vec![])].into(),
        SeccompAction::Allow,
        SeccompAction::Errno(errno.cast_unsigned()),
        std::env::consts::ARCH.try_into().unwrap(),
    );
    let program: BpfProgram = filter.unwrap().try_into().unwrap();
    let filtered = std::thread::spawn(move || {
        seccompiler::apply_filter(&program).unwrap();
        command.output().unwrap()
    });
    filtered.join().unwrap()
}

#[test]
fn a_tmpfs_is_described_and_nothing_is_left_behind() {
    let Ok(dir) = tempfile::tempdir_in("/dev/shm") else {
        println!("skipped: no writable /dev/shm");
        return;
    };
    let found = examine(dir.path());
    let facts = &found["filesystems"][0];
    assert_eq!(facts["filesystem"], "tmpfs", "{facts:#}");
    assert_eq!(facts["mount_point"], "/dev/shm");
    assert_eq!(facts["magic"], "0x1021994");
    assert_eq!(facts["writable"]["verdict"], "yes");
    assert_eq!(facts["clone"]["verdict"], "no", "tmpfs cannot share blocks");
    assert_eq!(facts["hard_links"]["verdict"], "yes");
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn the_scratch_filesystem_of_the_tests_is_described_like_the_system_says() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let file = dir.path().join("a file");
    std::fs::write(&file, "x").unwrap();
    let found = examine(&file);
    let facts = &found["filesystems"][0];
    let stat = nix::sys::statvfs::statvfs(&file).unwrap();
    assert_eq!(facts["total_bytes"], stat.blocks() * stat.fragment_size());
    assert_eq!(facts["path"], file.to_str().unwrap());
    assert_eq!(facts["writable"]["verdict"], "yes", "{facts:#}");
    let names: Vec<_> =
        std::fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(names, ["a file"]);
}

#[test]
fn a_path_that_does_not_exist_is_refused_with_two() {
    let output = longshore(&["doctor", ".", "/no/such/path"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(output.stdout.is_empty());
    let message = String::from_utf8(output.stderr).unwrap();
    assert_eq!(
        message,
        "longshore: /no/such/path: failed to find the path: No such file or directory (os error 2)\n"
    );
}

#[test]
fn a_directory_that_is_not_writable_is_not_tested() {
    // Root may write anywhere but here.
    let found = examine(Path::new("/proc"));
    let facts = &found["filesystems"][0];
    assert_eq!(facts["writable"]["verdict"], "no", "{facts:#}");
    assert_eq!(facts["xattrs"]["verdict"], "untested");
    assert_eq!(facts["clone"]["detail"], "proc has no clones", "known from the type");
    let output = longshore(&["doctor", "/proc"]).output().unwrap();
    assert!(stdout(&output).contains("not tested: directory is not writable"));
}

#[test]
fn a_filtered_ring_is_named_and_is_no_error() {
    for errno in [libc::EPERM, libc::ENOSYS] {
        let output = with_io_uring_refused(errno, longshore(&["doctor", "--json", "/"]));
        let found: Value = serde_json::from_str(&stdout(&output)).unwrap();
        let uring = &found["kernel"]["io_uring"];
        let sysctl = &uring["disabled_sysctl"];
        if errno == libc::EPERM && sysctl.as_u64().is_some_and(|value| value > 0) {
            println!("skipped for EPERM: kernel.io_uring_disabled is {sysctl}");
            continue;
        }
        assert_eq!(uring["state"], "filtered", "{uring:#}");
        let text = stdout(&with_io_uring_refused(errno, longshore(&["doctor", "/"])));
        assert!(text.contains("!   io_uring            filtered: "), "{text}");
        assert!(text.contains("seccomp profile that allows io_uring_setup"), "{text}");
    }
}

#[test]
fn text_fits_a_terminal_and_has_no_colour_in_a_pipe() {
    let output = longshore(&["doctor", "/", "/dev", "/proc"]).output().unwrap();
    let text = stdout(&output);
    assert!(!text.contains('\u{1b}'), "{text}");
    for line in text.lines() {
        assert!(line.chars().count() <= 80, "{line}");
    }
}

#[test]
fn completions_name_every_command() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = stdout(&longshore(&["completions", shell]).output().unwrap());
        for command in ["copy", "run", "doctor", "completions", "man"] {
            assert!(script.contains(command), "{shell} has no {command}");
        }
    }
}

#[test]
fn the_manual_of_copy_has_every_option_of_its_help() {
    let plain = |text: String| text.replace("\\-", "-");
    let page = plain(stdout(&longshore(&["man", "copy"]).output().unwrap()));
    assert!(page.contains(".SH NAME\nlongshore-copy -"), "{page}");
    let help = stdout(&longshore(&["copy", "--help"]).output().unwrap());
    let options: Vec<&str> = help
        .split_whitespace()
        .map(|word| word.split('[').next().unwrap_or(word))
        .map(|word| word.trim_end_matches(|c: char| !c.is_alphanumeric()))
        .filter(|word| word.starts_with("--") && word.len() > 2)
        .collect();
    assert!(options.contains(&"--files-from") && options.contains(&"--update"), "{options:?}");
    for option in options {
        assert!(page.contains(option), "no {option} in the manual:\n{page}");
    }
}

#[test]
fn the_manual_of_longshore_lists_the_commands() {
    let page = stdout(&longshore(&["man"]).output().unwrap()).replace("\\-", "-");
    assert!(page.contains(".SH NAME\nlongshore -"), "{page}");
    for command in ["longshore-copy(1)", "longshore-run(1)", "longshore-doctor(1)"] {
        assert!(page.contains(command), "{page}");
    }
}

#[test]
fn a_manual_of_an_unknown_command_is_refused_with_two() {
    let output = longshore(&["man", "cpoy"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    let message = String::from_utf8(output.stderr).unwrap();
    assert!(message.starts_with("longshore: no command is named \"cpoy\"; there are copy, "));
}
