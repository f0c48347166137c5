//! How well does `longshore copy` use the servers of a Lustre filesystem? Copies onto the emulator, with
//! its log as the judge: speed against the sum of the servers, locks that threads took from each other,
//! idle servers, what one slow server does to the others, small files against `cp -a`.
//! `cargo bench --bench on_lustre -- [--quick] [--rounds N] [--write-results]`. See `benches/README.md`.
//! It never fails because of a time; a copy that is not exact ends it.
#![allow(clippy::print_stdout, clippy::print_stderr)] // a bench prints its result
#![allow(unreachable_pub)] // one binary: `pub` says what the other modules may use

#[path = "on_lustre/judge.rs"]
mod judge;
#[path = "on_lustre/rows.rs"]
mod rows;
#[path = "../tests/support/mod.rs"]
mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use lustre_emulator::Settings;

use judge::{Judgement, median};
use rows::Row;
use support::lustre::{Lustre, servers};
use support::{Fs, Rng, Scratch};

/// OSTs of every filesystem here.
const OSTS: usize = 8;
/// MB/s of each OST (powers of ten), and with one millisecond of latency.
const MEGABYTES: u64 = 100;
/// The one that is slow where one is, and by how much.
const SLOW: (usize, f64) = (3, 10.0);

/// What the command line asked for.
struct Options {
    quick: bool,
    rounds: usize,
    write_results: bool,
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if args.first().map(String::as_str) == Some(rows::MODE) {
        return finish(rows::equal_split(&args[1..]));
    }
    // `cargo test --benches` starts it without the word.
    if !args.iter().any(|arg| arg == "--bench") {
        println!("on_lustre: run by `cargo bench --bench on_lustre`");
        return ExitCode::SUCCESS;
    }
    finish(options(&args).and_then(|options| bench(&options)))
}

fn finish(result: Result<()>) -> ExitCode {
    result.map_or_else(
        |error| {
            eprintln!("on_lustre: {error:#}");
            ExitCode::FAILURE
        },
        |()| ExitCode::SUCCESS,
    )
}

fn options(args: &[String]) -> Result<Options> {
    let mut options = Options { quick: false, rounds: 3, write_results: false };
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--bench" => {}
            "--quick" => (options.quick, options.rounds) = (true, 1),
            "--rounds" => {
                options.rounds = args.next().context("--rounds needs a number")?.parse()?;
            }
            "--write-results" => options.write_results = true,
            other => bail!("no such option: {other}"),
        }
    }
    ensure!(options.rounds > 0, "--rounds 0 measures nothing");
    Ok(options)
}

fn bench(options: &Options) -> Result<()> {
    let mut text = format!(
        "{OSTS} OSTs of {MEGABYTES} MB/s and 1 ms, a metadata server of 1 ms, source in memory; Longshore's rows are \
         medians of {} rounds, the others ran once.\n",
        options.rounds
    );
    let scratch =
        Scratch::new(Fs::Tmpfs).context("no scratch filesystem: this bench needs root")?;
    let mib = if options.quick { 512 } else { 2048 };
    let source = scratch.join("large");
    fs::write(&source, Rng::new(1).bytes(mib << 20)).context("make the large file")?;
    let window = Settings::default().window;
    for (about, settings, slow) in [
        ("writes are buffered by the client, 8 MiB for each OST", striped(window), false),
        ("every write waits for its OST", striped(0), false),
        ("one OST at a tenth of the speed", striped(window), true),
    ] {
        let title = format!("One file of {mib} MiB in 8 stripes of 1 MiB: {about}");
        text += &say(&large(&title, &settings, slow, &source, mib as u64, options)?);
    }
    text += &say(&small(&scratch, options)?);
    if options.write_results {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/results/on_lustre.md");
        let head = "# Results of `cargo bench --bench on_lustre -- --write-results`\n\n";
        fs::write(&path, format!("{head}{text}")).context("write benches/results/on_lustre.md")?;
    }
    Ok(())
}

/// Prints a part of the results, and hands it back.
fn say(text: &str) -> String {
    print!("{text}");
    text.to_owned()
}

fn striped(window: u64) -> Settings {
    let stripes = u16::try_from(OSTS).expect("eight");
    Settings { stripe_count: stripes, stripe_size: 1 << 20, window, ..servers(OSTS, MEGABYTES) }
}

