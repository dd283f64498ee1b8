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
use posthorn_domain::forward::ForwardedHeaders;
use posthorn_domain::hops::Hops;
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
    /// How often it came through a Posthorn before.
    pub hops: Hops,
    /// Sent along with it.
    pub forwarded: ForwardedHeaders,
    /// Another node dispatches its subscription and is to be told, with the commit.
    pub elsewhere: bool,
}

/// What came of one event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It is stored, with this number.
    Stored(Sequence),
    /// A delivery bears its idempotency key and the same bytes.
    Replayed(Known),
    /// A delivery bears its idempotency key and other bytes.
    KeyReused,
    /// There is no such subscription.
    NoSubscription,
    /// As far as was counted, the subscription has as many unfinished deliveries as it may have;
    /// [`Store::recount_backlog`] may find that it has fewer.
    BacklogFull,
}

/// A delivery that is stored already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Known {
    /// Which.
    pub id: DeliveryId,
    /// Its number.
    pub sequence: Sequence,
    /// It is still to be sent.
    pub unfinished: bool,
}

/// Accepts batches on a connection of its own.
#[derive(Debug)]
pub struct IntakeWriter {
    connection: Held,
    backlog_max: i64,
}

impl IntakeWriter {
    /// Takes its connection when the first batch comes. No subscription gets more unfinished
    /// deliveries than `backlog_max`.
    pub fn new(store: &Store, backlog_max: i64) -> Self {
        Self { connection: Held::new(store.clone()), backlog_max }
    }

    /// Stores `batch` in one transaction; the answers stand in its order.
    ///
    /// [`Error::Conflict`] where a simultaneous batch elsewhere stored the same idempotency key:
    /// nothing was done, and a second try will see that key. Not to be dropped half-way.
    pub async fn accept(&mut self, batch: &[Intake], now: Timestamp) -> Result<Vec<Answer>, Error> {
        let max = self.backlog_max;
        self.connection
            .run(async |connection| match connection {
                Connection::Postgres(connection) => postgres::accept(connection, batch, max, now).await,
                Connection::Sqlite(connection) => sqlite::accept(connection, batch, max, now).await,
            })
            .await
    }

    /// Which of `ids` are stored, and their numbers: asked after a commit whose answer was lost.
    pub async fn stored(&mut self, ids: &[DeliveryId]) -> Result<BTreeMap<DeliveryId, Sequence>, Error> {
        self.connection
            .run(async |connection| match connection {
                Connection::Postgres(connection) => postgres::stored(connection, ids).await,
                Connection::Sqlite(connection) => sqlite::stored(connection, ids).await,
            })
            .await
    }
}

/// What it means that a delivery bears the event's idempotency key, with the same bytes or others.
const fn known_key(known: Known, same_bytes: bool) -> Answer {
    if same_bytes { Answer::Replayed(known) } else { Answer::KeyReused }
}

/// What it means that an event got this number and there was room for it, or no number at all.
const fn numbered(sequence: Option<(i64, bool)>) -> Answer {
    match sequence {
        Some((sequence, true)) => Answer::Stored(Sequence(sequence)),
        Some((_, false)) => Answer::BacklogFull,
        None => Answer::NoSubscription,
    }
}
