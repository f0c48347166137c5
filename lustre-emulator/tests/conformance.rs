//! That the emulator answers as a Lustre client does, through plain calls: layouts, the rules that
//! requests must keep, what is granted, what is inherited, and what attributes show.
#![allow(clippy::unwrap_used, clippy::print_stderr)] // tests

mod support;

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::os::unix::process::CommandExt;
use std::process::Command;

use lustre_emulator::{Answers, Misbehaviour, OstSettings, Settings};
use nix::fcntl::OFlag;
use nix::libc::{EBADF, EFBIG, EINVAL, ENODATA, EPERM, ERANGE, EREMOTEIO};
use nix::sys::stat::{Mode, SFlag, mknod};
use support::{
    KIB, MIB, Mounted, composite, composite_with, entries, has_program, hex, mounted, number, osts,
    plain, plain_at, pooled, specific, u16_at, u32_at,
};

/// The end of the last component.
const EOF: u64 = u64::MAX;

/// Eight OSTs that take no time.
fn eight() -> Settings {
    Settings::new(8, &OstSettings::default())
}

/// The same with a pool of its second half.
fn with_flash() -> Settings {
    Settings { pools: vec![("flash".to_owned(), vec![4, 5, 6, 7])], ..eight() }
}

/// Part of a request for data on the metadata server.
fn dom(size: u64) -> Vec<u8> {
    let mut part = plain(0, size);
    part[4..8].copy_from_slice(&0x100_u32.to_le_bytes());
    part
}

fn try_set(fs: &Mounted, name: &str, request: &[u8]) -> std::io::Result<()> {
    xattr::set(fs.path(name), "lustre.lov", request)
}

/// Example B: four stripes of 4 MiB in the pool `flash`, on OSTs 4 to 7.
const B: &str = "
    d00bd30b 01000000 02000000 00000000  01040000 02000000 00004000 0400ffff
    666c6173 68000000 00000000 00000000  01040080 02000000 10000000 00000000
    00000000 04000000 010400c0 02000000  11000000 00000000 00000000 05000000
    01040000 03000000 12000000 00000000  00000000 06000000 01040040 03000000
    13000000 00000000 00000000 07000000";

/// Example C: three components, the first two made.
const C: &str = "
    d00bd60b 58010000 03000000 00000300  00000000 00000000 00000000 00000000
    01000000 10000000 00000000 00000000  00004000 00000000 b0000000 38000000
    00000000 00000000 00000000 00000000  02000000 10000000 00004000 00000000
    00000004 00000000 e8000000 50000000  00000000 00000000 00000000 00000000
    03000000 00000000 00000004 00000000  ffffffff ffffffff 38010000 20000000
    00000000 00000000 00000000 00000000  d00bd10b 01000000 00000000 00000000
    00000000 00000000 00001000 0100ffff  55000000 00000000 00000000 00000000
    00000000 00000000 d00bd10b 01000000  00000000 00000000 00000000 00000000
    00004000 0200ffff 56000000 00000000  00000000 00000000 00000000 01000000
    57000000 00000000 00000000 00000000  00000000 02000000 d00bd10b 01000000
    00000000 00000000 00000000 00000000  00004000 0800ffff";

/// Example D: the first MiB on the metadata server, the rest not made yet.
const D: &str = "
    d00bd60b c0000000 01000000 00000200  00000000 00000000 00000000 00000000
    01000000 10000000 00000000 00000000  00001000 00000000 80000000 20000000
    00000000 00000000 00000000 00000000  02000000 00000000 00001000 00000000
    ffffffff ffffffff a0000000 20000000  00000000 00000000 00000000 00000000
    d00bd10b 00010000 00000000 00000000  00000000 00000000 00001000 0000ffff
    d00bd10b 01000000 00000000 00000000  00000000 00000000 00004000 0400ffff";

/// Example E: a directory's default of two components in the pool `flash`.
const E: &str = "
    d00bd60b e0000000 00000000 00000200  00000000 00000000 00000000 00000000
    00000000 00000000 00000000 00000000  00000010 00000000 80000000 30000000
    00000000 00000000 00000000 00000000  00000000 00000000 00000010 00000000
    ffffffff ffffffff b0000000 30000000  00000000 00000000 00000000 00000000
    d00bd30b 01000000 00000000 00000000  00000000 00000000 00004000 0100ffff
    666c6173 68000000 00000000 00000000  d00bd30b 01000000 00000000 00000000
    00000000 00000000 00004000 0800ffff  666c6173 68000000 00000000 00000000";

