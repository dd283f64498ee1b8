//! One of something for each claim.

use std::collections::VecDeque;

use super::Claim;

#[derive(Debug, Default)]
pub(super) struct PerClaim<T> {
    pub(super) first: T,
    pub(super) further: T,
    pub(super) doubtful: T,
}

impl<T> PerClaim<T> {
    pub(super) const fn of(&self, claim: Claim) -> &T {
        match claim {
            Claim::First => &self.first,
            Claim::Further => &self.further,
            Claim::Doubtful => &self.doubtful,
        }
    }

    pub(super) const fn of_mut(&mut self, claim: Claim) -> &mut T {
        match claim {
            Claim::First => &mut self.first,
            Claim::Further => &mut self.further,
            Claim::Doubtful => &mut self.doubtful,
        }
    }
}

impl<T> PerClaim<VecDeque<T>> {
    /// Nobody in any.
    pub(super) const fn new() -> Self {
        Self { first: VecDeque::new(), further: VecDeque::new(), doubtful: VecDeque::new() }
    }
}
