//! The world around a lane: it does what the lane wants, late, in any order, or never.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use posthorn_domain::delivery::OrderingKey;
use posthorn_domain::id::Sequence;
use posthorn_domain::lane::{
    Action, Change, Event, Gate, Hold, Lane, Load, Policy, Queued, Record, Sizes, Verdict,
};
use posthorn_domain::places::Claim;
use posthorn_domain::retry::Jitter;
use posthorn_domain::subscription::SubscriptionStatus;

use super::history::{Brake, Node, Step};
use super::reference::{Ended, Flight, Reference};
use super::store::{Edit, Edited, Store};

enum Notice {
    Accepted(Queued),
    Stored(Sequence),
    Skipped(Sequence),
    Retry(Sequence),
    Edited(Edited),
}

struct Valve {
    hold: Option<Hold>,
    /// A lane that the limiter held may sleep as long.
    paced_until: Instant,
    admitted: usize,
}

impl Gate for Valve {
    fn admit(&mut self, _: Claim, now: Instant) -> Result<(), Hold> {
        match self.hold {
            Some(Hold::Rate(until)) if until <= now => {}
            Some(hold) => return Err(hold),
            None => {}
        }
        self.admitted += 1;
        Ok(())
    }
}

pub(super) struct World {
    now: Instant,
    sizes: Sizes,
    store: Store,
    reference: Reference,
    /// None while it is idle and forgotten; then `wakeup` says when it is built again.
    lane: Option<Lane>,
    wakeup: Option<Instant>,
    /// While it is forgotten: nothing that is accepted brings it back.
    deaf: bool,
    gate: Valve,
    started: usize,
    flying: Vec<Flight>,
    /// The request that ended last, until the lane says what to record.
    ended: Option<Ended>,
    /// To be committed, in this order.
    records: VecDeque<Record>,
    /// Committed, in this order; the lane does not know.
    written: Vec<Record>,
    load: Option<Load>,
    page: Option<Vec<Queued>>,
    notices: Vec<Notice>,
}

impl World {
    pub(super) fn new(sizes: Sizes, policy: Policy) -> Self {
        let now = Instant::now();
        let store = Store::new(policy);
        let mut world = Self {
            now,
            sizes,
            reference: Reference::new(&store, now),
            store,
            lane: None,
            wakeup: None,
            deaf: false,
            gate: Valve { hold: None, paced_until: now, admitted: 0 },
            started: 0,
            flying: Vec::new(),
            ended: None,
            records: VecDeque::new(),
            written: Vec::new(),
            load: None,
            page: None,
            notices: Vec::new(),
        };
        world.build();
        world
    }

    pub(super) fn step(&mut self, step: &Step) {
        match step {
            Step::Accept { key, count, node } => self.accept(*key, *count, *node),
            Step::Deliver(nth) => self.deliver(*nth),
            Step::End { nth, verdict, jitter } => self.end(*nth, *verdict, *jitter),
            Step::Withdraw(nth) => self.withdraw(*nth),
            Step::Commit => self.commit(),
            Step::Recorded(nth) => self.recorded(*nth),
            Step::Read => self.read(),
            Step::Page => self.hand_over(),
            Step::Settle => self.settle(),
            Step::Advance(time) => self.now += *time,
            Step::Tick => self.tick(),
            Step::Wake => self.wake(),
            Step::Edit(edit) => self.edit(*edit),
            Step::Skip(nth) => self.skip(*nth),
            Step::Retry(nth) => self.retry(*nth),
            Step::Hold(brake) => self.hold(*brake),
            Step::Crash(committed) => self.crash(*committed),
            Step::Passivate => self.passivate(),
        }
        self.check_rest();
    }

