//! When a failed delivery goes again, and when it goes no more.

use super::*;

/// Fails delivery 1 with `verdicts`, waiting as long as the lane says; returns the waits and how it
/// ended.
fn check(policy: Policy, verdicts: &[Verdict], waits: &[u64], last: AttemptOutcome) {
    let mut rig = Rig::new(policy);
    let mut started = rig.accept([plain(1)]);
    let mut seen = Vec::new();
    for (n, verdict) in (1..).zip(verdicts) {
        assert_eq!(started, [(1, n)], "attempts are numbered without a gap");
        rig.finish(1, *verdict);
        let record = rig.last().clone();
        assert_eq!(record.attempt.get(), n);
        assert_eq!(record.due.is_some(), record.outcome == AttemptOutcome::FailedAttempt);
        assert_eq!(record.outcome == last, usize::try_from(n) == Ok(verdicts.len()), "attempt {n}");
        rig.record(1);
        if let Some(wait) = rig.wakes_in() {
            assert_eq!(record.due, Some(rig.now + secs(wait)));
            seen.push(wait);
            started = rig.wait(wait);
        }
    }
    assert_eq!(seen, waits);
    assert!(rig.rests());
}

#[test]
fn delays_double_until_the_retries_are_used_up() {
    let asking = |seconds| Verdict::Failure {
        retry_after: Some(secs(seconds)),
        gone: false,
        overloaded: false,
        given_up: false,
    };
    let retries = |max_retries| Policy { retry: RetryPolicy { max_retries, ..POLICY.retry }, ..POLICY };
    let failed = AttemptOutcome::Failed;
    check(retries(0), &[FAILURE], &[], failed);
    check(retries(2), &[FAILURE; 3], &[10, 20], failed);
    check(retries(8), &[FAILURE; 9], &[10, 20, 40, 80, 160, 320, 640, 900], failed);
    check(retries(2), &[FAILURE, SUCCESS], &[10], AttemptOutcome::Success);
    check(retries(2), &[asking(3), asking(60), FAILURE], &[10, 60], failed);
    check(retries(1), &[asking(999_999), FAILURE], &[24 * 3600], failed);
}

#[test]
fn jitter_moves_the_retry() {
    for (thousandths, millis) in [(-1000, 8000), (500, 11_000), (1000, 12_000)] {
        let mut rig = Rig::new(POLICY);
        rig.accept([plain(1)]);
        let jitter = Jitter::from_thousandths(thousandths);
        rig.say(Event::Finished { sequence: Sequence(1), verdict: FAILURE, took: TOOK, jitter });
        assert_eq!(rig.last().due, Some(rig.now + Duration::from_millis(millis)));
    }
}

#[test]
fn what_was_tried_before_counts() {
    let mut rig = Rig::opening(POLICY);
    let due = rig.now + secs(7);
    assert_eq!(rig.loaded([tried(1, 2, due), plain(2)]), []);
    assert_eq!(rig.wakes_in(), Some(7));
    assert_eq!(rig.wait(7), [(1, 3)]);
    assert_eq!(rig.end(1, FAILURE), [(2, 1)], "two retries are all there are");
}

#[test]
fn attempts_forgiven_before_count_no_more() {
    let mut rig = Rig::opening(POLICY);
    let due = rig.now;
    assert_eq!(rig.loaded([Queued { retry_base: 2, ..tried(1, 3, due) }]), [(1, 4)]);
    rig.end(1, FAILURE);
    assert_eq!(rig.wakes_in(), Some(20), "the second retry of the new set");
    assert_eq!(rig.wait(20), [(1, 5)]);
    rig.finish(1, FAILURE);
    assert_eq!((rig.last().outcome, rig.last().retry_base), (AttemptOutcome::Failed, 2));
}

