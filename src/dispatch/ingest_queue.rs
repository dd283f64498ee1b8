//! The bounded queue before the ingest writer. Who gets in, and whose turn it is, is decided by
//! [`IntakeQueue`]; here it is shared, and those who wait are answered.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use posthorn_domain::id::SubscriptionId;
use posthorn_domain::intake_queue::{Batch, Bounds, Event, IntakeQueue, Load, Refusal};
use posthorn_domain::tenant::Tenant;
use tokio::sync::{Notify, OwnedMutexGuard, oneshot};
use tokio::time::Instant;

use super::ingest_error::{IngestError, RETRY_AFTER};
use crate::store::intake::{Answer, Intake};

const BOUNDS: Bounds = Bounds {
    // Some ten batches of small events, and of large ones as much as the database writes in a second.
    queue: Load { events: 4096, bytes: 64 * 1024 * 1024 },
    // Whoever comes while a batch is written waits for all of it, so its bytes are what the database writes in some
    // milliseconds: 512 events of 1 KiB.
    batch: Load { events: 512, bytes: 512 * 1024 },
};

/// An event on its way in, with the client that waits for the answer.
pub(super) struct Item {
    pub(super) intake: Intake,
    /// Its subscription's.
    pub(super) tenant: Tenant,
    pub(super) reply: oneshot::Sender<Result<Submitted, IngestError>>,
    came: Instant,
}

impl Event for Item {
    fn tenant(&self) -> &Tenant {
        &self.tenant
    }

    fn subscription(&self) -> SubscriptionId {
        self.intake.subscription_id
    }

    fn idempotency_key(&self) -> Option<&str> {
        self.intake.idempotency_key.as_deref()
    }

    fn bytes(&self) -> usize {
        self.intake.payload.len()
    }
}

/// What came of an event that was handed in.
pub(super) enum Submitted {
    /// The store has judged it.
    Answered(Answer),
    /// There is no room for it, as far as was counted: here it is again.
    BacklogFull(Box<Intake>),
}

/// The queue; it outlives a writer that dies.
pub(super) struct IngestQueue {
    queue: Mutex<IntakeQueue<Item>>,
    arrived: Notify,
    /// Of the one writer.
    writer: Arc<tokio::sync::Mutex<()>>,
}

/// A batch of events, which count as waiting until it is dropped.
pub(super) struct Taken<'a> {
    queue: &'a IngestQueue,
    load: Load,
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        self.queue.lock().settle(self.load);
    }
}

impl IngestQueue {
    pub(super) fn new() -> Self {
        let queue = Mutex::new(IntakeQueue::new(BOUNDS));
        Self { queue, arrived: Notify::new(), writer: Arc::default() }
    }

    /// Hands an event in and waits until it is stored or refused.
    ///
    /// May be dropped: the event is then stored or not, and nobody hears of it.
    pub(super) async fn submit(&self, intake: Intake, tenant: Tenant) -> Result<Submitted, IngestError> {
        let (reply, answer) = oneshot::channel();
        let pushed = self.lock().push(Item { intake, tenant, reply, came: Instant::now() });
        for item in pushed.evicted {
            // A client that left waits for nothing.
            let _ = item.reply.send(Err(refused(Refusal::OverShare)));
        }
        if let Some((_, refusal)) = pushed.refused {
            return Err(refused(refusal));
        }
        self.arrived.notify_one();
        // Without an answer the writer died with the batch: it may have been stored.
        answer.await.unwrap_or(Err(IngestError::OutcomeUnknown { retry_after: RETRY_AFTER }))
    }

    /// Refuses an event of so many bytes that would be refused if it were handed in now, so that its bytes need not be
    /// checked first.
    pub(super) fn check_room(&self, tenant: &Tenant, bytes: usize) -> Result<(), IngestError> {
        self.lock().would_refuse(tenant, bytes).map_or(Ok(()), |refusal| Err(refused(refusal)))
    }

    /// The right to take batches, which one writer has at a time.
    pub(super) async fn writer(&self) -> OwnedMutexGuard<()> {
        Arc::clone(&self.writer).lock_owned().await
    }

    /// The next batch, as soon as anything waits.
    pub(super) async fn next(&self) -> (Vec<Item>, Taken<'_>) {
        loop {
            let Batch { events, load } = self.lock().take_batch();
            if !events.is_empty() {
                return (events, Taken { queue: self, load });
            }
            self.arrived.notified().await;
        }
    }

    /// Tells those that have waited for so long that the store is not available.
    pub(super) fn give_up(&self, patience: Duration) {
        let given_up = self.lock().remove(|item| item.came.elapsed() >= patience);
        for item in given_up {
            let _ = item.reply.send(Err(refused(Refusal::Full)));
        }
    }

    fn lock(&self) -> MutexGuard<'_, IntakeQueue<Item>> {
        // Nothing in there panics half-way through a change.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

const fn refused(refusal: Refusal) -> IngestError {
    match refusal {
        Refusal::Full => IngestError::Busy { retry_after: RETRY_AFTER },
        Refusal::OverShare => IngestError::OverShare { retry_after: RETRY_AFTER },
    }
}
