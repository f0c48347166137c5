//! What data movements cost with the real manager, the real workers and a real API server, beside what they
//! are to cost: `cargo bench -p dm-manager --bench movements` (as root). It never fails because of a time;
//! it fails when a copy is not exact. With `-- --only one,many,reports,fleet` it does some of it.
#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::print_stderr, unreachable_pub)] // a bench

#[path = "../tests/support/mod.rs"]
mod support;

use support::scale::{AtOnce, OneByOne};
use support::scenes::{self, Reported};

/// Rows of the table.
#[derive(Default)]
struct Table(Vec<[String; 4]>);

impl Table {
    /// A figure that is to be below or at an aim.
    fn row(&mut self, what: &str, figure: f64, unit: &str, aim: f64) {
        let verdict = if figure <= aim { "ok" } else { "missed" };
        let cells = [what, &format!("{figure:.2} {unit}"), &format!("{aim} {unit}"), verdict];
        self.0.push(cells.map(str::to_owned));
    }

    /// A figure that nothing is asked of.
    fn note(&mut self, what: &str, figure: &str) {
        self.0.push([what, figure, "", ""].map(str::to_owned));
    }

    fn print(&self) {
        let head = ["", "measured", "aim: at most", ""].map(str::to_owned);
        let rows: Vec<_> = std::iter::once(&head).chain(&self.0).collect();
        let width =
            |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap();
        let widths = [0, 1, 2, 3].map(width);
        for (number, row) in rows.iter().enumerate() {
            let cells = [0, 1, 2, 3].map(|cell| format!("{:<1$}", row[cell], widths[cell]));
            println!("| {} |", cells.join(" | "));
            if number == 0 {
                println!("|{}|", widths.map(|width| "-".repeat(width + 2)).join("|"));
            }
        }
    }

    fn one_by_one(&mut self, took: &OneByOne) {
        let what = format!("one after the other: created to Running, median of {}", took.number);
        self.row(&what, took.running.as_secs_f64() * 1000.0, "ms", 40.0);
    }

    fn at_once(&mut self, took: &AtOnce, workers: usize, times: Option<(f64, f64)>, mib: f64) {
        let about = format!("{} at once, {workers} worker{}", took.number, plural(workers));
        let (finished, wait) = (took.finished.as_secs_f64(), took.longest_wait.as_secs_f64());
        match times {
            Some((finished_aim, wait_aim)) => {
                self.row(&format!("{about}: all Finished"), finished, "s", finished_aim);
                self.row(&format!("{about}: longest wait to run"), wait, "s", wait_aim);
            }
            None => {
                self.note(&format!("{about}: all Finished"), &format!("{finished:.2} s"));
                self.note(&format!("{about}: longest wait to run"), &format!("{wait:.2} s"));
            }
        }
        self.row(&format!("{about}: writes for each"), took.writes_each, "", 6.0);
        #[allow(clippy::cast_precision_loss)] // they are few
        let unchanged = took.written.unchanged as f64;
        self.row(&format!("{about}: writes that change nothing"), unchanged, "", 0.0);
        self.row(&format!("{about}: the manager's memory"), took.memory_mib, "MiB", mib);
        for (program, seconds) in &took.cpu {
            let what = format!("{about}: processor time of the {program}");
            self.note(&what, &format!("{seconds:.2} s"));
        }
    }

    fn reported(&mut self, took: &Reported, copies: u64, interval: u64) {
        #[allow(clippy::cast_precision_loss)] // they are few
        let (reports, renewals, copies) =
            (took.of_reports as f64, took.written.renewals as f64, copies as f64);
        #[allow(clippy::cast_precision_loss)]
        let intervals = (took.lasted.as_secs_f64() / interval as f64).ceil();
        let about = format!("{copies} at once that report each {interval} s");
        let each = reports / copies / intervals;
        self.row(&format!("{about}: writes for each and interval"), each, "", 1.0);
        let all = renewals / intervals;
        self.row(&format!("{about}: renewals of the Lease in an interval"), all, "", 1.0);
    }
}

fn plural(number: usize) -> &'static str {
    if number == 1 { "" } else { "s" }
}

/// What data movements cost.
#[derive(clap::Parser)]
struct Args {
    /// Do these only
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = Scene::ALL)]
    only: Vec<Scene>,

    /// Given by cargo
    #[arg(long, hide = true)]
    bench: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Scene {
    One,
    Many,
    Reports,
    Fleet,
}

impl Scene {
    const ALL: [Self; 4] = [Self::One, Self::Many, Self::Reports, Self::Fleet];

    async fn play(self, table: &mut Table) {
        match self {
            Self::One => {
                if let Some(took) = scenes::one_after_the_other(50).await {
                    table.one_by_one(&took);
                }
            }
            Self::Many => {
                if let Some(took) = scenes::many_on_one_worker(300).await {
                    table.at_once(&took, 1, Some((6.0, 3.0)), 60.0);
                }
            }
            Self::Reports => {
                if let Some(took) = scenes::copies_that_report(10, 20, 5).await {
                    table.reported(&took, 10, 5);
                }
            }
            Self::Fleet => {
                if let Some(took) = scenes::over_many_workers(20, 1000, true).await {
                    table.at_once(&took, 20, None, 150.0);
                }
            }
        }
    }
}

fn main() {
    let args = <Args as clap::Parser>::parse();
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    runtime.worker_threads(2).enable_all().build().unwrap().block_on(async {
        let mut table = Table::default();
        for scene in args.only {
            scene.play(&mut table).await;
        }
        table.print();
    });
}
