//! Secrets that a newer one replaced and that stay in force for a while, so that both ends need not change at once.

use crate::limits::SECRETS_IN_FORCE_MAX;
use crate::time::Timestamp;

/// Replaced secrets with the time at which each ends; the last replaced first. At most [`SECRETS_IN_FORCE_MAX`] less
/// the current one: where one more is replaced the oldest goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replaced<T>(Vec<(T, Timestamp)>);

impl<T> Default for Replaced<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T: PartialEq> Replaced<T> {
    /// From secrets and their ends, the last replaced first; those beyond the bound are left out.
    #[must_use]
    pub fn new(secrets: impl IntoIterator<Item = (T, Timestamp)>) -> Self {
        Self(secrets.into_iter().take(REPLACED_MAX).collect())
    }

    /// All of them with their ends, also those that have ended, the last replaced first.
    pub fn iter(&self) -> impl Iterator<Item = (&T, Timestamp)> {
        self.0.iter().map(|(secret, until)| (secret, *until))
    }

    /// Those in force at `at` with their ends, the last replaced first.
    pub fn in_force(&self, at: Timestamp) -> impl Iterator<Item = (&T, Timestamp)> {
        self.iter().filter(move |(_, until)| at < *until)
    }

    /// `old` was replaced at `now` and ends at `until`. Those that have ended are dropped.
    pub fn add(&mut self, old: T, until: Timestamp, now: Timestamp) {
        self.forget(&old);
        self.0.insert(0, (old, until));
        self.0.retain(|(_, until)| now < *until);
        self.0.truncate(REPLACED_MAX);
    }

    /// `secret` is the current one again.
    pub fn forget(&mut self, secret: &T) {
        self.0.retain(|(replaced, _)| replaced != secret);
    }

    /// All end at `until` at the latest; those that end by `now` are dropped.
    pub fn end_by(&mut self, until: Timestamp, now: Timestamp) {
        for (_, end) in &mut self.0 {
            *end = until.min(*end);
        }
        self.0.retain(|(_, end)| now < *end);
    }

    /// All end at once.
    pub fn clear(&mut self) {
        self.0.clear();
    }
}

const REPLACED_MAX: usize = SECRETS_IN_FORCE_MAX - 1;

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_millis(seconds * 1000)
    }

    #[test]
    fn each_replaced_secret_has_its_own_end() {
        let mut replaced = Replaced::default();
        replaced.add('a', at(100), at(0));
        replaced.add('b', at(50), at(10));
        replaced.add('c', at(120), at(20));
        let in_force = |replaced: &Replaced<char>, now| -> String {
            replaced.in_force(at(now)).map(|(secret, _)| *secret).collect()
        };
        assert_eq!(in_force(&replaced, 20), "cba");
        assert_eq!(in_force(&replaced, 50), "ca");
        assert_eq!(in_force(&replaced, 100), "c");
        assert_eq!(in_force(&replaced, 120), "");
        replaced.add('d', at(60), at(55));
        assert_eq!(
            replaced.iter().map(|(secret, _)| *secret).collect::<String>(),
            "dca",
            "the ended one is gone"
        );
        replaced.end_by(at(70), at(56));
        assert_eq!((in_force(&replaced, 59), in_force(&replaced, 69)), ("dca".to_owned(), "ca".to_owned()));
        assert_eq!(in_force(&replaced, 70), "");
        replaced.end_by(at(57), at(57));
        assert_eq!(replaced, Replaced::default());
    }

    #[test]
    fn beyond_the_bound_the_oldest_goes() {
        let mut replaced = Replaced::default();
        for (n, secret) in ('a'..='h').enumerate() {
            replaced.add(secret, at(1000), at(i64::try_from(n).unwrap()));
        }
        assert_eq!(replaced.in_force(at(10)).map(|(secret, _)| *secret).collect::<String>(), "hgfe");
        replaced.forget(&'g');
        replaced.add('e', at(2000), at(20));
        let left: Vec<_> = replaced.iter().map(|(secret, until)| (*secret, until)).collect();
        assert_eq!(left, [('e', at(2000)), ('h', at(1000)), ('f', at(1000))], "none is there twice");
        replaced.add('z', at(30), at(30));
        assert_eq!(replaced.iter().count(), 3, "without an overlap it is not in force at all");
    }
}
