//! The node's processes, as the kernel shows them to the node.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// A process.
#[derive(Clone, Debug)]
pub struct Process {
    pub pid: i32,
    /// The lines of its `status`, by their first word.
    pub status: BTreeMap<String, String>,
}

/// The processes whose arguments begin with some words.
pub fn find(words: &[&str]) -> Vec<Process> {
    let all = fs::read_dir("/proc").unwrap().map(|entry| entry.unwrap().path());
    all.filter_map(|path| {
        let pid = path.file_name()?.to_str()?.parse().ok()?;
        let arguments = String::from_utf8_lossy(&fs::read(path.join("cmdline")).ok()?).into_owned();
        let mut arguments = arguments.split('\0');
        let same = words.iter().all(|word| arguments.next() == Some(word));
        same.then_some(Process { pid, status: status(&path)? })
    })
    .collect()
}

/// The movers.
pub fn movers() -> Vec<Process> {
    find(&["/proc/self/exe", "mover"])
}

/// The workers.
pub fn workers() -> Vec<Process> {
    find(&["/dm-worker", "run"])
}

fn status(process: &Path) -> Option<BTreeMap<String, String>> {
    let text = fs::read_to_string(process.join("status")).ok()?;
    let lines = text.lines().filter_map(|line| line.split_once(':'));
    Some(lines.map(|(key, value)| (key.to_owned(), value.trim().to_owned())).collect())
}

impl Process {
    /// A line of its `status`, its words separated by one space.
    pub fn says(&self, key: &str) -> String {
        let words: Vec<&str> = self.status[key].split_whitespace().collect();
        words.join(" ")
    }

    /// How gladly the kernel ends it when memory is short.
    pub fn oom_score_adj(&self) -> i32 {
        let text = fs::read_to_string(format!("/proc/{}/oom_score_adj", self.pid)).unwrap();
        text.trim().parse().unwrap()
    }

    /// Whether the kernel ends it rather than another one of the same size.
    pub fn is_ended_before(&self, other: &Self) -> bool {
        self.oom_score_adj() > other.oom_score_adj()
    }

    /// Whether it has something mounted at a place.
    pub fn has_mounted(&self, place: &str) -> bool {
        let mounts = fs::read_to_string(format!("/proc/{}/mountinfo", self.pid));
        mounts.is_ok_and(|all| all.lines().any(|line| line.split(' ').nth(4) == Some(place)))
    }
}

/// Kills a process.
pub fn kill(process: &Process) {
    let status = std::process::Command::new("kill").args(["-9", &process.pid.to_string()]).status();
    assert!(status.unwrap().success(), "{process:?}");
}
