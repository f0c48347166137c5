//! The oracle itself under test: it accepts what `cp -a` makes, and it finds every kind of damage
//! that it claims to find. Nothing here runs longshore.
#![allow(clippy::unwrap_used, clippy::print_stderr, clippy::print_stdout, unreachable_pub)] // tests

mod support;

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, symlink};
use std::path::Path;

use nix::sys::stat::{SFlag, makedev};
use support::compare::{Snapshot, assert_none, diff_snapshots};
use support::tree::{self, attribute, chmod, chown, hard_link, node, posix_acl, set_times};
use support::{
    Compare, Fs, Scratch, Seed, Tree, TreeOptions, cp_a, diff_trees, need_root, random_tree,
};

#[test]
fn cp_a_is_exact_on_every_pair_of_filesystems() {
    let seed = Seed::fixed(1);
    for from in Fs::ALL {
        for to in Fs::ALL {
            let (Some(source), Some(target)) = (Scratch::new(from), Scratch::new(to)) else {
                continue;
            };
            let tree = Tree::make(
                source.join("tree"),
                seed.0,
                TreeOptions { deep: 15, ..TreeOptions::small() },
            );
            cp_a(&tree.root, &target.join("copy"));
            let differences = diff_trees(&tree.root, &target.join("copy"), Compare::default());
            assert_none(&differences, &format!("cp -a from {from} to {to}"));
        }
    }
}

#[test]
fn cp_a_is_exact_on_random_trees() {
    let seed = Seed::fresh();
    let mut rng = seed.rng();
    let Some(scratch) = Scratch::new(Fs::Tmpfs) else { return };
    for n in 0..5 {
        let source = scratch.join(format!("source-{n}"));
        random_tree::make(&source, &mut rng, 150);
        cp_a(&source, &scratch.join(format!("copy-{n}")));
        assert_none(
            &diff_trees(&source, &scratch.join(format!("copy-{n}")), Compare::default()),
            "cp -a",
        );
    }
}

#[test]
fn the_same_seed_makes_the_same_tree() {
    let Some(scratch) = Scratch::new(Fs::Ext4) else { return };
    let a = Tree::make(scratch.join("a"), 7, TreeOptions::small());
    let b = Tree::make(scratch.join("b"), 7, TreeOptions::small());
    let compare = Compare { mtime: false, ..Compare::default() };
    assert_none(&diff_trees(&a.root, &b.root, compare), "two trees of one seed");
}

/// One way to damage a copy, and the word under which the comparison must report it.
type Damage = (&'static str, &'static str, fn(&Path));

const DAMAGES: &[Damage] = &[
    ("missing", "many/entry-000003", |p| fs::remove_file(p).unwrap()),
    ("extraneous", "many/another", |p| fs::write(p, "x").unwrap()),
    ("extraneous", "empty-directory-too-many", |p| fs::create_dir(p).unwrap()),
    ("type", "sizes/of-1", |p| replace(p, |p| symlink("x", p).unwrap())),
    ("type", "special/fifo", |p| replace(p, |p| node(p, SFlag::S_IFSOCK, 0))),
    ("content", "sizes/of-131073", |p| write_at(p, 131_072)),
    ("content", "sizes/of-4096", |p| write_at(p, 0)),
    ("content", "holes/gigabyte", |p| write_at(p, 2000 * 256 * 1024 + 5)),
    ("content", "holes/everything", |p| write_at(p, 70_000)),
    ("size", "sizes/of-4097", |p| {
        File::options().write(true).open(p).unwrap().set_len(4096).unwrap()
    }),
    ("hole", "holes/leading", |p| fill(p, 0, 256 * 1024)),
    ("hole", "holes/trailing", |p| fill(p, 1024 * 1024, 512 * 1024)),
    ("hole", "holes/everything", |p| fill(p, 1024 * 1024, 128 * 1024)),
    ("blocks", "holes/everything", |p| fill(p, 0, 2 * 1024 * 1024)),
    ("mode", "modes/file-4755", |p| chmod(p, 0o755)),
    ("mode", "modes/dir-1777", |p| chmod(p, 0o777)),
    ("uid", "owners/file-1", |p| chown(p, 3, 65534)),
    ("uid", "owners/link-1", |p| chown(p, 3, 65534)),
    ("gid", "owners/dir-1", |p| chown(p, 65534, 3)),
    ("uid", "owners/fifo-1", |p| chown(p, 3, 65534)),
    ("mtime", "times/file-year-2200", |p| set_times(p, 7_258_118_400, 999_999_998)),
    ("mtime", "times/dir-before-1970", |p| set_times(p, -1_000_000_000, 0)),
    ("mtime", "times/link-zero", |p| set_times(p, 0, 1)),
    ("mtime", "special/fifo", |p| set_times(p, 5, 5)),
    ("link text", "links/relative", |p| replace(p, |p| symlink("targeT", p).unwrap())),
    ("links", "links/two-b", |p| unlink_copy(p)),
    ("links", "other-links/dangling-again", |p| replace(p, |p| symlink("missing", p).unwrap())),
    ("links", "other-links/fifo-b", |p| replace(p, |p| node(p, SFlag::S_IFIFO, 0))),
    ("links", "sizes/of-1", |p| replace(p, |p| hard_link(&p.with_file_name("of-0"), p))),
    ("xattr", "attributes/file", |p| xattr::remove(p, "user.empty").unwrap()),
    ("xattr", "attributes/file", |p| attribute(p, "user.binary", b"\0\xff\n\x80\x01")),
    ("xattr", "attributes/file", |p| attribute(p, "user.more", b"")),
    ("xattr", "attributes/file", |p| attribute(p, "trusted.longshore", b"")),
    ("xattr", "attributes/empty-directory", |p| xattr::remove(p, "user.text").unwrap()),
    ("xattr", "attributes/link", |p| xattr::remove(p, "trusted.of-a-link").unwrap()),
    ("xattr", "attributes/acl", |p| {
        attribute(p, "system.posix_acl_access", &posix_acl(7, 12346, 5))
    }),
    ("xattr", "attributes/acl", |p| xattr::remove(p, "system.posix_acl_access").unwrap()),
    ("xattr", "attributes/directory-acl", |p| {
        xattr::remove(p, "system.posix_acl_default").unwrap()
    }),
    ("xattr", "attributes/capability", |p| xattr::remove(p, "security.capability").unwrap()),
    ("device", "special/char", |p| replace(p, |p| node(p, SFlag::S_IFCHR, makedev(1, 5)))),
    ("mode", "", |p| chmod(p, 0o700)),
    ("mtime", "", |p| set_times(p, 1, 1)),
];

