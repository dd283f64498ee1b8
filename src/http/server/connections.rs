//! All connections: how many there are, whose, and what they hold of the memory.
//!
//! What is decided, is decided in `posthorn_domain::connections` and `byte_budget`. Looking for one that gives way
//! means looking at all of them, so several go at once, and no more often than bears it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use posthorn_domain::byte_budget::ByteBudget;
use posthorn_domain::connections::{Candidate, Caps, Counts, Crowd, Holder, give_way};
use tokio::sync::Notify;
use tokio::sync::futures::Notified;

use super::client::{Client, Times};

/// Connections that give way at once: looking through 10,000 of them takes about a millisecond.
const GO_AT_ONCE_MAX: usize = 32;
/// Of all, as one of so many.
const GO_AT_ONCE_SHARE: usize = 100;
/// Memory is looked for at other connections no more often.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);
/// How far behind its pace a connection must be before others get its memory.
const TOO_SLOW: Duration = Duration::from_secs(1);

/// How many connections there may be, and how much of their bytes in memory.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    pub(super) caps: Caps,
    pub(super) bytes: u64,
    /// Of these, those of clients that have proved nothing.
    pub(super) bytes_unproved: u64,
}

/// All connections. Cheap to clone.
#[derive(Clone)]
pub(super) struct Connections(Arc<Inner>);

struct Inner {
    caps: Caps,
    table: Mutex<Table>,
    budget: Mutex<ByteBudget>,
    /// A connection ended, or memory was given back.
    freed: Notify,
    looked_at: Mutex<Option<Instant>>,
}

#[derive(Default)]
struct Table {
    last_id: u64,
    /// Each with the network that it counts for while it is not proved.
    clients: BTreeMap<u64, (Client, Option<Holder>)>,
    unproved: usize,
    /// Those of each network that are not proved.
    networks: BTreeMap<Holder, usize>,
}

impl Table {
    fn remove(&mut self, id: u64) {
        self.prove(id);
        self.clients.remove(&id);
    }

    /// It counts for its network no more.
    fn prove(&mut self, id: u64) {
        let network = self.clients.get_mut(&id).and_then(|(_, network)| network.take());
        let Some(network) = network else { return };
        self.unproved = self.unproved.saturating_sub(1);
        if let Some(count) = self.networks.get_mut(&network) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                self.networks.remove(&network);
            }
        }
    }
}

/// A connection that counts until it is dropped.
pub(super) struct Entry {
    pub(super) client: Client,
    connections: Connections,
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.connections.table().remove(self.client.id());
        self.connections.0.freed.notify_one();
    }
}

/// Memory that is held until it is dropped.
pub(super) struct Room {
    holder: Holder,
    bytes: u64,
    for_answer: bool,
    connections: Connections,
}

impl Room {
    pub(super) const fn holder(&self) -> &Holder {
        &self.holder
    }

    pub(super) const fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(super) const fn is_for_answer(&self) -> bool {
        self.for_answer
    }

    /// It is kept for an answer that is not there yet.
    pub(super) fn for_answer(mut self) -> Self {
        self.for_answer = true;
        self
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        self.connections.budget().give_back(&self.holder, self.bytes);
        self.connections.0.freed.notify_one();
    }
}

impl Connections {
    pub(super) fn new(bounds: Bounds) -> Self {
        Self(Arc::new(Inner {
            caps: bounds.caps,
            table: Mutex::default(),
            budget: Mutex::new(ByteBudget::new(bounds.bytes, bounds.bytes_unproved)),
            freed: Notify::new(),
            looked_at: Mutex::new(None),
        }))
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.0.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn budget(&self) -> MutexGuard<'_, ByteBudget> {
        self.0.budget.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ready when a connection has ended or memory was given back since.
    pub(super) fn freed(&self) -> Notified<'_> {
        self.0.freed.notified()
    }

