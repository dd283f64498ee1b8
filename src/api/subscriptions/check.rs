//! From what a client sent to a configuration that the domain allows, or to every fault in it.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::time::Duration;

use poem_openapi::types::MaybeUndefined;
use posthorn_domain::address::{AddressGuard, ForbiddenAddress};
use posthorn_domain::certificate::ClientCertificate;
use posthorn_domain::forward::{FORWARD_HEADERS_MAX, ForwardHeaders, IdempotencyHeader};
use posthorn_domain::give_up::{GIVE_UP_WORDS_MAX, GiveUpOn};
use posthorn_domain::header::StaticHeaders;
use posthorn_domain::limits::{
    DESCRIPTION_CHARS_MAX, IN_FLIGHT_MAX, RETRIES_MAX, RETRY_DELAY_MAX, SECRET_OVERLAP_DEFAULT,
    SECRET_OVERLAP_MAX, TIMEOUT_MAX, TIMEOUT_MIN,
};
use posthorn_domain::signature::{SecretKey, SigningSecret};
use posthorn_domain::subscription::{
    OnExhausted, Ordering, RateLimit, RetryOverrides, SecretField, Subscription, SubscriptionConfig,
};
use posthorn_domain::target::TargetUrl;
use posthorn_domain::tenant::Tenant;
use posthorn_domain::time::Timestamp;

use super::input::{
    ClientCertificate as ClientCertificateInput, Policies, RetrySettings, SigningSecretRotation,
    SubscriptionCreate, SubscriptionUpdate,
};
use super::own::Own;
use crate::api::body::push_segment;
use crate::api::change::{field, set, set_or, within};
use crate::api::rate_limit::check_rate_limit;
use crate::http::problem::{Faults, Problem};

/// A checked change: what is undefined stays, null clears.
#[derive(Clone, Debug, Default)]
pub(super) struct Change {
    target: Option<TargetUrl>,
    secret_key: MaybeUndefined<SecretKey>,
    secret_key_overlap: Option<Duration>,
    description: MaybeUndefined<String>,
    headers: MaybeUndefined<StaticHeaders>,
    ordering: MaybeUndefined<Ordering>,
    max_in_flight: MaybeUndefined<u32>,
    rate_limit: MaybeUndefined<RateLimit>,
    retry: MaybeUndefined<RetryChange>,
    timeout: MaybeUndefined<Duration>,
    asymmetric_signature: MaybeUndefined<bool>,
    client_certificate: MaybeUndefined<ClientCertificate>,
    forward_headers: MaybeUndefined<ForwardHeaders>,
    idempotency_header: MaybeUndefined<IdempotencyHeader>,
}

#[derive(Clone, Copy, Debug, Default)]
struct RetryChange {
    max_retries: MaybeUndefined<u32>,
    delay: MaybeUndefined<Duration>,
    delay_max: MaybeUndefined<Duration>,
    on_exhausted: MaybeUndefined<OnExhausted>,
    give_up_on: MaybeUndefined<GiveUpOn>,
}

/// What a target must keep to.
#[derive(Clone, Copy, Debug)]
pub(super) struct TargetRules<'a> {
    /// Which addresses may be delivered to.
    pub(super) guard: &'a AddressGuard,
    /// Where this server is.
    pub(super) own: Own<'a>,
}

/// A new subscription's tenant and configuration; `own` is the tenant where none is named.
pub(super) fn creation(
    body: SubscriptionCreate,
    own: Option<&Tenant>,
    rules: &TargetRules<'_>,
) -> Result<(Tenant, SubscriptionConfig), Problem> {
    let mut faults = Faults::default();
    let tenant = body.tenant.as_deref().map_or_else(|| Ok(own.cloned().unwrap_or_default()), str::parse);
    let tenant = faults.take("/tenant", tenant);
    let target = target(&body.target_url, rules, &mut faults);
    let change = policies(body.into_policies(), &mut faults);
    // Where either is missing a fault was noted, so the check below ends it.
    let config = target.map(|target| {
        let mut config = SubscriptionConfig::new(target);
        change.check_with(&config, &mut faults);
        change.apply_to(&mut config);
        config
    });
    faults.check()?;
    tenant.zip(config).ok_or_else(Problem::internal)
}

impl Change {
    /// What a client wants changed.
    pub(super) fn check(body: SubscriptionUpdate, rules: &TargetRules<'_>) -> Result<Self, Problem> {
        let mut faults = Faults::default();
        let target = body.target_url.as_deref().and_then(|text| target(text, rules, &mut faults));
        let secret_key_overlap =
            overlap(body.secret_key_overlap_seconds, "/secret_key_overlap_seconds", &mut faults);
        let change = Self { target, secret_key_overlap, ..policies(body.into_policies(), &mut faults) };
        faults.check()?;
        Ok(change)
    }

    /// Whether it may be applied to `config`.
    pub(super) fn check_against(&self, config: &SubscriptionConfig) -> Result<(), Problem> {
        let mut faults = Faults::default();
        self.check_with(config, &mut faults);
        faults.check()
    }

