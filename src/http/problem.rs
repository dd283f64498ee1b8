//! Errors as clients see them: problems of RFC 9457.
//!
//! The one place that knows both the errors of the layers below and status codes. Each kind of
//! problem has a stable name; its `type` is `/problems/<name>`, and that path answers a page that
//! explains it ([`pages`]). What the framework refuses by itself becomes a problem in [`refusal`].
//!
//! A problem's text is written here or by the domain for clients: never a statement of SQL, a
//! secret, or what a library says of itself.

mod kind;
pub(crate) mod pages;
pub(crate) mod refusal;

use std::borrow::Cow;
use std::fmt::{self, Display};
use std::time::Duration;

use poem::error::ResponseError;
use poem::http::{HeaderValue, StatusCode, header};
use poem::{IntoResponse, Response};
use poem_openapi::registry::{MetaResponses, Registry};
use poem_openapi::types::Type as _;
use poem_openapi::{ApiResponse, Object};
use serde::Serialize;

pub(crate) use self::kind::Kind;

use crate::service::{Error, Missing};

/// The content type of every problem.
pub(crate) const CONTENT_TYPE: &str = "application/problem+json";

/// When to come back where the database is away: it is asked anew by then.
const STORE_RETRY_AFTER: Duration = Duration::from_secs(1);

/// When to come back where a person has to mend something first.
const SECRETS_RETRY_AFTER: Duration = Duration::from_mins(1);

/// Why a request was refused or failed.
#[derive(Debug)]
pub(crate) struct Problem {
    kind: Kind,
    detail: Cow<'static, str>,
    errors: Vec<FieldError>,
    header: Option<ProblemHeader>,
}

/// What a problem says in a header of its own.
#[derive(Debug)]
enum ProblemHeader {
    RetryAfter(Duration),
    Allow(String),
    Challenge(&'static str),
    /// The connection ends with the answer.
    Close,
}

/// A field at fault.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Object)]
pub(crate) struct FieldError {
    /// The field as a JSON pointer into the body (RFC 6901); empty for the whole body.
    pub(crate) pointer: String,
    /// What is wrong with it, and what it takes.
    pub(crate) detail: String,
}

/// A problem as it is written (RFC 9457 §3.1).
#[derive(Serialize, Object)]
#[oai(rename = "Problem")]
pub(crate) struct ProblemBody {
    /// Names the kind of problem, and never changes; the path answers a page that explains it.
    r#type: String,
    /// The kind of problem in words.
    title: String,
    /// The status code of the answer.
    status: u16,
    /// What happened here, and what would help.
    detail: String,
    /// The fields at fault, where some are.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[oai(default)]
    errors: Vec<FieldError>,
}

impl Problem {
    pub(crate) fn new(kind: Kind, detail: impl Into<Cow<'static, str>>) -> Self {
        Self { kind, detail: detail.into(), errors: Vec::new(), header: None }
    }

    /// Some fields are at fault.
    pub(crate) fn fields(errors: Vec<FieldError>) -> Self {
        let detail = match errors.as_slice() {
            [FieldError { pointer, detail }] if pointer.is_empty() => detail.clone(),
            [FieldError { pointer, detail }] => format!("{pointer}: {detail}"),
            more => format!("{} fields are not as they must be", more.len()),
        };
        Self { errors, ..Self::new(Kind::InvalidFields, detail) }
    }

    /// A subscription that is not there.
    pub(crate) fn no_subscription() -> Self {
        Self::new(Kind::NotFound, "there is no subscription with this id")
    }

    /// A subscription that only enabling brings back.
    pub(crate) fn disabled() -> Self {
        Self::new(Kind::SubscriptionDisabled, "the subscription is disabled; POST /subscriptions/{id}/enable")
    }

    /// A subscription that only resuming brings back.
    pub(crate) fn paused() -> Self {
        Self::new(Kind::SubscriptionPaused, "the subscription is paused; POST /subscriptions/{id}/resume")
    }

