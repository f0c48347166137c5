//! What the emulator does with data and servers: where bytes are charged, what is full, what fails, what
//! comes back from the archive, what a remount finds, what the log says.
#![allow(clippy::unwrap_used, clippy::print_stderr)] // tests

mod support;

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use lustre_emulator::{Kind, Misbehaviour, OstSettings, Settings};
use nix::libc::{EDQUOT, EIO, ENOSPC};
use nix::unistd::{Whence, lseek};
use support::{
    KIB, MIB, Mounted, composite, entries, has_program, mounted, number, osts, plain, plain_at,
    seconds, specific, u32_at,
};

const EOF: u64 = u64::MAX;

fn eight() -> Settings {
    Settings::new(8, &OstSettings::default())
}

/// A small generator, so that ranges are the same on every run (splitmix64).
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % limit
    }
}

#[test]
fn every_byte_is_charged_to_the_object_that_the_formula_names() {
    let Some(fs) = mounted(eight()) else { return };
    let parts = [
        (0, MIB, plain(1, 256 * KIB)),
        (MIB, 5 * MIB, plain(3, 512 * KIB)),
        (5 * MIB, EOF, plain(8, 64 * KIB)),
    ];
    let file = fs.striped("file", &composite(&parts));
    file.set_len(16 * MIB).unwrap(); // makes all components
    let layout = entries(&fs.layout("file"));
    let mut numbers = Numbers(7);
    for _ in 0..200 {
        let start = numbers.below(12 * MIB);
        let length = 1 + numbers.below(900 * KIB);
        fs.fs.log().clear();
        file.write_all_at(&vec![1; usize::try_from(length).unwrap()], start).unwrap();
        let writes = fs.fs.log().writes();
        let mut parts: Vec<_> = writes.iter().flat_map(|write| &write.parts).collect();
        parts.sort_by_key(|part| part.file_offset);
        let mut at = start;
        for part in parts {
            assert_eq!(part.file_offset, at);
            let entry = layout.iter().find(|entry| entry.start <= at && at < entry.end).unwrap();
            let (stripe, osts) = (u64::from(u32_at(&entry.part, 24)), osts(&entry.part));
            let width = stripe * osts.len() as u64;
            let index = at % width / stripe;
            assert_eq!(part.component, entry.id);
            assert_eq!(u64::from(part.stripe.unwrap()), index);
            assert_eq!(part.object.unwrap().ost, osts[usize::try_from(index).unwrap()]);
            assert_eq!(part.object_offset, at / width * stripe + at % stripe);
            assert!(at % stripe + part.length <= stripe, "it crosses a boundary");
            at += part.length;
        }
        assert_eq!(at, start + length);
    }
}

#[test]
fn a_full_ost_refuses_what_lands_there_while_there_is_room_elsewhere() {
    let Some(fs) = mounted(eight()) else { return };
    let file = fs.striped("file", &specific(MIB, &[2, 3]));
    fs.fs.ost(3).set_free(512 * KIB);
    file.write_all_at(&vec![1; 1 << 20], 0).unwrap();
    assert_eq!(number(file.write_at(&vec![1; 1 << 20], MIB)), ENOSPC);
    file.write_all_at(&vec![1; 512 << 10], MIB).unwrap();
    assert_eq!(number(file.write_at(&[1], 3 * MIB)), ENOSPC);
    file.write_all_at(&vec![2; 512 << 10], MIB).unwrap(); // what is there can be written again
    let space = nix::sys::statvfs::statvfs(&fs.path("")).unwrap();
    assert!(space.blocks_available() * space.fragment_size() > 6 << 40, "statfs has room");
    assert_eq!((fs.fs.ost(2).used(), fs.fs.ost(3).used()), (MIB, 512 * KIB));
    // Room comes back with what is cut off and with the file.
    file.set_len(MIB + 256 * KIB).unwrap();
    assert_eq!(fs.fs.ost(3).used(), 256 * KIB);
    fs::remove_file(fs.path("file")).unwrap();
    assert_eq!(fs.fs.ost(3).used(), 256 * KIB, "it is still open");
    drop(file);
    support::wait_for("the room of the closed file", || fs.fs.ost(3).used() == 0);
    assert_eq!(fs.fs.ost(2).used(), 0);
}

