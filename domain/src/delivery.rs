//! Deliveries and their attempts, as stored and shown.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use crate::id::{AttemptId, AttemptNumber, DeliveryId, EventId, Sequence, SubscriptionId};
use crate::time::Timestamp;

macro_rules! named_states {
    ($(#[$doc:meta])* $name:ident { $($(#[$case_doc:meta])* $case:ident = $code:literal $text:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $name { $($(#[$case_doc])* $case,)+ }

        impl $name {
            /// Every value, in order.
            pub const ALL: &[Self] = &[$(Self::$case),+];

            /// The word of the contract.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$case => $text,)+ }
            }

            /// The number it is stored as.
            #[must_use]
            pub const fn code(self) -> i16 {
                match self { $(Self::$case => $code,)+ }
            }

            /// The value stored as `code`; none where no value is.
            #[must_use]
            pub const fn from_code(code: i16) -> Option<Self> {
                match code { $($code => Some(Self::$case),)+ _ => None }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl FromStr for $name {
            type Err = ();

            fn from_str(text: &str) -> Result<Self, ()> {
                match text { $($text => Ok(Self::$case),)+ _ => Err(()) }
            }
        }
    };
}
pub(crate) use named_states;

named_states! {
    /// Where a delivery stands.
    DeliveryStatus {
        /// Accepted, not tried yet.
        Pending = 0 "pending",
        /// A request is in flight now.
        Processing = 1 "processing",
        /// Tried, failed, will be tried again.
        FailedAttempt = 2 "failed_attempt",
        /// The endpoint took it.
        Success = 3 "success",
        /// Given up: the dead letter.
        Failed = 4 "failed",
    }
}

impl DeliveryStatus {
    /// `success` and `failed` are final.
    #[must_use]
    pub const fn is_finished(self) -> bool {
        matches!(self, Self::Success | Self::Failed)
    }
}

named_states! {
    /// What an attempt meant for its delivery.
    AttemptOutcome {
        /// The endpoint answered 2xx.
        Success = 0 "success",
        /// It failed; another attempt follows.
        FailedAttempt = 1 "failed_attempt",
        /// It failed and was the last.
        Failed = 2 "failed",
    }
}

/// Deliveries with the same key keep their order among themselves: 1 to 255 printable ASCII
/// characters. Shared, since a lane holds one key for many deliveries.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OrderingKey(pub Arc<str>);

impl fmt::Display for OrderingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// One event on its way to one subscription.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivery {
    /// Receivers see it as `webhook-id`.
    pub id: DeliveryId,
    /// Whose endpoint it goes to.
    pub subscription_id: SubscriptionId,
    /// The payload it carries.
    pub event_id: EventId,
    /// The delivery that this one repeats.
    pub replay_of: Option<DeliveryId>,
    /// Where it stands.
    pub status: DeliveryStatus,
    /// Its number within the subscription.
    pub sequence: Sequence,
    /// See [`OrderingKey`].
    pub ordering_key: Option<OrderingKey>,
    /// Attempts in the log.
    pub attempt_count: u32,
    /// When it is tried again; set exactly in `failed_attempt`.
    pub next_attempt_at: Option<Timestamp>,
    /// Why it ended `failed`: the last attempt's error, `skipped`, `subscription deleted`.
    pub error: Option<String>,
    /// When it was accepted.
    pub created_at: Timestamp,
    /// When it ended; set exactly in `success` and `failed`.
    pub completed_at: Option<Timestamp>,
}

named_states! {
    /// Why an unfinished delivery is not being sent right now.
    WaitingReason {
        /// It is: a request is in flight.
        InFlight = 0 "in_flight",
        /// The subscription is disabled.
        Disabled = 1 "disabled",
        /// The subscription is paused.
        Paused = 2 "paused",
        /// An earlier delivery is not finished.
        EarlierDelivery = 3 "earlier_delivery",
        /// Its retry time has not come.
        Retry = 4 "retry",
        /// The endpoint's circuit is open.
        CircuitOpen = 5 "circuit_open",
        /// The subscription's rate is used up.
        RateLimit = 6 "rate_limit",
        /// The tenant's rate is used up.
        TenantRateLimit = 7 "tenant_rate_limit",
        /// No place in flight is free.
        Capacity = 8 "capacity",
        /// No node may send for its slot now.
        NoOwner = 9 "no_owner",
    }
}

/// Why an unfinished delivery is not being sent right now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WaitingFor {
    /// Why.
    pub reason: WaitingReason,
    /// Until when, where that is known.
    pub until: Option<Timestamp>,
    /// For which delivery, where it is one.
    pub sequence: Option<Sequence>,
}

impl WaitingFor {
    /// For this reason, until nobody knows when.
    #[must_use]
    pub const fn reason(reason: WaitingReason) -> Self {
        Self { reason, until: None, sequence: None }
    }

    /// For this reason, until `until`.
    #[must_use]
    pub const fn until(reason: WaitingReason, until: Timestamp) -> Self {
        Self { reason, until: Some(until), sequence: None }
    }
}

/// One HTTP request made for a delivery, with what came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// Its row in the log; a `UUIDv7`.
    pub id: AttemptId,
    /// The delivery it was made for.
    pub delivery_id: DeliveryId,
    /// That delivery's subscription.
    pub subscription_id: SubscriptionId,
    /// 1, 2, …
    pub number: AttemptNumber,
    /// What it meant for the delivery.
    pub outcome: AttemptOutcome,
    /// The answer's status, where one came.
    pub status_code: Option<u16>,
    /// The first 4 KiB of the answer's body, as bytes: endpoints send anything.
    pub response_body: Option<Vec<u8>>,
    /// Why it failed, in our own words.
    pub error_message: Option<String>,
    /// From the start of the attempt to its end.
    pub duration: Duration,
    /// When it began.
    pub attempted_at: Timestamp,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_and_words_lead_back() {
        for &status in DeliveryStatus::ALL {
            assert_eq!(DeliveryStatus::from_code(status.code()), Some(status));
            assert_eq!(status.as_str().parse(), Ok(status));
        }
        assert_eq!(DeliveryStatus::from_code(9), None);
        assert_eq!("done".parse::<DeliveryStatus>(), Err(()));
    }
}
