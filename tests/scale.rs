//! Counts and sizes: memory does not grow with the number of files, time not with holes. What is
//! in the copies is judged here only by number and size; `fidelity.rs` looks at everything.
#![allow(clippy::unwrap_used, clippy::print_stderr, clippy::print_stdout, unreachable_pub)] // tests

mod support;

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::time::{Duration, Instant};

use support::{
    Backend, Compare, Fs, Longshore, Rng, Scratch, assert_same_tree, for_each_backend, skip,
};

const PEAK_LIMIT_KIB: u64 = 150 * 1024;

/// Whether the long counts are asked for.
fn full() -> bool {
    let full = std::env::var("LONGSHORE_SCALE").is_ok_and(|word| word == "full");
    if !full {
        skip("only with LONGSHORE_SCALE=full");
    }
    full
}

fn make(dir: &Path, dirs: usize, files_in_each: usize) {
    for d in 0..dirs {
        let at = dir.join(format!("d{d}"));
        fs::create_dir_all(&at).unwrap();
        for n in 0..files_in_each {
            fs::write(at.join(format!("file-{n}")), [0x61; 10]).unwrap();
        }
    }
}

fn memory_stays_bounded(what: &str, dirs: usize, files_in_each: usize, backends: &[Backend]) {
    let Some(scratch) = Scratch::new(Fs::Tmpfs) else { return };
    make(&scratch.join("src"), dirs, files_in_each);
    let count = dirs * files_in_each;
    println!("{:<22} {:>8} {:>8} {:>8} {:>9}", "what", "backend", "files", "seconds", "peak MiB");
    for backend in backends {
        if *backend == Backend::Uring && !support::command::has_ring() {
            skip("backend uring: this machine gives no io_uring");
            continue;
        }
        let copy = scratch.join("copy");
        let run = Longshore::copy(*backend)
            .limit(Duration::from_secs(600))
            .arg(scratch.join("src"))
            .arg(&copy)
            .expect(0);
        let seconds = run.elapsed.as_secs_f64();
        println!("{what:<22} {backend:>8} {count:>8} {seconds:>8.2} {:>9}", run.peak_kib / 1024);
        assert_eq!(run.count("/copied/files"), u64::try_from(count).unwrap(), "{}", run.describe());
        assert!(
            run.peak_kib > 0 && run.peak_kib < PEAK_LIMIT_KIB,
            "{} KiB of memory: {}",
            run.peak_kib,
            run.describe()
        );
        let arrived: usize = fs::read_dir(&copy)
            .unwrap()
            .map(|dir| fs::read_dir(dir.unwrap().path()).unwrap().count())
            .sum();
        assert_eq!(arrived, count);
        support::scratch::remove(&copy);
    }
}

#[test]
fn memory_stays_bounded_for_100_000_files() {
    memory_stays_bounded("1,000 directories", 1000, 100, &Backend::ALL);
}

#[test]
fn memory_stays_bounded_for_a_directory_of_100_000() {
    memory_stays_bounded("one directory", 1, 100_000, &[Backend::Auto]);
}

#[test]
fn memory_stays_bounded_for_300_000_files() {
    if full() {
        memory_stays_bounded("3,000 directories", 3000, 100, &[Backend::Auto]);
    }
}

#[test]
fn memory_stays_bounded_for_a_million_files() {
    if full() {
        memory_stays_bounded("10,000 directories", 10_000, 100, &[Backend::Auto, Backend::Uring]);
    }
}

#[test]
fn memory_stays_bounded_for_a_directory_of_500_000() {
    if full() {
        memory_stays_bounded("one directory", 1, 500_000, &[Backend::Auto, Backend::Uring]);
    }
}