#[test]
fn a_file_that_is_replaced_gives_its_room_back() {
    let Some(fs) = mounted(eight()) else { return };
    for name in ["old", "new"] {
        fs.striped(name, &plain_at(1, MIB, 5)).write_all_at(&[1; 4096], 0).unwrap();
    }
    support::wait_for("the files to be closed", || fs.fs.log().count(Kind::Release) == 2);
    assert_eq!(fs.fs.ost(5).used(), 8192);
    fs::rename(fs.path("new"), fs.path("old")).unwrap();
    assert_eq!(fs.fs.ost(5).used(), 4096);
    fs::hard_link(fs.path("old"), fs.path("other")).unwrap();
    fs::remove_file(fs.path("old")).unwrap();
    assert_eq!(fs.fs.ost(5).used(), 4096, "it has another name");
    fs::remove_file(fs.path("other")).unwrap();
    assert_eq!(fs.fs.ost(5).used(), 0);
}

#[test]
fn statfs_tells_the_sum_of_the_osts() {
    let ost = OstSettings { capacity: 64 * MIB, ..OstSettings::default() };
    let Some(fs) = mounted(Settings::new(4, &ost)) else { return };
    let space = || {
        let space = nix::sys::statvfs::statvfs(&fs.path("")).unwrap();
        (space.blocks() * space.fragment_size(), space.blocks_free() * space.fragment_size())
    };
    assert_eq!(space(), (256 * MIB, 256 * MIB));
    File::create(fs.path("file")).unwrap().write_all_at(&vec![1; 1 << 20], 0).unwrap();
    assert_eq!(space(), (256 * MIB, 255 * MIB));
}

#[test]
fn failing_osts_answer_with_an_error_of_input_and_output() {
    let Some(fs) = mounted(eight()) else { return };
    let file = fs.striped("file", &specific(MIB, &[2, 3]));
    fs.fs.ost(3).set_failing(true);
    file.write_all_at(b"x", 0).unwrap();
    assert_eq!(number(file.write_at(b"x", MIB)), EIO);
    fs.fs.ost(3).set_failing(false);
    file.write_all_at(b"x", MIB).unwrap();
    fs.fs.ost(3).fail_after(2);
    let results: Vec<bool> = (0..5).map(|_| file.write_at(b"x", MIB).is_ok()).collect();
    assert_eq!(results, [true, true, false, true, true]);
    fs.fs.ost(3).set_failing(true);
    assert_eq!(number(file.read_at(&mut [0], MIB)), EIO);
}

#[test]
fn an_error_may_come_at_fsync_and_close_only() {
    let misbehave = Misbehaviour { late_error: Some(EDQUOT), ..Misbehaviour::default() };
    let Some(fs) = mounted(Settings { misbehave, ..eight() }) else { return };
    let file = File::create(fs.path("file")).unwrap();
    file.sync_all().unwrap();
    file.write_all_at(b"x", 0).unwrap();
    assert_eq!(number(file.sync_all()), EDQUOT);
    let closed = nix::unistd::close(file);
    assert_eq!(closed.unwrap_err() as i32, EDQUOT);
}

#[test]
fn a_layout_may_change_while_a_file_is_written() {
    let misbehave = Misbehaviour { migrate_after: Some(3), ..Misbehaviour::default() };
    let Some(fs) = mounted(Settings { misbehave, ..eight() }) else { return };
    let file = fs.striped("file", &composite(&[(0, EOF, plain(2, MIB))]));
    let before = fs.layout("file");
    for at in 0..4 {
        file.write_all_at(&vec![at; 1 << 20], u64::from(at) * MIB).unwrap();
    }
    let after = fs.layout("file");
    let osts_of = |layout: &[u8]| osts(&entries(layout)[0].part);
    assert_ne!(osts_of(&before), osts_of(&after));
    assert_eq!(u32_at(&after, 8), u32_at(&before, 8) + 1, "generation");
    let used: u64 = osts_of(&after).iter().map(|ost| fs.fs.ost(*ost as usize).used()).sum();
    assert_eq!(used, 4 * MIB);
    let mut data = Vec::new();
    std::io::Read::read_to_end(&mut File::open(fs.path("file")).unwrap(), &mut data).unwrap();
    assert!((0..4).all(|at| data[at << 20] == u8::try_from(at).unwrap()));
}

/// A file that lies in the archive only.
fn released(fs: &Mounted, name: &str) {
    fs::write(fs.path(name), vec![7; 3 << 20]).unwrap();
    fs.fs.release(&fs.path(name)).unwrap();
}

