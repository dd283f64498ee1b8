//! Accepts events, a batch a commit.
//!
//! Natural batching: whatever waits goes into one transaction, all waiters are answered after its
//! commit, and at once the next begins. A lone event is not delayed, and a thousand share one sync.
//!
//! The queue before the writer ([`ingest_queue`](super::ingest_queue)) is bounded, and shared by the tenants. Where
//! a commit's answer is lost, the writer looks the batch up by the ids it chose: what is there is accepted, and
//! what isn't is written again.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use posthorn_domain::cluster::Slot;
use posthorn_domain::id::DeliveryId;
use posthorn_domain::lane::{Queued, Ticket};
use posthorn_domain::payload::Payload;
use tokio::time::Instant;
use tracing::{debug, warn};

use super::Parts;
use super::backoff::Backoff;
use super::dispatcher::DispatcherMsg;
use super::ingest_error::{IngestError, RETRY_AFTER};
use super::ingest_queue::{Item, Submitted};
use crate::store::Error;
use crate::store::intake::{Answer, Intake, IntakeWriter, Known};
use crate::store::notices::Notice;

/// How long the store is tried before its waiters hear that it is not available.
const PATIENCE: Duration = Duration::from_secs(4);
const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_millis(500);

/// The writer's loop.
pub(super) async fn run(parts: Arc<Parts>) {
    let _writer = parts.ingest.writer().await;
    let mut writer = IntakeWriter::new(&parts.store, parts.settings.backlog_max);
    let mut in_doubt = false;
    loop {
        // Counted as waiting until all of it is answered.
        let (batch, _taken) = parts.ingest.next().await;
        match commit(&parts, &mut writer, batch).await {
            // What was given up may have been stored after all.
            Came::Stored if std::mem::take(&mut in_doubt) => {
                parts.dispatcher.tell(DispatcherMsg::LookAgain);
            }
            Came::Stored => {}
            came @ (Came::Unavailable | Came::Unknown) => {
                in_doubt |= came == Came::Unknown;
                // Those behind it would each wait as long again.
                parts.ingest.give_up(PATIENCE);
            }
        }
    }
}

/// What came of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Came {
    /// It was answered by the store.
    Stored,
    /// The store was not available.
    Unavailable,
    /// Nobody knows whether it was stored, or will be.
    Unknown,
}

/// Stores a batch and answers everyone who waits for it.
async fn commit(parts: &Parts, writer: &mut IntakeWriter, batch: Vec<Item>) -> Came {
    let (mut intakes, replies): (Vec<Intake>, Vec<_>) =
        batch.into_iter().map(|item| (item.intake, (item.tenant, item.reply))).unzip();
    let is_alone = |id| parts.leases.serves_alone(Slot::of(id), Instant::now().into_std());
    for intake in &mut intakes {
        intake.elsewhere = !is_alone(intake.subscription_id);
    }
    let answers = store(parts, writer, &intakes).await;
    let all = |is: fn(&IngestError) -> bool| answers.iter().all(|answer| answer.as_ref().is_err_and(is));
    let came = if all(|error| matches!(error, IngestError::OutcomeUnknown { .. })) {
        Came::Unknown
    } else if all(|error| matches!(error, IngestError::Busy { .. })) {
        Came::Unavailable
    } else {
        Came::Stored
    };
    let mut waiting = Vec::new();
    let mut stored = Vec::with_capacity(intakes.len());
    let mut moved = Vec::new();
    for ((intake, answer), (tenant, reply)) in intakes.into_iter().zip(answers).zip(replies) {
        let answer = match answer {
            Ok(Answer::BacklogFull) => {
                let _ = reply.send(Ok(Submitted::BacklogFull(Box::new(intake))));
                continue;
            }
            answer => answer,
        };
        if let Ok(Answer::Stored(sequence)) = answer {
            let id = intake.subscription_id;
            // Another node may have taken the slot while the event was being stored, and was not told with the commit.
            if !intake.elsewhere && !is_alone(id) {
                moved.push((id, sequence));
            }
            if !parts.leases.serves(Slot::of(id)) {
                let _ = reply.send(answer.map(Submitted::Answered));
                continue;
            }
            let Intake { content_type, payload: bytes, hops, forwarded, .. } = intake;
            let payload = Payload { content_type, bytes, hops, forwarded };
            parts.caches.keep_payload(intake.event_id, payload).await;
            let ticket =
                Ticket { id: intake.delivery_id, event_id: intake.event_id, replay_of: None, sequence };
            stored.push((
                id,
                tenant,
                Queued { ticket, key: intake.ordering_key, attempt_count: 0, retry_base: 0, due: None },
            ));
        }
        if let Ok(Answer::Replayed(Known { sequence, unfinished: true, .. })) = answer {
            // Its first acceptance may have gone unheard, of its client and of its lane.
            let id = intake.subscription_id;
            if parts.leases.serves(Slot::of(id)) {
                waiting.push((id, sequence));
            }
            if !is_alone(id) {
                moved.push((id, sequence));
            }
        }
        // A client that left waits for nothing.
        let _ = reply.send(answer.map(Submitted::Answered));
    }
    if !waiting.is_empty() {
        parts.dispatcher.tell(DispatcherMsg::Stored(waiting));
    }
    if !moved.is_empty()
        && let Err(error) = parts.store.tell(&Notice::Accepted(moved)).await
    {
        warn!(%error, "another node could not be told of events; it finds them later");
    }
    if !stored.is_empty() {
        parts.dispatcher.tell(DispatcherMsg::Accepted(stored));
    }
    came
}

