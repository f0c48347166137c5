//! The diagnosis for a terminal: aligned, one line for each finding, advice at the end. It has less
//! than the JSON and nothing that the JSON has not.

use std::fmt::Write;
use std::path::Path;

use console::style;

use super::advice::{Advice, Cost};
use super::filesystem::FilesystemFacts;
use super::kernel::UringState;
use super::limits::Limit;
use super::{Diagnosis, Offer, Verdict};
use crate::display::human;
use crate::error::show;

/// Columns of a finding's name.
const NAME_COLUMNS: usize = 20;

/// Where a finding's words begin: indent, mark, name.
const DETAIL_COLUMN: usize = 6 + NAME_COLUMNS;

/// Columns in front of an advice's text.
const ADVICE_INDENT: usize = 4;

/// A table being written: findings of one path, or of the machine.
struct Table<'a> {
    out: String,
    advice: &'a [Advice],
    path: Option<&'a Path>,
    colour: bool,
}

pub(super) fn text(diagnosis: &Diagnosis, colour: bool) -> String {
    let mut table = Table { out: String::new(), advice: &diagnosis.advice, path: None, colour };
    table.title("this machine");
    let kernel = &diagnosis.kernel;
    table.row("", "kernel", true, &kernel.release);
    table.row("", "cores", true, &kernel.cores.to_string());
    let available = kernel.io_uring.state == UringState::Available;
    table.row("io_uring", "io_uring", available, &uring(diagnosis));
    let limits = &diagnosis.limits;
    table.row("open_files", "open files", true, &limit(limits.open_files, human::count));
    let locked = limit(limits.locked_memory_bytes, human::bytes);
    let exempt = if limits.may_exceed_locked_memory { ", exempt here" } else { "" };
    table.row("locked_memory_bytes", "locked memory", true, &format!("{locked}{exempt}"));
    let pages = kernel.transparent_huge_pages.as_deref();
    table.row("transparent_huge_pages", "huge pages", pages.is_some(), pages.unwrap_or("none"));
    for facts in &diagnosis.filesystems {
        table.path = Some(&facts.path);
        table.filesystem(facts);
    }
    table.advice();
    table.out
}

fn uring(diagnosis: &Diagnosis) -> String {
    let uring = &diagnosis.kernel.io_uring;
    match &uring.errno {
        Some(errno) => format!("{} ({errno})", uring.detail),
        None => uring.detail.clone(),
    }
}

/// `1,024 (may be raised to 4,096)`.
fn limit(limit: Limit, unit: fn(u64) -> String) -> String {
    let word = |value: Option<u64>| value.map_or_else(|| "unlimited".to_owned(), unit);
    if limit.soft == limit.hard {
        word(limit.soft)
    } else {
        format!("{} (may be raised to {})", word(limit.soft), word(limit.hard))
    }
}

impl Table<'_> {
    fn title(&mut self, title: &str) {
        if !self.out.is_empty() {
            self.out.push('\n');
        }
        let title = style(title).bold().force_styling(self.colour);
        let _ = writeln!(self.out, "{title}"); // writing to a String cannot fail, here and below
    }

    /// One finding. The mark is `!` where there is advice, `ok`, or `-` for what is not there and
    /// needs nothing done.
    fn row(&mut self, key: &str, name: &str, good: bool, detail: &str) {
        let advised = self
            .advice
            .iter()
            .any(|advice| advice.about == key && advice.path.as_deref() == self.path);
        let mark = match (advised, good) {
            (true, _) => style("! ").yellow().bold(),
            (false, true) => style("ok").green(),
            (false, false) => style("- ").dim(),
        };
        let mark = mark.force_styling(self.colour);
        let lines = human::wrap(detail, human::WIDTH_COLUMNS - DETAIL_COLUMN);
        let mut lines = lines.iter();
        let first = lines.next().map_or("", String::as_str);
        let _ = writeln!(self.out, "  {mark}  {name:NAME_COLUMNS$}{first}");
        for line in lines {
            let _ = writeln!(self.out, "{:DETAIL_COLUMN$}{line}", "");
        }
    }

    fn offer(&mut self, key: &str, name: &str, offer: &Offer) {
        self.row(key, name, offer.verdict == Verdict::Yes, &offer.detail);
    }

    fn filesystem(&mut self, facts: &FilesystemFacts) {
        self.title(&human::cut_front(&show(&facts.path), human::WIDTH_COLUMNS));
        let on = format!("{} {}", facts.filesystem, facts.magic);
        self.row("", "filesystem", true, &on);
        if !facts.mount_point.as_os_str().is_empty() {
            let from = format!("{} on {}", facts.source, show(&facts.mount_point));
            self.row("", "mount", true, &from);
        }
        let access = if facts.read_only { "read-only" } else { "read and write" };
        self.row("read_only", "access", !facts.read_only, access);
        let space = format!(
            "{} of {}",
            human::bytes(facts.available_bytes),
            human::bytes(facts.total_bytes)
        );
        self.row("available_bytes", "free space", facts.available_bytes > 0, &space);
        let inodes = match facts.total_inodes {
            0 => "made as needed".to_owned(),
            total => format!("{} of {}", human::count(facts.available_inodes), human::count(total)),
        };
        self.row("available_inodes", "free inodes", true, &inodes);
        if facts.writable.verdict != Verdict::Yes {
            let untested = "the rest was not tested: directory is not writable";
            self.row("", "directory", false, untested);
            return;
        }
        self.offer("direct", "direct I/O", &facts.direct.offer);
        self.offer("clone", "clone", &facts.clone);
        self.offer("non_blocking_reads", "non-blocking reads", &facts.non_blocking_reads);
        self.offer("xattrs", "extended attributes", &facts.xattrs);
        self.offer("acls", "ACLs", &facts.acls);
        self.offer("hard_links", "hard links", &facts.hard_links);
    }

    fn advice(&mut self) {
        if self.advice.is_empty() {
            return;
        }
        self.title("what to do");
        for advice in self.advice {
            let path =
                advice.path.as_deref().map(|path| format!(" {}", show(path))).unwrap_or_default();
            let costs = match advice.costs {
                Cost::Speed => "speed",
                Cost::Fidelity => "fidelity",
                Cost::Success => "success",
            };
            let about = advice.about.trim_end_matches("_bytes").replace('_', " ");
            let about = if advice.about == "io_uring" { advice.about } else { about.as_str() };
            let head = format!("{costs}{path}: {about}");
            let _ = writeln!(self.out, "  {}", human::cut(&head, human::WIDTH_COLUMNS - 2));
            for line in human::wrap(&advice.text, human::WIDTH_COLUMNS - ADVICE_INDENT) {
                let _ = writeln!(self.out, "{:ADVICE_INDENT$}{line}", "");
            }
        }
    }
}
