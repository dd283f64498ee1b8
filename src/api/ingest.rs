//! `/ingest`: events come in.
//!
//! Who has a key is told what is wrong in the order in which it is found out: whether there is such a subscription,
//! whether the body is small enough by what it declares and JSON by its type; the body is read; then its signature,
//! where the subscription has a `secret_key`.
//!
//! Who has none is told nothing that depends on the subscription, until the signature proves that its secret is
//! known; else anybody could find out which ids exist. So
//!
//! 1. without a signature: 401 at once, by [`crate::http::auth`], with nothing looked at and nothing read;
//! 2. what the head alone shows, by bounds that hold for every id: 413 for the length that it declares, 415 for the
//!    type or the encoding;
//! 3. the body is read, within the same bounds for every id (413, 408, 400): only now is the subscription looked up;
//! 4. the signature. Where there is no such subscription, or it has no `secret_key`, a secret that nobody knows is
//!    computed with instead. Whatever it was, the answer is the same 401. It waits for the database in each case, and
//!    goes out at a whole multiple of [`NOT_PROVED_STEP`], so that its time tells as little as its text.
//!
//! One thing is told before: that the secret of a subscription cannot be read (503), since a right event is to come
//! again.
//!
//! From there on both are judged alike: whether the body is JSON, and whether the subscription takes it; last whether
//! its tenant may hand in more now, so that nothing refused before is counted. Only then is it stored, and only then
//! answered.
//!
//! A tenant that is over its share of what waits to be stored is told so before its bytes are checked: else checking
//! what is refused would take the processor from the others. They are read, since a connection that ends with its body
//! unread may be one that a proxy shares between tenants.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use poem::http::{HeaderMap, HeaderName, HeaderValue, header};
use poem::{Body, Request};
use poem_openapi::param::Path;
use poem_openapi::{ApiResponse, Object, OpenApi};
use posthorn_domain::connections::Holder;
use posthorn_domain::delivery::{self, OrderingKey};
use posthorn_domain::header::parse_key;
use posthorn_domain::hops::{Hops, HopsError};
use posthorn_domain::id::SubscriptionId;
use posthorn_domain::payload::{check_json, is_json_content_type};
use posthorn_domain::signature::SecretKey;
use posthorn_domain::subscription::{Subscription, SubscriptionConfig, SubscriptionStatus};
use serde::Serialize;
use tokio::time::{Instant, sleep_until};
use uuid::Uuid;

use super::Tag;
use super::body::{Json, check_declared_length, read};
use super::words::DeliveryState;
use crate::clock::Clock;
use crate::http::auth::access_of;
use crate::http::event_signature;
use crate::http::header::once;
use crate::http::problem::{Kind, Problem};
use crate::http::server::Client;
use crate::service::{Accepted, Access, NewEvent, Service};

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
const ORDERING_KEY: HeaderName = HeaderName::from_static("posthorn-ordering-key");
/// As our own deliveries say it.
const HOPS: HeaderName = HeaderName::from_static("posthorn-hops");

/// The longest content type: it is stored with each event and sent with each attempt.
const CONTENT_TYPE_BYTES_MAX: usize = 255;

/// Longer than it takes to look a subscription up and compute its signature, nearly always; too short for anybody to
/// mind who is refused.
const NOT_PROVED_STEP: Duration = Duration::from_millis(50);

pub(super) struct Ingest {
    pub(super) service: Service,
    pub(super) payload_bytes_max: usize,
    pub(super) clock: Clock,
    /// Computed with where there is no secret: nobody knows it.
    pub(super) decoy: SecretKey,
}

/// An event that somebody may hand in.
struct Allowed {
    access: Access,
    subscription: Arc<Subscription>,
    content_type: String,
    payload: Bytes,
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
        let (headers, id) = (request.headers(), SubscriptionId(subscription_id.0));
        let allowed = match access_of(request) {
            Access::Anonymous => self.admit_anonymous(id, request, body).await?,
            access => self.admit_known(access, id, request, body).await?,
        };
        let Allowed { access, subscription, content_type, payload } = allowed;
        self.service.check_room(&access, &subscription, payload.len())?;
        check_json(&payload).map_err(|error| Problem::new(Kind::MalformedJson, error.to_string()))?;
        let idempotency_key = idempotency_key(headers, &subscription.config)?.map(str::to_owned);
        let ordering_key = key(headers, &ORDERING_KEY)?.map(|key| OrderingKey(key.into()));
        let hops = hops(headers)?;
        if subscription.status == SubscriptionStatus::Disabled {
            return Err(Problem::disabled());
        }
        let event = NewEvent {
            subscription_id: id,
            tenant: subscription.tenant.clone(),
            content_type,
            payload,
            idempotency_key,
            ordering_key,
            hops,
            forwarded: subscription.config.forward_headers.take(|name| values(headers, name)),
        };
        let accepted = self.service.ingest(&access, event).await?;
        Ok(AcceptedAnswer::new(accepted))
    }
}

