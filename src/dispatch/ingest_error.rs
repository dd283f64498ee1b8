//! Why an event is kept out.

use std::time::Duration;

/// When a client may try again.
pub(super) const RETRY_AFTER: Duration = Duration::from_secs(1);

/// Why an event was not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IngestError {
    /// There is no such subscription any more.
    #[error("not found")]
    NotFound,
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

impl IngestError {
    /// The subscription has as many unfinished deliveries as it may have.
    pub const BACKLOG_FULL: Self = Self::BacklogFull { retry_after: RETRY_AFTER };
}
