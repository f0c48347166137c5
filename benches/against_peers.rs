//! How fast is `longshore copy` against `cp -a` and the other copy tools, with the same fidelity, on
//! the same tree, in one run; and how far is it from a bare loop of system calls?
//! `cargo bench --bench against_peers -- [--quick] [--rounds N] [--minutes N] [--only NAME] [--rows NAME] [--seed N]
//! [--json FILE] [--svg DIR] [--write-results] [--set-up]`. See `benches/README.md`. It never fails because of a time.
#![allow(clippy::print_stdout, clippy::print_stderr)] // a bench prints its result
#![allow(unreachable_pub)] // one binary: `pub` says what the other modules may use

#[path = "against_peers/aims.rs"]
mod aims;
#[path = "against_peers/arena.rs"]
mod arena;
#[path = "against_peers/budget.rs"]
mod budget;
#[path = "against_peers/chart.rs"]
mod chart;
#[path = "against_peers/child.rs"]
mod child;
#[path = "against_peers/curves.rs"]
mod curves;
#[path = "against_peers/limit.rs"]
mod limit;
#[path = "against_peers/losses.rs"]
mod losses;
#[path = "against_peers/machine.rs"]
mod machine;
#[path = "against_peers/memory.rs"]
mod memory;
#[path = "against_peers/race.rs"]
mod race;
#[path = "against_peers/results.rs"]
mod results;
#[path = "against_peers/rows.rs"]
mod rows;
#[path = "against_peers/sieve.rs"]
mod sieve;
#[path = "against_peers/summary.rs"]
mod summary;
#[path = "../tests/support/mod.rs"]
mod support;
#[path = "against_peers/svg.rs"]
mod svg;
#[path = "against_peers/sweep.rs"]
mod sweep;
#[path = "against_peers/table.rs"]
mod table;
#[path = "against_peers/trees.rs"]
mod trees;
#[path = "against_peers/volume.rs"]
mod volume;
#[path = "against_peers/workload.rs"]
mod workload;
#[path = "against_peers/workloads.rs"]
mod workloads;

use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use budget::Budget;
use results::{Results, plot};
use rows::Row;
use sieve::Sieve;

/// What the largest workload uses at once: a tree of 4 GiB on tmpfs, its copy, and a tool that holds half of it.
const MEMORY_BYTES: usize = 10 << 30;

/// The whole of it on two cores.
const MINUTES: f64 = 14.5;

/// With `--quick`.
const QUICK_MINUTES: f64 = 2.9;

/// A week.
const MINUTES_MAX: f64 = 7.0 * 24.0 * 60.0;

/// What the command line asked for.
#[derive(Default)]
pub struct Options {
    /// Smaller trees and fewer rounds: under three minutes.
    pub quick: bool,
    /// How often every tool runs, if there is time.
    pub rounds: usize,
    /// Minutes that the run should take: later rounds are left out for it.
    pub minutes: f64,
    /// Only these workloads; all when empty.
    pub only: Vec<String>,
    /// Only rows whose name begins with one of these; all when empty.
    pub rows: Vec<String>,
    /// Seed of the order of runs and of the trees.
    pub seed: u64,
    /// Where the samples are written as JSON.
    pub json: Option<PathBuf>,
    /// Where the plots are written.
    pub svg: Option<PathBuf>,
    /// Whether the results go into `benches/README.md`.
    pub write_results: bool,
}

