//! What a change of the subscription does to its lane.

use super::*;

const NEW_TARGET: Change =
    Change { policy: POLICY, active: true, fresh_start: true, retries_forgiven: false };

#[test]
fn gone_disables() {
    let mut rig = Rig::new(POLICY);
    rig.accept([plain(1), plain(2)]);
    assert_eq!(rig.finish(1, GONE), []);
    let record = rig.last();
    assert_eq!((record.outcome, record.due), (AttemptOutcome::Failed, None));
    assert_eq!(record.standing, Some(Standing::Disabled(StatusReason::Gone)));
    assert_eq!(rig.record(1), []);
    assert!(rig.rests());
    assert_eq!(rig.change(NEW_TARGET), [(2, 1)], "enabled again");
}

#[test]
fn gone_disables_though_its_delivery_was_skipped() {
    let mut rig = Rig::new(POLICY);
    rig.accept([plain(1), plain(2)]);
    rig.skip(1);
    rig.finish(1, GONE);
    assert_eq!(rig.last().standing, Some(Standing::Disabled(StatusReason::Gone)));
}

#[test]
fn gone_from_the_old_target_is_a_failure_like_any() {
    let mut rig = Rig::new(POLICY);
    rig.accept([plain(1)]);
    rig.change(NEW_TARGET);
    rig.finish(1, GONE);
    let record = rig.last();
    assert_eq!((record.outcome, record.standing), (AttemptOutcome::FailedAttempt, None));
    assert_eq!(record.health, None, "it says nothing of the new target");
    assert_eq!(record.due, Some(rig.now + secs(10)));
}

#[test]
fn several_outcomes_that_hold_the_lane_all_count() {
    let mut rig = Rig::new(policy(Ordering::None, 2));
    rig.accept([plain(1), plain(2), plain(3)]);
    rig.finish(1, GONE);
    rig.finish(2, GONE);
    assert_eq!(rig.record(1), []);
    assert_eq!(rig.change(rules(POLICY)), [], "an older change");
    assert_eq!(rig.record(2), []);
    assert!(rig.rests());
}

#[test]
fn a_new_target_makes_waiting_retries_due() {
    let mut rig = Rig::new(policy(Ordering::None, 3));
    rig.accept([plain(1), plain(2), plain(3)]);
    rig.end(1, FAILURE);
    rig.finish(2, FAILURE);
    assert_eq!(rig.change(Change { policy: policy(Ordering::None, 3), ..NEW_TARGET }), [(1, 2)]);
    assert_eq!(rig.record(2), [(2, 2)], "also one whose failure was being recorded");
}

#[test]
fn a_new_target_makes_retries_due_that_stand_behind_others() {
    let mut rig = Rig::opening(POLICY);
    let later = rig.now + secs(500);
    assert_eq!(rig.loaded([tried(1, 1, later), tried(2, 1, later)]), []);
    assert_eq!(rig.change(NEW_TARGET), [(1, 2)]);
    assert_eq!(rig.end(1, SUCCESS), [(2, 2)]);
}

#[test]
fn a_new_target_closes_the_circuit_and_unseats_the_probe() {
    let breaking = CircuitPolicy { failure_threshold: 1, ..POLICY.circuit };
    let policy = Policy { circuit: breaking, ..policy(Ordering::None, 2) };
    let mut rig = Rig::new(policy);
    rig.accept([plain(1), plain(2)]);
    rig.end(1, FAILURE);
    rig.end(2, FAILURE);
    assert_eq!(rig.wait(30), [(1, 2)], "the probe");
    assert_eq!(rig.change(Change { policy, ..NEW_TARGET }), [(2, 2)]);
    rig.end(2, FAILURE);
    assert_eq!(rig.wait(30), [(2, 3)], "the new target's probe beside it");
    rig.finish(1, SUCCESS);
    assert_eq!(rig.last().health, None, "the old target's probe decides nothing");
}

#[test]
fn an_outcome_of_the_old_target_does_not_disable() {
    let policy = Policy { disable_after: Some(secs(5)), ..policy(Ordering::None, 2) };
    let mut rig = Rig::new(policy);
    rig.accept([plain(1)]);
    rig.change(Change { policy, ..NEW_TARGET });
    rig.accept([plain(2)]);
    rig.end(2, FAILURE);
    rig.wait(5);
    rig.finish(1, SUCCESS);
    assert_eq!(rig.last().standing, None);
}

#[test]
fn another_ordering_waits_for_what_is_in_flight_and_reads_anew() {
    let by_key = rules(policy(Ordering::Key, 2));
    let mut rig = Rig::new(policy(Ordering::None, 2));
    let accepted = [keyed(1, "a"), keyed(2, "a"), keyed(3, "a")];
    assert_eq!(rig.accept(accepted.clone()), [(1, 1), (2, 1)]);
    assert_eq!(rig.change(by_key), []);
    assert_eq!(rig.end(2, FAILURE), [], "nothing new starts in the old order");
    assert_eq!(rig.load, None, "nor is anything read, while a request is in flight");
    assert_eq!(rig.end(1, FAILURE), []);
    assert_eq!(rig.load.as_ref().map(|load| load.after), Some(Sequence::ZERO));
    let due = Some(rig.now + secs(10));
    let [first, second, third] = accepted;
    let tried = |queued| Queued { attempt_count: 1, due, ..queued };
    assert_eq!(rig.loaded([tried(first), tried(second.clone()), third.clone()]), []);
    assert_eq!(rig.wait(10), [(1, 2)], "in the new order now");
    assert_eq!(rig.end(1, SUCCESS), []);
    assert_eq!(rig.loaded([tried(second), third.clone()]), [(2, 2)]);
    assert_eq!(rig.end(2, SUCCESS), []);
    assert_eq!(rig.loaded([third]), [(3, 1)]);
}

#[test]
fn an_ordering_changed_back_in_time_changes_nothing() {
    let none = policy(Ordering::None, 2);
    let mut rig = Rig::new(none);
    rig.accept([plain(1), plain(2), plain(3)]);
    rig.change(rules(POLICY));
    assert_eq!(rig.change(rules(none)), []);
    assert_eq!(rig.end(1, SUCCESS), [(3, 1)]);
    assert_eq!(rig.load, None);
}

#[test]
fn a_page_read_for_the_old_ordering_is_not_used() {
    let mut rig = Rig::opening(policy(Ordering::None, 2));
    rig.change(rules(POLICY));
    assert_eq!(rig.loaded([plain(1), plain(2)]), []);
    assert!(rig.load.is_some(), "read again");
    assert_eq!(rig.loaded([plain(1), plain(2)]), [(1, 1)]);
}

#[test]
fn fresh_retries_reach_what_is_in_flight_and_being_recorded() {
    let mut rig = Rig::opening(policy(Ordering::None, 2));
    let due = rig.now;
    rig.loaded([tried(1, 2, due), tried(2, 1, due)]);
    rig.finish(2, FAILURE);
    let forgiven = Change { retries_forgiven: true, ..rules(policy(Ordering::None, 2)) };
    assert_eq!(rig.change(forgiven), []);
    rig.record(2);
    rig.finish(1, FAILURE);
    assert_eq!(rig.last().outcome, AttemptOutcome::FailedAttempt, "its last try became a first");
    rig.record(1);
    assert_eq!(rig.wait(20), [(1, 4), (2, 3)]);
    rig.end(2, FAILURE);
    assert_eq!(rig.wakes_in(), Some(10), "a first retry");
    rig.end(1, FAILURE);
    assert_eq!(rig.wait(10), [(2, 4)], "while the other waits for its second");
}
