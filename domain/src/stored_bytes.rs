//! How many bytes of payloads a tenant has stored, so far as one node knows.
//!
//! Counting takes as long as the tenant has deliveries, so it is not done with each event. What is known is the last
//! count and what this node has let in since. Where that leaves no room the tenant is counted again, since retention
//! may have removed something; after a count it is left alone for ten times as long as it took.
//!
//! What this node let in and has not answered when a count begins may be in the count or not: it counts on top. So the
//! node itself never lets in more than the limit. What other nodes let in is seen with the next count, which is due
//! every [`COUNTED_EVERY`].

use std::time::{Duration, Instant};

/// How old a count gets where the tenant hands in.
pub const COUNTED_EVERY: Duration = Duration::from_secs(30);
/// A tenant is left alone for so many times what its count took: counting takes a tenth of the time.
const REST: u32 = 10;
/// The shortest rest.
const REST_MIN: Duration = Duration::from_secs(1);

/// What a tenant has stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StoredBytes {
    last: Option<Count>,
    /// Let in since the last count began.
    since: u64,
    /// Let in and not answered yet.
    under_way: u64,
    /// Of the count that goes on: what had been let in when it began.
    counting: Option<Counting>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Count {
    bytes: u64,
    began: Instant,
    rests_until: Instant,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Counting {
    began: Instant,
    since: u64,
    under_way: u64,
}

/// What is to be done with an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is let in; to be [answered](StoredBytes::answered).
    LetIn,
    /// The tenant is to be counted first.
    Count,
    /// There is no room for it, nor news before this time.
    Full(Instant),
}

impl StoredBytes {
    /// Judges an event of so many bytes; the tenant may store `max`.
    pub fn hand_in(&mut self, bytes: u64, max: u64, now: Instant) -> Verdict {
        let Some(last) = self.last else { return Verdict::Count };
        if last.bytes.saturating_add(self.since).saturating_add(bytes) <= max {
            self.let_in(bytes);
            return Verdict::LetIn;
        }
        // Nothing that is removed makes room for it.
        if bytes > max {
            return Verdict::Full(now + COUNTED_EVERY);
        }
        if self.counting.is_none() && last.rests_until > now {
            Verdict::Full(last.rests_until)
        } else {
            Verdict::Count
        }
    }

    /// Lets an event in without knowing what is stored.
    pub const fn let_in(&mut self, bytes: u64) {
        self.since = self.since.saturating_add(bytes);
        self.under_way = self.under_way.saturating_add(bytes);
    }

    /// An event was answered: it is stored, or it is not.
    pub const fn answered(&mut self, bytes: u64, stored: bool) {
        self.under_way = self.under_way.saturating_sub(bytes);
        if !stored {
            self.since = self.since.saturating_sub(bytes);
        }
    }

    /// Whether the tenant is to be counted beside what it hands in.
    #[must_use]
    pub fn is_old(&self, now: Instant) -> bool {
        self.counting.is_none()
            && self.last.is_some_and(|last| now >= (last.began + COUNTED_EVERY).max(last.rests_until))
    }

    /// Whether it was ever counted.
    #[must_use]
    pub const fn is_known(&self) -> bool {
        self.last.is_some()
    }

    /// A count begins; false where one goes on already.
    pub const fn count_begins(&mut self, now: Instant) -> bool {
        if self.counting.is_some() {
            return false;
        }
        self.counting = Some(Counting { began: now, since: self.since, under_way: self.under_way });
        true
    }

    /// The count has ended with this; none: it came to nothing, and what was known stays.
    pub fn count_ends(&mut self, bytes: Option<u64>, now: Instant) {
        let Some(counting) = self.counting.take() else { return };
        let rests_until = now + (now.saturating_duration_since(counting.began) * REST).max(REST_MIN);
        match (bytes, &mut self.last) {
            (Some(bytes), _) => {
                self.last = Some(Count { bytes, began: counting.began, rests_until });
                self.since = self.since.saturating_sub(counting.since).saturating_add(counting.under_way);
            }
            (None, Some(last)) => last.rests_until = rests_until,
            (None, None) => {}
        }
    }

