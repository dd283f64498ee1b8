//! One subscription's order and pace: which delivery may be sent now.
//!
//! A [`Lane`] is sans-IO. The shell around it tells it what happened ([`Lane::handle`]), carries out
//! what it wants ([`Lane::poll`], until that says `None`) and comes back at [`Lane::next_wakeup`].
//! All policy is here: order, retries, circuit, pace, what becomes of the subscription.
//!
//! One rule gives the three orderings: *a delivery may start when no earlier unfinished delivery
//! stands in its line.* `strict`: all stand in one line; `key`: one line for each key; `none`, and
//! those without a key: each its own.
//!
//! The lane holds identifiers, never payloads, and of those the next few only: the [`window`]. What
//! lies beyond it is in the store and comes by [`Action::Load`].
//!
//! Kept at all times (and asserted after each event):
//! - of each line at most one delivery is in flight or being recorded, and it is the line's first;
//! - at most as many deliveries as the limit says are in flight or being recorded, unless the limit was lowered;
//! - a delivery goes on only after the outcome of the one before it is recorded;
//! - nothing starts while the lane is held or its circuit open, and half-open lets one probe go;
//! - the window and what waits beside it are bounded.
//!
//! A tick that is early, late or repeated, and an outcome nobody waits for, do no harm.

mod window;
mod words;

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::circuit::Circuit;
use crate::concurrency::{Concurrency, Sign};
use crate::delivery::AttemptOutcome;
use crate::id::Sequence;
use crate::places::Claim;
use crate::retry::Jitter;
use crate::subscription::{OnExhausted, Ordering, StatusReason};

use window::Window;
use window::entry::{Flight, Next, Phase};
pub use words::{
    Action, Change, Event, Gate, Health, Held, Hold, Load, Outset, Policy, Queued, Record, Scope, Sizes,
    Standing, Ticket, Verdict,
};

/// One subscription's order and pace.
#[derive(Debug)]
pub struct Lane {
    policy: Policy,
    concurrency: Concurrency,
    active: bool,
    /// The delivery whose outcome, once recorded, pauses or disables the subscription. Nothing
    /// starts meanwhile, whatever an older change says.
    closing: Option<Sequence>,
    health: Health,
    window: Window,
    hold: Option<Hold>,
    actions: VecDeque<Action>,
}

impl Lane {
    /// A lane that knows nothing yet of its deliveries; it begins with a [`Load`], unless
    /// there never was any.
    #[must_use]
    pub fn new(outset: &Outset, now: Instant) -> Self {
        Self::sized(Sizes::DEFAULT, outset, now)
    }

    /// As [`new`](Self::new), with a window of another size.
    #[must_use]
    pub fn sized(sizes: Sizes, outset: &Outset, now: Instant) -> Self {
        let Outset { policy, active, health, last } = *outset;
        let concurrency = Concurrency::new(policy.in_flight);
        Self {
            policy,
            active,
            closing: None,
            health: Health { circuit: health.circuit.without_probe(now), ..health },
            window: Window::new(sizes, policy.ordering, concurrency.limit(), last),
            concurrency,
            hold: None,
            actions: VecDeque::new(),
        }
    }

    /// Takes in what happened at `now`.
    pub fn handle(&mut self, event: Event, now: Instant) {
        match event {
            Event::Accepted(queued) => self.window.accepted(queued),
            Event::Stored { last } => self.window.stored(last),
            Event::Loaded(page) => self.window.loaded(page),
            Event::Finished { sequence, verdict, took, jitter } => {
                self.finished(sequence, verdict, took, jitter, now);
            }
            Event::Withdrawn { sequence } => self.withdrawn(sequence, now),
            Event::Recorded { sequence } => self.recorded(sequence),
            Event::Skipped { sequence } => self.window.skipped(sequence),
            Event::RetryNow { sequence } => self.window.retry_now(sequence, now),
            Event::Changed(change) => self.changed(&change, now),
            Event::Closed => self.active = false,
            Event::Tick => {}
        }
        self.hold = None;
        self.check();
    }

    /// The next thing to do at `now`; to be asked until it says `None`.
    pub fn poll(&mut self, now: Instant, gate: &mut impl Gate) -> Option<Action> {
        if let Some(action) = self.actions.pop_front() {
            return Some(action);
        }
        if !self.may_send() {
            return None;
        }
        if let Some(load) = self.window.load() {
            return Some(Action::Load(load));
        }
        self.start(now, gate)
    }

