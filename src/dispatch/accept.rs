//! Handing events in.

use bytes::Bytes;
use posthorn_domain::delivery::OrderingKey;
use posthorn_domain::forward::ForwardedHeaders;
use posthorn_domain::hops::Hops;
use posthorn_domain::id::{DeliveryId, EventId, SubscriptionId};
use posthorn_domain::tenant::Tenant;
use uuid::Uuid;

use super::Handle;
use super::ingest_error::{IngestError, RETRY_AFTER};
use super::ingest_queue::Submitted;
use super::stored::let_in;
use crate::store::Error;
use crate::store::intake::{Answer, Intake};

/// An event as it came in.
#[derive(Clone, Debug)]
pub struct NewEvent {
    /// Whose endpoint it goes to.
    pub subscription_id: SubscriptionId,
    /// Whose ingest limit it counts against: the subscription's tenant.
    pub tenant: Tenant,
    /// What the sender says the bytes are.
    pub content_type: String,
    /// The bytes.
    pub payload: Bytes,
    /// With the same key nothing is stored twice.
    pub idempotency_key: Option<String>,
    /// Deliveries with the same key keep their order.
    pub ordering_key: Option<OrderingKey>,
    /// How often it came through a Posthorn before.
    pub hops: Hops,
    /// What of its request's head travels on.
    pub forwarded: ForwardedHeaders,
}

/// A stored event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Accepted {
    /// Its delivery.
    pub delivery_id: DeliveryId,
    /// It was stored before, with the same idempotency key.
    pub replayed: bool,
}

impl Handle {
    /// Stores an event and its delivery, and returns once both are on disk. What its tenant may hand
    /// in is counted here, whatever comes of the event.
    ///
    /// May be dropped: the event is then stored or not.
    pub async fn accept(&self, event: NewEvent) -> Result<Accepted, IngestError> {
        let state = self.parts.tenants.take_ingest(&event.tenant).await?;
        let mut let_in = let_in(&self.parts, &state, event.payload.len()).await?;
        let intake = Intake {
            delivery_id: DeliveryId(Uuid::now_v7()),
            event_id: EventId(Uuid::now_v7()),
            subscription_id: event.subscription_id,
            content_type: event.content_type,
            payload: event.payload,
            ordering_key: event.ordering_key,
            idempotency_key: event.idempotency_key,
            hops: event.hops,
            forwarded: event.forwarded,
            elsewhere: false,
        };
        let delivery_id = intake.delivery_id;
        let answer = self.submit(intake, event.tenant).await;
        let stored = matches!(answer, Ok(Answer::Stored(_)) | Err(IngestError::OutcomeUnknown { .. }));
        if let Some(let_in) = let_in.as_mut().filter(|_| !stored) {
            let_in.refused();
        }
        match answer? {
            Answer::Stored(_) => Ok(Accepted { delivery_id, replayed: false }),
            Answer::Replayed(known) => Ok(Accepted { delivery_id: known.id, replayed: true }),
            Answer::KeyReused => Err(IngestError::KeyReused),
            Answer::NoSubscription => Err(IngestError::NotFound),
            Answer::BacklogFull => Err(IngestError::BACKLOG_FULL),
        }
    }

    /// Refuses an event of so many bytes that [`accept`](Self::accept) would refuse at once, before its bytes are checked.
    pub fn check_room(&self, tenant: &Tenant, bytes: usize) -> Result<(), IngestError> {
        self.parts.ingest.check_room(tenant, bytes)
    }

    /// Hands an event in, and once more after its lane was counted where that seemed to be full.
    async fn submit(&self, intake: Intake, tenant: Tenant) -> Result<Answer, IngestError> {
        let id = intake.subscription_id;
        let intake = match self.parts.ingest.submit(intake, tenant.clone()).await? {
            Submitted::Answered(answer) => return Ok(answer),
            Submitted::BacklogFull(intake) => *intake,
        };
        if !self.parts.backlogs.recount(id).await.map_err(|error| busy(&error))? {
            return Ok(Answer::BacklogFull);
        }
        match self.parts.ingest.submit(intake, tenant).await? {
            Submitted::Answered(answer) => Ok(answer),
            Submitted::BacklogFull(_) => Ok(Answer::BacklogFull),
        }
    }
}

/// Why the store's refusal keeps an event out.
fn busy(error: &Error) -> IngestError {
    match error {
        Error::OutcomeUnknown(_) | Error::SyncFailed(_) => {
            IngestError::OutcomeUnknown { retry_after: RETRY_AFTER }
        }
        _ => IngestError::Busy { retry_after: RETRY_AFTER },
    }
}