    /// Whether it holds nothing that the next one would not find out.
    #[must_use]
    pub const fn is_idle(&self) -> bool {
        self.counting.is_none() && self.under_way == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAX: u64 = 1000;

    fn secs(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn counted(bytes: u64, now: Instant) -> StoredBytes {
        let mut stored = StoredBytes::default();
        assert_eq!(stored.hand_in(1, MAX, now), Verdict::Count);
        stored.count_begins(now);
        stored.count_ends(Some(bytes), now);
        stored
    }

    #[test]
    fn what_is_let_in_counts_until_it_is_not_stored() {
        let now = Instant::now();
        let mut stored = counted(900, now);
        assert_eq!(stored.hand_in(60, MAX, now), Verdict::LetIn);
        assert_eq!(stored.hand_in(60, MAX, now), Verdict::Full(now + REST_MIN), "both do not fit");
        stored.answered(60, false);
        assert_eq!(stored.hand_in(100, MAX, now), Verdict::LetIn);
        stored.answered(100, true);
        assert_eq!(stored.hand_in(1, MAX, now), Verdict::Full(now + REST_MIN));
        assert_eq!(stored.hand_in(0, MAX, now), Verdict::LetIn);
    }

    #[test]
    fn a_full_tenant_is_counted_again_after_a_rest() {
        let now = Instant::now();
        let mut stored = StoredBytes::default();
        stored.count_begins(now);
        stored.count_ends(Some(MAX), now + secs(2));
        assert_eq!(
            stored.hand_in(1, MAX, now + secs(21)),
            Verdict::Full(now + secs(22)),
            "ten times as long"
        );
        assert_eq!(stored.hand_in(1, MAX, now + secs(22)), Verdict::Count);
        stored.count_begins(now + secs(22));
        assert_eq!(stored.hand_in(1, MAX, now + secs(22)), Verdict::Count, "one goes on");
        stored.count_ends(Some(0), now + secs(22));
        assert_eq!(stored.hand_in(1, MAX, now + secs(22)), Verdict::LetIn);
        assert_eq!(
            stored.hand_in(MAX + 1, MAX, now + secs(22)),
            Verdict::Full(now + secs(22) + COUNTED_EVERY)
        );
    }

    #[test]
    fn what_comes_during_a_count_is_not_forgotten() {
        let now = Instant::now();
        let mut stored = counted(0, now);
        assert_eq!(stored.hand_in(100, MAX, now), Verdict::LetIn);
        stored.answered(100, true);
        assert_eq!(stored.hand_in(200, MAX, now), Verdict::LetIn, "under way when the count begins");
        stored.count_begins(now);
        assert_eq!(stored.hand_in(300, MAX, now), Verdict::LetIn, "comes while it goes on");
        stored.count_ends(Some(100), now);
        let mut room = stored;
        assert_eq!(room.hand_in(401, MAX, now), Verdict::Full(now + REST_MIN));
        assert_eq!(stored.hand_in(400, MAX, now), Verdict::LetIn);
    }

    #[test]
    fn a_count_gets_old_and_one_that_fails_changes_nothing() {
        let now = Instant::now();
        let mut stored = counted(900, now);
        assert!(!stored.is_old(now + COUNTED_EVERY.saturating_sub(secs(1))));
        assert!(stored.is_old(now + COUNTED_EVERY));
        stored.count_begins(now + COUNTED_EVERY);
        assert!(!stored.is_old(now + COUNTED_EVERY) && !stored.is_idle());
        stored.count_ends(None, now + COUNTED_EVERY);
        assert!(!stored.is_old(now + COUNTED_EVERY) && stored.is_idle());
        assert_eq!(stored.hand_in(100, MAX, now + COUNTED_EVERY), Verdict::LetIn);
    }
}
