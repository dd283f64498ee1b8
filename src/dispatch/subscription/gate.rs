//! What a lane asks before each start: a place in flight on this node, and its own pace.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::{Duration, Instant};

use governor::clock::{Clock as _, MonotonicClock};
use governor::middleware::NoOpMiddleware;
use governor::state::{InMemoryState, NotKeyed};
use governor::{Quota, RateLimiter};
use posthorn_domain::lane::{Gate, Hold};
use posthorn_domain::subscription::RateLimit;
use ractor::ActorRef;
use tokio_util::task::AbortOnDropHandle;

use super::super::Parts;
use super::super::admission::Place;
use super::LaneMsg;

type Limiter = RateLimiter<NotKeyed, InMemoryState, MonotonicClock, NoOpMiddleware<Instant>>;

/// The gate of one lane.
pub(super) struct ShellGate {
    parts: Arc<Parts>,
    lane: ActorRef<LaneMsg>,
    /// Taken, and not yet used by a request.
    place: Option<Place>,
    /// Waiting for a place; one at a time.
    queueing: Option<AbortOnDropHandle<()>>,
    rate: Option<(RateLimit, Limiter)>,
    last_start: Option<Instant>,
}

impl ShellGate {
    pub(super) fn new(parts: Arc<Parts>, lane: ActorRef<LaneMsg>, rate: Option<RateLimit>) -> Self {
        let mut gate = Self { parts, lane, place: None, queueing: None, rate: None, last_start: None };
        gate.set_rate(rate);
        gate
    }

    /// Another pace from now on; the same one goes on where it is.
    pub(super) fn set_rate(&mut self, rate: Option<RateLimit>) {
        if self.rate.as_ref().map(|(rate, _)| *rate) != rate {
            self.rate = rate.map(|rate| (rate, limiter(rate)));
        }
    }

    /// Takes in the place that was waited for.
    pub(super) fn keep(&mut self, place: Place) {
        self.queueing = None;
        self.place = Some(place);
    }

    /// Gives the place that [`Gate::admit`] took to a request.
    pub(super) fn spend(&mut self) -> Option<Place> {
        self.place.take()
    }

    /// Gives back a place that nothing uses.
    pub(super) fn rest(&mut self) {
        self.place = None;
    }

    /// Whether a new limiter would allow no more than this one: then it can be forgotten.
    pub(super) fn is_replenished(&self, now: Instant) -> bool {
        let (Some((rate, _)), Some(last)) = (&self.rate, self.last_start) else { return true };
        let refill = Duration::try_from_secs_f64(f64::from(rate.burst) / rate.requests_per_second);
        refill.is_ok_and(|refill| now.saturating_duration_since(last) >= refill)
    }
}

impl Gate for ShellGate {
    fn admit(&mut self, now: Instant) -> Result<(), Hold> {
        if self.place.is_none() {
            self.place = self.parts.admission.try_take();
        }
        if self.place.is_none() {
            if self.queueing.is_none() {
                let (parts, lane) = (Arc::clone(&self.parts), self.lane.clone());
                self.queueing = Some(AbortOnDropHandle::new(tokio::spawn(async move {
                    if let Some(place) = parts.admission.take().await {
                        let _ = lane.cast(LaneMsg::Place(place));
                    }
                })));
            }
            return Err(Hold::Capacity);
        }
        if let Some((_, limiter)) = &self.rate
            && let Err(not_until) = limiter.check()
        {
            self.place = None;
            return Err(Hold::Rate(now + not_until.wait_time_from(MonotonicClock.now())));
        }
        self.last_start = Some(now);
        Ok(())
    }
}

/// The generic cell rate algorithm (ITU-T I.371) as governor has it.
fn limiter(rate: RateLimit) -> Limiter {
    // The bounds of a rate limit keep the period between 10 µs and a day.
    let period = Duration::try_from_secs_f64(1.0 / rate.requests_per_second)
        .unwrap_or(Duration::from_hours(24))
        .max(Duration::from_nanos(1));
    let burst = NonZeroU32::new(rate.burst).unwrap_or(NonZeroU32::MIN);
    let quota = Quota::with_period(period).unwrap_or(Quota::per_second(NonZeroU32::MIN)).allow_burst(burst);
    RateLimiter::direct_with_clock(quota, MonotonicClock)
}
