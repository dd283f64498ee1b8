//! Between the rows of `subscriptions` and `lane_health` and the domain's types.

use std::collections::BTreeMap;

use posthorn_domain::certificate::ClientCertificate;
use posthorn_domain::header::StaticHeaders;
use posthorn_domain::id::SubscriptionId;
use posthorn_domain::signature::{SecretKey, SigningSecret};
use posthorn_domain::subscription::{
    OnExhausted, Ordering, RetryOverrides, SigningSecrets, StatusReason, Subscription, SubscriptionConfig,
    SubscriptionStatus,
};
use posthorn_domain::target::TargetUrl;
use posthorn_domain::time::Timestamp;

use super::super::Error;
use super::super::columns::{
    column_to_count, column_to_duration, columns_to_rate_limit, count_to_column, duration_to_column,
    rate_limit_to_columns,
};
use super::super::entity::{lane_health, subscriptions};
use super::super::vault::Vault;
use super::{CircuitState, LaneHealth};

/// The row as it is stored, its secrets encrypted.
pub(in crate::store) fn from_subscription(
    subscription: &Subscription,
    vault: &Vault,
) -> Result<subscriptions::Model, Error> {
    let config = &subscription.config;
    let headers: BTreeMap<&str, &str> = config.headers.iter().collect();
    let previous = subscription.signing.previous.as_ref();
    let (requests_per_second, burst) = rate_limit_to_columns(config.rate_limit);
    vault.seal(subscriptions::Model {
        id: subscription.id.0,
        tenant: subscription.tenant.to_string(),
        target_url: config.target.as_str().to_owned(),
        description: config.description.clone(),
        headers: serde_json::to_string(&headers).map_err(|error| Error::Refused(error.to_string()))?,
        ordering: config.ordering.code(),
        max_in_flight: config.max_in_flight.map(count_to_column),
        requests_per_second,
        burst,
        max_retries: config.retry.max_retries.map(count_to_column),
        retry_delay_ms: config.retry.delay.map(duration_to_column),
        retry_delay_max_ms: config.retry.delay_max.map(duration_to_column),
        on_exhausted: config.retry.on_exhausted.map(OnExhausted::code),
        timeout_ms: config.timeout.map(duration_to_column),
        secret_key: config.secret_key.as_ref().map(|key| key.expose().to_owned()),
        signing_secret: subscription.signing.current.expose(),
        previous_signing_secret: previous.map(|(secret, _)| secret.expose()),
        previous_signing_until_ms: previous.map(|(_, until)| until.as_millis()),
        status: subscription.status.code(),
        status_reason: subscription.status_reason.map(StatusReason::code),
        version: subscription.version,
        endpoint_version: subscription.endpoint_version,
        retries_version: subscription.retries_version,
        created_at_ms: subscription.created_at.as_millis(),
        updated_at_ms: subscription.updated_at.as_millis(),
        deleted_at_ms: None,
        sealed_by: None,
        asymmetric_signature: config.asymmetric_signature.into(),
        client_certificate: config.client_certificate.as_ref().map(|pair| pair.expose().to_owned()),
    })
}

pub(in crate::store) fn to_subscription(
    row: subscriptions::Model,
    vault: &Vault,
) -> Result<Subscription, Error> {
    let row = vault.open(row)?;
    let bad = |what: &'static str| move || Error::corrupt(what, row.id);
    let headers: BTreeMap<String, String> =
        serde_json::from_str(&row.headers).map_err(|_| Error::corrupt("headers", row.id))?;
    let signing =
        |text: &str| SigningSecret::parse(text).map_err(|_| Error::corrupt("signing secret", row.id));
    let previous = row.previous_signing_secret.as_deref().zip(row.previous_signing_until_ms);
    let config = SubscriptionConfig {
        target: TargetUrl::parse(&row.target_url).map_err(|_| Error::corrupt("target_url", row.id))?,
        description: row.description,
        headers: StaticHeaders::from_stored(headers).map_err(|_| Error::corrupt("headers", row.id))?,
        ordering: Ordering::from_code(row.ordering).ok_or_else(bad("ordering"))?,
        max_in_flight: row.max_in_flight.map(column_to_count),
        rate_limit: columns_to_rate_limit(row.requests_per_second, row.burst),
        retry: RetryOverrides {
            max_retries: row.max_retries.map(column_to_count),
            delay: row.retry_delay_ms.map(column_to_duration),
            delay_max: row.retry_delay_max_ms.map(column_to_duration),
            on_exhausted: row.on_exhausted.and_then(OnExhausted::from_code),
        },
        timeout: row.timeout_ms.map(column_to_duration),
        secret_key: row
            .secret_key
            .map(|key| SecretKey::parse(&key))
            .transpose()
            .map_err(|_| Error::corrupt("secret key", row.id))?,
        asymmetric_signature: row.asymmetric_signature != 0,
        client_certificate: row
            .client_certificate
            .map(|text| ClientCertificate::from_stored(&text))
            .transpose()
            .map_err(|_| Error::corrupt("client certificate", row.id))?,
    };
    Ok(Subscription {
        id: SubscriptionId(row.id),
        tenant: row.tenant.parse().map_err(|_| Error::corrupt("tenant", row.id))?,
        config,
        signing: SigningSecrets {
            current: signing(&row.signing_secret)?,
            previous: previous
                .map(|(text, until)| Ok::<_, Error>((signing(text)?, Timestamp::from_millis(until))))
                .transpose()?,
        },
        status: SubscriptionStatus::from_code(row.status).ok_or_else(bad("status"))?,
        status_reason: row.status_reason.and_then(StatusReason::from_code),
        version: row.version,
        endpoint_version: row.endpoint_version,
        retries_version: row.retries_version,
        created_at: Timestamp::from_millis(row.created_at_ms),
        updated_at: Timestamp::from_millis(row.updated_at_ms),
    })
}

/// A row that is not there says what a new one would.
pub(super) fn to_health(row: Option<lane_health::Model>) -> Result<LaneHealth, Error> {
    let Some(row) = row else { return Ok(LaneHealth::NEW) };
    let circuit = match row.circuit {
        0 => CircuitState::Closed,
        1 => CircuitState::Open,
        2 => CircuitState::HalfOpen,
        other => return Err(Error::corrupt("circuit", other)),
    };
    Ok(LaneHealth {
        circuit,
        failures: column_to_count(row.failures),
        cool_down: row.cool_down_ms.map(column_to_duration),
        probe_at: row.probe_at_ms.map(Timestamp::from_millis),
        failing_since: row.failing_since_ms.map(Timestamp::from_millis),
    })
}

/// A circuit as its column holds it.
pub(in super::super) const fn circuit_code(circuit: CircuitState) -> i16 {
    match circuit {
        CircuitState::Closed => 0,
        CircuitState::Open => 1,
        CircuitState::HalfOpen => 2,
    }
}
