//! Knows which subscriptions are busy and passes on what concerns them.
//!
//! A subscription has an actor while it has work that can be done soon. One that waits for long is
//! put to sleep: all that is kept of it is when to wake it. What happens to one that has neither
//! actor nor sleep needs an actor only where something is to be sent; the actor reads the rest.

mod search;
mod slots;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use posthorn_domain::cluster::Slot;
use posthorn_domain::id::{Sequence, SubscriptionId};
use posthorn_domain::lane::{Held, Queued};
use posthorn_domain::places::Claim;
use posthorn_domain::tenant::Tenant;
use ractor::{Actor, ActorCell, ActorId, ActorProcessingErr, ActorRef, SupervisionEvent};
use tokio::sync::oneshot;
use tokio_util::task::AbortOnDropHandle;
use tracing::error;

use super::Parts;
use super::admission::Invitation;
use super::backoff::doubled;
use super::subscription::{Arguments, Changed, LaneMsg, SubscriptionActor};
use crate::store::lanes::WithWork;

/// Lanes found by one step of the search at the start.
const SEARCH_STEP: usize = 256;
/// Lanes that may be about to read their subscription when a further one is called in or woken: what
/// waits to be read costs memory, and is read no sooner.
const OPENING_MAX: usize = 256;
/// How often sleepers are looked at, while there are any.
const SLEEP_STEP: Duration = Duration::from_millis(100);
/// Before a subscription whose actor died gets a new one; doubles with each time.
const RESTART_PAUSE: Duration = Duration::from_millis(200);
const RESTART_PAUSE_MAX: Duration = Duration::from_mins(1);
/// An actor that lived so long did well: the next restart is quick again.
const RESTART_FORGIVEN: Duration = Duration::from_mins(5);

/// What the dispatcher is told.
pub(super) enum DispatcherMsg {
    /// Deliveries were accepted and committed.
    Accepted(Vec<(SubscriptionId, Tenant, Queued)>),
    /// A subscription was changed.
    Changed(SubscriptionId, Box<Changed>),
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
    /// These are to be handed over: nothing more starts, and [`Membership::drained`] is told once nothing of
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
pub(super) enum Rest {
    /// There is nothing to do before `until`, nor when something is accepted if it is `deaf`.
    Asleep { until: Option<Instant>, deaf: bool, last: Sequence },
    /// It waits for a place, outside of memory.
    Outside(Tenant, Claim),
}

/// Where the dispatcher is; it outlives one that dies.
#[derive(Default)]
pub(super) struct DispatcherLink(RwLock<Option<ActorRef<DispatcherMsg>>>);

impl DispatcherLink {
    fn set(&self, dispatcher: ActorRef<DispatcherMsg>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Some(dispatcher);
    }

    /// Tells the dispatcher. What one that died does not hear of, the next one finds in the store.
    pub(super) fn tell(&self, message: DispatcherMsg) {
        let link = self.0.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(dispatcher) = &*link {
            let _ = dispatcher.cast(message);
        }
    }
}

pub(super) struct Dispatcher;

pub(super) struct State {
    parts: Arc<Parts>,
    lanes: HashMap<SubscriptionId, Busy>,
    by_actor: HashMap<ActorId, SubscriptionId>,
    sleepers: HashMap<SubscriptionId, Sleep>,
    alarms: BTreeSet<(Instant, SubscriptionId)>,
    failures: HashMap<SubscriptionId, Failures>,
    /// Actors that are still reading their subscription.
    opening: usize,
    /// The search for lanes with work, and where it has got to; none while there is none.
    search: Option<Search>,
    /// Searches that were begun.
    searches: u64,
    /// Slots whose lanes run here.
    served: BTreeSet<Slot>,
    /// Slots whose lanes are finishing, with how many are left.
    leaving: BTreeMap<Slot, usize>,
    waking: bool,
    /// Lanes with work were passed over, so that another search is due.
    missed: bool,
}

struct Busy {
    actor: ActorRef<LaneMsg>,
    /// Messages sent to it, to compare with those it has seen.
    sent: u64,
    opened: bool,
    since: Instant,
}

struct Sleep {
    until: Option<Instant>,
    /// What is accepted does not wake it.
    deaf: bool,
    /// Its actor died: nothing wakes it before its time, and then it reads what it missed.
    resting: bool,
    /// The highest number of a delivery that its lane had heard of.
    last: Sequence,
}

struct Failures {
    count: u32,
    last: Instant,
}

struct Search {
    /// What one that was given up has found may still be on its way.
    number: u64,
    /// For slots that were just acquired, so that its end is news.
    news: bool,
    after: Option<SubscriptionId>,
    step: Option<AbortOnDropHandle<()>>,
}

impl Actor for Dispatcher {
    type Msg = DispatcherMsg;
    type State = State;
    type Arguments = Arc<Parts>;

