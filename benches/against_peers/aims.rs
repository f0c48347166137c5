//! What was aimed at, and whether it was reached. Every line says which time is compared with which;
//! none of them fails the bench.

use serde_json::{Value, json};

use crate::race::{Outcome, Series};
use crate::rows::{CP, MAIN, Peer, Row, Way};
use crate::workload::{Column, Workload};

/// One aim of one workload; a plain number is a ratio that should not be exceeded.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Aim {
    /// Without any flush: `longshore copy --sync none` to `cp -a`, medians.
    Wall(f64),
    /// Until everything is flushed: `longshore copy` as it comes to `cp -a` and a `syncfs`, medians.
    Flushed(f64),
    /// The same, least to least.
    FlushedBest(f64),
    /// CPU, least to least.
    CpuBest(f64),
    /// So many times as fast as `cp -a`, flush counted, medians.
    FasterThanCp(f64),
    /// So many times as fast as the fastest of several rsyncs side by side, and as dcp where it is.
    FasterThanRsyncs(f64),
    /// So many times the limit that was measured in the same run.
    OfLimit(f64),
    /// So many times the seconds that the pretended servers need at the least.
    OfSeconds(f64, f64),
}

/// An aim and what was reached.
pub struct Verdict {
    /// What is compared, in words.
    pub text: String,
    /// What was aimed at.
    pub wanted: f64,
    /// What was reached; nothing when a row is missing.
    pub got: Option<f64>,
    /// Whether more is better.
    pub more: bool,
}

impl Verdict {
    /// Whether it was reached.
    pub fn reached(&self) -> Option<bool> {
        self.got.map(|got| if self.more { got >= self.wanted } else { got <= self.wanted })
    }

    /// The line below a table.
    pub fn line(&self) -> String {
        let Self { text, wanted, .. } = self;
        let than = if self.more { ">=" } else { "<=" };
        match (self.reached(), self.got) {
            (Some(true), Some(got)) => {
                format!("- aim: {text} {than} {wanted:.2}: **ok** ({got:.2})")
            }
            (Some(false), Some(got)) => {
                format!("- aim: {text} {than} {wanted:.2}: **missed** ({got:.2})")
            }
            _ => format!("- aim: {text} {than} {wanted:.2}: not measured"),
        }
    }

    /// For programs.
    pub fn json(&self) -> Value {
        json!({
            "text": self.text,
            "wanted": self.wanted,
            "more_is_better": self.more,
            "got": self.got,
            "reached": self.reached(),
        })
    }
}

/// The verdicts on one workload, the one that holds for all of them last: less CPU than every peer.
pub fn verdicts(workload: &Workload, outcome: &Outcome) -> Vec<Verdict> {
    if !workload.timed {
        return vec![nothing_lost(outcome)];
    }
    let mut verdicts: Vec<Verdict> = workload.aims.iter().map(|aim| aim.judge(outcome)).collect();
    verdicts.push(least_cpu(outcome));
    verdicts
}

impl Aim {
    fn judge(self, outcome: &Outcome) -> Verdict {
        let of = |row| outcome.of(row);
        let median = |row: Row, column| of(row).map(|series| series.median(column));
        let least = |row: Row, column| of(row).map(|series| series.least(column));
        let divide = |above: Option<f64>, below: Option<f64>| Some(above? / below?);
        let verdict = |text: String, wanted: f64, got: Option<f64>, more: bool| Verdict {
            text,
            wanted,
            got: got.filter(|got| got.is_finite()),
            more,
        };
        match self {
            Self::Wall(wanted) => {
                let own = median(Row::Longshore(Way::Unflushed), Column::Wall);
                let text = "nothing flushed: `longshore copy --sync none` / `cp -a`, medians";
                verdict(text.to_owned(), wanted, divide(own, median(CP, Column::Wall)), false)
            }
            Self::Flushed(wanted) => {
                let got = divide(median(MAIN, Column::Flushed), median(CP, Column::Flushed));
                let text = "flush counted: `longshore copy` / (`cp -a` + syncfs), medians";
                verdict(text.to_owned(), wanted, got, false)
            }
            Self::FlushedBest(wanted) => {
                let got = divide(least(MAIN, Column::Flushed), least(CP, Column::Flushed));
                let text =
                    "flush counted: `longshore copy` / (`cp -a` + syncfs), best against best";
                verdict(text.to_owned(), wanted, got, false)
            }
            Self::CpuBest(wanted) => {
                let got = divide(least(MAIN, Column::Cpu), least(CP, Column::Cpu));
                let text = "CPU: `longshore copy` / `cp -a`, best against best";
                verdict(text.to_owned(), wanted, got, false)
            }
            Self::FasterThanCp(wanted) => {
                let got = divide(median(CP, Column::Flushed), median(MAIN, Column::Flushed));
                verdict("times as fast as `cp -a`, medians".to_owned(), wanted, got, true)
            }
            Self::FasterThanRsyncs(wanted) => {
                let rival = |series: &&Series| {
                    series.row.is_parallel_rsync() || matches!(series.row, Row::Peer(Peer::Dcp(_)))
                };
                let best = outcome.fastest(rival);
                let got = divide(
                    best.map(|series| series.median(Column::Flushed)),
                    median(MAIN, Column::Flushed),
                );
                let name = best.map_or("parallel rsync".to_owned(), |best| best.row.plain_name());
                verdict(format!("times as fast as {name}, medians"), wanted, got, true)
            }
            Self::OfLimit(wanted) => {
                let limit = outcome.fastest(|series| !series.row.is_tool());
                let got = divide(
                    median(MAIN, Column::Flushed),
                    limit.map(|series| series.median(Column::Flushed)),
                );
                let text = "of the measured limit (a bare parallel loop in this run), medians";
                verdict(text.to_owned(), wanted, got, false)
            }
            Self::OfSeconds(wanted, seconds) => {
                let got = divide(median(MAIN, Column::Flushed), Some(seconds));
                let text = format!("of the {seconds:.2} s that the servers need together, median");
                verdict(text, wanted, got, false)
            }
        }
    }
}

/// Below this, CPU times are not compared.
const LEAST_CPU_SECONDS: f64 = 0.02;

/// CPU below every peer's that is a copy at all; the peer with the least is named.
fn least_cpu(outcome: &Outcome) -> Verdict {
    let peers = outcome.series.iter().filter(|series| series.row.is_peer() && series.ran());
    let rival = peers.min_by(|a, b| a.median(Column::Cpu).total_cmp(&b.median(Column::Cpu)));
    // A few milliseconds are the start of a process, and noise.
    let rival = rival.filter(|rival| rival.median(Column::Cpu) >= LEAST_CPU_SECONDS);
    let own = outcome.of(MAIN).map(|series| series.median(Column::Cpu));
    let got = own.zip(rival).map(|(own, rival)| own / rival.median(Column::Cpu));
    let name = rival.map_or("any peer".to_owned(), |rival| rival.row.plain_name());
    let text = format!("CPU: `longshore copy` / {name} (the peer with the least), medians");
    Verdict { text, wanted: 1.0, got: got.filter(|got| got.is_finite()), more: false }
}

fn nothing_lost(outcome: &Outcome) -> Verdict {
    let lost = outcome.of(MAIN).and_then(|series| series.lost.as_deref());
    let got = lost.map(|lost| if lost == crate::race::NOTHING { 0.0 } else { 1.0 });
    let text = "kinds of losses of `longshore copy` (0: nothing is lost)".to_owned();
    Verdict { text, wanted: 0.0, got, more: false }
}
