//! Why a use case was refused or failed, named by what who asked can do about it.

use std::time::Duration;

use crate::dispatch::IngestError;
use crate::store;

/// When a client may try again after an outage of the database, which is asked again by then.
pub(super) const RETRY_AFTER: Duration = Duration::from_secs(1);

/// What is not there, or not for who asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Missing {
    /// A subscription.
    Subscription,
    /// A delivery; retention may have removed it.
    Delivery,
    /// An API key.
    Key,
    /// A tenant: another's, as every name is a tenant.
    Tenant,
}

/// Why a use case was refused or failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// It is not there for who asks.
    #[error("not found: {0:?}")]
    NotFound(Missing),
    /// It needs an admin's key.
    #[error("this needs an admin's key")]
    Forbidden,
    /// It needs a key.
    #[error("this needs a key")]
    KeyRequired,
    /// The address sent many wrong keys.
    #[error("too many wrong keys")]
    TooManyGuesses {
        /// When keys are looked up again.
        retry_after: Duration,
    },
    /// The subscription is disabled.
    #[error("the subscription is disabled")]
    Disabled,
    /// The subscription is paused.
    #[error("the subscription is paused")]
    Paused,
    /// The subscription of the delivery was deleted.
    #[error("the subscription was deleted")]
    SubscriptionDeleted,
    /// The delivery is finished.
    #[error("the delivery is finished")]
    Finished,
    /// No other admin's key is in force.
    #[error("the last admin's key stays")]
    LastAdminKey,
    /// The tenant has as many subscriptions as it may have.
    #[error("the tenant may have {max} subscriptions")]
    TooManySubscriptions {
        /// So many.
        max: u32,
    },
    /// The tenant calls more often than it may.
    #[error("the tenant's control limit is spent")]
    ControlSpent {
        /// When the next call may come.
        retry_after: Duration,
    },
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
    /// The tenant asks for more at once than its share; nothing was changed.
    #[error("the tenant is over its share")]
    OverShare {
        /// When to try again.
        retry_after: Duration,
    },
    /// So many reads wait that this one cannot be done in time. Told in no log line: one that reads too much would fill
    /// it.
    #[error("too many reads wait")]
    ReadsBusy {
        /// When to try again.
        retry_after: Duration,
    },
    /// Nothing was done.
    #[error("the store is not available")]
    Unavailable {
        /// When to try again.
        retry_after: Duration,
    },
    /// It may have been done.
    #[error("whether it was done is not known")]
    OutcomeUnknown {
        /// When to try again.
        retry_after: Duration,
    },
    /// A secret cannot be read or written.
    #[error("a secret cannot be read or written")]
    SecretsUnreadable,
    /// A part of the service is not ready.
    #[error("not ready: {0}")]
    NotReady(&'static str),
    /// A bug; the log says more.
    #[error("internal error")]
    Internal,
}

impl From<IngestError> for Error {
    fn from(error: IngestError) -> Self {
        match error {
            IngestError::NotFound => Self::NotFound(Missing::Subscription),
            IngestError::KeyReused => Self::KeyReused,
            IngestError::QuotaSpent { retry_after } => Self::QuotaSpent { retry_after },
            IngestError::StorageFull { retry_after } => Self::StorageFull { retry_after },
            IngestError::BacklogFull { retry_after } => Self::BacklogFull { retry_after },
            IngestError::OverShare { retry_after } => Self::OverShare { retry_after },
            IngestError::Busy { retry_after } => Self::Unavailable { retry_after },
            IngestError::OutcomeUnknown { retry_after } => Self::OutcomeUnknown { retry_after },
        }
    }
}

impl From<store::Error> for Error {
    fn from(error: store::Error) -> Self {
        match error {
            // The store itself tells when an outage begins and ends.
            store::Error::Unavailable(cause) | store::Error::SessionLost(cause) => {
                tracing::debug!(%cause, "store unavailable");
                Self::Unavailable { retry_after: RETRY_AFTER }
            }
            store::Error::OutcomeUnknown(cause) | store::Error::SyncFailed(cause) => {
                tracing::warn!(%cause, "outcome of a commit unknown");
                Self::OutcomeUnknown { retry_after: RETRY_AFTER }
            }
            store::Error::Secrets(cause) => {
                tracing::error!(%cause, "a secret cannot be read or written");
                Self::SecretsUnreadable
            }
            // None of these can come of a request that the domain let pass.
            store::Error::Conflict
            | store::Error::Refused(_)
            | store::Error::Corrupt(_)
            | store::Error::Unusable(_) => {
                tracing::error!(%error, "request failed");
                Self::Internal
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_store_says_stays_inside() {
        for error in [
            store::Error::Unavailable("SELECT secret".to_owned()),
            store::Error::OutcomeUnknown("SELECT secret".to_owned()),
            store::Error::Refused("SELECT secret".to_owned()),
            store::Error::Corrupt("SELECT secret".to_owned()),
        ] {
            let error = Error::from(error);
            assert!(!format!("{error} {error:?}").contains("SELECT"), "{error:?}");
        }
    }
}
