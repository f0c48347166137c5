//! How many workers are best, and which number Longshore finds by itself: the same copy with fixed numbers
//! from 1 to 128, and once with the number left to it.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use crate::Options;
use crate::arena::{self, Arena, Place};
use crate::child;
use crate::rows::{MAIN, Row, Way};
use crate::support::Rng;
use crate::trees::{Amount, Tree};

/// For `--only`.
pub const NAME: &str = "sweep";

/// Seconds that it took in a quiet run on two cores.
pub const USUAL: f64 = 77.0;

/// The fixed numbers of workers.
const NUMBERS: [usize; 8] = [1, 2, 4, 8, 16, 32, 64, 128];

/// What the choice should reach of the best fixed number.
const AIM: f64 = 0.90;

/// One filesystem.
pub struct Sweep {
    /// Its word.
    pub place: &'static str,
    /// Files per second by number of workers, the median of the rounds.
    pub fixed: Vec<(usize, f64)>,
    /// The run without a number.
    pub own: Own,
}

/// What Longshore did by itself.
#[derive(Default)]
pub struct Own {
    /// Files per second, all of the run together.
    pub rate: f64,
    /// Files per second in the second half of the trace, when it had found its number; that of the
    /// whole run where there is no trace.
    pub settled: f64,
    /// Seconds into the run, workers, files per second at that moment; empty where the report has none.
    pub trace: Vec<(f64, f64, f64)>,
    /// Workers at the end.
    pub workers: Option<f64>,
}

impl Sweep {
    /// The best fixed number and its rate.
    pub fn best(&self) -> (usize, f64) {
        let best = self.fixed.iter().max_by(|a, b| a.1.total_cmp(&b.1));
        best.copied().unwrap_or((0, f64::NAN))
    }
}

struct Case {
    place: Place,
    cold: bool,
    /// Directories, and files in each: of the tree for few workers, which take long, and for many.
    trees: [(usize, usize); 2],
}

/// The names of the trees for few workers and for many.
const TREES: [&str; 2] = ["few", "many"];

/// Below so many workers the first of them is copied.
const FEW: usize = 32;

/// Makes all runs.
///
/// # Errors
/// When the filesystems or trees cannot be made, or a copy fails.
pub fn run(options: &Options) -> Result<Vec<Sweep>> {
    let full = |quick: usize, full: usize| if options.quick { quick } else { full };
    let latency = std::time::Duration::from_millis(1);
    let slow = Place::Latency { metadata: latency, data: latency, servers: None };
    let cases = [
        Case {
            place: Place::Tmpfs,
            cold: false,
            trees: [(full(100, 300), 100), (full(100, 600), 100)],
        },
        Case {
            place: Place::Ext4 { mib: if options.quick { 1536 } else { 4608 }, inodes: 60_000 },
            cold: true,
            trees: [(full(20, 100), 100), (full(40, 200), 100)],
        },
        Case { place: slow, cold: false, trees: [(full(20, 40), 5), (full(64, 400), 20)] },
    ];
    let sweeps = cases.iter().map(|case| one(case, options)).collect::<Result<Vec<_>>>()?;
    Ok(sweeps)
}

fn one(case: &Case, options: &Options) -> Result<Sweep> {
    let mut arena = Arena::new(case.place)?;
    let top = arena.behind_source();
    std::fs::create_dir(&top)?;
    let mut files = [0; 2];
    for ((name, (dirs, each)), files) in TREES.into_iter().zip(case.trees).zip(&mut files) {
        let tree = Tree::Small { dirs, files: each, bytes: 4096 };
        tree.make(&top.join(name), options.seed)?;
        *files = Amount::of(&top.join(name))?.files;
    }
    let mut rng = Rng::new(options.seed);
    let rounds = if options.quick { 1 } else { 2 };
    let mut rates: Vec<Vec<f64>> = vec![Vec::new(); NUMBERS.len()];
    let mut own = Own::default();
    for _ in 0..rounds {
        let mut order: Vec<usize> = (0..=NUMBERS.len()).collect();
        for last in (1..order.len()).rev() {
            order.swap(last, usize::try_from(rng.below(last as u64 + 1))?);
        }
        for index in order {
            let few = NUMBERS.get(index).is_some_and(|number| *number < FEW);
            let (tree, count) = if few { (TREES[0], files[0]) } else { (TREES[1], files[1]) };
            let source = arena.source().join(tree);
            let copy = arena.fresh_target()?;
            if case.cold {
                arena::make_cold()?;
                MAIN.load_programs();
            }
            match NUMBERS.get(index) {
                Some(&number) => {
                    let row = Row::Longshore(Way::Fixed(number));
                    rates[index].push(rate(&row.argv(&source, &copy), count)?);
                }
                None => {
                    let run = own_choice(&source, &copy, count)?;
                    if run.rate > own.rate {
                        own = run;
                    }
                }
            }
        }
    }
    let fixed = NUMBERS.into_iter().zip(rates.iter().map(|rates| most(rates))).collect();
    eprintln!("{NAME}: {} done", case.place.word());
    Ok(Sweep { place: case.place.word(), fixed, own })
}