/// Example G: four stripes of 4 MiB anywhere.
const G: &str = "d00bd10b 01000000 00000000 00000000 00000000 00000000 00004000 0400ffff";

#[test]
fn a_file_gets_the_built_in_layout_when_it_is_opened_for_writing() {
    let Some(fs) = mounted(eight()) else { return };
    File::create(fs.path("file")).unwrap();
    let layout = fs.layout("file");
    assert_eq!(layout.len(), 32 + 24);
    assert_eq!(u32_at(&layout, 0), 0x0bd1_0bd0);
    assert_eq!((u32_at(&layout, 4), u32_at(&layout, 24)), (1, 4 << 20));
    assert_eq!((u16_at(&layout, 28), u16_at(&layout, 30)), (1, 0xffff));
}

#[test]
fn a_delayed_file_has_no_layout_until_it_is_given_one_or_opened_for_writing() {
    let Some(fs) = mounted(eight()) else { return };
    let file = fs.delayed("file");
    assert_eq!(fs.try_layout("file"), None);
    assert_eq!(number(file.write_at(b"x", 0)), EBADF);
    assert_eq!(file.read_at(&mut [0], 0).unwrap(), 0);
    OpenOptions::new().read(true).open(fs.path("file")).unwrap();
    assert_eq!(fs.try_layout("file"), None);
    OpenOptions::new().write(true).open(fs.path("file")).unwrap();
    assert_eq!(fs.osts_of("file").len(), 1);
    file.write_all_at(b"x", 0).unwrap();
}

#[test]
fn a_file_made_by_mknod_or_for_reading_has_no_layout() {
    let Some(fs) = mounted(eight()) else { return };
    mknod(&fs.path("node"), SFlag::S_IFREG, Mode::from_bits_truncate(0o644), 0).unwrap();
    let flags = OFlag::O_CREAT | OFlag::O_RDONLY;
    drop(nix::fcntl::open(&fs.path("read"), flags, Mode::from_bits_truncate(0o644)).unwrap());
    for name in ["node", "read"] {
        assert_eq!(fs.try_layout(name), None, "{name}");
        try_set(&fs, name, &plain(2, MIB)).unwrap();
        assert_eq!(fs.osts_of(name).len(), 2, "{name}");
    }
}

#[test]
fn the_smallest_request_gives_four_stripes_and_their_data_lies_there() {
    let Some(fs) = mounted(eight()) else { return };
    let request = hex(G);
    assert_eq!(request, plain(4, 4 * MIB));
    let file = fs.striped("file", &request);
    let osts = fs.osts_of("file");
    assert_eq!(osts.len(), 4);
    file.write_all_at(&vec![7; 1 << 20], 4 * MIB).unwrap();
    let writes = fs.fs.log().writes();
    let parts: Vec<_> = writes.iter().flat_map(|write| &write.parts).collect();
    assert!(parts.iter().all(|part| part.object.unwrap().ost == osts[1] && part.stripe == Some(1)));
    assert_eq!(parts.iter().map(|part| part.length).sum::<u64>(), MIB);
    assert_eq!(parts[0].object_offset, 0);
    assert_eq!(fs::read(fs.path("file")).unwrap().len(), 5 << 20);
}

#[test]
fn a_fetched_plain_value_can_be_set_again_and_is_answered_alike() {
    let Some(fs) = mounted(with_flash()) else { return };
    fs.striped("file", &hex(B));
    let mut answer = fs.layout("file");
    let mut expected = hex(B);
    for value in [&mut answer, &mut expected] {
        value[8..24].fill(0); // the file's identity
        for object in 0..4 {
            let at = 48 + 24 * object;
            value[at + 8..at + 12].fill(0); // the object's number on its OST
        }
    }
    assert_eq!(answer, expected);
}

