//! From findings to advice: one sentence for each thing that costs speed or fidelity, saying what to
//! do. Pure; what nobody can change (a filesystem's nature) gets no advice.

use std::path::PathBuf;

use serde::Serialize;

use super::filesystem::FilesystemFacts;
use super::kernel::{KernelFacts, Uring, UringState};
use super::limits::LimitFacts;
use super::{Offer, Verdict};
use crate::report::path_or_base64;

/// Open files that many workers with many reads in flight stay below.
const OPEN_FILES: u64 = 4096;

/// One sentence.
#[derive(Debug, Clone, Serialize)]
pub struct Advice {
    /// The finding that it belongs to: a key of the JSON.
    pub about: &'static str,
    /// The path whose filesystem it is about; absent for the machine.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "some_path")]
    pub path: Option<PathBuf>,
    /// What is lost without it.
    pub costs: Cost,
    /// What to do. May change between versions.
    pub text: String,
}

/// What a missing thing costs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Cost {
    /// Copies take longer.
    Speed,
    /// Something of the source cannot be kept.
    Fidelity,
    /// Copies to here fail.
    Success,
}

fn some_path<S: serde::Serializer>(
    path: &Option<PathBuf>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    match path {
        Some(path) => path_or_base64(path, serializer),
        None => serializer.serialize_none(),
    }
}

/// Everything worth saying.
pub(super) fn all(
    kernel: &KernelFacts,
    limits: &LimitFacts,
    filesystems: &[FilesystemFacts],
) -> Vec<Advice> {
    let mut all = Vec::new();
    all.extend(machine("io_uring", uring(&kernel.io_uring)));
    all.extend(machine("open_files", open_files(limits)));
    all.extend(machine("transparent_huge_pages", huge_pages(kernel)));
    for facts in filesystems {
        all.extend(filesystem(facts));
    }
    all
}

fn machine(about: &'static str, text: Option<String>) -> Option<Advice> {
    Some(Advice { about, path: None, costs: Cost::Speed, text: text? })
}

fn uring(uring: &Uring) -> Option<String> {
    // Measured: reads of small cold files through a ring take 0.65 to 0.80 of plain threads.
    const UNTIL_THEN: &str = "until then plain threads are used, which need 1.25 to 1.5 times as long for small files \
         that are not in memory";
    let todo = match uring.state {
        UringState::Available => return None,
        UringState::Disabled => "set the sysctl kernel.io_uring_disabled to 0",
        UringState::Filtered => {
            "run the pod or container with a seccomp profile that allows io_uring_setup, \
             io_uring_enter and io_uring_register"
        }
        UringState::LockedMemory => "raise the locked-memory limit (ulimit -l) to 64 MiB",
        UringState::Absent | UringState::Incomplete => "use a kernel from 5.12 on",
        UringState::Refused => "find out who refuses io_uring_setup (strace shows it)",
    };
    Some(format!("{todo}; {UNTIL_THEN}"))
}

fn open_files(limits: &LimitFacts) -> Option<String> {
    let soft = limits.open_files.soft.filter(|soft| *soft < OPEN_FILES)?;
    let how = match limits.open_files.hard {
        Some(hard) if hard < OPEN_FILES => "raise the hard limit (LimitNOFILE, limits.conf)",
        _ => "raise the soft limit (ulimit -n)",
    };
    Some(format!("{how} from {soft} to {OPEN_FILES}; many files are open at the same time"))
}

fn huge_pages(kernel: &KernelFacts) -> Option<String> {
    // Measured: O_DIRECT with 4 KiB pages 2.3 times as long, 5 times the processor time.
    (kernel.transparent_huge_pages.as_deref() == Some("never")).then(|| {
        "write madvise to /sys/kernel/mm/transparent_hugepage/enabled; without huge pages direct \
         I/O of large files takes about twice as long and five times the processor time"
            .to_owned()
    })
}

fn filesystem(facts: &FilesystemFacts) -> Vec<Advice> {
    let mut all = Vec::new();
    let mut say = |about, costs, text: &str| {
        all.push(Advice { about, path: Some(facts.path.clone()), costs, text: text.to_owned() });
    };
    let missing = |offer: &Offer| offer.verdict == Verdict::No;
    if facts.read_only {
        say("read_only", Cost::Success, "mounted read-only: remount it to copy to here");
    } else {
        if facts.available_bytes == 0 && facts.total_bytes > 0 {
            say("available_bytes", Cost::Success, "it is full: delete something first");
        }
        if facts.available_inodes == 0 && facts.total_inodes > 0 {
            say("available_inodes", Cost::Success, "no file can be made: delete some first");
        }
    }
    if missing(&facts.xattrs) {
        say(
            "xattrs",
            Cost::Fidelity,
            "extended attributes cannot be kept here: mount with user_xattr, or expect them in the \
             report's warnings",
        );
    }
    if missing(&facts.acls) {
        say(
            "acls",
            Cost::Fidelity,
            "ACLs cannot be kept here: mount with acl, or expect them in the report's warnings",
        );
    }
    if missing(&facts.hard_links) {
        say(
            "hard_links",
            Cost::Fidelity,
            "hard links cannot be made here: each name needs its own copy",
        );
    }
    if missing(&facts.direct.offer) {
        say(
            "direct",
            Cost::Speed,
            "no direct I/O: large files go through the page cache, which costs processor time",
        );
    }
    all
}
