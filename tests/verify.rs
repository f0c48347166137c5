//! `--verify`, `--manifest` and `longshore verify`: damage that only the device knows of is found and
//! mended or reported. What is copied otherwise is judged by `fidelity.rs`.
#![allow(clippy::unwrap_used, clippy::print_stderr, unreachable_pub)] // tests

mod support;

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use support::flipping_disk::{Flip, FlippingDisk};
use support::{
    Backend, Compare, Fs, Longshore, Rng, Run, Scratch, assert_same_tree, for_each_backend,
};

/// A filesystem on the disk that flips bits: its name, how it is made, how large it must be.
const DISKS: [(&str, &[&str], u64); 3] = [
    ("ext4", &["mkfs.ext4", "-q", "-F"], 256 << 20),
    ("xfs", &["mkfs.xfs", "-q", "-f"], 512 << 20),
    ("btrfs", &["mkfs.btrfs", "-q", "-f"], 512 << 20),
];

/// A marker that no random block begins with.
fn marker(n: u8) -> [u8; 16] {
    let mut marker = *b"flip this block\0";
    marker[15] = n;
    marker
}

/// Random bytes with a marker at each of the offsets, which are multiples of 4096.
fn content(seed: u64, length: usize, markers: &[(usize, u8)]) -> Vec<u8> {
    let mut bytes = Rng::new(seed).bytes(length);
    for (at, n) in markers {
        bytes[*at..at + 16].copy_from_slice(&marker(*n));
    }
    bytes
}

const MIB: usize = 1 << 20;

/// Files of every way of moving: small, middling, large enough for O_DIRECT, sparse.
fn make_source(src: &Path) {
    fs::create_dir_all(src.join("sub")).unwrap();
    fs::write(src.join("small"), content(1, 9000, &[(4096, 1)])).unwrap();
    fs::write(src.join("sub/middle"), content(2, 3 * MIB + 777, &[(MIB + 8192, 2)])).unwrap();
    let large = content(3, 20 * MIB + 5, &[(0, 3), (7 * MIB + 4096, 3)]);
    fs::write(src.join("large"), large).unwrap();
    let sparse = fs::File::create(src.join("sparse")).unwrap();
    sparse.set_len(9 << 20).unwrap();
    use std::os::unix::fs::FileExt;
    sparse.write_all_at(&content(4, 12_288, &[(8192, 4)]), (5 << 20) + 4096).unwrap();
    for n in 0..50 {
        fs::write(src.join(format!("sub/file-{n}")), content(100 + n, 5000, &[])).unwrap();
    }
    fs::write(src.join("empty"), "").unwrap();
    let closed = src.join("closed");
    fs::write(&closed, content(5, 5000, &[(0, 5)])).unwrap();
    support::tree::chmod(&closed, 0o4555);
}

fn disk(scratch: &Scratch, name: &str) -> Option<FlippingDisk> {
    let (_, mkfs, bytes) = DISKS.into_iter().find(|(disk, ..)| *disk == name).unwrap();
    support::has_program(mkfs[0]).then(|| FlippingDisk::new(scratch, mkfs, bytes)).flatten()
}

fn once(markers: &[u8]) -> Vec<Flip> {
    markers.iter().map(|n| Flip { marker: marker(*n), times: 1 }).collect()
}

/// Whether two trees are the same on the device, memory forgotten.
fn same_on_disk(disk: &FlippingDisk, src: &Path, copy: &Path) {
    disk.remount();
    assert_same_tree(src, copy, Compare::default());
}

#[test]
fn without_verification_a_flipped_bit_goes_unnoticed() {
    let scratch = Scratch::on_disk();
    make_source(&scratch.join("src"));
    let Some(disk) = disk(&scratch, "ext4") else { return };
    disk.flip(once(&[1]));
    let copy = disk.path().join("copy");
    Longshore::copy(Backend::Auto).arg(scratch.join("src")).arg(&copy).expect(0);
    assert_eq!(disk.flipped(), 1, "the disk has not lied: the other tests prove nothing");
    disk.remount();
    let (right, there) =
        (fs::read(scratch.join("src/small")).unwrap(), fs::read(copy.join("small")).unwrap());
    assert_eq!(right.iter().zip(&there).filter(|(right, there)| right != there).count(), 1);
}

fn flipped_bits_are_mended(name: &str) {
    for_each_backend(|backend| {
        let scratch = Scratch::on_disk();
        make_source(&scratch.join("src"));
        let Some(disk) = disk(&scratch, name) else { return };
        disk.flip(
            once(&[1, 2, 4, 5])
                .into_iter()
                .chain(vec![Flip { marker: marker(3), times: 2 }])
                .collect(),
        );
        let copy = disk.path().join("copy");
        let run =
            Longshore::copy(backend).arg("--verify").arg(scratch.join("src")).arg(&copy).expect(0);
        // Two blocks of the large file hold its marker.
        assert_eq!(disk.flipped(), 6, "{}", run.describe());
        assert_eq!(run.count("/verify/bad_ranges"), 6, "{}", run.describe());
        assert_eq!(run.count("/verify/repaired_ranges"), 6, "{}", run.describe());
        assert_eq!(run.count("/verify/unrepaired_ranges"), 0, "{}", run.describe());
        // Only the blocks that were wrong have been written again.
        assert!(run.count("/verify/repaired_bytes") <= 6 * 4096, "{}", run.describe());
        same_on_disk(&disk, &scratch.join("src"), &copy);
    });
}

