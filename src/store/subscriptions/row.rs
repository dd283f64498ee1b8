//! Between the rows of `subscriptions` and `lane_health` and the domain's types.

use std::collections::{BTreeMap, BTreeSet};

use posthorn_domain::certificate::ClientCertificate;
use posthorn_domain::circuit::CircuitState;
use posthorn_domain::forward::{ForwardHeaders, IdempotencyHeader};
use posthorn_domain::give_up::GiveUpOn;
use posthorn_domain::header::StaticHeaders;
use posthorn_domain::id::SubscriptionId;
use posthorn_domain::rotation::Replaced;
use posthorn_domain::signature::{SecretKey, SigningSecret};
use posthorn_domain::subscription::{
    OnExhausted, Ordering, RetryOverrides, SecretField, SigningSecrets, StatusReason, Subscription,
    SubscriptionConfig, SubscriptionStatus,
};
use posthorn_domain::target::TargetUrl;
use posthorn_domain::time::Timestamp;

use super::super::Error;
use super::super::columns::{
    column_to_count, column_to_duration, columns_to_rate_limit, count_to_column, duration_to_column,
    of_words, rate_limit_to_columns, to_words,
};
use super::super::entity::{lane_health, subscriptions};
use super::super::vault::{self, Opened, Vault};
use super::LaneHealth;

/// The row as it is stored, its secrets encrypted. One of which a secret cannot be read is [changed](change_row).
pub(in crate::store) fn from_subscription(
    subscription: &Subscription,
    vault: &Vault,
) -> Result<subscriptions::Model, Error> {
    let config = &subscription.config;
    let headers: BTreeMap<&str, &str> = config.headers.iter().collect();
    // Nodes of the release before know of the last replaced one alone.
    let mut replaced = subscription.signing.replaced.iter();
    let previous = replaced.next();
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
        replaced_secret_keys: to_pairs(
            subscription.replaced_keys.iter().map(|(key, until)| (key.expose().to_owned(), until)),
        )?,
        signing_secret: subscription.signing.current.expose(),
        previous_signing_secret: previous.map(|(secret, _)| secret.expose()),
        previous_signing_until_ms: previous.map(|(_, until)| until.as_millis()),
        replaced_signing_secrets: to_pairs(replaced.map(|(secret, until)| (secret.expose(), until)))?,
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
        give_up_on: to_words(&config.retry.give_up_on.words())?,
        forward_headers: to_words(&config.forward_headers.iter().collect::<Vec<_>>())?,
        idempotency_header: config.idempotency_header.as_ref().map(|name| name.as_str().to_owned()),
    })
}

/// The row of a subscription that was read from `stored`: what could not be read of that, and was not set anew since, is
/// kept as it is.
pub(super) fn change_row(
    subscription: &Subscription,
    mut stored: subscriptions::Model,
    vault: &Vault,
) -> Result<subscriptions::Model, Error> {
    let mut row = from_subscription(subscription, vault)?;
    if subscription.unreadable.is_empty() {
        return Ok(row);
    }
    if row.sealed_by.is_none() && stored.sealed_by.is_some() {
        let reason =
            "POSTHORN_ENCRYPTION_KEY: a row with secrets that cannot be read cannot be written without a key";
        return Err(Error::Secrets(reason.to_owned()));
    }
    if subscription.unreadable.contains(&SecretField::ReplacedSigningSecrets) {
        row.previous_signing_until_ms = stored.previous_signing_until_ms;
    }
    for (new, old) in vault::secrets(&mut row).into_iter().zip(vault::secrets(&mut stored)) {
        if subscription.unreadable.contains(&new.field) {
            new.text.put(old.text);
        }
    }
    Ok(row)
}

