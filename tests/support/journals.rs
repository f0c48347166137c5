//! What the tests of journals share: the command, a source that takes a while, and where the journal is.
#![allow(clippy::unwrap_used)] // tests: what cannot be made fails them

use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::signal::Signal;

use super::tree::chmod;
use super::{Backend, Longshore, Rng, Run, Scratch, Tree, TreeOptions, is_journal, wait_for};

/// Worker threads of the copies that are killed.
pub const THREADS: u64 = 2;

/// A tree with everything, and enough content that a run takes its time.
pub fn long_tree(scratch: &Scratch, seed: u64) -> PathBuf {
    let options = TreeOptions { many: 1500, ..TreeOptions::default() };
    let tree = Tree::make(scratch.join("src"), seed, options);
    let mut rng = Rng::new(seed);
    for n in 0..6 {
        fs::write(tree.root.join(format!("large-{n}")), rng.bytes((20 << 20) + n * 777)).unwrap();
    }
    // Met under its other name first, a file that was not finished begins again: not a large one.
    fs::write(tree.root.join("linked"), rng.bytes(2 << 20)).unwrap();
    fs::hard_link(tree.root.join("linked"), tree.root.join("links/linked-again")).unwrap();
    let sparse = fs::File::create(tree.root.join("large-sparse")).unwrap();
    sparse.set_len(1 << 30).unwrap();
    for n in 0..40 {
        sparse.write_all_at(&rng.bytes(1 << 20), n * (25 << 20) + 12_345).unwrap();
    }
    settle(&tree.root);
    tree.root
}

/// Waits until the clock has moved on from the last change, so that every file can be noted.
pub fn settle(path: &Path) {
    let changed = fs::symlink_metadata(path).unwrap();
    wait_for("the clock to move on", Duration::from_secs(10), || {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        let then = Duration::new(
            u64::try_from(changed.ctime()).unwrap(),
            u32::try_from(changed.ctime_nsec()).unwrap(),
        );
        now.saturating_sub(then) > Duration::from_millis(60)
    });
}

pub fn journals(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    entries.filter(|path| is_journal(path)).collect()
}

pub fn the_journal(dir: &Path) -> PathBuf {
    let mut all = journals(dir);
    assert_eq!(all.len(), 1, "{all:?}");
    all.pop().unwrap()
}

/// The command that is killed; the second time cp's rule would take it one level deeper.
pub fn copy(backend: Backend, source: &Path, target: &Path) -> Longshore {
    let threads = THREADS.to_string();
    Longshore::copy(backend).args(["--threads", &threads]).arg(source).arg(target)
}

/// Kills a copy as soon as `condition` holds; it must not have ended before.
pub fn kill_when(command: Longshore, what: &str, mut condition: impl FnMut() -> bool) -> Run {
    let mut running = command.start();
    wait_for(what, Duration::from_secs(30), || condition() || running.ended());
    running.signal(Signal::SIGKILL);
    let run = running.wait();
    assert_eq!(run.signal, Some(9), "it ended before: {}", run.describe());
    run
}

/// Entries of a directory, 0 while it is not there.
pub fn entries(dir: &Path) -> usize {
    fs::read_dir(dir).map_or(0, Iterator::count)
}

/// Many small files in one directory.
pub fn many(scratch: &Scratch, count: usize) -> PathBuf {
    let source = scratch.join("src");
    fs::create_dir(&source).unwrap();
    let mut rng = Rng::new(5);
    for n in 0..count {
        fs::write(source.join(format!("f{n:05}")), rng.bytes(3000)).unwrap();
    }
    settle(&source.join(format!("f{:05}", count - 1)));
    source
}

/// A source with one large file that takes a while.
pub fn large(scratch: &Scratch, backend: Backend) -> (PathBuf, PathBuf, PathBuf) {
    let source = scratch.join(format!("src-{backend}"));
    let target = scratch.join(format!("copy-{backend}"));
    fs::create_dir(&source).unwrap();
    let piece = Rng::new(3).bytes(16 << 20);
    fs::write(source.join("large"), piece.repeat(24)).unwrap();
    settle(&source.join("large"));
    (source.clone(), source.join("large"), target)
}

/// The temporary file in a directory.
pub fn temporary(dir: &Path) -> Option<PathBuf> {
    let entries = fs::read_dir(dir).ok()?.map(|entry| entry.unwrap().path());
    entries.into_iter().find(|path| {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        name.starts_with(".longshore-") && !is_journal(path)
    })
}

/// Kills the copy of a large file when a good part of it is written.
pub fn kill_within_large(command: Longshore, target: &Path) {
    kill_when(command, "part of the file", || {
        let written = temporary(target).and_then(|path| fs::metadata(path).ok());
        written.is_some_and(|file| file.blocks() * 512 > 60 << 20)
    });
}
