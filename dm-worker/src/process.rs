//! A mover as the worker sees it: a process group of its own under another identity. It is started,
//! spoken to and ended here; what it says means nothing here.

use std::fs;
use std::io;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::{Pid, getegid, geteuid};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::wire::{self, News, Order};

/// The longest line that a mover says: a report with a thousand failures of long paths.
const LONGEST_LINE_BYTES: u64 = 16 * 1024 * 1024;

/// As much of what a mover says on standard error is kept: a panic is shorter.
const ERRORS_KEPT_BYTES: u64 = 4096;

/// How long a mover that runs may take to read a line; the pipe takes many.
const READS_WITHIN: Duration = Duration::from_secs(5);

/// What comes from a mover.
#[derive(Debug)]
pub(crate) enum Heard {
    Said(News),
    Ended(io::Result<ExitStatus>),
}

/// A mover that was started.
pub(crate) struct Mover {
    child: Child,
    pid: u32,
    orders: ChildStdin,
    news: BufReader<ChildStdout>,
    line: Vec<u8>,
    silent: bool,
    errors: JoinHandle<String>,
}

impl Mover {
    /// Starts one, which waits for its first order. Its identity is what is asked for before the program
    /// begins, without supplementary groups. With `give_up_mounting` it cannot mount even as root.
    ///
    /// # Errors
    /// When the system refuses, as for another user without being root.
    pub(crate) fn start(
        user: u32,
        group: u32,
        memory_bytes: u64,
        give_up_mounting: bool,
    ) -> io::Result<Self> {
        // This program itself, which the mover's user need not be able to find.
        let mut command = Command::new("/proc/self/exe");
        command.arg("mover").arg("--memory").arg(memory_bytes.to_string());
        if give_up_mounting {
            command.arg("--give-up-mounting");
        }
        command.env_clear().current_dir("/").process_group(0);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let own = (geteuid().as_raw(), getegid().as_raw());
        // Only root may drop supplementary groups; and root always does.
        if own.0 == 0 || own != (user, group) {
            command.uid(user).gid(group);
        }
        command.kill_on_drop(true);
        let mut child = command.spawn()?;
        let (Some(pid), Some(orders), Some(news), Some(errors)) =
            (child.id(), child.stdin.take(), child.stdout.take(), child.stderr.take())
        else {
            return Err(io::Error::other("a new process has no pipes"));
        };
        let errors = tokio::spawn(async move {
            let mut kept = Vec::new();
            let mut errors = errors;
            let read = (&mut errors).take(ERRORS_KEPT_BYTES).read_to_end(&mut kept).await;
            // What is left is read, so that nobody waits, and forgotten.
            drop(read.and(tokio::io::copy(&mut errors, &mut tokio::io::sink()).await));
            String::from_utf8_lossy(&kept).into_owned()
        });
        let news = BufReader::new(news);
        Ok(Self { child, pid, orders, news, line: Vec::new(), silent: false, errors })
    }

    /// The process id, which is that of its group too.
    pub(crate) fn pid(&self) -> u32 {
        self.pid
    }

    /// Tells it something. When it does not listen it has ended, or will be found not to work.
    pub(crate) async fn tell(&mut self, order: &Order) {
        let line = wire::line(order);
        match timeout(READS_WITHIN, self.orders.write_all(&line)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(pid = self.pid, %error, "a mover does not listen"),
            Err(_) => tracing::warn!(pid = self.pid, "a mover does not read its orders"),
        }
    }

