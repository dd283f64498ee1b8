//! Counting a lane's backlog again when it seems to be full.
//!
//! A count costs what the backlog is long, so whoever comes while one is under way shares it, and
//! after it the lane is left alone for ten times as long as it took: for a short backlog that is
//! waited out, for a long one the lane counts as full meanwhile.

use std::sync::Arc;
use std::time::Duration;

use moka::future::Cache;
use posthorn_domain::id::SubscriptionId;
use tokio::sync::{Mutex, Semaphore};
use tokio::time::Instant;

use crate::store::{Error, Store};

/// A lane is left alone for so many times what its count took: counting takes a tenth of the time.
const REST: u32 = 10;
/// How long an event waits for the next count.
const PATIENCE: Duration = Duration::from_millis(500);
/// Lanes that are remembered, and for how long: those forgotten are counted once more.
const LANES_MAX: u64 = 10_000;
const REMEMBERED: Duration = Duration::from_mins(1);

/// The counts of lanes that seemed to be full lately.
pub(super) struct Backlogs {
    store: Store,
    counts: Cache<SubscriptionId, Arc<Mutex<Option<Count>>>>,
    /// One at a time, whatever the number of lanes.
    turn: Semaphore,
}

#[derive(Clone, Copy)]
struct Count {
    began: Instant,
    rests_until: Instant,
}

impl Backlogs {
    pub(super) fn new(store: Store) -> Self {
        let counts = Cache::builder().max_capacity(LANES_MAX).time_to_idle(REMEMBERED).build();
        Self { store, counts, turn: Semaphore::new(1) }
    }

    /// Sees to it that the lane was counted since this was called; false where that would take too
    /// long. May be dropped.
    pub(super) async fn recount(&self, id: SubscriptionId) -> Result<bool, Error> {
        let called = Instant::now();
        let count = self.counts.get_with(id, async { Arc::default() }).await;
        let mut count = count.lock().await;
        if let Some(last) = *count {
            if last.began >= called {
                return Ok(true);
            }
            if last.rests_until > Instant::now() + PATIENCE {
                return Ok(false);
            }
            tokio::time::sleep_until(last.rests_until).await;
        }
        // Never closed, so there is always a turn to wait for.
        let _turn = self.turn.acquire().await;
        let began = Instant::now();
        self.store.recount_backlog(id).await?;
        *count = Some(Count { began, rests_until: Instant::now() + began.elapsed() * REST });
        Ok(true)
    }
}
