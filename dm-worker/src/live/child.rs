//! A child process that mounts or unmounts, which may take for ever: it is spoken of when it takes too
//! long, killed, and waited for. What it does is in `hands`.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use nix::sys::signal::Signal;
use tokio::process::Command;
use tokio::time::{sleep, timeout};

use super::board::Board;
use super::hands::IN_USE;
use crate::process::{signal_group, why_it_stays};

/// How long a child that was killed may take to end before it is said why it does not.
const ENDS_WITHIN: Duration = Duration::from_secs(2);

/// The longest text of a reason.
const LONGEST: usize = 300;

/// How one ended.
pub(super) enum End {
    Done,
    /// What was to be unmounted is in use.
    InUse,
    Failed(String),
}

/// Runs this program in another role, and returns when that has ended. Whatever takes longer than `limit`
/// is reported on the board, and does not count as pending any more: nothing can be done about it.
pub(super) async fn run(board: &Board, point: &Path, words: &[&str], limit: Duration) -> End {
    let end = wait(board, point, words, limit).await;
    board.set_pending(point, false);
    end
}

async fn wait(board: &Board, point: &Path, words: &[&str], limit: Duration) -> End {
    let mut command = Command::new("/proc/self/exe");
    command.args(words).arg(point).current_dir("/").process_group(0).kill_on_drop(true);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let child = match command.spawn() {
        Ok(child) => child,
        Err(error) => return End::Failed(format!("failed to start a process: {error}")),
    };
    let pid = child.id().unwrap_or_default();
    let ended = child.wait_with_output();
    tokio::pin!(ended);
    let output = match timeout(limit, &mut ended).await {
        Ok(output) => output,
        Err(_) => {
            signal_group(pid, Signal::SIGKILL);
            let about = format!("to {} it takes longer than {} s", words[0], limit.as_secs_f64());
            board.say(point, Some(about.clone()));
            let output = tokio::select! {
                output = &mut ended => Some(output),
                () = sleep(ENDS_WITHIN) => None,
            };
            match output {
                Some(_) => return End::Failed(about),
                None => {
                    let text = format!("{about}: {}", why_it_stays(pid));
                    tracing::error!(point = %point.display(), "{text}");
                    board.say(point, Some(text));
                    board.set_pending(point, false);
                    ended.await
                }
            }
        }
    };
    match output {
        Ok(output) if output.status.success() => End::Done,
        Ok(output) if output.status.code() == Some(i32::from(IN_USE)) => End::InUse,
        Ok(output) => {
            let said = String::from_utf8_lossy(&output.stderr);
            let text = match said.trim() {
                "" => format!("to {}: {}", words[0], output.status),
                said => said.to_owned(),
            };
            End::Failed(text.chars().take(LONGEST).collect())
        }
        Err(error) => End::Failed(format!("the end of a process cannot be seen: {error}")),
    }
}
