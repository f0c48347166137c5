//! Saying that a test was left out, and why. It decides nothing.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::path::PathBuf;

use crate::place;

/// Records that the running test left something out, as the tests of the root package do it: one line
/// to standard error and to the file named by `LONGSHORE_SKIPS` (else `target/skipped-tests.txt`).
pub fn skip(reason: &str) {
    let thread = std::thread::current();
    let reason = reason.lines().next().unwrap_or("");
    let line = format!("{}: {reason}", thread.name().unwrap_or("unnamed test"));
    let file = std::env::var_os("LONGSHORE_SKIPS")
        .map_or_else(|| place::target_dir().join("skipped-tests.txt"), PathBuf::from);
    let opened = OpenOptions::new().create(true).append(true).open(&file);
    let written = opened.and_then(|mut skips| writeln!(skips, "{line}"));
    // Straight to standard error: the test harness would hide what a passing test prints.
    let mut errors = io::stderr();
    let said = writeln!(errors, "SKIPPED {line}").and_then(|()| match written {
        Ok(()) => Ok(()),
        Err(error) => writeln!(errors, "failed to record it in {}: {error}", file.display()),
    });
    drop(said); // nobody is left to be told
}
