//! What is copied of a tree and what is left alone: filters, `--update`, `--delete`, `--files-from`.
//! Where the copy lands is `destination.rs`.
#![allow(clippy::unwrap_used, clippy::print_stderr, clippy::print_stdout, unreachable_pub)] // tests

mod support;

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use support::tree::{chmod, give_to, hard_link, set_times};
use support::{
    Backend, Compare, Fs, Longshore, NOBODY, Run, Scratch, assert_same_tree, for_each_backend,
    need_root,
};

/// A source tree of the given files, its directories included, and an empty place to copy to.
fn each(files: &[&str], test: impl Fn(Backend, &Path)) {
    for_each_backend(|backend| {
        let Some(scratch) = Scratch::new(Fs::Tmpfs) else { return };
        for name in files {
            let path = scratch.join("src").join(name);
            if name.ends_with('/') {
                fs::create_dir_all(&path).unwrap();
            } else {
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(&path, format!("content of {name}")).unwrap();
            }
        }
        test(backend, scratch.path());
    });
}

/// Everything beneath a directory that is not a directory, and empty directories with a slash.
fn names(at: &Path) -> Vec<String> {
    let mut all: Vec<String> = walkdir::WalkDir::new(at)
        .min_depth(1)
        .into_iter()
        .map(|entry| entry.unwrap())
        .filter(|entry| {
            !entry.file_type().is_dir() || fs::read_dir(entry.path()).unwrap().next().is_none()
        })
        .map(|entry| {
            let slash = if entry.file_type().is_dir() { "/" } else { "" };
            format!("{}{slash}", entry.path().strip_prefix(at).unwrap().display())
        })
        .collect();
    all.sort();
    all
}

fn copy(backend: Backend, at: &Path, args: &[&str]) -> Run {
    Longshore::copy(backend).current_dir(at).args(args).expect(0)
}

const FILES: [&str; 9] = [
    "a.txt",
    "b.log",
    "core/x.txt",
    "core/y.log",
    "sub/core",
    "sub/deep/z.txt",
    "sub/deep/z.log",
    "tmp/t.txt",
    "sub/tmp/u.txt",
];

#[test]
fn filters_decide_as_those_of_rsync() {
    // options, and what arrives
    let table: [(&[&str], &[&str]); 13] = [
        (
            &["--exclude", "*.log"],
            &["a.txt", "core/x.txt", "sub/core", "sub/deep/z.txt", "sub/tmp/u.txt", "tmp/t.txt"],
        ),
        (
            &["--exclude", "core"],
            &["a.txt", "b.log", "sub/deep/z.log", "sub/deep/z.txt", "sub/tmp/u.txt", "tmp/t.txt"],
        ),
        (
            &["--exclude", "core/"],
            &[
                "a.txt",
                "b.log",
                "sub/core",
                "sub/deep/z.log",
                "sub/deep/z.txt",
                "sub/tmp/u.txt",
                "tmp/t.txt",
            ],
        ),
        (
            &["--exclude", "/tmp"],
            &[
                "a.txt",
                "b.log",
                "core/x.txt",
                "core/y.log",
                "sub/core",
                "sub/deep/z.log",
                "sub/deep/z.txt",
                "sub/tmp/u.txt",
            ],
        ),
        (
            &["--exclude", "sub/deep"],
            &[
                "a.txt",
                "b.log",
                "core/x.txt",
                "core/y.log",
                "sub/core",
                "sub/tmp/u.txt",
                "tmp/t.txt",
            ],
        ),
        (
            &["--exclude", "sub/*.log"],
            &[
                "a.txt",
                "b.log",
                "core/x.txt",
                "core/y.log",
                "sub/core",
                "sub/deep/z.log",
                "sub/deep/z.txt",
                "sub/tmp/u.txt",
                "tmp/t.txt",
            ],
        ),
        (
            &["--exclude", "sub/**.log"],
            &[
                "a.txt",
                "b.log",
                "core/x.txt",
                "core/y.log",
                "sub/core",
                "sub/deep/z.txt",
                "sub/tmp/u.txt",
                "tmp/t.txt",
            ],
        ),
        (
            &["--exclude", "sub/**"],
            &["a.txt", "b.log", "core/x.txt", "core/y.log", "sub/", "tmp/t.txt"],
        ),
        (
            &["--include", "y.log", "--exclude", "*.log"],
            &[
                "a.txt",
                "core/x.txt",
                "core/y.log",
                "sub/core",
                "sub/deep/z.txt",
                "sub/tmp/u.txt",
                "tmp/t.txt",
            ],
        ),
        (
            &["--exclude", "*.log", "--include", "y.log"],
            &["a.txt", "core/x.txt", "sub/core", "sub/deep/z.txt", "sub/tmp/u.txt", "tmp/t.txt"],
        ),
        // an excluded directory is not descended into, whatever a later rule says
        (
            &["--exclude", "sub", "--include", "z.txt"],
            &["a.txt", "b.log", "core/x.txt", "core/y.log", "tmp/t.txt"],
        ),
        (
            &["--include", "*/", "--include", "*.txt", "--exclude", "*"],
            &["a.txt", "core/x.txt", "sub/deep/z.txt", "sub/tmp/u.txt", "tmp/t.txt"],
        ),
        (
            &["--exclude", "[ab].*"],
            &[
                "core/x.txt",
                "core/y.log",
                "sub/core",
                "sub/deep/z.log",
                "sub/deep/z.txt",
                "sub/tmp/u.txt",
                "tmp/t.txt",
            ],
        ),
    ];
    for (options, expected) in table {
        each(&FILES, |backend, at| {
            let args: Vec<&str> = options.iter().copied().chain(["src/", "dst"]).collect();
            let run = copy(backend, at, &args);
            assert_eq!(names(&at.join("dst")), expected, "{}", run.describe());
        });
    }
}

