//! Reads for the API: a bounded number at once, shared fairly by the tenants.
//!
//! The database's connections serve whoever comes first. So reads queue up here, before they ask for one: then one
//! tenant that reads all the time delays no other by more than a read or two, and lanes, changes and readiness, which
//! do not queue here, find connections whatever is read.

use std::collections::BTreeMap;
use std::ops::Deref;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use posthorn_domain::fair_queue::FairQueue;
use posthorn_domain::tenant::Tenant;
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::error::RETRY_AFTER;
use super::{Access, Error, Inner};
use crate::store::Store;

/// Reads at once: with the transactions that the store lets run, as many as there are connections for whatever comes.
const AT_ONCE: usize = 4;
/// Of one tenant: another finds room at once.
const OF_ONE_TENANT: usize = AT_ONCE / 2;
/// Reads that wait, in all and of one tenant.
const WAITING_MAX: usize = 2_048;
const WAITING_OF_ONE_TENANT: usize = 256;
/// How long a read waits for its turn.
const WAIT_MAX: Duration = Duration::from_secs(5);

/// So many reads wait that this one cannot be done in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("too many reads wait")]
pub(super) struct ReadsBusy;

/// In whose name something is read; none: an admin's.
type Reader = Option<Tenant>;

/// The turns of reads. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Reads(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    free: usize,
    under_way: BTreeMap<Reader, usize>,
    waiting: FairQueue<Reader, oneshot::Sender<Turn>>,
}

/// The store, for what one request reads. Its turn ends with it.
#[derive(Debug)]
pub(super) struct Reading<'a> {
    store: &'a Store,
    _turn: Turn,
}

impl Deref for Reading<'_> {
    type Target = Store;

    fn deref(&self) -> &Store {
        self.store
    }
}

/// Given back when dropped.
#[derive(Debug)]
struct Turn {
    /// None once it was given back.
    reads: Option<Reads>,
    reader: Reader,
}

impl Reads {
    pub(super) fn new() -> Self {
        let waiting = FairQueue::new(WAITING_MAX, WAITING_OF_ONE_TENANT);
        Self(Arc::new(Mutex::new(State { free: AT_ONCE, under_way: BTreeMap::new(), waiting })))
    }

    /// Waits for a turn in the tenant's name. May be dropped.
    pub(super) async fn begin<'a>(
        &self,
        store: &'a Store,
        tenant: Option<&Tenant>,
    ) -> Result<Reading<'a>, ReadsBusy> {
        let reader = tenant.cloned();
        let (sender, turn) = oneshot::channel();
        {
            let mut state = self.state();
            if state.waiting.push(reader.clone(), sender).is_err() {
                // Some of them may have left.
                state.waiting.retain(|sender| !sender.is_closed());
                return Err(ReadsBusy);
            }
            self.give_out(&mut state);
        }
        let turn = timeout(WAIT_MAX, turn).await.map_err(|_| ReadsBusy)?.map_err(|_| ReadsBusy)?;
        Ok(Reading { store, _turn: turn })
    }

    /// Gives turns to those who wait, as long as there are any.
    fn give_out(&self, state: &mut State) {
        while state.free > 0 {
            let under_way = &state.under_way;
            let may = |reader: &Reader| under_way.get(reader).copied().unwrap_or(0) < OF_ONE_TENANT;
            let Some((reader, sender)) = state.waiting.pop(may) else { return };
            let turn = Turn { reads: Some(self.clone()), reader: reader.clone() };
            if let Err(mut turn) = sender.send(turn) {
                // Whoever waited has left, and nothing was taken.
                turn.reads = None;
                continue;
            }
            state.free -= 1;
            *state.under_way.entry(reader).or_default() += 1;
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing panics under it.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let Some(reads) = self.reads.take() else { return };
        let mut state = reads.state();
        state.free += 1;
        let left = state.under_way.remove(&self.reader).unwrap_or(1) - 1;
        if left > 0 {
            state.under_way.insert(self.reader.clone(), left);
        }
        reads.give_out(&mut state);
    }
}

impl Inner {
    /// The store, for what one request reads in the name of who asks. To be held as long as it reads.
    pub(super) async fn read(&self, access: &Access) -> Result<Reading<'_>, Error> {
        let begun = self.reads.begin(&self.store, access.payer()).await;
        begun.map_err(|ReadsBusy| Error::ReadsBusy { retry_after: RETRY_AFTER })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Settings;

    async fn store() -> (tempfile::TempDir, Store) {
        let folder = tempfile::tempdir().unwrap();
        let url = format!("sqlite://{}", folder.path().join("posthorn.db").display());
        let store = Store::connect(&Settings::at(url)).await.unwrap();
        (folder, store)
    }

    #[tokio::test]
    async fn a_tenant_that_reads_all_it_can_leaves_room_for_others() {
        let (_folder, store) = store().await;
        let reads = Reads::new();
        let (crowd, other): (Tenant, Tenant) = ("crowd".parse().unwrap(), "other".parse().unwrap());
        let mut held = Vec::new();
        for _ in 0..OF_ONE_TENANT {
            held.push(reads.begin(&store, Some(&crowd)).await.unwrap());
        }
        let more = reads.begin(&store, Some(&crowd));
        tokio::pin!(more);
        assert!(futures_util::poll!(&mut more).is_pending(), "it has its share");
        let one = reads.begin(&store, Some(&other)).await.unwrap();
        assert!(futures_util::poll!(&mut more).is_pending(), "another's turn is not its own");
        drop(one);
        held.pop();
        assert!(more.await.is_ok());
    }

    #[tokio::test]
    async fn waiting_is_bounded_and_who_leaves_takes_nothing() {
        let (_folder, store) = store().await;
        let reads = Reads::new();
        let crowd: Tenant = "crowd".parse().unwrap();
        let mut held = Vec::new();
        for _ in 0..OF_ONE_TENANT {
            held.push(reads.begin(&store, Some(&crowd)).await.unwrap());
        }
        let mut waiting: Vec<_> = Vec::new();
        for _ in 0..WAITING_OF_ONE_TENANT {
            let mut one = Box::pin(reads.begin(&store, Some(&crowd)));
            assert!(futures_util::poll!(&mut one).is_pending());
            waiting.push(one);
        }
        assert_eq!(reads.begin(&store, Some(&crowd)).await.err(), Some(ReadsBusy));
        assert!(reads.begin(&store, None).await.is_ok(), "the others do not notice");
        waiting.clear();
        held.clear();
        assert_eq!(reads.state().free, AT_ONCE);
        assert!(reads.begin(&store, Some(&crowd)).await.is_ok());
        assert!(reads.state().under_way.is_empty());
    }
}