#[test]
fn exhausted_retries_pause_where_the_policy_says_so() {
    let policy = Policy { on_exhausted: OnExhausted::Pause, ..POLICY };
    let mut rig = Rig::opening(policy);
    let due = rig.now;
    rig.loaded([tried(1, 2, due), plain(2)]);
    assert_eq!(rig.finish(1, FAILURE), []);
    let record = rig.last().clone();
    assert_eq!(record.outcome, AttemptOutcome::FailedAttempt);
    assert_eq!(record.due, Some(rig.now), "due as soon as somebody resumes");
    assert_eq!(record.standing, Some(Standing::Paused(StatusReason::RetriesExhausted)));
    assert_eq!(rig.change(rules(policy)), [], "an older change does not lift it");
    assert_eq!(rig.record(1), []);
    assert!(rig.rests());
    assert_eq!(rig.change(Change { retries_forgiven: true, ..rules(policy) }), [(1, 4)]);
    rig.end(1, FAILURE);
    assert_eq!(rig.wakes_in(), Some(10), "the first retry of a fresh set");
    assert_eq!(rig.wait(10), [(1, 5)]);
    rig.end(1, FAILURE);
    assert_eq!(rig.wait(20), [(1, 6)]);
    assert_eq!(rig.finish(1, FAILURE), []);
    assert!(rig.last().standing.is_some(), "as many as before, and no more");
    assert_eq!((record.retry_base, rig.last().retry_base), (0, 3), "those before count no more");
}

#[test]
fn what_is_given_up_is_not_tried_again() {
    let given_up =
        Verdict::Failure { retry_after: Some(secs(5)), gone: false, overloaded: false, given_up: true };
    for on_exhausted in [OnExhausted::Continue, OnExhausted::Pause] {
        let mut rig = Rig::opening(Policy { on_exhausted, ..POLICY });
        rig.loaded([plain(1), plain(2)]);
        rig.finish(1, given_up);
        let record = rig.last();
        assert_eq!((record.outcome, record.due, record.standing), (AttemptOutcome::Failed, None, None));
        assert!(record.health.is_some(), "it counts for the circuit as any failure");
        assert_eq!(rig.record(1), [(2, 1)], "the next one goes on");
    }
}

#[test]
fn a_person_resumes_before_the_lane_hears_of_the_pause() {
    let policy = Policy { on_exhausted: OnExhausted::Pause, ..POLICY };
    let resumed = Change { retries_forgiven: true, ..rules(policy) };
    let mut rig = Rig::opening(policy);
    let due = rig.now;
    rig.loaded([tried(1, 2, due)]);
    rig.finish(1, FAILURE);
    assert_eq!(rig.change(resumed), []);
    assert_eq!(rig.record(1), [], "the subscription may stand either way");
    assert_eq!(rig.change(rules(policy)), [(1, 4)], "read again, it is active");
    rig.end(1, FAILURE);
    assert_eq!(rig.wakes_in(), Some(10), "the first retry of a fresh set");
}

#[test]
fn skipping_the_exhausted_head_goes_on_with_the_next() {
    let policy = Policy { on_exhausted: OnExhausted::Pause, ..POLICY };
    let mut rig = Rig::opening(policy);
    let due = rig.now;
    rig.loaded([tried(1, 2, due), plain(2)]);
    rig.end(1, FAILURE);
    assert_eq!(rig.skip(1), []);
    assert_eq!(rig.change(rules(policy)), [(2, 1)]);
}

#[test]
fn a_person_wants_it_now() {
    let now = |sequence| Event::RetryNow { sequence: Sequence(sequence) };
    let mut rig = Rig::new(POLICY);
    rig.accept([plain(1), plain(2)]);
    rig.end(1, FAILURE);
    assert_eq!(rig.say(now(2)), [], "the order holds");
    assert_eq!(rig.say(now(9)), [], "never heard of");
    assert_eq!(rig.say(now(1)), [(1, 2)]);
    assert_eq!(rig.say(now(1)), [], "it is in flight");
    rig.finish(1, FAILURE);
    assert_eq!(rig.say(now(1)), []);
    assert_eq!(rig.record(1), [(1, 3)], "what the wish came upon was being recorded");
}