    fn check_with(&self, config: &SubscriptionConfig, faults: &mut Faults) {
        let mut ordering = config.ordering;
        set_or(&mut ordering, self.ordering, Ordering::Strict);
        let mut max_in_flight = config.max_in_flight;
        set(&mut max_in_flight, self.max_in_flight);
        if ordering == Ordering::Strict && max_in_flight.is_some_and(|max| max > 1) {
            let pointer = if self.max_in_flight.is_undefined() { "/ordering" } else { "/max_in_flight" };
            faults.add(
                pointer,
                "with ordering strict one request is in flight: expected max_in_flight 1 or null",
            );
        }
    }

    /// Makes the change at `now`.
    pub(super) fn apply(mut self, subscription: &mut Subscription, now: Timestamp) {
        let overlap = self.secret_key_overlap;
        match std::mem::take(&mut self.secret_key) {
            MaybeUndefined::Undefined => {
                if let Some(overlap) = overlap {
                    subscription.end_replaced_keys(overlap, now);
                }
            }
            given => {
                let overlap = overlap.unwrap_or(SECRET_OVERLAP_DEFAULT);
                subscription.replace_secret_key(given.take(), overlap, now);
            }
        }
        for (field, is_set) in [
            (SecretField::Headers, !self.headers.is_undefined()),
            (SecretField::ClientCertificate, !self.client_certificate.is_undefined()),
        ] {
            if is_set {
                subscription.unreadable.remove(&field);
            }
        }
        self.apply_to(&mut subscription.config);
    }

    fn apply_to(self, config: &mut SubscriptionConfig) {
        if let Some(target) = self.target {
            config.target = target;
        }
        set(&mut config.secret_key, self.secret_key);
        set(&mut config.description, self.description);
        set_or(&mut config.headers, self.headers, StaticHeaders::default());
        set_or(&mut config.ordering, self.ordering, Ordering::Strict);
        set(&mut config.max_in_flight, self.max_in_flight);
        set(&mut config.rate_limit, self.rate_limit);
        set(&mut config.timeout, self.timeout);
        set_or(&mut config.asymmetric_signature, self.asymmetric_signature, false);
        set(&mut config.client_certificate, self.client_certificate);
        set_or(&mut config.forward_headers, self.forward_headers, ForwardHeaders::default());
        set(&mut config.idempotency_header, self.idempotency_header);
        match self.retry {
            MaybeUndefined::Undefined => {}
            MaybeUndefined::Null => config.retry = RetryOverrides::default(),
            MaybeUndefined::Value(retry) => retry.apply(&mut config.retry),
        }
    }
}

impl RetryChange {
    fn apply(self, retry: &mut RetryOverrides) {
        set(&mut retry.max_retries, self.max_retries);
        set(&mut retry.delay, self.delay);
        set(&mut retry.delay_max, self.delay_max);
        set(&mut retry.on_exhausted, self.on_exhausted);
        set_or(&mut retry.give_up_on, self.give_up_on, GiveUpOn::default());
    }
}

/// The secret that is to sign from now on, where one is given, and how long the one before does.
pub(super) fn rotation(body: &SigningSecretRotation) -> Result<(Option<SigningSecret>, Duration), Problem> {
    let mut faults = Faults::default();
    let secret = body.signing_secret.as_deref().map(SigningSecret::parse);
    let secret = secret.and_then(|secret| faults.take("/signing_secret", secret));
    let overlap = overlap(body.overlap_seconds, "/overlap_seconds", &mut faults);
    faults.check()?;
    Ok((secret, overlap.unwrap_or(SECRET_OVERLAP_DEFAULT)))
}

/// How long a replaced secret stays in force, where it is said.
fn overlap(seconds: Option<u32>, pointer: &str, faults: &mut Faults) -> Option<Duration> {
    let overlap = Duration::from_secs(seconds?.into());
    let checked = if overlap <= SECRET_OVERLAP_MAX { Ok(overlap) } else { Err(OVERLAP_EXPECTED) };
    faults.take(pointer, checked)
}

const OVERLAP_EXPECTED: &str = "expected whole seconds from 0 to 604800";
const _: () = assert!(SECRET_OVERLAP_MAX.as_secs() == 604_800);

fn target(text: &str, rules: &TargetRules<'_>, faults: &mut Faults) -> Option<TargetUrl> {
    let target = faults.take("/target_url", TargetUrl::parse(text))?;
    let allowed = rules.guard.check_target(&target).map_err(ForbiddenAddress::advice);
    faults.take("/target_url", allowed)?;
    if rules.own.takes_in(&target) {
        faults.add(
            "/target_url",
            "expected another place than an ingest of this server: an event would come in again and go round in a loop",
        );
        return None;
    }
    Some(target)
}