    /// Whatever happened before: where everything goes well from now on, all that is accepted is
    /// finished; and requests that do not end keep no others from starting.
    pub(super) fn finish(&mut self) {
        self.hold(Brake::Off);
        self.settle();
        self.resume();
        self.settle();
        self.check_places();
        for _ in 0..100_000 {
            self.resume();
            self.settle();
            if self.flying.is_empty() && self.next_wakeup().is_none() && self.store.is_active() {
                break;
            }
            if self.flying.is_empty() {
                self.wake();
            }
            while !self.flying.is_empty() {
                self.end(0, Verdict::Success, 0);
            }
        }
        let left: Vec<_> = self.store.unfinished().collect();
        assert!(left.is_empty(), "never sent: {left:?}");
        assert_eq!(self.gate.admitted, self.started, "a turn at the gate for each start");
    }

    fn accept(&mut self, key: Option<u8>, count: usize, node: Node) {
        if self.store.status == SubscriptionStatus::Disabled {
            return;
        }
        for _ in 0..count {
            let key = key.map(|key| OrderingKey(format!("key {key}").into()));
            let queued = self.store.accept(key);
            if node == Node::Own {
                self.notices.push(Notice::Accepted(queued));
            }
        }
        if node == Node::Other {
            self.notices.push(Notice::Stored(self.store.outset().last));
        }
    }

    fn deliver(&mut self, nth: usize) {
        let Some(at) = nth.checked_rem(self.notices.len()) else { return };
        let notice = self.notices.remove(at);
        if self.lane.is_none() {
            if self.deaf && matches!(notice, Notice::Accepted(_) | Notice::Stored(_)) {
                return;
            }
            self.build();
        }
        match notice {
            Notice::Accepted(queued) => self.tell(Event::Accepted(queued)),
            Notice::Stored(last) => self.tell(Event::Stored { last }),
            Notice::Skipped(sequence) => {
                self.reference.skipped(sequence);
                self.tell(Event::Skipped { sequence });
            }
            Notice::Retry(sequence) => {
                self.reference.retried(sequence);
                self.tell(Event::RetryNow { sequence });
            }
            Notice::Edited(edited) if edited.version > self.reference.built => self.change(edited),
            Notice::Edited(_) => {}
        }
    }

    /// As the shell does: what is older than what the lane knows tells no rules any more.
    fn change(&mut self, edited: Edited) {
        let told = self.reference.told;
        let newest = if edited.version >= told.version { edited } else { told };
        let edited =
            Edited { fresh_start: edited.fresh_start, retries_forgiven: edited.retries_forgiven, ..newest };
        let recording: Vec<_> = self.records.iter().map(|record| record.ticket.sequence).collect();
        self.reference.changed(&edited, &self.store, &recording);
        self.tell(Event::Changed(Change {
            policy: edited.policy,
            active: edited.active,
            fresh_start: edited.fresh_start,
            retries_forgiven: edited.retries_forgiven,
        }));
    }

    fn end(&mut self, nth: usize, verdict: Verdict, jitter: i16) {
        let Some(at) = nth.checked_rem(self.flying.len()) else { return };
        let flight = self.flying.remove(at);
        self.ended = Some(self.reference.ends(flight, verdict, jitter, self.now));
        let jitter = Jitter::from_thousandths(jitter);
        let took = Duration::from_millis(20);
        self.tell(Event::Finished { sequence: flight.sequence, verdict, took, jitter });
        assert!(self.ended.is_none(), "the end of {} is not recorded", flight.sequence);
    }

    fn withdraw(&mut self, nth: usize) {
        let Some(at) = nth.checked_rem(self.flying.len()) else { return };
        let flight = self.flying.remove(at);
        self.reference.withdrawn(flight, self.now);
        self.tell(Event::Withdrawn { sequence: flight.sequence });
    }

    fn commit(&mut self) {
        if let Some(record) = self.records.pop_front() {
            self.store.record(&record);
            self.written.push(record);
        }
    }

