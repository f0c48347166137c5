//! What is done in a process of its own, because the kernel may hold whoever does it: mounting one
//! filesystem and making sure that it is there, and unmounting it. It decides neither what nor when.

use std::fs;
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context, bail};
use longshore::lustre::ready::fsname;
use longshore::lustre::told;
use longshore::mounts::{self, Mount};
use nix::errno::Errno;
use nix::mount::{MntFlags, umount2};
use nix::sys::statfs::statfs;

/// The exit code when what is to be unmounted is in use.
pub(super) const IN_USE: u8 = 16;

/// Mounts a filesystem, unless it is mounted already, and makes sure that it is there
#[derive(Debug, clap::Args)]
pub(crate) struct MountArgs {
    /// Its type
    kind: String,
    /// What is mounted
    source: String,
    /// Where
    point: PathBuf,
}

/// Unmounts what is mounted at a directory
#[derive(Debug, clap::Args)]
pub(crate) struct UnmountArgs {
    /// The directory
    point: PathBuf,
}

/// What is mounted at a directory: of several the one on top.
pub(super) fn at(point: &Path) -> Option<Mount> {
    let table = fs::read("/proc/self/mountinfo").unwrap_or_default();
    mounts::all(&table).filter(|mount| mount.point == point).last()
}

/// Whether a mount is of a type, and of the filesystem that a source names. The addresses of servers are
/// not compared: mount.lustre writes names as numbers.
pub(super) fn is(mount: &Mount, kind: &str, source: &str) -> bool {
    let name = fsname(source.as_bytes());
    mount.filesystem == kind && name.is_some() && fsname(mount.source.as_bytes()) == name
}

/// In words, what is mounted.
pub(super) fn describe(mount: &Mount) -> String {
    format!("{} {}", mount.filesystem, mount.source.to_string_lossy())
}

/// Mounts. What went wrong goes to standard error.
pub(crate) fn mount(args: &MountArgs) -> ExitCode {
    tell(mount_and_look(args))
}

fn mount_and_look(args: &MountArgs) -> anyhow::Result<()> {
    let MountArgs { kind, source, point } = args;
    if source.starts_with('-') || !point.is_absolute() {
        bail!("{source} cannot be mounted at {}", point.display());
    }
    if at(point).is_none() {
        fs::create_dir_all(point).context("failed to make the mount point")?;
        // The kernel's table would have another name for it, and it would be mounted again and again.
        if point.canonicalize().context("failed to look at the mount point")? != *point {
            bail!("the mount point lies behind a symbolic link");
        }
        help(kind, source, point)?;
    }
    match at(point) {
        Some(mount) if is(&mount, kind, source) => {}
        Some(mount) => bail!("{} is mounted there", describe(&mount)),
        None => bail!("mount.{kind} says that it is mounted, and it is not"),
    }
    let answer = statfs(point).context("what is mounted does not answer")?;
    if kind == "lustre" && answer.filesystem_type().0 != told::MAGIC {
        bail!("what is mounted there is no Lustre");
    }
    Ok(())
}

/// Has the helper mount, which mount(8) would call too: options are resolved by it, not by the kernel.
fn help(kind: &str, source: &str, point: &Path) -> anyhow::Result<()> {
    let helper = format!("mount.{kind}");
    let mut command = Command::new(&helper);
    command.arg(source).arg(point).stdin(Stdio::null());
    let output = command.output().with_context(|| format!("failed to run {helper}"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        let said: Vec<&str> = said.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
        match said.is_empty() {
            true => bail!("{helper}: {}", output.status),
            false => bail!("{}", said.join(" ")),
        }
    }
    Ok(())
}

/// Unmounts. What went wrong goes to standard error.
pub(crate) fn unmount(args: &UnmountArgs) -> ExitCode {
    match umount2(&args.point, MntFlags::UMOUNT_NOFOLLOW) {
        Ok(()) => ExitCode::SUCCESS,
        Err(Errno::EBUSY) => ExitCode::from(IN_USE),
        Err(errno) => tell(Err(anyhow::anyhow!("failed to unmount: {}", errno.desc()))),
    }
}

fn tell(result: anyhow::Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // When nobody listens any more, nobody waits for it.
            let _ = writeln!(io::stderr(), "{error:#}");
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_is_known_by_its_type_and_the_name_of_its_filesystem() {
        let line = b"31 22 0:40 / /lus/a rw - lustre 10.0.0.1@tcp:10.0.0.2@tcp:/home rw\n";
        let mount = mounts::all(line).next().unwrap();
        assert!(is(&mount, "lustre", "mgs-1@tcp:mgs-2@tcp:/home"));
        assert!(!is(&mount, "lustre", "mgs-1@tcp:/work"));
        assert!(!is(&mount, "tmpfs", "mgs-1@tcp:/home"));
        assert!(!is(&mount, "lustre", "nothing"));
    }
}
