//! Waiting for something to become true, with a deadline that says what was seen instead.

use std::future::Future;
use std::time::{Duration, Instant};

/// How long anything may take before a test fails: far longer than it ever takes.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// How often a condition without a notification of its own is looked at.
const POLL: Duration = Duration::from_millis(10);

/// Asks `probe` until it answers `Ok`; at the deadline fails with the last `Err`.
pub(crate) async fn eventually<T, F>(what: &str, mut probe: impl FnMut() -> F) -> T
where
    F: Future<Output = Result<T, String>>,
{
    let deadline = Instant::now() + PATIENCE;
    loop {
        match probe().await {
            Ok(value) => return value,
            Err(saw) if Instant::now() > deadline => panic!("{what}: not within {PATIENCE:?}; saw {saw}"),
            Err(_) => tokio::time::sleep(POLL).await,
        }
    }
}

/// The future's value, which must come within `limit`.
pub(crate) async fn within<T>(limit: Duration, what: &str, future: impl Future<Output = T>) -> T {
    let ended = tokio::time::timeout(limit, future).await;
    ended.unwrap_or_else(|_| panic!("{what}: not within {limit:?}"))
}
