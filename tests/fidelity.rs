//! A copy is exact as `cp -a`: every filesystem, pairs of them, every backend, compared with the
//! source and with what `cp -a` makes of it. Where it lands is `destination.rs`.
#![allow(clippy::unwrap_used, clippy::print_stderr, clippy::print_stdout, unreachable_pub)] // tests

mod support;

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::time::{Duration, SystemTime};

use support::compare::{Difference, Snapshot, assert_none, diff_snapshots};
use support::flipping_disk::FlippingDisk;
use support::tree::{self, attribute, chmod, chown, give_to, posix_acl, set_times};
use support::{
    Backend, Compare, Fs, Longshore, NOBODY, Run, Scratch, Seed, Tree, TreeOptions,
    assert_same_tree, cp_a, diff_trees, for_each_backend, need_root,
};

/// Copies and fails unless the result is as good as that of `cp -a`.
fn copy_is_exact(source: &Path, target: &Path, backend: Backend, reference: &[Difference]) -> Run {
    let run = Longshore::copy(backend).arg(source).arg(target).expect(0);
    let mut differences = diff_trees(source, target, Compare::default());
    differences.retain(|d| !reference.iter().any(|r| r.path == d.path && r.what == d.what));
    assert_none(&differences, &run.describe());
    assert!(run.failed.is_empty(), "a failed item in {}", run.describe());
    run
}

fn every_backend_is_exact(from: Fs, to: Fs, options: TreeOptions) {
    let seed = Seed::fixed(20);
    let (Some(source), Some(target)) = (Scratch::new(from), Scratch::new(to)) else { return };
    let tree = Tree::make(source.join("tree"), seed.0, options);
    cp_a(&tree.root, &target.join("reference"));
    let mut reference = diff_trees(&tree.root, &target.join("reference"), Compare::default());
    // what lies beyond PATH_MAX is no excuse: cp cannot reach it, longshore must
    reference.retain(|difference| !difference.path.starts_with("deep"));
    let count = |kind: fn(&fs::FileType) -> bool| {
        let snapshot = walkdir::WalkDir::new(&tree.root).into_iter().filter_map(Result::ok);
        snapshot
            .filter(|entry| {
                !entry.path().starts_with(tree.root.join("deep")) && kind(&entry.file_type())
            })
            .count()
    };
    let symlinks = u64::try_from(count(fs::FileType::is_symlink)).unwrap();
    for_each_backend(|backend| {
        let copy = target.join(format!("copy-{backend}"));
        let run = copy_is_exact(&tree.root, &copy, backend, &reference);
        // one of the links is a second name of another
        assert!(
            run.count("/copied/symlinks") + run.count("/copied/hard_links") >= symlinks,
            "{}",
            run.describe()
        );
        support::scratch::remove(&copy);
    });
}

#[test]
fn tmpfs_is_copied_exactly() {
    every_backend_is_exact(Fs::Tmpfs, Fs::Tmpfs, TreeOptions::default());
}

#[test]
fn ext4_is_copied_exactly_with_a_directory_of_5000_entries() {
    every_backend_is_exact(
        Fs::Ext4,
        Fs::Ext4,
        TreeOptions { many: 5000, ..TreeOptions::default() },
    );
}

#[test]
fn xfs_is_copied_exactly() {
    every_backend_is_exact(Fs::Xfs, Fs::Xfs, TreeOptions::default());
}

#[test]
fn btrfs_is_copied_exactly() {
    every_backend_is_exact(Fs::Btrfs, Fs::Btrfs, TreeOptions::default());
}

#[test]
fn ext4_to_tmpfs_is_copied_exactly() {
    every_backend_is_exact(Fs::Ext4, Fs::Tmpfs, TreeOptions::default());
}

#[test]
fn tmpfs_to_xfs_is_copied_exactly() {
    every_backend_is_exact(Fs::Tmpfs, Fs::Xfs, TreeOptions::default());
}

#[test]
fn xfs_to_btrfs_is_copied_exactly() {
    every_backend_is_exact(Fs::Xfs, Fs::Btrfs, TreeOptions::default());
}

#[test]
fn the_root_disk_is_copied_exactly() {
    every_backend_is_exact(
        Fs::RootDisk,
        Fs::RootDisk,
        TreeOptions { big: false, ..TreeOptions::default() },
    );
}