#[test]
fn components_are_made_when_they_are_written_and_each_grows_the_generation() {
    let Some(fs) = mounted(eight()) else { return };
    let file = fs.striped("file", &hex(C));
    let first = fs.layout("file");
    assert_eq!(u32_at(&first, 8), 1, "generation");
    let made: Vec<bool> = entries(&first).iter().map(|entry| entry.flags & 0x10 != 0).collect();
    assert_eq!(made, [true, false, false]);
    assert_eq!(entries(&first)[1].part.len(), 32);
    assert_eq!(u16_at(&entries(&first)[2].part, 28), 8, "the count that was asked for");

    file.write_all_at(b"x", 5 * MIB).unwrap();
    let mut second = fs.layout("file");
    assert_eq!(u32_at(&second, 8), 2, "generation");
    assert!(second.len() > first.len());
    // Now it is example C but for the generation and the objects.
    let mut expected = hex(C);
    for value in [&mut second, &mut expected] {
        value[8..12].fill(0);
        for (part, objects) in [(0xb0, 1), (0xe8, 2)] {
            value[part + 32..part + 32 + 24 * objects].fill(0);
        }
    }
    assert_eq!(second, expected);

    file.write_all_at(&[1; 2], 64 * MIB - 1).unwrap();
    let third = fs.layout("file");
    assert_eq!(u32_at(&third, 8), 3);
    assert_eq!(osts(&entries(&third)[2].part).len(), 8);
}

#[test]
fn an_uninstantiated_component_keeps_its_count_of_all() {
    let Some(fs) = mounted(eight()) else { return };
    let parts = [(0, MIB, plain(1, MIB)), (MIB, EOF, plain(0xffff, MIB))];
    let file = fs.striped("file", &composite(&parts));
    assert_eq!(u16_at(&entries(&fs.layout("file"))[1].part, 28), 0xffff);
    file.write_all_at(b"x", MIB).unwrap();
    assert_eq!(u16_at(&entries(&fs.layout("file"))[1].part, 28), 8);
}

#[test]
fn growing_and_allocating_make_components_too() {
    let Some(fs) = mounted(eight()) else { return };
    let parts = [(0, MIB, plain(1, MIB)), (MIB, EOF, plain(2, MIB))];
    let grown = fs.striped("grown", &composite(&parts));
    grown.set_len(MIB).unwrap();
    assert_eq!(entries(&fs.layout("grown"))[1].flags & 0x10, 0);
    grown.set_len(MIB + 1).unwrap();
    assert_eq!(entries(&fs.layout("grown"))[1].flags & 0x10, 0x10);
    assert_eq!(u32_at(&fs.layout("grown"), 8), 2);

    let file = fs.striped("allocated", &composite(&parts));
    let mode = nix::fcntl::FallocateFlags::empty();
    nix::fcntl::fallocate(&file, mode, 0, i64::try_from(2 * MIB).unwrap()).unwrap();
    assert_eq!(entries(&fs.layout("allocated"))[1].flags & 0x10, 0x10);
}

#[test]
fn a_file_whose_components_end_refuses_what_is_beyond() {
    let Some(fs) = mounted(eight()) else { return };
    let file = fs.striped("file", &composite(&[(0, MIB, plain(1, MIB))]));
    file.write_all_at(b"x", MIB - 1).unwrap();
    file.write_at(b"x", MIB).unwrap_err();
    file.set_len(MIB + 1).unwrap_err();
    assert_eq!(file.metadata().unwrap().len(), MIB);
}

#[test]
fn a_length_before_the_layout_gives_the_default_one() {
    let Some(fs) = mounted(eight()) else { return };
    let file = fs.delayed("grown");
    file.set_len(0).unwrap();
    assert_eq!(fs.try_layout("grown"), None, "nothing to keep anywhere");
    file.set_len(1).unwrap();
    assert_eq!(fs.osts_of("grown").len(), 1);
    let file = fs.delayed("allocated");
    nix::fcntl::fallocate(&file, nix::fcntl::FallocateFlags::empty(), 0, 1).unwrap();
    assert_eq!(fs.osts_of("allocated").len(), 1);
    try_set(&fs, "grown", &plain(4, MIB)).unwrap();
    assert_eq!(fs.osts_of("grown").len(), 1, "too late");
}