/// Stores `intakes`, trying again for a while where that makes sense.
async fn store(
    parts: &Parts,
    writer: &mut IntakeWriter,
    intakes: &[Intake],
) -> Vec<Result<Answer, IngestError>> {
    let deadline = Instant::now() + PATIENCE;
    let mut backoff = Backoff::new(FIRST_PAUSE, LONGEST_PAUSE);
    let mut unknown = false;
    loop {
        if unknown && let Some(answers) = look_up(writer, intakes).await {
            return answers;
        }
        match writer.accept(intakes, parts.clock.now()).await {
            Ok(answers) => {
                return intakes.iter().zip(answers).map(|(intake, answer)| Ok(own(intake, answer))).collect();
            }
            Err(Error::Refused(reason)) => return one_by_one(parts, writer, intakes, &reason).await,
            // It may be found, and is not safe for that.
            Err(Error::SyncFailed(_)) => return intakes.iter().map(|_| Err(given_up(true))).collect(),
            Err(Error::OutcomeUnknown(reason)) => {
                debug!(reason, events = intakes.len(), "the answer to a commit was lost");
                unknown = true;
            }
            // Its own rows, which came late, or the key that another stored: the next try sees either.
            Err(Error::Conflict) => unknown = true,
            Err(error) => debug!(%error, events = intakes.len(), "events could not be stored yet"),
        }
        if Instant::now() + backoff.next() > deadline {
            return intakes.iter().map(|_| Err(given_up(unknown))).collect();
        }
        backoff.pause().await;
    }
}

/// A batch that is written again may meet itself: its first commit came late, and its keys are its own.
fn own(intake: &Intake, answer: Answer) -> Answer {
    match answer {
        Answer::Replayed(known) if known.id == intake.delivery_id => Answer::Stored(known.sequence),
        other => other,
    }
}

fn given_up(unknown: bool) -> IngestError {
    if unknown {
        IngestError::OutcomeUnknown { retry_after: RETRY_AFTER }
    } else {
        IngestError::Busy { retry_after: RETRY_AFTER }
    }
}

/// What is stored of a batch whose answer was lost. It was one transaction, so where one of them is
/// stored, every one is that had no other answer; none: not stored, or not known.
async fn look_up(writer: &mut IntakeWriter, intakes: &[Intake]) -> Option<Vec<Result<Answer, IngestError>>> {
    let ids: Vec<DeliveryId> = intakes.iter().map(|intake| intake.delivery_id).collect();
    let found: BTreeMap<_, _> = writer.stored(&ids).await.ok()?;
    if found.is_empty() {
        return None;
    }
    let answer = |id: &DeliveryId| found.get(id).map(|sequence| Answer::Stored(*sequence));
    Some(ids.iter().map(|id| answer(id).ok_or_else(|| given_up(true))).collect())
}

/// Stores a batch event by event, after one of them was refused by the database.
async fn one_by_one(
    parts: &Parts,
    writer: &mut IntakeWriter,
    intakes: &[Intake],
    reason: &str,
) -> Vec<Result<Answer, IngestError>> {
    warn!(reason, events = intakes.len(), "the database refused a batch; storing its events one by one");
    let mut answers = Vec::with_capacity(intakes.len());
    for intake in intakes {
        let answer = writer.accept(std::slice::from_ref(intake), parts.clock.now()).await;
        answers.push(match answer {
            Ok(answers) => answers.first().copied().ok_or_else(|| given_up(true)),
            Err(Error::OutcomeUnknown(_) | Error::SyncFailed(_)) => Err(given_up(true)),
            Err(error) => {
                warn!(%error, delivery_id = %intake.delivery_id, "an event could not be stored");
                Err(given_up(false))
            }
        });
    }
    answers
}
