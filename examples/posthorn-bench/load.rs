//! The callers: each holds one connection and sends the next event when the last one is answered.
//!
//! Closed loop by default. With a rate (open loop) each event has a time at which it is due, and its
//! latencies count from then, so that a server that stalls does not hide what waited meanwhile.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use anyhow::{Context as _, bail};
use hdrhistogram::Histogram;
use hyper::{StatusCode, Uri};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use crate::client::Client;
use crate::clock::{Clock, nanos};
use crate::event::{Event, Filler};
use crate::latency;
use crate::ordering::Ordering;
use crate::tally::Tally;

/// How long a caller waits after a 429 or 503 before it sends the same event again. Shorter than the
/// `Retry-After` of whole seconds, which would leave the server idle in a run of ten.
const REFUSAL_PAUSE: Duration = Duration::from_millis(5);
/// How often a caller looks whether the backlog has gone down.
const BACKLOG_PAUSE: Duration = Duration::from_millis(1);
/// What a stretch may take beyond its duration: one slow answer.
const STRETCH_GRACE: Duration = Duration::from_secs(40);

/// How one stretch of load goes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace {
    pub(crate) duration: Duration,
    /// Callers wait while so many events are accepted but have not arrived.
    pub(crate) backlog_max: u64,
    /// Time from one event to the next of the same caller; `None`: as soon as it is answered.
    pub(crate) interval: Option<Duration>,
}

/// What one stretch of load came to.
#[derive(Clone, Debug)]
pub(crate) struct Stretch {
    pub(crate) accepted: u64,
    /// Answers 429 and 503.
    pub(crate) refused: u64,
    /// From the request to the 202.
    pub(crate) latency: Histogram<u64>,
    pub(crate) first_accept_nanos: u64,
    pub(crate) last_accept_nanos: u64,
    /// Time that callers spent waiting for the backlog, added up.
    pub(crate) held: Duration,
}

/// What all callers of a run share.
pub(crate) struct Run {
    pub(crate) clock: Clock,
    pub(crate) filler: Filler,
    /// Where each subscription's events go in.
    pub(crate) paths: Vec<Uri>,
    pub(crate) ordering: Ordering,
    pub(crate) tally: Arc<Tally>,
    /// Accepted since the start of the run.
    pub(crate) accepted: AtomicU64,
}

/// All callers.
pub(crate) struct Callers(Vec<Caller>);

struct Caller {
    run: Arc<Run>,
    client: Client,
    index: usize,
    /// How many there are.
    callers: usize,
    /// The subscription whose turn it is.
    turn: usize,
    /// How many events were accepted for each subscription.
    numbers: Vec<u32>,
}

impl Callers {
    /// One for each connection; they begin at subscriptions spread evenly.
    pub(crate) fn new(run: &Arc<Run>, connections: Vec<Client>) -> Self {
        let (count, subscriptions) = (connections.len(), run.paths.len());
        let caller = |(index, client)| Caller {
            run: Arc::clone(run),
            client,
            index,
            callers: count,
            turn: index * subscriptions / count,
            numbers: vec![0; subscriptions],
        };
        Self(connections.into_iter().enumerate().map(caller).collect())
    }

    /// Runs one stretch; fails when a single event's fate is in doubt.
    pub(crate) async fn run(self, pace: Pace) -> anyhow::Result<(Self, Stretch)> {
        let mut tasks = JoinSet::new();
        let count = self.0.len();
        for caller in self.0 {
            tasks.spawn(caller.run(pace));
        }
        let (mut callers, mut whole) = (Vec::with_capacity(count), Stretch::empty()?);
        let joined = timeout(pace.duration + STRETCH_GRACE, async {
            while let Some(ended) = tasks.join_next().await {
                let (caller, stretch) = ended??;
                callers.push(caller);
                whole.add(&stretch);
            }
            anyhow::Ok(())
        });
        joined.await.context("the load did not end in time")??;
        callers.sort_by_key(|caller| caller.index);
        Ok((Self(callers), whole))
    }

    /// How many events were accepted, caller by caller, for each subscription.
    pub(crate) fn accepted(&self) -> Vec<Vec<u32>> {
        self.0.iter().map(|caller| caller.numbers.clone()).collect()
    }
}

