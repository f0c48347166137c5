//! What a mover may use of the machine. It changes only this process.

use std::fs;
use std::io;

use nix::sys::prctl;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use rustix::thread::{self, CapabilitySet};

/// Where the kernel ends somebody because memory is short, it is to be a mover, which goes on where it
/// was when it is started again, before the worker, which has all of them. It is the end of the scale:
/// a kubelet puts containers close to it, and nobody without rights can be put lower again.
const TO_BE_ENDED_FIRST: &str = "1000";

/// Sets the bounds. `memory_bytes` is about memory of its own: the journal, a shared mapping of a file
/// that grows with the number of files, does not count.
///
/// # Errors
/// When the kernel refuses.
pub(super) fn set(memory_bytes: Option<u64>, give_up_mounting: bool) -> io::Result<()> {
    // No set-user-id program that it could be made to execute gives it more rights.
    prctl::set_no_new_privs()?;
    if give_up_mounting {
        // It has no other thread yet, and those to come have the rights of this one.
        let mut rights = thread::capabilities(None)?;
        for rights in [&mut rights.effective, &mut rights.permitted, &mut rights.inheritable] {
            rights.remove(CapabilitySet::SYS_ADMIN);
        }
        thread::set_capabilities(None, rights)?;
    }
    if let Some(bytes) = memory_bytes {
        setrlimit(Resource::RLIMIT_DATA, bytes, bytes)?;
    }
    // As many files at once as there may be; the copy asks how many that is.
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, most, most)?;
    // A core would have what the user copies in it.
    setrlimit(Resource::RLIMIT_CORE, 0, 0)?;
    // After a change of identity /proc belongs to root; then it stays as it is.
    let _ = fs::write("/proc/self/oom_score_adj", TO_BE_ENDED_FIRST);
    Ok(())
}
