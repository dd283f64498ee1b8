//! `/.well-known/webhook-keys`: public keys, for receivers, who have no API key.

use poem_openapi::param::Path;
use poem_openapi::{Object, OpenApi};
use posthorn_domain::asymmetric::AsymmetricKey;
use posthorn_domain::id::SubscriptionId;
use posthorn_domain::subscription::SecretField;
use serde::Serialize;
use uuid::Uuid;

use super::Tag;
use super::body::Json;
use super::words::Time;
use crate::clock::Clock;
use crate::http::problem::Problem;
use crate::service::Service;

pub(super) struct WebhookKeys {
    pub(super) service: Service,
    pub(super) clock: Clock,
}

/// What verifies a subscription's deliveries.
#[derive(Serialize, Object)]
struct WebhookKeySet {
    /// The newest first; several while rotations overlap.
    keys: Vec<WebhookKey>,
}

/// A public key.
#[derive(Serialize, Object)]
struct WebhookKey {
    /// Verifies signatures that begin with `v1a,` (Standard Webhooks): `whpk_` and the base64 of 32 bytes (Ed25519).
    #[oai(validator(pattern = "^whpk_"))]
    public_key: String,
    /// When it stops to sign, where a newer one took its place.
    signs_until: Option<Time>,
}

#[OpenApi(tag = "Tag::Subscriptions")]
impl WebhookKeys {
    /// Show the public keys that deliveries are verified with
    ///
    /// Needs no API key. There are none but for subscriptions with `asymmetric_signature`.
    #[oai(path = "/.well-known/webhook-keys/:id", method = "get", operation_id = "getWebhookKeys")]
    async fn show(
        &self,
        /// The subscription.
        id: Path<Uuid>,
    ) -> Result<Json<WebhookKeySet>, Problem> {
        let found = self.service.verifiable_subscription(SubscriptionId(id.0)).await?;
        if [SecretField::SigningSecret, SecretField::ReplacedSigningSecrets]
            .iter()
            .any(|field| found.unreadable.contains(field))
        {
            return Err(Problem::secrets_unreadable());
        }
        let keys = found.signing.in_force(self.clock.now()).map(|(secret, until)| WebhookKey {
            public_key: AsymmetricKey::of(secret).public(),
            signs_until: until.map(Time),
        });
        Ok(Json(WebhookKeySet { keys: keys.collect() }))
    }
}
