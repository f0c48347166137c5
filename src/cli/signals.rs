//! SIGINT and SIGTERM ask the engine to stop; a second one ends the process at once.
//! What stopping means is the engine's business.

use anyhow::Context;
use longshore::engine::Cancel;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

/// Starts forwarding. The thread lives as long as the process.
pub(crate) fn forward(cancel: &Cancel) -> anyhow::Result<()> {
    let mut signals = Signals::new([SIGINT, SIGTERM]).context("failed to listen for signals")?;
    let cancel = cancel.clone();
    std::thread::Builder::new()
        .name("signals".to_owned())
        .spawn(move || {
            for signal in signals.forever() {
                if cancel.outcome().is_some() {
                    // The first was heard; whoever sends another does not want to wait.
                    std::process::exit(128 + signal);
                }
                cancel.raise(signal);
            }
        })
        .context("failed to start the signal thread")?;
    Ok(())
}
