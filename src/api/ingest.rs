//! `/ingest`: events come in.
//!
//! A request is judged in this order, each step before what it protects: is there such a
//! subscription, is the body small enough by what it declares, is it JSON by its type; then it is
//! read; then who sent it, before anything is told about what it says; then whether it is JSON, and
//! whether the subscription takes it; last whether its tenant may hand in more now, so that nothing
//! refused before is counted. Only then is it stored, and only then answered.

use poem::http::{HeaderMap, HeaderName, HeaderValue, header};
use poem::{Body, Request};
use poem_openapi::param::Path;
use poem_openapi::{ApiResponse, Object, OpenApi};
use posthorn_domain::delivery::{self, OrderingKey};
use posthorn_domain::header::parse_key;
use posthorn_domain::hops::{Hops, HopsError};
use posthorn_domain::id::SubscriptionId;
use posthorn_domain::payload::{check_json, is_json_content_type};
use posthorn_domain::signature::SecretKey;
use posthorn_domain::subscription::SubscriptionStatus;
use serde::Serialize;
use uuid::Uuid;

use super::Tag;
use super::auth::Caller;
use super::body::{Json, check_declared_length, read};
use super::problem::{Kind, Problem};
use super::words::DeliveryState;
use crate::dispatch::{Accepted, Control, NewEvent};

/// Our name for an event's signature.
const SIGNATURE: HeaderName = HeaderName::from_static("x-webhook-signature-256");
/// GitHub's name for the same.
const SIGNATURE_OF_GITHUB: HeaderName = HeaderName::from_static("x-hub-signature-256");
const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
const ORDERING_KEY: HeaderName = HeaderName::from_static("posthorn-ordering-key");
/// As our own deliveries say it.
const HOPS: HeaderName = HeaderName::from_static("posthorn-hops");

/// The longest content type: it is stored with each event and sent with each attempt.
const CONTENT_TYPE_BYTES_MAX: usize = 255;

pub(super) struct Ingest {
    pub(super) control: Control,
    pub(super) payload_bytes_max: usize,
}

/// An event that is stored.
#[derive(Serialize, Object)]
pub(super) struct AcceptedDelivery {
    /// The delivery it became; receivers see it as `webhook-id`.
    delivery_id: Uuid,
    /// Always `pending`: what became of the delivery since is found at `Location`.
    status: DeliveryState,
}

#[derive(ApiResponse)]
pub(super) enum AcceptedAnswer {
    /// The event is durably stored, and goes out.
    #[oai(status = 202)]
    Accepted(
        Json<AcceptedDelivery>,
        /// Where it is told what became of the delivery.
        #[oai(header = "Location")]
        String,
        /// `true` where the event was stored before, with the same `Idempotency-Key`.
        #[oai(header = "Idempotent-Replayed")]
        Option<String>,
    ),
}

impl AcceptedAnswer {
    pub(super) fn new(Accepted { delivery_id, replayed }: Accepted) -> Self {
        let status = DeliveryState(delivery::DeliveryStatus::Pending);
        Self::Accepted(
            Json(AcceptedDelivery { delivery_id: delivery_id.0, status }),
            format!("/status/deliveries/{delivery_id}/status"),
            replayed.then(|| "true".to_owned()),
        )
    }
}

#[OpenApi(tag = "Tag::Ingest")]
impl Ingest {
    /// Hand in an event
    ///
    /// The raw JSON body is the payload, any JSON value, kept byte for byte. The answer comes only
    /// after the event is durably stored. Where the subscription has a `secret_key`, the request
    /// must be signed, and then needs no API key.
    #[oai(path = "/ingest/:subscription_id", method = "post", operation_id = "ingestEvent")]
    async fn ingest(
        &self,
        /// The subscription that the event is for.
        subscription_id: Path<Uuid>,
        request: &Request,
        body: Body,
    ) -> Result<AcceptedAnswer, Problem> {
        let (headers, caller) = (request.headers(), Caller::of_request(request));
        let id = SubscriptionId(subscription_id.0);
        let subscription = self.control.subscription(id).await?;
        let stranger = caller == Caller::Stranger;
        let subscription = subscription.filter(|found| stranger || caller.sees(&found.tenant));
        if subscription.is_none() && !stranger {
            return Err(Problem::no_subscription());
        }
        check_declared_length(headers, self.payload_bytes_max)?;
        let content_type = content_type(headers)?;
        // To a stranger all that is not proved is the same, so that nobody learns what exists.
        let subscription = subscription.ok_or_else(Problem::event_not_proved)?;
        let secret = subscription.config.secret_key.as_ref();
        if secret.is_none() && stranger {
            return Err(Problem::event_not_proved());
        }
        let payload = read(headers, body, self.payload_bytes_max).await?;
        if let Some(secret) = secret {
            let checked = check_signatures(headers, secret, &payload);
            checked.map_err(|problem| if stranger { Problem::event_not_proved() } else { problem })?;
        }
        check_json(&payload).map_err(|error| Problem::new(Kind::MalformedJson, error.to_string()))?;
        let idempotency_key = key(headers, &IDEMPOTENCY_KEY)?.map(str::to_owned);
        let ordering_key = key(headers, &ORDERING_KEY)?.map(|key| OrderingKey(key.into()));
        let hops = hops(headers)?;
        if subscription.status == SubscriptionStatus::Disabled {
            return Err(Problem::disabled());
        }
        let event = NewEvent {
            subscription_id: id,
            tenant: subscription.tenant.clone(),
            content_type: content_type.to_owned(),
            payload,
            idempotency_key,
            ordering_key,
            hops,
        };
        let accepted = self.control.ingest(event).await.map_err(Problem::ingest)?;
        Ok(AcceptedAnswer::new(accepted))
    }
}

