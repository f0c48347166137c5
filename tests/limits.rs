//! Machines that give less: few descriptors, little locked memory, no io_uring; and paths longer
//! than any system call takes.
#![allow(clippy::unwrap_used, clippy::print_stderr, clippy::print_stdout, unreachable_pub)] // tests

mod support;

use std::fs;
use std::os::unix::fs::FileExt;
use std::time::Duration;

use support::compare::assert_none;
use support::tree::{give_to, make_chain};
use support::{
    Backend, Compare, Fs, Longshore, NOBODY, Rng, Scratch, Tree, TreeOptions, assert_same_tree,
    diff_trees, for_each_backend, has_program, need_root,
};

#[test]
fn few_descriptors_are_enough_or_refused_in_words() {
    if !has_program("prlimit") {
        return;
    }
    let Some(scratch) = Scratch::new(Fs::Ext4) else { return };
    let tree =
        Tree::make(scratch.join("src"), 31, TreeOptions { many: 400, ..TreeOptions::default() });
    for_each_backend(|backend| {
        for limit in [16, 32, 64, 1024] {
            let copy = scratch.join(format!("copy-{backend}-{limit}"));
            let prlimit = format!("--nofile={limit}:{limit}");
            let command = Longshore::copy(backend)
                .through(&["prlimit", &prlimit])
                .limit(Duration::from_secs(60));
            let run = command.arg(&tree.root).arg(&copy).run();
            if run.code == Some(2) && limit < 64 {
                run.says("descriptors");
                assert!(!copy.exists(), "{}", run.describe());
            } else {
                run.expect(0);
                assert_none(&diff_trees(&tree.root, &copy, Compare::default()), &run.describe());
            }
            support::scratch::remove(&copy);
        }
    });
}

#[test]
fn little_locked_memory_is_enough() {
    if !need_root() || !has_program("prlimit") {
        return;
    }
    let Some(scratch) = Scratch::new(Fs::Ext4) else { return };
    scratch.open_to_all();
    let options = TreeOptions { deep: 1, ..TreeOptions::default() }.unprivileged();
    let tree = Tree::make(scratch.join("src"), 32, options);
    give_to(&tree.root, NOBODY);
    for_each_backend(|backend| {
        for limit in ["--memlock=65536:65536", "--memlock=0:0"] {
            let copy = scratch.join(format!("copy-{backend}{limit}"));
            let run = Longshore::copy(backend)
                .user(NOBODY)
                .through(&["prlimit", limit])
                .arg(&tree.root)
                .arg(&copy)
                .run();
            if backend == Backend::Uring && run.code == Some(2) {
                run.says("memory"); // asked for by name, it may be refused, with the reason
                continue;
            }
            run.expect(0);
            assert_none(&diff_trees(&tree.root, &copy, Compare::default()), &run.describe());
        }
    });
}

#[test]
fn without_io_uring_every_other_backend_works_and_the_report_says_why() {
    let Some(scratch) = Scratch::new(Fs::Ext4) else { return };
    let tree = Tree::make(scratch.join("src"), 33, TreeOptions { deep: 1, ..TreeOptions::small() });
    for errno in [libc::EPERM, libc::ENOSYS] {
        for backend in [Backend::Auto, Backend::Threads, Backend::Clone] {
            let copy = scratch.join(format!("copy-{backend}-{errno}"));
            let run = Longshore::copy(backend)
                .deny(&[libc::SYS_io_uring_setup], errno)
                .arg(&tree.root)
                .arg(&copy)
                .expect(0);
            assert_none(&diff_trees(&tree.root, &copy, Compare::default()), &run.describe());
            if backend == Backend::Auto {
                let notes = run.report.as_ref().unwrap()["setup"]["notes"].to_string();
                assert!(
                    notes.contains("io_uring"),
                    "no note of the missing ring: {}",
                    run.describe()
                );
            }
        }
        let refused = scratch.join(format!("refused-{errno}"));
        let command = Longshore::copy(Backend::Uring).deny(&[libc::SYS_io_uring_setup], errno);
        command.arg(&tree.root).arg(&refused).expect(2).says("io_uring");
        assert!(!refused.exists());
    }
}

/// Old kernels and strict profiles: each of these is a fast path, none is needed.
#[test]
fn without_new_system_calls_the_copy_is_exact_all_the_same() {
    let Some(scratch) = Scratch::new(Fs::Ext4) else { return };
    let tree =
        Tree::make(scratch.join("src"), 34, TreeOptions { deep: 24, ..TreeOptions::small() });
    let table: [(&str, &[i64]); 3] = [
        ("openat2", &[libc::SYS_openat2]),
        ("copy_file_range", &[libc::SYS_copy_file_range]),
        ("fallocate", &[libc::SYS_fallocate]),
    ];
    for_each_backend(|backend| {
        for (name, syscalls) in table {
            let copy = scratch.join(format!("copy-{backend}-{name}"));
            let run = Longshore::copy(backend)
                .deny(syscalls, libc::ENOSYS)
                .arg(&tree.root)
                .arg(&copy)
                .run();
            if name == "openat2" && run.code == Some(2) {
                run.says("openat2"); // needed to stay beneath the destination; then it must be said
                continue;
            }
            run.expect(0);
            assert_none(&diff_trees(&tree.root, &copy, Compare::default()), &run.describe());
        }
    });
}