impl Ingest {
    /// An event of who has a key.
    async fn admit_known(
        &self,
        access: Access,
        id: SubscriptionId,
        request: &Request,
        body: Body,
    ) -> Result<Allowed, Problem> {
        let subscription = self.service.subscription(&access, id).await?;
        let (content_type, payload) = self.read(request, body).await?;
        let keys: Vec<_> = subscription.secret_keys(self.clock.now()).collect();
        if !keys.is_empty() {
            event_signature::check(request.headers(), &keys, &payload)
                .map_err(|problem| unless_unreadable(&subscription, request.headers(), problem))?;
        }
        drop(keys);
        Ok(Allowed { access, subscription, content_type, payload })
    }

    /// An event of who has none, but signed it.
    async fn admit_anonymous(
        &self,
        id: SubscriptionId,
        request: &Request,
        body: Body,
    ) -> Result<Allowed, Problem> {
        let (content_type, payload) = self.read(request, body).await?;
        let began = Instant::now();
        let found = self.service.addressed_subscription(id).await?;
        let mut keys: Vec<_> = found.iter().flat_map(|found| found.secret_keys(self.clock.now())).collect();
        let is_guarded = !keys.is_empty();
        if !is_guarded {
            keys.push(&self.decoy);
        }
        let is_right = event_signature::check(request.headers(), &keys, &payload).is_ok();
        drop(keys);
        match found {
            Some(subscription) if is_guarded && is_right => {
                if let Some(client) = request.extensions().get::<Client>() {
                    client.prove(Holder::Tenant(subscription.tenant.clone()));
                }
                Ok(Allowed { access: Access::Ingest(id), subscription, content_type, payload })
            }
            Some(subscription) if is_guarded => {
                let refused = self.not_proved(began).await;
                Err(unless_unreadable(&subscription, request.headers(), refused))
            }
            _ => Err(self.not_proved(began).await),
        }
    }

    /// What the head says of the body, and the body.
    async fn read(&self, request: &Request, body: Body) -> Result<(String, Bytes), Problem> {
        check_declared_length(request.headers(), self.payload_bytes_max)?;
        let content_type = content_type(request.headers())?.to_owned();
        Ok((content_type, read(request, body, self.payload_bytes_max).await?))
    }

    /// The refusal of an event that nothing proves and that was looked at from `began` on.
    async fn not_proved(&self, began: Instant) -> Problem {
        // Of a subscription that is at hand the database was not asked, of one that does not exist it was.
        if let Err(error) = self.service.check_store().await {
            return error.into();
        }
        let steps = began.elapsed().as_millis() / NOT_PROVED_STEP.as_millis() + 1;
        sleep_until(began + NOT_PROVED_STEP * u32::try_from(steps).unwrap_or(u32::MAX)).await;
        Problem::event_not_proved()
    }
}

/// What a wrong signature is answered: it may be right by a key that cannot be read, and who sends it is to try again.
fn unless_unreadable(subscription: &Subscription, headers: &HeaderMap, wrong: Problem) -> Problem {
    let may_be_right = subscription.has_unknown_keys() && event_signature::is_there(headers);
    if may_be_right { Problem::secrets_unreadable() } else { wrong }
}

/// The content type, where it is one of JSON and the body is not compressed.
fn content_type(headers: &HeaderMap) -> Result<&str, Problem> {
    let refuse = |detail| Problem::new(Kind::UnsupportedMediaType, detail);
    // The one that means none (RFC 9110 §12.5.3).
    let is_plain = |value: &HeaderValue| value.as_bytes().eq_ignore_ascii_case(b"identity");
    if !headers.get_all(header::CONTENT_ENCODING).iter().all(is_plain) {
        return Err(refuse("expected no Content-Encoding but identity: the payload is kept byte for byte"));
    }
    once(headers, &header::CONTENT_TYPE)
        .and_then(|value| value?.to_str().ok())
        .filter(|value| value.len() <= CONTENT_TYPE_BYTES_MAX && is_json_content_type(value))
        .ok_or_else(|| refuse("expected Content-Type: application/json, or one that ends in +json"))
}

/// The key in a header, where there is one.
fn key<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Result<Option<&'a str>, Problem> {
    let refuse =
        |detail: &dyn std::fmt::Display| Problem::new(Kind::InvalidParameter, format!("{name}: {detail}"));
    let value = once(headers, name).ok_or_else(|| refuse(&"expected once"))?;
    value.map(|value| parse_key(value.as_bytes()).map_err(|error| refuse(&error))).transpose()
}

/// The idempotency key, in its own header or in that which the subscription names.
fn idempotency_key<'a>(
    headers: &'a HeaderMap,
    config: &SubscriptionConfig,
) -> Result<Option<&'a str>, Problem> {
    let named = config.idempotency_header.as_ref().and_then(|name| HeaderName::try_from(name.as_str()).ok());
    match (key(headers, &IDEMPOTENCY_KEY)?, named) {
        (None, Some(name)) => key(headers, &name),
        (given, _) => Ok(given),
    }
}

/// All values of a header.
fn values<'a>(headers: &'a HeaderMap, name: &str) -> impl Iterator<Item = &'a [u8]> + use<'a> {
    headers.get_all(name).into_iter().map(HeaderValue::as_bytes)
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
            (&[("content-type", b"application/json"), ("content-encoding", b"identity")], true),
        ] {
            assert_eq!(content_type(&headers(pairs)).is_ok(), ok, "{pairs:?}");
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
