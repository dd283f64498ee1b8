//! What a node has in memory. It acts on this alone, and on what statements answer.

use std::time::{Duration, Instant};

use posthorn_domain::cluster::{Standing, may_start, standing};

use crate::database::{DELIVERIES, LANES, Outcome};
use crate::world::{LEASE, Rule, Rules};

/// A lane in memory.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Lane {
    pub(crate) next: usize,
    pub(crate) attempts: u32,
    /// A request is on its way, begun under this epoch.
    pub(crate) in_flight: Option<u64>,
    /// Its outcome, until it is known to be written.
    pub(crate) unrecorded: Option<Outcome>,
}

#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) held: [Option<u64>; LANES],
    pub(crate) lanes: [Option<Lane>; LANES],
    /// As this node knows it.
    pub(crate) paused: [bool; LANES],
    /// Changed, and not read since.
    pub(crate) in_doubt: [bool; LANES],
    /// When the last renewal that came through was sent.
    pub(crate) renewed: u64,
    /// All that was committed by then is known.
    pub(crate) known: u64,
    /// When the last search for work began.
    pub(crate) searched: u64,
    /// Since when its connection for notices has been there.
    pub(crate) listens_since: u64,
    /// Notices heard so far.
    pub(crate) heard: usize,
    /// It does nothing before.
    pub(crate) stands_still_until: u64,
    /// Its connection for notices is dead.
    pub(crate) deaf: bool,
}

impl Node {
    pub(crate) fn new() -> Self {
        Self {
            held: [None; LANES],
            lanes: [None; LANES],
            paused: [false; LANES],
            in_doubt: [false; LANES],
            renewed: 0,
            known: 0,
            searched: 0,
            listens_since: 0,
            heard: 0,
            stands_still_until: 0,
            deaf: false,
        }
    }

    /// Whether a request of the lane may leave now, and of which delivery.
    pub(crate) fn may_start(&self, lane: usize, now: u64, rules: Rules) -> Option<(usize, u32, u64)> {
        let at = |millis| base() + Duration::from_millis(millis);
        let known = if rules.keep(Rule::KnowledgeAges) { self.known } else { now };
        let allowed = if rules.keep(Rule::LeaseEndsEarly) {
            may_start(Some(at(self.renewed)), LEASE, Some(at(known)), at(now))
        } else {
            // Whatever its clock says.
            may_start(None, LEASE, Some(at(known)), at(now))
        };
        let (epoch, state) = (self.held[lane]?, self.lanes[lane]?);
        let waits = state.in_flight.is_some() || state.unrecorded.is_some() || state.next == DELIVERIES;
        let refused = self.paused[lane] || self.in_doubt[lane];
        (allowed && !waits && !refused).then_some((state.next, state.attempts + 1, epoch))
    }

    /// Gives up what it may not act on any more.
    pub(crate) fn look_at_the_clock(&mut self, now: u64, rules: Rules) {
        let at = |millis| base() + Duration::from_millis(millis);
        if rules.keep(Rule::LeaseEndsEarly) && standing(at(self.renewed), LEASE, at(now)) == Standing::Over {
            self.keep(|_| None);
        }
    }

    /// What becomes of each slot that is held; lanes of the others go, with what they had in flight.
    pub(crate) fn keep(&mut self, kept: impl Fn(usize) -> Option<u64>) {
        for lane in 0..LANES {
            if self.held[lane].is_some() && kept(lane) != self.held[lane] {
                (self.held[lane], self.lanes[lane]) = (None, None);
            }
        }
    }
}

/// Where virtual time begins.
fn base() -> Instant {
    static BASE: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
    *BASE.get_or_init(Instant::now)
}
