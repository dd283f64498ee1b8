//! What a lane asks before each start: its own pace, and a place in flight on this node.

use std::sync::Arc;
use std::time::Instant;

use posthorn_domain::lane::{Gate, Hold};
use posthorn_domain::places::Claim;
use posthorn_domain::subscription::RateLimit;
use ractor::ActorRef;

use super::super::Parts;
use super::super::admission::Place;
use super::super::pace::Pace;
use super::super::tenants::TenantState;
use super::LaneMsg;

/// The gate of one lane.
pub(super) struct ShellGate {
    parts: Arc<Parts>,
    lane: ActorRef<LaneMsg>,
    tenant: Arc<TenantState>,
    /// Taken, and not yet used by a request.
    place: Option<Place>,
    /// Waiting for a place; one at a time.
    waiting: bool,
    rate: Pace,
}

impl ShellGate {
    pub(super) fn new(
        parts: Arc<Parts>,
        lane: ActorRef<LaneMsg>,
        tenant: Arc<TenantState>,
        rate: Option<RateLimit>,
    ) -> Self {
        Self { parts, lane, tenant, place: None, waiting: false, rate: Pace::new(rate) }
    }

    /// Another pace from now on; the same one goes on where it is.
    pub(super) fn set_rate(&mut self, rate: Option<RateLimit>) {
        self.rate.set(rate);
    }

    /// Takes in the place that was waited for.
    pub(super) fn keep(&mut self, place: Place) {
        self.waiting = false;
        self.place = Some(place);
    }

    /// Gives the place that [`Gate::admit`] took to a request.
    pub(super) fn spend(&mut self) -> Option<Place> {
        self.place.take()
    }

    /// Gives back a place that nothing uses.
    pub(super) fn rest(&mut self) {
        self.place = None;
    }

    /// What a hold comes down to: a lane that waits for a place may wait for its tenant's rate.
    pub(super) fn explain(&self, hold: Hold) -> Hold {
        match hold {
            Hold::Capacity => {
                self.parts.admission.rests_until(self.tenant.name()).map_or(hold, Hold::TenantRate)
            }
            Hold::Rate(_) | Hold::TenantRate(_) => hold,
        }
    }

    /// Whether a new limiter would allow no more than this one: then it can be forgotten.
    pub(super) fn is_replenished(&self, now: Instant) -> bool {
        self.rate.is_replenished(now)
    }
}

impl Gate for ShellGate {
    fn admit(&mut self, claim: Claim, now: Instant) -> Result<(), Hold> {
        // Looked at first, so that no place is taken from others in vain; nobody else takes a turn.
        self.rate.peek(now).map_err(Hold::Rate)?;
        if self.place.is_none() && !self.waiting {
            self.place = self.parts.admission.ask(&self.tenant, claim, &self.lane);
            self.waiting = self.place.is_none();
        }
        if self.place.is_none() {
            return Err(Hold::Capacity);
        }
        self.rate.take(now).map_err(Hold::Rate)
    }
}
