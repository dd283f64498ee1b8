//! Names of things: a type for each, so that no two can be mixed up.

use std::fmt;
use std::num::NonZeroU32;
use std::str::FromStr;

use uuid::Uuid;

macro_rules! uuid_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub Uuid);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl FromStr for $name {
            type Err = uuid::Error;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                Uuid::parse_str(text).map(Self)
            }
        }
    };
}

uuid_id! {
    /// One endpoint with its policies; a `UUIDv7`, so that ids sort by age.
    SubscriptionId
}
uuid_id! {
    /// One accepted payload.
    EventId
}
uuid_id! {
    /// One event on its way to one subscription; receivers see it as `webhook-id`.
    DeliveryId
}
uuid_id! {
    /// One running process.
    NodeId
}
uuid_id! {
    /// One API key; names it without giving it away.
    KeyId
}
uuid_id! {
    /// One line of the audit log; a `UUIDv7`, so that ids sort by age.
    AuditId
}
uuid_id! {
    /// One row of the attempt log.
    AttemptId
}

/// A delivery's number within its subscription: 1, 2, 3, … without a gap, in the order of commits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Sequence(pub i64);

impl Sequence {
    /// Before the first delivery.
    pub const ZERO: Self = Self(0);

    /// The number after this one.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

impl fmt::Display for Sequence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Which of a delivery's requests this is; the first is 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AttemptNumber(NonZeroU32);

impl AttemptNumber {
    /// The number of the attempt that follows `attempt_count` recorded ones.
    #[must_use]
    pub fn after(attempt_count: u32) -> Self {
        Self(NonZeroU32::MIN.saturating_add(attempt_count))
    }

    /// The bare number, at least 1.
    #[must_use]
    pub fn get(self) -> u32 {
        self.0.get()
    }
}

impl fmt::Display for AttemptNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attempts_count_from_one() {
        assert_eq!(AttemptNumber::after(0).get(), 1);
        assert_eq!(AttemptNumber::after(4).get(), 5);
        assert_eq!(AttemptNumber::after(u32::MAX).get(), u32::MAX);
    }
}
