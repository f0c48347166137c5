//! That the emulator answers as a Lustre client does, through plain calls: layouts, their rules, what
//! they do to files, and the other things a client shows.
#![allow(clippy::unwrap_used, clippy::print_stderr)] // tests

mod support;

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;

use lustre_emulator::{OstSettings, Settings};
use nix::libc::{EBADF, ERANGE};
use support::{MIB, hex, mounted, number, plain, u16_at, u32_at};

/// Eight OSTs that take no time.
fn eight() -> Settings {
    Settings::new(8, &OstSettings::default())
}

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
    OpenOptions::new().read(true).open(fs.path("file")).unwrap();
    assert_eq!(fs.try_layout("file"), None);
    OpenOptions::new().write(true).open(fs.path("file")).unwrap();
    assert_eq!(fs.osts_of("file").len(), 1);
    file.write_all_at(b"x", 0).unwrap();
}

#[test]
fn the_smallest_request_gives_four_stripes_and_their_data_lies_there() {
    let Some(fs) = mounted(eight()) else { return };
    let request = hex("d00bd10b 01000000 00000000 00000000 00000000 00000000 00004000 0400ffff");
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
fn requests_that_are_no_layouts_are_out_of_range() {
    let Some(fs) = mounted(eight()) else { return };
    let file = fs.delayed("file");
    for wrong in [&b"short"[..], &[0; 31], &[0xaa; 40]] {
        let set = xattr::FileExt::set_xattr(&file, "lustre.lov", wrong);
        assert_eq!(number(set), ERANGE, "{wrong:?}");
    }
    xattr::FileExt::set_xattr(&file, "lustre.lov", b"").unwrap();
    assert_eq!(fs.try_layout("file"), None);
}
