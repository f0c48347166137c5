//! Whether memory stays bounded: peak RSS over trees of ten times more files, and one directory that
//! is large by itself.

use std::time::Duration;

use anyhow::{Result, bail};
use serde_json::{Value, json};

use crate::Options;
use crate::arena::{Arena, Place};
use crate::child;
use crate::rows::Row;
use crate::trees::Tree;

/// For `--only`.
pub const NAME: &str = "memory";

/// How long it should take at most.
pub const BUDGET: Duration = Duration::from_secs(150);

/// Peak RSS that was aimed at, whatever the number of files, in MiB.
const AIM_MIB: f64 = 64.0;

/// Above this cp is left out: it takes a minute and says nothing new.
const CP_UP_TO: usize = 500_000;

/// Prints the table and returns it.
///
/// # Errors
/// When there is no room for the trees.
pub fn run(options: &Options) -> Result<Value> {
    let tree = |dirs, files| Tree::Small { dirs, files, bytes: 0 };
    let mut trees = vec![
        ("100,000 files in 1,000 directories", tree(1000, 100)),
        ("300,000 files in 3,000 directories", tree(3000, 100)),
        ("1,000,000 files in 10,000 directories", tree(10_000, 100)),
        ("500,000 files in one directory", tree(1, 500_000)),
    ];
    if options.quick {
        trees.remove(2);
    }
    println!("\n### memory: empty files, tmpfs, peak RSS\n");
    println!("| tree | longshore MiB | wall | cp -a MiB | wall |\n|---|---|---|---|---|");
    let mut rows = Vec::new();
    let mut largest: f64 = 0.0;
    for (name, tree) in trees {
        let Tree::Small { dirs, files, .. } = tree else { bail!("only trees of small files") };
        let mut arena = Arena::new(Place::Tmpfs)?;
        tree.make(&arena.source(), options.seed)?;
        let mut cells = Vec::new();
        for row in [Row::Longshore("auto"), Row::Cp] {
            if row == Row::Cp && dirs * files > CP_UP_TO {
                cells.push(("-".to_owned(), "-".to_owned()));
                continue;
            }
            let copy = arena.fresh_target()?;
            let (measured, errors) = child::measure(&row.argv(&arena.source(), &copy))?;
            if measured.code != 0 {
                bail!("{} failed: {errors}", row.plain_name());
            }
            #[allow(clippy::cast_precision_loss)] // for a table
            let rss_mib = measured.rss_kib as f64 / 1024.0;
            if row != Row::Cp {
                largest = largest.max(rss_mib);
            }
            cells.push((format!("{rss_mib:.1}"), format!("{:.2} s", measured.wall)));
            rows.push(json!({ "tree": name, "row": row.plain_name(), "rss_mib": rss_mib, "wall": measured.wall }));
        }
        let cells: Vec<String> =
            cells.into_iter().map(|(rss, wall)| format!("{rss} | {wall}")).collect();
        println!("| {name} | {} |", cells.join(" | "));
    }
    let word = if largest <= AIM_MIB { "ok" } else { "missed" };
    println!("\n- aim: peak RSS <= {AIM_MIB} MiB for every tree: {word} ({largest:.1})");
    Ok(json!({ "workload": NAME, "rows": rows }))
}
