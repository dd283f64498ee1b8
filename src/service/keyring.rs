//! Which API keys open what.
//!
//! A key is looked up by its digest and kept at hand for a few seconds, so that one that is revoked at another
//! node, or in the database, opens nothing soon after, whatever is lost on the way. That is why keys are not
//! shared through Redis either.
//!
//! Who sends many keys that nobody knows is kept waiting, by address. Others may share the address (NAT, a balancer
//! that names nobody): so a key that was right in the last day is looked up all the same. It still has to be in the
//! store.

use std::net::{IpAddr, Ipv6Addr};
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use governor::clock::DefaultClock;
use governor::state::keyed::HashMapStateStore;
use governor::{Quota, RateLimiter};
use moka::future::Cache;
use moka::policy::EvictionPolicy;
use posthorn_domain::api_key::{self, KeyDigest, KeyRecord};
use posthorn_domain::audit::Actor;
use posthorn_domain::id::KeyId;
use posthorn_domain::time::Timestamp;
use subtle::ConstantTimeEq as _;

use super::openness::Openness;
use super::{Access, Error};
use crate::clock::Clock;
use crate::store::Store;

/// How long a key is used without being looked up. A revoked one is refused within 5 s.
const KEPT: Duration = Duration::from_secs(4);
/// Keys at hand.
const KEPT_MAX: u64 = 10_000;
/// When a key was used last is noted no more often.
const USE_NOTED_EACH: Duration = Duration::from_mins(1);

/// Different unknown keys that one address may send at once, after a rest of as many seconds.
const GUESSES: NonZeroU32 = NonZeroU32::MIN.saturating_add(49);
/// How long no key is looked up for an address that sent more.
const GUESSERS_WAIT: Duration = Duration::from_secs(5);
/// Addresses whose guesses are counted each for itself.
const GUESSERS_MAX: usize = 10_000;
/// How long a key that was right is looked up even for an address that guesses.
const TRUSTED_FOR: Duration = Duration::from_hours(24);
/// Keys that are remembered for it, the last used ones; some 100 bytes each.
const TRUSTED_MAX: u64 = 10_000;

/// The keys that open the API. Cheap to clone.
#[derive(Clone)]
pub(super) struct Keyring(Arc<Inner>);

struct Inner {
    store: Store,
    clock: Clock,
    /// From the configuration; opens everything, with or without the store.
    admin: Option<KeyDigest>,
    /// Where nobody may need a key.
    openness: Option<Openness>,
    known: Cache<KeyDigest, Arc<KeyRecord>>,
    /// Keys that nobody knows. A client that sends a wrong one over and over is set up wrongly and guesses nothing.
    unknown: Cache<KeyDigest, ()>,
    /// Keys that were right when they were looked up last. None of them opens anything by standing here.
    trusted: Cache<KeyDigest, ()>,
    guesses: RateLimiter<IpAddr, HashMapStateStore<IpAddr>, DefaultClock>,
    guessers: Cache<IpAddr, ()>,
}

impl Keyring {
    /// The keys in the store, and `admin`. Where that is none and `is_open`, nobody needs a key until there is one.
    pub(super) fn new(store: Store, clock: Clock, admin: Option<KeyDigest>, is_open: bool) -> Self {
        Self(Arc::new(Inner {
            store,
            clock,
            openness: (is_open && admin.is_none()).then(Openness::new),
            admin,
            known: Cache::builder().max_capacity(KEPT_MAX).time_to_live(KEPT).build(),
            unknown: Cache::builder().max_capacity(KEPT_MAX).time_to_live(KEPT).build(),
            trusted: Cache::builder()
                .max_capacity(TRUSTED_MAX)
                .time_to_live(TRUSTED_FOR)
                .eviction_policy(EvictionPolicy::lru())
                .build(),
            guesses: RateLimiter::hashmap(Quota::per_second(NonZeroU32::MIN).allow_burst(GUESSES)),
            guessers: Cache::builder().max_capacity(GUESSERS_MAX as u64).time_to_live(GUESSERS_WAIT).build(),
        }))
    }

    /// Whether nobody needs a key: the server may be open, and there has never been one.
    pub(super) async fn is_open(&self) -> Result<bool, Error> {
        match &self.0.openness {
            Some(openness) => Ok(openness.is_open(&self.0.store).await?),
            None => Ok(false),
        }
    }

