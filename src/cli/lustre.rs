//! The start of this process anew under a job's id, for the servers' statistics. What it means is in the
//! library.

use std::ffi::OsStr;
use std::os::unix::process::CommandExt;
use std::process::Command;

use longshore::lustre::job_id::{self, Decision, Rule};
use longshore::lustre::parameters;

/// Starts this process again with the environment variable from which the client of Lustre takes the
/// job's id, when it does and the id is known: one that was `asked` for, or `fallback` where no batch
/// system has set one. Returns what is to be told when the servers count under
/// no job.
pub(crate) fn under_job(asked: Option<&OsStr>, fallback: Option<&OsStr>) -> Option<String> {
    match Rule::of(&parameters::root()).decide(asked, fallback, |name| std::env::var_os(name)) {
        Decision::Nothing => None,
        Decision::Note(note) => Some(note),
        Decision::Restart { variable, id } => {
            let mut arguments = std::env::args_os();
            let name = arguments.next().unwrap_or_default();
            let error = Command::new("/proc/self/exe")
                .arg0(name)
                .args(arguments)
                .env(&variable, id)
                .env(job_id::MARK, &variable)
                .exec();
            Some(format!(
                "the servers count this copy under no job: failed to start again with {variable} set: \
                 {error}"
            ))
        }
    }
}
