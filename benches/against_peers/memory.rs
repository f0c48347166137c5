//! Whether memory stays bounded: peak RSS over trees of ten times more files, one directory that is large
//! by itself, and with everything on that keeps books (journal, verification).

use anyhow::{Result, bail};
use serde_json::{Value, json};

use crate::Options;
use crate::arena::{Arena, Place};
use crate::child;
use crate::rows::{CP, MAIN, Row, Way};
use crate::trees::Tree;

/// For `--only`.
pub const NAME: &str = "memory";

/// Seconds that it took in a quiet run on two cores.
pub const USUAL: f64 = 32.0;

/// Peak RSS that was aimed at, whatever the number of files, in MiB.
const AIM_MIB: f64 = 150.0;

/// Above this cp is left out: it takes a minute and says nothing new.
const CP_UP_TO: usize = 100_000;

/// The table and its numbers.
///
/// # Errors
/// When there is no room for the trees.
pub fn run(options: &Options) -> Result<(String, Value)> {
    let tree = |dirs, files| Tree::Small { dirs, files, bytes: 0 };
    let mut trees = vec![
        ("100,000 files in 1,000 directories", tree(1000, 100)),
        ("1,000,000 files in 10,000 directories", tree(10_000, 100)),
        ("500,000 files in one directory", tree(1, 500_000)),
    ];
    if options.quick {
        trees.truncate(1);
    }
    let rows: Vec<Row> = [MAIN, Row::Longshore(Way::With("--verify")), CP]
        .into_iter()
        .filter(|row| row.missing().is_none())
        .collect();
    let heads: Vec<String> =
        rows.iter().map(|row| format!("{} MiB | wall", row.plain_name())).collect();
    let mut text = format!(
        "\n### memory: empty files, tmpfs, peak RSS\n\n| tree | {} |\n|---|{}\n",
        heads.join(" | "),
        "---|---|".repeat(rows.len())
    );
    let mut samples = Vec::new();
    let mut largest: f64 = 0.0;
    for (name, tree) in trees {
        let Tree::Small { dirs, files, .. } = tree else { bail!("only trees of small files") };
        let mut arena = Arena::new(Place::Tmpfs)?;
        tree.make(&arena.source(), options.seed)?;
        let mut cells = Vec::new();
        for &row in &rows {
            // The million is where books would grow; the directory is about names.
            let left_out = row == CP && dirs * files > CP_UP_TO || row != MAIN && dirs == 1;
            if left_out {
                cells.push("- | -".to_owned());
                continue;
            }
            let copy = arena.fresh_target()?;
            let (measured, errors) = child::measure(&row.argv(&arena.source(), &copy))?;
            if measured.code != 0 {
                bail!("{} failed: {errors}", row.plain_name());
            }
            #[allow(clippy::cast_precision_loss)] // for a table
            let rss_mib = measured.rss_kib as f64 / 1024.0;
            if row != CP {
                largest = largest.max(rss_mib);
            }
            cells.push(format!("{rss_mib:.1} | {:.2} s", measured.wall));
            samples.push(json!({
                "tree": name,
                "row": row.plain_name(),
                "rss_mib": rss_mib,
                "wall": measured.wall,
            }));
        }
        text += &format!("| {name} | {} |\n", cells.join(" | "));
    }
    let word = if largest <= AIM_MIB { "ok" } else { "missed" };
    text += &format!(
        "\n- aim: peak RSS of longshore <= {AIM_MIB} MiB for every tree: **{word}** ({largest:.1})\n"
    );
    if !crate::rows::knows("--verify") {
        text += "- left out: longshore --verify (this longshore has no --verify)\n";
    }
    Ok((text, json!({ "workload": NAME, "rows": samples })))
}