fn policies(body: Policies, faults: &mut Faults) -> Change {
    Change {
        target: None,
        secret_key_overlap: None,
        secret_key: field(body.secret_key, "/secret_key", faults, |text| secret_key(&text)),
        description: field(body.description, "/description", faults, description),
        headers: headers(body.headers, faults),
        ordering: body.ordering.map_value(|word| word.0),
        max_in_flight: field(body.max_in_flight, "/max_in_flight", faults, |max| {
            within(max, 1, IN_FLIGHT_MAX)
        }),
        rate_limit: check_rate_limit(body.rate_limit, "/rate_limit", faults),
        retry: body.retry.map_value(|settings| retry(settings, faults)),
        timeout: field(body.timeout_seconds, "/timeout_seconds", faults, |timeout| {
            seconds(timeout, TIMEOUT_MIN, TIMEOUT_MAX)
        }),
        asymmetric_signature: body.asymmetric_signature,
        client_certificate: client_certificate(body.client_certificate, faults),
        forward_headers: body.forward_headers.map_value(|names| {
            words(&names, "/forward_headers", FORWARD_HEADERS_MAX, faults, ForwardHeaders::add)
        }),
        idempotency_header: field(body.idempotency_header, "/idempotency_header", faults, |name| {
            IdempotencyHeader::parse(&name).map_err(|error| error.to_string())
        }),
    }
}

/// A list of which each word is added; what is wrong with one is told where it stands.
fn words<T: Default, E: Display>(
    words: &[String],
    pointer: &str,
    max: usize,
    faults: &mut Faults,
    add: impl Fn(&mut T, &str) -> Result<(), E>,
) -> T {
    let mut all = T::default();
    if words.len() > max {
        faults.add(pointer, format!("expected at most {max}"));
        return all;
    }
    for (place, word) in words.iter().enumerate() {
        faults.take(&format!("{pointer}/{place}"), add(&mut all, word));
    }
    all
}

fn client_certificate(
    given: MaybeUndefined<ClientCertificateInput>,
    faults: &mut Faults,
) -> MaybeUndefined<ClientCertificate> {
    field(given, "/client_certificate", faults, |given| {
        ClientCertificate::parse(&given.certificate, &given.private_key).map_err(|error| error.to_string())
    })
}

fn secret_key(text: &str) -> Result<SecretKey, String> {
    check_text(text)?;
    SecretKey::parse(text).map_err(|error| error.to_string())
}

fn description(text: String) -> Result<String, String> {
    let is_odd = |c: char| c.is_control() && !matches!(c, '\n' | '\r' | '\t');
    if text.contains(is_odd) {
        return Err("expected text without control characters but line breaks and tabs".to_owned());
    }
    // In bytes first: a text of megabytes is not walked.
    if text.len() > 4 * DESCRIPTION_CHARS_MAX || text.chars().count() > DESCRIPTION_CHARS_MAX {
        return Err(format!("expected at most {DESCRIPTION_CHARS_MAX} characters"));
    }
    Ok(text)
}

fn check_text(text: &str) -> Result<(), String> {
    if text.contains(char::is_control) {
        return Err("expected text without control characters".to_owned());
    }
    Ok(())
}

fn headers(
    headers: MaybeUndefined<BTreeMap<String, String>>,
    faults: &mut Faults,
) -> MaybeUndefined<StaticHeaders> {
    let headers = match headers {
        MaybeUndefined::Undefined => return MaybeUndefined::Undefined,
        MaybeUndefined::Null => return MaybeUndefined::Null,
        MaybeUndefined::Value(headers) => headers,
    };
    match StaticHeaders::parse(headers) {
        Ok(headers) => MaybeUndefined::Value(headers),
        Err(error) => {
            let mut pointer = "/headers".to_owned();
            // Nameless where their number is at fault; a header without a name is one, too.
            if !error.name.is_empty() {
                push_segment(&mut pointer, &error.name);
            }
            faults.add(pointer, error);
            MaybeUndefined::Undefined
        }
    }
}

fn retry(settings: RetrySettings, faults: &mut Faults) -> RetryChange {
    let delay = |delay| seconds(delay, Duration::ZERO, RETRY_DELAY_MAX);
    RetryChange {
        max_retries: field(settings.max_retries, "/retry/max_retries", faults, |max| {
            within(max, 0, RETRIES_MAX)
        }),
        delay: field(settings.initial_delay_seconds, "/retry/initial_delay_seconds", faults, delay),
        delay_max: field(settings.max_delay_seconds, "/retry/max_delay_seconds", faults, delay),
        on_exhausted: settings.on_exhausted.map_value(|word| word.0),
        give_up_on: settings.give_up_on.map_value(|statuses| {
            words(&statuses, "/retry/give_up_on", GIVE_UP_WORDS_MAX, faults, GiveUpOn::add)
        }),
    }
}

/// A duration in whole milliseconds, as it is stored: so it reads back the same from the start.
fn seconds(value: f64, min: Duration, max: Duration) -> Result<Duration, String> {
    let duration = Duration::try_from_secs_f64(value)
        .ok()
        .map(|duration| Duration::from_millis(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)));
    duration
        .filter(|duration| (min..=max).contains(duration) && value <= max.as_secs_f64())
        .ok_or_else(|| format!("expected seconds from {} to {}", min.as_secs_f64(), max.as_secs_f64()))
}

#[cfg(test)]
mod tests;
