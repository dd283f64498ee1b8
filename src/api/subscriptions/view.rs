//! What clients see of a subscription.

use std::borrow::Cow;
use std::collections::BTreeMap;

use poem_openapi::Object;
use poem_openapi::registry::{MetaSchema, MetaSchemaRef};
use poem_openapi::types::{ParseError, ParseFromJSON, ParseResult, ToJSON, Type};
use posthorn_domain::circuit::CircuitView;
use posthorn_domain::subscription::{self, RetryOverrides};
use posthorn_domain::views::SubscriptionView;
use serde::Serialize;
use serde_json::Value;
use uuid::Uuid;

use crate::api::rate_limit::RateLimit;
use crate::api::words::{
    CircuitState, OnExhausted, Ordering, SecretField, StatusReason, SubscriptionStatus, Time,
};
use crate::clock::Clock;

/// One endpoint with its policies. What was left out is null and follows the configuration.
#[derive(Serialize, Object)]
pub(in crate::api) struct Subscription {
    /// A UUIDv7, so that ids sort by age.
    id: Uuid,
    /// On whose behalf it exists.
    tenant: String,
    /// Where its deliveries go.
    target_url: String,
    /// A line for people.
    description: Option<String>,
    /// Sent along with each delivery; names in lower case. In lists the values are null, since they may be large:
    /// the subscription alone shows them. Empty where they cannot be read.
    headers: BTreeMap<String, HeaderText>,
    /// Which deliveries wait for which.
    ordering: Ordering,
    /// Requests in flight at most; always 1 for `strict`. Null: as many as the endpoint bears, see
    /// `in_flight_limit`.
    #[oai(validator(minimum(value = "1"), maximum(value = "1000")))]
    max_in_flight: Option<u32>,
    /// Requests that may be in flight now: `max_in_flight`, or what is found out where that is null. It
    /// grows while the endpoint answers as fast as ever, and falls on time-outs, 429, 503 and when
    /// answers become slow.
    #[oai(validator(minimum(value = "1"), maximum(value = "1000")))]
    in_flight_limit: u32,
    /// Requests per second at most.
    rate_limit: Option<RateLimit>,
    /// Its own retries.
    retry: Option<RetryPolicy>,
    /// How long an attempt may take, in seconds.
    #[oai(validator(minimum(value = "0.1"), maximum(value = "120")))]
    timeout_seconds: Option<f64>,
    /// Whether deliveries are also signed with Ed25519; the public keys stand at `/.well-known/webhook-keys`.
    asymmetric_signature: bool,
    /// Whether there is a certificate for endpoints that ask who calls; it is never shown itself.
    client_certificate_set: bool,
    /// Headers of ingest's request that are sent along; names in lower case.
    #[oai(validator(max_items = 16))]
    forward_headers: Vec<String>,
    /// The header of ingest's request that serves as `Idempotency-Key` where that is absent; in lower case.
    #[oai(validator(max_length = 128))]
    idempotency_header: Option<String>,
    /// Whether events must be signed; the secret itself is never shown.
    secret_key_set: bool,
    /// Whether it takes events in and sends them.
    status: SubscriptionStatus,
    /// Why not, where no person wished it.
    status_reason: Option<StatusReason>,
    /// Which of its secrets the server cannot read; none, as a rule. While there is one its deliveries are held (`paused`, `secrets_unreadable`). It can be set anew, and goes with the subscription; an operator may mend it.
    #[oai(validator(max_items = 6))]
    unreadable_secrets: Vec<SecretField>,
    /// Whether its endpoint may be called.
    circuit: Circuit,
    /// When it was created.
    created_at: Time,
    /// When it was last changed.
    updated_at: Time,
}

/// When a failed delivery of this subscription is tried again; null: as configured.
#[derive(Serialize, Object)]
pub(in crate::api) struct RetryPolicy {
    /// Retries after the first attempt.
    #[oai(validator(minimum(value = "0"), maximum(value = "100")))]
    max_retries: Option<u32>,
    /// Before the first retry, in seconds; doubles with each further one.
    #[oai(validator(minimum(value = "0"), maximum(value = "86400")))]
    initial_delay_seconds: Option<f64>,
    /// The longest delay between two attempts, in seconds.
    #[oai(validator(minimum(value = "0"), maximum(value = "86400")))]
    max_delay_seconds: Option<f64>,
    /// What becomes of the subscription when a delivery used up its retries.
    on_exhausted: Option<OnExhausted>,
    /// Statuses and classes after which a delivery is not tried again; left out where there are none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[oai(default, validator(max_items = 100))]
    give_up_on: Vec<String>,
}

/// Whether an endpoint may be called, judged by how its last attempts ended.
#[derive(Serialize, Object)]
pub(in crate::api) struct Circuit {
    /// Whether requests go through.
    state: CircuitState,
    /// Failed attempts in a row.
    consecutive_failures: u32,
    /// When the next probe may go, where the circuit is open.
    retry_at: Option<Time>,
}

/// A new subscription, with what is shown this once.
#[derive(Serialize, Object)]
pub(in crate::api) struct CreatedSubscription {
    #[serde(flatten)]
    #[oai(flatten)]
    pub(super) subscription: Subscription,
    /// Signs each delivery (Standard Webhooks); receivers verify with it.
    #[oai(validator(pattern = "^whsec_"))]
    pub(super) signing_secret: String,
}

