//! Others at the destination meanwhile, two copies into the same place above all: each file there is one of theirs, complete,
//! and whoever lost one, or the place itself, says so.
#![allow(clippy::unwrap_used, clippy::print_stderr, clippy::print_stdout, unreachable_pub)] // tests

mod support;

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use nix::sys::signal::Signal;
use nix::sys::stat::Mode;
use support::faulty_fs::{Faults, FaultyFs};
use support::latency_fs::{Kind, LatencyFs, Profile};
use support::{Fs, Longshore, Rng, Scratch, for_each_backend, wait_for};

/// What a copy has, told from that of others by `seed`.
fn content(seed: u64, length: usize) -> Vec<u8> {
    Rng::new(seed).bytes(length)
}

/// The unfinished file of the first one is gone when the second one begins: it says so, and leaves alone what the
/// second one writes under that name.
#[test]
fn of_two_copies_into_one_name_the_second_wins_and_the_first_says_why() {
    const BYTES: usize = 6 << 20;
    let Some(scratch) = Scratch::new(Fs::Tmpfs) else { return };
    for name in ["first", "second"] {
        fs::write(scratch.join(name), content(name.len() as u64, BYTES)).unwrap();
    }
    for_each_backend(|backend| {
        let place = scratch.join(format!("{backend}"));
        fs::create_dir(&place).unwrap();
        let copy = |name: &str| {
            Longshore::copy(backend)
                .args(["--bandwidth-limit", "3M", "--journal", "none", "-T"])
                .args([scratch.join(name), place.join("copy")])
                .start()
        };
        let temporary = || {
            let mut entries = fs::read_dir(&place).unwrap().map(|entry| entry.unwrap());
            entries.find_map(|entry| {
                let metadata = entry.metadata().ok()?;
                (metadata.blocks() > 0).then_some(metadata.ino())
            })
        };
        let first = copy("first");
        wait_for("the first to write", Duration::from_secs(20), || temporary().is_some());
        let of_first = temporary().unwrap();
        let second = copy("second");
        wait_for("the second to write", Duration::from_secs(20), || {
            temporary().is_some_and(|inode| inode != of_first)
        });
        let first = first.wait();
        second.wait().expect(0);
        first.expect(1);
        let kind = first.report.as_ref().unwrap().pointer("/failures/0/kind");
        assert_eq!(kind.and_then(|kind| kind.as_str()), Some("contended"), "{}", first.describe());
        assert!(fs::read(place.join("copy")).unwrap() == content(6, BYTES), "{}", first.describe());
        assert_eq!(fs::read_dir(&place).unwrap().count(), 1);
    });
}

/// A copy that ends early removes its own unfinished file, and not the one that another copy has under that name
/// by now: the temporary one, or the final one when it is complete.
#[test]
fn a_copy_that_ends_early_leaves_alone_what_another_one_wrote_under_its_name() {
    const LARGE: usize = 6 << 20;
    const SMALL: usize = 900_000;
    for_each_backend(|backend| {
        let Some(scratch) = Scratch::new(Fs::Tmpfs) else { return };
        fs::write(scratch.join("large"), content(1, LARGE)).unwrap();
        fs::write(scratch.join("small"), content(2, SMALL)).unwrap();
        let files = [("small", content(3, SMALL))];
        let read = vec![("small".into(), 0, libc::EIO)];
        let Some(faulty) = FaultyFs::mount(&scratch, &files, Faults { read, ..Faults::default() })
        else {
            return;
        };
        let copy = |limit: &str, from: &Path, to: &Path| {
            Longshore::copy(backend)
                .args(["--bandwidth-limit", limit, "--journal", "none", "-T"])
                .args([from, to])
                .start()
        };
        let place = scratch.join("place");
        fs::create_dir(&place).unwrap();
        let found = || {
            let entry = fs::read_dir(&place).unwrap().next()?.unwrap();
            entry.metadata().ok().map(|metadata| metadata.ino())
        };

        // Under the temporary name.
        let large = [scratch.join("large"), place.join("large")];
        let first = copy("3M", &large[0], &large[1]);
        wait_for("the first to write", Duration::from_secs(20), || found().is_some());
        let of_first = found();
        let second = copy("3M", &large[0], &large[1]);
        wait_for("the second to write", Duration::from_secs(20), || {
            found().is_some_and(|inode| Some(inode) != of_first)
        });
        assert!(first.signal(Signal::SIGINT), "it ended before it was interrupted");
        first.wait().expect(130);
        let second = second.wait();
        second.expect(0);
        assert!(fs::read(&large[1]).unwrap() == content(1, LARGE), "{}", second.describe());
        fs::remove_file(&large[1]).unwrap();

        // Under the final name: made at once by the first, which waits for its turn to read.
        let small = place.join("small");
        let first = copy("300K", &faulty.path().join("small"), &small);
        wait_for("the first to make its file", Duration::from_secs(20), || small.exists());
        copy("100M", &scratch.join("small"), &small).wait().expect(0);
        let first = first.wait();
        first.expect(1);
        assert_eq!(first.count("/errors/io"), 1, "{}", first.describe());
        let kept = fs::read(&small).expect("what the second one wrote is there");
        assert!(kept == content(2, SMALL), "{}", first.describe());
        assert_eq!(fs::read_dir(&place).unwrap().count(), 1);
    });
}

