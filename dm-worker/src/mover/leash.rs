//! Ends this process when its worker has ended or lost its Lease. It decides nothing else.

use std::io::{self, BufRead};
use std::process;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::Duration;

use dm_service::since_boot;
use longshore::engine::Cancel;
use longshore::exit::Outcome;
use nix::libc::SIGTERM;

use crate::wire::Order;

/// How long the copy may take to stop in order.
const GRACE: Duration = Duration::from_secs(1);

/// How often the clock is looked at.
const LOOK: Duration = Duration::from_millis(100);

/// Starts listening to the worker: to lines that put the end off, and for the end of standard input.
///
/// # Errors
/// When there are no more threads.
pub(super) fn hold(cancel: &Cancel) -> io::Result<()> {
    let end_by = Arc::new(AtomicU64::new(u64::MAX));
    let set = Arc::clone(&end_by);
    thread::Builder::new().name("orders".to_owned()).spawn(move || {
        for line in io::stdin().lock().lines() {
            let Ok(line) = line else { break };
            if let Ok(Order::EndBy { milliseconds }) = serde_json::from_str(&line) {
                set.store(milliseconds, Relaxed);
            }
        }
        set.store(0, Relaxed); // the worker is gone
    })?;
    let cancel = cancel.clone();
    thread::Builder::new().name("leash".to_owned()).spawn(move || {
        while since_boot() < Duration::from_millis(end_by.load(Relaxed)) {
            thread::sleep(LOOK);
        }
        cancel.raise(SIGTERM);
        thread::sleep(GRACE);
        // Whatever it waits for: nothing more is begun after this.
        process::exit(i32::from(Outcome::Terminated.code()));
    })?;
    Ok(())
}
