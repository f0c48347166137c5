//! Bugs that were found once, each with its symptom, its cause, and the guarantee that the test
//! stands for from now on.
#![allow(clippy::unwrap_used, clippy::print_stderr, clippy::print_stdout, unreachable_pub)] // tests

mod support;

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::Path;
use std::time::Duration;

use support::faulty_fs::{Faults, FaultyFs};
use support::scratch::Bind;
use support::{Compare, Fs, Longshore, Scratch, assert_same_tree, for_each_backend, need_root};

/// Names in a directory that Longshore gives to unfinished files.
fn leftovers(at: &Path) -> Vec<std::path::PathBuf> {
    let entries = walkdir::WalkDir::new(at).into_iter().map(|entry| entry.unwrap().into_path());
    let temporary = |path: &std::path::PathBuf| path.to_string_lossy().contains("/.longshore-");
    entries.filter(temporary).collect()
}

/// Symptom: with more than two threads a copy never ended, at full CPU, once one large file failed.
/// Cause: an invitation to help was handed on before it was clear that there was a file left to help
/// with; a failed file keeps its chunks, so the invitation went round for ever.
/// Guarantee: a failed large file ends the work on it, whoever else was invited.
#[test]
fn a_large_file_that_fails_does_not_keep_its_helpers_busy_for_ever() {
    for_each_backend(|backend| {
        let Some(scratch) = Scratch::new(Fs::Tmpfs) else { return };
        fs::write(scratch.join("big"), vec![7; 64 << 20]).unwrap();
        // A limit of the file size: an error of this one file that no other has to share.
        let limited = "trap '' XFSZ; ulimit -f 40000; exec \"$0\" \"$@\"";
        let run = Longshore::copy(backend)
            .through(&["sh", "-c", limited])
            .args(["--threads", "8"])
            .arg(scratch.join("big"))
            .arg(scratch.join("copy"))
            .limit(Duration::from_secs(20))
            .expect(1);
        assert!(run.blames(&scratch.join("big")), "{}", run.describe());
        assert!(!scratch.join("copy").exists());
        assert_eq!(leftovers(scratch.path()), [] as [&Path; 0]);
    });
}

/// Symptom: a file of /proc was copied as an empty file and reported as copied; one of /sys failed
/// as "changed while it was read". Cause: the size of the inode was believed, which is 0 or one page
/// there. Guarantee: where sizes mean nothing, what reading gives is copied.
#[test]
fn files_whose_size_says_nothing_are_copied_as_they_read() {
    for_each_backend(|backend| {
        let Some(scratch) = Scratch::new(Fs::Tmpfs) else { return };
        for source in ["/proc/version", "/proc/self/limits", "/sys/kernel/mm/ksm/run"] {
            if !Path::new(source).exists() {
                support::skip(&format!("{source} is not there"));
                continue;
            }
            let copy = scratch.join("copy");
            let run = Longshore::copy(backend).arg(source).arg(&copy).expect(0);
            let content = fs::read(&copy).unwrap();
            assert!(!content.is_empty(), "{source}: {}", run.describe());
            assert_eq!(run.count("/copied/bytes"), content.len() as u64);
            if source != "/proc/self/limits" {
                assert_eq!(content, fs::read(source).unwrap());
            }
        }
    });
}

/// Symptom: with a report that could not be written the copy was made, and the exit code was 2,
/// "refused before anything was written". Cause: the report was opened only at the end.
/// Guarantee: exit code 2 means an untouched destination.
#[test]
fn a_report_that_cannot_be_written_is_refused_before_the_copy() {
    let scratch = Scratch::on_disk();
    fs::write(scratch.join("file"), "content").unwrap();
    let status = std::process::Command::new(env!("CARGO_BIN_EXE_longshore"))
        .args(["copy", "--report"])
        .arg(scratch.join("missing/report"))
        .args([scratch.join("file"), scratch.join("copy")])
        .status()
        .unwrap();
    assert_eq!(status.code(), Some(2));
    assert!(!scratch.join("copy").exists());
}

