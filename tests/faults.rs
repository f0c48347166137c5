//! Real faults: permissions, sources that change, full and failing destinations. Everything that
//! is not reported as failed must be exact. Signals are `interruption.rs`, limits are `limits.rs`.
#![allow(clippy::unwrap_used, clippy::print_stderr, clippy::print_stdout, unreachable_pub)] // tests

mod support;

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use support::compare::assert_none;
use support::faulty_fs::{Direct, Faults, FaultyFs};
use support::scratch::Mount;
use support::tree::{chmod, give_to};
use support::{
    Backend, Compare, Fs, Longshore, NOBODY, Rng, Run, Scratch, Seed, assert_same_tree, diff_trees,
    for_each_backend, has_program, need_root, skip,
};

/// A scratch directory with a tree `src` of the given user's files.
fn source_of(uid: u32, fs: Fs) -> Option<Scratch> {
    let scratch = Scratch::new(fs)?;
    scratch.open_to_all();
    for dir in ["src", "src/sub", "src/closed", "src/closed/inner"] {
        fs::create_dir(scratch.join(dir)).unwrap();
    }
    for n in 0..30 {
        fs::write(scratch.join(format!("src/file-{n}")), format!("content {n}")).unwrap();
        fs::write(scratch.join(format!("src/sub/file-{n}")), vec![n; 9000]).unwrap();
    }
    fs::write(scratch.join("src/closed/inner/file"), "x").unwrap();
    give_to(&scratch.join("src"), uid);
    Some(scratch)
}

/// Fails unless every difference lies at or beneath a failed item.
#[track_caller]
fn only_blamed_differences(run: &Run, source: &Path, copy: &Path) {
    // a directory that lost an item keeps its own attributes or is blamed itself
    let differences = diff_trees(source, copy, Compare::default());
    let unexplained: Vec<_> =
        differences.into_iter().filter(|d| !run.blames(&source.join(&d.path))).collect();
    assert_none(&unexplained, &run.describe());
}

#[test]
fn an_unreadable_file_fails_alone_and_is_named() {
    if !need_root() {
        return;
    }
    let Some(scratch) = source_of(NOBODY, Fs::Ext4) else { return };
    chmod(&scratch.join("src/sub/file-7"), 0);
    for_each_backend(|backend| {
        let copy = scratch.join(format!("copy-{backend}"));
        let run =
            Longshore::copy(backend).user(NOBODY).arg(scratch.join("src")).arg(&copy).expect(1);
        assert_eq!(
            run.failed,
            [fs::canonicalize(scratch.join("src/sub/file-7")).unwrap()],
            "{}",
            run.describe()
        );
        run.says("file-7").says("permission denied");
        let failure = &run.report.as_ref().unwrap()["failures"][0];
        assert_eq!(
            (failure["kind"].as_str(), failure["errno"].as_str()),
            (Some("permission"), Some("EACCES"))
        );
        assert_eq!(run.count("/errors/permission"), 1);
        assert!(!copy.join("sub/file-7").exists(), "a file that failed must not exist");
        only_blamed_differences(&run, &scratch.join("src"), &copy);
    });
}

#[test]
fn an_unreadable_directory_fails_once_and_the_rest_is_exact() {
    if !need_root() {
        return;
    }
    let Some(scratch) = source_of(NOBODY, Fs::Ext4) else { return };
    chmod(&scratch.join("src/closed"), 0o300);
    for_each_backend(|backend| {
        let copy = scratch.join(format!("copy-{backend}"));
        let run =
            Longshore::copy(backend).user(NOBODY).arg(scratch.join("src")).arg(&copy).expect(1);
        assert_eq!(
            run.failed,
            [fs::canonicalize(scratch.join("src/closed")).unwrap()],
            "{}",
            run.describe()
        );
        only_blamed_differences(&run, &scratch.join("src"), &copy);
    });
}