#[test]
fn a_released_file_shows_what_it_is_and_is_not_restored_by_looking() {
    let Some(fs) = mounted(eight()) else { return };
    released(&fs, "file");
    let about = fs::metadata(fs.path("file")).unwrap();
    assert_eq!((about.len(), about.blocks()), (3 << 20, 1));
    let layout = fs.layout("file");
    assert_eq!(u32_at(&layout, 4), 0x8000_0001);
    assert_eq!(layout.len(), 32, "no objects");
    assert_eq!(layout[28], 1, "the count stays");
    File::open(fs.path("file")).unwrap().sync_all().unwrap();
    assert_eq!(fs.fs.restores(), 0);
    // Opening it anew for writing throws away what would be restored.
    File::create(fs.path("file")).unwrap();
    assert_eq!(fs.fs.restores(), 0);
    assert_eq!(u32_at(&fs.layout("file"), 4), 1);
}

#[test]
fn whoever_needs_a_released_files_data_waits_until_it_is_back() {
    let restore = Duration::from_millis(150);
    let Some(fs) = mounted(Settings { restore, ..eight() }) else { return };
    let open = |name: &str| OpenOptions::new().read(true).write(true).open(fs.path(name)).unwrap();
    type Access = (&'static str, fn(&File));
    let accesses: [Access; 5] = [
        ("read", |file| file.read_exact_at(&mut [0; 10], 5).unwrap()),
        ("write", |file| file.write_all_at(b"x", 5).unwrap()),
        ("seek", |file| assert_eq!(lseek(file, 0, Whence::SeekData).unwrap(), 0)),
        ("truncate", |file| file.set_len(MIB).unwrap()),
        ("allocate", |file| {
            nix::fcntl::fallocate(file, nix::fcntl::FallocateFlags::empty(), 0, 10).unwrap();
        }),
    ];
    for (count, (name, access)) in (1..).zip(accesses) {
        released(&fs, name);
        let file = open(name);
        let took = seconds(|| access(&file));
        assert!(took >= 0.15, "{name} took {took} s");
        assert_eq!(fs.fs.restores(), count, "{name}");
        assert_eq!(u32_at(&fs.layout(name), 4), 1, "{name}");
        assert!(seconds(|| access(&file)) < 0.15, "{name} again");
    }
    assert_eq!(fs::read(fs.path("read")).unwrap(), vec![7; 3 << 20]);
}

#[test]
fn readers_of_one_released_file_wait_for_one_restore() {
    let restore = Duration::from_millis(200);
    let Some(fs) = mounted(Settings { restore, cached_reads: false, ..eight() }) else { return };
    released(&fs, "file");
    let took = seconds(|| {
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let file = File::open(fs.path("file")).unwrap();
                    file.read_exact_at(&mut [0; 10], 0).unwrap();
                });
            }
        });
    });
    assert_eq!(fs.fs.restores(), 1);
    assert!((0.2..1.0).contains(&took), "{took}");
}

#[test]
fn layouts_defaults_projects_and_room_outlive_a_mount() {
    let Some(fs) = mounted(eight()) else { return };
    fs::create_dir(fs.path("dir")).unwrap();
    xattr::set(fs.path("dir"), "lustre.lov", &plain(3, MIB)).unwrap();
    let parts = [(0, MIB, plain(1, MIB)), (MIB, EOF, plain(4, MIB))];
    let file = fs.striped("dir/file", &composite(&parts));
    file.write_all_at(&vec![1; 1 << 20], 4 * MIB).unwrap();
    drop(file);
    fs.delayed("bare");
    fs.striped("plain", &plain(2, 2 * MIB));
    fs::write(fs.path("released"), b"data").unwrap();
    fs.fs.release(Path::new("released")).unwrap();
    let layouts = |fs: &Mounted| {
        ["dir", "dir/file", "bare", "plain", "released"].map(|name| fs.try_layout(name))
    };
    let (before, used) =
        (layouts(&fs), fs.fs.osts().iter().map(|ost| ost.used()).collect::<Vec<_>>());
    let fs = fs.again(eight());
    assert_eq!(layouts(&fs), before);
    assert_eq!(fs.fs.osts().iter().map(|ost| ost.used()).collect::<Vec<_>>(), used);
    assert_eq!(fs::read(fs.path("released")).unwrap(), b"data");
    assert_eq!(fs.fs.restores(), 1);
    // Numbers of objects are not given out twice.
    let slots = |layout: &[u8]| -> Vec<Vec<u8>> {
        layout[32..].chunks_exact(24).map(<[u8]>::to_vec).collect()
    };
    fs.striped("next", &plain(8, MIB));
    let old = slots(&fs.layout("plain"));
    assert!(slots(&fs.layout("next")).iter().all(|slot| !old.contains(slot)));
}

