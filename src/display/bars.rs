//! Bars on a terminal: one line for each running copy, composed here to fit the terminal and
//! redrawn by indicatif. What a line says is a pure function of the observation and the width.

use std::time::Duration;

use console::{Term, measure_text_width};
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::rate::Eta;
use super::{Observed, human, summary};
use crate::report::Report;

/// How often bars are redrawn.
pub(super) const INTERVAL: Duration = Duration::from_millis(100);

/// Copies with a line of their own; the others share one, so that the terminal does not scroll.
const SHOWN: usize = 8;

/// Columns of the bar itself.
const BAR_COLUMNS: std::ops::RangeInclusive<usize> = 8..=20;

/// The lines at the bottom of the terminal.
#[derive(Debug)]
pub(super) struct Bars {
    multi: MultiProgress,
    lines: Vec<ProgressBar>,
}

impl Bars {
    pub(super) fn new() -> Self {
        let multi = MultiProgress::with_draw_target(ProgressDrawTarget::stderr());
        Self { multi, lines: Vec::new() }
    }

    /// Without a running copy nothing is drawn, so that a job's own output is not disturbed.
    pub(super) fn tick(&mut self, copies: &[Observed<'_>]) {
        let columns = usize::from(Term::stderr().size().1);
        let mut texts: Vec<String> =
            copies.iter().take(SHOWN).map(|copy| line(copy, columns)).collect();
        if let Some(more) = copies.len().checked_sub(SHOWN).filter(|more| *more > 0) {
            texts.push(format!("... and {more} more"));
        }
        while self.lines.len() > texts.len() {
            if let Some(bar) = self.lines.pop() {
                bar.finish_and_clear();
                self.multi.remove(&bar);
            }
        }
        while self.lines.len() < texts.len() {
            let bar = ProgressBar::new_spinner().with_style(style());
            self.lines.push(self.multi.add(bar));
        }
        for (bar, text) in self.lines.iter().zip(texts) {
            bar.set_message(text);
        }
    }

    pub(super) fn finish(&mut self, label: &str, report: &Report) {
        if !label.is_empty() {
            self.message(&summary::line(label, report));
        }
    }

    pub(super) fn message(&mut self, text: &str) {
        let _ = self.multi.println(text); // see the first lines of `display`
    }

    pub(super) fn clear(&mut self) {
        for bar in self.lines.drain(..) {
            bar.finish_and_clear();
        }
        let _ = self.multi.clear(); // see the first lines of `display`
    }
}

fn style() -> ProgressStyle {
    // The line is composed to fit; `wide_msg` cuts it should the terminal shrink meanwhile.
    ProgressStyle::with_template("{wide_msg}").unwrap_or_else(|_| ProgressStyle::default_spinner())
}

/// One copy in at most `columns - 1` columns (the last stays free, or some terminals wrap). The
/// least important parts are left out when it is narrow.
fn line(copy: &Observed<'_>, columns: usize) -> String {
    let room = columns.saturating_sub(1);
    let now = &copy.snapshot;
    let open = if now.walk_done { "" } else { "+" };
    let failed =
        if now.failed > 0 { format!("{} failed", count(now.failed)) } else { String::new() };
    let eta = match copy.eta {
        Eta::Unknown => "ETA …".to_owned(),
        Eta::AtLeast(left) => format!("ETA ~{}", whole(left)),
        Eta::About(left) => format!("ETA {}", whole(left)),
    };
    let done = now.files_done + now.files_skipped;
    // Most important first; shown in the order of the second number.
    let mut parts = [
        (human::cut(copy.label, 14), 0),
        (format!("{:>3}%", percent(copy)), 2),
        (failed, 7),
        (format!("{}/s", short(human::whole(copy.bytes_per_second))), 5),
        (eta, 6),
        (format!("{}/{}{open}", short(now.bytes_done), short(now.bytes_found)), 3),
        (format!("{}/{}{open} files", count(done), count(now.files_found)), 4),
        (String::new(), 1),
    ];
    let mut used = 0;
    for (text, _) in &mut parts {
        let needed = measure_text_width(text) + usize::from(used > 0);
        if text.is_empty() || used + needed > room {
            text.clear();
        } else {
            used += needed;
        }
    }
    let left = room.saturating_sub(used + 3); // a space and two brackets
    if left >= *BAR_COLUMNS.start() {
        parts[7].0 = bar(percent(copy), left.min(*BAR_COLUMNS.end()));
    }
    parts.sort_by_key(|(_, place)| *place);
    let shown: Vec<&str> =
        parts.iter().map(|(text, _)| text.as_str()).filter(|text| !text.is_empty()).collect();
    shown.join(" ")
}

/// Percent of bytes, or of files where these have no bytes.
pub(super) fn percent(copy: &Observed<'_>) -> u64 {
    let now = &copy.snapshot;
    let files_done = now.files_done + now.files_skipped;
    let (done, found) = match now.bytes_found {
        0 => (files_done, now.files_found),
        _ if now.walk_done && files_done >= now.files_found => (1, 1),
        bytes => (now.bytes_done, bytes),
    };
    if found == 0 {
        return 0;
    }
    let percent = u128::from(done) * 100 / u128::from(found);
    u64::try_from(percent.min(100)).unwrap_or(100)
}

fn bar(percent: u64, columns: usize) -> String {
    let filled = usize::try_from(percent).unwrap_or(0) * columns / 100;
    let tip = usize::from(filled < columns);
    format!("[{}{}{}]", "=".repeat(filled), ">".repeat(tip), " ".repeat(columns - filled - tip))
}

/// A number in at most six columns: `99,999`, `1.23M`.
fn count(number: u64) -> String {
    #[allow(clippy::cast_precision_loss)] // three digits are shown
    match number {
        0..100_000 => human::count(number),
        100_000..1_000_000 => format!("{}k", number / 1000),
        1_000_000..1_000_000_000 => format!("{:.2}M", number as f64 / 1e6),
        _ => format!("{:.2}G", number as f64 / 1e9),
    }
}

/// Bytes in at most five columns: `1.14G`, `290M`.
fn short(bytes: u64) -> String {
    let full = human::bytes(bytes);
    let (number, unit) = full.split_once(' ').unwrap_or((&full, ""));
    let number = number.get(..4).unwrap_or(number).trim_end_matches('.');
    format!("{number}{}", unit.get(..1).unwrap_or(""))
}

/// A duration without fractions or spaces.
fn whole(duration: Duration) -> String {
    match duration.as_secs() {
        seconds @ 0..10 => format!("{seconds}s"),
        _ => human::duration(duration).replace(' ', ""),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::display::tests::observed;

    #[test]
    fn a_line_of_eighty_columns_has_everything() {
        assert_eq!(
            line(&observed("data-in"), 80),
            "data-in  25% 1.14G/4.50G+ 1,234/5,678+ files 290M/s ETA ~2m10s 3 failed"
        );
    }

    #[test]
    fn without_failures_there_is_room_for_the_bar() {
        let mut copy = observed("");
        copy.snapshot.failed = 0;
        copy.snapshot.walk_done = true;
        copy.eta = Eta::About(Duration::from_secs(7));
        assert_eq!(
            line(&copy, 80),
            "[=====>              ]  25% 1.14G/4.50G 1,234/5,678 files 290M/s ETA 7s"
        );
    }

    #[test]
    fn narrow_terminals_lose_the_least_important_parts() {
        for columns in 0..200 {
            let text = line(&observed("a-label-that-is-rather-long"), columns);
            assert!(measure_text_width(&text) <= columns.saturating_sub(1), "{columns}: {text}");
        }
    }
}
