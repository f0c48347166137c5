//! The whole display over a captured stream, and the observations that the views' tests share.

use std::io::{self, Write};
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use serde_json::Value;

use super::*;
use crate::lustre::probe::Client;
use crate::lustre::report::{Layouts, LustreReport};
use crate::report::{Copied, Damage, Failure, Setup, VerifyReport};

/// A copy in the middle of its work.
pub(super) fn snapshot() -> Snapshot {
    Snapshot {
        elapsed: Duration::from_secs(4),
        files_found: 5678,
        bytes_found: 4_831_838_208,
        files_done: 1200,
        bytes_done: 1_224_065_679,
        bytes_verified: 0,
        directories_done: 56,
        links_done: 7,
        files_skipped: 34,
        files_resumed: 0,
        bytes_resumed: 0,
        failed: 3,
        walk_done: false,
    }
    .with_files_done(1234)
}

impl Snapshot {
    /// Counts all done files as copied, none as skipped.
    fn with_files_done(self, files_done: u64) -> Self {
        Self { files_done, files_skipped: 0, ..self }
    }
}

pub(super) fn observed(label: &str) -> Observed<'_> {
    Observed {
        label,
        snapshot: snapshot(),
        bytes_per_second: 304_087_040.0,
        files_per_second: 310.0,
        eta: Eta::AtLeast(Duration::from_secs(130)),
    }
}

pub(super) fn report(outcome: Outcome) -> Report {
    Report {
        verify: None,
        version: crate::report::REPORT_VERSION,
        outcome,
        exit_code: outcome.code(),
        stopped_by: None,
        go_on_with: "",
        nests: false,
        unreliable: false,
        resumed: None,
        dry_run: false,
        seconds: 4.2,
        sync_seconds: 0.0,
        copied: Copied { files: 1234, bytes: 1_224_065_679, ..Copied::default() },
        files_skipped: 0,
        excluded: 0,
        deleted: 0,
        bytes_per_second: 304_087_040.0,
        mechanisms: [("read-write", 1234)].into(),
        concurrency: crate::report::Concurrency::default(),
        bottleneck: crate::lanes::bottleneck::Bottleneck::default(),
        lustre: None,
        setup: Setup::default(),
        warnings: [].into(),
        errors: [].into(),
        failures: Vec::new(),
    }
}

/// A stream that can be read while the display holds it.
#[derive(Clone, Default)]
struct Captured(Arc<Mutex<Vec<u8>>>);

impl Write for Captured {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Captured {
    fn lines(&self) -> Vec<String> {
        let bytes = self.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap().lines().map(str::to_owned).collect()
    }

    /// Waits until a line satisfies the condition.
    fn wait_for(&self, what: &str, wanted: impl Fn(&str) -> bool) -> String {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            if let Some(line) = self.lines().into_iter().find(|line| wanted(line)) {
                return line;
            }
            assert!(Instant::now() < deadline, "no {what} in {:?}", self.lines());
            std::thread::yield_now();
        }
    }
}

fn json() -> (Display, Captured) {
    let out = Captured::default();
    let view = View::Json(json::Json::new(Box::new(out.clone())));
    (Display::with_view(Some(view), Summaries::No), out)
}

fn keys(line: &str) -> Vec<String> {
    // serde_json sorts keys in a `Value`; the order in the text is no part of the contract.
    let Value::Object(map) = serde_json::from_str(line).unwrap() else { panic!("{line}") };
    map.keys().cloned().collect()
}

