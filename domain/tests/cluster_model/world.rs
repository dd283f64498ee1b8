//! Chooses what happens next, and checks what came of it.

use std::time::Duration;

use crate::database::{DELIVERIES, Database, LANES, Notice, Outcome};
use crate::node::{Lane, Node};

pub(crate) const LEASE: Duration = Duration::from_secs(3);
const LEASE_MILLIS: u64 = 3000;
/// What the contract says: nothing starts later after the answer to a pause.
const PAUSE_HOLDS_AFTER: u64 = 1000;
/// Steps with faults, and the time in which everything is to be finished after them.
const STEPS: usize = 250;
const PEACE_MILLIS: u64 = 120_000;

/// What keeps the promises.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rule {
    /// An outcome is written only under the epoch that its slot has.
    Fence,
    /// For the last third of a lease nothing starts.
    LeaseEndsEarly,
    /// Nothing starts on old knowledge.
    KnowledgeAges,
    /// An outcome that is written again changes nothing.
    OutcomesCountOnce,
}

/// The rules that the nodes keep to: all, or all but one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rules {
    pub(crate) without: Option<Rule>,
}

impl Rules {
    pub(crate) fn keep(self, rule: Rule) -> bool {
        self.without != Some(rule)
    }
}

/// What becomes of a statement. One whose answer is lost may also come to the database much later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Answered,
    /// It was done, and nobody hears of it.
    AnswerLost,
    /// It never came to the database.
    Lost,
}

/// `SplitMix64` (Steele, Lea, Flood: Fast splittable pseudorandom number generators, 2014).
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % bound
    }

    fn index(&mut self, bound: usize) -> usize {
        usize::try_from(self.below(bound as u64)).unwrap()
    }

    fn one_in(&mut self, bound: u64) -> bool {
        self.below(bound) == 0
    }
}

pub(crate) struct World {
    rules: Rules,
    random: Random,
    now: u64,
    faults: bool,
    database: Database,
    /// Statements that are on their way to the database, and when they come to it.
    late: Vec<(u64, Outcome)>,
    nodes: [Node; 2],
    /// When the pause that is in force was answered.
    paused_at: [Option<u64>; LANES],
    /// The delivery that an endpoint saw last.
    seen: [usize; LANES],
    starts: usize,
}

impl World {
    /// One history. How many requests started, or what was broken.
    pub(crate) fn run(seed: u64, rules: Rules) -> Result<usize, String> {
        let mut world = Self {
            rules,
            random: Random(seed),
            now: 1,
            faults: true,
            database: Database::default(),
            late: Vec::new(),
            nodes: [Node::new(), Node::new()],
            paused_at: [None; LANES],
            seen: [0; LANES],
            starts: 0,
        };
        for _ in 0..STEPS {
            world.now += world.random.below(100);
            world.step()?;
        }
        world.make_peace();
        let end = world.now + PEACE_MILLIS;
        loop {
            match world.check_end() {
                Ok(()) => return Ok(world.starts),
                Err(left) if world.now > end => return Err(left),
                Err(_) => {}
            }
            world.now += world.random.below(40);
            world.step()?;
        }
    }

    fn step(&mut self) -> Result<(), String> {
        for (_, outcome) in self.late.extract_if(.., |(due, _)| *due <= self.now) {
            self.database.record(&outcome, self.rules)?;
        }
        let node = self.random.index(2);
        if self.nodes[node].stands_still_until > self.now {
            return Ok(());
        }
        self.nodes[node].look_at_the_clock(self.now, self.rules);
        match self.random.below(24) {
            0..4 => self.echo(node),
            4..8 => self.hear(node),
            8..10 => self.search(node),
            10..12 => self.renew(node),
            12 => self.take(node),
            13 => self.read_changed(node),
            14..18 => return self.start(node),
            18..20 => self.finish(node),
            20..22 => return self.record(node),
            22 if self.random.one_in(3) => self.change(),
            23 if self.random.one_in(2) => self.fail(node),
            _ => {}
        }
        Ok(())
    }

