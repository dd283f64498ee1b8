//! Hears what other nodes did, and looks at the database where it may have missed something.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use posthorn_domain::cluster::Slot;
use tokio::time::{Interval, MissedTickBehavior};
use tracing::{debug, info, warn};

use super::Parts;
use super::dispatcher::DispatcherMsg;
use crate::store::notices::{Listener, Notice};

/// How often it sends a notice to itself. One that comes back says that all notices before it did.
const BEAT: Duration = Duration::from_millis(250);
/// Where none has come back for so long it counts as cut off: then it looks at the database with each beat.
const CUT_OFF: Duration = Duration::from_millis(700);
/// And after so long the connection is given up for a new one: nothing else tells that it died without a word.
const REPLACED_AFTER: Duration = Duration::from_secs(2);
const REPLACED_AFTER_MAX: Duration = Duration::from_mins(1);
/// Notices to itself that may be under way.
const BEATS_MAX: usize = 64;

/// So often it looks at the database even so: a node may die between a commit and what it would have said, and a commit
/// whose answer was lost may come late.
const SAFETY: Duration = Duration::from_secs(30);

/// The worker's loop.
pub(super) async fn run(parts: Arc<Parts>) {
    let mut hearing = Hearing {
        parts: &parts,
        since: Instant::now(),
        beats: VecDeque::new(),
        sent: 0,
        heard: Instant::now(),
        cut_off: false,
        patience: REPLACED_AFTER,
    };
    let mut beat = tokio::time::interval(BEAT);
    beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let listening = parts.store.listen();
        tokio::pin!(listening);
        let listener = loop {
            tokio::select! {
                listener = &mut listening => break listener,
                _ = beat.tick() => catch_up(&parts),
            }
        };
        match listener {
            Ok(Some(listener)) => hearing.run(listener, &mut beat).await,
            Ok(None) => loop {
                tokio::time::sleep(SAFETY).await;
                parts.dispatcher.tell(DispatcherMsg::LookAgain);
            },
            Err(error) => debug!(%error, "no connection for notices of other nodes"),
        }
        parts.caches.hear(false).await;
        beat.tick().await;
        catch_up(&parts);
    }
}

/// What is heard of other nodes.
struct Hearing<'parts> {
    parts: &'parts Arc<Parts>,
    /// Since when it listens without a gap.
    since: Instant,
    /// Its notices to itself that have not come back, with when each was sent.
    beats: VecDeque<(u64, Instant)>,
    sent: u64,
    /// When the last one that came back was sent.
    heard: Instant,
    cut_off: bool,
    /// How long nothing may come over a connection before it is given up.
    patience: Duration,
}

impl Hearing<'_> {
    /// Hears notices until the connection breaks, or nothing comes over it any more.
    async fn run(&mut self, mut listener: Listener, beat: &mut Interval) {
        self.since = Instant::now();
        self.beats.clear();
        // Whatever was said before is not heard; from here on everything is.
        catch_up(self.parts);
        self.parts.caches.hear(true).await;
        let mut looked = Instant::now();
        loop {
            tokio::select! {
                news = listener.next() => match news {
                    Ok(Notice::Alive(Some((node, number)))) if node == self.parts.membership.node => {
                        self.came_back(number).await;
                    }
                    Ok(notice) => take_in(self.parts, notice).await,
                    Err(error) => {
                        debug!(%error, "notices of other nodes are not heard");
                        return;
                    }
                },
                _ = beat.tick() => {
                    if looked.elapsed() >= SAFETY {
                        looked = Instant::now();
                        self.parts.dispatcher.tell(DispatcherMsg::LookAgain);
                    }
                    if !self.beat().await {
                        return;
                    }
                }
            }
        }
    }

    /// Sends a notice to itself, where there are others to hear of; false where the connection is to be replaced.
    async fn beat(&mut self) -> bool {
        if !self.parts.leases.has_company() {
            self.beats.clear();
            self.heard = Instant::now();
            return true;
        }
        if self.heard.elapsed() >= CUT_OFF {
            if !std::mem::replace(&mut self.cut_off, true) {
                warn!("notices of other nodes do not come through; looking at the database instead");
                self.parts.caches.hear(false).await;
            }
            catch_up(self.parts);
        }
        if self.heard.elapsed().min(self.since.elapsed()) >= self.patience {
            // One that never brought anything may be through a pooler, where another would not either.
            self.patience = if self.heard < self.since {
                (2 * self.patience).min(REPLACED_AFTER_MAX)
            } else {
                REPLACED_AFTER
            };
            return false;
        }
        self.sent += 1;
        self.beats.push_back((self.sent, Instant::now()));
        if self.beats.len() > BEATS_MAX {
            self.beats.pop_front();
        }
        let (store, notice) =
            (self.parts.store.clone(), Notice::Alive(Some((self.parts.membership.node, self.sent))));
        tokio::spawn(async move { store.tell(&notice).await });
        true
    }

    /// One of its own was heard, and so was whatever was committed before it.
    async fn came_back(&mut self, number: u64) {
        while let Some((sent, at)) = self.beats.front().copied()
            && sent <= number
        {
            self.beats.pop_front();
            self.heard = at;
            self.patience = REPLACED_AFTER;
        }
        if std::mem::take(&mut self.cut_off) {
            info!("notices of other nodes are heard again");
            self.parts.caches.hear(true).await;
            self.since = Instant::now();
            catch_up(self.parts);
        }
        // What was said before this connection is known once a search has found it.
        if self.parts.leases.has_searched_since(self.since) {
            self.parts.leases.knows_until(self.heard);
        }
    }
}

/// Looks for everything that may have been missed.
fn catch_up(parts: &Parts) {
    parts.tenants.doubt_all();
    parts.membership.look();
    parts.dispatcher.tell(DispatcherMsg::LookAgain);
}

async fn take_in(parts: &Arc<Parts>, notice: Notice) {
    match notice {
        Notice::Accepted(mut lanes) => {
            lanes.retain(|(id, _)| parts.leases.serves(Slot::of(*id)));
            let left = parts.arrivals.push(lanes);
            if !left.is_empty() {
                parts.dispatcher.tell(DispatcherMsg::Stored(left));
            }
        }
        Notice::Changed(id) => {
            parts.caches.changed_elsewhere(id).await;
            parts.dispatcher.tell(DispatcherMsg::Refresh(id));
        }
        Notice::Deleted(id) => {
            parts.caches.changed_elsewhere(id).await;
            parts.dispatcher.tell(DispatcherMsg::Deleted(id));
            parts.deletions.begin();
        }
        Notice::Skipped(id, sequence) => parts.dispatcher.tell(DispatcherMsg::Skipped(id, sequence)),
        Notice::RetryNow(id, sequence) => parts.dispatcher.tell(DispatcherMsg::RetryNow(id, sequence)),
        Notice::Tenant(tenant) => {
            let parts = Arc::clone(parts);
            tokio::spawn(async move {
                match parts.tenants.read_again(&tenant).await {
                    Ok(()) => parts.admission.changed(&tenant),
                    Err(error) => warn!(%error, "a tenant's settings could not be read again"),
                }
            });
        }
        Notice::Namespace => {
            parts.caches.find_shared().await;
            parts.tenants.doubt_all();
        }
        Notice::Nodes => parts.membership.look(),
        Notice::Alive(_) => {}
    }
}
