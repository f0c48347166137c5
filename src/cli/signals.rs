//! SIGINT and SIGTERM ask the engine to stop; a second one ends the process at once. SIGXFSZ is caught, so that
//! writing beyond the limit of file sizes is an error of one file (EFBIG).
//! What stopping means is the engine's business.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use anyhow::Context;
use longshore::engine::Cancel;
use signal_hook::consts::{SIGINT, SIGTERM, SIGXFSZ};
use signal_hook::flag;

/// Starts forwarding. The handlers only store numbers, so that a copy of one small file does not pay
/// for a thread that waits for signals.
pub(crate) fn forward(cancel: &Cancel) -> anyhow::Result<()> {
    let heard = Arc::new(AtomicBool::new(false));
    let listen = |signal: i32| {
        // Handlers run in this order. The first signal was heard; whoever sends another does not want
        // to wait.
        flag::register_conditional_shutdown(signal, 128 + signal, Arc::clone(&heard))?;
        flag::register(signal, Arc::clone(&heard))?;
        let number = usize::try_from(signal).unwrap_or(usize::MAX);
        flag::register_usize(signal, Arc::clone(cancel.word()), number).map(drop)
    };
    let stops = [SIGINT, SIGTERM].into_iter().try_for_each(listen);
    stops.and_then(|()| survive_file_limit()).context("failed to listen for signals")
}

/// Has writing beyond the limit of file sizes fail instead of ending the process.
pub(crate) fn survive_file_limit() -> std::io::Result<()> {
    flag::register(SIGXFSZ, Arc::default()).map(drop)
}
