//! Subscriptions without an actor of which something is kept: when to wake them.

use std::time::{Duration, Instant};

use posthorn_domain::cluster::Slot;
use posthorn_domain::id::{Sequence, SubscriptionId};
use posthorn_domain::places::Claim;
use posthorn_domain::tenant::Tenant;
use ractor::ActorRef;

use super::{DispatcherMsg, OPENING_MAX, State};

/// How often sleepers are looked at, while there are any.
const SLEEP_STEP: Duration = Duration::from_millis(100);

pub(super) struct Sleep {
    pub(super) until: Option<Instant>,
    /// What is accepted does not wake it.
    pub(super) deaf: bool,
    /// Its actor died: nothing wakes it before its time, and then it reads what it missed.
    pub(super) resting: bool,
    /// The highest number of a delivery that its lane had heard of.
    pub(super) last: Sequence,
}

impl State {
    /// Lets a lane wait for a place outside of memory; it reads what is accepted when it comes in.
    pub(super) fn put_outside(
        &mut self,
        myself: &ActorRef<DispatcherMsg>,
        id: SubscriptionId,
        tenant: Tenant,
        claim: Claim,
    ) {
        self.sleepers.insert(id, Sleep { until: None, deaf: true, resting: false, last: Sequence::ZERO });
        self.parts.admission.put_outside(tenant, claim, id);
        self.look_soon(myself);
    }

    pub(super) fn rest(&mut self, myself: &ActorRef<DispatcherMsg>, id: SubscriptionId, until: Instant) {
        if self.served.contains(&Slot::of(id)) {
            self.sleep(
                myself,
                id,
                Sleep { until: Some(until), deaf: true, resting: true, last: Sequence::ZERO },
            );
        }
    }

    pub(super) fn sleep(&mut self, myself: &ActorRef<DispatcherMsg>, id: SubscriptionId, sleep: Sleep) {
        if let Some(until) = sleep.until {
            self.alarms.insert((until, id));
            self.look_soon(myself);
        }
        self.sleepers.insert(id, sleep);
    }

    pub(super) fn look_soon(&mut self, myself: &ActorRef<DispatcherMsg>) {
        if !self.waking {
            self.waking = true;
            drop(myself.send_after(SLEEP_STEP, || DispatcherMsg::Wake));
        }
    }

    pub(super) fn forget_sleep(&mut self, id: SubscriptionId) {
        if let Some(Sleep { until: Some(until), .. }) = self.sleepers.remove(&id) {
            self.alarms.remove(&(until, id));
        }
    }

    pub(super) async fn wake(&mut self, myself: &ActorRef<DispatcherMsg>) {
        self.start_more(myself).await;
        self.waking = false;
        if self.search.is_none() && self.opening < OPENING_MAX && std::mem::take(&mut self.missed) {
            self.look_again(myself, false);
        }
        if self.missed || !self.alarms.is_empty() || !self.parts.admission.is_empty_outside() {
            self.look_soon(myself);
        }
    }

    /// Starts those whose time has come and those that may come in to wait for a place, as many at once
    /// as are read in a moment.
    pub(super) async fn start_more(&mut self, myself: &ActorRef<DispatcherMsg>) {
        let now = Instant::now();
        while let Some((until, id)) = self.alarms.first().copied()
            && until <= now
            && self.opening < OPENING_MAX
        {
            self.start(myself, id, None).await;
        }
        while self.opening < OPENING_MAX
            && let Some((id, invitation)) = self.parts.admission.call_in()
        {
            // Meanwhile it may have been started for another reason, or deleted.
            if self.sleepers.get(&id).is_some_and(|sleep| !sleep.resting) {
                self.start(myself, id, Some(invitation)).await;
            }
        }
    }
}
