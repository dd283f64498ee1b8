//! Slots that come and go.

use posthorn_domain::cluster::Slot;
use ractor::ActorRef;

use super::super::subscription::LaneMsg;
use super::{DispatcherMsg, State};

impl State {
    pub(super) fn acquired(&mut self, myself: &ActorRef<DispatcherMsg>, slots: Vec<Slot>) {
        if !slots.is_empty() {
            self.served.extend(slots);
            self.look_again(myself, true);
        }
    }

    pub(super) fn hand_over(&mut self, slots: &[Slot]) {
        self.stop_serving(slots);
        for slot in slots {
            self.leaving.insert(*slot, 0);
        }
        for (id, busy) in &mut self.lanes {
            let slot = Slot::of(*id);
            if slots.contains(&slot)
                && let Some(left) = self.leaving.get_mut(&slot)
            {
                *left += 1;
                if busy.actor.cast(LaneMsg::Close).is_ok() {
                    busy.sent += 1;
                }
            }
        }
        for slot in slots {
            if self.leaving.get(slot) == Some(&0) {
                self.leaving.remove(slot);
                self.parts.membership.drained(*slot);
            }
        }
    }

    /// Stops lanes at once; their requests are broken off.
    pub(super) fn lose(&mut self, slots: &[Slot]) {
        self.stop_serving(slots);
        for slot in slots {
            self.leaving.remove(slot);
        }
        let lost = self.lanes.iter().filter(|(id, _)| slots.contains(&Slot::of(**id)));
        let lost: Vec<_> = lost.map(|(_, busy)| busy.actor.clone()).collect();
        for actor in lost {
            actor.kill();
            self.gone(actor.get_id());
        }
    }

    pub(super) fn stop_serving(&mut self, slots: &[Slot]) {
        self.served.retain(|slot| !slots.contains(slot));
        let asleep: Vec<_> =
            self.sleepers.keys().filter(|id| slots.contains(&Slot::of(**id))).copied().collect();
        for id in asleep {
            self.forget_sleep(id);
        }
    }
}