    fn fate(&mut self) -> Fate {
        match self.random.below(8) {
            0 if self.faults => Fate::Lost,
            1 | 2 if self.faults => Fate::AnswerLost,
            _ => Fate::Answered,
        }
    }

    fn renew(&mut self, node: usize) {
        let fate = self.fate();
        if fate == Fate::Lost {
            return;
        }
        let kept = self.database.renew(node, self.nodes[node].held, self.now + LEASE_MILLIS);
        if fate == Fate::Answered {
            self.nodes[node].renewed = self.now;
            self.nodes[node].keep(|lane| kept[lane]);
        }
    }

    /// Up to its share.
    fn take(&mut self, node: usize) {
        let fate = self.fate();
        let held = self.nodes[node].held;
        let count = if self.faults { usize::from(held == [None; LANES]) } else { LANES };
        if fate == Fate::Lost || count == 0 {
            return;
        }
        let times = (self.now, self.now + LEASE_MILLIS);
        let taken = self.database.take(node, held, count, times);
        if fate == Fate::AnswerLost {
            return;
        }
        let state = &mut self.nodes[node];
        if held == [None; LANES] && taken != [None; LANES] {
            state.renewed = self.now;
        }
        for (lane, epoch) in taken.iter().enumerate() {
            if let Some(epoch) = *epoch {
                state.held[lane] = Some(epoch);
                // As it is read after the slot was taken.
                state.lanes[lane] = Some(match self.database.next(lane) {
                    Some((next, row)) => {
                        Lane { next, attempts: row.attempts, in_flight: None, unrecorded: None }
                    }
                    None => Lane { next: DELIVERIES, attempts: 0, in_flight: None, unrecorded: None },
                });
                state.in_doubt[lane] = true;
            }
        }
    }

    /// A notice to itself.
    fn echo(&mut self, node: usize) {
        if self.fate() != Fate::Lost {
            self.database.notices.push(Notice::Echo(node, self.now));
        }
    }

    fn hear(&mut self, node: usize) {
        let state = &mut self.nodes[node];
        let all = self.database.notices.len();
        if state.deaf {
            // What was said meanwhile is never heard, and with it no echo that would vouch for it.
            state.heard = all;
            return;
        }
        let upto = state.heard + self.random.index(all - state.heard + 1);
        for notice in &self.database.notices[state.heard..upto] {
            match *notice {
                // It vouches for what was said on this connection, and a search for what was before.
                Notice::Echo(of, sent) if of == node && state.searched >= state.listens_since => {
                    state.known = state.known.max(sent);
                }
                Notice::Echo(..) => {}
                Notice::Changed(lane) => state.in_doubt[lane] = true,
            }
        }
        state.heard = upto;
    }

    /// Reads all subscriptions that changed. What it found is acted on at once, and vouched for by the next one.
    fn search(&mut self, node: usize) {
        if self.fate() != Fate::Answered {
            return;
        }
        let state = &mut self.nodes[node];
        state.known = state.known.max(state.searched);
        state.searched = self.now;
        state.paused = self.database.paused;
    }

    fn read_changed(&mut self, node: usize) {
        if self.fate() != Fate::Answered {
            return;
        }
        let state = &mut self.nodes[node];
        for lane in 0..LANES {
            if state.in_doubt[lane] {
                (state.paused[lane], state.in_doubt[lane]) = (self.database.paused[lane], false);
            }
        }
    }

    fn start(&mut self, node: usize) -> Result<(), String> {
        let lane = self.random.index(LANES);
        let Some((delivery, attempt, epoch)) = self.nodes[node].may_start(lane, self.now, self.rules) else {
            return Ok(());
        };
        let what =
            || format!("node {node}, lane {lane}, delivery {delivery}, attempt {attempt}, at {}", self.now);
        if delivery < self.seen[lane] {
            return Err(format!("{}: the endpoint has seen {} before", what(), self.seen[lane]));
        }
        if let Some(paused) = self.paused_at[lane].filter(|paused| self.now > paused + PAUSE_HOLDS_AFTER) {
            return Err(format!("{}: it is paused since {paused}", what()));
        }
        self.seen[lane] = delivery;
        self.starts += 1;
        if let Some(state) = &mut self.nodes[node].lanes[lane] {
            state.in_flight = Some(epoch);
        }
        Ok(())
    }

