//! Who keeps a filesystem from being unmounted, in words. It ends nobody.

use std::fs;
use std::path::Path;

/// How many are named.
const NAMED: usize = 4;

/// The processes that have something open below a mount point, as far as this worker may see.
pub(super) fn name(point: &Path) -> String {
    let all = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = all.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let holders: Vec<String> = pids.filter(|pid| holds(*pid, point)).map(in_words).collect();
    if holders.is_empty() {
        return "it is in use, by a process that this worker may not look into".to_owned();
    }
    let more = holders.len().saturating_sub(NAMED);
    let mut text = format!("it is in use by {}", holders[..holders.len() - more].join(", "));
    if more > 0 {
        text += &format!(" and {more} more");
    }
    text
}

fn in_words(pid: u32) -> String {
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    format!("process {pid} ({})", name.trim())
}

/// Whether a process has its root, its working directory, its program or a file there. The links of
/// `/proc` are names that the kernel knows: no filesystem is asked.
fn holds(pid: u32, point: &Path) -> bool {
    let place = format!("/proc/{pid}");
    let files = fs::read_dir(format!("{place}/fd")).into_iter().flatten().flatten();
    let links = ["cwd", "root", "exe"].map(|name| Path::new(&place).join(name));
    let mut links = links.into_iter().chain(files.map(|file| file.path()));
    links.any(|link| fs::read_link(link).is_ok_and(|target| target.starts_with(point)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_has_a_file_there_is_named() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().canonicalize().unwrap();
        assert!(name(&path).ends_with("that this worker may not look into"));
        let _file = fs::File::create(path.join("file")).unwrap();
        let own = format!("process {} (", std::process::id());
        assert!(name(&path).contains(&own), "{}", name(&path));
    }
}
