//! What a node could leave on the machine. It removes nothing.

use std::fs;
use std::path::Path;

/// Settings of the machine that a kubelet likes to change.
pub(super) fn settings() -> Vec<(&'static str, String)> {
    let read = |name| fs::read_to_string(Path::new("/proc/sys").join(name)).unwrap_or_default();
    super::machine::SETTINGS.iter().map(|(name, _)| (*name, read(name))).collect()
}

/// In words, what is left of a node with a folder and groups of a name.
pub(super) fn find(folder: &Path, name: &str) -> Vec<String> {
    let mut found = Vec::new();
    let folder = folder.to_string_lossy().into_owned();
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let of_node = |line: &&str| line.contains(&folder) || line.contains(name);
    found.extend(mounts.lines().filter(of_node).map(|line| format!("the mount {line}")));
    for device in entries("/sys/block") {
        let file = fs::read_to_string(Path::new(&device).join("loop/backing_file"));
        if file.is_ok_and(|file| file.contains(&folder)) {
            found.push(format!("the loop device {device}"));
        }
    }
    for process in entries("/proc") {
        let process = Path::new(&process);
        let groups = fs::read_to_string(process.join("cgroup")).unwrap_or_default();
        let environment = fs::read(process.join("environ")).unwrap_or_default();
        let environment = String::from_utf8_lossy(&environment);
        let inside = super::roles::is_inside(&environment, &folder);
        if groups.contains(name) || inside {
            let command = fs::read(process.join("cmdline")).unwrap_or_default();
            let command = String::from_utf8_lossy(&command).replace('\0', " ");
            found.push(format!("the process {}: {command}", process.display()));
        }
    }
    for hierarchy in entries("/sys/fs/cgroup") {
        let group = Path::new(&hierarchy).join(name);
        if group.exists() {
            found.push(format!("the cgroup {}", group.display()));
        }
    }
    found
}

fn entries(of: &str) -> Vec<String> {
    let entries = fs::read_dir(of).into_iter().flatten().flatten();
    entries.map(|entry| entry.path().to_string_lossy().into_owned()).collect()
}
