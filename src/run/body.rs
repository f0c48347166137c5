//! The job body: which interpreter runs the script, its process, and the signals that it is passed.
//! It knows nothing of storage.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::time::Duration;

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, getpgrp, tcgetpgrp};

use super::Signals;

/// How often the body is looked at. A body that ends is noticed after this long at the latest.
const POLL: Duration = Duration::from_millis(10);

/// Added to a signal's number in the exit code, as shells do.
const SIGNALLED: i32 = 128;

/// What runs a script.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interpreter {
    /// The program.
    pub program: PathBuf,
    /// The one argument that a `#!` line may give it.
    pub argument: Option<OsString>,
}

impl Interpreter {
    /// The one that the script's `#!` line names, or `/bin/sh`. The script need not be executable,
    /// and its filesystem may be mounted noexec.
    #[must_use]
    pub fn of(script: &[u8]) -> Self {
        let line = script.split(|byte| *byte == b'\n').next().unwrap_or_default();
        let words = line.strip_prefix(b"#!").unwrap_or_default().trim_ascii();
        // As the kernel does: everything after the program is one argument.
        let end = words.iter().position(u8::is_ascii_whitespace).unwrap_or(words.len());
        let (program, rest) = words.split_at(end);
        if program.is_empty() {
            return Self { program: "/bin/sh".into(), argument: None };
        }
        let argument = rest.trim_ascii();
        Self {
            program: OsStr::from_bytes(program).into(),
            argument: (!argument.is_empty()).then(|| OsStr::from_bytes(argument).to_owned()),
        }
    }

    /// The command for a script and its arguments.
    #[must_use]
    pub fn command(&self, script: &Path, args: &[OsString]) -> Command {
        let mut command = Command::new(&self.program);
        command.args(&self.argument).arg(script).args(args);
        command
    }
}

/// The limit of open files that the command was started with. The engine raises it for itself; the
/// body must not inherit that, because programs that use select(2) fail with high descriptors.
#[derive(Debug, Clone, Copy)]
pub struct OpenFiles(Option<(u64, u64)>);

impl OpenFiles {
    /// The limit as it is now.
    #[must_use]
    pub fn now() -> Self {
        Self(getrlimit(Resource::RLIMIT_NOFILE).ok())
    }

    /// Puts the limit back. Lowering a soft limit does not fail, and no copy runs beside the body.
    pub fn restore(self) {
        if let Self(Some((soft, hard))) = self {
            let _ = setrlimit(Resource::RLIMIT_NOFILE, soft, hard);
        }
    }
}

/// Runs the body to its end and returns its exit code. The body inherits `lock`, which stays taken
/// while it, or anything that it started, lives on without this process.
///
/// # Errors
/// When it could not be started; then `started` was not called.
pub fn run(
    mut command: Command,
    lock: &File,
    signals: &Signals,
    started: impl FnOnce(i32),
) -> io::Result<u8> {
    fcntl(lock.as_fd(), FcntlArg::F_SETFD(FdFlag::empty()))?;
    let child = command.spawn();
    fcntl(lock.as_fd(), FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))?;
    let mut child = child?;
    let pid = i32::try_from(child.id()).map_err(io::Error::other)?;
    started(pid);
    let mut interrupted = false;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(exit_code(status));
        }
        while let Some(number) = signals.take() {
            // Ctrl-C on a terminal reaches the body as well; it would get it twice. A second one
            // is passed on, in case the first came from elsewhere.
            let from_terminal = number == Signal::SIGINT as i32 && !interrupted && in_foreground();
            interrupted = true;
            if !from_terminal && let Ok(signal) = Signal::try_from(number) {
                // It fails only when the body has just ended.
                let _ = kill(Pid::from_raw(pid), signal);
            }
        }
        std::thread::sleep(POLL);
    }
}

/// Whether this process gets what is typed on the terminal.
fn in_foreground() -> bool {
    File::open("/dev/tty").is_ok_and(|tty| tcgetpgrp(&tty) == Ok(getpgrp()))
}

fn exit_code(status: ExitStatus) -> u8 {
    let code = status.code().or_else(|| status.signal().map(|number| SIGNALLED + number));
    code.and_then(|code| u8::try_from(code).ok()).unwrap_or(u8::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn interpreter(script: &str) -> (String, Option<String>) {
        let found = Interpreter::of(script.as_bytes());
        let argument = found.argument.map(|a| a.to_str().unwrap().to_owned());
        (found.program.to_str().unwrap().to_owned(), argument)
    }

    #[test]
    fn the_first_line_names_the_interpreter() {
        assert_eq!(interpreter("echo\n"), ("/bin/sh".into(), None));
        assert_eq!(interpreter(""), ("/bin/sh".into(), None));
        assert_eq!(interpreter("#!\n"), ("/bin/sh".into(), None));
        assert_eq!(interpreter("#! /bin/bash\r\n"), ("/bin/bash".into(), None));
        let env = ("/usr/bin/env".into(), Some("-S python3 -u".into()));
        assert_eq!(interpreter("#!/usr/bin/env  -S python3 -u \nx"), env);
    }

    fn body(text: &str, signal: Option<i32>) -> u8 {
        let dir = tempfile::tempdir().unwrap();
        let script = dir.path().join("job.sh");
        std::fs::write(&script, text).unwrap();
        let lock = File::create(dir.path().join("lock")).unwrap();
        let signals = Signals::default();
        let command = Interpreter::of(text.as_bytes()).command(&script, &["an arg".into()]);
        run(command, &lock, &signals, |_| {
            if let Some(number) = signal {
                signals.raise(number);
            }
        })
        .unwrap()
    }

    #[test]
    fn the_exit_code_is_the_bodys_and_signals_reach_it() {
        assert_eq!(body("test \"$1\" = 'an arg' && exit 7", None), 7);
        assert_eq!(body("kill -9 $$", None), 137);
        assert_eq!(body("sleep 60", Some(15)), 143);
    }
}
