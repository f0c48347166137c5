//! The stable keys of the JSON, the page that lists them, and the text of known findings.

use serde_json::Value;

use super::filesystem::Direct;
use super::kernel::{Uring, UringState};
use super::limits::Limit;
use super::*;

fn filesystem() -> FilesystemFacts {
    FilesystemFacts {
        path: "/scratch".into(),
        mount_point: "/scratch".into(),
        filesystem: "ext4".to_owned(),
        source: "/dev/vda".to_owned(),
        magic: "0xef53".to_owned(),
        read_only: false,
        total_bytes: 4 << 30,
        available_bytes: 1 << 30,
        total_inodes: 1000,
        available_inodes: 900,
        writable: Offer::yes("files can be made"),
        direct: Direct {
            offer: Offer::yes("buffers aligned to 4 bytes, offsets to 512"),
            memory_alignment_bytes: Some(4),
            offset_alignment_bytes: Some(512),
        },
        clone: Offer::no("not supported"),
        xattrs: Offer::yes("can be set"),
        acls: Offer::no("not supported"),
        hard_links: Offer::yes("can be made"),
        non_blocking_reads: Offer::yes("a ring can read without blocking"),
    }
}

fn diagnosis() -> Diagnosis {
    let kernel = KernelFacts {
        release: "6.1.0".to_owned(),
        cores: 8,
        io_uring: Uring {
            state: UringState::Filtered,
            errno: Some("EPERM".to_owned()),
            disabled_sysctl: None,
            detail: "filtered: the kernel has it, but refuses it here".to_owned(),
        },
        transparent_huge_pages: Some("madvise".to_owned()),
    };
    let limits = LimitFacts {
        open_files: Limit { soft: Some(1024), hard: Some(524_288) },
        locked_memory_bytes: Limit { soft: Some(8 << 20), hard: None },
        may_exceed_locked_memory: true,
    };
    let filesystems = vec![filesystem()];
    let advice = advice::all(&kernel, &limits, &filesystems);
    Diagnosis { version: DIAGNOSIS_VERSION, kernel, limits, filesystems, advice }
}

#[test]
fn the_text_is_aligned_and_ends_with_advice() {
    let expected = "\
this machine
  ok  kernel              6.1.0
  ok  cores               8
  !   io_uring            filtered: the kernel has it, but refuses it here
                          (EPERM)
  !   open files          1,024 (may be raised to 524,288)
  ok  locked memory       8.00 MiB (may be raised to unlimited), exempt here
  ok  huge pages          madvise

/scratch
  ok  filesystem          ext4 0xef53
  ok  mount               /dev/vda on /scratch
  ok  access              read and write
  ok  free space          1.00 GiB of 4.00 GiB
  ok  free inodes         900 of 1,000
  ok  direct I/O          buffers aligned to 4 bytes, offsets to 512
  -   clone               not supported
  ok  non-blocking reads  a ring can read without blocking
  ok  extended attributes can be set
  !   ACLs                not supported
  ok  hard links          can be made

what to do
  speed: io_uring
    run the pod or container with a seccomp profile that allows io_uring_setup,
    io_uring_enter and io_uring_register; until then plain threads are used,
    which need 1.25 to 1.5 times as long for small files that are not in memory
  speed: open files
    raise the soft limit (ulimit -n) from 1024 to 4096; many files are open at
    the same time
  fidelity /scratch: acls
    ACLs cannot be kept here: mount with acl, or expect them in the report's
    warnings
";
    assert_eq!(diagnosis().text(false), expected);
}

#[test]
fn a_machine_that_has_everything_gets_no_advice() {
    let mut all = diagnosis();
    all.kernel.io_uring.state = UringState::Available;
    all.limits.open_files.soft = None;
    let mut facts = filesystem();
    facts.acls = Offer::yes("can be set");
    assert!(advice::all(&all.kernel, &all.limits, &[facts]).is_empty());
}

#[test]
fn each_missing_thing_gets_one_advice() {
    let mut all = diagnosis();
    all.kernel.io_uring.state = UringState::Available;
    all.kernel.transparent_huge_pages = Some("never".to_owned());
    all.limits.open_files = Limit { soft: Some(256), hard: Some(1024) };
    let mut facts = filesystem();
    let no = || Offer::no("not supported");
    (facts.xattrs, facts.hard_links, facts.direct.offer) = (no(), no(), no());
    facts.available_bytes = 0;
    facts.available_inodes = 0;
    let advice = advice::all(&all.kernel, &all.limits, &[facts]);
    let about: Vec<&str> = advice.iter().map(|advice| advice.about).collect();
    assert_eq!(
        about,
        [
            "open_files",
            "transparent_huge_pages",
            "available_bytes",
            "available_inodes",
            "xattrs",
            "acls",
            "hard_links",
            "direct"
        ]
    );
}

#[test]
fn the_page_lists_exactly_the_keys_of_the_json() {
    let mut written = std::collections::BTreeSet::new();
    collect("", &serde_json::to_value(diagnosis()).unwrap(), &mut written);
    let documented: std::collections::BTreeSet<String> = include_str!("../../docs/doctor-json.md")
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split_once('`'))
        .map(|(key, _)| key.to_owned())
        .collect();
    assert_eq!(documented, written);
}

fn collect(prefix: &str, value: &Value, keys: &mut std::collections::BTreeSet<String>) {
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                keys.insert(format!("{prefix}{key}"));
                collect(&format!("{prefix}{key}."), value, keys);
            }
        }
        Value::Array(items) => {
            let prefix = format!("{}[].", prefix.trim_end_matches('.'));
            items.iter().for_each(|item| collect(&prefix, item, keys));
        }
        _ => {}
    }
}
