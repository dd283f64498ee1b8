//! What a subscription's actor reads, each in a task of its own that reports back.

use std::sync::Arc;
use std::time::Instant;

use posthorn_domain::circuit::{Circuit, CircuitState};
use posthorn_domain::id::SubscriptionId;
use posthorn_domain::lane::{self, Health, Outset, Policy, Queued, Ticket};
use posthorn_domain::limits::RETRY_DELAY_MAX;
use ractor::ActorRef;
use tracing::debug;

use super::super::Parts;
use super::super::backoff::Backoff;
use super::{LaneMsg, Opened};
use crate::store::lanes::{Scope, Waiting};
use crate::store::{LaneHealth, LaneStart};

/// Reads the subscription, however long the store is away.
pub(super) async fn open(parts: Arc<Parts>, id: SubscriptionId, lane: ActorRef<LaneMsg>) {
    let found = until_read(&parts, || parts.store.lane_start(id)).await;
    let found = match found {
        Some(LaneStart { subscription, health, last }) => {
            let outset = Outset {
                policy: Policy::of(&subscription.config, &parts.settings.defaults),
                active: subscription.sends(),
                health: health_in_lane(&parts, health),
                last,
            };
            // Not kept in the cache: that is for ingest, and a start with many lanes would fill it.
            let subscription = Arc::new(subscription);
            let tenant = until_read(&parts, || parts.tenants.get(&subscription.tenant)).await;
            Some(Box::new(Opened { subscription, outset, tenant }))
        }
        None => None,
    };
    let _ = lane.cast(LaneMsg::Opened(found));
}

/// Reads the subscription again, after its own outcome or somebody else changed it.
pub(super) async fn refresh(parts: Arc<Parts>, id: SubscriptionId, number: u64, lane: ActorRef<LaneMsg>) {
    let found = until_read(&parts, || parts.store.subscription_view(id)).await;
    if let Some(view) = found {
        let after = parts.caches.keep_subscription(view.subscription).await;
        let _ = lane.cast(LaneMsg::Refreshed(number, after));
    }
}

/// Reads a page, however long the store is away.
pub(super) async fn page(parts: Arc<Parts>, id: SubscriptionId, load: lane::Load, lane: ActorRef<LaneMsg>) {
    let (scope, up_to) = match load.scope {
        lane::Scope::Without(keys) => (Scope::Without(keys), None),
        lane::Scope::Key(key, up_to) => (Scope::Key(key), Some(up_to)),
    };
    let mut page = until_read(&parts, || parts.store.lane_page(id, load.after, &scope, load.limit)).await;
    page.retain(|row| up_to.is_none_or(|up_to| row.sequence <= up_to));
    let _ = lane.cast(LaneMsg::Loaded(page));
}

/// Asks the store until it answers, a few at a time.
async fn until_read<T, F>(parts: &Parts, read: impl Fn() -> F) -> T
where
    F: Future<Output = Result<T, crate::store::Error>>,
{
    let mut backoff = Backoff::for_reads();
    loop {
        {
            // Never closed, so there is always a turn to wait for.
            let _turn = parts.loads.acquire().await;
            match read().await {
                Ok(found) => return found,
                Err(error) => debug!(%error, "a lane could not be read yet"),
            }
        }
        backoff.pause().await;
    }
}

pub(super) fn queued(parts: &Parts, row: Waiting, now: Instant) -> Queued {
    // Whoever wrote it down may have had another clock, and this one may have been set since: it waits no longer than
    // it would have from then on.
    let longest = row.retry_delay.map_or(RETRY_DELAY_MAX, |delay| delay.min(RETRY_DELAY_MAX));
    let due = row.next_attempt_at.map(|at| parts.clock.instant(at, longest)).filter(|due| *due > now);
    let ticket =
        Ticket { id: row.id, event_id: row.event_id, replay_of: row.replay_of, sequence: row.sequence };
    Queued {
        ticket,
        key: row.ordering_key,
        attempt_count: row.attempt_count,
        retry_base: row.retry_base,
        due,
    }
}

fn health_in_lane(parts: &Parts, stored: LaneHealth) -> Health {
    let circuit = match (stored.circuit, stored.cool_down) {
        (CircuitState::Open | CircuitState::HalfOpen, Some(cool_down)) => Circuit::Open {
            // A probe that was under way when its process died goes again now.
            until: stored
                .probe_at
                .map_or_else(Instant::now, |at| parts.clock.instant(at, Circuit::open_max(cool_down))),
            cool_down,
            failures: stored.failures,
        },
        _ => Circuit::Closed { failures: stored.failures },
    };
    let failing_since = stored.failing_since.and_then(|since| {
        let ago = parts.clock.now().since(since);
        Instant::now().checked_sub(ago)
    });
    Health { circuit, failing_since }
}
