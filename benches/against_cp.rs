//! How fast is `longshore copy` against `cp -a` and the other copy tools, with the same fidelity, on
//! the same tree, in one run; and how far is it from a bare loop of system calls?
//! `cargo bench --bench against_cp -- [--quick] [--rounds N] [--only NAME] [--seed N] [--json FILE]`.
//! See `benches/README.md`. It never fails because of a time.
#![allow(clippy::print_stdout, clippy::print_stderr)] // a bench prints its result
#![allow(unreachable_pub)] // one binary: `pub` says what the other modules may use

#[path = "against_cp/arena.rs"]
mod arena;
#[path = "against_cp/child.rs"]
mod child;
#[path = "against_cp/limit.rs"]
mod limit;
#[path = "against_cp/machine.rs"]
mod machine;
#[path = "against_cp/memory.rs"]
mod memory;
#[path = "against_cp/race.rs"]
mod race;
#[path = "against_cp/rows.rs"]
mod rows;
#[path = "../tests/support/mod.rs"]
mod support;
#[path = "against_cp/table.rs"]
mod table;
#[path = "against_cp/trees.rs"]
mod trees;
#[path = "against_cp/workloads.rs"]
mod workloads;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use workloads::Workload;

/// What the command line asked for.
pub struct Options {
    /// Smaller trees and fewer rounds: under three minutes.
    pub quick: bool,
    /// How often every tool runs.
    pub rounds: usize,
    /// Only this workload.
    pub only: Option<String>,
    /// Seed of the order of runs and of the trees.
    pub seed: u64,
    /// Where the samples are written as JSON.
    pub json: Option<PathBuf>,
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let result = match args.first().map(String::as_str) {
        Some(child::MODE) => child::main(&args[1..]),
        Some(limit::MODE) => limit::main(&args[1..]),
        // `cargo test --benches` starts it without the word; an hour of copies is no test.
        _ if !args.iter().any(|arg| arg == "--bench") => {
            println!("against_cp: run by `cargo bench --bench against_cp`");
            Ok(())
        }
        _ => options(&args).and_then(|options| bench(&options)),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("against_cp: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn options(args: &[String]) -> Result<Options> {
    let mut options = Options { quick: false, rounds: 0, only: None, seed: 1, json: None };
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        let mut value = || args.next().with_context(|| format!("{arg} needs a value"));
        match arg.as_str() {
            "--bench" => {}
            "--quick" => options.quick = true,
            "--rounds" => options.rounds = value()?.parse().context("--rounds")?,
            "--seed" => options.seed = value()?.parse().context("--seed")?,
            "--only" => options.only = Some(value()?.clone()),
            "--json" => options.json = Some(PathBuf::from(value()?)),
            other => bail!("no such option: {other}"),
        }
    }
    if options.rounds == 0 {
        options.rounds = if options.quick { 1 } else { 3 };
    }
    Ok(options)
}

fn bench(options: &Options) -> Result<()> {
    let privileged = arena::enter_namespace();
    machine::print(options, privileged);
    let all = Workload::all(options.quick);
    if let Some(only) = &options.only
        && !all.iter().any(|workload| workload.name == only)
        && only != memory::NAME
    {
        let names: Vec<&str> = all.iter().map(|workload| workload.name).collect();
        bail!("no workload {only}; there are {}, {}", names.join(", "), memory::NAME);
    }
    let wanted = |name: &str| options.only.as_ref().is_none_or(|only| only == name);
    let mut json = Vec::new();
    let mut skipped = Vec::new();
    for workload in all.iter().filter(|workload| wanted(workload.name)) {
        if !privileged && workload.needs_root() {
            skipped.push(format!("{}: needs root (loop mounts, cold caches)", workload.name));
            continue;
        }
        let started = Instant::now();
        match race::run(workload, options) {
            Ok(result) => {
                print!("{}", table::of(workload, &result));
                json.push(table::json(workload, &result));
            }
            Err(error) => skipped.push(format!("{}: {error:#}", workload.name)),
        }
        note_time(workload.name, started, Duration::from_secs(workload.budget_seconds));
    }
    if wanted(memory::NAME) {
        let started = Instant::now();
        match memory::run(options) {
            Ok(value) => json.push(value),
            Err(error) => skipped.push(format!("{}: {error:#}", memory::NAME)),
        }
        note_time(memory::NAME, started, memory::BUDGET);
    }
    for line in &skipped {
        println!("SKIPPED {line}");
    }
    if let Some(path) = &options.json {
        let text = serde_json::to_string_pretty(&json)?;
        std::fs::write(path, text).with_context(|| format!("write {}", path.display()))?;
    }
    Ok(())
}

fn note_time(name: &str, started: Instant, budget: Duration) {
    let took = started.elapsed();
    let word = if took > budget { ", over its budget" } else { "" };
    eprintln!("{name} took {:.0} s of {} s{word}", took.as_secs_f64(), budget.as_secs());
}
