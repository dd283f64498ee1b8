//! What the nodes share through Redis, so that a node reads from there what another one knows already.
//!
//! Nothing here may be older than the database, whatever becomes of Redis:
//!
//! - Before a change is committed its entry is *marked*: a marked entry is not read, and nothing is put in its
//!   place until the mark is taken away after the commit. Marks are counted, and age away with their node.
//! - A change that could not be marked is followed by a new namespace for all entries (`store/shared_cache.rs`),
//!   and so is another run of Redis, which may have lost what it was told.
//! - An entry is only replaced by a newer version of itself, and none gets older than [`ENTRY_SECONDS`].

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use fred::prelude::Value;
use futures_util::future::join_all;
use posthorn_domain::id::SubscriptionId;
use posthorn_domain::subscription::RateLimit;
use posthorn_domain::tenant::Tenant;
use tokio::sync::Mutex;
use tracing::{info, warn};
use uuid::Uuid;

use super::redis::Redis;
use crate::store::Store;
use crate::store::shared_cache::SharedCache;

/// How old an entry gets at most.
const ENTRY_SECONDS: u32 = 300;
/// How old a mark gets at most: longer than a change may take from there to its end.
const MARK_SECONDS: u32 = 60;
/// How often a Redis that is away is looked at.
const LOOK: Duration = Duration::from_millis(500);

/// Marks an entry, once more where it is marked. ARGV: seconds.
const MARK: &str = "
local entry = redis.call('GET', KEYS[1])
local marks = entry and tonumber(string.match(entry, '^?(%d+)$')) or 0
redis.call('SET', KEYS[1], '?' .. string.format('%d', marks + 1), 'EX', ARGV[1])
return 1";

/// Takes one mark away, and the entry with the last one. ARGV: seconds.
const UNMARK: &str = "
local entry = redis.call('GET', KEYS[1])
local marks = entry and tonumber(string.match(entry, '^?(%d+)$')) or 1
if marks > 1 then
    redis.call('SET', KEYS[1], '?' .. string.format('%d', marks - 1), 'EX', ARGV[1])
else
    redis.call('DEL', KEYS[1])
end
return 1";

/// Puts an entry, unless it is marked or at least as new. ARGV: version, entry, seconds.
const PUT: &str = "
local entry = redis.call('GET', KEYS[1])
if entry then
    local version = tonumber(string.match(entry, '^(%d+) '))
    if not version or version >= tonumber(ARGV[1]) then return 0 end
end
redis.call('SET', KEYS[1], ARGV[1] .. ' ' .. ARGV[2], 'EX', ARGV[3])
return 1";

/// A token bucket, kept as the time at which it will be full again (the virtual scheduling form of the generic
/// cell rate algorithm, ITU-T I.371), by the clock of Redis. ARGV: microseconds for one turn, burst, turns
/// wanted, turns given back. Returns the turns taken, and where there are none, microseconds until the next.
const TAKE: &str = "
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local interval, burst = tonumber(ARGV[1]), tonumber(ARGV[2])
local full = tonumber(redis.call('GET', KEYS[1])) or now
full = math.max(full - tonumber(ARGV[4]) * interval, now)
local free = math.floor((now + burst * interval - full) / interval)
local taken = math.max(math.min(free, tonumber(ARGV[3])), 0)
full = full + taken * interval
redis.call('SET', KEYS[1], string.format('%.0f', full), 'PX', string.format('%.0f', (full - now) / 1000 + 1000))
local wait = 0
if taken == 0 then wait = full + interval - burst * interval - now end
return { taken, string.format('%.0f', wait) }";

/// What an entry is of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Key {
    Subscription(SubscriptionId),
    Tenant(Tenant),
}

/// An entry, as far as it is known.
pub(super) struct Found {
    /// Where it is to be put where it was not there.
    pub(super) place: Option<String>,
    /// As the store encoded it.
    pub(super) bytes: Option<Vec<u8>>,
}