#[test]
fn a_layout_stays_with_its_file() {
    let Some(fs) = mounted(eight()) else { return };
    fs.striped("file", &plain(3, MIB));
    let before = fs.layout("file");
    File::create(fs.path("file")).unwrap(); // O_TRUNC
    assert_eq!(fs.layout("file"), before);
    fs::rename(fs.path("file"), fs.path("other")).unwrap();
    assert_eq!(fs.layout("other"), before);
    fs::hard_link(fs.path("other"), fs.path("linked")).unwrap();
    assert_eq!(fs.layout("linked"), before);
    // A new file of an old name, or of an old number, has nothing of the old one.
    fs::remove_file(fs.path("other")).unwrap();
    fs::remove_file(fs.path("linked")).unwrap();
    fs.delayed("other");
    assert_eq!(fs.try_layout("other"), None);
}

#[test]
fn what_is_neither_file_nor_directory_has_no_layout() {
    let Some(fs) = mounted(eight()) else { return };
    std::os::unix::fs::symlink("nowhere", fs.path("link")).unwrap();
    mknod(&fs.path("fifo"), SFlag::S_IFIFO, Mode::from_bits_truncate(0o600), 0).unwrap();
    for name in ["link", "fifo"] {
        assert_eq!(fs.try_layout(name), None, "{name}");
        assert!(xattr::list(fs.path(name)).unwrap().next().is_none(), "{name}");
    }
    try_set(&fs, "fifo", &plain(1, MIB)).unwrap_err();
}

#[test]
fn requests_that_are_no_layouts_are_out_of_range() {
    let Some(fs) = mounted(eight()) else { return };
    fs.delayed("file");
    let mut long = composite(&[(0, EOF, plain(1, MIB))]);
    long[4] += 1; // it says that it is longer than it is
    let mut many = specific(MIB, &[1, 2]);
    many.truncate(many.len() - 24);
    for wrong in [&b"short"[..], &[0; 31], &[0xaa; 40], &long, &many] {
        assert_eq!(number(try_set(&fs, "file", wrong)), ERANGE, "{wrong:?}");
    }
    try_set(&fs, "file", b"").unwrap();
    assert_eq!(fs.try_layout("file"), None);
    fs::create_dir(fs.path("dir")).unwrap();
    assert_eq!(number(try_set(&fs, "dir", &[0xaa; 40])), EINVAL);
}

#[test]
fn requests_that_break_a_rule_are_invalid() {
    let Some(fs) = mounted(with_flash()) else { return };
    fs.delayed("file");
    let with_pool = |mut part: Vec<u8>| {
        part[2] = 0xd3;
        part.extend(b"flash");
        part.resize(48, 0);
        part
    };
    let mut raid1 = plain(1, MIB);
    raid1[4] = 2;
    let mut stripes_of_pool = pooled(1, MIB, "flash");
    stripes_of_pool[30..32].copy_from_slice(&1_u16.to_le_bytes());
    let mut two_stripes = dom(MIB);
    two_stripes[28] = 2;
    let one = |end| (0, end, plain(1, MIB));
    let rest = |start| (start, EOF, plain(1, MIB));
    let rules: [(&str, Vec<u8>); 16] = [
        ("stripe size", plain(1, MIB + 4096)),
        ("no such OST", plain_at(1, MIB, 8)),
        ("no such OST by name", specific(MIB, &[1, 8])),
        ("not in the pool", stripes_of_pool),
        ("pattern", raid1),
        ("DoM outside a composite", dom(MIB)),
        ("DoM is not first", composite(&[one(MIB), (MIB, 2 * MIB, dom(2 * MIB)), rest(2 * MIB)])),
        ("DoM size", composite(&[(0, 2 * MIB, dom(MIB)), rest(2 * MIB)])),
        ("DoM count", composite(&[(0, MIB, two_stripes), rest(MIB)])),
        ("DoM pool", composite(&[(0, MIB, with_pool(dom(MIB))), rest(MIB)])),
        ("not aligned", composite(&[one(MIB + 4096), rest(MIB + 4096)])),
        ("a gap", composite(&[one(MIB), rest(2 * MIB)])),
        ("does not begin at 0", composite(&[rest(MIB)])),
        ("not a multiple of the stripe", composite(&[one(MIB + 64 * KIB), rest(MIB + 64 * KIB)])),
        ("mirrors", composite_with(1, &[(0, rest(0))])),
        ("too many mirrors", composite_with(16, &vec![(0, rest(0)); 17])),
    ];
    for (rule, request) in rules {
        assert_eq!(number(try_set(&fs, "file", &request)), EINVAL, "{rule}");
        assert_eq!(fs.try_layout("file"), None, "{rule}");
    }
}

