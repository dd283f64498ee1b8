//! What is right, said slowly: who may start, and what an outcome means.
//!
//! It knows the store and what the lane was told, never what the lane thinks. Where what the lane
//! was told may differ from the store because a notice is on its way, it allows for both.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use posthorn_domain::circuit::Circuit;
use posthorn_domain::concurrency::InFlight;
use posthorn_domain::delivery::{AttemptOutcome, OrderingKey};
use posthorn_domain::id::Sequence;
use posthorn_domain::lane::{Health, Policy, Record, Standing, Verdict};
use posthorn_domain::subscription::{OnExhausted, Ordering, StatusReason};

use super::store::{Edited, Row, Store};

/// A request that is in flight.
#[derive(Clone, Copy, Debug)]
pub(super) struct Flight {
    pub(super) sequence: Sequence,
    pub(super) attempt: u32,
    /// Which of the targets it goes to.
    target: u32,
    probe: bool,
}

/// A request that just ended.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ended {
    pub(super) flight: Flight,
    verdict: Verdict,
    /// The endpoint's health before.
    before: Pulse,
}

/// What is remembered of an endpoint, in plain fields.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Pulse {
    failures: u32,
    open: Option<(Instant, Duration)>,
    probing: bool,
    failing_since: Option<Instant>,
}

pub(super) struct Reference {
    /// What the lane was told last.
    pub(super) told: Edited,
    /// What it was built from; notices of what came before tell it nothing.
    pub(super) built: u64,
    /// How often it was told of a new target.
    target: u32,
    pulse: Pulse,
    /// The ordering in force: another one waits until nothing is in flight.
    pub(super) ordering: Ordering,
    /// Deliveries whose records change the standing, and the lane does not know yet how.
    closing: Vec<Sequence>,
    /// Deliveries of which the lane was told that they ended.
    ended: BTreeSet<Sequence>,
    /// Deliveries that somebody wanted now after their last start.
    wished: BTreeSet<Sequence>,
    /// At most so many attempts of a delivery count no more.
    forgiven: BTreeMap<Sequence, u32>,
    /// The highest number that an endpoint has seen of a line.
    seen: BTreeMap<String, Sequence>,
}

impl Reference {
    pub(super) fn new(store: &Store, now: Instant) -> Self {
        Self {
            told: store.read(),
            built: store.version,
            target: 0,
            pulse: Pulse::of(store.health, now),
            ordering: store.policy.ordering,
            closing: Vec::new(),
            ended: BTreeSet::new(),
            wished: BTreeSet::new(),
            forgiven: BTreeMap::new(),
            seen: BTreeMap::new(),
        }
    }

    /// The lane was built from the store. What the endpoint has seen stays.
    pub(super) fn rebuilt(&mut self, store: &Store, now: Instant) {
        let (forgiven, seen) = (std::mem::take(&mut self.forgiven), std::mem::take(&mut self.seen));
        let same = self.ordering == store.policy.ordering;
        *self = Self { forgiven, seen: if same { seen } else { BTreeMap::new() }, ..Self::new(store, now) };
    }

    /// Nothing is in flight or being recorded, so another ordering may begin.
    pub(super) fn quiet(&mut self) {
        if self.ordering != self.told.policy.ordering {
            self.ordering = self.told.policy.ordering;
            self.seen.clear();
        }
    }

    pub(super) fn may_send(&self) -> bool {
        self.told.active && self.closing.is_empty()
    }

    /// Whether requests go out as they come: the circuit is closed.
    pub(super) fn is_closed(&self) -> bool {
        self.pulse.open.is_none()
    }

    /// Whether the lane waits for requests in the old order.
    pub(super) fn is_draining(&self) -> bool {
        self.ordering != self.told.policy.ordering
    }

    /// A request begins; everything that forbids it is looked for.
    pub(super) fn starts(
        &mut self,
        row: &Row,
        attempt: u32,
        store: &Store,
        flying: &[Flight],
        now: Instant,
    ) -> Flight {
        let sequence = row.sequence;
        assert!(self.may_send(), "{sequence} starts while held");
        assert!(!self.is_draining(), "{sequence} starts before the ordering is changed");
        assert!(!self.ended.contains(&sequence), "{sequence} starts though the lane knows its end");
        assert_eq!(attempt, row.attempts + 1, "the attempt of {sequence}");
        assert!(flying.len() < most(self.told.policy.in_flight), "{sequence} is one too many in flight");
        for other in flying {
            let other = store.row(other.sequence);
            assert!(!same_line(self.ordering, row, other), "{sequence} beside {}", other.sequence);
        }
        let earlier = store.unfinished().take_while(|other| other.sequence < sequence);
        for other in earlier {
            assert!(!same_line(self.ordering, row, other), "{sequence} before {}", other.sequence);
        }
        let wished = self.wished.remove(&sequence);
        assert!(wished || row.due.is_none_or(|due| due <= now), "{sequence} is not due");
        assert!(!self.pulse.probing, "{sequence} starts beside a probe");
        if let Some((until, _)) = self.pulse.open {
            assert!(until <= now, "{sequence} starts while the circuit is open");
            self.pulse.probing = true;
        }
        if let Some(line) = line(self.ordering, row) {
            let seen = self.seen.entry(line).or_insert(sequence);
            assert!(*seen <= sequence, "{sequence} goes back behind {seen}");
            *seen = sequence;
        }
        Flight { sequence, attempt, target: self.target, probe: self.pulse.probing }
    }