fn large(
    title: &str,
    settings: &Settings,
    slow: bool,
    source: &Path,
    mib: u64,
    options: &Options,
) -> Result<String> {
    let rows = Row::LARGE;
    let mut judged: Vec<Vec<Judgement>> = vec![Vec::new(); rows.len()];
    for round in 0..options.rounds {
        // The others wait by the clock, and for minutes: once is enough.
        for index in 0..if round == 0 { rows.len() } else { 1 } {
            let lustre = Lustre::new(settings.clone()).context("the emulator cannot be mounted")?;
            if slow {
                lustre.emulator().ost(SLOW.0).set_slow(SLOW.1);
            }
            let target = lustre.join("copy");
            let began = Instant::now();
            rows[index].run(source, &target, &lustre)?;
            let seconds = began.elapsed().as_secs_f64();
            judged[index].push(Judgement::of(&lustre, seconds, slow.then_some(SLOW.0)));
            check_file(source, &lustre.emulator().backing().join("copy"))?;
        }
    }
    let bytes = mib << 20;
    let rate = MEGABYTES * 1_000_000;
    let least = seconds(bytes, rate * OSTS as u64);
    let share = seconds(bytes / OSTS as u64, rate);
    let mut text = format!("\n## {title}\n\n");
    text += &if slow {
        format!(
            "The seven others need {share:.2} s for their shares, the slow one {:.2} s.\n\n",
            share * SLOW.1
        )
    } else {
        format!("All servers together need {least:.2} s.\n\n")
    };
    text += &Judgement::head(slow);
    for (row, judged) in rows.iter().zip(&judged) {
        text += &Judgement::line(row.name(), judged, if slow { share } else { least });
    }
    Ok(text)
}

#[allow(clippy::cast_precision_loss)] // gigabytes
fn seconds(bytes: u64, rate: u64) -> f64 {
    bytes as f64 / rate as f64
}

/// Small files: as many in flight as the servers bear.
fn small(scratch: &Scratch, options: &Options) -> Result<String> {
    let dirs = if options.quick { 40 } else { 200 };
    let source = scratch.join("small");
    for dir in 0..dirs {
        let dir = source.join(dir.to_string());
        fs::create_dir_all(&dir)?;
        for file in 0..100_u64 {
            fs::write(dir.join(file.to_string()), Rng::new(file).bytes(4096))?;
        }
    }
    let mut times: [Vec<f64>; 2] = Default::default();
    for _ in 0..options.rounds {
        times[0].push(once(&Row::Aware, &source)?);
    }
    // It takes minutes, always the same ones: waiting is all that it does.
    times[1].push(once(&Row::Cp, &source)?);
    let [own, cp] = times.map(|mut times| median(&mut times));
    let per_second = f64::from(dirs * 100) / own;
    Ok(format!(
        "\n## {} files of 4 KiB in {dirs} directories\n\n| | seconds | files/s | times as fast as cp -a |\n|---|---:|---:|---:|\n\
         | **longshore** | {own:.2} | {per_second:.0} | {:.1} |\n| cp -a, once | {cp:.2} | {:.0} | 1.0 |\n",
        dirs * 100,
        cp / own,
        f64::from(dirs * 100) / cp,
    ))
}

/// Seconds of one copy of a tree, which is compared.
fn once(row: &Row, source: &Path) -> Result<f64> {
    let lustre = Lustre::new(servers(OSTS, MEGABYTES)).context("the emulator cannot be mounted")?;
    let target: PathBuf = lustre.join("copy");
    let began = Instant::now();
    row.run(source, &target, &lustre)?;
    let seconds = began.elapsed().as_secs_f64();
    lustre.emulator().mdt().set_latency(Duration::ZERO);
    let differences = support::diff_trees(source, &target, support::Compare::default());
    ensure!(differences.is_empty(), "{} is not exact: {:?}", row.name(), differences.first());
    Ok(seconds)
}

fn check_file(source: &Path, copy: &Path) -> Result<()> {
    ensure!(fs::read(source)? == fs::read(copy)?, "{} is not exact", copy.display());
    Ok(())
}
