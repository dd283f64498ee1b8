//! The hot path in: accepting a batch of events.
//!
//! One transaction stores every event of the batch with its delivery. The lane's row is locked for
//! it and the sequence is taken under that lock, so that numbers are gapless and become visible in
//! their order. An idempotency key that a delivery bears already stores nothing.

mod postgres;
mod sqlite;

use std::collections::BTreeMap;

use bytes::Bytes;
use posthorn_domain::delivery::OrderingKey;
use posthorn_domain::id::{DeliveryId, EventId, Sequence, SubscriptionId};
use posthorn_domain::time::Timestamp;

use super::held::{Connection, Held};
use super::{Error, Store};

/// One event to accept.
#[derive(Clone, Debug)]
pub struct Intake {
    /// Chosen by the caller, so that a batch whose answer was lost can be looked up.
    pub delivery_id: DeliveryId,
    /// As above.
    pub event_id: EventId,
    /// Whose endpoint it goes to.
    pub subscription_id: SubscriptionId,
    /// What the sender says the bytes are.
    pub content_type: String,
    /// The bytes.
    pub payload: Bytes,
    /// Deliveries with the same key keep their order.
    pub ordering_key: Option<OrderingKey>,
    /// With the same key nothing is stored twice. No two of a batch have the same subscription and
    /// the same key.
    pub idempotency_key: Option<String>,
}

/// What came of one event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It is stored, with this number.
    Stored(Sequence),
    /// A delivery bears its idempotency key and the same bytes.
    Replayed(DeliveryId),
    /// A delivery bears its idempotency key and other bytes.
    KeyReused,
    /// There is no such subscription.
    NoSubscription,
}

/// Accepts batches on a connection of its own.
#[derive(Debug)]
pub struct IntakeWriter(Held);

impl IntakeWriter {
    /// Takes its connection when the first batch comes.
    pub fn new(store: &Store) -> Self {
        Self(Held::new(store.clone()))
    }

    /// Stores `batch` in one transaction; the answers stand in its order.
    ///
    /// [`Error::Conflict`] where a simultaneous batch elsewhere stored the same idempotency key:
    /// nothing was done, and a second try will see that key. Not to be dropped half-way.
    pub async fn accept(&mut self, batch: &[Intake], now: Timestamp) -> Result<Vec<Answer>, Error> {
        self.0
            .run(async |connection| match connection {
                Connection::Postgres(connection) => postgres::accept(connection, batch, now).await,
                Connection::Sqlite(connection) => sqlite::accept(connection, batch, now).await,
            })
            .await
    }

    /// Which of `ids` are stored, and their numbers: asked after a commit whose answer was lost.
    pub async fn stored(&mut self, ids: &[DeliveryId]) -> Result<BTreeMap<DeliveryId, Sequence>, Error> {
        self.0
            .run(async |connection| match connection {
                Connection::Postgres(connection) => postgres::stored(connection, ids).await,
                Connection::Sqlite(connection) => sqlite::stored(connection, ids).await,
            })
            .await
    }
}

/// What the database found out about one event.
fn answer(sequence: Option<i64>, known: Option<(DeliveryId, bool)>) -> Answer {
    match (sequence, known) {
        (_, Some((id, true))) => Answer::Replayed(id),
        (_, Some((_, false))) => Answer::KeyReused,
        (Some(sequence), None) => Answer::Stored(Sequence(sequence)),
        (None, None) => Answer::NoSubscription,
    }
}
