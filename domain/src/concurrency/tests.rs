use std::collections::VecDeque;

use proptest::prelude::*;

use super::*;

const BOUNDS: Adaptive = Adaptive { start: 8, max: 64 };

/// A whole round of equal answers, `in_flight` at each; says the limit after it.
fn round(concurrency: &mut Concurrency, sign: Sign, in_flight: u32) -> u32 {
    for _ in 0..concurrency.limit().max(ROUND_LEAST) {
        concurrency.ended(sign, in_flight);
    }
    concurrency.limit()
}

#[test]
fn one_step_a_round() {
    let quick = Sign::Success(ms(5));
    for (case, sign, in_flight, expected) in [
        ("a full round of successes adds one", quick, 8, 9),
        ("a limit that is not reached stays", quick, 7, 8),
        ("failures of another kind add nothing", Sign::Neither, 8, 8),
    ] {
        let mut concurrency = Concurrency::new(InFlight::Adaptive(BOUNDS));
        for _ in 1..ROUND_LEAST {
            concurrency.ended(sign, in_flight);
        }
        assert_eq!(concurrency.limit(), BOUNDS.start, "{case}: before its end");
        concurrency.ended(sign, in_flight);
        assert_eq!(concurrency.limit(), expected, "{case}");
    }
}

#[test]
fn overload_halves_it_at_once_and_what_was_sent_before_counts_no_more() {
    let mut concurrency = Concurrency::new(InFlight::Adaptive(BOUNDS));
    concurrency.ended(Sign::Overload, 8);
    assert_eq!(concurrency.limit(), 4);
    for _ in 0..7 {
        concurrency.ended(Sign::Overload, 7);
        assert_eq!(concurrency.limit(), 4, "sent before");
    }
    concurrency.ended(Sign::Overload, 4);
    assert_eq!(concurrency.limit(), 2, "sent after");
}

#[test]
fn slow_rounds_lower_it_until_slow_is_the_best() {
    let mut concurrency = Concurrency::new(InFlight::Adaptive(BOUNDS));
    let mut round = |millis| {
        let limit = concurrency.limit();
        round(&mut concurrency, Sign::Success(ms(millis)), limit)
    };
    assert_eq!(round(50), 9);
    assert_eq!(round(150), 10, "not slower enough");
    assert_eq!(round(151), 9);
    let limits: Vec<_> = (0..60).map(|_| round(1000)).collect();
    let (down, up) = limits.split_at(limits.iter().position(|limit| *limit == 1).unwrap());
    assert!(down.is_sorted_by(|one, next| one > next), "{down:?}");
    assert!(up.is_sorted() && up.last() > Some(&BOUNDS.start), "{up:?}");
}

#[test]
fn noise_of_a_quick_endpoint_is_not_slowness() {
    let mut concurrency = Concurrency::new(InFlight::Adaptive(BOUNDS));
    for took in [1, 1, 9, 1, 9, 11].map(ms) {
        let before = concurrency.limit();
        assert_eq!(round(&mut concurrency, Sign::Success(took), before), before + 1, "{took:?}");
    }
}

/// Where times of answers are spread exponentially, its own bad luck costs an endpoint nothing.
#[test]
fn spread_out_answers_are_not_slowness() {
    let mut concurrency = Concurrency::new(InFlight::Adaptive(BOUNDS));
    let mut draw = 1_u64;
    for _ in 0..20_000 {
        // Knuth's 64-bit congruential generator (MMIX), and the inverse of the distribution.
        draw = draw.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let share = f64::from(u32::try_from(draw >> 32).unwrap()) / (f64::from(u32::MAX) + 1.0);
        let took = Duration::from_secs_f64(-0.1 * (1.0 - share).ln());
        let limit = concurrency.limit();
        concurrency.ended(Sign::Success(took), limit);
    }
    assert!(concurrency.limit() > 60, "{}", concurrency.limit());
}

