//! Changing a mounted filesystem from a shell: extended attributes of its top as commands. Everything
//! it can do can also be done with the library.

use std::io;
use std::path::Path;
use std::time::Duration;

use fuser::Errno;

use crate::client::Client;
use crate::inode::Table;
use crate::passthrough::{Found, errno};
use crate::shared::Shared;
use crate::units::{bytes, time};

/// What the names of commands begin with.
pub(crate) const COMMANDS: &str = "user.emulator.";

/// A text that makes no sense.
fn nonsense<T>(_: T) -> io::Error {
    errno(Errno::EINVAL)
}

fn number<T: std::str::FromStr>(text: &str) -> io::Result<T> {
    text.parse().map_err(nonsense)
}

impl Client {
    /// Carries out a command; `EINVAL` when it is none.
    pub(crate) fn command(&self, name: &str, value: &[u8]) -> io::Result<()> {
        let text = std::str::from_utf8(value).map_err(nonsense)?;
        let (verb, rest) = text.trim().split_once(' ').unwrap_or((text.trim(), ""));
        let command = name.strip_prefix(COMMANDS).unwrap_or_default();
        if let Some(index) = command.strip_prefix("ost.") {
            let index: usize = number(index)?;
            return self.command_ost(index, verb, rest);
        }
        match command {
            "mdt" => self.command_mdt(verb, rest),
            "release" => self.0.release(Path::new(text)),
            "migrate" => self.0.migrate(Path::new(text)),
            "window" => {
                let window = bytes(text).map_err(nonsense)?;
                self.0.change(|settings| settings.window = window);
                Ok(())
            }
            "restore" => {
                let restore = time(text).map_err(nonsense)?;
                self.0.change(|settings| settings.restore = restore);
                Ok(())
            }
            _ => Err(errno(Errno::EINVAL)),
        }
    }

    fn command_ost(&self, index: usize, verb: &str, rest: &str) -> io::Result<()> {
        let ost = self.0.osts.get(index).ok_or_else(|| errno(Errno::EINVAL))?;
        match (verb, rest) {
            ("slow", factor) => ost.set_slow(number(factor)?),
            ("bandwidth", "none") => ost.set_bandwidth(None),
            ("bandwidth", rate) => ost.set_bandwidth(Some(bytes(rate).map_err(nonsense)?)),
            ("latency", latency) => ost.set_latency(time(latency).map_err(nonsense)?),
            ("queue", queue) => ost.set_queue(number(queue)?),
            ("capacity", size) => ost.set_capacity(bytes(size).map_err(nonsense)?),
            ("full", "") => ost.set_free(0),
            ("free", size) => ost.set_free(bytes(size).map_err(nonsense)?),
            ("fail", "") => ost.set_failing(true),
            ("fail-after", requests) => ost.fail_after(number(requests)?),
            ("stall", "") => ost.stall(),
            ("stall", limit) => ost.stall_for(time(limit).map_err(nonsense)?),
            ("inactive", "") => ost.set_inactive(true),
            ("normal", "") => {
                ost.set_slow(1.0);
                ost.set_failing(false);
                ost.set_inactive(false);
                ost.resume();
            }
            _ => return Err(errno(Errno::EINVAL)),
        }
        Ok(())
    }

    fn command_mdt(&self, verb: &str, rest: &str) -> io::Result<()> {
        let mdt = &self.0.mdt;
        match (verb, rest) {
            ("latency", latency) => mdt.set_latency(time(latency).map_err(nonsense)?),
            ("at-once", "any") => mdt.set_at_once(None),
            ("at-once", requests) => mdt.set_at_once(Some(number(requests)?)),
            // Stalled without an end nobody could resume it: this command would wait, too.
            ("stall", limit) => mdt.stall_for(time(limit).map_err(nonsense)?),
            ("normal", "") => {
                mdt.set_latency(Duration::ZERO);
                mdt.resume();
            }
            _ => return Err(errno(Errno::EINVAL)),
        }
        Ok(())
    }

    /// What has been moved so far, as JSON.
    pub(crate) fn report(&self) -> Vec<u8> {
        serde_json::to_vec(&self.0.log.totals()).unwrap_or_default()
    }
}

impl Shared {
    /// A file by its path in the mount, without asking the filesystem.
    pub(crate) fn by_path(
        &self,
        relative: &Path,
    ) -> io::Result<(std::sync::Arc<crate::inode::Inode>, Found)> {
        let path = self.top.join(relative);
        let ino = std::os::unix::fs::MetadataExt::ino(&std::fs::symlink_metadata(&path)?);
        let found = || Found { path: path.clone(), follow: false };
        let table: &Table = &self.inodes;
        Ok((table.get(ino, || Ok(found()))?, found()))
    }
}
