//! The command under test: started with a backend, watched, and never waited for without a limit.
//! It knows options, exit codes and the report, as a script would.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tempfile::TempDir;

use super::{is_root, skip, target_dir};

/// Which mechanism is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Backend {
    /// io_uring.
    Uring,
    /// Plain system calls.
    Threads,
    /// Reflink and its fallbacks.
    Clone,
    /// The engine's own choice.
    Auto,
}

impl Backend {
    /// Every one of them.
    pub const ALL: [Self; 4] = [Self::Uring, Self::Threads, Self::Clone, Self::Auto];

    /// The word on the command line.
    pub fn word(self) -> &'static str {
        match self {
            Self::Uring => "uring",
            Self::Threads => "threads",
            Self::Clone => "clone",
            Self::Auto => "auto",
        }
    }
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// Whether this kernel gives this process a ring at all.
pub fn has_ring() -> bool {
    io_uring::IoUring::new(2).is_ok()
}

/// Runs a test once under every backend that this machine has.
pub fn for_each_backend(mut test: impl FnMut(Backend)) {
    for backend in Backend::ALL {
        if backend == Backend::Uring && !has_ring() {
            skip("backend uring: this machine gives no io_uring");
            continue;
        }
        eprintln!("-- backend {backend}");
        test(backend);
    }
}

/// One `longshore copy` to be run.
pub struct Longshore {
    backend: Option<Backend>,
    args: Vec<OsString>,
    prefix: Vec<OsString>,
    user: Option<u32>,
    current_dir: Option<PathBuf>,
    environment: Vec<(OsString, OsString)>,
    stdin: Option<Vec<u8>>,
    limit: Duration,
    denied_syscalls: Option<(Vec<i64>, u32)>,
}

impl Longshore {
    /// A copy with the given backend; sources and destination follow as arguments.
    pub fn copy(backend: Backend) -> Self {
        Self {
            backend: Some(backend),
            args: Vec::new(),
            prefix: Vec::new(),
            user: None,
            current_dir: None,
            environment: Vec::new(),
            stdin: None,
            limit: Duration::from_secs(120),
            denied_syscalls: None,
        }
    }

