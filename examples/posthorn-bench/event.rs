//! What travels: one event with the marks that the receiver checks it by.
//!
//! An event is JSON of one fixed length. Its numbers are padded with spaces, which JSON allows
//! before a value, so that every payload of a run weighs the same.

use bytes::Bytes;
use serde::Deserialize;

/// The marks of one event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub(crate) struct Event {
    /// Which connection sent it, from 0.
    pub(crate) worker: usize,
    /// Which subscription it was sent to, from 0.
    pub(crate) subscription: usize,
    /// Counts what this worker sent to this subscription: 1, 2, 3, …
    pub(crate) number: u32,
    /// When it was sent, in nanoseconds of the run's [`Clock`](crate::clock::Clock).
    pub(crate) sent_nanos: u64,
}

/// The rest of a payload: text up to the length that was asked for.
pub(crate) struct Filler(String);

/// The least length of a payload, in bytes: the marks alone.
pub(crate) const PAYLOAD_BYTES_MIN: usize = 128;

impl Filler {
    /// For payloads of `payload_bytes`, or of [`PAYLOAD_BYTES_MIN`] where that is more.
    pub(crate) fn for_payload(payload_bytes: usize) -> Self {
        let zero = Event { worker: 0, subscription: 0, number: 0, sent_nanos: 0 };
        let marks = zero.encode(&Self(String::new())).len();
        Self("posthorn".chars().cycle().take(payload_bytes.max(PAYLOAD_BYTES_MIN) - marks).collect())
    }
}

impl Event {
    /// The payload.
    pub(crate) fn encode(&self, filler: &Filler) -> Bytes {
        let Self { worker, subscription, number, sent_nanos } = self;
        let text = &filler.0;
        Bytes::from(format!(
            "{{\"worker\":{worker:>5},\"subscription\":{subscription:>7},\"number\":{number:>10},\
             \"sent_nanos\":{sent_nanos:>20},\"text\":\"{text}\"}}"
        ))
    }

    /// The marks of a payload.
    pub(crate) fn decode(payload: &[u8]) -> serde_json::Result<Self> {
        serde_json::from_slice(payload)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn payloads_have_the_length_asked_for_and_lead_back() {
        let small = Event { worker: 0, subscription: 0, number: 1, sent_nanos: 2 };
        let large = Event { worker: 99_999, subscription: 999_999, number: u32::MAX, sent_nanos: u64::MAX };
        for event in [small, large] {
            for (asked, length) in [(0, PAYLOAD_BYTES_MIN), (128, 128), (1024, 1024)] {
                let payload = event.encode(&Filler::for_payload(asked));
                assert_eq!(payload.len(), length, "{event:?}");
                assert_eq!(Event::decode(&payload).unwrap(), event);
            }
        }
    }
}
