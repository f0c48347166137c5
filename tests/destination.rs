//! Where a copy lands: cp's rules for the destination, rsync's trailing slash, and every request
//! that is refused before anything is written. What is in the copy is `fidelity.rs`.
#![allow(clippy::unwrap_used, clippy::print_stderr, clippy::print_stdout, unreachable_pub)] // tests

mod support;

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};

use support::compare::Snapshot;
use support::scratch::Bind;
use support::tree::{chmod, hard_link};
use support::{
    Backend, Compare, Fs, Longshore, Scratch, assert_same_tree, for_each_backend, need_root,
};

/// A scratch directory with a file, a directory, and a place to copy to, for each backend.
fn each(test: impl Fn(Backend, &Path)) {
    for_each_backend(|backend| {
        let Some(scratch) = Scratch::new(Fs::Tmpfs) else { return };
        let at = scratch.path();
        fs::write(at.join("file"), "content of the file").unwrap();
        fs::create_dir_all(at.join("dir/inner")).unwrap();
        fs::write(at.join("dir/one"), "content of one").unwrap();
        fs::write(at.join("dir/inner/two"), vec![2; 70_000]).unwrap();
        fs::create_dir(at.join("existing")).unwrap();
        test(backend, at);
    });
}

/// The names in a directory tree, for a before-and-after of everything.
fn listing(at: &Path) -> Vec<(PathBuf, u64, i64, Option<Vec<u8>>)> {
    let mut all: Vec<_> = walkdir::WalkDir::new(at)
        .into_iter()
        .map(|entry| entry.unwrap())
        .map(|entry| {
            let metadata = entry.path().symlink_metadata().unwrap();
            let content = metadata.is_file().then(|| fs::read(entry.path()).unwrap());
            (entry.path().to_owned(), metadata.ino(), metadata.mtime_nsec(), content)
        })
        .collect();
    all.sort();
    all
}

/// Runs a request that must be refused with exit code 2, saying `message`, and change nothing.
#[track_caller]
fn refused(backend: Backend, at: &Path, args: &[&str], message: &str) {
    let before = listing(at);
    let run = Longshore::copy(backend).current_dir(at).args(args).expect(2);
    run.says(message);
    assert!(!run.stderr.trim().is_empty(), "refused without a word: {}", run.describe());
    assert_eq!(before, listing(at), "something was written by {}", run.describe());
}

fn copy(backend: Backend, at: &Path, args: &[&str]) -> support::Run {
    Longshore::copy(backend).current_dir(at).args(args).expect(0)
}

fn same(a: PathBuf, b: PathBuf) {
    assert_same_tree(&a, &b, Compare::default());
}

/// Arguments, and pairs of what must be the same as what.
type Case = (&'static [&'static str], &'static [(&'static str, &'static str)]);

#[test]
fn a_source_gets_the_name_that_cp_would_give_it() {
    let table: [Case; 16] = [
        (&["file", "new"], &[("file", "new")]),
        (&["file", "existing"], &[("file", "existing/file")]),
        (&["file", "existing/"], &[("file", "existing/file")]),
        (&["file", "existing/new"], &[("file", "existing/new")]),
        (&["dir", "existing"], &[("dir", "existing/dir")]),
        (&["dir", "existing/"], &[("dir", "existing/dir")]),
        (&["dir", "missing"], &[("dir", "missing")]),
        (&["dir", "missing/"], &[("dir", "missing")]),
        (&["dir/", "existing"], &[("dir", "existing")]),
        (&["dir/", "missing"], &[("dir", "missing")]),
        (&["dir/.", "existing"], &[("dir", "existing")]),
        (&["dir/.", "missing"], &[("dir", "missing")]),
        (&["file", "dir", "existing"], &[("file", "existing/file"), ("dir", "existing/dir")]),
        (&["-t", "existing", "file", "dir"], &[("file", "existing/file"), ("dir", "existing/dir")]),
        (&["-T", "dir", "existing"], &[("dir", "existing")]),
        (&["./dir/inner", "existing/."], &[("dir/inner", "existing/inner")]),
    ];
    for (args, pairs) in table {
        each(|backend, at| {
            eprintln!("{args:?}");
            copy(backend, at, args);
            for (a, b) in pairs {
                same(at.join(a), at.join(b));
            }
        });
    }
}