/// The subscription of a row. Of its secrets those that cannot be read are named in it; an error where anything else
/// cannot.
pub(in crate::store) fn to_subscription(
    row: subscriptions::Model,
    vault: &Vault,
) -> Result<Subscription, Error> {
    let Opened { row, unreadable, .. } = vault.open(row);
    let bad = |what: &'static str| move || Error::corrupt(what, row.id);
    let mut secrets = Secrets { unreadable };
    let previous = row.previous_signing_secret.zip(row.previous_signing_until_ms);
    let replaced = secrets.read(SecretField::ReplacedSigningSecrets, || {
        let pairs = previous.into_iter().chain(of_pairs(row.replaced_signing_secrets.as_deref())?);
        pairs
            .map(|(text, until)| Some((SigningSecret::parse(&text).ok()?, until)))
            .collect::<Option<Vec<_>>>()
    });
    let replaced_keys = secrets.read(SecretField::ReplacedSecretKeys, || {
        let pairs = of_pairs(row.replaced_secret_keys.as_deref())?.into_iter();
        pairs.map(|(text, until)| Some((SecretKey::parse(&text).ok()?, until))).collect::<Option<Vec<_>>>()
    });
    // One that nobody knows proves no event, and is never sent with: nothing is sent while one cannot be read.
    let nobodys = || SigningSecret::from_random(rand::random());
    let signing_secret =
        secrets.read(SecretField::SigningSecret, || SigningSecret::parse(&row.signing_secret).ok());
    let secret_key = row.secret_key.map(|text| {
        let key = secrets.read(SecretField::SecretKey, || SecretKey::parse(&text).ok());
        key.map_or_else(|| SecretKey::parse(&nobodys().expose()), Ok).map_err(|_| bad("secret key")())
    });
    let headers = secrets.read(SecretField::Headers, || {
        let headers: BTreeMap<String, String> = serde_json::from_str(&row.headers).ok()?;
        StaticHeaders::from_stored(headers).ok()
    });
    let client_certificate = row.client_certificate.and_then(|text| {
        secrets.read(SecretField::ClientCertificate, || ClientCertificate::from_stored(&text).ok())
    });
    let mut give_up_on = GiveUpOn::default();
    for word in of_words(row.give_up_on.as_deref(), "give_up_on", row.id)? {
        give_up_on.add(&word).map_err(|_| bad("give_up_on")())?;
    }
    let mut forward_headers = ForwardHeaders::default();
    for name in of_words(row.forward_headers.as_deref(), "forward_headers", row.id)? {
        forward_headers.add(&name).map_err(|_| bad("forward_headers")())?;
    }
    let idempotency_header = row.idempotency_header.as_deref().map(IdempotencyHeader::parse);
    let config = SubscriptionConfig {
        target: TargetUrl::parse(&row.target_url).map_err(|_| Error::corrupt("target_url", row.id))?,
        description: row.description,
        headers: headers.unwrap_or_default(),
        ordering: Ordering::from_code(row.ordering).ok_or_else(bad("ordering"))?,
        max_in_flight: row.max_in_flight.map(column_to_count),
        rate_limit: columns_to_rate_limit(row.requests_per_second, row.burst),
        retry: RetryOverrides {
            max_retries: row.max_retries.map(column_to_count),
            delay: row.retry_delay_ms.map(column_to_duration),
            delay_max: row.retry_delay_max_ms.map(column_to_duration),
            on_exhausted: row.on_exhausted.and_then(OnExhausted::from_code),
            give_up_on,
        },
        timeout: row.timeout_ms.map(column_to_duration),
        secret_key: secret_key.transpose()?,
        asymmetric_signature: row.asymmetric_signature != 0,
        client_certificate,
        forward_headers,
        idempotency_header: idempotency_header.transpose().map_err(|_| bad("idempotency_header")())?,
    };
    Ok(Subscription {
        id: SubscriptionId(row.id),
        tenant: row.tenant.parse().map_err(|_| Error::corrupt("tenant", row.id))?,
        config,
        signing: SigningSecrets {
            current: signing_secret.unwrap_or_else(nobodys),
            replaced: with_ends(replaced),
        },
        replaced_keys: with_ends(replaced_keys),
        unreadable: secrets.unreadable,
        status: SubscriptionStatus::from_code(row.status).ok_or_else(bad("status"))?,
        status_reason: row.status_reason.and_then(StatusReason::from_code),
        version: row.version,
        endpoint_version: row.endpoint_version,
        retries_version: row.retries_version,
        created_at: Timestamp::from_millis(row.created_at_ms),
        updated_at: Timestamp::from_millis(row.updated_at_ms),
    })
}

/// Reads what stands in clear, and notes what makes no sense with what could not be opened.
struct Secrets {
    unreadable: BTreeSet<SecretField>,
}

impl Secrets {
    fn read<T>(&mut self, field: SecretField, parse: impl FnOnce() -> Option<T>) -> Option<T> {
        if self.unreadable.contains(&field) {
            return None;
        }
        let parsed = parse();
        if parsed.is_none() {
            self.unreadable.insert(field);
        }
        parsed
    }
}

fn with_ends<T: PartialEq>(pairs: Option<Vec<(T, i64)>>) -> Replaced<T> {
    let pairs = pairs.unwrap_or_default().into_iter();
    Replaced::new(pairs.map(|(secret, until)| (secret, Timestamp::from_millis(until))))
}

/// Secrets with their ends as a column holds them; none where there are none.
fn to_pairs(secrets: impl Iterator<Item = (String, Timestamp)>) -> Result<Option<String>, Error> {
    let pairs: Vec<_> = secrets.map(|(secret, until)| (secret, until.as_millis())).collect();
    if pairs.is_empty() {
        return Ok(None);
    }
    serde_json::to_string(&pairs).map(Some).map_err(|error| Error::Refused(error.to_string()))
}

/// What [`to_pairs`] wrote; none where it is something else.
fn of_pairs(column: Option<&str>) -> Option<Vec<(String, i64)>> {
    column.map_or_else(|| Some(Vec::new()), |text| serde_json::from_str(text).ok())
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
