//! A pace of a tenant: kept together with the other nodes where Redis is there, else this node's share of it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use posthorn_domain::stock::{Stock, Turn};
use posthorn_domain::subscription::RateLimit;
use posthorn_domain::tenant::Tenant;
use tokio::sync::{Notify, mpsc};

use super::Parts;
use super::pace::Pace;
use crate::cache::{Bucket, Caches, Turns};

/// A question is answered or given up within that time.
const ANSWER_PATIENCE: Duration = Duration::from_millis(50);
/// How often an event that comes in may find that others were faster.
const ROUNDS: usize = 8;

/// A pace that is kept by one or by all nodes. Several may share it.
#[derive(Debug)]
pub(super) struct Quota {
    bucket: Bucket,
    /// This node's share.
    own: Pace,
    common: Mutex<Common>,
    answered: Notify,
}

#[derive(Debug, Default)]
struct Common {
    /// What all nodes together may use, and its version.
    limit: Option<RateLimit>,
    version: i64,
    nodes: u32,
    stock: Stock,
}

/// Why there is no turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// There is none before.
    Until(Instant),
    /// It was asked for; there will be news soon.
    Asked,
}

/// A question to be put to Redis.
pub(super) struct Ask {
    tenant: Tenant,
    bucket: Bucket,
    limit: RateLimit,
    version: i64,
    wanted: u32,
    given_back: u32,
}

/// Where questions go. There is one at a time for each pace in use.
#[derive(Debug)]
pub(super) struct Asks {
    caches: Caches,
    sender: mpsc::UnboundedSender<Ask>,
    waiting: Arc<tokio::sync::Mutex<mpsc::UnboundedReceiver<Ask>>>,
}

impl Asks {
    pub(super) fn new(caches: Caches) -> Self {
        let (sender, receiver) = mpsc::unbounded_channel();
        Self { caches, sender, waiting: Arc::new(tokio::sync::Mutex::new(receiver)) }
    }
}

impl Quota {
    pub(super) fn new(bucket: Bucket) -> Self {
        Self { bucket, own: Pace::new(None), common: Mutex::default(), answered: Notify::new() }
    }

    /// The limit of all nodes, with its version, and what each of so many has of it.
    pub(super) fn keep_to(
        &self,
        limit: Option<RateLimit>,
        version: i64,
        nodes: u32,
        share: Option<RateLimit>,
    ) {
        self.own.set(share);
        let mut common = self.common();
        let stock = if common.version == version { common.stock } else { Stock::default() };
        *common = Common { limit, version, nodes, stock };
    }

    /// Takes a turn, if there is one now. Where it has to be asked for, its news go to whoever runs
    /// [`answer_all`].
    pub(super) fn take(&self, now: Instant, tenant: &Tenant, asks: &Asks) -> Result<(), Refusal> {
        let mut common = self.common();
        let Common { limit: Some(limit), version, nodes: 2.., .. } = *common else {
            return self.take_own(now);
        };
        if !asks.caches.has_turns() {
            return self.take_own(now);
        }
        let nodes = common.nodes;
        match common.stock.take(now, limit, nodes) {
            Turn::Taken => Ok(()),
            Turn::At(at) => Err(Refusal::Until(at)),
            Turn::Asked => Err(Refusal::Asked),
            Turn::Alone => self.take_own(now),
            Turn::Ask { wanted, given_back } => {
                let bucket = self.bucket;
                let ask = Ask { tenant: tenant.clone(), bucket, limit, version, wanted, given_back };
                // The receiver lives as long as the parts.
                let _ = asks.sender.send(ask);
                Err(Refusal::Asked)
            }
        }
    }

    fn take_own(&self, now: Instant) -> Result<(), Refusal> {
        self.own.take(now).map_err(Refusal::Until)
    }

    /// As [`take`](Self::take), and waits for news.
    pub(super) async fn take_soon(&self, tenant: &Tenant, asks: &Asks) -> Result<(), Instant> {
        for _ in 0..ROUNDS {
            // Before the question, so that no news are missed.
            let mut answered = std::pin::pin!(self.answered.notified());
            answered.as_mut().enable();
            match self.take(Instant::now(), tenant, asks) {
                Ok(()) => return Ok(()),
                Err(Refusal::Until(at)) => return Err(at),
                Err(Refusal::Asked) => {
                    // Late or not, the next round finds out.
                    let _ = tokio::time::timeout(ANSWER_PATIENCE, answered).await;
                }
            }
        }
        Err(Instant::now() + ANSWER_PATIENCE)
    }

    /// Whether a new one would allow no more than this one: then it can be forgotten.
    pub(super) fn is_replenished(&self, now: Instant) -> bool {
        self.own.is_replenished(now)
    }

    fn answer(&self, now: Instant, version: i64, turns: Option<Turns>) {
        let mut common = self.common();
        if common.version == version {
            match turns {
                Some(Turns { taken, wait }) => common.stock.answered(now, taken, wait),
                None => common.stock.unanswered(now),
            }
        }
        drop(common);
        self.answered.notify_waiters();
    }

    fn common(&self) -> MutexGuard<'_, Common> {
        // Nothing in here panics half-way through a change.
        self.common.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The worker's loop: puts each question to Redis and tells who waits for a turn.
pub(super) async fn answer_all(parts: Arc<Parts>) {
    let mut asks = Arc::clone(&parts.tenants.asks().waiting).lock_owned().await;
    while let Some(ask) = asks.recv().await {
        let parts = Arc::clone(&parts);
        tokio::spawn(async move {
            let of = (ask.bucket, &ask.tenant, ask.version);
            let turns = parts.caches.take_turns(of, ask.limit, ask.wanted, ask.given_back).await;
            let Some(state) = parts.tenants.in_use(&ask.tenant) else { return };
            state.quota(ask.bucket).answer(Instant::now(), ask.version, turns);
            if ask.bucket == Bucket::Deliveries {
                parts.admission.changed(&ask.tenant);
            }
        });
    }
}

impl Refusal {
    /// When to look again.
    pub(super) fn at(self, now: Instant) -> Instant {
        match self {
            Self::Until(at) => at,
            Self::Asked => now + ANSWER_PATIENCE,
        }
    }
}
