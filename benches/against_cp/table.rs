//! The result as a Markdown table, so that it can be kept, and as JSON, so that it can be compared.

use std::fmt::Write;

use serde_json::{Value, json};

use crate::arena::Place;
use crate::race::{Outcome, Sample, Series};
use crate::rows::Row;
use crate::workloads::{Column, Workload};

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
    if !outcome.absent.is_empty() {
        let _ = writeln!(text, "\nLeft out: {}.", outcome.absent.join("; "));
    }
    text
}

fn timed(text: &mut String, workload: &Workload, outcome: &Outcome) {
    let clones = matches!(workload.place, Place::Xfs { .. });
    text.push_str("| | wall (min-max) | / cp | + syncfs | / cp | CPU s | / cp | RSS MiB |");
    text.push_str(if clones { " space used MiB |" } else { "" });
    text.push_str(" lost or wrong |\n|---|---|---|---|---|---|---|---|---|");
    text.push_str(if clones { "---|\n" } else { "\n" });
    let cp = outcome.series.iter().find(|series| series.row == Row::Cp);
    for series in &outcome.series {
        let (wall, least, greatest) = series.spread(|sample| sample.wall);
        let against = |column| ratio(Some(series), cp, column);
        let mut cells = vec![
            series.row.name(),
            spread(wall, least, greatest),
            two(against(Column::Wall)),
            time(series.median(Column::Synced)),
            two(against(Column::Synced)),
            format!("{:.3}", series.median(Column::Cpu)),
            two(against(Column::Cpu)),
            format!("{:.0}", series.spread(|sample| sample.rss_mib).0),
        ];
        if clones {
            let used = series.spread(|sample| sample.used_mib).0;
            cells.push(format!("{:.1}", if used.abs() < 0.05 { 0.0 } else { used }));
        }
        cells.push(lost(series));
        line(text, &cells);
    }
    text.push('\n');
    let own = outcome.series.iter().find(|series| series.row == Row::Longshore("auto"));
    for aim in &workload.aims {
        let got = ratio(own, cp, aim.column);
        let word = if got <= aim.at_most { "ok" } else { "missed" };
        let _ = writeln!(
            text,
            "- aim: {} <= {:.2} of cp -a: {word} ({got:.2})",
            aim.column.word(),
            aim.at_most
        );
    }
    for limit in outcome.series.iter().filter(|series| !series.row.is_tool()) {
        let _ = writeln!(
            text,
            "- longshore takes {:.2} of {} (wall), {:.2} with syncfs, {:.2} in CPU; cp -a {:.2}, {:.2}, {:.2}",
            ratio(own, Some(limit), Column::Wall),
            limit.row.plain_name(),
            ratio(own, Some(limit), Column::Synced),
            ratio(own, Some(limit), Column::Cpu),
            ratio(cp, Some(limit), Column::Wall),
            ratio(cp, Some(limit), Column::Synced),
            ratio(cp, Some(limit), Column::Cpu),
        );
    }
}

/// Ratio of medians; NaN when one of them is missing.
fn ratio(of: Option<&Series>, to: Option<&Series>, column: Column) -> f64 {
    match (of, to) {
        (Some(of), Some(to)) => of.median(column) / to.median(column),
        _ => f64::NAN,
    }
}

fn lost(series: &Series) -> String {
    series.lost.clone().unwrap_or_else(|| "-".to_owned())
}

fn two(value: f64) -> String {
    format!("{value:.2}")
}

fn time(seconds: f64) -> String {
    if seconds < 0.1 { format!("{:.1} ms", seconds * 1e3) } else { format!("{seconds:.2} s") }
}

fn spread(median: f64, least: f64, greatest: f64) -> String {
    if median < 0.1 {
        format!("{:.1} ms ({:.1}-{:.1})", median * 1e3, least * 1e3, greatest * 1e3)
    } else {
        format!("{median:.2} s ({least:.2}-{greatest:.2})")
    }
}

fn line(text: &mut String, cells: &[String]) {
    let _ = writeln!(text, "| {} |", cells.join(" | "));
}

/// The samples of one workload.
pub fn json(workload: &Workload, outcome: &Outcome) -> Value {
    let rows: Vec<Value> = outcome
        .series
        .iter()
        .map(|series| {
            let samples: &[Sample] = &series.samples;
            json!({ "row": series.row.plain_name(), "lost": series.lost, "samples": samples })
        })
        .collect();
    json!({
        "workload": workload.name,
        "about": workload.about,
        "filesystem": workload.place.word(),
        "timed": workload.timed,
        "rows": rows,
        "absent": outcome.absent,
    })
}