#[test]
fn requests_are_logged_with_what_became_of_them() {
    let Some(fs) = mounted(eight()) else { return };
    let file = fs.striped("file", &plain(4, MIB));
    fs.layout("file");
    let log = fs.fs.log();
    assert_eq!(log.attribute(Kind::Setxattr, "lustre.lov"), 1);
    assert_eq!(log.attribute(Kind::Getxattr, "lustre.lov"), 1);
    assert_eq!(log.count(Kind::Create), 1);
    fs::metadata(fs.path("missing")).unwrap_err();
    let records = log.records();
    let missing =
        records.iter().find(|record| record.path.as_deref() == Some(Path::new("missing")));
    let missing = missing.unwrap();
    assert_eq!((missing.kind, missing.error), (Kind::Lookup, Some(nix::libc::ENOENT)));
    log.clear();
    file.write_all_at(&[1; 4096], MIB - 4096).unwrap();
    assert!(log.crossing().is_empty());
    file.write_all_at(&[1; 4096], 2 * MIB - 2048).unwrap();
    let crossing = log.crossing();
    assert_eq!(crossing.len(), 1);
    assert_eq!((crossing[0].offset, crossing[0].length), (2 * MIB - 2048, 4096));
    let thread = u32::try_from(nix::unistd::gettid().as_raw()).unwrap();
    assert_eq!((crossing[0].thread, crossing[0].client), (thread, thread));
    let moved = log.moved();
    let osts = fs.osts_of("file");
    assert_eq!(moved[&osts[0]].written, 4096);
    assert_eq!(moved[&osts[1]].written, 2048);
    let totals = log.totals();
    assert_eq!(totals.written[&osts[1]], 2048);
    assert_eq!(totals.operations[&Kind::Write], 2);
    // A file of one stripe has no boundaries that matter.
    let one = fs.striped("one", &plain(1, 64 * KIB));
    one.write_all_at(&vec![1; 256 << 10], 0).unwrap();
    assert_eq!(log.crossing().len(), 1);
}

#[test]
fn the_log_can_be_taken_while_it_grows_and_does_not_grow_for_ever() {
    let Some(fs) = mounted(Settings { log_limit: 10, ..eight() }) else { return };
    let file = File::create(fs.path("file")).unwrap();
    let taken = fs.fs.log().take();
    assert!(taken.iter().any(|record| record.kind == Kind::Create));
    for _ in 0..25 {
        file.write_all_at(b"x", 0).unwrap();
    }
    let log = fs.fs.log();
    assert!(log.records().len() <= 10);
    assert_eq!(log.records().len() as u64 + log.dropped(), 25);
    let last = log.records().last().cloned().unwrap();
    assert!(last.end.is_some() && last.parts[0].end.is_some());
}

#[test]
fn holes_are_found_and_other_ways_to_allocate_are_refused() {
    let Some(fs) = mounted(eight()) else { return };
    let file = fs.striped("file", &plain(4, MIB));
    file.write_all_at(&[1; 4096], 8 * MIB).unwrap();
    let eight = i64::try_from(8 * MIB).unwrap();
    assert_eq!(lseek(&file, 0, Whence::SeekData).unwrap(), eight);
    assert_eq!(lseek(&file, eight, Whence::SeekHole).unwrap(), eight + 4096);
    let zero_range = nix::fcntl::FallocateFlags::FALLOC_FL_ZERO_RANGE;
    let refused = nix::fcntl::fallocate(&file, zero_range, 0, 4096);
    assert_eq!(refused, Err(nix::errno::Errno::EOPNOTSUPP));
    assert_eq!(fs.fs.osts().iter().map(|ost| ost.used()).sum::<u64>(), 4096);
}

#[test]
fn what_is_written_is_what_is_read_however_it_is_read() {
    let Some(fs) = mounted(eight()) else { return };
    let reader = {
        fs::write(fs.path("file"), vec![1; 2 << 20]).unwrap();
        File::open(fs.path("file")).unwrap() // through the page cache
    };
    let mut data = vec![0; 2 << 20];
    reader.read_exact_at(&mut data, 0).unwrap();
    let writer = OpenOptions::new().read(true).write(true).open(fs.path("file")).unwrap();
    writer.write_all_at(&vec![2; 1 << 20], MIB).unwrap();
    let mut second = vec![0; 1 << 20];
    writer.read_exact_at(&mut second, MIB).unwrap();
    assert_eq!(second, vec![2; 1 << 20]);
    reader.read_exact_at(&mut second, MIB).unwrap();
    assert_eq!(second, vec![2; 1 << 20]);
    assert_eq!(fs::read(fs.path("file")).unwrap()[(1 << 20) - 1..][..2], [1, 2]);
    // A program that runs from it is a file that is mapped.
    fs::copy("/bin/true", fs.path("true")).unwrap();
    assert!(Command::new(fs.path("true")).status().unwrap().success());
}