    /// As [`is_open`](Self::is_open), as far as is known without looking.
    pub(super) fn was_open(&self) -> bool {
        self.0.openness.as_ref().is_some_and(Openness::was_open)
    }

    /// Who sends `key` from `address`; anonymous where nobody knows it.
    pub(super) async fn access(&self, key: &[u8], address: Option<IpAddr>) -> Result<Access, Error> {
        let inner = &self.0;
        let digest = KeyDigest::of(key);
        if inner.admin.is_some_and(|admin| admin.0.ct_eq(&digest.0).into()) {
            return Ok(Access::Admin(Actor::AdminKey));
        }
        let now = inner.clock.now();
        if let Some(record) = inner.known.get(&digest).await {
            return Ok(if record.is_valid_at(now) { opened(&record) } else { Access::Anonymous });
        }
        if inner.unknown.contains_key(&digest) {
            return Ok(Access::Anonymous);
        }
        let address = network(address);
        if inner.guessers.contains_key(&address) && !inner.trusted.contains_key(&digest) {
            return Err(Error::TooManyGuesses { retry_after: GUESSERS_WAIT });
        }
        let found = inner.store.key_by_digest(digest).await?.filter(|record| record.is_valid_at(now));
        let Some(record) = found else {
            inner.trusted.invalidate(&digest).await;
            inner.unknown.insert(digest, ()).await;
            self.count_guess(address).await;
            return Ok(Access::Anonymous);
        };
        inner.trusted.insert(digest, ()).await;
        self.note_use(record.id, record.last_used_at, now);
        let opened = opened(&record);
        inner.known.insert(digest, Arc::new(record)).await;
        Ok(opened)
    }

    /// A key was made, here.
    pub(super) async fn added(&self, digest: KeyDigest) {
        self.0.unknown.invalidate(&digest).await;
        if let Some(openness) = &self.0.openness {
            openness.close();
        }
    }

    /// A key was revoked, here.
    pub(super) async fn revoked(&self, digest: KeyDigest) {
        self.0.known.invalidate(&digest).await;
        self.0.trusted.invalidate(&digest).await;
    }

    async fn count_guess(&self, address: IpAddr) {
        let Inner { guesses, guessers, .. } = &*self.0;
        if guesses.len() >= GUESSERS_MAX {
            guesses.retain_recent();
        }
        // Beyond what is counted each for itself, all others count as one.
        let counted = if guesses.len() < GUESSERS_MAX { address } else { Ipv6Addr::UNSPECIFIED.into() };
        if guesses.check_key(&counted).is_err() && guessers.get(&address).await.is_none() {
            tracing::warn!(%address, "too many wrong API keys");
            guessers.insert(address, ()).await;
        }
    }

    fn note_use(&self, id: KeyId, last: Option<Timestamp>, now: Timestamp) {
        if last.is_some_and(|last| now.since(last) < USE_NOTED_EACH) {
            return;
        }
        let store = self.0.store.clone();
        tokio::spawn(async move {
            if let Err(error) = store.note_key_use(id, now).await {
                tracing::debug!(%error, "when a key was used is not noted");
            }
        });
    }
}

fn opened(record: &KeyRecord) -> Access {
    let actor = Actor::ApiKey(record.id);
    match &record.access {
        api_key::Access::Admin => Access::Admin(actor),
        api_key::Access::Tenant(tenant) => Access::Tenant(tenant.clone(), actor),
    }
}

/// What guesses are counted by: an address, of IPv6 its network of 64 bits, which is what one host has.
fn network(address: Option<IpAddr>) -> IpAddr {
    match address.map(|address| address.to_canonical()) {
        Some(IpAddr::V6(address)) => Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into(),
        Some(v4) => v4,
        None => Ipv6Addr::UNSPECIFIED.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_counted_by_their_network() {
        for (address, counted) in [
            ("192.0.2.7", "192.0.2.7"),
            ("::ffff:192.0.2.7", "192.0.2.7"),
            ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::"),
        ] {
            assert_eq!(network(Some(address.parse().unwrap())), counted.parse::<IpAddr>().unwrap());
        }
        assert_eq!(network(None), Ipv6Addr::UNSPECIFIED);
    }
}
