//! Sends: one attempt, one HTTP request, one [`Reply`].
//!
//! - An attempt always ends, within its time-out (and what reading the answer's body takes: 2 s at
//!   most, never beyond the time-out), and always with a [`Reply`]: a failed one is no error.
//! - No address is dialled that the guard refuses, however the target writes it.
//! - The payload goes out byte for byte; the answer's body comes back as bytes, at most 4 KiB.
//! - Nothing is done behind the caller's back: no redirects, no retries, no proxy but the one that is named, no
//!   cookies, no decompression. There are two exceptions, neither of which tells anything of the endpoint. A request on
//!   a kept connection that ends before any byte of an answer, or that is answered 408 as servers do where they close an
//!   idle one, goes once more at once on a new connection, within its time-out; where the endpoint had taken the first,
//!   `webhook-id` tells the repeat.
//!   And an HTTP/2 request that the endpoint itself says it has not processed (`REFUSED_STREAM`, or
//!   beyond a `GOAWAY` without an error: RFC 9113 §8.7) is sent again, twice at most and within its
//!   time-out. Servers say so of many at once when they restart, or when a connection has carried
//!   its number of requests; as failed attempts in a row those would open a circuit.
//!
//! HTTP/1.1: one request, one connection, so that a stalled request holds up nothing beside it, and
//! a time-out closes what it was waiting for.
//!
//! Each tenant has connections of its own, and so have attempts that show a certificate of their own. No connection
//! gets older than 40 s, and what is known of a name than 20 s, so that an endpoint that moves is followed within a
//! minute.
//!
//! Through a proxy an http target is asked of the proxy, and an https one is spoken to end to end. An HTTP proxy looks
//! names up itself, so that the guard sees none but addresses; for SOCKS they are looked up here and pass the guard. The
//! proxy's own name is not for the guard.
//!
//! HTTP/2 is spoken with endpoints that offer it in the TLS handshake, and only there. A tenant's attempts
//! for one host and port then share one connection for each hundred that are at once on their way
//! (many that start at once without one make one
//! each, as for HTTP/1.1, and all but the first are closed again). A time-out resets the attempt's
//! own stream. What attempts of one connection share, and no others:
//!
//! - How many streams the endpoint takes at once, where that is less than a hundred (100 to 250 with common servers).
//!   More wait inside the client for one to end, and that counts against their time-out.
//! - What the endpoint lets come of bodies it has not read. One stalled upload can use that up, for
//!   as long as its time-out.
//! - The connection's end. Where nothing has come for 5 s, it is asked for a sign of life, and where
//!   that does not come in 10 s, all its attempts end as timed out and the next one dials anew. So
//!   a peer that went silently costs its attempts of at most 15 s.
//!
//! What a peer can make the client hold of one connection: 1 MiB of bodies, a head of 64 KiB for
//! each attempt in flight, and the table that HPACK keeps, 4 KiB. The client (h2) takes no pushes, no
//! frame above 16 KiB, and no head in more frames than its size needs; it answers a PING or SETTINGS
//! before it reads on, so that a flood of them waits in the socket; and it gives a connection up
//! after 100 empty DATA frames, 1,024 broken rules, or too many small frames that nobody has read.
//! What it merely skips (unknown frames, interim answers) ends with the time-out.
//!
//! Left out here: when to send, and what an outcome means. That is `posthorn_domain::lane`'s.

mod client;
mod clients;
mod failure;
mod headers;
mod progress;
mod resolver;
#[cfg(test)]
mod tests;
mod tls;

use std::time::Duration;

use bytes::Bytes;
use posthorn_domain::certificate::ClientCertificate;
use posthorn_domain::egress::EGRESS_PROXY_EXPECTED;
use posthorn_domain::forward::ForwardedHeaders;
use posthorn_domain::header::StaticHeaders;
use posthorn_domain::hops::Hops;
use posthorn_domain::id::{AttemptNumber, DeliveryId, Sequence};
use posthorn_domain::signature::SecretKey;
use posthorn_domain::subscription::SigningSecrets;
use posthorn_domain::target::TargetUrl;
use posthorn_domain::tenant::Tenant;
use posthorn_domain::time::Timestamp;

pub use client::{Sender, Settings};
pub use failure::Failure;

/// Why no sender could be built; for the operator at the start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The TLS library found nothing to trust, or could not be set up.
    #[error(
        "cannot set up TLS: {0}; the system's certificates are needed (package ca-certificates, or SSL_CERT_FILE)"
    )]
    Tls(String),
    /// The client takes no such proxy.
    #[error("POSTHORN_EGRESS_PROXY: expected {EGRESS_PROXY_EXPECTED}")]
    Proxy,
    /// The value for `User-Agent` is no header value.
    #[error("user agent: expected printable ASCII characters")]
    UserAgent,
}

/// One attempt to be made, with all that the receiver gets (`api.md`, "What the receiver gets").
#[derive(Clone)]
pub struct Request<'a> {
    /// Whose endpoint it is: connections and look-ups are the tenant's own.
    pub tenant: &'a Tenant,
    /// Where it goes.
    pub target: &'a TargetUrl,
    /// Sent along.
    pub headers: &'a StaticHeaders,
    /// Signs the body alone, where the subscription has one.
    pub secret_key: Option<&'a SecretKey>,
    /// Sign the delivery.
    pub signing: &'a SigningSecrets,
    /// Sign it so that their public keys verify it, too.
    pub asymmetric_signature: bool,
    /// Shown to an endpoint that asks who calls.
    pub client_certificate: Option<&'a ClientCertificate>,
    /// The same on every retry.
    pub delivery_id: DeliveryId,
    /// The delivery's number within its subscription.
    pub sequence: Sequence,
    /// Which of its attempts this is.
    pub attempt: AttemptNumber,
    /// The delivery that this one repeats.
    pub replay_of: Option<DeliveryId>,
    /// How often the event had come through a Posthorn when it came in.
    pub hops: Hops,
    /// Headers that the event came with and that travel on.
    pub forwarded: &'a ForwardedHeaders,
    /// As it came in.
    pub content_type: &'a str,
    /// As it came in, byte for byte.
    pub payload: Bytes,
    /// From connecting to the head of the answer.
    pub timeout: Duration,
    /// Wall-clock time of this attempt.
    pub at: Timestamp,
}

/// What came of an attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// The answer's status, where one came.
    pub status_code: Option<u16>,
    /// The first 4 KiB of the answer's body; none where no answer came.
    pub body: Option<Vec<u8>>,
    /// Why it failed; none where it did not.
    pub error: Option<Failure>,
    /// How long a 429 or 503 asks to wait, at most 24 h.
    pub retry_after: Option<Duration>,
    /// From the start to the head of the answer, or to the failure. The body does not count: it is
    /// read for the log only.
    pub duration: Duration,
}

impl Reply {
    /// The endpoint took the delivery: it answered 2xx.
    #[must_use]
    pub const fn is_success(&self) -> bool {
        self.error.is_none()
    }

    /// The endpoint wants no more deliveries: it answered 410.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        self.status_code == Some(410)
    }

    /// The endpoint has too much to do: it let the time run out, or answered 429 or 503.
    #[must_use]
    pub fn is_overloaded(&self) -> bool {
        self.error == Some(Failure::Timeout) || matches!(self.status_code, Some(429 | 503))
    }
}
