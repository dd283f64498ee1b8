//! Changes that people ask for, bounded before anything is spawned for them.
//!
//! A change goes on to its end whether or not its client stays, so each runs in a task of its own. Who asks needs
//! a permit first; it travels with the task and comes back with its end. Whoever waits for a permit and leaves is
//! forgotten, so that thousands of abandoned requests come to nothing.
//!
//! A tenant has few permits at once and a bounded number of requests that wait for one; beyond it hears 429. So a
//! tenant that changes nothing else all day delays another tenant's change by a few transactions.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use posthorn_domain::tenant::Tenant;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::yield_now;

use super::Error;
use super::error::RETRY_AFTER;
use crate::store;

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
pub(super) struct Changes {
    all: Permits,
    /// Of each tenant that has any.
    tenants: Mutex<BTreeMap<Tenant, Weak<Permits>>>,
}

/// The right to make one change. Given back when it is dropped.
#[derive(Debug)]
pub(super) struct ChangePermit {
    _permits: [OwnedSemaphorePermit; 4],
    /// While it is held all that the tenant changes is counted in one place.
    _tenant: Arc<Permits>,
}

impl Permits {
    fn new(asked: usize, running: usize) -> Self {
        Self { asked: Arc::new(Semaphore::new(asked)), running: Arc::new(Semaphore::new(running)) }
    }
}

impl Default for Changes {
    fn default() -> Self {
        Self { all: Permits::new(ASKED_MAX, RUNNING_MAX), tenants: Mutex::default() }
    }
}

impl Changes {
    /// The right to make a change for a tenant; waits for its turn. May be dropped.
    pub(super) async fn permit(&self, tenant: &Tenant) -> Result<ChangePermit, Error> {
        // Meanwhile its connection looks whether who asked is still there, and drops this where not: nothing is done for
        // those who have left before it began.
        yield_now().await;
        let own = self.of_tenant(tenant);
        let asked_own = Arc::clone(&own.asked).try_acquire_owned();
        let asked_own = asked_own.map_err(|_| Error::OverShare { retry_after: RETRY_AFTER })?;
        let busy = || Error::Unavailable { retry_after: RETRY_AFTER };
        let asked = Arc::clone(&self.all.asked).try_acquire_owned().map_err(|_| busy())?;
        let running = async {
            // The tenant's first: so it has no more than these in the queue for those of all.
            let running_own = Arc::clone(&own.running).acquire_owned().await;
            (running_own, Arc::clone(&self.all.running).acquire_owned().await)
        };
        let running = tokio::time::timeout(PATIENCE, running).await.map_err(|_| busy())?;
        // They are never closed.
        let (Ok(running_own), Ok(running)) = running else { return Err(busy()) };
        Ok(ChangePermit { _permits: [asked_own, asked, running_own, running], _tenant: own })
    }

    fn of_tenant(&self, tenant: &Tenant) -> Arc<Permits> {
        // Nothing panics under it.
        let mut tenants = self.tenants.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = tenants.get(tenant).and_then(Weak::upgrade) {
            return known;
        }
        // No more ask at once, so half of these at least have nothing under way.
        if tenants.len() >= 2 * ASKED_MAX {
            tenants.retain(|_, permits| permits.strong_count() > 0);
        }
        let new = Arc::new(Permits::new(ASKED_OF_TENANT_MAX, RUNNING_OF_TENANT_MAX));
        tenants.insert(tenant.clone(), Arc::downgrade(&new));
        new
    }
}

/// Makes a change to its end, and tells of it, whether or not the client stays.
pub(super) async fn to_its_end<T: Send + 'static>(
    permit: ChangePermit,
    change: impl Future<Output = Result<T, store::Error>> + Send + 'static,
) -> Result<T, Error> {
    let task = tokio::spawn(async move {
        let _permit = permit;
        change.await
    });
    let early = |_| store::Error::OutcomeUnknown("the change's task ended early".to_owned());
    Ok(task.await.map_err(early)??)
}
