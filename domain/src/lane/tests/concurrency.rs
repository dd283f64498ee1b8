//! How many go at once where nobody gave a number.

use super::*;
use crate::concurrency::{Adaptive, ROUND_LEAST};

const ADAPTIVE: Policy = Policy {
    ordering: Ordering::None,
    in_flight: InFlight::Adaptive(Adaptive { start: 4, max: 8 }),
    retry: RetryPolicy { max_retries: 9, ..POLICY.retry },
    ..POLICY
};

const OVERLOADED: Verdict =
    Verdict::Failure { retry_after: None, gone: false, overloaded: true, given_up: false };

/// So many are waiting; says how many of them are in flight.
fn backlog(rig: &mut Rig, count: i64) -> usize {
    rig.accept((1..=count).map(plain)).len()
}

#[test]
fn it_grows_while_all_goes_well_and_no_further_than_it_may() {
    let mut rig = Rig::new(ADAPTIVE);
    let mut flying: VecDeque<_> = numbers(&rig.accept((1..=250).map(plain))).into();
    assert_eq!(flying.len(), 4);
    let mut most = Vec::new();
    for _ in 0..6 * ROUND_LEAST {
        let Some(sequence) = flying.pop_front() else { break };
        flying.extend(numbers(&rig.end(sequence, SUCCESS)));
        most.push(flying.len());
    }
    assert_eq!(most.iter().max(), Some(&8));
    assert!(most.is_sorted());
    assert_eq!(rig.lane.in_flight_limit(), 8);
}

#[test]
fn it_is_halved_by_an_endpoint_that_has_too_much_to_do() {
    let mut rig = Rig::new(ADAPTIVE);
    assert_eq!(backlog(&mut rig, 20), 4);
    assert_eq!(rig.end(1, OVERLOADED), []);
    assert_eq!(rig.end(2, SUCCESS), []);
    assert_eq!(rig.end(3, SUCCESS), [(5, 1)], "two at once from here on");
    assert_eq!(rig.held(20), Some(Held::Limit));
}

#[test]
fn what_another_target_bore_is_forgotten() {
    let mut rig = Rig::new(ADAPTIVE);
    assert_eq!(backlog(&mut rig, 20), 4);
    rig.end(1, OVERLOADED);
    assert_eq!(rig.lane.in_flight_limit(), 2);
    let fresh = Change { fresh_start: true, ..rules(ADAPTIVE) };
    assert_eq!(rig.change(fresh).len(), 1, "four at once again");
    rig.end(2, OVERLOADED);
    assert_eq!(rig.lane.in_flight_limit(), 4, "it went to the old target");
}

#[test]
fn an_endpoint_that_is_back_gets_its_backlog_at_once() {
    let circuit = CircuitPolicy { failure_threshold: 3, ..POLICY.circuit };
    let mut rig = Rig::new(Policy { circuit, ..ADAPTIVE });
    assert_eq!(backlog(&mut rig, 20), 4);
    for sequence in 1..=4 {
        rig.end(sequence, OVERLOADED);
    }
    assert_eq!(rig.wait(30), [(1, 2)], "the probe");
    assert_eq!(rig.lane.in_flight_limit(), 2);
    assert_eq!(rig.end(1, SUCCESS).len(), 4);
}

#[test]
fn a_given_number_takes_its_place_from_the_next_start_on() {
    let mut rig = Rig::new(ADAPTIVE);
    assert_eq!(backlog(&mut rig, 20), 4);
    let given = Policy { in_flight: InFlight::Fixed(6), ..ADAPTIVE };
    assert_eq!(rig.change(rules(given)).len(), 2);
    rig.end(1, OVERLOADED);
    assert_eq!(rig.lane.in_flight_limit(), 6);
}