#[test]
fn setting_a_second_layout_succeeds_and_changes_nothing() {
    let Some(fs) = mounted(eight()) else { return };
    fs.striped("file", &plain(2, MIB));
    let before = fs.layout("file");
    try_set(&fs, "file", &plain(4, 4 * MIB)).unwrap();
    assert_eq!(fs.layout("file"), before);
    xattr::set(fs.path("file"), "trusted.lov", &plain(4, 4 * MIB)).unwrap();
    assert_eq!(fs.layout("file"), before);
}

#[test]
fn counts_are_lowered_to_what_there_is_and_overstriping_uses_osts_again() {
    let Some(fs) = mounted(eight()) else { return };
    let count = |name: &str, request: &[u8]| {
        fs.striped(name, request);
        fs.osts_of(name)
    };
    assert_eq!(count("more", &plain(100, MIB)).len(), 8);
    assert_eq!(count("all", &plain(0xffff, MIB)).len(), 8);
    let over = |count: u16| {
        let mut request = plain(count, MIB);
        request[5] = 2; // pattern 0x201
        request
    };
    let mut twelve = count("over", &over(12));
    assert_eq!(u32_at(&fs.layout("over"), 4), 0x201);
    assert_eq!(twelve.len(), 12);
    twelve.sort_unstable();
    twelve.dedup();
    assert_eq!(twelve.len(), 8);
    assert_eq!(count("twice", &over(0xfffe)).len(), 16);
}

#[test]
fn missing_fields_of_a_request_come_from_the_defaults() {
    let Some(fs) = mounted(eight()) else { return };
    try_set(&fs, "", &plain(3, 0)).unwrap();
    fs::create_dir(fs.path("dir")).unwrap();
    try_set(&fs, "dir", &plain(0, 2 * MIB)).unwrap();
    fs.striped("dir/file", &plain(0, 0));
    let layout = fs.layout("dir/file");
    assert_eq!((u16_at(&layout, 28), u32_at(&layout, 24)), (3, 2 << 20));
}

#[test]
fn an_unknown_pool_is_accepted_and_a_known_one_is_kept_to() {
    let Some(fs) = mounted(with_flash()) else { return };
    fs.striped("unknown", &pooled(8, MIB, "nowhere"));
    assert_eq!(fs.osts_of("unknown").len(), 8);
    assert_eq!(&fs.layout("unknown")[32..40], b"nowhere\0");
    fs.striped("known", &pooled(8, MIB, "flash"));
    let mut osts = fs.osts_of("known");
    osts.sort_unstable();
    assert_eq!(osts, [4, 5, 6, 7]);
    fs.fs.change(|settings| settings.misbehave.ignore_pools = true);
    fs.striped("ignored", &pooled(8, MIB, "flash"));
    assert_eq!(fs.osts_of("ignored").len(), 8);
}

#[test]
fn named_osts_are_taken_in_their_order_and_inactive_ones_refused() {
    let Some(fs) = mounted(eight()) else { return };
    fs.striped("file", &specific(MIB, &[6, 1, 3]));
    assert_eq!(fs.osts_of("file"), [6, 1, 3]);
    assert_eq!(u32_at(&fs.layout("file"), 0), 0x0bd1_0bd0, "answered as a plain layout");
    fs.striped("first", &plain_at(3, MIB, 6));
    assert_eq!(fs.osts_of("first"), [6, 7, 0]);
    fs.fs.ost(1).set_inactive(true);
    fs.delayed("refused");
    assert_eq!(number(try_set(&fs, "refused", &specific(MIB, &[1]))), EREMOTEIO);
    fs.striped("around", &plain(0xffff, MIB));
    assert!(!fs.osts_of("around").contains(&1));
}