    /// A delivery whose subscription is not there any more.
    pub(crate) fn subscription_deleted() -> Self {
        Self::new(
            Kind::SubscriptionDeleted,
            "the delivery's subscription was deleted, so there is no endpoint to send to",
        )
    }

    /// A delivery that is not there.
    pub(crate) fn no_delivery() -> Self {
        Self::new(Kind::NotFound, "there is no delivery with this id, or retention removed it")
    }

    /// A body beyond its limit.
    pub(crate) fn too_large(bytes_max: usize) -> Self {
        Self::new(Kind::PayloadTooLarge, format!("the body may have at most {bytes_max} bytes"))
    }

    fn challenge(mut self, challenge: &'static str) -> Self {
        self.header = Some(ProblemHeader::Challenge(challenge));
        self
    }

    fn retry_after(mut self, delay: Duration) -> Self {
        self.header = Some(ProblemHeader::RetryAfter(delay));
        self
    }

    /// After it the connection ends: who knows where the request does.
    pub(crate) fn closing(mut self) -> Self {
        self.header = Some(ProblemHeader::Close);
        self
    }

    /// No API key, or one that nobody knows.
    pub(crate) fn api_key_required() -> Self {
        Self::new(Kind::ApiKeyRequired, "send a valid API key as Authorization: Bearer <key>")
            .challenge("Bearer")
    }

    /// A valid key that may not do this.
    pub(crate) fn forbidden() -> Self {
        Self::new(Kind::Forbidden, "this needs an admin's API key, and the one sent is a tenant's")
    }

    /// Keys are not looked up for a while.
    pub(crate) fn too_many_guesses(wait: Duration) -> Self {
        let detail = "this address sent many wrong API keys; send the right one after Retry-After";
        Self::new(Kind::TooManyGuesses, detail).retry_after(wait)
    }

    /// An event from somebody without an API key, whom no signature speaks for either.
    pub(crate) fn event_not_proved() -> Self {
        let detail = "sign the event with the subscription's secret_key, or send a valid API key as \
                      Authorization: Bearer <key>";
        Self::new(Kind::ApiKeyRequired, detail).challenge("Bearer")
    }

    /// An event that came round too often.
    pub(crate) fn event_loop() -> Self {
        let detail = "the event has come through Posthorn more than 8 times (Posthorn-Hops): a target leads back to \
                      where the event came from, so it would go round for ever";
        Self::new(Kind::EventLoop, detail)
    }

    /// The ingest signature is missing, malformed or wrong.
    pub(crate) fn invalid_signature(detail: &'static str) -> Self {
        // RFC 9110 §11.6.1 asks for a challenge; no scheme is registered for signed bodies, so the
        // header to send is named.
        Self::new(Kind::InvalidSignature, detail).challenge("X-Webhook-Signature-256")
    }

    #[cfg(test)]
    pub(crate) fn kind(&self) -> Kind {
        self.kind
    }

