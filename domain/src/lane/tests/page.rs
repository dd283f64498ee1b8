//! What comes from the store, and what happens while it is read.

use super::*;
use crate::limits::LANE_FIRST_PAGE;

fn many(numbers: impl IntoIterator<Item = i64>) -> Vec<Queued> {
    numbers.into_iter().map(plain).collect()
}

fn scan(after: i64, limit: usize) -> Load {
    Load { after: Sequence(after), scope: Scope::Without(Vec::new()), limit }
}

const WINDOW: i64 = 256;
const FIRST: usize = LANE_FIRST_PAGE;

/// Answers what the lane asks for from a store that goes up to `last`.
fn read(rig: &mut Rig, last: i64) -> Vec<Start> {
    let mut started = Vec::new();
    while let Some(load) = rig.load.take() {
        let limit = i64::try_from(load.limit).expect("a page is small");
        started.extend(rig.loaded(many(load.after.0 + 1..=last.min(load.after.0 + limit))));
    }
    started
}

#[test]
fn a_lane_begins_by_reading() {
    let mut rig = Rig::opening(POLICY);
    assert_eq!(rig.load, Some(scan(0, FIRST)));
    assert!(!rig.lane.is_idle());
    assert_eq!(rig.loaded([plain(4), plain(9)]), [(4, 1)]);
    assert_eq!(rig.load, None, "a short page is the last");
    assert_eq!(rig.accept([plain(10)]), []);
    assert_eq!(rig.end(4, SUCCESS), [(9, 1)]);
    assert_eq!(rig.end(9, SUCCESS), [(10, 1)]);
}

#[test]
fn the_next_half_is_read_while_the_first_is_sent() {
    let last = 1000;
    let mut rig = Rig::reading(POLICY, last);
    assert_eq!(read(&mut rig, last), [(1, 1)]);
    for sequence in 1..=4 {
        assert_eq!(rig.end(sequence, SUCCESS), [(sequence + 1, 1)]);
        read(&mut rig, last);
    }
    // The delivery in flight takes no place in the window, which is full by now but for what went since.
    let read_up_to = rig.lane.window.len() + 4;
    let mut ended = 4;
    while rig.load.is_none() {
        ended += 1;
        assert_eq!(rig.end(ended, SUCCESS), [(ended + 1, 1)]);
    }
    let after = i64::try_from(read_up_to).unwrap();
    assert_eq!(rig.load, Some(scan(after, 128)));
    assert!(after - ended >= WINDOW / 2, "half of it is left while the next half is read");
    rig.loaded(many(after + 1..=after + 128));
    assert_eq!(rig.end(ended + 1, SUCCESS), [(ended + 2, 1)]);
}

#[test]
fn a_lane_that_has_sent_nothing_holds_little() {
    let mut rig = Rig::reading(POLICY, 1000);
    rig.gate.hold = Some(Hold::Capacity);
    assert_eq!(rig.loaded(many(1..=16)), []);
    assert_eq!(rig.load, None);
    rig.gate.hold = None;
    assert_eq!(rig.say(Event::Tick), [(1, 1)]);
    assert_eq!(rig.load, Some(scan(16, 17)), "and more with each start");
}

#[test]
fn a_lane_reads_on_past_what_cannot_start() {
    let policy = policy(Ordering::Key, 8);
    let mut rig = Rig::reading(policy, 1000);
    let later = rig.now + secs(60);
    let blocked = (1..=16).map(|number| if number == 1 { tried(1, 1, later) } else { plain(number) });
    let blocked = blocked.map(|queued| Queued { key: Some(OrderingKey("a".into())), ..queued });
    assert_eq!(rig.loaded(blocked.collect::<Vec<_>>()), []);
    let load = rig.load.clone().expect("more is read");
    assert_eq!(load.after, Sequence(16));
}

#[test]
fn what_is_accepted_beyond_the_window_is_read_later() {
    let mut rig = Rig::new(POLICY);
    rig.accept(many(1..=1000));
    assert_eq!(rig.lane.window.len(), 257, "one in flight and a full window");
    for sequence in 1..=128 {
        rig.end(sequence, SUCCESS);
    }
    assert_eq!(rig.load, Some(scan(257, 128)));
    rig.loaded(many(258..386));
    assert!(rig.lane.window.len() <= 257);
}

