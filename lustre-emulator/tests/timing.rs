//! How long things take in the emulator, in ratios: OSTs work side by side, slow ones are slow, windows
//! and locks do what they do in a client. Each is tried a few times, because machines are busy at times;
//! what must never be faster is checked every time.
#![allow(clippy::unwrap_used, clippy::print_stderr)] // tests

mod support;

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::sync::Barrier;
use std::time::{Duration, Instant};

use lustre_emulator::{Clients, Kind, MdtSettings, OstSettings, Settings};
use support::{MIB, Mounted, mounted, plain, plain_at, seconds, specific};

const MILLISECOND: Duration = Duration::from_millis(1);

/// OSTs of so many MB/s and so many milliseconds.
fn osts(count: usize, bandwidth: u64, latency: u32) -> Settings {
    let ost = OstSettings {
        bandwidth: (bandwidth > 0).then_some(bandwidth * 1_000_000),
        latency: MILLISECOND * latency,
        ..OstSettings::default()
    };
    // Reads are as they are asked for, and every write waits for its OST unless a test says otherwise.
    Settings { window: 0, cached_reads: false, ..Settings::new(count, &ost) }
}

/// Checks that something never takes less than `range` and, in one of five tries, not more.
fn takes(range: std::ops::Range<f64>, mut work: impl FnMut()) {
    let mut least = f64::INFINITY;
    for _ in 0..5 {
        let took = seconds(&mut work);
        assert!(took >= range.start, "{took} s is less than {range:?}");
        least = least.min(took);
        if least < range.end {
            return;
        }
    }
    panic!("{least} s at the least, not in {range:?}");
}

/// Runs `work` in so many threads that begin together, each with its number.
fn together(threads: u64, work: impl Fn(u64) + Sync) {
    let barrier = Barrier::new(usize::try_from(threads).unwrap());
    std::thread::scope(|scope| {
        for thread in 0..threads {
            let (barrier, work) = (&barrier, &work);
            scope.spawn(move || {
                barrier.wait();
                work(thread);
            });
        }
    });
}

/// A file of `stripes` MiB-stripes that has its length already, so that writes need not wait for each other.
fn long(fs: &Mounted, name: &str, stripes: u16, mib: u64) -> File {
    let file = fs.striped(name, &plain_at(stripes, MIB, 0));
    file.set_len(mib * MIB).unwrap();
    file
}

/// Writes one MiB as one request: a buffer that does not begin with a page would make two of it.
fn mib(file: &File, at: u64) {
    let buffer = vec![1; (1 << 20) + 4096];
    let aligned = &buffer[buffer.as_ptr().align_offset(4096)..][..1 << 20];
    file.write_all_at(aligned, at * MIB).unwrap();
}

/// Reads one MiB in the same way.
fn read_mib(file: &File, at: u64) {
    let mut buffer = vec![1; (1 << 20) + 4096];
    let start = buffer.as_ptr().align_offset(4096);
    file.read_exact_at(&mut buffer[start..][..1 << 20], at * MIB).unwrap();
}

#[test]
fn eight_osts_take_an_eighth_of_the_time_of_one() {
    // 32 MiB at 100 MB/s take 0.34 s, at 800 MB/s 0.042 s.
    let Some(fs) = mounted(osts(8, 100, 0)) else { return };
    let (one, eight) = (long(&fs, "one", 1, 32), long(&fs, "eight", 8, 32));
    let write =
        |file: &File| together(8, |thread| (0..4).for_each(|row| mib(file, row * 8 + thread)));
    takes(0.33..0.5, || write(&one));
    takes(0.041..0.15, || write(&eight));
    let read = |file: &File| {
        together(8, |thread| (0..4).for_each(|row| read_mib(file, row * 8 + thread)));
    };
    takes(0.33..0.5, || read(&one));
    takes(0.041..0.15, || read(&eight));
}

#[test]
fn a_slow_ost_slows_its_own_objects_only() {
    let Some(fs) = mounted(osts(2, 100, 0)) else { return };
    let (first, second) =
        (fs.striped("0", &specific(MIB, &[0])), fs.striped("1", &specific(MIB, &[1])));
    fs.fs.ost(1).set_slow(5.0);
    takes(0.04..0.1, || (0..4).for_each(|at| mib(&first, at)));
    takes(0.2..0.4, || (0..4).for_each(|at| mib(&second, at)));
    fs.fs.ost(1).set_slow(1.0);
    fs.fs.ost(1).set_bandwidth(Some(400_000_000));
    takes(0.01..0.05, || (0..4).for_each(|at| mib(&second, at)));
}

#[test]
fn latencies_overlap_transfers_as_far_as_the_queue_allows() {
    let settings = Settings { clients: Clients::Process, ..osts(1, 0, 20) };
    let Some(fs) = mounted(settings) else { return };
    let file = long(&fs, "file", 1, 8);
    takes(0.02..0.1, || together(8, |thread| mib(&file, thread)));
    fs.fs.ost(0).set_queue(2);
    takes(0.08..0.15, || together(8, |thread| mib(&file, thread)));
    fs.fs.ost(0).set_queue(64);
    fs.fs.ost(0).set_latency(MILLISECOND);
    takes(0.001..0.03, || mib(&file, 0));
}

