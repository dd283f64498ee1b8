//! The contract's small types: words of the domain, names, times.
//!
//! Each word is a named schema of the document, and its values come from the domain, so that the
//! two cannot differ.

use std::borrow::Cow;
use std::fmt::Display;

use chrono::DateTime;
use poem_openapi::Enum;
use poem_openapi::registry::{MetaSchema, MetaSchemaRef, Registry};
use poem_openapi::types::{ParseError, ParseFromJSON, ParseFromParameter, ParseResult, ToJSON, Type};
use posthorn_domain::circuit;
use posthorn_domain::limits::TENANT_CHARS_MAX;
use posthorn_domain::tenant::{Tenant, TenantError};
use posthorn_domain::time::Timestamp;
use posthorn_domain::{audit, delivery, subscription};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;

/// What poem-openapi asks of a type that is written as one string.
macro_rules! string_type {
    ($name:ident, $schema:expr, $register:expr, $parse:expr) => {
        impl Type for $name {
            const IS_REQUIRED: bool = true;
            type RawValueType = Self;
            type RawElementValueType = Self;

            fn name() -> Cow<'static, str> {
                stringify!($name).into()
            }

            fn schema_ref() -> MetaSchemaRef {
                $schema
            }

            fn register(registry: &mut Registry) {
                let register: fn(&mut Registry) = $register;
                register(registry);
            }

            fn as_raw_value(&self) -> Option<&Self> {
                Some(self)
            }

            fn raw_element_iter<'a>(&'a self) -> Box<dyn Iterator<Item = &'a Self> + 'a> {
                Box::new(std::iter::once(self))
            }
        }

        impl ParseFromParameter for $name {
            fn parse_from_parameter(text: &str) -> ParseResult<Self> {
                let parse: fn(&str) -> Result<Self, String> = $parse;
                parse(text).map_err(ParseError::custom)
            }
        }

        impl ParseFromJSON for $name {
            fn parse_from_json(value: Option<Value>) -> ParseResult<Self> {
                match value {
                    Some(Value::String(text)) => Self::parse_from_parameter(&text),
                    other => Err(ParseError::expected_type(other.unwrap_or_default())),
                }
            }
        }

        impl ToJSON for $name {
            fn to_json(&self) -> Option<Value> {
                Some(Value::String(self.0.to_string()))
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let parse: fn(&str) -> Result<Self, String> = $parse;
                parse(&String::deserialize(deserializer)?).map_err(D::Error::custom)
            }
        }
    };
}