/// XFS shows its ACLs a second time as `trusted.SGI_ACL_*`; copied as data they would be litter.
#[test]
fn acls_of_xfs_arrive_as_acls_and_leave_no_litter() {
    let (Some(source), Some(target)) = (Scratch::new(Fs::Xfs), Scratch::new(Fs::Ext4)) else {
        return;
    };
    fs::write(source.join("file"), "x").unwrap();
    attribute(&source.join("file"), "system.posix_acl_access", &posix_acl(7, 12, 5));
    for_each_backend(|backend| {
        let copy = target.join(format!("copy-{backend}"));
        copy_is_exact(&source.join("file"), &copy, backend, &[]);
        let names: Vec<_> = xattr::list(&copy).unwrap().collect();
        assert_eq!(names, ["system.posix_acl_access"]);
    });
}

#[test]
fn the_clone_backend_shares_blocks_on_filesystems_that_can() {
    for fs in [Fs::Xfs, Fs::Btrfs] {
        let Some(scratch) = Scratch::new(fs) else { continue };
        fs::write(scratch.join("file"), vec![7; 3_000_000]).unwrap();
        for backend in [Backend::Clone, Backend::Auto] {
            let copy = scratch.join(format!("copy-{backend}"));
            let run = copy_is_exact(&scratch.join("file"), &copy, backend, &[]);
            assert_eq!(run.count("/copied/bytes"), 3_000_000, "{}", run.describe());
            assert_eq!(
                run.count("/copied/bytes_moved"),
                0,
                "bytes were moved on {fs}: {}",
                run.describe()
            );
        }
    }
}

#[test]
fn access_times_are_kept() {
    let Some(scratch) = Scratch::new(Fs::Ext4) else { return };
    fs::create_dir(scratch.join("tree")).unwrap();
    fs::write(scratch.join("tree/file"), "content").unwrap();
    set_times(&scratch.join("tree/file"), 9, 9);
    let before = Snapshot::of(&scratch.join("tree"));
    for_each_backend(|backend| {
        set_times(&scratch.join("tree/file"), 9, 9); // reading moved it
        let copy = scratch.join(format!("copy-{backend}"));
        Longshore::copy(backend).arg(scratch.join("tree")).arg(&copy).expect(0);
        let differences = diff_snapshots(
            &before,
            &Snapshot::of(&copy),
            Compare { atime: true, ..Compare::default() },
        );
        let files: Vec<_> =
            differences.into_iter().filter(|d| d.path == Path::new("file")).collect();
        assert_none(&files, "access times");
    });
}

#[test]
fn a_default_acl_of_the_destination_does_not_leak_into_the_copy() {
    let Some(scratch) = Scratch::new(Fs::Ext4) else { return };
    let tree = Tree::make(scratch.join("tree"), 5, TreeOptions { deep: 1, ..TreeOptions::small() });
    for_each_backend(|backend| {
        let inside = scratch.join(format!("inside-{backend}"));
        fs::create_dir(&inside).unwrap();
        attribute(&inside, "system.posix_acl_default", &posix_acl(7, 4242, 7));
        Longshore::copy(backend).arg(&tree.root).arg(&inside).expect(0);
        assert_same_tree(&tree.root, &inside.join("tree"), Compare::default());
    });
}

#[test]
fn the_umask_of_the_caller_does_not_matter() {
    let Some(scratch) = Scratch::new(Fs::Tmpfs) else { return };
    let tree = Tree::make(scratch.join("tree"), 6, TreeOptions { deep: 1, ..TreeOptions::small() });
    for_each_backend(|backend| {
        for umask in ["000", "077", "777"] {
            let copy = scratch.join(format!("copy-{backend}-{umask}"));
            let shell = format!("umask {umask}; exec \"$0\" \"$@\"");
            // the command's own files were made before the shell changed the mask, except the report
            let run = Longshore::copy(backend)
                .through(&["sh", "-c", &shell])
                .arg(&tree.root)
                .arg(&copy)
                .run();
            assert_eq!(run.code, Some(0), "{}", run.describe());
            assert_same_tree(&tree.root, &copy, Compare::default());
        }
    });
}

#[test]
fn an_unprivileged_user_copies_an_own_tree_exactly() {
    let Some(scratch) = Scratch::new(Fs::Ext4) else { return };
    scratch.open_to_all();
    let tree = Tree::make(scratch.join("tree"), 8, TreeOptions::default().unprivileged());
    // give_to walks by paths
    support::scratch::remove(&tree.root.join("deep"));
    give_to(&tree.root, NOBODY);
    for_each_backend(|backend| {
        let copy = scratch.join(format!("copy-{backend}"));
        let run = Longshore::copy(backend).user(NOBODY).arg(&tree.root).arg(&copy).expect(0);
        assert_none(&diff_trees(&tree.root, &copy, Compare::default()), &run.describe());
        assert_eq!(run.warnings(), 0, "a warning in {}", run.describe());
    });
}