/// Of what a tenant uses is counted in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bucket {
    /// Requests to its endpoints.
    Deliveries,
    /// Events that it hands in.
    Ingest,
    /// Its calls of the API.
    Control,
}

/// Turns of a common pace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Turns {
    /// So many were had.
    pub taken: u32,
    /// Where none was, when there will be one.
    pub wait: Duration,
}

/// What is shared through Redis, where there is one.
#[derive(Debug)]
pub(super) struct Shared {
    redis: Option<Redis>,
    store: Store,
    /// Where entries are kept, as far as this node has heard; none: it does not know.
    place: RwLock<Option<SharedCache>>,
    /// Who finds that out, one at a time: so what is known last was read last.
    reading: Mutex<()>,
    /// The run of Redis that answers here.
    run: RwLock<Option<String>>,
    /// A change could not be told, and there is no new namespace yet.
    renewal_due: AtomicBool,
}

/// What keeps entries from being used while a change of them is about to be committed.
#[must_use = "whatever became of the change"]
#[derive(Debug)]
pub(super) struct Marks {
    entries: Vec<String>,
    /// All of them are marked.
    told: bool,
}

impl Found {
    /// It is not known, and not to be put anywhere.
    pub(super) const NOWHERE: Self = Self { place: None, bytes: None };
}

impl Shared {
    pub(super) fn new(redis: Option<Redis>, store: Store) -> Self {
        Self {
            redis,
            store,
            place: RwLock::default(),
            reading: Mutex::default(),
            run: RwLock::default(),
            renewal_due: AtomicBool::new(false),
        }
    }

    /// Looks after Redis, and after what could not be told. Does not return.
    pub(super) async fn watch(&self) {
        let mut answers: Option<bool> = None;
        loop {
            if self.renewal_due.load(Ordering::Acquire) && self.store.renew_cache_namespace().await.is_ok() {
                self.renewal_due.store(false, Ordering::Release);
            }
            let Some(redis) = &self.redis else {
                tokio::time::sleep(LOOK).await;
                continue;
            };
            if !redis.is_here() {
                let found = self.find_redis(redis).await;
                match &found {
                    Ok(()) if answers != Some(true) => info!("Redis answers"),
                    Err(reason) if answers != Some(false) => {
                        warn!(variable = "REDIS_URL", reason, "Redis does not answer; going on without it");
                    }
                    _ => {}
                }
                answers = Some(found.is_ok());
            }
            tokio::select! {
                () = tokio::time::sleep(LOOK) => {}
                () = redis.changed() => {}
            }
        }
    }

    async fn find_redis(&self, redis: &Redis) -> Result<(), String> {
        let run = redis.look().await?;
        let _reading = self.reading.lock().await;
        let place = self.store.keep_cache_in(run.clone()).await.map_err(|error| error.to_string())?;
        *write(&self.run) = Some(run);
        *write(&self.place) = Some(place);
        redis.use_it();
        Ok(())
    }

    /// Where entries are kept may have changed.
    pub(super) async fn find_place(&self) {
        *write(&self.place) = None;
        let _reading = self.reading.lock().await;
        match self.store.shared_cache().await {
            Ok(place) => *write(&self.place) = place,
            Err(error) => warn!(%error, "where shared entries are kept could not be read"),
        }
    }

    /// Redis, where it answers, with where entries are kept in it.
    fn in_use(&self) -> Option<(&Redis, SharedCache)> {
        let redis = self.redis.as_ref().filter(|redis| redis.is_here())?;
        Some((redis, read(&self.place).clone()?))
    }

    /// As [`in_use`](Self::in_use), and it holds the entries: not where other nodes use another Redis.
    fn entries(&self) -> Option<(&Redis, SharedCache)> {
        self.in_use().filter(|(_, place)| place.redis_run == *read(&self.run))
    }