    /// A request ends.
    pub(super) fn ends(&mut self, flight: Flight, verdict: Verdict, jitter: i16, now: Instant) -> Ended {
        let before = self.pulse;
        self.wished.remove(&flight.sequence);
        if flight.target == self.target {
            let ok = verdict == Verdict::Success;
            self.pulse.beat(ok, flight.probe, &self.told.policy, jitter, now);
        }
        Ended { flight, verdict, before }
    }

    /// A request was not made: all is as before its start.
    pub(super) fn withdrawn(&mut self, flight: Flight, now: Instant) {
        self.wished.insert(flight.sequence);
        if flight.probe && flight.target == self.target {
            self.pulse.probing = false;
            self.pulse.open = self.pulse.open.map(|(_, cool_down)| (now, cool_down));
        }
    }

    /// What the lane makes of a request's end.
    pub(super) fn records(
        &mut self,
        ended: &Ended,
        record: &Record,
        store: &Store,
        unsure: bool,
        now: Instant,
    ) {
        let Ended { flight, verdict, before } = *ended;
        let sequence = flight.sequence;
        assert_eq!(record.ticket.sequence, sequence);
        assert_eq!(record.attempt.get(), flight.attempt);
        assert_eq!(record.due.is_some(), record.outcome == AttemptOutcome::FailedAttempt);
        let health = (self.pulse != before).then(|| self.pulse.to_health());
        assert_eq!(record.health, health, "health after {sequence}");
        let stale = flight.target != self.target;
        let policy = &self.told.policy;
        let too_long = !stale && self.may_send() && self.pulse.fails_too_long(policy, now);
        let failing = too_long.then_some(Standing::Disabled(StatusReason::Failing));
        let got = (record.outcome, record.standing);
        match verdict {
            Verdict::Success => assert_eq!(got, (AttemptOutcome::Success, None)),
            Verdict::Failure { gone: true, .. } if !stale => {
                assert_eq!(got, (AttemptOutcome::Failed, Some(Standing::Disabled(StatusReason::Gone))));
            }
            Verdict::Failure { given_up: true, .. } if !stale => {
                assert_eq!(got, (AttemptOutcome::Failed, failing));
            }
            Verdict::Failure { .. } if self.ended.contains(&sequence) => {
                assert_eq!(got, (AttemptOutcome::Failed, failing));
            }
            Verdict::Failure { retry_after, .. } => {
                let row = store.row(sequence);
                // What the lane takes as forgiven: between these two.
                let base_least = if unsure { 0 } else { row.retry_base };
                let base_most = self.forgiven.get(&sequence).copied().unwrap_or(0).max(row.retry_base);
                let used_least = (flight.attempt - 1).saturating_sub(base_most);
                let used_most = (flight.attempt - 1).saturating_sub(base_least);
                let retry = (AttemptOutcome::FailedAttempt, failing);
                let exhausted = match policy.on_exhausted {
                    OnExhausted::Continue => (AttemptOutcome::Failed, failing),
                    OnExhausted::Pause => {
                        let paused = Standing::Paused(StatusReason::RetriesExhausted);
                        (AttemptOutcome::FailedAttempt, Some(paused))
                    }
                };
                let max = policy.retry.max_retries;
                let right = (used_least < max && got == retry) || (used_most >= max && got == exhausted);
                assert!(right, "{sequence}: {got:?} after {used_least} to {used_most} of {max} retries");
                if got == retry {
                    let wait = record.due.unwrap() - now;
                    let asked = retry_after.unwrap_or_default();
                    let shortest = backoff(policy, used_least).mul_f64(0.8).max(asked);
                    let longest = backoff(policy, used_most).mul_f64(1.2).max(asked);
                    assert!((shortest..=longest).contains(&wait), "{sequence} waits {wait:?}");
                }
            }
        }
        if record.standing.is_some() {
            self.closing.push(sequence);
        }
    }

    /// The lane is told that a record is committed; `earlier` were committed before it.
    pub(super) fn recorded(&mut self, sequence: Sequence, earlier: &[Sequence]) {
        self.closing.retain(|other| *other != sequence && !earlier.contains(other));
    }

    /// The lane is told of a change; the records of `recording` are not committed.
    pub(super) fn changed(&mut self, change: &Edited, store: &Store, recording: &[Sequence]) {
        self.told = *change;
        for row in store.unfinished() {
            if change.retries_forgiven {
                let made = u32::from(recording.contains(&row.sequence));
                let most = self.forgiven.entry(row.sequence).or_default();
                *most = (*most).max(row.attempts + made);
            }
            if change.fresh_start {
                self.wished.insert(row.sequence);
            }
        }
        if change.fresh_start {
            self.target += 1;
            self.pulse = Pulse::NEW;
        }
    }