/// Setting a user attribute takes the right to write, which the final mode may not give its owner.
#[test]
fn attributes_of_read_only_files_are_kept_for_an_unprivileged_owner() {
    let Some(scratch) = Scratch::new(Fs::Ext4) else { return };
    scratch.open_to_all();
    let source = scratch.join("source");
    fs::create_dir_all(source.join("closed")).unwrap();
    for (name, content) in
        [("empty", ""), ("full", "content"), ("large", &*"large ".repeat(500_000))]
    {
        fs::write(source.join(name), content).unwrap();
        attribute(&source.join(name), "user.name", b"value");
        attribute(&source.join(name), "system.posix_acl_access", &posix_acl(4, 12, 4));
    }
    attribute(&source.join("closed"), "user.name", b"value");
    tree::hard_link(&source.join("full"), &source.join("closed/full-again"));
    for name in ["empty", "full", "large", "closed"] {
        chmod(&source.join(name), if name == "closed" { 0o500 } else { 0o400 });
    }
    give_to(&source, NOBODY);
    for_each_backend(|backend| {
        let copy = scratch.join(format!("copy-{backend}"));
        let run = Longshore::copy(backend).user(NOBODY).arg(&source).arg(&copy).expect(0);
        assert_none(&diff_trees(&source, &copy, Compare::default()), &run.describe());
    });
}

#[test]
fn owners_that_cannot_be_kept_are_counted_warnings_and_no_failure() {
    if !need_root() {
        return;
    }
    let Some(scratch) = Scratch::new(Fs::Ext4) else { return };
    scratch.open_to_all();
    let source = scratch.join("of-root");
    fs::create_dir(&source).unwrap();
    for n in 0..5 {
        fs::write(source.join(format!("file-{n}")), format!("content {n}")).unwrap();
        chown(&source.join(format!("file-{n}")), 1000, 1000);
        chmod(&source.join(format!("file-{n}")), 0o6755);
    }
    for_each_backend(|backend| {
        let copy = scratch.join(format!("copy-{backend}"));
        let run = Longshore::copy(backend).user(NOBODY).arg(&source).arg(&copy).expect(0);
        assert!(run.warnings() >= 5, "no warnings in {}", run.describe());
        let compare = Compare { owner: false, mode: false, ..Compare::default() };
        assert_none(&diff_trees(&source, &copy, compare), &run.describe());
        for entry in fs::read_dir(&copy).unwrap() {
            let metadata = entry.unwrap().metadata().unwrap();
            assert_eq!(metadata.uid(), NOBODY);
            assert_eq!(
                metadata.mode() & 0o7777,
                0o755,
                "setuid and setgid must not pass to another owner"
            );
        }
    });
}

#[test]
fn no_preserve_leaves_out_what_it_names_and_nothing_else() {
    let Some(scratch) = Scratch::new(Fs::Ext4) else { return };
    let source = scratch.join("source");
    fs::create_dir(&source).unwrap();
    fs::write(source.join("a"), "content").unwrap();
    tree::hard_link(&source.join("a"), &source.join("b"));
    attribute(&source.join("a"), "user.name", b"value");
    attribute(&source.join("a"), "system.posix_acl_access", &posix_acl(7, 12, 5));
    chown(&source.join("a"), 12, 13);
    chmod(&source.join("a"), 0o750);
    set_times(&source.join("a"), 1000, 7);
    set_times(&source, 2000, 7);
    let table: [(&str, &[&str]); 5] = [
        ("timestamps", &["mtime"]),
        ("ownership", &["uid", "gid"]),
        ("links", &["links"]),
        ("xattr", &["xattr"]),
        ("xattr,acl", &["xattr", "mode"]), // without its ACL the group bits are the mask's or the group's
    ];
    for_each_backend(|backend| {
        for (n, (list, allowed)) in table.iter().enumerate() {
            let copy = scratch.join(format!("copy-{backend}-{n}"));
            let run = Longshore::copy(backend)
                .args(["--no-preserve", list])
                .arg(&source)
                .arg(&copy)
                .expect(0);
            let differences = diff_trees(&source, &copy, Compare::default());
            let lost: Vec<_> = differences.iter().filter(|d| allowed.contains(&d.what)).collect();
            assert!(!lost.is_empty(), "{list} was kept all the same: {}", run.describe());
            let others: Vec<_> =
                differences.iter().filter(|d| !allowed.contains(&d.what)).cloned().collect();
            assert_none(&others, &run.describe());
        }
    });
}

