//! The property of every copy: what is not the same is named. Random trees, random faults, a seed.
#![allow(clippy::unwrap_used, clippy::print_stderr, clippy::print_stdout, unreachable_pub)] // tests

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use support::command::has_ring;
use support::compare::assert_none;
use support::scratch::Mount;
use support::tree::{chmod, give_to};
use support::{
    Backend, Compare, Fs, Longshore, NOBODY, Rng, Run, Scratch, Seed, diff_trees, is_root,
    random_tree, wait_for,
};

/// What happens to a copy.
#[derive(Debug, Clone, Copy)]
enum Fault {
    None,
    Unreadable,
    InTheWay,
    Killed,
    Full,
}

/// Cases of a run; `LONGSHORE_CASES` raises it.
fn cases() -> u64 {
    std::env::var("LONGSHORE_CASES")
        .ok()
        .map_or(20, |text| text.parse().expect("LONGSHORE_CASES is a number"))
}

#[test]
fn what_is_not_the_same_is_named_whatever_happens() {
    let seed = Seed::fresh();
    let mut rng = seed.rng();
    for case in 0..cases() {
        let backend = *rng.pick(&Backend::ALL);
        let backend = if has_ring() { backend } else { Backend::Auto };
        let fault = *rng.pick(&[
            Fault::None,
            Fault::Unreadable,
            Fault::InTheWay,
            Fault::Killed,
            Fault::Full,
        ]);
        let (from, to) = (*rng.pick(&Fs::ALL), *rng.pick(&Fs::ALL));
        eprintln!("case {case}: {fault:?}, {backend}, {from} to {to}");
        if matches!(fault, Fault::Unreadable | Fault::Full) && !is_root() {
            continue;
        }
        let (Some(source), Some(target)) = (Scratch::new(from), Scratch::new(to)) else { continue };
        let items = 20 + rng.below(200);
        let files = random_tree::make(&source.join("src"), &mut rng, items);
        one_case(fault, backend, &mut rng, (&source, &files), target);
    }
}

fn one_case(
    fault: Fault,
    backend: Backend,
    rng: &mut Rng,
    source: (&Scratch, &[PathBuf]),
    mut target: Scratch,
) {
    let (source, files) = source;
    let src = source.join("src");
    let mut user = None;
    match fault {
        Fault::None | Fault::Killed => {}
        Fault::Unreadable => {
            for dir in [source, &target] {
                dir.open_to_all();
            }
            give_to(&src, NOBODY);
            for path in files {
                if rng.one_in(5) {
                    chmod(path, 0);
                }
            }
            user = Some(NOBODY);
        }
        Fault::InTheWay => {
            fs::create_dir(target.join("copy")).unwrap();
            for entry in fs::read_dir(&src).unwrap() {
                let twin = target.join("copy").join(entry.unwrap().file_name());
                match rng.below(4) {
                    0 => fs::create_dir_all(twin.join("full")).unwrap(),
                    1 => fs::write(&twin, "in the way").unwrap(),
                    2 => std::os::unix::fs::symlink("/nowhere", &twin).unwrap(),
                    _ => {}
                }
            }
        }
        Fault::Full => {
            let options = format!("size={}k,mode=755", 100 + rng.below(2000));
            target = Scratch::in_mount(Arc::new(Mount::tmpfs(&options).unwrap()), Fs::Tmpfs);
        }
    }
    let command = || {
        let command =
            Longshore::copy(backend).args(["--update", "-T"]).arg(&src).arg(target.join("copy"));
        if let Some(uid) = user { command.user(uid) } else { command }
    };
    if matches!(fault, Fault::Killed) {
        let moment = Duration::from_micros(rng.below(60_000));
        let mut running = command().start();
        let started = Instant::now();
        wait_for("the moment of the kill", Duration::from_secs(60), || {
            started.elapsed() >= moment || running.ended()
        });
        running.signal(Signal::SIGKILL);
        running.wait();
    }
    judge(&command().run(), fault, &src, &target.join("copy"));
}

fn judge(run: &Run, fault: Fault, src: &Path, copy: &Path) {
    assert!(!run.stderr.contains("panicked at"), "{}", run.describe());
    let absolute = fs::canonicalize(src).unwrap();
    let compare = Compare { top: !matches!(fault, Fault::InTheWay), ..Compare::default() };
    match run.code {
        Some(0) => {
            let mut differences = diff_trees(src, copy, compare);
            // what was in the way of nothing stays where it is
            differences.retain(|d| {
                !(matches!(fault, Fault::InTheWay)
                    && (d.what == "extraneous" || d.path.as_os_str().is_empty()))
            });
            assert_none(&differences, &run.describe());
        }
        Some(1) => {
            assert!(!run.failed.is_empty(), "{}", run.describe());
            let mut differences = diff_trees(src, copy, compare);
            differences.retain(|d| !run.blames(&absolute.join(&d.path)));
            differences.retain(|d| !(matches!(fault, Fault::InTheWay) && d.what == "extraneous"));
            // the partner of a failed link has lost it
            differences.retain(|d| d.what != "links");
            assert_none(&differences, &run.describe());
            // every failed item of the list is real: it exists in the source
            for path in &run.failed {
                assert!(
                    path.symlink_metadata().is_ok(),
                    "{path:?} was never there: {}",
                    run.describe()
                );
            }
        }
        Some(3) => {
            assert!(matches!(fault, Fault::Full), "{}", run.describe());
            if copy.exists() {
                let half: Vec<_> =
                    diff_trees(src, copy, Compare { holes: false, ..Compare::default() })
                        .into_iter()
                        .filter(|d| matches!(d.what, "content" | "size" | "type" | "extraneous"))
                        .collect();
                assert_none(&half, &run.describe());
            }
        }
        // a destination too full for its first directory
        Some(2) if matches!(fault, Fault::Full) => assert!(!copy.exists()),
        _ => panic!("{}", run.describe()),
    }
}
