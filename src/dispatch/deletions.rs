//! Ends what deleted subscriptions had still to send, in slices with pauses between them.
//!
//! What is to be ended stands in the database, so it goes on after a kill, on whatever node does it. To readers it has
//! ended already.

use std::sync::Arc;
use std::time::Duration;

use posthorn_domain::cluster::Slot;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, timeout};
use tracing::{info, warn};

use super::Parts;

/// It looks so often even where nobody told it: another node may have died over it.
const POLL_INTERVAL: Duration = Duration::from_secs(5);
/// Between two slices, for so many times as long as the one before took: the other writers have the database for
/// four fifths of the time.
const PAUSE_FACTOR: u32 = 4;
const PAUSE_MIN: Duration = Duration::from_millis(20);
const PAUSE_MAX: Duration = Duration::from_secs(2);

/// Wakes the worker.
#[derive(Debug, Default)]
pub(super) struct Deletions(Notify);

impl Deletions {
    /// A subscription was deleted; that is committed.
    pub(super) fn begin(&self) {
        self.0.notify_one();
    }
}

/// The worker's loop.
pub(super) async fn run(parts: Arc<Parts>) {
    loop {
        // One of the nodes is enough.
        if parts.leases.serves(Slot(0)) {
            end_all(&parts).await;
        }
        // Told or not, it looks.
        let _ = timeout(POLL_INTERVAL, parts.deletions.0.notified()).await;
    }
}

async fn end_all(parts: &Parts) {
    let mut deliveries: u64 = 0;
    while parts.leases.serves(Slot(0)) {
        let began = Instant::now();
        match parts.store.end_deleted(parts.clock.now()).await {
            Ok(Some(ended)) => {
                deliveries = deliveries.saturating_add(ended);
                sleep((began.elapsed() * PAUSE_FACTOR).clamp(PAUSE_MIN, PAUSE_MAX)).await;
            }
            Ok(None) => break,
            Err(error) => {
                warn!(%error, "deliveries of a deleted subscription could not be ended yet");
                sleep(PAUSE_MAX).await;
            }
        }
    }
    if deliveries > 0 {
        info!(deliveries, "ended what deleted subscriptions had still to send");
    }
}
