//! What holds a delivery that its line would let go.

use super::*;

#[test]
fn a_limiter_holds_and_wakes() {
    for hold in [Hold::Rate, Hold::TenantRate] {
        let mut rig = Rig::new(POLICY);
        let until = rig.now + secs(3);
        rig.gate.hold = Some(hold(until));
        assert_eq!(rig.accept([plain(1)]), []);
        assert_eq!(rig.lane.held(Sequence(1)), Some(Held::Gate(hold(until))));
        assert_eq!(rig.wakes_in(), Some(3));
        assert!(rig.lane.is_idle(), "the lane may sleep until then");
        rig.gate.hold = None;
        assert_eq!(rig.wait(3), [(1, 1)]);
        assert_eq!(rig.lane.held(Sequence(1)), Some(Held::InFlight));
        assert_eq!(rig.gate.admitted, 1, "one turn for one start");
    }
}

#[test]
fn a_full_node_holds_until_a_place_is_free() {
    let mut rig = Rig::new(POLICY);
    rig.gate.hold = Some(Hold::Capacity);
    assert_eq!(rig.accept([plain(1)]), []);
    assert_eq!(rig.lane.held(Sequence(1)), Some(Held::Gate(Hold::Capacity)));
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
    assert_eq!(rig.lane.held(Sequence(1)), None, "its retry time is in the store");
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
