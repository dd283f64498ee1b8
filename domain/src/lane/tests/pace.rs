//! What holds a delivery that its line would let go.

use super::*;

#[test]
fn a_limiter_holds_and_wakes() {
    for hold in [Hold::Rate, Hold::TenantRate] {
        let mut rig = Rig::new(POLICY);
        let until = rig.now + secs(3);
        rig.gate.hold = Some(hold(until));
        assert_eq!(rig.accept([plain(1)]), []);
        assert_eq!(rig.held(1), Some(Held::Gate(hold(until))));
        assert_eq!(rig.wakes_in(), Some(3));
        assert!(rig.lane.is_idle(), "the lane may sleep until then");
        rig.gate.hold = None;
        assert_eq!(rig.wait(3), [(1, 1)]);
        assert_eq!(rig.held(1), Some(Held::InFlight));
        assert_eq!(rig.gate.admitted, 1, "one turn for one start");
    }
}

#[test]
fn a_full_node_holds_until_a_place_is_free() {
    let mut rig = Rig::new(POLICY);
    rig.gate.hold = Some(Hold::Capacity);
    assert_eq!(rig.accept([plain(1)]), []);
    assert_eq!(rig.held(1), Some(Held::Gate(Hold::Capacity)));
    assert_eq!(rig.wakes_in(), None);
    assert!(!rig.lane.is_idle(), "it will be told when a place is free");
    rig.gate.hold = None;
    assert_eq!(rig.wait(0), [(1, 1)]);
}

#[test]
fn the_gate_is_not_asked_in_vain() {
    let mut rig = Rig::new(policy(Ordering::None, 1));
    rig.accept([plain(1), plain(2)]);
    rig.wait(1);
    rig.end(1, FAILURE);
    rig.end(2, FAILURE);
    assert_eq!(rig.gate.admitted, 2);
    assert_eq!(rig.held(1), None, "its retry time is in the store");
}

#[test]
fn a_pause_holds_but_cuts_nothing() {
    let mut rig = Rig::new(POLICY);
    rig.accept([plain(1), plain(2)]);
    assert_eq!(rig.change(held(POLICY)), []);
    assert_eq!(rig.finish(1, FAILURE), [], "it ends as it would have");
    assert_eq!(rig.last().due, Some(rig.now + secs(10)));
    assert_eq!(rig.record(1), []);
    assert_eq!(rig.accept([plain(3)]), []);
    assert!(rig.rests());
    assert_eq!(rig.wait(60), []);
    assert_eq!(rig.change(rules(POLICY)), [(1, 2)], "due times stood");
    assert_eq!(rig.end(1, SUCCESS), [(2, 1)]);
    assert_eq!(rig.end(2, SUCCESS), [(3, 1)]);
}

#[test]
fn a_paused_lane_starts_nothing_from_what_it_reads() {
    let mut rig = Rig::opening(POLICY);
    rig.change(held(POLICY));
    assert_eq!(rig.loaded([plain(1)]), []);
    assert!(rig.rests());
    assert_eq!(rig.change(rules(POLICY)), [(1, 1)]);
}

#[test]
fn a_lower_limit_waits_for_what_is_in_flight() {
    let mut rig = Rig::new(policy(Ordering::None, 3));
    assert_eq!(rig.accept((1..=4).map(plain)).len(), 3);
    assert_eq!(rig.change(rules(policy(Ordering::None, 1))), []);
    assert_eq!(rig.end(1, SUCCESS), []);
    assert_eq!(rig.end(2, SUCCESS), []);
    assert_eq!(rig.end(3, SUCCESS), [(4, 1)]);
}

#[test]
fn a_lane_is_deaf_to_what_it_could_not_send_any_sooner() {
    let breaks = CircuitPolicy { failure_threshold: 1, ..POLICY.circuit };
    let (strict, by_key) = (POLICY, Policy { circuit: breaks, ..policy(Ordering::Key, 2) });
    let asks = |seconds| Verdict::Failure {
        retry_after: Some(secs(seconds)),
        gone: false,
        overloaded: false,
        given_up: false,
    };
    for (case, policy, verdict, deaf, wakes_in) in [
        ("behind a retry", strict, asks(500), true, Some(500)),
        ("with nothing before it", strict, SUCCESS, false, None),
        ("behind an open circuit", by_key, asks(20), true, Some(30)),
        ("as the probe, before the retry is due", by_key, asks(500), false, Some(500)),
    ] {
        let mut rig = Rig::new(policy);
        rig.accept([keyed(1, "a")]);
        rig.end(1, verdict);
        assert_eq!((rig.lane.is_deaf(), rig.wakes_in()), (deaf, wakes_in), "{case}");
    }
    let mut rig = Rig::new(POLICY);
    rig.change(held(POLICY));
    assert!(rig.lane.is_deaf(), "while held");
}
