//! One program in four roles, each started by the one before: the caller; the keeper, which outlives the
//! caller and cleans up after it however it ends; the first process of the namespaces, which makes the
//! machine and waits for orphans; and the test.

use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::Instant;

use anyhow::{Context, bail};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitStatus, wait};
use nix::unistd::{Pid, geteuid};

use super::{cgroups, find_programs, machine, residue};
use crate::place::Place;
use crate::skip::skip;

/// The variable with the role; absent in the caller.
const ROLE: &str = "LONGSHORE_NODE_ROLE";
/// That with the folder.
const FOLDER: &str = "LONGSHORE_NODE_FOLDER";
/// That with the folder of programs.
pub(super) const PROGRAMS: &str = "LONGSHORE_NODE_PROGRAMS";
/// That with the name of the groups.
pub(super) const GROUPS: &str = "LONGSHORE_NODE_GROUPS";

/// What a real node needs of the machine, beside root: programs and where they come from.
const TOOLS: [(&str, &str); 6] = [
    ("/usr/sbin/runc", "runc"),
    ("/usr/lib/cni/bridge", "containernetworking-plugins"),
    ("ip", "iproute2"),
    ("setpriv", "util-linux"),
    ("unshare", "util-linux"),
    ("strip", "binutils"),
];

/// Runs a test in namespaces of its own, where [`super::RealNode`] can be started. It gets a folder on
/// disk, which stays when it fails, without its `data`. Called as all that `main` does, since the
/// program is started again inside. When the machine cannot have a node, that is recorded as a skip.
pub fn alone(test: impl FnOnce(&Path) -> anyhow::Result<()>) -> ExitCode {
    let role = std::env::var(ROLE).unwrap_or_default();
    let done = match role.as_str() {
        "" => call(),
        "keeper" => keep(),
        "first" => be_first(),
        _ => folder().and_then(|folder| test(&folder)).map(|()| ExitCode::SUCCESS),
    };
    done.unwrap_or_else(|error| {
        say(&format!("{}failed: {error:?}", if role.is_empty() { "" } else { &role }));
        ExitCode::FAILURE
    })
}

/// Writes a line to standard error.
pub(super) fn say(text: &str) {
    drop(writeln!(io::stderr(), "{text}")); // nobody is left to be told
}

/// Whether an environment is that of a process inside.
pub(super) fn is_inside(environment: &str, folder: &str) -> bool {
    environment.split('\0').any(|variable| variable == format!("{FOLDER}={folder}"))
}

fn folder() -> anyhow::Result<PathBuf> {
    std::env::var_os(FOLDER).map(PathBuf::from).context("no folder was given")
}

fn again(role: &str) -> anyhow::Result<Command> {
    let mut command = Command::new(std::env::current_exe().context("this program has no path")?);
    command.args(std::env::args_os().skip(1)).env(ROLE, role);
    Ok(command)
}

fn code(status: std::process::ExitStatus) -> ExitCode {
    status.code().and_then(|code| u8::try_from(code).ok()).map_or(ExitCode::FAILURE, ExitCode::from)
}

/// Starts the keeper, which learns by the end of its standard input that the caller has ended.
fn call() -> anyhow::Result<ExitCode> {
    if let Some(reason) = missing()? {
        skip(&format!("real node: {reason}"));
        return Ok(ExitCode::SUCCESS);
    }
    use std::os::unix::process::CommandExt;
    // A group of its own: it is not interrupted together with the caller.
    let keeper = again("keeper")?.stdin(Stdio::piped()).process_group(0).spawn();
    let mut keeper = keeper.context("failed to start the keeper")?;
    let alive = keeper.stdin.take();
    let status = keeper.wait().context("failed to wait for the keeper")?;
    drop(alive);
    Ok(code(status))
}

