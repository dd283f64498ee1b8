//! Places in flight on this node: who has one, who waits for one.
//!
//! A place is taken before a request starts, travels with it, and is given back when its outcome
//! is committed. So it bounds requests, their outcomes on the way to the store, and all messages
//! about them. Who is next is decided by [`Places`].

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use posthorn_domain::foyer::Foyer;
use posthorn_domain::id::SubscriptionId;
use posthorn_domain::places::{Claim, Places, TenantLimits};
use posthorn_domain::tenant::Tenant;
use ractor::{ActorRef, MessagingErr};
use tokio::sync::Notify;
use tokio_util::task::AbortOnDropHandle;

use super::subscription::LaneMsg;
use super::tenants::TenantState;

impl TenantLimits for TenantState {
    fn in_flight_max(&self) -> Option<u32> {
        Self::in_flight_max(self)
    }

    fn take_turn(&self, now: Instant) -> Result<(), Instant> {
        Self::take_turn(self, now)
    }
}

/// A place in flight; given back when dropped.
pub(super) struct Place {
    tenant: Arc<TenantState>,
    claim: Claim,
    admission: Arc<Admission>,
    /// It was given back already.
    returned: bool,
}

/// Keeps room for a lane that was called in, until it asks for its place or leaves.
pub(super) struct Invitation {
    whose: Option<(Tenant, Claim)>,
    admission: Arc<Admission>,
}

/// What came of asking for a place.
pub(super) enum Asked {
    /// Here it is.
    Place(Place),
    /// It will be told.
    Waits,
    /// The lane is to wait outside of memory.
    Crowded,
}

/// Gives out places, one lane at a time.
pub(super) struct Admission {
    state: Mutex<State>,
    /// Told when the last place came back after closing.
    drained: Notify,
}

struct State {
    places: Places<Arc<TenantState>, ActorRef<LaneMsg>>,
    foyer: Foyer<SubscriptionId>,
    closed: bool,
    /// Looks again when a tenant's rate has recovered.
    alarm: Option<(Instant, AbortOnDropHandle<()>)>,
}

impl Admission {
    pub(super) fn new(size: u32) -> Arc<Self> {
        let state = State { places: Places::new(size), foyer: Foyer::default(), closed: false, alarm: None };
        Arc::new(Self { state: Mutex::new(state), drained: Notify::new() })
    }

    /// A place, if one is to be had now. Else `lane` gets one as [`LaneMsg::Place`] when it is its
    /// turn, once for each time it asked; unless too many wait, or some do outside and the lane
    /// `had_turn` in memory.
    pub(super) fn ask(
        self: &Arc<Self>,
        tenant: &Arc<TenantState>,
        claim: Claim,
        lane: &ActorRef<LaneMsg>,
        had_turn: bool,
    ) -> Asked {
        let mut state = self.state();
        if state.closed {
            return Asked::Waits;
        }
        if state.places.take(tenant.name(), tenant, claim, Instant::now()) {
            return Asked::Place(self.place(tenant, claim));
        }
        let name = tenant.name();
        if state.places.is_crowded(name, claim) || had_turn && state.foyer.waits(name, claim) {
            return Asked::Crowded;
        }
        state.places.wait(tenant.name(), tenant, claim, lane.clone());
        drop(state);
        // It may have recovered its rate since, and its rest has to be known.
        self.hand_out();
        Asked::Waits
    }

    /// A lane waits outside of memory.
    pub(super) fn put_outside(&self, tenant: Tenant, claim: Claim, id: SubscriptionId) {
        self.state().foyer.put(tenant, claim, id);
    }

    /// The next lane that may come in to wait for a place.
    pub(super) fn call_in(self: &Arc<Self>) -> Option<(SubscriptionId, Invitation)> {
        let State { places, foyer, .. } = &mut *self.state();
        let (id, tenant, claim) =
            foyer.call(|tenant, claim, coming| places.has_room(tenant, claim, coming))?;
        Some((id, Invitation { whose: Some((tenant, claim)), admission: Arc::clone(self) }))
    }

    /// Whether nobody waits outside.
    pub(super) fn is_empty_outside(&self) -> bool {
        self.state().foyer.is_empty()
    }

    /// Forgets who waits outside; whoever finds the lanes anew puts them there again.
    pub(super) fn clear_outside(&self) {
        self.state().foyer.clear();
    }

    /// A tenant's limits were changed.
    pub(super) fn changed(self: &Arc<Self>, tenant: &Tenant) {
        self.state().places.changed(tenant);
        self.hand_out();
    }

    /// All tenants' limits were changed.
    pub(super) fn all_changed(self: &Arc<Self>) {
        self.state().places.all_changed();
        self.hand_out();
    }

    /// Until when a tenant waits for its rate, where it does.
    pub(super) fn rests_until(&self, tenant: &Tenant) -> Option<Instant> {
        self.state().places.rests_until(tenant)
    }

    /// Gives out no more places.
    pub(super) fn close(&self) {
        let mut state = self.state();
        state.closed = true;
        state.alarm = None;
    }

    /// Once closed, waits until every place is given back; false where that takes longer than
    /// `patience`.
    pub(super) async fn drained(&self, patience: Duration) -> bool {
        let drained = async {
            loop {
                // Before the look, so that nothing is missed between the two.
                let told = self.drained.notified();
                if self.state().places.held() == 0 {
                    return;
                }
                told.await;
            }
        };
        tokio::time::timeout(patience, drained).await.is_ok()
    }

    /// Gives what is free to those that wait for it.
    fn hand_out(self: &Arc<Self>) {
        while let Some((place, lane)) = self.next() {
            // A lane that died or left does not need it.
            if let Err(MessagingErr::SendErr(LaneMsg::Place(mut place))) = lane.cast(LaneMsg::Place(place)) {
                // Not by dropping it, which would hand out inside of handing out.
                place.give_back();
            }
        }
    }

    fn next(self: &Arc<Self>) -> Option<(Place, ActorRef<LaneMsg>)> {
        let mut state = self.state();
        if state.closed {
            return None;
        }
        let now = Instant::now();
        let Some(grant) = state.places.grant(now) else {
            self.set_alarm(&mut state, now);
            return None;
        };
        Some((self.place(&grant.limits, grant.claim), grant.waiter))
    }

    fn set_alarm(self: &Arc<Self>, state: &mut State, now: Instant) {
        let Some(at) = state.places.next_wakeup() else {
            state.alarm = None;
            return;
        };
        if state.alarm.as_ref().is_some_and(|(set, _)| *set == at && at > now) {
            return;
        }
        let admission = Arc::clone(self);
        let task = tokio::spawn(async move {
            tokio::time::sleep_until(at.into()).await;
            admission.hand_out();
        });
        state.alarm = Some((at, AbortOnDropHandle::new(task)));
    }

    fn place(self: &Arc<Self>, tenant: &Arc<TenantState>, claim: Claim) -> Place {
        Place { tenant: Arc::clone(tenant), claim, admission: Arc::clone(self), returned: false }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Places are counted in a few steps, none of which panics.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place {
    fn give_back(&mut self) {
        if std::mem::replace(&mut self.returned, true) {
            return;
        }
        let mut state = self.admission.state();
        state.places.give_back(self.tenant.name(), self.claim);
        if state.closed && state.places.held() == 0 {
            self.admission.drained.notify_waiters();
        }
    }
}

impl Drop for Invitation {
    fn drop(&mut self) {
        if let Some((tenant, claim)) = self.whose.take() {
            self.admission.state().foyer.arrived(tenant, claim);
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if !self.returned {
            self.give_back();
            self.admission.hand_out();
        }
    }
}