/// Symptom: "too many open files" for items of a deep tree, and of a tree with many hard links, under
/// a low limit of open files. Cause: opening a directory again left everything on the way to it open,
/// and a finished directory that a hard link's first name lies in stayed open for good.
/// Guarantee: the open directories stay within the number that the limit was shared out for.
#[test]
fn directories_that_are_opened_again_do_not_pile_up() {
    for_each_backend(|backend| {
        let Some(scratch) = Scratch::new(Fs::Tmpfs) else { return };
        let (source, copy) = (scratch.join("source"), scratch.join("copy"));
        let mut deep = source.clone();
        for level in 0..150 {
            fs::create_dir_all(&deep).unwrap();
            // Files on both sides of the subdirectory, whichever way round it is read.
            for name in 0..70 {
                fs::write(deep.join(format!("{name}")), format!("{level} {name}")).unwrap();
            }
            deep.push("a");
        }
        for name in 0..200 {
            let [first, second] =
                ["first", "second"].map(|top| source.join(top).join(name.to_string()));
            fs::create_dir_all(&first).unwrap();
            fs::create_dir_all(&second).unwrap();
            fs::write(first.join("f"), "linked").unwrap();
            // The third name lies outside, so that the engine waits for it until the end.
            fs::hard_link(first.join("f"), second.join("f")).unwrap();
            fs::create_dir_all(scratch.join("outside")).unwrap();
            fs::hard_link(first.join("f"), scratch.join("outside").join(name.to_string())).unwrap();
        }
        Longshore::copy(backend)
            .through(&["prlimit", "--nofile=40:40"])
            .args(["--threads", "2"])
            .args([&source, &copy])
            .expect(0);
        assert_same_tree(&source, &copy, Compare::default());
    });
}

/// Symptom: "invalid cross-device link" where a further name's directory lies on another filesystem
/// (or in another project) at the destination; and a symbolic link with two names "changed while it
/// was read" where the destination takes no hard links. Cause: only some refusals led to a copy of
/// its own, and that was always made as of a regular file.
/// Guarantee: a name that cannot be linked is copied for itself, with a counted warning.
#[test]
fn names_that_cannot_be_linked_are_copied_for_themselves() {
    if !need_root() {
        return;
    }
    for_each_backend(|backend| {
        let Some(scratch) = Scratch::new(Fs::Tmpfs) else { return };
        let (source, copy) = (scratch.join("source"), scratch.join("copy"));
        for dir in [source.join("a"), source.join("b"), copy.join("b"), scratch.join("other")] {
            fs::create_dir_all(dir).unwrap();
        }
        fs::write(source.join("a/file"), "content").unwrap();
        symlink("target", source.join("a/link")).unwrap();
        for name in ["file", "link"] {
            fs::hard_link(source.join("a").join(name), source.join("b").join(name)).unwrap();
        }
        let bound = Bind::new(&scratch.join("other"), &copy.join("b"));
        let run = Longshore::copy(backend).arg("-T").args([&source, &copy]).expect(0);
        assert_eq!(run.count("/warnings/hard-link-not-kept"), 2, "{}", run.describe());
        for dir in ["a", "b"] {
            assert_eq!(fs::read(copy.join(dir).join("file")).unwrap(), b"content");
            assert_eq!(fs::read_link(copy.join(dir).join("link")).unwrap(), Path::new("target"));
        }
        drop(bound);
    });
}

/// Symptom: a file was missing at the destination, and the copy said that everything was copied.
/// Cause: it was what an interrupted copy had left in the source, and had the temporary name of the
/// large file beside it, which replaced it and then moved it away.
/// Guarantee: an item with such a name is reported, and the file beside it is exact.
#[test]
fn what_an_interrupted_copy_left_in_the_source_is_reported() {
    for_each_backend(|backend| {
        let Some(scratch) = Scratch::new(Fs::Tmpfs) else { return };
        let (source, copy) = (scratch.join("source"), scratch.join("copy"));
        fs::create_dir(&source).unwrap();
        fs::write(source.join("a"), vec![1; 3 << 20]).unwrap();
        let left = source.join(".longshore-af63dc4c8601ec8c"); // the temporary name for "a"
        fs::write(&left, "left behind").unwrap();
        let run = Longshore::copy(backend).args(["--threads", "1"]).args([&source, &copy]).run();
        assert!(run.expect(1).blames(&left), "{}", run.describe());
        assert_eq!(fs::read(copy.join("a")).unwrap(), fs::read(source.join("a")).unwrap());
        assert_eq!(leftovers(&copy), [] as [&Path; 0]);
    });
}

