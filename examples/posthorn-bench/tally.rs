//! What arrived, and whether it is what was accepted.
//!
//! Each worker waits for the answer to one event before it sends the next, so the order in which
//! its events to one subscription were accepted is known: 1, 2, 3, … A strict subscription must hand
//! them over in that order. Of a repeated delivery only the last one may come again (at least once,
//! never backwards). One counter for each pair of worker and subscription proves this for every
//! event, at four bytes each.

use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::{Context as _, bail, ensure};
use hdrhistogram::Histogram;

use crate::event::Event;
use crate::latency;

/// Everything the receiver has seen.
pub(crate) struct Tally(Mutex<Seen>);

struct Seen {
    subscriptions: usize,
    /// The last number of each worker at each subscription, worker by worker.
    last: Vec<u32>,
    arrived: u64,
    repeated: u64,
    last_arrival_nanos: u64,
    latency: Histogram<u64>,
    /// The first thing that was wrong.
    wrong: Option<String>,
}

/// What was counted since the last [`Tally::restart`].
#[derive(Clone, Debug)]
pub(crate) struct Arrivals {
    /// Repeated deliveries.
    pub(crate) repeated: u64,
    /// When the last new event came.
    pub(crate) last_arrival_nanos: u64,
    /// From the sending of the ingest request to the receipt of the delivery.
    pub(crate) latency: Histogram<u64>,
}

impl Tally {
    /// For so many workers and subscriptions.
    pub(crate) fn new(workers: usize, subscriptions: usize) -> anyhow::Result<Self> {
        let last = vec![0; workers.checked_mul(subscriptions).context("too many subscriptions")?];
        let latency = latency::histogram()?;
        let (arrived, repeated, last_arrival_nanos, wrong) = (0, 0, 0, None);
        Ok(Self(Mutex::new(Seen {
            subscriptions,
            last,
            arrived,
            repeated,
            last_arrival_nanos,
            latency,
            wrong,
        })))
    }

    /// Takes one delivery that came at `now_nanos` to the path of `subscription`.
    pub(crate) fn arrived_at(&self, now_nanos: u64, subscription: usize, event: Event) {
        self.seen().take(now_nanos, subscription, event);
    }

    /// Notes what no delivery should be.
    pub(crate) fn wrong(&self, what: String) {
        self.seen().wrong.get_or_insert(what);
    }

    /// How many different events have come since the start of the run.
    pub(crate) fn arrived(&self) -> u64 {
        self.seen().arrived
    }

    /// Forgets the latencies and repetitions so far: the warm-up is over.
    pub(crate) fn restart(&self) {
        let mut seen = self.seen();
        seen.latency.reset();
        seen.repeated = 0;
    }

    /// What was counted since the restart.
    pub(crate) fn arrivals(&self) -> Arrivals {
        let seen = self.seen();
        Arrivals {
            repeated: seen.repeated,
            last_arrival_nanos: seen.last_arrival_nanos,
            latency: seen.latency.clone(),
        }
    }

    /// Fails with the first thing that went wrong so far.
    pub(crate) fn check(&self) -> anyhow::Result<()> {
        match &self.seen().wrong {
            Some(what) => bail!("the receiver saw {what}"),
            None => Ok(()),
        }
    }

    /// Whether what arrived is what was accepted: the last number of each worker at each subscription.
    pub(crate) fn check_complete(&self, accepted: &[Vec<u32>]) -> anyhow::Result<()> {
        self.check()?;
        let seen = self.seen();
        for (worker, (accepted, last)) in
            accepted.iter().zip(seen.last.chunks(seen.subscriptions)).enumerate()
        {
            for (subscription, (accepted, last)) in accepted.iter().zip(last).enumerate() {
                ensure!(
                    accepted == last,
                    "worker {worker} had {accepted} events accepted for subscription {subscription}, \
                     and {last} arrived"
                );
            }
        }
        Ok(())
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Seen {
    fn take(&mut self, now_nanos: u64, subscription: usize, event: Event) {
        let slot = (event.subscription < self.subscriptions)
            .then(|| event.worker.checked_mul(self.subscriptions)?.checked_add(event.subscription))
            .flatten();
        let Some(last) = slot.and_then(|slot| self.last.get_mut(slot)) else {
            self.wrong.get_or_insert_with(|| format!("an event that nobody sent: {event:?}"));
            return;
        };
        if subscription != event.subscription {
            self.wrong.get_or_insert_with(|| format!("at subscription {subscription}: {event:?}"));
        } else if event.number == *last {
            self.repeated += 1;
        } else if event.number == *last + 1 {
            *last = event.number;
            self.arrived += 1;
            self.last_arrival_nanos = now_nanos;
            self.latency.saturating_record(now_nanos.saturating_sub(event.sent_nanos));
        } else {
            self.wrong
                .get_or_insert_with(|| format!("number {} right after {last}: {event:?}", event.number));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(worker: usize, subscription: usize, number: u32) -> Event {
        Event { worker, subscription, number, sent_nanos: 0 }
    }

    #[test]
    fn each_worker_and_subscription_has_its_own_order() {
        for (case, events, right) in [
            ("in order", vec![event(0, 0, 1), event(0, 0, 2), event(1, 0, 1), event(0, 2, 1)], true),
            ("the last one repeated", vec![event(0, 0, 1), event(0, 0, 1), event(0, 0, 2)], true),
            ("backwards", vec![event(0, 0, 1), event(0, 0, 2), event(0, 0, 1)], false),
            ("one left out", vec![event(0, 0, 1), event(0, 0, 3)], false),
            ("a worker that is not there", vec![event(2, 0, 1)], false),
            ("a subscription that is not there", vec![event(0, 3, 1)], false),
        ] {
            let tally = Tally::new(2, 3).unwrap();
            for event in events {
                tally.arrived_at(1, event.subscription, event);
            }
            assert_eq!(tally.check().is_ok(), right, "{case}");
        }
    }

    #[test]
    fn what_comes_to_the_wrong_subscription_is_seen() {
        let tally = Tally::new(1, 2).unwrap();
        tally.arrived_at(1, 1, event(0, 0, 1));
        assert!(tally.check().is_err());
    }

    #[test]
    fn complete_is_what_was_accepted_and_nothing_else() {
        let tally = Tally::new(2, 2).unwrap();
        tally.arrived_at(1, 1, event(0, 1, 1));
        tally.arrived_at(2, 1, event(0, 1, 1));
        assert!(tally.check_complete(&[vec![0, 1], vec![0, 0]]).is_ok());
        assert!(tally.check_complete(&[vec![0, 2], vec![0, 0]]).is_err(), "one is missing");
        assert!(tally.check_complete(&[vec![0, 0], vec![0, 0]]).is_err(), "one was never accepted");
        assert_eq!((tally.arrived(), tally.arrivals().repeated), (1, 1));
    }
}
