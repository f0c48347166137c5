//! Journals that are written, killed, damaged and read again: what may be believed and what may not.

use std::fs;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;

use nix::sys::stat::FileStat;
use nix::sys::time::TimeSpec;
use proptest::prelude::*;

use super::record::{child_key, print, root_key};
use super::*;
use crate::options::{CopyRequest, ExistingJournal, JournalPlace};

/// A source, a destination and a journal in a directory of their own.
struct Bench {
    home: tempfile::TempDir,
}

impl Bench {
    fn new() -> Self {
        let home = tempfile::tempdir().expect("a directory");
        fs::create_dir(home.path().join("src")).expect("made");
        Self { home }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    fn request(&self) -> CopyRequest {
        let mut request = CopyRequest::new(vec![self.at("src")], self.at("dst"));
        request.options.journal.place = JournalPlace::At(self.at("journal"));
        request
    }

    /// Opens the journal as a copy does.
    fn open(&self) -> Arc<Journal> {
        let prepared = prepare(&self.request()).expect("no refusal");
        let ticket = prepared.ticket.expect("a ticket");
        ticket.open().expect("no refusal").expect("a journal")
    }

    fn bytes(&self) -> Vec<u8> {
        fs::read(self.at("journal")).expect("the journal")
    }

    /// Makes a file with the given content, old enough for its changes to show.
    fn file(&self, name: &str, bytes: usize) -> (fs::File, FileStat) {
        let path = self.at(name);
        fs::write(&path, vec![7; bytes]).expect("written");
        let file = fs::File::options().read(true).write(true).open(&path).expect("opens");
        let mut stat = nix::sys::stat::fstat(&file).expect("a stat");
        stat.st_ctime -= 100;
        (file, stat)
    }

    /// Changes the header, its check included.
    fn change_header(&self, change: impl FnOnce(&mut Header)) {
        let file = fs::File::options().read(true).write(true).open(self.at("journal"));
        let file = file.expect("opens");
        let mut header = Header::read(&file).expect("a header");
        change(&mut header);
        header.write(&file).expect("written");
    }
}

fn key(name: &str) -> Key {
    child_key(root_key(0), name.as_bytes())
}

const DIRECTORY: Key = 77;

#[test]
fn what_was_noted_is_known_to_the_next_run_mapped_or_not() {
    for plain in [false, true] {
        let bench = Bench::new();
        let (file, stat) = bench.file("f", 100);
        let journal = bench.open();
        journal.plain.store(plain, Relaxed);
        assert!(!journal.goes_on());
        // More than a block holds.
        for writer in 0..3 {
            let writer_of = Writer::new(&journal);
            for n in 0..1000 {
                writer_of
                    .finished(key(&format!("{writer} {n}")), &stat, print(&stat), true)
                    .expect("noted");
            }
        }
        let writer = Writer::new(&journal);
        writer.linked(key("link"), 5).expect("noted");
        let temporary = writer.begun((key("large"), DIRECTORY), &stat, file.as_fd(), 3);
        let temporary = temporary.expect("noted").expect("settled");
        for range in [0..10, 20..30, 10..15] {
            writer.written(&temporary, range).expect("noted");
        }
        drop((writer, journal));
        let journal = bench.open();
        assert!(journal.goes_on());
        for (writer, n) in [(0, 0), (1, 999), (2, 500)] {
            assert_eq!(journal.done(key(&format!("{writer} {n}"))), Some(print(&stat)));
        }
        assert_eq!(journal.done(key("link")), Some(5));
        assert_eq!(journal.done(key("large")), None);
        assert_eq!((journal.earlier.files, journal.earlier.torn), (3000, 0));
        assert_eq!(journal.earlier.bytes, 300_025);
        let begun = journal.begun(key("large")).expect("begun");
        assert_eq!(
            (begun.print, begun.ranges.as_slice()),
            (print(&stat), [0..15, 20..30].as_slice())
        );
        assert_eq!(journal.left_in(DIRECTORY), [3]);
        let again = Writer::new(&journal).again(key("large"), begun, file.as_fd());
        let again = again.expect("looked at").expect("the same file");
        assert_eq!((again.ranges, again.written.len()), (temporary.ranges, 2));
    }
}

#[test]
fn a_temporary_file_of_another_one_s_inode_is_not_taken_for_it() {
    let bench = Bench::new();
    let (file, stat) = bench.file("f", 100);
    let (other, _) = bench.file("g", 100);
    let journal = bench.open();
    let writer = Writer::new(&journal);
    writer.begun((key("large"), DIRECTORY), &stat, file.as_fd(), 3).expect("noted");
    drop((writer, journal));
    let journal = bench.open();
    let begun = journal.begun(key("large")).expect("begun");
    let writer = Writer::new(&journal);
    assert_eq!(writer.again(key("large"), begun, other.as_fd()), Ok(None));
}

/// Retries after a change of the source, failed files, kills in a row: ranges stay with the temporary
/// file that they were written to.
#[test]
fn ranges_of_a_temporary_file_are_never_believed_of_a_later_one() {
    let bench = Bench::new();
    let (file, stat) = bench.file("f", 100);
    let keys = (key("large"), DIRECTORY);
    let begin = |writer: &Writer| {
        writer.begun(keys, &stat, file.as_fd(), 3).expect("noted").expect("settled")
    };
    // The same inode again each time, as a filesystem that uses numbers again may give it.
    let journal = bench.open();
    let writer = Writer::new(&journal);
    let first = begin(&writer);
    writer.written(&first, 0..10).expect("noted");
    writer.dropped(&first).expect("noted");
    let second = begin(&writer);
    writer.written(&second, 10..20).expect("noted");
    drop((writer, journal)); // killed
    let journal = bench.open();
    let ranges = &journal.begun(keys.0).expect("begun").ranges;
    assert!(ranges.len() == 1 && ranges[0] == (10..20), "{ranges:?}");
    // Dropped without a further one: nothing is believed.
    let writer = Writer::new(&journal);
    writer.dropped_earlier(keys.0, journal.begun(keys.0).expect("begun")).expect("noted");
    drop((writer, journal));
    let journal = bench.open();
    assert_eq!(journal.begun(keys.0), None);
    assert!(journal.left_in(DIRECTORY).is_empty());
    // Begun by two runs in a row: the later one counts, without the former's ranges.
    let writer = Writer::new(&journal);
    let third = begin(&writer);
    writer.written(&third, 30..40).expect("noted");
    drop((writer, journal));
    let journal = bench.open();
    let writer = Writer::new(&journal);
    let fourth = begin(&writer);
    assert_ne!(third.ranges, fourth.ranges);
    drop((writer, journal));
    let journal = bench.open();
    assert_eq!(journal.begun(keys.0).expect("begun").ranges, []);
    // Finished afterwards: nothing is left of it.
    let writer = Writer::new(&journal);
    writer.finished(keys.0, &stat, print(&stat), true).expect("noted");
    drop((writer, journal));
    assert_eq!(bench.open().begun(keys.0), None);
}

#[test]
fn the_latest_of_two_finished_versions_counts() {
    let bench = Bench::new();
    let (_, mut stat) = bench.file("f", 100);
    for size in [100, 200] {
        let journal = bench.open();
        stat.st_size = size;
        Writer::new(&journal).finished(key("f"), &stat, print(&stat), true).expect("noted");
    }
    assert_eq!(bench.open().done(key("f")), Some(print(&stat)));
}

#[test]
fn a_source_that_was_changed_a_moment_ago_is_not_noted() {
    let bench = Bench::new();
    let (file, mut stat) = bench.file("f", 100);
    stat = record::about_to_be_read(stat, TimeSpec::new(stat.st_ctime, stat.st_ctime_nsec));
    let journal = bench.open();
    let writer = Writer::new(&journal);
    writer.finished(key("f"), &stat, print(&stat), true).expect("nothing to do");
    assert_eq!(writer.begun((key("g"), DIRECTORY), &stat, file.as_fd(), 1), Ok(None));
    drop((writer, journal));
    assert!(!bench.open().goes_on());
}

#[test]
fn after_a_crash_of_the_machine_only_what_was_flushed_is_believed() {
    let bench = Bench::new();
    let (_, stat) = bench.file("f", 100);
    let journal = bench.open();
    let home = fs::File::open(bench.home.path()).expect("opens");
    journal.writes_to(1, &home);
    let writer = Writer::new(&journal);
    writer.finished(key("early"), &stat, print(&stat), true).expect("noted");
    journal.checkpoint().expect("flushed");
    writer.finished(key("late"), &stat, print(&stat), true).expect("noted");
    drop((writer, journal));
    bench.change_header(|header| header.boot = [b'x'; header::BOOT_BYTES]);
    let prepared = prepare(&bench.request()).expect("no refusal");
    assert!(prepared.notes.iter().any(|note| note.contains("restart")), "{:?}", prepared.notes);
    assert_eq!(prepared.earlier, Some((1, 100)));
    let journal = prepared.ticket.expect("one").open().expect("no refusal").expect("a journal");
    assert_eq!(journal.done(key("early")), Some(print(&stat)));
    assert_eq!(journal.done(key("late")), None);
    drop(journal);
    // It does not come back to life in the boot that read it first.
    let journal = bench.open();
    assert_eq!((journal.done(key("late")), journal.earlier.lost), (None, 0));
}

#[test]
fn without_a_way_to_flush_there_is_no_checkpoint() {
    let bench = Bench::new();
    let (_, stat) = bench.file("f", 100);
    let journal = bench.open();
    lock(&journal.targets).add_unflushable(9);
    Writer::new(&journal).finished(key("f"), &stat, print(&stat), true).expect("noted");
    assert!(journal.checkpoint().is_err());
    drop(journal);
    bench.change_header(|header| header.boot = [b'x'; header::BOOT_BYTES]);
    assert!(!bench.open().goes_on());
}

/// An error of flushing shows once. A checkpoint that met it and kept quiet left entries that the next
/// run believed, of files whose content was lost.
#[test]
fn after_an_error_of_flushing_nothing_is_believed() {
    let bench = Bench::new();
    let (_, stat) = bench.file("f", 100);
    let journal = bench.open();
    let writer = Writer::new(&journal);
    writer.finished(key("f"), &stat, print(&stat), true).expect("noted");
    journal.checkpoint().expect("flushed");
    writer.finished(key("g"), &stat, print(&stat), true).expect("noted");
    journal.distrust();
    drop((writer, journal)); // killed
    let journal = bench.open();
    assert_eq!((journal.done(key("f")), journal.done(key("g"))), (None, None));
    journal.distrust();
    assert!(!journal.end(End::Unfinished));
    drop(journal);
    assert!(!bench.open().goes_on());
}

/// A filesystem that is mounted in the destination was written to by the run that was killed, and the
/// next one makes its first checkpoint before its walk gets there. The checkpoint made the earlier
/// entries durable all the same, and after a crash files were believed that never reached the disk.
#[test]
fn a_checkpoint_flushes_what_only_earlier_runs_wrote_to() {
    use nix::mount::{MsFlags, mount};
    use nix::sched::{CloneFlags, unshare};
    let bench = Bench::new();
    let (_, stat) = bench.file("f", 100);
    let journal = bench.open();
    let inner = bench.at("dst/deep/inner");
    fs::create_dir_all(&inner).expect("made");
    journal.note_root(Identity::at(&bench.at("dst"), true).expect("a directory"));
    Writer::new(&journal).finished(key("f"), &stat, print(&stat), true).expect("noted");
    drop(journal); // killed
    // Mounts of this thread only, which go with it.
    let none = None::<&str>;
    let private = MsFlags::MS_PRIVATE | MsFlags::MS_REC;
    let alone = unshare(CloneFlags::CLONE_NEWNS)
        .and_then(|()| mount(none, "/", none, private, none))
        .and_then(|()| mount(Some("tmpfs"), &inner, Some("tmpfs"), MsFlags::empty(), none));
    if alone.is_err() {
        return; // needs root
    }
    let device = |path: &std::path::Path| nix::sys::stat::stat(path).expect("a stat").st_dev;
    let journal = bench.open();
    assert!(journal.goes_on());
    assert!(!lock(&journal.targets).has(device(&inner)));
    journal.checkpoint().expect("flushed");
    for place in [inner, bench.at("dst")] {
        assert!(lock(&journal.targets).has(device(&place)), "{}", place.display());
    }
    assert!(lock(&journal.unvisited).is_empty(), "mounts are looked for once");
    // A run of its own has nothing to flush before it comes there.
    assert!(journal.end(End::Complete));
    drop(journal);
    let journal = bench.open();
    journal.checkpoint().expect("flushed");
    assert!(!lock(&journal.targets).has(device(&bench.at("dst/deep/inner"))));
}

/// A finished file is made again and the machine crashes: the older entry must not speak for content
/// that never reached the disk.
#[test]
fn what_is_made_again_is_durable_only_after_the_next_checkpoint() {
    let bench = Bench::new();
    let (_, stat) = bench.file("f", 100);
    let journal = bench.open();
    Writer::new(&journal).finished(key("f"), &stat, print(&stat), true).expect("noted");
    journal.checkpoint().expect("flushed");
    journal.is_redone().expect("noted");
    let durable = || lock(&journal.header).durable_epoch;
    assert_eq!(durable(), 0);
    // What was made again before a checkpoint began is covered by it.
    journal.checkpoint().expect("flushed");
    assert!(durable() > 0);
    journal.is_redone().expect("noted");
    drop(journal);
    bench.change_header(|header| header.boot = [b'x'; header::BOOT_BYTES]);
    assert!(!bench.open().goes_on());
}

#[test]
fn a_journal_in_use_is_refused_and_a_removed_one_is_made_anew() {
    let bench = Bench::new();
    let journal = bench.open();
    let refusal = prepare(&bench.request()).expect_err("in use").to_string();
    assert!(refusal.contains("running already"), "{refusal}");
    journal.end(End::Complete);
    assert!(!bench.at("journal").exists());
    drop(journal);
    assert!(!bench.open().goes_on());
}

#[test]
fn what_may_be_lost_is_not_believed_but_the_place_is_kept() {
    let bench = Bench::new();
    let (_, stat) = bench.file("f", 100);
    let journal = bench.open();
    Writer::new(&journal).finished(key("f"), &stat, print(&stat), true).expect("noted");
    assert!(!journal.end(End::Unreliable));
    drop(journal);
    let journal = bench.open();
    assert!(!journal.goes_on());
    assert!(lock(&journal.header).exact);
}

#[test]
fn the_destination_that_was_made_is_recognised() {
    let bench = Bench::new();
    let (_, stat) = bench.file("f", 100);
    let note = |journal: &Arc<Journal>| {
        Writer::new(journal).finished(key("f"), &stat, print(&stat), true).expect("noted");
    };
    let journal = bench.open();
    fs::create_dir(bench.at("dst")).expect("made");
    let root = Identity::at(&bench.at("dst"), true).expect("a directory");
    journal.note_root(root);
    note(&journal);
    drop(journal);
    let plan = |bench: &Bench| {
        let prepared = prepare(&bench.request()).expect("no refusal");
        (prepared.plan.roots[0].destination.clone(), prepared.earlier.is_some())
    };
    assert_eq!(plan(&bench), (bench.at("dst"), true));
    // Somebody made another directory of that name: cp's rule holds, and nothing is believed.
    fs::rename(bench.at("dst"), bench.at("away")).expect("renamed");
    fs::create_dir(bench.at("dst")).expect("made");
    assert_eq!(plan(&bench), (bench.at("dst/src"), false));
}

/// The header says what it would say if the directory had been removed since, and its inode number
/// were that of the one which is there now.
#[test]
fn a_destination_or_source_that_only_has_the_inode_number_is_another_one() {
    for (which, destination) in [("dst", "dst/src"), ("src", "dst/src")] {
        let bench = Bench::new();
        let (_, stat) = bench.file("f", 100);
        let journal = bench.open();
        fs::create_dir(bench.at("dst")).expect("made");
        let root = Identity::at(&bench.at("dst"), true).expect("a directory");
        if root.birth == 0 {
            return; // this filesystem knows no times of birth
        }
        journal.note_root(root);
        Writer::new(&journal).finished(key("f"), &stat, print(&stat), true).expect("noted");
        {
            let mut header = lock(&journal.header);
            let changed = if which == "dst" { &mut header.root } else { &mut header.sources };
            changed.birth ^= 1;
            header.write(&journal.made.get().expect("made").file).expect("written");
        }
        drop(journal);
        if which == "src" {
            let mut required = bench.request();
            required.options.journal.existing = ExistingJournal::Require;
            let refusal = prepare(&required).expect_err("stale").to_string();
            assert!(refusal.contains("source is another one"), "{refusal}");
            continue;
        }
        let prepared = prepare(&bench.request()).expect("no refusal");
        assert!(prepared.earlier.is_none());
        assert_eq!(prepared.plan.roots[0].destination, bench.at(destination));
    }
}

#[test]
fn another_source_under_the_same_name_starts_over() {
    let bench = Bench::new();
    let (_, stat) = bench.file("f", 100);
    Writer::new(&bench.open()).finished(key("f"), &stat, print(&stat), true).expect("noted");
    fs::rename(bench.at("src"), bench.at("away")).expect("renamed");
    fs::create_dir(bench.at("src")).expect("made");
    let mut required = bench.request();
    required.options.journal.existing = ExistingJournal::Require;
    let refusal = prepare(&required).expect_err("stale").to_string();
    assert!(refusal.contains("source is another one"), "{refusal}");
    assert!(!bench.open().goes_on());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Whatever byte is changed, no more is believed than was noted.
    #[test]
    fn a_changed_byte_takes_entries_away_and_adds_none(at in any::<prop::sample::Index>(), flip in 1_u8..) {
        let bench = Bench::new();
        let (file, stat) = bench.file("f", 100);
        let keys = (key("large"), DIRECTORY);
        let journal = bench.open();
        let writer = Writer::new(&journal);
        writer.finished(key("f"), &stat, print(&stat), true).expect("noted");
        let first = writer.begun(keys, &stat, file.as_fd(), 3).expect("noted").expect("settled");
        writer.written(&first, 0..10).expect("noted");
        writer.dropped(&first).expect("noted");
        let second = writer.begun(keys, &stat, file.as_fd(), 3).expect("noted").expect("settled");
        writer.written(&second, 20..30).expect("noted");
        drop((writer, journal));
        let bytes = bench.bytes();
        // Where something is written: the header, and the first slots of the first block.
        let written: Vec<usize> =
            (0..bytes.len()).filter(|at| bytes[*at] != 0 || (at % 65536) < 400).collect();
        let at = written[at.index(written.len())];
        let damaged = fs::File::options().write(true).open(bench.at("journal")).expect("opens");
        damaged.write_all_at(&[bytes[at] ^ flip], at as u64).expect("written");
        let Ok(prepared) = prepare(&bench.request()) else { return Ok(()) };
        let journal = prepared.ticket.expect("one").open().expect("no refusal").expect("a journal");
        prop_assert!(journal.done(key("f")).is_none_or(|found| found == print(&stat)));
        if let Some(begun) = journal.begun(keys.0) {
            // When the second temporary's own entry is gone, the first one's was dropped.
            let right = begun.ranges.iter().all(|range| *range == (20..30));
            prop_assert!(right, "{:?}", begun.ranges);
        }
    }
}
