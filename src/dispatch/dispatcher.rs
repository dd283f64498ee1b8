//! Knows which subscriptions are busy and passes on what concerns them.
//!
//! A subscription has an actor while it has work that can be done soon. One that waits for long is
//! put to sleep: all that is kept of it is when to wake it. What happens to one that has neither
//! actor nor sleep needs an actor only where something is to be sent; the actor reads the rest.

mod messages;
mod search;
mod sleep;
mod slots;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use posthorn_domain::cluster::Slot;
use posthorn_domain::id::SubscriptionId;
use posthorn_domain::places::Claim;
use ractor::{Actor, ActorCell, ActorId, ActorProcessingErr, ActorRef, SupervisionEvent};
use tokio_util::task::AbortOnDropHandle;
use tracing::error;

pub(super) use self::messages::{DispatcherLink, DispatcherMsg, Rest};

use self::sleep::Sleep;
use super::Parts;
use super::admission::Invitation;
use super::backoff::doubled;
use super::subscription::{Arguments, LaneMsg, SubscriptionActor};

/// Lanes found by one step of the search at the start.
const SEARCH_STEP: usize = 256;
/// Lanes that may be about to read their subscription when a further one is called in or woken: what
/// waits to be read costs memory, and is read no sooner.
const OPENING_MAX: usize = 256;
/// Before a subscription whose actor died gets a new one; doubles with each time.
const RESTART_PAUSE: Duration = Duration::from_millis(200);
const RESTART_PAUSE_MAX: Duration = Duration::from_mins(1);
/// An actor that lived so long did well: the next restart is quick again.
const RESTART_FORGIVEN: Duration = Duration::from_mins(5);

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

struct Failures {
    count: u32,
    last: Instant,
}

struct Search {
    /// What one that was given up has found may still be on its way.
    number: u64,
    /// For slots that were just acquired, so that its end is news.
    news: bool,
    began: Instant,
    /// Something may have been missed since it began: another one is due after it.
    again: bool,
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
            DispatcherMsg::Changed(after) => {
                if state.concerns(after.id) {
                    state.send(&myself, after.id, LaneMsg::Changed(after)).await;
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
            DispatcherMsg::LookAgain => match &mut state.search {
                // A search that starts over at each call never ends.
                Some(search) => search.again = true,
                None => state.look_again(&myself, false),
            },
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
}
