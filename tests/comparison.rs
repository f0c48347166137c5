//! `longshore verify`, against a source and against a manifest: every damage that a copy can have is
//! found, and nothing else is. Damage that only the device knows of is `verify.rs`'s business.
#![allow(clippy::unwrap_used, clippy::print_stderr, unreachable_pub)] // tests

mod support;

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

use proptest::prelude::*;
use serde_json::Value;
use support::{Backend, Fs, Longshore, Rng, Scratch, Tree, TreeOptions, for_each_backend, is_root};

/// How a comparison ended: exit code, what it printed, its report.
struct Verdict {
    code: Option<i32>,
    text: String,
    report: Value,
}

impl Verdict {
    /// The differences as (path, kind), sorted.
    fn found(&self) -> Vec<(String, String)> {
        let found = self.report["found"].as_array().cloned().unwrap_or_default();
        let text = |value: &Value| value.as_str().unwrap_or("not a string").to_owned();
        let mut found: Vec<_> =
            found.iter().map(|one| (text(&one["path"]), text(&one["kind"]))).collect();
        found.sort();
        found
    }

    #[track_caller]
    fn expect(&self, code: i32) -> &Self {
        assert_eq!(self.code, Some(code), "{}", self.text);
        self
    }
}

/// Runs `longshore verify`, with a limit after which it counts as hung.
fn verify(scratch: &Scratch, args: &[&OsStr]) -> Verdict {
    let report = scratch.join("verify-report");
    let _ = fs::remove_file(&report);
    let output = Command::new("timeout")
        .args(["-s", "KILL", "120"])
        .arg(env!("CARGO_BIN_EXE_longshore"))
        .arg("verify")
        .arg("--report")
        .arg(&report)
        .args(args)
        .output()
        .unwrap();
    let report = fs::read(&report).ok().and_then(|json| serde_json::from_slice(&json).ok());
    let text = [output.stdout, output.stderr].concat();
    Verdict {
        code: output.status.code(),
        text: String::from_utf8_lossy(&text).into_owned(),
        report: report.unwrap_or_default(),
    }
}

fn os(text: &str) -> &OsStr {
    OsStr::new(text)
}

/// A copy of a tree with everything in it, and its manifest.
fn copied(scratch: &Scratch, backend: Backend, options: TreeOptions) -> Tree {
    let tree = Tree::make(scratch.join("src"), 4711, options);
    Longshore::copy(backend)
        .arg("--manifest")
        .arg(scratch.join("manifest"))
        .arg(&tree.root)
        .arg(scratch.join("copy"))
        .expect(0);
    tree
}

#[test]
fn an_exact_copy_is_the_same_as_its_source_and_its_manifest() {
    for fs in [Fs::Tmpfs, Fs::Ext4, Fs::Xfs] {
        let Some(scratch) = Scratch::new(fs) else { continue };
        for_each_backend(|backend| {
            // Paths beyond PATH_MAX included.
            copied(&scratch, backend, TreeOptions::default());
            let (src, copy) = (scratch.join("src"), scratch.join("copy"));
            let manifest = scratch.join("manifest");
            for metadata in [&[][..], &[os("--metadata")]] {
                let trees = [metadata, &[src.as_os_str(), copy.as_os_str()]].concat();
                verify(&scratch, &trees).expect(0);
                let listed = [metadata, &[os("--manifest"), manifest.as_os_str()]].concat();
                verify(&scratch, &listed).expect(0);
            }
            // Elsewhere, under another name.
            fs::rename(&copy, scratch.join("moved")).unwrap();
            let moved = scratch.join("moved");
            verify(&scratch, &[os("--manifest"), manifest.as_os_str(), moved.as_os_str()])
                .expect(0);
            for path in [&src, &moved] {
                support::scratch::remove(path);
            }
        });
    }
}

