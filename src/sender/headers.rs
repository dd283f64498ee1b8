//! The head of a delivery's request (`api.md`, "What the receiver gets").

use posthorn_domain::asymmetric::AsymmetricKey;
use posthorn_domain::id::DeliveryId;
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use uuid::Uuid;

use crate::sender::Request;

const WEBHOOK_ID: HeaderName = HeaderName::from_static("webhook-id");
const WEBHOOK_TIMESTAMP: HeaderName = HeaderName::from_static("webhook-timestamp");
const WEBHOOK_SIGNATURE: HeaderName = HeaderName::from_static("webhook-signature");
const BODY_SIGNATURE: HeaderName = HeaderName::from_static("x-webhook-signature-256");
const SEQUENCE: HeaderName = HeaderName::from_static("posthorn-sequence");
const ATTEMPT: HeaderName = HeaderName::from_static("posthorn-attempt");
const REPLAY_OF: HeaderName = HeaderName::from_static("posthorn-replay-of");
const HOPS: HeaderName = HeaderName::from_static("posthorn-hops");

/// Those above and the content type.
const OWN_HEADERS: usize = 9;

/// All headers of a request; none where one cannot stand in a head, which whoever took it in
/// should have refused. The client adds host, length and user agent.
pub(super) fn headers_of(request: &Request<'_>) -> Option<HeaderMap> {
    let forwarded = request.forwarded.as_map();
    let others = forwarded.len() + request.headers.iter().count();
    let mut headers = HeaderMap::with_capacity(OWN_HEADERS + others);
    let forwarded = forwarded.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    // What the subscription says stands for what came with the event.
    for (name, value) in forwarded.chain(request.headers.iter()) {
        headers.insert(HeaderName::try_from(name).ok()?, HeaderValue::try_from(value).ok()?);
    }
    // After the static ones, so that no name among those could ever stand for ours.
    headers.insert(CONTENT_TYPE, HeaderValue::try_from(request.content_type).ok()?);
    headers.insert(WEBHOOK_ID, id_value(request.delivery_id)?);
    headers.insert(WEBHOOK_TIMESTAMP, request.at.as_seconds().into());
    headers.insert(WEBHOOK_SIGNATURE, signature(request)?);
    if let Some(key) = request.secret_key {
        headers.insert(BODY_SIGNATURE, HeaderValue::try_from(key.sign(&request.payload)).ok()?);
    }
    headers.insert(SEQUENCE, request.sequence.0.into());
    headers.insert(ATTEMPT, request.attempt.get().into());
    headers.insert(HOPS, request.hops.next().into());
    if let Some(original) = request.replay_of {
        headers.insert(REPLAY_OF, id_value(original)?);
    }
    Some(headers)
}

fn id_value(id: DeliveryId) -> Option<HeaderValue> {
    HeaderValue::from_str(id.0.hyphenated().encode_lower(&mut Uuid::encode_buffer())).ok()
}

/// One signature, or several separated by spaces: of each secret while a rotation overlaps, and of each kind.
fn signature(request: &Request<'_>) -> Option<HeaderValue> {
    let Request { delivery_id, at, payload, .. } = request;
    let mut text = String::new();
    for (secret, _) in request.signing.in_force(*at) {
        if !text.is_empty() {
            text.push(' ');
        }
        text.push_str(&secret.sign(*delivery_id, *at, payload));
        if request.asymmetric_signature {
            text.push(' ');
            text.push_str(&AsymmetricKey::of(secret).sign(*delivery_id, *at, payload));
        }
    }
    HeaderValue::try_from(text).ok()
}
