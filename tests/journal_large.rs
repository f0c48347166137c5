//! The journal of large files: one that is killed goes on at its finished ranges, unless it, its source or its unfinished
//! copy is another one by now. Everything else about journals is `journal.rs`.
#![allow(clippy::unwrap_used, clippy::print_stderr, clippy::print_stdout, unreachable_pub)] // tests

mod support;

use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::time::Duration;

use nix::sys::signal::Signal;
use support::flipping_disk::FlippingDisk;
use support::journals::{
    copy, entries, journals, kill_when, kill_within_large, large, settle, temporary, the_journal,
};
use support::tree::set_times;
use support::{Backend, Compare, Fs, Rng, Scratch, assert_same_tree, for_each_backend, wait_for};

#[test]
fn a_large_file_goes_on_where_it_was_killed_or_cancelled() {
    for_each_backend(|backend| {
        for signal in [Signal::SIGKILL, Signal::SIGTERM] {
            let Some(scratch) = Scratch::new(Fs::Tmpfs) else { return };
            let (source, file, target) = large(&scratch, backend);
            let mut running = copy(backend, &source, &target).start();
            wait_for("part of the file", Duration::from_secs(30), || {
                let written = temporary(&target).and_then(|path| fs::metadata(path).ok());
                written.is_some_and(|file| file.blocks() * 512 > 60 << 20) || running.ended()
            });
            running.signal(signal);
            let stopped = running.wait();
            if signal == Signal::SIGTERM {
                stopped.expect(143);
                assert_eq!(stopped.report.as_ref().unwrap()["go_on_with"], "");
            }
            let run = copy(backend, &source, &target).arg("--resume").expect(0);
            let size = fs::metadata(&file).unwrap().len();
            let ranges = run.count("/resumed/ranges");
            assert!(ranges > 30 << 20, "{signal}: {}", run.describe());
            assert_eq!(ranges + run.count("/copied/bytes_moved"), size, "{}", run.describe());
            assert_same_tree(&source, &target, Compare::default());
        }
    });
}

/// Another copy took the place of an unfinished file and was killed, too. Where files have no time of birth they are told by
/// their inode's number alone, which must not be given away again that soon.
#[test]
fn the_unfinished_file_of_another_copy_is_not_gone_on_with() {
    const BYTES: usize = 40 << 20;
    let scratch = Scratch::on_disk();
    let mkfs = ["mkfs.ext4", "-q", "-F", "-I", "128"];
    let Some(disk) = FlippingDisk::new(&scratch, &mkfs, 256 << 20) else { return };
    let [one, two] = [1, 2].map(|seed| {
        let source = scratch.join(format!("source-{seed}"));
        fs::write(&source, Rng::new(seed).bytes(BYTES)).unwrap();
        settle(&source);
        source
    });
    for_each_backend(|backend| {
        let target = disk.path().join(format!("copy-{backend}"));
        let of = |source: &Path| copy(backend, source, &target).arg("-T");
        let mut last = None;
        for source in [&one, &two] {
            let slow = of(source).args(["--bandwidth-limit", "10M"]);
            kill_when(slow, "part of the file", || {
                let file = temporary(disk.path()).and_then(|path| fs::metadata(path).ok());
                file.is_some_and(|file| Some(file.ino()) != last && file.blocks() * 512 > 8 << 20)
            });
            last = temporary(disk.path()).map(|path| fs::metadata(path).unwrap().ino());
        }
        let run = of(&one).expect(0);
        assert!(fs::read(&target).unwrap() == fs::read(&one).unwrap(), "{}", run.describe());
        of(&two).expect(0);
        assert!(fs::read(&target).unwrap() == fs::read(&two).unwrap());
    });
}

#[test]
fn a_large_file_that_changed_meanwhile_on_either_side_starts_anew() {
    for_each_backend(|backend| {
        for case in 0..5 {
            let Some(scratch) = Scratch::new(Fs::Tmpfs) else { return };
            let (source, file, target) = large(&scratch, backend);
            kill_within_large(copy(backend, &source, &target), &target);
            let aside = temporary(&target).unwrap();
            match case {
                // The source: content with size and time kept; small by now; gone.
                0 => {
                    let time = fs::metadata(&file).unwrap();
                    let open = fs::File::options().write(true).open(&file).unwrap();
                    open.write_all_at(&[0; 100], 1000).unwrap();
                    set_times(&file, time.mtime(), time.mtime_nsec());
                }
                1 => fs::write(&file, "small").unwrap(),
                2 => fs::remove_file(&file).unwrap(),
                // The temporary file: gone; another one of the same length.
                3 => fs::remove_file(&aside).unwrap(),
                _ => {
                    let length = fs::metadata(&aside).unwrap().len();
                    fs::remove_file(&aside).unwrap();
                    fs::File::create(&aside).unwrap().set_len(length).unwrap();
                }
            }
            let run = copy(backend, &source, &target).expect(0);
            assert_eq!(run.count("/resumed/ranges"), 0, "case {case}: {}", run.describe());
            assert_same_tree(&source, &target, Compare::default());
        }
    });
}