#[test]
fn a_filter_is_relative_to_the_source_also_without_the_slash() {
    each(&FILES, |backend, at| {
        copy(backend, at, &["--exclude", "/tmp", "--exclude", "core", "src", "dst"]);
        assert_eq!(
            names(&at.join("dst")),
            ["a.txt", "b.log", "sub/deep/z.log", "sub/deep/z.txt", "sub/tmp/u.txt"]
        );
    });
}

#[test]
fn a_filter_that_is_no_pattern_is_refused() {
    each(&FILES, |backend, at| {
        let run = Longshore::copy(backend)
            .current_dir(at)
            .args(["--exclude", "[a", "src/", "dst"])
            .expect(2);
        run.says("[a");
        assert!(!at.join("dst").exists());
    });
}

#[test]
fn update_skips_what_has_the_same_size_and_time_and_copies_the_rest() {
    each(&["same", "newer", "older", "longer", "sub/same"], |backend, at| {
        copy(backend, at, &["src/", "dst"]);
        let read_time = |name: &str| at.join("src").join(name).symlink_metadata().unwrap();
        for name in ["same", "sub/same"] {
            // a skipped file is not even read: other content of the same size and time stays
            let length = read_time(name).len();
            fs::write(at.join("dst").join(name), vec![b'#'; usize::try_from(length).unwrap()])
                .unwrap();
            set_times(
                &at.join("dst").join(name),
                read_time(name).mtime(),
                read_time(name).mtime_nsec(),
            );
        }
        set_times(&at.join("dst/newer"), 4_000_000_000, 0);
        set_times(&at.join("dst/older"), 1000, 0);
        fs::write(at.join("dst/longer"), "longer than the content of the source").unwrap();
        set_times(
            &at.join("dst/longer"),
            read_time("longer").mtime(),
            read_time("longer").mtime_nsec(),
        );
        let inode = at.join("dst/same").metadata().unwrap().ino();
        let run = copy(backend, at, &["--update", "src/", "dst"]);
        assert_eq!(inode, at.join("dst/same").metadata().unwrap().ino());
        assert!(fs::read(at.join("dst/same")).unwrap().starts_with(b"###"));
        assert!(fs::read(at.join("dst/sub/same")).unwrap().starts_with(b"###"));
        for name in ["newer", "older", "longer"] {
            assert_same_tree(
                &at.join("src").join(name),
                &at.join("dst").join(name),
                Compare::default(),
            );
        }
        assert_eq!(run.count("/files_skipped"), 2, "{}", run.describe());
        assert_eq!(run.count("/copied/files"), 3, "{}", run.describe());
    });
}

#[test]
fn update_repairs_the_attributes_of_what_it_skips() {
    each(&["file", "dir/inner"], |backend, at| {
        copy(backend, at, &["src/", "dst"]);
        chmod(&at.join("src/file"), 0o4711);
        chmod(&at.join("src/dir"), 0o711);
        copy(backend, at, &["--update", "src/", "dst"]);
        assert_same_tree(&at.join("src"), &at.join("dst"), Compare::default());
    });
}

#[test]
fn update_keeps_hard_links_to_what_it_skips() {
    each(&["a", "sub/other"], |backend, at| {
        hard_link(&at.join("src/a"), &at.join("src/sub/b"));
        copy(backend, at, &["src/", "dst"]);
        fs::remove_file(at.join("dst/sub/b")).unwrap();
        copy(backend, at, &["--update", "src/", "dst"]);
        assert_same_tree(&at.join("src"), &at.join("dst"), Compare::default());
    });
}