#[test]
fn contents_are_merged_into_what_is_there() {
    each(|backend, at| {
        fs::create_dir(at.join("existing/inner")).unwrap();
        fs::write(at.join("existing/inner/kept"), "kept").unwrap();
        fs::write(at.join("existing/one"), "older and longer than the source's content").unwrap();
        copy(backend, at, &["dir/", "existing"]);
        assert_eq!(fs::read(at.join("existing/inner/kept")).unwrap(), b"kept");
        same(at.join("dir/one"), at.join("existing/one"));
        same(at.join("dir/inner/two"), at.join("existing/inner/two"));
    });
}

/// Merging two trees in parallel has no defined winner where both have a name, so it is not begun.
#[test]
fn contents_of_two_sources_do_not_go_to_one_place() {
    each(|backend, at| {
        fs::create_dir(at.join("more")).unwrap();
        fs::write(at.join("more/three"), "3").unwrap();
        refused(backend, at, &["dir/", "more/", "existing"], "two sources");
    });
}

#[test]
fn a_destination_that_is_a_link_to_a_directory_is_that_directory() {
    each(|backend, at| {
        symlink("existing", at.join("link")).unwrap();
        copy(backend, at, &["file", "link"]);
        assert!(at.join("link").is_symlink());
        same(at.join("file"), at.join("existing/file"));
    });
}

#[test]
fn several_sources_need_a_directory() {
    each(|backend, at| {
        refused(backend, at, &["file", "dir", "missing"], "missing");
        refused(backend, at, &["dir", "existing", "file"], "file");
        refused(backend, at, &["-T", "dir", "file", "existing"], "");
        refused(backend, at, &["-t", "missing", "file"], "missing");
        refused(backend, at, &["-t", "file", "dir"], "file");
    });
}

#[test]
fn a_missing_parent_is_refused_and_the_message_names_the_option() {
    each(|backend, at| {
        refused(backend, at, &["file", "no/such/name"], "--parents");
        refused(backend, at, &["dir", "no/such"], "--parents");
        refused(backend, at, &["file", "missing/"], "");
    });
}

#[test]
fn parents_are_made_when_asked() {
    each(|backend, at| {
        copy(backend, at, &["--parents", "file", "some/new/name"]);
        same(at.join("file"), at.join("some/new/name"));
        copy(backend, at, &["-p", "dir", "other/new"]);
        same(at.join("dir"), at.join("other/new"));
        copy(backend, at, &["-p", "file", "third/"]);
        same(at.join("file"), at.join("third/file"));
    });
}

#[test]
fn a_directory_onto_a_file_is_refused() {
    each(|backend, at| {
        refused(backend, at, &["dir", "file"], "file");
        refused(backend, at, &["dir/", "file"], "file");
        refused(backend, at, &["-T", "file", "existing"], "existing");
    });
}

#[test]
fn an_inner_file_where_a_directory_must_be_fails_alone() {
    each(|backend, at| {
        fs::write(at.join("existing/inner"), "in the way").unwrap();
        let run = Longshore::copy(backend).current_dir(at).args(["dir/", "existing"]).expect(1);
        assert_eq!(
            fs::read(at.join("existing/inner")).unwrap(),
            b"in the way",
            "{}",
            run.describe()
        );
        same(at.join("dir/one"), at.join("existing/one"));
        assert!(run.blames(&at.join("dir/inner")), "{}", run.describe());
        assert_eq!(run.count("/errors/type-conflict"), 1, "{}", run.describe());
    });
}

#[test]
fn an_inner_directory_where_a_file_must_be_fails_alone() {
    each(|backend, at| {
        fs::create_dir(at.join("existing/one")).unwrap();
        fs::write(at.join("existing/one/kept"), "kept").unwrap();
        let run = Longshore::copy(backend).current_dir(at).args(["dir/", "existing"]).expect(1);
        assert_eq!(fs::read(at.join("existing/one/kept")).unwrap(), b"kept", "{}", run.describe());
        same(at.join("dir/inner/two"), at.join("existing/inner/two"));
        assert!(run.blames(&at.join("dir/one")), "{}", run.describe());
    });
}

