//! Where the results go: standard output as they come, the bench's README, JSON, plots.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::Options;

/// Below this line of `benches/README.md` everything is written by the bench.
const MARKER: &str = "<!-- Everything below is written by `--write-results`. -->";

/// What has been said and measured so far.
#[derive(Default)]
pub struct Results {
    text: String,
    workloads: Vec<Value>,
}

impl Results {
    /// Prints something that belongs to the results.
    pub fn say(&mut self, text: &str) {
        print!("{text}");
        self.text += text;
    }

    /// Keeps numbers for programs.
    pub fn keep(&mut self, value: Value) {
        self.workloads.push(value);
    }

    /// Writes the files that were asked for.
    ///
    /// # Errors
    /// Those of writing.
    pub fn write(&self, options: &Options, machine: &Value) -> Result<()> {
        if let Some(path) = &options.json {
            let all = json!({
                "format": "longshore-bench",
                "version": 2,
                "machine": machine,
                "workloads": self.workloads,
            });
            write(path, &serde_json::to_string_pretty(&all)?)?;
        }
        if options.write_results {
            let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/README.md");
            let old = fs::read_to_string(&path).context("read benches/README.md")?;
            let (kept, _) = old.split_once(MARKER).context("benches/README.md has no marker")?;
            write(&path, &format!("{kept}{MARKER}\n\n## Results of one run\n\n{}", self.text))?;
        }
        Ok(())
    }
}

/// Writes a plot where plots are wanted.
///
/// # Errors
/// Those of writing.
pub fn plot(dir: Option<&PathBuf>, name: &str, svg: &str) -> Result<()> {
    let Some(dir) = dir else { return Ok(()) };
    fs::create_dir_all(dir).with_context(|| format!("make {}", dir.display()))?;
    write(&dir.join(name), svg)
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("write {}", path.display()))
}