/// Between two mounts as within one; what splicing cannot see is read.
#[test]
fn in_memory_pages_are_spliced_and_read_where_that_is_refused() {
    let (Some(scratch), Some(other)) = (Scratch::new(Fs::Tmpfs), Scratch::new(Fs::Tmpfs)) else {
        return;
    };
    let source = scratch.join("src");
    fs::create_dir(&source).unwrap();
    let mut rng = Rng::new(35);
    fs::write(source.join("large"), rng.bytes((9 << 20) + 77)).unwrap();
    let sparse = fs::File::create(source.join("sparse")).unwrap();
    sparse.set_len(64 << 20).unwrap();
    sparse.write_all_at(&rng.bytes(300_001), 33 << 20).unwrap();
    let run = |name: &str, target: &Scratch, errno: i32, args: &[&str], expected: &str| {
        let copy = target.join(name);
        let command = Longshore::copy(Backend::Auto).args(["--threads", "2", "-T"]).args(args);
        let command = match errno {
            0 => command,
            errno => command.deny(&[libc::SYS_splice], errno),
        };
        let run = command.arg(&source).arg(&copy).expect(0);
        assert_eq!(run.count(&format!("/mechanisms/{expected}")), 2, "{name}: {}", run.describe());
        assert_none(&diff_trees(&source, &copy, Compare::default()), &run.describe());
    };
    run("within", &scratch, 0, &[], "splice");
    run("across", &other, 0, &[], "splice");
    run("slowly", &other, 0, &["--bandwidth-limit", "20M"], "splice");
    run("hashed", &other, 0, &["--verify"], "read-write");
    for errno in [libc::ENOSYS, libc::EPERM, libc::EINVAL, libc::ENOMEM] {
        run(&format!("refused-{errno}"), &other, errno, &[], "read-write");
    }
}

/// After a flush that failed everything may be lost, whatever size and time it has: all is copied again.
#[test]
fn what_could_not_be_flushed_is_copied_again() {
    let Some(scratch) = Scratch::new(Fs::Ext4) else { return };
    let (source, list) = (scratch.join("src"), scratch.join("failed"));
    fs::create_dir(&source).unwrap();
    for name in ["a", "b"] {
        fs::write(source.join(name), name).unwrap();
    }
    let copy = scratch.join("copy");
    for (first, again) in [
        (&["--update"][..], &["--update"][..]),
        (&[], &[]),
        (&["--journal", "none"], &["--journal", "none", "--files-from"]),
    ] {
        let command = || Longshore::copy(Backend::Auto).args(["-T".as_ref(), source.as_os_str()]);
        let run = command().deny(&[libc::SYS_syncfs], libc::EIO).args(first).arg(&copy).expect(3);
        run.says("may be lost").says("copy all of it again").says("without --update");
        assert_eq!(run.report.as_ref().unwrap()["unreliable"], true, "{}", run.describe());
        fs::write(&list, &run.failed_list).unwrap();
        // What a crash of the device has left of it, with the old time.
        for name in ["a", "b"] {
            let lost = fs::File::options().write(true).open(copy.join(name)).unwrap();
            let time = lost.metadata().unwrap().modified().unwrap();
            std::os::unix::fs::FileExt::write_all_at(&lost, b"?", 0).unwrap();
            lost.set_modified(time).unwrap();
        }
        let run = command()
            .args(again)
            .args(again.last().filter(|last| **last == "--files-from").map(|_| &list));
        let run = run.arg(&copy).expect(0);
        assert_eq!(run.count("/copied/files"), 2, "{}", run.describe());
        assert_none(&diff_trees(&source, &copy, Compare::default()), &run.describe());
    }
}

/// A copy that cannot flush does not know that it succeeded, and must not say so.
#[test]
fn a_flush_that_fails_is_no_success() {
    let Some(scratch) = Scratch::new(Fs::Ext4) else { return };
    fs::write(scratch.join("file"), "content").unwrap();
    for_each_backend(|backend| {
        let copy = scratch.join(format!("copy-{backend}"));
        let denied = [libc::SYS_syncfs, libc::SYS_fsync, libc::SYS_fdatasync, libc::SYS_sync];
        let run = Longshore::copy(backend)
            .deny(&denied, libc::EIO)
            .arg(scratch.join("file"))
            .arg(&copy)
            .run();
        assert_eq!(run.code, Some(3), "{}", run.describe());
        let unflushed = scratch.join(format!("unflushed-{backend}"));
        let command = Longshore::copy(backend).deny(&denied, libc::EIO).args(["--sync", "none"]);
        command.arg(scratch.join("file")).arg(&unflushed).expect(0);
    });
}