#[test]
fn a_source_that_is_its_own_destination_is_refused() {
    each(|backend, at| {
        symlink("dir", at.join("link")).unwrap();
        symlink("file", at.join("file-link")).unwrap();
        hard_link(&at.join("file"), &at.join("file-again"));
        for args in [
            &["file", "file"][..],
            &["file", "./existing/../file"],
            &["file", "."],
            &["dir", "."],
            &["-T", "dir", "dir"],
            &["dir/", "dir"],
            &["dir/", "link"],
            &["-T", "dir", "link/"],
        ] {
            refused(backend, at, args, "same");
        }
    });
}

#[test]
fn a_source_that_is_its_own_destination_is_refused_through_a_bind_mount() {
    if !need_root() {
        return;
    }
    each(|backend, at| {
        let _bind = Bind::new(&at.join("dir"), &at.join("existing"));
        refused(backend, at, &["dir/", "existing"], "same");
        refused(backend, at, &["dir/one", "existing"], "same");
        refused(backend, at, &["dir", "existing"], "itself");
        refused(backend, at, &["dir", "existing/inner"], "itself");
    });
}

#[test]
fn a_tree_is_not_copied_into_itself() {
    each(|backend, at| {
        symlink("dir/inner", at.join("link")).unwrap();
        symlink("dir", at.join("top")).unwrap();
        for args in [
            &["dir", "dir/new"][..],
            &["dir", "dir"],
            &["dir", "dir/inner"],
            &["dir", "link"],
            &["dir", "link/new"],
            &["dir/", "dir/inner"],
            &["top/", "dir/inner"],
            &["-p", "dir", "dir/b/c"],
            &["-p", "dir/", "dir/inner/b/c/d"],
            &["file", "dir", "dir/inner"],
            &["-T", "dir", "existing/../dir/new"],
        ] {
            refused(backend, at, args, "itself");
        }
    });
}

#[test]
fn a_parent_is_not_copied_over_its_own_child() {
    each(|backend, at| {
        // dir/inner/dir would be made inside what is being read
        refused(backend, at, &["dir", "dir/inner/"], "itself");
    });
}

#[test]
fn two_sources_of_one_name_are_refused() {
    each(|backend, at| {
        fs::write(at.join("dir/file"), "another file").unwrap();
        refused(backend, at, &["file", "dir/file", "existing"], "file");
    });
}

#[test]
fn a_link_as_argument_is_kept_and_followed_with_a_slash() {
    each(|backend, at| {
        symlink("dir", at.join("link")).unwrap();
        symlink("nowhere", at.join("dangling")).unwrap();
        copy(backend, at, &["link", "kept"]);
        assert_eq!(fs::read_link(at.join("kept")).unwrap(), Path::new("dir"));
        copy(backend, at, &["link/", "followed"]);
        same(at.join("dir"), at.join("followed"));
        copy(backend, at, &["dangling", "existing"]);
        assert_eq!(fs::read_link(at.join("existing/dangling")).unwrap(), Path::new("nowhere"));
    });
}

#[test]
fn a_loop_of_links_with_a_slash_is_refused_in_words() {
    each(|backend, at| {
        symlink("b", at.join("a")).unwrap();
        symlink("a", at.join("b")).unwrap();
        let run = Longshore::copy(backend).current_dir(at).args(["a/", "new"]).expect(2);
        run.says("symbolic links");
        assert!(!at.join("new").exists());
        copy(backend, at, &["a", "kept"]);
        assert_eq!(fs::read_link(at.join("kept")).unwrap(), Path::new("b"));
    });
}

#[test]
fn a_source_that_does_not_exist_is_refused_before_the_others_are_copied() {
    each(|backend, at| {
        refused(backend, at, &["no-such", "new"], "no-such");
        refused(backend, at, &["file", "no-such", "existing"], "no-such");
        refused(backend, at, &["file/", "new"], "file");
        refused(backend, at, &["", "new"], "");
    });
}