#[test]
fn a_given_number_is_kept() {
    let mut concurrency = Concurrency::new(InFlight::Fixed(5));
    for sign in [Sign::Overload, Sign::Success(ms(9)), Sign::Success(ms(9000))].repeat(20) {
        concurrency.ended(sign, 5);
        assert_eq!(concurrency.limit(), 5);
    }
    concurrency.follow(InFlight::Adaptive(BOUNDS));
    assert_eq!(concurrency.limit(), BOUNDS.start);
    concurrency.ended(Sign::Overload, 8);
    concurrency.follow(InFlight::Adaptive(BOUNDS));
    assert_eq!(concurrency.limit(), 4, "the same rule goes on");
    concurrency.follow(InFlight::Fixed(3));
    assert_eq!(concurrency.limit(), 3);
}

/// An endpoint that works on `workers` requests at once, 20 ms each, behind a queue; always asked
/// for as much as the limit allows.
fn limits_of_a_queue(workers: usize, answers: usize) -> Vec<u32> {
    let mut concurrency = Concurrency::new(InFlight::Adaptive(BOUNDS));
    let mut free = vec![0_u64; workers];
    let mut flying = VecDeque::new();
    let (mut now, mut limits) = (0, Vec::new());
    for _ in 0..answers {
        while flying.len() < concurrency.limit() as usize {
            let worker = free.iter_mut().min().unwrap();
            *worker = (*worker).max(now) + 20;
            flying.push_back((now, *worker));
        }
        let in_flight = u32::try_from(flying.len()).unwrap();
        let (sent, done) = flying.pop_front().unwrap();
        now = done;
        concurrency.ended(Sign::Success(ms(done - sent)), in_flight);
        limits.push(concurrency.limit());
    }
    limits
}

#[test]
fn it_finds_what_an_endpoint_can_work_on() {
    for workers in [2, 4, 8, 16, 20] {
        let limits = limits_of_a_queue(workers, 20_000);
        let settled = &limits[10_000..];
        let (least, most) = (*settled.iter().min().unwrap(), *settled.iter().max().unwrap());
        // Three times as slow, and a round until that is seen. A queue that was there from the
        // beginning is not.
        let unqueued = u32::try_from(workers).unwrap().max(BOUNDS.start);
        let expected = 2 * unqueued..=4 * unqueued;
        assert!(expected.contains(&least) && expected.contains(&most), "{least} to {most} for {workers}");
    }
    let limits = limits_of_a_queue(200, 20_000);
    assert_eq!(limits.last(), Some(&BOUNDS.max), "nothing slows it down");
}

#[test]
fn it_stays_below_what_an_endpoint_refuses() {
    let mut concurrency = Concurrency::new(InFlight::Adaptive(BOUNDS));
    let mut limits = Vec::new();
    for _ in 0..20_000 {
        let limit = concurrency.limit();
        let sign = if limit > 20 { Sign::Overload } else { Sign::Success(ms(20)) };
        concurrency.ended(sign, limit);
        limits.push(limit);
    }
    let settled = &limits[10_000..];
    assert_eq!(settled.iter().max(), Some(&21));
    assert_eq!(settled.iter().min(), Some(&10));
}

fn sign() -> impl Strategy<Value = Sign> {
    prop_oneof![
        6 => any::<u64>().prop_map(|nanos| Sign::Success(Duration::from_nanos(nanos))),
        6 => (0_u64..100).prop_map(|millis| Sign::Success(ms(millis))),
        2 => Just(Sign::Overload),
        1 => Just(Sign::Neither),
    ]
}

proptest! {
    /// Whatever an endpoint answers, the limit keeps its bounds; and it goes up by one at most, after
    /// as many answers as it let go.
    #[test]
    fn it_keeps_its_bounds_and_grows_slowly(
        (start, max) in (1_u32..100).prop_flat_map(|max| (1..=max, Just(max))),
        signs in prop::collection::vec((sign(), 0_u32..120), 1..600),
    ) {
        let mut concurrency = Concurrency::new(InFlight::Adaptive(Adaptive { start, max }));
        let mut answers = 0;
        for (sign, in_flight) in signs {
            let before = concurrency.limit();
            concurrency.ended(sign, in_flight);
            let after = concurrency.limit();
            answers += 1;
            prop_assert!((1..=max).contains(&after));
            if after > before {
                prop_assert!(after == before + 1 && answers >= before.max(ROUND_LEAST));
            }
            if after != before {
                answers = 0;
            }
        }
    }
}

fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}