/// Symptom: `--delete --exclude '*.keep'` removed a `.keep` file in a directory that the source had
/// not. Cause: only the entries of directories that both sides have were looked up in the filter.
/// Guarantee: what is excluded is never deleted, however deep, nor are the directories above it.
#[test]
fn what_is_excluded_is_not_deleted_inside_extraneous_directories_either() {
    for_each_backend(|backend| {
        let Some(scratch) = Scratch::new(Fs::Tmpfs) else { return };
        let (source, copy) = (scratch.join("source"), scratch.join("copy"));
        fs::create_dir(&source).unwrap();
        for dir in ["old/sub", "old/gone"] {
            fs::create_dir_all(copy.join(dir)).unwrap();
        }
        for file in ["old/sub/a.keep", "old/sub/b", "old/gone/c", "d"] {
            fs::write(copy.join(file), "x").unwrap();
        }
        symlink(&copy, scratch.join("link")).unwrap();
        let run = Longshore::copy(backend)
            .args(["--delete", "--exclude", "*.keep", "-T"])
            .args([source, scratch.join("link")])
            .expect(0);
        let mut left: Vec<_> = walkdir::WalkDir::new(&copy)
            .min_depth(1)
            .into_iter()
            .map(|entry| entry.unwrap().path().strip_prefix(&copy).unwrap().to_owned())
            .collect();
        left.sort();
        assert_eq!(left, ["old", "old/sub", "old/sub/a.keep"].map(std::path::PathBuf::from));
        assert_eq!(run.count("/deleted"), 4, "{}", run.describe());
    });
}

/// Symptom: as root, `--no-preserve ownership` made a program that was setuid for some user setuid
/// for root. Cause: the bits were dropped only when changing the owner failed, not when nobody had
/// asked for it. Guarantee: setuid and setgid are kept only with the owner they belong to.
#[test]
fn setuid_is_not_kept_for_another_owner() {
    if !need_root() {
        return;
    }
    for_each_backend(|backend| {
        let Some(scratch) = Scratch::new(Fs::Tmpfs) else { return };
        let (source, copy) = (scratch.join("program"), scratch.join("copy"));
        fs::write(&source, "program").unwrap();
        chown(&source, Some(support::NOBODY), Some(support::NOBODY)).unwrap();
        fs::set_permissions(&source, fs::Permissions::from_mode(0o6755)).unwrap();
        let copied = |arguments: &[&str]| {
            Longshore::copy(backend).args(arguments).args([&source, &copy]).expect(0);
            fs::symlink_metadata(&copy).unwrap().mode() & 0o7777
        };
        assert_eq!(copied(&["--no-preserve", "ownership"]), 0o755);
        assert_eq!(copied(&[]), 0o6755);
    });
}

/// Symptom: a file that its ACL closed to its group was open to the group in a copy on a filesystem
/// without ACLs. Cause: with an ACL the group bits of the mode are its mask, and that was taken over.
/// Guarantee: without the ACL the owning group gets no more than the ACL gave it.
#[test]
fn a_lost_acl_opens_the_file_to_nobody() {
    for_each_backend(|backend| {
        let Some(scratch) = Scratch::new(Fs::Tmpfs) else { return };
        let Some(bare) = FaultyFs::mount(&scratch, &[], Faults::default()) else { return };
        let source = scratch.join("source");
        fs::write(&source, "private").unwrap();
        fs::set_permissions(&source, fs::Permissions::from_mode(0o600)).unwrap();
        let mut acl = 2_u32.to_le_bytes().to_vec();
        // user::rw-, user:nobody:rw-, group::---, mask::rw-, other::---
        for (tag, permissions, id) in [
            (1, 6, u32::MAX),
            (2, 6, support::NOBODY),
            (4, 0, u32::MAX),
            (16, 6, u32::MAX),
            (32, 0, u32::MAX),
        ] {
            acl.extend(u16::to_le_bytes(tag));
            acl.extend(u16::to_le_bytes(permissions));
            acl.extend(u32::to_le_bytes(id));
        }
        xattr::set(&source, "system.posix_acl_access", &acl).unwrap();
        let mode = |path: &Path| fs::symlink_metadata(path).unwrap().mode() & 0o7777;
        assert_eq!(mode(&source), 0o660, "the mask shows in the group bits");
        let copy = bare.path().join("copy");
        let run = Longshore::copy(backend).args([&source, &copy]).expect(0);
        assert_eq!(run.count("/warnings/acl-unsupported"), 1, "{}", run.describe());
        assert_eq!(mode(&copy), 0o600);
        let kept = scratch.join("kept");
        Longshore::copy(backend).args([&source, &kept]).expect(0);
        assert_eq!(mode(&kept), 0o660);
        assert_eq!(xattr::get(&kept, "system.posix_acl_access").unwrap(), Some(acl));
    });
}