/// Digests of a file take memory by its size, which a file of holes may have for nothing.
#[test]
fn a_file_too_large_for_its_digests_fails_alone() {
    let Some(scratch) = Scratch::new(Fs::Tmpfs) else { return };
    let source = scratch.join("src");
    fs::create_dir(&source).unwrap();
    fs::write(source.join("small"), "small").unwrap();
    fs::File::create(source.join("huge")).unwrap().set_len(4 << 60).unwrap();
    for option in ["--verify", "--manifest"] {
        let copy = scratch.join(format!("copy{option}"));
        let command = Longshore::copy(Backend::Auto).arg(option);
        let command = match option {
            "--manifest" => command.arg(scratch.join("manifest")),
            _ => command,
        };
        let run = command.args([&source, &copy]).expect(1);
        assert_eq!(run.failed, [fs::canonicalize(source.join("huge")).unwrap()]);
        assert_eq!(fs::read_dir(&copy).unwrap().count(), 1, "{}", run.describe());
    }
}

/// A hole at the end is added when the data is on the device: after a crash of the machine the file must not look
/// complete without.
#[test]
fn a_sparse_file_gets_its_size_last() {
    let Some(scratch) = Scratch::new(Fs::Ext4) else { return };
    for (name, length, code) in [("data-at-its-end", 900_000, 0), ("hole-at-its-end", 950_000, 1)] {
        let file = fs::File::create_new(scratch.join(name)).unwrap();
        file.set_len(length).unwrap();
        std::os::unix::fs::FileExt::write_all_at(&file, &[1; 100_000], 800_000).unwrap();
        for_each_backend(|backend| {
            let copy = scratch.join(format!("{name}-{backend}"));
            let command = || Longshore::copy(backend).arg("-T").args([&scratch.join(name), &copy]);
            command().deny(&[libc::SYS_fdatasync], libc::EIO).expect(code);
            let run = command().expect(0);
            assert_none(
                &diff_trees(&scratch.join(name), &copy, Compare::default()),
                &run.describe(),
            );
        });
    }
}

#[test]
fn paths_beyond_path_max_are_copied() {
    let Some(scratch) = Scratch::new(Fs::Ext4) else { return };
    for (name, part, depth) in [("wide", "twenty-characters-xx", 600), ("deep", "d", 3000)] {
        fs::create_dir(scratch.join(name)).unwrap();
        make_chain(&scratch.join(name), part, depth);
    }
    for_each_backend(|backend| {
        for name in ["wide", "deep"] {
            let copy = scratch.join(format!("{name}-{backend}"));
            let run = Longshore::copy(backend).arg(scratch.join(name)).arg(&copy).expect(0);
            assert_none(
                &diff_trees(&scratch.join(name), &copy, Compare::default()),
                &run.describe(),
            );
            support::scratch::remove(&copy);
        }
    });
}

#[test]
fn a_deep_chain_needs_few_descriptors() {
    if !has_program("prlimit") {
        return;
    }
    let Some(scratch) = Scratch::new(Fs::Tmpfs) else { return };
    fs::create_dir(scratch.join("deep")).unwrap();
    make_chain(&scratch.join("deep"), "d", 1500);
    for_each_backend(|backend| {
        let copy = scratch.join(format!("copy-{backend}"));
        let run = Longshore::copy(backend).through(&["prlimit", "--nofile=256:256"]);
        let run = run.arg(scratch.join("deep")).arg(&copy).expect(0);
        assert_none(&diff_trees(&scratch.join("deep"), &copy, Compare::default()), &run.describe());
    });
}

#[test]
fn a_name_of_255_bytes_leaves_no_room_for_a_suffix_and_is_copied() {
    let Some(scratch) = Scratch::new(Fs::Tmpfs) else { return };
    let name = "n".repeat(255);
    fs::create_dir(scratch.join("src")).unwrap();
    fs::write(scratch.join("src").join(&name), "x").unwrap();
    fs::write(scratch.join("src/short"), "x").unwrap();
    for_each_backend(|backend| {
        // a name of 255 bytes leaves no room for a suffix of a temporary name
        let copy = scratch.join(format!("copy-{backend}"));
        Longshore::copy(backend).arg(scratch.join("src")).arg(&copy).expect(0);
        Longshore::copy(backend).arg("-T").arg(scratch.join("src")).arg(&copy).expect(0); // over what is there
        assert_same_tree(&scratch.join("src"), &copy, Compare::default());
    });
}

#[test]
fn the_number_of_threads_does_not_matter() {
    let Some(scratch) = Scratch::new(Fs::Tmpfs) else { return };
    let tree = Tree::make(scratch.join("src"), 35, TreeOptions::default());
    for_each_backend(|backend| {
        for threads in ["1", "2", "17"] {
            let copy = scratch.join(format!("copy-{backend}-{threads}"));
            let run = Longshore::copy(backend)
                .args(["--threads", threads])
                .arg(&tree.root)
                .arg(&copy)
                .expect(0);
            assert_none(&diff_trees(&tree.root, &copy, Compare::default()), &run.describe());
        }
    });
}
