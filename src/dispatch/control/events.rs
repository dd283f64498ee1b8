//! Handing events in.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use posthorn_domain::audit::{Actor, Stamp};
use posthorn_domain::delivery::OrderingKey;
use posthorn_domain::forward::ForwardedHeaders;
use posthorn_domain::hops::Hops;
use posthorn_domain::id::{DeliveryId, EventId, SubscriptionId};
use posthorn_domain::lane::{Queued, Ticket};
use posthorn_domain::subscription::SubscriptionStatus;
use posthorn_domain::tenant::Tenant;
use uuid::Uuid;

use super::Control;
use crate::dispatch::Parts;
use crate::dispatch::changes::to_its_end;
use crate::dispatch::dispatcher::DispatcherMsg;
use crate::dispatch::ingest_queue::Submitted;
use crate::dispatch::ingest_writer::RETRY_AFTER;
use crate::store::intake::{Answer, Intake};
use crate::store::{Error, Replayed};

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

/// Why an event was not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IngestError {
    /// There is no such subscription, or no such delivery to replay.
    #[error("not found")]
    NotFound,
    /// The subscription of the delivery to replay was deleted.
    #[error("the subscription was deleted")]
    SubscriptionDeleted,
    /// The subscription is disabled.
    #[error("the subscription is disabled")]
    Disabled,
    /// The idempotency key came with other bytes before.
    #[error("the idempotency key was used with other bytes")]
    KeyReused,
    /// The tenant handed in as much as its ingest limit allows; nothing was stored.
    #[error("the tenant's ingest limit is spent")]
    QuotaSpent {
        /// When the next event may come.
        retry_after: Duration,
    },
    /// The tenant has as many bytes stored as it may have; nothing was stored.
    #[error("the tenant may store no more bytes")]
    StorageFull {
        /// When there may be room.
        retry_after: Duration,
    },
    /// The subscription has as many unfinished deliveries as it may have; nothing was stored.
    #[error("the subscription's backlog is full")]
    BacklogFull {
        /// When to try again.
        retry_after: Duration,
    },
    /// The tenant has more under way at once than its share, and others need the rest; nothing was stored.
    #[error("the tenant is over its share")]
    OverShare {
        /// When to try again.
        retry_after: Duration,
    },
    /// Nothing was stored.
    #[error("the event cannot be stored now")]
    Busy {
        /// When to try again.
        retry_after: Duration,
    },
    /// It may have been stored.
    #[error("whether the event was stored is not known")]
    OutcomeUnknown {
        /// When to try again.
        retry_after: Duration,
    },
}

impl Control {
    /// Stores an event and its delivery, and returns once both are on disk. What its tenant may hand
    /// in is counted here, whatever comes of the event.
    ///
    /// May be dropped: the event is then stored or not.
    pub async fn ingest(&self, event: NewEvent) -> Result<Accepted, IngestError> {
        let state = self.parts.tenants.take_ingest(&event.tenant).await?;
        let mut let_in = self.let_in(&state, event.payload.len()).await?;
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
            Answer::BacklogFull => Err(BACKLOG_FULL),
        }
    }

    /// Refuses an event of so many bytes that [`ingest`](Self::ingest) would refuse at once, before its bytes are checked.
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

    /// Sends a `posthorn.test` event the normal way.
    pub async fn send_test(&self, id: SubscriptionId) -> Result<Accepted, IngestError> {
        let subscription =
            self.subscription(id).await.map_err(|error| busy(&error))?.ok_or(IngestError::NotFound)?;
        if subscription.status == SubscriptionStatus::Disabled {
            return Err(IngestError::Disabled);
        }
        let payload = serde_json::json!({
            "type": "posthorn.test",
            "timestamp": self.parts.clock.now().to_string(),
            "data": { "subscription_id": id.to_string() },
        });
        self.ingest(NewEvent {
            subscription_id: id,
            tenant: subscription.tenant.clone(),
            content_type: "application/json".to_owned(),
            payload: payload.to_string().into(),
            idempotency_key: None,
            ordering_key: None,
            hops: Hops::default(),
            forwarded: ForwardedHeaders::default(),
        })
        .await
    }

    /// Puts a delivery's event at the end of the line once more. Counts as handed in.
    pub async fn replay(&self, by: Actor, id: DeliveryId) -> Result<Accepted, IngestError> {
        let tenant = self.parts.store.tenant_of_delivery(id).await.map_err(|error| busy(&error))?;
        let tenant = tenant.ok_or(IngestError::NotFound)?;
        self.parts.tenants.take_ingest(&tenant).await?;
        let permit = self.permit(&tenant).await?;
        let (parts, stamp) = (Arc::clone(&self.parts), self.stamp(by));
        let new = DeliveryId(Uuid::now_v7());
        match to_its_end(permit, async move { replay(&parts, id, new, stamp).await }).await? {
            Replayed::Stored(delivery) => Ok(Accepted { delivery_id: delivery.id, replayed: false }),
            Replayed::NotFound => Err(IngestError::NotFound),
            Replayed::SubscriptionDeleted => Err(IngestError::SubscriptionDeleted),
            Replayed::BacklogFull(_) => Err(BACKLOG_FULL),
        }
    }
}

/// Stores a replay, once more after its lane was counted where that seemed to be full, and tells its lane. Not to be
/// dropped half-way.
async fn replay(parts: &Parts, id: DeliveryId, new: DeliveryId, stamp: Stamp) -> Result<Replayed, Error> {
    let store = || parts.store.replay_delivery(id, new, parts.settings.backlog_max, stamp);
    let mut replayed = store().await?;
    if let Replayed::BacklogFull(lane) = replayed
        && parts.backlogs.recount(lane).await?
    {
        replayed = store().await?;
    }
    if let Replayed::Stored(delivery) = &replayed {
        let ticket = Ticket {
            id: delivery.id,
            event_id: delivery.event_id,
            replay_of: delivery.replay_of,
            sequence: delivery.sequence,
        };
        // All nodes were told with the commit; this spares the lane that runs here a read.
        let key = delivery.ordering_key.clone();
        let queued = Queued { ticket, key, attempt_count: 0, retry_base: 0, due: None };
        let lane = delivery.subscription_id;
        if let Some(subscription) = parts.caches.subscription(lane).await? {
            let tenant = subscription.tenant.clone();
            parts.dispatcher.tell(DispatcherMsg::Accepted(vec![(lane, tenant, queued)]));
        }
    }
    Ok(replayed)
}

const BACKLOG_FULL: IngestError = IngestError::BacklogFull { retry_after: RETRY_AFTER };

/// Why the store's refusal keeps an event out.
fn busy(error: &Error) -> IngestError {
    match error {
        Error::OutcomeUnknown(_) | Error::SyncFailed(_) => {
            IngestError::OutcomeUnknown { retry_after: RETRY_AFTER }
        }
        _ => IngestError::Busy { retry_after: RETRY_AFTER },
    }
}
