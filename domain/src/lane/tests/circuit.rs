//! When an endpoint is left in peace.

use super::*;

const BREAKS: Policy = Policy { circuit: CircuitPolicy { failure_threshold: 2, ..POLICY.circuit }, ..POLICY };

fn breaks(in_flight_max: u32) -> Policy {
    Policy { ordering: Ordering::None, in_flight: InFlight::Fixed(in_flight_max), ..BREAKS }
}

fn circuit(rig: &Rig) -> Circuit {
    rig.last().health.expect("the health changed").circuit
}

fn open(rig: &Rig, seconds: u64, failures: u32) -> Circuit {
    Circuit::Open { until: rig.now + secs(seconds), cool_down: secs(seconds), failures }
}

#[test]
fn it_opens_probes_doubles_and_closes() {
    let mut rig = Rig::new(breaks(3));
    assert_eq!(rig.accept([plain(1), plain(2)]), [(1, 1), (2, 1)]);
    rig.finish(1, FAILURE);
    assert_eq!(circuit(&rig), Circuit::Closed { failures: 1 });
    rig.finish(2, FAILURE);
    assert_eq!(circuit(&rig), open(&rig, 30, 2));
    rig.record(1);
    rig.record(2);
    assert_eq!(rig.accept([plain(3), plain(4)]), [], "nothing goes while it is open");
    assert_eq!(rig.wakes_in(), Some(30));
    assert_eq!(rig.wait(29), []);
    assert_eq!(rig.wait(1), [(1, 2)], "one probe, the first in order");
    assert_eq!(rig.wait(1000), []);
    rig.finish(1, FAILURE);
    assert_eq!(circuit(&rig), open(&rig, 60, 3));
    rig.record(1);
    assert_eq!(rig.wakes_in(), Some(60));
    assert_eq!(rig.wait(60), [(1, 3)]);
    rig.finish(1, FAILURE);
    assert_eq!(circuit(&rig), open(&rig, 100, 4), "no longer than the longest");
    rig.record(1);
    assert_eq!(rig.wait(100), [(2, 2)]);
    assert_eq!(rig.finish(2, SUCCESS), [(3, 1), (4, 1)]);
    assert_eq!(circuit(&rig), Circuit::NEW);
}

#[test]
fn the_probe_waits_for_its_retry_time() {
    let mut rig = Rig::new(BREAKS);
    rig.accept([plain(1)]);
    rig.end(1, FAILURE);
    rig.wait(10);
    rig.end(
        1,
        Verdict::Failure { retry_after: Some(secs(45)), gone: false, overloaded: false, given_up: false },
    );
    assert_eq!(rig.wakes_in(), Some(45), "the later of cool-down and retry");
    assert_eq!(rig.wait(30), []);
    assert_eq!(rig.wakes_in(), Some(15));
    assert_eq!(rig.wait(15), [(1, 3)]);
}

#[test]
fn late_outcomes_tell_nothing_new() {
    let mut rig = Rig::new(breaks(4));
    rig.accept([plain(1), plain(2), plain(3), plain(4)]);
    rig.end(1, FAILURE);
    rig.end(2, FAILURE);
    rig.finish(3, SUCCESS);
    let health = rig.last().health.expect("no longer failing");
    assert!(matches!(health.circuit, Circuit::Open { .. }), "a success on its way does not close it");
    assert_eq!(health.failing_since, None);
    rig.record(3);
    assert_eq!(rig.wait(30), [(1, 2)]);
    rig.end(4, FAILURE);
    assert_eq!(rig.wakes_in(), None, "the probe alone decides");
    assert_eq!(rig.finish(1, SUCCESS), [(2, 2)]);
    assert_eq!(circuit(&rig), Circuit::NEW);
}

#[test]
fn a_probe_that_was_skipped_still_decides() {
    let mut rig = Rig::new(BREAKS);
    rig.accept([plain(1), plain(2)]);
    rig.end(1, FAILURE);
    rig.wait(10);
    rig.end(1, FAILURE);
    assert_eq!(rig.wait(30), [(1, 3)]);
    rig.skip(1);
    rig.finish(1, SUCCESS);
    assert_eq!(circuit(&rig), Circuit::NEW);
    assert_eq!(rig.record(1), [(2, 1)]);
}

