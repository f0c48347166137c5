//! The controller of NnfDataMovement.

use crate::context::Context;
use crate::server::Readiness;

/// Runs until dropped.
pub(crate) async fn run(context: Context, readiness: Readiness) {
    readiness.set(true);
    drop(context);
    std::future::pending().await
}