    async fn pre_start(
        &self,
        myself: ActorRef<DispatcherMsg>,
        parts: Arc<Parts>,
    ) -> Result<State, ActorProcessingErr> {
        // From now on nothing accepted is missed: the search finds what was before.
        parts.dispatcher.set(myself.clone());
        parts.admission.clear_outside();
        let mut state = State {
            parts,
            lanes: HashMap::new(),
            by_actor: HashMap::new(),
            sleepers: HashMap::new(),
            alarms: BTreeSet::new(),
            failures: HashMap::new(),
            opening: 0,
            search: None,
            searches: 0,
            served: BTreeSet::new(),
            leaving: BTreeMap::new(),
            waking: false,
            missed: false,
        };
        // One that comes after one that died takes over what is held.
        let held: Vec<_> = state.parts.leases.held().into_iter().map(|(slot, _)| slot).collect();
        state.acquired(&myself, held);
        Ok(state)
    }

    async fn handle(
        &self,
        myself: ActorRef<DispatcherMsg>,
        message: DispatcherMsg,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            DispatcherMsg::Accepted(deliveries) => {
                for (id, tenant, queued) in deliveries {
                    if state.sleepers.get(&id).is_some_and(|sleep| sleep.deaf) {
                        continue;
                    }
                    if state.is_busy_opening(id) {
                        state.forget_sleep(id);
                        state.put_outside(&myself, id, tenant, Claim::First);
                    } else {
                        state.send(&myself, id, LaneMsg::Accepted(queued)).await;
                    }
                }
            }
            DispatcherMsg::Changed(id, change) => {
                if state.concerns(id) {
                    state.send(&myself, id, LaneMsg::Changed(change)).await;
                }
            }
            DispatcherMsg::Skipped(id, sequence) => state.send(&myself, id, LaneMsg::Skipped(sequence)).await,
            DispatcherMsg::RetryNow(id, sequence) => {
                state.send(&myself, id, LaneMsg::RetryNow(sequence)).await;
            }
            // Without an actor nothing is in flight or held, and the reply that is dropped says so.
            DispatcherMsg::Explain(id, sequences, reply) => {
                if state.lanes.contains_key(&id) {
                    state.send(&myself, id, LaneMsg::Explain(sequences, reply)).await;
                }
            }
            DispatcherMsg::Deleted(id) => {
                state.forget_sleep(id);
                if state.lanes.contains_key(&id) {
                    state.send(&myself, id, LaneMsg::Close).await;
                }
            }
            DispatcherMsg::Opened(id) => {
                if let Some(busy) = state.lanes.get_mut(&id) {
                    busy.opened = true;
                    state.opening = state.opening.saturating_sub(1);
                }
                state.start_more(&myself).await;
            }
            DispatcherMsg::Idle { id, actor, seen, rest } => state.idle(&myself, id, actor, seen, rest),
            DispatcherMsg::Found(search, found) => state.found(&myself, search, found).await,
            DispatcherMsg::Stored(lanes) => {
                for (id, last) in lanes {
                    if state.sleepers.get(&id).is_some_and(|sleep| sleep.deaf) {
                        continue;
                    }
                    if state.is_busy_opening(id) {
                        // Whose it is was not said; a search finds out.
                        state.missed = true;
                        state.look_soon(&myself);
                    } else {
                        state.send(&myself, id, LaneMsg::Stored(last)).await;
                    }
                }
            }
            DispatcherMsg::Refresh(id) => {
                if state.concerns(id) {
                    state.send(&myself, id, LaneMsg::Refresh).await;
                }
            }
            DispatcherMsg::LookAgain => state.look_again(&myself, false),
            DispatcherMsg::Acquired(slots) => state.acquired(&myself, slots),
            DispatcherMsg::HandOver(slots) => state.hand_over(&slots),
            DispatcherMsg::Lost(slots) => state.lose(&slots),
            DispatcherMsg::Wake => state.wake(&myself).await,
            #[cfg(test)]
            DispatcherMsg::Panic(id) => state.send(&myself, id, LaneMsg::Panic).await,
        }
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        myself: ActorRef<DispatcherMsg>,
        event: SupervisionEvent,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        match event {
            SupervisionEvent::ActorFailed(actor, reason) => state.failed(&myself, &actor, &reason),
            SupervisionEvent::ActorTerminated(actor, ..) => state.gone(actor.get_id()),
            SupervisionEvent::ActorStarted(_) | SupervisionEvent::ProcessGroupChanged(_) => {}
        }
        Ok(())
    }
}

impl State {
    /// Whether a subscription has, or had lately, something to do.
    fn concerns(&self, id: SubscriptionId) -> bool {
        self.lanes.contains_key(&id) || self.sleepers.contains_key(&id)
    }

    /// Whether a lane that is served here has no actor and should not get one now: so many are being read
    /// that it would only wait for its turn in memory.
    fn is_busy_opening(&self, id: SubscriptionId) -> bool {
        self.opening >= OPENING_MAX && !self.lanes.contains_key(&id) && self.served.contains(&Slot::of(id))
    }

