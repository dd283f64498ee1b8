//! The next deliveries of a lane, in their lines.
//!
//! `scanned` is how far the store was read: every unfinished delivery up to it is in the window, or
//! has a key that is set aside. There is more to read as long as a higher number is `known`.
//!
//! A key is set aside where it has its fair share of the window, and when its first delivery waits
//! for a retry; then what is behind that leaves the window. So a blocked key never takes the places
//! of the others, whatever stands in its line. What was set aside comes back from the store when the
//! key has nothing left here.

pub(super) mod entry;
mod page;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Instant;

use crate::delivery::OrderingKey;
use crate::id::{AttemptNumber, Sequence};
use crate::limits::IN_FLIGHT_MAX;
use crate::subscription::Ordering;

use super::{Queued, Sizes, Ticket};
use entry::{Entry, Flight, Flying, Line, Next, Phase};
use page::{Aside, Loading};

#[derive(Debug)]
pub(super) struct Window {
    sizes: Sizes,
    /// How much of the window is filled from the store: twice as much with each start.
    reach: usize,
    ordering: Ordering,
    /// The ordering that comes once nothing is in flight any more.
    next_ordering: Option<Ordering>,
    /// Deliveries of one key in the window. As many keys as may be in flight have room for it in
    /// half of the window, so that there is always room to look for other keys.
    key_depth: usize,
    entries: BTreeMap<Sequence, Entry>,
    lines: BTreeMap<Line, VecDeque<Sequence>>,
    /// The first of their line, and due.
    ready: BTreeSet<Sequence>,
    /// The first of their line, and due at that time.
    waiting: BTreeSet<(Instant, Sequence)>,
    in_flight: u32,
    /// Keys of which the store has more than the window, up to `scanned`.
    aside: BTreeMap<OrderingKey, Aside>,
    /// Keys set aside of which nothing is left here, those that wait longest first.
    wanted: VecDeque<OrderingKey>,
    /// The last page was one of a key; the next one is of all others, where there is more of them.
    key_had_turn: bool,
    scanned: Sequence,
    /// The highest number heard of.
    known: Sequence,
    loading: Option<Loading>,
}

impl Window {
    pub(super) fn new(sizes: Sizes, ordering: Ordering, in_flight_max: u32, last: Sequence) -> Self {
        Self {
            sizes,
            reach: sizes.first_page.clamp(1, sizes.window),
            ordering,
            next_ordering: None,
            key_depth: key_depth(sizes, in_flight_max),
            entries: BTreeMap::new(),
            lines: BTreeMap::new(),
            ready: BTreeSet::new(),
            waiting: BTreeSet::new(),
            in_flight: 0,
            aside: BTreeMap::new(),
            wanted: VecDeque::new(),
            key_had_turn: false,
            scanned: Sequence::ZERO,
            known: last,
            loading: None,
        }
    }

    /// Takes in a delivery that comes after all others of its line.
    fn insert(&mut self, queued: Queued) {
        let sequence = queued.ticket.sequence;
        if let Some(aside) = queued.key.as_ref().and_then(|key| self.aside.get_mut(key)) {
            aside.last = aside.last.max(sequence);
            return;
        }
        let line = self.line(&queued);
        if let (Line::Key(key), Some(others)) = (&line, self.lines.get(&line))
            && others.len() >= self.depth(others)
        {
            let after = others.back().copied().unwrap_or(Sequence::ZERO);
            self.aside.insert(key.clone(), Aside { after, last: sequence });
            return;
        }
        self.entries.insert(sequence, Entry { queued, phase: Phase::Idle, ended: false });
        self.lines.entry(line).or_default().push_back(sequence);
        self.settle(sequence);
    }

    /// How many deliveries of a key may stand in its line: behind one that waits, none.
    fn depth(&self, line: &VecDeque<Sequence>) -> usize {
        let first = line.front().and_then(|first| self.entries.get(first));
        let waits = first.is_some_and(|entry| entry.phase == Phase::Idle && entry.queued.due.is_some());
        if waits { 1 } else { self.key_depth }
    }

    fn line(&self, queued: &Queued) -> Line {
        Line::of(self.ordering, queued)
    }

    /// Puts an idle delivery where it belongs if it is the first of its line.
    fn settle(&mut self, sequence: Sequence) {
        let Some(entry) = self.entries.get(&sequence) else { return };
        let first = self.lines.get(&self.line(&entry.queued)).and_then(VecDeque::front) == Some(&sequence);
        if !first || entry.phase != Phase::Idle {
            return;
        }
        match entry.queued.due {
            Some(due) => {
                self.waiting.insert((due, sequence));
            }
            None => {
                self.ready.insert(sequence);
            }
        }
    }