#[test]
fn any_order_of_changes_leaves_what_a_plain_file_would_have() {
    let Some(fs) = mounted(eight()) else { return };
    let parts = [(0, MIB, plain(2, 64 * KIB)), (MIB, EOF, plain(5, 128 * KIB))];
    let file = fs.striped("file", &composite(&parts));
    let (mut numbers, mut model) = (Numbers(3), Vec::<u8>::new());
    for round in 0..400_u32 {
        let (start, length) = (numbers.below(3 * MIB), numbers.below(300 * KIB) + 1);
        let (from, to) =
            (usize::try_from(start).unwrap(), usize::try_from(start + length).unwrap());
        match numbers.below(10) {
            0 => {
                file.set_len(start).unwrap();
                model.resize(from, 0);
            }
            1 => {
                let mode = nix::fcntl::FallocateFlags::from_bits_truncate(3); // a hole
                let (at, size) = (i64::try_from(start).unwrap(), i64::try_from(length).unwrap());
                nix::fcntl::fallocate(&file, mode, at, size).unwrap();
                let end = to.min(model.len());
                model.get_mut(from..end).into_iter().for_each(|hole| hole.fill(0));
            }
            2 => assert!(fs::read(fs.path("file")).unwrap() == model, "round {round}"),
            _ => {
                let data = vec![u8::try_from(round % 255).unwrap() + 1; to - from];
                file.write_all_at(&data, start).unwrap();
                model.resize(model.len().max(to), 0);
                model[from..to].copy_from_slice(&data);
            }
        }
    }
    assert!(fs::read(fs.path("file")).unwrap() == model);
    // What the OSTs say is taken is what a remount measures, by pages.
    let used: u64 = fs.fs.osts().iter().map(|ost| ost.used()).sum();
    drop(file);
    let fs = fs.again(eight());
    let measured: u64 = fs.fs.osts().iter().map(|ost| ost.used()).sum();
    assert!(measured >= used && measured < used + 4 * MIB, "{measured} after {used}");
    fs::remove_file(fs.path("file")).unwrap();
    assert_eq!(fs.fs.osts().iter().map(|ost| ost.used()).sum::<u64>(), 0);
}

#[test]
fn commands_by_attribute_do_what_the_library_does() {
    let Some(fs) = mounted(eight()) else { return };
    let tell = |name: &str, value: &str| {
        xattr::set(fs.path(""), format!("user.emulator.{name}"), value.as_bytes())
    };
    let file = fs.striped("file", &specific(MIB, &[3]));
    tell("ost.3", "full").unwrap();
    assert_eq!(number(file.write_at(b"x", 0)), ENOSPC);
    tell("ost.3", "capacity 1G").unwrap();
    tell("ost.3", "fail").unwrap();
    assert_eq!(number(file.write_at(b"x", 0)), EIO);
    tell("ost.3", "normal").unwrap();
    file.write_all_at(b"x", 0).unwrap();
    tell("ost.3", "latency 100ms").unwrap();
    tell("window", "0").unwrap();
    assert!(seconds(|| file.write_all_at(b"x", 0).unwrap()) >= 0.1);
    tell("ost.3", "latency 0ms").unwrap();
    for command in
        ["slow 10", "bandwidth 100M", "bandwidth none", "queue 4", "inactive", "stall 1ms"]
    {
        tell("ost.3", command).unwrap();
    }
    tell("mdt", "latency 1ms").unwrap();
    tell("mdt", "normal").unwrap();
    tell("release", "file").unwrap();
    assert_eq!(u32_at(&fs.layout("file"), 4), 0x8000_0001);
    for (name, value) in [("ost.9", "full"), ("ost.3", "dance"), ("other", "x"), ("mdt", "stall")] {
        assert_eq!(number(tell(name, value)), nix::libc::EINVAL, "{name} {value}");
    }
    let report = xattr::get(fs.path(""), "user.emulator.report").unwrap().unwrap();
    let report: serde_json::Value = serde_json::from_slice(&report).unwrap();
    assert_eq!(report["written"]["3"], 2);
}

