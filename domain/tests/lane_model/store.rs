//! The store as the model has it: a list of deliveries and what is said of their subscription.
//!
//! It does what `src/store` does, in the plainest way: each method is one committed transaction.

use std::time::Instant;

use posthorn_domain::delivery::{AttemptOutcome, DeliveryStatus, OrderingKey};
use posthorn_domain::id::{DeliveryId, EventId, Sequence};
use posthorn_domain::lane::{Health, Load, Outset, Policy, Queued, Record, Scope, Standing, Ticket};
use posthorn_domain::subscription::{StatusReason, SubscriptionStatus};
use uuid::Uuid;

#[derive(Clone, Debug)]
pub(super) struct Row {
    pub(super) sequence: Sequence,
    pub(super) key: Option<OrderingKey>,
    pub(super) status: DeliveryStatus,
    pub(super) attempts: u32,
    pub(super) retry_base: u32,
    pub(super) due: Option<Instant>,
}

pub(super) struct Store {
    /// Number `n` stands at `n - 1`.
    rows: Vec<Row>,
    pub(super) policy: Policy,
    pub(super) status: SubscriptionStatus,
    reason: Option<StatusReason>,
    pub(super) version: u64,
    pub(super) health: Health,
}

/// What a person wants changed.
#[derive(Clone, Copy, Debug)]
pub(super) enum Edit {
    Rules(Policy),
    Status(SubscriptionStatus),
    Target,
}

/// The subscription after a change, as the lane is to be told of it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Edited {
    pub(super) version: u64,
    pub(super) policy: Policy,
    pub(super) active: bool,
    pub(super) fresh_start: bool,
    pub(super) retries_forgiven: bool,
}

impl Store {
    pub(super) fn new(policy: Policy) -> Self {
        let (status, health) = (SubscriptionStatus::Active, Health::NEW);
        Self { rows: Vec::new(), policy, status, reason: None, version: 1, health }
    }

    pub(super) fn row(&self, sequence: Sequence) -> &Row {
        &self.rows[index(sequence)]
    }

    pub(super) fn unfinished(&self) -> impl Iterator<Item = &Row> {
        self.rows.iter().filter(|row| !row.status.is_finished())
    }

    pub(super) fn is_active(&self) -> bool {
        self.status == SubscriptionStatus::Active
    }

    /// What a lane is built from.
    pub(super) fn outset(&self) -> Outset {
        Outset {
            policy: self.policy,
            active: self.is_active(),
            health: self.health,
            last: Sequence(i64::try_from(self.rows.len()).unwrap()),
        }
    }

    pub(super) fn accept(&mut self, key: Option<OrderingKey>) -> Queued {
        let sequence = self.outset().last.next();
        let status = DeliveryStatus::Pending;
        self.rows.push(Row { sequence, key, status, attempts: 0, retry_base: 0, due: None });
        queued(self.row(sequence))
    }

    pub(super) fn page(&self, load: &Load) -> Vec<Queued> {
        let asked = |row: &&Row| match &load.scope {
            Scope::Without(keys) => row.key.as_ref().is_none_or(|key| !keys.contains(key)),
            Scope::Key(key, last) => row.key.as_ref() == Some(key) && row.sequence <= *last,
        };
        let rows = self.unfinished().filter(|row| row.sequence > load.after).filter(asked);
        rows.take(load.limit).map(queued).collect()
    }

    /// A record counts where the delivery has just one attempt less; one that somebody ended gets
    /// its attempt counted and nothing else.
    pub(super) fn record(&mut self, record: &Record) {
        let row = &mut self.rows[index(record.ticket.sequence)];
        if row.attempts + 1 != record.attempt.get() {
            return;
        }
        row.attempts += 1;
        if !row.status.is_finished() {
            row.status = match record.outcome {
                AttemptOutcome::Success => DeliveryStatus::Success,
                AttemptOutcome::FailedAttempt => DeliveryStatus::FailedAttempt,
                AttemptOutcome::Failed => DeliveryStatus::Failed,
            };
            row.due = record.due;
        }
        self.health = record.health.unwrap_or(self.health);
        let (status, reason) = match record.standing {
            Some(Standing::Paused(reason)) => (SubscriptionStatus::Paused, reason),
            Some(Standing::Disabled(reason)) => (SubscriptionStatus::Disabled, reason),
            None => return,
        };
        if self.is_active() {
            (self.status, self.reason) = (status, Some(reason));
            self.version += 1;
        }
    }

    pub(super) fn edit(&mut self, edit: Edit, now: Instant) -> Edited {
        let before = self.status;
        match edit {
            Edit::Rules(policy) => self.policy = policy,
            Edit::Status(status) => self.status = status,
            Edit::Target => {}
        }
        self.version += 1;
        let resumed = self.is_active() && before != SubscriptionStatus::Active;
        let retries_forgiven = resumed && self.reason == Some(StatusReason::RetriesExhausted);
        let fresh_start = matches!(edit, Edit::Target) || (resumed && before == SubscriptionStatus::Disabled);
        if self.status != before {
            self.reason = None;
        }
        for row in self.rows.iter_mut().filter(|row| row.status == DeliveryStatus::FailedAttempt) {
            if retries_forgiven {
                row.retry_base = row.attempts;
            }
            if fresh_start {
                row.due = row.due.map(|due| due.min(now));
            }
        }
        if fresh_start {
            self.health = Health::NEW;
        }
        Edited { fresh_start, retries_forgiven, ..self.read() }
    }

    /// The subscription as it stands.
    pub(super) fn read(&self) -> Edited {
        Edited {
            version: self.version,
            policy: self.policy,
            active: self.is_active(),
            fresh_start: false,
            retries_forgiven: false,
        }
    }

    /// Ends a delivery; false where it is finished.
    pub(super) fn skip(&mut self, sequence: Sequence) -> bool {
        let row = &mut self.rows[index(sequence)];
        let done = !row.status.is_finished();
        if done {
            (row.status, row.due) = (DeliveryStatus::Failed, None);
        }
        done
    }

    /// Makes a waiting delivery due; false where it is finished.
    pub(super) fn retry(&mut self, sequence: Sequence, now: Instant) -> bool {
        let row = &mut self.rows[index(sequence)];
        row.due = row.due.map(|due| due.min(now));
        !row.status.is_finished()
    }
}

fn index(sequence: Sequence) -> usize {
    usize::try_from(sequence.0 - 1).unwrap()
}

fn queued(row: &Row) -> Queued {
    let id = Uuid::from_u128(u128::try_from(row.sequence.0).unwrap());
    Queued {
        ticket: Ticket { id: DeliveryId(id), event_id: EventId(id), replay_of: None, sequence: row.sequence },
        key: row.key.clone(),
        attempt_count: row.attempts,
        retry_base: row.retry_base,
        due: row.due,
    }
}
