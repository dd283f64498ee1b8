//! A lane with what is around it: requests under way, its place, its timer.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use posthorn_domain::cluster::{Epoch, Slot};
use posthorn_domain::id::{AttemptNumber, Sequence};
use posthorn_domain::lane::{self, Event, Held, Lane, Policy, Ticket};
use posthorn_domain::retry::Jitter;
use posthorn_domain::subscription::Subscription;
use posthorn_domain::time::Timestamp;
use ractor::{ActorProcessingErr, ActorRef};
use rand::RngExt as _;
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;
use tracing::debug;

use super::super::Parts;
use super::super::admission::{Invitation, Place};
use super::super::attempt::{self, Attempted, Clearance, Leave};
use super::super::limits::ShownLimit;
use super::super::outcome_writer::{Ended, Item};
use super::gate::ShellGate;
use super::messages::{LaneMsg, Opened};
use super::{read, record};

/// Of a slot that is not held: nothing can be recorded under it.
const NO_EPOCH: Epoch = Epoch(-1);

pub(super) struct Shell {
    pub(super) subscription: Arc<Subscription>,
    pub(super) lane: Lane,
    pub(super) gate: ShellGate,
    pub(super) shown: ShownLimit,
    flights: HashMap<Sequence, Flight>,
    pub(super) timer: Option<(Instant, AbortOnDropHandle<()>)>,
    pub(super) idle_since: Option<Instant>,
    /// It has sent something, so that more may come soon. One that was only read to find that it has to
    /// wait leaves at once: a start with very many of them holds few in memory.
    pub(super) has_sent: bool,
    /// The delivery whose outcome pauses or disables the subscription, until that is recorded.
    closed_by: Option<Sequence>,
    /// An outcome of its own pauses or disables the subscription, and it was not read again since: whatever copy is
    /// at hand does not say that it is open.
    has_closed_itself: bool,
    refreshing: Option<AbortOnDropHandle<()>>,
    /// The number of the refresh that counts; what came of older ones does not.
    refreshes: u64,
    /// What was stored, to be taken in once the subscription was read again.
    pub(super) news: Option<Sequence>,
    /// Whether requests that are about to leave may still do so.
    clearance: watch::Sender<Clearance>,
}

/// A request under way, or its outcome.
struct Flight {
    place: Place,
    reply: Option<Box<Attempted>>,
    /// Of the endpoint that it went to; see [`Subscription::endpoint_version`].
    endpoint_version: i64,
    /// Under which the slot was held.
    epoch: Epoch,
    began: Timestamp,
    /// Breaks the request off when the actor dies, so that a new one does not double it.
    _task: AbortOnDropHandle<()>,
}

impl Shell {
    /// Of a lane that was just read.
    pub(super) fn new(
        parts: &Arc<Parts>,
        myself: &ActorRef<LaneMsg>,
        Opened { subscription, outset, tenant }: Opened,
        invitation: Option<Invitation>,
    ) -> Self {
        let lane = Lane::new(&outset, Instant::now());
        let clearance = Clearance { version: subscription.version, leave: Leave::Given };
        let rate = subscription.config.rate_limit;
        Self {
            shown: ShownLimit::new(&parts.limits, subscription.id, lane.in_flight_limit()),
            lane,
            gate: ShellGate::new(Arc::clone(parts), myself.clone(), tenant, invitation, rate),
            subscription,
            flights: HashMap::new(),
            timer: None,
            idle_since: None,
            has_sent: false,
            closed_by: None,
            has_closed_itself: false,
            refreshing: None,
            refreshes: 0,
            news: None,
            clearance: watch::Sender::new(clearance),
        }
    }

