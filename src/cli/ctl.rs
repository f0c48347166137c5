//! `longshore ctl`: finds the control socket of a running copy, asks, prints the answer.

use std::fmt::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, bail};
use longshore::control_socket::wire::{Change, Request, Status};
use longshore::control_socket::{client, place};
use longshore::display::human;

use super::output::{print, refuse};
use super::{CtlArgs, CtlCommand};

pub(crate) fn run(args: &CtlArgs) -> ExitCode {
    match ask(args) {
        Ok(text) => print(text.as_bytes()),
        Err(error) => refuse(error.as_ref()),
    }
}

fn ask(args: &CtlArgs) -> anyhow::Result<String> {
    let request = match &args.command {
        CtlCommand::Status => Request::Status,
        CtlCommand::Pause => Request::Pause,
        CtlCommand::Continue => Request::Continue,
        CtlCommand::Limit { bandwidth_limit, ops_limit, threads } => Request::Limit(Change {
            bandwidth: *bandwidth_limit,
            operations: *ops_limit,
            threads: threads.map(|threads| threads.get() as u64),
        }),
    };
    let socket = socket(args)?;
    let reply = client::ask(&socket, &request)
        .with_context(|| format!("no answer from the copy at {}", socket.display()))?;
    match (reply.status, reply.error) {
        (Some(status), _) if reply.ok && args.json => {
            Ok(serde_json::to_string_pretty(&status)? + "\n")
        }
        (Some(status), _) if reply.ok => Ok(text(&status)),
        (_, error) => bail!(error.unwrap_or_else(|| "the copy refused".to_owned())),
    }
}

/// The socket that is meant.
fn socket(args: &CtlArgs) -> anyhow::Result<PathBuf> {
    if let Some(path) = &args.socket {
        return Ok(path.clone());
    }
    if let Some(pid) = args.pid {
        return place::of_process(pid).with_context(|| {
            format!("process {pid} is no copy of this user with a control socket")
        });
    }
    let mut running = place::running();
    match running.len() {
        0 => bail!("no copy of this user is running"),
        1 => Ok(running.remove(0).1),
        several => {
            let pids: Vec<String> = running.iter().map(|(pid, _)| pid.to_string()).collect();
            bail!("{several} copies are running: choose one with --pid ({})", pids.join(", "))
        }
    }
}

/// A few lines for people.
fn text(status: &Status) -> String {
    let number = |key: &str| status.counters.get(key).and_then(serde_json::Value::as_u64);
    let number = |key| number(key).unwrap_or(0);
    let mut out = String::new();
    let state = if status.paused { "paused" } else { "running" };
    let elapsed = human::seconds(status.elapsed_seconds);
    let files = human::counted(number("files_done"), "file", "files");
    let done = human::bytes(number("bytes_done"));
    let none = || "none".to_owned();
    let rate = |limit| human::rate(limit as f64);
    let bandwidth = status.bandwidth_limit.map_or_else(none, rate);
    let operations = status.operations_limit.map_or_else(none, |limit| format!("{limit}/s"));
    // Writing to a String cannot fail.
    let _ = writeln!(out, "process {}: {state} for {elapsed}", status.pid);
    let _ = writeln!(out, "  done        {files}, {done}, {} failed", number("failed"));
    let _ = writeln!(out, "  limits      bandwidth {bandwidth}, operations {operations}");
    let _ = writeln!(out, "  workers     {} of at most {}", status.workers, status.workers_cap);
    let _ = writeln!(out, "  held up by  {}", status.bottleneck.replace('-', " "));
    out
}
