//! Records how attempts ended, a batch a commit.
//!
//! What waits goes into one transaction; after its commit each lane hears of its own and goes on.
//! An outcome is never given up: while the store is away the writer keeps its batch and tries
//! again, and nothing new starts, since the places in flight come back only with the commit.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use posthorn_domain::cluster::Slot;
use posthorn_domain::id::SubscriptionId;
use posthorn_domain::lane::Ticket;
use ractor::ActorRef;
use tokio::sync::{Mutex, mpsc};
use tracing::{debug, error, warn};

use super::Parts;
use super::admission::Place;
use super::backoff::Backoff;
use super::dispatcher::DispatcherMsg;
use super::subscription::LaneMsg;
use crate::store::Error;
use crate::store::outcomes::{Outcome, OutcomeWriter, Started};

/// Outcomes of one transaction.
const BATCH: usize = 256;
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// Something to record.
pub(super) enum Item {
    /// A request has been in flight for a while.
    Started(Started),
    /// A request ended.
    Ended(Box<Ended>),
}

/// An outcome, with whoever waits for its commit.
pub(super) struct Ended {
    pub(super) outcome: Outcome,
    pub(super) ticket: Ticket,
    pub(super) lane: ActorRef<LaneMsg>,
    /// Given back with the commit.
    pub(super) place: Place,
}

/// The queue before the writer; it outlives a writer that dies.
pub(super) struct OutcomeQueue {
    items: mpsc::Sender<Item>,
    waiting: Arc<Mutex<mpsc::Receiver<Item>>>,
}

impl OutcomeQueue {
    /// For at most `in_flight_max` requests, each with one mark and one outcome.
    pub(super) fn new(in_flight_max: u32) -> Self {
        let size = usize::try_from(in_flight_max).unwrap_or(usize::MAX / 4).saturating_mul(2).max(1);
        let (items, waiting) = mpsc::channel(size);
        Self { items, waiting: Arc::new(Mutex::new(waiting)) }
    }

    /// Hands in what is to be recorded; false where there is no room, which the places in flight
    /// rule out.
    pub(super) fn push(&self, item: Item) -> bool {
        self.items.try_send(item).is_ok()
    }
}

/// The writer's loop.
pub(super) async fn run(parts: Arc<Parts>) {
    let mut waiting = Arc::clone(&parts.outcomes.waiting).lock_owned().await;
    let mut writer = OutcomeWriter::new(&parts.store);
    let mut items = Vec::with_capacity(BATCH);
    while waiting.recv_many(&mut items, BATCH).await > 0 {
        let (mut started, mut outcomes, mut waiters) = (Vec::new(), Vec::new(), Vec::new());
        for item in items.drain(..) {
            match item {
                Item::Started(mark) => started.push(mark),
                Item::Ended(ended) => {
                    let Ended { outcome, ticket, lane, place } = *ended;
                    let finished = outcome.status.is_finished();
                    waiters.push((lane, ticket, place, finished, (outcome.slot(), outcome.epoch)));
                    outcomes.push(outcome);
                }
            }
        }
        // What ended in the same batch need not be marked first.
        let ended: BTreeSet<_> = outcomes.iter().map(|outcome| outcome.attempt.delivery_id).collect();
        started.retain(|mark| !ended.contains(&mark.delivery_id));
        let changing = changing(&outcomes);
        let doubts = parts.caches.doubt(&changing).await;
        let lost = record(&parts, &mut writer, &started, &outcomes).await;
        parts.caches.trust(doubts).await;
        for (lane, ticket, place, finished, (slot, epoch)) in waiters {
            drop(place);
            if lost.contains(&slot) {
                // Nothing was written, and the lane goes on elsewhere.
                let lost = parts.leases.remove(&[(slot, epoch)]);
                if !lost.is_empty() {
                    warn!(slot = slot.0, "another node holds a slot: what came back for it is not recorded");
                    parts.dispatcher.tell(DispatcherMsg::Lost(lost));
                }
                continue;
            }
            // A lane that died meanwhile reads what was recorded.
            let _ = lane.cast(LaneMsg::Recorded(ticket.sequence));
            if finished {
                parts.caches.forget_payload(ticket.event_id).await;
            }
        }
    }
}

/// The subscriptions that a batch pauses or disables: few, if any.
fn changing(outcomes: &[Outcome]) -> Vec<SubscriptionId> {
    let changing = outcomes.iter().filter(|outcome| outcome.standing.is_some());
    changing.map(|outcome| outcome.attempt.subscription_id).collect()
}

/// Writes until it is written; the slots that another node holds by now.
async fn record(
    parts: &Parts,
    writer: &mut OutcomeWriter,
    started: &[Started],
    outcomes: &[Outcome],
) -> BTreeSet<Slot> {
    let mut backoff = Backoff::new(FIRST_PAUSE, LONGEST_PAUSE);
    loop {
        match writer.record(started, outcomes, parts.clock.now()).await {
            Ok(lost) => return lost,
            Err(Error::Refused(reason)) => {
                warn!(reason, outcomes = outcomes.len(), "the database refused a batch of outcomes");
                return one_by_one(parts, writer, outcomes).await;
            }
            Err(error) => debug!(%error, outcomes = outcomes.len(), "outcomes could not be recorded yet"),
        }
        backoff.pause().await;
    }
}

/// Writes each outcome alone, and where even that is refused, without what the endpoint said.
async fn one_by_one(parts: &Parts, writer: &mut OutcomeWriter, outcomes: &[Outcome]) -> BTreeSet<Slot> {
    let mut lost = BTreeSet::new();
    for outcome in outcomes {
        let mut outcome = outcome.clone();
        let mut backoff = Backoff::new(FIRST_PAUSE, LONGEST_PAUSE);
        let mut bare = false;
        loop {
            match writer.record(&[], std::slice::from_ref(&outcome), parts.clock.now()).await {
                Ok(slots) => {
                    lost.extend(slots);
                    break;
                }
                Err(Error::Refused(reason)) if bare => {
                    error!(reason, delivery_id = %outcome.attempt.delivery_id, "an outcome cannot be recorded");
                    break;
                }
                Err(Error::Refused(_)) => {
                    bare = true;
                    outcome.attempt.response_body = None;
                    outcome.attempt.error_message = Some("the answer could not be stored".to_owned());
                    continue;
                }
                Err(error) => debug!(%error, "an outcome could not be recorded yet"),
            }
            backoff.pause().await;
        }
    }
    lost
}