#[test]
fn xattrs_none_copies_neither_attributes_nor_acls() {
    let Some(scratch) = Scratch::new(Fs::Ext4) else { return };
    fs::write(scratch.join("a"), "content").unwrap();
    attribute(&scratch.join("a"), "user.name", b"value");
    attribute(&scratch.join("a"), "system.posix_acl_access", &posix_acl(7, 12, 5));
    for_each_backend(|backend| {
        let copy = scratch.join(format!("copy-{backend}"));
        Longshore::copy(backend)
            .args(["--xattrs", "none"])
            .arg(scratch.join("a"))
            .arg(&copy)
            .expect(0);
        assert_eq!(xattr::list(&copy).unwrap().count(), 0);
    });
}

/// A file being written has blocks that exist in memory only; a map of holes taken from the disk
/// would miss them (openzfs 15526).
#[test]
fn data_that_is_not_on_disk_yet_is_no_hole() {
    for fs in Fs::ALL {
        let Some(scratch) = Scratch::new(fs) else { continue };
        for_each_backend(|backend| {
            let source = scratch.join(format!("source-{backend}"));
            let file = File::create(&source).unwrap();
            file.set_len(8 << 20).unwrap();
            file.write_all_at(&[1; 70_000], 3 << 20).unwrap();
            copy_is_exact(&source, &scratch.join(format!("copy-{backend}")), backend, &[]);
        });
    }
}

/// Preallocated but never written blocks read as zeros and may become holes, never garbage.
#[test]
fn preallocated_blocks_read_as_zeros_in_the_copy() {
    for fs in Fs::ALL {
        let Some(scratch) = Scratch::new(fs) else { continue };
        let source = scratch.join("source");
        let file = File::create(&source).unwrap();
        let flags = nix::fcntl::FallocateFlags::empty();
        if nix::fcntl::fallocate(&file, flags, 0, 4 << 20).is_err() {
            support::skip(&format!("{fs} has no fallocate"));
            continue;
        }
        file.write_all_at(b"here", 1 << 20).unwrap();
        for_each_backend(|backend| {
            let copy = scratch.join(format!("copy-{backend}"));
            Longshore::copy(backend).arg(&source).arg(&copy).expect(0);
            assert_same_tree(&source, &copy, Compare { holes: false, ..Compare::default() });
        });
    }
}

#[test]
fn the_report_counts_what_was_copied() {
    let Some(scratch) = Scratch::new(Fs::Ext4) else { return };
    let source = scratch.join("source");
    fs::create_dir_all(source.join("inner/empty")).unwrap();
    fs::write(source.join("a"), vec![1; 10_000]).unwrap();
    fs::write(source.join("inner/b"), vec![1; 5]).unwrap();
    tree::hard_link(&source.join("a"), &source.join("inner/a-again"));
    std::os::unix::fs::symlink("a", source.join("link")).unwrap();
    tree::node(&source.join("fifo"), nix::sys::stat::SFlag::S_IFIFO, 0);
    File::create(source.join("hole")).unwrap().set_len(1 << 20).unwrap();
    for_each_backend(|backend| {
        let run = Longshore::copy(backend)
            .arg(&source)
            .arg(scratch.join(format!("copy-{backend}")))
            .expect(0);
        let counts = ["files", "directories", "symlinks", "hard_links", "special", "bytes"];
        let counted = counts.map(|name| run.count(&format!("/copied/{name}")));
        assert_eq!(
            counted,
            [3, 3, 1, 1, 1, 10_005 + (1 << 20)],
            "{counts:?} of {}",
            run.describe()
        );
        let moved = run.count("/copied/bytes_moved"); // a page cache works in blocks, a hole is none
        assert!(moved <= 10_005 + 8192, "holes are counted as moved bytes: {}", run.describe());
        let report = run.report.as_ref().unwrap();
        assert_eq!(report["version"], 1);
        assert_eq!(report["outcome"], "complete");
        assert_eq!(report["dry_run"], false);
        assert!(
            report["setup"]["backend"].as_str().is_some_and(|word| !word.is_empty()),
            "{report:#}"
        );
    });
}

#[test]
fn one_file_system_stops_at_a_mount_point() {
    if !need_root() {
        return;
    }
    let (Some(scratch), Some(other)) = (Scratch::new(Fs::Ext4), Scratch::new(Fs::Tmpfs)) else {
        return;
    };
    fs::create_dir_all(scratch.join("source/mounted")).unwrap();
    fs::write(other.join("beyond"), "x").unwrap();
    let bind = support::scratch::Bind::new(other.path(), &scratch.join("source/mounted"));
    for_each_backend(|backend| {
        let copy = scratch.join(format!("copy-{backend}"));
        Longshore::copy(backend).arg("-x").arg(scratch.join("source")).arg(&copy).expect(0);
        assert!(copy.join("mounted").is_dir(), "the mount point itself is kept, as cp -ax does");
        assert!(!copy.join("mounted/beyond").exists());
    });
    drop(bind);
}