#[test]
fn json_lines_have_the_documented_keys() {
    let (display, out) = json();
    display.state("DataIn");
    display.message("two\nlines");
    let id = display.add("data-in", Arc::new(Progress::default()));
    let progress = out.wait_for("progress", |line| line.contains("\"type\":\"progress\""));
    let mut ended = report(Outcome::Fatal);
    ended.stopped_by = Some("no space left".to_owned());
    display.finish(id, &ended);
    display.close();
    assert_eq!(
        keys(&progress),
        [
            "bytes_done",
            "bytes_found",
            "bytes_per_second",
            "bytes_resumed",
            "bytes_verified",
            "copy",
            "directories_done",
            "elapsed_seconds",
            "eta_seconds",
            "failed",
            "files_done",
            "files_found",
            "files_per_second",
            "files_resumed",
            "files_skipped",
            "links_done",
            "state",
            "type",
            "walk_done"
        ]
    );
    let lines = out.lines();
    assert_eq!(lines[0], r#"{"type":"state","state":"DataIn"}"#);
    assert_eq!(lines[1], r#"{"type":"message","text":"two\nlines"}"#);
    assert_eq!(
        keys(lines.last().unwrap()),
        [
            "bottleneck",
            "bytes_per_second",
            "concurrency",
            "copied",
            "copy",
            "deleted",
            "dry_run",
            "errors",
            "excluded",
            "exit_code",
            "failures",
            "files_skipped",
            "go_on_with",
            "mechanisms",
            "outcome",
            "seconds",
            "setup",
            "stopped_by",
            "sync_seconds",
            "type",
            "unreliable",
            "version",
            "warnings"
        ]
    );
}

#[test]
fn every_documented_key_is_in_the_page_and_the_other_way_round() {
    let page = include_str!("../../docs/progress-json.md");
    let mut ended = report(Outcome::Fatal);
    ended.stopped_by = Some("no space left".to_owned());
    ended.concurrency.trace.push(crate::report::TracePoint {
        seconds: 0.1,
        workers: 4,
        lanes: std::collections::BTreeMap::new(),
        bytes_per_second: 1.0,
        items_per_second: 1.0,
    });
    ended.verify = Some(VerifyReport {
        damage: vec![Damage { path: "/a".into(), start: 0, end: 4096, repaired: true }],
        ..VerifyReport::default()
    });
    ended.resumed = Some(crate::report::Resumed::default());
    ended.lustre = Some(LustreReport {
        source: Some(Client::default()),
        destination: Some(Client::default()),
        layouts: Some(Layouts::default()),
        ..LustreReport::default()
    });
    ended.failures.push(Failure {
        path: "/a".into(),
        step: crate::error::Step::Open,
        kind: crate::error::FailureKind::Permission,
        errno: Some("EACCES".to_owned()),
        message: "failed to open the source: permission denied".to_owned(),
    });
    let (display, out) = json();
    display.state("DataIn");
    display.message("text");
    let id = display.add("data-in", Arc::new(Progress::default()));
    out.wait_for("progress", |line| line.contains("\"type\":\"progress\""));
    display.finish(id, &ended);
    let mut written = std::collections::BTreeSet::new();
    for line in out.lines() {
        collect("", &serde_json::from_str(&line).unwrap(), &mut written);
    }
    let documented: std::collections::BTreeSet<String> = page
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split_once('`'))
        .map(|(key, _)| key.to_owned())
        .collect();
    assert_eq!(documented, written);
}

/// `copied.files`, `failures[].path`; the keys of maps whose keys are data are left out.
fn collect(prefix: &str, value: &Value, keys: &mut std::collections::BTreeSet<String>) {
    match value {
        Value::Object(map)
            if ![
                "mechanisms.",
                "warnings.",
                "errors.",
                "bottleneck.waits.",
                "concurrency.lanes.",
                "concurrency.trace[].lanes.",
                "lustre.layouts.reasons.",
            ]
            .contains(&prefix) =>
        {
            for (key, value) in map {
                keys.insert(format!("{prefix}{key}"));
                collect(&format!("{prefix}{key}."), value, keys);
            }
        }
        Value::Array(items) => {
            let prefix = format!("{}[].", prefix.trim_end_matches('.'));
            items.iter().for_each(|item| collect(&prefix, item, keys));
        }
        _ => {}
    }
}

#[test]
fn names_with_control_characters_stay_on_their_line() {
    let (display, out) = json();
    let id = display.add("a\nb\u{1b}[2J", Arc::new(Progress::default()));
    display.finish(id, &report(Outcome::Complete));
    display.close();
    let lines = out.lines();
    assert_eq!(lines.len(), 1);
    let value: Value = serde_json::from_str(&lines[0]).unwrap();
    assert_eq!(value["copy"], "a\\nb\\u{1b}[2J");
}

#[test]
fn several_copies_are_shown_side_by_side_until_each_is_finished() {
    let out = Captured::default();
    let view = View::Lines(lines::Lines::new(Box::new(out.clone())));
    let display = Display::with_view(Some(view), Summaries::All);
    let progress = [(); 2].map(|()| Arc::new(Progress::default()));
    progress[1].files_found.store(7, Relaxed);
    let first = display.add("first", Arc::clone(&progress[0]));
    let second = display.add("second", Arc::clone(&progress[1]));
    out.wait_for("first", |line| line.starts_with("first: 0%, 0 B of 0 B+, 0 of 0+ files"));
    out.wait_for("second", |line| line.starts_with("second: 0%, 0 B of 0 B+, 0 of 7+ files"));
    display.finish(first, &report(Outcome::Complete));
    display.finish(first, &report(Outcome::Complete)); // a second call says nothing
    display.finish(second, &report(Outcome::Partial));
    display.close();
    let lines = out.lines();
    assert_eq!(
        lines[lines.len() - 2..],
        [
            "first: complete, 1,234 files, 1.14 GiB in 4.20 s, 290.00 MiB/s",
            "second: incomplete, 1,234 files, 1.14 GiB in 4.20 s, 290.00 MiB/s"
        ]
    );
}

#[test]
fn closing_does_not_wait_for_the_next_tick() {
    let out = Captured::default();
    let view = View::Lines(lines::Lines::new(Box::new(out.clone())));
    let display = Display::with_view(Some(view), Summaries::All);
    let _ = display.add("", Arc::new(Progress::default()));
    out.wait_for("line", |line| line.contains("files")); // the next is due in five seconds
    let started = Instant::now();
    display.close();
    assert!(started.elapsed() < Duration::from_secs(2));
}