#[test]
fn memory_stays_bounded_for_many_hard_links() {
    let Some(scratch) = Scratch::new(Fs::Tmpfs) else { return };
    for dir in ["src/a", "src/b"] {
        fs::create_dir_all(scratch.join(dir)).unwrap();
    }
    for n in 0..30_000 {
        fs::write(scratch.join(format!("src/a/{n}")), "x").unwrap();
        fs::hard_link(scratch.join(format!("src/a/{n}")), scratch.join(format!("src/b/{n}")))
            .unwrap();
    }
    let run =
        Longshore::copy(Backend::Auto).arg(scratch.join("src")).arg(scratch.join("copy")).expect(0);
    assert_eq!(
        (run.count("/copied/files"), run.count("/copied/hard_links")),
        (30_000, 30_000),
        "{}",
        run.describe()
    );
    assert!(run.peak_kib < PEAK_LIMIT_KIB, "{} KiB of memory: {}", run.peak_kib, run.describe());
    assert_same_tree(&scratch.join("src"), &scratch.join("copy"), Compare::default());
}

#[test]
fn a_sparse_file_of_64_gib_takes_the_time_of_its_data() {
    let scratch = Scratch::on_disk();
    let file = File::create(scratch.join("sparse")).unwrap();
    if let Err(error) = file.set_len(64 << 30) {
        return skip(&format!("no file of 64 GiB here: {error}"));
    }
    let mut rng = Rng::new(64);
    for n in 0..64 {
        file.write_all_at(&rng.bytes(1 << 20), n << 30).unwrap();
    }
    for_each_backend(|backend| {
        let copy = scratch.join(format!("copy-{backend}"));
        let started = Instant::now();
        let run = Longshore::copy(backend).arg(scratch.join("sparse")).arg(&copy).expect(0);
        assert!(
            started.elapsed() < Duration::from_secs(20),
            "took {:?}: {}",
            started.elapsed(),
            run.describe()
        );
        assert_same_tree(&scratch.join("sparse"), &copy, Compare::default());
        assert!(copy.metadata().unwrap().blocks() * 512 < 80 << 20);
        assert!(run.count("/copied/bytes_moved") <= 80 << 20, "{}", run.describe());
        fs::remove_file(&copy).unwrap();
    });
}

#[test]
fn a_file_of_a_hundred_thousand_extents_is_copied() {
    let Some(scratch) = Scratch::new(Fs::Tmpfs) else { return };
    let file = File::create(scratch.join("fragments")).unwrap();
    for n in 0..100_000_u64 {
        file.write_all_at(&n.to_le_bytes(), n * 8192).unwrap();
    }
    for_each_backend(|backend| {
        let copy = scratch.join(format!("copy-{backend}"));
        let run = Longshore::copy(backend).arg(scratch.join("fragments")).arg(&copy).expect(0);
        assert!(
            run.peak_kib < PEAK_LIMIT_KIB,
            "{} KiB of memory: {}",
            run.peak_kib,
            run.describe()
        );
        assert_same_tree(&scratch.join("fragments"), &copy, Compare::default());
        fs::remove_file(&copy).unwrap();
    });
}

/// Files wait in batches to be read back; their number must not show either.
fn memory_stays_bounded_with_checks(dirs: usize) {
    let Some(scratch) = Scratch::new(Fs::Tmpfs) else { return };
    make(&scratch.join("src"), dirs, 100);
    let manifest = scratch.join("manifest");
    let run = Longshore::copy(Backend::Auto)
        .limit(Duration::from_secs(600))
        .args(["--verify", "--manifest"])
        .arg(&manifest)
        .arg(scratch.join("src"))
        .arg(scratch.join("copy"))
        .expect(0);
    println!("verified: {} files, {} MiB", dirs * 100, run.peak_kib / 1024);
    assert_eq!(run.count("/verify/files"), u64::try_from(dirs * 100).unwrap());
    assert!(run.peak_kib > 0 && run.peak_kib < PEAK_LIMIT_KIB, "{}", run.describe());
}

#[test]
fn memory_stays_bounded_with_verification_and_a_manifest() {
    memory_stays_bounded_with_checks(1000);
}

#[test]
fn memory_stays_bounded_with_verification_of_a_million_files() {
    if full() {
        memory_stays_bounded_with_checks(10_000);
    }
}