#[test]
fn accepted_while_a_page_is_read() {
    for (case, page, again) in [
        ("the page was read before", vec![plain(1)], true),
        ("the page was read after", vec![plain(1), plain(2)], false),
    ] {
        let mut rig = Rig::opening(POLICY);
        assert_eq!(rig.accept([plain(2)]), [], "{case}");
        assert_eq!(rig.loaded(page), [(1, 1)], "{case}");
        assert_eq!(rig.load.is_some(), again, "{case}");
        rig.loaded([plain(2)]);
        assert_eq!(rig.accept([plain(2)]), [], "{case}: heard of twice");
        assert_eq!(rig.end(1, SUCCESS), [(2, 1)], "{case}");
        assert_eq!(rig.end(2, SUCCESS), [], "{case}");
        assert!(rig.rests(), "{case}");
    }
}

#[test]
fn what_others_accepted_is_read() {
    let stored = |last| Event::Stored { last: Sequence(last) };
    let mut rig = Rig::new(POLICY);
    assert_eq!(rig.say(stored(2)), []);
    assert_eq!(rig.load, Some(scan(0, FIRST)));
    assert_eq!(rig.loaded([plain(1), plain(2)]), [(1, 1)]);
    assert_eq!(rig.say(stored(2)), [], "that is no news");
    assert_eq!(rig.load, None);
}

#[test]
fn a_number_missing_in_what_is_heard_is_read() {
    let mut rig = Rig::new(POLICY);
    assert_eq!(rig.accept([plain(2)]), []);
    assert_eq!(rig.load, Some(scan(0, FIRST)));
    assert_eq!(rig.accept([plain(1)]), []);
    assert_eq!(rig.loaded([plain(1), plain(2)]), [(1, 1)]);
    assert_eq!(rig.end(1, SUCCESS), [(2, 1)]);
}

#[test]
fn a_page_that_a_change_may_have_overtaken_is_read_again() {
    let sequence = Sequence(1);
    let fresh = Change { fresh_start: true, ..rules(POLICY) };
    let forgiven = Change { retries_forgiven: true, ..rules(POLICY) };
    for event in [
        Event::Skipped { sequence },
        Event::RetryNow { sequence },
        Event::Changed(fresh),
        Event::Changed(forgiven),
    ] {
        let mut rig = Rig::opening(POLICY);
        assert_eq!(rig.say(event.clone()), []);
        let later = rig.now + secs(60);
        assert_eq!(rig.loaded([tried(1, 1, later)]), [], "{event:?}");
        assert_eq!(rig.wakes_in(), None, "{event:?}");
        assert_eq!(rig.load, Some(scan(0, FIRST)), "{event:?}");
    }
}

#[test]
fn one_skipped_while_its_page_is_read_is_never_sent() {
    let mut rig = Rig::opening(POLICY);
    rig.skip(1);
    assert_eq!(rig.loaded([plain(1), plain(2)]), []);
    assert_eq!(rig.loaded([plain(2)]), [(2, 1)]);
}

#[test]
fn a_page_nobody_waits_for_does_no_harm() {
    let mut rig = Rig::new(POLICY);
    rig.accept([plain(1)]);
    assert_eq!(rig.loaded([plain(1), plain(2)]), []);
    assert_eq!(rig.end(1, SUCCESS), []);
    assert!(rig.rests());
}

#[test]
fn failing_deliveries_stand_beside_the_window_but_not_without_end() {
    let in_flight_max = 1000;
    let mut rig = Rig::new(Policy {
        retry: RetryPolicy { max_retries: 9, delay: secs(900), delay_max: secs(900) },
        circuit: CircuitPolicy { failure_threshold: 1_000_000, ..POLICY.circuit },
        ..policy(Ordering::None, in_flight_max)
    });
    let mut flying = Vec::new();
    let mut accepted = 0;
    // Half of what is in flight fails, again and again.
    for _ in 0..4 {
        flying.extend(rig.accept(many(accepted + 1..=accepted + 1000)));
        accepted += 1000;
        flying.extend(read(&mut rig, accepted));
        for (sequence, _) in flying.split_off(flying.len() / 2) {
            flying.extend(rig.end(sequence, FAILURE));
        }
    }
    let bound = 256 + 1024 + 1000;
    let len = rig.lane.window.len();
    assert!((1024..=bound).contains(&len), "{len} in the window");
    assert!(rig.lane.next_wakeup().is_some());
}
