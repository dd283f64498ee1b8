//! One attempt: from the payload to the answer.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::FutureExt as _;
use posthorn_domain::cluster::Slot;
use posthorn_domain::give_up::GiveUpOn;
use posthorn_domain::id::AttemptNumber;
use posthorn_domain::lane::{Ticket, Verdict};
use posthorn_domain::payload::Payload;
use posthorn_domain::subscription::Subscription;
use tokio::sync::watch;
use tokio::time::timeout;
use tracing::error;

use super::Parts;
use super::backoff::Backoff;
use super::outcome_writer::Item;
use crate::sender::{Reply, Request};
use crate::store::outcomes::Started;

/// A request that takes longer is marked `processing`; a shorter one costs no extra write.
const MARKED_AFTER: Duration = Duration::from_millis(50);

/// When the leases are looked at again.
const LEASE_PAUSE: Duration = Duration::from_millis(200);

/// How an attempt ended.
pub(super) struct Attempted {
    pub(super) verdict: Verdict,
    pub(super) status_code: Option<u16>,
    /// The beginning of the answer's body.
    pub(super) body: Option<Vec<u8>>,
    pub(super) error: Option<String>,
    pub(super) duration: Duration,
}

impl Attempted {
    /// What came of a request, where answers of some statuses end a delivery.
    fn of(reply: Reply, give_up_on: &GiveUpOn) -> Self {
        let verdict = if reply.is_success() {
            Verdict::Success
        } else {
            Verdict::Failure {
                retry_after: reply.retry_after,
                gone: reply.is_gone(),
                overloaded: reply.is_overloaded(),
                given_up: reply.status_code.is_some_and(|status| give_up_on.contains(status)),
            }
        };
        Self {
            verdict,
            status_code: reply.status_code,
            body: reply.body,
            error: reply.error.map(|failure| failure.to_string()),
            duration: reply.duration,
        }
    }

    /// One that never got as far as a request.
    fn unsent(error: &str) -> Self {
        Self {
            verdict: Verdict::Failure { retry_after: None, gone: false, overloaded: false, given_up: false },
            status_code: None,
            body: None,
            error: Some(error.to_owned()),
            duration: Duration::ZERO,
        }
    }
}

/// Whether a request that has not left yet may leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Leave {
    /// It may.
    Given,
    /// The subscription was changed, and it is being read how.
    InDoubt,
    /// Its subscription is not sent to any more.
    Refused,
}

/// What a lane's requests look at before they leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Clearance {
    /// Of the subscription that is known. A request that an older one began is taken back.
    pub(super) version: i64,
    pub(super) leave: Leave,
}

/// Makes one attempt and tells how it ended; one that panics failed with `internal error`. None: it was not made, since
/// the subscription was changed before the request left.
///
/// May be dropped: the request is then broken off and nothing is counted.
pub(super) async fn make(
    parts: &Parts,
    subscription: &Arc<Subscription>,
    ticket: Ticket,
    number: AttemptNumber,
    clearance: watch::Receiver<Clearance>,
) -> Option<Attempted> {
    let attempt = AssertUnwindSafe(send(parts, subscription, ticket, number, clearance)).catch_unwind();
    attempt.await.unwrap_or_else(|_| {
        error!(delivery_id = %ticket.id, "an attempt panicked");
        Some(Attempted::unsent("internal error"))
    })
}

async fn send(
    parts: &Parts,
    subscription: &Arc<Subscription>,
    ticket: Ticket,
    number: AttemptNumber,
    clearance: watch::Receiver<Clearance>,
) -> Option<Attempted> {
    let Some(payload) = payload(parts, ticket).await else {
        return Some(Attempted::unsent("payload missing"));
    };
    if !may_send(parts, subscription, clearance).await {
        return None;
    }
    let config = &subscription.config;
    let request = Request {
        tenant: &subscription.tenant,
        target: &config.target,
        headers: &config.headers,
        secret_key: config.secret_key.as_ref(),
        signing: &subscription.signing,
        asymmetric_signature: config.asymmetric_signature,
        client_certificate: config.client_certificate.as_ref(),
        delivery_id: ticket.id,
        sequence: ticket.sequence,
        attempt: number,
        replay_of: ticket.replay_of,
        hops: payload.hops,
        forwarded: &payload.forwarded,
        content_type: &payload.content_type,
        payload: payload.bytes.clone(),
        timeout: config.timeout(&parts.settings.defaults),
        at: parts.clock.now(),
    };
    let give_up_on = &config.retry.give_up_on;
    let sending = parts.sender.attempt(&request);
    tokio::pin!(sending);
    if let Ok(reply) = timeout(MARKED_AFTER, &mut sending).await {
        return Some(Attempted::of(reply, give_up_on));
    }
    let slot = Slot::of(subscription.id);
    let Some(epoch) = parts.leases.epoch(slot) else { return Some(Attempted::of(sending.await, give_up_on)) };
    // Only a mark for those who look: nothing depends on it.
    parts.outcomes.push(Item::Started(Started { delivery_id: ticket.id, number, slot, epoch }));
    Some(Attempted::of(sending.await, give_up_on))
}

/// Waits until the node may send for the slot: since it was asked, the process may have stood still, and
/// another node have taken over. Then this is broken off, with its lane. False where the subscription was changed
/// meanwhile.
async fn may_send(
    parts: &Parts,
    subscription: &Subscription,
    mut clearance: watch::Receiver<Clearance>,
) -> bool {
    loop {
        let Clearance { version, leave } = *clearance.borrow_and_update();
        if version != subscription.version || leave == Leave::Refused {
            return false;
        }
        if leave == Leave::Given && parts.leases.may_send(Slot::of(subscription.id), Instant::now()) {
            return true;
        }
        // Both are looked at again; that the lane is gone ends this task.
        let _ = timeout(LEASE_PAUSE, clearance.changed()).await;
    }
}

/// The payload; waits for the store where that is away, as an attempt not made costs no retry.
async fn payload(parts: &Parts, ticket: Ticket) -> Option<Arc<Payload>> {
    let mut backoff = Backoff::for_reads();
    loop {
        match parts.caches.payload(ticket.event_id).await {
            Ok(payload) => return payload,
            Err(error) => {
                tracing::debug!(%error, delivery_id = %ticket.id, "a payload could not be read yet");
                backoff.pause().await;
            }
        }
    }
}
