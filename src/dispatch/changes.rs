//! Changes that people ask for, bounded before anything is spawned for them.
//!
//! A change goes on to its end whether or not its client stays, so each runs in a task of its own. Who asks needs
//! a permit first; it travels with the task and comes back with its end. Whoever waits for a permit and leaves is
//! forgotten, so that thousands of abandoned requests come to nothing.
//!
//! A tenant has few permits at once and a bounded number of requests that wait for one; beyond it hears 429. So a
//! tenant that changes nothing else all day delays another tenant's change by a few transactions.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::yield_now;

use super::control::IngestError;
use super::ingest_writer::RETRY_AFTER;
use super::tenants::TenantState;
use crate::store::Error;

/// Changes under way on this node: fewer than the store's transactions, so that housekeeping finds room.
const RUNNING_MAX: usize = 6;
/// Changes of one tenant under way: half, so that another tenant finds room at once.
const RUNNING_OF_TENANT_MAX: usize = 3;
/// Requests for changes on this node, those that wait included.
const ASKED_MAX: usize = 2048;
/// Those of one tenant: an eighth, so that several tenants at once leave room for others. They only wait, and change
/// three at a time.
const ASKED_OF_TENANT_MAX: usize = 256;
/// How long a change waits for its permit before the store counts as not available.
const PATIENCE: Duration = Duration::from_secs(10);

/// Why a change was not made.
#[derive(Debug, thiserror::Error)]
pub enum ChangeError {
    /// The store did not do it.
    #[error(transparent)]
    Store(#[from] Error),
    /// The tenant asks for more changes at once than its share; nothing was changed.
    #[error("the tenant is over its share")]
    OverShare {
        /// When to try again.
        retry_after: Duration,
    },
    /// The tenant has as many subscriptions as it may have.
    #[error("the tenant may have {max} subscriptions")]
    TooManySubscriptions {
        /// So many.
        max: u32,
    },
    /// Too many changes wait; nothing was changed.
    #[error("too many changes wait")]
    Busy {
        /// When to try again.
        retry_after: Duration,
    },
}

/// The changes of one kind of asker.
#[derive(Debug)]
struct Permits {
    /// Of those that asked.
    asked: Arc<Semaphore>,
    /// Of those under way.
    running: Arc<Semaphore>,
}

/// The changes under way on this node.
#[derive(Debug)]
pub(super) struct Changes(Permits);

/// One tenant's changes under way.
#[derive(Debug)]
pub(super) struct TenantChanges(Permits);

/// The right to make one change. Given back when it is dropped.
#[derive(Debug)]
pub(super) struct ChangePermit {
    _permits: [OwnedSemaphorePermit; 4],
    /// While it is held the tenant is in use, and its changes are counted in one place.
    _tenant: Arc<TenantState>,
}

impl Permits {
    fn new(asked: usize, running: usize) -> Self {
        Self { asked: Arc::new(Semaphore::new(asked)), running: Arc::new(Semaphore::new(running)) }
    }
}

impl Default for Changes {
    fn default() -> Self {
        Self(Permits::new(ASKED_MAX, RUNNING_MAX))
    }
}

impl Default for TenantChanges {
    fn default() -> Self {
        Self(Permits::new(ASKED_OF_TENANT_MAX, RUNNING_OF_TENANT_MAX))
    }
}

impl Changes {
    /// The right to make a change for a tenant; waits for its turn. May be dropped.
    pub(super) async fn permit(&self, tenant: Arc<TenantState>) -> Result<ChangePermit, ChangeError> {
        // Meanwhile its connection looks whether who asked is still there, and drops this where not: nothing is done for
        // those who have left before it began.
        yield_now().await;
        let own = &tenant.changes().0;
        let asked_own = Arc::clone(&own.asked).try_acquire_owned();
        let asked_own = asked_own.map_err(|_| ChangeError::OverShare { retry_after: RETRY_AFTER })?;
        let busy = || ChangeError::Busy { retry_after: RETRY_AFTER };
        let asked = Arc::clone(&self.0.asked).try_acquire_owned().map_err(|_| busy())?;
        let running = async {
            // The tenant's first: so it has no more than these in the queue for those of all.
            let running_own = Arc::clone(&own.running).acquire_owned().await;
            (running_own, Arc::clone(&self.0.running).acquire_owned().await)
        };
        let running = tokio::time::timeout(PATIENCE, running).await.map_err(|_| busy())?;
        // They are never closed.
        let (Ok(running_own), Ok(running)) = running else { return Err(busy()) };
        Ok(ChangePermit { _permits: [asked_own, asked, running_own, running], _tenant: tenant })
    }
}

/// Makes a change to its end, and tells of it, whether or not the client stays.
pub(super) async fn to_its_end<T: Send + 'static>(
    permit: ChangePermit,
    change: impl Future<Output = Result<T, Error>> + Send + 'static,
) -> Result<T, ChangeError> {
    let task = tokio::spawn(async move {
        let _permit = permit;
        change.await
    });
    let early = |_| Error::OutcomeUnknown("the change's task ended early".to_owned());
    Ok(task.await.map_err(early)??)
}

impl From<ChangeError> for IngestError {
    fn from(error: ChangeError) -> Self {
        match error {
            ChangeError::OverShare { retry_after } => Self::OverShare { retry_after },
            ChangeError::Store(Error::OutcomeUnknown(_) | Error::SyncFailed(_)) => {
                Self::OutcomeUnknown { retry_after: RETRY_AFTER }
            }
            ChangeError::Store(_) | ChangeError::Busy { .. } | ChangeError::TooManySubscriptions { .. } => {
                Self::Busy { retry_after: RETRY_AFTER }
            }
        }
    }
}
