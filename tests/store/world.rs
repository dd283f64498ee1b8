//! A migrated store in a database of its own.

use posthorn::store::intake::{Answer, Intake, IntakeWriter};
use posthorn::store::lanes::Scope;
use posthorn::store::outcomes::{Outcome, OutcomeWriter, Started};
use posthorn::store::{Settings, Store};
use posthorn_domain::audit::{Actor, Stamp};
use posthorn_domain::cluster::{Epoch, Slot};
use posthorn_domain::delivery::{Attempt, AttemptOutcome, Delivery, DeliveryStatus, OrderingKey};
use posthorn_domain::forward::ForwardedHeaders;
use posthorn_domain::header::StaticHeaders;
use posthorn_domain::hops::Hops;
use posthorn_domain::id::{AttemptId, AttemptNumber, DeliveryId, EventId, Sequence, SubscriptionId};
use posthorn_domain::signature::SigningSecret;
use posthorn_domain::subscription::{Subscription, SubscriptionConfig};
use posthorn_domain::target::TargetUrl;
use posthorn_domain::tenant::Tenant;
use posthorn_domain::time::Timestamp;
use std::time::Duration;
use uuid::Uuid;

use crate::support::{Backend, Database};

/// Some time; the suite asks no clock.
pub(crate) const NOW: Timestamp = Timestamp::from_millis(1_795_598_714_007);
pub(crate) const STAMP: Stamp = Stamp { by: Actor::Command, at: NOW };

/// Unfinished deliveries that a subscription may have, where the case is about something else.
pub(crate) const BACKLOG_MAX: i64 = 1_000_000;

pub(crate) struct World {
    pub(crate) store: Store,
    pub(crate) database: Database,
}

impl World {
    pub(crate) async fn new(backend: Backend) -> Self {
        let database = Database::create(backend).await;
        let store = Store::connect(&Settings::at(database.url())).await.unwrap();
        store.migrate_up().await.unwrap();
        Self { store, database }
    }

    pub(crate) async fn subscription(&self) -> SubscriptionId {
        let subscription = subscription();
        self.store.insert_subscription(&subscription, None, STAMP).await.unwrap();
        subscription.id
    }

    pub(crate) async fn accept(&self, batch: &[Intake]) -> Vec<Answer> {
        IntakeWriter::new(&self.store, BACKLOG_MAX).accept(batch, NOW).await.unwrap()
    }

    /// Accepts `count` events, each with an idempotency key, in batches of 100.
    pub(crate) async fn accept_many(&self, id: SubscriptionId, count: usize) {
        let mut writer = IntakeWriter::new(&self.store, BACKLOG_MAX);
        let key = || Uuid::now_v7().to_string();
        let batch: Vec<Intake> = (0..count).map(|_| idempotent(id, &key(), "1")).collect();
        for piece in batch.chunks(100) {
            writer.accept(piece, NOW).await.unwrap();
        }
    }

    pub(crate) async fn record(&self, outcomes: &[Outcome]) {
        OutcomeWriter::new(&self.store).record(&[], outcomes, NOW).await.unwrap();
    }

    pub(crate) async fn delivery(&self, id: DeliveryId) -> Delivery {
        self.store.delivery(id).await.unwrap().unwrap()
    }

    pub(crate) async fn unfinished(&self, id: SubscriptionId, limit: usize) -> Vec<DeliveryId> {
        let page = self.store.lane_page(id, Sequence::ZERO, &Scope::Without(vec![]), limit).await.unwrap();
        page.into_iter().map(|row| row.id).collect()
    }
}

pub(crate) fn subscription() -> Subscription {
    let target = TargetUrl::parse("https://example.com/hook").unwrap();
    let config = SubscriptionConfig {
        description: Some("‹it's; \"quoted\" % _ \\›".to_owned()),
        headers: StaticHeaders::parse([("x-a".to_owned(), "1".to_owned())]).unwrap(),
        timeout: Some(Duration::from_millis(100)),
        ..SubscriptionConfig::new(target)
    };
    let secret = SigningSecret::from_random([7; 32]);
    Subscription::new(SubscriptionId(Uuid::now_v7()), Tenant::default(), config, secret, NOW)
}

pub(crate) fn intake(subscription_id: SubscriptionId) -> Intake {
    Intake {
        delivery_id: DeliveryId(Uuid::now_v7()),
        event_id: EventId(Uuid::now_v7()),
        subscription_id,
        content_type: "application/json".to_owned(),
        payload: "{ \"a\" : 1.0 }".into(),
        ordering_key: None,
        idempotency_key: None,
        hops: Hops::default(),
        forwarded: ForwardedHeaders::default(),
        elsewhere: false,
    }
}

pub(crate) fn keyed(subscription_id: SubscriptionId, key: &str) -> Intake {
    Intake { ordering_key: Some(OrderingKey(key.into())), ..intake(subscription_id) }
}

pub(crate) fn idempotent(subscription_id: SubscriptionId, key: &str, payload: &'static str) -> Intake {
    Intake { idempotency_key: Some(key.to_owned()), payload: payload.into(), ..intake(subscription_id) }
}

/// The mark of the attempt after so many.
pub(crate) fn started(delivery: &Delivery, attempts: u32) -> Started {
    Started {
        delivery_id: delivery.id,
        number: AttemptNumber::after(attempts),
        slot: Slot::of(delivery.subscription_id),
        epoch: Epoch(0),
    }
}

/// The outcome of attempt `number` of a delivery.
pub(crate) fn outcome(delivery: &Delivery, number: u32, outcome: AttemptOutcome) -> Outcome {
    Outcome {
        attempt: Attempt {
            id: AttemptId(Uuid::now_v7()),
            delivery_id: delivery.id,
            subscription_id: delivery.subscription_id,
            number: AttemptNumber::after(number - 1),
            outcome,
            status_code: Some(if outcome == AttemptOutcome::Success { 204 } else { 500 }),
            response_body: Some(vec![0, 159, 146, 150]),
            error_message: (outcome != AttemptOutcome::Success).then(|| "unexpected status 500".to_owned()),
            duration: Duration::from_millis(12),
            attempted_at: NOW,
        },
        status: match outcome {
            AttemptOutcome::Success => DeliveryStatus::Success,
            AttemptOutcome::FailedAttempt => DeliveryStatus::FailedAttempt,
            AttemptOutcome::Failed => DeliveryStatus::Failed,
        },
        next_attempt_at: (outcome == AttemptOutcome::FailedAttempt)
            .then(|| NOW.plus(Duration::from_secs(10))),
        health: None,
        standing: None,
        planned_version: 1,
        retry_base: 0,
        endpoint_version: 1,
        epoch: Epoch(0),
    }
}
