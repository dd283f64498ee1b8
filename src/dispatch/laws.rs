//! The laws of pace and circuit for whole lanes, in virtual time: lanes of one tenant with the limiters
//! that dispatch gives them, and endpoints that answer as they like.
//!
//! What is checked is what an endpoint would see (`reliability.md`, I6 and the breaker's table), by
//! plain counting: in every window the starts are within burst + rate · window; none goes to an open
//! circuit; none beside a probe; and everything that was accepted ends, with no attempt too many.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::{Duration, Instant};

use posthorn_domain::circuit::CircuitPolicy;
use posthorn_domain::concurrency::{Adaptive, InFlight};
use posthorn_domain::delivery::AttemptOutcome;
use posthorn_domain::id::{DeliveryId, EventId, Sequence};
use posthorn_domain::lane::{
    Action, Event, Gate, Health, Hold, Lane, Outset, Policy, Queued, Ticket, Verdict,
};
use posthorn_domain::places::Claim;
use posthorn_domain::retry::{Jitter, RetryPolicy};
use posthorn_domain::subscription::{OnExhausted, Ordering, RateLimit};
use proptest::prelude::*;
use uuid::Uuid;

use super::pace::Pace;

const COOL_DOWN: Duration = Duration::from_secs(2);
const THRESHOLD: u32 = 3;
const RETRIES: u32 = 4;

/// One endpoint and what is sent to it.
#[derive(Clone, Debug)]
struct Plan {
    ordering: Ordering,
    in_flight: InFlight,
    rate: Option<RateLimit>,
    /// When events come, in milliseconds.
    arrivals: Vec<u64>,
    /// How each request ends: after so many milliseconds, so. The last one's way is the way of all that
    /// follow, and then it succeeds.
    answers: Vec<(u64, bool)>,
}

fn plan() -> impl Strategy<Value = Plan> {
    let in_flight = prop_oneof![
        (1_u32..6).prop_map(InFlight::Fixed),
        Just(InFlight::Adaptive(Adaptive { start: 2, max: 6 })),
    ];
    let ordering = prop_oneof![Just(Ordering::Strict), Just(Ordering::None)];
    let arrivals = prop::collection::vec(0_u64..4_000, 1..40);
    let answers = prop::collection::vec((1_u64..400, prop::bool::weighted(0.6)), 0..30);
    (ordering, in_flight, prop::option::of(rate()), arrivals, answers).prop_map(
        |(ordering, in_flight, rate, arrivals, answers)| Plan {
            ordering,
            in_flight: if ordering == Ordering::Strict { InFlight::Fixed(1) } else { in_flight },
            rate,
            arrivals,
            answers,
        },
    )
}

fn rate() -> impl Strategy<Value = RateLimit> {
    (1.0_f64..40.0, 1_u32..8)
        .prop_map(|(requests_per_second, burst)| RateLimit { requests_per_second, burst })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn lanes_keep_to_pace_and_circuit(
        plans in prop::collection::vec(plan(), 1..4),
        tenant in prop::option::of(rate()),
    ) {
        let mut world = World::new(&plans, tenant);
        world.run();
        for (lane, plan) in world.lanes.iter().zip(&plans) {
            check_rate(&lane.starts, plan.rate);
            lane.check_circuit();
            prop_assert_eq!(lane.finished, plan.arrivals.len(), "all that was accepted ended");
        }
        let mut all: Vec<Instant> = world.lanes.iter().flat_map(|lane| lane.starts.iter().copied()).collect();
        all.sort_unstable();
        check_rate(&all, tenant);
    }
}