/// Symptom: a file on which a server (Samba, NFS) held a lease was not copied: "try again".
/// Cause: sources are opened without waiting, which is for FIFOs.
/// Guarantee: the holder is given the time that the kernel gives it.
#[test]
fn a_leased_file_is_copied_when_the_lease_is_given_back() {
    for_each_backend(|backend| {
        let scratch = Scratch::on_disk();
        let (dir, copy) = (scratch.join("dir"), scratch.join("copy"));
        fs::create_dir(&dir).unwrap();
        fs::write(dir.join("file"), "content").unwrap();
        // The lease is broken with SIGIO, which ends its holder, and with it the lease.
        let Some(mut holder) = hold_lease(&dir.join("file"), "") else { return };
        Longshore::copy(backend).args([&dir, &copy]).expect(0);
        holder.kill().unwrap();
        holder.wait().unwrap();
        assert_eq!(fs::read(copy.join("file")).unwrap(), b"content");
    });
}

/// Takes a write lease on a file until the process ends; `first` is Python to be run before that.
fn hold_lease(file: &Path, first: &str) -> Option<std::process::Child> {
    if !support::has_program("python3") {
        return None;
    }
    let script = format!(
        "import fcntl,signal,sys,time\n{first}\nf=open(sys.argv[1],'r+')\n\
         fcntl.fcntl(f,fcntl.F_SETLEASE,fcntl.F_WRLCK)\nprint('held',flush=True)\ntime.sleep(60)"
    );
    let mut holder = std::process::Command::new("python3")
        .args(["-c", &script])
        .arg(file)
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    std::io::Read::read_exact(holder.stdout.as_mut().unwrap(), &mut [0; 4]).unwrap();
    Some(holder)
}

/// Symptom: SIGINT was obeyed only after up to a minute when a lease was waited for.
/// Cause: the wait looked at nothing but the clock. Guarantee: it looks whether the copy was stopped.
#[test]
fn a_copy_that_waits_for_a_lease_obeys_a_signal() {
    for_each_backend(|backend| {
        let scratch = Scratch::on_disk();
        let (file, copy) = (scratch.join("file"), scratch.join("copy"));
        fs::write(&file, "content").unwrap();
        let stubborn = "signal.signal(signal.SIGIO,signal.SIG_IGN)";
        let Some(mut holder) = hold_lease(&file, stubborn) else { return };
        let copying = Longshore::copy(backend).args([&file, &copy]).start();
        // Its workers exist, and so does its handler of signals.
        support::wait_for("the workers", Duration::from_secs(10), || {
            fs::read_dir(format!("/proc/{}/task", copying.pid())).unwrap().count() > 2
        });
        copying.signal(nix::sys::signal::Signal::SIGINT);
        let asked = std::time::Instant::now();
        copying.wait().expect(130);
        assert!(asked.elapsed() < Duration::from_secs(10), "{:?}", asked.elapsed());
        holder.kill().unwrap();
        holder.wait().unwrap();
        assert!(!copy.exists());
    });
}

/// Symptom: without root the copy of a program lost its capabilities, and nothing said so.
/// Cause: `security.capability` was left out by policy. Guarantee: what is not kept is counted.
#[test]
fn a_capability_that_only_root_could_keep_is_a_counted_warning() {
    if !need_root() {
        return;
    }
    for_each_backend(|backend| {
        let Some(scratch) = Scratch::new(Fs::Ext4) else { return };
        scratch.open_to_all();
        let source = scratch.join("ping");
        fs::write(&source, "program").unwrap();
        xattr::set(&source, "security.capability", &support::items::CAP_NET_RAW).unwrap();
        let copy = scratch.join("copy");
        let run = Longshore::copy(backend).user(support::NOBODY).args([&source, &copy]).run();
        assert_eq!(run.count("/warnings/capability-not-kept"), 1, "{}", run.describe());
        assert_eq!(xattr::get(&copy, "security.capability").unwrap(), None);
    });
}

/// Symptom: a short copy with many threads took seconds, and every third one was aborted: "failed to set up
/// alternative stack guard page". Cause: who sends workers counted anew after each one, and when all was done
/// they went as fast as they came, thousands of them. Guarantee: no more are sent than are wanted, and none when
/// nothing is left to do.
#[test]
fn workers_are_not_sent_for_ever_when_all_is_done() {
    for_each_backend(|backend| {
        let Some(scratch) = Scratch::new(Fs::Tmpfs) else { return };
        let source = scratch.join("source");
        for dir in 0..8 {
            fs::create_dir_all(source.join(format!("{dir}"))).unwrap();
            for file in 0..100 {
                fs::write(source.join(format!("{dir}/{file}")), "something").unwrap();
            }
        }
        for round in 0..8 {
            let copy = scratch.join(format!("copy-{round}"));
            let args = ["--threads", "128", "--concurrency", "fixed", "-T"];
            Longshore::copy(backend).args(args).args([&source, &copy]).expect(0);
        }
    });
}
