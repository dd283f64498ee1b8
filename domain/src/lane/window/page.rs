//! What of a lane's deliveries is in the store only, and how it comes from there.

use crate::delivery::OrderingKey;
use crate::id::Sequence;

use super::super::{Load, Queued, Scope};
use super::{Line, Window};

/// Deliveries of a key that are in the store only: those numbered above `after`, up to `last` at
/// least.
#[derive(Clone, Copy, Debug)]
pub(super) struct Aside {
    pub(super) after: Sequence,
    pub(super) last: Sequence,
}

#[derive(Debug)]
pub(super) struct Loading {
    load: Load,
    /// `known` for a scan, `scanned` for a key: what was there for sure when the page was read.
    asked: Sequence,
    /// Something changed that the page may not show yet: it is to be read again.
    stale: bool,
}

impl Window {
    pub(in crate::lane) fn accepted(&mut self, queued: Queued) {
        let sequence = queued.ticket.sequence;
        // One heard of before may have ended since; if not, it comes with a page.
        let news = self.heard_of(sequence);
        if news && sequence == self.scanned.next() && self.room() > 0 {
            self.scanned = sequence;
            self.insert(queued);
        }
    }

    /// All up to this number are there.
    pub(in crate::lane) fn stored(&mut self, last: Sequence) {
        self.heard_of(last);
    }

    /// The highest number heard of.
    pub(in crate::lane) const fn known(&self) -> Sequence {
        self.known
    }

    /// A delivery is there. Whether that is news.
    fn heard_of(&mut self, sequence: Sequence) -> bool {
        let news = sequence > self.known;
        self.known = self.known.max(sequence);
        news
    }

    /// What to read next, and from then on [`loaded`](Self::loaded) is awaited.
    pub(in crate::lane) fn load(&mut self) -> Option<Load> {
        if self.loading.is_some() || self.room() == 0 {
            return None;
        }
        let to_read = self.room().saturating_sub(self.sizes.window - self.reach);
        let scan = self.known > self.scanned && to_read > 0 && to_read >= self.reach / 2;
        let key = if scan && self.key_had_turn { None } else { self.wanted.pop_front() };
        self.key_had_turn = key.is_some();
        let (load, asked) = match key {
            Some(key) => {
                let after = self.aside.get(&key).map_or(self.scanned, |aside| aside.after);
                let limit = self.room().min(self.key_depth);
                (Load { after, scope: Scope::Key(key, self.scanned), limit }, self.scanned)
            }
            None if scan => {
                let keys = self.aside.keys().cloned().collect();
                (Load { after: self.scanned, scope: Scope::Without(keys), limit: to_read }, self.known)
            }
            None => return None,
        };
        self.loading = Some(Loading { load: load.clone(), asked, stale: false });
        Some(load)
    }

    pub(in crate::lane) fn loaded(&mut self, page: Vec<Queued>) {
        let Some(Loading { load, asked, stale }) = self.loading.take() else { return };
        if stale {
            if let Scope::Key(key, _) = load.scope
                && self.aside.contains_key(&key)
            {
                self.wanted.push_back(key);
            }
            return;
        }
        debug_assert!(load.is_answered_by(&page), "a page holds what was asked for, in order");
        let full = page.len() >= load.limit;
        let last = page.last().map_or(load.after, |queued| queued.ticket.sequence);
        match load.scope {
            Scope::Without(_) => {
                self.scanned = if full { last } else { last.max(asked).max(self.scanned) };
                self.known = self.known.max(self.scanned);
                for queued in page {
                    self.insert(queued);
                }
                // What was left out of the page may reach as far as it was read.
                for aside in self.aside.values_mut() {
                    aside.last = self.scanned;
                }
            }
            Scope::Key(key, _) => self.loaded_key(&key, page, asked, full.then_some(last)),
        }
    }

    fn loaded_key(
        &mut self,
        key: &OrderingKey,
        page: Vec<Queued>,
        asked: Sequence,
        more_after: Option<Sequence>,
    ) {
        let last = self.aside.remove(key).map_or(asked, |aside| aside.last);
        for queued in page {
            self.insert(queued);
        }
        let after = more_after.unwrap_or(asked);
        match self.aside.get_mut(key) {
            // The page itself had more than may stand in the line.
            Some(aside) => aside.last = aside.last.max(last),
            None if last > after => self.set_aside(key.clone(), after, last),
            None => {}
        }
    }

    fn set_aside(&mut self, key: OrderingKey, after: Sequence, last: Sequence) {
        if !self.lines.contains_key(&Line::Key(key.clone())) {
            self.wanted.push_back(key.clone());
        }
        self.aside.insert(key, Aside { after, last });
    }

    fn room(&self) -> usize {
        let others = self.entries.len() - self.waiting.len() - self.busy();
        if self.waiting.len() < self.sizes.waiting { self.sizes.window.saturating_sub(others) } else { 0 }
    }

    /// A delivery changed that is in the store only.
    pub(super) fn elsewhere(&mut self, sequence: Sequence) {
        self.heard_of(sequence);
        self.distrust_page();
    }

    /// The page under way may have been read before something was changed.
    pub(super) fn distrust_page(&mut self) {
        if let Some(loading) = &mut self.loading {
            loading.stale = true;
        }
    }

    /// Sets a key aside where its line is longer than it may be: the rest goes back to the store.
    pub(super) fn shed(&mut self, line: &Line) {
        let Line::Key(key) = line else { return };
        let depth = self.lines.get(line).map_or(0, |others| self.depth(others));
        let Some(others) = self.lines.get_mut(line).filter(|others| others.len() > depth) else { return };
        let behind = others.split_off(depth);
        let (Some(after), Some(last)) = (others.back().copied(), behind.back().copied()) else { return };
        for other in &behind {
            self.entries.remove(other);
        }
        let last = self.aside.get(key).map_or(last, |aside| aside.last.max(last));
        self.aside.insert(key.clone(), Aside { after, last });
    }
}

impl Load {
    fn is_answered_by(&self, page: &[Queued]) -> bool {
        let numbers = || page.iter().map(|queued| queued.ticket.sequence);
        let is_asked_for = |queued: &Queued| match &self.scope {
            Scope::Without(keys) => queued.key.as_ref().is_none_or(|key| !keys.contains(key)),
            Scope::Key(key, last) => queued.key.as_ref() == Some(key) && queued.ticket.sequence <= *last,
        };
        page.len() <= self.limit
            && numbers().next().is_none_or(|first| first > self.after)
            && numbers().is_sorted_by(|one, next| one < next)
            && page.iter().all(is_asked_for)
    }
}