    /// Adds one argument.
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.args.push(arg.as_ref().to_owned());
        self
    }

    /// Adds arguments.
    pub fn args(mut self, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Self {
        self.args.extend(args.into_iter().map(|arg| arg.as_ref().to_owned()));
        self
    }

    /// Runs it through another command, which must exec it (`prlimit --nofile=32`).
    pub fn through(mut self, prefix: &[&str]) -> Self {
        self.prefix = prefix.iter().map(OsString::from).collect();
        self
    }

    /// Runs it as another user; needs root.
    pub fn user(mut self, uid: u32) -> Self {
        self.user = is_root().then_some(uid);
        self
    }

    /// Runs it in another directory.
    pub fn current_dir(mut self, dir: impl Into<PathBuf>) -> Self {
        self.current_dir = Some(dir.into());
        self
    }

    /// Sets an environment variable.
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.into(), value.into()));
        self
    }

    /// What it reads from standard input.
    pub fn stdin(mut self, bytes: &[u8]) -> Self {
        self.stdin = Some(bytes.to_vec());
        self
    }

    /// After how long it counts as hung.
    pub fn limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// Makes system calls fail with an errno, as a container's seccomp profile does.
    pub fn deny(mut self, syscalls: &[i64], errno: i32) -> Self {
        self.denied_syscalls = Some((syscalls.to_vec(), errno.unsigned_abs()));
        self
    }

    /// Runs it to its end.
    #[track_caller]
    pub fn run(self) -> Run {
        self.start().wait()
    }

    /// Runs it to its end and fails unless it ended with this code.
    #[track_caller]
    pub fn expect(self, code: i32) -> Run {
        let run = self.run();
        run.expect(code);
        run
    }

    /// Starts it.
    pub fn start(self) -> Running {
        let files = tempfile::Builder::new()
            .prefix("run-")
            .tempdir_in(target_dir())
            .expect("failed to make a directory");
        super::tree::chmod(files.path(), 0o777);
        let mut words = self.prefix.clone();
        words.push(
            std::env::var_os("LONGSHORE_BIN")
                .unwrap_or_else(|| env!("CARGO_BIN_EXE_longshore").into()),
        );
        words.push("copy".into());
        if let Some(backend) = self.backend {
            words.extend(["--backend".into(), backend.word().into()]);
        }
        words.extend(["--progress".into(), "none".into()]);
        for (option, name) in [("--report", "report"), ("--failed-list", "failed")] {
            // A test may want one somewhere else.
            if !self.args.iter().any(|arg| arg == option) {
                words.extend([option.into(), files.path().join(name).into()]);
            }
        }
        words.extend(self.args.iter().cloned());
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).env_remove("LONGSHORE_BACKEND");
        // Its control socket is nobody else's: tests run side by side, and copies of the user may run.
        command.env("XDG_RUNTIME_DIR", files.path());
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        let create =
            |name: &str| File::create(files.path().join(name)).expect("failed to make a file");
        command.stdout(create("stdout")).stderr(create("stderr")).stdin(Stdio::null());
        if let Some(bytes) = &self.stdin {
            fs::write(files.path().join("stdin"), bytes).expect("failed to write the input");
            command
                .stdin(File::open(files.path().join("stdin")).expect("failed to open the input"));
        }
        if let Some(uid) = self.user {
            command.uid(uid).gid(uid);
        }
        if let Some(dir) = &self.current_dir {
            command.current_dir(dir);
        }
        let started = Instant::now();
        let mut spawn = move || command.spawn().expect("failed to start longshore");
        let child = match self.denied_syscalls {
            None => spawn(),
            // a filter is inherited by children, and dies with the thread that took it
            Some((syscalls, errno)) => std::thread::spawn(move || {
                super::filter::deny_in_this_thread(&syscalls, errno);
                spawn()
            })
            .join()
            .expect("failed to start longshore under a filter"),
        };
        let shown: Vec<String> =
            words.iter().map(|word| word.to_string_lossy().into_owned()).collect();
        Running { child, files, started, limit: self.limit, command: shown.join(" "), peak_kib: 0 }
    }
}

/// A copy that is running. Dropped without [`Running::wait`] (a failed test), it is killed.
pub struct Running {
    child: Child,
    files: TempDir,
    started: Instant,
    limit: Duration,
    command: String,
    peak_kib: u64,
}

impl Running {
    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal; whether the process was still there to get it.
    pub fn signal(&self, signal: Signal) -> bool {
        kill(Pid::from_raw(i32::try_from(self.pid()).expect("a process id fits")), signal).is_ok()
    }

    /// Whether it has ended.
    pub fn ended(&mut self) -> bool {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap_or_default();
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let peak = peak.and_then(|rest| rest.split_whitespace().next()?.parse().ok());
        self.peak_kib = self.peak_kib.max(peak.unwrap_or(0));
        self.child.try_wait().expect("failed to wait for longshore").is_some()
    }