    fn unsettle(&mut self, sequence: Sequence) {
        self.ready.remove(&sequence);
        if let Some(due) = self.entries.get(&sequence).and_then(|entry| entry.queued.due) {
            self.waiting.remove(&(due, sequence));
        }
    }

    /// Makes ready what is due.
    pub(super) fn wake(&mut self, now: Instant) {
        while let Some((due, sequence)) = self.waiting.first().copied() {
            if due > now {
                return;
            }
            self.due_now(sequence, now);
        }
    }

    /// A person wants this one now.
    pub(super) fn retry_now(&mut self, sequence: Sequence, now: Instant) {
        if self.entries.contains_key(&sequence) {
            self.due_now(sequence, now);
        } else {
            self.elsewhere(sequence);
        }
    }

    /// Ends a delivery's wait, also one that begins when its outcome is recorded.
    fn due_now(&mut self, sequence: Sequence, now: Instant) {
        self.unsettle(sequence);
        if let Some(entry) = self.entries.get_mut(&sequence) {
            entry.queued.due = None;
            if let Phase::Recording(Next::Due(due)) = &mut entry.phase {
                *due = now;
            }
        }
        self.settle(sequence);
    }

    pub(super) fn start(&mut self, sequence: Sequence, flight: Flight) -> Option<(Ticket, AttemptNumber)> {
        self.unsettle(sequence);
        self.reach = self.reach.saturating_mul(2).min(self.sizes.window);
        let entry = self.entries.get_mut(&sequence)?;
        entry.phase = Phase::InFlight(flight);
        self.in_flight += 1;
        Some((entry.queued.ticket, AttemptNumber::after(entry.queued.attempt_count)))
    }

    pub(super) fn flying(&self, sequence: Sequence) -> Option<Flying> {
        let entry = self.entries.get(&sequence)?;
        let Phase::InFlight(flight) = entry.phase else { return None };
        let queued = &entry.queued;
        Some(Flying {
            ticket: queued.ticket,
            attempt: AttemptNumber::after(queued.attempt_count),
            retries: queued.attempt_count.saturating_sub(queued.retry_base),
            retry_base: queued.retry_base,
            flight,
            ended: entry.ended,
        })
    }

    pub(super) fn set_phase(&mut self, sequence: Sequence, phase: Phase) {
        if let Some(entry) = self.entries.get_mut(&sequence) {
            entry.phase = phase;
        }
    }

    /// It stands where it stood before it was started.
    pub(super) fn withdrawn(&mut self, sequence: Sequence) {
        let Some(entry) = self.entries.get_mut(&sequence) else { return };
        entry.phase = Phase::Idle;
        if entry.ended {
            self.remove(sequence);
        } else {
            self.settle(sequence);
        }
        self.in_flight = self.in_flight.saturating_sub(1);
        self.reorder_when_quiet();
    }

    pub(super) fn recorded(&mut self, sequence: Sequence) {
        let Some(entry) = self.entries.get_mut(&sequence) else { return };
        let Phase::Recording(next) = entry.phase else { return };
        entry.phase = Phase::Idle;
        entry.queued.attempt_count = entry.queued.attempt_count.saturating_add(1);
        match next {
            Next::Due(due) if !entry.ended => {
                entry.queued.due = Some(due);
                let line = Line::of(self.ordering, &entry.queued);
                self.shed(&line);
                self.settle(sequence);
            }
            Next::Due(_) | Next::Done => self.remove(sequence),
        }
        self.in_flight = self.in_flight.saturating_sub(1);
        self.reorder_when_quiet();
    }

    pub(super) fn skipped(&mut self, sequence: Sequence) {
        match self.entries.get_mut(&sequence) {
            Some(entry) if entry.phase == Phase::Idle => self.remove(sequence),
            Some(entry) => entry.ended = true,
            None => self.elsewhere(sequence),
        }
    }

    fn remove(&mut self, sequence: Sequence) {
        self.unsettle(sequence);
        let Some(entry) = self.entries.remove(&sequence) else { return };
        let line = self.line(&entry.queued);
        let Some(others) = self.lines.get_mut(&line) else { return };
        others.retain(|other| *other != sequence);
        if let Some(first) = others.front().copied() {
            self.shed(&line);
            self.settle(first);
            return;
        }
        self.lines.remove(&line);
        if let Line::Key(key) = line
            && self.aside.contains_key(&key)
        {
            self.wanted.push_back(key);
        }
    }

