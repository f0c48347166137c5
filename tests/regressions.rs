//! Bugs that were found once, each with its symptom, its cause, and the guarantee that the test
//! stands for from now on.
#![allow(clippy::unwrap_used, clippy::print_stderr, clippy::print_stdout, unreachable_pub)] // tests

mod support;

use std::fs;
use std::path::Path;
use std::time::Duration;

use support::{Fs, Longshore, Scratch, for_each_backend};

/// Names in a directory that Longshore gives to unfinished files.
fn leftovers(at: &Path) -> Vec<std::path::PathBuf> {
    let entries = walkdir::WalkDir::new(at).into_iter().map(|entry| entry.unwrap().into_path());
    let temporary = |path: &std::path::PathBuf| path.to_string_lossy().contains("/.longshore-");
    entries.filter(temporary).collect()
}

/// Symptom: with more than two threads a copy never ended, at full CPU, once one large file failed.
/// Cause: an invitation to help was handed on before it was clear that there was a file left to help
/// with; a failed file keeps its chunks, so the invitation went round for ever.
/// Guarantee: a failed large file ends the work on it, whoever else was invited.
#[test]
fn a_large_file_that_fails_does_not_keep_its_helpers_busy_for_ever() {
    for_each_backend(|backend| {
        let Some(scratch) = Scratch::new(Fs::Tmpfs) else { return };
        fs::write(scratch.join("big"), vec![7; 64 << 20]).unwrap();
        // A limit of the file size: an error of this one file that no other has to share.
        let limited = "trap '' XFSZ; ulimit -f 40000; exec \"$0\" \"$@\"";
        let run = Longshore::copy(backend)
            .through(&["sh", "-c", limited])
            .args(["--threads", "8"])
            .arg(scratch.join("big"))
            .arg(scratch.join("copy"))
            .limit(Duration::from_secs(20))
            .expect(1);
        assert!(run.blames(&scratch.join("big")), "{}", run.describe());
        assert!(!scratch.join("copy").exists());
        assert_eq!(leftovers(scratch.path()), [] as [&Path; 0]);
    });
}

/// Symptom: a file of /proc was copied as an empty file and reported as copied; one of /sys failed
/// as "changed while it was read". Cause: the size of the inode was believed, which is 0 or one page
/// there. Guarantee: where sizes mean nothing, what reading gives is copied.
#[test]
fn files_whose_size_says_nothing_are_copied_as_they_read() {
    for_each_backend(|backend| {
        let Some(scratch) = Scratch::new(Fs::Tmpfs) else { return };
        for source in ["/proc/version", "/proc/self/limits", "/sys/kernel/mm/ksm/run"] {
            if !Path::new(source).exists() {
                support::skip(&format!("{source} is not there"));
                continue;
            }
            let copy = scratch.join("copy");
            let run = Longshore::copy(backend).arg(source).arg(&copy).expect(0);
            let content = fs::read(&copy).unwrap();
            assert!(!content.is_empty(), "{source}: {}", run.describe());
            assert_eq!(run.count("/copied/bytes"), content.len() as u64);
            if source != "/proc/self/limits" {
                assert_eq!(content, fs::read(source).unwrap());
            }
        }
    });
}
