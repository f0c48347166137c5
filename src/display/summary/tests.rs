//! Exact texts of the summary, and its size under the worst report.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use super::*;
use crate::display::tests::report;
use crate::error::{FailureKind, Step};
use crate::report::{Copied, ReadBack, VerifyReport};

fn failure(path: &[u8], message: &str) -> Failure {
    Failure {
        path: OsStr::from_bytes(path).into(),
        step: Step::Open,
        kind: FailureKind::Permission,
        errno: Some("EACCES".to_owned()),
        message: message.to_owned(),
    }
}

#[test]
fn a_complete_copy_is_five_lines() {
    let mut report = report(Outcome::Complete);
    report.copied.bytes_moved = report.copied.bytes;
    assert_eq!(
        text(&report, None, false),
        "\
Complete: everything was copied.
  copied      1,234 files
  data        1.14 GiB
  time        4.20 s, 290.00 MiB/s
  how         read and written (1,234 files)
"
    );
}

#[test]
fn everything_that_happened_is_named() {
    let mut report = report(Outcome::Partial);
    report.copied = Copied {
        files: 1234,
        directories: 1,
        symlinks: 7,
        hard_links: 2,
        special: 1,
        bytes: 5_000_000_000,
        bytes_moved: 1_500_000,
    };
    report.sync_seconds = 0.3;
    report.files_skipped = 12;
    report.excluded = 3;
    report.deleted = 1;
    report.mechanisms = [("read-write", 34), ("ring-read", 1000), ("clone", 200)].into();
    report.warnings = [("ownership", 5), ("acl", 20)].into();
    report.errors = [("permission", 2), ("vanished", 9)].into();
    report.failures = vec![
        failure(b"/scratch/a\xff\nb", "failed to open the source: Permission denied"),
        failure(
            b"/scratch/project/with/a/rather/long/path/to/the/file.dat",
            "failed to open the source: Permission denied",
        ),
    ];
    assert_eq!(
        text(&report, None, false),
        "\
Incomplete: 11 items failed, everything else is exact.
  copied      1,234 files, 1 directory, 7 symbolic links, 2 hard links, 1
              special file
  data        4.66 GiB, of which 1.43 MiB moved (the rest: holes, clones)
  time        4.20 s, 290.00 MiB/s (final flush 0.30 s)
  how         read through io_uring (1,000 files), cloned (200 files), read
              and written (34 files)
  left alone  12 files already there, 3 items excluded, 1 item deleted
  warnings    20 acl, 5 ownership
  failed      9 vanished, 2 permission
    /scratch/a\\xff\\nb: failed to open the source: Permission denied
    …her/long/path/to/the/file.dat: failed to open the source: Permission denied
    ... and 9 more
  next        run the same command again: what is done is not copied again
"
    );
}

#[test]
fn the_failed_list_is_the_way_to_go_on() {
    let mut report = report(Outcome::Partial);
    report.errors = [("io", 1)].into();
    let text = text(&report, Some(Path::new("/tmp/failed")), false);
    let next = "  next        only the failed items again: the same command with --files-from\n";
    assert!(text.contains(next), "{text}");
    assert!(text.starts_with("Incomplete: 1 item failed, everything else is exact.\n"), "{text}");
}

/// Where the copy made the directory, cp's rule would put what is listed one level deeper.
#[test]
fn the_failed_list_goes_to_the_same_place() {
    let mut report = report(Outcome::Partial);
    (report.errors, report.nests) = ([("io", 1)].into(), true);
    let text = text(&report, Some(Path::new("/tmp/failed")), false);
    assert!(text.contains("the same command with -T\n"), "{text}");
    assert!(text.contains("--files-from /tmp/failed"), "{text}");
}

#[test]
fn after_a_failed_flush_nothing_is_to_be_left_alone() {
    let mut report = report(Outcome::Fatal);
    (report.errors, report.unreliable) = ([("io", 1)].into(), true);
    let text = text(&report, Some(Path::new("/tmp/failed")), false);
    assert!(text.contains("copy all of it again"), "{text}");
    assert!(!text.contains("exact") && !text.contains("--files-from"), "{text}");
}

