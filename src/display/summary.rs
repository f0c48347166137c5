//! The text at the end of a copy, from its report: what happened, how fast, what failed, how to go
//! on. At most 80 columns and 24 lines; the JSON report has everything. It never prints.

use std::fmt::Write;
use std::path::Path;

use console::{measure_text_width, style};

use super::human;
use crate::error::show;
use crate::exit::Outcome;
use crate::report::{Failure, Report};

/// Failed items that are shown with their message; one more and the worst report has 25 lines.
const FAILURES_SHOWN: usize = 7;

/// A shorter copy is not held up by anything that anybody would look for.
const BOTTLENECK_FROM_SECONDS: f64 = 1.0;

/// Where the values of the table begin.
const VALUE_COLUMN: usize = 14;

/// The summary of one copy. `failed_list` is the file that has every failed path, if one was
/// written.
#[must_use]
pub fn text(report: &Report, failed_list: Option<&Path>, colour: bool) -> String {
    let mut out = String::new();
    for line in headline(report) {
        let line = style(line).bold().force_styling(colour);
        let line = match report.outcome {
            Outcome::Complete => line.green(),
            Outcome::Partial => line.yellow(),
            _ => line.red(),
        };
        let _ = writeln!(out, "{line}"); // writing to a String cannot fail
    }
    row(&mut out, if report.dry_run { "would copy" } else { "copied" }, &counts(report));
    if !report.dry_run {
        row(&mut out, "data", &data(report));
        row(&mut out, "time", &time(report));
        row(&mut out, "how", &how(report));
        row(&mut out, "held up by", &held_up_by(report));
        row(&mut out, "verified", &verified(report));
    }
    row(&mut out, "left alone", &left_alone(report));
    row(&mut out, "warnings", &words(&report.warnings));
    let mut failed = words(&report.errors);
    if report.errors.contains_key("released") {
        failed.push_str(" (--hsm restore brings released files back, --hsm skip leaves them out)");
    }
    row(&mut out, "failed", &failed);
    for failure in report.failures.iter().take(FAILURES_SHOWN) {
        let _ = writeln!(out, "    {}", failure_line(failure, human::WIDTH_COLUMNS - 4));
    }
    let failed: u64 = report.errors.values().sum();
    let shown = report.failures.len().min(FAILURES_SHOWN);
    let more = failed.saturating_sub(u64::try_from(shown).unwrap_or(u64::MAX));
    if more > 0 && shown > 0 {
        let _ = writeln!(out, "    ... and {} more", human::count(more));
    }
    row(&mut out, "next", &next(report, failed_list));
    out
}

/// One line for one copy of several: `label: complete, 12 files, 1.2 GiB in 3 s, 400 MiB/s`.
#[must_use]
pub fn line(label: &str, report: &Report) -> String {
    let failed: u64 = report.errors.values().sum();
    let failed = match failed {
        0 => String::new(),
        failed => format!(", {} failed", human::count(failed)),
    };
    let outcome = match report.outcome {
        Outcome::Complete => "complete",
        Outcome::Partial => "incomplete",
        Outcome::Refused => "refused",
        Outcome::Fatal => "stopped",
        Outcome::Interrupted | Outcome::Terminated => "cancelled",
    };
    format!(
        "{label}: {outcome}, {}, {} in {}, {}{failed}",
        human::counted(report.copied.files, "file", "files"),
        human::bytes(report.copied.bytes),
        human::seconds(report.seconds),
        human::rate(report.bytes_per_second),
    )
}

/// One table row of at most two lines; none when there is nothing to say.
fn row(out: &mut String, name: &str, value: &str) {
    let mut lines = human::wrap(value, human::WIDTH_COLUMNS - VALUE_COLUMN - 2);
    if lines.len() > 2 {
        lines.truncate(2);
        lines[1].push_str(" …");
    }
    for (index, line) in lines.iter().enumerate() {
        let name = if index == 0 { name } else { "" };
        let _ = writeln!(out, "{:VALUE_COLUMN$}{line}", format!("  {name}"));
    }
}