/// Runs a program of Python, which can issue `ioctl`s; what it prints.
fn python(program: &str, path: &Path) -> String {
    let out = Command::new("python3").arg("-c").arg(program).arg(path).output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).unwrap()
}

#[test]
fn control_calls_are_answered_and_unknown_ones_refused() {
    if !has_program("python3") {
        return;
    }
    let Some(fs) = mounted(eight()) else { return };
    fs::write(fs.path("file"), b"data").unwrap();
    let ask = r"
import fcntl, os, struct, sys
fd = os.open(sys.argv[1], os.O_RDONLY)
def ask(number, size):
    try:
        return fcntl.ioctl(fd, number, bytes(size))
    except OSError as error:
        return error.errno
print(ask(0x8080667F, 128).rstrip(b'\0').decode())
print(len(ask(0x8028667F, 40).rstrip(b'\0')))
print(struct.unpack('<II', ask(0x802066D3, 32)[:8]))
print(struct.unpack('<i', ask(0x800466AF, 4))[0])
print(struct.unpack('<Q', ask(0x800866A8, 8))[0])
print(struct.unpack('<Q', ask(0x801066DA, 16)[:8])[0])
print(ask(0x800866AD, 16), ask(0xC0086683, 8))
";
    let answers = python(ask, &fs.path("file"));
    let answers: Vec<&str> = answers.lines().collect();
    assert_eq!(answers[0], "emul-clilov-ffff8d2b40b8d800");
    assert_eq!(answers[1], "36");
    assert_eq!(answers[2], "(0, 0)");
    assert_eq!((answers[3], answers[4]), ("0", "8"));
    assert_eq!(answers[6], "25 25", "ENOTTY");
    let version: u64 = answers[5].parse().unwrap();
    assert_ne!(version, 0);
    let again =
        || -> Vec<String> { python(ask, &fs.path("file")).lines().map(str::to_owned).collect() };
    assert_eq!(again()[5], answers[5], "nothing has changed");
    fs::set_permissions(fs.path("file"), std::os::unix::fs::PermissionsExt::from_mode(0o600))
        .unwrap();
    assert_eq!(again()[5], answers[5], "the data has not changed");
    let file = OpenOptions::new().write(true).open(fs.path("file")).unwrap();
    file.write_all_at(b"x", 0).unwrap();
    assert_ne!(again()[5], answers[5]);
    fs.fs.release(Path::new("file")).unwrap();
    assert_eq!(again()[2], "(13, 1)", "exists, archived, released; archive 1");
    assert_eq!(again()[5], "0");
    // The directory answers, too.
    assert!(python(ask, &fs.path("")).starts_with("emul-clilov-"));
}

#[test]
fn projects_are_set_shown_and_inherited() {
    if !has_program("python3") {
        return;
    }
    let Some(fs) = mounted(eight()) else { return };
    fs::create_dir(fs.path("dir")).unwrap();
    fs::write(fs.path("named"), b"x").unwrap();
    let set = r"
import fcntl, os, struct, sys
fd = os.open(sys.argv[1], os.O_RDONLY)
fcntl.ioctl(fd, 0x401C5820, struct.pack('<IIIII8x', 0x200, 0, 0, 4711, 0))
top = os.open(os.path.dirname(sys.argv[1]), os.O_RDONLY)
fcntl.ioctl(top, 0x411066FD, struct.pack('<IIII256s', 1, 815, 0, 0, b'named'))
";
    let get = r"
import fcntl, os, struct, sys
fd = os.open(sys.argv[1], os.O_RDONLY)
got = struct.unpack('<IIIII8x', fcntl.ioctl(fd, 0x801C581F, bytes(28)))
print(got[3], got[0] & 0x200)
";
    python(set, &fs.path("dir"));
    let of = |name: &str| python(get, &fs.path(name)).trim().to_owned();
    assert_eq!(of("dir"), "4711 512");
    assert_eq!(of("named"), "815 0");
    fs::create_dir(fs.path("dir/below")).unwrap();
    fs::write(fs.path("dir/below/file"), b"x").unwrap();
    assert_eq!(of("dir/below"), "4711 512");
    assert_eq!(of("dir/below/file"), "4711 0");
    let fs = fs.again(eight());
    assert_eq!(python(get, &fs.path("dir/below/file")).trim(), "4711 0");
}