    pub(super) fn skipped(&mut self, sequence: Sequence) {
        self.ended.insert(sequence);
    }

    pub(super) fn retried(&mut self, sequence: Sequence) {
        self.wished.insert(sequence);
    }

    /// When something could start next, if nothing is under way.
    pub(super) fn next_start(&self, store: &Store, now: Instant) -> Option<Instant> {
        let is_first = |row: &&Row| {
            let mut before = store.unfinished().take_while(|other| other.sequence < row.sequence);
            !before.any(|other| same_line(self.ordering, row, other))
        };
        let due = store.unfinished().filter(is_first).map(|row| row.due.unwrap_or(now)).min()?;
        Some(self.pulse.open.map_or(due, |(until, _)| due.max(until)))
    }

    /// A delivery that nothing keeps from starting now but a place in flight.
    pub(super) fn startable<'a>(&self, store: &'a Store, flying: &[Flight], now: Instant) -> Option<&'a Row> {
        let due = |row: &&Row| row.due.is_none_or(|due| due <= now);
        let is_free = |row: &&Row| {
            let mut before = store.unfinished().take_while(|other| other.sequence < row.sequence);
            let mut beside = flying.iter().map(|flight| store.row(flight.sequence));
            !before.any(|other| same_line(self.ordering, row, other))
                && !beside.any(|other| row.sequence == other.sequence || same_line(self.ordering, row, other))
        };
        store.unfinished().filter(due).find(is_free)
    }
}

impl Pulse {
    const NEW: Self = Self { failures: 0, open: None, probing: false, failing_since: None };

    /// As recorded; a probe that was in flight ended with its process.
    fn of(health: Health, now: Instant) -> Self {
        let (failures, open) = match health.circuit {
            Circuit::Closed { failures } => (failures, None),
            Circuit::Open { until, cool_down, failures } => (failures, Some((until, cool_down))),
            Circuit::HalfOpen { cool_down, failures } => (failures, Some((now, cool_down))),
        };
        Self { failures, open, probing: false, failing_since: health.failing_since }
    }

    fn beat(&mut self, ok: bool, probe: bool, policy: &Policy, jitter: i16, now: Instant) {
        self.failing_since = if ok { None } else { self.failing_since.or(Some(now)) };
        match self.open {
            Some((_, cool_down)) if probe => {
                let cool_down = (cool_down * 2).min(policy.circuit.cool_down_max);
                self.failures += 1;
                self.probing = false;
                self.open = Some((now + put_off(cool_down, jitter), cool_down));
                if ok {
                    (self.failures, self.open) = (0, None);
                }
            }
            Some(_) => {}
            None if ok => self.failures = 0,
            None => {
                self.failures += 1;
                let cool_down = policy.circuit.cool_down;
                self.open = (self.failures >= policy.circuit.failure_threshold)
                    .then_some((now + put_off(cool_down, jitter), cool_down));
            }
        }
    }

    fn fails_too_long(&self, policy: &Policy, now: Instant) -> bool {
        let failing = self.failing_since.zip(policy.disable_after);
        failing.is_some_and(|(since, limit)| now - since >= limit)
    }

    fn to_health(self) -> Health {
        let failures = self.failures;
        let circuit = match self.open {
            None => Circuit::Closed { failures },
            Some((_, cool_down)) if self.probing => Circuit::HalfOpen { cool_down, failures },
            Some((until, cool_down)) => Circuit::Open { until, cool_down, failures },
        };
        Health { circuit, failing_since: self.failing_since }
    }
}

/// The wait after `used` retries, without jitter.
fn backoff(policy: &Policy, used: u32) -> Duration {
    (0..used).fold(policy.retry.delay, |delay, _| delay * 2).min(policy.retry.delay_max)
}

/// A cool-down and up to a tenth of it.
fn put_off(cool_down: Duration, jitter: i16) -> Duration {
    cool_down + cool_down * u32::from(jitter.unsigned_abs().min(1000)) / 10_000
}

fn same_line(ordering: Ordering, one: &Row, other: &Row) -> bool {
    match ordering {
        Ordering::Strict => true,
        Ordering::Key => one.key.is_some() && one.key == other.key,
        Ordering::None => false,
    }
}

/// The name of the line as an endpoint sees it; none where it may see any order.
fn line(ordering: Ordering, row: &Row) -> Option<String> {
    match ordering {
        Ordering::Strict => Some("all".to_owned()),
        Ordering::Key => row.key.as_ref().map(OrderingKey::to_string),
        Ordering::None => None,
    }
}

/// The most that may ever be in flight. What a limit that follows its endpoint is at the moment is its
/// own module's matter.
fn most(in_flight: InFlight) -> usize {
    let most = match in_flight {
        InFlight::Fixed(limit) => limit,
        InFlight::Adaptive(bounds) => bounds.max,
    };
    usize::try_from(most).unwrap()
}
