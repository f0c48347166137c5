//! Plain lines for logs and pipes: one sentence for each running copy, now and then. It never
//! redraws, so a job's log stays readable.

use std::fmt;
use std::io::Write;
use std::time::Duration;

use super::rate::Eta;
use super::{Observed, bars, human, summary};
use crate::report::Report;

/// When the next lines are due. The first come after a second, so that a wrong source shows at
/// once; then every five seconds, and after a minute every thirty, because a job's log of many
/// hours is read by people.
pub(super) fn next_tick(now: Duration) -> Duration {
    match now.as_millis() {
        0..1_000 => Duration::from_secs(1),
        1_000..60_000 => now + Duration::from_secs(5),
        _ => now + Duration::from_secs(30),
    }
}

/// Writes the lines.
pub(super) struct Lines {
    out: Box<dyn Write + Send>,
}

impl Lines {
    pub(super) fn new(out: Box<dyn Write + Send>) -> Self {
        Self { out }
    }

    pub(super) fn tick(&mut self, copies: &[Observed<'_>]) {
        for copy in copies {
            self.message(&line(copy));
        }
    }

    pub(super) fn finish(&mut self, label: &str, report: &Report) {
        if !label.is_empty() {
            self.message(&summary::line(label, report));
        }
    }

    pub(super) fn message(&mut self, text: &str) {
        // One write, so that lines of several processes do not mix; see the first lines of
        // `display` for its error.
        let _ = self.out.write_all(format!("{text}\n").as_bytes());
    }
}

impl fmt::Debug for Lines {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lines").finish_non_exhaustive()
    }
}

fn line(copy: &Observed<'_>) -> String {
    let now = &copy.snapshot;
    let label = if copy.label.is_empty() { String::new() } else { format!("{}: ", copy.label) };
    let open = if now.walk_done { "" } else { "+" };
    let eta = match copy.eta {
        Eta::Unknown => String::new(),
        Eta::AtLeast(left) => format!(", at least {} left", human::duration(left)),
        Eta::About(left) => format!(", {} left", human::duration(left)),
    };
    let failed = match now.failed {
        0 => String::new(),
        failed => format!(", {} failed", human::count(failed)),
    };
    format!(
        "{label}{}%, {} of {}{open}, {} of {}{open} files, {}{eta}{failed}",
        bars::percent(copy),
        human::bytes(now.bytes_done),
        human::bytes(now.bytes_found),
        human::count(now.files_done + now.files_skipped),
        human::count(now.files_found),
        human::rate(copy.bytes_per_second),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::display::tests::observed;

    #[test]
    fn a_line_is_one_sentence() {
        assert_eq!(
            line(&observed("data-in")),
            "data-in: 25%, 1.14 GiB of 4.50 GiB+, 1,234 of 5,678+ files, 290.00 MiB/s, \
             at least 2m 10s left, 3 failed"
        );
        let mut copy = observed("");
        copy.snapshot.failed = 0;
        copy.snapshot.walk_done = true;
        copy.eta = Eta::Unknown;
        assert_eq!(line(&copy), "25%, 1.14 GiB of 4.50 GiB, 1,234 of 5,678 files, 290.00 MiB/s");
    }

    #[test]
    fn lines_become_rarer() {
        let seconds = Duration::from_secs;
        assert_eq!(next_tick(seconds(0)), seconds(1));
        assert_eq!(next_tick(seconds(1)), seconds(6));
        assert_eq!(next_tick(seconds(61)), seconds(91));
    }
}
