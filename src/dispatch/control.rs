//! What the API may ask of dispatch: every change is committed first and told to its lane after.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use posthorn_domain::delivery::{Delivery, OrderingKey, WaitingFor};
use posthorn_domain::id::{DeliveryId, EventId, Sequence, SubscriptionId};
use posthorn_domain::lane::{Held, Queued, Ticket};
use posthorn_domain::limits::SIGNING_SECRET_OVERLAP;
use posthorn_domain::signature::{SIGNING_SECRET_BYTES, SigningSecret};
use posthorn_domain::subscription::{
    Ordering, SigningSecrets, Subscription, SubscriptionConfig, SubscriptionStatus,
};
use posthorn_domain::tenant::Tenant;
use posthorn_domain::waiting::{Facts, StoredCircuit};
use tokio::sync::oneshot;
use uuid::Uuid;

use super::Parts;
use super::dispatcher::DispatcherMsg;
use super::ingest_writer::{RETRY_AFTER, Submitted};
use super::subscription::Changed;
use crate::store::intake::{Answer, Intake};
use crate::store::{Change, CircuitState, CircuitView, Error, Replayed, Store, SubscriptionView, Update};

/// How long an actor may take to say why it holds a delivery.
const EXPLAIN_PATIENCE: Duration = Duration::from_millis(500);