/// The content type, where it is one of JSON and the body is not compressed.
fn content_type(headers: &HeaderMap) -> Result<&str, Problem> {
    let refuse = |detail| Problem::new(Kind::UnsupportedMediaType, detail);
    if headers.contains_key(header::CONTENT_ENCODING) {
        return Err(refuse("expected no Content-Encoding: the payload is kept byte for byte"));
    }
    once(headers, &header::CONTENT_TYPE)
        .and_then(|value| value?.to_str().ok())
        .filter(|value| value.len() <= CONTENT_TYPE_BYTES_MAX && is_json_content_type(value))
        .ok_or_else(|| refuse("expected Content-Type: application/json, or one that ends in +json"))
}

/// Every signature that is there must be right, and one must be there. A header that comes twice is
/// wrong: whoever reads the other one sees another signature.
fn check_signatures(headers: &HeaderMap, secret: &SecretKey, payload: &[u8]) -> Result<(), Problem> {
    let mut some = false;
    for name in [&SIGNATURE, &SIGNATURE_OF_GITHUB] {
        let value = once(headers, name);
        let value = value.ok_or_else(|| Problem::invalid_signature("a signature came twice"))?;
        let Some(value) = value else { continue };
        some = true;
        if !secret.verify(value.as_bytes(), payload) {
            return Err(Problem::invalid_signature(
                "expected sha256= and the lower-case hex of HMAC-SHA256(secret_key, raw body)",
            ));
        }
    }
    some.then_some(()).ok_or_else(|| Problem::invalid_signature("X-Webhook-Signature-256 is missing"))
}

/// The header's value; nothing at all where it comes more than once.
#[expect(clippy::option_option, reason = "twice is one thing, absent another")]
fn once<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<Option<&'a HeaderValue>> {
    let mut values = headers.get_all(name).iter();
    let first = values.next();
    values.next().is_none().then_some(first)
}

/// The key in a header, where there is one.
fn key<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Result<Option<&'a str>, Problem> {
    let refuse =
        |detail: &dyn std::fmt::Display| Problem::new(Kind::InvalidParameter, format!("{name}: {detail}"));
    let value = once(headers, name).ok_or_else(|| refuse(&"expected once"))?;
    value.map(|value| parse_key(value.as_bytes()).map_err(|error| refuse(&error))).transpose()
}

/// How often the event has come through a Posthorn, by what the request says of it.
fn hops(headers: &HeaderMap) -> Result<Hops, Problem> {
    let refuse = |detail: &dyn std::fmt::Display| {
        Problem::new(Kind::InvalidParameter, format!("posthorn-hops: {detail}"))
    };
    let Some(value) = once(headers, &HOPS).ok_or_else(|| refuse(&"expected once"))? else {
        return Ok(Hops::default());
    };
    Hops::parse(value.as_bytes()).map_err(|error| match error {
        HopsError::Malformed => refuse(&error),
        HopsError::Loop => Problem::event_loop(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &[u8])]) -> HeaderMap {
        let pair = |&(name, value): &(&'static str, &[u8])| {
            (HeaderName::from_static(name), HeaderValue::from_bytes(value).unwrap())
        };
        pairs.iter().map(pair).collect()
    }

    #[test]
    fn content_types_are_judged_by_the_head() {
        let long = format!("application/json; a={}", "b".repeat(300));
        for (pairs, ok) in [
            (&[("content-type", &b"application/json"[..])][..], true),
            (&[("content-type", b"application/cloudevents+json; charset=utf-8")], true),
            (&[], false),
            (&[("content-type", b"")], false),
            (&[("content-type", b"text/plain")], false),
            (&[("content-type", b"application/json\xff")], false),
            (&[("content-type", long.as_bytes())], false),
            (&[("content-type", b"application/json"), ("content-type", b"application/json")], false),
            (&[("content-type", b"application/json"), ("content-encoding", b"gzip")], false),
            (&[("content-type", b"application/json"), ("content-encoding", b"identity")], false),
        ] {
            assert_eq!(content_type(&headers(pairs)).is_ok(), ok, "{pairs:?}");
        }
    }

    #[test]
    fn all_signatures_must_be_right() {
        let secret = SecretKey::parse("secret").unwrap();
        let (right, wrong) = (secret.sign(b"{}"), secret.sign(b"{ }"));
        let (right, wrong) = (right.as_bytes(), wrong.as_bytes());
        let (ours, githubs) = ("x-webhook-signature-256", "x-hub-signature-256");
        for (pairs, ok) in [
            (&[(ours, right)][..], true),
            (&[(githubs, right)], true),
            (&[(ours, right), (githubs, right)], true),
            (&[], false),
            (&[(ours, wrong)], false),
            (&[(ours, right), (githubs, wrong)], false),
            (&[(ours, wrong), (githubs, right)], false),
            (&[(ours, right), (ours, right)], false),
            (&[(githubs, right), (githubs, right)], false),
            (&[(ours, right), (githubs, b"")], false),
        ] {
            assert_eq!(check_signatures(&headers(pairs), &secret, b"{}").is_ok(), ok, "{pairs:?}");
        }
    }

    #[test]
    fn keys_come_once() {
        let name = HeaderName::from_static("idempotency-key");
        for (values, expected) in [
            (&[][..], Some(None)),
            (&[&b"a"[..]], Some(Some("a"))),
            (&[b""], None),
            (&[b"\xff"], None),
            (&[b"a", b"a"], None),
        ] {
            let pairs: Vec<_> = values.iter().map(|value| ("idempotency-key", *value)).collect();
            assert_eq!(key(&headers(&pairs), &name).ok(), expected, "{values:?}");
        }
    }
}