#[test]
fn a_probe_lost_in_a_crash_goes_again() {
    let now = Instant::now();
    let circuit = Circuit::HalfOpen { cool_down: secs(60), failures: 5 };
    let health = Health { circuit, ..Health::NEW };
    let mut rig = Rig::of(&Outset { policy: BREAKS, health, last: Sequence(2), ..OUTSET }, now);
    assert_eq!(rig.loaded([plain(1), plain(2)]), [(1, 1)]);
    rig.finish(1, FAILURE);
    assert_eq!(super::circuit::circuit(&rig), open(&rig, 100, 6));
}

#[test]
fn an_open_circuit_lets_a_full_lane_sleep() {
    let mut rig = Rig::new(Policy {
        circuit: CircuitPolicy { failure_threshold: 1, ..POLICY.circuit },
        ..policy(Ordering::None, 1)
    });
    rig.accept([plain(1), plain(2)]);
    rig.finish(1, FAILURE);
    assert_eq!(rig.wait(30), [], "the record takes its time");
    assert_eq!(rig.wakes_in(), None, "and no tick would hasten it");
    assert_eq!(rig.record(1), [(1, 2)]);
}

#[test]
fn a_full_node_lets_a_probe_sleep() {
    let mut rig = Rig::new(BREAKS);
    rig.accept([plain(1)]);
    rig.end(1, FAILURE);
    rig.wait(10);
    rig.end(1, FAILURE);
    assert_eq!(rig.wakes_in(), Some(30), "not for its retry time, which comes before");
    rig.gate.hold = Some(Hold::Capacity);
    assert_eq!(rig.wait(30), []);
    assert_eq!(rig.wakes_in(), None, "it will be told when a place is free");
    rig.gate.hold = None;
    assert_eq!(rig.wait(0), [(1, 3)]);
}

#[test]
fn failing_too_long_disables() {
    let policy = Policy { disable_after: Some(secs(25)), ..POLICY };
    let mut rig = Rig::new(policy);
    rig.accept([plain(1)]);
    for (wait, standing) in [(10, None), (20, Some(Standing::Disabled(StatusReason::Failing)))] {
        rig.finish(1, FAILURE);
        assert_eq!(rig.last().standing, None);
        rig.record(1);
        rig.wait(wait);
        if standing.is_some() {
            rig.finish(1, FAILURE);
            assert_eq!(rig.last().standing, standing);
        }
    }
    assert_eq!(rig.record(1), []);
    assert!(rig.rests());
    assert_eq!(rig.change(Change { fresh_start: true, ..rules(policy) }), []);
}

#[test]
fn one_success_forgets_how_long_it_failed() {
    let policy = Policy { disable_after: Some(secs(25)), ..POLICY };
    let mut rig = Rig::new(policy);
    rig.accept([plain(1), plain(2)]);
    rig.end(1, FAILURE);
    rig.wait(10);
    rig.end(1, SUCCESS);
    rig.wait(100);
    rig.finish(2, FAILURE);
    assert_eq!(rig.last().standing, None);
    assert_eq!(rig.last().health.and_then(|health| health.failing_since), Some(rig.now));
}

#[test]
fn jitter_puts_the_probe_off() {
    for (thousandths, millis) in [(0, 30_000), (-1000, 33_000), (500, 31_500), (1000, 33_000)] {
        let mut rig =
            Rig::new(Policy { circuit: CircuitPolicy { failure_threshold: 1, ..POLICY.circuit }, ..POLICY });
        rig.accept([plain(1)]);
        let jitter = Jitter::from_thousandths(thousandths);
        rig.say(Event::Finished { sequence: Sequence(1), verdict: FAILURE, took: TOOK, jitter });
        let until = rig.now + Duration::from_millis(millis);
        assert_eq!(circuit(&rig), Circuit::Open { until, cool_down: secs(30), failures: 1 });
    }
}
