//! Removes what is old, in small slices with pauses between them, so that nobody waits for it.

use std::sync::Arc;
use std::time::Duration;

use posthorn_domain::cluster::Slot;
use tokio::time::{MissedTickBehavior, interval, sleep};
use tracing::{info, warn};

use super::Parts;
use crate::store::Error;

/// Between two slices: the writers come first.
const PAUSE: Duration = Duration::from_millis(20);

/// The janitor's loop.
pub(super) async fn run(parts: Arc<Parts>) {
    let mut rounds = interval(parts.settings.cleanup_interval);
    rounds.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        rounds.tick().await;
        // One of the nodes is enough.
        if !parts.leases.serves(Slot(0)) {
            continue;
        }
        match clean(&parts).await {
            Ok(0) => {}
            Ok(deliveries) => info!(deliveries, "removed old deliveries"),
            Err(error) => warn!(%error, "the janitor could not finish its round"),
        }
    }
}

/// One round; returns how many deliveries were removed.
async fn clean(parts: &Parts) -> Result<u64, Error> {
    let now = parts.clock.now();
    let until = now.minus(parts.settings.retention);
    let mut from = None;
    while let Some((id, _)) = parts.store.fail_disabled(until, parts.clock.now(), from).await? {
        from = Some(id);
        sleep(PAUSE).await;
    }
    let mut removed: u64 = 0;
    loop {
        let slice = parts.store.remove_finished(until).await?;
        removed = removed.saturating_add(slice);
        if slice == 0 {
            break;
        }
        sleep(PAUSE).await;
    }
    while parts.store.remove_deleted_subscriptions().await? > 0 {
        sleep(PAUSE).await;
    }
    while parts.store.remove_audit(now.minus(parts.settings.audit_retention)).await? > 0 {
        sleep(PAUSE).await;
    }
    parts.store.fold_stats(now).await?;
    Ok(removed)
}