#[test]
fn flipped_bits_are_mended_on_ext4() {
    flipped_bits_are_mended("ext4");
}

#[test]
fn flipped_bits_are_mended_on_xfs() {
    flipped_bits_are_mended("xfs");
}

#[test]
fn blocks_that_the_filesystem_itself_finds_damaged_are_mended_on_btrfs() {
    flipped_bits_are_mended("btrfs");
}

/// The second write of a block is damaged as well, the third is not.
#[test]
fn a_block_that_is_damaged_again_is_mended_again() {
    let scratch = Scratch::on_disk();
    make_source(&scratch.join("src"));
    let Some(disk) = disk(&scratch, "ext4") else { return };
    disk.flip(vec![Flip { marker: marker(2), times: 2 }]);
    let copy = disk.path().join("copy");
    let run = Longshore::copy(Backend::Auto)
        .arg("--verify=blake3")
        .arg(scratch.join("src"))
        .arg(&copy)
        .expect(0);
    assert_eq!((disk.flipped(), run.count("/verify/repaired_ranges")), (2, 1));
    assert_eq!(run.report.as_ref().unwrap()["verify"]["algorithm"], "blake3");
    same_on_disk(&disk, &scratch.join("src"), &copy);
}

fn fails_for_one_file(run: &Run, path: &Path) {
    assert_eq!(run.failed, [fs::canonicalize(path).unwrap()], "{}", run.describe());
    assert_eq!(run.count("/errors/verify-failed"), 1, "{}", run.describe());
}

#[test]
fn what_cannot_be_mended_is_named_and_never_looks_complete() {
    for_each_backend(|backend| {
        let scratch = Scratch::on_disk();
        let src = scratch.join("src");
        make_source(&src);
        let Some(disk) = disk(&scratch, "ext4") else { return };
        disk.flip(vec![Flip { marker: marker(3), times: usize::MAX }]);
        let copy = disk.path().join("copy");
        let verify = |update: &[&str]| {
            let command = Longshore::copy(backend).arg("--verify").arg("-T").args(update);
            command.arg(&src).arg(&copy)
        };
        let run = verify(&[]).expect(1);
        run.says("large").says("failed to read the destination back");
        let message = run.report.as_ref().unwrap()["failures"][0]["message"].to_string();
        assert!(message.contains("does not hold what was written"), "{message}");
        fails_for_one_file(&run, &src.join("large"));
        assert_eq!(run.count("/verify/unrepaired_ranges"), 2, "{}", run.describe());
        let damage = run.report.as_ref().unwrap()["verify"]["damage"].as_array().unwrap().clone();
        let starts: Vec<u64> = damage.iter().map(|d| d["start"].as_u64().unwrap()).collect();
        assert_eq!(starts, [0, (7 << 20) + 4096], "{}", run.describe());
        let modified = |path: &Path| path.metadata().map(|m| (m.mtime(), m.mtime_nsec())).unwrap();
        assert_ne!(modified(&src.join("large")), modified(&copy.join("large")));
        assert_eq!(modified(&src.join("small")), modified(&copy.join("small")));
        // The disk has been replaced: only the one file is copied again.
        disk.flip(Vec::new());
        let run = verify(&["--update"]).expect(0);
        assert_eq!(run.count("/copied/files"), 1, "{}", run.describe());
        same_on_disk(&disk, &src, &copy);
    });
}

#[test]
fn verified_copies_are_exact_on_every_filesystem() {
    for fs in Fs::ALL {
        let Some(scratch) = Scratch::new(fs) else { continue };
        let options = support::TreeOptions::default();
        let tree = support::Tree::make(scratch.join("src"), 77, options);
        for_each_backend(|backend| {
            let copy = scratch.join(format!("copy-{backend}"));
            let run = Longshore::copy(backend).arg("--verify").arg(&tree.root).arg(&copy).expect(0);
            assert_same_tree(&tree.root, &copy, Compare::default());
            assert_eq!(run.count("/verify/bad_ranges"), 0, "{}", run.describe());
            assert!(run.count("/verify/files") > 200, "{}", run.describe());
            let memory = run.count("/verify/read_back/memory") > 0;
            assert_eq!(memory, fs == Fs::Tmpfs, "{fs}: {}", run.describe());
            support::scratch::remove(&copy);
        });
    }
}