/// A small tree whose every item is damaged in one way.
fn make_items(src: &Path) {
    fs::create_dir_all(src.join("dir/below")).unwrap();
    for name in ["byte", "size", "gone", "mode", "type", "same", "time", "dir/below/deep"] {
        fs::write(src.join(name), Rng::new(9).bytes(9000)).unwrap();
    }
    fs::write(src.join("large"), Rng::new(10).bytes(5 << 20)).unwrap();
    let sparse = File::create(src.join("sparse")).unwrap();
    sparse.set_len(40 << 20).unwrap();
    sparse.write_all_at(b"data", 30 << 20).unwrap();
    fs::write(src.join("first"), "linked").unwrap();
    fs::hard_link(src.join("first"), src.join("second")).unwrap();
    symlink("same", src.join("link")).unwrap();
    fs::write(src.join(OsStr::from_bytes(b"bad\xffname\n")), "x").unwrap();
}

fn flip(path: &Path, offset: u64) {
    let file = File::options().read(true).write(true).open(path).unwrap();
    let modified = file.metadata().unwrap().modified().unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset).unwrap();
    file.write_all_at(&[byte[0] ^ 1], offset).unwrap();
    file.set_modified(modified).unwrap();
}

fn damage(copy: &Path) {
    flip(&copy.join("byte"), 8999);
    flip(&copy.join("large"), (3 << 20) + 17);
    flip(&copy.join("sparse"), 12 << 20);
    flip(&copy.join("dir/below/deep"), 0);
    fs::write(copy.join("size"), "short").unwrap();
    fs::remove_file(copy.join("gone")).unwrap();
    fs::set_permissions(copy.join("mode"), PermissionsExt::from_mode(0o711)).unwrap();
    fs::remove_file(copy.join("type")).unwrap();
    symlink("same", copy.join("type")).unwrap();
    fs::remove_file(copy.join("second")).unwrap();
    fs::write(copy.join("second"), "linked").unwrap();
    fs::remove_file(copy.join("link")).unwrap();
    symlink("other", copy.join("link")).unwrap();
    fs::write(copy.join("dir/more"), "").unwrap();
    let time = File::options().write(true).open(copy.join("time")).unwrap();
    time.set_modified(std::time::UNIX_EPOCH).unwrap();
}

/// What `damage` did, as far as content and structure go.
const DAMAGE: [(&str, &str); 9] = [
    ("byte", "content"),
    ("dir/below/deep", "content"),
    ("dir/more", "extra"),
    ("gone", "missing"),
    ("large", "content"),
    ("link", "target"),
    ("size", "size"),
    ("sparse", "content"),
    ("type", "type"),
];

#[test]
fn every_damage_is_found_and_nothing_else() {
    for fs in [Fs::Tmpfs, Fs::Ext4, Fs::Xfs] {
        let Some(scratch) = Scratch::new(fs) else { continue };
        let (src, copy, manifest) =
            (scratch.join("src"), scratch.join("copy"), scratch.join("manifest"));
        fs::create_dir(&src).unwrap();
        make_items(&src);
        Longshore::copy(Backend::Auto)
            .arg("--verify=blake3")
            .arg("--manifest")
            .arg(&manifest)
            .arg(&src)
            .arg(&copy)
            .expect(0);
        damage(&copy);
        let expected = DAMAGE.map(|(path, kind)| (path.to_owned(), kind.to_owned()));
        let list = scratch.join("failed");
        let verdict = verify(
            &scratch,
            &[os("--failed-list"), list.as_os_str(), src.as_os_str(), copy.as_os_str()],
        );
        assert_eq!(verdict.expect(1).found(), expected, "{}", verdict.text);
        let large = verdict.report["found"].as_array().unwrap().clone();
        let large = large.iter().find(|one| one["path"] == "large").unwrap();
        assert_eq!(large["ranges"], serde_json::json!([[(3 << 20) + 17, (3 << 20) + 18]]));

        let listed = verify(&scratch, &[os("--manifest"), manifest.as_os_str()]);
        // Either name may be the first, to which the other is no longer linked.
        let (links, rest): (Vec<_>, Vec<_>) =
            listed.expect(1).found().into_iter().partition(|(_, kind)| kind == "hard-link");
        assert_eq!(rest, expected, "{}", listed.text);
        assert!(links.len() == 1 && ["first", "second"].contains(&links[0].0.as_str()));
        let chunk = listed.report["found"].as_array().unwrap().clone();
        let chunk = chunk.iter().find(|one| one["path"] == "large").unwrap();
        assert_eq!(chunk["ranges"], serde_json::json!([[3 << 20, 4 << 20]]));

        let metadata = verify(&scratch, &[os("--metadata"), src.as_os_str(), copy.as_os_str()]);
        for (path, kind) in [("mode", "mode"), ("time", "time"), ("dir", "time")] {
            let wanted = (path.to_owned(), kind.to_owned());
            assert!(metadata.found().contains(&wanted), "no {wanted:?}: {}", metadata.text);
        }
        let linked = ["first", "second"].map(|name| (name.to_owned(), "hard-link".to_owned()));
        assert!(linked.iter().any(|one| metadata.found().contains(one)), "{}", metadata.text);

        // The failed list is what a copy needs to put everything right again.
        Longshore::copy(Backend::Auto).arg("-T").arg("--delete").arg(&src).arg(&copy).expect(0);
        verify(&scratch, &[os("--metadata"), src.as_os_str(), copy.as_os_str()]).expect(0);
        for path in [&src, &copy] {
            support::scratch::remove(path);
        }
    }
}

