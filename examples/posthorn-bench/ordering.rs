//! In which order a subscription's events must arrive, and how their keys are chosen.

use std::fmt;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

/// How the subscriptions of a case order their deliveries; named as in the API.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Ordering {
    /// One after the other.
    Strict,
    /// Those with the same key one after the other.
    Key,
    /// Each for itself.
    None,
}

/// Keys of one subscription, at least; as many as divide evenly among the callers.
const KEYS: usize = 1000;

impl Ordering {
    /// Of a caller's events to one subscription, each must arrive after the one so many before it.
    pub(crate) fn stride(self, callers: usize) -> Option<u32> {
        match self {
            Self::Strict => Some(1),
            Self::Key => u32::try_from(KEYS.div_ceil(callers.max(1))).ok(),
            Self::None => None,
        }
    }

    /// The key of a caller's event; no two callers share one, so that the order within it is known.
    pub(crate) fn key(self, caller: usize, number: u32, callers: usize) -> Option<String> {
        let stride = self.stride(callers).filter(|_| self == Self::Key)?;
        Some(format!("{caller}-{}", number % stride))
    }
}

impl fmt::Display for Ordering {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Strict => "strict",
            Self::Key => "key",
            Self::None => "none",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_a_stride_apart_have_the_same_key() {
        let keys: std::collections::BTreeSet<_> = (0..64)
            .flat_map(|caller| (1..=100).filter_map(move |n| Ordering::Key.key(caller, n, 64)))
            .collect();
        assert_eq!(keys.len(), 1024);
        assert_eq!(Ordering::Key.key(3, 1, 64), Ordering::Key.key(3, 17, 64));
        assert_eq!((Ordering::Key.stride(64), Ordering::Strict.stride(64)), (Some(16), Some(1)));
        assert_eq!((Ordering::None.stride(64), Ordering::Strict.key(0, 1, 64)), (None, None));
    }
}
