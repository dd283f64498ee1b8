//! What arrived, and whether it is what was accepted.
//!
//! Each worker waits for the answer to one event before it sends the next, so the order in which
//! its events to one subscription were accepted is known: 1, 2, 3, … Those of one line must arrive in
//! that order, and of a repeated delivery only the last one of its line may come again (at least
//! once, never backwards). A counter for each pair of worker and subscription, with what arrived
//! above it, proves this for every event.

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::{Context as _, bail, ensure};
use hdrhistogram::Histogram;

use crate::event::Event;
use crate::latency;

/// Everything the receiver has seen.
pub(crate) struct Tally(Mutex<Seen>);

struct Seen {
    subscriptions: usize,
    /// See [`Ordering::stride`](crate::ordering::Ordering::stride).
    stride: Option<u32>,
    /// Up to which number everything has arrived from each worker at each subscription, worker by worker.
    whole: Vec<u32>,
    /// What arrived beyond that, by its place in `whole`.
    beyond: BTreeSet<(usize, u32)>,
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
    /// For so many workers and subscriptions, with lines of that stride.
    pub(crate) fn new(workers: usize, subscriptions: usize, stride: Option<u32>) -> anyhow::Result<Self> {
        let whole = vec![0; workers.checked_mul(subscriptions).context("too many subscriptions")?];
        let latency = latency::histogram()?;
        let (arrived, repeated, last_arrival_nanos, wrong) = (0, 0, 0, None);
        Ok(Self(Mutex::new(Seen {
            subscriptions,
            stride,
            whole,
            beyond: BTreeSet::new(),
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
        for (worker, (accepted, whole)) in
            accepted.iter().zip(seen.whole.chunks(seen.subscriptions)).enumerate()
        {
            for (subscription, (accepted, whole)) in accepted.iter().zip(whole).enumerate() {
                ensure!(
                    accepted == whole,
                    "worker {worker} had {accepted} events accepted for subscription {subscription}, \
                     and all up to {whole} arrived"
                );
            }
        }
        ensure!(seen.beyond.is_empty(), "events arrived that nobody was told were accepted");
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
        let Some(slot) = slot.filter(|slot| *slot < self.whole.len()) else {
            self.wrong.get_or_insert_with(|| format!("an event that nobody sent: {event:?}"));
            return;
        };
        let number = event.number;
        let before = self.stride.and_then(|stride| number.checked_sub(stride));
        let after = self.stride.and_then(|stride| number.checked_add(stride));
        if subscription != event.subscription {
            self.wrong.get_or_insert_with(|| format!("at subscription {subscription}: {event:?}"));
        } else if self.has(slot, number) {
            if after.is_some_and(|after| self.has(slot, after)) {
                self.wrong.get_or_insert_with(|| format!("again, after the next of its line: {event:?}"));
            }
            self.repeated += 1;
        } else if before.is_some_and(|before| !self.has(slot, before)) {
            self.wrong.get_or_insert_with(|| format!("before the one before it in its line: {event:?}"));
        } else {
            self.note(slot, number);
            self.arrived += 1;
            self.last_arrival_nanos = now_nanos;
            self.latency.saturating_record(now_nanos.saturating_sub(event.sent_nanos));
        }
    }

    fn has(&self, slot: usize, number: u32) -> bool {
        self.whole.get(slot).is_some_and(|whole| number <= *whole) || self.beyond.contains(&(slot, number))
    }

    fn note(&mut self, slot: usize, number: u32) {
        self.beyond.insert((slot, number));
        let Some(whole) = self.whole.get_mut(slot) else { return };
        while self.beyond.remove(&(slot, *whole + 1)) {
            *whole += 1;
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
            let tally = Tally::new(2, 3, Some(1)).unwrap();
            for event in events {
                tally.arrived_at(1, event.subscription, event);
            }
            assert_eq!(tally.check().is_ok(), right, "{case}");
        }
    }

    #[test]
    fn lines_with_a_stride_are_each_in_order() {
        for (case, stride, numbers, right, complete) in [
            ("two lines that pass each other", Some(2), vec![2, 4, 1, 3], true, true),
            ("backwards within a line", Some(2), vec![1, 4], false, false),
            ("a repeated one that its line has left behind", Some(2), vec![1, 2, 3, 4, 2], false, false),
            ("no lines", None, vec![4, 2, 2, 3, 1], true, true),
            ("one is missing", None, vec![4, 2, 1], true, false),
        ] {
            let tally = Tally::new(1, 1, stride).unwrap();
            for number in numbers {
                tally.arrived_at(1, 0, event(0, 0, number));
            }
            assert_eq!(tally.check().is_ok(), right, "{case}");
            assert_eq!(tally.check_complete(&[vec![4]]).is_ok(), complete, "{case}");
        }
    }

    #[test]
    fn what_comes_to_the_wrong_subscription_is_seen() {
        let tally = Tally::new(1, 2, Some(1)).unwrap();
        tally.arrived_at(1, 1, event(0, 0, 1));
        assert!(tally.check().is_err());
    }

    #[test]
    fn complete_is_what_was_accepted_and_nothing_else() {
        let tally = Tally::new(2, 2, Some(1)).unwrap();
        tally.arrived_at(1, 1, event(0, 1, 1));
        tally.arrived_at(2, 1, event(0, 1, 1));
        assert!(tally.check_complete(&[vec![0, 1], vec![0, 0]]).is_ok());
        assert!(tally.check_complete(&[vec![0, 2], vec![0, 0]]).is_err(), "one is missing");
        assert!(tally.check_complete(&[vec![0, 0], vec![0, 0]]).is_err(), "one was never accepted");
        assert_eq!((tally.arrived(), tally.arrivals().repeated), (1, 1));
    }
}
