//! What people are shown of what is stored: one item, or a page of a list.

use std::time::Duration;

use crate::circuit::CircuitView;
use crate::delivery::{AttemptOutcome, Delivery, DeliveryStatus};
use crate::id::{AttemptNumber, DeliveryId, Sequence, SubscriptionId};
use crate::subscription::{Subscription, SubscriptionStatus};
use crate::tenant::Tenant;
use crate::time::Timestamp;

/// One page of a list, the newest first.
#[derive(Clone, Debug)]
pub struct Page<T> {
    /// As many as were asked for, or what is left.
    pub items: Vec<T>,
    /// How many there are on all pages together.
    pub total: u64,
}

impl<T> Default for Page<T> {
    fn default() -> Self {
        Self { items: Vec::new(), total: 0 }
    }
}

/// A subscription with what clients see beside it.
#[derive(Clone, Debug, PartialEq)]
pub struct SubscriptionView {
    /// The subscription.
    pub subscription: Subscription,
    /// Its circuit.
    pub circuit: CircuitView,
}

/// Which subscriptions to list; what is left out does not matter.
#[derive(Clone, Debug, Default)]
pub struct SubscriptionFilter {
    /// On whose behalf.
    pub tenant: Option<Tenant>,
    /// In which standing.
    pub status: Option<SubscriptionStatus>,
}

/// Which deliveries to list; what is left out does not matter.
#[derive(Clone, Copy, Debug, Default)]
pub struct DeliveryFilter {
    /// Where they stand.
    pub status: Option<DeliveryStatus>,
    /// Accepted at this time or later.
    pub since: Option<Timestamp>,
    /// Accepted before this time.
    pub until: Option<Timestamp>,
    /// Numbered below this; where the page before ended.
    pub before: Option<Sequence>,
}

/// One page of a list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeliveryList {
    /// The newest first; may be fewer than asked for, though more follow.
    pub items: Vec<Delivery>,
    /// What follows is numbered below this; none where nothing follows.
    pub go_on_before: Option<Sequence>,
}

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Activity {
    /// A subscription came to be.
    SubscriptionCreated {
        /// When.
        at: Timestamp,
        /// Which.
        subscription_id: SubscriptionId,
        /// Scheme, host and port of its target.
        origin: String,
    },
    /// A request was made.
    Attempted {
        /// When.
        at: Timestamp,
        /// For which subscription.
        subscription_id: SubscriptionId,
        /// For which delivery.
        delivery_id: DeliveryId,
        /// Which one of its.
        number: AttemptNumber,
        /// How it ended.
        outcome: AttemptOutcome,
        /// What the endpoint answered.
        status_code: Option<u16>,
    },
}

impl Activity {
    /// When it happened.
    pub const fn at(&self) -> Timestamp {
        match self {
            Self::SubscriptionCreated { at, .. } | Self::Attempted { at, .. } => *at,
        }
    }
}

/// How far back `/status/stats` looks.
pub const STATS_WINDOW: Duration = Duration::from_hours(24);

/// The system at a glance.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Subscriptions that are not deleted.
    pub total_subscriptions: u64,
    /// Those of them that take in and send.
    pub active_subscriptions: u64,
    /// Deliveries that are not finished.
    pub pending_deliveries: u64,
    /// Deliveries that ended well within [`STATS_WINDOW`].
    pub recent_success_count: u64,
    /// Deliveries that were given up within [`STATS_WINDOW`].
    pub recent_failure_count: u64,
    /// Circuits that are not closed.
    pub circuits_open: u64,
}
