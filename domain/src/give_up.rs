//! Statuses that end a delivery at once: sending it again would bring the same answer.

use std::fmt;

/// Words that one subscription may name: a status each, and some classes.
pub const GIVE_UP_WORDS_MAX: usize = 100;

/// The statuses that a failure can have: 2xx is success, and 1xx never ends a request.
const FIRST: u16 = 300;
const END: u16 = 600;
const CLASS: u16 = 100;

/// A set of statuses from 300 to 599, written as statuses (`404`) and classes (`4xx`).
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct GiveUpOn([u64; (END - FIRST).div_ceil(64) as usize]);

/// Why a word names no statuses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected a status from 300 to 599 such as 404, or a class such as 4xx")]
pub struct GiveUpOnError;

impl GiveUpOn {
    /// Adds what a word names.
    pub fn add(&mut self, word: &str) -> Result<(), GiveUpOnError> {
        let statuses = match word.as_bytes() {
            [class @ b'3'..=b'5', b'x' | b'X', b'x' | b'X'] => {
                let first = u16::from(class - b'0') * CLASS;
                first..first + CLASS
            }
            [b'3'..=b'5', b'0'..=b'9', b'0'..=b'9'] => {
                let status = word.parse().map_err(|_| GiveUpOnError)?;
                status..status + 1
            }
            _ => return Err(GiveUpOnError),
        };
        for status in statuses {
            let (place, bit) = Self::place(status).ok_or(GiveUpOnError)?;
            *self.0.get_mut(place).ok_or(GiveUpOnError)? |= bit;
        }
        Ok(())
    }

    /// Whether an answer of this status ends its delivery.
    #[must_use]
    pub fn contains(&self, status: u16) -> bool {
        let bits = |(place, bit): (usize, u64)| Some(self.0.get(place)? & bit);
        Self::place(status).and_then(bits).is_some_and(|bit| bit != 0)
    }

    /// The fewest words that name the same, in the order of statuses.
    #[must_use]
    pub fn words(&self) -> Vec<String> {
        let mut words = Vec::new();
        for class in FIRST / CLASS..END / CLASS {
            let statuses = class * CLASS..(class + 1) * CLASS;
            if statuses.clone().all(|status| self.contains(status)) {
                words.push(format!("{class}xx"));
            } else {
                words.extend(
                    statuses.filter(|status| self.contains(*status)).map(|status| status.to_string()),
                );
            }
        }
        words
    }

    /// Where a status stands, and its bit there; none where it can be no failure's.
    fn place(status: u16) -> Option<(usize, u64)> {
        let offset = status.checked_sub(FIRST).filter(|_| status < END)?;
        Some((usize::from(offset / 64), 1 << (offset % 64)))
    }
}

impl fmt::Debug for GiveUpOn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.words()).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn of(words: &[&str]) -> GiveUpOn {
        let mut set = GiveUpOn::default();
        for word in words {
            set.add(word).unwrap();
        }
        set
    }

    #[test]
    fn words_name_statuses_and_classes() {
        for (words, written) in [
            (&[][..], &[][..]),
            (&["404"], &["404"]),
            (&["422", "404", "404"], &["404", "422"]),
            (&["404", "4XX"], &["4xx"]),
            (&["5xx", "300", "3xx", "599"], &["3xx", "5xx"]),
        ] {
            assert_eq!(of(words).words(), written, "{words:?}");
        }
        for word in [
            "",
            "2xx",
            "200",
            "299",
            "600",
            "6xx",
            "40",
            "4040",
            "4x",
            "4xxx",
            "x04",
            "+404",
            " 404",
            "４０４",
        ] {
            assert_eq!(GiveUpOn::default().add(word), Err(GiveUpOnError), "{word}");
        }
    }

    proptest! {
        #[test]
        fn it_is_a_set(statuses: BTreeSet<u16>, asked: u16) {
            let known = statuses.iter().map(|status| status % 700).filter(|status| (300..600).contains(status));
            let known: BTreeSet<u16> = known.collect();
            let words: Vec<_> = known.iter().map(u16::to_string).collect();
            let set = of(&words.iter().map(String::as_str).collect::<Vec<_>>());
            for status in [asked, asked % 700] {
                prop_assert_eq!(set.contains(status), known.contains(&status));
            }
            let again = set.words();
            prop_assert_eq!(of(&again.iter().map(String::as_str).collect::<Vec<_>>()), set);
        }
    }
}
