//! Events that wait to be stored, with a share for each tenant.
//!
//! The queue is bounded in events and in bytes. One tenant alone may fill it. Where it is full, the
//! newest events of the tenant that has the most in it make room for a tenant that has less (max-min
//! fairness): so the tenant that is over its share is refused, and the others notice nothing.
//!
//! A batch takes from the tenants in turns. A turn is worth so many bytes, and each event costs its own
//! bytes and a fixed sum beside them, so that a tenant of large events and one of small events get the same
//! from the database. A tenant that had nothing waiting has its first turn before those that wait
//! already; the two kinds alternate, so that nobody starves.
//!
//! Kept at all times:
//!
//! - the queue and the batches that are not settled yet hold no more than the bounds;
//! - of one subscription, events leave in the order in which they came;
//! - no two events of a batch have the same subscription and idempotency key: the later one is
//!   answered by what the earlier one stores.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::id::SubscriptionId;
use crate::tenant::Tenant;

/// What one turn of a tenant is worth: four small events.
const TURN_BYTES: usize = 64 * 1024;
/// What an event costs beside its bytes: about as much time as writing these.
const EVENT_COST_BYTES: usize = 16 * 1024;

/// What the queue has to know of an event.
pub trait Event {
    /// Who hands it in.
    fn tenant(&self) -> &Tenant;
    /// Whose order it keeps.
    fn subscription(&self) -> SubscriptionId;
    /// With the same key in the same subscription nothing is stored twice.
    fn idempotency_key(&self) -> Option<&str>;
    /// The bytes of its payload.
    fn bytes(&self) -> usize;
}

/// A number of events and their bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// Events.
    pub events: usize,
    /// The bytes of their payloads.
    pub bytes: usize,
}

impl Load {
    const fn of_one(bytes: usize) -> Self {
        Self { events: 1, bytes }
    }

    const fn add(&mut self, other: Self) {
        self.events = self.events.saturating_add(other.events);
        self.bytes = self.bytes.saturating_add(other.bytes);
    }

    const fn subtract(&mut self, other: Self) {
        self.events = self.events.saturating_sub(other.events);
        self.bytes = self.bytes.saturating_sub(other.bytes);
    }
}

/// How much there may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// In the queue and in the batches that are not settled yet, together.
    pub queue: Load,
    /// In one batch. The last event of a batch may go beyond its bytes.
    pub batch: Load,
}

/// Why an event was not taken in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The queue is full, and no other tenant waits in it.
    Full,
    /// The queue is full, and no other tenant has more in it.
    OverShare,
}

/// What came of an event that was handed in.
#[derive(Debug)]
pub struct Pushed<E> {
    /// Events that made room for it: each is to be refused as [`Refusal::OverShare`].
    pub evicted: Vec<E>,
    /// The event, where it was not taken in, and why.
    pub refused: Option<(E, Refusal)>,
}

/// Events to store in one transaction.
#[derive(Debug)]
pub struct Batch<E> {
    /// In the order in which they are numbered.
    pub events: Vec<E>,
    /// To be [settled](IntakeQueue::settle) once they are answered.
    pub load: Load,
}

/// The events that wait.
#[derive(Debug)]
pub struct IntakeQueue<E> {
    bounds: Bounds,
    waiting: Load,
    /// In batches that are not settled yet.
    taken: Load,
    /// Those that have events waiting.
    tenants: BTreeMap<Tenant, Line<E>>,
    /// Those of them that had none before and have had no turn since.
    fresh: VecDeque<Tenant>,
    /// All others of them.
    others: VecDeque<Tenant>,
    /// Whose turn it is.
    next_is_fresh: bool,
}

/// One tenant's events.
#[derive(Debug)]
struct Line<E> {
    waiting: VecDeque<E>,
    /// Passed over by the batch that is being put together; they come before those that wait.
    passed: VecDeque<E>,
    load: Load,
    /// What it has had of its coming turns already, in bytes.
    owed: usize,
}

impl<E> Default for Line<E> {
    fn default() -> Self {
        Self { waiting: VecDeque::new(), passed: VecDeque::new(), load: Load::default(), owed: 0 }
    }
}

impl<E: Event> IntakeQueue<E> {
    /// An empty queue.
    #[must_use]
    pub const fn new(bounds: Bounds) -> Self {
        Self {
            bounds,
            waiting: Load { events: 0, bytes: 0 },
            taken: Load { events: 0, bytes: 0 },
            tenants: BTreeMap::new(),
            fresh: VecDeque::new(),
            others: VecDeque::new(),
            next_is_fresh: true,
        }
    }

