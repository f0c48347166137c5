//! All workloads in one table: time until everything is flushed, as a ratio to `cp -a`.

use std::fmt::Write;

use crate::race::Outcome;
use crate::rows::{CP, MAIN, Peer, Row};
use crate::table::two;
use crate::workload::{Column, Workload};

/// Which rows are meant by a tool.
pub type Tool = fn(Row) -> bool;

/// The columns: a name, and which rows are meant by it.
pub const TOOLS: [(&str, Tool); 7] = [
    ("longshore", |row| row == MAIN),
    ("xcp", |row| row == Row::Peer(Peer::Xcp)),
    ("tar", |row| row == Row::Peer(Peer::Tar)),
    ("rsync", |row| matches!(row, Row::Peer(Peer::Rsync { .. }))),
    ("fpsync", Row::is_parallel_rsync),
    ("rclone", |row| row == Row::Peer(Peer::Rclone)),
    ("dcp", |row| matches!(row, Row::Peer(Peer::Dcp(_)))),
];

/// One cell: the ratio, and whether the copy was exact.
#[derive(Debug, Clone, Copy)]
pub struct Cell {
    /// To `cp -a`, flush counted.
    pub ratio: f64,
    /// Whether nothing was lost.
    pub exact: bool,
}

/// What a tool gave in a workload; the faster one where two rows are meant.
pub fn cell(outcome: &Outcome, tool: Tool) -> Option<Cell> {
    let series = outcome.fastest(|series| tool(series.row))?;
    let ratio = outcome.ratio(series.row, CP, Column::Flushed)?;
    Some(Cell { ratio, exact: series.is_exact() })
}

/// The table.
pub fn of(results: &[(Workload, Outcome)]) -> String {
    let mut text =
        "\n### All in one table\n\nTime until everything is flushed, as a ratio to `cp -a` \
        in the same run; lower is faster. Italics: the copy lacked something.\n\n"
            .to_owned();
    let timed = || results.iter().filter(|(workload, _)| workload.timed);
    let took_part = |tool: Tool| timed().any(|(_, outcome)| cell(outcome, tool).is_some());
    let tools: Vec<_> = TOOLS.into_iter().filter(|(_, tool)| took_part(*tool)).collect();
    let heads: Vec<&str> = tools.iter().map(|(name, _)| *name).collect();
    let _ = writeln!(text, "| workload | {} | limit |", heads.join(" | "));
    let _ = writeln!(text, "|---|{}---|", "---|".repeat(heads.len()));
    for (workload, outcome) in timed() {
        let mut cells: Vec<String> = tools
            .iter()
            .map(|(name, tool)| match cell(outcome, *tool) {
                None => "-".to_owned(),
                Some(cell) if *name == "longshore" => format!("**{}**", two(Some(cell.ratio))),
                Some(cell) if cell.exact => two(Some(cell.ratio)),
                Some(cell) => format!("_{}_", two(Some(cell.ratio))),
            })
            .collect();
        cells.push(two(cell(outcome, |row| !row.is_tool()).map(|cell| cell.ratio)));
        let about = format!("{} ({}, {})", workload.name, workload.about, workload.place.word());
        let _ = writeln!(text, "| {about} | {} |", cells.join(" | "));
    }
    text
}
