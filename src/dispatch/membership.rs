//! This node among others: signs of life, leases, and handing slots over.
//!
//! Each second it looks who is alive and who holds what. Of too many slots it hands some over: their lanes
//! start nothing more, and once what was in flight is recorded, the slot is free. Of too few it takes those
//! that nobody holds. Leases are renewed each third of their time; when that fails for long, the lanes stop.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use posthorn_domain::cluster::{Cluster, Epoch, Holder, Node, Slot, Standing, share};
use posthorn_domain::id::NodeId;
use posthorn_domain::time::Timestamp;
use tokio::sync::{Mutex, Notify, mpsc};
use tokio::time::timeout;
use tracing::{debug, info, warn};
use uuid::Uuid;

use super::Parts;
use super::dispatcher::DispatcherMsg;
use crate::store::Error;
use crate::store::cluster::Beat;
use crate::store::notices::Notice;

/// How often it is looked who is there.
const LOOK: Duration = Duration::from_secs(1);
const VERSION: &str = env!("CARGO_PKG_VERSION");
/// Leases are renewed so many times before they would be over.
const RENEWALS: u32 = 3;
/// Slots that cannot be taken for so long are logged. A handover takes less.
const STUCK_AFTER: Duration = Duration::from_secs(2);

/// This node, as the others know it, and what its worker is told.
pub(super) struct Membership {
    pub(super) node: NodeId,
    name: String,
    started_at: Timestamp,
    drained: mpsc::UnboundedSender<Slot>,
    inbox: Arc<Mutex<mpsc::UnboundedReceiver<Slot>>>,
    look: Notify,
    /// Slots that are nobody's and cannot be taken.
    stuck: AtomicUsize,
    /// Told to go, and gone.
    leaving: tokio::sync::watch::Sender<bool>,
    left: tokio::sync::watch::Sender<bool>,
}

impl Membership {
    pub(super) fn new(started_at: Timestamp) -> Self {
        // Bounded by the slots: each is said once for each time that it is handed over.
        let (drained, inbox) = mpsc::unbounded_channel();
        Self {
            node: NodeId(Uuid::now_v7()),
            name: host_name(),
            started_at,
            drained,
            inbox: Arc::new(Mutex::new(inbox)),
            look: Notify::new(),
            stuck: AtomicUsize::new(0),
            leaving: tokio::sync::watch::Sender::new(false),
            left: tokio::sync::watch::Sender::new(false),
        }
    }

    /// No lane of a slot that was to be handed over is left.
    pub(super) fn drained(&self, slot: Slot) {
        let _ = self.drained.send(slot);
    }

    /// How many slots no node may send for, though it tried to take them.
    pub(super) fn stuck(&self) -> usize {
        self.stuck.load(Ordering::Relaxed)
    }

    /// Something about nodes or slots changed.
    pub(super) fn look(&self) {
        self.look.notify_one();
    }

    /// Hands everything over from now on.
    pub(super) fn leave(&self) {
        self.leaving.send_replace(true);
        self.look.notify_one();
    }

    /// Waits until all is handed over; false where that takes longer than `patience`.
    pub(super) async fn left(&self, patience: Duration) -> bool {
        let mut left = self.left.subscribe();
        timeout(patience, left.wait_for(|left| *left)).await.is_ok()
    }

    /// What there is to see where it is the only one.
    pub(super) fn alone(&self) -> Cluster {
        let node = Node {
            id: self.node,
            name: self.name.clone(),
            version: VERSION.to_owned(),
            started_at: self.started_at,
            silent_for: Duration::ZERO,
            leaving: self.is_leaving(),
        };
        let slots = Slot::all().map(|slot| Holder { slot, node: Some(self.node) }).collect();
        Cluster { nodes: vec![node], slots }
    }

    fn is_leaving(&self) -> bool {
        *self.leaving.borrow()
    }
}

/// Where this process runs, for people.
fn host_name() -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let host = host.trim();
    format!("{}:{}", if host.is_empty() { "unknown" } else { host }, std::process::id())
}