#[test]
fn a_composite_default_is_inherited_whole_by_files_and_directories() {
    let Some(fs) = mounted(with_flash()) else { return };
    fs::create_dir(fs.path("dir")).unwrap();
    try_set(&fs, "dir", &hex(E)).unwrap();
    assert_eq!(fs.layout("dir"), hex(E));
    fs::create_dir(fs.path("dir/below")).unwrap();
    assert_eq!(fs.layout("dir/below"), hex(E));
    File::create(fs.path("dir/below/file")).unwrap();
    let made = entries(&fs.layout("dir/below/file"));
    assert_eq!((made[0].start, made[0].end), (0, 256 * MIB));
    assert_eq!((made[0].id, made[0].flags), (1, 0x10));
    assert_eq!(osts(&made[0].part).len(), 1);
    assert!(osts(&made[0].part)[0] >= 4, "in its pool");
    assert_eq!((made[1].id, made[1].flags, made[1].part.len()), (2, 0, 48));

    xattr::remove(fs.path("dir"), "lustre.lov").unwrap();
    assert_eq!(fs.try_layout("dir"), None);
    try_set(&fs, "dir/below", b"").unwrap();
    assert_eq!(fs.try_layout("dir/below"), None);
}

#[test]
fn a_directory_without_a_default_shows_that_of_the_root() {
    let Some(fs) = mounted(eight()) else { return };
    fs::create_dir(fs.path("dir")).unwrap();
    assert_eq!(fs.try_layout("dir"), None);
    try_set(&fs, "", &plain(2, MIB)).unwrap();
    assert_eq!(fs.layout("dir"), plain(2, MIB));
    fs::create_dir(fs.path("later")).unwrap();
    File::create(fs.path("dir/file")).unwrap();
    assert_eq!(fs.osts_of("dir/file").len(), 2);
    // It was shown, not copied.
    xattr::remove(fs.path(""), "lustre.lov").unwrap();
    assert_eq!(fs.try_layout("later"), None);
}

#[test]
fn a_fetched_value_does_not_become_a_start_index() {
    // A plain value of an older client has 0 where a request has its start index.
    let settings = Settings { answers: Answers::Old, ..eight() };
    let Some(fs) = mounted(settings) else { return };
    fs.striped("moves-the-pointer", &plain(3, MIB));
    fs.striped("file", &plain_at(2, MIB, 5));
    let fetched = fs.layout("file");
    assert_eq!(u16_at(&fetched, 30), 0, "the old answer");
    fs.striped("copy", &fetched);
    assert_eq!(fs.osts_of("copy"), [3, 4], "from where the last file ended");
    // Without objects the same 0 is a wish.
    fs.striped("wish", &plain_at(2, MIB, 0));
    assert_eq!(fs.osts_of("wish"), [0, 1]);
}

#[test]
fn an_older_client_takes_a_components_generation_for_a_start_index() {
    for (answers, expected) in [(Answers::Old, [2, 3]), (Answers::New, [0, 1])] {
        let Some(fs) = mounted(Settings { answers, ..eight() }) else { return };
        let parts = [(0, MIB, plain(2, MIB)), (MIB, EOF, plain(2, MIB))];
        let file = fs.striped("file", &composite(&parts));
        file.write_all_at(b"x", MIB).unwrap(); // its generation is 2
        let mut fetched = fs.layout("file");
        // Only the second component, as the first of a file.
        let second = entries(&fetched)[1].clone();
        fetched.splice(.., composite_with(0, &[(second.flags, (0, EOF, second.part))]));
        for name in ["a", "b"] {
            fs.striped(name, &plain(2, MIB)); // the pointer comes round to 0
        }
        fs.striped("copy", &fetched);
        assert_eq!(osts(&entries(&fs.layout("copy"))[0].part), expected, "{answers:?}");
    }
}

#[test]
fn data_on_the_metadata_server_takes_no_ost() {
    let Some(fs) = mounted(eight()) else { return };
    let parts = [(0, MIB, dom(MIB)), (MIB, EOF, plain(4, 4 * MIB))];
    let file = fs.striped("file", &composite(&parts));
    assert_eq!(fs.layout("file"), hex(D));
    file.write_all_at(&vec![1; 1 << 20], 0).unwrap();
    assert!(fs.fs.log().moved().is_empty());
    assert_eq!(fs.layout("file"), hex(D));
    file.write_all_at(b"x", MIB).unwrap();
    assert_eq!(osts(&entries(&fs.layout("file"))[1].part).len(), 4);
    assert_eq!(fs.fs.log().moved().len(), 1);
}

