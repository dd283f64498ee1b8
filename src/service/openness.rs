//! Whether a server is still open: nobody needs a key, because there has never been one.
//!
//! That holds in one direction only. The first key closes the server, however it was made: here, at another node, by
//! a command beside the service, or in the database. From then on it is closed until it is started again, whatever
//! becomes of the key (I30). A request is let in only where the store said "there is no key" no longer than
//! [`KNOWN_FOR`] ago; what is older is looked up before the request is answered. An error lets nobody in.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::time::timeout;

use crate::store::{Error, Store};

/// How long "there is no key" holds without being looked up: a key that is made elsewhere closes the server within
/// it. Long enough that the look-up costs nothing beside what it guards.
const KNOWN_FOR: Duration = Duration::from_millis(500);
/// How long one look-up may take (I27).
const LOOK_UP_TIME: Duration = Duration::from_secs(3);

/// A server that is open until there is a key.
pub(super) struct Openness {
    closed: AtomicBool,
    last: Mutex<LookUp>,
    /// One look-up at a time; others wait for what it finds.
    looking: tokio::sync::Mutex<()>,
}

/// The last look-up.
#[derive(Clone, Copy)]
struct LookUp {
    /// What it found was so then or later.
    began: Instant,
    /// Whether it found that there is no key; else nobody could tell.
    succeeded: bool,
}

impl Openness {
    /// Where there was no key a moment ago.
    pub(super) fn new() -> Self {
        Self {
            closed: AtomicBool::new(false),
            last: Mutex::new(LookUp { began: Instant::now(), succeeded: true }),
            looking: tokio::sync::Mutex::default(),
        }
    }

    /// There is a key.
    pub(super) fn close(&self) {
        self.closed.store(true, Ordering::Release);
    }

    /// Whether a key was never seen. Looks nothing up: for what asks for no key anyway.
    pub(super) fn was_open(&self) -> bool {
        !self.closed.load(Ordering::Acquire)
    }

    /// Whether there is still no key. May be dropped.
    pub(super) async fn is_open(&self, store: &Store) -> Result<bool, Error> {
        let asked_at = Instant::now();
        if let Some(known) = self.known(asked_at) {
            return known;
        }
        let _turn = self.looking.lock().await;
        // Whoever had the turn before may have found it out for this one as well.
        if let Some(known) = self.known(asked_at) {
            return known;
        }
        let began = Instant::now();
        let found = timeout(LOOK_UP_TIME, store.has_keys(false)).await;
        let found = found.unwrap_or_else(|_| Err(nobody_can_tell()));
        if let Ok(true) = found {
            self.close();
        }
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) =
            LookUp { began, succeeded: found.is_ok() };
        found.map(|_| self.was_open())
    }

    /// What who asked at `asked_at` may be told without a look-up.
    fn known(&self, asked_at: Instant) -> Option<Result<bool, Error>> {
        if !self.was_open() {
            return Some(Ok(false));
        }
        let last = *self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if last.succeeded {
            (last.began + KNOWN_FOR > asked_at).then_some(Ok(true))
        } else {
            // Only who waited for it shares in a failure: the next one may have better luck.
            (last.began >= asked_at).then(|| Err(nobody_can_tell()))
        }
    }
}

fn nobody_can_tell() -> Error {
    Error::Unavailable("whether there is an API key could not be looked up".to_owned())
}

#[cfg(test)]
mod tests {
    use posthorn_domain::api_key::{Access, ApiKey, KeyName, KeyRecord, LastAdminKey};
    use posthorn_domain::audit::{Actor, Stamp};
    use posthorn_domain::id::KeyId;
    use posthorn_domain::time::Timestamp;
    use uuid::Uuid;

    use super::*;
    use crate::store::Settings;

    async fn store(folder: &tempfile::TempDir) -> Store {
        let url = format!("sqlite://{}", folder.path().join("posthorn.db").display());
        let store = Store::connect(&Settings::at(url)).await.unwrap();
        store.migrate_up().await.unwrap();
        store
    }

    /// Makes a key and revokes it again.
    async fn make_and_revoke(store: &Store) {
        let at = Timestamp::from_millis(0);
        let record = KeyRecord {
            id: KeyId(Uuid::now_v7()),
            name: KeyName::default(),
            access: Access::Admin,
            created_at: at,
            expires_at: None,
            last_used_at: None,
        };
        store.insert_key(&record, ApiKey::from_random([7; 32]).digest(), Actor::Command).await.unwrap();
        store.revoke_key(record.id, Stamp { by: Actor::Command, at }, LastAdminKey::MayGo).await.unwrap();
    }

    fn is_stale(openness: &Openness) {
        openness.last.lock().unwrap().began = Instant::now().checked_sub(KNOWN_FOR).unwrap();
    }

    #[tokio::test]
    async fn what_is_stale_is_looked_up_before_it_is_answered() {
        let folder = tempfile::tempdir().unwrap();
        let store = store(&folder).await;
        let openness = Openness::new();
        assert!(openness.is_open(&store).await.unwrap());
        let at = Timestamp::from_millis(0);
        let record = KeyRecord {
            id: KeyId(Uuid::now_v7()),
            name: KeyName::default(),
            access: Access::Admin,
            created_at: at,
            // It opens nothing any more, and closes the server all the same.
            expires_at: Some(at),
            last_used_at: None,
        };
        let digest = ApiKey::from_random([8; 32]).digest();
        store.insert_key(&record, digest, Actor::Command).await.unwrap();
        is_stale(&openness);
        assert!(!openness.is_open(&store).await.unwrap(), "the first request after it is refused");

        let revoked = store.revoke_key(record.id, Stamp { by: Actor::Command, at }, LastAdminKey::MayGo);
        revoked.await.unwrap();
        assert!(!store.has_keys(false).await.unwrap());
        is_stale(&openness);
        assert!(!openness.is_open(&store).await.unwrap(), "closed is closed");
    }

    #[tokio::test]
    async fn a_key_that_was_made_here_closes_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let store = store(&folder).await;
        let openness = Openness::new();
        make_and_revoke(&store).await;
        openness.close();
        assert!(!openness.was_open() && !openness.is_open(&store).await.unwrap());
    }

    #[tokio::test]
    async fn errors_let_nobody_in() {
        let folder = tempfile::tempdir().unwrap();
        let store = store(&folder).await;
        let openness = Openness::new();
        store.close().await;
        assert!(openness.is_open(&store).await.unwrap(), "it was asked a moment ago");
        is_stale(&openness);
        for _ in 0..2 {
            openness.is_open(&store).await.unwrap_err();
        }
    }
}