#[test]
fn a_stopped_copy_says_why_and_a_dry_run_that_nothing_was_written() {
    let mut stopped = report(Outcome::Fatal);
    stopped.stopped_by = Some("/lus: no space left on device".to_owned());
    let stopped = text(&stopped, None, false);
    assert!(stopped.starts_with("Stopped: /lus: no space left on device\n"), "{stopped}");
    assert!(stopped.contains("remove the cause, then run the same command"), "{stopped}");

    let mut dry = report(Outcome::Complete);
    dry.dry_run = true;
    assert_eq!(
        text(&dry, None, false),
        "Dry run: nothing was written.\n  would copy  1,234 files, 1.14 GiB\n"
    );
}

#[test]
fn the_worst_report_fits_a_terminal() {
    let mut worst = report(Outcome::Fatal);
    worst.stopped_by = Some("word ".repeat(200));
    worst.copied = Copied {
        files: u64::MAX,
        directories: u64::MAX,
        symlinks: u64::MAX,
        hard_links: u64::MAX,
        special: u64::MAX,
        bytes: u64::MAX,
        bytes_moved: 1,
    };
    (worst.files_skipped, worst.excluded, worst.deleted) = (u64::MAX, u64::MAX, u64::MAX);
    (worst.seconds, worst.sync_seconds, worst.bytes_per_second) = (1e12, 1e12, 1e300);
    const WORDS: [&str; 12] = [
        "vanished",
        "permission",
        "source-changed",
        "type-conflict",
        "name-too-long",
        "io",
        "descriptors",
        "unsupported",
        "into-itself",
        "no-space",
        "quota",
        "other",
    ];
    worst.mechanisms = WORDS.map(|word| (word, 1_000_000)).into();
    worst.warnings = WORDS.map(|word| (word, 1_000_000)).into();
    worst.errors = WORDS.map(|word| (word, 1_000_000)).into();
    worst.failures = vec![failure("/日本\n".repeat(500).as_bytes(), &"x".repeat(500)); 1000];
    let list = format!("/{}", "l".repeat(300));
    for list in [None, Some(Path::new(&list))] {
        let text = text(&worst, list, true);
        assert!(text.lines().count() <= 24, "{} lines:\n{text}", text.lines().count());
        for line in text.lines() {
            assert!(measure_text_width(line) <= 80, "{line}");
        }
    }
}

#[test]
fn a_copy_that_took_a_while_says_what_held_it_up() {
    let mut report = report(Outcome::Complete);
    report.bottleneck.name = "destination-create";
    report.bottleneck.share = 0.714;
    let shown = text(&report, None, false);
    assert!(shown.contains("held up by  destination create (71 % of the waiting)"), "{shown}");
    report.seconds = 0.2;
    assert!(!text(&report, None, false).contains("held up by"));
}

#[test]
fn files_that_were_left_in_the_archive_are_not_said_to_be_copied() {
    let mut skipped = report(Outcome::Complete);
    skipped.warnings = [("released-skipped", 2)].into();
    let told = text(&skipped, None, false);
    assert!(told.starts_with("Complete: everything was copied but released files.\n"), "{told}");
    let mut refused = report(Outcome::Partial);
    refused.errors = [("released", 2)].into();
    let told = text(&refused, None, false);
    let words: Vec<&str> = told.split_whitespace().collect();
    assert!(words.join(" ").contains("--hsm skip leaves them out"), "{told}");
}

/// What memory says is no proof of what the device has.
#[test]
fn files_that_were_read_back_from_memory_are_counted() {
    let mut report = report(Outcome::Complete);
    for (memory, says) in [
        (0, "3 files read back (xxh3)"),
        (1, "3 files read back (xxh3), 1 of them from memory only"),
        (3, "3 files read back (xxh3), from memory only"),
    ] {
        let read_back = ReadBack { dropped: 3 - memory, memory, direct: 0 };
        report.verify = Some(VerifyReport { files: 3, read_back, ..VerifyReport::default() });
        let text = text(&report, None, false);
        assert!(text.lines().any(|line| line.ends_with(says)), "{text}");
    }
}