#[test]
fn a_symlink_at_the_destination_is_replaced_not_written_through() {
    each(|backend, at| {
        fs::write(at.join("outside"), "must stay").unwrap();
        symlink("../outside", at.join("existing/one")).unwrap();
        copy(backend, at, &["dir/", "existing"]);
        assert_eq!(fs::read(at.join("outside")).unwrap(), b"must stay");
        same(at.join("dir/one"), at.join("existing/one"));
        symlink("outside", at.join("named")).unwrap();
        copy(backend, at, &["file", "named"]);
        assert_eq!(fs::read(at.join("outside")).unwrap(), b"must stay");
        same(at.join("file"), at.join("named"));
        symlink("not-there", at.join("dangling")).unwrap();
        copy(backend, at, &["file", "dangling"]);
        assert!(!at.join("not-there").exists());
        same(at.join("file"), at.join("dangling"));
    });
}

#[test]
fn an_inner_directory_that_is_a_link_at_the_destination_leads_nowhere() {
    each(|backend, at| {
        fs::create_dir(at.join("outside")).unwrap();
        fs::write(at.join("outside/two"), "must stay").unwrap();
        let before = listing(&at.join("outside"));
        symlink("../outside", at.join("existing/inner")).unwrap();
        let run = Longshore::copy(backend).current_dir(at).args(["dir/", "existing"]).run();
        assert!(matches!(run.code, Some(0 | 1)), "{}", run.describe());
        assert_eq!(before, listing(&at.join("outside")), "written outside by {}", run.describe());
        same(at.join("dir/one"), at.join("existing/one"));
        if run.code == Some(0) {
            same(at.join("dir/inner"), at.join("existing/inner"));
        } else {
            assert!(run.blames(&at.join("dir/inner")), "{}", run.describe());
        }
    });
}

#[test]
fn delete_does_not_reach_through_a_link_at_the_destination() {
    each(|backend, at| {
        fs::create_dir(at.join("outside")).unwrap();
        fs::write(at.join("outside/precious"), "must stay").unwrap();
        symlink("../outside", at.join("existing/inner")).unwrap();
        symlink("../outside", at.join("existing/extraneous")).unwrap();
        let run =
            Longshore::copy(backend).current_dir(at).args(["--delete", "dir/", "existing"]).run();
        assert_eq!(
            fs::read(at.join("outside/precious")).unwrap(),
            b"must stay",
            "{}",
            run.describe()
        );
    });
}

#[test]
fn a_dry_run_writes_nothing() {
    each(|backend, at| {
        fs::write(at.join("existing/extraneous"), "x").unwrap();
        fs::write(at.join("existing/one"), "old").unwrap();
        let before = listing(at);
        let run = copy(backend, at, &["--dry-run", "--delete", "dir/", "existing"]);
        assert_eq!(before, listing(at), "written by {}", run.describe());
        assert_eq!(run.report.as_ref().unwrap()["dry_run"], true);
        let run = copy(backend, at, &["-n", "-p", "dir", "some/new/place"]);
        assert_eq!(before, listing(at), "written by {}", run.describe());
        assert!(
            run.stdout.contains("some/new/place") || run.stderr.contains("some/new/place"),
            "{}",
            run.describe()
        );
    });
}

#[test]
fn existing_files_are_replaced_whatever_they_were() {
    each(|backend, at| {
        for (name, content, mode) in [
            ("longer", "long ".repeat(9000), 0o644),
            ("shorter", String::new(), 0o666),
            ("read-only", "x".to_owned(), 0o444),
            ("none", "y".to_owned(), 0),
        ] {
            fs::write(at.join(name), content).unwrap();
            chmod(&at.join(name), mode);
            copy(backend, at, &["file", name]);
            same(at.join("file"), at.join(name));
        }
    });
}

