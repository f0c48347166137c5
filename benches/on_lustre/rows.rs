//! Who copies: Longshore with and without stripes, a bare loop that gives every thread an equal part of
//! the file as parallel copy tools do, and `cp -a`.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};

use crate::support::lustre::{Lustre, told};

/// First argument that selects the bare loop.
pub const MODE: &str = "--equal-split";

/// Threads of the bare loop, and how much each writes at once.
const THREADS: u64 = 8;
const UNIT: usize = 1 << 20;

/// One row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Row {
    /// As it comes.
    Aware,
    /// The same by chunks, as on any other filesystem.
    Ignore,
    /// Eight threads, each with an eighth of the file.
    Split,
    /// The one that everybody has.
    Cp,
}

impl Row {
    /// Those that copy one large file.
    pub const LARGE: [Self; 4] = [Self::Aware, Self::Ignore, Self::Split, Self::Cp];

    /// How it is called in tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Aware => "**longshore**",
            Self::Ignore => "longshore --stripes ignore",
            Self::Split => "equal parts for 8 threads, bare loop",
            Self::Cp => "cp -a",
        }
    }

    /// Copies.
    ///
    /// # Errors
    /// When it fails.
    pub fn run(self, source: &Path, target: &Path, lustre: &Lustre) -> Result<()> {
        let own = std::env::current_exe().context("find the bench itself")?;
        let longshore = env!("CARGO_BIN_EXE_longshore");
        let mut command = match self {
            Self::Cp => Command::new("cp"),
            Self::Split => Command::new(own),
            Self::Aware | Self::Ignore => Command::new(longshore),
        };
        match self {
            Self::Cp => command.arg("-a"),
            Self::Split => command.arg(MODE),
            Self::Aware => command.args(["copy", "--progress", "none"]),
            Self::Ignore => command.args(["copy", "--progress", "none", "--stripes", "ignore"]),
        };
        command.args([source, target]).env("LONGSHORE_LUSTRE_MOUNTS", told(&[lustre]));
        let output = command.stdout(Stdio::null()).output().context("start a copy")?;
        let stderr = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{}: {}: {stderr}", self.name(), output.status);
        Ok(())
    }
}

/// The bare loop itself.
///
/// # Errors
/// The first of any thread.
pub fn equal_split(args: &[String]) -> Result<()> {
    let [source, copy] = args else { bail!("{MODE} SOURCE COPY") };
    let (from, to) = (File::open(source)?, File::create(copy)?);
    let size = from.metadata()?.len();
    to.set_len(size)?; // so that writes need not wait for each other to extend the file
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS)
            .map(|thread| {
                let part = size * thread / THREADS..size * (thread + 1) / THREADS;
                let (from, to) = (&from, &to);
                scope.spawn(move || copy_part(from, to, part))
            })
            .collect();
        threads.into_iter().try_for_each(|thread| match thread.join() {
            Ok(result) => result,
            Err(_) => bail!("a thread of the bare loop panicked"),
        })
    })?;
    to.sync_all().context("flush")
}

fn copy_part(from: &File, to: &File, part: std::ops::Range<u64>) -> Result<()> {
    let mut buffer = vec![0; UNIT];
    let mut at = part.start;
    while at < part.end {
        let length = usize::try_from(part.end - at)?.min(UNIT);
        from.read_exact_at(&mut buffer[..length], at)?;
        to.write_all_at(&buffer[..length], at)?;
        at += length as u64;
    }
    Ok(())
}