#[test]
fn delete_removes_what_the_source_has_not() {
    each(&["a", "sub/b", "empty/"], |backend, at| {
        fs::create_dir_all(at.join("dst/extra/deep/er")).unwrap();
        fs::write(at.join("dst/extra/deep/er/file"), "x").unwrap();
        chmod(&at.join("dst/extra/deep"), 0o555);
        fs::create_dir_all(at.join("dst/sub")).unwrap();
        fs::write(at.join("dst/sub/file"), "x").unwrap();
        std::os::unix::fs::symlink("/nowhere", at.join("dst/link")).unwrap();
        fs::write(at.join("beside"), "not beneath the destination").unwrap();
        let run = copy(backend, at, &["--delete", "src/", "dst"]);
        assert_same_tree(&at.join("src"), &at.join("dst"), Compare::default());
        assert!(at.join("beside").exists());
        assert!(run.count("/deleted") >= 3, "{}", run.describe());
        assert!(at.join("src/a").exists());
    });
}

#[test]
fn delete_touches_only_what_is_inside_the_copied_directory() {
    each(&["a"], |backend, at| {
        fs::create_dir_all(at.join("dst/src")).unwrap();
        fs::write(at.join("dst/src/extra"), "x").unwrap();
        fs::write(at.join("dst/neighbour"), "x").unwrap();
        copy(backend, at, &["--delete", "src", "dst"]);
        assert_eq!(names(&at.join("dst")), ["neighbour", "src/a"]);
    });
}

#[test]
fn delete_protects_what_is_excluded() {
    each(&["a", "b.log"], |backend, at| {
        fs::create_dir_all(at.join("dst/cache")).unwrap();
        for name in ["keep.log", "cache/c", "gone.txt"] {
            fs::write(at.join("dst").join(name), "x").unwrap();
        }
        copy(
            backend,
            at,
            &["--delete", "--exclude", "*.log", "--exclude", "cache/", "src/", "dst"],
        );
        assert_eq!(names(&at.join("dst")), ["a", "cache/c", "keep.log"]);
    });
}

#[test]
fn delete_deletes_nothing_after_a_directory_that_could_not_be_read() {
    if !need_root() {
        return;
    }
    each(&["a", "closed/b", "open/c"], |backend, at| {
        chmod(at, 0o777);
        fs::create_dir_all(at.join("dst/closed")).unwrap();
        for name in ["extra", "closed/b", "closed/extra"] {
            fs::write(at.join("dst").join(name), "x").unwrap();
        }
        for name in ["src", "dst"] {
            give_to(&at.join(name), NOBODY);
        }
        chmod(&at.join("src/closed"), 0);
        let run = Longshore::copy(backend)
            .user(NOBODY)
            .current_dir(at)
            .args(["--delete", "src/", "dst"])
            .expect(1);
        chmod(&at.join("src/closed"), 0o755);
        if at.join("dst/closed").exists() {
            chmod(&at.join("dst/closed"), 0o755);
        }
        for name in ["extra", "closed/b", "closed/extra", "a", "open/c"] {
            assert!(at.join("dst").join(name).exists(), "{name} is gone: {}", run.describe());
        }
        assert_eq!(run.count("/deleted"), 0, "{}", run.describe());
        assert!(run.blames(&at.join("src/closed")), "{}", run.describe());
    });
}

#[test]
fn files_from_copies_the_listed_items_with_their_parents() {
    let files = ["a", "b", "sub/c", "sub/d", "sub/deep/e", "other/f", "name\nwith newline"];
    let table: [(&[u8], &[&str]); 6] = [
        (b"a\nsub/c\n", &["a", "sub/c"]),
        (b"a\0sub/c\0", &["a", "sub/c"]),
        (b"name\nwith newline\0b\0", &["b", "name\nwith newline"]),
        (b"./a\nsub/\n", &["a", "sub/c", "sub/d", "sub/deep/e"]),
        (b"sub/deep\na\na\n", &["a", "sub/deep/e"]),
        (b"a", &["a"]),
    ];
    for (list, expected) in table {
        each(&files, |backend, at| {
            fs::write(at.join("list"), list).unwrap();
            let run = copy(backend, at, &["--files-from", "list", "src/", "dst"]);
            assert_eq!(names(&at.join("dst")), expected, "{}", run.describe());
            let command = Longshore::copy(backend).current_dir(at).stdin(list);
            command.args(["--files-from", "-", "src/", "from-stdin"]).expect(0);
            assert_eq!(names(&at.join("from-stdin")), expected);
            for name in expected {
                assert_same_tree(
                    &at.join("src").join(name),
                    &at.join("dst").join(name),
                    Compare::default(),
                );
            }
        });
    }
}