    #[cfg(test)]
    pub(crate) fn errors(&self) -> &[FieldError] {
        &self.errors
    }
}

impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        match error {
            Error::NotFound(Missing::Subscription) => Self::no_subscription(),
            Error::NotFound(Missing::Delivery) => Self::no_delivery(),
            Error::NotFound(Missing::Key) => Self::new(Kind::NotFound, "there is no API key with this id"),
            Error::NotFound(Missing::Tenant) => Self::new(Kind::NotFound, "there is no tenant of this name"),
            Error::Forbidden => Self::forbidden(),
            Error::KeyRequired => Self::api_key_required(),
            Error::TooManyGuesses { retry_after } => Self::too_many_guesses(retry_after),
            Error::Disabled => Self::disabled(),
            Error::Paused => Self::paused(),
            Error::SubscriptionDeleted => Self::subscription_deleted(),
            Error::Finished => Self::new(
                Kind::DeliveryFinished,
                "the delivery is finished; POST /deliveries/{id}/replay sends its event once more",
            ),
            Error::LastAdminKey => Self::new(
                Kind::LastAdminKey,
                "no other admin's key is in force; make one first, or set POSTHORN_ADMIN_KEY",
            ),
            Error::TooManySubscriptions { max } => Self::too_many_subscriptions(max),
            Error::ControlSpent { retry_after } => Self::control_spent(retry_after),
            Error::KeyReused => {
                Self::new(Kind::KeyReused, "this Idempotency-Key came with other bytes before")
            }
            Error::QuotaSpent { retry_after } => Self::quota_spent(retry_after),
            Error::StorageFull { retry_after } => Self::storage_full(retry_after),
            Error::BacklogFull { retry_after } => Self::backlog_full(retry_after),
            Error::OverShare { retry_after } => Self::over_share(retry_after),
            Error::ReadsBusy { retry_after } => Self::reads_busy(retry_after),
            Error::Unavailable { retry_after } => Self::store_unavailable(retry_after),
            Error::OutcomeUnknown { retry_after } => Self::outcome_unknown(retry_after),
            Error::SecretsUnreadable => Self::secrets_unreadable(),
            Error::NotReady(detail) => Self::not_ready(detail),
            Error::Internal => Self::internal(),
        }
    }
}

impl Problem {
    fn reads_busy(retry_after: Duration) -> Self {
        let detail = "too many reads wait; send fewer at once, and this one again later";
        Self::new(Kind::StoreUnavailable, detail).retry_after(retry_after)
    }

    fn quota_spent(retry_after: Duration) -> Self {
        let detail =
            "the subscription's tenant hands in more than its ingest_limit allows; nothing was stored";
        Self::new(Kind::QuotaSpent, detail).retry_after(retry_after)
    }

    fn backlog_full(retry_after: Duration) -> Self {
        let detail = "the subscription has as many unfinished deliveries as POSTHORN_MAX_BACKLOG allows; \
                      nothing was stored";
        Self::new(Kind::BacklogFull, detail).retry_after(retry_after)
    }

    fn storage_full(retry_after: Duration) -> Self {
        let detail = "the tenant has as many bytes stored as its max_stored_bytes allows; nothing was stored";
        Self::new(Kind::StorageFull, detail).retry_after(retry_after)
    }

    /// A call beyond what the tenant may make.
    pub(crate) fn control_spent(retry_after: Duration) -> Self {
        let detail = "the tenant calls the API more often than its control_limit allows";
        Self::new(Kind::ControlSpent, detail).retry_after(retry_after)
    }

    fn too_many_subscriptions(max: u32) -> Self {
        let detail = format!(
            "the tenant may have {max} subscriptions (max_subscriptions, or POSTHORN_TENANT_MAX_SUBSCRIPTIONS \
             where it has none of its own), and has them"
        );
        let errors = vec![FieldError { pointer: "/tenant".to_owned(), detail: detail.clone() }];
        Self { errors, ..Self::new(Kind::TooManySubscriptions, detail) }
    }

    /// The tenant has too much under way at once.
    fn over_share(retry_after: Duration) -> Self {
        let detail = "the tenant has more under way at once than its share, and others need the rest; nothing was \
                      stored";
        Self::new(Kind::OverShare, detail).retry_after(retry_after)
    }

    /// The server holds as much in memory for this caller as it may.
    pub(crate) fn no_room() -> Self {
        let detail =
            "too many bodies and answers of this caller wait in memory; nothing was done, try again later";
        Self::new(Kind::StoreUnavailable, detail).retry_after(STORE_RETRY_AFTER)
    }

    fn store_unavailable(retry_after: Duration) -> Self {
        Self::new(Kind::StoreUnavailable, "nothing was stored; try again later").retry_after(retry_after)
    }

