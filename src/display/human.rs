//! Numbers and texts as people read them; every table and line of the command uses these.
//! JSON never does: it has plain numbers in base units.

use std::io::IsTerminal;
use std::time::Duration;

use console::{measure_text_width, truncate_str};

/// Columns that every printed table fits into.
pub const WIDTH_COLUMNS: usize = 80;

/// `1.46 KiB`.
#[must_use]
pub fn bytes(bytes: u64) -> String {
    indicatif::HumanBytes(bytes).to_string()
}

/// `1.46 KiB/s`.
#[must_use]
pub fn rate(bytes_per_second: f64) -> String {
    format!("{}/s", bytes(whole(bytes_per_second)))
}

/// A rate as a whole number: saturating, and 0 for what is not a number. Only for showing.
#[must_use]
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // see above
pub fn whole(rate: f64) -> u64 {
    rate as u64
}

/// `1,234,567`.
#[must_use]
pub fn count(count: u64) -> String {
    indicatif::HumanCount(count).to_string()
}

/// `1 file`, `2 files`.
#[must_use]
pub fn counted(number: u64, one: &str, many: &str) -> String {
    format!("{} {}", count(number), if number == 1 { one } else { many })
}

/// `0.42 s`, `42 s`, `2m 05s`, `3h 02m`, `2d 04h`: two units at most.
#[must_use]
pub fn duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86400);
    match seconds {
        0..10 => format!("{:.2} s", duration.as_secs_f64()),
        10..60 => format!("{seconds} s"),
        60..3600 => format!("{minutes}m {:02}s", seconds % 60),
        3600..86400 => format!("{hours}h {:02}m", minutes % 60),
        _ => format!("{days}d {:02}h", hours % 24),
    }
}

/// [`duration`] of a number of seconds as reports have it.
#[must_use]
pub fn seconds(seconds: f64) -> String {
    duration(Duration::try_from_secs_f64(seconds).unwrap_or_default())
}

/// Cuts a line to `columns` of a terminal; the cut is marked.
#[must_use]
pub fn cut(text: &str, columns: usize) -> String {
    truncate_str(text, columns, "…").into_owned()
}

/// Cuts the front of a text, whose end matters most (a path).
#[must_use]
pub fn cut_front(text: &str, columns: usize) -> String {
    if measure_text_width(text) <= columns {
        return text.to_owned();
    }
    let mut kept = String::new();
    for c in text.chars().rev() {
        let longer = format!("{c}{kept}");
        if measure_text_width(&longer) + 1 > columns {
            break;
        }
        kept = longer;
    }
    format!("…{kept}")
}

/// Breaks a text at spaces into lines of at most `columns`. Words that are longer are cut.
#[must_use]
pub fn wrap(text: &str, columns: usize) -> Vec<String> {
    let mut lines = Vec::new();
    let mut line = String::new();
    for word in text.split(' ').filter(|word| !word.is_empty()) {
        let needed = measure_text_width(&line) + 1 + measure_text_width(word);
        if !line.is_empty() && needed > columns {
            lines.push(std::mem::take(&mut line));
        }
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(&cut(word, columns));
    }
    if !line.is_empty() {
        lines.push(line);
    }
    lines
}

/// Whether text on standard error may be coloured.
#[must_use]
pub fn colour_on_stderr() -> bool {
    colour(std::io::stderr().is_terminal())
}

/// Whether text on standard output may be coloured.
#[must_use]
pub fn colour_on_stdout() -> bool {
    colour(std::io::stdout().is_terminal())
}

/// <https://no-color.org>: any value but the empty one means no colour.
fn colour(terminal: bool) -> bool {
    let refused = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb");
    terminal && !refused && !dumb
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_two_units_at_most() {
        for (seconds, text) in [
            (0.0, "0.00 s"),
            (9.994, "9.99 s"),
            (42.9, "42 s"),
            (125.0, "2m 05s"),
            (10_920.0, "3h 02m"),
            (187_200.0, "2d 04h"),
            (f64::NAN, "0.00 s"),
        ] {
            assert_eq!(super::seconds(seconds), text);
        }
    }

    #[test]
    fn counts_and_sizes_have_units() {
        assert_eq!(counted(1, "file", "files"), "1 file");
        assert_eq!(counted(1234, "file", "files"), "1,234 files");
        assert_eq!(rate(1_500_000.0), "1.43 MiB/s");
        assert_eq!(rate(f64::NAN), "0 B/s");
    }

    #[test]
    fn a_long_path_keeps_its_end_and_a_wide_one_its_columns() {
        assert_eq!(cut_front("/a/very/long/path", 8), "…ng/path");
        assert_eq!(cut_front("/short", 8), "/short");
        assert_eq!(cut_front("/日本語", 5), "…本語");
    }

    #[test]
    fn text_is_wrapped_at_spaces() {
        assert_eq!(wrap("one two three", 7), ["one two", "three"]);
        assert_eq!(wrap("unbreakable", 7), ["unbrea…"]);
        assert!(wrap("", 7).is_empty());
    }
}