#[test]
fn a_server_may_cut_dom_or_drop_it() {
    let Some(fs) = mounted(eight()) else { return };
    let parts = [(0, MIB, dom(MIB)), (MIB, EOF, plain(1, MIB))];
    let limit = |limit| {
        fs.fs.change(|settings| {
            settings.misbehave = Misbehaviour { dom_limit: Some(limit), ..Misbehaviour::default() };
        });
    };
    limit(64 * KIB);
    fs.striped("cut", &composite(&parts));
    let cut = entries(&fs.layout("cut"));
    assert_eq!((cut[0].end, cut[1].start), (64 * KIB, 64 * KIB));
    assert_eq!(u32_at(&cut[0].part, 24), 64 << 10);
    limit(0);
    fs.striped("dropped", &composite(&parts));
    let dropped = entries(&fs.layout("dropped"));
    assert_eq!((dropped.len(), dropped[0].start, u32_at(&dropped[0].part, 4)), (1, 0, 1));
    fs.delayed("nothing");
    let only = composite(&[(0, MIB, dom(MIB))]);
    assert_eq!(number(try_set(&fs, "nothing", &only)), EFBIG);
}

#[test]
fn a_server_may_grant_fewer_stripes() {
    let misbehave = Misbehaviour { most_stripes: Some(3), ..Misbehaviour::default() };
    let Some(fs) = mounted(Settings { misbehave, ..eight() }) else { return };
    fs.striped("file", &plain(8, MIB));
    assert_eq!(fs.osts_of("file").len(), 3);
}

#[test]
fn a_write_to_a_mirrored_file_makes_the_other_mirror_stale() {
    let Some(fs) = mounted(eight()) else { return };
    let mirror = |first| (0, EOF, plain_at(1, MIB, first));
    let request = composite_with(1, &[(0, mirror(0)), (0, mirror(5))]);
    let file = fs.striped("file", &request);
    let before = fs.layout("file");
    assert_eq!((u16_at(&before, 12), u16_at(&before, 16)), (1, 1), "in sync, two mirrors");
    let ids: Vec<u32> = entries(&before).iter().map(|entry| entry.id).collect();
    assert_eq!(ids, [0x10001, 0x20002]);
    file.write_all_at(b"x", 0).unwrap();
    let after = fs.layout("file");
    assert_eq!(u16_at(&after, 12), 2, "write pending");
    assert_eq!(u32_at(&after, 8), 2, "generation");
    let flags: Vec<u32> = entries(&after).iter().map(|entry| entry.flags).collect();
    assert_eq!(flags, [0x10, 0x11]);
    assert_eq!(fs.fs.log().moved().keys().copied().collect::<Vec<_>>(), [0]);

    // The mirror that is preferred for writing is written.
    let request = composite_with(1, &[(0, mirror(0)), (4, mirror(5))]);
    let preferring = fs.striped("preferring", &request);
    preferring.write_all_at(b"x", 0).unwrap();
    assert_eq!(entries(&fs.layout("preferring"))[0].flags & 1, 1);
}

#[test]
fn components_grow_into_the_extensions_behind_them() {
    let Some(fs) = mounted(eight()) else { return };
    let extension = 0x40;
    let kib = |kib| plain(0, kib); // an extension counts in KiB
    let parts = [
        (0, (0, MIB, plain(1, MIB))),
        (extension, (MIB, 64 * MIB, kib(64 * KIB))),
        (0, (64 * MIB, EOF, plain(2, MIB))),
    ];
    let file = fs.striped("file", &composite_with(0, &parts));
    file.write_all_at(b"x", 2 * MIB).unwrap();
    let grown = entries(&fs.layout("file"));
    assert_eq!(grown[0].end, 64 * MIB, "by 64 MiB, which is all");
    assert_eq!(grown.len(), 2);
    assert_eq!(grown[1].flags, 0);
    let parts = [parts[0].clone(), (extension, (MIB, 64 * MIB, kib(1 << 10))), parts[2].clone()];
    let file = fs.striped("stepwise", &composite_with(0, &parts));
    file.write_all_at(b"x", 2 * MIB).unwrap();
    let grown = entries(&fs.layout("stepwise"));
    assert_eq!((grown[0].end, grown[1].start, grown[1].flags), (3 * MIB, 3 * MIB, 0x40));
}