    /// Takes a new connection in. Where it is full, others give way to it; where nobody can, among whom it is full.
    pub(super) fn enter(&self, network: Holder, times: Times, now: Instant) -> Result<Entry, Crowd> {
        let mut table = self.table();
        let counts = Counts {
            all: table.clients.len(),
            unproved: table.unproved,
            of_network: table.networks.get(&network).copied().unwrap_or(0),
        };
        if let Some(crowd) = self.0.caps.crowd(counts)
            && !make_way(&mut table, crowd, &network)
        {
            return Err(crowd);
        }
        table.last_id += 1;
        let id = table.last_id;
        let client = Client::new(id, network.clone(), times, self.clone(), now);
        table.clients.insert(id, (client.clone(), Some(network.clone())));
        table.unproved += 1;
        *table.networks.entry(network).or_default() += 1;
        Ok(Entry { client, connections: self.clone() })
    }

    /// A connection was its network's, and is somebody's now.
    pub(super) fn proved(&self, id: u64) {
        self.table().prove(id);
    }

    /// Room for `bytes` in the name of `holder`, where there is some. Where there is none, those that are too slow
    /// give way, and there may be some a moment later.
    pub(super) fn try_room(&self, holder: &Holder, bytes: u64, now: Instant) -> Option<Room> {
        if self.budget().take(holder, bytes) {
            return Some(self.room(holder, bytes));
        }
        let mut looked_at = self.0.looked_at.lock().unwrap_or_else(PoisonError::into_inner);
        if looked_at.is_none_or(|at| now.saturating_duration_since(at) >= LOOK_INTERVAL) {
            *looked_at = Some(now);
            drop(looked_at);
            self.free_memory(holder, now);
        }
        None
    }

    /// Memory for what is there already.
    pub(super) fn room_anyway(&self, holder: &Holder, bytes: u64) -> Room {
        self.budget().take_anyway(holder, bytes);
        self.room(holder, bytes)
    }

    fn room(&self, holder: &Holder, bytes: u64) -> Room {
        Room { holder: holder.clone(), bytes, for_answer: false, connections: self.clone() }
    }

    /// Ends connections that hold memory and are too slow. For those who have proved nothing, only such as have
    /// proved nothing either.
    fn free_memory(&self, asking: &Holder, now: Instant) {
        let clients: Vec<Client> = self.table().clients.values().map(|(client, _)| client.clone()).collect();
        let candidates = clients.iter().filter_map(|client| {
            let (holder, weight) = client.held()?;
            if holder.is_proved() && !asking.is_proved() {
                return None;
            }
            let waits_since = client.waits_since().filter(|&since| since + TOO_SLOW <= now);
            Some(Candidate { id: client.id(), holder, weight, waits_since })
        });
        let going = give_way(candidates.collect(), GO_AT_ONCE_MAX);
        tracing::debug!(count = going.len(), "slow connections give their memory to others");
        for client in clients.iter().filter(|client| going.contains(&client.id())) {
            client.cut_off();
        }
    }
}

/// Ends some of the crowd; whether there was one to end.
fn make_way(table: &mut Table, crowd: Crowd, network: &Holder) -> bool {
    let of = |crowd: Crowd| -> Vec<_> {
        let of_crowd = table.clients.values().filter(|(_, unproved)| match crowd {
            Crowd::Network => unproved.as_ref() == Some(network),
            Crowd::Unproved => unproved.is_some(),
            Crowd::Proved => unproved.is_none(),
        });
        of_crowd
            .map(|(client, _)| Candidate {
                id: client.id(),
                holder: client.holder(),
                weight: 1,
                waits_since: client.waits_since(),
            })
            .collect()
    };
    let count = (table.clients.len() / GO_AT_ONCE_SHARE).clamp(1, GO_AT_ONCE_MAX);
    let mut going = give_way(of(crowd), count);
    if going.is_empty() && crowd == Crowd::Proved {
        going = give_way(of(Crowd::Unproved), 1);
    }
    going.retain(|id| table.clients.get(id).is_some_and(|(client, _)| client.cut_off()));
    tracing::debug!(?crowd, count = going.len(), "connections gave way to others");
    for id in &going {
        // It is as good as gone, and its place is free.
        table.remove(*id);
    }
    !going.is_empty()
}
