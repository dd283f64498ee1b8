//! Turns of a pace that several nodes keep together.
//!
//! The pace itself is kept in one place that all nodes ask. Each asks for a few turns at a time, so that it need
//! not ask for each, and uses them at once: what is not used within [`LIFE`] goes back with the next question. So
//! in any window of w seconds all nodes together take at most `burst + rate · (w + LIFE)` turns.

use std::time::{Duration, Instant};

use crate::subscription::RateLimit;

/// How long a turn may be kept.
pub const LIFE: Duration = Duration::from_millis(50);
/// A question that was not answered for so long is asked again.
const ANSWER_PATIENCE: Duration = Duration::from_millis(200);
/// Nobody asks again sooner after hearing that there is none.
const SHORTEST_WAIT: Duration = Duration::from_millis(1);
/// After a question that came to nothing the node keeps to its own share for so long.
const ALONE: Duration = Duration::from_secs(1);

/// The turns that one node has of a pace.
#[derive(Clone, Copy, Debug, Default)]
pub struct Stock {
    turns: u32,
    /// When the turns were had.
    since: Option<Instant>,
    asked: Option<Instant>,
    /// Who was told that a question is under way.
    waiting: u32,
    /// There is no turn before.
    next: Option<Instant>,
    alone_until: Option<Instant>,
}

/// What comes of wanting a turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// Here it is.
    Taken,
    /// There is none before then.
    At(Instant),
    /// To be asked for: so many turns, of which there will be news; and so many are given back.
    Ask {
        /// Turns to ask for.
        wanted: u32,
        /// Turns that were not used.
        given_back: u32,
    },
    /// They have been asked for.
    Asked,
    /// There is nobody to ask: the node's own share counts.
    Alone,
}

impl Stock {
    /// A turn of a pace that `nodes` keep to.
    pub fn take(&mut self, now: Instant, limit: RateLimit, nodes: u32) -> Turn {
        if self.alone_until.is_some_and(|until| now < until) {
            return Turn::Alone;
        }
        let fresh = self.since.is_some_and(|since| now.saturating_duration_since(since) < LIFE);
        if fresh && self.turns > 0 {
            self.turns -= 1;
            return Turn::Taken;
        }
        if let Some(at) = self.next.filter(|at| now < *at) {
            return Turn::At(at);
        }
        self.waiting = self.waiting.saturating_add(1);
        if self.asked.is_some_and(|asked| now.saturating_duration_since(asked) < ANSWER_PATIENCE) {
            return Turn::Asked;
        }
        self.asked = Some(now);
        let given_back = std::mem::take(&mut self.turns);
        let wanted = share_of(limit, nodes).max(self.waiting).min(limit.burst.max(1));
        Turn::Ask { wanted, given_back }
    }

    /// The answer: so many turns, or none before `wait` is over.
    pub fn answered(&mut self, now: Instant, turns: u32, wait: Duration) {
        let alone_until = self.alone_until;
        *self = Self { turns, since: Some(now), alone_until, ..Self::default() };
        if turns == 0 {
            self.next = now.checked_add(wait.max(SHORTEST_WAIT));
        }
    }

    /// There was no answer.
    pub fn unanswered(&mut self, now: Instant) {
        *self = Self { alone_until: now.checked_add(ALONE), ..Self::default() };
    }
}