    /// Takes an event in, where there is room or another tenant has more than this one.
    pub fn push(&mut self, event: E) -> Pushed<E> {
        let load = Load::of_one(event.bytes());
        let mut evicted = Vec::new();
        while let Some(shortage) = self.shortage(load) {
            let Some(victim) = self.victim(event.tenant(), load, shortage) else {
                let refusal = self.refusal(event.tenant());
                return Pushed { evicted, refused: Some((event, refusal)) };
            };
            evicted.extend(self.evict(&victim));
        }
        self.waiting.add(load);
        if let Some(line) = self.tenants.get_mut(event.tenant()) {
            line.load.add(load);
            line.waiting.push_back(event);
        } else {
            let tenant = event.tenant().clone();
            self.fresh.push_back(tenant.clone());
            let line = Line { waiting: VecDeque::from([event]), load, ..Line::default() };
            self.tenants.insert(tenant, line);
        }
        Pushed { evicted, refused: None }
    }

    /// Why an event of so many bytes would not be taken in now, where it would not.
    #[must_use]
    pub fn would_refuse(&self, tenant: &Tenant, bytes: usize) -> Option<Refusal> {
        let load = Load::of_one(bytes);
        let shortage = self.shortage(load)?;
        self.victim(tenant, load, shortage).is_none().then(|| self.refusal(tenant))
    }

    /// Takes what goes into the next transaction; nothing where nothing waits.
    pub fn take_batch(&mut self) -> Batch<E> {
        let mut batch = Filling::new(self.bounds.batch, self.waiting.events);
        let (mut stalled, mut passed_over) = (Vec::new(), Vec::new());
        while !batch.is_full()
            && let Some(tenant) = self.next_turn()
        {
            let Some(line) = self.tenants.get_mut(&tenant) else { continue };
            let had_passed = !line.passed.is_empty();
            let turn = line.take_turn(&mut batch);
            if !had_passed && !line.passed.is_empty() {
                passed_over.push(tenant.clone());
            }
            match turn {
                Turn::Stalled => stalled.push(tenant),
                Turn::Over => self.others.push_back(tenant),
                Turn::CutShort => self.others.push_front(tenant),
                Turn::Empty => {
                    self.tenants.remove(&tenant);
                }
            }
        }
        for tenant in &passed_over {
            if let Some(line) = self.tenants.get_mut(tenant) {
                line.passed.append(&mut line.waiting);
                std::mem::swap(&mut line.passed, &mut line.waiting);
            }
        }
        self.others.extend(stalled);
        self.waiting.subtract(batch.load);
        self.taken.add(batch.load);
        Batch { events: batch.events, load: batch.load }
    }

    /// Takes out of the queue what waits in vain.
    pub fn remove(&mut self, mut is_vain: impl FnMut(&E) -> bool) -> Vec<E> {
        let mut removed = Vec::new();
        for line in self.tenants.values_mut() {
            for event in std::mem::take(&mut line.waiting) {
                if is_vain(&event) {
                    let load = Load::of_one(event.bytes());
                    line.load.subtract(load);
                    self.waiting.subtract(load);
                    removed.push(event);
                } else {
                    line.waiting.push_back(event);
                }
            }
        }
        self.tenants.retain(|_, line| !line.waiting.is_empty());
        self.fresh.retain(|tenant| self.tenants.contains_key(tenant));
        self.others.retain(|tenant| self.tenants.contains_key(tenant));
        removed
    }

    /// A batch was answered: there is room for as much again.
    pub const fn settle(&mut self, load: Load) {
        self.taken.subtract(load);
    }

    /// What there is no room for, where there is not enough.
    const fn shortage(&self, more: Load) -> Option<Shortage> {
        let mut load = self.waiting;
        load.add(self.taken);
        load.add(more);
        if load.events > self.bounds.queue.events {
            Some(Shortage::Events)
        } else if load.bytes > self.bounds.queue.bytes {
            Some(Shortage::Bytes)
        } else {
            None
        }
    }

    /// What the queue says to a tenant that no other one makes room for.
    fn refusal(&self, tenant: &Tenant) -> Refusal {
        let others = self.tenants.keys().any(|other| other != tenant);
        if others { Refusal::OverShare } else { Refusal::Full }
    }