#[test]
fn the_failed_list_of_a_comparison_repairs_the_copy() {
    let Some(scratch) = Scratch::new(Fs::Ext4) else { return };
    let (src, copy, list) = (scratch.join("src"), scratch.join("copy"), scratch.join("failed"));
    fs::create_dir(&src).unwrap();
    make_items(&src);
    Longshore::copy(Backend::Auto).arg(&src).arg(&copy).expect(0);
    for name in ["byte", "dir/below/deep"] {
        flip(&copy.join(name), 77);
    }
    fs::remove_file(copy.join("gone")).unwrap();
    let args = [os("--failed-list"), list.as_os_str(), src.as_os_str(), copy.as_os_str()];
    verify(&scratch, &args).expect(1);
    let run = Longshore::copy(Backend::Auto)
        .arg("-T")
        .arg("--files-from")
        .arg(&list)
        .arg(&src)
        .arg(&copy)
        .expect(0);
    assert_eq!(run.count("/copied/files"), 3, "{}", run.describe());
    verify(&scratch, &args).expect(0);
}

#[test]
fn attributes_and_owners_are_compared_on_request() {
    if !support::need_root() {
        return;
    }
    let Some(scratch) = Scratch::new(Fs::Ext4) else { return };
    let (src, copy) = (scratch.join("src"), scratch.join("copy"));
    fs::create_dir(&src).unwrap();
    for name in ["owner", "attribute"] {
        fs::write(src.join(name), name).unwrap();
        xattr::set(src.join(name), "user.a", b"1").unwrap();
    }
    Longshore::copy(Backend::Auto).arg(&src).arg(&copy).expect(0);
    std::os::unix::fs::chown(copy.join("owner"), Some(12), None).unwrap();
    xattr::set(copy.join("attribute"), "user.a", b"2").unwrap();
    verify(&scratch, &[src.as_os_str(), copy.as_os_str()]).expect(0);
    let verdict = verify(&scratch, &[os("--metadata"), src.as_os_str(), copy.as_os_str()]);
    let expected = [("attribute", "xattr"), ("owner", "owner")];
    let expected = expected.map(|(path, kind)| (path.to_owned(), kind.to_owned()));
    assert_eq!(verdict.expect(1).found(), expected, "{}", verdict.text);
}

