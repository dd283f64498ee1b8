//! The actor of one busy subscription: a shell around its [`Lane`].
//!
//! It turns messages into the lane's events and the lane's actions into tasks; it decides nothing.
//! Whatever it knows comes from the store, so that after a panic a new one starts from there. When
//! the lane has been idle for a while it offers to leave; the dispatcher stops it unless more was
//! sent meanwhile.

mod gate;
mod read;
mod record;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use posthorn_domain::cluster::{Epoch, Slot};
use posthorn_domain::id::{AttemptNumber, Sequence, SubscriptionId};
use posthorn_domain::lane::{self, Action, Event, Held, Lane, Outset, Policy, Queued, Ticket};
use posthorn_domain::retry::Jitter;
use posthorn_domain::subscription::{Subscription, SubscriptionStatus};
use ractor::{Actor, ActorProcessingErr, ActorRef};
use rand::RngExt as _;
use tokio::sync::oneshot;
use tokio_util::task::AbortOnDropHandle;
use tracing::debug;

use self::gate::ShellGate;
use super::admission::{Invitation, Place};
use super::attempt::Attempted;
use super::dispatcher::{DispatcherMsg, Rest};
use super::limits::ShownLimit;
use super::outcome_writer::{Ended, Item};
use super::tenants::TenantState;
use super::{Parts, attempt};
use crate::store::lanes::Waiting;

/// How long an actor stays when it has nothing to do, and how far its next wake-up must lie for
/// that to be worth a read of the store.
const LINGER: Duration = Duration::from_secs(2);

/// Of a slot that is not held: nothing can be recorded under it.
const NO_EPOCH: Epoch = Epoch(-1);

/// With so many lanes in memory none lingers: each has work too seldom for that to spare reads.
const LINGERING_UP_TO: usize = 4096;

/// What a subscription's actor is told.
pub(super) enum LaneMsg {
    /// The subscription as stored; none where it is gone.
    Opened(Option<Box<Opened>>),
    /// A delivery was accepted.
    Accepted(Queued),
    /// The page asked for.
    Loaded(Vec<Waiting>),
    /// A request ended.
    Attempted(Sequence, Box<Attempted>),
    /// An outcome is committed.
    Recorded(Sequence),
    /// Somebody ended a delivery.
    Skipped(Sequence),
    /// Somebody wants a delivery tried now.
    RetryNow(Sequence),
    /// The subscription was changed.
    Changed(Box<Changed>),
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
pub(super) struct Opened {
    subscription: Arc<Subscription>,
    outset: Outset,
    tenant: Arc<TenantState>,
}

/// A committed change of a subscription.
#[derive(Clone, Debug)]
pub(super) struct Changed {
    pub(super) after: Arc<Subscription>,
    /// See [`Subscription::starts_fresh`].
    pub(super) fresh_start: bool,
    /// See [`Subscription::forgives_retries`].
    pub(super) retries_forgiven: bool,
}

pub(super) struct SubscriptionActor;

/// What an actor begins with.
pub(super) struct Arguments {
    pub(super) id: SubscriptionId,
    pub(super) parts: Arc<Parts>,
    /// It was called in to wait for a place.
    pub(super) invitation: Option<Invitation>,
}

pub(super) struct State {
    id: SubscriptionId,
    parts: Arc<Parts>,
    /// Messages from the dispatcher so far; with its own count it knows whether one is under way.
    seen: u64,
    shell: Option<Shell>,
    /// A change that came before the subscription was read, which may have been read before it.
    early: Option<Changed>,
    /// For the gate, once there is one.
    invitation: Option<Invitation>,
    closed: bool,
    /// Reading what the lane needs; ends with the actor.
    reading: Option<AbortOnDropHandle<()>>,
}

struct Shell {
    subscription: Arc<Subscription>,
    lane: Lane,
    gate: ShellGate,
    shown: ShownLimit,
    flights: HashMap<Sequence, Flight>,
    timer: Option<(Instant, AbortOnDropHandle<()>)>,
    idle_since: Option<Instant>,
    /// It has sent something, so that more may come soon. One that was only read to find that it has to
    /// wait leaves at once: a start with very many of them holds few in memory.
    has_sent: bool,
    /// The delivery whose outcome pauses or disables the subscription, until that is recorded.
    closed_by: Option<Sequence>,
    refreshing: Option<AbortOnDropHandle<()>>,
    /// The number of the refresh that counts; what came of older ones does not.
    refreshes: u64,
    /// What was stored, to be taken in once the subscription was read again.
    news: Option<Sequence>,
}

/// A request under way, or its outcome.
struct Flight {
    place: Place,
    reply: Option<Box<Attempted>>,
    /// Of the endpoint that it went to; see [`Subscription::endpoint_version`].
    endpoint_version: i64,
    /// Under which the slot was held.
    epoch: Epoch,
    began: posthorn_domain::time::Timestamp,
    /// Breaks the request off when the actor dies, so that a new one does not double it.
    _task: AbortOnDropHandle<()>,
}

impl Actor for SubscriptionActor {
    type Msg = LaneMsg;
    type State = State;
    type Arguments = Arguments;

