//! Random trees from a seed: shapes and mixtures that nobody thought of. It makes them, no more.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, symlink};
use std::path::{Path, PathBuf};

use nix::sys::stat::SFlag;

use super::tree::{TIMES, attribute, chmod, chown, hard_link, node, posix_acl, set_times};
use super::{Rng, is_root};

/// Makes a random tree of about `items` items at a path that does not exist yet; returns the regular
/// files with content.
pub fn make(root: &Path, rng: &mut Rng, items: u64) -> Vec<PathBuf> {
    fs::create_dir(root).expect("failed to make the top of the tree");
    let mut dirs = vec![root.to_owned()];
    let mut all: Vec<PathBuf> = Vec::new();
    let mut files = Vec::new();
    for n in 0..items {
        let parent = rng.pick(&dirs).clone();
        let path = parent.join(name(rng, n));
        match rng.below(20) {
            0..4 => {
                fs::create_dir(&path).expect("failed to make a directory");
                dirs.push(path.clone());
            }
            4 => symlink(rng.pick(&["a", "../b", "/nowhere", ".", "x/y/z"]), &path)
                .expect("failed to make a link"),
            5 if !all.is_empty() => {
                hard_link(rng.pick::<PathBuf>(&all), &path);
            }
            6 => node(&path, SFlag::S_IFIFO, 0),
            _ => {
                file(&path, rng);
                files.push(path.clone());
            }
        }
        if !path.is_dir() {
            all.push(path);
        }
    }
    for path in &all {
        decorate(path, rng);
    }
    for path in dirs.iter().rev() {
        decorate(path, rng);
    }
    files.retain(|path| fs::symlink_metadata(path).is_ok_and(|metadata| metadata.len() > 0));
    files
}

fn name(rng: &mut Rng, n: u64) -> String {
    let stem = *rng.pick(&[
        "file",
        "with space",
        "-dash",
        "tab\t",
        "line\nbreak",
        "\u{fc}ml\u{e4}ut",
        "#",
        "%41",
        "~",
    ]);
    format!("{stem}{n}")
}

fn file(path: &Path, rng: &mut Rng) {
    let bytes = match rng.below(12) {
        0 => 0,
        1 => 4096,
        2 => 100_000 + rng.below(400_000),
        3 if rng.one_in(4) => 2_000_000 + rng.below(3_000_000),
        _ => rng.below(9000),
    };
    if rng.one_in(8) {
        let file = File::create(path).expect("failed to make a file");
        file.set_len(bytes + 300_000).expect("failed to make a hole");
        let at = rng.below(bytes + 200_000);
        file.write_all_at(&rng.bytes(777), at).expect("failed to write a file");
    } else {
        let bytes = usize::try_from(bytes).expect("a small size");
        fs::write(path, rng.bytes(bytes)).expect("failed to write a file");
    }
}

/// Gives an item random attributes; the times come last.
fn decorate(path: &Path, rng: &mut Rng) {
    let metadata = fs::symlink_metadata(path).expect("failed to look at an item");
    let link = metadata.file_type().is_symlink();
    if is_root() && rng.one_in(4) {
        chown(path, *rng.pick(&[0, 1, 1000, 65534]), *rng.pick(&[0, 5, 1000]));
    }
    if !link && rng.one_in(2) {
        let modes: &[u32] = if metadata.is_dir() {
            &[0o755, 0o700, 0o1777, 0o2755]
        } else {
            &[0o644, 0o400, 0o755, 0o4755]
        };
        chmod(path, *rng.pick(modes));
    }
    if (metadata.is_file() || metadata.is_dir()) && rng.one_in(6) {
        let length = usize::try_from(rng.below(900)).expect("a small size");
        attribute(path, "user.random", &rng.bytes(length));
    }
    if (metadata.is_file() || metadata.is_dir()) && rng.one_in(10) {
        attribute(path, "system.posix_acl_access", &posix_acl(7, 77, 6));
    }
    if rng.one_in(3) {
        let (_, seconds, nanos) = *rng.pick(&TIMES);
        set_times(path, seconds, nanos);
    } else {
        let seconds = i64::try_from(rng.below(2_000_000_000)).expect("a small time");
        set_times(path, seconds, i64::try_from(rng.below(1_000_000_000)).expect("a small time"));
    }
}