/// Files per second of one run.
#[allow(clippy::cast_precision_loss)] // for a plot
fn rate(argv: &[std::ffi::OsString], files: u64) -> Result<f64> {
    let (measured, errors) = child::measure(argv)?;
    if measured.code != 0 {
        bail!("longshore failed: {errors}");
    }
    Ok(files as f64 / measured.wall)
}

fn most(rates: &[f64]) -> f64 {
    rates.iter().copied().fold(0.0, f64::max)
}

fn own_choice(source: &Path, copy: &Path, files: u64) -> Result<Own> {
    let dir = tempfile::tempdir()?;
    let report: PathBuf = dir.path().join("report.json");
    let mut argv = MAIN.argv(source, copy);
    argv.splice(2..2, ["--report".into(), report.clone().into_os_string()]);
    let rate = rate(&argv, files)?;
    let text = std::fs::read(&report).context("read the report")?;
    let report: Value = serde_json::from_slice(&text).context("read the report")?;
    Ok(Own::read(&report, rate, files))
}

impl Own {
    fn read(report: &Value, rate: f64, files: u64) -> Self {
        let concurrency = &report["concurrency"];
        let points = concurrency["trace"].as_array().map(Vec::as_slice).unwrap_or_default();
        // Items are directories as well; there is one rate for all.
        #[allow(clippy::cast_precision_loss)] // some thousands
        let share = report["copied"]["directories"]
            .as_u64()
            .map_or(1.0, |directories| files as f64 / (files + directories) as f64);
        let trace: Vec<_> = points
            .iter()
            .filter_map(|point| {
                let number = |name: &str| point[name].as_f64();
                let rate = number("items_per_second")? * share;
                Some((number("seconds")?, number("workers")?, rate))
            })
            .collect();
        // The last point is the end, where there is not enough left to do for all.
        let late = trace.get(trace.len() / 2..trace.len().saturating_sub(1)).unwrap_or_default();
        #[allow(clippy::cast_precision_loss)] // a few hundred points
        let settled = if late.is_empty() {
            rate
        } else {
            late.iter().map(|(_, _, rate)| rate).sum::<f64>() / late.len() as f64
        };
        Self { rate, settled, trace, workers: concurrency["workers"].as_f64() }
    }
}

/// The table.
pub fn table(sweeps: &[Sweep]) -> String {
    let mut text = format!(
        "\n### {NAME}: files of 4 KiB per second by number of workers, and Longshore's own choice\n\n"
    );
    let heads: Vec<String> = NUMBERS.iter().map(ToString::to_string).collect();
    text += &format!("| | {} | own choice | workers at its end |\n", heads.join(" | "));
    text += &format!("|---|{}\n", "---|".repeat(NUMBERS.len() + 2));
    for sweep in sweeps {
        let cells: Vec<String> = sweep.fixed.iter().map(|(_, rate)| format!("{rate:.0}")).collect();
        let workers = sweep.own.workers.map_or("-".to_owned(), |workers| format!("{workers:.0}"));
        text += &format!(
            "| {} | {} | {:.0} | {workers} |\n",
            sweep.place,
            cells.join(" | "),
            sweep.own.rate
        );
    }
    text.push('\n');
    for sweep in sweeps {
        let (number, best) = sweep.best();
        let (settled, whole) = (sweep.own.settled / best, sweep.own.rate / best);
        let word = if settled >= AIM { "ok" } else { "missed" };
        let what = if sweep.own.trace.is_empty() {
            "the whole run".to_owned()
        } else {
            format!("second half of the run (all of it: {whole:.2})")
        };
        text += &format!(
            "- aim: {}: own choice / best fixed number ({number}), {what} >= {AIM:.2}: **{word}** ({settled:.2})\n",
            sweep.place
        );
    }
    text
}

/// The numbers.
pub fn json(sweeps: &[Sweep]) -> Value {
    let places: Vec<Value> = sweeps
        .iter()
        .map(|sweep| {
            json!({
                "filesystem": sweep.place,
                "fixed": sweep.fixed,
                "own": { "rate": sweep.own.rate, "settled": sweep.own.settled,
                         "workers": sweep.own.workers, "trace": sweep.own.trace },
            })
        })
        .collect();
    json!({ "workload": NAME, "places": places })
}
