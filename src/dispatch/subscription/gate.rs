//! What a lane asks before each start: a place in flight on this node, and its own pace.

use std::sync::Arc;
use std::time::Instant;

use posthorn_domain::lane::{Gate, Hold};
use posthorn_domain::subscription::RateLimit;
use ractor::ActorRef;
use tokio_util::task::AbortOnDropHandle;

use super::super::Parts;
use super::super::admission::Place;
use super::super::pace::Pace;
use super::LaneMsg;

/// The gate of one lane.
pub(super) struct ShellGate {
    parts: Arc<Parts>,
    lane: ActorRef<LaneMsg>,
    /// Taken, and not yet used by a request.
    place: Option<Place>,
    /// Waiting for a place; one at a time.
    queueing: Option<AbortOnDropHandle<()>>,
    rate: Pace,
}

impl ShellGate {
    pub(super) fn new(parts: Arc<Parts>, lane: ActorRef<LaneMsg>, rate: Option<RateLimit>) -> Self {
        Self { parts, lane, place: None, queueing: None, rate: Pace::new(rate) }
    }

    /// Another pace from now on; the same one goes on where it is.
    pub(super) fn set_rate(&mut self, rate: Option<RateLimit>) {
        self.rate.set(rate);
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
        self.rate.is_replenished(now)
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
        self.rate.take(now).map_err(|next| {
            self.place = None;
            Hold::Rate(next)
        })
    }
}
