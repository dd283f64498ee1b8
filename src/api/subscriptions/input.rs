//! What clients send of a subscription, and what of it may be.
//!
//! Both bodies have the same fields: at a creation what is absent or null is left out, at a change
//! what is absent stays and null clears. The bounds written beside the fields are the document's;
//! those that hold are the domain's ([`super::check`]), and a test compares the two.

use std::collections::BTreeMap;
use std::fmt;

use poem_openapi::Object;
use poem_openapi::types::MaybeUndefined;
use serde::de::Visitor;
use serde::{Deserialize, Deserializer};

use crate::api::change::object;
use crate::api::rate_limit::RateLimit;
use crate::api::shown::Changes;
use crate::api::words::{OnExhausted, Ordering};

macro_rules! subscription_body {
    ($(#[$doc:meta])* $name:ident { $($own:tt)* }) => {
        $(#[$doc])*
        #[derive(Debug, Deserialize, Object)]
        #[serde(deny_unknown_fields)]
        pub(in crate::api) struct $name {
            $($own)*
            /// Guards ingest: events must be signed with it. 1 to 512 bytes; never shown again. Null: events need no signature. One that is replaced is still taken for a while, see `secret_key_overlap_seconds`; `X-Webhook-Signature-256` is by the current one.
            #[serde(default)]
            #[oai(validator(min_length = 1, max_length = 512))]
            pub(super) secret_key: MaybeUndefined<String>,
            /// A line for people.
            #[serde(default)]
            #[oai(validator(max_length = 1024))]
            pub(super) description: MaybeUndefined<String>,
            /// Sent along with each delivery, as they are here; at a change all of them are replaced. Hop-by-hop names, `host`, `content-*`, `webhook-*` and `posthorn-*` are refused, with any other character in place of `-` too.
            #[serde(default)]
            #[oai(validator(max_properties = 32))]
            pub(super) headers: MaybeUndefined<BTreeMap<String, String>>,
            /// Which deliveries wait for which; `strict` where left out.
            #[serde(default)]
            pub(super) ordering: MaybeUndefined<Ordering>,
            /// Requests in flight at most; 1 for `strict`. Left out: as many as the endpoint bears, see `in_flight_limit`.
            #[serde(default)]
            #[oai(validator(minimum(value = "1"), maximum(value = "1000")))]
            pub(super) max_in_flight: MaybeUndefined<u32>,
            /// Requests per second at most. Left out: no limit.
            #[serde(default, deserialize_with = "object")]
            pub(super) rate_limit: MaybeUndefined<RateLimit>,
            /// Its own retries; what is left out is as configured.
            #[serde(default, deserialize_with = "object")]
            pub(super) retry: MaybeUndefined<RetrySettings>,
            /// How long an attempt may take, in seconds. Left out: as configured.
            #[serde(default)]
            #[oai(validator(minimum(value = "0.1"), maximum(value = "120")))]
            pub(super) timeout_seconds: MaybeUndefined<f64>,
            /// Also sign with Ed25519 (Standard Webhooks, `v1a`), and show the public key at `/.well-known/webhook-keys`; false where left out.
            #[serde(default)]
            pub(super) asymmetric_signature: MaybeUndefined<bool>,
            /// Shown to an endpoint that asks who calls (mutual TLS); never shown again.
            #[serde(default, deserialize_with = "object")]
            pub(super) client_certificate: MaybeUndefined<ClientCertificate>,
            /// Names of headers that, where ingest's request has them, are sent along with its deliveries; none where left out. Hop-by-hop names, `authorization`, `cookie`, `host`, `user-agent`, `content-*`, `webhook-*` and `posthorn-*` are refused. A value of more than 4,096 bytes or of other than printable ASCII characters does not travel on; a static header of the same name stands for it.
            #[serde(default)]
            #[oai(validator(max_items = 16))]
            pub(super) forward_headers: MaybeUndefined<Vec<String>>,
            /// The name of a header of ingest's request that serves as `Idempotency-Key` where that is absent, such as `X-GitHub-Delivery`; none where left out.
            #[serde(default)]
            #[oai(validator(min_length = 1, max_length = 128))]
            pub(super) idempotency_header: MaybeUndefined<String>,
        }

        impl $name {
            /// The fields that both bodies have.
            pub(super) fn into_policies(self) -> Policies {
                Policies {
                    secret_key: self.secret_key,
                    description: self.description,
                    headers: self.headers,
                    ordering: self.ordering,
                    max_in_flight: self.max_in_flight,
                    rate_limit: self.rate_limit,
                    retry: self.retry,
                    timeout_seconds: self.timeout_seconds,
                    asymmetric_signature: self.asymmetric_signature,
                    client_certificate: self.client_certificate,
                    forward_headers: self.forward_headers,
                    idempotency_header: self.idempotency_header,
                }
            }
        }
    };
}

subscription_body! {
    /// A new subscription. What is left out, or null, follows the configuration, also when that changes later.
    SubscriptionCreate {
        /// Where its deliveries go: an absolute http or https URL without userinfo.
        #[oai(validator(max_length = 2048))]
        pub(super) target_url: String,
        /// On whose behalf it exists; `default` where left out. 1 to 64 of the characters a-z, A-Z, 0-9, `.`, `_` and `-`.
        #[serde(default)]
        #[oai(validator(min_length = 1, max_length = 64, pattern = "^[A-Za-z0-9._-]+$"))]
        pub(super) tenant: Option<String>,
    }
}

subscription_body! {
    /// A change of a subscription: what is absent stays, null clears. What else GET shows may stand in it, unchanged.
    SubscriptionUpdate {
        /// Where its deliveries go: an absolute http or https URL without userinfo. A new one closes the circuit and makes waiting retries due now.
        #[serde(default, deserialize_with = "not_null")]
        #[oai(validator(max_length = 2048))]
        pub(super) target_url: Option<String>,
        /// How long the replaced `secret_key` is still taken, in seconds; 86400 where left out, 0: it ends at once, and with it all that were replaced before. Without `secret_key`: those that were replaced end after so long at the latest. With `secret_key` null all end at once.
        #[serde(default)]
        #[oai(validator(minimum(value = "0"), maximum(value = "604800")))]
        pub(super) secret_key_overlap_seconds: Option<u32>,
    }
}

impl Changes for SubscriptionUpdate {
    const MOVING: &'static [&'static str] = &["circuit", "in_flight_limit", "updated_at"];
    const FIXED: &'static [&'static str] = &[
        "id",
        "tenant",
        "client_certificate_set",
        "secret_key_set",
        "status",
        "status_reason",
        "unreadable_secrets",
        "created_at",
    ];
}

