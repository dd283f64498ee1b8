//! From an accepted event to a recorded outcome: the tree of actors and what they share.
//!
//! ```text
//! Root ─┬─ OutcomeWriter   records how attempts ended, a batch a commit
//!       ├─ IngestWriter    accepts events, a batch a commit
//!       ├─ Dispatcher ─┬─ SubscriptionActor { Lane }   one for each busy subscription
//!       │              └─ …
//!       └─ Janitor         removes what is old
//! ```
//!
//! [`Handle`] is the face of it all. Handlers of messages never wait for network or
//! disk: an attempt, a load and a commit are tasks that report back. Mailboxes have no bound, so
//! what makes messages is bounded before them: requests in flight by [`admission`], events on their
//! way in by the queue before the ingest writer.
//!
//! An actor that panics is rebuilt from the store alone, after a delay that grows with each time.

mod accept;
mod admission;
mod arrivals;
mod attempt;
mod backlogs;
mod backoff;
mod deletions;
mod dispatcher;
mod ears;
mod handle;
mod ingest_error;
mod ingest_queue;
mod ingest_writer;
mod janitor;
#[cfg(test)]
mod laws;
mod leases;
mod limits;
mod membership;
mod outcome_writer;
mod pace;
mod quota;
mod root;
mod stored;
mod subscription;
mod tenants;
#[cfg(test)]
mod tests;
mod worker;

use std::sync::Arc;
use std::time::Duration;

use posthorn_domain::subscription::Defaults;
use posthorn_domain::tenant::Quotas;
use tokio::sync::Semaphore;

use crate::cache::Caches;
use crate::clock::Clock;
use crate::sender::Sender;
use crate::store::Store;

pub use accept::{Accepted, NewEvent};
pub use handle::Handle;
pub use ingest_error::IngestError;
pub use root::Dispatch;
#[cfg(test)]
pub(crate) use tests::start as start_for_tests;

use admission::Admission;
use arrivals::Arrivals;
use backlogs::Backlogs;
use deletions::Deletions;
use dispatcher::DispatcherLink;
use ingest_queue::IngestQueue;
use leases::Leases;
use limits::Limits;
use membership::Membership;
use outcome_writer::OutcomeQueue;
use tenants::Tenants;

/// How dispatch is set up.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// What the configuration says where a subscription says nothing.
    pub defaults: Defaults,
    /// Requests in flight on this node.
    pub in_flight_max: u32,
    /// Unfinished deliveries that one subscription may have.
    pub backlog_max: i64,
    /// Finished deliveries older than this are removed.
    pub retention: Duration,
    /// Lines of the audit log older than this are removed.
    pub audit_retention: Duration,
    /// How often what is old is looked for.
    pub cleanup_interval: Duration,
    /// How long a node that stopped answering keeps its slots.
    pub lease: Duration,
    /// What a tenant may have where its own settings say nothing.
    pub quotas: Quotas,
}

/// Pages of lanes that are read at once; the others wait their turn, so that a start with many
/// lanes leaves connections for the API.
const LOADS_AT_ONCE: usize = 6;

/// Tenants whose stored bytes are counted at once.
const COUNTS_AT_ONCE: usize = 2;

/// What the actors share.
struct Parts {
    settings: Settings,
    store: Store,
    caches: Caches,
    tenants: Tenants,
    sender: Sender,
    clock: Clock,
    admission: Arc<Admission>,
    arrivals: Arrivals,
    backlogs: Backlogs,
    deletions: Deletions,
    limits: Limits,
    ingest: IngestQueue,
    outcomes: OutcomeQueue,
    dispatcher: DispatcherLink,
    leases: Leases,
    membership: Membership,
    loads: Semaphore,
    counts: Semaphore,
}

impl Parts {
    fn new(settings: Settings, store: Store, caches: Caches, sender: Sender, clock: Clock) -> Arc<Self> {
        let leases =
            if store.is_shared() { Leases::shared(settings.lease) } else { Leases::whole(settings.lease) };
        Arc::new(Self {
            settings,
            backlogs: Backlogs::new(store.clone()),
            tenants: Tenants::new(caches.clone(), settings.quotas),
            deletions: Deletions::default(),
            limits: Limits::default(),
            store,
            caches,
            sender,
            clock,
            admission: Admission::new(settings.in_flight_max),
            arrivals: Arrivals::default(),
            ingest: IngestQueue::new(),
            outcomes: OutcomeQueue::new(settings.in_flight_max),
            dispatcher: DispatcherLink::default(),
            leases,
            membership: Membership::new(clock.now()),
            loads: Semaphore::new(LOADS_AT_ONCE),
            counts: Semaphore::new(COUNTS_AT_ONCE),
        })
    }
}