    fn recorded(&mut self, nth: usize) {
        let Some(at) = nth.checked_rem(self.written.len()) else { return };
        let record = self.written.remove(at);
        let sequence = record.ticket.sequence;
        let earlier: Vec<_> = self.written[..at].iter().map(|record| record.ticket.sequence).collect();
        // As the shell does: how the subscription stands is read again after such a record.
        if record.standing.is_some() {
            let now = self.now;
            self.lane().handle(Event::Recorded { sequence }, now);
            self.reference.recorded(sequence, &earlier);
            self.change(self.store.read());
        } else {
            self.tell(Event::Recorded { sequence });
        }
    }

    fn read(&mut self) {
        if self.page.is_none() {
            self.page = self.load.as_ref().map(|load| self.store.page(load));
        }
    }

    fn hand_over(&mut self) {
        if let Some(page) = self.page.take() {
            self.load = None;
            self.tell(Event::Loaded(page));
        }
    }

    fn settle(&mut self) {
        while !(self.notices.is_empty()
            && self.load.is_none()
            && self.records.is_empty()
            && self.written.is_empty())
        {
            self.deliver(0);
            self.commit();
            self.recorded(0);
            self.read();
            self.hand_over();
        }
        self.tick();
    }

    fn tick(&mut self) {
        if self.lane.is_some() {
            self.tell(Event::Tick);
        } else if self.wakeup.is_some_and(|at| at <= self.now) {
            self.build();
        }
    }

    fn wake(&mut self) {
        if let Some(at) = self.next_wakeup() {
            self.now = self.now.max(at);
            self.tick();
        }
    }

    fn edit(&mut self, edit: Edit) {
        let edited = self.store.edit(edit, self.now);
        self.notices.push(Notice::Edited(edited));
    }

    fn resume(&mut self) {
        if !self.store.is_active() {
            self.edit(Edit::Status(SubscriptionStatus::Active));
        }
    }

    fn skip(&mut self, nth: usize) {
        if let Some(sequence) = self.pick(nth)
            && self.store.skip(sequence)
        {
            self.notices.push(Notice::Skipped(sequence));
        }
    }

    fn retry(&mut self, nth: usize) {
        if let Some(sequence) = self.pick(nth)
            && self.store.retry(sequence, self.now)
        {
            self.notices.push(Notice::Retry(sequence));
        }
    }

    /// One of the first unfinished deliveries.
    fn pick(&self, nth: usize) -> Option<Sequence> {
        let first: Vec<_> = self.store.unfinished().take(12).map(|row| row.sequence).collect();
        nth.checked_rem(first.len()).map(|at| first[at])
    }

    fn hold(&mut self, brake: Brake) {
        if let Brake::Rate(time) = brake {
            self.gate.paced_until = self.gate.paced_until.max(self.now + time);
        }
        self.gate.hold = match brake {
            Brake::Off => None,
            Brake::Capacity => Some(Hold::Capacity),
            Brake::Rate(time) => Some(Hold::Rate(self.now + time)),
        };
        // A place that is free is told.
        self.tick();
    }

    fn crash(&mut self, committed: usize) {
        for _ in 0..committed {
            self.commit();
        }
        self.records.clear();
        self.written.clear();
        self.flying.clear();
        self.notices.clear();
        self.build();
    }

    fn passivate(&mut self) {
        if self.lane.as_ref().is_some_and(Lane::is_idle) {
            self.wakeup = self.next_wakeup();
            self.deaf = self.lane().is_deaf();
            self.lane = None;
        }
    }

    fn build(&mut self) {
        self.reference.rebuilt(&self.store, self.now);
        self.lane = Some(Lane::sized(self.sizes, &self.store.outset(), self.now));
        (self.load, self.page, self.wakeup) = (None, None, None);
        self.poll();
    }

    fn tell(&mut self, event: Event) {
        let recorded = match &event {
            Event::Recorded { sequence } => Some(*sequence),
            _ => None,
        };
        let now = self.now;
        self.lane().handle(event, now);
        if let Some(sequence) = recorded {
            self.reference.recorded(sequence, &[]);
        }
        self.poll();
    }

