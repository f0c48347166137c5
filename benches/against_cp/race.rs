//! The rounds: every round runs every row once, in an order drawn anew, so that a disk that changes
//! its mind or a neighbour on the cores meets all of them alike.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result};
use serde::Serialize;

use crate::Options;
use crate::arena::{self, Arena};
use crate::child;
use crate::rows::Row;
use crate::support::{Compare, Rng, diff_trees};
use crate::workloads::{Column, Workload};

/// One run of one row.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Sample {
    /// Seconds until the command returned.
    pub wall: f64,
    /// Seconds that flushing the target took afterwards.
    pub flush: f64,
    /// Core-seconds.
    pub cpu: f64,
    /// Peak resident set in MiB.
    pub rss_mib: f64,
    /// What became less free at the target, in MiB; negative when something was freed meanwhile.
    pub used_mib: f64,
}

impl Sample {
    /// One column's value.
    pub fn column(&self, column: Column) -> f64 {
        match column {
            Column::Wall => self.wall,
            Column::Synced => self.wall + self.flush,
            Column::Cpu => self.cpu,
        }
    }
}

/// All runs of one row.
#[derive(Debug, Clone)]
pub struct Series {
    /// Whose.
    pub row: Row,
    /// In the order of the rounds.
    pub samples: Vec<Sample>,
    /// What the copy lacked, as counts by attribute; none for limits.
    pub lost: Option<String>,
}

impl Series {
    /// Median, least and greatest of a value.
    pub fn spread(&self, value: impl Fn(&Sample) -> f64) -> (f64, f64, f64) {
        let mut values: Vec<f64> = self.samples.iter().map(value).collect();
        values.sort_by(f64::total_cmp);
        let (Some(least), Some(greatest)) = (values.first(), values.last()) else {
            return (f64::NAN, f64::NAN, f64::NAN);
        };
        let middle = values.len() / 2;
        let median = if values.len() % 2 == 1 {
            values[middle]
        } else {
            f64::midpoint(values[middle - 1], values[middle])
        };
        (median, *least, *greatest)
    }

    /// Median of one column.
    pub fn median(&self, column: Column) -> f64 {
        self.spread(|sample| sample.column(column)).0
    }
}

/// What a workload gave.
pub struct Outcome {
    /// One per row that took part.
    pub series: Vec<Series>,
    /// Who did not, and why.
    pub absent: Vec<String>,
}

/// Makes the tree and runs all rounds.
///
/// # Errors
/// When the filesystems or the tree cannot be made.
pub fn run(workload: &Workload, options: &Options) -> Result<Outcome> {
    let mut arena = Arena::new(workload.place)?;
    let source = arena.source();
    let started = Instant::now();
    workload.tree.make(&source, options.seed).context("make the tree")?;
    arena::flush(&source)?;
    eprintln!("{}: tree made in {:.1} s", workload.name, started.elapsed().as_secs_f64());

    let mut outcome = Outcome { series: Vec::new(), absent: Vec::new() };
    for &row in &workload.rows {
        match row.missing() {
            Some(reason) => outcome.absent.push(format!("{}: {reason}", row.plain_name())),
            None => outcome.series.push(Series { row, samples: Vec::new(), lost: None }),
        }
    }
    let mut rng = Rng::new(options.seed);
    let rounds = if workload.timed { options.rounds } else { 1 };
    for round in 0..rounds {
        for index in shuffled(outcome.series.len(), &mut rng) {
            let series = &mut outcome.series[index];
            let copy = arena.fresh_target()?;
            let failed = match one(workload, series.row, &mut arena, &copy)? {
                Ok(sample) => {
                    series.samples.push(sample);
                    None
                }
                Err(failed) => Some(failed),
            };
            if round == 0 && series.row.is_tool() {
                let lost = losses(&source, &copy);
                series.lost =
                    Some(failed.map_or_else(|| lost.clone(), |why| format!("{why}; {lost}")));
            } else if let Some(why) = failed {
                series.lost = Some(why);
            }
        }
        eprintln!("{}: round {} of {rounds} done", workload.name, round + 1);
    }
    Ok(outcome)
}

/// Runs one row once; the inner error is the tool's own failure.
fn one(
    workload: &Workload,
    row: Row,
    arena: &mut Arena,
    copy: &Path,
) -> Result<Result<Sample, String>> {
    let source = arena.source();
    let before = arena.free_bytes()?;
    if workload.cold {
        arena::make_cold()?;
        row.load_program();
    }
    let (measured, errors) = child::measure(&row.argv(&source, copy))?;
    let started = Instant::now();
    arena::flush(copy.parent().context("a copy lies in a directory")?)?;
    let flush = started.elapsed().as_secs_f64();
    let after = arena.free_bytes()?;
    if measured.code != 0 {
        let first: String = errors.lines().next().unwrap_or_default().chars().take(200).collect();
        eprintln!("{} on {}: exit {}: {first}", row.plain_name(), workload.name, measured.code);
        if !row.is_tool() || !copy.exists() {
            return Ok(Err(format!("exit {}", measured.code)));
        }
    }
    Ok(Ok(Sample {
        wall: measured.wall,
        flush,
        cpu: measured.cpu,
        rss_mib: mib(measured.rss_kib * 1024),
        used_mib: mib(i64::try_from(before)? - i64::try_from(after)?),
    }))
}

#[allow(clippy::cast_precision_loss)] // for a table
fn mib(bytes: i64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

/// What the copy is not the same in: counts by attribute.
fn losses(source: &Path, copy: &Path) -> String {
    if !copy.exists() {
        return "everything".to_owned();
    }
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for difference in diff_trees(source, copy, Compare::default()) {
        *counts.entry(difference.what).or_default() += 1;
    }
    if counts.is_empty() {
        return "nothing".to_owned();
    }
    let words: Vec<String> =
        counts.iter().map(|(what, count)| format!("{what} of {count}")).collect();
    words.join(", ")
}

fn shuffled(length: usize, rng: &mut Rng) -> Vec<usize> {
    let mut order: Vec<usize> = (0..length).collect();
    for last in (1..length).rev() {
        let other = rng.below(last as u64 + 1);
        order.swap(last, usize::try_from(other).unwrap_or(last));
    }
    order
}
