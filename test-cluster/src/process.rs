//! One server process: started so that it cannot outlive this one, its output in a log. It does not
//! know what it runs.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Sender, channel};
use std::sync::{LazyLock, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// How long a server may take to end when asked; then it is killed.
const PATIENCE: Duration = Duration::from_secs(10);

/// A running server. It is killed when this is dropped, and when this process ends in any way.
pub(crate) struct Server {
    name: &'static str,
    child: Child,
    log: PathBuf,
}

impl Server {
    /// Starts a program with its output appended to a log.
    pub(crate) fn start(
        name: &'static str,
        program: &Path,
        arguments: &[String],
        log: PathBuf,
    ) -> anyhow::Result<Self> {
        let output = File::options().create(true).append(true).open(&log);
        let output = output.with_context(|| format!("failed to open {}", log.display()))?;
        let errors = output.try_clone().context("failed to share the log")?;
        // setpriv becomes the program itself; the kernel kills it when the thread that started it ends.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--"]).arg(program).args(arguments);
        command.stdin(Stdio::null()).stdout(output).stderr(errors);
        let child = spawn(command).with_context(|| format!("failed to start {name} by setpriv"))?;
        Ok(Self { name, child, log })
    }

    /// Fails, with the end of the log, if the server has ended by itself.
    pub(crate) fn check(&mut self) -> anyhow::Result<()> {
        let ended = self.child.try_wait().context("failed to ask for a server's state")?;
        let Some(status) = ended else { return Ok(()) };
        bail!("{} ended with {status}:\n{}", self.name, self.end_of_log())
    }

    /// The process id.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The last lines of the log.
    pub(crate) fn end_of_log(&self) -> String {
        let log = fs::read(&self.log).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(30)..].join("\n")
    }

    /// Kills the server, as a crash would.
    pub(crate) fn kill(&mut self) {
        // It may have ended already, and then there is nothing to kill.
        drop(self.child.kill());
        drop(self.child.wait());
    }

    /// Ends the server in order, or by force when it does not end.
    pub(crate) fn stop(mut self) -> io::Result<()> {
        let pid = Pid::from_raw(self.child.id().cast_signed());
        kill(pid, Signal::SIGTERM)?;
        let deadline = Instant::now() + PATIENCE;
        while self.child.try_wait()?.is_none() {
            if Instant::now() > deadline {
                return Ok(()); // dropping kills it
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

type Request = (Command, Sender<io::Result<Child>>);

/// Starts a process from a thread that lives as long as this program: the kernel counts the thread
/// that started a child as its parent, and the thread of a test ends with the test.
fn spawn(command: Command) -> io::Result<Child> {
    static STARTER: LazyLock<Mutex<Sender<Request>>> = LazyLock::new(|| {
        let (requests, received) = channel::<Request>();
        std::thread::spawn(move || {
            for (mut command, answer) in received {
                // Whoever asked may be gone; then the child is dropped, and dies with this program.
                drop(answer.send(command.spawn()));
            }
        });
        Mutex::new(requests)
    });
    let (answer, answered) = channel();
    let starter = STARTER.lock().unwrap_or_else(PoisonError::into_inner);
    starter.send((command, answer)).map_err(io::Error::other)?;
    drop(starter);
    answered.recv().map_err(io::Error::other)?
}
