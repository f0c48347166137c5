//! The latency filesystem itself: that it keeps everything, that its delays overlap, that its servers'
//! bandwidths add up, and that it counts right. What is measured with it is worth no more than this.
#![allow(clippy::unwrap_used, clippy::print_stderr, clippy::print_stdout, unreachable_pub)] // tests

mod support;

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::process::Command;
use std::sync::Barrier;
use std::time::{Duration, Instant};

use support::latency_fs::{Kind, LatencyFs, Profile, Servers};
use support::{Compare, Fs, Scratch, Tree, TreeOptions, assert_same_tree, cp_a};

const MILLISECOND: Duration = Duration::from_millis(1);

/// Seconds that something takes.
fn seconds(work: impl FnOnce()) -> f64 {
    let started = Instant::now();
    work();
    started.elapsed().as_secs_f64()
}

/// Seconds that something takes when the machine lets it: the least of up to five runs, the first below
/// the limit. That it never takes less than it should is checked of every run.
fn within(range: std::ops::Range<f64>, work: impl Fn()) -> f64 {
    let mut least = f64::INFINITY;
    for _ in 0..5 {
        let took = seconds(&work);
        assert!(took >= range.start, "{took} s is less than the {range:?} that it should take");
        least = least.min(took);
        if least < range.end {
            break;
        }
    }
    assert!(least < range.end, "{least} s at the least, not in {range:?}");
    least
}

