//! The hot path out: recording how attempts ended.
//!
//! One transaction writes a batch: the attempt's row, the delivery's status and retry time, the
//! lane's health, and what that means for the subscription. A row counts only where the delivery
//! has just one attempt less, so a batch whose answer was lost can simply be written again.

mod postgres;
mod sqlite;

use std::collections::BTreeSet;

use posthorn_domain::cluster::{Epoch, Slot};
use posthorn_domain::delivery::{Attempt, DeliveryStatus};
use posthorn_domain::id::{AttemptNumber, DeliveryId};
use posthorn_domain::subscription::{StatusReason, SubscriptionStatus};
use posthorn_domain::time::Timestamp;
use sea_orm::{ConnectionTrait as _, DbBackend};

use super::held::{Connection, Held};
use super::{Error, LaneHealth, Store, tx};

/// How one attempt ended and what it means.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The row of the log.
    pub attempt: Attempt,
    /// Where the delivery stands after it. A delivery that somebody ended meanwhile stays ended.
    pub status: DeliveryStatus,
    /// When it is tried again; set exactly where `status` is `failed_attempt`.
    pub next_attempt_at: Option<Timestamp>,
    /// The lane's health after it, where it changed.
    pub health: Option<LaneHealth>,
    /// What becomes of the subscription, where anything does.
    pub standing: Option<(SubscriptionStatus, StatusReason)>,
    /// The subscription's version by which `next_attempt_at` was planned.
    pub planned_version: i64,
    /// Attempts before a person gave the delivery a fresh set of retries.
    pub retry_base: u32,
    /// See [`Subscription::endpoint_version`](posthorn_domain::subscription::Subscription). Where it
    /// is another one by now, neither health nor standing are those of the endpoint that is there.
    pub endpoint_version: i64,
    /// Under which its slot was held when the request began. Where the slot has another one by now, nothing
    /// is written.
    pub epoch: Epoch,
}

/// What becomes of a subscription by its own doing. A pause by hand is no reason to forget that its
/// endpoint is gone, nor that the delivery at its head used up its retries.
const STANDING: &str = "
UPDATE subscriptions SET status = $2, status_reason = $3, version = version + 1, updated_at_ms = $4
WHERE id = $1 AND endpoint_version = $5 AND deleted_at_ms IS NULL
    AND (status < $2 OR status = $2 AND status_reason IS NULL)";

/// A request that has been in flight for a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Started {
    /// The delivery.
    pub delivery_id: DeliveryId,
    /// Which of its attempts.
    pub number: AttemptNumber,
    /// Its subscription's slot.
    pub slot: Slot,
    /// See [`Outcome::epoch`].
    pub epoch: Epoch,
}

/// Records batches on a connection of its own.
#[derive(Debug)]
pub struct OutcomeWriter(Held);

impl OutcomeWriter {
    /// Takes its connection when the first batch comes.
    pub fn new(store: &Store) -> Self {
        Self(Held::new(store.clone()))
    }

    /// Marks deliveries `processing` and records outcomes, in one transaction. A delivery stands in
    /// one of the lists at most. Writing the same again changes nothing. Not to be dropped half-way.
    ///
    /// Returns the slots that another node holds by now: of those nothing was written.
    pub async fn record(
        &mut self,
        started: &[Started],
        outcomes: &[Outcome],
        now: Timestamp,
    ) -> Result<BTreeSet<Slot>, Error> {
        self.0
            .run(async |connection| match connection {
                Connection::Postgres(connection) => {
                    postgres::record(connection, started, outcomes, now).await
                }
                Connection::Sqlite(connection) => {
                    sqlite::record(connection, started, outcomes, now).await?;
                    Ok(BTreeSet::new())
                }
            })
            .await
    }
}

impl Outcome {
    /// Its subscription's slot.
    #[must_use]
    pub const fn slot(&self) -> Slot {
        Slot::of(self.attempt.subscription_id)
    }

    fn completed_at(&self, now: Timestamp) -> Option<i64> {
        self.status.is_finished().then(|| now.as_millis())
    }

    /// Kept as long as a retry waits.
    fn planned_version(&self) -> Option<i64> {
        self.next_attempt_at.map(|_| self.planned_version)
    }

    /// The error that a delivery ends with.
    fn error(&self) -> Option<&str> {
        match self.status {
            DeliveryStatus::Failed => self.attempt.error_message.as_deref(),
            _ => None,
        }
    }
}

/// A number as a column holds it.
fn number(number: AttemptNumber) -> i32 {
    i32::try_from(number.get()).unwrap_or(i32::MAX)
}

impl Store {
    /// Gives deliveries in `slots` that a process left `processing` when it died the status they had
    /// before; returns how many. By `webhook_deliveries_unfinished`; only before anything of those slots is
    /// dispatched.
    pub async fn reset_interrupted(&self, slots: &[Slot], now: Timestamp) -> Result<u64, Error> {
        if slots.is_empty() {
            return Ok(0);
        }
        let numbers: Vec<_> = slots.iter().map(|slot| slot.0.to_string()).collect();
        let numbers = numbers.join(", ");
        tx::run_patiently(self, move |tx| {
            Box::pin(async move {
                let of_slots = match tx.get_database_backend() {
                    DbBackend::Postgres => {
                        format!(" AND get_byte(uuid_send(subscription_id), 15) IN ({numbers})")
                    }
                    DbBackend::Sqlite | DbBackend::MySql => String::new(),
                };
                let reset = "UPDATE webhook_deliveries SET \
                     status = CASE WHEN attempt_count = 0 THEN 0 ELSE 2 END, \
                     next_attempt_at_ms = CASE WHEN attempt_count = 0 THEN NULL ELSE CAST($1 AS bigint) END \
                     WHERE status = 1 AND status < 3";
                tx::execute(tx, &format!("{reset}{of_slots}"), [now.as_millis().into()]).await
            })
        })
        .await
    }
}
