//! Hears what other nodes did, and looks at the database where it may have missed something.

use std::sync::Arc;
use std::time::{Duration, Instant};

use posthorn_domain::cluster::Slot;
use tracing::{info, warn};

use super::Parts;
use super::dispatcher::DispatcherMsg;
use crate::store::notices::{Listener, Notice};

/// After so long without a notice it sends one itself: it comes back where notices come through.
const SILENCE: Duration = Duration::from_millis(250);
/// After so long it counts as cut off: then it looks at the database each time it has heard nothing.
const CUT_OFF: Duration = Duration::from_millis(700);

/// So often it looks at the database even so: a node may die between a commit and what it would have said.
const SAFETY: Duration = Duration::from_secs(30);

/// The worker's loop.
pub(super) async fn run(parts: Arc<Parts>) {
    loop {
        match parts.store.listen().await {
            Ok(Some(listener)) => {
                // Whatever was said before is not heard; from here on everything is.
                catch_up(&parts);
                parts.caches.hear(true).await;
                hear(&parts, listener).await;
                parts.caches.hear(false).await;
            }
            Ok(None) => std::future::pending().await,
            Err(error) => {
                warn!(%error, "notices of other nodes cannot be heard; looking at the database instead");
                catch_up(&parts);
            }
        }
        tokio::time::sleep(CUT_OFF).await;
    }
}

/// Hears notices until the connection breaks.
async fn hear(parts: &Arc<Parts>, mut listener: Listener) {
    let mut heard = Instant::now();
    let mut cut_off = false;
    let mut looked = Instant::now();
    loop {
        if looked.elapsed() >= SAFETY && parts.leases.has_company() {
            looked = Instant::now();
            parts.dispatcher.tell(DispatcherMsg::LookAgain);
        }
        let news = tokio::time::timeout(SILENCE, listener.next()).await;
        match news {
            Ok(Ok(notice)) => {
                heard = Instant::now();
                if std::mem::take(&mut cut_off) {
                    info!("notices of other nodes are heard again");
                    parts.caches.hear(true).await;
                    catch_up(parts);
                }
                take_in(parts, notice).await;
            }
            Ok(Err(error)) => {
                warn!(%error, "notices of other nodes are not heard");
                return;
            }
            // There is nobody to hear of.
            Err(_) if !parts.leases.has_company() => heard = Instant::now(),
            Err(_) => {
                if heard.elapsed() >= CUT_OFF {
                    if !std::mem::replace(&mut cut_off, true) {
                        warn!("notices of other nodes do not come through; looking at the database instead");
                        parts.caches.hear(false).await;
                    }
                    catch_up(parts);
                }
                let store = parts.store.clone();
                tokio::spawn(async move { store.tell(&Notice::Alive).await });
            }
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
        Notice::Alive => {}
    }
}