/// The worker's loop.
pub(super) async fn run(parts: Arc<Parts>) {
    if !parts.store.is_shared() {
        parts.dispatcher.tell(DispatcherMsg::Acquired(Slot::all().collect()));
        return stay_alone(&parts).await;
    }
    let mut inbox = Arc::clone(&parts.membership.inbox).lock_owned().await;
    let mut member = Member { parts: &parts, beaten: None, handing_over: BTreeSet::new(), stuck_since: None };
    loop {
        member.step().await;
        tokio::select! {
            () = tokio::time::sleep(LOOK) => {}
            () = parts.membership.look.notified() => {}
            Some(slot) = inbox.recv() => {
                let mut drained = vec![slot];
                while let Ok(slot) = inbox.try_recv() {
                    drained.push(slot);
                }
                member.free(&drained).await;
            }
        }
    }
}

/// The only process there is: there is nobody to hand anything to.
async fn stay_alone(parts: &Parts) {
    let mut leaving = parts.membership.leaving.subscribe();
    // Neither can fail: the sender lives as long as the parts.
    let _ = leaving.wait_for(|leaving| *leaving).await;
    parts.membership.left.send_replace(true);
    std::future::pending::<()>().await;
}

struct Member<'parts> {
    parts: &'parts Arc<Parts>,
    /// When the last sign of life was sent that came through, and whether it said that this node leaves.
    beaten: Option<(Instant, bool)>,
    /// Slots whose lanes are finishing.
    handing_over: BTreeSet<Slot>,
    /// Since when there are slots that cannot be taken.
    stuck_since: Option<Instant>,
}

