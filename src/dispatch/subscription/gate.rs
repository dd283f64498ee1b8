//! What a lane asks before each start: its own pace, and a place in flight on this node.

use std::sync::Arc;
use std::time::{Duration, Instant};

use posthorn_domain::lane::{Gate, Hold};
use posthorn_domain::places::Claim;
use posthorn_domain::subscription::RateLimit;
use posthorn_domain::tenant::Tenant;
use ractor::ActorRef;

use super::super::Parts;
use super::super::admission::{Asked, Invitation, Place};
use super::super::pace::Pace;
use super::super::tenants::TenantState;
use super::LaneMsg;

/// When the leases are looked at again.
const LEASE_PAUSE: Duration = Duration::from_millis(200);

/// A lane is in memory for so long before it makes room for those that wait outside. Coming back costs
/// two reads, and within it a lane of many sends some twenty deliveries.
const TURN: Duration = Duration::from_secs(4);

/// The gate of one lane.
pub(super) struct ShellGate {
    parts: Arc<Parts>,
    lane: ActorRef<LaneMsg>,
    tenant: Arc<TenantState>,
    /// Taken, and not yet used by a request.
    place: Option<Place>,
    /// Waiting for a place; one at a time.
    waiting: bool,
    /// Held until the lane waits or need not.
    invitation: Option<Invitation>,
    /// What the lane is to wait for outside of memory, once nothing of it is in flight.
    crowded_out: Option<Claim>,
    /// Since when the lane has been in memory.
    since: Instant,
    rate: Pace,
    /// The subscription was changed, and is being read again.
    pub(super) in_doubt: bool,
}

impl ShellGate {
    pub(super) fn new(
        parts: Arc<Parts>,
        lane: ActorRef<LaneMsg>,
        tenant: Arc<TenantState>,
        invitation: Option<Invitation>,
        rate: Option<RateLimit>,
    ) -> Self {
        Self {
            parts,
            lane,
            tenant,
            place: None,
            waiting: false,
            invitation,
            crowded_out: None,
            since: Instant::now(),
            rate: Pace::new(rate),
            in_doubt: false,
        }
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
            Hold::Capacity | Hold::Crowd => {
                self.parts.admission.rests_until(self.tenant.name()).map_or(hold, Hold::TenantRate)
            }
            Hold::Rate(_) | Hold::TenantRate(_) | Hold::Lease(_) => hold,
        }
    }

    /// Where the lane is to wait when it leaves, where it is to wait for a place there.
    pub(super) fn outside(&self) -> Option<(Tenant, Claim)> {
        self.crowded_out.map(|claim| (self.tenant.name().clone(), claim))
    }

    /// Whether a new limiter would allow no more than this one: then it can be forgotten.
    pub(super) fn is_replenished(&self, now: Instant) -> bool {
        self.rate.is_replenished(now)
    }
}

impl Gate for ShellGate {
    fn admit(&mut self, claim: Claim, now: Instant) -> Result<(), Hold> {
        if self.in_doubt {
            // The message `Refreshed` ends this.
            return Err(Hold::Capacity);
        }
        if !self.parts.leases.may_start(now) {
            return Err(Hold::Lease(now + LEASE_PAUSE));
        }
        // Whatever it waits for now, it is not on its way any more.
        self.invitation = None;
        // Looked at first, so that no place is taken from others in vain; nobody else takes a turn.
        self.rate.peek(now).map_err(Hold::Rate)?;
        self.crowded_out = None;
        if self.place.is_none() && !self.waiting {
            let had_turn = now.saturating_duration_since(self.since) > TURN;
            match self.parts.admission.ask(&self.tenant, claim, &self.lane, had_turn) {
                Asked::Place(place) => self.place = Some(place),
                Asked::Waits => self.waiting = true,
                Asked::Crowded => {
                    self.crowded_out = Some(claim);
                    return Err(Hold::Crowd);
                }
            }
        }
        if self.place.is_none() {
            return Err(Hold::Capacity);
        }
        self.rate.take(now).map_err(Hold::Rate)
    }
}
