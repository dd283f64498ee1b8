//! What a lane costs: nanoseconds per delivery from `Accepted` to `Recorded`, all events and
//! actions told, without a store or a network. `cargo run --release -p posthorn-domain --example lane_cost`.

#![allow(clippy::print_stdout)]

use std::time::{Duration, Instant};

use posthorn_domain::circuit::CircuitPolicy;
use posthorn_domain::concurrency::InFlight;
use posthorn_domain::delivery::OrderingKey;
use posthorn_domain::id::{DeliveryId, EventId, Sequence};
use posthorn_domain::lane::{
    Action, Event, Gate, Health, Hold, Lane, Outset, Policy, Queued, Ticket, Verdict,
};
use posthorn_domain::places::Claim;
use posthorn_domain::retry::{Jitter, RetryPolicy};
use posthorn_domain::subscription::{OnExhausted, Ordering};
use uuid::Uuid;

const DELIVERIES: i64 = 1_000_000;
/// Deliveries accepted ahead of those that are sent: most of a window.
const AHEAD: i64 = 200;
const KEYS: i64 = 100;

struct Open;

impl Gate for Open {
    fn admit(&mut self, _: Claim, _: Instant) -> Result<(), Hold> {
        Ok(())
    }
}

fn main() {
    for (ordering, in_flight_max) in [(Ordering::Strict, 1), (Ordering::None, 16), (Ordering::Key, 16)] {
        let mut costs = [0; 3].map(|_| measure(ordering, in_flight_max));
        costs.sort_unstable();
        let [least, median, most] = costs;
        println!("{ordering:>6}, {in_flight_max:>2} in flight: {median} ns [{least}-{most}] per delivery");
    }
}

/// Nanoseconds per delivery.
fn measure(ordering: Ordering, in_flight_max: u32) -> u128 {
    let keys: Vec<_> = (0..KEYS).map(|key| OrderingKey(format!("key-{key}").into())).collect();
    let now = Instant::now();
    let mut lane = Lane::new(&outset(ordering, in_flight_max), now);
    let mut recorded = 0;
    for sequence in 1..=DELIVERIES {
        let key = usize::try_from(sequence % KEYS).ok().and_then(|key| keys.get(key)).cloned();
        lane.handle(Event::Accepted(queued(sequence, key)), now);
        while recorded + AHEAD < sequence && step(&mut lane, now, &mut recorded) {}
    }
    while step(&mut lane, now, &mut recorded) {}
    assert!(recorded == DELIVERIES, "{recorded} of {DELIVERIES} went through");
    now.elapsed().as_nanos() / u128::try_from(DELIVERIES).unwrap_or(1)
}

/// Does one thing that the lane wants; false where it wants nothing.
fn step(lane: &mut Lane, now: Instant, recorded: &mut i64) -> bool {
    let Some(action) = lane.poll(now, &mut Open) else { return false };
    let event = match action {
        Action::Start { ticket, .. } => {
            let sequence = ticket.sequence;
            Event::Finished {
                sequence,
                verdict: Verdict::Success,
                took: Duration::from_millis(20),
                jitter: Jitter::default(),
            }
        }
        Action::Record(record) => {
            *recorded += 1;
            Event::Recorded { sequence: record.ticket.sequence }
        }
        Action::Load(_) => Event::Loaded(Vec::new()),
    };
    lane.handle(event, now);
    true
}

fn outset(ordering: Ordering, in_flight_max: u32) -> Outset {
    let second = Duration::from_secs(1);
    let policy = Policy {
        ordering,
        in_flight: InFlight::Fixed(in_flight_max),
        retry: RetryPolicy { max_retries: 5, delay: second, delay_max: second },
        on_exhausted: OnExhausted::Continue,
        circuit: CircuitPolicy { failure_threshold: 10, cool_down: second, cool_down_max: second },
        disable_after: None,
    };
    Outset { policy, active: true, health: Health::NEW, last: Sequence::ZERO }
}

fn queued(sequence: i64, key: Option<OrderingKey>) -> Queued {
    let id = Uuid::from_u128(u128::try_from(sequence).unwrap_or(0));
    let ticket =
        Ticket { id: DeliveryId(id), event_id: EventId(id), replay_of: None, sequence: Sequence(sequence) };
    Queued { ticket, key, attempt_count: 0, retry_base: 0, due: None }
}