impl Caller {
    async fn run(mut self, pace: Pace) -> anyhow::Result<(Self, Stretch)> {
        let begin = Instant::now();
        let mut stretch = Stretch::empty()?;
        let mut due = begin + share(pace.interval.unwrap_or_default(), self.index, self.callers);
        while begin.elapsed() < pace.duration {
            if let Some(interval) = pace.interval {
                if due >= begin + pace.duration {
                    break;
                }
                sleep_until(due).await;
                self.send(due, &mut stretch).await?;
                due += interval;
            } else if self.backlog() >= pace.backlog_max {
                sleep(BACKLOG_PAUSE).await;
                stretch.held += BACKLOG_PAUSE;
            } else {
                self.send(Instant::now(), &mut stretch).await?;
            }
        }
        Ok((self, stretch))
    }

    fn backlog(&self) -> u64 {
        self.run.accepted.load(Relaxed).saturating_sub(self.run.tally.arrived())
    }

    /// Sends one event that is due at `due`, until it is accepted.
    async fn send(&mut self, due: Instant, stretch: &mut Stretch) -> anyhow::Result<()> {
        let run = Arc::clone(&self.run);
        let (Some(path), Some(number)) = (run.paths.get(self.turn), self.numbers.get_mut(self.turn)) else {
            bail!("no subscription {}", self.turn);
        };
        let due_nanos = run.clock.nanos_at(due.into_std());
        let event =
            Event { worker: self.index, subscription: self.turn, number: *number + 1, sent_nanos: due_nanos };
        let payload = event.encode(&run.filler);
        let key = run.ordering.key(self.index, *number + 1, self.callers);
        loop {
            let answer = self.client.post(path, key.as_deref(), payload.clone()).await?;
            match answer.status {
                StatusCode::ACCEPTED => break,
                StatusCode::TOO_MANY_REQUESTS => {}
                StatusCode::SERVICE_UNAVAILABLE if !answer.says("/outcome-unknown") => {}
                _ => bail!("POST {path}: {answer}"),
            }
            stretch.refused += 1;
            sleep(REFUSAL_PAUSE).await;
        }
        *number += 1;
        self.turn = (self.turn + 1) % run.paths.len();
        run.accepted.fetch_add(1, Relaxed);
        stretch.accept(due_nanos, run.clock.nanos());
        Ok(())
    }
}

impl Stretch {
    pub(crate) fn empty() -> anyhow::Result<Self> {
        Ok(Self {
            accepted: 0,
            refused: 0,
            latency: latency::histogram()?,
            first_accept_nanos: u64::MAX,
            last_accept_nanos: 0,
            held: Duration::ZERO,
        })
    }

    fn accept(&mut self, sent_nanos: u64, now_nanos: u64) {
        self.accepted += 1;
        self.latency.saturating_record(now_nanos.saturating_sub(sent_nanos));
        self.first_accept_nanos = self.first_accept_nanos.min(now_nanos);
        self.last_accept_nanos = self.last_accept_nanos.max(now_nanos);
    }

    pub(crate) fn add(&mut self, other: &Self) {
        self.accepted += other.accepted;
        self.refused += other.refused;
        self.held += other.held;
        self.first_accept_nanos = self.first_accept_nanos.min(other.first_accept_nanos);
        self.last_accept_nanos = self.last_accept_nanos.max(other.last_accept_nanos);
        // Cannot fail: all of them have the same bounds.
        let _ = self.latency.add(&other.latency);
    }
}

/// What the caller of this index waits before its first event, so that all of them are spread evenly.
fn share(interval: Duration, index: usize, callers: usize) -> Duration {
    let index = u32::try_from(index).unwrap_or(u32::MAX);
    let callers = u32::try_from(callers).unwrap_or(u32::MAX).max(1);
    Duration::from_nanos(nanos(interval) / u64::from(callers) * u64::from(index))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn callers_begin_evenly_spread() {
        let begin = |index| share(Duration::from_millis(64), index, 64);
        assert_eq!((begin(0), begin(1)), (Duration::ZERO, Duration::from_millis(1)));
        assert_eq!(begin(63), Duration::from_millis(63));
    }

    #[test]
    fn stretches_add_up() {
        let mut whole = Stretch::empty().unwrap();
        for (sent, now) in [(10, 20), (5, 50), (30, 35)] {
            let mut one = Stretch::empty().unwrap();
            one.accept(sent, now);
            whole.add(&one);
        }
        assert_eq!((whole.accepted, whole.first_accept_nanos, whole.last_accept_nanos), (3, 20, 50));
        assert_eq!((whole.latency.len(), whole.latency.max()), (3, 45));
    }
}