/// The first name of two is replaced by another copy before the second one is linked to it.
#[test]
fn a_further_name_is_not_linked_to_what_another_copy_put_under_the_first_one() {
    let Some(scratch) = Scratch::new(Fs::Tmpfs) else { return };
    let source = scratch.join("src");
    fs::create_dir(&source).unwrap();
    fs::write(source.join("a"), "of the first copy").unwrap();
    fs::hard_link(source.join("a"), source.join("b")).unwrap();
    fs::write(scratch.join("other"), "of the second copy").unwrap();
    for_each_backend(|backend| {
        let place = scratch.join(format!("{backend}"));
        // The directory, one name, a second later the other.
        let first = Longshore::copy(backend)
            .args(["--ops-limit", "1", "--journal", "none", "-T"])
            .args([&source, &place])
            .start();
        let found = || fs::read_dir(&place).ok()?.next()?.ok().map(|entry| entry.path());
        wait_for("the first name", Duration::from_secs(20), || {
            found().is_some_and(|path| fs::read(path).unwrap() == b"of the first copy")
        });
        let name = found().unwrap();
        Longshore::copy(backend).arg("-T").args([&scratch.join("other"), &name]).expect(0);
        let first = first.wait();
        first.expect(1);
        let kind = first.report.as_ref().unwrap().pointer("/failures/0/kind");
        assert_eq!(kind.and_then(|kind| kind.as_str()), Some("contended"), "{}", first.describe());
        assert_eq!(fs::read(&name).unwrap(), b"of the second copy");
        assert_eq!(fs::read_dir(&place).unwrap().count(), 1, "{}", first.describe());
    });
}

/// A link or special file is replaced between its making and its attributes: they go to what was made, whatever has
/// its name by then.
#[test]
fn attributes_of_links_and_special_files_never_land_on_what_took_their_name() {
    for_each_backend(|backend| {
        let Some(scratch) = Scratch::new(Fs::Tmpfs) else { return };
        let slow = Profile::immediate().delay(Kind::Getxattr, Duration::from_millis(1500));
        let Some(from) = LatencyFs::new(&scratch, "from", slow) else { return };
        for item in ["fifo", "link"] {
            let source = from.backing().join(format!("src-{item}"));
            fs::create_dir(&source).unwrap();
            if item == "fifo" {
                nix::unistd::mkfifo(&source.join(item), Mode::from_bits_truncate(0o777)).unwrap();
            } else {
                std::os::unix::fs::symlink("somewhere", source.join(item)).unwrap();
            }
            std::os::unix::fs::lchown(source.join(item), Some(1234), Some(1234)).unwrap();
            let place = scratch.join(format!("copy-{item}"));
            let copy = Longshore::copy(backend).args(["--journal", "none", "-T"]);
            let from = from.path().join(format!("src-{item}"));
            let running = copy.args([&from, &place]).start();
            let (name, other) = (place.join(item), scratch.join("other"));
            fs::write(&other, "of another copy").unwrap();
            let before = fs::metadata(&other).unwrap();
            wait_for("the item", Duration::from_secs(20), || name.symlink_metadata().is_ok());
            fs::rename(&other, &name).unwrap();
            let run = running.wait();
            run.expect(1);
            let kind = run.report.as_ref().unwrap().pointer("/failures/0/kind");
            assert_eq!(
                kind.and_then(|kind| kind.as_str()),
                Some("contended"),
                "{}",
                run.describe()
            );
            let after = fs::symlink_metadata(&name).expect("it is left alone");
            let about = |of: &fs::Metadata| (of.ino(), of.uid(), of.mode(), of.mtime_nsec());
            assert_eq!(about(&after), about(&before), "{item}, {backend}: {}", run.describe());
        }
    });
}

/// The copy is complete, but not where the command says.
#[test]
fn a_destination_that_is_moved_meanwhile_is_told() {
    let scratch = Scratch::on_disk();
    let source = scratch.join("src");
    fs::create_dir(&source).unwrap();
    for file in 0..600 {
        fs::write(source.join(file.to_string()), "content").unwrap();
    }
    for_each_backend(|backend| {
        let (copy, moved) = (scratch.join("copy"), scratch.join("moved"));
        for replaced in [false, true] {
            let command = Longshore::copy(backend).args(["--ops-limit", "200", "-T"]);
            let running = command.args([&source, &copy]).start();
            wait_for("the copy to begin", Duration::from_secs(20), || {
                fs::read_dir(&copy).is_ok_and(|mut entries| entries.next().is_some())
            });
            fs::rename(&copy, &moved).unwrap();
            if replaced {
                fs::create_dir(&copy).unwrap();
            }
            let run = running.wait();
            run.expect(1).says("moved");
            assert_eq!(run.count("/errors/moved"), 1, "{}", run.describe());
            fs::remove_dir_all(&moved).unwrap();
            let _ = fs::remove_dir_all(&copy);
        }
    });
}