#[test]
fn a_client_writes_ahead_of_its_osts_by_a_window_and_no_more() {
    // A window of 4 MiB, at 40 ms for each MiB.
    let settings = Settings { window: 4 * MIB, ..osts(2, 26, 0) };
    let Some(fs) = mounted(settings) else { return };
    let file = long(&fs, "file", 1, 16);
    // 3 MiB are within the window, fsync waits for all of them.
    let mut ahead = f64::INFINITY;
    for _ in 0..5 {
        let started = Instant::now();
        (0..3).for_each(|at| mib(&file, at));
        ahead = ahead.min(started.elapsed().as_secs_f64());
        file.sync_all().unwrap();
        assert!(started.elapsed().as_secs_f64() >= 0.12, "fsync did not wait");
    }
    assert!(ahead < 0.04, "the window did not help: {ahead} s");
    // Closing waits, too.
    let started = Instant::now();
    let closing = OpenOptions::new().write(true).open(fs.path("file")).unwrap();
    (0..3).for_each(|at| mib(&closing, at));
    drop(closing);
    assert!(started.elapsed().as_secs_f64() >= 0.12, "close did not wait");
    // Beyond the window a write waits until there is room in it: the fourth fills it.
    takes(0.19..0.35, || {
        (0..8).for_each(|at| mib(&file, at));
    });
    file.sync_all().unwrap();
    // Another OST has a window of its own.
    let other = fs.striped("other", &specific(MIB, &[1]));
    (0..3).for_each(|at| mib(&file, at));
    takes(0.0..0.04, || {
        other.sync_all().unwrap();
        let started = Instant::now();
        mib(&other, 0);
        assert!(started.elapsed() < MILLISECOND * 1000);
    });
}

#[test]
fn clients_that_share_an_object_take_its_lock_from_each_other() {
    let settings = Settings { revocation: Some(MILLISECOND * 10), ..osts(2, 0, 1) };
    let Some(fs) = mounted(settings) else { return };
    // Turn by turn, so that every write but the first of each client takes the lock away.
    let turns = |file: &File, own: bool| {
        fs.fs.log().clear();
        let turn = std::sync::Mutex::new(0);
        let changed = std::sync::Condvar::new();
        together(2, |thread| {
            for round in 0..10 {
                let mut now = turn.lock().unwrap();
                while *now != round * 2 + thread {
                    now = changed.wait(now).unwrap();
                }
                mib(file, if own { round * 2 + thread } else { round * 2 });
                *now += 1;
                changed.notify_all();
            }
        });
        fs.fs.log().revocations()
    };
    // A file of its own for each try: the threads of the last one still hold its locks.
    let mut files = (0..).map(|number| format!("file-{number}"));
    let mut next = |stripes: u16| long(&fs, &files.next().unwrap(), stripes, 32);
    takes(0.2..0.4, || assert_eq!(turns(&next(1), false), 19));
    assert_eq!(fs.fs.log().revocations_by_object().len(), 1);
    takes(0.02..0.15, || assert_eq!(turns(&next(2), true), 0));
    // Threads of one node share their locks.
    fs.fs.change(|settings| settings.clients = Clients::Process);
    takes(0.02..0.15, || assert_eq!(turns(&next(1), false), 0));
}

#[test]
fn a_lock_is_taken_when_what_its_holder_has_written_is_there() {
    // What the first client has written ahead takes 160 ms.
    let settings = Settings { window: 8 * MIB, ..osts(1, 26, 0) };
    let Some(fs) = mounted(settings) else { return };
    let file = long(&fs, "file", 1, 16);
    takes(0.19..0.4, || {
        std::thread::scope(|scope| {
            scope.spawn(|| (0..4).for_each(|at| mib(&file, at))).join().unwrap();
            scope.spawn(|| mib(&file, 8)).join().unwrap();
        });
        file.sync_all().unwrap();
    });
    let log = fs.fs.log();
    assert!(log.revocations() >= 1);
    let writes = log.writes();
    for pair in writes.windows(2) {
        if pair[1].parts[0].revoked > 0 {
            assert!(pair[1].parts[0].begin >= pair[0].parts[0].end, "{pair:#?}");
        }
    }
    // When nobody has the file open any more, nobody has its locks.
    drop(file);
    support::wait_for("the file to be closed", || log.count(Kind::Release) > 0);
    log.clear();
    let file = OpenOptions::new().write(true).open(fs.path("file")).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| mib(&file, 0)).join().unwrap();
    });
    assert_eq!(log.revocations(), 0);
}