#[test]
fn another_name_of_an_existing_file_keeps_its_content() {
    each(|backend, at| {
        fs::write(at.join("existing/one"), "old content").unwrap();
        hard_link(&at.join("existing/one"), &at.join("other-name"));
        copy(backend, at, &["dir/", "existing"]);
        assert_eq!(fs::read(at.join("other-name")).unwrap(), b"old content");
        same(at.join("dir/one"), at.join("existing/one"));
    });
}

#[test]
fn hard_links_are_made_again_over_what_is_there() {
    each(|backend, at| {
        hard_link(&at.join("dir/one"), &at.join("dir/inner/one-again"));
        copy(backend, at, &["dir", "new"]);
        copy(backend, at, &["-T", "dir", "new"]);
        same(at.join("dir"), at.join("new"));
        fs::remove_file(at.join("new/one")).unwrap();
        fs::write(at.join("new/one"), "no link any more").unwrap();
        copy(backend, at, &["-T", "dir", "new"]);
        same(at.join("dir"), at.join("new"));
    });
}

#[test]
fn odd_names_as_arguments_are_just_names() {
    each(|backend, at| {
        for name in ["-dash", "new\nline", "*", "~", "a b"] {
            fs::write(at.join(name), name).unwrap();
            Longshore::copy(backend).current_dir(at).args(["--", name, "existing"]).expect(0);
            same(at.join(name), at.join("existing").join(name));
        }
    });
}

#[test]
fn no_litter_is_left_beside_the_copy() {
    each(|backend, at| {
        copy(backend, at, &["dir", "new"]);
        let names: Vec<_> = Snapshot::of(&at.join("new")).entries.into_keys().collect();
        assert_eq!(names, ["", "inner", "inner/two", "one"].map(PathBuf::from));
        let mut names: Vec<_> =
            fs::read_dir(at).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, ["dir", "existing", "file", "new"]);
    });
}

/// The link took the file's place and led to itself: the content was gone, and the copy was complete.
#[test]
fn a_link_never_replaces_the_file_that_it_leads_to() {
    each(|backend, at| {
        symlink("file", at.join("link")).unwrap();
        symlink(at.join("dir/one"), at.join("one")).unwrap();
        let message = "a link to the file that it would replace";
        refused(backend, at, &["link", "file"], message);
        refused(backend, at, &["-T", "link", "file"], message);
        refused(backend, at, &["one", "dir"], message);
        refused(backend, at, &["--update", "one", "dir"], message);
        // A link in the place of a link harms nobody.
        copy(backend, at, &["one", "link"]);
        assert_eq!(fs::read_link(at.join("link")).unwrap(), at.join("dir/one"));

        // Further below it is one item that fails, also where it is another name of a link.
        let (from, to) = (at.join("from"), at.join("to"));
        for dir in [&from, &to] {
            fs::create_dir_all(dir.join("sub")).unwrap();
        }
        for name in ["a", "b"] {
            fs::write(to.join("sub").join(name), "precious").unwrap();
        }
        symlink(to.join("sub/a"), from.join("sub/a")).unwrap();
        symlink(to.join("sub/b"), from.join("sub/0")).unwrap();
        hard_link(&from.join("sub/0"), &from.join("sub/b"));
        let run = Longshore::copy(backend).current_dir(at).args(["from/", "to"]).expect(1);
        run.says("2 same-file");
        for name in ["a", "b"] {
            assert_eq!(fs::read(to.join("sub").join(name)).unwrap(), b"precious", "{name}");
        }
        assert_eq!(fs::read_dir(to.join("sub")).unwrap().count(), 3, "something was left over");
    });
}