/// The secret that a subscription's deliveries are signed with.
#[derive(Serialize, Object)]
pub(in crate::api) struct SigningSecret {
    /// Signs each delivery (Standard Webhooks); receivers verify with it.
    #[oai(validator(pattern = "^whsec_"))]
    pub(super) signing_secret: String,
}

/// One page of subscriptions, the newest first.
#[derive(Serialize, Object)]
pub(in crate::api) struct PaginatedSubscriptions {
    /// At most `limit` of them.
    pub(super) items: Vec<Subscription>,
    /// How many there are on all pages together.
    pub(super) total: u64,
    /// The page, from 1.
    #[oai(validator(minimum(value = "1"), maximum(value = "1000000")))]
    pub(super) page: u32,
    /// Items on a page.
    #[oai(validator(minimum(value = "1"), maximum(value = "100")))]
    pub(super) limit: u32,
    /// Pages there are.
    pub(super) pages: u64,
}

impl Subscription {
    pub(super) fn new(
        SubscriptionView { subscription, circuit }: SubscriptionView,
        in_flight_limit: u32,
    ) -> Self {
        let (status, status_reason) = subscription.standing();
        let unreadable = &subscription.unreadable;
        let client_certificate_set = subscription.config.client_certificate.is_some()
            || unreadable.contains(&subscription::SecretField::ClientCertificate);
        let config = subscription.config;
        let max_in_flight = match config.ordering {
            subscription::Ordering::Strict => Some(1),
            subscription::Ordering::Key | subscription::Ordering::None => config.max_in_flight,
        };
        Self {
            id: subscription.id.0,
            tenant: subscription.tenant.to_string(),
            target_url: config.target.as_str().to_owned(),
            description: config.description,
            headers: config
                .headers
                .iter()
                .map(|(name, value)| (name.to_owned(), HeaderText(Some(value.to_owned()))))
                .collect(),
            ordering: Ordering(config.ordering),
            max_in_flight,
            in_flight_limit,
            rate_limit: config.rate_limit.map(RateLimit::from),
            retry: RetryPolicy::of(config.retry),
            timeout_seconds: config.timeout.map(|timeout| timeout.as_secs_f64()),
            asymmetric_signature: config.asymmetric_signature,
            client_certificate_set,
            forward_headers: config.forward_headers.iter().map(str::to_owned).collect(),
            idempotency_header: config.idempotency_header.map(|name| name.as_str().to_owned()),
            secret_key_set: config.secret_key.is_some(),
            status: SubscriptionStatus(status),
            status_reason: status_reason.map(StatusReason),
            unreadable_secrets: subscription.unreadable.into_iter().map(SecretField).collect(),
            circuit: circuit.into(),
            created_at: Time(subscription.created_at),
            updated_at: Time(subscription.updated_at),
        }
    }
}

impl Subscription {
    /// As it stands in a list: small.
    pub(super) fn listed(mut self) -> Self {
        self.headers.values_mut().for_each(|text| text.0 = None);
        self
    }
}

impl RetryPolicy {
    /// None where all is as configured.
    fn of(retry: RetryOverrides) -> Option<Self> {
        (retry != RetryOverrides::default()).then(|| Self {
            max_retries: retry.max_retries,
            initial_delay_seconds: retry.delay.map(|delay| delay.as_secs_f64()),
            max_delay_seconds: retry.delay_max.map(|delay| delay.as_secs_f64()),
            on_exhausted: retry.on_exhausted.map(OnExhausted),
            give_up_on: retry.give_up_on.words(),
        })
    }
}

impl From<CircuitView> for Circuit {
    fn from(circuit: CircuitView) -> Self {
        Self {
            state: circuit.state_at(Clock::system().now()).into(),
            consecutive_failures: circuit.consecutive_failures,
            retry_at: circuit.retry_at.map(Time),
        }
    }
}

/// A static header's value; null where it is left out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub(in crate::api) struct HeaderText(Option<String>);

impl Type for HeaderText {
    const IS_REQUIRED: bool = true;
    type RawValueType = Self;
    type RawElementValueType = Self;

    fn name() -> Cow<'static, str> {
        "HeaderText".into()
    }

    fn schema_ref() -> MetaSchemaRef {
        MetaSchemaRef::Inline(Box::new(MetaSchema { nullable: true, ..MetaSchema::new("string") }))
    }

    fn as_raw_value(&self) -> Option<&Self> {
        Some(self)
    }

    fn raw_element_iter<'a>(&'a self) -> Box<dyn Iterator<Item = &'a Self> + 'a> {
        Box::new(std::iter::once(self))
    }
}

impl ToJSON for HeaderText {
    fn to_json(&self) -> Option<Value> {
        Some(self.0.clone().map_or(Value::Null, Value::String))
    }
}

impl ParseFromJSON for HeaderText {
    fn parse_from_json(value: Option<Value>) -> ParseResult<Self> {
        match value {
            Some(Value::String(text)) => Ok(Self(Some(text))),
            Some(Value::Null) => Ok(Self(None)),
            other => Err(ParseError::expected_type(other.unwrap_or_default())),
        }
    }
}
