//! Progress for programs: one JSON object per line, keys as `docs/progress-json.md` lists them.
//! Keys are a contract: added, never renamed. Nothing here is formatted for people.

use std::fmt;
use std::io::Write;
use std::time::Duration;

use serde::Serialize;

use super::Observed;
use crate::progress::Snapshot;
use crate::report::Report;

/// How often running copies are reported.
pub(super) const INTERVAL: Duration = Duration::from_secs(1);

/// One line.
#[derive(Debug, Serialize)]
#[serde(tag = "type", rename_all = "kebab-case")]
enum Line<'a> {
    Progress(ProgressLine<'a>),
    State {
        state: &'a str,
    },
    Message {
        text: &'a str,
    },
    Done {
        copy: &'a str,
        #[serde(flatten)]
        report: &'a Report,
    },
}

/// The end of something that has a report of its own.
#[derive(Debug, Serialize)]
struct OtherDone<'a> {
    r#type: &'a str,
    copy: &'a str,
    #[serde(flatten)]
    report: &'a serde_json::Value,
}

#[derive(Debug, Serialize)]
struct ProgressLine<'a> {
    copy: &'a str,
    state: Option<&'a str>,
    elapsed_seconds: f64,
    #[serde(flatten)]
    counters: &'a Snapshot,
    bytes_per_second: f64,
    files_per_second: f64,
    eta_seconds: Option<u64>,
}

/// Writes the lines.
pub(super) struct Json {
    out: Box<dyn Write + Send>,
}

impl Json {
    pub(super) fn new(out: Box<dyn Write + Send>) -> Self {
        Self { out }
    }

    pub(super) fn tick(&mut self, state: Option<&str>, copies: &[Observed<'_>]) {
        for copy in copies {
            self.write(&Line::Progress(ProgressLine {
                copy: copy.label,
                state,
                elapsed_seconds: copy.snapshot.elapsed.as_secs_f64(),
                counters: &copy.snapshot,
                bytes_per_second: copy.bytes_per_second,
                files_per_second: copy.files_per_second,
                eta_seconds: copy.eta.seconds(),
            }));
        }
    }

    pub(super) fn finish(&mut self, label: &str, report: &Report) {
        self.write(&Line::Done { copy: label, report });
    }

    pub(super) fn finish_with(&mut self, label: &str, report: &serde_json::Value) {
        self.write(&OtherDone { r#type: "done", copy: label, report });
    }

    pub(super) fn state(&mut self, state: &str) {
        self.write(&Line::State { state });
    }

    pub(super) fn message(&mut self, text: &str) {
        self.write(&Line::Message { text });
    }

    fn write(&mut self, line: &impl Serialize) {
        // Every value is a number, a string or a map with string keys, so this cannot fail.
        let Ok(mut text) = serde_json::to_string(line) else { return };
        text.push('\n');
        // One write, so that a line is never torn; see the first lines of `display` for its error.
        let _ = self.out.write_all(text.as_bytes());
    }
}

impl fmt::Debug for Json {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Json").finish_non_exhaustive()
    }
}