    /// What a message means for the lane.
    pub(super) fn take_in(
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
            LaneMsg::Withdrawn(sequence) => {
                self.flights.remove(&sequence);
                Some(Event::Withdrawn { sequence })
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
                self.has_closed_itself = false;
                self.gate.in_doubt = false;
                // Though nothing may be new: a lane that its own outcome closed waits to hear that it is open.
                let changed = self.changed(parts, after);
                let Some(last) = self.news.take() else { return Some(changed) };
                self.lane.handle(changed, now);
                Some(Event::Stored { last })
            }
            LaneMsg::Skipped(sequence) => Some(Event::Skipped { sequence }),
            LaneMsg::RetryNow(sequence) => Some(Event::RetryNow { sequence }),
            LaneMsg::Changed(after) => Some(self.changed(parts, after)),
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

    /// Tells requests that have not left yet whether they may.
    pub(super) fn tell_clearance(&self) {
        let leave = match (self.lane.may_send(), self.gate.in_doubt) {
            (false, _) => Leave::Refused,
            (true, true) => Leave::InDoubt,
            (true, false) => Leave::Given,
        };
        let now = Clearance { version: self.subscription.version, leave };
        self.clearance.send_if_modified(|told| std::mem::replace(told, now) != now);
    }

    /// Whether nothing is sent since a secret cannot be read.
    pub(super) fn is_unreadable(&self) -> bool {
        !self.subscription.unreadable.is_empty()
    }

    /// Reads the subscription again; while an outcome that closes the lane is being recorded, after that.
    fn refresh(&mut self, parts: &Arc<Parts>, myself: &ActorRef<LaneMsg>) {
        if self.closed_by.is_some() {
            return;
        }
        self.refreshes += 1;
        self.gate.in_doubt = true;
        let task = read::refresh(Arc::clone(parts), self.subscription.id, self.refreshes, myself.clone());
        self.refreshing = Some(AbortOnDropHandle::new(tokio::spawn(task)));
    }

    fn held(&self, sequence: Sequence, now: Instant) -> Option<Held> {
        Some(match self.lane.held(sequence, now)? {
            Held::Gate(hold) => Held::Gate(self.gate.explain(hold)),
            held @ (Held::InFlight | Held::Circuit(_) | Held::Limit) => held,
        })
    }

    /// What a change means. Each copy tells of all changes before it, so an older one than that at hand means nothing.
    pub(super) fn changed(&mut self, parts: &Parts, after: Arc<Subscription>) -> Event {
        let (mut fresh_start, mut retries_forgiven) = (false, false);
        if after.version > self.subscription.version {
            fresh_start = after.endpoint_version > self.subscription.endpoint_version;
            retries_forgiven = after.retries_version > self.subscription.retries_version;
            self.gate.set_rate(after.config.rate_limit);
            self.subscription = after;
        }
        Event::Changed(lane::Change {
            policy: Policy::of(&self.subscription.config, &parts.settings.defaults),
            active: self.subscription.sends() && !self.has_closed_itself,
            fresh_start,
            retries_forgiven,
        })
    }

    pub(super) fn start(
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
        let clearance = self.clearance.subscribe();
        let task = tokio::spawn(async move {
            let message = match attempt::make(&parts_of_task, &subscription, ticket, number, clearance).await
            {
                Some(reply) => LaneMsg::Attempted(ticket.sequence, Box::new(reply)),
                None => LaneMsg::Withdrawn(ticket.sequence),
            };
            // An actor that died breaks its requests off.
            let _ = lane.cast(message);
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

    pub(super) fn record(
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
            self.subscription.version,
            (flight.endpoint_version, flight.epoch),
            record,
            *reply,
            flight.began,
        );
        if outcome.standing.is_some() {
            self.closed_by = Some(sequence);
            self.has_closed_itself = true;
            self.refreshes += 1;
        }
        let ended = Ended { outcome, ticket: record.ticket, lane: myself.clone(), place: flight.place };
        if parts.outcomes.push(Item::Ended(Box::new(ended))) {
            Ok(())
        } else {
            Err("no room for an outcome".into())
        }
    }

    pub(super) fn set_timer(&mut self, myself: &ActorRef<LaneMsg>, at: Option<Instant>) {
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