    /// A part of the server is not ready.
    pub(crate) fn not_ready(detail: &'static str) -> Self {
        Self::new(Kind::NotReady, detail).retry_after(STORE_RETRY_AFTER)
    }

    /// A secret that is needed cannot be read, until it is set anew or an operator mends it.
    pub(crate) fn secrets_unreadable() -> Self {
        let detail = "the server cannot read a secret of the subscription (unreadable_secrets names it), or may not \
                      write one; set it anew, or ask the operator to run posthorn secrets rotate";
        Self::new(Kind::SecretsUnreadable, detail).retry_after(SECRETS_RETRY_AFTER)
    }

    fn outcome_unknown(retry_after: Duration) -> Self {
        let detail = "it may have been stored; with the same Idempotency-Key, sending again is safe";
        Self::new(Kind::OutcomeUnknown, detail).retry_after(retry_after)
    }

    /// A bug of ours; what it was stands in the log.
    pub(crate) fn internal() -> Self {
        Self::new(Kind::Internal, "this is a bug; the server's log says more")
    }
}

impl Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.detail)
    }
}

impl std::error::Error for Problem {}

impl ResponseError for Problem {
    fn status(&self) -> StatusCode {
        self.kind.status()
    }

    fn as_response(&self) -> Response {
        let body = ProblemBody {
            r#type: format!("/problems/{}", self.kind.name()),
            title: self.kind.title().to_owned(),
            status: self.kind.status().as_u16(),
            detail: self.detail.clone().into_owned(),
            errors: self.errors.clone(),
        };
        // Strings and a number: this cannot fail.
        let body = serde_json::to_vec(&body).unwrap_or_default();
        let mut response =
            Response::builder().status(self.kind.status()).content_type(CONTENT_TYPE).body(body);
        if let Some((name, value)) = self.header.as_ref().and_then(ProblemHeader::to_pair) {
            response.headers_mut().insert(name, value);
        }
        response
    }
}

impl ProblemHeader {
    fn to_pair(&self) -> Option<(header::HeaderName, HeaderValue)> {
        match self {
            // Whole seconds, and never none: a client that waits too short only comes again.
            Self::RetryAfter(delay) => {
                let seconds = delay.as_secs() + u64::from(delay.subsec_nanos() > 0);
                Some((header::RETRY_AFTER, seconds.max(1).into()))
            }
            Self::Allow(methods) => Some((header::ALLOW, HeaderValue::from_str(methods).ok()?)),
            Self::Close => Some((header::CONNECTION, HeaderValue::from_static("close"))),
            Self::Challenge(scheme) => Some((header::WWW_AUTHENTICATE, HeaderValue::from_static(scheme))),
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        self.as_response()
    }
}

/// Which operation answers which problems is told by `document.rs`; here is only their shape.
impl ApiResponse for Problem {
    fn meta() -> MetaResponses {
        MetaResponses { responses: Vec::new() }
    }

    fn register(registry: &mut Registry) {
        ProblemBody::register(registry);
    }
}

/// Collects every fault of a body, so that a client learns of all at once.
#[derive(Debug, Default)]
pub(crate) struct Faults(Vec<FieldError>);

impl Faults {
    /// Notes that the field at `pointer` is at fault.
    pub(crate) fn add(&mut self, pointer: impl Into<String>, detail: impl Display) {
        self.0.push(FieldError { pointer: pointer.into(), detail: detail.to_string() });
    }

    /// The value, or a note that the field at `pointer` is at fault.
    pub(crate) fn take<T>(&mut self, pointer: &str, result: Result<T, impl Display>) -> Option<T> {
        result.map_err(|error| self.add(pointer, error)).ok()
    }

    /// The problem, where anything is at fault.
    pub(crate) fn check(self) -> Result<(), Problem> {
        if self.0.is_empty() { Ok(()) } else { Err(Problem::fields(self.0)) }
    }
}

#[cfg(test)]
mod tests;