    async fn pre_start(
        &self,
        myself: ActorRef<LaneMsg>,
        Arguments { id, parts, invitation }: Arguments,
    ) -> Result<State, ActorProcessingErr> {
        let reading = AbortOnDropHandle::new(tokio::spawn(read::open(Arc::clone(&parts), id, myself)));
        Ok(State {
            id,
            parts,
            seen: 0,
            shell: None,
            early: None,
            invitation,
            closed: false,
            reading: Some(reading),
        })
    }

    async fn handle(
        &self,
        myself: ActorRef<LaneMsg>,
        message: LaneMsg,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        state.count(&message);
        match (message, &mut state.shell) {
            (LaneMsg::Opened(found), _) => state.opened(&myself, found),
            (LaneMsg::Close, _) => state.close(),
            (message, Some(shell)) => {
                let now = Instant::now();
                if let Some(event) = shell.take_in(&state.parts, message, now, &myself) {
                    shell.lane.handle(event, now);
                }
            }
            (LaneMsg::Changed(change), None) => state.keep_early(*change),
            // Before it is open, whatever else happens is read with the lane's first page.
            (_, None) => {}
        }
        state.drive(&myself)
    }
}

impl State {
    /// Counts what the dispatcher sent.
    fn count(&mut self, message: &LaneMsg) {
        match message {
            LaneMsg::Accepted(_)
            | LaneMsg::Skipped(_)
            | LaneMsg::RetryNow(_)
            | LaneMsg::Changed(_)
            | LaneMsg::Close
            | LaneMsg::Stored(_)
            | LaneMsg::Found(..)
            | LaneMsg::Refresh
            | LaneMsg::Explain(..) => self.seen += 1,
            LaneMsg::Opened(_)
            | LaneMsg::Loaded(_)
            | LaneMsg::Attempted(..)
            | LaneMsg::Recorded(_)
            | LaneMsg::Refreshed(..)
            | LaneMsg::Place(_)
            | LaneMsg::Wake => {}
            #[cfg(test)]
            LaneMsg::Panic => panic!("a test wants it so"),
        }
    }

    fn opened(&mut self, myself: &ActorRef<LaneMsg>, found: Option<Box<Opened>>) {
        self.reading = None;
        self.parts.dispatcher.tell(DispatcherMsg::Opened(self.id));
        let found = found.map(|found| *found).filter(|_| !self.closed);
        let Some(Opened { subscription, outset, tenant }) = found else {
            // There is nothing to do, ever.
            self.offer_to_leave(myself, Rest::Asleep { until: None, deaf: false, last: Sequence::ZERO });
            return;
        };
        let lane = Lane::new(&outset, Instant::now());
        self.shell = Some(Shell {
            shown: ShownLimit::new(&self.parts.limits, self.id, lane.in_flight_limit()),
            lane,
            gate: ShellGate::new(
                Arc::clone(&self.parts),
                myself.clone(),
                tenant,
                self.invitation.take(),
                subscription.config.rate_limit,
            ),
            subscription,
            flights: HashMap::new(),
            timer: None,
            idle_since: None,
            has_sent: false,
            closed_by: None,
            refreshing: None,
            refreshes: 0,
            news: None,
        });
        if let (Some(shell), Some(change)) = (&mut self.shell, self.early.take()) {
            let event = shell.changed(&self.parts, change);
            shell.lane.handle(event, Instant::now());
        }
    }

    fn keep_early(&mut self, mut change: Changed) {
        if let Some(before) = self.early.take() {
            change.fresh_start |= before.fresh_start;
            change.retries_forgiven |= before.retries_forgiven;
            if before.after.version > change.after.version {
                change.after = before.after;
            }
        }
        self.early = Some(change);
    }

    fn close(&mut self) {
        self.closed = true;
        if let Some(shell) = &mut self.shell {
            shell.lane.handle(Event::Closed, Instant::now());
        }
    }