#[test]
fn a_destination_directory_that_may_not_be_written_fails_its_items_only() {
    if !need_root() {
        return;
    }
    let Some(scratch) = source_of(NOBODY, Fs::Ext4) else { return };
    for_each_backend(|backend| {
        let copy = scratch.join(format!("copy-{backend}"));
        fs::create_dir_all(copy.join("sub")).unwrap(); // root's, and closed to others
        fs::set_permissions(&copy, std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
        let run = Longshore::copy(backend)
            .user(NOBODY)
            .arg("-T")
            .arg(scratch.join("src"))
            .arg(&copy)
            .expect(1);
        assert!(
            run.failed.iter().any(
                |path| path.ends_with("src/sub") || path.parent().unwrap().ends_with("src/sub")
            )
        );
        assert_eq!(fs::read_dir(copy.join("sub")).unwrap().count(), 0);
        let compare = Compare { top: false, owner: false, ..Compare::default() };
        let differences = diff_trees(&scratch.join("src"), &copy, compare);
        // The journal waits for the next run.
        let rest: Vec<_> = differences
            .into_iter()
            .filter(|d| !d.path.starts_with("sub") && !support::is_journal(&d.path))
            .collect();
        assert_none(&rest, &run.describe());
    });
}

/// The byte of file `n` at an offset: never zero, so that a hole or garbage is noticed.
fn stream(n: u64, length: usize) -> Vec<u8> {
    Rng::new(n).bytes(length).into_iter().map(|byte| byte | 1).collect()
}

/// Files only grow and shrink, so that everything ever seen of one is the start of one stream: a
/// copy that is not must have been reported.
#[test]
fn files_that_grow_shrink_and_vanish_are_copied_as_they_were_or_reported() {
    let seed = Seed::fresh();
    for fs in [Fs::Tmpfs, Fs::Ext4] {
        let Some(scratch) = Scratch::new(fs) else { continue };
        let src = scratch.join("src");
        fs::create_dir(&src).unwrap();
        let streams: Arc<Vec<Vec<u8>>> = Arc::new((0..120).map(|n| stream(n, 300_000)).collect());
        for (n, stream) in streams.iter().enumerate() {
            fs::write(src.join(n.to_string()), &stream[..100_000]).unwrap();
        }
        let stop = Arc::new(AtomicBool::new(false));
        let hammer = std::thread::spawn({
            let (stop, streams, src, mut rng) =
                (stop.clone(), streams.clone(), src.clone(), seed.rng());
            move || {
                while !stop.load(Relaxed) {
                    let n = usize::try_from(rng.below(120)).unwrap();
                    let (path, whole) = (src.join(n.to_string()), &streams[n]);
                    if rng.one_in(20) {
                        let _ = fs::remove_file(&path);
                        continue;
                    }
                    let file = File::options()
                        .write(true)
                        .create(true)
                        .truncate(false)
                        .open(&path)
                        .unwrap();
                    let length = usize::try_from(file.metadata().unwrap().len()).unwrap();
                    if rng.one_in(2) {
                        file.set_len(rng.below(100_000).min(u64::try_from(length).unwrap()))
                            .unwrap();
                    } else {
                        let end = (length + 40_000).min(whole.len());
                        file.write_all_at(&whole[length..end], u64::try_from(length).unwrap())
                            .unwrap();
                    }
                }
            }
        });
        for_each_backend(|backend| {
            let deadline = Instant::now() + Duration::from_millis(400);
            let mut round = 0;
            while round < 2 || Instant::now() < deadline {
                round += 1;
                let copy = scratch.join(format!("copy-{backend}-{round}"));
                let run = Longshore::copy(backend).arg(&src).arg(&copy).run();
                assert!(matches!(run.code, Some(0 | 1)), "{}", run.describe());
                for (n, whole) in streams.iter().enumerate() {
                    let Ok(content) = fs::read(copy.join(n.to_string())) else { continue };
                    let true_to_source = whole.starts_with(&content);
                    assert!(
                        true_to_source
                            || run.blames(&fs::canonicalize(&src).unwrap().join(n.to_string())),
                        "file {n} of {} bytes on {fs} is none that ever was, and not reported: {}",
                        content.len(),
                        run.describe()
                    );
                }
                let codes_agree = (run.code == Some(1)) != run.failed.is_empty();
                assert!(codes_agree, "exit code and failed list disagree: {}", run.describe());
                support::scratch::remove(&copy);
            }
        });
        stop.store(true, Relaxed);
        hammer.join().unwrap();
    }
}

/// Whether the kernel gives every observed change a new time (multigrain timestamps, 6.13).
fn has_multigrain_times() -> bool {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let mut numbers = release.split(['.', '-']).map(|part| part.parse::<u32>().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) >= (6, 13)
}

/// A file is rewritten block by block from the start, each block by one write with one value. What
/// it ever was: blocks of a new value, then blocks of the value before. XFS lets no read see half
/// of a write, so a copy in any other order was put together from two times.
#[test]
fn a_file_rewritten_meanwhile_is_a_state_that_it_had_or_reported() {
    const BLOCK: usize = 65_536;
    if !has_multigrain_times() {
        skip("this kernel's file times are too coarse to see every change");
        return;
    }
    let Some(scratch) = Scratch::new(Fs::Xfs) else { return };
    fs::create_dir(scratch.join("src")).unwrap();
    for n in 0..8 {
        fs::write(scratch.join(format!("src/{n}")), vec![1; 16 * BLOCK]).unwrap();
    }
    let stop = Arc::new(AtomicBool::new(false));
    let hammer = std::thread::spawn({
        let (stop, src) = (stop.clone(), scratch.join("src"));
        move || {
            let files: Vec<File> = (0..8)
                .map(|n| File::options().write(true).open(src.join(n.to_string())).unwrap())
                .collect();
            let mut value = 1_u8;
            while !stop.load(Relaxed) {
                value = value % 250 + 1;
                for file in &files {
                    for block in 0..16 {
                        file.write_all_at(&vec![value; BLOCK], block * 65_536).unwrap();
                    }
                }
            }
        }
    });
    for_each_backend(|backend| {
        for round in 0..6 {
            let copy = scratch.join(format!("copy-{backend}-{round}"));
            let run = Longshore::copy(backend).arg(scratch.join("src")).arg(&copy).run();
            assert!(matches!(run.code, Some(0 | 1)), "{}", run.describe());
            for n in 0..8 {
                let name = n.to_string();
                let Ok(content) = fs::read(copy.join(&name)) else { continue };
                if run.blames(&fs::canonicalize(scratch.join("src")).unwrap().join(&name)) {
                    continue;
                }
                let values: Vec<u8> = content.chunks(BLOCK).map(|block| block[0]).collect();
                let whole =
                    content.chunks(BLOCK).all(|block| block.iter().all(|byte| *byte == block[0]));
                let newer = values[0];
                let older = if newer == 1 { 250 } else { newer - 1 };
                let turn = values.iter().position(|value| *value != newer).unwrap_or(values.len());
                // before the first round all is 1, and 1 is followed by 2
                let was_so = whole && values[turn..].iter().all(|value| *value == older);
                assert!(
                    was_so,
                    "file {n} is put together from two times, unreported: {values:?} {}",
                    run.describe()
                );
            }
            support::scratch::remove(&copy);
        }
    });
    stop.store(true, Relaxed);
    hammer.join().unwrap();
}

/// A program that writes into a file and sets its time back, as some that patch files do, leaves nothing but the
/// change time to tell.
#[test]
fn a_file_that_was_written_to_and_had_its_time_set_back_is_read_again() {
    const BYTES: usize = 6 << 20;
    for fs in [Fs::Tmpfs, Fs::Ext4] {
        let Some(scratch) = Scratch::new(fs) else { continue };
        let source = scratch.join("source");
        fs::write(&source, vec![1; BYTES]).unwrap();
        for_each_backend(|backend| {
            let place = scratch.join(format!("{backend}"));
            fs::create_dir(&place).unwrap();
            let copy = place.join("copy");
            let running = Longshore::copy(backend)
                .args(["--bandwidth-limit", "12M", "--journal", "none"])
                .args([&source, &copy])
                .start();
            // Some of it is read already.
            while fs::read_dir(&place)
                .unwrap()
                .all(|entry| entry.unwrap().metadata().map_or(0, |metadata| metadata.blocks()) == 0)
            {
                std::thread::sleep(Duration::from_millis(1));
            }
            let file = File::options().write(true).open(&source).unwrap();
            let modified = file.metadata().unwrap().modified().unwrap();
            file.write_all_at(&[2; 5000], 0).unwrap();
            file.write_all_at(&[2; 5000], BYTES as u64 - 5000).unwrap();
            file.set_modified(modified).unwrap();
            assert!(!copy.exists(), "it was over before anything was changed");
            running.wait().expect(0);
            assert!(fs::read(&copy).unwrap() == fs::read(&source).unwrap(), "{backend} on {fs}");
        });
    }
}

/// Whatever has its final name is complete; nothing else lies around.
#[track_caller]
fn nothing_half_done(run: &Run, source: &Path, copy: &Path) {
    let compare = Compare {
        mode: false,
        owner: false,
        mtime: false,
        xattrs: false,
        links: false,
        ..Compare::default()
    };
    let differences = diff_trees(source, copy, compare);
    let half: Vec<_> = differences.into_iter().filter(|d| d.what != "missing").collect();
    assert_none(&half, &run.describe());
}

#[test]
fn a_full_destination_stops_the_copy_and_the_same_command_goes_on_later() {
    if !need_root() {
        return;
    }
    let Some(source) = Scratch::new(Fs::Tmpfs) else { return };
    fs::create_dir(source.join("src")).unwrap();
    let mut rng = Rng::new(4);
    for n in 0..150 {
        fs::write(source.join(format!("src/{n}")), rng.bytes(200_000)).unwrap();
    }
    fs::write(source.join("src/large"), rng.bytes(9_000_000)).unwrap();
    for_each_backend(|backend| {
        let mkfs = ["mkfs.ext4", "-q", "-F", "-I", "256", "-m", "0"];
        let mount = match Mount::image_of(&mkfs, 64 << 20, "acl") {
            Ok(mount) => Arc::new(mount),
            Err(reason) => return skip(&reason),
        };
        let target = Scratch::in_mount(mount, Fs::Ext4);
        fs::write(target.join("ballast"), rng.bytes(40 << 20)).unwrap();
        let copy = target.join("copy");
        let run =
            Longshore::copy(backend).arg("--update").arg(source.join("src")).arg(&copy).expect(3);
        run.says("space");
        let report = run.report.as_ref().unwrap();
        assert_eq!(report["outcome"], "fatal");
        assert!(report["stopped_by"].is_string(), "{report:#}");
        nothing_half_done(&run, &source.join("src"), &copy);
        fs::remove_file(target.join("ballast")).unwrap();
        let again = Longshore::copy(backend)
            .args(["--update", "-T"])
            .arg(source.join("src"))
            .arg(&copy)
            .expect(0);
        assert!(
            again.count("/files_skipped") > 0,
            "finished work was done again: {}",
            again.describe()
        );
        assert_same_tree(&source.join("src"), &copy, Compare::default());
    });
}

#[test]
fn a_full_table_of_inodes_is_named_as_such() {
    if !need_root() {
        return;
    }
    let Some(source) = Scratch::new(Fs::Tmpfs) else { return };
    fs::create_dir(source.join("src")).unwrap();
    for n in 0..1000 {
        fs::write(source.join(format!("src/{n}")), "x").unwrap();
    }
    for_each_backend(|backend| {
        let mkfs = ["mkfs.ext4", "-q", "-F", "-I", "256", "-N", "128"];
        let mount = match Mount::image_of(&mkfs, 32 << 20, "acl") {
            Ok(mount) => Arc::new(mount),
            Err(reason) => return skip(&reason),
        };
        let target = Scratch::in_mount(mount, Fs::Ext4);
        let run =
            Longshore::copy(backend).arg(source.join("src")).arg(target.join("copy")).expect(3);
        run.says("inode");
        nothing_half_done(&run, &source.join("src"), &target.join("copy"));
    });
}

#[test]
fn a_used_up_quota_stops_the_copy_and_is_named() {
    if !need_root() || !has_program("setquota") {
        return;
    }
    let Some(source) = Scratch::new(Fs::Tmpfs) else { return };
    source.open_to_all();
    fs::create_dir(source.join("src")).unwrap();
    for n in 0..60 {
        fs::write(source.join(format!("src/{n}")), vec![n; 200_000]).unwrap();
    }
    for_each_backend(|backend| {
        let mkfs = ["mkfs.ext4", "-q", "-F", "-I", "256", "-O", "quota"];
        let mount = match Mount::image_of(&mkfs, 64 << 20, "usrquota") {
            Ok(mount) => Arc::new(mount),
            Err(reason) => {
                eprintln!("{reason}");
                return skip("this kernel mounts no ext4 with quotas");
            }
        };
        let mut setquota = Command::new("setquota");
        setquota.args(["-u", &NOBODY.to_string(), "4000", "4000", "0", "0"]).arg(mount.path());
        if let Err(reason) = support::scratch::run(&mut setquota) {
            eprintln!("{reason}");
            return skip("setquota cannot set a quota here");
        }
        let target = Scratch::in_mount(mount, Fs::Ext4);
        target.open_to_all();
        let copy = target.join("copy");
        let run =
            Longshore::copy(backend).user(NOBODY).arg(source.join("src")).arg(&copy).expect(3);
        run.says("quota");
        nothing_half_done(&run, &source.join("src"), &copy);
    });
}

#[test]
fn a_read_only_destination_is_refused() {
    if !need_root() {
        return;
    }
    let Some(source) = source_of(0, Fs::Tmpfs) else { return };
    let Ok(mount) = Mount::tmpfs("size=16m,mode=755").map(Arc::new) else { return };
    let target = Scratch::in_mount(mount, Fs::Tmpfs);
    fs::create_dir(target.join("existing")).unwrap();
    target.mount().remount("ro");
    for_each_backend(|backend| {
        for name in ["new", "existing"] {
            let run =
                Longshore::copy(backend).arg(source.join("src")).arg(target.join(name)).expect(2);
            run.says("read-only");
        }
    });
    target.mount().remount("rw");
}

fn numbered(start: &[u8], length: usize) -> Vec<u8> {
    let mut content = start.to_vec();
    content.resize(length, b'.');
    content
}

#[test]
fn a_read_error_in_the_middle_of_a_file_fails_that_file_alone() {
    for_each_backend(|backend| {
        let Some(scratch) = Scratch::new(Fs::Tmpfs) else { return };
        let files = [
            ("src/good", numbered(b"good", 50_000)),
            ("src/sub/bad", numbered(b"bad", 3_000_000)),
            ("src/sub/bad-at-once", numbered(b"bad", 900)),
            ("src/sub/good", numbered(b"good", 3_000_000)),
        ];
        let read = vec![("bad".into(), 2_000_000, libc::EIO), ("bad-at-once".into(), 0, libc::EIO)];
        let Some(faulty) = FaultyFs::mount(&scratch, &files, Faults { read, ..Faults::default() })
        else {
            return;
        };
        let (source, copy) = (faulty.path().join("src"), scratch.join("copy"));
        let run = Longshore::copy(backend).arg(&source).arg(&copy).expect(1);
        let mut failed: Vec<_> =
            run.failed.iter().filter_map(|path| path.file_name()?.to_str()).collect();
        failed.sort_unstable();
        assert_eq!(failed, ["bad", "bad-at-once"], "{}", run.describe());
        assert_eq!(run.count("/errors/io"), 2, "{}", run.describe());
        assert!(!copy.join("sub/bad").exists() && !copy.join("sub/bad-at-once").exists());
        assert_eq!(fs::read(copy.join("sub/good")).unwrap(), files[3].1);
        assert_eq!(fs::read(copy.join("good")).unwrap(), files[0].1);
    });
}

/// FUSE lets every file have O_DIRECT; its server may think otherwise of the requests.
#[test]
fn a_server_that_takes_no_direct_requests_is_asked_as_ever() {
    for refused in [Direct::All, Direct::Writes] {
        for backend in [Backend::Auto, Backend::Threads] {
            let Some(scratch) = Scratch::new(Fs::Tmpfs) else { return };
            let content = Rng::new(9).bytes((40 << 20) + 77);
            let files = [("src/large", content.clone())];
            let faults = Faults { direct: Some(refused), ..Faults::default() };
            let Some(faulty) = FaultyFs::mount(&scratch, &files, faults) else { return };
            let (from, to) = (faulty.path().join("src"), faulty.path().join("copy"));
            let manifest = scratch.join("manifest");
            let run = Longshore::copy(backend).args(["-T", "--verify", "--manifest"]);
            let run = run.args([&manifest, &from, &to]).expect(0);
            assert!(fs::read(to.join("large")).unwrap() == content, "{}", run.describe());
        }
    }
}

#[test]
fn an_error_while_a_directory_is_read_is_reported_and_protects_its_twin() {
    for_each_backend(|backend| {
        let Some(scratch) = Scratch::new(Fs::Tmpfs) else { return };
        let files = [("src/a", b"a".to_vec()), ("src/sub/b", b"b".to_vec())];
        let faults = Faults { list: vec![("sub".into(), libc::EIO)], ..Faults::default() };
        let Some(faulty) = FaultyFs::mount(&scratch, &files, faults) else { return };
        fs::create_dir_all(scratch.join("copy/sub")).unwrap();
        fs::write(scratch.join("copy/sub/b"), "earlier").unwrap();
        let run = Longshore::copy(backend)
            .args(["--delete", "-T"])
            .arg(faulty.path().join("src"))
            .arg(scratch.join("copy"));
        let run = run.expect(1);
        assert_eq!(fs::read(scratch.join("copy/sub/b")).unwrap(), b"earlier", "{}", run.describe());
        assert_eq!(fs::read(scratch.join("copy/a")).unwrap(), b"a");
        assert!(run.failed.iter().any(|path| path.ends_with("src/sub")), "{}", run.describe());
    });
}

#[test]
fn errors_of_writing_are_reported_by_what_they_mean() {
    // errno, exit code, kind in the report
    let table = [
        (libc::EIO, 1, "io"),
        (libc::ENOSPC, 3, "no-space"),
        (libc::EDQUOT, 3, "quota"),
        (libc::EROFS, 3, "read-only"),
    ];
    for (errno, code, kind) in table {
        for_each_backend(|backend| {
            for at_close in [false, true] {
                let Some(scratch) = Scratch::new(Fs::Tmpfs) else { return };
                let fault = vec![(b"POISON".to_vec(), errno)];
                let (write, close) =
                    if at_close { (Vec::new(), fault) } else { (fault, Vec::new()) };
                let Some(faulty) =
                    FaultyFs::mount(&scratch, &[], Faults { write, close, ..Faults::default() })
                else {
                    return;
                };
                fs::create_dir(scratch.join("src")).unwrap();
                for n in 0..5 {
                    fs::write(scratch.join(format!("src/good-{n}")), numbered(b"good", 10_000))
                        .unwrap();
                }
                fs::write(scratch.join("src/bad"), numbered(b"POISON", 10_000)).unwrap();
                let copy = faulty.path().join("copy");
                let run = Longshore::copy(backend).arg(scratch.join("src")).arg(&copy).expect(code);
                let context =
                    format!("{} at_close={at_close} {}", Errno::from_raw(errno), run.describe());
                assert_eq!(run.count(&format!("/errors/{kind}")), 1, "{context}");
                assert!(
                    run.blames(&fs::canonicalize(scratch.join("src/bad")).unwrap()),
                    "{context}"
                );
                assert!(!copy.join("bad").exists(), "{context}");
                if code == 1 {
                    for n in 0..5 {
                        assert_eq!(
                            fs::read(copy.join(format!("good-{n}"))).unwrap(),
                            numbered(b"good", 10_000),
                            "{context}"
                        );
                    }
                }
            }
        });
    }
}

/// On a destination that does not tell upper from lower case two files would become one, and one of them be lost.
#[test]
fn names_that_are_one_at_the_destination_are_told_and_nothing_is_lost() {
    let scratch = Scratch::on_disk();
    let source = scratch.join("src");
    for (path, bytes) in [
        ("README", 10),
        ("readme", 20),
        ("LARGE", 3 << 20),
        ("large", (3 << 20) + 5),
        ("Dir/one", 3),
        ("dir/two", 4),
        ("other", 5),
    ] {
        fs::create_dir_all(source.join(path).parent().unwrap()).unwrap();
        fs::write(source.join(path), vec![b'x'; bytes]).unwrap();
    }
    for_each_backend(|backend| {
        let (faults, place) = (Faults { folds: true, ..Faults::default() }, Scratch::on_disk());
        let Some(folding) = FaultyFs::mount(&place, &[], faults) else { return };
        let copy = folding.path().join("copy");
        let run = Longshore::copy(backend).args([&source, &copy]).expect(1);
        assert_eq!(run.count("/errors/name-folded"), 3, "{}", run.describe());
        let names =
            ["README", "readme", "LARGE", "large", "Dir", "dir"].map(|name| source.join(name));
        let failed = |name: &PathBuf| run.failed.contains(&fs::canonicalize(name).unwrap());
        for pair in names.chunks(2) {
            let [lost, kept] = if failed(&pair[0]) { [0, 1] } else { [1, 0] };
            assert!(failed(&pair[lost]) && !failed(&pair[kept]), "{}", run.describe());
            let kept = &pair[kept];
            let there = copy.join(kept.file_name().unwrap());
            if kept.is_file() {
                assert_eq!(fs::read(there).unwrap(), fs::read(kept).unwrap(), "{}", run.describe());
            } else {
                assert_same_tree(kept, &there, Compare::default());
            }
        }
        assert!(copy.join("other").exists());
    });
}

/// Where times are taken from the kernel's clock tick by tick, a file that is written to all the time can have the same
/// times before and after it was read.
#[test]
fn a_file_that_is_written_to_all_the_time_is_never_copied_as_a_mixture() {
    const PAGES: usize = 220;
    const PAGE: usize = 4096;
    struct Memory(PathBuf);
    impl Drop for Memory {
        fn drop(&mut self) {
            let _ = nix::mount::umount2(&self.0, nix::mount::MntFlags::MNT_DETACH);
        }
    }
    if !need_root() {
        return;
    }
    let scratch = Scratch::on_disk();
    let memory = Memory(scratch.join("ramfs"));
    fs::create_dir(&memory.0).unwrap();
    let (flags, no) = (nix::mount::MsFlags::empty(), None::<&str>);
    nix::mount::mount(Some("none"), &memory.0, Some("ramfs"), flags, no).unwrap();
    let (source, copy) = (memory.0.join("file"), scratch.join("copy"));
    fs::write(&source, vec![0; PAGES * PAGE]).unwrap();
    // Page by page, from both ends in turn: in a copy of one moment the numbers in this order do not rise.
    let order: Vec<usize> = (0..PAGES / 2).flat_map(|n| [n, PAGES - 1 - n]).collect();
    let stop = Arc::new(AtomicBool::new(false));
    let writer = std::thread::spawn({
        let (stop, order) = (stop.clone(), order.clone());
        let file = File::options().write(true).open(&source).unwrap();
        move || {
            for pass in (1_u64..).take_while(|_| !stop.load(Relaxed)) {
                for page in &order {
                    file.write_all_at(&pass.to_le_bytes(), (page * PAGE) as u64).unwrap();
                }
            }
        }
    });
    for_each_backend(|backend| {
        for _ in 0..8 {
            let run = Longshore::copy(backend).arg(&source).arg(&copy).run();
            if run.code == Some(1) {
                assert_eq!(run.count("/errors/source-changed"), 1, "{}", run.describe());
            } else {
                run.expect(0);
                let bytes = fs::read(&copy).unwrap();
                let pass =
                    |page: &usize| u64::from_le_bytes(*bytes[page * PAGE..].first_chunk().unwrap());
                let passes: Vec<u64> = order.iter().map(pass).collect();
                assert!(passes.is_sorted_by(|one, next| one >= next), "{}", run.describe());
            }
            let _ = fs::remove_file(&copy);
        }
    });
    stop.store(true, Relaxed);
    writer.join().unwrap();
}