macro_rules! words {
    ($($(#[doc = $doc:literal])* $name:ident of $domain:ty;)+) => {$(
        $(#[doc = $doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(super) struct $name(pub(super) $domain);

        string_type!(
            $name,
            MetaSchemaRef::Reference(stringify!($name).to_owned()),
            |registry| registry.create_schema::<Self, _>(stringify!($name).to_owned(), |_| MetaSchema {
                description: Some(concat!($($doc),*).trim_ascii()),
                enum_items: <$domain>::ALL.iter().map(|word| word.as_str().into()).collect(),
                ..MetaSchema::new("string")
            }),
            |text| text.parse().map(Self).map_err(|()| expected_word(<$domain>::ALL))
        );
    )+};
}

words! {
    /// Where a delivery stands: `pending` (accepted, not tried yet), `processing` (a request is in flight now), `failed_attempt` (tried, failed, will be tried again), `success`, `failed` (given up).
    DeliveryState of delivery::DeliveryStatus;
    /// What an attempt meant for its delivery: `success`, `failed_attempt` (another follows), `failed` (it was the last).
    AttemptOutcome of delivery::AttemptOutcome;
    /// Why an unfinished delivery is not being sent right now.
    WaitingReason of delivery::WaitingReason;
    /// Which deliveries wait for which: `strict` (each for every earlier one), `key` (each for the earlier ones with its key), `none`.
    Ordering of subscription::Ordering;
    /// Whether a subscription takes events in and sends them: `active` (both), `paused` (takes in and holds), `disabled` (neither).
    SubscriptionStatus of subscription::SubscriptionStatus;
    /// Why a subscription is not active, where no person wished it.
    StatusReason of subscription::StatusReason;
    /// What of a subscription is secret.
    SecretField of subscription::SecretField;
    /// What was done.
    AuditAction of audit::Action;
    /// By which right: `anyone` (the server had no API key), `admin_key` (that of the configuration), `api_key`, `command` (from the command line, beside the service).
    ActorKind of audit::ActorKind;
    /// What becomes of a subscription whose delivery used up its retries: `continue` (the delivery ends `failed`), `pause`.
    OnExhausted of subscription::OnExhausted;
}

fn expected_word(words: &[impl Display]) -> String {
    let words: Vec<_> = words.iter().map(ToString::to_string).collect();
    format!("expected one of {}", words.join(", "))
}

/// Whether an endpoint may be called: `closed` (yes), `open` (not before `retry_at`), `half_open`
/// (one delivery is on its way as a probe).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Enum, Serialize)]
#[oai(rename_all = "snake_case")]
#[serde(rename_all = "snake_case")]
pub(super) enum CircuitState {
    Closed,
    Open,
    HalfOpen,
}

impl From<circuit::CircuitState> for CircuitState {
    fn from(state: circuit::CircuitState) -> Self {
        match state {
            circuit::CircuitState::Closed => Self::Closed,
            circuit::CircuitState::Open => Self::Open,
            circuit::CircuitState::HalfOpen => Self::HalfOpen,
        }
    }
}

/// A tenant's name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct TenantName(pub(super) Tenant);

string_type!(
    TenantName,
    MetaSchemaRef::Inline(Box::new(MetaSchema {
        min_length: Some(1),
        max_length: Some(TENANT_CHARS_MAX),
        pattern: Some("^[A-Za-z0-9._-]+$".to_owned()),
        ..MetaSchema::new("string")
    })),
    |_| (),
    |text| text.parse().map(Self).map_err(|error: TenantError| error.to_string())
);

/// A time in RFC 3339; written in UTC with milliseconds, read in any offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Time(pub(super) Timestamp);

string_type!(
    Time,
    MetaSchemaRef::Inline(Box::new(MetaSchema::new_with_format("string", "date-time"))),
    |_| (),
    parse_time
);

/// A fraction below a millisecond counts as the next one: of times in whole milliseconds, the same
/// are before and after it.
fn parse_time(text: &str) -> Result<Time, String> {
    let expected = || "expected a time as 2026-11-25T09:25:14.000Z (RFC 3339)".to_owned();
    // A plus sign that was not encoded arrives as a space.
    let text = text.replacen(' ', "+", 1);
    let time = DateTime::parse_from_rfc3339(&text).map_err(|_| expected())?;
    let fraction = time.timestamp_subsec_nanos() % 1_000_000;
    Ok(Time(Timestamp::from_millis(time.timestamp_millis().saturating_add(i64::from(fraction > 0)))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_in_any_offset() {
        for (text, millis) in [
            ("1970-01-01T00:00:01Z", Some(1000)),
            ("1970-01-01t00:00:01.5z", Some(1500)),
            ("1970-01-01T02:00:00.001+02:00", Some(1)),
            ("1970-01-01T02:00:00.001 02:00", Some(1)),
            ("1970-01-01T00:00:00.000001+00:00", Some(1)),
            ("1969-12-31T23:59:59.9995Z", Some(0)),
            ("2026-13-01T00:00:00Z", None),
            ("2026-11-25", None),
            ("2026-11-25T00:00:00", None),
            ("yesterday", None),
            ("", None),
            ("\0", None),
        ] {
            let expected = millis.map(|millis| Time(Timestamp::from_millis(millis)));
            assert_eq!(parse_time(text).ok(), expected, "{text}");
        }
    }

    #[test]
    fn words_are_the_domains() {
        let word: Ordering = serde_json::from_str("\"key\"").unwrap();
        assert_eq!(word, Ordering(subscription::Ordering::Key));
        assert_eq!(serde_json::to_string(&word).unwrap(), "\"key\"");
        for wrong in ["\"random\"", "1", "null"] {
            assert!(serde_json::from_str::<Ordering>(wrong).is_err(), "{wrong}");
        }
        let error = Ordering::parse_from_parameter("random").unwrap_err();
        assert!(error.message().ends_with("expected one of strict, key, none"), "{error:?}");
    }

    #[test]
    fn states_of_a_circuit_are_the_stores() {
        for state in
            [circuit::CircuitState::Closed, circuit::CircuitState::Open, circuit::CircuitState::HalfOpen]
        {
            let word = serde_json::to_value(CircuitState::from(state)).unwrap();
            assert_eq!(word, state.as_str());
        }
    }
}