impl Options {
    /// Whether a row is wanted.
    pub fn takes(&self, row: Row) -> bool {
        let name = row.plain_name();
        self.rows.is_empty() || self.rows.iter().any(|wanted| name.starts_with(wanted))
    }
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let result = match args.first().map(String::as_str) {
        Some(child::MODE) => child::main(&args[1..]),
        Some(limit::MODE) => limit::main(&args[1..]),
        // `cargo test --benches` starts it without the word; an hour of copies is no test.
        _ if !args.iter().any(|arg| arg == "--bench") => {
            println!("against_peers: run by `cargo bench --bench against_peers`");
            Ok(())
        }
        _ if args.iter().any(|arg| arg == "--set-up") => set_up(),
        _ => options(&args).and_then(|options| bench(&options)),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("against_peers: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn options(args: &[String]) -> Result<Options> {
    let mut options = Options { seed: 1, ..Options::default() };
    let mut minutes = None;
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        let mut value = || args.next().with_context(|| format!("{arg} needs a value"));
        match arg.as_str() {
            "--bench" => {}
            "--quick" => options.quick = true,
            "--rounds" => options.rounds = value()?.parse().context("--rounds")?,
            "--minutes" => minutes = Some(value()?.parse().context("--minutes")?),
            "--seed" => options.seed = value()?.parse().context("--seed")?,
            "--only" => options.only.extend(value()?.split(',').map(str::to_owned)),
            "--rows" => options.rows.extend(value()?.split(',').map(str::to_owned)),
            "--json" => options.json = Some(PathBuf::from(value()?)),
            "--svg" => options.svg = Some(PathBuf::from(value()?)),
            "--write-results" => options.write_results = true,
            other => bail!("no such option: {other}"),
        }
    }
    // Whoever asks for so many rounds gets them.
    options.minutes = match (minutes, options.quick, options.rounds) {
        (None, _, 1..) => MINUTES_MAX,
        (None, true, _) => QUICK_MINUTES,
        (None, false, _) => MINUTES,
        (Some(minutes), _, _) if minutes > 0.0 && minutes <= MINUTES_MAX => minutes,
        (Some(minutes), _, _) => bail!("--minutes {minutes}: more than 0, at most {MINUTES_MAX}"),
    };
    if options.rounds == 0 {
        options.rounds = if options.quick { 1 } else { 3 };
    }
    Ok(options)
}

/// Installs the peers that package registries have; never done by a run.
fn set_up() -> Result<()> {
    let script = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("benches/set_up.sh");
    let status = Command::new("bash").arg(script).status().context("start benches/set_up.sh")?;
    if !status.success() {
        bail!("benches/set_up.sh failed");
    }
    Ok(())
}

fn bench(options: &Options) -> Result<()> {
    let privileged = arena::enter_namespace();
    let all = workloads::all(options.quick);
    let names: Vec<&str> =
        all.iter().map(|workload| workload.name).chain([sweep::NAME, memory::NAME]).collect();
    if let Some(unknown) = options.only.iter().find(|only| !names.contains(&only.as_str())) {
        bail!("no workload {unknown}; there are {}", names.join(", "));
    }
    let wanted = |name: &str| options.only.is_empty() || options.only.iter().any(|o| o == name);
    let began = Instant::now();
    let mut results = Results::default();
    let (text, machine) = machine::describe(options, privileged);
    results.say(&text);
    let _sieve = Sieve::new(if options.quick { MEMORY_BYTES / 4 } else { MEMORY_BYTES })?;
    note_time("to have memory at hand", began);

    let mut raced = Vec::new();
    let mut skipped = Vec::new();
    let (all, without): (Vec<_>, Vec<_>) = all
        .into_iter()
        .filter(|workload| wanted(workload.name))
        .partition(|workload| privileged || !workload.needs_root());
    for workload in without {
        skipped.push(format!("{}: needs root (mounts, cold caches)", workload.name));
    }
    let sweeps = wanted(sweep::NAME) && privileged;
    let after = [(sweeps, sweep::USUAL), (wanted(memory::NAME), memory::USUAL)];
    let usual = all.iter().map(|workload| workload.usual).sum::<f64>()
        + after.iter().filter(|(wanted, _)| *wanted).map(|(_, usual)| usual).sum::<f64>();
    let time = Duration::from_secs_f64(options.minutes * 60.0);
    let mut budget = Budget::new(began, time, usual);
    for workload in all {
        let started = Instant::now();
        match race::run(&workload, options, budget.share(workload.usual)) {
            Ok(outcome) => {
                results.say(&table::of(&workload, &outcome));
                results.keep(table::json(&workload, &outcome));
                raced.push((workload.clone(), outcome));
            }
            Err(error) => skipped.push(format!("{}: {error:#}", workload.name)),
        }
        note_time(workload.name, started);
    }
    if sweeps {
        let started = Instant::now();
        match sweep::run(options) {
            Ok(sweeps) => {
                results.say(&sweep::table(&sweeps));
                results.keep(sweep::json(&sweeps));
                plot(options.svg.as_ref(), "convergence.svg", &curves::of(&sweeps))?;
            }
            Err(error) => skipped.push(format!("{}: {error:#}", sweep::NAME)),
        }
        note_time(sweep::NAME, started);
    }
    if wanted(memory::NAME) {
        let started = Instant::now();
        match memory::run(options) {
            Ok((text, value)) => {
                results.say(&text);
                results.keep(value);
            }
            Err(error) => skipped.push(format!("{}: {error:#}", memory::NAME)),
        }
        note_time(memory::NAME, started);
    }
    if raced.iter().any(|(workload, _)| workload.timed) {
        results.say(&summary::of(&raced));
        plot(options.svg.as_ref(), "against_peers.svg", &chart::of(&raced))?;
    }
    for line in &skipped {
        results.say(&format!("SKIPPED {line}\n"));
    }
    results.say(&format!("\nThe whole run took {:.0} s.\n", began.elapsed().as_secs_f64()));
    results.write(options, &machine)
}

fn note_time(name: &str, started: Instant) {
    eprintln!("{name} took {:.0} s", started.elapsed().as_secs_f64());
}
