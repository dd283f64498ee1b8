//! A page for each kind of problem: what it means, and what to do about it.

use poem::http::header::CONTENT_SECURITY_POLICY;
use poem::web::Html;
use poem::{IntoResponse as _, Response, handler, web::Path};

use super::{Kind, Problem};

/// The pages are text and nothing else.
const POLICY: &str = "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// `GET /problems/{name}`.
#[handler]
pub(crate) fn show(Path(name): Path<String>) -> Result<Response, Problem> {
    let kind = Kind::ALL.iter().find(|kind| kind.name() == name);
    let kind =
        *kind.ok_or_else(|| Problem::new(Kind::NotFound, "there is no kind of problem with this name"))?;
    Ok(Html(html(kind)).with_header(CONTENT_SECURITY_POLICY, POLICY).into_response())
}

fn html(kind: Kind) -> String {
    let (status, title, text) = (kind.status(), kind.title(), explain(kind));
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n<title>{title}</title>\n\
         <h1>{title}</h1>\n<p>Status {status}, type <code>/problems/{}</code>.</p>\n<p>{text}</p>\n</html>\n",
        kind.name()
    )
}

#[expect(clippy::too_many_lines, reason = "a table")]
const fn explain(kind: Kind) -> &'static str {
    match kind {
        Kind::MalformedRequest => {
            "The request breaks the rules of HTTP or ended half-way. A proxy or a hand-written client \
             is the usual cause."
        }
        Kind::MalformedJson => {
            "The body must be one JSON value (RFC 8259) in UTF-8, without a byte order mark, and bodies of \
             the API must not nest deeper than 128 levels. The detail says where it stops being JSON."
        }
        Kind::InvalidParameter => {
            "A value in the path, the query or a header is not of the kind it must be: an id that is no \
             UUID, a limit that is no number, a time that is not RFC 3339, a key of more than 255 characters."
        }
        Kind::ApiKeyRequired => {
            "This server has API keys, and the request carries none or one that it does not know. Send \
             Authorization: Bearer and the key. An event whose signature is right needs no key."
        }
        Kind::Forbidden => {
            "The API key is valid, but a tenant's, and this is for admins: keys, limits of tenants, the nodes, \
             and subscriptions on behalf of another tenant."
        }
        Kind::TooManyGuesses => {
            "Many API keys that this server does not know came from one address, so for a few seconds it looks \
             up none from there. A right key that was used a moment ago still works. Wait as long as Retry-After \
             says, and send the right key."
        }
        Kind::InvalidSignature => {
            "The subscription has a secret_key, so each event must be signed: X-Webhook-Signature-256: \
             sha256= and the lower-case hex of HMAC-SHA256 over the exact bytes of the body. \
             X-Hub-Signature-256 does as well; where both are sent, both must be right, and each once."
        }
        Kind::NotFound => {
            "There is nothing here: the id is wrong, the resource was deleted, retention removed it, or it \
             belongs to another tenant."
        }
        Kind::MethodNotAllowed => {
            "The path exists, but not with this method. The header Allow names those it takes."
        }
        Kind::RequestTimeout => {
            "The body came too slowly: after 30 seconds it must have come at 32 KiB a second, and it may never be \
             silent for 30 seconds. Send it again over a better line."
        }
        Kind::SubscriptionDisabled => {
            "The subscription is disabled, so it takes no events: somebody disabled it, its endpoint answered 410, or it failed for \
             too long without one success. POST /subscriptions/{id}/enable takes it up again."
        }
        Kind::SubscriptionPaused => {
            "The subscription is paused and not disabled, so there is nothing to enable. POST \
             /subscriptions/{id}/resume takes it up again."
        }
        Kind::SubscriptionDeleted => {
            "The delivery can still be read, until retention removes it, but its subscription was deleted, and with it \
             the endpoint. Hand the event in for another subscription."
        }
        Kind::DeliveryFinished => {
            "The delivery has ended and stays as it is. POST /deliveries/{id}/replay sends its event once \
             more, as a new delivery."
        }
        Kind::LastAdminKey => {
            "In the production profile one admin's key is always in force, since a server without one can't be \
             governed. Make another with POST /keys or posthorn keys create, or set POSTHORN_ADMIN_KEY, and revoke \
             this one then. A tenant's key and one that has ended do not count."
        }
        Kind::PayloadTooLarge => {
            "The body has more bytes than the limit. For events it is POSTHORN_MAX_PAYLOAD_BYTES: send a \
             reference instead of the thing, or raise the limit."
        }
        Kind::UnsupportedMediaType => {
            "Bodies must be declared as application/json or as a type that ends in +json, and events must \
             not be compressed: they are kept byte for byte and never unpacked."
        }
        Kind::MisdirectedRequest => {
            "A server without API keys answers to loopback addresses and localhost only, and to no page but its \
             own, so that no website can reach it, be it through a name of its own. Use 127.0.0.1, or set \
             POSTHORN_ADMIN_KEY."
        }
        Kind::InvalidFields => {
            "The body is JSON, but some fields are unknown, of the wrong type, out of range or not allowed. \
             Each one stands under errors, with a JSON pointer to it and what it takes."
        }
        Kind::KeyReused => {
            "A delivery with this Idempotency-Key exists, and its payload has other bytes. Send a key of \
             its own with each event."
        }
        Kind::EventLoop => {
            "The event has come through a Posthorn more than 8 times, so it is taken for one that goes round: a \
             subscription's target leads back to the ingest that the event came from, directly or through other \
             systems, and each round makes another event. The header Posthorn-Hops counts the rounds. Point the \
             target elsewhere; what is meant to pass through many systems starts a new event where it leaves \
             the header out."
        }
        Kind::Internal => "This is a bug in Posthorn. The server's log says what happened.",
        Kind::StoreUnavailable => {
            "The database did not take the request, or the server holds as many unfinished bodies and unread answers \
             of one caller as it may, and nothing was stored. Try again after the time that Retry-After names."
        }
        Kind::QuotaSpent => {
            "The subscription's tenant hands in more than its ingest_limit allows, over all its \
             subscriptions. Nothing was stored; try again after the time that Retry-After names. An \
             administrator sees the limit with GET /tenants/{tenant} and changes it with PUT."
        }
        Kind::StorageFull => {
            "The payloads of the tenant's events that are not removed yet have as many bytes as its max_stored_bytes \
             allows, or POSTHORN_TENANT_MAX_STORED_BYTES where it has none of its own. Nothing was stored. Retention \
             makes room, and an administrator more of it with PUT /tenants/{tenant}."
        }
        Kind::ControlSpent => {
            "The tenant's keys call the API more often than its control_limit allows, or the configuration's where it \
             has none of its own. Nothing was done; try again after the time that Retry-After names. Handing events \
             in is not counted here."
        }
        Kind::TooManySubscriptions => {
            "The tenant has as many subscriptions as its max_subscriptions allows, or \
             POSTHORN_TENANT_MAX_SUBSCRIPTIONS where it has none of its own. Delete one that is not needed, or have an \
             administrator raise the number with PUT /tenants/{tenant}."
        }
        Kind::OverShare => {
            "The tenant has more under way at once than its share while others need the rest: events that wait \
             to be stored, or changes that wait for their turn. Nothing was stored or changed; try again after the \
             time that Retry-After names, with fewer requests at once."
        }
        Kind::BacklogFull => {
            "The subscription has POSTHORN_MAX_BACKLOG unfinished deliveries: its endpoint is slower than \
             what is handed in, fails, or is paused. Nothing was stored; try again after the time that \
             Retry-After names."
        }
        Kind::SecretsUnreadable => {
            "The server cannot read a secret of the subscription with the encryption key that it was given, or may \
             not write one without a key. Nothing was stored. What cannot be read stands under unreadable_secrets of \
             the subscription: set it anew, or have the operator run posthorn secrets rotate; its log names the \
             setting. Deliveries are held meanwhile."
        }
        Kind::NotReady => "A part that the server needs is not ready; the detail names it.",
        Kind::OutcomeUnknown => {
            "The database's answer was lost after it was asked to store: it may have been done. Sending \
             again with the same Idempotency-Key is safe; without one it may store the event twice."
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_a_page() {
        for &kind in Kind::ALL {
            let page = html(kind);
            assert!(page.contains(kind.title()) && explain(kind).len() > 40, "{page}");
        }
    }
}
