//! Examples for the document, by the schema they are of. A test holds each against its schema.

use serde_json::{Value, json};

use crate::http::problem::Kind;

const SUBSCRIPTION: &str = "019a2f6e-6d3c-7b1e-9c54-2f1d7a80c6b1";
const DELIVERY: &str = "019a2f6e-8a11-7d02-8f3b-5e9c01d4a7f2";
const NODE: &str = "019a2f6d-11c4-7a90-8be2-0d9ee1f43b57";
const TIME: &str = "2026-11-25T09:25:14.007Z";
const SIGNING_SECRET: &str = "whsec_EXAMPLEEXAMPLEEXAMPLEEXAMPLEEXAMPLEEXA=";

fn audit() -> Value {
    json!({
        "id": "019a2f6e-7c10-7e5d-a4f1-93c2a40b7d15",
        "at": TIME,
        "actor": "api_key",
        "key_id": "019a2f6e-5b01-7c9d-b1f0-7d3a61c2e984",
        "action": "subscription.updated",
        "tenant": "acme",
        "subject": SUBSCRIPTION,
        "fields": ["target_url"],
    })
}

fn key() -> Value {
    json!({
        "id": "019a2f6e-5b01-7c9d-b1f0-7d3a61c2e984",
        "name": "acme, order service",
        "tenant": "acme",
        "created_at": TIME,
        "expires_at": null,
        "last_used_at": TIME,
    })
}

fn webhook_key() -> Value {
    json!({ "public_key": "whpk_EXAMPLEEXAMPLEEXAMPLEEXAMPLEEXAMPLEEXA=", "signs_until": null })
}

/// An event as a shop might hand it in.
pub(super) fn event() -> Value {
    json!({ "type": "order.paid", "order": 4711, "amount": "19.90" })
}

/// A body or an answer of the schema with this name.
pub(super) fn of_schema(name: &str) -> Option<Value> {
    Some(match name {
        "SubscriptionCreate" => json!({
            "target_url": "https://example.com/hooks/orders",
            "tenant": "acme",
            "secret_key": "a long random text",
            "ordering": "strict",
            "rate_limit": { "requests_per_second": 10.0, "burst": 20 },
            "retry": { "max_retries": 8, "on_exhausted": "pause" },
        }),
        "SubscriptionUpdate" => json!({ "description": "orders, for the warehouse", "rate_limit": null }),
        "Subscription" => subscription(),
        "CreatedSubscription" => {
            let mut created = subscription();
            if let Some(created) = created.as_object_mut() {
                created.insert("signing_secret".to_owned(), SIGNING_SECRET.into());
            }
            created
        }
        "PaginatedSubscriptions" => {
            json!({ "items": [subscription()], "total": 1, "page": 1, "limit": 10, "pages": 1 })
        }
        "WebhookKeySet" => json!({ "keys": [webhook_key()] }),
        "WebhookKey" => webhook_key(),
        "ClientCertificate" => json!({
            "certificate": "-----BEGIN CERTIFICATE-----\n…\n-----END CERTIFICATE-----\n",
            "private_key": "-----BEGIN PRIVATE KEY-----\n…\n-----END PRIVATE KEY-----\n",
        }),
        "SigningSecretRotation" => json!({ "overlap_seconds": 3600 }),
        "SigningSecret" => json!({ "signing_secret": SIGNING_SECRET }),
        "AcceptedDelivery" => json!({ "delivery_id": DELIVERY, "status": "pending" }),
        "ReplayedDelivery" => json!({ "delivery_id": DELIVERY }),
        "Delivery" => delivery(),
        "DeliveryPage" => json!({ "items": [delivery()], "next_cursor": "AAAAAAAAACo" }),
        "DeliveryAttempt" => attempt(),
        "DeliveryStatus" => json!({ "delivery": delivery(), "attempts": [attempt()] }),
        "ApiKeyCreate" => json!({ "name": "acme, order service", "tenant": "acme" }),
        "ApiKey" => key(),
        "CreatedApiKey" => {
            let mut created = key();
            if let Some(created) = created.as_object_mut() {
                created.insert("key".to_owned(), format!("posthorn_{}", "0".repeat(64)).into());
            }
            created
        }
        "PaginatedApiKeys" => json!({ "items": [key()], "total": 1, "page": 1, "limit": 10, "pages": 1 }),
        "AuditEntry" => audit(),
        "AuditPage" => json!({ "items": [audit()], "next_cursor": null }),
        "TenantUpdate" => json!({
            "ingest_limit": { "requests_per_second": 100.0, "burst": 1000 },
            "max_in_flight": null,
        }),
        "Tenant" => json!({
            "tenant": "acme",
            "rate_limit": { "requests_per_second": 50.0, "burst": 100 },
            "max_in_flight": null,
            "ingest_limit": { "requests_per_second": 100.0, "burst": 1000 },
            "max_subscriptions": 100,
            "max_stored_bytes": 10_737_418_240_u64,
            "control_limit": null,
        }),
        "Cluster" => json!({
            "node": NODE,
            "nodes": [{
                "id": NODE,
                "name": "posthorn-0:17",
                "version": env!("CARGO_PKG_VERSION"),
                "started_at": TIME,
                "heartbeat_age_seconds": 1.25,
                "leaving": false,
                "slots": [0, 1, 2, 3],
            }],
            "slots_without_node": [],
        }),
        "SystemStats" => json!({
            "total_subscriptions": 12,
            "active_subscriptions": 11,
            "pending_deliveries": 3,
            "recent_window_hours": 24,
            "recent_success_count": 997,
            "recent_failure_count": 3,
            "success_rate": 0.997,
            "circuits_open": 1,
        }),
        "ActivityItem" => json!({
            "kind": "delivery_attempt",
            "timestamp": TIME,
            "subscription_id": SUBSCRIPTION,
            "delivery_id": DELIVERY,
            "summary": "attempt 1 failed and will be tried again with status 503",
        }),
        "Health" => json!({ "status": "ok" }),
        _ => return None,
    })
}