#[test]
fn a_fifo_is_never_opened() {
    let Some(scratch) = Scratch::new(Fs::Tmpfs) else { return };
    fs::create_dir(scratch.join("source")).unwrap();
    for n in 0..20 {
        tree::node(&scratch.join(format!("source/fifo-{n}")), nix::sys::stat::SFlag::S_IFIFO, 0);
    }
    for_each_backend(|backend| {
        let started = SystemTime::now();
        let copy = scratch.join(format!("copy-{backend}"));
        let limit = Duration::from_secs(20);
        Longshore::copy(backend).limit(limit).arg(scratch.join("source")).arg(&copy).expect(0);
        assert!(started.elapsed().unwrap() < limit);
        assert_same_tree(&scratch.join("source"), &copy, Compare::default());
    });
}

/// Cold, so that O_DIRECT is used where it can be: sizes that are no multiple of a block, extents that
/// begin and end anywhere, a hole at the end.
#[test]
fn large_cold_files_are_exact_whatever_their_size_and_holes() {
    let seed = Seed::fixed(77);
    let mut rng = seed.rng();
    for fs in [Fs::Ext4, Fs::Xfs] {
        let Some(scratch) = Scratch::new(fs) else { continue };
        let source = scratch.join("source");
        std::fs::create_dir(&source).unwrap();
        for (name, size) in [("whole-blocks", 20 << 20), ("odd", (18 << 20) + 12_345)] {
            std::fs::write(source.join(name), rng.bytes(size)).unwrap();
        }
        for name in ["holes-a", "holes-b", "holes-c"] {
            let file = std::fs::File::create(source.join(name)).unwrap();
            let size = (100 << 20) + rng.below(1 << 20);
            file.set_len(size).unwrap();
            let mut at = rng.below(3 << 20);
            let mut data = 0;
            while data < 18 << 20 && at + (5 << 20) < size {
                let length = usize::try_from(1 + rng.below(4 << 20)).unwrap();
                let bytes = rng.bytes(length);
                file.write_all_at(&bytes, at).unwrap();
                data += bytes.len() as u64;
                at += bytes.len() as u64 + rng.below(6 << 20);
            }
        }
        for_each_backend(|backend| {
            for entry in std::fs::read_dir(&source).unwrap() {
                let file = std::fs::File::open(entry.unwrap().path()).unwrap();
                file.sync_all().unwrap();
                let advice = nix::fcntl::PosixFadviseAdvice::POSIX_FADV_DONTNEED;
                nix::fcntl::posix_fadvise(&file, 0, 0, advice).unwrap();
            }
            let copy = scratch.join(format!("copy-{backend}"));
            let run = Longshore::copy(backend).arg(&source).arg(&copy).expect(0);
            assert_same_tree(&source, &copy, Compare::default());
            let mechanisms = &run.report.as_ref().unwrap()["mechanisms"];
            let direct = ["direct", "ring-direct"].map(|word| mechanisms[word].as_u64());
            // Where nothing can be cloned, the two dense files at least are moved directly.
            if fs == Fs::Ext4 && backend != Backend::Clone {
                assert!(direct.iter().flatten().sum::<u64>() >= 2, "{}", run.describe());
            }
            support::scratch::remove(&copy);
        });
    }
}

/// Filesystems cut times that they cannot hold without a word.
#[test]
fn times_that_the_destination_cuts_are_a_warning() {
    let scratch = Scratch::on_disk();
    let source = scratch.join("src");
    fs::create_dir(&source).unwrap();
    for (name, seconds, nanos) in
        [("digits", 1_500_000_000, 123_456_789), ("year", 4_102_444_800, 0)]
    {
        fs::write(source.join(name), name).unwrap();
        support::tree::set_times(&source.join(name), seconds, nanos);
    }
    let mkfs = ["mkfs.ext4", "-q", "-F", "-I", "128"];
    let Some(disk) = FlippingDisk::new(&scratch, &mkfs, 64 << 20) else { return };
    for_each_backend(|backend| {
        let run = Longshore::copy(backend).arg(&source).arg(disk.path().join(format!("{backend}")));
        let run = run.expect(0);
        assert!(run.count("/warnings/time-not-kept") >= 2, "{}", run.describe());
        let run = Longshore::copy(backend).arg(&source).arg(scratch.join(format!("{backend}")));
        assert_eq!(run.expect(0).count("/warnings/time-not-kept"), 0, "the disk holds them");
    });
}
