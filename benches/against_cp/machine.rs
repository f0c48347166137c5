//! The facts without which no number means anything. No host name and no path: the output is kept.

use std::fs;

use crate::rows::version;
use crate::{Options, support};

/// Prints them.
pub fn print(options: &Options, privileged: bool) {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let kernel: Vec<&str> = release.trim().split('.').take(2).collect();
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    println!("- kernel {}, {cores} cores, {} GiB of memory", kernel.join("."), memory_gib());
    println!("- load before the start: {}", load.split(' ').next().unwrap_or("?"));
    let ring = if support::command::has_ring() { "yes" } else { "no" };
    println!(
        "- io_uring: {ring}; mounts and cold caches: {}",
        if privileged { "yes" } else { "no" }
    );
    println!(
        "- tmpfs; ext4 and XFS on loop devices with direct I/O, targets made anew for every run"
    );
    for program in ["cp", "rsync", "tar", "xcp"] {
        let version = version(program).unwrap_or_else(|| "not installed".to_owned());
        println!("- {program}: {version}");
    }
    println!("- longshore: {}", version(env!("CARGO_BIN_EXE_longshore")).unwrap_or_default());
    println!("- rounds {}, seed {}, quick: {}", options.rounds, options.seed, options.quick);
}

fn memory_gib() -> u64 {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:")).unwrap_or_default();
    let kib: u64 = line.split_whitespace().next().and_then(|kib| kib.parse().ok()).unwrap_or(0);
    kib.div_ceil(1 << 20)
}
