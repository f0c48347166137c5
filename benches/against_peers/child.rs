//! One command, measured: the bench starts itself again as a small parent of exactly one command,
//! so that the rusage of the children is the rusage of that command, its ring workers included.

use std::ffi::OsString;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeVal;
use serde::{Deserialize, Serialize};

/// First argument that selects this mode.
pub const MODE: &str = "--run-one";

/// What one run of a command took.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Measured {
    /// From before the start until it has been waited for.
    pub wall: f64,
    /// User and system time, all threads and descendants.
    pub cpu: f64,
    /// Largest resident set of any of its processes, in KiB.
    pub rss_kib: i64,
    /// Exit code, or 128 and the signal.
    pub code: i32,
}

/// Runs a command in a process of its own and measures it.
///
/// # Errors
/// When it cannot be started, or said nothing usable.
pub fn measure(argv: &[OsString]) -> Result<(Measured, String)> {
    let own = std::env::current_exe().context("find the bench itself")?;
    let output = Command::new(own)
        .arg(MODE)
        .args(argv)
        .env_remove("LONGSHORE_BACKEND")
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("start {argv:?}"))?;
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    let measured = serde_json::from_slice(&output.stdout)
        .with_context(|| format!("measure {argv:?}: {errors}"))?;
    Ok((measured, errors))
}

/// The small parent.
///
/// # Errors
/// When the command cannot be started.
pub fn main(argv: &[String]) -> Result<()> {
    let Some((program, args)) = argv.split_first() else { bail!("{MODE} needs a command") };
    let started = Instant::now();
    let mut child = Command::new(program)
        .args(args)
        .stdout(Stdio::null())
        .spawn()
        .with_context(|| format!("start {program}"))?;
    let status = child.wait()?;
    let wall = started.elapsed().as_secs_f64();
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN)?;
    let measured = Measured {
        wall,
        cpu: seconds(usage.user_time()) + seconds(usage.system_time()),
        rss_kib: usage.max_rss(),
        code: status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0)),
    };
    println!("{}", serde_json::to_string(&measured)?);
    Ok(())
}

#[allow(clippy::cast_precision_loss)] // seconds and microseconds of one run
fn seconds(time: TimeVal) -> f64 {
    time.tv_sec() as f64 + time.tv_usec() as f64 / 1e6
}