    /// Carries out what the lane wants, and sees to it that it is asked again in time.
    fn drive(&mut self, myself: &ActorRef<LaneMsg>) -> Result<(), ActorProcessingErr> {
        let Some(shell) = &mut self.shell else { return Ok(()) };
        let now = Instant::now();
        while let Some(action) = shell.lane.poll(now, &mut shell.gate) {
            match action {
                Action::Start { ticket, attempt } => shell.start(&self.parts, myself, ticket, attempt)?,
                Action::Record(record) => shell.record(&self.parts, myself, &record)?,
                Action::Load(load) => {
                    let task = read::page(Arc::clone(&self.parts), self.id, load, myself.clone());
                    self.reading = Some(AbortOnDropHandle::new(tokio::spawn(task)));
                }
            }
        }
        shell.gate.rest();
        shell.shown.show(shell.lane.in_flight_limit());
        let wake_up = shell.lane.next_wakeup();
        let leave = shell.lane.is_idle()
            && shell.news.is_none()
            && wake_up.is_none_or(|at| at > now + LINGER)
            && shell.gate.is_replenished(now);
        if !leave {
            shell.idle_since = None;
            // An idle lane whose pace has to recover looks again when it may have.
            let again = shell.lane.is_idle().then(|| now + LINGER);
            shell.set_timer(myself, wake_up.or(again));
            return Ok(());
        }
        let since = *shell.idle_since.get_or_insert(now);
        let outside = shell.gate.outside();
        let lingers = shell.has_sent
            && !self.closed
            && outside.is_none()
            && self.parts.limits.lanes() < LINGERING_UP_TO;
        if lingers && now < since + LINGER {
            shell.set_timer(myself, Some(since + LINGER));
            return Ok(());
        }
        let rest = match outside {
            Some((tenant, claim)) => Rest::Outside(tenant, claim),
            None => Rest::Asleep {
                until: wake_up,
                deaf: shell.lane.is_deaf() && !self.closed,
                last: shell.lane.last(),
            },
        };
        shell.idle_since = None;
        shell.timer = None;
        self.offer_to_leave(myself, rest);
        Ok(())
    }

    fn offer_to_leave(&self, myself: &ActorRef<LaneMsg>, rest: Rest) {
        let (id, actor, seen) = (self.id, myself.get_id(), self.seen);
        self.parts.dispatcher.tell(DispatcherMsg::Idle { id, actor, seen, rest });
    }
}

impl Shell {
    /// What a message means for the lane.
    fn take_in(
        &mut self,
        parts: &Arc<Parts>,
        message: LaneMsg,
        now: Instant,
        myself: &ActorRef<LaneMsg>,
    ) -> Option<Event> {
        match message {
            LaneMsg::Accepted(queued) => Some(Event::Accepted(queued)),
            LaneMsg::Loaded(page) => {
                Some(Event::Loaded(page.into_iter().map(|row| read::queued(parts, row, now)).collect()))
            }
            LaneMsg::Attempted(sequence, reply) => {
                let (verdict, took) = (reply.verdict, reply.duration);
                if let Some(flight) = self.flights.get_mut(&sequence) {
                    flight.reply = Some(reply);
                }
                let jitter = Jitter::from_thousandths(rand::rng().random_range(-1000..=1000));
                Some(Event::Finished { sequence, verdict, took, jitter })
            }
            LaneMsg::Recorded(sequence) => {
                if self.closed_by == Some(sequence) {
                    self.closed_by = None;
                    self.refresh(parts, myself);
                }
                Some(Event::Recorded { sequence })
            }
            LaneMsg::Stored(last) => Some(Event::Stored { last }),
            LaneMsg::Found(last, version) => {
                if version > self.subscription.version {
                    // Whether what was stored may be sent depends on what was changed.
                    self.news = self.news.max(Some(last));
                    self.refresh(parts, myself);
                    return None;
                }
                Some(Event::Stored { last })
            }
            LaneMsg::Refresh => {
                self.refresh(parts, myself);
                None
            }
            LaneMsg::Refreshed(number, after) => {
                if number != self.refreshes {
                    // It may have been read before this lane's own outcome closed it, and would open it again.
                    return None;
                }
                let before = &self.subscription;
                let newer = after.version > before.version;
                let change = Changed {
                    fresh_start: after.endpoint_version > before.endpoint_version,
                    retries_forgiven: newer && after.forgives_retries(before),
                    after,
                };
                // Though nothing may be new: a lane that its own outcome closed waits to hear that it is open.
                let changed = self.changed(parts, change);
                let Some(last) = self.news.take() else { return Some(changed) };
                self.lane.handle(changed, now);
                Some(Event::Stored { last })
            }
            LaneMsg::Skipped(sequence) => Some(Event::Skipped { sequence }),
            LaneMsg::RetryNow(sequence) => Some(Event::RetryNow { sequence }),
            LaneMsg::Changed(change) => Some(self.changed(parts, *change)),
            LaneMsg::Place(place) => {
                self.gate.keep(place);
                Some(Event::Tick)
            }
            LaneMsg::Wake => {
                self.timer = None;
                Some(Event::Tick)
            }
            LaneMsg::Explain(sequences, reply) => {
                let held = sequences.into_iter().map(|sequence| self.held(sequence, now)).collect();
                // Whoever asked may have left.
                let _ = reply.send(held);
                None
            }
            LaneMsg::Opened(_) | LaneMsg::Close => None,
            #[cfg(test)]
            LaneMsg::Panic => None,
        }
    }