/// How a signing secret is replaced.
#[derive(Debug, Default, Deserialize, Object)]
#[serde(deny_unknown_fields)]
pub(in crate::api) struct SigningSecretRotation {
    /// The new one: `whsec_` and the base64 of 24 to 64 bytes; a fresh one where left out. That of now: it stays.
    #[serde(default)]
    #[oai(validator(max_length = 128, pattern = "^whsec_"))]
    pub(super) signing_secret: Option<String>,
    /// How long the replaced one also signs, in seconds; 86400 where left out, 0: it ends at once, and with it all that were replaced before.
    #[serde(default)]
    #[oai(validator(minimum(value = "0"), maximum(value = "604800")))]
    pub(super) overlap_seconds: Option<u32>,
}

/// See [`SubscriptionCreate`]; not checked yet.
#[derive(Debug)]
pub(super) struct Policies {
    pub(super) secret_key: MaybeUndefined<String>,
    pub(super) description: MaybeUndefined<String>,
    pub(super) headers: MaybeUndefined<BTreeMap<String, String>>,
    pub(super) ordering: MaybeUndefined<Ordering>,
    pub(super) max_in_flight: MaybeUndefined<u32>,
    pub(super) rate_limit: MaybeUndefined<RateLimit>,
    pub(super) retry: MaybeUndefined<RetrySettings>,
    pub(super) timeout_seconds: MaybeUndefined<f64>,
    pub(super) asymmetric_signature: MaybeUndefined<bool>,
    pub(super) client_certificate: MaybeUndefined<ClientCertificate>,
    pub(super) forward_headers: MaybeUndefined<Vec<String>>,
    pub(super) idempotency_header: MaybeUndefined<String>,
}

/// A certificate with its private key.
#[derive(Deserialize, Object)]
#[serde(deny_unknown_fields)]
pub(in crate::api) struct ClientCertificate {
    /// PEM: the certificate, then those that lead to one the endpoint trusts.
    #[oai(validator(max_length = 16384))]
    pub(super) certificate: String,
    /// PEM: PKCS #8, PKCS #1 or SEC 1.
    #[oai(validator(max_length = 16384))]
    pub(super) private_key: String,
}

impl fmt::Debug for ClientCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClientCertificate(…)")
    }
}

/// When a failed delivery of this subscription is tried again. At a change what is absent stays, null clears.
#[derive(Clone, Debug, Deserialize, Object)]
#[serde(deny_unknown_fields)]
pub(in crate::api) struct RetrySettings {
    /// Retries after the first attempt.
    #[serde(default)]
    #[oai(validator(minimum(value = "0"), maximum(value = "100")))]
    pub(super) max_retries: MaybeUndefined<u32>,
    /// Before the first retry, in seconds; doubles with each further one.
    #[serde(default)]
    #[oai(validator(minimum(value = "0"), maximum(value = "86400")))]
    pub(super) initial_delay_seconds: MaybeUndefined<f64>,
    /// The longest delay between two attempts, in seconds.
    #[serde(default)]
    #[oai(validator(minimum(value = "0"), maximum(value = "86400")))]
    pub(super) max_delay_seconds: MaybeUndefined<f64>,
    /// What becomes of the subscription when a delivery used up its retries; `continue` where left out.
    #[serde(default)]
    pub(super) on_exhausted: MaybeUndefined<OnExhausted>,
    /// Statuses such as `404` and classes such as `4xx`, from 300 to 599: a delivery that is answered so ends `failed` at once, whatever retries are left. It counts for the circuit as any failure. None where left out.
    #[serde(default, deserialize_with = "statuses")]
    #[oai(validator(max_items = 100))]
    pub(super) give_up_on: MaybeUndefined<Vec<String>>,
}

/// Statuses as texts; a number is taken for its text.
fn statuses<'de, D: Deserializer<'de>>(deserializer: D) -> Result<MaybeUndefined<Vec<String>>, D::Error> {
    struct Status(String);

    impl<'de> Deserialize<'de> for Status {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            struct Word;

            impl Visitor<'_> for Word {
                type Value = Status;

                fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                    f.write_str("a status or a class such as \"4xx\"")
                }

                fn visit_str<E>(self, text: &str) -> Result<Status, E> {
                    Ok(Status(text.to_owned()))
                }

                fn visit_u64<E>(self, number: u64) -> Result<Status, E> {
                    Ok(Status(number.to_string()))
                }
            }

            deserializer.deserialize_any(Word)
        }
    }

    let statuses = Option::<Vec<Status>>::deserialize(deserializer)?;
    let texts = statuses.map(|statuses| statuses.into_iter().map(|Status(text)| text).collect());
    Ok(texts.map_or(MaybeUndefined::Null, MaybeUndefined::Value))
}

/// Absent is one thing, null another: here it is as wrong as a number.
fn not_null<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    String::deserialize(deserializer).map(Some)
}