/// The face of dispatch for the API. Cheap to clone.
#[derive(Clone)]
pub struct Control {
    pub(super) parts: Arc<Parts>,
}

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
    /// The subscription has as many unfinished deliveries as it may have; nothing was stored.
    #[error("the subscription's backlog is full")]
    BacklogFull {
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

/// What came of a change of a subscription's standing.
#[derive(Clone, Debug, PartialEq)]
pub enum Transition {
    /// This is the subscription now.
    Done(Box<SubscriptionView>),
    /// It is disabled, and only enabling it changes that.
    Disabled,
    /// There is no such subscription.
    NotFound,
}

impl Control {
    pub(super) fn new(parts: Arc<Parts>) -> Self {
        Self { parts }
    }

    /// The store, for reading.
    pub fn store(&self) -> &Store {
        &self.parts.store
    }

    /// Stores a new subscription.
    pub async fn create(
        &self,
        tenant: Tenant,
        config: SubscriptionConfig,
    ) -> Result<SubscriptionView, Error> {
        let now = self.parts.clock.now();
        let subscription = Subscription {
            id: SubscriptionId(Uuid::now_v7()),
            tenant,
            config,
            signing: SigningSecrets { current: fresh_signing_secret(), previous: None },
            status: SubscriptionStatus::Active,
            status_reason: None,
            version: 1,
            endpoint_version: 1,
            created_at: now,
            updated_at: now,
        };
        self.parts.store.insert_subscription(&subscription).await?;
        // Its first events come soon, and maybe many at once.
        self.parts.caches.keep_subscription(subscription.clone()).await;
        let circuit = CircuitView { state: CircuitState::Closed, consecutive_failures: 0, retry_at: None };
        Ok(SubscriptionView { subscription, circuit })
    }

    /// Changes what a person may set; none where the subscription is not there.
    pub async fn update(
        &self,
        id: SubscriptionId,
        change: impl FnOnce(&mut SubscriptionConfig) + Send + 'static,
    ) -> Result<Option<SubscriptionView>, Error> {
        let update = self.change(id, |subscription| change(&mut subscription.config)).await?;
        Ok(update.map(|update| update.after))
    }

    /// Deletes a subscription; false where it is not there.
    pub async fn delete(&self, id: SubscriptionId) -> Result<bool, Error> {
        let deleted = self.parts.store.delete_subscription(id, self.parts.clock.now()).await?;
        self.parts.caches.forget_subscription(id).await;
        if deleted {
            self.parts.dispatcher.tell(DispatcherMsg::Deleted(id));
        }
        Ok(deleted)
    }

    /// Holds deliveries from now on; events are accepted.
    pub async fn pause(&self, id: SubscriptionId) -> Result<Transition, Error> {
        self.transition(id, SubscriptionStatus::Paused, SubscriptionStatus::Active).await
    }

    /// Ends a pause.
    pub async fn resume(&self, id: SubscriptionId) -> Result<Transition, Error> {
        self.transition(id, SubscriptionStatus::Active, SubscriptionStatus::Paused).await
    }

    /// Ends a disablement; one that is not disabled stays as it is.
    pub async fn enable(&self, id: SubscriptionId) -> Result<Transition, Error> {
        self.transition(id, SubscriptionStatus::Active, SubscriptionStatus::Disabled).await
    }

    async fn transition(
        &self,
        id: SubscriptionId,
        to: SubscriptionStatus,
        from: SubscriptionStatus,
    ) -> Result<Transition, Error> {
        let update = self
            .change(id, move |subscription| {
                // A person's wish stands over a reason of the machine's.
                if subscription.status == from {
                    subscription.status = to;
                    subscription.status_reason = None;
                }
            })
            .await?;
        let Some(Update { after, .. }) = update else { return Ok(Transition::NotFound) };
        let still_disabled = after.subscription.status == SubscriptionStatus::Disabled;
        Ok(if still_disabled { Transition::Disabled } else { Transition::Done(Box::new(after)) })
    }

    /// Replaces the signing secret; the old one also signs for a while.
    pub async fn rotate_signing_secret(&self, id: SubscriptionId) -> Result<Option<SubscriptionView>, Error> {
        let until = self.parts.clock.now().plus(SIGNING_SECRET_OVERLAP);
        let update = self
            .change(id, move |subscription| {
                let old = std::mem::replace(&mut subscription.signing.current, fresh_signing_secret());
                subscription.signing.previous = Some((old, until));
            })
            .await?;
        Ok(update.map(|update| update.after))
    }

    async fn change(
        &self,
        id: SubscriptionId,
        change: impl FnOnce(&mut Subscription) + Send + 'static,
    ) -> Result<Option<Update>, Error> {
        let now = self.parts.clock.now();
        let update = self.parts.store.update_subscription(id, now, change).await?;
        if let Some(Update { before, after }) = &update {
            let subscription = &after.subscription;
            let kept = self.parts.caches.keep_subscription(subscription.clone()).await;
            let fresh = subscription.starts_fresh(before);
            self.tell_changed(id, kept, fresh, subscription.forgives_retries(before));
        }
        Ok(update)
    }

    fn tell_changed(
        &self,
        id: SubscriptionId,
        after: Arc<Subscription>,
        fresh_start: bool,
        retries_forgiven: bool,
    ) {
        let change = Changed { after, fresh_start, retries_forgiven };
        self.parts.dispatcher.tell(DispatcherMsg::Changed(id, Box::new(change)));
    }

    /// A subscription, mostly from the cache; none where it is not there.
    pub async fn subscription(&self, id: SubscriptionId) -> Result<Option<Arc<Subscription>>, Error> {
        self.parts.caches.subscription(id).await
    }

    /// Stores an event and its delivery, and returns once both are on disk. What its tenant may hand
    /// in is counted here, whatever comes of the event.
    ///
    /// May be dropped: the event is then stored or not.
    pub async fn ingest(&self, event: NewEvent) -> Result<Accepted, IngestError> {
        self.parts.tenants.take_ingest(&event.tenant).await?;
        let intake = Intake {
            delivery_id: DeliveryId(Uuid::now_v7()),
            event_id: EventId(Uuid::now_v7()),
            subscription_id: event.subscription_id,
            content_type: event.content_type,
            payload: event.payload,
            ordering_key: event.ordering_key,
            idempotency_key: event.idempotency_key,
        };
        let delivery_id = intake.delivery_id;
        match self.submit(intake).await? {
            Answer::Stored(_) => Ok(Accepted { delivery_id, replayed: false }),
            Answer::Replayed(delivery_id) => Ok(Accepted { delivery_id, replayed: true }),
            Answer::KeyReused => Err(IngestError::KeyReused),
            Answer::NoSubscription => Err(IngestError::NotFound),
            Answer::BacklogFull => Err(BACKLOG_FULL),
        }
    }

    /// Hands an event in, and once more after its lane was counted where that seemed to be full.
    async fn submit(&self, intake: Intake) -> Result<Answer, IngestError> {
        let id = intake.subscription_id;
        let intake = match self.parts.ingest.submit(intake).await? {
            Submitted::Answered(answer) => return Ok(answer),
            Submitted::BacklogFull(intake) => *intake,
        };
        if !self.parts.backlogs.recount(id).await.map_err(|error| busy(&error))? {
            return Ok(Answer::BacklogFull);
        }
        match self.parts.ingest.submit(intake).await? {
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
        })
        .await
    }

    /// Makes a delivery that waits for its retry due now.
    pub async fn retry(&self, id: DeliveryId) -> Result<Change, Error> {
        let change = self.parts.store.retry_delivery(id, self.parts.clock.now()).await?;
        if let Change::Done(delivery) = &change {
            let message = DispatcherMsg::RetryNow(delivery.subscription_id, delivery.sequence);
            self.parts.dispatcher.tell(message);
        }
        Ok(change)
    }

    /// Ends an unfinished delivery `failed`; a lane that was paused by it goes on.
    pub async fn skip(&self, id: DeliveryId) -> Result<Change, Error> {
        let change = self.parts.store.skip_delivery(id, self.parts.clock.now()).await?;
        if let Change::Done(delivery) = &change {
            let message = DispatcherMsg::Skipped(delivery.subscription_id, delivery.sequence);
            self.parts.dispatcher.tell(message);
            self.resume_after_skip(delivery).await?;
        }
        Ok(change)
    }

    async fn resume_after_skip(&self, skipped: &Delivery) -> Result<(), Error> {
        use posthorn_domain::subscription::StatusReason::RetriesExhausted;
        let Some(subscription) = self.subscription(skipped.subscription_id).await? else { return Ok(()) };
        let by_retries = subscription.status == SubscriptionStatus::Paused
            && subscription.status_reason == Some(RetriesExhausted);
        if by_retries && skipped.attempt_count > 0 {
            self.resume(skipped.subscription_id).await?;
        }
        Ok(())
    }

    /// Puts a delivery's event at the end of the line once more.
    pub async fn replay(&self, id: DeliveryId) -> Result<Accepted, IngestError> {
        let parts = &self.parts;
        let new = DeliveryId(Uuid::now_v7());
        let replay = || parts.store.replay_delivery(id, new, parts.settings.backlog_max, parts.clock.now());
        let mut replayed = replay().await.map_err(|error| busy(&error))?;
        if let Replayed::BacklogFull(lane) = replayed
            && parts.backlogs.recount(lane).await.map_err(|error| busy(&error))?
        {
            replayed = replay().await.map_err(|error| busy(&error))?;
        }
        let delivery = match replayed {
            Replayed::Stored(delivery) => delivery,
            Replayed::NotFound => return Err(IngestError::NotFound),
            Replayed::BacklogFull(_) => return Err(BACKLOG_FULL),
        };
        let ticket = Ticket {
            id: delivery.id,
            event_id: delivery.event_id,
            replay_of: delivery.replay_of,
            sequence: delivery.sequence,
        };
        let queued =
            Queued { ticket, key: delivery.ordering_key, attempt_count: 0, retry_base: 0, due: None };
        parts.dispatcher.tell(DispatcherMsg::Accepted(vec![(delivery.subscription_id, queued)]));
        Ok(Accepted { delivery_id: delivery.id, replayed: false })
    }

    /// Requests that may be in flight to a subscription's endpoint now: what its lane has found out,
    /// or where it would begin.
    #[must_use]
    pub fn in_flight_limit(&self, subscription: &Subscription) -> u32 {
        let start = subscription.config.in_flight(&self.parts.settings.defaults).start();
        self.parts.limits.of(subscription.id).unwrap_or(start)
    }

    /// Why each of `deliveries`, all of one subscription, is not being sent right now; none for
    /// those that are finished.
    pub async fn waiting_for(
        &self,
        id: SubscriptionId,
        deliveries: &[Delivery],
    ) -> Result<Vec<Option<WaitingFor>>, Error> {
        if deliveries.iter().all(|delivery| delivery.status.is_finished()) {
            return Ok(vec![None; deliveries.len()]);
        }
        let Some(view) = self.parts.store.subscription_view(id).await? else {
            return Ok(vec![None; deliveries.len()]);
        };
        let held = self.held(id, deliveries).await;
        let mut reasons = Vec::with_capacity(deliveries.len());
        for (delivery, held) in deliveries.iter().zip(held) {
            let mut facts = Facts {
                status: delivery.status,
                due: delivery.next_attempt_at,
                standing: view.subscription.status,
                earlier: None,
                circuit: match view.circuit.state {
                    CircuitState::Closed => StoredCircuit::Closed,
                    CircuitState::Open | CircuitState::HalfOpen => StoredCircuit::Open(view.circuit.retry_at),
                },
                held,
            };
            if facts.depend_on_its_line() {
                facts.earlier = self.earlier(&view.subscription, delivery).await?;
            }
            let clock = self.parts.clock;
            reasons.push(facts.explain(clock.now(), |at| clock.timestamp(at)));
        }
        Ok(reasons)
    }

    /// What the lane itself knows of each delivery.
    async fn held(&self, id: SubscriptionId, deliveries: &[Delivery]) -> Vec<Option<Held>> {
        let (reply, answer) = oneshot::channel();
        let sequences = deliveries.iter().map(|delivery| delivery.sequence).collect();
        self.parts.dispatcher.tell(DispatcherMsg::Explain(id, sequences, reply));
        match tokio::time::timeout(EXPLAIN_PATIENCE, answer).await {
            Ok(Ok(held)) => held,
            _ => vec![None; deliveries.len()],
        }
    }

    /// The earlier delivery that `delivery` has to wait for.
    async fn earlier(
        &self,
        subscription: &Subscription,
        delivery: &Delivery,
    ) -> Result<Option<Sequence>, Error> {
        match (subscription.config.ordering, &delivery.ordering_key) {
            (Ordering::Strict, _) => self.parts.store.earlier_unfinished(delivery, None).await,
            (Ordering::Key, Some(key)) => self.parts.store.earlier_unfinished(delivery, Some(key)).await,
            (Ordering::Key, None) | (Ordering::None, _) => Ok(None),
        }
    }
}

const BACKLOG_FULL: IngestError = IngestError::BacklogFull { retry_after: RETRY_AFTER };

/// Why the store's refusal keeps an event out.
fn busy(error: &Error) -> IngestError {
    match error {
        Error::OutcomeUnknown(_) => IngestError::OutcomeUnknown { retry_after: RETRY_AFTER },
        _ => IngestError::Busy { retry_after: RETRY_AFTER },
    }
}

fn fresh_signing_secret() -> SigningSecret {
    SigningSecret::from_random(rand::random::<[u8; SIGNING_SECRET_BYTES]>())
}
