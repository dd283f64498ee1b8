//! The rows that matter here, and the notices that go out with a commit. Each method is one statement.

use crate::world::{Rule, Rules};

/// Lanes, each in a slot of its own.
pub(crate) const LANES: usize = 2;
/// Deliveries of each lane.
pub(crate) const DELIVERIES: usize = 3;

/// Which node.
pub(crate) type NodeId = usize;

#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Slot {
    pub(crate) owner: Option<NodeId>,
    pub(crate) epoch: u64,
    pub(crate) until: u64,
}

#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Delivery {
    pub(crate) attempts: u32,
    pub(crate) finished: bool,
}

/// Heard by every node that listens, in the order of the commits.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Notice {
    /// A node's word to itself, and when it sent it.
    Echo(NodeId, u64),
    /// A lane was paused or resumed.
    Changed(usize),
}

/// An attempt that ended.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Outcome {
    pub(crate) lane: usize,
    pub(crate) delivery: usize,
    /// Its number, from 1.
    pub(crate) attempt: u32,
    pub(crate) epoch: u64,
    pub(crate) succeeded: bool,
}

#[derive(Debug, Default)]
pub(crate) struct Database {
    pub(crate) slots: [Slot; LANES],
    pub(crate) deliveries: [[Delivery; DELIVERIES]; LANES],
    pub(crate) paused: [bool; LANES],
    pub(crate) notices: Vec<Notice>,
    /// Outcomes that changed a row, by delivery.
    pub(crate) counted: [[u32; DELIVERIES]; LANES],
}

impl Database {
    /// Renews what is still held under the epochs that are named, and returns it.
    pub(crate) fn renew(
        &mut self,
        node: NodeId,
        held: [Option<u64>; LANES],
        until: u64,
    ) -> [Option<u64>; LANES] {
        let mut kept = held;
        for (slot, kept) in self.slots.iter_mut().zip(&mut kept) {
            match *kept {
                Some(epoch) if slot.owner == Some(node) && slot.epoch == epoch => slot.until = until,
                _ => *kept = None,
            }
        }
        kept
    }

    /// Takes slots that nobody holds, and those that are this node's without its knowledge, since an answer was lost.
    pub(crate) fn take(
        &mut self,
        node: NodeId,
        held: [Option<u64>; LANES],
        count: usize,
        (now, until): (u64, u64),
    ) -> [Option<u64>; LANES] {
        let mut taken = [None; LANES];
        for (lane, slot) in self.slots.iter_mut().enumerate() {
            let is_orphan = slot.owner == Some(node) && held[lane].is_none();
            let is_free = slot.owner.is_none() || slot.until <= now;
            if (is_free || is_orphan) && taken.iter().flatten().count() < count {
                *slot = Slot { owner: Some(node), epoch: slot.epoch + 1, until };
                taken[lane] = Some(slot.epoch);
            }
        }
        taken
    }

    /// Writes an outcome where its slot has the epoch still, and says whether it has. One that counts although it
    /// has not is an error.
    pub(crate) fn record(&mut self, outcome: &Outcome, rules: Rules) -> Result<bool, String> {
        let is_held = self.slots[outcome.lane].epoch == outcome.epoch;
        if rules.keep(Rule::Fence) && !is_held {
            return Ok(false);
        }
        let row = &mut self.deliveries[outcome.lane][outcome.delivery];
        if !rules.keep(Rule::OutcomesCountOnce) || row.attempts + 1 == outcome.attempt {
            if !is_held {
                return Err(format!("{outcome:?} counts under a later epoch"));
            }
            *row = Delivery { attempts: outcome.attempt, finished: outcome.succeeded };
            self.counted[outcome.lane][outcome.delivery] += 1;
        }
        Ok(true)
    }

    /// The first delivery of a lane that is not finished.
    pub(crate) fn next(&self, lane: usize) -> Option<(usize, Delivery)> {
        self.deliveries[lane].iter().copied().enumerate().find(|(_, delivery)| !delivery.finished)
    }
}
