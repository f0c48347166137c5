//! Waiting in tests: for what is to come, with a deadline, and never for a time.

use std::time::{Duration, Instant};

/// Long enough for a machine that is busy with other tests.
const LIMIT: Duration = Duration::from_secs(90);

/// How often is looked.
const PAUSE: Duration = Duration::from_millis(20);

/// Waits until `found` has a value.
///
/// # Panics
///
/// When it has none for too long.
pub async fn eventually<T>(what: &str, found: impl AsyncFnMut() -> Option<T>) -> T {
    within(LIMIT, what, found).await
}

async fn within<T>(limit: Duration, what: &str, mut found: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(value) = found().await {
            return value;
        }
        assert!(Instant::now() < deadline, "waited {limit:?} in vain for: {what}");
        tokio::time::sleep(PAUSE).await;
    }
}

/// Waits until something is so.
///
/// # Panics
///
/// When it is not for too long.
pub async fn until(what: &str, is_so: impl AsyncFnMut() -> bool) {
    until_within(LIMIT, what, is_so).await;
}

/// Waits until something is so that others do in their own time.
///
/// # Panics
///
/// When it is not within a limit.
pub async fn until_within(limit: Duration, what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    within(limit, what, async || is_so().await.then_some(())).await;
}