    /// Waiting retries are due now, and requests under way say nothing of the target from now on.
    pub(super) fn fresh_start(&mut self, now: Instant) {
        self.distrust_page();
        for sequence in self.entries.keys().copied().collect::<Vec<_>>() {
            self.due_now(sequence, now);
        }
        for entry in self.entries.values_mut() {
            if let Phase::InFlight(flight) = &mut entry.phase {
                *flight = Flight { probe: false, stale: true };
            }
        }
    }

    pub(super) fn forgive_retries(&mut self) {
        self.distrust_page();
        for entry in self.entries.values_mut() {
            // The attempt that is being recorded counts as made.
            let made = u32::from(matches!(entry.phase, Phase::Recording(_)));
            entry.queued.retry_base = entry.queued.attempt_count.saturating_add(made);
        }
    }

    /// This ordering and this limit in flight from now on. What stands in the old lines is read anew once
    /// nothing is in flight; until then nothing starts.
    pub(super) fn reconfigure(&mut self, ordering: Ordering, in_flight_max: u32) {
        let key_depth = key_depth(self.sizes, in_flight_max);
        if std::mem::replace(&mut self.key_depth, key_depth) > key_depth {
            for line in self.lines.keys().cloned().collect::<Vec<_>>() {
                self.shed(&line);
            }
        }
        self.next_ordering = (self.ordering != ordering).then_some(ordering);
        self.reorder_when_quiet();
    }

    fn reorder_when_quiet(&mut self) {
        if self.in_flight > 0 {
            return;
        }
        let Some(ordering) = self.next_ordering.take() else { return };
        self.distrust_page();
        self.ordering = ordering;
        self.entries.clear();
        self.lines.clear();
        self.ready.clear();
        self.waiting.clear();
        self.aside.clear();
        self.wanted.clear();
        self.scanned = Sequence::ZERO;
    }

    /// Deliveries in flight, as a length.
    fn busy(&self) -> usize {
        length(self.in_flight)
    }

    pub(super) fn first_ready(&self) -> Option<Sequence> {
        self.ready.first().copied()
    }

    /// Nothing may start before the ordering is changed.
    pub(super) fn is_draining(&self) -> bool {
        self.next_ordering.is_some()
    }

    pub(super) fn has_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    pub(super) fn next_due(&self) -> Option<Instant> {
        self.waiting.first().map(|(due, _)| *due)
    }

    pub(super) fn in_flight(&self) -> u32 {
        self.in_flight
    }

    pub(super) fn is_in_flight(&self, sequence: Sequence) -> bool {
        self.entries.get(&sequence).is_some_and(|entry| entry.phase != Phase::Idle)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Something is under way that will be heard of.
    pub(super) fn is_busy(&self) -> bool {
        self.in_flight > 0 || self.loading.is_some()
    }

    pub(super) fn probes(&self) -> usize {
        self.entries
            .values()
            .filter(|e| matches!(e.phase, Phase::InFlight(Flight { probe: true, .. })))
            .count()
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// What holds after each event; costs nothing where `debug_assert!` does.
    pub(super) fn check(&self) {
        debug_assert!(
            self.entries.values().filter(|entry| entry.phase != Phase::Idle).count() == self.busy(),
            "what is in flight is counted"
        );
        debug_assert!(
            self.ready.iter().all(|s| self.entries.get(s).is_some_and(|e| e.phase == Phase::Idle)),
            "what is ready is idle"
        );
        // All that is in flight may fail at once and then wait, and a key's page may come to a
        // window that is full meanwhile.
        let most = self.sizes.window + self.sizes.waiting + length(IN_FLIGHT_MAX) + self.sizes.key_depth;
        debug_assert!(self.entries.len() <= most, "the window is bounded");
        debug_assert!(self.scanned <= self.known, "what was read is known");
        debug_assert!(
            self.wanted
                .iter()
                .all(|key| self.aside.contains_key(key) && !self.lines.contains_key(&Line::Key(key.clone()))),
            "a wanted key has deliveries in the store only"
        );
    }
}

fn key_depth(sizes: Sizes, in_flight_max: u32) -> usize {
    let keys = length(in_flight_max).max(1);
    (sizes.window / 2 / keys).clamp(1, sizes.key_depth)
}

fn length(count: u32) -> usize {
    usize::try_from(count).unwrap_or(usize::MAX)
}
