//! Ends this process when its worker has ended or lost its Lease, and says when it may begin. It decides
//! nothing else.
//!
//! The time of the end is kept twice: a thread asks the copy to stop in order, and a timer of the kernel
//! kills a second later whatever happens to this process: threads that were stopped with it, or with all
//! of its node, would otherwise write for a moment when they go on.

use std::io::{self, BufRead};
use std::process;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::Duration;

use dm_service::since_boot;
use longshore::engine::Cancel;
use longshore::exit::Outcome;
use nix::libc::SIGTERM;
use nix::sys::signal::{SigEvent, SigevNotify, Signal};
use nix::sys::time::TimeSpec;
use nix::sys::timer::{Expiration, Timer, TimerSetTimeFlags};
use nix::time::ClockId;

use crate::wire::Order;

/// How long the copy may take to stop in order.
const GRACE: Duration = Duration::from_secs(1);

/// How often the clock is looked at.
const LOOK: Duration = Duration::from_millis(100);

/// That the copy may begin.
pub(super) type Go = Receiver<()>;

/// Starts listening to the worker: to lines that put the end off, to the one that lets the copy begin, and
/// for the end of standard input. Until the first of them it ends by `milliseconds`.
///
/// # Errors
/// When there are no more threads or timers.
pub(super) fn hold(cancel: &Cancel, milliseconds: u64) -> io::Result<Go> {
    let end_by = Arc::new(AtomicU64::new(milliseconds));
    let set = Arc::clone(&end_by);
    let (going, go) = mpsc::channel();
    let (made, ready) = mpsc::channel();
    thread::Builder::new().name("orders".to_owned()).spawn(move || {
        let mut death = match death(milliseconds) {
            Ok(death) => death,
            Err(error) => return drop(made.send(Err(error))),
        };
        drop(made.send(Ok(())));
        for line in io::stdin().lock().lines() {
            let Ok(line) = line else { break };
            match serde_json::from_str(&line) {
                Ok(Order::EndBy { milliseconds }) => {
                    if die_after(&mut death, milliseconds).is_err() {
                        break;
                    }
                    set.store(milliseconds, Relaxed);
                }
                Ok(Order::Go) => drop(going.send(())),
                Ok(Order::Begin(_)) | Err(_) => {}
            }
        }
        set.store(0, Relaxed); // the worker is gone
    })?;
    ready.recv().unwrap_or_else(|_| Err(io::Error::other("the thread of orders ended")))?;
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
    Ok(go)
}

/// A timer that kills this process, when it has not ended by a time on the clock of [`since_boot`].
fn death(milliseconds: u64) -> io::Result<Timer> {
    let kills = SigevNotify::SigevSignal { signal: Signal::SIGKILL, si_value: 0 };
    let mut death = Timer::new(ClockId::CLOCK_BOOTTIME, SigEvent::new(kills))?;
    die_after(&mut death, milliseconds)?;
    Ok(death)
}

fn die_after(death: &mut Timer, milliseconds: u64) -> io::Result<()> {
    let time = Duration::from_millis(milliseconds) + GRACE;
    let at = Expiration::OneShot(TimeSpec::from_duration(time));
    Ok(death.set(at, TimerSetTimeFlags::TFD_TIMER_ABSTIME)?)
}
