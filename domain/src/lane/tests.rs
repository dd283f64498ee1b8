//! What a lane does, told in small stories: one subject to a file.
//!
//! A [`Rig`] is a lane with its world stripped to what a story needs: time that moves when told, a
//! gate that holds when told, and lists of what the lane wanted.

mod change;
mod circuit;
mod concurrency;
mod keys;
mod order;
mod pace;
mod page;
mod retry;

use uuid::Uuid;

use super::*;
use crate::circuit::CircuitPolicy;
use crate::concurrency::InFlight;
use crate::delivery::OrderingKey;
use crate::id::{DeliveryId, EventId};
use crate::retry::RetryPolicy;

const POLICY: Policy = Policy {
    ordering: Ordering::Strict,
    in_flight: InFlight::Fixed(1),
    retry: RetryPolicy { max_retries: 2, delay: secs(10), delay_max: secs(900) },
    on_exhausted: OnExhausted::Continue,
    circuit: CircuitPolicy { failure_threshold: 100, cool_down: secs(30), cool_down_max: secs(100) },
    disable_after: None,
};

const OUTSET: Outset = Outset { policy: POLICY, active: true, health: Health::NEW, last: Sequence::ZERO };

const SUCCESS: Verdict = Verdict::Success;
const FAILURE: Verdict =
    Verdict::Failure { retry_after: None, gone: false, overloaded: false, given_up: false };
const GONE: Verdict = Verdict::Failure { retry_after: None, gone: true, overloaded: false, given_up: false };

/// What a request takes.
const TOOK: Duration = Duration::from_millis(20);

/// A start as the stories tell it: which delivery, which attempt.
type Start = (i64, u32);

struct Rig {
    lane: Lane,
    now: Instant,
    gate: Valve,
    /// The page that is awaited.
    load: Option<Load>,
    /// Outcomes that are not recorded yet.
    records: Vec<Record>,
}

/// A gate that is open unless a story closes it.
#[derive(Default)]
struct Valve {
    hold: Option<Hold>,
    admitted: usize,
}

impl Gate for Valve {
    fn admit(&mut self, _: Claim, _: Instant) -> Result<(), Hold> {
        self.admitted += usize::from(self.hold.is_none());
        self.hold.map_or(Ok(()), Err)
    }
}

impl Rig {
    /// A lane whose store is empty.
    fn new(policy: Policy) -> Self {
        Self::reading(policy, 0)
    }

    /// A lane that awaits its first page: there is one delivery, at least.
    fn opening(policy: Policy) -> Self {
        Self::reading(policy, 1)
    }

    /// A lane whose store goes up to `last`.
    fn reading(policy: Policy, last: i64) -> Self {
        Self::of(&Outset { policy, last: Sequence(last), ..OUTSET }, Instant::now())
    }

    fn of(outset: &Outset, now: Instant) -> Self {
        let lane = Lane::new(outset, now);
        let mut rig = Self { lane, now, gate: Valve::default(), load: None, records: Vec::new() };
        assert_eq!(rig.poll(), []);
        rig
    }

    fn say(&mut self, event: Event) -> Vec<Start> {
        self.lane.handle(event, self.now);
        self.poll()
    }

    /// Does what the lane wants; returns what it started.
    fn poll(&mut self) -> Vec<Start> {
        let mut started = Vec::new();
        while let Some(action) = self.lane.poll(self.now, &mut self.gate) {
            match action {
                Action::Start { ticket, attempt } => started.push((ticket.sequence.0, attempt.get())),
                Action::Record(record) => self.records.push(record),
                Action::Load(load) => assert_eq!(self.load.replace(load), None, "one page at a time"),
            }
        }
        assert!(self.lane.next_wakeup().is_none_or(|at| at > self.now), "a wake-up lies ahead");
        started
    }

    fn accept(&mut self, deliveries: impl IntoIterator<Item = Queued>) -> Vec<Start> {
        deliveries.into_iter().flat_map(|queued| self.say(Event::Accepted(queued))).collect()
    }

    fn loaded(&mut self, page: impl IntoIterator<Item = Queued>) -> Vec<Start> {
        self.load = None;
        self.say(Event::Loaded(page.into_iter().collect()))
    }

    /// A request ends; its outcome is not recorded yet.
    fn finish(&mut self, sequence: i64, verdict: Verdict) -> Vec<Start> {
        let (sequence, jitter) = (Sequence(sequence), Jitter::default());
        self.say(Event::Finished { sequence, verdict, took: TOOK, jitter })
    }

    fn record(&mut self, sequence: i64) -> Vec<Start> {
        self.records.retain(|record| record.ticket.sequence.0 != sequence);
        self.say(Event::Recorded { sequence: Sequence(sequence) })
    }

    /// A request ends and its outcome is recorded.
    fn end(&mut self, sequence: i64, verdict: Verdict) -> Vec<Start> {
        let mut started = self.finish(sequence, verdict);
        started.extend(self.record(sequence));
        started
    }

    fn skip(&mut self, sequence: i64) -> Vec<Start> {
        self.say(Event::Skipped { sequence: Sequence(sequence) })
    }

    fn change(&mut self, change: Change) -> Vec<Start> {
        self.say(Event::Changed(change))
    }

    fn wait(&mut self, seconds: u64) -> Vec<Start> {
        self.now += secs(seconds);
        self.say(Event::Tick)
    }

    fn held(&self, sequence: i64) -> Option<Held> {
        self.lane.held(Sequence(sequence), self.now)
    }

    fn last(&self) -> &Record {
        self.records.last().expect("an outcome to record")
    }

    /// Seconds until the lane wants to be woken.
    fn wakes_in(&self) -> Option<u64> {
        self.lane.next_wakeup().map(|at| at.duration_since(self.now).as_secs())
    }

    /// Nothing is under way, and only an event can change anything.
    fn rests(&self) -> bool {
        self.lane.is_idle() && self.lane.next_wakeup().is_none()
    }
}

const fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn policy(ordering: Ordering, in_flight_max: u32) -> Policy {
    Policy { ordering, in_flight: InFlight::Fixed(in_flight_max), ..POLICY }
}

/// The rules are these and nothing else changed.
fn rules(policy: Policy) -> Change {
    Change { policy, active: true, fresh_start: false, retries_forgiven: false }
}

fn held(policy: Policy) -> Change {
    Change { active: false, ..rules(policy) }
}

fn numbers(started: &[Start]) -> Vec<i64> {
    started.iter().map(|(sequence, _)| *sequence).collect()
}

fn plain(sequence: i64) -> Queued {
    let id = Uuid::from_u128(u128::try_from(sequence).expect("sequences count from 1"));
    Queued {
        ticket: Ticket {
            id: DeliveryId(id),
            event_id: EventId(id),
            replay_of: None,
            sequence: Sequence(sequence),
        },
        key: None,
        attempt_count: 0,
        retry_base: 0,
        due: None,
    }
}

fn keyed(sequence: i64, key: &str) -> Queued {
    Queued { key: Some(OrderingKey(key.into())), ..plain(sequence) }
}

fn tried(sequence: i64, attempt_count: u32, due: Instant) -> Queued {
    Queued { attempt_count, due: Some(due), ..plain(sequence) }
}
