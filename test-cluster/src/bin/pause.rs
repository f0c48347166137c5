//! The program that holds the namespaces of a pod on a real node: it waits until it is told to end.

use anyhow::Context;
use nix::sys::signal::{SigSet, Signal};

fn main() -> anyhow::Result<()> {
    let mut ends = SigSet::empty();
    ends.add(Signal::SIGTERM);
    ends.add(Signal::SIGINT);
    ends.thread_block().context("failed to block signals")?;
    ends.wait().context("failed to wait for a signal")?;
    Ok(())
}