/// The same rules leave out the same items, whatever a copy is compared with; what is below a directory
/// that is left out has no part in it, nor has what the copy has besides.
#[test]
fn filters_mean_the_same_for_a_manifest_as_for_a_source() {
    let scratch = Scratch::on_disk();
    let (src, copy) = (scratch.join("src"), scratch.join("copy"));
    for name in ["a.o", "b.c", "build/c.c", "build/deep/d.c", "keep/e.o", "keep/f.c"] {
        let path = src.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, name).unwrap();
    }
    let manifest = scratch.join("manifest");
    let command = Longshore::copy(Backend::Auto).arg("--manifest").arg(&manifest);
    command.arg(&src).arg(&copy).expect(0);
    for name in ["a.o", "b.c", "build/deep/d.c", "keep/e.o", "keep/f.c"] {
        flip(&copy.join(name), 0);
    }
    fs::remove_file(copy.join("build/c.c")).unwrap();
    for name in ["more.o", "more.c", "build/more.c"] {
        fs::write(copy.join(name), "more").unwrap();
    }
    let cases: [(&[&str], &[&str]); 4] = [
        (
            &[],
            &[
                "a.o",
                "b.c",
                "build/c.c",
                "build/deep/d.c",
                "build/more.c",
                "keep/e.o",
                "keep/f.c",
                "more.c",
                "more.o",
            ],
        ),
        (&["--exclude=build/", "--exclude=*.o"], &["b.c", "keep/f.c", "more.c"]),
        (
            &["--include=keep/e.o", "--exclude=*.o", "--exclude=/build"],
            &["b.c", "keep/e.o", "keep/f.c", "more.c"],
        ),
        (&["--exclude=deep", "--exclude=*.c"], &["a.o", "keep/e.o", "more.o"]),
    ];
    for (rules, expected) in cases {
        let rules: Vec<&OsStr> = rules.iter().map(|rule| os(rule)).collect();
        for against in [
            vec![src.as_os_str(), copy.as_os_str()],
            vec![os("--manifest"), manifest.as_os_str(), copy.as_os_str()],
        ] {
            let verdict = verify(&scratch, &[&rules[..], &against].concat());
            let found: Vec<String> =
                verdict.expect(1).found().into_iter().map(|one| one.0).collect();
            assert_eq!(found, expected, "{rules:?} {against:?}: {}", verdict.text);
        }
    }
}

#[test]
fn single_files_filters_and_wrong_requests() {
    let scratch = Scratch::on_disk();
    let (src, copy) = (scratch.join("src"), scratch.join("copy"));
    fs::create_dir(&src).unwrap();
    make_items(&src);
    Longshore::copy(Backend::Auto).arg(&src).arg(&copy).expect(0);
    flip(&copy.join("byte"), 1);
    let (one, other) = (src.join("byte"), copy.join("same"));
    verify(&scratch, &[one.as_os_str(), other.as_os_str()]).expect(0);
    let other = copy.join("byte");
    verify(&scratch, &[one.as_os_str(), other.as_os_str()]).expect(1);
    verify(&scratch, &[one.as_os_str(), copy.as_os_str()]).expect(1);
    verify(&scratch, &[os("--exclude=byte"), src.as_os_str(), copy.as_os_str()]).expect(0);
    let nothing = scratch.join("nothing");
    verify(&scratch, &[nothing.as_os_str(), copy.as_os_str()]).expect(2);
    verify(&scratch, &[src.as_os_str()]).expect(2);
    verify(&scratch, &[os("--manifest"), one.as_os_str()]).expect(2);
}

#[test]
fn a_comparison_overwrites_nothing_that_it_compares() {
    let scratch = Scratch::on_disk();
    let (src, copy, manifest) = (scratch.join("src"), scratch.join("copy"), scratch.join("list"));
    fs::create_dir(&src).unwrap();
    make_items(&src);
    let beside = [os("--manifest"), manifest.as_os_str()];
    Longshore::copy(Backend::Auto).args(beside).arg(&src).arg(&copy).expect(0);
    for output in [src.join("byte"), copy.join("byte"), src.join("new"), copy.join("new")] {
        let list = [os("--failed-list"), output.as_os_str()];
        let verdict = verify(&scratch, &[list[0], list[1], src.as_os_str(), copy.as_os_str()]);
        verdict.expect(2);
        assert!(verdict.text.contains("name a place beside it"), "{}", verdict.text);
    }
    let list = [os("--failed-list"), manifest.as_os_str()];
    let verdict = verify(&scratch, &[list, beside].concat());
    verdict.expect(2);
    assert!(verdict.text.contains("what --manifest reads"), "{}", verdict.text);
    verify(&scratch, &beside).expect(0);
    verify(&scratch, &[src.as_os_str(), copy.as_os_str()]).expect(0);
}

