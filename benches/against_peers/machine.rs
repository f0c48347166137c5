//! The facts without which no number means anything. No host name and no path: the output is kept.

use std::fs;

use serde_json::{Value, json};

use crate::rows::{installed, version};
use crate::{Options, support};

/// The facts as a list, and for programs.
pub fn describe(options: &Options, privileged: bool) -> (String, Value) {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let kernel = release.trim().split('.').take(2).collect::<Vec<_>>().join(".");
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load = load.split(' ').next().unwrap_or("?").to_owned();
    let ring = support::command::has_ring();
    let tools: Vec<(&str, String)> = ["cp", "rsync", "tar", "xcp", "rclone", "fpsync", "dcp"]
        .into_iter()
        .map(|program| {
            let known = installed(program).then(|| version(program)).flatten();
            (program, known.unwrap_or_else(|| "not installed".to_owned()))
        })
        .chain([("longshore", version(env!("CARGO_BIN_EXE_longshore")).unwrap_or_default())])
        .collect();
    let yes = |fact: bool| if fact { "yes" } else { "no" };
    let mut text = format!(
        "- kernel {kernel}, {cores} cores, {} GiB of memory; load before the start: {load}\n\
         - io_uring: {}; mounts and cold caches: {}\n\
         - tmpfs; ext4 and XFS on loop devices with direct I/O, targets made anew for every run; the \
           latency filesystem before tmpfs\n",
        memory_gib(),
        yes(ring),
        yes(privileged)
    );
    for (program, version) in &tools {
        text += &format!("- {program}: {version}\n");
    }
    text += &format!(
        "- rounds: at most {}, in {} minutes; seed {}, quick: {}\n",
        options.rounds, options.minutes, options.seed, options.quick
    );
    let tools: Vec<Value> = tools
        .iter()
        .map(|(program, version)| json!({ "program": program, "version": version }))
        .collect();
    let facts = json!({
        "kernel": kernel,
        "cores": cores,
        "memory_gib": memory_gib(),
        "load_before": load,
        "io_uring": ring,
        "privileged": privileged,
        "tools": tools,
        "rounds": options.rounds,
        "seed": options.seed,
        "quick": options.quick,
    });
    (text, facts)
}

fn memory_gib() -> u64 {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:")).unwrap_or_default();
    let kib: u64 = line.split_whitespace().next().and_then(|kib| kib.parse().ok()).unwrap_or(0);
    kib.div_ceil(1 << 20)
}
