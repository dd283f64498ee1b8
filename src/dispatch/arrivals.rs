//! What other nodes accepted for the lanes of this one: read many at a time, and handed on as if it had come in
//! here. Each lane would read its own otherwise, and each payload after it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use posthorn_domain::cluster::Slot;
use posthorn_domain::id::{Sequence, SubscriptionId};
use posthorn_domain::lane::{Queued, Ticket};
use tokio::sync::Notify;
use tracing::warn;

use super::Parts;
use super::dispatcher::DispatcherMsg;
use crate::store::arrivals::Arrival;

/// Deliveries that are read at once.
const BATCH: usize = 256;
/// Lanes that may wait for it; of more, each reads for itself.
const WAITING_MAX: usize = 16 * BATCH;

/// Lanes with deliveries that are to be read.
#[derive(Debug, Default)]
pub(super) struct Arrivals {
    /// With the newest of each; one before it is read by the lane itself.
    newest: Mutex<HashMap<SubscriptionId, Sequence>>,
    came: Notify,
}

impl Arrivals {
    /// Deliveries up to these numbers were accepted elsewhere. Returns those that there is no room for.
    pub(super) fn push(&self, lanes: Vec<(SubscriptionId, Sequence)>) -> Vec<(SubscriptionId, Sequence)> {
        let mut newest = self.newest();
        let mut left = lanes.into_iter();
        for (id, sequence) in left.by_ref() {
            let known = newest.entry(id).or_insert(sequence);
            *known = sequence.max(*known);
            if newest.len() >= WAITING_MAX {
                break;
            }
        }
        drop(newest);
        self.came.notify_one();
        left.collect()
    }

    fn take(&self) -> Vec<(SubscriptionId, Sequence)> {
        let mut newest = self.newest();
        let some: Vec<_> = newest.iter().take(BATCH).map(|(id, sequence)| (*id, *sequence)).collect();
        for (id, _) in &some {
            newest.remove(id);
        }
        some
    }

    fn newest(&self) -> MutexGuard<'_, HashMap<SubscriptionId, Sequence>> {
        // Nothing panics under it.
        self.newest.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The worker's loop.
pub(super) async fn run(parts: Arc<Parts>) {
    loop {
        parts.arrivals.came.notified().await;
        loop {
            let mut lanes = parts.arrivals.take();
            if lanes.is_empty() {
                break;
            }
            lanes.retain(|(id, _)| parts.leases.serves(Slot::of(*id)));
            if !lanes.is_empty() {
                hand_on(&parts, lanes).await;
            }
        }
    }
}

async fn hand_on(parts: &Parts, lanes: Vec<(SubscriptionId, Sequence)>) {
    let arrived = match parts.store.arrivals(&lanes).await {
        Ok(arrived) => arrived,
        Err(error) => {
            warn!(%error, "what other nodes accepted could not be read at once");
            parts.dispatcher.tell(DispatcherMsg::Stored(lanes));
            return;
        }
    };
    let mut accepted = Vec::with_capacity(arrived.len());
    for Arrival { lane, tenant, sequence, id, event_id, replay_of, ordering_key, payload } in arrived {
        if let Some(payload) = payload {
            parts.caches.keep_payload(event_id, payload).await;
        }
        let ticket = Ticket { id, event_id, replay_of, sequence };
        let queued = Queued { ticket, key: ordering_key, attempt_count: 0, retry_base: 0, due: None };
        accepted.push((lane, tenant, queued));
    }
    parts.dispatcher.tell(DispatcherMsg::Accepted(accepted));
}
