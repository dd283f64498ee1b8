//! What the actor of a subscription begins with, and what it is told.

use std::sync::Arc;

use posthorn_domain::id::{Sequence, SubscriptionId};
use posthorn_domain::lane::{Held, Outset, Queued};
use posthorn_domain::subscription::Subscription;
use tokio::sync::oneshot;

use super::super::Parts;
use super::super::admission::{Invitation, Place};
use super::super::attempt::Attempted;
use super::super::tenants::TenantState;
use crate::store::lanes::Waiting;

/// What an actor begins with.
pub(in crate::dispatch) struct Arguments {
    pub(in crate::dispatch) id: SubscriptionId,
    pub(in crate::dispatch) parts: Arc<Parts>,
    /// It was called in to wait for a place.
    pub(in crate::dispatch) invitation: Option<Invitation>,
}

/// What a subscription's actor is told.
pub(in crate::dispatch) enum LaneMsg {
    /// The subscription as stored; none where it is gone.
    Opened(Option<Box<Opened>>),
    /// A delivery was accepted.
    Accepted(Queued),
    /// The page asked for.
    Loaded(Vec<Waiting>),
    /// A request ended.
    Attempted(Sequence, Box<Attempted>),
    /// A request was not made after all.
    Withdrawn(Sequence),
    /// An outcome is committed.
    Recorded(Sequence),
    /// Somebody ended a delivery.
    Skipped(Sequence),
    /// Somebody wants a delivery tried now.
    RetryNow(Sequence),
    /// The subscription was changed.
    Changed(Arc<Subscription>),
    /// The subscription was deleted or goes to another node: nothing more starts, and the actor leaves.
    Close,
    /// Deliveries up to this number are there.
    Stored(Sequence),
    /// As [`Stored`](Self::Stored); and the subscription has this version.
    Found(Sequence, i64),
    /// The subscription was changed by somebody else.
    Refresh,
    /// The subscription as it is now.
    Refreshed(u64, Arc<Subscription>),
    /// A place in flight is free.
    Place(Place),
    /// It is time to look again.
    Wake,
    /// Somebody asks why deliveries are not being sent.
    Explain(Vec<Sequence>, oneshot::Sender<Vec<Option<Held>>>),
    #[cfg(test)]
    Panic,
}

/// What an actor's lane starts from.
pub(in crate::dispatch) struct Opened {
    pub(super) subscription: Arc<Subscription>,
    pub(super) outset: Outset,
    pub(super) tenant: Arc<TenantState>,
}
