//! Measures what passes through the emulator: threads that write and read files of their own, or one
//! file together. It judges nothing.
//!
//!     cargo run --release -p lustre-emulator --example throughput -- [THREADS [SERVING [BANDWIDTH_MB]]]
#![allow(clippy::print_stdout)] // a report

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

use lustre_emulator::{Emulator, OstSettings, Settings};

const MIB: u64 = 1 << 20;
const TOTAL: u64 = 3 << 30;

fn main() -> std::io::Result<()> {
    let numbers: Vec<u64> = std::env::args().skip(1).filter_map(|text| text.parse().ok()).collect();
    let threads = numbers.first().copied().unwrap_or(8);
    let serving = numbers.get(1).copied().unwrap_or(2);
    let bandwidth = numbers.get(2).map(|megabytes| megabytes * 1_000_000);
    let scratch = Path::new("/dev/shm").join(format!("throughput-{}", std::process::id()));
    let (at, behind) = (scratch.join("mount"), scratch.join("behind"));
    fs::create_dir_all(&at)?;
    fs::create_dir_all(&behind)?;
    let latency = if bandwidth.is_some() { Duration::from_millis(1) } else { Duration::ZERO };
    let ost = OstSettings { bandwidth, latency, ..OstSettings::default() };
    let settings = Settings {
        threads: usize::try_from(serving).unwrap_or(2),
        stripe_count: 8,
        stripe_size: 1 << 20,
        ..Settings::new(8, &ost)
    };
    let mounted = Emulator::mount(&at, &behind, settings)?;
    let buffer = vec![0x5a; 1 << 20];
    for one_file in [false, true] {
        let each = TOTAL / threads;
        let paths: Vec<_> = (0..threads)
            .map(|thread| at.join(format!("{one_file}-{}", if one_file { 0 } else { thread })))
            .collect();
        for path in &paths {
            File::create(path)?.set_len(if one_file { each * threads } else { each })?;
        }
        for write in [true, false] {
            mounted.log().clear();
            let started = Instant::now();
            std::thread::scope(|scope| {
                for (thread, path) in (0_u64..).zip(&paths) {
                    let mut own = buffer.clone();
                    scope.spawn(move || {
                        let file = OpenOptions::new().write(write).read(!write).open(path);
                        let file = file.expect("the file that was made");
                        let mut at = if one_file { thread * MIB } else { 0 };
                        let step = if one_file { threads * MIB } else { MIB };
                        for _ in 0..each / MIB {
                            if write {
                                file.write_all_at(&own, at).expect("a write");
                            } else {
                                file.read_exact_at(&mut own, at).expect("a read");
                            }
                            at += step;
                        }
                    });
                }
            });
            let rate = (each * threads) as f64 / started.elapsed().as_secs_f64() / 1e9;
            let what = if write { "written" } else { "read" };
            let files = if one_file { "one file" } else { "own files" };
            let revoked = mounted.log().revocations();
            println!(
                "{threads} threads, {serving} serving, {files}: {rate:.2} GB/s {what}, {revoked} locks taken away"
            );
        }
        for path in &paths {
            let _ = fs::remove_file(path);
        }
    }
    mounted.unmount();
    fs::remove_dir_all(scratch)
}