#[test]
fn parents_of_listed_items_get_their_attributes() {
    each(&["sub/deep/e", "sub/x"], |backend, at| {
        chmod(&at.join("src/sub"), 0o2751);
        set_times(&at.join("src/sub/deep"), 77, 7);
        set_times(&at.join("src/sub"), 78, 7);
        fs::write(at.join("list"), "sub/deep/e").unwrap();
        copy(backend, at, &["--files-from", "list", "src/", "dst"]);
        for name in ["sub", "sub/deep"] {
            let stat = |root: &str| at.join(root).join(name).metadata().unwrap();
            assert_eq!(
                (stat("src").mode(), stat("src").mtime()),
                (stat("dst").mode(), stat("dst").mtime()),
                "{name}"
            );
        }
    });
}

#[test]
fn a_listed_item_that_is_missing_fails_alone() {
    each(&["a", "sub/c"], |backend, at| {
        fs::write(at.join("list"), "a\nno-such\nsub/c\nsub/neither\n").unwrap();
        let run = Longshore::copy(backend)
            .current_dir(at)
            .args(["--files-from", "list", "src/", "dst"])
            .expect(1);
        assert_eq!(names(&at.join("dst")), ["a", "sub/c"]);
        let mut failed = run.failed.clone();
        failed.sort();
        let expected = [at.join("src/no-such"), at.join("src/sub/neither")];
        assert_eq!(
            failed,
            expected.map(|path| fs::canonicalize(at).unwrap().join(path.strip_prefix(at).unwrap()))
        );
    });
}

#[test]
fn absolute_paths_beneath_the_source_are_taken_and_others_refused() {
    each(&["a", "sub/c"], |backend, at| {
        fs::write(at.join("outside"), "x").unwrap();
        fs::write(at.join("list"), at.join("src/sub/c").as_os_str().as_bytes()).unwrap();
        copy(backend, at, &["--files-from", "list", "src/", "dst"]);
        assert_eq!(names(&at.join("dst")), ["sub/c"]);
        for escape in ["../outside", "sub/../../outside", "/etc/hostname", "a/../../outside"] {
            fs::write(at.join("list"), format!("a\n{escape}\n")).unwrap();
            let run = Longshore::copy(backend)
                .current_dir(at)
                .args(["--files-from", "list", "src/", "escaped"])
                .expect(2);
            run.says(escape);
            assert!(!at.join("escaped").exists(), "{}", run.describe());
        }
    });
}

#[test]
fn a_link_in_the_list_of_files_does_not_lead_out_of_the_source() {
    each(&["a"], |backend, at| {
        fs::create_dir(at.join("outside")).unwrap();
        fs::write(at.join("outside/secret"), "x").unwrap();
        std::os::unix::fs::symlink("../outside", at.join("src/link")).unwrap();
        fs::write(at.join("list"), "a\nlink/secret\n").unwrap();
        let run = Longshore::copy(backend)
            .current_dir(at)
            .args(["--files-from", "list", "src/", "dst"])
            .run();
        assert!(matches!(run.code, Some(1 | 2)), "{}", run.describe());
        assert!(!at.join("dst/link/secret").exists(), "{}", run.describe());
    });
}

#[test]
fn the_failed_list_of_one_run_is_the_input_of_the_next() {
    if !need_root() {
        return;
    }
    each(&["a", "sub/b\nnewline", "sub/closed", "open", "shut/inner/file"], |backend, at| {
        chmod(at, 0o777);
        give_to(&at.join("src"), NOBODY);
        for name in ["sub/b\nnewline", "sub/closed", "shut"] {
            chmod(&at.join("src").join(name), 0);
        }
        let first =
            Longshore::copy(backend).user(NOBODY).current_dir(at).args(["src/", "dst"]).expect(1);
        let failed: Vec<&PathBuf> = first.failed.iter().collect();
        assert_eq!(failed.len(), 3, "{}", first.describe());
        assert!(failed.iter().all(|path| path.is_absolute()), "{failed:?}");
        for name in ["sub/b\nnewline", "sub/closed"] {
            chmod(&at.join("src").join(name), 0o600);
        }
        chmod(&at.join("src/shut"), 0o755);
        fs::write(at.join("list"), &first.failed_list).unwrap();
        let second = Longshore::copy(backend).user(NOBODY).current_dir(at);
        second.args(["--files-from", "list", "src/", "dst"]).expect(0);
        assert_same_tree(&at.join("src"), &at.join("dst"), Compare::default());
    });
}
