//! `--verify`, `--manifest` and `longshore verify`: damage that only the device knows of is found and
//! mended or reported. What is copied otherwise is judged by `fidelity.rs`.
#![allow(clippy::unwrap_used, clippy::print_stderr, unreachable_pub)] // tests

mod support;

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::sys::signal::Signal;

use support::flipping_disk::{Flip, FlippingDisk};
use support::latency_fs::{Kind, LatencyFs, Profile};
use support::{
    Backend, Compare, Fs, Longshore, NOBODY, Rng, Run, Scratch, assert_same_tree, for_each_backend,
    wait_for,
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
        assert_ne!(modified(&src.join("large")), modified(&copy.join("large")));
        assert_eq!(modified(&src.join("small")), modified(&copy.join("small")));
        // The disk has been replaced: only the one file is copied again.
        disk.flip(Vec::new());
        let run = verify(&["--update"]).expect(0);
        assert_eq!(run.count("/copied/files"), 1, "{}", run.describe());
        same_on_disk(&disk, &src, &copy);
    });
}

/// A further name of a file that cannot be mended is no success: it is the same damaged file.
#[test]
fn names_of_a_file_that_was_found_wrong_fail_with_it() {
    let scratch = Scratch::on_disk();
    let src = scratch.join("src");
    make_source(&src);
    fs::hard_link(src.join("small"), src.join("sub/second-name")).unwrap();
    let Some(disk) = disk(&scratch, "ext4") else { return };
    disk.flip(vec![Flip { marker: marker(1), times: usize::MAX }]);
    let (copy, list) = (disk.path().join("copy"), scratch.join("failed"));
    let verify = || Longshore::copy(Backend::Auto).arg("--verify").args([&src, &copy]).arg("-T");
    let run = verify().expect(1);
    let names = ["small", "sub/second-name"].map(|name| src.join(name));
    let mut failed = run.failed.clone();
    failed.sort();
    assert_eq!(failed, names.map(|name| fs::canonicalize(name).unwrap()), "{}", run.describe());
    // The disk has been replaced, and the list is what is copied again.
    disk.flip(Vec::new());
    fs::write(&list, &run.failed_list).unwrap();
    let run = verify().arg("--files-from").arg(&list).expect(0);
    assert_eq!(run.count("/copied/hard_links"), 1, "{}", run.describe());
    same_on_disk(&disk, &src, &copy);
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

fn modified(path: &Path) -> (i64, i64) {
    path.symlink_metadata().map(|m| (m.mtime(), m.mtime_nsec())).unwrap()
}

/// What is damaged cannot be mended from a source that is another one by now.
#[test]
fn a_source_that_has_changed_since_is_not_used_to_mend_its_copy() {
    let scratch = Scratch::on_disk();
    let src = scratch.join("src");
    make_source(&src);
    let Some(disk) = disk(&scratch, "ext4") else { return };
    let copy = disk.path().join("copy");
    disk.flip(vec![Flip { marker: marker(1), times: usize::MAX }]);
    let small = src.join("small");
    let changed = content(8, 9000, &[]);
    disk.then({
        let (small, changed) = (small.clone(), changed.clone());
        move || fs::write(small, changed).unwrap()
    });
    let verify = |update: &[&str]| {
        let command = Longshore::copy(Backend::Auto).arg("--verify").arg("-T").args(update);
        command.arg(&src).arg(&copy)
    };
    let run = verify(&[]).expect(1);
    assert_eq!(run.failed, [fs::canonicalize(&small).unwrap()], "{}", run.describe());
    assert_eq!(run.count("/errors/source-changed"), 1, "{}", run.describe());
    assert_eq!(run.count("/verify/unrepaired_ranges"), 1, "{}", run.describe());
    assert_ne!(modified(&copy.join("small")), modified(&small));
    verify(&["--update"]).expect(0);
    same_on_disk(&disk, &src, &copy);
}

/// Not even its owner may write into the file, and setuid goes with every write.
#[test]
fn a_read_only_file_of_a_user_is_mended() {
    if !support::need_root() {
        return;
    }
    let scratch = Scratch::on_disk();
    let src = scratch.join("src");
    fs::create_dir(&src).unwrap();
    fs::write(src.join("closed"), content(5, 5000, &[(0, 5)])).unwrap();
    for path in [scratch.path(), &src, &src.join("closed")] {
        std::os::unix::fs::chown(path, Some(NOBODY), Some(NOBODY)).unwrap();
    }
    support::tree::chmod(&src.join("closed"), 0o4444);
    let Some(disk) = disk(&scratch, "ext4") else { return };
    support::tree::chmod(disk.path(), 0o777);
    disk.flip(once(&[5]));
    let copy = disk.path().join("copy");
    let run =
        Longshore::copy(Backend::Auto).user(NOBODY).arg("--verify").arg(&src).arg(&copy).expect(0);
    assert_eq!((disk.flipped(), run.count("/verify/repaired_ranges")), (1, 1));
    same_on_disk(&disk, &src, &copy);
}

#[test]
fn flags_that_forbid_changes_come_after_the_file_was_found_right() {
    if !support::need_root() || !support::has_program("chattr") {
        return;
    }
    let Some(scratch) = Scratch::new(Fs::Ext4) else { return };
    let (src, copy) = (scratch.join("src"), scratch.join("copy"));
    fs::create_dir(&src).unwrap();
    fs::write(src.join("immutable"), "for ever").unwrap();
    let chattr = |what: &str, at: &Path| {
        let done = Command::new("chattr").arg(what).arg(at.join("immutable")).status().unwrap();
        assert!(done.success(), "chattr {what}");
    };
    chattr("+i", &src);
    let run = Longshore::copy(Backend::Auto)
        .args(["--preserve", "all", "--verify"])
        .arg(&src)
        .arg(&copy)
        .run();
    let written = fs::write(copy.join("immutable"), "no more");
    for at in [&src, &copy] {
        chattr("-i", at);
    }
    run.expect(0);
    assert!(written.is_err(), "the copy is not immutable");
    assert_same_tree(&src, &copy, Compare::default());
}

/// Files whose size says nothing are digested as they stream by; they cannot be read twice.
#[test]
fn files_that_are_made_on_reading_are_verified() {
    let scratch = Scratch::on_disk();
    let (copy, manifest) = (scratch.join("copy"), scratch.join("manifest"));
    fs::create_dir(&copy).unwrap();
    let run = Longshore::copy(Backend::Auto)
        .args(["--verify", "--manifest"])
        .arg(&manifest)
        .args(["/proc/version", "/proc/filesystems"])
        .arg("-t")
        .arg(&copy)
        .expect(0);
    assert_eq!(run.count("/verify/files"), 2, "{}", run.describe());
    assert_eq!(fs::read(copy.join("version")).unwrap(), fs::read("/proc/version").unwrap());
    let listed = Command::new(env!("CARGO_BIN_EXE_longshore"))
        .args(["verify", "--manifest"])
        .arg(&manifest)
        .status()
        .unwrap();
    assert_eq!(listed.code(), Some(0));
}

/// Two hundred files, and a filesystem that will take its time to read them back.
fn slow_to_read(scratch: &Scratch, src: &Path) -> Option<LatencyFs> {
    fs::create_dir(src).unwrap();
    for n in 0..200 {
        fs::write(src.join(n.to_string()), content(n, 5000, &[])).unwrap();
    }
    LatencyFs::new(scratch, "to", Profile::immediate())
}

fn read_slowly(to: &LatencyFs) {
    to.set(Profile::immediate().delay(Kind::Read, Duration::from_millis(50)));
}

fn wait_for_reads(to: &LatencyFs) {
    wait_for("files to be read back", Duration::from_secs(60), || {
        to.counters().of(Kind::Read).requests > 4
    });
}

/// Until a file was found to be right it has not its source's time, so that a copy that was stopped
/// while it verified is taken up again.
#[test]
fn a_copy_that_is_stopped_while_it_verifies_is_taken_up_again() {
    for_each_backend(|backend| {
        let Some(scratch) = Scratch::new(Fs::Tmpfs) else { return };
        let src = scratch.join("src");
        let Some(to) = slow_to_read(&scratch, &src) else { return };
        read_slowly(&to);
        let copy = to.path().join("copy");
        let verify = |update: &[&str]| {
            let command = Longshore::copy(backend).arg("--verify").arg("-T").args(update);
            command.args(["--threads", "2"]).arg(&src).arg(&copy)
        };
        let running = verify(&[]).start();
        wait_for_reads(&to);
        assert!(running.signal(Signal::SIGINT));
        let run = running.wait();
        run.expect(130);
        // Those that were not reached are not there.
        let finished = |n: &u64| {
            let there = to.backing().join("copy").join(n.to_string());
            there.exists() && modified(&src.join(n.to_string())) == modified(&there)
        };
        let complete = u64::try_from((0..200).filter(finished).count()).unwrap();
        assert!(complete < 200, "everything looks complete: {}", run.describe());
        assert_eq!(run.count("/copied/files"), complete, "{}", run.describe());
        to.set(Profile::immediate());
        let run = verify(&["--update"]).expect(0);
        assert_eq!(run.count("/files_skipped"), complete, "{}", run.describe());
        assert_same_tree(&src, &copy, Compare { holes: false, ..Compare::default() });
    });
}

#[test]
fn a_comparison_can_be_cancelled() {
    let Some(scratch) = Scratch::new(Fs::Tmpfs) else { return };
    let src = scratch.join("src");
    let Some(to) = slow_to_read(&scratch, &src) else { return };
    let copy = to.path().join("copy");
    Longshore::copy(Backend::Auto).arg(&src).arg(&copy).expect(0);
    to.reset_counters();
    read_slowly(&to);
    let mut child = Command::new(env!("CARGO_BIN_EXE_longshore"))
        .args(["verify", "--threads", "2"])
        .args([&src, &copy])
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    wait_for_reads(&to);
    let pid = nix::unistd::Pid::from_raw(i32::try_from(child.id()).unwrap());
    nix::sys::signal::kill(pid, Signal::SIGINT).unwrap();
    let mut ended = None;
    wait_for("the comparison to end", Duration::from_secs(60), || {
        ended = child.try_wait().unwrap();
        ended.is_some()
    });
    assert_eq!(ended.unwrap().code(), Some(130));
}

/// One object a second and one at the end, as for a copy; the result is on standard output all the same.
#[test]
fn a_comparison_shows_its_progress() {
    let Some(scratch) = Scratch::new(Fs::Tmpfs) else { return };
    let src = scratch.join("src");
    let Some(to) = slow_to_read(&scratch, &src) else { return };
    let (copy, manifest) = (to.path().join("copy"), scratch.join("manifest"));
    let command = Longshore::copy(Backend::Auto).arg("--manifest").arg(&manifest);
    command.arg(&src).arg(&copy).expect(0);
    fs::write(to.backing().join("copy/7"), content(1, 5000, &[])).unwrap();
    let trees = [src.as_os_str(), copy.as_os_str()];
    let listed = [std::ffi::OsStr::new("--manifest"), manifest.as_os_str(), copy.as_os_str()];
    // Two seconds and a half: files of a manifest are read many at a time. An end at a full second would come
    // with an object of that second, in which all is done.
    for (words, delay) in [(&trees[..], 25), (&listed, 500)] {
        to.set(Profile::immediate().delay(Kind::Read, Duration::from_millis(delay)));
        let output = Command::new(env!("CARGO_BIN_EXE_longshore"))
            .args(["verify", "--threads", "2", "--progress", "json"])
            .args(words)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(String::from_utf8_lossy(&output.stdout).contains("content: 7: "), "{said}");
        let lines: Vec<serde_json::Value> =
            said.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let (done, ticks) = lines.split_last().unwrap();
        assert_eq!((&done["type"], &done["outcome"]), (&"done".into(), &"partial".into()));
        assert_eq!(done["files"], 200, "{said}");
        let number = |line: &serde_json::Value, key: &str| line[key].as_u64().unwrap();
        assert!(!ticks.is_empty(), "{said}");
        for (tick, next) in ticks.iter().zip(&lines[1..]) {
            assert_eq!(tick["type"], "progress", "{said}");
            let (files, bytes) = (number(tick, "files_done"), number(tick, "bytes_done"));
            assert!(files < 200 && bytes > 0 && bytes >= 5000 * files, "{said}");
            assert!(bytes <= number(tick, "bytes_found"), "{said}");
            assert!(next["type"] == "done" || number(next, "files_done") >= files, "{said}");
        }
        let last = ticks.last().unwrap();
        assert!(number(last, "failed") <= 1, "{said}");
        if words.len() == 3 {
            // A manifest says how much there is.
            let known = (&last["walk_done"], &last["files_found"], &last["bytes_found"]);
            assert_eq!(known, (&true.into(), &200.into(), &1_000_000.into()), "{said}");
        }
    }
}

/// Files that are there by size and time were found right when they got their time; they are not
/// read again.
#[test]
fn files_that_are_left_alone_are_not_read_back() {
    let scratch = Scratch::on_disk();
    let (src, copy) = (scratch.join("src"), scratch.join("copy"));
    make_source(&src);
    let verify = || Longshore::copy(Backend::Auto).args(["-T", "--update", "--verify"]);
    let run = verify().arg(&src).arg(&copy).expect(0);
    assert_eq!(run.count("/verify/files"), 55, "{}", run.describe());
    let run = verify().arg(&src).arg(&copy).expect(0);
    assert_eq!((run.count("/verify/files"), run.count("/files_skipped")), (0, 56));
}

/// What was found to be right before a kill is not copied again, and nothing else passes for right.
#[test]
fn a_copy_that_is_killed_while_it_verifies_goes_on() {
    for_each_backend(|backend| {
        let Some(scratch) = Scratch::new(Fs::Tmpfs) else { return };
        let src = scratch.join("src");
        let Some(to) = slow_to_read(&scratch, &src) else { return };
        read_slowly(&to);
        let (copy, manifest) = (to.path().join("copy"), scratch.join("manifest"));
        let verify = || {
            let command = Longshore::copy(backend).args(["--verify", "-T", "--threads", "2"]);
            command.arg("--manifest").arg(&manifest).arg(&src).arg(&copy)
        };
        let running = verify().start();
        wait_for_reads(&to);
        assert!(running.signal(Signal::SIGKILL));
        assert_eq!(running.wait().signal, Some(9));
        assert!(!manifest.exists(), "a manifest of half a copy");
        to.set(Profile::immediate());
        verify().expect(0);
        assert_same_tree(&src, &copy, Compare { holes: false, ..Compare::default() });
        let listed = Command::new(env!("CARGO_BIN_EXE_longshore"))
            .args(["verify", "--manifest"])
            .arg(&manifest)
            .stdout(Stdio::null())
            .status()
            .unwrap();
        assert_eq!(listed.code(), Some(0), "the manifest has not all of the copy");
    });
}

/// How a published file makes room for another one before it is read back.
#[derive(Debug, Clone, Copy)]
enum Swap {
    /// Another file is moved over it.
    Moved,
    /// It is removed, and another one is made: on ext4 with the same inode number.
    Made,
}

/// Whatever has the name by the time of reading back is somebody else's: it is neither taken for the
/// verified copy, even with its content, nor mended.
#[test]
fn a_file_that_took_the_place_of_a_published_one_is_noticed_and_left_alone() {
    for (fs, swap, same) in [
        (Fs::Tmpfs, Swap::Moved, true),
        (Fs::Tmpfs, Swap::Moved, false),
        (Fs::Ext4, Swap::Moved, true),
        (Fs::Ext4, Swap::Made, true),
        (Fs::Ext4, Swap::Made, false),
    ] {
        let Some(scratch) = Scratch::new(fs) else { continue };
        let case = format!("{fs:?} {swap:?}, same content: {same}");
        let (src, copy) = (scratch.join("src"), scratch.join("copy"));
        fs::create_dir(&src).unwrap();
        fs::create_dir(&copy).unwrap();
        let right = Rng::new(1).bytes(20_000);
        fs::write(src.join("first"), &right).unwrap();
        fs::write(src.join("second"), Rng::new(2).bytes(2 * MIB)).unwrap();
        // One after the other, and the second takes most of a second; the first is read back after it.
        let command = Longshore::copy(Backend::Auto).args(["--verify", "--threads", "1"]);
        let command = command.args(["--bandwidth-limit", "3MiB"]);
        let command = command.arg(src.join("first")).arg(src.join("second")).arg(&copy);
        let running = command.start();
        wait_for("the second file", Duration::from_secs(20), || {
            let names = fs::read_dir(&copy).unwrap().map(|entry| entry.unwrap().file_name());
            let aside = |name: &std::ffi::OsStr| {
                let name = name.to_string_lossy();
                name.starts_with(".longshore-") && !name.ends_with(".journal")
            };
            names.into_iter().any(|name| aside(&name))
        });
        let other = if same { right.clone() } else { Rng::new(3).bytes(right.len()) };
        let target = copy.join("first");
        let before = fs::metadata(&target).unwrap().ino();
        match swap {
            Swap::Moved => {
                fs::write(scratch.join("other"), &other).unwrap();
                fs::rename(scratch.join("other"), &target).unwrap();
            }
            Swap::Made => {
                fs::remove_file(&target).unwrap();
                fs::write(&target, &other).unwrap();
            }
        }
        let made = fs::metadata(&target).unwrap();
        eprintln!("{case}: inode {before}, then {}", made.ino());
        let run = running.wait();
        run.expect(1);
        fails_for_one_file(&run, &src.join("first"));
        assert_eq!(run.count("/verify/files"), 1, "{case}: {}", run.describe());
        assert_eq!(run.count("/verify/repaired_ranges"), 0, "{case}: {}", run.describe());
        assert!(fs::read(&target).unwrap() == other, "{case}: somebody else's file was changed");
        let now = fs::metadata(&target).unwrap();
        let times = |file: &fs::Metadata| (file.ino(), file.mtime(), file.mtime_nsec());
        assert_eq!(times(&now), times(&made), "{case}");
    }
}