    /// The next thing that it says; none when it has closed its output, which its end does. It may be
    /// dropped and called again at any time.
    async fn hear(&mut self) -> Option<News> {
        loop {
            let room = LONGEST_LINE_BYTES.saturating_sub(self.line.len() as u64);
            let read = (&mut self.news).take(room).read_until(b'\n', &mut self.line).await;
            let complete = self.line.ends_with(b"\n");
            match read {
                Ok(0) if !complete => return None,
                Err(error) => {
                    tracing::warn!(pid = self.pid, %error, "failed to read what a mover says");
                    return None;
                }
                Ok(_) if !complete => continue,
                Ok(_) => {}
            }
            let news = serde_json::from_slice(&self.line);
            self.line.clear();
            match news {
                Ok(news) => return Some(news),
                Err(error) => {
                    tracing::warn!(pid = self.pid, %error, "a mover says something strange")
                }
            }
        }
    }

    /// The next thing that it says, then its end. It may be dropped and called again at any time.
    pub(crate) async fn next(&mut self) -> Heard {
        if !self.silent {
            match self.hear().await {
                Some(news) => return Heard::Said(news),
                None => self.silent = true,
            }
        }
        Heard::Ended(self.ended().await)
    }

    /// Waits for its end. It may be dropped and called again at any time.
    ///
    /// # Errors
    /// When the system does not know the process.
    pub(crate) async fn ended(&mut self) -> io::Result<ExitStatus> {
        self.child.wait().await
    }

    /// Sends a signal to the whole group.
    pub(crate) fn signal(&self, signal: Signal) {
        signal_group(self.pid, signal);
    }

    /// What it said on standard error, once it has ended.
    pub(crate) async fn errors(&mut self) -> String {
        // Somebody to whom it gave its standard error might keep it open.
        timeout(Duration::from_secs(1), &mut self.errors)
            .await
            .ok()
            .and_then(Result::ok)
            .unwrap_or_default()
    }
}

/// Sends a signal to a process group, which may be gone.
pub(crate) fn signal_group(pid: u32, signal: Signal) {
    let Ok(group) = i32::try_from(pid) else { return };
    match killpg(Pid::from_raw(group), signal) {
        Ok(()) | Err(Errno::ESRCH) => {}
        Err(errno) => {
            tracing::error!(pid, %signal, error = errno.desc(), "failed to signal a mover")
        }
    }
}

/// What tells a process from a later one with the same number: when it was started, in ticks since boot.
/// None when it is gone, or has ended and only waits to be noticed.
pub(crate) fn start_of(pid: u32) -> Option<u64> {
    let (state, start) = parse_stat(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)?;
    (!matches!(state, 'Z' | 'X')).then_some(start)
}

/// In words, why a process that was killed is still there.
pub(crate) fn why_it_stays(pid: u32) -> String {
    let waits = threads_in_state(pid, 'D');
    if waits == 0 {
        return format!("its process {pid} was killed and has not ended yet");
    }
    format!(
        "its process {pid} was killed, but {waits} of its threads wait in the kernel (state D) for a \
         filesystem that does not answer; it ends when the filesystem answers or is unmounted by force"
    )
}

fn threads_in_state(pid: u32, wanted: char) -> usize {
    let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else { return 0 };
    let state = |thread: fs::DirEntry| {
        Some(parse_stat(&fs::read_to_string(thread.path().join("stat")).ok()?)?.0)
    };
    threads.flatten().filter_map(state).filter(|state| *state == wanted).count()
}

/// State and start of a line of `/proc/PID/stat`, whose second field may hold anything but a last `)`.
fn parse_stat(line: &str) -> Option<(char, u64)> {
    let (_, fields) = line.rsplit_once(')')?;
    let mut fields = fields.split_whitespace();
    let state = fields.next()?.chars().next()?;
    // The third field was the state; the start is the 22nd.
    Some((state, fields.nth(18)?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_start_of_a_process_is_found_behind_any_name() {
        let line = "7 (a) b (c) S 1 7 7 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 9 0 4242 100 200";
        assert_eq!(parse_stat(line), Some(('S', 4242)));
        assert_eq!(parse_stat("7 (a"), None);
        assert!(start_of(std::process::id()).is_some());
        assert_eq!(start_of(u32::MAX), None);
    }
}