#[test]
fn delete_never_deletes_its_own_source() {
    each(|backend, at| {
        fs::create_dir_all(at.join("dir/inner/inner")).unwrap();
        let message = "--delete would delete the source";
        refused(backend, at, &["--delete", "dir/inner/", "dir"], message);
        refused(backend, at, &["--delete", "-T", "dir/inner", "dir"], message);
        refused(backend, at, &["--delete", "--dry-run", "dir/inner/", "dir"], message);
        refused(backend, at, &["--delete", "dir/inner/inner", "dir"], message);
        symlink("dir", at.join("way")).unwrap();
        refused(backend, at, &["--delete", "way/inner/", "dir"], message);
        if need_root() {
            fs::create_dir(at.join("bound")).unwrap();
            let _bind = Bind::new(&at.join("dir"), &at.join("bound"));
            refused(backend, at, &["--delete", "bound/inner/", "dir"], message);
            // Of a directory below it only the engine can see that it is the source.
            fs::create_dir(at.join("hidden")).unwrap();
            let _bind = Bind::new(&at.join("dir/inner"), &at.join("hidden"));
            let args = ["--delete", "hidden/", "dir"];
            let run = Longshore::copy(backend).current_dir(at).args(args).expect(1);
            run.says("1 into-itself");
            assert!(at.join("dir/inner/two").exists());
        }
        // What is left out is not deleted.
        copy(backend, at, &["--delete", "--exclude", "/inner", "dir/inner/", "dir"]);
        assert!(at.join("dir/inner/two").exists() && !at.join("dir/one").exists());
    });
}

#[test]
fn delete_removes_nothing_across_a_mount_point() {
    if !need_root() {
        return;
    }
    each(|backend, at| {
        let destination = at.join("existing");
        for name in ["extraneous", "inner", "bound"] {
            fs::create_dir(destination.join(name)).unwrap();
        }
        fs::create_dir(at.join("dir/bound")).unwrap();
        let others = [at.join("other"), at.join("more")];
        for other in &others {
            fs::create_dir_all(other.join("deep")).unwrap();
            fs::write(other.join("deep/precious"), "of somebody else").unwrap();
        }
        let precious = |other: &Path| other.join("deep/precious").exists();
        // What only the destination has, in whole and with a mount point further down.
        let extraneous = Bind::new(&others[0], &destination.join("extraneous"));
        for options in [&["--delete"][..], &["--delete", "-x"], &["--delete", "--dry-run"]] {
            let args = [options, &["dir/", "existing"]].concat();
            let run = Longshore::copy(backend).current_dir(at).args(&args).expect(1);
            run.says("Device or resource busy");
            assert!(precious(&others[0]), "{args:?}");
        }
        drop(extraneous);
        // What both have: it belongs to the copy, unless the copy stays on its filesystem.
        {
            let _inner = Bind::new(&others[1], &destination.join("inner"));
            copy(backend, at, &["--delete", "-x", "dir/", "existing"]);
            assert!(precious(&others[1]) && destination.join("inner/two").exists());
        }
        // A directory of the source itself is bound there.
        let _bound = Bind::new(&at.join("dir/inner"), &destination.join("bound"));
        let args = ["--delete", "dir/", "existing"];
        let run = Longshore::copy(backend).current_dir(at).args(args).expect(1);
        run.says("1 into-itself");
        assert!(at.join("dir/inner/two").exists());
    });
}

#[test]
fn a_list_that_goes_below_a_file_is_refused() {
    each(|backend, at| {
        for entry in ["missing", "file"] {
            fs::write(at.join("list"), entry).unwrap();
            refused(backend, at, &["--files-from", "list", "file", "new"], "list its own path");
        }
        fs::write(at.join("list"), at.join("file").to_str().unwrap()).unwrap();
        copy(backend, at, &["--files-from", "list", "file", "new"]);
        same(at.join("file"), at.join("new"));
    });
}

#[test]
fn what_is_in_the_way_of_the_root_is_named_before_anything_is_written() {
    each(|backend, at| {
        fs::write(at.join("existing/dir"), "in the way").unwrap();
        fs::create_dir(at.join("existing/file")).unwrap();
        symlink("nowhere", at.join("dangling")).unwrap();
        refused(backend, at, &["dir", "existing"], "is not a directory, but the source is");
        refused(backend, at, &["file", "existing"], "a directory is in the way");
        fs::remove_file(at.join("existing/dir")).unwrap();
        fs::create_dir(at.join("elsewhere")).unwrap();
        symlink("../elsewhere", at.join("existing/dir")).unwrap();
        refused(backend, at, &["dir", "existing"], "is not a directory, but the source is");
        for args in [["dir", "dangling/"], ["dir/", "dangling/"], ["file", "dangling/."]] {
            refused(backend, at, &args, "leads nowhere");
        }
        refused(backend, at, &["file", "missing/."], "the directory does not exist");
    });
}

