//! The result of one workload as a Markdown table with its aims, and as JSON.

use std::fmt::Write;

use serde_json::{Value, json};

use crate::aims;
use crate::arena::Place;
use crate::race::{Outcome, Sample, Series};
use crate::rows::{CP, MAIN};
use crate::trees::Amount;
use crate::workload::{Column, Unit, Workload};

/// The table of one workload.
pub fn of(workload: &Workload, outcome: &Outcome) -> String {
    let mut text =
        format!("\n### {}: {}, {}\n\n", workload.name, workload.about, workload.place.word());
    if workload.timed {
        timed(&mut text, workload, outcome);
    } else {
        text.push_str("| | lost or wrong (number of entries) |\n|---|---|\n");
        for series in &outcome.series {
            line(&mut text, &[series.row.name(), lost(series)]);
        }
    }
    text.push('\n');
    for verdict in aims::verdicts(workload, outcome) {
        let _ = writeln!(text, "{}", verdict.line());
    }
    if workload.timed {
        rivals(&mut text, outcome);
    }
    if !outcome.absent.is_empty() {
        let _ = writeln!(text, "- left out: {}", outcome.absent.join("; "));
    }
    text
}

fn timed(text: &mut String, workload: &Workload, outcome: &Outcome) {
    let clones = matches!(workload.place, Place::Xfs { .. });
    let slow = matches!(workload.place, Place::Latency { .. });
    let mut heads = vec!["", "wall (min-max)", "/ cp", "+ syncfs", "/ cp", "CPU s", "/ cp"];
    let by = format!("CPU ms / {}", workload.unit.word());
    heads.extend([by.as_str(), "RSS MiB"]);
    if clones {
        heads.push("space used MiB");
    }
    if slow {
        heads.extend(["requests / file", "at once"]);
    }
    heads.push("lost or wrong");
    line(text, &heads.iter().map(|head| (*head).to_owned()).collect::<Vec<_>>());
    let _ = writeln!(text, "|{}", "---|".repeat(heads.len()));
    for series in &outcome.series {
        let (wall, least, greatest) = series.spread(|sample| sample.wall);
        let against = |column| two(outcome.ratio(series.row, CP, column));
        let cpu = series.median(Column::Cpu);
        let mut cells = vec![
            series.row.name(),
            spread(wall, least, greatest, series.samples.len()),
            against(Column::Wall),
            time(series.median(Column::Flushed)),
            against(Column::Flushed),
            format!("{cpu:.3}"),
            against(Column::Cpu),
            format!("{:.1}", cpu * 1e3 / units(workload.unit, outcome.amount)),
            format!("{:.0}", series.spread(|sample| sample.rss_mib).0),
        ];
        if clones {
            let used = series.spread(|sample| sample.used_mib).0;
            cells.push(format!("{:.1}", if used.abs() < 0.05 { 0.0 } else { used }));
        }
        if slow {
            let requests = series.spread(|sample| as_f64(sample.requests.unwrap_or(0))).0;
            let most = series.samples.iter().filter_map(|sample| sample.at_once).max();
            cells.push(format!("{:.1}", requests / as_f64(outcome.amount.files)));
            cells.push(most.map_or_else(|| "-".to_owned(), |most| most.to_string()));
        }
        cells.push(lost(series));
        line(text, &cells.iter().map(|cell| no_nan(cell)).collect::<Vec<_>>());
    }
}

/// Longshore against the best peer that lost nothing, and against the limits.
fn rivals(text: &mut String, outcome: &Outcome) {
    if let Some(peer) = outcome.best_exact_peer() {
        let ratio = |column| two(outcome.ratio(MAIN, peer.row, column));
        let _ = writeln!(
            text,
            "- best peer that lost nothing: {}; longshore takes {} of its time (flush counted), {} of its CPU",
            peer.row.plain_name(),
            ratio(Column::Flushed),
            ratio(Column::Cpu),
        );
    }
    for limit in outcome.series.iter().filter(|series| !series.row.is_tool()) {
        let ratio = |of, column| two(outcome.ratio(of, limit.row, column));
        let _ = writeln!(
            text,
            "- longshore takes {} of the {} (flush counted), {} in CPU; cp -a {} and {}",
            ratio(MAIN, Column::Flushed),
            limit.row.plain_name(),
            ratio(MAIN, Column::Cpu),
            ratio(CP, Column::Flushed),
            ratio(CP, Column::Cpu),
        );
    }
}

#[allow(clippy::cast_precision_loss)] // for a table
fn as_f64(value: u64) -> f64 {
    value as f64
}

fn units(unit: Unit, amount: Amount) -> f64 {
    match unit {
        Unit::ThousandFiles => as_f64(amount.files) / 1e3,
        Unit::Gib => as_f64(amount.bytes) / as_f64(1 << 30),
    }
}

fn lost(series: &Series) -> String {
    series.lost.clone().unwrap_or_else(|| "-".to_owned())
}

/// Two digits, and three where the first of two would be a zero.
pub fn two(value: Option<f64>) -> String {
    match value {
        Some(value) if value < 0.1 => format!("{value:.3}"),
        Some(value) => format!("{value:.2}"),
        None => "-".to_owned(),
    }
}

fn no_nan(cell: &str) -> String {
    if cell.contains("NaN") { "-".to_owned() } else { cell.to_owned() }
}

fn time(seconds: f64) -> String {
    if seconds < 0.1 { format!("{:.1} ms", seconds * 1e3) } else { format!("{seconds:.2} s") }
}

fn spread(median: f64, least: f64, greatest: f64, runs: usize) -> String {
    if runs == 1 {
        format!("{} (n=1)", time(median))
    } else if median < 0.1 {
        format!("{:.1} ms ({:.1}-{:.1})", median * 1e3, least * 1e3, greatest * 1e3)
    } else {
        format!("{median:.2} s ({least:.2}-{greatest:.2})")
    }
}

fn line(text: &mut String, cells: &[String]) {
    let _ = writeln!(text, "| {} |", cells.join(" | "));
}

/// The samples and verdicts of one workload.
pub fn json(workload: &Workload, outcome: &Outcome) -> Value {
    let rows: Vec<Value> = outcome
        .series
        .iter()
        .map(|series| {
            let samples: &[Sample] = &series.samples;
            let kind = match (series.row.is_tool(), series.row.is_peer()) {
                (false, _) => "limit",
                (true, true) => "peer",
                (true, false) => "longshore",
            };
            json!({
                "row": series.row.plain_name(),
                "kind": kind,
                "lost": series.lost,
                "ended": series.ended,
                "ratio_to_cp": outcome.ratio(series.row, CP, Column::Flushed),
                "ratio_to_cp_unflushed": outcome.ratio(series.row, CP, Column::Wall),
                "samples": samples,
            })
        })
        .collect();
    let verdicts = aims::verdicts(workload, outcome);
    json!({
        "workload": workload.name,
        "about": workload.about,
        "filesystem": workload.place.word(),
        "timed": workload.timed,
        "files": outcome.amount.files,
        "bytes": outcome.amount.bytes,
        "rows": rows,
        "best_exact_peer": outcome.best_exact_peer().map(|peer| peer.row.plain_name()),
        "aims": verdicts.iter().map(aims::Verdict::json).collect::<Vec<_>>(),
        "absent": outcome.absent,
    })
}