    fn lane(&mut self) -> &mut Lane {
        self.lane.as_mut().expect("what is under way keeps the lane")
    }

    /// Does what the lane wants.
    fn poll(&mut self) {
        loop {
            if self.flying.is_empty() && self.recording().next().is_none() && self.ended.is_none() {
                self.reference.quiet();
            }
            let Some(lane) = self.lane.as_mut() else { return };
            let Some(action) = lane.poll(self.now, &mut self.gate) else { break };
            match action {
                Action::Start { ticket, attempt } => self.start(ticket.sequence, attempt.get()),
                Action::Record(record) => self.record(record),
                Action::Load(load) => self.ask(load),
            }
        }
        let wakeup = self.next_wakeup();
        assert!(wakeup.is_none_or(|at| at > self.now), "a wake-up that is no wait");
    }

    fn start(&mut self, sequence: Sequence, attempt: u32) {
        let row = self.store.row(sequence);
        let on_its_way =
            self.notices.iter().any(|notice| matches!(notice, Notice::Skipped(s) if *s == sequence));
        assert!(!row.status.is_finished() || on_its_way, "{sequence} starts though it is finished");
        assert!(!self.recording().any(|other| other == sequence), "{sequence} starts before its record");
        let flight = self.reference.starts(row, attempt, &self.store, &self.flying, self.now);
        self.flying.push(flight);
        self.started += 1;
    }

    fn record(&mut self, record: Record) {
        let ended = self.ended.take().expect("a request that ended");
        let unsure =
            self.notices.iter().any(|notice| matches!(notice, Notice::Edited(e) if e.retries_forgiven));
        self.reference.records(&ended, &record, &self.store, unsure, self.now);
        self.records.push_back(record);
    }

    fn ask(&mut self, load: Load) {
        assert!(self.load.is_none(), "two pages at once");
        assert!((1..=self.sizes.window).contains(&load.limit), "a page of {}", load.limit);
        self.load = Some(load);
    }

    fn recording(&self) -> impl Iterator<Item = Sequence> {
        self.records.iter().chain(&self.written).map(|record| record.ticket.sequence)
    }

    fn next_wakeup(&self) -> Option<Instant> {
        self.lane.as_ref().map_or(self.wakeup, Lane::next_wakeup)
    }

    /// A lane that rests wakes as soon as anything could start, unless something happens before.
    fn check_rest(&self) {
        let rests = self.lane.as_ref().is_none_or(Lane::is_idle) && self.notices.is_empty();
        if !rests || !self.store.is_active() {
            return;
        }
        let Some(wakeup) = self.next_wakeup() else {
            let left: Vec<_> = self.store.unfinished().collect();
            assert!(left.is_empty(), "forgotten: {left:?}");
            return;
        };
        let waiting = self.store.unfinished().filter(|row| row.due.is_some_and(|due| due > self.now)).count();
        if self.gate.hold.is_none() && waiting < self.sizes.waiting {
            let next = self.reference.next_start(&self.store, self.now);
            let latest = next.map(|at| at.max(self.now).max(self.gate.paced_until));
            assert!(latest.is_none_or(|at| wakeup <= at), "wakes at {wakeup:?}, not at {latest:?}");
        }
    }

    /// With everything told and done, a place is free only where nothing could take it.
    fn check_places(&self) {
        let limit = self.lane.as_ref().map_or(0, |lane| usize::try_from(lane.in_flight_limit()).unwrap());
        let held = self.lane.is_none() || !self.reference.is_closed() || self.reference.is_draining();
        let waiting = self.store.unfinished().filter(|row| row.due.is_some_and(|due| due > self.now)).count();
        if self.flying.len() >= limit || held || waiting >= self.sizes.waiting {
            return;
        }
        let kept = self.reference.startable(&self.store, &self.flying, self.now);
        assert!(kept.is_none(), "kept from a free place: {kept:?}");
    }
}