#[test]
fn what_is_written_beside_a_copy_is_neither_in_it_nor_in_place_of_anything() {
    each(|backend, at| {
        symlink("dir/one", at.join("link")).unwrap();
        fs::hard_link(at.join("file"), at.join("twin")).unwrap();
        fs::hard_link(at.join("dir/one"), at.join("another")).unwrap();
        fs::write(at.join("list"), "dir/one").unwrap();
        for option in ["--manifest", "--report", "--failed-list"] {
            for (output, source, target, message) in [
                ("dir/new", "dir", "new", "inside the source"),
                ("dir/one", "dir/", "existing", "inside the source"),
                ("dir/inner/two", "dir", "new", "inside the source"),
                ("link", "dir", "new", "inside the source"),
                ("file", "file", "new", "overwrite the source"),
                ("twin", "file", "new", "overwrite the source"),
                ("another", "dir", "new", "several names"),
                ("existing/new", "dir/", "existing", "inside the copy"),
                ("new", "dir", "new", "in the place of the copy"),
                ("existing/file", "file", "existing", "in the place of the copy"),
            ] {
                refused(backend, at, &[option, output, source, target], message);
            }
            let listed = ["--files-from", "list", option, "list", "dir", "new"];
            refused(backend, at, &listed, "what --files-from reads");
            let noted = ["--journal", "noted", option, "noted", "dir", "new"];
            refused(backend, at, &noted, "what --journal reads");
        }
        for pair in [["--manifest", "--report"], ["--failed-list", "--report"]] {
            let twice = [pair[0], "out", pair[1], "./out", "dir", "new"];
            refused(backend, at, &twice, "name the same file");
        }
        // A manifest gets its name when it is complete, which would end a pipe, and a link.
        nix::unistd::mkfifo(&at.join("pipe"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        symlink("list", at.join("way")).unwrap();
        for output in ["pipe", "way", "existing"] {
            let args = ["--manifest", output, "file", "new"];
            refused(backend, at, &args, "not a regular file");
        }
        // Beside both, and where it takes no place at all.
        copy(backend, at, &["--manifest", "out", "--failed-list", "/dev/null", "dir", "new"]);
        same(at.join("dir"), at.join("new"));
    });
}

#[test]
fn parents_are_not_made_where_a_link_leads_nowhere_or_the_directory_is_gone() {
    each(|backend, at| {
        symlink("nowhere", at.join("dangling")).unwrap();
        for target in ["dangling/new", "dangling/a/b/", "existing/../dangling/new"] {
            refused(backend, at, &["--parents", "file", target], "leads nowhere");
        }
        let gone = at.join("gone");
        fs::create_dir(&gone).unwrap();
        let removed = format!("rmdir '{}' && exec \"$@\"", gone.display());
        for target in ["new", "a/new", "."] {
            Longshore::copy(backend)
                .through(&["sh", "-c", &removed, "sh"])
                .current_dir(&gone)
                .args(["--journal", "none", "--parents", at.join("dir").to_str().unwrap(), target])
                .expect(2)
                .says("has been removed");
            fs::create_dir(&gone).unwrap();
        }
    });
}

#[test]
fn a_directory_that_its_owner_has_closed_is_no_place_for_a_new_name() {
    if !need_root() {
        return;
    }
    each(|backend, at| {
        chmod(at, 0o777);
        let closed = at.join("closed");
        fs::create_dir(&closed).unwrap();
        std::os::unix::fs::chown(&closed, Some(1000), Some(1000)).unwrap();
        for mode in [0o555, 0] {
            chmod(&closed, mode);
            for source in ["file", "dir"] {
                let args = ["--journal", "none", source, "closed"];
                let run = Longshore::copy(backend).user(1000).current_dir(at).args(args).expect(2);
                run.says("not writable by this user");
            }
        }
    });
}
