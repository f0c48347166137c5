//! Where the programs of the control plane are. Building them is left to a script, which the test
//! command also starts by itself, so that they are built while Rust code is compiled.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, bail};

/// The exit code of the script for "not to be had on this machine".
const NOT_HERE: i32 = 3;

/// The folder with etcd, kube-apiserver and kube-controller-manager, or why there is none on this
/// machine.
#[derive(Debug, PartialEq, Eq)]
pub enum Programs {
    /// They are in this folder.
    In(PathBuf),
    /// They cannot be had, for this reason.
    Missing(String),
}

/// The script that finds or builds the programs.
pub fn script() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("control-plane/build.sh")
}

/// Finds the programs, and builds them if they are not built yet, which takes about ten minutes.
/// Several processes at once are safe.
///
/// # Errors
///
/// When a build fails; not when it is impossible here.
pub fn find() -> anyhow::Result<Programs> {
    run(&mut Command::new(script()))
}

/// Runs the script as prepared by the caller.
///
/// # Errors
///
/// When it cannot be run, or fails.
pub fn run(script: &mut Command) -> anyhow::Result<Programs> {
    let output = script.stdin(Stdio::null()).output().context("failed to run the build script")?;
    let errors = String::from_utf8_lossy(&output.stderr);
    if output.status.success() {
        let folder = String::from_utf8(output.stdout).context("the folder's name is not UTF-8")?;
        return Ok(Programs::In(folder.trim_end().into()));
    }
    if output.status.code() == Some(NOT_HERE) {
        return Ok(Programs::Missing(
            errors.lines().last().unwrap_or("no reason given").to_owned(),
        ));
    }
    bail!("building the control plane failed ({}):\n{errors}", output.status)
}