    /// Waits for its end; a copy that goes on for ever is a failure.
    #[track_caller]
    pub fn wait(mut self) -> Run {
        while !self.ended() {
            if self.started.elapsed() > self.limit {
                let stacks = stacks(self.pid());
                let _ = self.child.kill();
                let _ = self.child.wait();
                let stderr =
                    fs::read_to_string(self.files.path().join("stderr")).unwrap_or_default();
                panic!("hung: no end after {:?}: {}\n{stderr}\n{stacks}", self.limit, self.command);
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        let status = self.child.wait().expect("failed to wait for longshore");
        let read = |name: &str| fs::read(self.files.path().join(name)).unwrap_or_default();
        let failed = read("failed");
        let failed = failed.split(|byte| *byte == 0).filter(|path| !path.is_empty());
        Run {
            code: status.code(),
            signal: status.signal(),
            stdout: String::from_utf8_lossy(&read("stdout")).into_owned(),
            stderr: String::from_utf8_lossy(&read("stderr")).into_owned(),
            report: serde_json::from_slice(&read("report")).ok(),
            failed: failed.map(|path| PathBuf::from(OsStr::from_bytes(path))).collect(),
            failed_list: read("failed"),
            command: self.command.clone(),
            peak_kib: self.peak_kib,
            elapsed: self.started.elapsed(),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if !matches!(self.child.try_wait(), Ok(Some(_))) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// Where each thread waits in the kernel, for the message of a hang.
fn stacks(pid: u32) -> String {
    let mut out = String::new();
    for task in fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten() {
        let read = |name: &str| fs::read_to_string(task.path().join(name)).unwrap_or_default();
        out += &format!("{} {} {}\n", read("comm").trim(), read("wchan"), read("syscall").trim());
    }
    out
}

/// How a copy ended.
#[derive(Debug)]
pub struct Run {
    /// Exit code, unless a signal killed it.
    pub code: Option<i32>,
    /// The signal that killed it.
    pub signal: Option<i32>,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
    /// The JSON report, when one was written.
    pub report: Option<Value>,
    /// Paths of the failed list.
    pub failed: Vec<PathBuf>,
    /// The failed list as it was written.
    pub failed_list: Vec<u8>,
    /// What was run.
    pub command: String,
    /// Largest resident memory seen.
    pub peak_kib: u64,
    /// Wall-clock time.
    pub elapsed: Duration,
}

impl Run {
    /// Fails unless it ended with this code, by itself, and the report says the same.
    #[track_caller]
    pub fn expect(&self, code: i32) -> &Self {
        assert_eq!(self.code, Some(code), "exit code of {}", self.describe());
        assert!(!self.stderr.contains("panicked at"), "a panic in {}", self.describe());
        if let Some(report) = &self.report {
            assert_eq!(
                report["exit_code"],
                code,
                "the report disagrees with the exit code of {}",
                self.describe()
            );
        } else {
            assert!(code == 2, "no report from {}", self.describe());
        }
        self
    }

    /// Fails unless standard error has this text in it (in any case of letters).
    #[track_caller]
    pub fn says(&self, text: &str) -> &Self {
        let found = self.stderr.to_lowercase().contains(&text.to_lowercase());
        assert!(found, "no {text:?} in the message of {}", self.describe());
        self
    }

    /// A number of the report by JSON pointer (`/copied/files`); 0 when it is not there.
    #[track_caller]
    pub fn count(&self, pointer: &str) -> u64 {
        let report =
            self.report.as_ref().unwrap_or_else(|| panic!("no report from {}", self.describe()));
        report.pointer(pointer).and_then(Value::as_u64).unwrap_or(0)
    }

    /// Number of warnings, all kinds together.
    pub fn warnings(&self) -> u64 {
        let table = self.report.as_ref().and_then(|report| report["warnings"].as_object());
        table.into_iter().flat_map(|table| table.values()).filter_map(Value::as_u64).sum()
    }

    /// Whether a path, or a directory above it, is in the failed list.
    pub fn blames(&self, path: &Path) -> bool {
        self.failed.iter().any(|failed| path.starts_with(failed))
    }

    /// Everything a person needs to repeat and understand it.
    pub fn describe(&self) -> String {
        let report = self.report.as_ref().map(|report| format!("{report:#}")).unwrap_or_default();
        let stderr: String = self.stderr.chars().take(4000).collect();
        let report: String = report.chars().take(3000).collect();
        format!(
            "{}\ncode {:?}, signal {:?}\nfailed: {:?}\nstderr:\n{stderr}\nreport:\n{report}",
            self.command,
            self.code,
            self.signal,
            self.failed.iter().take(20).collect::<Vec<_>>()
        )
    }
}

/// The oracle's own copy: `cp -a`. It is excused from paths beyond `PATH_MAX`, which it cannot do.
pub fn cp_a(source: &Path, destination: &Path) {
    let mut command = Command::new("cp");
    command.env("LC_ALL", "C").arg("-a").arg("--").arg(source).arg(destination);
    let output = command.output().expect("failed to run cp");
    let stderr = String::from_utf8_lossy(&output.stderr);
    let excused = stderr.lines().all(|line| line.ends_with("File name too long"));
    assert!(output.status.success() || (excused && !stderr.is_empty()), "{command:?}: {stderr}");
}