/// Runs `work` in so many threads that begin together.
fn at_once(threads: usize, work: impl Fn(usize) + Sync) {
    let barrier = Barrier::new(threads);
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

#[test]
fn a_copy_into_it_and_a_copy_out_of_it_keep_everything_that_cp_keeps() {
    let Some(scratch) = Scratch::new(Fs::Tmpfs) else { return };
    let Some(fs) = LatencyFs::new(&scratch, "slow", Profile::immediate()) else { return };
    let source = scratch.join("source");
    Tree::make(&source, 5, TreeOptions { deep: 5, ..TreeOptions::default() });
    cp_a(&source, &fs.path().join("in"));
    assert_same_tree(&source, &fs.backing().join("in"), Compare::default());
    assert_same_tree(&source, &fs.path().join("in"), Compare::default());
    cp_a(&fs.path().join("in"), &scratch.join("out"));
    assert_same_tree(&source, &scratch.join("out"), Compare::default());

    let behind = Profile { write_behind: true, read_ahead_kib: Some(4096), ..Profile::immediate() };
    let Some(fs) = LatencyFs::new(&scratch, "behind", behind) else { return };
    cp_a(&source, &fs.path().join("in"));
    assert_same_tree(&source, &fs.backing().join("in"), Compare::default());
}

#[test]
fn renamed_removed_and_still_open_files_are_what_they_should_be() {
    let Some(scratch) = Scratch::new(Fs::Tmpfs) else { return };
    let Some(fs) = LatencyFs::new(&scratch, "slow", Profile::immediate()) else { return };
    let at = |name: &str| fs.path().join(name);
    fs::create_dir_all(at("a/b")).unwrap();
    fs::write(at("a/b/one"), "one").unwrap();
    fs::write(at("two"), "two").unwrap();
    fs::rename(at("a"), at("c")).unwrap();
    assert_eq!(fs::read_to_string(at("c/b/one")).unwrap(), "one");
    fs::rename(at("two"), at("c/b/one")).unwrap();
    assert_eq!(fs::read_to_string(at("c/b/one")).unwrap(), "two");
    fs::hard_link(at("c/b/one"), at("second")).unwrap();
    let open = File::options().read(true).write(true).open(at("second")).unwrap();
    fs::remove_file(at("c/b/one")).unwrap();
    assert_eq!(fs::read_to_string(at("second")).unwrap(), "two");
    fs::remove_file(at("second")).unwrap();
    open.write_all_at(b"T", 0).unwrap();
    open.set_len(2).unwrap();
    let about = open.metadata().unwrap();
    assert_eq!((about.size(), about.nlink()), (2, 0));
    fs::write(at("second"), "another").unwrap();
    assert_eq!(fs::read_to_string(at("second")).unwrap(), "another");
    fs::remove_dir(at("c/b")).unwrap();
    assert!(!at("c/b").exists());
}

#[test]
fn delays_of_requests_in_hand_at_the_same_time_overlap() {
    let Some(scratch) = Scratch::new(Fs::Tmpfs) else { return };
    let profile = Profile::immediate().delay(Kind::Getattr, 200 * MILLISECOND);
    let Some(fs) = LatencyFs::new(&scratch, "slow", profile) else { return };
    for n in 0..256 {
        fs::write(fs.path().join(n.to_string()), "x").unwrap();
    }
    fs.reset_counters();
    let took = seconds(|| {
        at_once(256, |n| {
            fs::metadata(fs.path().join(n.to_string())).unwrap();
        });
    });
    let count = fs.counters().of(Kind::Getattr);
    // One after the other they would take 51 seconds.
    assert!((0.2..5.0).contains(&took), "{took} s, {count:?}");
    assert!(count.requests >= 256, "{count:?}");
    assert_eq!(count.most_at_once, 256);
}

#[test]
fn every_kind_can_be_slowed_alone_and_while_mounted() {
    let Some(scratch) = Scratch::new(Fs::Tmpfs) else { return };
    let Some(fs) = LatencyFs::new(&scratch, "slow", Profile::immediate()) else { return };
    let at = |name: &str| fs.path().join(name);
    let steps: [(Kind, &dyn Fn()); 12] = [
        (Kind::Mkdir, &|| fs::create_dir(at("dir")).unwrap()),
        (Kind::Create, &|| drop(File::create_new(at("file")).unwrap())),
        (Kind::Write, &|| fs::write(at("file"), "text").unwrap()),
        (Kind::Open, &|| drop(File::open(at("file")).unwrap())),
        (Kind::Read, &|| drop(fs::read(at("file")).unwrap())),
        (Kind::Setattr, &|| {
            File::options().write(true).open(at("file")).unwrap().set_len(2).unwrap()
        }),
        (Kind::Setxattr, &|| xattr::set(at("file"), "user.a", b"value").unwrap()),
        (Kind::Getxattr, &|| drop(xattr::get(at("file"), "user.a").unwrap())),
        (Kind::Readdir, &|| assert!(fs::read_dir(at("")).unwrap().count() > 0)),
        (Kind::Rename, &|| fs::rename(at("file"), at("moved")).unwrap()),
        (Kind::Link, &|| fs::hard_link(at("moved"), at("second")).unwrap()),
        (Kind::Unlink, &|| fs::remove_file(at("moved")).unwrap()),
    ];
    for (kind, step) in steps {
        fs.set(Profile::immediate().delay(kind, 50 * MILLISECOND));
        fs.reset_counters();
        let took = seconds(step);
        let asked = fs.counters().of(kind).requests;
        assert!(asked >= 1, "{kind:?} was not asked");
        assert!(took >= 0.05, "{kind:?} took {took} s");
    }
}

#[test]
fn the_bandwidths_of_servers_add_up_and_one_file_has_one() {
    let Some(scratch) = Scratch::new(Fs::Tmpfs) else { return };
    let bandwidth = 20 << 20;
    let servers = Servers { count: 4, bandwidth, stripes: None };
    let Some(fs) = LatencyFs::new(&scratch, "slow", Profile::immediate()) else { return };
    let data = vec![7; 4 << 20];
    for n in 0..4 {
        fs::write(fs.path().join(n.to_string()), &data).unwrap();
    }
    fs.set(Profile::immediate().servers(servers));
    let read =
        |n: usize| assert_eq!(fs::read(fs.path().join(n.to_string())).unwrap().len(), 4 << 20);
    // 4 MiB at 20 MiB/s; and four times as much from four servers, which one would need 0.8 s for.
    within(0.19..0.4, || read(0));
    within(0.19..0.4, || {
        fs.reset_counters();
        at_once(4, read);
        assert_eq!(fs.counters().server_bytes, [4 << 20; 4]);
    });

    // One file over all four, in pieces of 256 KiB: as fast as all, read by four at once.
    fs.set(Profile::immediate().servers(Servers { stripes: Some((4, 256 << 10)), ..servers }));
    let file = File::create(fs.path().join("striped")).unwrap();
    within(0.04..0.15, || {
        fs.reset_counters();
        at_once(4, |n| file.write_all_at(&data[..1 << 20], (n as u64) << 20).unwrap());
        assert_eq!(fs.counters().server_bytes, [1 << 20; 4]);
    });

    fs.set(Profile { handle_bandwidth: Some(bandwidth), ..Profile::immediate() });
    within(0.19..0.4, || file.write_all_at(&data, 0).unwrap());
}

#[test]
fn a_metadata_server_with_few_hands_makes_requests_queue() {
    let Some(scratch) = Scratch::new(Fs::Tmpfs) else { return };
    let Some(fs) = LatencyFs::new(&scratch, "slow", Profile::immediate()) else { return };
    let profile = Profile::immediate().delay(Kind::Mkdir, 10 * MILLISECOND);
    fs.set(Profile { metadata_at_once: Some(2), ..profile });
    // The kernel makes entries of one directory one by one: sixteen directories for sixteen threads.
    let dirs = |n: usize| fs.path().join(format!("dir-{n}"));
    (0..16).for_each(|n| fs::create_dir(dirs(n)).unwrap());
    let took = seconds(|| at_once(16, |n| fs::create_dir(dirs(n).join("inner")).unwrap()));
    assert!(took >= 0.08, "16 requests of 10 ms by two hands took {took} s");

    // One that loses its way in a crowd: the n-th in the queue takes n times as long on top.
    let profile = Profile::immediate().delay(Kind::Unlink, 10 * MILLISECOND);
    fs.set(Profile { metadata_at_once: Some(2), metadata_crowding: 1.0, ..profile });
    let took = seconds(|| at_once(16, |n| fs::remove_dir(dirs(n).join("inner")).unwrap()));
    assert!(took > 0.4, "a crowd of 16 at two hands took {took} s");
    let alone = seconds(|| fs::remove_dir(dirs(0)).unwrap());
    assert!((0.01..took / 4.0).contains(&alone), "one request alone took {alone} s");
}

#[test]
fn names_and_attributes_are_believed_only_when_asked() {
    let Some(scratch) = Scratch::new(Fs::Tmpfs) else { return };
    let Some(fs) = LatencyFs::new(&scratch, "slow", Profile::immediate()) else { return };
    let look = || {
        fs.reset_counters();
        (0..10).for_each(|_| assert!(fs.path().join("file").exists()));
        fs.counters().metadata_requests()
    };
    fs::write(fs.path().join("file"), "x").unwrap();
    assert!(look() >= 20, "every look asks for the name and for the attributes");
    fs.set(Profile::immediate().cached(Duration::from_secs(60)));
    look();
    assert_eq!(look(), 0);
}

/// The overhead must be small beside the delays that are pretended.
#[test]
fn a_delay_of_a_millisecond_takes_about_a_millisecond() {
    let Some(scratch) = Scratch::new(Fs::Tmpfs) else { return };
    let Some(fs) = LatencyFs::new(&scratch, "slow", Profile::immediate()) else { return };
    let open = File::create(fs.path().join("file")).unwrap();
    let requests = || (0..200).for_each(|n| open.set_len(n).unwrap());
    let plain = within(0.0..0.1, requests) / 200.0;
    fs.set(Profile::metadata(MILLISECOND));
    // Up to 5 ms each: on a busy machine, whoever is woken waits for a core.
    let delayed = within(0.2..1.0, requests) / 200.0;
    eprintln!("{:.0} us without, {:.0} us with a delay of 1000 us", plain * 1e6, delayed * 1e6);
}

#[test]
fn nothing_is_left_when_it_is_dropped() {
    let Some(scratch) = Scratch::new(Fs::Tmpfs) else { return };
    let Some(fs) = LatencyFs::new(&scratch, "slow", Profile::metadata(MILLISECOND)) else { return };
    let at = fs.path().to_owned();
    fs::write(at.join("file"), "x").unwrap();
    drop(fs);
    assert!(!is_mounted(&at));
    assert_eq!(fs::read_dir(&at).unwrap().count(), 0);
}

fn is_mounted(path: &Path) -> bool {
    Command::new("mountpoint").arg("-q").arg(path).status().unwrap().success()
}