#[test]
fn every_damage_is_found_under_its_name() {
    if !need_root() {
        return;
    }
    for fs in Fs::ALL {
        let Some(scratch) = Scratch::new(fs) else { continue };
        let options = TreeOptions { big: false, deep: 1, many: 5, ..TreeOptions::default() };
        let source = Tree::make(scratch.join("source"), 3, options).root;
        for (n, (what, name, damage)) in DAMAGES.iter().enumerate() {
            let copy = scratch.join(format!("copy-{n}"));
            cp_a(&source, &copy);
            let victim = if name.is_empty() { copy.clone() } else { copy.join(name) };
            damage(&victim);
            let differences = diff_trees(&source, &copy, Compare::default());
            let found = differences.iter().any(|d| d.what == *what && d.path == Path::new(name));
            assert!(
                found,
                "on {fs}, damage {n} to {name:?} not found as {what:?}; found {differences:#?}"
            );
            support::scratch::remove(&copy);
        }
    }
}

#[test]
fn damage_beyond_path_max_is_found() {
    let Some(scratch) = Scratch::new(Fs::Tmpfs) else { return };
    for (name, depth) in [("a", 600), ("b", 599)] {
        fs::create_dir(scratch.join(name)).unwrap();
        tree::make_chain(&scratch.join(name), "twenty-characters-xx", depth);
    }
    let differences = diff_trees(
        &scratch.join("a"),
        &scratch.join("b"),
        Compare { mtime: false, ..Compare::default() },
    );
    assert!(
        differences.iter().any(|d| d.what == "missing" && d.path.as_os_str().len() > 12_000),
        "{differences:?}"
    );
}

#[test]
fn an_access_time_is_compared_when_asked() {
    let scratch = Scratch::on_disk();
    fs::write(scratch.join("a"), "a").unwrap();
    cp_a(&scratch.join("a"), &scratch.join("b"));
    tree::set_times(&scratch.join("a"), 5, 5);
    let before = Snapshot::of(&scratch.join("a")); // reading it may move its access time
    cp_a(&scratch.join("a"), &scratch.join("c"));
    let compare = Compare { atime: true, ..Compare::default() };
    assert_none(
        &diff_snapshots(&before, &Snapshot::of(&scratch.join("c")), compare),
        "cp -a keeps access times",
    );
    let differences = diff_snapshots(&before, &Snapshot::of(&scratch.join("b")), compare);
    assert!(differences.iter().any(|d| d.what == "atime"), "{differences:?}");
}

fn replace(path: &Path, with: fn(&Path)) {
    fs::remove_file(path).unwrap();
    with(path);
}

fn unlink_copy(path: &Path) {
    let bytes = fs::read(path).unwrap();
    fs::remove_file(path).unwrap();
    fs::write(path, bytes).unwrap();
}

fn write_at(path: &Path, offset: u64) {
    File::options().write(true).open(path).unwrap().write_all_at(b"#", offset).unwrap();
}

fn fill(path: &Path, offset: u64, bytes: usize) {
    File::options().write(true).open(path).unwrap().write_all_at(&vec![0; bytes], offset).unwrap();
}