/// A problem of this kind.
pub(super) fn problem(kind: Kind) -> Value {
    let mut problem = json!({
        "type": format!("/problems/{}", kind.name()),
        "title": kind.title(),
        "status": kind.status().as_u16(),
        "detail": detail(kind),
    });
    if kind == Kind::InvalidFields
        && let Some(problem) = problem.as_object_mut()
    {
        let error = json!({ "pointer": "/target_url", "detail": TARGET_URL_DETAIL });
        problem.insert("errors".to_owned(), json!([error]));
    }
    problem
}

const TARGET_URL_DETAIL: &str = "expected an absolute URL that begins with http:// or https:// and a host";

const fn detail(kind: Kind) -> &'static str {
    match kind {
        Kind::InvalidFields => {
            "/target_url: expected an absolute URL that begins with http:// or https:// and a host"
        }
        Kind::NotFound => "there is no subscription with this id",
        Kind::PayloadTooLarge => "the body may have at most 262144 bytes",
        Kind::InvalidParameter => "limit: expected a whole number from 1 to 100",
        // The rest says no more in an example than its title does.
        other => other.title(),
    }
}

fn subscription() -> Value {
    json!({
        "id": SUBSCRIPTION,
        "tenant": "acme",
        "target_url": "https://example.com/hooks/orders",
        "description": null,
        "headers": { "x-team": "orders" },
        "ordering": "strict",
        "max_in_flight": 1,
        "in_flight_limit": 1,
        "rate_limit": { "requests_per_second": 10.0, "burst": 20 },
        "retry": {
            "max_retries": 8,
            "initial_delay_seconds": null,
            "max_delay_seconds": null,
            "on_exhausted": "pause",
            "give_up_on": ["404", "410"],
        },
        "timeout_seconds": null,
        "asymmetric_signature": false,
        "client_certificate_set": false,
        "forward_headers": [],
        "idempotency_header": null,
        "secret_key_set": true,
        "status": "active",
        "status_reason": null,
        "unreadable_secrets": [],
        "circuit": { "state": "closed", "consecutive_failures": 0, "retry_at": null },
        "created_at": TIME,
        "updated_at": TIME,
    })
}

fn delivery() -> Value {
    json!({
        "id": DELIVERY,
        "subscription_id": SUBSCRIPTION,
        "status": "failed_attempt",
        "sequence": 42,
        "ordering_key": null,
        "attempt_count": 1,
        "next_attempt_at": "2026-11-25T09:25:24.412Z",
        "waiting_for": { "reason": "retry", "until": "2026-11-25T09:25:24.412Z", "sequence": null },
        "error": null,
        "created_at": TIME,
        "completed_at": null,
    })
}

fn attempt() -> Value {
    json!({
        "id": "019a2f6e-8a3f-7c55-b0a9-40f7f3d1e6aa",
        "delivery_id": DELIVERY,
        "subscription_id": SUBSCRIPTION,
        "attempt_number": 1,
        "outcome": "failed_attempt",
        "status_code": 503,
        "response_body": "try later",
        "error_message": "the endpoint answered 503",
        "duration_ms": 87,
        "attempted_at": TIME,
    })
}