impl Member<'_> {
    async fn step(&mut self) {
        let leases = &self.parts.leases;
        if let Err(error) = self.renew_and_balance().await {
            debug!(%error, "the other nodes could not be looked at");
        }
        if leases.standing(Instant::now()) == Standing::Over {
            let held = leases.held();
            if !held.is_empty() {
                warn!(slots = held.len(), "the leases are over: the database did not answer in time");
                self.lose(&held);
            }
        }
    }

    async fn renew_and_balance(&mut self) -> Result<(), Error> {
        self.renew().await?;
        let membership = &self.parts.membership;
        let leases = &self.parts.leases;
        let cluster = self.parts.store.cluster().await?;
        let held_by = |node| cluster.slots.iter().filter(|holder| holder.node == Some(node)).count();
        let alive = cluster.nodes.iter().filter(|node| !node.leaving && node.silent_for < leases.lease());
        let alive: Vec<_> = alive.map(|node| (node.id, held_by(node.id))).collect();
        leases.set_company(alive.iter().any(|(id, _)| *id != membership.node));
        if self.parts.tenants.share(u32::try_from(alive.len()).unwrap_or(u32::MAX).max(1)) {
            self.parts.admission.all_changed();
        }
        let held = leases.held();
        let target = if membership.is_leaving() { 0 } else { share(membership.node, &alive) };
        let staying = held.iter().filter(|(slot, _)| !self.handing_over.contains(slot));
        let staying: Vec<_> = staying.copied().collect();
        if staying.len() > target {
            let extra: Vec<Slot> = staying.iter().skip(target).map(|(slot, _)| *slot).collect();
            self.handing_over.extend(&extra);
            leases.stop_serving(&extra);
            self.parts.dispatcher.tell(DispatcherMsg::HandOver(extra));
        } else if held.len() < target {
            let taken = self.take(&held, target - held.len()).await?;
            if !taken.is_empty() {
                info!(taken = taken.len(), held = held.len() + taken.len(), "took slots");
            }
            let without_owner = cluster.slots.iter().filter(|holder| holder.node.is_none()).count();
            self.look_at_stuck(
                without_owner.saturating_sub(taken.len()).min(target - held.len() - taken.len()),
            );
        } else {
            self.look_at_stuck(0);
        }
        if membership.is_leaving() && held.is_empty() && !*membership.left.borrow() {
            self.parts.store.forget_node(membership.node).await?;
            self.parts.store.tell(&Notice::Nodes).await?;
            membership.left.send_replace(true);
        }
        Ok(())
    }

    /// So many slots are nobody's and could not be taken: another session holds their rows. One that died without a
    /// word is ended by the database within a lease.
    fn look_at_stuck(&mut self, stuck: usize) {
        let membership = &self.parts.membership;
        if stuck == 0 {
            self.stuck_since = None;
            if membership.stuck.swap(0, Ordering::Relaxed) > 0 {
                info!("all slots have an owner again");
            }
            return;
        }
        let since = *self.stuck_since.get_or_insert_with(Instant::now);
        if since.elapsed() >= STUCK_AFTER && membership.stuck.swap(stuck, Ordering::Relaxed) == 0 {
            warn!(
                slots = stuck,
                "slots that no node holds cannot be taken: a session holds their rows (pg_locks shows which)"
            );
        }
    }

    /// Gives a sign of life where it is time for one.
    async fn renew(&mut self) -> Result<(), Error> {
        let membership = &self.parts.membership;
        let leases = &self.parts.leases;
        let (sent, leaving) = (Instant::now(), membership.is_leaving());
        let due = |(at, said): (Instant, bool)| said != leaving || at.elapsed() >= leases.lease() / RENEWALS;
        if !self.beaten.is_none_or(due) || *membership.left.borrow() {
            return Ok(());
        }
        let beat = Beat {
            node: membership.node,
            name: membership.name.clone(),
            version: VERSION,
            leaving,
            lease: leases.lease(),
        };
        let held = leases.held();
        let kept = self.parts.store.beat(&beat, &held).await?;
        // Nobody else had a chance before it came through, however late that was.
        leases.renewed(sent);
        let news = self.beaten.is_none_or(|(_, said)| said != leaving);
        self.beaten = Some((sent, leaving));
        let lost: Vec<_> = held.iter().filter(|pair| !kept.contains(pair)).copied().collect();
        if !lost.is_empty() {
            warn!(slots = lost.len(), "slots were taken by another node");
            self.lose(&lost);
        }
        if news {
            self.parts.store.tell(&Notice::Nodes).await?;
        }
        Ok(())
    }

    async fn take(&self, held: &[(Slot, Epoch)], count: usize) -> Result<Vec<(Slot, Epoch)>, Error> {
        let leases = &self.parts.leases;
        let sent = Instant::now();
        let taken =
            self.parts.store.take_slots(self.parts.membership.node, held, count, leases.lease()).await?;
        if taken.is_empty() {
            return Ok(taken);
        }
        if held.is_empty() {
            leases.renewed(sent);
        }
        let slots: Vec<Slot> = taken.iter().map(|(slot, _)| *slot).collect();
        let interrupted = self.parts.store.reset_interrupted(&slots, self.parts.clock.now()).await?;
        if interrupted > 0 {
            warn!(interrupted, "requests were in flight when another node lost its slots; they go again");
        }
        leases.add(&taken);
        self.parts.dispatcher.tell(DispatcherMsg::Acquired(slots));
        Ok(taken)
    }

    /// Gives back slots whose lanes are gone.
    async fn free(&mut self, slots: &[Slot]) {
        let leases = &self.parts.leases;
        let freed: Vec<_> = leases.held().into_iter().filter(|(slot, _)| slots.contains(slot)).collect();
        for slot in slots {
            self.handing_over.remove(slot);
        }
        leases.remove(&freed);
        let node = self.parts.membership.node;
        let freeing = async {
            self.parts.store.free_slots(node, &freed).await?;
            self.parts.store.tell(&Notice::Nodes).await
        };
        if let Err(error) = freeing.await {
            warn!(%error, slots = freed.len(), "slots could not be given back; their leases will end");
        }
    }

    fn lose(&mut self, slots: &[(Slot, Epoch)]) {
        let lost = self.parts.leases.remove(slots);
        for slot in &lost {
            self.handing_over.remove(slot);
        }
        self.parts.dispatcher.tell(DispatcherMsg::Lost(lost));
    }
}