/// O_DIRECT writes the last block whole. A temporary file that was gone on with although nothing was
/// known of what is written in it kept those bytes.
#[test]
fn a_temporary_file_that_is_too_long_is_cut() {
    for_each_backend(|backend| {
        let Some(scratch) = Scratch::new(Fs::Tmpfs) else { return };
        let (source, file, target) = large(&scratch, backend);
        kill_within_large(copy(backend, &source, &target), &target);
        let aside = fs::File::options().write(true).open(temporary(&target).unwrap()).unwrap();
        aside.set_len(fs::metadata(&file).unwrap().len() + 3996).unwrap();
        // Wipe out the ranges (docs/journal.md: kind 5).
        let journal = the_journal(scratch.path());
        let mut bytes = fs::read(&journal).unwrap();
        let mut wiped = 0;
        for block in bytes[65536..].chunks_mut(65536) {
            for entry in block.chunks_exact_mut(48).filter(|entry| entry[8] == 5) {
                entry.fill(0);
                wiped += 1;
            }
        }
        assert!(wiped > 0, "no ranges in the journal");
        fs::write(&journal, &bytes).unwrap();
        let run = copy(backend, &source, &target).expect(0);
        assert_eq!(run.count("/resumed/ranges"), 0, "{}", run.describe());
        assert_same_tree(&source, &target, Compare::default());
    });
}

/// A copy of one file has nothing to note before its second chunk, and no journal until then; a large
/// one goes on like any other.
#[test]
fn one_file_has_a_journal_once_there_is_something_to_note() {
    for_each_backend(|backend| {
        let Some(scratch) = Scratch::new(Fs::Tmpfs) else { return };
        let (_, file, _) = large(&scratch, backend);
        let dir = scratch.join("dir");
        fs::create_dir(&dir).unwrap();
        let target = dir.join("copy");
        kill_within_large(copy(backend, &file, &target), &dir);
        the_journal(&dir);
        let run = copy(backend, &file, &target).arg("--resume").expect(0);
        assert!(run.count("/resumed/ranges") > 40 << 20, "{}", run.describe());
        assert!(fs::read(&file).unwrap() == fs::read(&target).unwrap());
        assert_eq!(entries(&dir), 1, "{}", run.describe());
    });
    // A pause of 20 s would come before the small file's only piece, so that the kill comes in between.
    let Some(scratch) = Scratch::new(Fs::Tmpfs) else { return };
    let (file, dir) = (scratch.join("file"), scratch.join("dir"));
    fs::write(&file, Rng::new(5).bytes(1 << 20)).unwrap();
    fs::create_dir(&dir).unwrap();
    let command = || copy(Backend::Auto, &file, &dir.join("copy"));
    let slow = command().args(["--bandwidth-limit", "50K"]);
    kill_when(slow, "the file", || entries(&dir) > 0);
    assert!(journals(&dir).is_empty(), "a journal that has nothing to note");
    command().arg("--resume").expect(2).says("no journal of this copy");
    command().expect(0);
    assert!(fs::read(&file).unwrap() == fs::read(dir.join("copy")).unwrap());
    assert_eq!(entries(&dir), 1);
}

#[test]
fn two_kills_in_one_large_file_lose_nothing_and_mix_up_nothing() {
    for_each_backend(|backend| {
        let Some(scratch) = Scratch::new(Fs::Tmpfs) else { return };
        let (source, file, target) = large(&scratch, backend);
        kill_within_large(copy(backend, &source, &target), &target);
        // Changed in between: what the first run wrote must not be taken for the second one's.
        fs::write(&file, Rng::new(9).bytes(16 << 20).repeat(24)).unwrap();
        settle(&file);
        kill_within_large(copy(backend, &source, &target), &target);
        let run = copy(backend, &source, &target).expect(0);
        assert_same_tree(&source, &target, Compare::default());
        assert!(temporary(&target).is_none(), "{}", run.describe());
    });
}
