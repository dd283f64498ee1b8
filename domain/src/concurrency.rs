//! How many requests an endpoint may have in flight, found out from how it answers.
//!
//! Where a subscription names no number, the limit follows additive increase, multiplicative
//! decrease, the rule of TCP's congestion avoidance (RFC 5681 §3.1), as Vector's adaptive request
//! concurrency and Netflix's concurrency-limits carry it over to requests:
//!
//! - One step a *round*, which is as many answers as the limit was at its beginning: about the time
//!   of one answer (Vector: once in a round-trip time). It is [`ROUND_LEAST`] at least, so that its
//!   mean means something.
//! - Up by one where the limit was reached and something succeeded (both; a limit that is not reached
//!   is not what holds anybody back, and tells nothing).
//! - Halved where the endpoint says that it is too much (a time-out, 429, 503), at once. What was in
//!   flight then was sent under the old limit, so it can't lower it a second time (RFC 6582 §3.2 for
//!   TCP's same case).
//! - A tenth less where answers have become slow: a round's mean beyond [`TOLERANCE`] times the best
//!   round's, and by [`SLOWER_BY_AT_LEAST`] at that. The best stands for an endpoint without a queue
//!   of ours, as the least latency does in concurrency-limits' `VegasLimit`. An average over time
//!   would not do: a limit that grows by and by makes its own queue usual.
//!
//! At a limit of one there is no queue of ours, so there the last round is the best: an endpoint that
//! became slower for good is cut down to one, and gets its limit back from there.
//!
//! Failures that say nothing of load (a 500, a refused connection) move nothing: the circuit judges
//! them. After a rest, another target or an outage the limit begins anew (RFC 5681 §4.1): what an
//! endpoint bore before says nothing then.

use std::time::Duration;

use crate::limits::IN_FLIGHT_MAX;

/// How the limit is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InFlight {
    /// It is given; at least 1.
    Fixed(u32),
    /// It follows the endpoint.
    Adaptive(Adaptive),
}

/// The bounds of a limit that follows its endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Adaptive {
    /// Where it begins; from 1 to `max`.
    pub start: u32,
    /// Where it ends; at most `IN_FLIGHT_MAX`.
    pub max: u32,
}

impl Adaptive {
    /// Few enough to begin with for an endpoint that nobody has asked, and in the end an eighth of
    /// the places that a node has unless told otherwise.
    pub const DEFAULT: Self = Self { start: 8, max: 64 };

    /// The same, on a node that has no more than `places`.
    #[must_use]
    pub fn within(self, places: u32) -> Self {
        let max = self.max.min(places).max(1);
        Self { start: self.start.min(max), max }
    }
}

impl InFlight {
    /// The limit before anything is known.
    #[must_use]
    pub const fn start(self) -> u32 {
        match self {
            Self::Fixed(limit) => limit,
            Self::Adaptive(bounds) => bounds.start,
        }
    }
}

/// What one request tells of its endpoint's load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sign {
    /// It succeeded after so long.
    Success(Duration),
    /// It timed out, or the answer was 429 or 503.
    Overload,
    /// It failed otherwise.
    Neither,
}

/// A limit in force.
#[derive(Clone, Debug)]
pub struct Concurrency {
    rule: InFlight,
    limit: u32,
    round: Round,
    /// The mean of the best round.
    best: Option<Duration>,
}

/// The answers since the last step.
#[derive(Clone, Copy, Debug, Default)]
struct Round {
    /// Answers to its end.
    left: u32,
    /// They are answers to requests from before the limit was lowered.
    before_cut: bool,
    /// The limit was reached.
    full: bool,
    successes: u32,
    /// Of the successes together.
    took: Duration,
}

/// Answers of the shortest round. Where the time of an answer is spread exponentially, as behind many
/// a queue, the best of hundreds of means of 32 is about half of the true one.
pub const ROUND_LEAST: u32 = 32;
/// So a round that is this much slower than the best is not luck.
pub const TOLERANCE: u32 = 3;
/// Below this a slower round says more of the scheduler and the network than of the endpoint.
pub const SLOWER_BY_AT_LEAST: Duration = Duration::from_millis(10);

const _: () =
    assert!(Adaptive::DEFAULT.start <= Adaptive::DEFAULT.max && Adaptive::DEFAULT.max <= IN_FLIGHT_MAX);

impl Concurrency {
    /// Where nothing is known of the endpoint.
    #[must_use]
    pub fn new(rule: InFlight) -> Self {
        let limit = rule.start().max(1);
        Self { rule, limit, round: Round::of(limit), best: None }
    }

    /// Requests that may be in flight now; at least 1.
    #[must_use]
    pub const fn limit(&self) -> u32 {
        self.limit
    }

    /// Another rule from now on; under the same one the limit stays where it is.
    pub fn follow(&mut self, rule: InFlight) {
        if rule != self.rule {
            *self = Self::new(rule);
        }
    }

    /// A request ended while `in_flight` were, itself among them.
    pub fn ended(&mut self, sign: Sign, in_flight: u32) {
        let InFlight::Adaptive(bounds) = self.rule else { return };
        if sign == Sign::Overload && !self.round.before_cut {
            self.limit = (self.limit / 2).max(1);
            let left = in_flight.saturating_sub(1);
            self.round = if left > 0 { Round::before_cut(left) } else { Round::of(self.limit) };
            return;
        }
        self.round.take_in(sign, in_flight >= self.limit);
        if self.round.left == 0 {
            if !self.round.before_cut {
                self.step(bounds);
            }
            self.round = Round::of(self.limit);
        }
    }

    /// What a whole round says.
    fn step(&mut self, bounds: Adaptive) {
        let Some(mean) = self.round.took.checked_div(self.round.successes) else { return };
        let best = match self.best {
            Some(best) if self.limit > 1 => best.min(mean),
            _ => mean,
        };
        self.best = Some(best);
        let slow = mean > best.saturating_mul(TOLERANCE).max(best.saturating_add(SLOWER_BY_AT_LEAST));
        if slow {
            self.limit = self.limit.saturating_sub((self.limit / 10).max(1)).max(1);
        } else if self.round.full && self.limit < bounds.max {
            self.limit += 1;
        }
    }
}

impl Round {
    fn of(limit: u32) -> Self {
        Self { left: limit.max(ROUND_LEAST), ..Self::default() }
    }

    /// What is still in flight when the limit is lowered.
    fn before_cut(left: u32) -> Self {
        Self { left, before_cut: true, ..Self::default() }
    }

    fn take_in(&mut self, sign: Sign, full: bool) {
        self.left = self.left.saturating_sub(1);
        self.full |= full;
        if let Sign::Success(took) = sign {
            self.successes += 1;
            self.took = self.took.saturating_add(took);
        }
    }
}

#[cfg(test)]
mod tests;
