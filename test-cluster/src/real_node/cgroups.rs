//! The control groups of a node: a folder of one name in every hierarchy. It puts no process into one.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

const ALL: &str = "/sys/fs/cgroup";

/// The hierarchies that a node needs.
const NEEDED: [&str; 9] =
    ["cpu", "cpuacct", "cpuset", "memory", "devices", "freezer", "blkio", "pids", "systemd"];

/// Where runc makes one too, beside those of version 1.
const BESIDE: &str = "unified";

/// What names of nodes begin with; the number of the process that keeps it follows.
const BEGINNING: &str = "longshore-node-";

/// How long processes that were killed may take to be gone from their groups.
const EMPTY_WITHIN: Duration = Duration::from_secs(20);

/// Why this machine cannot have a node's groups, if it cannot.
pub(super) fn missing() -> Option<String> {
    let lacks = NEEDED.iter().find(|name| !Path::new(ALL).join(name).join("tasks").exists())?;
    Some(format!("a real node needs cgroup version 1, and this machine has no hierarchy {lacks}"))
}

/// The name of the groups of the node that a process keeps.
pub(super) fn name(keeper: u32) -> String {
    format!("{BEGINNING}{keeper}")
}

/// Makes them.
pub(super) fn make(name: &str) -> io::Result<()> {
    for hierarchy in NEEDED {
        let parent = Path::new(ALL).join(hierarchy);
        let group = parent.join(name);
        fs::create_dir(&group)?;
        if hierarchy == "cpuset" {
            // An empty set of processors or of memory takes no process.
            for file in ["cpuset.cpus", "cpuset.mems"] {
                fs::write(group.join(file), fs::read(parent.join(file))?)?;
            }
        }
    }
    Ok(())
}

/// Removes them, once the processes in them are gone.
///
/// # Errors
///
/// When some stay.
pub(super) fn remove(name: &str) -> anyhow::Result<()> {
    let deadline = Instant::now() + EMPTY_WITHIN;
    for hierarchy in NEEDED.into_iter().chain([BESIDE]) {
        let group = Path::new(ALL).join(hierarchy).join(name);
        while let Err(error) = remove_tree(&group) {
            if Instant::now() > deadline {
                bail!("{} stays: {error}", group.display());
            }
            sleep(Duration::from_millis(50));
        }
    }
    Ok(())
}

/// Removes those of nodes whose keeper was killed.
pub(super) fn sweep() -> anyhow::Result<()> {
    for entry in fs::read_dir(Path::new(ALL).join(NEEDED[0])).context("failed to read cgroups")? {
        let name = entry.context("failed to read cgroups")?.file_name();
        let Some(name) = name.to_str() else { continue };
        let Some(keeper) = name.strip_prefix(BEGINNING) else { continue };
        if !Path::new("/proc").join(keeper).exists() {
            remove(name)?;
        }
    }
    Ok(())
}

/// Deepest first, since only an empty group can be removed.
fn remove_tree(group: &Path) -> io::Result<()> {
    let entries = match fs::read_dir(group) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let path: PathBuf = entry?.path();
        if path.is_dir() {
            remove_tree(&path)?;
        }
    }
    fs::remove_dir(group)
}