    /// Looks an entry up.
    pub(super) async fn find(&self, key: &Key) -> Found {
        let Some((redis, place)) = self.entries() else { return Found::NOWHERE };
        let place = key.in_namespace(place.namespace);
        let Ok(entry) = redis.get(&place).await else { return Found::NOWHERE };
        match entry.as_deref().map(|entry| entry.split_first()) {
            None => Found { place: Some(place), bytes: None },
            Some(Some((b'0'..=b'9', _))) => {
                let bytes = entry.into_iter().flatten().skip_while(|byte| *byte != b' ').skip(1).collect();
                Found { place: Some(place), bytes: Some(bytes) }
            }
            Some(_) => Found::NOWHERE,
        }
    }

    /// Puts an entry where it was looked for, unless it has changed since.
    pub(super) async fn put(&self, place: &str, version: i64, bytes: Vec<u8>) {
        let Some((redis, _)) = self.entries() else { return };
        let arguments = vec![version.into(), Value::Bytes(bytes.into()), ENTRY_SECONDS.into()];
        // Where it comes to nothing the next one is put.
        let _: Result<i64, _> = redis.run(PUT, place, arguments).await;
    }

    /// A change of these is about to be committed.
    pub(super) async fn mark(&self, keys: &[Key]) -> Marks {
        let Some((redis, place)) = self.entries() else { return Marks { entries: Vec::new(), told: false } };
        let entries: Vec<_> = keys.iter().map(|key| key.in_namespace(place.namespace)).collect();
        let mark = |entry| redis.run::<i64>(MARK, entry, vec![MARK_SECONDS.into()]);
        let marked = join_all(entries.iter().map(|entry| mark(entry))).await;
        Marks { entries, told: marked.iter().all(Result::is_ok) }
    }

    /// The change is committed, or did not come about.
    pub(super) async fn unmark(&self, marks: Marks) {
        if !marks.told {
            if let Err(error) = self.store.renew_cache_namespace().await {
                warn!(%error, "shared entries could not be given up yet");
                self.renewal_due.store(true, Ordering::Release);
            }
            return;
        }
        if let Some((redis, _)) = self.entries() {
            let unmark = |entry| redis.run::<i64>(UNMARK, entry, vec![MARK_SECONDS.into()]);
            // A mark that stays ages away.
            join_all(marks.entries.iter().map(|entry| unmark(entry))).await;
        }
    }

    /// Whether turns can be [had](Self::take) in common.
    pub(super) fn has_turns(&self) -> bool {
        self.in_use().is_some()
    }

    /// Takes up to `wanted` turns of a pace that all nodes keep together, and gives back some that were not
    /// used; none where Redis is not there. Another version of the limit is another pace.
    pub(super) async fn take(
        &self,
        bucket: (Bucket, &Tenant, i64),
        limit: RateLimit,
        wanted: u32,
        given_back: u32,
    ) -> Option<Turns> {
        let (redis, place) = self.in_use()?;
        let (kind, tenant, version) = bucket;
        let kind = match kind {
            Bucket::Deliveries => "deliveries",
            Bucket::Ingest => "ingest",
            Bucket::Control => "control",
        };
        let key = format!("posthorn:{}:{kind}:{tenant}:{version}", place.cluster);
        let interval = 1e6 / limit.requests_per_second;
        let arguments = vec![interval.into(), limit.burst.into(), wanted.into(), given_back.into()];
        let (taken, wait): (u32, u64) = redis.run(TAKE, &key, arguments).await.ok()?;
        Some(Turns { taken, wait: Duration::from_micros(wait) })
    }
}

impl Key {
    fn in_namespace(&self, namespace: Uuid) -> String {
        match self {
            Self::Subscription(id) => format!("posthorn:{namespace}:subscription:{id}"),
            Self::Tenant(tenant) => format!("posthorn:{namespace}:tenant:{tenant}"),
        }
    }
}

fn read<T>(lock: &RwLock<T>) -> RwLockReadGuard<'_, T> {
    // Nothing panics under it.
    lock.read().unwrap_or_else(PoisonError::into_inner)
}

fn write<T>(lock: &RwLock<T>) -> RwLockWriteGuard<'_, T> {
    lock.write().unwrap_or_else(PoisonError::into_inner)
}
