//! How fast something may go: at most a rate, with so much at once after a rest.
//!
//! The generic cell rate algorithm (ITU-T I.371) as governor has it: in any window of w seconds at
//! most `burst + rate · w` turns are taken. What governor lacks is added around it: `now` comes in
//! as an argument, and a turn can be looked at without being taken.
//!
//! A turn that was taken is not given back, and nobody waits in line here: whoever is told a time
//! comes again, and may find that another was faster.

use std::cell::Cell;
use std::fmt;
use std::num::NonZeroU32;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use governor::clock::Clock;
use governor::middleware::NoOpMiddleware;
use governor::nanos::Nanos;
use governor::state::StateStore;
use governor::{Quota, RateLimiter};
use posthorn_domain::limits::{BURST_MAX, RATE_MIN};
use posthorn_domain::subscription::RateLimit;

/// A pace, or none. Several may share it.
pub(super) struct Pace(Mutex<State>);

struct State {
    limit: Option<RateLimit>,
    /// None until a turn is taken, since all of the burst is there anyway.
    limiter: Option<Limiter>,
}

type Limiter = RateLimiter<Ask, Account, Hand, NoOpMiddleware<Instant>>;

impl Pace {
    pub(super) fn new(limit: Option<RateLimit>) -> Self {
        Self(Mutex::new(State { limit, limiter: None }))
    }

    /// Another limit from now on, and all of its burst; the same one goes on where it is.
    pub(super) fn set(&self, limit: Option<RateLimit>) {
        let mut state = self.state();
        if state.limit != limit {
            *state = State { limit, limiter: None };
        }
    }

    /// Takes a turn; else says when the next one may be taken.
    pub(super) fn take(&self, now: Instant) -> Result<(), Instant> {
        let mut state = self.state();
        let Some(limit) = state.limit else { return Ok(()) };
        let limiter = state.limiter.get_or_insert_with(|| limiter(limit, now));
        turn(limiter, Ask::Take, now)
    }

    /// Says the same as [`take`](Self::take) would, and takes nothing.
    pub(super) fn peek(&self, now: Instant) -> Result<(), Instant> {
        match &self.state().limiter {
            Some(limiter) => turn(limiter, Ask::Peek, now),
            None => Ok(()),
        }
    }

    /// Whether a new one would allow no more than this one: then it can be forgotten.
    pub(super) fn is_replenished(&self, now: Instant) -> bool {
        let state = self.state();
        let (Some(limit), Some(limiter)) = (state.limit, &state.limiter) else { return true };
        limiter.clock().0.set(now);
        matches!(limiter.check_key_n(&Ask::Peek, burst(limit)), Ok(Ok(())))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing in here panics half-way through a change.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Pace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Pace").field(&self.state().limit).finish()
    }
}

fn limiter(limit: RateLimit, now: Instant) -> Limiter {
    // The bounds of a rate limit keep the period between 10 µs and a day.
    let period = Duration::try_from_secs_f64(1.0 / limit.requests_per_second)
        .unwrap_or(Duration::from_hours(24))
        .max(Duration::from_nanos(1));
    let quota =
        Quota::with_period(period).unwrap_or(Quota::per_second(NonZeroU32::MIN)).allow_burst(burst(limit));
    RateLimiter::new(quota, Account::default(), Hand(Cell::new(now)))
}

fn burst(limit: RateLimit) -> NonZeroU32 {
    NonZeroU32::new(limit.burst).unwrap_or(NonZeroU32::MIN)
}

fn turn(limiter: &Limiter, ask: Ask, now: Instant) -> Result<(), Instant> {
    limiter.clock().0.set(now);
    limiter.check_key(&ask).map_err(|not_until| not_until.earliest_possible())
}

// governor counts nanoseconds in 64 bits, 584 years, and adds up two bursts at the slowest rate. What
// is left, 30 years, is how long the process may run.
const _: () = assert!(2.0 * BURST_MAX as f64 / RATE_MIN + 9.4e8 < 1.844e10);

/// A clock that shows what it was set to.
struct Hand(Cell<Instant>);

impl Clock for Hand {
    type Instant = Instant;

    fn now(&self) -> Instant {
        self.0.get()
    }
}

/// What is wanted of a limiter. governor hands its key to the state store, and this is it.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Ask {
    Take,
    Peek,
}

/// How far ahead turns are taken; changes only where they are.
#[derive(Default)]
struct Account(Cell<Option<Nanos>>);

impl StateStore for Account {
    type Key = Ask;