    /// A request ends.
    fn finish(&mut self, node: usize) {
        let lane = self.random.index(LANES);
        let succeeded = self.random.one_in(2);
        let Some(state) = &mut self.nodes[node].lanes[lane] else { return };
        if let Some(epoch) = state.in_flight.take() {
            let (delivery, attempt) = (state.next, state.attempts + 1);
            state.unrecorded = Some(Outcome { lane, delivery, attempt, epoch, succeeded });
        }
    }

    /// An outcome is written again until it is known that it is.
    fn record(&mut self, node: usize) -> Result<(), String> {
        let lane = self.random.index(LANES);
        let Some(outcome) = self.nodes[node].lanes[lane].and_then(|lane| lane.unrecorded) else {
            return Ok(());
        };
        let fate = self.fate();
        if fate == Fate::Lost {
            return Ok(());
        }
        if fate == Fate::AnswerLost && self.random.one_in(2) {
            self.late.push((self.now + self.random.below(2 * LEASE_MILLIS), outcome));
            return Ok(());
        }
        let is_held = self.database.record(&outcome, self.rules)?;
        if fate == Fate::AnswerLost {
            return Ok(());
        }
        let state = &mut self.nodes[node];
        if !is_held {
            (state.held[lane], state.lanes[lane]) = (None, None);
        } else if let Some(lane) = &mut state.lanes[lane] {
            lane.unrecorded = None;
            (lane.next, lane.attempts) =
                if outcome.succeeded { (outcome.delivery + 1, 0) } else { (lane.next, outcome.attempt) };
        }
        Ok(())
    }

    /// A client pauses or resumes a lane, at whichever node; it is answered with the commit.
    fn change(&mut self) {
        if !self.faults {
            return;
        }
        let lane = self.random.index(LANES);
        self.set_paused(lane, !self.database.paused[lane]);
    }

    fn set_paused(&mut self, lane: usize, paused: bool) {
        self.database.paused[lane] = paused;
        self.database.notices.push(Notice::Changed(lane));
        self.paused_at[lane] = paused.then_some(self.now);
    }

    fn fail(&mut self, node: usize) {
        if !self.faults {
            return;
        }
        match self.random.below(4) {
            0 => self.nodes[node].stands_still_until = self.now + self.random.below(2 * LEASE_MILLIS),
            1 => self.nodes[node].deaf = true,
            2 => self.listen_anew(node),
            _ => {
                // Killed, and started again as another process: its slots are nobody's until their leases are over.
                let heard = self.database.notices.len();
                self.nodes[node] = Node { heard, listens_since: self.now, ..Node::new() };
            }
        }
    }

    /// A new connection for notices. What was said before it was there is found by a search alone.
    fn listen_anew(&mut self, node: usize) {
        let heard = self.database.notices.len();
        let state = &mut self.nodes[node];
        (state.deaf, state.heard, state.listens_since) = (false, heard, self.now);
    }

    fn make_peace(&mut self) {
        self.faults = false;
        for node in 0..self.nodes.len() {
            self.listen_anew(node);
            self.nodes[node].stands_still_until = 0;
        }
        for lane in 0..LANES {
            self.set_paused(lane, false);
        }
    }

    fn check_end(&self) -> Result<(), String> {
        for lane in 0..LANES {
            let slot = self.database.slots[lane];
            let owner = slot.owner.filter(|owner| self.nodes[*owner].held[lane] == Some(slot.epoch));
            if owner.is_none() {
                return Err(format!("the slot of lane {lane} is nobody's at the end: {slot:?}"));
            }
            if let Some((delivery, row)) = self.database.next(lane) {
                return Err(format!("delivery {delivery} of lane {lane} is not finished: {row:?}"));
            }
            for (delivery, row) in self.database.deliveries[lane].iter().enumerate() {
                let counted = self.database.counted[lane][delivery];
                if counted != row.attempts {
                    return Err(format!(
                        "{counted} outcomes of delivery {delivery} counted as {}",
                        row.attempts
                    ));
                }
            }
        }
        Ok(())
    }
}