/// In any window of w seconds at most burst + rate · w.
pub(super) fn check_rate(starts: &[Instant], limit: Option<RateLimit>) {
    let Some(limit) = limit else { return };
    for (first, from) in starts.iter().enumerate() {
        for (last, to) in starts.iter().enumerate().skip(first) {
            let window = to.duration_since(*from).as_secs_f64();
            let count = f64::from(u32::try_from(last - first + 1).unwrap());
            // A period is rounded to the nearest nanosecond.
            let most = f64::from(limit.burst) + limit.requests_per_second * window * (1.0 + 1e-6) + 1e-6;
            assert!(count <= most, "{count} starts in {window} s, at most {most}");
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Happening {
    Arrives,
    Ends(Sequence),
    /// Its outcome is committed.
    Recorded(Sequence),
    Wake,
}

/// What an endpoint saw, in order.
enum Seen {
    Start(Instant, Sequence),
    End(Instant, Sequence, bool),
}

struct Endpoint {
    lane: Lane,
    pace: Pace,
    answers: std::vec::IntoIter<(u64, bool)>,
    flying: Vec<(Sequence, Verdict, Duration)>,
    accepted: i64,
    finished: usize,
    starts: Vec<Instant>,
    seen: Vec<Seen>,
}

struct World {
    now: Instant,
    agenda: BinaryHeap<Reverse<(Instant, usize, Happening)>>,
    lanes: Vec<Endpoint>,
    tenant: Pace,
}

/// As the lane's shell asks: its own pace is looked at first, and its turn taken with the tenant's.
struct Valve<'a> {
    own: &'a Pace,
    tenant: &'a Pace,
}

impl Gate for Valve<'_> {
    fn admit(&mut self, _: Claim, now: Instant) -> Result<(), Hold> {
        self.own.peek(now).map_err(Hold::Rate)?;
        self.tenant.take(now).map_err(Hold::TenantRate)?;
        self.own.take(now).map_err(Hold::Rate)
    }
}

impl World {
    fn new(plans: &[Plan], tenant: Option<RateLimit>) -> Self {
        let now = Instant::now();
        let mut agenda = BinaryHeap::new();
        for (index, plan) in plans.iter().enumerate() {
            for at in &plan.arrivals {
                agenda.push(Reverse((now + Duration::from_millis(*at), index, Happening::Arrives)));
            }
        }
        let lanes = plans.iter().map(|plan| Endpoint::new(plan, now)).collect();
        Self { now, agenda, lanes, tenant: Pace::new(tenant) }
    }

    fn run(&mut self) {
        let mut steps = 0;
        while let Some(Reverse((at, index, happening))) = self.agenda.pop() {
            steps += 1;
            assert!(steps < 100_000, "it never ends");
            self.now = at;
            let endpoint = &mut self.lanes[index];
            endpoint.hear(happening, at);
            let mut valve = Valve { own: &endpoint.pace, tenant: &self.tenant };
            while let Some(action) = endpoint.lane.poll(at, &mut valve) {
                let (after, happening) = match action {
                    Action::Start { ticket, .. } => {
                        let (took, ok) = endpoint.answers.next().unwrap_or((5, true));
                        let took = Duration::from_millis(took);
                        let verdict = if ok { Verdict::Success } else { FAILURE };
                        endpoint.flying.push((ticket.sequence, verdict, took));
                        endpoint.starts.push(at);
                        endpoint.seen.push(Seen::Start(at, ticket.sequence));
                        (took, Happening::Ends(ticket.sequence))
                    }
                    Action::Record(record) => {
                        endpoint.finished += usize::from(record.outcome != AttemptOutcome::FailedAttempt);
                        assert!(record.attempt.get() <= 1 + RETRIES, "an attempt too many");
                        (Duration::from_millis(1), Happening::Recorded(record.ticket.sequence))
                    }
                    Action::Load(load) => panic!("there is nothing to read: {load:?}"),
                };
                self.agenda.push(Reverse((at + after, index, happening)));
            }
            if let Some(wakeup) = endpoint.lane.next_wakeup() {
                self.agenda.push(Reverse((wakeup, index, Happening::Wake)));
            }
        }
    }
}

const FAILURE: Verdict =
    Verdict::Failure { retry_after: None, gone: false, overloaded: false, given_up: false };

impl Endpoint {
    fn new(plan: &Plan, now: Instant) -> Self {
        let policy = Policy {
            ordering: plan.ordering,
            in_flight: plan.in_flight,
            retry: RetryPolicy {
                max_retries: RETRIES,
                delay: Duration::from_millis(100),
                delay_max: Duration::from_secs(1),
            },
            on_exhausted: OnExhausted::Continue,
            circuit: CircuitPolicy {
                failure_threshold: THRESHOLD,
                cool_down: COOL_DOWN,
                cool_down_max: COOL_DOWN * 4,
            },
            disable_after: None,
        };
        let outset = Outset { policy, active: true, health: Health::NEW, last: Sequence::ZERO };
        Self {
            lane: Lane::new(&outset, now),
            pace: Pace::new(plan.rate),
            answers: plan.answers.clone().into_iter(),
            flying: Vec::new(),
            accepted: 0,
            finished: 0,
            starts: Vec::new(),
            seen: Vec::new(),
        }
    }

    fn hear(&mut self, happening: Happening, now: Instant) {
        let event = match happening {
            Happening::Arrives => {
                self.accepted += 1;
                let sequence = Sequence(self.accepted);
                let ticket = Ticket {
                    id: DeliveryId(Uuid::nil()),
                    event_id: EventId(Uuid::nil()),
                    replay_of: None,
                    sequence,
                };
                Event::Accepted(Queued { ticket, key: None, attempt_count: 0, retry_base: 0, due: None })
            }
            Happening::Ends(sequence) => {
                let at = self.flying.iter().position(|flight| flight.0 == sequence).unwrap();
                let (_, verdict, took) = self.flying.swap_remove(at);
                self.seen.push(Seen::End(now, sequence, verdict == Verdict::Success));
                Event::Finished { sequence, verdict, took, jitter: Jitter::default() }
            }
            Happening::Recorded(sequence) => Event::Recorded { sequence },
            Happening::Wake => Event::Tick,
        };
        self.lane.handle(event, now);
    }

    /// The breaker's table, counted from what the endpoint saw.
    fn check_circuit(&self) {
        let (mut failures, mut open, mut probe) = (0, None::<(Instant, Duration)>, None);
        for seen in &self.seen {
            match *seen {
                Seen::Start(at, sequence) => {
                    assert_eq!(probe, None, "{sequence} starts beside a probe");
                    if let Some((since, cool_down)) = open {
                        assert!(at >= since + cool_down, "{sequence} starts while the circuit is open");
                        probe = Some(sequence);
                    }
                }
                Seen::End(at, sequence, ok) if probe == Some(sequence) => {
                    let longer =
                        |(_, cool_down): (Instant, Duration)| (at, (cool_down * 2).min(COOL_DOWN * 4));
                    open = if ok { None } else { open.map(longer) };
                    (failures, probe) = (0, None);
                }
                // In flight when the circuit opened, so it tells nothing.
                Seen::End(..) if open.is_some() => {}
                Seen::End(at, _, ok) => {
                    failures = if ok { 0 } else { failures + 1 };
                    open = (failures == THRESHOLD).then_some((at, COOL_DOWN));
                }
            }
        }
    }
}
