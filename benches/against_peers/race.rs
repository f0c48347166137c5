//! The rounds: every round runs every row once, in an order drawn anew, so that a disk that changes
//! its mind or a neighbour on the cores meets all of them alike.

use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result};
use serde::Serialize;

use crate::Options;
use crate::arena::{self, Arena, Place};
use crate::child;
use crate::losses;
use crate::rows::{CP, Row};
use crate::support::Rng;
use crate::support::compare::Snapshot;
use crate::trees::Amount;
use crate::workload::{Column, Workload};

pub use crate::losses::NOTHING;

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
    /// Exit code.
    pub code: i32,
    /// Metadata requests to the filesystems with latency, where it is them.
    pub requests: Option<u64>,
    /// Most of these requests in hand at once, at source or target.
    pub at_once: Option<usize>,
}

impl Sample {
    /// One column's value.
    pub fn column(&self, column: Column) -> f64 {
        match column {
            Column::Wall => self.wall,
            Column::Flushed => self.wall + self.flush,
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
    /// Why it got no further rounds, if so.
    pub ended: Option<String>,
    /// Seconds that its last run took, with the target that was made for it and the flush.
    pub took: f64,
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

    /// Least of one column.
    pub fn least(&self, column: Column) -> f64 {
        self.spread(|sample| sample.column(column)).1
    }

    /// Whether there is any time of it.
    pub fn ran(&self) -> bool {
        !self.samples.is_empty()
    }

    /// Whether its copy was exact.
    pub fn is_exact(&self) -> bool {
        self.ran() && self.lost.as_deref() == Some(NOTHING)
    }
}

/// What a workload gave.
pub struct Outcome {
    /// One per row that took part.
    pub series: Vec<Series>,
    /// Who did not, and why.
    pub absent: Vec<String>,
    /// Files and bytes of the tree.
    pub amount: Amount,
}

impl Outcome {
    /// One row's runs.
    pub fn of(&self, row: Row) -> Option<&Series> {
        self.series.iter().find(|series| series.row == row)
    }

    /// The one with the least time, flush counted, among those.
    pub fn fastest(&self, among: impl Fn(&&Series) -> bool) -> Option<&Series> {
        let ran = self.series.iter().filter(|series| series.ran()).filter(among);
        ran.min_by(|a, b| a.median(Column::Flushed).total_cmp(&b.median(Column::Flushed)))
    }

    /// The fastest of the other tools that lost nothing here.
    pub fn best_exact_peer(&self) -> Option<&Series> {
        self.fastest(|series| series.row.is_peer() && series.is_exact())
    }

    /// Seconds that another round will take, of all rows or without the guests.
    fn next_round(&self, guests: bool) -> f64 {
        let runs = self.series.iter().filter(|series| series.ended.is_none());
        runs.filter(|series| guests || !series.row.is_guest()).map(|series| series.took).sum()
    }

    /// Ratio of the medians of two rows; nothing when one of them is missing.
    pub fn ratio(&self, of: Row, to: Row, column: Column) -> Option<f64> {
        let ratio = self.of(of)?.median(column) / self.of(to)?.median(column);
        ratio.is_finite().then_some(ratio)
    }
}

/// Rounds in which the other tools take part: what is claimed is claimed of Longshore, `cp -a` and the limits,
/// which run in all of them.
const GUEST_ROUNDS: usize = 2;

/// Makes the tree and runs all rounds, as far as they can be over by then.
///
/// # Errors
/// When the filesystems or the tree cannot be made.
pub fn run(workload: &Workload, options: &Options, until: Instant) -> Result<Outcome> {
    let mut arena = Arena::new(workload.place)?;
    let source = arena.behind_source();
    let started = Instant::now();
    workload.tree.make(&source, options.seed).context("make the tree")?;
    arena::flush(&source)?;
    let amount = Amount::of(&source)?;
    let original = Snapshot::of(&source);
    eprintln!("{}: tree made in {:.1} s", workload.name, started.elapsed().as_secs_f64());

    let mut outcome = Outcome { series: Vec::new(), absent: Vec::new(), amount };
    for &row in workload.rows.iter().filter(|row| options.takes(**row)) {
        match row.missing() {
            Some(reason) => outcome.absent.push(format!("{} ({reason})", row.plain_name())),
            None => {
                let series = Series { row, samples: vec![], lost: None, ended: None, took: 0.0 };
                outcome.series.push(series);
            }
        }
    }
    let mut rng = Rng::new(options.seed);
    let rounds = if workload.timed { options.rounds } else { 1 };
    for round in 0..rounds {
        let left = until.saturating_duration_since(Instant::now()).as_secs_f64();
        if round > 0 && outcome.next_round(false) > left {
            let note = format!("what comes after round {round} of {rounds} (no time left)");
            eprintln!("{}: {note}", workload.name);
            outcome.absent.push(note);
            break;
        }
        let guests = round == 0 || (round < GUEST_ROUNDS && outcome.next_round(true) <= left);
        for index in shuffled(outcome.series.len(), &mut rng) {
            let series = &mut outcome.series[index];
            if series.ended.is_some() || (series.row.is_guest() && !guests) {
                continue;
            }
            let started = Instant::now();
            let copy = arena.fresh_target()?;
            let failed = match one(workload, series.row, &mut arena, &copy)? {
                Ok(sample) => {
                    series.samples.push(sample);
                    (sample.code != 0).then(|| format!("exit {}", sample.code))
                }
                Err(failed) => {
                    series.ended = Some("failed".to_owned());
                    Some(failed)
                }
            };
            series.took = started.elapsed().as_secs_f64();
            if round == 0 && series.row.is_tool() {
                let lost = losses::between(&original, &arena.behind_copy());
                series.lost =
                    Some(failed.map_or_else(|| lost.clone(), |why| format!("{why}; {lost}")));
            } else if let Some(why) = failed {
                series.lost = Some(why);
            }
            let took = started.elapsed().as_secs_f64();
            eprintln!("{}: {}: {took:.1} s in all", workload.name, series.row.plain_name());
        }
        if round == 0 {
            end_the_slow(workload, &mut outcome);
        }
        eprintln!("{}: round {} of {rounds} done", workload.name, round + 1);
    }
    Ok(outcome)
}

/// Other tools that take five times as long as `cp -a`, or longer than anybody waits, run once. So does
/// `cp -a` itself where it takes its time by the clock, and the same each time.
fn end_the_slow(workload: &Workload, outcome: &mut Outcome) {
    let cp = outcome.of(CP).map_or(f64::INFINITY, |series| series.median(Column::Flushed));
    let by_the_clock = matches!(workload.place, Place::Latency { .. });
    for series in &mut outcome.series {
        let took = series.median(Column::Flushed);
        let slow = series.row.is_guest() && (took > 5.0 * cp || took > workload.patience);
        if slow || (series.row == CP && by_the_clock) {
            series.ended = Some("slow".to_owned());
        }
    }
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
        row.load_programs();
    }
    let (measured, errors) = child::measure(&row.argv(&source, copy))?;
    let started = Instant::now();
    arena::flush(copy.parent().context("a copy lies in a directory")?)?;
    let flush = started.elapsed().as_secs_f64();
    let counters = arena.counters();
    let after = arena.free_bytes()?;
    if measured.code != 0 {
        let first: String = errors.lines().next().unwrap_or_default().chars().take(200).collect();
        eprintln!("{} on {}: exit {}: {first}", row.plain_name(), workload.name, measured.code);
        if !row.is_tool() || !arena.behind_copy().exists() {
            return Ok(Err(format!("exit {}", measured.code)));
        }
    }
    Ok(Ok(Sample {
        wall: measured.wall,
        flush,
        cpu: measured.cpu,
        rss_mib: mib(measured.rss_kib * 1024),
        used_mib: mib(i64::try_from(before)? - i64::try_from(after)?),
        code: measured.code,
        requests: counters
            .as_ref()
            .map(|(from, to)| from.metadata_requests() + to.metadata_requests()),
        at_once: counters
            .as_ref()
            .map(|(from, to)| from.metadata_most_at_once.max(to.metadata_most_at_once)),
    }))
}

#[allow(clippy::cast_precision_loss)] // for a table
fn mib(bytes: i64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

fn shuffled(length: usize, rng: &mut Rng) -> Vec<usize> {
    let mut order: Vec<usize> = (0..length).collect();
    for last in (1..length).rev() {
        let other = rng.below(last as u64 + 1);
        order.swap(last, usize::try_from(other).unwrap_or(last));
    }
    order
}