#[test]
fn a_manifest_inside_the_copy_is_refused_and_a_stopped_copy_leaves_none() {
    let scratch = Scratch::on_disk();
    let (src, copy) = (scratch.join("src"), scratch.join("copy"));
    fs::create_dir(&src).unwrap();
    fs::create_dir(&copy).unwrap();
    make_items(&src);
    let inside = copy.join("manifest");
    Longshore::copy(Backend::Auto)
        .args(["-T", "--manifest"])
        .arg(&inside)
        .arg(&src)
        .arg(&copy)
        .expect(2)
        .says("inside the copy");
    assert_eq!(fs::read_dir(&copy).unwrap().count(), 0);
    // Some items fail: there is a manifest, and it says that it is not everything.
    if is_root() {
        let beside = scratch.join("manifest");
        fs::write(src.join(".longshore-0123456789abcdef"), "reserved").unwrap();
        Longshore::copy(Backend::Auto)
            .args(["-T", "--manifest"])
            .arg(&beside)
            .arg(&src)
            .arg(&copy)
            .expect(1);
        let verdict = verify(&scratch, &[os("--manifest"), beside.as_os_str()]);
        verdict.expect(0);
        assert!(verdict.text.contains("incomplete"), "{}", verdict.text);
        assert_eq!(verdict.report["manifest_complete"], false);
    }
}

#[test]
fn several_sources_share_a_manifest_and_files_left_alone_are_in_it() {
    let scratch = Scratch::on_disk();
    let (src, copy, manifest) =
        (scratch.join("src"), scratch.join("copy"), scratch.join("manifest"));
    fs::create_dir(&src).unwrap();
    make_items(&src);
    fs::create_dir(&copy).unwrap();
    let run = |update: &[&str]| {
        Longshore::copy(Backend::Auto)
            .args(update)
            .arg("--manifest")
            .arg(&manifest)
            .args([&src, &src.join("large")])
            .arg(&copy)
            .expect(0)
    };
    run(&[]);
    let lines = |manifest: &Path| {
        let text = fs::read_to_string(manifest).unwrap();
        let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
        let last = lines.pop().unwrap();
        assert!(last.contains("\"type\":\"end\""), "{last}");
        // Which of two names has the file's line depends on the order of the walk.
        lines.retain(|line| !line.contains("src/first") && !line.contains("src/second"));
        lines.sort();
        lines
    };
    let first = lines(&manifest);
    verify(&scratch, &[os("--manifest"), manifest.as_os_str()]).expect(0);
    flip(&copy.join("large"), 5);
    let verdict = verify(&scratch, &[os("--manifest"), manifest.as_os_str()]);
    assert_eq!(verdict.expect(1).found(), [("large".to_owned(), "content".to_owned())]);
    // Everything is there, by size and time: the manifest is the same, and so the damage is still seen.
    let again = run(&["--update"]);
    assert!(again.count("/files_skipped") > 8, "{}", again.describe());
    assert_eq!(lines(&manifest), first);
    verify(&scratch, &[os("--manifest"), manifest.as_os_str()]).expect(1);
}

/// The backends must write the same manifest, whatever they saw of the bytes.
#[test]
fn every_backend_writes_the_same_manifest() {
    for fs in Fs::ALL {
        let Some(scratch) = Scratch::new(fs) else { continue };
        let tree = Tree::make(scratch.join("src"), 12, TreeOptions::default());
        let mut first: Option<Vec<String>> = None;
        for_each_backend(|backend| {
            let (copy, manifest) = (scratch.join("copy"), scratch.join("manifest"));
            Longshore::copy(backend)
                .args(["--checksum", "blake3", "--manifest"])
                .arg(&manifest)
                .arg(&tree.root)
                .arg(&copy)
                .expect(0);
            let text = fs::read_to_string(&manifest).unwrap();
            // Which name of an inode is the first depends on the order of the walk.
            let mut lines: Vec<String> = text
                .lines()
                .filter(|line| line.contains("\"type\":\"file\"") && !line.contains("links/"))
                .map(str::to_owned)
                .collect();
            lines.sort();
            assert!(lines.len() > 200, "{} lines", lines.len());
            let same = first.get_or_insert_with(|| lines.clone());
            assert!(*same == lines, "backend {backend} on {fs} writes another manifest");
            support::scratch::remove(&copy);
        });
    }
}