    /// When to say [`Event::Tick`] next; `None` where only an event can change anything.
    #[must_use]
    pub fn next_wakeup(&self) -> Option<Instant> {
        if !self.may_send() || self.is_full() || matches!(self.health.circuit, Circuit::HalfOpen { .. }) {
            return None;
        }
        let open_until = match self.health.circuit {
            Circuit::Open { until, .. } => Some(until),
            Circuit::Closed { .. } | Circuit::HalfOpen { .. } => None,
        };
        let at = match self.hold {
            _ if !self.window.has_ready() => self.window.next_due()?,
            Some(Hold::Rate(until) | Hold::TenantRate(until) | Hold::Lease(until)) => until,
            // A place that becomes free is told.
            Some(Hold::Capacity | Hold::Crowd) => return None,
            None => open_until?,
        };
        Some(open_until.map_or(at, |until| at.max(until)))
    }

    /// Whether nothing is under way, so that the lane can be forgotten until its next wake-up.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.actions.is_empty() && !self.window.is_busy() && self.hold != Some(Hold::Capacity)
    }

    /// Whether a newly accepted delivery changes nothing before the next wake-up, so that an idle
    /// lane need not be woken for it.
    #[must_use]
    pub fn is_deaf(&self) -> bool {
        let blocked = match self.health.circuit {
            _ if self.policy.ordering == Ordering::Strict => true,
            // It might be the probe, where all others wait for longer than the circuit.
            Circuit::Open { until, .. } => self.next_wakeup().is_some_and(|at| at <= until),
            Circuit::HalfOpen { .. } => true,
            Circuit::Closed { .. } => false,
        };
        !self.may_send() || blocked && !self.window.is_empty()
    }

    /// Why a delivery whose time and turn have come is not being sent; none where it is about to be.
    #[must_use]
    pub fn held(&self, sequence: Sequence, now: Instant) -> Option<Held> {
        if self.window.is_in_flight(sequence) {
            return Some(Held::InFlight);
        }
        match self.health.circuit {
            Circuit::Open { until, .. } if until > now => Some(Held::Circuit(Some(until))),
            Circuit::HalfOpen { .. } => Some(Held::Circuit(None)),
            Circuit::Open { .. } | Circuit::Closed { .. } if self.is_full() => Some(Held::Limit),
            Circuit::Open { .. } | Circuit::Closed { .. } => self.hold.map(Held::Gate),
        }
    }

    /// The highest number of a delivery that it has heard of.
    #[must_use]
    pub const fn last(&self) -> Sequence {
        self.window.known()
    }

    /// Requests that may be in flight now.
    #[must_use]
    pub const fn in_flight_limit(&self) -> u32 {
        self.concurrency.limit()
    }

    fn start(&mut self, now: Instant, gate: &mut impl Gate) -> Option<Action> {
        self.window.wake(now);
        let sequence = self.window.first_ready()?;
        let probe = match self.health.circuit {
            Circuit::Closed { .. } => false,
            Circuit::Open { until, .. } if until <= now => true,
            Circuit::Open { .. } | Circuit::HalfOpen { .. } => return None,
        };
        if self.is_full() {
            return None;
        }
        if let Err(hold) = gate.admit(self.claim(), now) {
            self.hold = Some(hold);
            return None;
        }
        if let (true, Circuit::Open { cool_down, failures, .. }) = (probe, self.health.circuit) {
            self.health.circuit = Circuit::HalfOpen { cool_down, failures };
        }
        let (ticket, attempt) = self.window.start(sequence, Flight { probe, stale: false })?;
        self.check();
        Some(Action::Start { ticket, attempt })
    }

    /// What the next place in flight is for.
    fn claim(&self) -> Claim {
        if self.health.circuit.failures() > 0 {
            Claim::Doubtful
        } else if self.window.in_flight() > 0 {
            Claim::Further
        } else {
            Claim::First
        }
    }

    /// What the end of a request says of how many the endpoint can bear.
    fn feel(&mut self, verdict: Verdict, took: Duration, probe: bool) {
        let sign = match verdict {
            Verdict::Success => Sign::Success(took),
            Verdict::Failure { overloaded: true, .. } => Sign::Overload,
            Verdict::Failure { .. } => Sign::Neither,
        };
        if probe && verdict == Verdict::Success {
            // It is back, and its backlog need not wait for what it bore while it went down.
            self.concurrency = Concurrency::new(self.policy.in_flight);
        } else {
            self.concurrency.ended(sign, self.window.in_flight());
        }
        self.window.reconfigure(self.policy.ordering, self.concurrency.limit());
    }

    fn finished(
        &mut self,
        sequence: Sequence,
        verdict: Verdict,
        took: Duration,
        jitter: Jitter,
        now: Instant,
    ) {
        let Some(flying) = self.window.flying(sequence) else { return };
        let before = self.health;
        let told = if flying.flight.stale {
            None
        } else {
            self.feel(verdict, took, flying.flight.probe);
            self.judge(verdict == Verdict::Success, flying.flight.probe, jitter, now)
        };
        let (outcome, due, standing) = match verdict {
            Verdict::Success => (AttemptOutcome::Success, None, None),
            Verdict::Failure { gone: true, .. } if !flying.flight.stale => {
                (AttemptOutcome::Failed, None, Some(Standing::Disabled(StatusReason::Gone)))
            }
            Verdict::Failure { given_up: true, .. } if !flying.flight.stale => {
                (AttemptOutcome::Failed, None, None)
            }
            Verdict::Failure { .. } if flying.ended => (AttemptOutcome::Failed, None, None),
            Verdict::Failure { retry_after, .. } => self.failed(flying.retries, jitter, retry_after, now),
        };
        let standing = standing.or(told);
        if standing.is_some() {
            self.closing = Some(sequence);
        }
        let next = due.map_or(Next::Done, Next::Due);
        self.window.set_phase(sequence, Phase::Recording(next));
        self.actions.push_back(Action::Record(Record {
            ticket: flying.ticket,
            attempt: flying.attempt,
            retry_base: flying.retry_base,
            outcome,
            due,
            health: (self.health != before).then_some(self.health),
            standing,
        }));
    }

    /// What a failure means for a delivery that has used up `retries` of its retries.
    fn failed(
        &self,
        retries: u32,
        jitter: Jitter,
        retry_after: Option<Duration>,
        now: Instant,
    ) -> (AttemptOutcome, Option<Instant>, Option<Standing>) {
        if retries < self.policy.retry.max_retries {
            let delay = self.policy.retry.delay_before(retries.saturating_add(1), jitter, retry_after);
            return (AttemptOutcome::FailedAttempt, Some(now + delay), None);
        }
        match self.policy.on_exhausted {
            OnExhausted::Continue => (AttemptOutcome::Failed, None, None),
            // It stays at the head, due as soon as somebody resumes.
            OnExhausted::Pause => {
                let paused = Standing::Paused(StatusReason::RetriesExhausted);
                (AttemptOutcome::FailedAttempt, Some(now), Some(paused))
            }
        }
    }

    /// What an outcome says of the endpoint, and what becomes of the subscription by that.
    fn judge(&mut self, ok: bool, probe: bool, jitter: Jitter, now: Instant) -> Option<Standing> {
        // While a probe is on its way, only the probe's outcome counts.
        if probe || !matches!(self.health.circuit, Circuit::HalfOpen { .. }) {
            self.health.circuit = self.health.circuit.after(ok, now, &self.policy.circuit, jitter);
        }
        self.health.failing_since = if ok { None } else { self.health.failing_since.or(Some(now)) };
        self.failing_too_long(now)
    }

    fn failing_too_long(&self, now: Instant) -> Option<Standing> {
        let since = self.health.failing_since?;
        let limit = self.policy.disable_after?;
        (self.may_send() && now.saturating_duration_since(since) >= limit)
            .then_some(Standing::Disabled(StatusReason::Failing))
    }

    /// Whether anything may be sent, as far as the subscription is concerned.
    #[must_use]
    pub fn may_send(&self) -> bool {
        self.active && self.closing.is_none()
    }

    /// Whether an outcome has to be recorded before anything can start.
    fn is_full(&self) -> bool {
        self.window.is_draining() || self.window.in_flight() >= self.concurrency.limit()
    }

    fn withdrawn(&mut self, sequence: Sequence, now: Instant) {
        let Some(flying) = self.window.flying(sequence) else { return };
        if flying.flight.probe {
            self.health.circuit = self.health.circuit.without_probe(now);
        }
        self.window.withdrawn(sequence);
    }

    fn recorded(&mut self, sequence: Sequence) {
        if self.closing == Some(sequence) {
            self.closing = None;
            self.active = false;
        }
        self.window.recorded(sequence);
    }

    fn changed(&mut self, change: &Change, now: Instant) {
        self.policy = change.policy;
        self.active = change.active;
        self.concurrency.follow(change.policy.in_flight);
        if change.fresh_start {
            self.health = Health::NEW;
            self.concurrency = Concurrency::new(change.policy.in_flight);
            self.window.fresh_start(now);
        }
        if change.retries_forgiven {
            self.window.forgive_retries();
        }
        self.window.reconfigure(change.policy.ordering, self.concurrency.limit());
    }

    /// The invariants of the header.
    fn check(&self) {
        self.window.check();
        debug_assert!(
            !matches!(self.health.circuit, Circuit::HalfOpen { .. }) || self.window.probes() == 1,
            "a half-open circuit has one probe in flight"
        );
    }
}

#[cfg(test)]
mod tests;