    fn measure_and_replace<T, F, E>(&self, ask: &Ask, decide: F) -> Result<T, E>
    where
        F: Fn(Option<Nanos>) -> Result<(T, Nanos), E>,
    {
        let (answer, after) = decide(self.0.get())?;
        match ask {
            Ask::Take => self.0.set(Some(after)),
            Ask::Peek => {}
        }
        Ok(answer)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::laws::check_rate;
    use super::*;

    const MINUTE: Duration = Duration::from_mins(1);

    fn pace(requests_per_second: f64, burst: u32) -> Pace {
        Pace::new(Some(RateLimit { requests_per_second, burst }))
    }

    /// Times that grow by steps of up to two seconds.
    fn times() -> impl Strategy<Value = Vec<Duration>> {
        let step = prop_oneof![3 => Just(0), 5 => 0_u64..2_000, 2 => 0_u64..2_000_000];
        prop::collection::vec(step, 1..200).prop_map(|steps| {
            let mut at = 0;
            steps
                .into_iter()
                .map(|step| {
                    at += step;
                    Duration::from_micros(at)
                })
                .collect()
        })
    }

    proptest! {
        #[test]
        fn no_window_sees_more_than_burst_and_rate(rate in 0.1_f64..2_000.0, burst in 1_u32..20, times in times()) {
            let (pace, start) = (pace(rate, burst), Instant::now());
            let taken: Vec<Instant> =
                times.into_iter().map(|at| start + at).filter(|at| pace.take(*at).is_ok()).collect();
            check_rate(&taken, Some(RateLimit { requests_per_second: rate, burst }));
        }

        #[test]
        fn looking_changes_nothing(rate in 0.1_f64..2_000.0, burst in 1_u32..20, times in times()) {
            let (looked_at, alone, start) = (pace(rate, burst), pace(rate, burst), Instant::now());
            for at in times {
                let now = start + at;
                let seen = (looked_at.peek(now), looked_at.peek(now));
                prop_assert_eq!(seen.0, seen.1);
                looked_at.is_replenished(now);
                let taken = looked_at.take(now);
                prop_assert_eq!(seen.0, taken);
                prop_assert_eq!(alone.take(now), taken);
            }
        }

        #[test]
        fn the_time_told_is_the_first_that_does(rate in 0.1_f64..2_000.0, burst in 1_u32..20, times in times()) {
            let (pace, start) = (pace(rate, burst), Instant::now());
            for at in times {
                let now = start + at;
                if let Err(next) = pace.take(now) {
                    prop_assert!(next > now);
                    let just_before = next.checked_sub(Duration::from_nanos(1)).unwrap();
                    prop_assert_eq!(pace.peek(just_before), Err(next));
                    prop_assert_eq!(pace.peek(next), Ok(()));
                }
            }
        }

        #[test]
        fn a_replenished_one_is_as_good_as_new(rate in 0.1_f64..2_000.0, burst in 1_u32..20, times in times()) {
            let (pace, start) = (pace(rate, burst), Instant::now());
            for at in &times {
                let _ = pace.take(start + *at);
            }
            let mut now = start + *times.last().unwrap();
            let full = |now| (0..burst).all(|_| pace.take(now).is_ok());
            // Each turn comes back within a period, which is ten of these steps.
            for _ in 0..=10 * burst {
                if pace.is_replenished(now) {
                    break;
                }
                now += Duration::from_secs_f64(0.1 / rate);
            }
            prop_assert!(pace.is_replenished(now));
            prop_assert!(full(now));
            prop_assert!(pace.take(now).is_err());
            prop_assert!(!pace.is_replenished(now));
        }
    }

    #[test]
    fn the_slowest_and_the_fastest_hold() {
        let now = Instant::now();
        let slowest = pace(RATE_MIN, BURST_MAX);
        assert!((0..BURST_MAX).all(|_| slowest.take(now).is_ok()));
        let next = slowest.take(now).unwrap_err();
        assert!(next - now <= Duration::from_hours(24), "{:?}", next - now);
        assert!(!slowest.is_replenished(now));
        let fastest = pace(posthorn_domain::limits::RATE_MAX, 1);
        fastest.take(now).unwrap();
        assert_eq!(fastest.take(now), Err(now + Duration::from_micros(10)));
    }

    #[test]
    fn the_same_limit_goes_on_and_another_starts_anew() {
        let limit = |burst| Some(RateLimit { requests_per_second: 1.0 / 60.0, burst });
        let (pace, now) = (Pace::new(limit(1)), Instant::now());
        pace.take(now).unwrap();
        pace.set(limit(1));
        assert_eq!(pace.take(now), Err(now + MINUTE));
        assert!(!pace.is_replenished(now));
        pace.set(limit(2));
        assert!(pace.is_replenished(now));
        assert_eq!([pace.take(now), pace.take(now), pace.take(now)], [Ok(()), Ok(()), Err(now + MINUTE)]);
        pace.set(None);
        assert!((0..1000).all(|_| pace.take(now).is_ok()));
        assert!(pace.is_replenished(now));
    }

    #[test]
    fn a_clock_of_another_thread_may_lag() {
        let (pace, earlier) = (pace(1.0, 1), Instant::now());
        let now = earlier + Duration::from_millis(5);
        let next = now + Duration::from_secs(1);
        pace.take(now).unwrap();
        assert_eq!(pace.take(earlier), Err(next));
        pace.take(next).unwrap();
    }
}
