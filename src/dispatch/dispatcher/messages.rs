//! What the dispatcher is told, and where it is.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::Instant;

use posthorn_domain::cluster::Slot;
use posthorn_domain::id::{Sequence, SubscriptionId};
use posthorn_domain::lane::{Held, Queued};
use posthorn_domain::places::Claim;
use posthorn_domain::subscription::Subscription;
use posthorn_domain::tenant::Tenant;
use ractor::{ActorId, ActorRef};
use tokio::sync::oneshot;

use crate::store::lanes::WithWork;

/// What the dispatcher is told.
pub(in crate::dispatch) enum DispatcherMsg {
    /// Deliveries were accepted and committed.
    Accepted(Vec<(SubscriptionId, Tenant, Queued)>),
    /// A subscription was changed.
    Changed(Arc<Subscription>),
    /// Somebody ended a delivery.
    Skipped(SubscriptionId, Sequence),
    /// Somebody wants a delivery tried now.
    RetryNow(SubscriptionId, Sequence),
    /// Somebody asks why deliveries are not being sent.
    Explain(SubscriptionId, Vec<Sequence>, oneshot::Sender<Vec<Option<Held>>>),
    /// A subscription was deleted.
    Deleted(SubscriptionId),
    /// An actor that was started knows its subscription.
    Opened(SubscriptionId),
    /// An actor that got so many messages offers to leave.
    Idle { id: SubscriptionId, actor: ActorId, seen: u64, rest: Rest },
    /// Lanes with work, as the search of that number found them.
    Found(u64, Vec<WithWork>),
    /// Deliveries up to these numbers were accepted by another node, or for a lane that was elsewhere.
    Stored(Vec<(SubscriptionId, Sequence)>),
    /// A subscription was changed by somebody else.
    Refresh(SubscriptionId),
    /// Something may have been missed: look for all that has work.
    LookAgain,
    /// These slots are this node's from now on.
    Acquired(Vec<Slot>),
    /// These are to be handed over: nothing more starts, and [`Membership::drained`](super::super::membership::Membership::drained) is told once nothing of
    /// them is left.
    HandOver(Vec<Slot>),
    /// These may be another node's by now: what is in flight is broken off.
    Lost(Vec<Slot>),
    /// Look at the sleepers.
    Wake,
    #[cfg(test)]
    Panic(SubscriptionId),
}

/// How a subscription goes on whose actor leaves.
pub(in crate::dispatch) enum Rest {
    /// There is nothing to do before `until`, nor when something is accepted if it is `deaf`.
    Asleep { until: Option<Instant>, deaf: bool, last: Sequence },
    /// It waits for a place, outside of memory.
    Outside(Tenant, Claim),
}

/// Where the dispatcher is; it outlives one that dies.
#[derive(Default)]
pub(in crate::dispatch) struct DispatcherLink(RwLock<Option<ActorRef<DispatcherMsg>>>);

impl DispatcherLink {
    pub(super) fn set(&self, dispatcher: ActorRef<DispatcherMsg>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Some(dispatcher);
    }

    /// Tells the dispatcher. What one that died does not hear of, the next one finds in the store.
    pub(in crate::dispatch) fn tell(&self, message: DispatcherMsg) {
        let link = self.0.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(dispatcher) = &*link {
            let _ = dispatcher.cast(message);
        }
    }
}