fn headline(report: &Report) -> Vec<String> {
    let failed: u64 = report.errors.values().sum();
    let cause = report.stopped_by.as_deref();
    let text = match report.outcome {
        Outcome::Complete if report.dry_run => "Dry run: nothing was written.".to_owned(),
        Outcome::Complete if report.warnings.is_empty() => {
            "Complete: everything was copied.".to_owned()
        }
        Outcome::Complete if report.warnings.contains_key("released-skipped") => {
            "Complete: everything was copied but released files.".to_owned()
        }
        Outcome::Complete => {
            "Complete: everything was copied, some attributes could not be kept.".to_owned()
        }
        Outcome::Partial => format!(
            "Incomplete: {} failed, everything else is exact.",
            human::counted(failed, "item", "items")
        ),
        Outcome::Refused => {
            format!("Refused, nothing was written: {}", cause.unwrap_or("see above"))
        }
        Outcome::Fatal => format!("Stopped: {}", cause.unwrap_or("the copy could not go on")),
        Outcome::Interrupted => "Cancelled by SIGINT.".to_owned(),
        Outcome::Terminated => "Cancelled by SIGTERM.".to_owned(),
    };
    let mut lines = human::wrap(&show(Path::new(&text)), human::WIDTH_COLUMNS);
    lines.truncate(2);
    lines
}

fn counts(report: &Report) -> String {
    let copied = &report.copied;
    let mut parts = vec![human::counted(copied.files, "file", "files")];
    for (number, one, many) in [
        (copied.directories, "directory", "directories"),
        (copied.symlinks, "symbolic link", "symbolic links"),
        (copied.hard_links, "hard link", "hard links"),
        (copied.special, "special file", "special files"),
    ] {
        if number > 0 {
            parts.push(human::counted(number, one, many));
        }
    }
    if report.dry_run {
        parts.push(human::bytes(copied.bytes));
    }
    parts.join(", ")
}

fn data(report: &Report) -> String {
    let copied = &report.copied;
    let all = human::bytes(copied.bytes);
    if copied.bytes_moved < copied.bytes {
        format!(
            "{all}, of which {} moved (the rest: holes, clones{})",
            human::bytes(copied.bytes_moved),
            if report.resumed.is_some_and(|resumed| resumed.ranges > 0) {
                ", done before"
            } else {
                ""
            }
        )
    } else {
        all
    }
}

fn time(report: &Report) -> String {
    let mut text =
        format!("{}, {}", human::seconds(report.seconds), human::rate(report.bytes_per_second));
    if report.sync_seconds >= 0.01 {
        let _ = write!(text, " (final flush {})", human::seconds(report.sync_seconds));
    }
    text
}

fn how(report: &Report) -> String {
    let mut used: Vec<_> = report.mechanisms.iter().filter(|(_, files)| **files > 0).collect();
    used.sort_by_key(|(_, files)| std::cmp::Reverse(**files));
    let parts: Vec<String> = used
        .into_iter()
        .map(|(word, files)| {
            format!("{} ({})", mechanism(word), human::counted(*files, "file", "files"))
        })
        .collect();
    parts.join(", ")
}

/// What held the copy up, when there was enough of it to tell. With failures there is no room.
fn held_up_by(report: &Report) -> String {
    let bottleneck = &report.bottleneck;
    if report.seconds < BOTTLENECK_FROM_SECONDS || !report.failures.is_empty() {
        return String::new();
    }
    let of = match bottleneck.name {
        "" => return String::new(),
        "cpu" => "of the processors' time",
        _ => "of the waiting",
    };
    format!("{} ({:.0} % {of})", bottleneck.name.replace('-', " "), bottleneck.share * 100.0)
}