    /// Reads the subscription again; while an outcome that closes the lane is being recorded, after that.
    fn refresh(&mut self, parts: &Arc<Parts>, myself: &ActorRef<LaneMsg>) {
        if self.closed_by.is_some() {
            return;
        }
        self.refreshes += 1;
        let task = read::refresh(Arc::clone(parts), self.subscription.id, self.refreshes, myself.clone());
        self.refreshing = Some(AbortOnDropHandle::new(tokio::spawn(task)));
    }

    fn held(&self, sequence: Sequence, now: Instant) -> Option<Held> {
        Some(match self.lane.held(sequence, now)? {
            Held::Gate(hold) => Held::Gate(self.gate.explain(hold)),
            held @ (Held::InFlight | Held::Circuit(_) | Held::Limit) => held,
        })
    }

    /// What a change means; of an older copy than the one at hand, only what it started.
    fn changed(&mut self, parts: &Parts, change: Changed) -> Event {
        if change.after.version > self.subscription.version {
            self.gate.set_rate(change.after.config.rate_limit);
            self.subscription = change.after;
        }
        Event::Changed(lane::Change {
            policy: Policy::of(&self.subscription.config, &parts.settings.defaults),
            active: self.subscription.status == SubscriptionStatus::Active,
            fresh_start: change.fresh_start,
            retries_forgiven: change.retries_forgiven,
        })
    }

    fn start(
        &mut self,
        parts: &Arc<Parts>,
        myself: &ActorRef<LaneMsg>,
        ticket: Ticket,
        number: AttemptNumber,
    ) -> Result<(), ActorProcessingErr> {
        self.has_sent = true;
        let place = self.gate.spend().ok_or("a request started without a place in flight")?;
        let (parts_of_task, subscription, lane) =
            (Arc::clone(parts), Arc::clone(&self.subscription), myself.clone());
        let task = tokio::spawn(async move {
            let reply = attempt::make(&parts_of_task, &subscription, ticket, number).await;
            // An actor that died breaks its requests off.
            let _ = lane.cast(LaneMsg::Attempted(ticket.sequence, Box::new(reply)));
        });
        let flight = Flight {
            place,
            reply: None,
            endpoint_version: self.subscription.endpoint_version,
            epoch: parts.leases.epoch(Slot::of(self.subscription.id)).unwrap_or(NO_EPOCH),
            began: parts.clock.now(),
            _task: AbortOnDropHandle::new(task),
        };
        self.flights.insert(ticket.sequence, flight);
        Ok(())
    }

    fn record(
        &mut self,
        parts: &Arc<Parts>,
        myself: &ActorRef<LaneMsg>,
        record: &lane::Record,
    ) -> Result<(), ActorProcessingErr> {
        let sequence = record.ticket.sequence;
        let flight = self.flights.remove(&sequence).ok_or("an outcome of a request that was not made")?;
        let reply = flight.reply.ok_or("an outcome of a request that has not ended")?;
        debug!(
            delivery_id = %record.ticket.id,
            attempt = record.attempt.get(),
            outcome = record.outcome.as_str(),
            status_code = reply.status_code,
            error = reply.error.as_deref(),
            "attempt ended",
        );
        let outcome = record::outcome(
            parts.clock,
            self.subscription.id,
            (flight.endpoint_version, flight.epoch),
            record,
            *reply,
            flight.began,
        );
        if outcome.standing.is_some() {
            self.closed_by = Some(sequence);
            self.refreshes += 1;
        }
        let ended = Ended { outcome, ticket: record.ticket, lane: myself.clone(), place: flight.place };
        if parts.outcomes.push(Item::Ended(Box::new(ended))) {
            Ok(())
        } else {
            Err("no room for an outcome".into())
        }
    }

    fn set_timer(&mut self, myself: &ActorRef<LaneMsg>, at: Option<Instant>) {
        let Some(at) = at else {
            self.timer = None;
            return;
        };
        if self.timer.as_ref().is_some_and(|(set, _)| *set == at) {
            return;
        }
        let lane = myself.clone();
        let task = tokio::spawn(async move {
            tokio::time::sleep_until(at.into()).await;
            let _ = lane.cast(LaneMsg::Wake);
        });
        self.timer = Some((at, AbortOnDropHandle::new(task)));
    }
}