/// A manifest in which one byte was changed, or from which the end was cut, is never taken for whole.
#[test]
fn a_changed_or_truncated_manifest_is_refused() {
    let scratch = Scratch::on_disk();
    let (src, copy, manifest) =
        (scratch.join("src"), scratch.join("copy"), scratch.join("manifest"));
    fs::create_dir(&src).unwrap();
    make_items(&src);
    Longshore::copy(Backend::Auto).arg("--manifest").arg(&manifest).arg(&src).arg(&copy).expect(0);
    let whole = fs::read(&manifest).unwrap();
    let broken = scratch.join("broken");
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig {
        cases: 60,
        failure_persistence: None,
        ..ProptestConfig::default()
    });
    let footer = whole[..whole.len() - 1].iter().rposition(|byte| *byte == b'\n').unwrap();
    runner
        .run(&(0..whole.len(), 1..=255_u8, any::<bool>()), |(at, change, cut)| {
            let mut bytes = whole.clone();
            if cut {
                bytes.truncate(at);
            } else {
                bytes[at] ^= change;
            }
            fs::write(&broken, &bytes).unwrap();
            let verdict = verify(&scratch, &[os("--manifest"), broken.as_os_str()]);
            // In the last line, the numbers of files and bytes are for people only.
            let harmless = !cut && at > footer && verdict.code == Some(0);
            prop_assert!(
                verdict.code == Some(2) || harmless,
                "code {:?} at {}: {}",
                verdict.code,
                at,
                verdict.text
            );
            Ok(())
        })
        .unwrap();
    // Somebody who writes lines of his own, digest and all, still cannot lead us outside.
    let mut lines: Vec<&[u8]> = whole.split_inclusive(|byte| *byte == b'\n').collect();
    lines.pop();
    let outside = br#"{"path":"../src/byte","type":"file","size":9000}"#;
    let body = [lines.concat(), outside.to_vec(), b"\n".to_vec()].concat();
    let digest = longshore::checksum::Algorithm::Xxh3.digest(&body);
    let end = format!(
        "{{\"type\":\"end\",\"entries\":{},\"files\":0,\"bytes\":0,\"complete\":true,\"digest\":\"{digest}\"}}\n",
        lines.len()
    );
    fs::write(&broken, [body, end.into_bytes()].concat()).unwrap();
    let verdict = verify(&scratch, &[os("--manifest"), broken.as_os_str()]);
    verdict.expect(1);
    assert!(verdict.text.contains("outside"), "{}", verdict.text);
}

/// A link and its exact copy were refused where they led nowhere, and were the same where two files were.
#[test]
fn a_link_is_compared_itself_with_its_copy() {
    let Some(scratch) = Scratch::new(Fs::Tmpfs) else { return };
    let at = scratch.path();
    fs::write(at.join("file"), "content").unwrap();
    fs::create_dir(at.join("copy")).unwrap();
    for (name, text, other) in [("dangling", "nowhere", "nowhere"), ("link", "file", "../file")] {
        symlink(text, at.join(name)).unwrap();
        symlink(other, at.join("copy").join(name)).unwrap();
    }
    let compared = |one: &str, other: &str| {
        verify(&scratch, &[at.join(one).as_os_str(), at.join(other).as_os_str()])
    };
    compared("dangling", "copy/dangling").expect(0);
    let other = compared("link", "copy/link");
    other.expect(1);
    assert_eq!(other.found(), [("link".to_owned(), "target".to_owned())]);
    // Named alone, a link is a way to the item; one that leads to a directory is always.
    compared("link", "file").expect(0);
    symlink("copy", at.join("way")).unwrap();
    symlink("copy", at.join("other-way")).unwrap();
    compared("way", "other-way").expect(0);
    compared("dangling", "file").expect(2);
}