fn verified(report: &Report) -> String {
    let Some(verify) = &report.verify else { return String::new() };
    let mut text = format!(
        "{} read back ({})",
        human::counted(verify.files, "file", "files"),
        verify.algorithm.word()
    );
    match verify.read_back.memory {
        0 => {}
        all if all == verify.files => text.push_str(", from memory only"),
        some => {
            let _ = write!(text, ", {} of them from memory only", human::count(some));
        }
    }
    if verify.bad_ranges > 0 {
        let _ = write!(
            text,
            "; {} found, {} repaired",
            human::counted(verify.bad_ranges, "bad range", "bad ranges"),
            human::count(verify.repaired_ranges)
        );
    }
    text
}

/// A mechanism's word of the report, for people. Unknown words are shown as they are.
fn mechanism(word: &str) -> &str {
    match word {
        "clone" => "cloned",
        "copy-file-range" => "copied by the kernel",
        "splice" => "spliced in memory",
        "read-write" => "read and written",
        "ring-read" => "read through io_uring",
        "direct" => "direct I/O",
        "striped" => "object by object",
        "ring-direct" => "direct I/O through io_uring",
        other => other,
    }
}

fn left_alone(report: &Report) -> String {
    let mut parts = Vec::new();
    if let Some(resumed) = report.resumed.filter(|resumed| resumed.files > 0) {
        let files = human::counted(resumed.files, "file", "files");
        parts.push(format!("{files} done before ({})", human::bytes(resumed.bytes)));
    }
    if report.files_skipped > 0 {
        parts.push(format!(
            "{} already there",
            human::counted(report.files_skipped, "file", "files")
        ));
    }
    if report.excluded > 0 {
        parts.push(format!("{} excluded", human::counted(report.excluded, "item", "items")));
    }
    if report.deleted > 0 {
        let verb = if report.dry_run { "would be deleted" } else { "deleted" };
        parts.push(format!("{} {verb}", human::counted(report.deleted, "item", "items")));
    }
    parts.join(", ")
}

/// `3 permission, 1 vanished`, most frequent first.
fn words(counts: &std::collections::BTreeMap<&'static str, u64>) -> String {
    let mut sorted: Vec<_> = counts.iter().filter(|(_, count)| **count > 0).collect();
    sorted.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
    let parts: Vec<String> = sorted
        .into_iter()
        .map(|(word, count)| format!("{} {word}", human::count(*count)))
        .collect();
    parts.join(", ")
}

/// The path loses its front before the message loses its end.
fn failure_line(failure: &Failure, columns: usize) -> String {
    let path = show(&failure.path);
    let message = show(Path::new(&failure.message));
    let message =
        human::cut(message.strip_prefix(&format!("{path}: ")).unwrap_or(&message), columns - 14);
    let room = columns - measure_text_width(&message) - 2;
    format!("{}: {message}", human::cut_front(&path, room))
}

fn next(report: &Report, failed_list: Option<&Path>) -> String {
    let options = report.go_on_with;
    let update = if options.is_empty() {
        "run the same command again: what is done is not copied again".to_owned()
    } else {
        format!("run the same command again with {options}: complete files are skipped")
    };
    match (report.outcome, failed_list) {
        (Outcome::Complete | Outcome::Refused, _) => String::new(),
        _ if report.unreliable => {
            let exact = if options.is_empty() { String::new() } else { format!(" with {options}") };
            format!(
                "remove the cause, then copy all of it again: the same command{exact}, without --update"
            )
        }
        (Outcome::Partial, Some(list)) => {
            let exact = if report.nests { "-T " } else { "" };
            let list = show(list);
            format!("only the failed items again: the same command with {exact}--files-from {list}")
        }
        (Outcome::Fatal, _) => format!("remove the cause, then {update}"),
        (Outcome::Partial | Outcome::Interrupted | Outcome::Terminated, _) => update,
    }
}

#[cfg(test)]
mod tests;
