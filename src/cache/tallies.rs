//! What takes long to count, kept for longer the longer it takes.

use std::sync::Arc;
use std::time::{Duration, Instant};

use moka::Expiry;
use moka::future::Cache;
use posthorn_domain::tenant::Tenant;
use posthorn_domain::views::Stats;
use tokio::sync::Semaphore;

use crate::store::Error;

/// Tenants whose counts are kept; beyond, the ones not asked for lately are counted anew.
const TENANTS_MAX: u64 = 10_000;
/// How many times as long as it took to count: a tenant that asks all the time has the database count for a
/// tenth of it.
const KEPT_TIMES: u32 = 9;

/// Tenants that are counted at the same time: a short count beside a long one.
const COUNTS_AT_ONCE: usize = 2;

/// Each tenant's statistics, counted by one at a time.
#[derive(Clone, Debug)]
pub(super) struct Tallies {
    kept: Cache<Tenant, Tally>,
    /// Counting takes long, and a connection meanwhile.
    turn: Arc<Semaphore>,
}

#[derive(Clone, Copy, Debug)]
struct Tally {
    stats: Stats,
    took: Duration,
}

impl Tallies {
    pub(super) fn new() -> Self {
        let kept = Cache::builder().max_capacity(TENANTS_MAX).expire_after(AsLongAsItTook).build();
        Self { kept, turn: Arc::new(Semaphore::new(COUNTS_AT_ONCE)) }
    }

    /// What is kept, or what `count` finds; whoever asks meanwhile waits for the same count.
    pub(super) async fn get(
        &self,
        tenant: &Tenant,
        count: impl Future<Output = Result<Stats, Error>>,
    ) -> Result<Stats, Error> {
        let counting = async {
            // Never closed, so there is always a turn to wait for.
            let _turn = self.turn.acquire().await;
            let began = Instant::now();
            count.await.map(|stats| Tally { stats, took: began.elapsed() })
        };
        // All who waited get the error; one that is shared is of use for its text alone.
        let failed = |error: Arc<Error>| Error::Unavailable(error.to_string());
        self.kept.try_get_with_by_ref(tenant, counting).await.map(|tally| tally.stats).map_err(failed)
    }
}

struct AsLongAsItTook;

impl Expiry<Tenant, Tally> for AsLongAsItTook {
    fn expire_after_create(&self, _: &Tenant, tally: &Tally, _: Instant) -> Option<Duration> {
        Some(tally.took * KEPT_TIMES)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use tokio::time::sleep;

    use super::*;

    #[tokio::test]
    async fn one_counts_for_all_who_wait_and_for_a_while() {
        let (tallies, counted) = (Tallies::new(), AtomicU64::new(0));
        let tenant = Tenant::default();
        let get = || {
            tallies.get(&tenant, async {
                let pending_deliveries = counted.fetch_add(1, Ordering::Relaxed) + 1;
                sleep(Duration::from_millis(50)).await;
                Ok(Stats { pending_deliveries, ..Stats::default() })
            })
        };
        let (one, other) = tokio::join!(get(), get());
        assert_eq!((one.unwrap().pending_deliveries, other.unwrap().pending_deliveries), (1, 1));
        assert_eq!(get().await.unwrap().pending_deliveries, 1, "kept for half a second");
        sleep(Duration::from_secs(2)).await;
        assert_eq!(get().await.unwrap().pending_deliveries, 2);
    }

    #[tokio::test]
    async fn a_failure_is_not_kept() {
        let (tallies, tenant) = (Tallies::new(), Tenant::default());
        let failing = tallies.get(&tenant, async { Err(Error::Unavailable("away".to_owned())) });
        assert!(matches!(failing.await, Err(Error::Unavailable(_))));
        assert!(tallies.get(&tenant, async { Ok(Stats::default()) }).await.is_ok());
    }

    #[test]
    fn the_longer_it_took_the_longer_it_is_kept() {
        for (took, kept) in [(0, 0), (2, 18), (10_000, 90_000)] {
            let tally = Tally { stats: Stats::default(), took: Duration::from_millis(took) };
            let kept_for = AsLongAsItTook.expire_after_create(&Tenant::default(), &tally, Instant::now());
            assert_eq!(kept_for, Some(Duration::from_millis(kept)));
        }
    }
}