    /// The tenant that has the most of what is short, where that is more than `tenant` would have.
    fn victim(&self, tenant: &Tenant, more: Load, shortage: Shortage) -> Option<Tenant> {
        let mut own = self.tenants.get(tenant).map_or_else(Load::default, |line| line.load);
        own.add(more);
        let (name, line) = self.tenants.iter().max_by_key(|(_, line)| shortage.of(line.load))?;
        (shortage.of(line.load) > shortage.of(own)).then(|| name.clone())
    }

    /// Takes the newest event of a tenant out of the queue.
    fn evict(&mut self, tenant: &Tenant) -> Option<E> {
        let line = self.tenants.get_mut(tenant)?;
        let event = line.waiting.pop_back()?;
        let load = Load::of_one(event.bytes());
        line.load.subtract(load);
        self.waiting.subtract(load);
        if line.waiting.is_empty() {
            self.tenants.remove(tenant);
            self.fresh.retain(|other| other != tenant);
            self.others.retain(|other| other != tenant);
        }
        Some(event)
    }

    fn next_turn(&mut self) -> Option<Tenant> {
        let (first, second) = if self.next_is_fresh {
            (&mut self.fresh, &mut self.others)
        } else {
            (&mut self.others, &mut self.fresh)
        };
        self.next_is_fresh = !self.next_is_fresh;
        first.pop_front().or_else(|| second.pop_front())
    }
}

/// What there is too little of.
#[derive(Clone, Copy, Debug)]
enum Shortage {
    Events,
    Bytes,
}

impl Shortage {
    const fn of(self, load: Load) -> usize {
        match self {
            Self::Events => load.events,
            Self::Bytes => load.bytes,
        }
    }
}

/// How a tenant's turn ended.
enum Turn {
    /// Nothing waits any more.
    Empty,
    /// All that waits has to wait for the next batch.
    Stalled,
    /// The tenant had what its turn is worth.
    Over,
    /// The batch was full before that.
    CutShort,
}

impl<E: Event> Line<E> {
    /// Gives the batch what the tenant's turn is worth.
    fn take_turn(&mut self, batch: &mut Filling<E>) -> Turn {
        while self.owed < TURN_BYTES && !batch.is_full() {
            // What a batch passes over is bounded as well.
            let event = if self.passed.len() < batch.bounds.events { self.waiting.pop_front() } else { None };
            let Some(event) = event else {
                self.owed = 0;
                let empty = self.passed.is_empty() && self.waiting.is_empty();
                return if empty { Turn::Empty } else { Turn::Stalled };
            };
            if batch.has_to_wait(&event) {
                self.passed.push_back(event);
                continue;
            }
            let bytes = event.bytes();
            self.load.subtract(Load::of_one(bytes));
            self.owed = self.owed.saturating_add(bytes).saturating_add(EVENT_COST_BYTES);
            batch.add(event, bytes);
        }
        if self.waiting.is_empty() && self.passed.is_empty() {
            return Turn::Empty;
        }
        if self.owed < TURN_BYTES {
            return Turn::CutShort;
        }
        self.owed -= TURN_BYTES;
        Turn::Over
    }
}

/// A batch that is being put together.
struct Filling<E> {
    bounds: Load,
    events: Vec<E>,
    load: Load,
    keys: BTreeSet<(SubscriptionId, String)>,
    /// What comes after an event that waits, waits as well: numbers follow the order of arrival.
    blocked: BTreeSet<SubscriptionId>,
}

impl<E: Event> Filling<E> {
    fn new(bounds: Load, waiting: usize) -> Self {
        Self {
            bounds,
            events: Vec::with_capacity(waiting.min(bounds.events)),
            load: Load::default(),
            keys: BTreeSet::new(),
            blocked: BTreeSet::new(),
        }
    }

    const fn is_full(&self) -> bool {
        self.load.events >= self.bounds.events || self.load.bytes >= self.bounds.bytes
    }

    /// Whether an event is for the next batch.
    fn has_to_wait(&mut self, event: &E) -> bool {
        let id = event.subscription();
        if !self.blocked.is_empty() && self.blocked.contains(&id) {
            return true;
        }
        let repeated = event.idempotency_key().is_some_and(|key| !self.keys.insert((id, key.to_owned())));
        if repeated {
            self.blocked.insert(id);
        }
        repeated
    }

    fn add(&mut self, event: E, bytes: usize) {
        self.load.add(Load::of_one(bytes));
        self.events.push(event);
    }
}

#[cfg(test)]
mod tests;
