//! The use cases: what people may read and do. The API calls them, and pages will.
//!
//! Every method takes an [`Access`]: what is another tenant's is not there for it, and answers as what does not exist. A
//! change is committed first and told to its lane after. Reads and changes are bounded and shared fairly by tenants
//! ([`reads`], [`changes`]); whose key it is says the [`keyring`].

mod access;
mod audit;
mod changes;
mod deliveries;
mod error;
mod events;
mod keyring;
mod keys;
mod openness;
mod reads;
mod status;
mod subscriptions;
mod tenants;
#[cfg(test)]
mod tests;
mod waiting_for;

use std::sync::Arc;

use posthorn_domain::api_key::{KeyDigest, LastAdminKey};
use posthorn_domain::audit::{Actor, Stamp};

use crate::cache::Caches;
use crate::clock::Clock;
use crate::dispatch;
use crate::store::Store;
use changes::Changes;
use keyring::Keyring;
use reads::Reads;

pub use crate::dispatch::{Accepted, NewEvent};
pub use access::Access;
pub use deliveries::Explained;
pub use error::{Error, Missing};
pub use subscriptions::Transition;

/// How the use cases are set up.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Sees and does everything, beside the keys in the store.
    pub admin_key: Option<KeyDigest>,
    /// Whether who reaches the server sees and does everything until there is a key: it may be so, and the store has
    /// none.
    pub is_open: bool,
    /// Whether the last key that opens everything may be revoked.
    pub last_admin_key: LastAdminKey,
}

/// The use cases. Cheap to clone.
#[derive(Clone)]
pub struct Service(Arc<Inner>);

struct Inner {
    settings: Settings,
    store: Store,
    caches: Caches,
    dispatch: dispatch::Handle,
    clock: Clock,
    changes: Changes,
    reads: Reads,
    keyring: Keyring,
}

impl Service {
    /// Over the parts that do the work.
    #[must_use]
    pub fn new(
        settings: Settings,
        store: Store,
        caches: Caches,
        dispatch: dispatch::Handle,
        clock: Clock,
    ) -> Self {
        let keyring = Keyring::new(store.clone(), clock, settings.admin_key, settings.is_open);
        let (changes, reads) = (Changes::default(), Reads::new());
        Self(Arc::new(Inner { settings, store, caches, dispatch, clock, changes, reads, keyring }))
    }
}

impl Inner {
    fn stamp(&self, by: Actor) -> Stamp {
        Stamp { by, at: self.clock.now() }
    }
}

#[cfg(test)]
impl Service {
    /// On a database in memory, with nothing in it; open where there is no admin's key.
    pub(crate) async fn for_tests(admin_key: Option<KeyDigest>) -> Self {
        use crate::store;

        let store = Store::connect(&store::Settings::at("sqlite://:memory:".to_owned())).await.unwrap();
        store.migrate_up().await.unwrap();
        let caches = Caches::new(store.clone(), None).unwrap();
        let dispatch = dispatch::start_for_tests(&store, 1).await.handle();
        let settings = Settings { admin_key, is_open: true, last_admin_key: LastAdminKey::MayGo };
        Self::new(settings, store, caches, dispatch, Clock::system())
    }
}
