//! Which delivery waits for which.

use super::*;

#[test]
fn strict_goes_on_only_after_the_record() {
    let mut rig = Rig::new(POLICY);
    assert_eq!(rig.accept([plain(1), plain(2)]), [(1, 1)]);
    assert_eq!(rig.finish(1, SUCCESS), [], "ended, but not recorded");
    assert_eq!(rig.record(1), [(2, 1)]);
    assert_eq!(rig.end(2, SUCCESS), []);
    assert!(rig.rests());
}

#[test]
fn strict_holds_everything_behind_a_failure() {
    let mut rig = Rig::new(POLICY);
    rig.accept([plain(1), plain(2)]);
    assert_eq!(rig.end(1, FAILURE), []);
    assert_eq!(rig.wakes_in(), Some(10));
    assert_eq!(rig.wait(9), [], "an early tick does no harm");
    assert_eq!(rig.wait(1), [(1, 2)]);
    assert_eq!(rig.wait(100), [], "nor does a late one");
    assert_eq!(rig.end(1, SUCCESS), [(2, 1)]);
}

#[test]
fn keys_keep_their_own_lines() {
    let mut rig = Rig::new(policy(Ordering::Key, 10));
    let accepted = [keyed(1, "a"), keyed(2, "a"), keyed(3, "b"), plain(4), plain(5)];
    assert_eq!(rig.accept(accepted), [(1, 1), (3, 1), (4, 1), (5, 1)], "those without a key wait for none");
    assert_eq!(rig.end(3, SUCCESS), []);
    assert_eq!(rig.end(1, FAILURE), []);
    assert_eq!(rig.accept([keyed(6, "a"), keyed(7, "b")]), [(7, 1)]);
    assert_eq!(rig.wait(10), [(1, 2)]);
    rig.finish(1, SUCCESS);
    assert_eq!(rig.record(1), [], "what stood behind a retry went back to the store");
    let load = rig.load.clone().expect("a page of that key");
    assert_eq!((load.after, load.scope), (Sequence(1), Scope::Key(OrderingKey("a".into()), Sequence(7))));
    assert_eq!(rig.loaded([keyed(2, "a"), keyed(6, "a")]), [(2, 1)]);
    assert_eq!(rig.end(2, SUCCESS), [(6, 1)]);
}

#[test]
fn without_order_as_many_go_as_may() {
    let mut rig = Rig::new(policy(Ordering::None, 2));
    assert_eq!(rig.accept([keyed(1, "a"), keyed(2, "a"), keyed(3, "a")]), [(1, 1), (2, 1)]);
    assert_eq!(rig.finish(2, SUCCESS), [], "an outcome not recorded holds its place");
    assert_eq!(rig.record(2), [(3, 1)]);
    assert_eq!(rig.end(1, FAILURE), []);
    assert_eq!(rig.accept([plain(4)]), [(4, 1)]);
    assert_eq!(rig.wait(10), [], "both places are taken");
    assert_eq!(rig.end(4, SUCCESS), [(1, 2)]);
}

#[test]
fn an_outcome_nobody_waits_for_does_no_harm() {
    let mut rig = Rig::new(POLICY);
    rig.accept([plain(1), plain(2)]);
    assert_eq!(rig.record(1), [], "recorded before it ended");
    assert_eq!(rig.finish(2, SUCCESS), [], "ended before it began");
    assert_eq!(rig.finish(9, SUCCESS), [], "never heard of");
    rig.finish(1, SUCCESS);
    assert_eq!(rig.finish(1, FAILURE), [], "ended twice");
    assert_eq!(rig.records.len(), 1);
    assert_eq!(rig.record(1), [(2, 1)]);
    assert_eq!(rig.record(1), [], "recorded twice");
}

#[test]
fn skipping_makes_way() {
    for (case, skipped, started, order) in [
        ("the head that waits", 1, vec![(2, 1)], [2, 3]),
        ("one in the middle", 2, vec![], [1, 3]),
        ("the last", 3, vec![], [1, 2]),
    ] {
        let mut rig = Rig::new(POLICY);
        rig.accept([plain(1), plain(2), plain(3)]);
        rig.end(1, FAILURE);
        assert_eq!(rig.skip(skipped), started, "{case}");
        rig.wait(10);
        let next = rig.end(order[0], SUCCESS);
        assert_eq!(next, [(order[1], 1)], "{case}");
        assert_eq!(rig.end(order[1], SUCCESS), [], "{case}");
        assert!(rig.rests(), "{case}");
    }
}

#[test]
fn what_is_skipped_in_flight_ends_without_another_try() {
    for (case, verdict, outcome) in [
        ("a failure is the last", FAILURE, AttemptOutcome::Failed),
        ("a success is told as it was", SUCCESS, AttemptOutcome::Success),
    ] {
        let mut rig = Rig::new(POLICY);
        rig.accept([plain(1), plain(2)]);
        assert_eq!(rig.skip(1), [], "{case}: the request is not cut");
        rig.finish(1, verdict);
        assert_eq!((rig.last().outcome, rig.last().due), (outcome, None), "{case}");
        assert_eq!(rig.record(1), [(2, 1)], "{case}");
    }
}

#[test]
fn what_is_skipped_while_its_failure_is_recorded_does_not_come_back() {
    let mut rig = Rig::new(POLICY);
    rig.accept([plain(1), plain(2)]);
    rig.finish(1, FAILURE);
    assert_eq!(rig.skip(1), []);
    assert_eq!(rig.record(1), [(2, 1)]);
    assert_eq!(rig.wakes_in(), None);
}

#[test]
fn a_skip_heard_of_before_its_delivery_counts() {
    let mut rig = Rig::new(POLICY);
    rig.change(held(POLICY));
    assert_eq!(rig.skip(1), []);
    assert_eq!(rig.accept([plain(1)]), []);
    assert_eq!(rig.change(rules(POLICY)), [], "the store knows whether it still is to be sent");
    assert_eq!(rig.loaded([]), []);
    assert!(rig.rests());
}