/// Why this machine cannot have a real node, if it cannot.
fn missing() -> anyhow::Result<Option<String>> {
    if !geteuid().is_root() {
        return Ok(Some("it takes root".to_owned()));
    }
    if let Some(reason) = cgroups::missing() {
        return Ok(Some(reason));
    }
    let search = std::env::var_os("PATH").unwrap_or_default();
    for (tool, package) in TOOLS {
        // Joined to an absolute path, a folder is ignored.
        if !std::env::split_paths(&search).any(|folder| folder.join(tool).is_file()) {
            return Ok(Some(format!("{tool} is not installed (Debian: {package})")));
        }
    }
    let own = std::env::current_exe().context("this program has no path")?;
    Ok(machine::hides(&own))
}

/// Has the namespaces made, waits for their end, or the caller's, and cleans up.
fn keep() -> anyhow::Result<ExitCode> {
    cgroups::sweep()?;
    let settings = residue::settings();
    let place = Place::create().context("failed to make a folder for the node")?;
    let programs = place.path().join("programs");
    std::fs::create_dir_all(&programs).context("failed to make a folder for programs")?;
    if let Err(reason) = find_programs(&programs)? {
        skip(&format!("real node: {reason}"));
        return Ok(ExitCode::SUCCESS);
    }
    let name = cgroups::name(std::process::id());
    let ended = run_inside(place.path(), &programs, &name);
    let started = Instant::now();
    let removed = cgroups::remove(&name);
    drop(std::fs::remove_dir_all(place.path().join("data")));
    let left = residue::find(place.path(), &name);
    say(&format!("cleaned up after {:.1?}", started.elapsed()));
    if residue::settings() != settings {
        bail!("settings of the machine were {settings:?} and are {:?}", residue::settings());
    }
    removed?;
    if !left.is_empty() {
        bail!("left on the machine: {}", left.join("; "));
    }
    let ended = ended?;
    if ended != ExitCode::SUCCESS {
        say(&format!("the logs are in {}", place.path().display()));
        std::mem::forget(place); // removed by a later process, once they are old
    }
    Ok(ended)
}

fn run_inside(folder: &Path, programs: &Path, name: &str) -> anyhow::Result<ExitCode> {
    cgroups::make(name).context("failed to make cgroups")?;
    let first = again("first")?;
    let mut command = Command::new("setpriv");
    // Whatever ends the keeper, the kernel ends unshare, then its child, then all in its namespace.
    command.args(["--pdeathsig", "KILL", "--", "unshare", "--mount", "--net", "--pid", "--uts"]);
    command.args(["--ipc", "--fork", "--mount-proc", "--kill-child", "--propagation", "private"]);
    command.arg(first.get_program()).args(first.get_args()).env(ROLE, "first");
    command.env(FOLDER, folder).env(PROGRAMS, programs).env(GROUPS, name).stdin(Stdio::null());
    let mut child: Child = command.spawn().context("failed to start unshare by setpriv")?;
    let pid = Pid::from_raw(child.id().cast_signed());
    std::thread::spawn(move || {
        drop(io::stdin().read_to_end(&mut Vec::new()));
        // Its number is nobody else's as long as this process has not waited for it, and after that
        // this process ends at once.
        let _ = kill(pid, Signal::SIGKILL);
    });
    Ok(code(child.wait().context("failed to wait for the node")?))
}

/// Makes the machine, starts the test there, and waits for it and for orphans.
fn be_first() -> anyhow::Result<ExitCode> {
    machine::make()?;
    let child = again("test")?.spawn().context("failed to start the test")?;
    let test = Pid::from_raw(child.id().cast_signed());
    loop {
        match wait().context("failed to wait for processes")? {
            WaitStatus::Exited(pid, code) if pid == test => {
                return Ok(u8::try_from(code).map_or(ExitCode::FAILURE, ExitCode::from));
            }
            WaitStatus::Signaled(pid, signal, _) if pid == test => bail!("ended by {signal}"),
            _ => {}
        }
    }
}