/// What one of the nodes uses within [`LIFE`] where all use the same.
fn share_of(limit: RateLimit, nodes: u32) -> u32 {
    let turns = limit.requests_per_second * LIFE.as_secs_f64() / f64::from(nodes.max(1));
    // Far below what 32 bits hold: a rate has a bound.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "at least 0, and bounded")]
    let turns = turns.clamp(0.0, f64::from(u32::MAX)) as u32;
    turns.min(limit.burst / nodes.max(1)).max(1)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LIMIT: RateLimit = RateLimit { requests_per_second: 200.0, burst: 40 };

    #[test]
    fn a_few_turns_are_had_at_a_time_and_what_is_left_goes_back() {
        let mut stock = Stock::default();
        let now = Instant::now();
        let ms = |ms| now + Duration::from_millis(ms);
        assert_eq!(stock.take(now, LIMIT, 2), Turn::Ask { wanted: 5, given_back: 0 });
        assert_eq!(stock.take(now, LIMIT, 2), Turn::Asked);
        stock.answered(ms(1), 3, Duration::ZERO);
        assert_eq!(stock.take(ms(2), LIMIT, 2), Turn::Taken);
        assert_eq!(stock.take(ms(50), LIMIT, 2), Turn::Taken);
        assert_eq!(stock.take(ms(51), LIMIT, 2), Turn::Ask { wanted: 5, given_back: 1 }, "too old");
        stock.answered(ms(52), 0, Duration::from_millis(8));
        assert_eq!(stock.take(ms(59), LIMIT, 2), Turn::At(ms(60)));
        assert_eq!(stock.take(ms(60), LIMIT, 2), Turn::Ask { wanted: 5, given_back: 0 });
    }

    #[test]
    fn as_many_are_asked_for_as_wait_and_the_burst_allows() {
        let now = Instant::now();
        let later = now + ANSWER_PATIENCE;
        for (limit, nodes, waiting, wanted) in [
            (RateLimit { requests_per_second: 0.1, burst: 1 }, 3, 9, 1),
            (RateLimit { requests_per_second: 10.0, burst: 100 }, 3, 9, 10),
            (RateLimit { requests_per_second: 1e5, burst: 100_000 }, 2, 9, 2500),
            (RateLimit { requests_per_second: 1e5, burst: 8 }, 4, 0, 2),
        ] {
            let mut stock = Stock { asked: Some(now), ..Stock::default() };
            for _ in 0..waiting {
                assert_eq!(stock.take(now, limit, nodes), Turn::Asked);
            }
            assert_eq!(stock.take(later, limit, nodes), Turn::Ask { wanted, given_back: 0 }, "{limit:?}");
        }
    }

    #[test]
    fn without_an_answer_the_own_share_counts_for_a_while() {
        let mut stock = Stock::default();
        let now = Instant::now();
        stock.take(now, LIMIT, 2);
        stock.unanswered(now);
        assert_eq!(stock.take(now, LIMIT, 2), Turn::Alone);
        assert_eq!(stock.take(now + ALONE, LIMIT, 2), Turn::Ask { wanted: 5, given_back: 0 });
    }

    /// The place that all ask: a bucket of `burst` turns that fills at `rate`.
    struct Bucket {
        free: f64,
        at: Instant,
    }

    impl Bucket {
        fn take(&mut self, now: Instant, limit: RateLimit, wanted: u32, given_back: u32) -> (u32, Duration) {
            let filled = limit.requests_per_second * (now - self.at).as_secs_f64();
            self.free = (self.free + filled + f64::from(given_back)).min(f64::from(limit.burst));
            self.at = now;
            let taken = (0..wanted).take_while(|n| f64::from(*n) + 1.0 <= self.free).count();
            let taken = u32::try_from(taken).unwrap();
            self.free -= f64::from(taken);
            let wait = (1.0 - self.free).max(0.0) / limit.requests_per_second;
            (taken, Duration::from_secs_f64(wait))
        }
    }

    proptest! {
        #[test]
        fn all_nodes_together_keep_to_the_pace(
            rate in 1_u32..2000,
            burst in 1_u32..50,
            wishes in prop::collection::vec((0_usize..3, 0_u64..20), 1..400),
        ) {
            let limit = RateLimit { requests_per_second: f64::from(rate), burst };
            let start = Instant::now();
            let mut bucket = Bucket { free: f64::from(burst), at: start };
            let mut nodes = [Stock::default(); 3];
            let (mut now, mut taken) = (start, Vec::new());
            for (node, pause) in wishes {
                now += Duration::from_millis(pause);
                let stock = &mut nodes[node];
                let mut turn = stock.take(now, limit, 3);
                if let Turn::Ask { wanted, given_back } = turn {
                    let (turns, wait) = bucket.take(now, limit, wanted, given_back);
                    stock.answered(now, turns, wait);
                    turn = stock.take(now, limit, 3);
                    prop_assert!(turn == Turn::Taken || matches!(turn, Turn::At(_)), "{turn:?}");
                }
                if turn == Turn::Taken {
                    taken.push(now);
                }
            }
            for (first, from) in taken.iter().enumerate() {
                for (last, to) in taken.iter().enumerate().skip(first) {
                    let window = (*to - *from + LIFE).as_secs_f64();
                    let most = f64::from(burst) + f64::from(rate) * window + 1e-6;
                    let count = f64::from(u32::try_from(last - first + 1).unwrap());
                    prop_assert!(count <= most, "{count} within {window} s");
                }
            }
        }
    }
}