    /// Passes a message on, to a new actor where there is none.
    async fn send(&mut self, myself: &ActorRef<DispatcherMsg>, id: SubscriptionId, message: LaneMsg) {
        if self.sleepers.get(&id).is_some_and(|sleep| sleep.resting) {
            return;
        }
        if !self.lanes.contains_key(&id) {
            // Whoever serves it finds it in the store.
            if !self.served.contains(&Slot::of(id)) {
                return;
            }
            self.start(myself, id, None).await;
        }
        if let Some(busy) = self.lanes.get_mut(&id)
            && busy.actor.cast(message).is_ok()
        {
            busy.sent += 1;
        }
    }

    async fn start(
        &mut self,
        myself: &ActorRef<DispatcherMsg>,
        id: SubscriptionId,
        invitation: Option<Invitation>,
    ) {
        self.forget_sleep(id);
        let arguments = Arguments { id, parts: Arc::clone(&self.parts), invitation };
        // Its start does not wait: it reads in a task of its own.
        match Actor::spawn_linked(None, SubscriptionActor, arguments, myself.get_cell()).await {
            Ok((actor, _)) => {
                self.by_actor.insert(actor.get_id(), id);
                self.lanes.insert(id, Busy { actor, sent: 0, opened: false, since: Instant::now() });
                self.opening += 1;
            }
            Err(error) => {
                error!(%error, subscription_id = %id, "an actor could not be started");
                self.rest(myself, id, Instant::now() + RESTART_PAUSE);
            }
        }
    }

    fn idle(
        &mut self,
        myself: &ActorRef<DispatcherMsg>,
        id: SubscriptionId,
        actor: ActorId,
        seen: u64,
        rest: Rest,
    ) {
        let Some(busy) = self.lanes.get(&id) else { return };
        // With a message under way it is not idle; it will say so again.
        if busy.actor.get_id() != actor || busy.sent != seen {
            return;
        }
        busy.actor.stop(None);
        if busy.since.elapsed() > RESTART_FORGIVEN {
            self.failures.remove(&id);
        }
        self.gone(actor);
        match rest {
            _ if !self.served.contains(&Slot::of(id)) => {}
            Rest::Asleep { until: None, deaf: false, .. } => {}
            Rest::Asleep { until, deaf, last } => {
                self.sleep(myself, id, Sleep { until, deaf, resting: false, last });
            }
            Rest::Outside(tenant, claim) => self.put_outside(myself, id, tenant, claim),
        }
    }

    /// Lets a lane wait for a place outside of memory; it reads what is accepted when it comes in.
    fn put_outside(
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

    /// Forgets an actor.
    fn gone(&mut self, actor: ActorId) {
        let Some(id) = self.by_actor.remove(&actor) else { return };
        if self.lanes.remove(&id).is_some_and(|busy| !busy.opened) {
            self.opening = self.opening.saturating_sub(1);
        }
        let slot = Slot::of(id);
        if let Some(left) = self.leaving.get_mut(&slot) {
            *left = left.saturating_sub(1);
            if *left == 0 {
                self.leaving.remove(&slot);
                self.parts.membership.drained(slot);
            }
        }
    }

    fn failed(&mut self, myself: &ActorRef<DispatcherMsg>, actor: &ActorCell, reason: &ActorProcessingErr) {
        let Some(id) = self.by_actor.get(&actor.get_id()).copied() else { return };
        self.gone(actor.get_id());
        let now = Instant::now();
        let failures = self.failures.entry(id).or_insert(Failures { count: 0, last: now });
        if now.saturating_duration_since(failures.last) > RESTART_FORGIVEN {
            failures.count = 0;
        }
        failures.count = failures.count.saturating_add(1);
        failures.last = now;
        let pause = doubled(RESTART_PAUSE, failures.count.saturating_sub(1), RESTART_PAUSE_MAX);
        error!(subscription_id = %id, %reason, pause_ms = pause.as_millis(), "a subscription's actor died");
        self.rest(myself, id, now + pause);
    }

    fn rest(&mut self, myself: &ActorRef<DispatcherMsg>, id: SubscriptionId, until: Instant) {
        if self.served.contains(&Slot::of(id)) {
            self.sleep(
                myself,
                id,
                Sleep { until: Some(until), deaf: true, resting: true, last: Sequence::ZERO },
            );
        }
    }

    fn sleep(&mut self, myself: &ActorRef<DispatcherMsg>, id: SubscriptionId, sleep: Sleep) {
        if let Some(until) = sleep.until {
            self.alarms.insert((until, id));
            self.look_soon(myself);
        }
        self.sleepers.insert(id, sleep);
    }

    fn look_soon(&mut self, myself: &ActorRef<DispatcherMsg>) {
        if !self.waking {
            self.waking = true;
            drop(myself.send_after(SLEEP_STEP, || DispatcherMsg::Wake));
        }
    }

    fn forget_sleep(&mut self, id: SubscriptionId) {
        if let Some(Sleep { until: Some(until), .. }) = self.sleepers.remove(&id) {
            self.alarms.remove(&(until, id));
        }
    }

    async fn wake(&mut self, myself: &ActorRef<DispatcherMsg>) {
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
    async fn start_more(&mut self, myself: &ActorRef<DispatcherMsg>) {
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