#[test]
fn reading_takes_the_lock_of_a_writer_once_and_readers_share() {
    let Some(fs) = mounted(osts(1, 0, 1)) else { return };
    let file = long(&fs, "file", 1, 4);
    mib(&file, 0);
    together(3, |_| {
        (0..4).for_each(|at| read_mib(&file, at));
    });
    assert_eq!(fs.fs.log().revocations(), 1);
    fs.fs.change(|settings| settings.read_locks = false);
    std::thread::scope(|scope| {
        scope.spawn(|| mib(&file, 0)); // takes it from three readers
    });
    assert_eq!(fs.fs.log().revocations(), 4);
    file.read_exact_at(&mut [0], 0).unwrap();
    assert_eq!(fs.fs.log().revocations(), 4);
}

#[test]
fn writes_into_one_file_run_side_by_side_and_the_log_shows_it() {
    let Some(fs) = mounted(osts(4, 0, 30)) else { return };
    let file = long(&fs, "file", 4, 32);
    fs.fs.log().clear();
    let from = fs.fs.log().now();
    takes(0.03..0.1, || together(4, |thread| mib(&file, thread)));
    let to = fs.fs.log().now();
    let log = fs.fs.log();
    assert!(log.concurrent_writers().is_empty(), "each had its own object");
    assert_eq!(log.most_in_flight(0), 1);
    let busy: Duration = (to - from)
        - log.idle_gaps(0, from..to).iter().map(|gap| gap.end - gap.start).sum::<Duration>();
    assert!(busy >= MILLISECOND * 30, "{busy:?}");
    log.clear();
    // Two clients in one object, side by side.
    fs.fs.change(|settings| settings.revocation = Some(Duration::ZERO));
    together(2, |thread| mib(&file, 4 * thread));
    let conflicts = log.concurrent_writers();
    assert!(!conflicts.is_empty());
    for conflict in conflicts {
        assert_ne!(conflict.clients.0, conflict.clients.1);
        assert_eq!(conflict.object.ost, 0);
    }
}

#[test]
fn a_stalled_ost_holds_up_what_goes_to_it_until_it_is_back() {
    let Some(fs) = mounted(osts(2, 0, 0)) else { return };
    let file = long(&fs, "file", 2, 4);
    fs.fs.ost(1).stall();
    mib(&file, 0);
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| mib(&file, 1));
        support::wait_for("the write to arrive", || {
            fs.fs.log().writes().iter().any(|write| write.offset == MIB)
        });
        assert!(!waiting.is_finished());
        mib(&file, 2);
        assert!(!waiting.is_finished());
        fs.fs.ost(1).resume();
        waiting.join().unwrap();
    });
    let started = Instant::now();
    fs.fs.ost(0).stall_for(MILLISECOND * 100);
    mib(&file, 0);
    assert!(started.elapsed() >= MILLISECOND * 100);
    // Within its window a client does not notice until it waits for its data.
    fs.fs.change(|settings| settings.window = 8 * MIB);
    fs.fs.ost(1).stall();
    mib(&file, 1);
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| file.sync_all().unwrap());
        support::wait_for("fsync to arrive", || fs.fs.log().count(Kind::Fsync) > 0);
        assert!(!waiting.is_finished());
        fs.fs.ost(1).resume();
    });
}

#[test]
fn the_metadata_server_takes_its_time_and_serves_so_many_at_once() {
    let mdt = MdtSettings { latency: MILLISECOND * 10, at_once: None };
    let settings = Settings { mdt, cached: Duration::ZERO, ..osts(1, 0, 0) };
    let Some(fs) = mounted(settings) else { return };
    for name in 0..8 {
        File::create(fs.path(&name.to_string())).unwrap();
    }
    let stat = |name: u64| {
        fs::symlink_metadata(fs.path(&name.to_string())).unwrap();
    };
    takes(0.01..0.08, || together(8, stat));
    fs.fs.mdt().set_at_once(Some(1));
    takes(0.08..0.4, || together(8, stat));
    fs.fs.mdt().set_latency(Duration::ZERO);
    fs.fs.mdt().stall_for(MILLISECOND * 50);
    assert!(seconds(|| stat(0)) >= 0.04);
    fs.fs.mdt().stall();
    std::thread::scope(|scope| {
        let before = fs.fs.log().records().len();
        let waiting = scope.spawn(|| stat(1));
        support::wait_for("the request to arrive", || fs.fs.log().records().len() > before);
        assert!(!waiting.is_finished());
        fs.fs.mdt().resume();
    });
}

#[test]
fn a_file_that_is_open_for_reading_only_is_read_ahead() {
    // One thread that reads 8 MiB from 4 OSTs at 20 ms: 160 ms without readahead.
    let settings = Settings { cached_reads: true, ..osts(4, 0, 20) };
    let Some(fs) = mounted(settings) else { return };
    let file = fs.striped("file", &plain(4, MIB));
    (0..8).for_each(|at| mib(&file, at));
    drop(file);
    let read = || {
        let file = File::open(fs.path("file")).unwrap();
        (0..8).for_each(|at| read_mib(&file, at));
    };
    takes(0.02..0.12, read);
    fs.fs.change(|settings| settings.cached_reads = false);
    takes(0.16..0.5, read);
}