#[test]
fn attributes_are_listed_and_sized_as_a_client_does_it() {
    let Some(fs) = mounted(eight()) else { return };
    fs.delayed("bare");
    File::create(fs.path("file")).unwrap();
    fs::create_dir(fs.path("dir")).unwrap();
    let names = |name: &str| {
        let mut names: Vec<String> =
            xattr::list(fs.path(name)).unwrap().map(|name| name.into_string().unwrap()).collect();
        names.sort();
        names
    };
    assert_eq!(names("file"), ["lustre.lov", "trusted.lov"]);
    assert!(names("bare").is_empty());
    assert!(names("dir").is_empty());
    assert_eq!(
        xattr::get(fs.path("file"), "trusted.lov").unwrap(),
        xattr::get(fs.path("file"), "lustre.lov").unwrap()
    );
    let size = |room: &mut [u8]| rustix::fs::getxattr(fs.path("file"), "lustre.lov", room);
    assert_eq!(rustix::fs::getxattr_query(fs.path("file"), "lustre.lov").unwrap(), 56);
    assert_eq!(size(&mut [0; 55]).unwrap_err().raw_os_error(), ERANGE);
    assert_eq!(size(&mut [0; 56]).unwrap(), 56);
    let bare = rustix::fs::getxattr(fs.path("bare"), "lustre.lov", &mut [0; 1][..]);
    assert_eq!(bare.unwrap_err().raw_os_error(), ENODATA);
}

#[test]
fn what_only_servers_set_is_ignored_or_refused() {
    let Some(fs) = mounted(eight()) else { return };
    File::create(fs.path("file")).unwrap();
    let set = |name: &str| xattr::set(fs.path("file"), name, b"value");
    for ignored in ["trusted.lma", "trusted.link", "trusted.fid", "trusted.som", "trusted.lmv"] {
        set(ignored).unwrap();
        assert_eq!(xattr::get(fs.path("file"), ignored).unwrap(), None, "{ignored}");
    }
    assert_eq!(number(set("lustre.lov.other")), EINVAL);
    assert_eq!(number(set("trusted.emulator.lov")), EPERM);
    set("user.kept").unwrap();
    set("trusted.kept").unwrap();
    assert_eq!(xattr::get(fs.path("file"), "user.kept").unwrap().unwrap(), b"value");
    // What the emulator keeps is not to be seen.
    assert!(
        xattr::list(fs.path("file"))
            .unwrap()
            .all(|name| !name.to_string_lossy().contains("emulator"))
    );
    assert_eq!(xattr::get(fs.path("file"), "trusted.emulator.lov").unwrap(), None);
}

#[test]
fn another_user_sees_the_layout_only_with_the_right_to_read() {
    if !has_program("getfattr") {
        return;
    }
    let Some(fs) = mounted(eight()) else { return };
    File::create(fs.path("open")).unwrap();
    fs::copy(fs.path("open"), fs.path("closed")).unwrap();
    xattr::set(fs.path("open"), "trusted.other", b"x").unwrap();
    let closed = std::os::unix::fs::PermissionsExt::from_mode(0o200);
    fs::set_permissions(fs.path("closed"), closed).unwrap();
    fs.open_to_all();
    let ask = |name: &str| {
        let mut command = Command::new("getfattr");
        command.args(["--absolute-names", "-d", "-m", "-", "-e", "hex"]).arg(fs.path(name));
        let out = command.uid(65534).gid(65534).output().unwrap();
        String::from_utf8(out.stdout).unwrap()
    };
    assert!(ask("open").contains("lustre.lov=0xd00bd10b"), "{}", ask("open"));
    assert!(!ask("open").contains("trusted."), "{}", ask("open"));
    assert!(!ask("closed").contains("lustre.lov=0x"), "{}", ask("closed"));
}

#[test]
fn the_mount_shows_itself_as_lustre_and_its_files_as_lustre_does() {
    let Some(fs) = mounted(eight()) else { return };
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    let line = mounts
        .lines()
        .find(|line| line.contains(fs.path("").to_str().unwrap().trim_end_matches('/')));
    assert!(line.unwrap().starts_with("10.0.0.1@tcp:/emul "), "{line:?}");
    assert!(line.unwrap().contains(" fuse.lustre "), "{line:?}");
    File::create(fs.path("file")).unwrap();
    assert_eq!(fs::metadata(fs.path("file")).unwrap().blksize(), 4 << 20);
    let kinds: Vec<_> =
        fs::read_dir(fs.path("")).unwrap().map(|entry| entry.unwrap().file_type()).collect();
    assert!(kinds.iter().all(|kind| kind.as_ref().unwrap().is_file()));
}
